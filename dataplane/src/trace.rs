//! What the line decided about a packet, step by step, for who asked: `millrace explain`.
//!
//! The pipeline is generic over an [`Observer`]. A worker's is [`Silent`], whose one method does nothing and is inlined
//! away together with the closure that would make the step, so watching costs nothing where nobody watches.

use millrace_tables::{Backend, Decision, Frontend, InterfaceId, Route, ServiceId};
use millrace_wire::Addr;

use crate::flow::{Direction, Tuple};
use crate::verdict::Verdict;

/// One decision.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Step {
    /// parse: the flow that the packet belongs to; for an ICMP error, that of the packet it quotes.
    Parsed {
        /// Its tuple.
        tuple: Tuple,
        /// Whether the packet is an ICMP error about that flow.
        related: bool,
    },
    /// conntrack: the flow is known.
    Tracked {
        /// Which way the packet goes.
        direction: Direction,
        /// The tuple as it leaves.
        translated: Tuple,
        /// Whose flow it is.
        service: Option<ServiceId>,
        /// Whether its source was changed to an address of ours.
        masqueraded: bool,
        /// Whether the decision of the tables in force was found with it, so that the packet takes the shortcut.
        decided: bool,
    },
    /// conntrack: no such flow, or none that could be.
    Untracked,
    /// service: the flow's backend is gone, so it begins anew.
    Stale {
        /// As it left until now.
        translated: Tuple,
    },
    /// service: the destination is a frontend.
    Frontend {
        /// The row.
        frontend: Frontend,
    },
    /// service: the backend that the flow goes to.
    Backend {
        /// Of which service.
        service: ServiceId,
        /// The row.
        backend: Backend,
    },
    /// service: there is none.
    NoBackend {
        /// Of which service.
        service: ServiceId,
    },
    /// fib: where the destination leads.
    Route {
        /// The destination, after translation.
        destination: Addr,
        /// The row, if there is one.
        route: Option<Route>,
    },
    /// fib: the way out.
    NextHop {
        /// By which interface.
        interface: InterfaceId,
        /// Through whom: the gateway, or the destination itself.
        neighbor: Addr,
    },
    /// policy: it may pass, since no policy is about it, or it goes on as it began.
    Allowed,
    /// policy: what the rules for one end of the flow say.
    Judged {
        /// Whether it is the end that the flow goes to.
        ingress: bool,
        /// What they say.
        decision: Decision,
    },
    /// policy: control has not said yet who may reach this end.
    Closed {
        /// Which.
        endpoint: Addr,
    },
    /// conntrack: the flow is now known, and goes on as this tuple.
    Created {
        /// The tuple as it leaves.
        translated: Tuple,
        /// Whether its source was changed to an address of ours.
        masqueraded: bool,
    },
    /// rewrite: the packet is ready to leave.
    Rewritten {
        /// The tuple as it leaves.
        translated: Tuple,
        /// By which interface.
        interface: InterfaceId,
    },
    /// The end, whichever stop it was.
    Verdict(Verdict),
}

/// Sees the steps of each packet, in order.
pub trait Observer {
    /// Whether it looks at all.
    const LOOKS: bool = true;

    /// Takes one step. Whoever does not look does not call `step`.
    fn see(&mut self, step: impl FnOnce() -> Step);
}

/// Looks at nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    const LOOKS: bool = false;

    #[inline(always)]
    fn see(&mut self, _step: impl FnOnce() -> Step) {}
}

/// Keeps the steps.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// In order, packet after packet; each ends in [`Step::Verdict`].
    pub steps: Vec<Step>,
}

impl Observer for Recorder {
    fn see(&mut self, step: impl FnOnce() -> Step) {
        self.steps.push(step());
    }
}
