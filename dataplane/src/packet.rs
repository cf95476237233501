//! A packet in its frame, typed by what is known about it: [`Raw`] → [`Headers`] → [`Rewritten`].
//!
//! Only `parse` makes `Packet<Headers>` and only `rewrite` makes `Packet<Rewritten>`, and only that one can be
//! transmitted, so a stop can't be left out. The bytes stay where the driver put them; what the types carry are
//! offsets from the first byte of the Ethernet header, all within the frame's first chunk.

use millrace_tables::{Destination, InterfaceId};
use millrace_wire::{Addr, Error, Protocol, View, ethernet, ipv4, ipv6, tcp};
use millrace_xsk::{Frame, Pool, TxOffload, Umem};

use crate::exit::Exit;
use crate::flow::Tuple;
use crate::state::conntrack::Hint;
use crate::verdict::DropReason;

/// A frame as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Raw;

/// What a frame carries, as far as the pipeline looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// An ARP packet; nothing below but `l3` counts.
    Arp,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// The first fragment: the L4 header is in it.
    First,
    /// A later one: what stands at `l4` is payload.
    Later,
}

/// The packet quoted in an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Offset of the quoted IP header.
    pub l3: u16,
    /// Offset of the quoted L4 header, of which at least the ports are there.
    pub l4: u16,
    /// What that header is.
    pub protocol: Protocol,
}

/// What `parse` found out.
///
/// In this order, so that what is the same for all plain packets lies together and is written in few stores.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Headers {
    /// The flow that the packet belongs to. For an ICMP error it is the flow of the quoted packet, in the direction
    /// that the error travels. Ports are 0 where there are none to read.
    pub tuple: Tuple,
    /// The tuple's seeded hash.
    pub hash: u64,
    /// Offset of the first byte behind the IP packet; the frame may go on with padding.
    pub end: u32,
    /// What is at `l4`.
    pub protocol: Protocol,
    /// TCP flags; none for other protocols.
    pub tcp: tcp::Flags,
    /// TTL or hop limit as received.
    pub ttl: u8,
    /// Whether routers may not fragment it: IPv4 with DF, or IPv6.
    pub dont_fragment: bool,
    /// Whether the tuple names a flow that conntrack may know: it has ports, or is of echo messages.
    pub trackable: bool,
    /// Whether it took the short way through `parse`: whole, TCP or UDP, all headers at fixed places and sound.
    pub plain: bool,
    /// Offset of the IP (or ARP) header: 14, 18 or 22.
    pub l3: u16,
    /// Offset of the L4 header, or of a later fragment's data.
    pub l4: u16,
    /// What is at `l3`.
    pub network: Network,
    /// Whether it is a fragment.
    pub part: Part,
    /// Where conntrack probably has the flow.
    pub hint: Hint,
    /// What the FIB knows of the tuple's destination, if somebody has asked already.
    pub destination: Option<Destination>,
    /// Which of the worker's searches for a backend is this packet's.
    pub search: Option<u8>,
    /// Which of the worker's judgements is about the flow that this packet may begin.
    pub judged: Option<u8>,
    /// What would forbid to translate or answer this packet, though a router may carry it: an L4 header that is cut short or
    /// contradicts itself.
    pub fault: Option<DropReason>,
    /// Whether the destination MAC is a group's.
    pub to_group: bool,
    /// Whether an IPv6 routing header asks the addressed node to forward the packet on.
    pub routed_on: bool,
    /// The packet that this one, an ICMP error, is about.
    pub quote: Option<Quote>,
}

impl Headers {
    /// What `parse` begins with: nothing known, and ARP, of which nothing more is.
    pub(crate) const BLANK: Headers = Headers {
        tuple: Tuple {
            src: Addr::UNSPECIFIED_V4,
            dst: Addr::UNSPECIFIED_V4,
            sport: 0,
            dport: 0,
            protocol: Protocol(0),
        },
        hash: 0,
        hint: Hint::UNKNOWN,
        destination: None,
        search: None,
        judged: None,
        l3: 0,
        l4: 0,
        end: 0,
        network: Network::Arp,
        protocol: Protocol(0),
        part: Part::Whole,
        quote: None,
        fault: None,
        tcp: tcp::Flags(0),
        ttl: 0,
        dont_fragment: false,
        to_group: false,
        trackable: false,
        routed_on: false,
        plain: false,
    };

