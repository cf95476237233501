//! What the stops share: the tables of this burst, the worker's state, the time, who looks on.

use std::sync::Arc;

use arrayvec::ArrayVec;
use millrace_tables::{InterfaceId, Judgements, Search, Snapshot};
use millrace_wire::Addr;
use millrace_xsk::{Frame, Pool, Umem};

use super::fib::ways::Ways;
use super::fragment::Fragments;
use super::neighbor::hold::Hold;
use super::neighbor::met::Met;
use super::neighbor::recent::Recent;
use super::policy::Judgement;
use crate::clock::{Nanos, SECOND};
use crate::driver::BURST;
use crate::exit::Exit;
use crate::interface::{Interface, Interfaces};
use crate::packet::{Headers, Packet, Parsed};
use crate::reply::{self, Limiter};
use crate::snat::{Budget, Exhausted, HostPorts, Ports};
use crate::state::State;
use crate::trace::{Observer, Step};
use crate::verdict::DropReason;

/// Limits of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// ICMP errors and TCP resets a second, and at once after a quiet second (RFC 1812 section 4.3.2.8, RFC 4443
    /// section 2.4 f).
    pub errors_per_second: u32,
    /// Frames that wait for one neighbor; the rest is dropped (RFC 1122 section 2.3.2.2 asks for one at least).
    pub hold_per_neighbor: usize,
    /// Neighbors that frames wait for.
    pub hold_neighbors: usize,
    /// Frames that wait in all; a quarter of the worker's frames at most.
    pub hold_total: usize,
    /// How long a frame waits.
    pub hold_timeout: Nanos,
    /// Source ports of masqueraded flows.
    pub snat_ports: Ports,
    /// Beside a kernel, those with an address of the trunk, which is ours alone.
    pub trunk_ports: Ports,
    /// Those of them for flows that find none of `snat_ports`, and then go by way of the kernel.
    pub overflow_ports: Option<Ports>,
    /// Lookups a second for the last of them that are free.
    pub snat_searches: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            errors_per_second: 1000,
            hold_per_neighbor: 64,
            hold_neighbors: 64,
            hold_total: 1024,
            hold_timeout: 3 * SECOND,
            snat_ports: Ports::default(),
            trunk_ports: Ports::default(),
            overflow_ports: None,
            snat_searches: 1 << 20,
        }
    }
}

/// What one worker owns beside its part of the shared state.
pub struct Local {
    /// Free frames.
    pub pool: Pool,
    /// The engine's interfaces. The worker's own copy: a burst takes a handle, whose count no other worker may write.
    pub interfaces: Arc<Interfaces>,
    /// The frames' memory, by a handle of the worker's own for the same reason.
    pub(super) memory: Arc<Memory>,
    /// Limits.
    pub settings: Settings,
    /// Frames that wait for a neighbor.
    pub(crate) hold: Hold,
    /// Packets of which fragments are under way.
    pub(crate) fragments: Fragments,
    /// Neighbors that this worker sent to lately.
    pub(crate) met: Met,
    /// Adjacencies of the routes that this worker used lately.
    pub(crate) ways: Ways,
    /// Adjacencies that this worker used lately.
    pub(crate) recent: Recent,
    /// How many errors may still be sent.
    pub(crate) limiter: Limiter,
    /// Ports that are no source ports, because a process of this node has them.
    pub host_ports: Arc<HostPorts>,
    /// How hard free source ports may still be looked for.
    pub(crate) snat_budget: Budget,
    /// Sets of them that are full.
    pub(crate) snat_exhausted: Exhausted,
    /// Requests to send: made by the line, which touches no ring, and sent by `tx`.
    pub(crate) requests: Requests,
    /// What is known of the packets of the burst under way; of an earlier one what is not overwritten yet.
    pub(super) parsed: Box<[Headers]>,
    /// Searches for the backends of flows that the burst under way may begin.
    pub(super) searches: Vec<Search>,
    /// What policies say of the flows that the burst under way may begin.
    pub(super) judgements: Judgements,
    /// What this burst has staged, by interface.
    pub(crate) staged: Vec<Staged>,
    /// What policies have decided about the flow that the packet under way begins.
    pub(super) judgement: Judgement,
    /// Verdicts of this burst that are not booked yet: so many of the one at this place.
    pub(crate) unbooked: (usize, u64),
}

/// The memory of the frames, as one worker holds it.
pub(super) struct Memory(pub(super) Arc<Umem>);

/// What is staged on one interface's queue and not counted yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Staged {
    /// Whether the queue needs a kick.
    pub(crate) kick: bool,
    /// Frames.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// Requests of one burst: each of its packets can ask for one.
