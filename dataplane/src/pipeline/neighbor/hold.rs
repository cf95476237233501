//! The waiting room: frames whose next hop is not resolved yet.
//!
//! Each worker has its own, bounded in neighbors, in frames per neighbor and in frames, so that a scan of unused addresses
//! can't take its UMEM. Rooms are looked through one by one: only packets
//! for unresolved neighbors come here.

use arrayvec::ArrayVec;
use millrace_tables::InterfaceId;
use millrace_wire::{Addr, View, ethernet, vlan};
use millrace_xsk::Frame;

use crate::clock::Nanos;
use crate::driver::Burst;

/// Frames in the order in which they came, each with the interface that it came in on.
pub(crate) type Queue = Vec<(InterfaceId, Frame)>;

/// What waits for one neighbor.
struct Room {
    interface: InterfaceId,
    neighbor: Addr,
    since: Nanos,
    expired: bool,
    frames: Queue,
}

/// All rooms of one worker.
pub(crate) struct Hold {
    rooms: Vec<Room>,
    /// Queues of no room: as many as there may be rooms, made at the start, so that a packet never allocates.
    spare: Vec<Queue>,
    len: usize,
    most_frames: usize,
    most_in_all: usize,
}

impl Hold {
    /// At most `most_rooms` neighbors with `most_frames` frames each, and `most_in_all` frames.
    pub(crate) fn new(most_rooms: usize, most_frames: usize, most_in_all: usize) -> Hold {
        let spare = (0..most_rooms).map(|_| Queue::with_capacity(most_frames)).collect();
        Hold { rooms: Vec::with_capacity(most_rooms), spare, len: 0, most_frames, most_in_all }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes in a frame that came from interface `from`.
    ///
    /// # Errors
    /// Gives the frame back when there is no place.
    pub(crate) fn push(
        &mut self,
        interface: InterfaceId,
        neighbor: Addr,
        from: InterfaceId,
        frame: Frame,
        now: Nanos,
    ) -> Result<(), Frame> {
        if self.len >= self.most_in_all {
            return Err(frame);
        }
        let is_it = |room: &&mut Room| room.interface == interface && room.neighbor == neighbor;
        match self.rooms.iter_mut().find(is_it) {
            Some(room) if room.frames.len() < self.most_frames => room.frames.push((from, frame)),
            Some(_) => return Err(frame),
            None => {
                let Some(mut frames) = self.spare.pop() else { return Err(frame) };
                frames.push((from, frame));
                self.rooms.push(Room { interface, neighbor, since: now, expired: false, frames });
            }
        }
        self.len += 1;
        Ok(())
    }

    /// Neighbors that are waited for.
    pub(crate) fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// The neighbor of one room.
    pub(crate) fn room(&self, at: usize) -> Option<(InterfaceId, Addr)> {
        self.rooms.get(at).map(|room| (room.interface, room.neighbor))
    }

    /// The frame that has waited longest in a room.
    pub(crate) fn first(&self, at: usize) -> Option<&Frame> {
        self.rooms.get(at)?.frames.first().map(|(_, frame)| frame)
    }

    /// Says that a room's neighbor will not answer.
    pub(crate) fn expire(&mut self, at: usize) {
        if let Some(room) = self.rooms.get_mut(at) {
            room.expired = true;
        }
    }

    /// Takes up to a burst of frames out of a room, in order, as long as they came from the same interface.
    pub(crate) fn take(&mut self, at: usize) -> (InterfaceId, Burst) {
        let mut burst = Burst::new();
        let Some(room) = self.rooms.get_mut(at) else { return (InterfaceId(0), burst) };
        let from = room.frames.first().map_or(InterfaceId(0), |(from, _)| *from);
        let run = room
            .frames
            .iter()
            .take_while(|(other, _)| *other == from)
            .count()
            .min(burst.capacity());
        burst.extend(room.frames.drain(..run).map(|(_, frame)| frame));
        self.len -= run;
        if room.frames.is_empty() {
            let room = self.rooms.remove(at);
            self.spare.push(room.frames);
        }
        (from, burst)
    }

    /// Takes all frames of a room that has waited longer than `timeout`, or whose neighbor will not answer. The queue is
    /// to be given back, empty, by [`Hold::recycle`].
    pub(crate) fn take_expired(&mut self, now: Nanos, timeout: Nanos) -> Option<Queue> {
        let at = self
            .rooms
            .iter()
            .position(|room| room.expired || now.saturating_sub(room.since) >= timeout)?;
        let frames = self.rooms.remove(at).frames;
        self.len -= frames.len();
        Some(frames)
    }

    /// Takes an emptied queue back.
    pub(crate) fn recycle(&mut self, queue: Queue) {
        self.spare.push(queue);
    }

    /// Takes every frame out, for who ends a worker.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Frame> + '_ {
        self.len = 0;
        self.rooms.drain(..).flat_map(|room| room.frames).map(|(_, frame)| frame)
    }
}

