//! Next hops, and groups of them (ECMP).
//!
//! A group is found by its place in the segment and never changes: a route with other members has another
//! group. Equal groups are one, counted by the routes that use it.
//!
//! ```text
//! word 0             members (8 bits) | log2 of buckets (8 bits)
//! 1 + 3 i            member i: interface (16) | has a gateway (1, at bit 16) | weight (16, at bit 32)
//! 2 + 3 i, 3 + 3 i   its gateway
//! after the members  a byte for each bucket: the member it belongs to (groups of one have no buckets)
//! ```
//! Each bucket belongs to the member that scores highest there (weighted rendezvous hashing: Thaler & Ravishankar 1998;
//! Schindelhauer & Schomaker 2005). So a group needs no history to be resilient: a member that goes gives up its own
//! buckets and no other moves, one that comes takes only its share, and a control process that starts anew finds
//! every flow's next hop again. The price is that shares are random: their standard deviation over 16384 buckets is
//! √((n - 1) / 16384) of a share, 0.8 % for two members, 1.4 % for four: below the spread of 10,000 flows
//! themselves.
//!
//! Cost of making a group: 16384 × members hashes (0.1 ms for 4; with unequal weights a logarithm each).

use crate::{
    arena::{Arena, Table},
    error::Error,
    fib::Family,
    maglev::mix,
    row::InterfaceId,
    words::{Ref, Words},
};
use millrace_wire::Addr;
use std::collections::HashMap;

/// Next hops a group can have.
pub const MAX_MEMBERS: usize = 255;

/// log2 of the buckets of every group. The same for all, as another number would move every flow.
const BUCKET_BITS: u32 = 14;
/// Words of a member's row.
const ROW: usize = 3;
/// Bit of a row's first word: the gateway is set.
const HAS_GATEWAY: u64 = 1 << 16;

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The interface it leaves by.
    pub interface: InterfaceId,
    /// The neighbor it goes to; `None`: its destination is itself the neighbor (glean).
    pub gateway: Option<Addr>,
}

/// A group of next hops: valid in the generation it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group(Ref);

impl Group {
    pub(super) const fn from_raw(raw: u32) -> Self {
        Self(Ref::from_raw(raw))
    }

    pub(super) const fn raw(self) -> u32 {
        self.0.raw()
    }
}

/// The next hop of the flow with `hash`: the same one for as long as its member is in the group.
///
/// All 64 bits of `hash` count; the choice doesn't depend on the one Maglev makes of the same hash.
#[inline]
pub fn next_hop(words: Words<'_>, group: Group, hash: u64) -> Option<NextHop> {
    let (members, bits) = header(words, group);
    if members <= 1 {
        return (members == 1).then(|| row(words, group, 0).0);
    }
    // Maglev takes the upper bits of the hash itself.
    let bucket = (mix(hash) >> (64 - bits)) as usize;
    let member = usize::from(words.u8_at(group.0, 8 * (1 + ROW * members) + bucket));
    (member < members).then(|| row(words, group, member).0)
}

/// The members of a group and their weights, in a fixed order (cold).
pub fn next_hops(words: Words<'_>, group: Group) -> Vec<(NextHop, u16)> {
    let (members, _) = header(words, group);
    (0..members).map(|member| row(words, group, member)).collect()
}

#[inline]
fn header(words: Words<'_>, group: Group) -> (usize, u32) {
    let header = words.at(group.0, 0);
    ((header & 0xff) as usize, (header >> 8 & 0xff).clamp(1, 16) as u32)
}

#[inline]
fn row(words: Words<'_>, group: Group, member: usize) -> (NextHop, u16) {
    let at = 1 + ROW * member;
    let first = words.at(group.0, at);
    let gateway = (first & HAS_GATEWAY != 0)
        .then(|| Addr::from_words([words.at(group.0, at + 1), words.at(group.0, at + 2)]));
    (NextHop { interface: InterfaceId(first as u16), gateway }, (first >> 32) as u16)
}

/// A group's members as they are told apart: sorted, each next hop once, with its weight.
pub(super) type Members = Vec<(NextHop, u16)>;

