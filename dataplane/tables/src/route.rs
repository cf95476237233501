//! Routes: what the leaves of the FIB mean, and the writer that keeps FIB and groups together.
//!
//! Decides: address → [`Route`], and for a forwarded packet its flow's [`NextHop`]. Needs the [`fib`]; leaves to the
//! neighbor table which MAC address a next hop has.
//!
//! ```text
//! leaf   what << 1 | has frontends     what: 1 blackhole   2 unreachable   3 local   4 VIP   8 + n: forward by group n
//! ```
//! *Has frontends* is set in the leaf of a host route on whose address services answer.
//!
//! Groups are in `route/group.rs`. Cost of a route: one FIB lookup. Of a next hop: see there. Memory: the FIB's (`fib.rs`) and the
//! groups'. Groups are numbered from 0 on, so the FIB's 16-bit leaves do for the first 32,760; more cost memory, nothing else.

mod group;

pub use group::{Group, MAX_MEMBERS, NextHop, next_hop, next_hops, only_hop};

use crate::{
    arena::Arena,
    error::Error,
    fib::{self, Begun, Family, Fib, Near},
    words::Words,
};
use group::Groups;
use ipnet::IpNet;
use millrace_wire::Addr;

/// Layout of this table and the FIB, for the segment's layout hash: change it with them.
pub const DESCRIPTION: &str = "\
    fib entry block1 path1 half1 ref29; wide default32|count32 hidden64 u32s routes; full runs64 u32s routes; \
    half runs64 u16s routes; path target32|else32 length64 bits128; routes list 1|count3|hidden4 u8x7 or bitmap128, hidden32; \
    levels 10 8 wide, 10 10 10 wide, then 6; runs last first; leaf frontends1 fixed 8+group; groups u32s of 16 rows; row interface16|gateway1|members8@24|weight16@32 addr2 ecmp; ecmp (interface16|gateway1|weight16@32 addr2)n bucket8; \
    hash fold; ";

/// What to do with a packet for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Route {
    /// Drop it silently.
    Blackhole,
    /// Drop it and answer ICMP unreachable.
    Unreachable,
    /// The address is our own.
    Local,
    /// Services answer on the address; it is nobody's otherwise.
    Vip,
    /// Send it to one of the group's next hops.
    Forward(Group),
}

/// A route to be set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RouteSpec {
    /// Drop silently.
    Blackhole,
    /// Drop, answering ICMP unreachable.
    Unreachable,
    /// An address we own.
    Local,
    /// An address that services answer on.
    Vip,
    /// Forward by these next hops, with their weights (above 0). One that is listed twice counts twice.
    Forward(Vec<(NextHop, u16)>),
}

/// In a leaf: frontends answer on the address (set in the leaf of its host route).
const HAS_FRONTENDS: u32 = 1;
/// The leaf of [`Route::Vip`], which always has them.
const VIP: u32 = 4 << 1 | HAS_FRONTENDS;
/// Upper bits of the leaf of the first group.
const FORWARD: u32 = 8;
const FIXED: [Route; 4] = [Route::Blackhole, Route::Unreachable, Route::Local, Route::Vip];

impl Route {
    #[inline]
    fn of_leaf(leaf: u32) -> Option<Self> {
        match (leaf >> 1).checked_sub(FORWARD) {
            Some(number) => Some(Self::Forward(Group(number))),
            None => FIXED.get((leaf as usize >> 1).wrapping_sub(1)).copied(),
        }
    }

    fn leaf(self) -> u32 {
        match self {
            Self::Blackhole => 1 << 1,
            Self::Unreachable => 2 << 1,
            Self::Local => 3 << 1,
            Self::Vip => VIP,
            Self::Forward(Group(number)) => (FORWARD + number) << 1,
        }
    }
}

/// Where a generation's routes are: roots for the root record (0 = no routes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteRoots {
    /// The IPv4 FIB.
    pub v4: u32,
    /// The IPv6 FIB.
    pub v6: u32,
    /// The groups' rows.
    pub groups: u64,
}

