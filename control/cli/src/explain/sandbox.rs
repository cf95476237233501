//! An engine in this process: the pipeline, its state and its tables, with interfaces in memory and time as it is told.
//!
//! What comes out of it is what the data path would do, because it is the data path. The sandbox plays the
//! outside: it answers for neighbors that no object names, so that a packet waits for nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_dataplane::clock::{Nanos, SECOND};
use millrace_dataplane::driver::memory::MemoryQueue;
use millrace_dataplane::flow::Tuple;
use millrace_dataplane::interface::{Interface, Interfaces};
use millrace_dataplane::pipeline::service::is_stale;
use millrace_dataplane::pipeline::{self, Local, Settings};
use millrace_dataplane::state::State;
use millrace_dataplane::state::conntrack::Limits;
use millrace_dataplane::state::neighbor::Learn;
use millrace_dataplane::state::segment::{Segment, Settings as StateSettings, Sizes};
use millrace_dataplane::trace::{Recorder, Step};
use millrace_dataplane::verdict::Verdict;
use millrace_tables::{InterfaceId, InterfaceKind, InterfaceSpec, Route, Snapshot, Tables};
use millrace_wire::{Addr, Mac};
use millrace_xsk::{Pool, Umem, UmemConfig};
use serde_json::Value;

use super::answer::{Answer, Outcome, merge};
use super::flow::{Ask, Flags, Flow, From};
use super::packet::Packet;
use super::{narrate, policy};

/// Virtual time at the start, past anything that a timer could mistake for "never".
const START: Nanos = 1_000_000 * SECOND;
/// Whoever is outside has this MAC.
const OUTSIDE: Mac = Mac([0x02, 0xff, 0xff, 0xff, 0xff, 0xfe]);
/// Interfaces that counters are made for.
const MAX_INTERFACES: usize = 4095;

/// Where a flow went, to send its answer back from there.
#[derive(Clone, Copy, Debug)]
struct Seen {
    translated: Tuple,
    interface: InterfaceId,
}

/// The engine and what it remembers.
pub struct Sandbox {
    segment: Segment,
    sizes: Sizes,
    state: State,
    queues: Vec<MemoryQueue>,
    now: Nanos,
    seen: BTreeMap<String, Seen>,
}

