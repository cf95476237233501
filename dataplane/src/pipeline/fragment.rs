//! Fragments: gives each the ports that only the first one carries, so that all of a packet go the same way, translated alike.
//!
//! Nothing is put together ("virtual reassembly"). The first fragment of a packet is noted with its ports; a later one takes the line with them,
//! and one that comes before the first waits for it. Needs parsed headers. Leaves to the other stops what becomes of the flow, as
//! for a whole packet; `rewrite` writes the addresses of each fragment and the ports of the first alone.
//!
//! What can't be told apart or could deceive is dropped: a fragment that overlaps the first, a packet whose first fragment is cut short or
//! comes twice with different ports, one that would be longer than an IP packet may be (RFC 1858, RFC 3128, RFC 5722). That holds for
//! what is sent to a service or to us, and for both ends of what policies are about. What is only routed, or an answer of a backend, waits a moment if it comes too
//! early, and passes in any case; and nothing is done while there are neither services nor policies: a router does not look into fragments.
//!
//! Each worker has its own notes: a NIC spreads fragments by their addresses, so that those of a packet meet one worker.
//! Bounds: 256 packets under way, of which the oldest of four makes room; 64 frames that wait, 16 for one packet, for a second at most.

use millrace_tables::{InterfaceId, Route};
use millrace_wire::{Addr, Protocol, View, ipv6, ipv6_ext};
use millrace_xsk::Frame;

use super::{Context, policy};
use crate::clock::{Nanos, SECOND};
use crate::driver::Burst;
use crate::exit::Exit;
use crate::flow::{Seed, Tuple};
use crate::packet::{Headers, Network, Packet, Parsed, Part};
use crate::state::conntrack::Hint;
use crate::trace::Observer;
use crate::verdict::DropReason;

/// Packets of which fragments are under way, and how many of them share a bucket.
const PACKETS: usize = 256;
const BUCKET: usize = 4;
/// Frames that wait for a first fragment, in all and for one packet.
const WAITING: usize = 64;
const WAITING_EACH: usize = 16;
/// How long they wait: those to a service or to us, and others, which then go on as they are.
const PATIENCE: Nanos = SECOND;
const PATIENCE_ROUTED: Nanos = SECOND / 10;
/// How long the ports of a packet are known (Linux' `ipfrag_time`).
const MEMORY: Nanos = 30 * SECOND;
/// The longest IP payload.
const LONGEST: u32 = 65_535;

/// What parse says of a fragment: the burst brings it here.
pub(super) const MARK: DropReason = DropReason::FragmentUnsupported;

/// Names a packet (RFC 791 section 3.2). In IPv6 the protocol is none of it (RFC 8200 section 4.5): with extension headers behind the
/// fragment header only the first fragment tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Key {
    src: Addr,
    dst: Addr,
    id: u32,
    protocol: Protocol,
}

/// Which part of its packet a fragment is.
#[derive(Clone, Copy, Debug)]
struct Piece {
    key: Key,
    /// First byte, and the one behind the last.
    from: u32,
    to: u32,
    more: bool,
    /// Where in the frame its bytes begin.
    data: u32,
}

/// What the first fragment tells of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name {
    ports: (u16, u16),
    /// Absent: what the fragment itself says.
    protocol: Option<Protocol>,
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: Key,
    name: Name,
    /// Where the first fragment ends; later ones begin there at the earliest.
    end: u32,
    since: Nanos,
    /// It contradicted itself: the rest of it is dropped.
    bad: bool,
}

impl Known {
    /// Of a packet whose first fragment was waited for in vain.
    fn unknown(key: Key, since: Nanos) -> Known {
        Known { key, name: Name { ports: (0, 0), protocol: None }, end: 0, since, bad: false }
    }

    fn is_unknown(&self) -> bool {
        self.name.ports == (0, 0) && self.end == 0
    }
}

/// A frame that waits.
struct Waiting {
    key: Key,
    from: InterfaceId,
    since: Nanos,
    /// See [`Next::Wait`].
    ours: bool,
    frame: Frame,
}

/// A worker's notes.
pub(crate) struct Fragments {
    known: Box<[Option<Known>]>,
    waiting: Vec<Waiting>,
}

/// What becomes of a fragment.
pub(super) enum Next {
    /// It takes the line.
    Line,
    /// It waits for the first of its packet.
    Wait {
        /// Whether it is to a service or to us.
        ours: bool,
    },
    /// It ends here.
    End(Exit),
}

