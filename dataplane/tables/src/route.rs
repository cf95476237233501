//! Routes: what the leaves of the FIB mean, and the writer that keeps FIB and groups together.
//!
//! Decides: address → [`Route`], and for a forwarded packet its flow's [`NextHop`]. Needs the [`fib`]; leaves to the
//! neighbor table which MAC address a next hop has.
//!
//! ```text
//! leaf (31 bits)   kind << 29 | value    kind 0: a fixed route (1 blackhole, 2 unreachable, 3 local, 4 VIP)
//!                                        kind 1: forward by the group at this Ref
//! ```
//! Groups are in `route/group.rs`. Cost of a route: one FIB lookup. Of a next hop: the group's first cache line, and for
//! ECMP its bucket and the member's row. Memory: the FIB's (`fib/rib.rs`); 32 bytes for each distinct single next hop;
//! 16 KiB for each distinct ECMP group, shared by all routes through it.

mod group;

pub use group::{Group, MAX_MEMBERS, NextHop, next_hop, next_hops};

use crate::{
    arena::{Arena, Table},
    error::Error,
    fib::{self, Family, Fib},
    words::Words,
};
use group::Groups;
use ipnet::IpNet;
use millrace_wire::Addr;

/// Layout of this table and the FIB, for the segment's layout hash: change it with them.
pub const DESCRIPTION: &str = "\
    fib entry block1 path1 ref29; wide default32|count32 512xu32 routes; narrow runs64 entries32 routes; \
    path target32|else32 length64 bits128; routes bitmap hidden32; levels 9 9 6; \
    leaf kind2 value29; group members8|buckets8 (interface16|gateway1|weight16@32 addr2)n bucket8; \
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

const KIND_BITS: u32 = 29;
const FORWARD: u32 = 1 << KIND_BITS;
/// Set in the leaf of a host route whose address has frontends.
const HAS_FRONTENDS: u32 = 1 << 30;
/// The leaf of [`Route::Vip`].
const VIP: u32 = 4;
const FIXED: [Route; 4] = [Route::Blackhole, Route::Unreachable, Route::Local, Route::Vip];

impl Route {
    #[inline]
    fn of_leaf(leaf: u32) -> Option<Self> {
        let leaf = leaf & !HAS_FRONTENDS;
        match leaf >> KIND_BITS {
            0 => FIXED.get((leaf as usize).checked_sub(1)?).copied(),
            1 => Some(Self::Forward(Group::from_raw(leaf & (FORWARD - 1)))),
            _ => None,
        }
    }

    fn leaf(self) -> u32 {
        match self {
            Self::Blackhole => 1,
            Self::Unreachable => 2,
            Self::Local => 3,
            Self::Vip => VIP,
            Self::Forward(group) => FORWARD | group.raw(),
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
}

/// What the FIB knows of an address: one word, its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination(u32);

impl Destination {
    /// The route, by longest prefix.
    #[inline]
    pub fn route(self) -> Option<Route> {
        Route::of_leaf(self.0)
    }

    /// Whether the address may have frontends; most have none, and need not be looked for.
    #[inline]
    pub fn has_frontends(self) -> bool {
        self.0 & HAS_FRONTENDS != 0 || self.0 == VIP
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
        fib::best(words, roots.v4, addr.bits() as u32, Family::V4)
    } else {
        fib::best(words, roots.v6, addr.bits(), Family::V6)
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
        Self {
            v4: Fib::new(Table::Routes4),
            v6: Fib::new(Table::Routes6),
            groups: Groups::default(),
        }
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

    /// Sets the route of `prefix` in place of the one it has. Readers see it after [`Routes::commit`]
    /// and a new root. On an error nothing has changed.
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
        arena.reserve(self.v4.pending() + self.v6.pending())?;
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
        let fib = self.fib(&prefix);
        // A route that is set again unchanged costs no block.
        let old = match fib.get(&prefix) {
            Some(old) if old == route.leaf() => Some(old),
            _ => fib.insert(&prefix, route.leaf()),
        };
        self.release(arena, old);
        Ok(())
    }

    /// Notes on the host route `prefix`, if it is set, whether its address has frontends. Forgotten when the route is set anew.
    pub fn note_frontends(
        &mut self,
        arena: &Arena,
        prefix: &IpNet,
        has: bool,
    ) -> Result<(), Error> {
        arena.reserve(self.v4.pending() + self.v6.pending())?;
        let fib = self.fib(prefix);
        if let Some(old) = fib.get(prefix) {
            let new = if has { old | HAS_FRONTENDS } else { old & !HAS_FRONTENDS };
            if new != old {
                fib.insert(prefix, new);
            }
        }
        Ok(())
    }

    /// Takes the route of exactly `prefix` away; false when it had none.
    pub fn remove(&mut self, arena: &mut Arena, prefix: &IpNet) -> Result<bool, Error> {
        let old = if prefix.trunc() == *prefix { self.fib(prefix).remove(prefix) } else { None };
        self.release(arena, old);
        Ok(old.is_some())
    }

    fn release(&mut self, arena: &mut Arena, leaf: Option<u32>) {
        if let Some(Route::Forward(group)) = leaf.and_then(Route::of_leaf) {
            self.groups.release(arena, group);
        }
    }

    /// Brings the segment up to date and returns the roots of the routes as they are now.
    ///
    /// When the segment is full, what readers can see is untouched and nothing is lost: a later commit goes on from there.
    pub fn commit(&mut self, arena: &mut Arena) -> Result<RouteRoots, Error> {
        Ok(RouteRoots { v4: self.v4.commit(arena)?, v6: self.v6.commit(arena)? })
    }
}

fn is_v4_mapped(prefix: &IpNet) -> bool {
    matches!(prefix, IpNet::V6(net) if net.prefix_len() >= 96 && net.addr().to_ipv4_mapped().is_some())
}

#[cfg(test)]
mod tests;