/// Checks the next hops of a route of `family` and brings them in order.
pub(super) fn members(family: Family, hops: &[(NextHop, u16)]) -> Result<Members, String> {
    let mut members = hops.to_vec();
    members.sort_unstable();
    members.dedup_by(|again, first| {
        let same = again.0 == first.0;
        if same {
            first.1 = first.1.saturating_add(again.1);
        }
        same
    });
    if members.is_empty() {
        return Err("no next hops".into());
    }
    if members.len() > MAX_MEMBERS {
        return Err(format!("{} next hops; at most {MAX_MEMBERS} are possible", members.len()));
    }
    for (hop, weight) in hops {
        if *weight == 0 {
            return Err(format!("a next hop by interface {} has weight 0", hop.interface.0));
        }
        let Some(gateway) = hop.gateway else { continue };
        if gateway.is_v4() != (family == Family::V4) {
            return Err(format!("gateway {gateway} is of the other address family"));
        }
        let broadcast = gateway == Addr::BROADCAST;
        if gateway.is_unspecified() || gateway.is_multicast() || gateway.is_loopback() || broadcast
        {
            return Err(format!("gateway {gateway} can't be a neighbor's address"));
        }
    }
    Ok(members)
}

/// The groups in use, each once.
#[derive(Debug, Default)]
pub(super) struct Groups {
    by_members: HashMap<Members, Group>,
    users: HashMap<Group, (u32, Members)>,
}

impl Groups {
    /// The group of `members`, made if there is none, with one more user.
    pub(super) fn acquire(&mut self, arena: &mut Arena, members: Members) -> Result<Group, Error> {
        if let Some(&group) = self.by_members.get(&members) {
            if let Some((users, _)) = self.users.get_mut(&group) {
                *users += 1;
            }
            return Ok(group);
        }
        let group = write(arena, &members)?;
        self.by_members.insert(members.clone(), group);
        self.users.insert(group, (1, members));
        Ok(group)
    }

    /// One user less; a group without users is dropped.
    pub(super) fn release(&mut self, arena: &mut Arena, group: Group) {
        let Some((users, members)) = self.users.get_mut(&group) else { return };
        *users -= 1;
        if *users == 0 {
            arena.free(Table::Groups, group.0, words_of(members.len()));
            self.by_members.remove(members);
            self.users.remove(&group);
        }
    }
}

/// Words of a group.
fn words_of(members: usize) -> usize {
    1 + ROW * members + if members > 1 { (1 << BUCKET_BITS) / 8 } else { 0 }
}

fn write(arena: &mut Arena, members: &Members) -> Result<Group, Error> {
    let at = arena.alloc(Table::Groups, words_of(members.len()))?;
    arena.store(at, 0, members.len() as u64 | u64::from(BUCKET_BITS) << 8);
    for (index, (hop, weight)) in members.iter().enumerate() {
        let flag = if hop.gateway.is_some() { HAS_GATEWAY } else { 0 };
        let [high, low] = hop.gateway.map_or([0; 2], |gateway| gateway.to_words());
        let first = u64::from(hop.interface.0) | flag | u64::from(*weight) << 32;
        for (word, value) in [first, high, low].into_iter().enumerate() {
            arena.store(at, 1 + ROW * index + word, value);
        }
    }
    if members.len() > 1 {
        for (word, bytes) in buckets(members).chunks_exact(8).enumerate() {
            let bytes = bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
            arena.store(at, 1 + ROW * members.len() + word, bytes);
        }
    }
    Ok(Group(at))
}

/// The member that each bucket belongs to.
fn buckets(members: &Members) -> Vec<u8> {
    let identities: Vec<u64> = members.iter().map(|(hop, _)| identity(hop)).collect();
    let equal = members.iter().all(|(_, weight)| *weight == members[0].1);
    (0..1u64 << BUCKET_BITS)
        .map(|bucket| {
            let scores = identities.iter().map(|identity| mix(identity ^ mix(bucket)));
            let best = if equal {
                scores.enumerate().max_by_key(|&(_, score)| score).map(|(member, _)| member)
            } else {
                // -ln(uniform) / weight is exponential with rate `weight`: the smallest of several is
                // a member's with the probability of its weight's share.
                scores
                    .zip(members)
                    .map(|(score, (_, weight))| {
                        let uniform = ((score >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
                        -uniform.ln() / f64::from(*weight)
                    })
                    .enumerate()
                    .min_by(|a, b| a.1.total_cmp(&b.1))
                    .map(|(member, _)| member)
            };
            best.unwrap_or(0) as u8
        })
        .collect()
}

fn identity(hop: &NextHop) -> u64 {
    let [high, low] = hop.gateway.map_or([0; 2], |gateway| gateway.to_words());
    mix(mix(mix(u64::from(hop.interface.0)) ^ high) ^ low)
}
