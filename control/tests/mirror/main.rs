//! The kernel's network, followed by netlink, beside what `ip` says of it. Needs root: each test has a namespace of its own.

#[path = "../../../dataplane/tests/common/netns.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod netns;

#[path = "../whole/engine.rs"]
#[allow(dead_code, reason = "each test binary uses a part")]
mod engine;

mod follow;
mod oracle;
mod process;

/// Leaves the test, saying why, where it can't run. `MILLRACE_PRIVILEGED` makes that a failure.
macro_rules! require_root {
    () => {
        if !rustix::process::geteuid().is_root() || crate::netns::ip(&["netns", "list"]).is_err() {
            assert!(
                std::env::var_os("MILLRACE_PRIVILEGED").is_none(),
                "MILLRACE_PRIVILEGED is set, but there is no root or no iproute2"
            );
            println!("SKIP: network namespaces need root and iproute2");
            return;
        }
    };
}
pub(crate) use require_root;
