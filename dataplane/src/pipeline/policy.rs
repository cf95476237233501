//! May this flow go there? Judged when it begins, and again when the tables change; never per packet.
//!
//! Needs the flow, translated, and stands behind `fib`, since policies are about the addresses that the endpoints have: the client's own source, and the
//! destination and port after DNAT. The flow is judged as egress of its source and as ingress of its destination, where these are isolated;
//! both have to allow it. What control has compiled is looked up ([`millrace_tables::policy`]); here is only what is judged, and when:
//!
//! * not at all: what this node itself sends (kubelet's probes; Kubernetes has the node reach its own pods whatever policies
//!   say; who has one of its addresses and does not come from its stack is dropped), a pod to its own address, and answers and ICMP errors of a flow that was allowed: they find its entry;
//! * a pod to itself by way of a service: by ClusterNetworkPolicies alone, for which control has compiled an answer of its own ([`Snapshot::judge_itself`]);
//! * what a pod sends to this node only by rules that are about that too ([`Endpoint::FENCED`]): a NetworkPolicy never forbids it, a ClusterNetworkPolicy may;
//! * a known flow, in the direction that it began in, whichever way the packet goes, once for each generation of the tables. What is forbidden now
//!   is dropped (`strict`), or goes on (`keep`);
//! * everything else as a new flow in its own direction. A TCP segment from the middle of a connection that is not known, which nobody saw beginning, has to be allowed
//!   in the direction too in which it presumably began: the server is the end with the lower port. An answer of an isolated server can't open it so.
//!
//! A flow that is allowed, and of which any end is isolated in any direction, is tracked from then on, so that its answers pass. Without room for that
//! it is dropped. So is one of any pod of this node, where there is room: who began it is known then when a policy comes. What can't be tracked (fragments whose first nobody saw, other protocols, ICMP but echo) is judged packet by packet.
//!
//! An entry of a forbidden flow stays, as the memory of who opened it, until it has been idle for too long (of a TCP connection until another SYN comes): what its
//! server still sends would else begin a flow of its own, whose answers the forbidden packets would be.
//!
//! Cost: without policies and pods a comparison. With them, for a flow that begins, the look-ups of `tables/src/policy.rs`; for packets of flows that are
//! not tracked, those of both addresses. `ahead` has made them for the whole burst, mostly; what it found is used if it was about this very tuple.

use millrace_tables::{
    Decision, Endpoint, InterfaceKind, Judged, PolicyChanges, Snapshot, SubjectId,
};
use millrace_wire::{Addr, Protocol, tcp};

use super::conntrack::{Flow, Known, commit_own, may_begin};
use super::{Context, local};
use crate::exit::Exit;
use crate::flow::{Direction, Tuple};
use crate::packet::{Headers, Packet, Parsed, Part};
use crate::state::conntrack::Hit;
use crate::state::policy::{Count, PolicyCounters};
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

/// What was decided about a flow at its ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Whether an end is isolated in any direction: then the flow is tracked.
    pub concerned: bool,
    /// Whether an end is a pod of this node: then the flow is tracked if there is room.
    pub local: bool,
    /// The end that control has said nothing of yet.
    pub closed: Option<Addr>,
    /// What the rules for the source say, if it is isolated.
    pub egress: Option<Decision>,
    /// What those for the destination say.
    pub ingress: Option<Decision>,
}

impl Judgement {
    /// Whether the flow may begin.
    pub fn is_allowed(&self) -> bool {
        self.closed.is_none()
            && [self.egress, self.ingress].iter().flatten().all(Decision::is_allowed)
    }

    /// The decisions, that of the source first.
    fn decisions(&self) -> impl Iterator<Item = Decision> {
        [self.egress, self.ingress].into_iter().flatten()
    }
}

/// Judges a flow that begins with a packet of this tuple.
pub fn judge(tables: &Snapshot<'_>, tuple: &Tuple) -> Judgement {
    let [source, destination] = [tuple.src, tuple.dst].map(|addr| tables.policy_endpoint(&addr));
    let says = |subject: Option<SubjectId>, peer: &Endpoint| {
        subject.map(|subject| tables.judge(subject, peer.class, tuple.protocol.0, tuple.dport))
    };
    put_together(tuple, &[source, destination], || {
        [says(source.egress(), &destination), says(destination.ingress(), &source)]
    })
}

/// The judgement, from what is known of source and destination, and what their rules say.
#[inline]
fn put_together(
    tuple: &Tuple,
    ends: &[Endpoint; 2],
    decisions: impl FnOnce() -> [Option<Decision>; 2],
) -> Judgement {
    let [source, destination] = ends;
    let local = source.is_local() || destination.is_local();
    if !is_concerned(source, destination) {
        return Judgement { local, ..Judgement::default() };
    }
    let closed = [(source, tuple.src), (destination, tuple.dst)]
        .into_iter()
        .find_map(|(end, addr)| end.is_closed().then_some(addr));
    let closed = closed.filter(|_| !destination.is_node());
    let [egress, ingress] = decisions();
    Judgement { concerned: true, local, closed, egress, ingress }
}