impl Fragments {
    pub(crate) fn new() -> Fragments {
        Fragments {
            known: vec![None; PACKETS].into_boxed_slice(),
            waiting: Vec::with_capacity(WAITING),
        }
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes every frame out, for who ends a worker.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Frame> + '_ {
        self.waiting.drain(..).map(|it| it.frame)
    }

    fn bucket(&mut self, key: &Key, seed: &Seed) -> &mut [Option<Known>] {
        let Key { src, dst, id, protocol } = *key;
        let tuple = Tuple { src, dst, sport: id as u16, dport: (id >> 16) as u16, protocol };
        let at = seed.hash(&tuple) as usize % (PACKETS / BUCKET) * BUCKET;
        self.known.get_mut(at..at + BUCKET).unwrap_or_default()
    }

    fn find(&mut self, key: &Key, seed: &Seed, now: Nanos) -> Option<&mut Known> {
        let fresh = |known: &Known| now.saturating_sub(known.since) < MEMORY;
        let mut places = self.bucket(key, seed).iter_mut().flatten();
        places.find(|known| known.key == *key && fresh(known))
    }

    fn note(&mut self, known: Known, seed: &Seed) {
        let age = |place: &Option<Known>| place.map_or(0, |known| known.since.saturating_add(1));
        if let Some(place) = self.bucket(&known.key, seed).iter_mut().min_by_key(|it| age(it)) {
            *place = Some(known);
        }
    }

    /// Takes in a frame that waits for the first fragment of its packet. Gives it back when there is no place.
    fn wait(&mut self, waiting: Waiting) -> Result<(), Frame> {
        let of_packet = self.waiting.iter().filter(|it| it.key == waiting.key).count();
        if self.waiting.len() >= WAITING || of_packet >= WAITING_EACH {
            return Err(waiting.frame);
        }
        self.waiting.push(waiting);
        Ok(())
    }

    /// Takes out frames of one interface whose first fragment has come, in the order in which they came.
    pub(super) fn release(&mut self, seed: &Seed, now: Nanos) -> Option<(InterfaceId, Burst)> {
        let mut burst = Burst::new();
        let mut from = None;
        let mut at = 0;
        while let Some(it) = self.waiting.get(at) {
            let (key, interface) = (it.key, it.from);
            let fits = from.is_none_or(|from| from == interface) && !burst.is_full();
            if fits && self.find(&key, seed, now).is_some() {
                from = Some(interface);
                burst.push(self.waiting.remove(at).frame);
            } else {
                at += 1;
            }
        }
        Some((from?, burst))
    }

    /// Takes out a frame to a service, or to us, that has waited for too long. Others are released next: they go on as they are.
    pub(super) fn give_up(&mut self, seed: &Seed, now: Nanos) -> Option<(InterfaceId, Frame)> {
        let mut at = 0;
        while let Some(it) = self.waiting.get(at) {
            let (key, ours, waited) = (it.key, it.ours, now.saturating_sub(it.since));
            if ours && waited >= PATIENCE {
                let Waiting { from, frame, .. } = self.waiting.remove(at);
                return Some((from, frame));
            }
            if !ours && waited >= PATIENCE_ROUTED && self.find(&key, seed, now).is_none() {
                self.note(Known::unknown(key, now), seed);
            }
            at += 1;
        }
        None
    }
}

/// Reads a fragment's headers again. `None`: it is none.
fn piece(packet: &Packet<'_, Parsed<'_>>) -> Option<Piece> {
    let headers = packet.headers();
    let Headers { l3, l4, end, protocol, .. } = *headers;
    let (id, from, more, data, protocol) = match headers.network {
        Network::Ipv4 => {
            let ip = packet.ipv4().ok()?;
            let from = ip.fragment_offset() as u32;
            (u32::from(ip.id.get()), from, ip.more_fragments(), u32::from(l4), protocol)
        }
        Network::Ipv6 => {
            let (ip, rest) = ipv6::Header::view(packet.bytes().get(usize::from(l3)..)?).ok()?;
            let fragment = ipv6_ext::walk(ip.next_header, rest).ok()?.fragment?;
            let data = usize::from(l3) + ipv6::Header::LEN + fragment.data;
            let from = u32::from(fragment.offset);
            (fragment.id, from, fragment.more, data as u32, Protocol::FRAGMENT)
        }
        Network::Arp => return None,
    };
    let Tuple { src, dst, .. } = headers.tuple;
    let key = Key { src, dst, id, protocol };
    Some(Piece { key, from, to: from + end.saturating_sub(data), more, data })
}

