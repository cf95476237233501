//! Judging flows, many of them at once: each step reads what the one before has asked for, so that the misses of the flows overlap
//! instead of following each other.
//!
//! Says what [`Snapshot::policy_endpoint`] and [`Snapshot::judge`] say one after the other.
//!
//! Cost: of a flow the FIB's lines and the row of both ends; of each end that is isolated in this direction its subject's row, the slot of the top,
//! the node, the port map and, where that doesn't say it, the decision. None is waited for if a handful of flows lies between two steps, but the upper levels of the FIB
//! and the tops of the rows, which stay near, and lists and pages of port maps with more than 7 intervals.

use millrace_wire::Addr;

use super::{DECISION_WORDS, Decision, Endpoint, PolicyId, SubjectId, View, cells, ports, record};
use crate::{
    fib::{self, Deep},
    layout::high,
    rows,
    tables::Snapshot,
    words::Ref,
};

/// What policies say of a flow that may begin, and of its ends.
#[derive(Clone, Copy, Debug)]
pub struct Judged {
    ends: [Addr; 2],
    protocol: u8,
    port: u16,
    /// What is known of the source and of the destination.
    pub endpoints: [Endpoint; 2],
    /// What the source's rules for what it sends say, and the destination's for what it gets; `None` where it is not isolated so.
    pub decisions: [Option<Decision>; 2],
}

impl Judged {
    /// Whether it is about a flow of these ends, protocol and destination port.
    #[inline]
    pub fn is_of(&self, ends: [&Addr; 2], protocol: u8, port: u16) -> bool {
        let [src, dst] = &self.ends;
        (self.protocol, self.port) == (protocol, port) && [src, dst] == ends
    }
}

/// Flows to be judged, and then those that were. Kept from burst to burst, so that none allocates.
#[derive(Debug)]
pub struct Judgements {
    flows: Vec<Judged>,
    ways: Vec<[Way; 2]>,
    sides: Vec<Side>,
}

/// An end's way through the FIB, and then the row of its endpoint.
#[derive(Clone, Copy, Debug)]
struct Way {
    deep: Deep,
    row: Ref,
}

/// An end that is isolated in the direction of its flow.
#[derive(Clone, Copy, Debug)]
struct Side {
    /// Which flow.
    flow: u16,
    /// Which end of it.
    end: u8,
    /// The port map has said the decision.
    known: bool,
    /// The class of the other end.
    class: u32,
    /// Where the next step reads.
    at: Ref,
    /// The map + 1 of classes that have none of their own, then the slot of this class, then the decision + 1.
    value: u32,
    slot: u32,
}

impl Judgements {
    /// Of at most so many flows at once.
    pub fn with_room(flows: usize) -> Self {
        Self {
            flows: Vec::with_capacity(flows),
            ways: Vec::with_capacity(flows),
            sides: Vec::with_capacity(2 * flows),
        }
    }

    /// Forgets all flows.
    #[inline]
    pub fn clear(&mut self) {
        self.flows.clear();
    }

    /// Adds the flow of this source and destination (behind DNAT), protocol and destination port, if there is room. Answers its number.
    #[inline]
    pub fn ask(&mut self, ends: [Addr; 2], protocol: u8, port: u16) -> Option<usize> {
        let number = self.flows.len();
        if number == self.flows.capacity() {
            return None;
        }
        let (endpoints, decisions) = ([Endpoint::default(); 2], [None; 2]);
        self.flows.push(Judged { ends, protocol, port, endpoints, decisions });
        Some(number)
    }

    /// The flow of this number.
    #[inline]
    pub fn get(&self, number: usize) -> Option<&Judged> {
        self.flows.get(number)
    }
}

