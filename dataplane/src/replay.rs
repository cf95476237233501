//! The engine on captures: frames in the order of their times, packet time for a clock, and an end.
//!
//! One worker and no thread, no socket, no randomness: the same files and tables give the same bytes.

use std::sync::Arc;

use millrace_tables::{InterfaceId, Tables};
use millrace_xsk::{Pool, Umem};
use tracing::info;

use crate::clock::{self, Nanos, SECOND};
use crate::config::{Config, Driver};
use crate::counters::{COUNTERS, Kind, Ledger, describe};
use crate::driver::Queue;
use crate::driver::pcap::PcapQueue;
use crate::engine::{EngineError, first_tables, interfaces, settings, sizes, state_settings, umem};
use crate::housekeeping::Housekeeping;
use crate::interface::Interfaces;
use crate::live::Live;
use crate::pipeline::{self, Local};
use crate::state::State;
use crate::state::segment::{Segment, Sizes};
use crate::trace::Silent;

/// Engine time at the first frame: later than any timer could mistake for "never".
const START: Nanos = 1000 * SECOND;
/// How long to wait for control.
const WAIT: Nanos = 30 * SECOND;
/// The key of the hash tables, the same in every run.
const SEED: [u64; 2] = [0, 0];

/// Carries every frame of the captures, then returns the ledger.
pub fn run(config: &Config) -> Result<Ledger, EngineError> {
    let interfaces = interfaces(config, |_, driver| match driver {
        Driver::Pcap { mac, mtu, .. } => (*mac, u32::from(*mtu), true),
        Driver::Xsk { .. } => (millrace_wire::Mac::ZERO, 0, false),
    });
    let sizes = Sizes { workers: 1, ..sizes(config, &interfaces) };
    let segment = Segment::create(&sizes, SEED)?;
    let tables = tables(config, &interfaces, &segment)?;
    let state_settings = state_settings(config, &sizes);
    let (umem, frames) = Umem::new(&umem(config))?;
    let pool = Pool::new(&umem, frames);
    let mut queues = Vec::new();
    for interface in &config.interfaces {
        let Driver::Pcap { read, write, .. } = &interface.driver else { continue };
        queues.push(PcapQueue::open(Arc::clone(&umem), read.as_deref(), write.as_deref())?);
    }
    let local = Local::new(pool, Arc::clone(&interfaces), settings(config));
    let mut state = State::new(&segment, 0, &state_settings, local)?;
    let mut epoch = segment.slots().reader(0).ok_or(EngineError::Slots)?;
    let snapshot = epoch.enter(&tables);
    let neighbors = segment.neighbors(&state_settings)?;
    neighbors.sync_static(
        snapshot.static_neighbors().map(|row| (row.interface, row.addr, row.mac)),
        START,
    );

    let first = queues.iter().filter_map(PcapQueue::next_time).min().unwrap_or(0);
    let (mut file_now, mut aged) = (first, START);
    while let Some(next) = queues.iter().filter_map(PcapQueue::next_time).min() {
        file_now = file_now.max(next);
        let now = START.saturating_add(file_now - first);
        queues.iter_mut().for_each(|queue| queue.set_now(file_now));
        if now - aged >= SECOND {
            aged = now;
            neighbors.age(now);
        }
        pipeline::tick(&mut queues, snapshot, &mut state, now, &mut Silent);
        for index in 0..queues.len() {
            // Frame by frame, and after each what it set free: the order in the files does not depend on burst sizes.
            while pipeline::burst(
                InterfaceId(index as u16),
                &mut queues,
                snapshot,
                &mut state,
                now,
                &mut Silent,
            ) > 0
            {
                pipeline::tick(&mut queues, snapshot, &mut state, now, &mut Silent);
                state.quiesce();
            }
        }
    }
    let mut ledger = Ledger::default();
    for interface in interfaces.iter() {
        let block = state.counters.interface(interface.id);
        ledger = ledger.and(Ledger::read(|place| block.get(place)));
        // The engine is gone when the files can be looked at, and its counters with it: they are said here.
        for (row, packets) in
            (0..COUNTERS).filter_map(|place| Some((describe(place)?, block.get(place))))
        {
            if packets > 0 && row.kind != Kind::Counter {
                info!(interface = interface.name, packets, "{:?} {}", row.kind, row.name);
            }
        }
    }
    let invalid: u64 = queues.iter().map(|queue| queue.statistics().rx_invalid).sum();
    for queue in queues {
        queue.finish()?;
    }
    let Ledger { rx, tx, replies, punts, held, drops } = ledger;
    info!(
        rx,
        tx,
        replies,
        punts,
        held,
        drops,
        invalid,
        generation = snapshot.generation(),
        "end of input"
    );
    Ok(ledger)
}

/// The tables of the whole run: an image, those that control brings, or our own addresses and networks.
fn tables(
    config: &Config,
    interfaces: &Interfaces,
    segment: &Segment,
) -> Result<Arc<Tables>, EngineError> {
    let live = Live::new(first_tables(config, interfaces)?);
    let first = live.current();
    if config.tables.is_some() || !config.names_socket {
        return Ok(first);
    }
    info!(socket = %config.socket.display(), "waiting for control's tables");
    let mut housekeeping =
        Housekeeping::new(config, &Arc::new(interfaces.clone()), &[], segment, &live)?;
    let deadline = clock::now() + WAIT;
    while live.current().id() == first.id() {
        if clock::now() > deadline {
            return Err(EngineError::NoControl { socket: config.socket.clone() });
        }
        housekeeping.turn();
    }
    // Once more, so that control hears that they are in use.
    housekeeping.turn();
    Ok(live.current())
}
