//! Cuts a packet that is too big for its way out into fragments, where its sender allows it: IPv4 without DF (RFC 791 section 3.2).
//!
//! Needs the packet as it shall leave: translated, its checksum complete, its TTL one less. [`Exit::in_pieces`] names it; `tx` asks for
//! its fragments and sends them in order. What may not be cut was answered by `fib` with the MTU.
//!
//! Cost: none for packets that fit, on any line. One that does not fit is copied, a frame of the pool for each fragment.
//!
//! [`Exit::in_pieces`]: crate::exit::Exit::in_pieces

use std::sync::Arc;

use arrayvec::ArrayVec;
use millrace_wire::{U16, View, ipv4};
use millrace_xsk::{Frame, Pool};

use crate::exit::Exit;
use crate::packet::{range_of_segments, view};
use crate::verdict::DropReason;

/// Most fragments of a packet: 65,535 bytes over Ethernet are 45.
const MOST: usize = 64;
/// Ethernet with two VLAN tags, and the longest IPv4 header.
const MOST_HEADERS: usize = 22 + ipv4::MAX_HEADER;

/// Fragments in their order.
pub(super) type Pieces = ArrayVec<Frame, MOST>;
type Headers = ArrayVec<u8, MOST_HEADERS>;

/// The fragments of a packet whose IPv4 header begins at `l3`, none of them longer than `mtu` or than a frame. The packet stays as it is.
pub(super) fn cut(frame: &Frame, l3: u16, mtu: u32, pool: &mut Pool) -> Result<Pieces, Exit> {
    let mut pieces = Pieces::new();
    let done = fill(frame, l3, mtu, pool, &mut pieces);
    if done.is_err() {
        for piece in pieces.drain(..) {
            pool.put(piece);
        }
    }
    done.map(|()| pieces)
}

fn fill(
    frame: &Frame,
    l3: u16,
    mtu: u32,
    pool: &mut Pool,
    pieces: &mut Pieces,
) -> Result<(), Exit> {
    let umem = Arc::clone(pool.umem());
    let bytes = umem.bytes(frame);
    let ip: &ipv4::Header = view(bytes, l3)?;
    let l3 = usize::from(l3);
    let (begin, end) = (l3 + ip.header_len(), l3 + ip.total_len());
    let first = bytes.get(..begin).filter(|_| end <= frame.total_len() && begin < end);
    let first = first.ok_or(DropReason::Truncated)?;
    let later = later_headers(first, l3).ok_or(DropReason::Truncated)?;
    let room = (mtu as usize).min(umem.frame_capacity().saturating_sub(l3));

    let mut at = begin;
    while at < end {
        let headers = if at == begin { first } else { later.as_slice() };
        // All but the last in units of eight bytes.
        let most = room.saturating_sub(headers.len() - l3) & !7;
        if most == 0 || pieces.is_full() {
            return Err(DropReason::FragmentNeeded.into());
        }
        let stop = end.min(at + most);
        let mut piece = pool.get().ok_or(DropReason::NoRoom)?;
        let written = umem.set_len(&mut piece, headers.len() + stop - at)
            && write(umem.bytes_mut(&mut piece), headers, |to| {
                let mut done = 0;
                range_of_segments(&umem, frame, at, stop, &mut |from| {
                    if let Some(to) = to.get_mut(done..done + from.len()) {
                        to.copy_from_slice(from);
                    }
                    done += from.len();
                });
                done == stop - at
            })
            && describe(umem.bytes_mut(&mut piece), l3, ip, at - begin, stop < end).is_some();
        // Kept in any case: who asked gives back what is there.
        pieces.push(piece);
        if !written {
            return Err(DropReason::Truncated.into());
        }
        at = stop;
    }
    Ok(())
}

/// Writes headers, and lets the rest be filled.
fn write(bytes: &mut [u8], headers: &[u8], rest: impl FnOnce(&mut [u8]) -> bool) -> bool {
    let Some((front, back)) = bytes.split_at_mut_checked(headers.len()) else { return false };
    front.copy_from_slice(headers);
    rest(back)
}

/// Says in a fragment's header which part of the datagram it is. The packet may be a fragment itself.
fn describe(
    bytes: &mut [u8],
    l3: usize,
    of: &ipv4::Header,
    skipped: usize,
    more: bool,
) -> Option<()> {
    let len = u16::try_from(bytes.len().checked_sub(l3)?).ok()?;
    let offset =
        u16::try_from((of.fragment_offset() + skipped) / 8).ok().filter(|it| *it < 0x2000)?;
    let (header, rest) = ipv4::Header::view_mut(bytes.get_mut(l3..)?).ok()?;
    let more = if more || of.more_fragments() { ipv4::MORE_FRAGMENTS } else { 0 };
    header.total_len = U16::new(len);
    header.flags_offset = U16::new(offset | more);
    let options = header.header_len().checked_sub(size_of::<ipv4::Header>())?;
    let options = rest.get(..options)?;
    header.fill_checksum(options);
    Some(())
}

/// The headers of all fragments but the first: with those options alone that say so (RFC 791 section 3.1, "copied").
fn later_headers(first: &[u8], l3: usize) -> Option<Headers> {
    let mut headers = Headers::new();
    let options = l3 + size_of::<ipv4::Header>();
    headers.try_extend_from_slice(first.get(..options)?).ok()?;
    let mut rest = first.get(options..)?;
    while let Some((&kind, after)) = rest.split_first() {
        let kind = ipv4::OptionKind(kind);
        let len = match kind {
            ipv4::OptionKind::END => break,
            ipv4::OptionKind::NO_OP => 1,
            _ => usize::from(*after.first()?).max(2),
        };
        let (option, others) = rest.split_at_checked(len)?;
        if kind.0 & 0x80 != 0 {
            headers.try_extend_from_slice(option).ok()?;
        }
        rest = others;
    }
    while !(headers.len() - l3).is_multiple_of(4) {
        headers.try_push(ipv4::OptionKind::END.0).ok()?;
    }
    let words = u8::try_from((headers.len() - l3) / 4).ok()?;
    *headers.get_mut(l3)? = 0x40 | words;
    Some(headers)
}