impl Sandbox {
    /// An engine with these interfaces and room for `flows` connections.
    pub fn new<'a>(
        interfaces: impl Iterator<Item = &'a InterfaceSpec>,
        flows: u32,
    ) -> Result<Self, String> {
        let entries =
            flows.max(1 << 16).checked_next_power_of_two().unwrap_or(1 << 24).min(1 << 24);
        let sizes = Sizes {
            workers: 1,
            interfaces: MAX_INTERFACES,
            conntrack_entries: entries,
            neighbor_entries: 1 << 12,
        };
        let segment = Segment::create(&sizes, [0, 0]).map_err(|e| e.to_string())?;
        let (local, queues) = local(interfaces)?;
        // Whoever asks for many flows sends nothing but SYNs: that is no flood here.
        let settings =
            StateSettings { limits: Limits { half_open: entries }, ..StateSettings::of(&sizes) };
        let state = State::new(&segment, 0, &settings, local).map_err(|e| e.to_string())?;
        Ok(Self { segment, sizes, state, queues, now: START, seen: BTreeMap::new() })
    }

    /// The interfaces have changed; flows and neighbors stay.
    pub fn set_interfaces<'a>(
        &mut self,
        interfaces: impl Iterator<Item = &'a InterfaceSpec>,
    ) -> Result<(), String> {
        (self.state.local, self.queues) = local(interfaces)?;
        Ok(())
    }

    /// The tables have changed: their static neighbors are in force, and UDP flows whose backend is gone are forgotten, as the engine
    /// does with idle ones within a turn, and with others when they are used.
    pub fn sync(&mut self, tables: &Tables) -> Result<(), String> {
        self.begin(tables)?;
        let snapshot = tables.snapshot();
        self.state.conntrack.review(0..u32::MAX, (self.now, 0), |service, original, translated| {
            is_stale(&snapshot, service, original, translated)
        });
        Ok(())
    }

    /// The same of an engine that has seen no flow: its table need not be gone through, which would be most of the work where each line has
    /// an engine of its own.
    pub fn begin(&mut self, tables: &Tables) -> Result<(), String> {
        let neighbors =
            self.segment.neighbors(&StateSettings::of(&self.sizes)).map_err(|e| e.to_string())?;
        let snapshot = tables.snapshot();
        let wanted = snapshot.static_neighbors().map(|row| (row.interface, row.addr, row.mac));
        let kernel = self.state.local.interfaces.kernel_neighbors();
        neighbors.sync_static(wanted.chain(kernel), self.now);
        Ok(())
    }

    /// Lets time pass, and what is due in it happen.
    pub fn advance(&mut self, by: Duration) {
        self.now = self.now.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX));
        if let Ok(neighbors) = self.segment.neighbors(&StateSettings::of(&self.sizes)) {
            neighbors.age(self.now);
        }
        self.state.conntrack.sweep(self.sizes.conntrack_entries, self.now);
    }

    /// The virtual time.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// The state, to list its flows.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Answers one question.
    pub fn answer(&mut self, ask: &Ask, tables: &Tables) -> Answer {
        let (id, result) = match ask {
            Ask::Forward(flow) => (&flow.id, self.forward(flow, tables)),
            Ask::Reverse { id, flags } => (id, self.reverse(id, *flags, tables)),
        };
        match result {
            Ok((outcomes, steps)) => {
                let snapshot = tables.snapshot();
                Answer::Outcomes {
                    id: id.clone(),
                    outcomes,
                    generation: snapshot.generation(),
                    policies: policy::deciders(&steps, snapshot),
                    steps: narrate::words(&steps, snapshot),
                }
            }
            Err(error) => Answer::Error { id: id.clone(), error },
        }
    }

    fn forward(
        &mut self,
        flow: &Flow,
        tables: &Tables,
    ) -> Result<(Vec<Outcome>, Vec<Step>), String> {
        let from = entrance(flow, tables.snapshot())?;
        let (mut outcomes, mut first) = (Vec::new(), None);
        for n in 0..flow.count {
            let packet = Packet {
                src: flow.src,
                sport: port(flow.sport, n),
                dst: flow.dst,
                dport: flow.dport,
                protocol: flow.protocol,
                flags: flow.flags,
                answer: false,
            };
            let steps = self.send(from, &packet, tables)?;
            let tale = narrate::tale(&steps, from, tables.snapshot());
            if first.is_none() {
                if let (Some(translated), Some(interface)) = (tale.translated, tale.interface) {
                    self.seen.insert(flow.id.to_string(), Seen { translated, interface });
                }
                first = Some(steps);
            }
            merge(&mut outcomes, tale.outcome);
        }
        Ok((outcomes, first.unwrap_or_default()))
    }

    /// The backend's answer to an earlier flow, from where that flow went.
    fn reverse(
        &mut self,
        id: &Value,
        flags: Option<Flags>,
        tables: &Tables,
    ) -> Result<(Vec<Outcome>, Vec<Step>), String> {
        let seen = *self
            .seen
            .get(&id.to_string())
            .ok_or("reverse: no flow of that id has been forwarded")?;
        let answer = seen.translated.reversed();
        let packet = Packet {
            src: answer.src.into(),
            sport: answer.sport,
            dst: answer.dst.into(),
            dport: answer.dport,
            protocol: answer.protocol,
            flags: flags.unwrap_or(Flags::SYN_ACK),
            answer: true,
        };
        let steps = self.send(seen.interface, &packet, tables)?;
        let tale = narrate::tale(&steps, seen.interface, tables.snapshot());
        Ok((vec![tale.outcome], steps))
    }

    /// Sends one packet through the engine. Returns its steps.
    fn send(
        &mut self,
        from: InterfaceId,
        packet: &Packet,
        tables: &Tables,
    ) -> Result<Vec<Step>, String> {
        let snapshot = tables.snapshot();
        let mac = self.state.local.interfaces.get(from).ok_or("from: no such interface")?.mac;
        let queue = self.queues.get_mut(usize::from(from.0)).ok_or("from: no such interface")?;
        // Who sends from a guarded interface is its pod.
        let sender = snapshot.guard(from).map_or(OUTSIDE, |guard| guard.mac);
        if !queue.offer(&mut self.state.local.pool, &packet.frame(sender, mac)) {
            return Err("out of frames".into());
        }
        let mut steps = self.turn(from, snapshot);
        if let Some(Step::Verdict(Verdict::Hold { interface, neighbor })) = steps.last() {
            self.state.neighbors.learn(*interface, neighbor, OUTSIDE, Learn::Reply, self.now);
            // The packet goes down the line again, whole: that is the way it takes.
            steps = self.tick(snapshot);
        }
        for queue in &mut self.queues {
            queue.sent(&mut self.state.local.pool);
        }
        self.state.quiesce();
        Ok(steps)
    }

    fn turn(&mut self, from: InterfaceId, tables: Snapshot<'_>) -> Vec<Step> {
        let mut recorder = Recorder::default();
        pipeline::burst(from, &mut self.queues, tables, &mut self.state, self.now, &mut recorder);
        recorder.steps
    }

    fn tick(&mut self, tables: Snapshot<'_>) -> Vec<Step> {
        let mut recorder = Recorder::default();
        pipeline::tick(&mut self.queues, tables, &mut self.state, self.now, &mut recorder);
        recorder.steps
    }
}