/// Routes of a family from which on its trie is too big to be near: some 100 KiB.
const FAR: u32 = 8192;

/// Whether loading ahead what [`route`] will read is worth its while.
#[inline]
pub fn are_far(words: Words<'_>, roots: &RouteRoots) -> bool {
    fib::count(words, roots.v4).max(fib::count(words, roots.v6)) >= FAR
}

/// A lookup by steps: see [`fib::begin`].
#[inline]
pub fn begin(words: Words<'_>, roots: &RouteRoots, addr: &Addr) -> Begun {
    if addr.is_v4() {
        fib::begin(words, roots.v4, addr.bits() as u32)
    } else {
        fib::begin(words, roots.v6, addr.bits())
    }
}

/// Its second step: see [`fib::near`].
#[inline]
pub fn near(words: Words<'_>, addr: &Addr, begun: Begun) -> Near {
    if addr.is_v4() {
        fib::near(words, addr.bits() as u32, begun)
    } else {
        fib::near(words, addr.bits(), begun)
    }
}

/// Its third step, for IPv6 alone: see [`fib::nearer`].
#[inline]
pub fn nearer(words: Words<'_>, addr: &Addr, near: Near) {
    if !addr.is_v4() {
        fib::nearer(words, addr.bits(), near);
    }
}

/// What it finds.
#[inline]
pub fn arrive(words: Words<'_>, roots: &RouteRoots, addr: &Addr, near: Near) -> Destination {
    Destination(if addr.is_v4() {
        fib::arrive(words, roots.v4, addr.bits() as u32, near)
    } else {
        fib::arrive(words, roots.v6, addr.bits(), near)
    })
}

/// What the FIB knows of an address: one word, its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination(u32);

impl Destination {
    /// Of an address that nothing is known of.
    pub const NOTHING: Self = Self(0);

    /// As a number, below 2¹⁶ up to 32,760 groups: the same for all addresses of which the same is known, in one generation.
    #[inline]
    pub fn number(self) -> usize {
        self.0 as usize
    }

    /// The route, by longest prefix.
    #[inline]
    pub fn route(self) -> Option<Route> {
        Route::of_leaf(self.0)
    }

    /// Whether the address may have frontends; most have none, and need not be looked for.
    #[inline]
    pub fn has_frontends(self) -> bool {
        self.0 & HAS_FRONTENDS != 0
    }
}

/// What the FIB knows of `addr`.
#[inline]
pub fn destination(words: Words<'_>, roots: &RouteRoots, addr: &Addr) -> Destination {
    Destination(leaf(words, roots, addr))
}

/// The route for `addr`, by longest prefix.
#[inline]
pub fn route(words: Words<'_>, roots: &RouteRoots, addr: &Addr) -> Option<Route> {
    Route::of_leaf(leaf(words, roots, addr))
}

#[inline]
fn leaf(words: Words<'_>, roots: &RouteRoots, addr: &Addr) -> u32 {
    if addr.is_v4() {
        fib::lookup(words, roots.v4, addr.bits() as u32)
    } else {
        fib::lookup(words, roots.v6, addr.bits())
    }
}

/// The route for `addr` with the prefix it was set for (cold).
pub fn best(words: Words<'_>, roots: &RouteRoots, addr: &Addr) -> Option<(IpNet, Route)> {
    let (prefix, leaf) = if addr.is_v4() {
        fib::best(words, roots.v4, addr.bits() as u32)
    } else {
        fib::best(words, roots.v6, addr.bits())
    }?;
    Some((prefix, Route::of_leaf(leaf)?))
}

/// All routes as they were set, in no particular order (cold).
pub fn routes<'a>(
    words: Words<'a>,
    roots: &RouteRoots,
) -> impl Iterator<Item = (IpNet, Route)> + use<'a> {
    fib::routes(words, roots.v4, Family::V4)
        .chain(fib::routes(words, roots.v6, Family::V6))
        .filter_map(|(prefix, leaf)| Some((prefix, Route::of_leaf(leaf)?)))
}

