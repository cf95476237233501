//! Next hops, and groups of them (ECMP).
//!
//! A group has a number, the lowest that is free, so that a FIB leaf fits 16 bits; `rows.rs` leads from it to the group's row. A group
//! never changes: a route with other members has another group. Equal groups are one, counted by the routes that use it.
//!
//! ```text
//! row      word 0: next hop (below) | members (8 bits, at 24)   1, 2: its gateway   3: Ref of the ECMP block, 0 for one member
//! ECMP     0 + 3 i: member i's next hop   1 + 3 i, 2 + 3 i: its gateway   after the members: a byte for each bucket: whose it is
//! next hop interface (16) | has a gateway (1, at bit 16) | weight (16, at bit 32)
//! ```
//! Each bucket belongs to the member that scores highest there (weighted rendezvous hashing: Thaler & Ravishankar 1998;
//! Schindelhauer & Schomaker 2005). So a group needs no history to be resilient: a member that goes gives up its own
//! buckets and no other moves, one that comes takes only its share, and a control process that starts anew finds
//! every flow's next hop again. The price is that shares are random: their standard deviation over 16384 buckets is
//! √((n - 1) / 16384) of a share, 0.8 % for two members, 1.4 % for four: below the spread of 10,000 flows
//! themselves.
//!
//! Cost of finding a next hop: a slot of the rows' index (near), the row's line, and for ECMP its bucket and the member's next hop. Memory:
//! 32 bytes for a single next hop, 16 KiB for ECMP, a quarter byte of the index for either; all routes that have the same next hops share them.
//! Cost of making a group: 16384 × members hashes (0.1 ms for 4; with unequal weights a logarithm each).

use crate::{
    arena::{Arena, Table},
    error::Error,
    fib::Family,
    maglev::mix,
    row::InterfaceId,
    rows::{self, Rows},
    words::{Ref, Words},
};
use millrace_wire::Addr;
use std::collections::{BTreeSet, HashMap};

/// Next hops a group can have.
pub const MAX_MEMBERS: usize = 255;

/// log2 of the buckets of every group. The same for all, as another number would move every flow.
const BUCKET_BITS: u32 = 14;
/// Words of a member.
const MEMBER: usize = 3;
/// Words of a group's row.
const ROW_WORDS: usize = 4;
/// A row.
type Row = [u64; ROW_WORDS];
/// Bit of a next hop's first word: the gateway is set.
const HAS_GATEWAY: u64 = 1 << 16;
/// Where a row has its number of members.
const MEMBERS_AT: u32 = 24;
/// Word of a row that has the place of the ECMP block.
const ECMP: usize = 3;

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
pub struct Group(pub(super) u32);

/// The next hop of the flow with `hash`: the same one for as long as its member is in the group.
///
/// `groups` is the rows' word of the root record. All 64 bits of `hash` count; the choice doesn't depend on the one Maglev makes of the same hash.
#[inline]
pub fn next_hop(words: Words<'_>, groups: u64, group: Group, hash: u64) -> Option<NextHop> {
    let row = rows::find::<ROW_WORDS>(words, groups, group.0)?;
    let first = words.at(row, 0);
    match members_of(first) {
        0 => None,
        1 => Some(read(words, row, 0, first)),
        members => ecmp(words, row, members, hash),
    }
}

/// The next hop of a group of one.
#[inline]
pub fn only_hop(words: Words<'_>, groups: u64, group: Group) -> Option<NextHop> {
    let row = rows::find::<ROW_WORDS>(words, groups, group.0)?;
    let first = words.at(row, 0);
    (members_of(first) == 1).then(|| read(words, row, 0, first))
}

#[inline]
fn ecmp(words: Words<'_>, row: Ref, members: usize, hash: u64) -> Option<NextHop> {
    let at = Ref::from_raw(words.at(row, ECMP) as u32);
    // Maglev takes the upper bits of the hash itself.
    let bucket = (mix(hash) >> (64 - BUCKET_BITS)) as usize;
    let member = usize::from(words.u8_at(at, 8 * MEMBER * members + bucket));
    let first = words.at(at, MEMBER * member);
    (member < members).then(|| read(words, at, MEMBER * member, first))
}

/// The members of a group and their weights, in a fixed order (cold).
pub fn next_hops(words: Words<'_>, groups: u64, group: Group) -> Vec<(NextHop, u16)> {
    let Some(row) = rows::find::<ROW_WORDS>(words, groups, group.0) else { return Vec::new() };
    let members = members_of(words.at(row, 0));
    let at = if members > 1 { Ref::from_raw(words.at(row, ECMP) as u32) } else { row };
    let member = |index| {
        let first = words.at(at, MEMBER * index);
        (read(words, at, MEMBER * index, first), (first >> 32) as u16)
    };
    (0..members).map(member).collect()
}

