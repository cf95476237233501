//! The waiting room: frames whose next hop is not resolved yet.
//!
//! Each worker has its own, bounded in neighbors and in frames per neighbor, so that a scan of unused addresses holds no more
//! than `neighbors × frames` (64 × 16 by default) of its UMEM. Rooms are looked through one by one: only packets
//! for unresolved neighbors come here.

use arrayvec::ArrayVec;
use millrace_tables::InterfaceId;
use millrace_wire::{Addr, View, ethernet, vlan};
use millrace_xsk::Frame;

use crate::clock::Nanos;
use crate::driver::Burst;

/// What waits for one neighbor.
struct Room {
    interface: InterfaceId,
    neighbor: Addr,
    since: Nanos,
    expired: bool,
    frames: Vec<(InterfaceId, Frame)>,
}

/// All rooms of one worker.
pub(crate) struct Hold {
    rooms: Vec<Room>,
    most_rooms: usize,
    most_frames: usize,
}

impl Hold {
    /// At most `most_rooms` neighbors with `most_frames` frames each.
    pub(crate) fn new(most_rooms: usize, most_frames: usize) -> Hold {
        Hold { rooms: Vec::with_capacity(most_rooms), most_rooms, most_frames }
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Frames that wait.
    pub(crate) fn len(&self) -> usize {
        self.rooms.iter().map(|room| room.frames.len()).sum()
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
        let is_full = self.rooms.len() >= self.most_rooms;
        match self
            .rooms
            .iter_mut()
            .find(|room| room.interface == interface && room.neighbor == neighbor)
        {
            Some(room) if room.frames.len() < self.most_frames => room.frames.push((from, frame)),
            None if !is_full => {
                self.rooms.push(Room {
                    interface,
                    neighbor,
                    since: now,
                    expired: false,
                    frames: vec![(from, frame)],
                });
            }
            _ => return Err(frame),
        }
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
        if room.frames.is_empty() {
            self.rooms.remove(at);
        }
        (from, burst)
    }

    /// Takes all frames of a room that has waited longer than `timeout`, or whose neighbor will not answer.
    pub(crate) fn take_expired(
        &mut self,
        now: Nanos,
        timeout: Nanos,
    ) -> Option<Vec<(InterfaceId, Frame)>> {
        let at = self
            .rooms
            .iter()
            .position(|room| room.expired || now.saturating_sub(room.since) >= timeout)?;
        Some(self.rooms.remove(at).frames)
    }

    /// Takes every frame out, for who ends a worker.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Frame> + '_ {
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