/// The writer's routes: one for each prefix.
#[derive(Debug)]
pub struct Routes {
    v4: Fib,
    v6: Fib,
    groups: Groups,
}

impl Default for Routes {
    fn default() -> Self {
        Self::new()
    }
}

impl Routes {
    /// No routes.
    pub fn new() -> Self {
        Self { v4: Fib::new(Family::V4), v6: Fib::new(Family::V6), groups: Groups::default() }
    }

    /// How many routes `family` has.
    pub fn len(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.v4.len(),
            Family::V6 => self.v6.len(),
        }
    }

    /// Whether there are none at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn fib(&mut self, prefix: &IpNet) -> &mut Fib {
        match Family::of(prefix) {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Sets the route of `prefix` in place of the one it has. Readers see it under the new
    /// [`Routes::roots`]. On an error nothing has changed.
    ///
    /// Refused: bits set after the prefix length, IPv6 prefixes of `::ffff:0:0/96` (they stand for IPv4),
    /// and for `Forward`: no next hops or more than [`MAX_MEMBERS`], weight 0, gateways of the other family or that
    /// can't be a neighbor's address; and a full segment.
    pub fn set(&mut self, arena: &mut Arena, prefix: IpNet, spec: &RouteSpec) -> Result<(), Error> {
        let refuse = |why: String| Error::Route { prefix, why };
        if prefix.trunc() != prefix {
            return Err(refuse(format!("bits are set after the prefix; want {}", prefix.trunc())));
        }
        if is_v4_mapped(&prefix) {
            return Err(refuse(
                "addresses of ::ffff:0:0/96 stand for IPv4; set the IPv4 route".into(),
            ));
        }
        let route = match spec {
            RouteSpec::Blackhole => Route::Blackhole,
            RouteSpec::Unreachable => Route::Unreachable,
            RouteSpec::Local => Route::Local,
            RouteSpec::Vip => Route::Vip,
            RouteSpec::Forward(hops) => {
                let members = group::members(Family::of(&prefix), hops).map_err(refuse)?;
                Route::Forward(self.groups.acquire(arena, members)?)
            }
        };
        match self.fib(&prefix).insert(arena, &prefix, route.leaf()) {
            Ok(old) => {
                self.release(arena, old);
                Ok(())
            }
            Err(error) => {
                self.release(arena, Some(route.leaf()));
                Err(error)
            }
        }
    }

    /// Notes on the host route `prefix`, if it is set, whether its address has frontends. Forgotten when the route is set anew.
    /// On an error nothing has changed.
    pub fn note_frontends(
        &mut self,
        arena: &mut Arena,
        prefix: &IpNet,
        has: bool,
    ) -> Result<(), Error> {
        let fib = self.fib(prefix);
        if let Some(old) = fib.get(arena.words(), prefix) {
            let mark = if has || old == VIP { HAS_FRONTENDS } else { 0 };
            fib.insert(arena, prefix, old & !HAS_FRONTENDS | mark)?;
        }
        Ok(())
    }

    /// Takes the route of exactly `prefix` away; false when it had none. On an error (a full segment) nothing has changed.
    pub fn remove(&mut self, arena: &mut Arena, prefix: &IpNet) -> Result<bool, Error> {
        let old =
            if prefix.trunc() == *prefix { self.fib(prefix).remove(arena, prefix)? } else { None };
        self.release(arena, old);
        Ok(old.is_some())
    }

    fn release(&mut self, arena: &mut Arena, leaf: Option<u32>) {
        if let Some(Route::Forward(group)) = leaf.and_then(Route::of_leaf) {
            self.groups.release(arena, group);
        }
    }

    /// The roots of the routes as they are now, for readers.
    pub fn roots(&self) -> RouteRoots {
        RouteRoots { v4: self.v4.root(), v6: self.v6.root(), groups: self.groups.root() }
    }
}

pub(crate) fn is_v4_mapped(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(net) if net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests;
