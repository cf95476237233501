//! Which backend a client of a service with affinity gets: the one it had, while that serves and was used lately.
//!
//! As kube-proxy in nftables mode: by the client's address and the service port (`sessionAffinity: ClientIP`), whichever frontend it
//! came to; a flow that begins starts the timeout again; a backend that is not in the frontend's set is chosen anew at once. A client that is not known is
//! placed by its address alone, so that all workers, and all nodes, send it to the same backend.

use millrace_tables::{Backend, Service, SetChoice};
use millrace_wire::{Addr, Protocol};

use crate::clock::SECOND;
use crate::flow::{Seed, Tuple};
use crate::pipeline::Context;
use crate::trace::Observer;

/// The backend of a flow that `client` begins.
pub(super) fn pick<O: Observer>(
    service: &Service,
    choice: SetChoice,
    client: &Addr,
    context: &Context<'_, O>,
) -> Option<Backend> {
    let key = Tuple { src: *client, dst: *client, sport: 0, dport: 0, protocol: Protocol(0) };
    let placed = context.tables.pick(service.set(choice), Seed::FIXED.hash(&key));
    let Some(kept) = context.state.affinity.find(service.id, client) else { return placed };
    let timeout = u64::from(service.affinity_seconds) * SECOND;
    if context.now.saturating_sub(kept.seen) >= timeout {
        return placed;
    }
    let same = |it: &Backend| (it.addr, it.port) == (kept.addr, kept.port);
    if placed.as_ref().is_some_and(same) {
        return placed;
    }
    let member = match choice {
        SetChoice::Cluster => Backend::IN_CLUSTER,
        SetChoice::Local => Backend::IN_LOCAL,
    };
    let had = context.tables.find_backend(service, &kept.addr, kept.port);
    had.filter(|it| it.flags & member != 0).or(placed)
}
