//! The offered load: 64-byte UDP frames sent by an XDP program that the kernel runs over and over on frames of its own. An
//! AF_XDP socket as the source would be no faster than the forwarder that it is to overload.

use clap::Args;
use millrace_wire::checksum::Sum;
use millrace_wire::{Mac, Protocol};
use millrace_xsk::Interface;
use millrace_xsk::program::{FRAME, Offer, Program};
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the frames carry, and how many there are.
#[derive(Args, Clone, Debug)]
pub struct Load {
    /// Interface to send on
    #[arg(long)]
    pub interface: String,
    /// Source MAC
    #[arg(long)]
    pub src_mac: Mac,
    /// Destination MAC
    #[arg(long)]
    pub dst_mac: Mac,
    /// Source address and port of the first flow
    #[arg(long)]
    pub src: SocketAddrV4,
    /// Destination address and port of the first flow
    #[arg(long)]
    pub dst: SocketAddrV4,
    /// Number of destination addresses, one after the other; flows are spread over them
    #[arg(long, default_value_t = 1)]
    pub services: u16,
    /// Number of flows, told apart by the source port: a power of two up to 65536
    #[arg(long, default_value_t = 256)]
    pub flows: u32,
    /// Every packet another flow: source address and port by chance
    #[arg(long)]
    pub new: bool,
    /// Frames a second; without it as many as the CPU can
    #[arg(long)]
    pub rate: Option<f64>,
    /// CPU to run on
    #[arg(long)]
    pub cpu: usize,
}

/// A frame of 64 bytes (with the FCS that nobody sees) with source and destination, [balanced](Offer::balance).
pub fn frame(macs: (Mac, Mac), from: SocketAddrV4, to: SocketAddrV4) -> [u8; FRAME] {
    const UDP: usize = FRAME - 14 - 20;
    let mut frame = [0; FRAME];
    let (src, dst) = (from.ip().octets(), to.ip().octets());
    frame[0..6].copy_from_slice(&macs.1.0);
    frame[6..12].copy_from_slice(&macs.0.0);
    frame[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
    frame[16..18].copy_from_slice(&((20 + UDP) as u16).to_be_bytes());
    frame[20..24].copy_from_slice(&[0x40, 0, 64, Protocol::UDP.0]);
    frame[26..30].copy_from_slice(&src);
    frame[30..34].copy_from_slice(&dst);
    frame[34..36].copy_from_slice(&from.port().to_be_bytes());
    frame[36..38].copy_from_slice(&to.port().to_be_bytes());
    frame[38..40].copy_from_slice(&(UDP as u16).to_be_bytes());
    Offer::balance(&mut frame);
    let check = Sum::of(&frame[14..34]).finish();
    frame[24..26].copy_from_slice(&check.to_be_bytes());
    let pseudo = Sum::pseudo_v4(src, dst, Protocol::UDP, UDP as u16);
    let check = pseudo.add_bytes(&frame[34..]).finish_udp();
    frame[40..42].copy_from_slice(&check.to_be_bytes());
    frame
}

impl Load {
    fn flows(&self) -> u32 {
        if self.new { u32::MAX } else { self.flows.clamp(1, 1 << 16).next_power_of_two() - 1 }
    }
}

/// Sends until `stop`.
pub fn send(load: &Load, stop: &AtomicBool) -> Result<(), millrace_xsk::Error> {
    let offer = Offer {
        frame: frame((load.src_mac, load.dst_mac), load.src, load.dst),
        services: load.services,
        flows: load.flows(),
        rate: load.rate,
    };
    let program = Program::offer(&Interface::named(&load.interface)?, &offer)?;
    while !stop.load(Ordering::Relaxed) {
        // Until a signal comes.
        program.run_live(&offer.frame, u32::MAX)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_checksums_hold_also_for_other_flows() {
        let macs = (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2]));
        let mut frame =
            frame(macs, "10.0.255.2:4000".parse().unwrap(), "192.0.250.1:80".parse().unwrap());
        for flow in [0, 1, 0x17, 0x8000, 0xffff_u16] {
            let port = (4000 ^ flow).to_be_bytes();
            frame[34..36].copy_from_slice(&port);
            // What the program does to the payload's first word.
            Offer::balance(&mut frame);
            assert_eq!(Sum::of(&frame[14..34]).finish(), 0);
            let pseudo = Sum::pseudo_v4([10, 0, 255, 2], [192, 0, 250, 1], Protocol::UDP, 26);
            assert_eq!(pseudo.add_bytes(&frame[34..]).finish(), 0);
        }
    }
}