/// Judges what comes back to its sender. Only a service sends it there: what a pod sends to its own address does not leave it, and is its own affair.
#[cold]
fn judge_itself(tables: &Snapshot<'_>, tuple: &Tuple, by_service: bool) -> (bool, Judgement) {
    let end = tables.policy_endpoint(&tuple.src);
    let (false, true) = (end.is_node(), by_service) else {
        return (end.is_node(), Judgement::default());
    };
    let [egress, ingress] = tables.judge_itself(&end, tuple.protocol.0, tuple.dport);
    let concerned = egress.is_some() || ingress.is_some();
    (false, Judgement { concerned, local: end.is_local(), closed: None, egress, ingress })
}

/// What `ahead` has found out, if it has asked about this flow.
#[inline]
fn found_ahead<'a, O: Observer>(
    headers: &Headers,
    tuple: &Tuple,
    context: &'a Context<'_, O>,
) -> Option<&'a Judged> {
    let judged = context.state.local.judgements.get(usize::from(headers.judged?))?;
    judged.is_of([&tuple.src, &tuple.dst], tuple.protocol.0, tuple.dport).then_some(judged)
}

fn is_concerned(source: &Endpoint, destination: &Endpoint) -> bool {
    match destination.is_node() {
        _ if source.is_node() => false,
        true => source.is_fenced(),
        false => source.is_isolated() || destination.is_isolated(),
    }
}

/// Whether packets of this tuple are to be judged, or tracked, if their flow is not known. One from this node itself is as well: see [`is_from_stack`].
#[inline(never)]
pub(super) fn concerns<O: Observer>(headers: &Headers, context: &Context<'_, O>) -> bool {
    let tuple = &headers.tuple;
    let [source, destination] = match found_ahead(headers, tuple, context) {
        Some(judged) => judged.endpoints,
        None => [tuple.src, tuple.dst].map(|addr| context.tables.policy_endpoint(&addr)),
    };
    (source.is_isolated()
        || destination.is_isolated()
        || source.is_local()
        || destination.is_local()
        || source.is_node())
        && tuple.src != tuple.dst
}

/// Whether packets of this tuple are to be judged if their flow is not known, so that what can't be judged may not pass.
pub(super) fn judges(tables: &Snapshot<'_>, tuple: &Tuple) -> bool {
    let source = tables.policy_endpoint(&tuple.src);
    let destination = tables.policy_endpoint(&tuple.dst);
    (is_concerned(&source, &destination) || source.is_node()) && tuple.src != tuple.dst
}

/// Whether the packet comes from this node's stack. One that does not and has an address of this node would be let in everywhere.
fn is_from_stack<O: Observer>(context: &Context<'_, O>) -> bool {
    context.receiving().is_ok_and(|from| from.kind == InterfaceKind::HOST)
}

/// Judges a flow whose way is known.
#[inline]
pub fn check<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &mut Flow,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    if !context.tables.has_policies() {
        context.observer.see(|| Step::Allowed);
        return Ok(());
    }
    in_force(packet, flow, context)
}

/// Judges a packet that is for this node itself.
#[inline]
pub(super) fn check_own<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &Flow,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    if context.tables.has_policies() { own(packet, *flow, context) } else { Ok(()) }
}

/// Its flow is remembered as others are: the node's answers to it are no flow of the node's.
#[inline(never)]
fn own<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    mut flow: Flow,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    in_force(packet, &mut flow, context)?;
    // Another worker that made the same flow has judged it alike.
    if commit_own(packet, &flow, context)? && flow.judged {
        count_allowed(context);
    }
    Ok(())
}