/// Source ports count up, past 65535 from 1 on.
fn port(first: u16, n: u32) -> u16 {
    if first == 0 {
        return 0;
    }
    ((u32::from(first) - 1 + n) % 65_535 + 1) as u16
}

/// Memory queues for these interfaces, and a worker's own part over them.
fn local<'a>(
    interfaces: impl Iterator<Item = &'a InterfaceSpec>,
) -> Result<(Local, Vec<MemoryQueue>), String> {
    let by_id: BTreeMap<u16, &InterfaceSpec> = interfaces.map(|spec| (spec.id.0, spec)).collect();
    let count = by_id.keys().last().map_or(0, |last| usize::from(*last) + 1);
    if count > MAX_INTERFACES {
        return Err(format!("{count} interfaces; at most {MAX_INTERFACES}"));
    }
    let list = (0..count as u16).map(|id| match by_id.get(&id) {
        Some(spec) => Interface::new(
            spec.id,
            &spec.name,
            spec.mac,
            spec.mtu,
            spec.kind,
            spec.addresses.clone(),
            true,
        ),
        // A number that is free: its pod is gone.
        None => Interface::new(
            InterfaceId(id),
            "",
            Mac::ZERO,
            1500,
            InterfaceKind::PORT,
            Vec::new(),
            true,
        ),
    });
    let interfaces = Interfaces::new(list.collect())
        .map_err(|id| format!("interface {} is out of place", id.0))?;
    let (umem, frames) = Umem::new(&UmemConfig { frames: 256, ..UmemConfig::default() })
        .map_err(|e| e.to_string())?;
    let queues = (0..count).map(|_| MemoryQueue::new(Arc::clone(&umem), 64)).collect();
    // Time stands still while many flows are sent: what is bounded by the second is so for all of them.
    let settings =
        Settings { errors_per_second: u32::MAX, snat_searches: 1 << 26, ..Settings::default() };
    Ok((Local::new(Pool::new(&umem, frames), Arc::new(interfaces), settings), queues))
}

/// The interface where a flow enters.
fn entrance(flow: &Flow, tables: Snapshot<'_>) -> Result<InterfaceId, String> {
    let named = |name: &str, what: &str| {
        tables
            .interfaces()
            .find(|row| row.name == name)
            .map(|row| row.id)
            .ok_or_else(|| format!("from: no {what}"))
    };
    let of_kind =
        |kind: InterfaceKind| tables.interfaces().find(|row| row.kind == kind).map(|row| row.id);
    match &flow.from {
        From::Source => Ok(towards(&flow.src.into(), tables)
            .or_else(|| uplink(tables))
            .ok_or("from: no interface")?),
        From::Uplink(None) => uplink(tables).ok_or_else(|| "from: there is no uplink".into()),
        From::Uplink(Some(name)) => named(name, &format!("uplink {name}")),
        From::Host => {
            of_kind(InterfaceKind::HOST).ok_or_else(|| "from: there is no host interface".into())
        }
        From::Pod(pod) => named(&format!("pod:{pod}"), &format!("pod {pod} on this node")),
        From::Interface(name) => named(name, &format!("interface {name}")),
    }
}

/// The first uplink; on a router, which has none, its first interface.
fn uplink(tables: Snapshot<'_>) -> Option<InterfaceId> {
    let uplink = tables.interfaces().find(|row| row.kind == InterfaceKind::UPLINK);
    uplink
        .or_else(|| tables.interfaces().find(|row| row.kind == InterfaceKind::PORT))
        .map(|row| row.id)
}

/// Where packets from `src` come in: where packets to it would go out. Our own addresses are the host's.
fn towards(src: &Addr, tables: Snapshot<'_>) -> Option<InterfaceId> {
    match tables.route(src)? {
        Route::Forward(group) => tables.next_hop(group, 0).map(|hop| hop.interface),
        Route::Local => {
            tables.interfaces().find(|row| row.kind == InterfaceKind::HOST).map(|row| row.id)
        }
        _ => None,
    }
}
