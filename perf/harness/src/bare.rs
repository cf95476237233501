//! The baseline: a layer-2 forwarder on the engine's rings, which swaps MAC addresses and does nothing else.
//!
//! Whatever the engine does more shows as the ratio of the two rates.

use millrace_xsk::program::{Program, SocketMap};
use millrace_xsk::{
    Frame, Interface, Mode, Pool, Socket, SocketConfig, TxOffload, Umem, UmemConfig,
};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Packets taken off a ring at a time, as in the engine.
const BURST: usize = 64;

/// Forwards from `from` to `to` (queue 0 of each, copy mode) until `stop`. Returns the frames sent.
pub fn forward(from: &str, to: &str, stop: &AtomicBool) -> Result<u64, millrace_xsk::Error> {
    let (umem, frames) = Umem::new(&UmemConfig::default())?;
    let mut pool = Pool::new(&umem, frames);
    let open = |name: &str| {
        let interface = Interface::named(name)?;
        let config = SocketConfig { mode: Mode::Copy, ..SocketConfig::new(interface.clone(), 0) };
        let socket = Socket::bind(&config, &umem)?;
        let map = SocketMap::new(1)?;
        map.insert(0, socket.as_fd())?;
        let link = Program::redirect(&map)?.attach(&interface)?;
        Ok::<_, millrace_xsk::Error>((socket, map, link))
    };
    let (mut rx, _rx_map, _rx_link) = open(from)?;
    let (mut tx, _tx_map, _tx_link) = open(to)?;
    rx.refill(&mut pool);
    let mut sent = 0;
    let mut burst = arrayvec::ArrayVec::<Frame, BURST>::new();
    while !stop.load(Ordering::Relaxed) {
        rx.receive(&mut burst);
        for mut frame in burst.drain(..) {
            swap_macs(umem.bytes_mut(&mut frame));
            match tx.transmit(frame, TxOffload::None) {
                Ok(()) => sent += 1,
                Err(frame) => pool.put(frame),
            }
        }
        tx.flush();
        tx.reap(&mut pool);
        rx.refill(&mut pool);
    }
    rx.close(&mut pool);
    tx.close(&mut pool);
    Ok(sent)
}

fn swap_macs(bytes: &mut [u8]) {
    if let Some((dst, rest)) = bytes.split_at_mut_checked(6)
        && let Some(src) = rest.get_mut(..6)
    {
        dst.swap_with_slice(src);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn macs_are_swapped_and_short_frames_left_alone() {
        let mut bytes = *b"aaaaaabbbbbbcc";
        super::swap_macs(&mut bytes);
        assert_eq!(&bytes, b"bbbbbbaaaaaacc");
        super::swap_macs(&mut [0; 7]);
    }
}
