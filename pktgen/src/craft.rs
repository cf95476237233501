//! Packets, one after another: the template's bytes, the fields of this packet, its checksums, its signature.
//!
//! Cost of a packet: for each field that changes a store and an addition; two folds; where the frame doesn't hold the stream's
//! last packet of this length, a copy of what is missing in it, and the lengths. The payload is never
//! summed (its sum is known, and the signature makes none), except by SCTP, whose CRC32c goes over all of it, and by
//! VXLAN over IPv6, whose outer checksum does. No allocation, no division.

use crate::field::{Field, Share, Spec};
use crate::layout::{Layout, Part, Place};
use crate::profile::{Family, Plan, Transport};
use crate::signature::{self, Signature};
use crate::template::{Macs, Template, fold, put16, words};
use etherparse::err::packet::BuildWriteError;
use millrace_wire::crc32c::crc32c;
use std::sync::Arc;

/// What makes the packets of one worker.
#[derive(Clone, Debug)]
pub struct Crafter {
    token: u16,
    streams: Vec<Stream>,
    pattern: Arc<[u32]>,
    at: usize,
}

#[derive(Clone, Debug)]
struct Stream {
    template: Template,
    /// What isn't the same in every packet.
    changes: Box<[Change]>,
    size: Field,
    substream: u16,
    sequence: u64,
}

/// A part of the packets that changes.
#[derive(Clone, Debug)]
struct Change {
    place: Place,
    /// All ones where the IP header's checksum is of it too, and the L4 header's.
    in_ip: u64,
    in_l4: u64,
    field: Field,
}

/// A place in the schedule: whose packet, and how long it is without FCS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The stream, in the plan's order.
    pub stream: u32,
    /// Bytes of the frame.
    pub len: u16,
}

/// More streams and workers than a signature can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{streams} streams on {workers} queues: together at most 65,536")]
pub struct TooMany {
    streams: usize,
    workers: u64,
}

/// Why streams can't be made.
#[derive(Debug, thiserror::Error)]
pub enum CraftError {
    /// Too many of them.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// A header can't be built.
    #[error("stream {0:?}: {1}")]
    Build(String, BuildWriteError),
}

impl Crafter {
    /// For `share` of `plan`'s packets; `macs` are those of each stream.
    pub fn new(plan: &Plan, macs: &[Macs], share: Share, token: u16) -> Result<Self, CraftError> {
        let count = plan.streams.len() as u64 * share.workers;
        if count > 1 << 16 {
            return Err(TooMany { streams: plan.streams.len(), workers: share.workers }.into());
        }
        let stream = |(index, (plan_of, macs)): (usize, (&crate::profile::StreamPlan, &Macs))| {
            let field = |spec: &Spec, salt: u64| {
                Field::new(spec, share, plan.seed, index as u64 * 8 + salt)
            };
            let mut template = Template::build(plan_of, *macs, plan.seed)
                .map_err(|why| CraftError::Build(plan_of.name.clone(), why))?;
            let outer = plan_of.vxlan.as_ref().map(|v| &v.src_port);
            let mut changes = Vec::new();
            let numbers = Spec::Range { first: 0, last: 0xffff, step: 1, every: 1 };
            for (part, salt, spec) in [
                (Part::Src, 0, Some(&plan_of.src)),
                (Part::Dst, 1, Some(&plan_of.dst)),
                (Part::SrcPort, 2, Some(&plan_of.src_port)),
                (Part::DstPort, 3, Some(&plan_of.dst_port)),
                (Part::OuterPort, 5, outer),
                (Part::Number, 6, Some(&numbers)),
            ] {
                let (Some(spec), Some(place)) = (spec, template.layout.place(part)) else {
                    continue;
                };
                if let Some(value) = spec.fixed() {
                    template.fix(part, value);
                    continue;
                }
                // Each worker's packets have all the numbers.
                let field = match part {
                    Part::Number => Field::new(spec, Share::ALL, plan.seed, salt),
                    _ => field(spec, salt),
                };
                let mask = |holds: bool| if holds { u64::MAX } else { 0 };
                let (in_ip, in_l4) = template.layout.summed(part);
                changes.push(Change { place, in_ip: mask(in_ip), in_l4: mask(in_l4), field });
            }
            Ok(Stream {
                template,
                changes: changes.into(),
                size: field(&plan_of.size, 4),
                substream: (index as u64 * share.workers + share.worker) as u16,
                sequence: 0,
            })
        };
        let streams = plan.streams.iter().zip(macs).enumerate().map(stream);
        let streams = streams.collect::<Result<_, CraftError>>()?;
        Ok(Self { token, streams, pattern: plan.pattern.as_slice().into(), at: 0 })
    }