    /// Bytes of the IP packet.
    #[inline]
    pub fn ip_len(&self) -> u32 {
        self.end - u32::from(self.l3)
    }

    /// Bytes from the L4 header to the end of the IP packet.
    #[inline]
    pub fn l4_len(&self) -> u32 {
        self.end - u32::from(self.l4)
    }
}

/// A packet that has been parsed. Its headers lie in the burst's list, where the first pass put them.
#[derive(Clone, Copy, Debug)]
pub struct Parsed<'a>(&'a Headers);

impl std::ops::Deref for Parsed<'_> {
    type Target = Headers;

    #[inline]
    fn deref(&self) -> &Headers {
        self.0
    }
}

/// A packet whose every header is as it shall leave, and how it does.
#[derive(Clone, Copy, Debug)]
pub struct Rewritten(Exit);

/// A frame and what is known about it.
pub struct Packet<'a, S> {
    umem: &'a Umem,
    frame: &'a mut Frame,
    known: S,
}

impl<'a> Packet<'a, Raw> {
    /// A frame as it came in.
    #[inline]
    pub fn new(umem: &'a Umem, frame: &'a mut Frame) -> Packet<'a, Raw> {
        Packet { umem, frame, known: Raw }
    }

    /// The same, parsed. `parse` calls it with what it found in these very bytes.
    #[inline]
    pub(crate) fn parsed(self, headers: &'a Headers) -> Packet<'a, Parsed<'a>> {
        Packet { umem: self.umem, frame: self.frame, known: Parsed(headers) }
    }
}

impl<S> Packet<'_, S> {
    /// The bytes in the first chunk, from the Ethernet header on.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.umem.bytes(self.frame)
    }

    /// The same, to write.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.umem.bytes_mut(self.frame)
    }

    /// Bytes of the frame over all chunks.
    #[inline]
    pub fn total_len(&self) -> usize {
        self.frame.total_len()
    }

    /// Whether the frame lies in one chunk.
    pub fn is_contiguous(&self) -> bool {
        self.frame.segments() == 1
    }

    /// Calls `visit` with the bytes from offset `from` to offset `to`, chunk by chunk.
    pub fn for_each(&self, from: usize, to: usize, mut visit: impl FnMut(&[u8])) {
        range_of_segments(self.umem, self.frame, from, to, &mut visit);
    }

    /// The Ethernet header.
    pub fn ethernet(&self) -> Result<&ethernet::Header, Exit> {
        view(self.bytes(), 0)
    }
}

