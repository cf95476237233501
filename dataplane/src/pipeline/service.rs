//! Is the destination a frontend? Then a new flow gets its backend here.
//!
//! Needs the flow as conntrack found it, and asks the FIB first: it knows the addresses that have frontends; a known TCP flow passes
//! untouched, so a removed endpoint keeps it; a UDP flow leaves such an endpoint. Answers
//! for services without endpoints (RST, ICMP port unreachable) or drops, as the service says. Leaves to `fib` a packet for
//! a service address whose port is no frontend, and to `conntrack::commit` to remember the choice.

mod affinity;
mod stale;

pub use stale::is_stale;

use millrace_tables::{Backend, Frontend, SetChoice, WhenEmpty};
use millrace_wire::{Addr, Protocol};

use super::Context;
use super::conntrack::{Flow, Known, may_begin};
use super::fragment;
use super::trunk::is_own;
use crate::clock::{MILLISECOND, Nanos};
use crate::exit::Exit;
use crate::flow::{Direction, Seed, Tuple};
use crate::packet::{Packet, Parsed, Part};
use crate::reply;
use crate::state::conntrack::Hit;
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

/// Chooses the backend of a flow to a service.
#[inline]
pub fn choose<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    flow: &mut Flow,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    let headers = packet.headers();
    if let Known::Found(hit) = flow.known
        && headers.protocol == Protocol::UDP
    {
        forget_stale(hit, flow, context);
    }
    if flow.is_tracked() || headers.quote.is_some() || !headers.trackable {
        return Ok(());
    }
    let destination = match headers.destination {
        Some(destination) => destination,
        None => context.tables.destination(&headers.tuple.dst),
    };
    if destination.has_frontends()
        && let Some(known) = look_up(packet, context)?
    {
        flow.known = known;
    } else {
        flow.destination = Some(destination);
    }
    Ok(())
}

/// For how long a flow goes on to a backend that is gone: so long its answers may be under way, which would have no flow to go back by.
const GRACE: Nanos = 50 * MILLISECOND;

/// Removes the entry of a flow whose backend has been gone for a while: then it begins anew.
#[cold]
fn forget_stale<O: Observer>(hit: Hit, flow: &mut Flow, context: &mut Context<'_, O>) {
    let table = context.state.conntrack.table();
    if hit.direction() != Direction::Original {
        return;
    }
    if let Some(entry) = table.entry(hit)
        && let Some(service) = entry.service
        && let Some(original) = table.original(hit)
        && is_stale(&context.tables, service, &original, &entry.translated)
    {
        match entry.decision.gone_since() {
            None => context.state.conntrack.mark_gone(hit, context.now),
            Some(since) if context.now.saturating_sub(since) < GRACE => {}
            Some(_) => {
                context.state.conntrack.remove(hit);
                context.observer.see(|| Step::Stale { translated: entry.translated });
                flow.known = Known::Untracked;
                return;
            }
        }
        flow.leaving = true;
    }
}

/// The backend, if the destination is a frontend.
#[inline(never)]
fn look_up<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Option<Known>, Exit> {
    let headers = packet.headers();
    let tuple = &headers.tuple;
    // What `ahead` has found, if it has looked.
    let search = headers.search.and_then(|at| context.state.local.searches.get(usize::from(at)));
    let (frontend, found) = match search {
        Some(search) => (search.frontend, search.backend),
        None => (context.tables.frontend(&tuple.dst, tuple.dport, tuple.protocol.0), None),
    };
    let Some(frontend) = frontend else { return Ok(None) };
    context.observer.see(|| Step::Frontend { frontend });
    // What follows a first fragment that began no flow has nothing to follow.
    if headers.part == Part::Later || !fragment::is_translatable(headers) {
        return Err(DropReason::FragmentUnsupported.into());
    }
    if let Some(fault) = headers.fault {
        return Err(fault.into());
    }
    let asks = |flag: u8| frontend.flags & flag != 0;
    if asks(Frontend::SOURCE_RANGES) {
        let service = context.tables.service(frontend.service).ok_or(DropReason::Inconsistent)?;
        if !context.tables.is_in_ranges(&service, &tuple.src) {
            return Err(DropReason::SourceRange.into());
        }
    }
    let (choice, mut masquerade) = treatment(&frontend, &tuple.src, context);
    let backend = match found {
        Some(backend) if choice == frontend.set && !asks(Frontend::AFFINITY) => backend,
        _ => pick(packet, &frontend, choice, context)?,
    };
    context.observer.see(|| Step::Backend { service: frontend.service, backend });
    if headers.protocol == Protocol::TCP && !may_begin(headers.tcp) {
        return Err(DropReason::ConntrackInvalid.into());
    }
    if backend.addr.is_v4() != tuple.dst.is_v4() {
        return Err(DropReason::Inconsistent.into());
    }
    if asks(Frontend::AFFINITY) {
        let affinity = &context.state.affinity;
        affinity.keep(frontend.service, &tuple.src, &backend.addr, backend.port, context.now);
    }
    // Who is sent to itself would answer itself, and not us.
    masquerade |= backend.addr == tuple.src;
    let translated = Tuple { dst: backend.addr, dport: backend.port, ..*tuple };
    Ok(Some(Known::New { service: Some(frontend.service), translated, masquerade }))
}

/// The backend of the set, or the answer that the service has when there is none.
fn pick<O: Observer>(
    packet: &mut Packet<'_, Parsed<'_>>,
    frontend: &Frontend,
    choice: SetChoice,
    context: &mut Context<'_, O>,
) -> Result<Backend, Exit> {
    let service = context.tables.service(frontend.service).ok_or(DropReason::Inconsistent)?;
    let set = service.set(choice);
    // The choice does not depend on this boot's secret: another node, or this one after a restart, that sees the middle
    // of the flow sends it to the same backend.
    let tuple = &packet.headers().tuple;
    let backend = if frontend.flags & Frontend::AFFINITY == 0 {
        context.tables.pick(set, Seed::FIXED.hash(tuple))
    } else {
        affinity::pick(&service, choice, &tuple.src, context)
    };
    if let Some(backend) = backend {
        return Ok(backend);
    }
    context.observer.see(|| Step::NoBackend { service: frontend.service });
    Err(match set.when_empty {
        WhenEmpty::Reject => reply::refuse(packet, DropReason::NoBackend, context),
        WhenEmpty::Drop => DropReason::NoLocalBackend.into(),
    })
}

/// From which set a flow from `source` gets its backend, and whether its source becomes an address of ours
/// (kube-proxy's external chains, `pkg/proxy/nftables/proxier.go`).
fn treatment<O: Observer>(
    frontend: &Frontend,
    source: &Addr,
    context: &Context<'_, O>,
) -> (SetChoice, bool) {
    if frontend.flags == 0 {
        return (frontend.set, false);
    }
    let has = |flag: u8| frontend.flags & flag != 0;
    let node = context.tables.node();
    if has(Frontend::MASQUERADE) {
        (frontend.set, true)
    } else if has(Frontend::MASQUERADE_FOREIGN) {
        (frontend.set, !node.is_pod(source))
    } else if has(Frontend::SHORT_CIRCUIT) && node.is_pod(source) {
        (SetChoice::Cluster, false)
    } else if has(Frontend::SHORT_CIRCUIT) && is_own(source, context) {
        (SetChoice::Cluster, true)
    } else {
        (frontend.set, false)
    }
}