#[inline(never)]
fn in_force<O: Observer>(
    packet: &Packet<'_, Parsed<'_>>,
    flow: &mut Flow,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    let headers = packet.headers();
    let (tuple, by_service) = match flow.known {
        Known::Found(hit) => match began_as(hit, context) {
            Some(began) => began,
            None => return Err(DropReason::Inconsistent.into()),
        },
        Known::New { translated, .. } => (translated, translated.dst != headers.tuple.dst),
        Known::Untracked if headers.quote.is_some() => {
            let (src, dst) = (packet.source()?, packet.destination()?);
            let protocol = headers.protocol;
            (Tuple { src, dst, sport: 0, dport: 0, protocol }, false)
        }
        Known::Untracked => (headers.tuple, false),
    };
    let known = matches!(flow.known, Known::Found(_));
    if known && context.tables.policy_changes() == PolicyChanges::Keep {
        context.observer.see(|| Step::Allowed);
        return Ok(());
    }
    let (from_node, mut judgement) = match found_ahead(headers, &tuple, context) {
        _ if tuple.src == tuple.dst => judge_itself(&context.tables, &tuple, by_service),
        Some(Judged { endpoints, decisions, .. }) => {
            (endpoints[0].is_node(), put_together(&tuple, endpoints, || *decisions))
        }
        None => {
            let tables = &context.tables;
            (!known && tables.policy_endpoint(&tuple.src).is_node(), judge(tables, &tuple))
        }
    };
    if !known && from_node && !is_from_stack(context) {
        return Err(DropReason::Martian.into());
    }
    let mut track = headers.trackable && headers.part != Part::Later && headers.quote.is_none();
    if matches!(headers.protocol, Protocol::ICMP | Protocol::ICMPV6) {
        track &= may_ask(packet, context);
    }
    if headers.protocol == Protocol::TCP && headers.part != Part::Later {
        track &= may_begin(headers.tcp) && headers.fault.is_none();
        let is_untracked = matches!(flow.known, Known::Untracked);
        // From the server, presumably: then it has to be allowed to be one, too.
        if is_untracked
            && (judgement.concerned || judgement.local)
            && judgement.is_allowed()
            && may_begin(headers.tcp)
            && !headers.tcp.contains(tcp::Flags::SYN)
            && tuple.sport < tuple.dport
        {
            track = false;
            let presumed = judge(&context.tables, &tuple.reversed());
            if !presumed.is_allowed() {
                judgement = presumed;
            }
        }
    }
    see(&judgement, context);
    if !judgement.is_allowed() {
        count_denied(&judgement, context);
        // A TCP connection may be opened anew; see above for what stays.
        if let Known::Found(hit) = flow.known
            && headers.protocol == Protocol::TCP
            && headers.tcp.contains(tcp::Flags::SYN)
            && !headers.tcp.contains(tcp::Flags::ACK)
        {
            context.state.conntrack.remove(hit);
        }
        return Err(DropReason::Policy.into());
    }
    if known || !(judgement.concerned || judgement.local) {
        return Ok(());
    }
    if judgement.concerned {
        context.state.local.judgement = judgement;
        flow.judged = true;
    }
    if let Known::Untracked = flow.known
        && track
        && (judgement.concerned || headers.fault.is_none())
    {
        flow.known = Known::New { service: None, translated: headers.tuple, masquerade: false };
        flow.optional = !judgement.concerned;
    }
    Ok(())
}

/// Whether an ICMP message begins a flow: an echo request. With identifier 0 it has the tuple of its answer, and begins none where the other
/// end has asked already.
#[cold]
fn may_ask<O: Observer>(packet: &Packet<'_, Parsed<'_>>, context: &Context<'_, O>) -> bool {
    let (headers, table) = (packet.headers(), context.state.conntrack.table());
    local::asks(packet)
        && (headers.tuple.sport != 0
            || table.find(&headers.tuple, headers.hash, context.now).is_none())
}

/// The tuple that a known flow began with, and had behind DNAT; and whether DNAT has given it another destination.
fn began_as<O: Observer>(hit: Hit, context: &Context<'_, O>) -> Option<(Tuple, bool)> {
    let table = context.state.conntrack.table();
    let [original, reply] =
        [Direction::Original, Direction::Reply].map(|direction| table.tuple(hit, direction));
    let (original, reply) = (original?, reply?);
    let tuple = Tuple { dst: reply.src, dport: reply.sport, ..original };
    Some((tuple, tuple.dst != original.dst))
}

fn see<O: Observer>(judgement: &Judgement, context: &mut Context<'_, O>) {
    let Judgement { concerned, closed, egress, ingress, .. } = *judgement;
    if let Some(endpoint) = closed {
        context.observer.see(|| Step::Closed { endpoint });
    }
    for (ingress, decision) in [(false, egress), (true, ingress)] {
        if let Some(decision) = decision {
            context.observer.see(|| Step::Judged { ingress, decision });
        }
    }
    if !concerned || (closed.is_none() && egress.is_none() && ingress.is_none()) {
        context.observer.see(|| Step::Allowed);
    }
}

/// Counts a flow that was allowed, once it goes its way: what waits for a neighbor is judged again.
#[cold]
pub(super) fn count_allowed<O: Observer>(context: &mut Context<'_, O>) {
    let judgement = context.state.local.judgement;
    let (tables, counters) = (&context.tables, &context.state.counters.policies);
    for decision in judgement.decisions() {
        if let Some(policy) = decision.policy() {
            counters.add(policy, Count::Allowed);
        }
        if decision.would_be_denied() {
            count_all(tables, &decision, true, Count::Shadow, counters);
        }
    }
}

#[cold]
fn count_denied<O: Observer>(judgement: &Judgement, context: &mut Context<'_, O>) {
    let (tables, counters) = (&context.tables, &context.state.counters.policies);
    for decision in judgement.decisions().filter(|decision| !decision.is_allowed()) {
        count_all(tables, &decision, false, Count::Denied, counters);
    }
}

/// Most policies that one decision is counted for: a pod that more of them isolate is shown with the first.
const COUNTED: usize = 16;

fn count_all(
    tables: &Snapshot<'_>,
    decision: &Decision,
    shadow: bool,
    what: Count,
    counters: &PolicyCounters,
) {
    for policy in tables.deciders(decision, shadow).take(COUNTED) {
        counters.add(policy, what);
    }
}