pub(crate) type Requests = ArrayVec<(InterfaceId, Frame), BURST>;

impl Local {
    /// A worker's own part.
    pub fn new(pool: Pool, interfaces: Arc<Interfaces>, settings: Settings) -> Local {
        let staged = vec![Staged::default(); interfaces.len()];
        let hold_total = settings.hold_total.min(pool.len() / 4);
        let memory = Arc::new(Memory(Arc::clone(pool.umem())));
        let interfaces = Arc::new(Interfaces::clone(&interfaces));
        Local {
            pool,
            interfaces,
            memory,
            settings,
            hold: Hold::new(settings.hold_neighbors, settings.hold_per_neighbor, hold_total),
            fragments: Fragments::new(),
            met: Met::new(),
            ways: Ways::new(),
            recent: Recent::new(),
            limiter: Limiter::new(settings.errors_per_second),
            host_ports: Arc::default(),
            snat_budget: Budget::new(settings.snat_searches),
            snat_exhausted: Exhausted::default(),
            requests: Requests::new(),
            searches: Vec::with_capacity(BURST),
            judgements: Judgements::with_room(BURST),
            parsed: vec![Headers::BLANK; BURST].into_boxed_slice(),
            staged,
            judgement: Judgement::default(),
            unbooked: (0, 0),
        }
    }

    /// Frames that wait right now, for a neighbor or for the first fragment of their packet.
    pub fn held(&self) -> usize {
        self.hold.len() + self.fragments.len()
    }
}

impl Drop for Local {
    /// What waits goes back to the pool, so that no frame is lost with the worker.
    fn drop(&mut self) {
        let Local { pool, hold, fragments, requests, .. } = self;
        hold.drain()
            .chain(fragments.drain())
            .chain(requests.drain(..).map(|(_, frame)| frame))
            .for_each(|frame| pool.put(frame));
    }
}

/// One packet's surroundings.
pub struct Context<'a, O> {
    /// The tables, the same for all packets of the burst.
    pub tables: Snapshot<'a>,
    /// What the worker remembers.
    pub state: &'a mut State,
    /// The interface that the packet came in on.
    pub from: InterfaceId,
    /// The engine's interfaces.
    pub interfaces: &'a Interfaces,
    /// The time of the burst.
    pub now: Nanos,
    /// Who looks on.
    pub observer: &'a mut O,
    /// Whether the packet takes the line for the second time.
    pub(super) again: bool,
}

impl<O: Observer> Context<'_, O> {
    /// The interface that the packet came in on.
    #[inline]
    pub fn receiving(&self) -> Result<&Interface, Exit> {
        self.interfaces.get(self.from).ok_or(DropReason::NoInterface.into())
    }

    /// Tells the observer how the packet ended.
    #[inline]
    pub(super) fn see_exit(&mut self, exit: Exit) {
        let neighbors = &self.state.neighbors;
        self.observer.see(|| Step::Verdict(exit.verdict(|neighbor| neighbors.addr(neighbor))));
    }

    /// Lets the packet take the line once more, but not for ever.
    pub(super) fn start_again(&mut self) -> Result<(), Exit> {
        if std::mem::replace(&mut self.again, true) {
            Err(DropReason::Inconsistent.into())
        } else {
            Ok(())
        }
    }

    /// Asks by ARP or ND who `neighbor` is: all stations, or `known` alone to see that it is still there. The request carries the
    /// VLAN tags of the packet that needs the answer.
    pub fn request(
        &mut self,
        interface: InterfaceId,
        neighbor: &Addr,
        known: Option<millrace_wire::Mac>,
        packet: &Packet<'_, Parsed<'_>>,
    ) {
        let tags = packet.bytes().get(12..usize::from(packet.headers().l3)).unwrap_or_default();
        request(self.interfaces, &mut self.state.local, interface, neighbor, known, tags);
    }
}

/// As [`Context::request`]; `tags` is what stands between the MACs and the IP header of the packet in need.
pub(crate) fn request(
    interfaces: &Interfaces,
    local: &mut Local,
    interface: InterfaceId,
    neighbor: &Addr,
    known: Option<millrace_wire::Mac>,
    tags: &[u8],
) {
    let Some(out) = interfaces.get(interface) else { return };
    let Some(bytes) = reply::request(interfaces, out, neighbor, known, tags) else { return };
    if local.requests.is_full() {
        return;
    }
    // Without a frame nothing is asked now; the next packet asks again a second later.
    let umem = Arc::clone(local.pool.umem());
    if let Some(frame) = umem.store(&bytes, &mut local.pool) {
        local.requests.push((interface, frame));
    }
}
