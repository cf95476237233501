//! CHECKSUM_PARTIAL: a kernel on the other side of a veth or tap leaves checksums for hardware that is not there.
//!
//! Such a TCP or UDP packet has the folded pseudo-header sum in its checksum field, such an SCTP packet has 0. A complete
//! checksum equals the pseudo-header sum once in 65,536 packets; completing it "again" gives the same right value, so the guess
//! does no harm on an interface that corrupts nothing, and the others are not asked ([`Interface::partial_checksums`]).
//!
//! [`Interface::partial_checksums`]: crate::interface::Interface::partial_checksums

use millrace_wire::{Crc32c, Protocol, Sum, sctp, tcp, udp};
use millrace_xsk::{Frame, TxOffload, Umem};

use crate::exit::Exit;
use crate::packet::{Packet, Parsed, Part, range_of_segments, view_mut};

/// Whether the packet's checksum was left to us. Fragments' never are: the sender needed it before it cut the packet.
#[inline(always)]
pub(in crate::pipeline) fn is_partial(packet: &Packet<'_, Parsed<'_>>) -> bool {
    let headers = packet.headers();
    if headers.part != Part::Whole || headers.fault.is_some() {
        return false;
    }
    let tuple = &headers.tuple;
    let pseudo = || Sum::pseudo(&tuple.src, &tuple.dst, headers.protocol, headers.l4_len()).fold();
    match headers.protocol {
        Protocol::TCP => {
            packet.l4::<tcp::Header>().is_ok_and(|segment| segment.checksum.get() == pseudo())
        }
        Protocol::UDP => {
            packet.l4::<udp::Header>().is_ok_and(|datagram| datagram.checksum.get() == pseudo())
        }
        Protocol::SCTP => packet.l4::<sctp::Header>().is_ok_and(|it| it.checksum.get() == 0),
        _ => false,
    }
}

/// What the transmit queue has to do to the checksum, whose field holds the sum of the new pseudo-header.
pub(in crate::pipeline) fn complete(packet: &Packet<'_, Parsed<'_>>) -> Result<TxOffload, Exit> {
    let headers = packet.headers();
    let offset = headers.protocol.checksum_offset().unwrap_or_default() as u16;
    Ok(TxOffload::Checksum { start: headers.l4, offset })
}

/// Does in software what a queue can't: sums the packet from `start` over all its chunks, and writes the result `offset` bytes
/// on. `offset` tells the protocol: no other of those with ports has its checksum there.
pub(crate) fn finish(umem: &Umem, frame: &mut Frame, start: u16, offset: u16) -> Result<(), Exit> {
    let (from, to) = (usize::from(start), frame.total_len());
    let offset_of = |protocol: Protocol| protocol.checksum_offset().unwrap_or_default() as u16;
    if offset == offset_of(Protocol::SCTP) {
        // The field counts as 0 (RFC 9260 appendix A), and it is 0.
        let mut crc = Crc32c::new();
        range_of_segments(umem, frame, from, to, &mut |bytes| crc = crc.add_bytes(bytes));
        view_mut::<sctp::Header>(umem.bytes_mut(frame), start)?.checksum.set(crc.finish());
        return Ok(());
    }
    let mut sum = Sum::new();
    range_of_segments(umem, frame, from, to, &mut |bytes| sum = sum.add_bytes(bytes));
    let check = if offset == offset_of(Protocol::UDP) { sum.finish_udp() } else { sum.finish() };
    view_mut::<millrace_wire::U16>(umem.bytes_mut(frame), start + offset)?.set(check);
    Ok(())
}
