//! The pipeline's steps, put into an outcome and into words.

use std::net::{IpAddr, SocketAddr};

use millrace_dataplane::flow::{Direction, Tuple};
use millrace_dataplane::trace::Step;
use millrace_dataplane::verdict::{DropReason, Verdict};
use millrace_tables::{FrontendKind, InterfaceId, InterfaceKind, Route, ServiceId, Snapshot};
use millrace_wire::{Addr, Protocol};

use super::answer::{Outcome, Step as Said};
use super::{flow, policy};

/// What the steps of one packet come to.
#[derive(Clone, Debug)]
pub struct Tale {
    /// For the answer.
    pub outcome: Outcome,
    /// The tuple as it left, if it left.
    pub translated: Option<Tuple>,
    /// Where it left.
    pub interface: Option<InterfaceId>,
}

/// Reads the steps of one packet that came in `from` there.
pub fn tale(steps: &[Step], from: InterfaceId, tables: Snapshot<'_>) -> Tale {
    let mut outcome = Outcome { count: 1, ..Outcome::default() };
    let (mut original, mut translated, mut interface) = (None, None, None);
    let (mut reply_direction, mut masquerade) = (false, false);
    let (mut asked, mut of_service) = (None, false);
    for step in steps {
        match step {
            Step::Parsed { tuple, .. } => original = original.or(Some(*tuple)),
            Step::Tracked { direction, service, masqueraded, .. } => {
                reply_direction = *direction == Direction::Reply;
                masquerade = *masqueraded;
                // Of a service that is gone nobody knows the name.
                let known = service.map(|id| name(id, tables));
                outcome.service = known.filter(|name| !name.is_empty());
                of_service = service.is_some();
            }
            Step::Frontend { frontend } => {
                outcome.service = Some(name(frontend.service, tables));
                asked = Some(frontend.kind);
            }
            Step::Backend { service, .. } | Step::NoBackend { service } => {
                outcome.service = Some(name(*service, tables));
            }
            Step::Created { masqueraded, .. } => masquerade = *masqueraded,
            Step::NextHop { interface: id, neighbor } => {
                interface = Some(*id);
                outcome.next_hop = Some(IpAddr::from(*neighbor).to_string());
            }
            Step::Rewritten { translated: tuple, interface: id } => {
                (translated, interface) = (Some(*tuple), Some(*id));
            }
            Step::Verdict(verdict) => {
                judge(*verdict, asked, &mut outcome);
                if *verdict == Verdict::Drop(DropReason::Policy) {
                    outcome.by = policy::refuser(steps, tables);
                }
                if *verdict == Verdict::Drop(DropReason::Spoofed) {
                    outcome.by = tables.guard(from).map(|guard| tables.guard_name(&guard));
                }
            }
            _ => {}
        }
    }
    if outcome.verdict != "transmit" {
        outcome.next_hop = None;
        return Tale { outcome, translated: None, interface: None };
    }
    if let (Some(original), Some(translated)) = (original, translated) {
        outcome.dst = Some(endpoint(&translated.dst, translated.dport, translated.protocol));
        outcome.src = Some(endpoint(&translated.src, translated.sport, translated.protocol));
        if outcome.service.is_some() || of_service {
            let (addr, port) = if reply_direction {
                (original.src, original.sport)
            } else {
                (translated.dst, translated.dport)
            };
            outcome.backend = Some(endpoint(&addr, port, translated.protocol));
        }
        if !reply_direction && masquerade {
            outcome.snat = Some(IpAddr::from(translated.src).to_string());
        }
        // The way of a known flow is not looked up again for each packet.
        if outcome.next_hop.is_none() {
            outcome.next_hop = gateway(&translated.dst, tables);
        }
        // A destination on the link is its own next hop, and needs no mention.
        if outcome.next_hop == Some(IpAddr::from(translated.dst).to_string()) {
            outcome.next_hop = None;
        }
    }
    outcome.out = interface.map(|id| interface_name(id, tables));
    Tale { outcome, translated, interface }
}

/// Through whom packets to `addr` leave, where there is one way.
fn gateway(addr: &Addr, tables: Snapshot<'_>) -> Option<String> {
    let Route::Forward(group) = tables.route(addr)? else { return None };
    match tables.next_hops(group).as_slice() {
        [(hop, _)] => Some(IpAddr::from(hop.gateway?).to_string()),
        _ => None,
    }
}

/// `asked`: what kind of frontend the packet came to.
fn judge(verdict: Verdict, asked: Option<FrontendKind>, outcome: &mut Outcome) {
    (outcome.reply, outcome.reason, outcome.by) = (None, None, None);
    outcome.verdict = match verdict {
        Verdict::Transmit { .. } => "transmit",
        // The neighbor's answer is the sandbox's to give; what is held leaves.
        Verdict::Hold { .. } => "transmit",
        Verdict::Reply(kind) => {
            outcome.reply = Some(kind.name());
            "reply"
        }
        Verdict::Punt(_) => "punt",
        Verdict::Drop(reason) => {
            outcome.reason = Some(reason.name().to_owned());
            let field = match reason {
                DropReason::SourceRange => Some("loadBalancerSourceRanges"),
                DropReason::NoLocalBackend if asked == Some(FrontendKind::CLUSTER_IP) => {
                    Some("internalTrafficPolicy")
                }
                DropReason::NoLocalBackend => Some("externalTrafficPolicy"),
                _ => None,
            };
            // Of `namespace/name:port`.
            let service = outcome.service.as_deref().map(|it| it.split(':').next().unwrap_or(it));
            outcome.by = service.zip(field).map(|(it, field)| format!("Service {it} ({field})"));
            "drop"
        }
    };
}