#[inline]
const fn members_of(first: u64) -> usize {
    (first >> MEMBERS_AT & 0xff) as usize
}

/// The next hop at word `offset` of the block at `at`, whose first word is `first`.
#[inline]
fn read(words: Words<'_>, at: Ref, offset: usize, first: u64) -> NextHop {
    let gateway = (first & HAS_GATEWAY != 0)
        .then(|| Addr::from_words([words.at(at, offset + 1), words.at(at, offset + 2)]));
    NextHop { interface: InterfaceId(first as u16), gateway }
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
#[derive(Debug)]
pub(super) struct Groups {
    by_members: HashMap<Members, Group>,
    /// By number; `None`: free.
    uses: Vec<Option<Use>>,
    free: BTreeSet<u32>,
    /// Without users, but still there: there was no room to copy their rows.
    unused: Vec<Group>,
    rows: Rows<ROW_WORDS>,
}

impl Default for Groups {
    fn default() -> Self {
        Self {
            by_members: HashMap::new(),
            uses: Vec::new(),
            free: BTreeSet::new(),
            unused: Vec::new(),
            rows: Rows::new(Table::Groups),
        }
    }
}

#[derive(Debug)]
struct Use {
    users: u32,
    /// The ECMP block.
    ecmp: Ref,
    members: Members,
}

impl Groups {
    /// The rows' word for the root record.
    pub(super) fn root(&self) -> u64 {
        self.rows.root()
    }

    /// The group of `members`, made if there is none, with one more user. On an error nothing has changed.
    pub(super) fn acquire(&mut self, arena: &mut Arena, members: Members) -> Result<Group, Error> {
        if let Some(&group) = self.by_members.get(&members) {
            if let Some(Some(used)) = self.uses.get_mut(group.0 as usize) {
                used.users += 1;
            }
            return Ok(group);
        }
        let number = self.free.first().copied().unwrap_or(self.uses.len() as u32);
        let (row, ecmp) = write(arena, &members)?;
        if let Err(error) = self.rows.set(arena, number, row) {
            arena.free(Table::Groups, ecmp, ecmp_words(members.len()));
            return Err(error);
        }
        self.by_members.insert(members.clone(), Group(number));
        let used = Some(Use { users: 1, ecmp, members });
        if self.free.remove(&number) {
            self.uses[number as usize] = used;
        } else {
            self.uses.push(used);
        }
        Ok(Group(number))
    }

    /// One user less; a group without users is dropped.
    pub(super) fn release(&mut self, arena: &mut Arena, group: Group) {
        let Some(Some(used)) = self.uses.get_mut(group.0 as usize) else { return };
        used.users -= 1;
        if used.users == 0 {
            self.unused.push(group);
            let unused = std::mem::take(&mut self.unused);
            self.unused =
                unused.into_iter().filter(|group| !self.drop_unused(arena, *group)).collect();
        }
    }

    /// Drops a group without users. False when there is no room for that.
    fn drop_unused(&mut self, arena: &mut Arena, group: Group) -> bool {
        let Some(place) = self.uses.get_mut(group.0 as usize) else { return true };
        let Some(used) = place.as_ref().filter(|used| used.users == 0) else { return true };
        if self.rows.clear(arena, group.0).is_err() {
            return false;
        }
        arena.free(Table::Groups, used.ecmp, ecmp_words(used.members.len()));
        self.by_members.remove(&used.members);
        *place = None;
        self.free.insert(group.0);
        true
    }
}

/// Words of the ECMP block of a group.
fn ecmp_words(members: usize) -> usize {
    MEMBER * members + (1 << BUCKET_BITS) / 8
}

/// The words of a next hop.
fn hop_words((hop, weight): &(NextHop, u16)) -> [u64; MEMBER] {
    let flag = if hop.gateway.is_some() { HAS_GATEWAY } else { 0 };
    let [high, low] = hop.gateway.map_or([0; 2], |gateway| gateway.to_words());
    [u64::from(hop.interface.0) | flag | u64::from(*weight) << 32, high, low]
}

/// The row of a new group, and its ECMP block, written.
fn write(arena: &mut Arena, members: &Members) -> Result<(Row, Ref), Error> {
    let [first, high, low] = members.first().map_or([0; MEMBER], hop_words);
    let first = first | (members.len() as u64) << MEMBERS_AT;
    if members.len() == 1 {
        return Ok(([first, high, low, 0], Ref::NULL));
    }
    let at = arena.alloc(Table::Groups, ecmp_words(members.len()))?;
    let buckets = buckets(members);
    let buckets = buckets
        .chunks_exact(8)
        .map(|bytes| bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)));
    let block: Vec<u64> = members.iter().flat_map(hop_words).chain(buckets).collect();
    arena.write(at, &block);
    Ok(([first, high, low, at.raw().into()], at))
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
