//! May this flow go there? The place where it is judged; every packet may, until the tables hold policies.
//!
//! Needs the flow, translated, and the route, since a policy is judged on the addresses that the endpoints see, at the
//! endpoint that the route names. It stands on the line behind the shortcut: a known flow is judged when it begins and
//! again when the tables change, never per packet.

use super::Context;
use super::conntrack::Flow;
use super::fib::Route;
use crate::exit::Exit;
use crate::trace::{Observer, Step};

/// Judges a flow that would leave by `route`.
pub fn check<O: Observer>(
    _flow: &Flow,
    _route: &Route,
    context: &mut Context<'_, O>,
) -> Result<(), Exit> {
    context.observer.see(|| Step::Allowed);
    Ok(())
}
