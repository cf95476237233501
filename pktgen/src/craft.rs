//! Packets, one after another: the template's bytes, the fields of this packet, its checksums, its signature.
//!
//! Cost of a packet: one copy of its length; for each field a store and an addition; two folds. The payload is never
//! summed (its sum is known, and the signature makes none), except by SCTP, whose CRC32c goes over all of it, and by
//! VXLAN over IPv6, whose outer checksum does. No allocation, no division.

use crate::field::{Field, Share, Spec};
use crate::profile::{Family, Plan, Transport};
use crate::signature::{self, Signature};
use crate::template::{Layout, Macs, Template, fold, words};
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
    src: Field,
    dst: Field,
    src_port: Field,
    dst_port: Field,
    size: Field,
    outer_port: Field,
    substream: u16,
    sequence: u64,
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
            let template = Template::build(plan_of, *macs, plan.seed)
                .map_err(|why| CraftError::Build(plan_of.name.clone(), why))?;
            let none = Spec::Fixed(0);
            Ok(Stream {
                template,
                src: field(&plan_of.src, 0),
                dst: field(&plan_of.dst, 1),
                src_port: field(&plan_of.src_port, 2),
                dst_port: field(&plan_of.dst_port, 3),
                size: field(&plan_of.size, 4),
                outer_port: field(plan_of.vxlan.as_ref().map_or(&none, |v| &v.src_port), 5),
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
    #[inline]
    pub fn craft(&mut self, slot: Slot, due_ns: u64, out: &mut [u8]) -> usize {
        let token = self.token;
        let Some(stream) = self.streams.get_mut(slot.stream as usize) else { return 0 };
        let len = usize::from(slot.len);
        let (Some(out), Some(bytes)) = (out.get_mut(..len), stream.template.bytes.get(..len))
        else {
            return 0;
        };
        out.copy_from_slice(bytes);
        stream.fill(token, due_ns, out);
        len
    }

    /// Packets crafted so far of each stream.
    pub fn sequences(&self) -> impl Iterator<Item = u64> + '_ {
        self.streams.iter().map(|s| s.sequence)
    }
}

impl Stream {
    #[inline]
    fn fill(&mut self, token: u16, due_ns: u64, out: &mut [u8]) {
        let template = &self.template;
        let Layout { family, ip, transport, l4, payload, signature, outer } = template.layout;
        let len = out.len();
        let (src, dst) = (self.src.draw(), self.dst.draw());
        let (src_port, dst_port) = (self.src_port.draw() as u16, self.dst_port.draw() as u16);
        let l4_len = (len - l4) as u16;
        let number = self.sequence;
        self.sequence += 1;

        let addresses = match family {
            Family::V4 => {
                let (src, dst) = (src as u32, dst as u32);
                let total = (len - ip) as u16;
                let sum = halves(src) + halves(dst);
                put16(out, ip + 2, total);
                put16(out, ip + 10, !fold(template.ip_sum + u32::from(total) + sum));
                out[ip + 12..ip + 16].copy_from_slice(&src.to_be_bytes());
                out[ip + 16..ip + 20].copy_from_slice(&dst.to_be_bytes());
                sum
            }
            Family::V6 => {
                put16(out, ip + 4, l4_len);
                out[ip + 8..ip + 24].copy_from_slice(&src.to_be_bytes());
                out[ip + 24..ip + 40].copy_from_slice(&dst.to_be_bytes());
                words(&out[ip + 8..ip + 40])
            }
        };

        let signed = if signature { signature::LEN } else { 0 };
        if signature {
            let signature =
                Signature { substream: self.substream, sequence: number as u32, due_ns };
            out[len - signature::LEN..].copy_from_slice(&signature.bytes(token));
        }
        let own =
            template.l4_sum + template.payload_sum(len - payload - signed) + u32::from(src_port);
        let sum = own + addresses;
        match transport {
            Transport::Udp => {
                put16(out, l4, src_port);
                put16(out, l4 + 2, dst_port);
                put16(out, l4 + 4, l4_len);
                let check = !fold(sum + u32::from(dst_port) + 2 * u32::from(l4_len));
                put16(out, l4 + 6, if check == 0 { 0xffff } else { check });
            }
            Transport::Tcp => {
                put16(out, l4, src_port);
                put16(out, l4 + 2, dst_port);
                put16(out, l4 + 16, !fold(sum + u32::from(dst_port) + u32::from(l4_len)));
            }
            Transport::Icmp => {
                put16(out, l4 + 4, src_port);
                put16(out, l4 + 6, number as u16);
                // ICMP has no pseudo-header over IPv4 (RFC 792), ICMPv6 has one.
                let sum = if family == Family::V4 { own } else { sum + u32::from(l4_len) };
                put16(out, l4 + 2, !fold(sum + u32::from(number as u16)));
            }
            Transport::Sctp => {
                put16(out, l4, src_port);
                put16(out, l4 + 2, dst_port);
                put16(out, l4 + 14, l4_len - 12);
                out[l4 + 16..l4 + 20].copy_from_slice(&(number as u32).to_be_bytes());
                let crc = crc32c(&out[l4..]);
                out[l4 + 8..l4 + 12].copy_from_slice(&crc.to_le_bytes());
            }
        }

        if let Some(outer) = outer {
            let udp_len = (len - outer.udp) as u16;
            put16(out, outer.udp, self.outer_port.draw() as u16);
            put16(out, outer.udp + 4, udp_len);
            match outer.family {
                // RFC 7348 §5: the UDP checksum should be zero.
                Family::V4 => {
                    let total = (len - outer.ip) as u16;
                    put16(out, outer.ip + 2, total);
                    put16(out, outer.ip + 10, !fold(template.outer_sum + u32::from(total)));
                }
                Family::V6 => {
                    put16(out, outer.ip + 4, udp_len);
                    let sum = words(&out[outer.ip + 8..]) + 17 + u32::from(udp_len);
                    let check = !fold(sum);
                    put16(out, outer.udp + 6, if check == 0 { 0xffff } else { check });
                }
            }
        }
    }
}

#[inline]
fn halves(address: u32) -> u32 {
    (address >> 16) + (address & 0xffff)
}

#[inline]
fn put16(out: &mut [u8], at: usize, value: u16) {
    out[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
