//! The offered load: 64-byte UDP frames from one AF_XDP socket, as fast as the kernel takes them.

use millrace_wire::checksum::Sum;
use millrace_wire::{Mac, Protocol};
use millrace_xsk::{Interface, Mode, Pool, Socket, SocketConfig, TxOffload, Umem, UmemConfig};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the frames carry.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Source and destination MAC.
    pub macs: (Mac, Mac),
    /// Source address; the port counts up over `flows`.
    pub from: SocketAddrV4,
    /// Destination.
    pub to: SocketAddrV4,
    /// How many source ports.
    pub flows: u16,
}

/// Bytes of a frame without its FCS: the smallest that Ethernet allows.
pub const FRAME: usize = 60;

impl Template {
    /// The frame of one flow.
    pub fn frame(&self, flow: u16) -> [u8; FRAME] {
        const UDP: usize = FRAME - 14 - 20;
        let mut frame = [0; FRAME];
        let source: Ipv4Addr = *self.from.ip();
        let port = self.from.port().wrapping_add(flow % self.flows.max(1));
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
        let check =
            Sum::pseudo_v4(source.octets(), self.to.ip().octets(), Protocol::UDP, UDP as u16)
                .add_bytes(udp)
                .finish_udp();
        udp[6..8].copy_from_slice(&check.to_be_bytes());
        frame
    }
}

/// Sends on queue 0 of `interface` until `stop`. Returns the frames that the kernel took.
pub fn send(
    interface: &str,
    template: &Template,
    stop: &AtomicBool,
) -> Result<u64, millrace_xsk::Error> {
    let (umem, frames) = Umem::new(&UmemConfig::default())?;
    let mut pool = Pool::new(&umem, frames);
    let config =
        SocketConfig { mode: Mode::Copy, ..SocketConfig::new(Interface::named(interface)?, 0) };
    let mut socket = Socket::bind(&config, &umem)?;
    let flows: Vec<_> = (0..template.flows.max(1)).map(|flow| template.frame(flow)).collect();
    let mut next = flows.iter().cycle();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..64 {
            let Some(bytes) = next.next() else { break };
            let Some(frame) = umem.store(bytes, &mut pool) else { break };
            match socket.transmit(frame, TxOffload::None) {
                Ok(()) => sent += 1,
                Err(frame) => {
                    pool.put(frame);
                    break;
                }
            }
        }
        socket.flush();
        socket.reap(&mut pool);
    }
    socket.close(&mut pool);
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_right_checksums_and_its_flows_port() {
        let template = Template {
            macs: (Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])),
            from: "10.0.0.2:4000".parse().unwrap(),
            to: "192.0.2.1:80".parse().unwrap(),
            flows: 8,
        };
        let frame = template.frame(9);
        assert_eq!(Sum::of(&frame[14..34]).finish(), 0);
        let pseudo = Sum::pseudo_v4([10, 0, 0, 2], [192, 0, 2, 1], Protocol::UDP, 26);
        assert_eq!(pseudo.add_bytes(&frame[34..]).finish(), 0);
        assert_eq!(u16::from_be_bytes([frame[34], frame[35]]), 4001);
    }
}