/// Whether extension headers stand between the fragment header and what the packet is about, so that later fragments do not say that.
fn hides(headers: &Headers, piece: &Piece) -> bool {
    let is_extension = [Protocol::HOP_BY_HOP, Protocol::ROUTING, Protocol::DEST_OPTS, Protocol::AH]
        .contains(&headers.protocol);
    headers.network == Network::Ipv6
        && match headers.part {
            Part::Later => is_extension,
            _ => piece.data < u32::from(headers.l4),
        }
}

/// Decides about a fragment; with the name that its headers get, where it is known.
#[cold]
pub(super) fn admit<O: Observer>(
    packet: Packet<'_, Parsed<'_>>,
    context: &mut Context<'_, O>,
) -> (Next, Option<Name>) {
    let headers = packet.headers();
    let carried = (Next::Line, None);
    let tables = &context.tables;
    let judged = tables.has_policies() && policy::judges(tables, &headers.tuple);
    let translates = tables.has_services() || tables.has_leaving();
    let has_name = match headers.protocol {
        Protocol::ICMP | Protocol::ICMPV6 => judged,
        protocol => protocol.has_ports() && (judged || translates),
    };
    if headers.quote.is_some() || !(has_name || judged || translates) {
        return carried;
    }
    let Some(piece) = piece(&packet) else { return carried };
    let hides = hides(headers, &piece);
    if !has_name && !hides {
        return carried;
    }
    let ours = judged || is_ours(&piece.key.dst, context);
    let refused = || {
        let end = Next::End(DropReason::FragmentInvalid.into());
        (if ours { end } else { Next::Line }, None)
    };
    let (seed, now) = (context.state.seed, context.now);
    let fragments = &mut context.state.local.fragments;
    // All but the last are multiples of 8 bytes.
    let Piece { key, from, to, more, .. } = piece;
    if to > LONGEST || to <= from || (more && !(to - from).is_multiple_of(8)) {
        return refused();
    }
    let known = fragments.find(&key, &seed, now);
    if headers.part == Part::First {
        let ports = if has_name { (headers.tuple.sport, headers.tuple.dport) } else { (0, 0) };
        let name = Name { ports, protocol: hides.then_some(headers.protocol) };
        let new = Known { key, name, end: to, since: now, bad: headers.fault.is_some() };
        match known {
            Some(known) if known.is_unknown() => *known = new,
            Some(known) if known.name == name && known.end == to => {}
            Some(known) => {
                known.bad = true;
                return refused();
            }
            None => fragments.note(new, &seed),
        }
        return if has_name { (Next::Line, Some(name)) } else { carried };
    }
    match known {
        Some(known) if known.bad => refused(),
        Some(known) if from < known.end => {
            known.bad = true;
            refused()
        }
        Some(known) => (Next::Line, Some(known.name)),
        None => (Next::Wait { ours }, None),
    }
}

/// Whether packets to it are translated or for us, so that none may pass of which it isn't known how.
fn is_ours<O: Observer>(dst: &Addr, context: &Context<'_, O>) -> bool {
    let destination = context.tables.destination(dst);
    destination.has_frontends()
        || destination.route() == Some(Route::Local)
        || context.interfaces.owns(dst)
}

/// Makes `headers` those of a fragment whose name is known.
pub(super) fn of_flow(headers: &mut Headers, name: Name, seed: &Seed) {
    let Name { ports, protocol } = name;
    if let Some(protocol) = protocol {
        headers.protocol = protocol;
        headers.tuple.protocol = protocol;
    }
    (headers.tuple.sport, headers.tuple.dport) = ports;
    headers.hash = seed.hash(&headers.tuple);
    headers.hint = Hint::UNKNOWN;
    headers.trackable = ports != (0, 0);
}

/// Lets the frame wait for the first fragment of its packet.
///
/// # Errors
/// Gives it back when there is no place.
pub(super) fn wait<O: Observer>(
    headers: &Headers,
    umem: &millrace_xsk::Umem,
    mut frame: Frame,
    ours: bool,
    context: &mut Context<'_, O>,
) -> Result<(), Frame> {
    let (from, since) = (context.from, context.now);
    let Some(piece) = piece(&Packet::new(umem, &mut frame).parsed(headers)) else {
        return Err(frame);
    };
    context.state.local.fragments.wait(Waiting { key: piece.key, from, since, ours, frame })
}

/// Whether a fragment of this protocol can be translated: a CRC over all of it (SCTP) can't be mended in the first.
pub(super) fn is_translatable(headers: &Headers) -> bool {
    headers.part == Part::Whole
        || matches!(headers.protocol, Protocol::TCP | Protocol::UDP | Protocol::UDP_LITE)
}
