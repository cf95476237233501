//! Network namespaces by name, as `ip netns` keeps them in /run/netns.
//!
//! A thread enters one, opens what it needs and ends; sockets and XDP links go on to live in it.

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

/// Why a namespace can't be entered.
#[derive(Debug, thiserror::Error)]
#[error("network namespace {name}: {why}")]
pub struct NetnsError {
    name: String,
    why: String,
}

/// Runs `work` in the namespace `name`, or here if there is none.
pub fn within<T: Send>(
    name: Option<&str>,
    work: impl FnOnce() -> T + Send,
) -> Result<T, NetnsError> {
    let Some(name) = name else { return Ok(work()) };
    let fail = |why: String| NetnsError { name: name.into(), why };
    if name.is_empty() || name.contains('/') {
        return Err(fail("that is no name of one (`ip netns list`)".into()));
    }
    let file = File::open(Path::new("/run/netns").join(name))
        .map_err(|e| fail(format!("{e} (`ip netns list`)")))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let enter = move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network));
            enter.map_err(|e| fail(format!("entering it: {e} (that takes root)")))?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
