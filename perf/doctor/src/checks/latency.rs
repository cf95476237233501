//! Who polls the device, and how long a packet waits for that.

use super::Look;
use crate::finding::Finding;
use crate::finding::Severity::{Costs, Note};
use crate::setting::{Change, Setting};

const SOURCE: &str = "Documentation/networking/napi.rst; af_xdp.rst";

fn interface(file: &str, to: impl ToString) -> Change {
    Change::new(Setting::Interface(file.into()), to)
}

pub fn adaptive(look: &Look<'_>) -> Option<Finding> {
    let coalesce = look.nic.answers.coalesce?;
    if coalesce.adaptive_rx != Some(true) {
        return None;
    }
    let seen = "adaptive coalescing of receive interrupts is on";
    let why = "the driver changes how long interrupts wait as traffic changes: throughput and latency of one run are not those of the next";
    let changes = vec![Change::new(Setting::Adaptive("rx".into()), "off")];
    Some(
        Finding::new("coalescing", Note, seen, why, "ethtool netlink, COALESCE_GET")
            .fix(look.nic, false, changes),
    )
}

pub fn busy_poll(look: &Look<'_>) -> Option<Finding> {
    let (defer, timeout) = (look.nic.napi.napi_defer_hard_irqs?, look.nic.napi.gro_flush_timeout?);
    if !look.wanted.busy_poll || (defer > 0 && timeout > 0) {
        return None;
    }
    let seen = format!(
        "busy polling is wanted; napi_defer_hard_irqs is {defer}, gro_flush_timeout {timeout}"
    );
    let why = "SO_PREFER_BUSY_POLL keeps interrupts off only while these two are set: else each packet still interrupts, and the worker polls beside it";
    let changes =
        vec![interface("napi_defer_hard_irqs", 2), interface("gro_flush_timeout", 200_000)];
    Some(Finding::new("busy-poll", Costs, seen, why, SOURCE).fix(look.nic, true, changes))
}

pub fn deferred_without_busy_poll(look: &Look<'_>) -> Option<Finding> {
    let (defer, timeout) = (look.nic.napi.napi_defer_hard_irqs?, look.nic.napi.gro_flush_timeout?);
    if look.wanted.busy_poll || defer == 0 || timeout == 0 {
        return None;
    }
    let seen = format!("napi_defer_hard_irqs is {defer}, gro_flush_timeout {timeout} ns");
    let why = "interrupts are held back for a poller; without one (--busy-poll, `busy_poll_us`) each packet may wait that long";
    let changes = vec![interface("gro_flush_timeout", 0), interface("napi_defer_hard_irqs", 0)];
    Some(Finding::new("deferred-irqs", Costs, seen, why, SOURCE).fix(look.nic, true, changes))
}

pub fn threaded(look: &Look<'_>) -> Option<Finding> {
    let threaded = look.nic.napi.threaded.filter(|&threaded| threaded != 0)?;
    let seen = "the kernel polls the interface in threads of its own";
    let why = if look.wanted.busy_poll {
        "a thread that polls and a worker that polls take the queue from each other"
    } else {
        "the scheduler decides when they run and where: pin them away from the workers' CPUs, or they share them"
    };
    let severity = if look.wanted.busy_poll { Costs } else { Note };
    debug_assert!(threaded > 0);
    Some(
        Finding::new(
            "threaded-napi",
            severity,
            seen,
            why,
            "Documentation/networking/napi.rst, threaded NAPI",
        )
        .fix(look.nic, false, vec![interface("threaded", 0)]),
    )
}
