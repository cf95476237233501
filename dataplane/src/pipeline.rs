//! The path of a packet, in order. Each module is one stop; read down.
//!
//! `burst.rs` runs it: `rx`, `parse` and `ahead` for all packets of a burst, then [`forward`] and `tx` for each. What takes no thought goes
//! by `short.rs`, which does the same in fewer steps.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod burst;
mod context;
mod ahead;
mod short;
pub mod rx;
pub mod parse;
mod guard;
mod fragment;
pub mod neighbor;
pub mod conntrack;
pub mod service;
pub mod fib;
pub mod local;
pub mod policy;
mod leave;
pub mod rewrite;
mod pieces;
pub mod tx;
mod trunk;

pub use burst::{burst, tick};
pub use context::{Context, Local, Settings};

use crate::exit::Exit;
use crate::packet::{Packet, Parsed};
use crate::trace::Observer;
use conntrack::Flow;

/// Decides what becomes of one packet. Total: every packet gets a verdict.
#[inline(always)]
pub fn forward<O: Observer>(packet: Packet<'_, Parsed<'_>>, context: &mut Context<'_, O>) -> Exit {
    path(packet, context).unwrap_or_else(|exit| exit)
}

/// The straight line. `?` is the only way to leave it early.
///
/// What it costs, in cache lines that are not already near (the frame's two were fetched by the first pass):
/// 1. A packet of a known flow whose decision is of the tables in force: the conntrack bucket and entry, both fetched ahead by
///    `ahead`, and the neighbor's line, which few neighbors share. No table of control is read.
/// 2. A packet of a known flow after the tables changed: (1), and fib (2 to 4 lines). Once per flow, direction and generation.
/// 3. A packet of no tracked flow: the conntrack bucket, fib (which says too that the address has no frontends), neighbor.
/// 4. A new flow to a service: (3), the frontend's line, the service's and its Maglev slot, the backend's, fib again for the
///    backend, and two conntrack inserts, whose are the atomic read-modify-writes.
///
/// (1) is nearly all of the traffic that is translated, (3) that which is only routed.
#[inline(always)]
fn path<O: Observer>(
    mut packet: Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> Result<Exit, Exit> {
    neighbor::intercept(&mut packet, context)?;
    loop {
        let hit = conntrack::find(&packet, context)?;
        // (1)
        if let Some(hit) = hit
            && let Some(adjacency) = conntrack::decided(&packet, hit, context)
        {
            fib::check_transit(&mut packet, adjacency.mtu, context)?;
            let translation = context.state.conntrack.table().translated(hit);
            return Ok(rewrite::apply(packet, translation, &adjacency, context)?.transmit());
        }
        // (2), (3), (4)
        let mut flow = Flow::of(hit);
        service::choose(&mut packet, &mut flow, context)?;
        let route = fib::lookup(&mut packet, &flow, context)?;
        policy::check(&packet, &mut flow, context)?;
        leave::check(&packet, &mut flow, &route, context)?;
        let adjacency = neighbor::resolve(&mut packet, &route, context)?;
        if conntrack::commit(&packet, &mut flow, &route, &adjacency, context)? {
            if flow.judged {
                policy::count_allowed(context);
            }
            let packet = if flow.is_tracked() {
                let translation = flow.translation(context.state);
                rewrite::apply(packet, translation, &adjacency, context)?
            } else {
                rewrite::apply(packet, None, &adjacency, context)?
            };
            return Ok(packet.transmit());
        }
        // Another worker made the same flow a moment ago: its choice holds, and is found the second time.
        context.start_again()?;
    }
}