impl<'a, 'h> Packet<'a, Parsed<'h>> {
    /// What is known of it. It lies beside the packet, so holding it does not hold the packet.
    #[inline]
    pub fn headers(&self) -> &'h Headers {
        self.known.0
    }

    /// The IPv4 header.
    pub fn ipv4(&self) -> Result<&ipv4::Header, Exit> {
        view(self.bytes(), self.known.l3)
    }

    /// The IPv6 header.
    pub fn ipv6(&self) -> Result<&ipv6::Header, Exit> {
        view(self.bytes(), self.known.l3)
    }

    /// The L4 header, whichever it is.
    pub fn l4<T: View>(&self) -> Result<&T, Exit> {
        view(self.bytes(), self.known.l4)
    }

    /// The IP source. The tuple's own, but for an ICMP error.
    #[inline]
    pub fn source(&self) -> Result<Addr, Exit> {
        match self.known.network {
            _ if self.known.quote.is_none() => Ok(self.known.tuple.src),
            Network::Ipv4 => Ok(self.ipv4()?.src_addr()),
            Network::Ipv6 | Network::Arp => Ok(self.ipv6()?.src_addr()),
        }
    }

    /// The IP destination. The tuple's own, but for an ICMP error.
    #[inline]
    pub fn destination(&self) -> Result<Addr, Exit> {
        match self.known.network {
            _ if self.known.quote.is_none() => Ok(self.known.tuple.dst),
            Network::Ipv4 => Ok(self.ipv4()?.dst_addr()),
            Network::Ipv6 | Network::Arp => Ok(self.ipv6()?.dst_addr()),
        }
    }

    /// Cuts off what follows the IP packet: a checksum over the frame's bytes must not count its padding.
    pub(crate) fn trim(&mut self, pool: &mut Pool) {
        let end = self.known.end as usize;
        if self.total_len() > end {
            // Cannot fail: the frame is longer than that.
            let _ = self.umem.truncate(self.frame, end, pool);
        }
    }

    /// Puts `bytes` in place of the frame's own. False when they don't fit into one chunk.
    pub(crate) fn replace(&mut self, bytes: &[u8], pool: &mut Pool) -> bool {
        if !self.is_contiguous() && !self.umem.truncate(self.frame, self.frame.len(), pool) {
            return false;
        }
        if !self.umem.set_len(self.frame, bytes.len()) {
            return false;
        }
        self.umem.bytes_mut(self.frame).copy_from_slice(bytes);
        true
    }

    /// The same for a while.
    #[inline]
    pub(crate) fn reborrow(&mut self) -> Packet<'_, Parsed<'h>> {
        Packet { umem: self.umem, frame: &mut *self.frame, known: self.known }
    }

    /// The same packet with its headers written. `rewrite` calls it when that is so.
    #[inline]
    pub(crate) fn rewritten(
        self,
        interface: InterfaceId,
        offload: TxOffload,
    ) -> Packet<'a, Rewritten> {
        let exit = Exit::transmit(interface, offload);
        Packet { umem: self.umem, frame: self.frame, known: Rewritten(exit) }
    }
}

impl<'a> Packet<'a, Parsed<'_>> {
    /// The same packet with its headers written, for a way out that it does not fit as a whole.
    pub(crate) fn rewritten_in_pieces(self, interface: InterfaceId) -> Packet<'a, Rewritten> {
        let exit = Exit::transmit_in_pieces(interface, self.known.l3);
        Packet { umem: self.umem, frame: self.frame, known: Rewritten(exit) }
    }

    /// The memory and the frame themselves.
    pub(crate) fn parts(&mut self) -> (&Umem, &mut Frame) {
        (self.umem, &mut *self.frame)
    }
}

impl Packet<'_, Rewritten> {
    /// The end of the line.
    #[inline]
    pub fn transmit(self) -> Exit {
        self.known.0
    }
}

/// A header at `offset`. That `parse` has seen it there can't be told to the compiler, so its absence has a verdict.
#[inline]
pub(crate) fn view<T: View>(bytes: &[u8], offset: u16) -> Result<&T, Exit> {
    let rest = bytes.get(usize::from(offset)..).ok_or(DropReason::Truncated)?;
    Ok(T::view(rest).map_err(|_: Error| DropReason::Truncated)?.0)
}

/// A header at `offset`, to write.
#[inline]
pub(crate) fn view_mut<T: View>(bytes: &mut [u8], offset: u16) -> Result<&mut T, Exit> {
    let rest = bytes.get_mut(usize::from(offset)..).ok_or(DropReason::Truncated)?;
    Ok(T::view_mut(rest).map_err(|_: Error| DropReason::Truncated)?.0)
}

/// Calls `visit` with the bytes of a frame from offset `from` to offset `to`, chunk by chunk.
pub(crate) fn range_of_segments(
    umem: &Umem,
    frame: &Frame,
    from: usize,
    to: usize,
    visit: &mut impl FnMut(&[u8]),
) {
    let mut start = 0;
    umem.for_each_segment(frame, |segment| {
        let stop = start + segment.len();
        let (first, last) = (from.max(start), to.min(stop));
        if let Some(bytes) = first
            .checked_sub(start)
            .zip(last.checked_sub(start))
            .and_then(|(a, b)| segment.get(a..b))
        {
            visit(bytes);
        }
        start = stop;
    });
}

const _: () = assert!(size_of::<Headers>() <= 96);
