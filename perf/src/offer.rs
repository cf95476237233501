//! The offered load: 64-byte UDP frames sent by an XDP program that the kernel runs over and over on frames of its own. An
//! AF_XDP socket as the source would be no faster than the forwarder that it is to overload.

use millrace_wire::checksum::Sum;
use millrace_wire::{Mac, Protocol};
use millrace_xsk::Interface;
use millrace_xsk::program::Program;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the frames carry.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Source and destination MAC.
    pub macs: (Mac, Mac),
    /// Source address; the port's low byte is 0 and chosen by chance below `flows`.
    pub from: SocketAddrV4,
    /// Destination.
    pub to: SocketAddrV4,
    /// How many source ports: a power of two, at most 256.
    pub flows: u16,
}

/// Bytes of a frame without its FCS: the smallest that Ethernet allows.
pub const FRAME: usize = 60;

impl Template {
    /// The frame of the first flow. The payload's second byte and the port's low byte add up to 255 in all flows, so one
    /// checksum holds for all.
    pub fn frame(&self) -> [u8; FRAME] {
        const UDP: usize = FRAME - 14 - 20;
        let mut frame = [0; FRAME];
        let source: Ipv4Addr = *self.from.ip();
        let port = self.from.port() & 0xff00;
        frame[0..6].copy_from_slice(&self.macs.1.0);
        frame[6..12].copy_from_slice(&self.macs.0.0);
        frame[12..14].copy_from_slice(&[0x08, 0x00]);
        let (ip, udp) = frame[14..].split_at_mut(20);
        ip[..12].copy_from_slice(&[
            0x45,
            0,
            0,
            (20 + UDP) as u8,
            0,
            0,
            0x40,
            0,
            64,
            Protocol::UDP.0,
            0,
            0,
        ]);
        ip[12..16].copy_from_slice(&source.octets());
        ip[16..20].copy_from_slice(&self.to.ip().octets());
        let check = Sum::of(ip).finish();
        ip[10..12].copy_from_slice(&check.to_be_bytes());
        udp[0..2].copy_from_slice(&port.to_be_bytes());
        udp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        udp[4..6].copy_from_slice(&(UDP as u16).to_be_bytes());
        udp[9] = 255;
        let check =
            Sum::pseudo_v4(source.octets(), self.to.ip().octets(), Protocol::UDP, UDP as u16)
                .add_bytes(udp)
                .finish_udp();
        udp[6..8].copy_from_slice(&check.to_be_bytes());
        frame
    }
}

/// Sends on `interface` until `stop`, as fast as this CPU can.
pub fn send(
    interface: &str,
    template: &Template,
    stop: &AtomicBool,
) -> Result<(), millrace_xsk::Error> {
    let program = Program::flood(&Interface::named(interface)?, template.flows)?;
    let frame = template.frame();
    while !stop.load(Ordering::Relaxed) {
        program.run_live(&frame, 4_000_000)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_checksum_holds_for_all_flows() {
        let template = Template {
            macs: (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])),
            from: "10.0.0.2:4000".parse().unwrap(),
            to: "192.0.2.1:80".parse().unwrap(),
            flows: 8,
        };
        let mut frame = template.frame();
        assert_eq!(Sum::of(&frame[14..34]).finish(), 0);
        for flow in 0..=255 {
            (frame[35], frame[43]) = (flow, 255 - flow);
            let pseudo = Sum::pseudo_v4([10, 0, 0, 2], [192, 0, 2, 1], Protocol::UDP, 26);
            assert_eq!(pseudo.add_bytes(&frame[34..]).finish(), 0);
        }
    }
}