    /// Whose packet is next, and how long it is.
    #[inline]
    pub fn slot(&mut self) -> Slot {
        let index = self.pattern.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        if self.at >= self.pattern.len() {
            self.at = 0;
        }
        let Some(stream) = self.streams.get_mut(index as usize) else {
            return Slot { stream: 0, len: 0 };
        };
        let size = stream.size.draw() as usize;
        Slot { stream: index, len: stream.template.layout.frame_len(size) as u16 }
    }

    /// Writes the packet of `slot` to the front of `out`, which is as long or longer; answers its length.
    ///
    /// `out` still holds the `held` bytes of a packet that was made here of the same stream, or 0: what of the template is there isn't
    /// copied again. That is all up to that packet's signature, as the fields that change have their places in every packet.
    #[inline]
    pub fn craft(&mut self, slot: Slot, due_ns: u64, held: usize, out: &mut [u8]) -> usize {
        let token = self.token;
        let Some(stream) = self.streams.get_mut(slot.stream as usize) else { return 0 };
        let len = usize::from(slot.len);
        let (Some(out), Some(bytes)) = (out.get_mut(..len), stream.template.bytes.get(..len))
        else {
            return 0;
        };
        if held < len {
            let there = held.saturating_sub(signature::LEN);
            out[there..].copy_from_slice(&bytes[there..]);
        }
        stream.fill(token, due_ns, held == len, out);
        len
    }

    /// Packets crafted so far of each stream.
    pub fn sequences(&self) -> impl Iterator<Item = u64> + '_ {
        self.streams.iter().map(|s| s.sequence)
    }
}

impl Stream {
    /// Makes `out`, which has the template's bytes, the next packet; `measured` says whether the lengths in it are right already.
    #[inline]
    fn fill(&mut self, token: u16, due_ns: u64, measured: bool, out: &mut [u8]) {
        let Self { template, changes, .. } = self;
        let len = out.len();
        let number = self.sequence as u32;
        self.sequence += 1;

        let (mut ip_sum, mut l4_sum) = (template.ip_sum, template.l4_sum);
        for Change { place, in_ip, in_l4, field } in changes {
            let sum = place.store(field.draw(), out);
            ip_sum += sum & *in_ip;
            l4_sum += sum & *in_l4;
        }
        if !measured {
            template.measure(out);
        }
        let layout = &template.layout;
        if layout.family == Family::V4 {
            put16(out, layout.ip + 10, !fold(ip_sum + (len - layout.ip) as u64));
        }
        let mut data = len - layout.payload;
        if layout.signature {
            data -= signature::LEN;
            let signature = Signature { substream: self.substream, sequence: number, due_ns };
            out[len - signature::LEN..].copy_from_slice(&signature.bytes(token));
        }
        if let Some(at) = template.check {
            l4_sum += template.payload_sum(data) + template.lengths * (len - layout.l4) as u64;
            let check = !fold(l4_sum);
            // Nought says that UDP has no checksum (RFC 768).
            let is_none = check == 0 && layout.transport == Transport::Udp;
            put16(out, at, if is_none { 0xffff } else { check });
        }
        if template.is_slow {
            pass(template, number, out);
        }
    }
}

/// The checksums that need a pass over the packet.
#[inline(never)]
fn pass(template: &Template, number: u32, out: &mut [u8]) {
    let Layout { l4, transport, outer, .. } = template.layout;
    if transport == Transport::Sctp {
        out[l4 + 16..l4 + 20].copy_from_slice(&number.to_be_bytes());
        out[l4 + 8..l4 + 12].fill(0);
        let crc = crc32c(&out[l4..]);
        out[l4 + 8..l4 + 12].copy_from_slice(&crc.to_le_bytes());
    }
    // Over IPv4 it has none (RFC 7348 §5: it should be zero).
    if let Some(outer) = outer.filter(|outer| outer.family == Family::V6) {
        put16(out, outer.udp + 6, 0);
        let udp_len = (out.len() - outer.udp) as u64;
        let check = !fold(u64::from(words(&out[outer.ip + 8..])) + 17 + udp_len);
        put16(out, outer.udp + 6, if check == 0 { 0xffff } else { check });
    }
}

#[cfg(test)]
mod tests;