/// The steps in words.
pub fn words(steps: &[Step], tables: Snapshot<'_>) -> Vec<Said> {
    let asked = steps.iter().find_map(|step| match step {
        Step::Parsed { tuple, .. } => Some(*tuple),
        _ => None,
    });
    steps.iter().filter_map(|step| say(step, asked, tables)).collect()
}

fn say(step: &Step, asked: Option<Tuple>, tables: Snapshot<'_>) -> Option<Said> {
    let (stop, said) = match step {
        Step::Parsed { tuple, related: false } => ("parse", show(tuple)),
        Step::Parsed { tuple, related: true } => {
            ("parse", format!("an ICMP error about {}", show(tuple)))
        }
        Step::Tracked { direction, translated, service, masqueraded, decided } => {
            let way = if *direction == Direction::Reply { "reply" } else { "original" };
            let of = service.map_or(String::new(), |id| format!(" of {}", name(id, tables)));
            let masqueraded = if *masqueraded { ", masqueraded" } else { "" };
            let decided = if *decided { ", decided already" } else { "" };
            (
                "conntrack",
                format!(
                    "known flow{of}, {way} direction{masqueraded}{decided}, leaves as {}",
                    show(translated)
                ),
            )
        }
        Step::Untracked => ("conntrack", "no known flow".to_owned()),
        Step::Stale { translated } => {
            let backend = endpoint(&translated.dst, translated.dport, translated.protocol);
            ("service", format!("backend {backend} is gone: the flow begins anew"))
        }
        Step::Frontend { frontend } => {
            let at = asked.map_or(String::new(), |tuple| {
                format!(
                    "{}/{} ",
                    endpoint(&tuple.dst, tuple.dport, tuple.protocol),
                    flow::name(tuple.protocol)
                )
            });
            ("service", format!("frontend {at}of {}", name(frontend.service, tables)))
        }
        Step::Backend { backend, .. } => {
            ("service", format!("backend {}", endpoint(&backend.addr, backend.port, Protocol::TCP)))
        }
        Step::NoBackend { service } => {
            ("service", format!("{} has no endpoints to go to", name(*service, tables)))
        }
        Step::Route { destination, route } => {
            let to = IpAddr::from(*destination);
            let what = match route {
                None => "there is none".to_owned(),
                Some(Route::Blackhole) => "blackhole".to_owned(),
                Some(Route::Unreachable) => "unreachable".to_owned(),
                Some(Route::Local) => "an address of ours".to_owned(),
                Some(Route::Vip) => "a service address".to_owned(),
                Some(Route::Forward(_)) => "forward".to_owned(),
            };
            ("fib", format!("route to {to}: {what}"))
        }
        Step::NextHop { interface, neighbor } => (
            "fib",
            format!("out of {} to {}", interface_name(*interface, tables), IpAddr::from(*neighbor)),
        ),
        Step::Allowed => ("policy", "allowed".to_owned()),
        Step::Judged { ingress, decision } => ("policy", policy::words(decision, *ingress, tables)),
        Step::Closed { endpoint } => ("policy", policy::closed(endpoint, tables)),
        Step::Created { translated, masqueraded } => {
            let masqueraded = if *masqueraded { ", masqueraded" } else { "" };
            ("conntrack", format!("new flow{masqueraded}, leaves as {}", show(translated)))
        }
        Step::Rewritten { translated, .. } => ("rewrite", show(translated)),
        Step::Verdict(verdict) => {
            let said = match verdict {
                Verdict::Transmit { .. } => "transmit".to_owned(),
                Verdict::Reply(kind) => format!("reply: {kind}"),
                Verdict::Hold { neighbor, .. } => {
                    format!("waits for the MAC of {}", IpAddr::from(*neighbor))
                }
                Verdict::Punt(reason) => format!("left to the kernel: {reason}"),
                Verdict::Drop(reason) => format!("drop: {reason}"),
            };
            ("verdict", said)
        }
        _ => return None,
    };
    Some(Said { stop, said })
}

fn name(service: ServiceId, tables: Snapshot<'_>) -> String {
    tables.service_name(service)
}

fn show(tuple: &Tuple) -> String {
    let protocol = flow::name(tuple.protocol);
    let src = endpoint(&tuple.src, tuple.sport, tuple.protocol);
    format!("{protocol} {src} → {}", endpoint(&tuple.dst, tuple.dport, tuple.protocol))
}

/// `address:port`, without a port where the protocol has none.
pub fn endpoint(addr: &Addr, port: u16, protocol: Protocol) -> String {
    let ip = IpAddr::from(*addr);
    if protocol == Protocol::ICMP || protocol == Protocol::ICMPV6 {
        return ip.to_string();
    }
    SocketAddr::new(ip, port).to_string()
}

/// `uplink` (the first), `uplink:NAME`, `host`, `pod:NAMESPACE/NAME` or `interface:NAME`.
pub fn interface_name(id: InterfaceId, tables: Snapshot<'_>) -> String {
    let Some(row) = tables.interface(id) else { return format!("interface:{}", id.0) };
    match row.kind {
        InterfaceKind::UPLINK => {
            let first = tables.interfaces().find(|other| other.kind == InterfaceKind::UPLINK);
            if first.is_some_and(|first| first.id == id) {
                "uplink".into()
            } else {
                format!("uplink:{}", row.name)
            }
        }
        InterfaceKind::HOST => "host".into(),
        InterfaceKind::POD => row.name,
        _ => format!("interface:{}", row.name),
    }
}