impl Snapshot<'_> {
    /// Judges all these flows. `decided` is told of each policy that will be counted, to fetch what that takes.
    #[inline]
    pub fn judge_all(&self, all: &mut Judgements, mut decided: impl FnMut(PolicyId)) {
        let view = self.policy_tables();
        let words = view.words;
        let Judgements { flows, ways, sides } = all;
        ways.clear();
        ways.extend(flows.iter().map(|flow| [view.deep(&flow.ends[0]), view.deep(&flow.ends[1])]));
        for (flow, ways) in flows.iter().zip(ways.iter_mut()) {
            flow.ends.iter().zip(ways).for_each(|(addr, way)| view.deeper(addr, way));
        }
        for (flow, ways) in flows.iter_mut().zip(ways.iter_mut()) {
            let ends = flow.ends.iter().zip(&mut flow.endpoints).zip(ways);
            ends.for_each(|((addr, endpoint), way)| view.bottom(addr, endpoint, way));
        }
        sides.clear();
        let subjects = view.word(record::SUBJECTS);
        for (number, (flow, ways)) in flows.iter_mut().zip(ways.iter()).enumerate() {
            let [source, destination] = &mut flow.endpoints;
            view.read_endpoint(ways[0].row, source);
            view.read_endpoint(ways[1].row, destination);
            let mut side = |end: u8, subject: Option<SubjectId>, class: u32| {
                if let Some(SubjectId(subject)) = subject {
                    let at = cells::row(words, subjects, subject).unwrap_or(Ref::NULL);
                    words.prefetch(at, 0);
                    sides.push(Side {
                        flow: number as u16,
                        end,
                        known: false,
                        class,
                        at,
                        value: 0,
                        slot: 0,
                    });
                }
            };
            side(0, source.egress(), destination.class.0);
            side(1, destination.ingress(), source.class.0);
        }
        for side in sides.iter_mut().filter(|side| !side.at.is_null()) {
            let way = cells::way(words, side.at, side.class);
            (side.value, side.at) = (way.default, way.top);
            cells::fetch_slot(words, side.at, side.class);
        }
        for side in sides.iter_mut().filter(|side| !side.at.is_null()) {
            side.slot = cells::slot(words, side.at, side.class);
            cells::fetch_node(words, side.slot);
        }
        let maps = view.word(record::PORT_MAPS);
        for side in sides.iter_mut() {
            let map = cells::cell(words, side.slot, side.class);
            let map = if map != 0 { map } else { side.value };
            let row = map.checked_sub(1).and_then(|map| ports::row(words, maps, map));
            side.at = row.unwrap_or(Ref::NULL);
            words.prefetch(side.at, 0);
        }
        let decisions = view.word(record::DECISIONS);
        for side in sides.iter_mut().filter(|side| !side.at.is_null()) {
            let Some(flow) = flows.get_mut(usize::from(side.flow)) else { continue };
            let said = ports::of(words, side.at, flow.protocol, flow.port);
            if let Some(head) = said.plainly() {
                let decision = Decision::plain(head);
                if let Some(policy) = decision.policy() {
                    decided(policy);
                }
                flow.decisions[usize::from(side.end & 1)] = Some(decision);
                side.known = true;
                continue;
            }
            let row = said.decision().checked_sub(1);
            let row = row.and_then(|id| rows::find::<DECISION_WORDS>(words, decisions, id));
            side.at = row.unwrap_or(Ref::NULL);
            words.prefetch(side.at, 0);
        }
        for side in sides.iter().filter(|side| !side.known) {
            let Some(flow) = flows.get_mut(usize::from(side.flow)) else { continue };
            let decision = view.decision_at(side.at);
            if let Some(policy) = decision.policy() {
                decided(policy);
            }
            flow.decisions[usize::from(side.end & 1)] = Some(decision);
        }
    }
}

impl View<'_> {
    /// Begins the way of an address.
    #[inline]
    fn deep(&self, addr: &Addr) -> Way {
        let roots = self.word(record::ENDPOINTS);
        let deep = if addr.is_v4() {
            fib::deep(self.words, roots as u32, addr.bits() as u32)
        } else {
            fib::deep(self.words, high(roots), addr.bits())
        };
        Way { deep, row: Ref::NULL }
    }

    #[inline]
    fn deeper(&self, addr: &Addr, way: &mut Way) {
        if addr.is_v4() {
            fib::deeper(self.words, addr.bits() as u32, &mut way.deep);
        } else {
            fib::deeper(self.words, addr.bits(), &mut way.deep);
        }
    }

    /// Ends the way, and asks for the row.
    #[inline]
    fn bottom(&self, addr: &Addr, endpoint: &mut Endpoint, way: &mut Way) {
        let roots = self.word(record::ENDPOINTS);
        endpoint.leaf = if addr.is_v4() {
            fib::bottom(self.words, roots as u32, addr.bits() as u32, way.deep)
        } else {
            fib::bottom(self.words, high(roots), addr.bits(), way.deep)
        };
        way.row = self.endpoint_row(endpoint.leaf).unwrap_or(Ref::NULL);
        self.words.prefetch(way.row, 0);
    }
}
