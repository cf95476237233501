//! What the privileged tests share: namespaces of their own, peers in them, the built binaries.
//!
//! Everything real runs on veth pairs between network namespaces that a test makes and removes; the
//! machine's own interfaces and addresses are never touched.

#![allow(dead_code, reason = "each test binary uses a part")]

pub mod netns;
pub mod peers;
pub mod pods;
pub mod rig;
pub mod updater;

use std::time::{Duration, Instant};

/// Why privileged tests can't run here, or `None` when they can.
///
/// With `MILLRACE_PRIVILEGED=1`, as `make test` sets it, a missing privilege fails instead.
pub fn unprivileged() -> Option<String> {
    let why = missing_privilege()?;
    assert!(
        std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
        "MILLRACE_PRIVILEGED is set, but {why}"
    );
    Some(why)
}

fn missing_privilege() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces and AF_XDP need root: run as root, or `make test`".into());
    }
    match netns::ip(&["netns", "list"]) {
        Ok(_) => None,
        Err(why) => Some(format!("iproute2 is needed (deploy/install-deps.sh): {why}")),
    }
}

/// Leaves the test, saying why, where it can't run.
#[macro_export]
macro_rules! require_root {
    () => {
        if let Some(why) = common::unprivileged() {
            eprintln!("SKIP {}: {why}", std::thread::current().name().unwrap_or("test"));
            return;
        }
    };
}

/// Leaves the test, saying why, where the binaries aren't built either.
#[macro_export]
macro_rules! require_binaries {
    () => {
        require_root!();
        if let Some(why) = common::rig::missing_binaries() {
            eprintln!("SKIP {}: {why}", std::thread::current().name().unwrap_or("test"));
            return;
        }
    };
}

/// Waits until `condition` holds; fails naming `what` when it doesn't within `limit`.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