/// What stands between the MACs and the L3 header of a frame: its VLAN tags and the last EtherType.
pub(crate) fn tags(bytes: &[u8]) -> ArrayVec<u8, 10> {
    let len =
        match ethernet::Header::view(bytes).map(|(link, rest)| vlan::walk(link.ether_type, rest)) {
            Ok(Ok(tags)) => tags.len,
            Ok(Err(_)) | Err(_) => 0,
        };
    bytes.get(12..14 + len).and_then(|tags| tags.try_into().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use millrace_xsk::{Pool, Umem, UmemConfig};
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Op {
        Push { neighbor: u8, from: u16 },
        Take { at: usize },
        Expire { at: usize },
        Wait { time: Nanos },
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            6 => (0u8..6, 0u16..2).prop_map(|(neighbor, from)| Op::Push { neighbor, from }),
            2 => (0usize..5).prop_map(|at| Op::Take { at }),
            1 => (0usize..5).prop_map(|at| Op::Expire { at }),
            1 => (0u64..4).prop_map(|time| Op::Wait { time }),
        ]
    }

    const ROOMS: usize = 4;
    const FRAMES: usize = 3;
    const ALL: usize = 9;
    const TIMEOUT: Nanos = 5;

    /// What waits for one neighbor, as a list that never forgets: its name, since when, expired, (from, chunk).
    type Model = Vec<(u8, Nanos, bool, Vec<(u16, u32)>)>;

    proptest! {
        /// Against a plain list: the same frames come out, in the same order, and no bound is passed.
        #[test]
        fn frames_come_out_in_order_and_bounds_hold(ops in proptest::collection::vec(op(), 0..120)) {
            let (umem, frames) = Umem::new(&UmemConfig { frames: 64, ..UmemConfig::default() }).unwrap();
            let mut pool = Pool::new(&umem, frames);
            let mut hold = Hold::new(ROOMS, FRAMES, ALL);
            let mut model: Model = Vec::new();
            let mut now = 0;
            for op in ops {
                match op {
                    Op::Push { neighbor, from } => {
                        let frame = pool.get().unwrap();
                        let chunk = frame.chunk();
                        let all: usize = model.iter().map(|room| room.3.len()).sum();
                        let room = model.iter().position(|room| room.0 == neighbor);
                        let fits = all < ALL && room.map_or(model.len() < ROOMS, |at| model[at].3.len() < FRAMES);
                        let addr = Addr::from_v4([10, 0, 0, neighbor]);
                        match hold.push(InterfaceId(1), addr, InterfaceId(from), frame, now) {
                            Ok(()) => {
                                prop_assert!(fits);
                                match room {
                                    Some(at) => model[at].3.push((from, chunk)),
                                    None => model.push((neighbor, now, false, vec![(from, chunk)])),
                                }
                            }
                            Err(frame) => {
                                pool.put(frame);
                                prop_assert!(!fits);
                            }
                        }
                    }
                    Op::Take { at } if at < model.len() => {
                        let (from, burst) = hold.take(at);
                        let chunks: Vec<u32> = burst.iter().map(Frame::chunk).collect();
                        burst.into_iter().for_each(|frame| pool.put(frame));
                        let first = model[at].3[0].0;
                        let run = model[at].3.iter().take_while(|(from, _)| *from == first).count();
                        let expected: Vec<u32> = model[at].3.drain(..run).map(|(_, chunk)| chunk).collect();
                        prop_assert_eq!((from, chunks), (InterfaceId(first), expected));
                        model.retain(|room| !room.3.is_empty());
                    }
                    Op::Expire { at } if at < model.len() => {
                        hold.expire(at);
                        model[at].2 = true;
                    }
                    Op::Take { .. } | Op::Expire { .. } => {}
                    Op::Wait { time } => {
                        now += time;
                        while let Some(mut frames) = hold.take_expired(now, TIMEOUT) {
                            let at = model.iter().position(|room| room.2 || now - room.1 >= TIMEOUT).unwrap();
                            let expected = model.remove(at).3;
                            let got: Vec<(u16, u32)> = frames.iter().map(|(from, frame)| (from.0, frame.chunk())).collect();
                            frames.drain(..).for_each(|(_, frame)| pool.put(frame));
                            hold.recycle(frames);
                            prop_assert_eq!(got, expected);
                        }
                        prop_assert!(model.iter().all(|room| !room.2 && now - room.1 < TIMEOUT));
                    }
                }
                prop_assert_eq!(hold.len(), model.iter().map(|room| room.3.len()).sum::<usize>());
                prop_assert_eq!(hold.rooms(), model.len());
                prop_assert_eq!(hold.spare.len() + hold.rooms(), ROOMS);
                prop_assert_eq!(pool.len() + hold.len(), 64);
            }
            hold.drain().for_each(|frame| pool.put(frame));
            prop_assert_eq!(pool.len(), 64);
        }
    }
}
