//! The node's own row: what about this node decides whether a flow's source is changed, and to what.
//!
//! ```text
//! 0  ranges | sources << 16 | words << 32
//! 1  leaving | staying << 16 | by source << 32
//! 2… for each range two words of address and one with the prefix length; for each source the same, and its
//!    interface in bits 8–23 of the third; those of leaving, of staying and by source as ranges
//! ```
//! Cost: a scan of the ranges (one per family and cluster, mostly), of the sources for a flow that is masqueraded. Read by flows that
//! begin, by no others; where there are ranges of [`NodeSpec::leaving`] or [`NodeSpec::by_source`], these by packets that are only routed too. Memory: 16 bytes and 24
//! for each range and source.

use crate::{
    arena::{Arena, Table},
    error::Error,
    layout::{high, pack},
    row::InterfaceId,
    words::{Ref, Words},
};
use ipnet::IpNet;
use millrace_wire::Addr;

/// Most ranges of [`NodeSpec::pods`].
pub const MAX_RANGES: usize = 64;
/// Most entries of [`NodeSpec::sources`].
pub const MAX_SOURCES: usize = 1024;

/// What control says of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSpec {
    /// Addresses that count as pods (kube-proxy's local detector). Empty for a family: none is known to be one.
    pub pods: Vec<IpNet>,
    /// Addresses that a masqueraded flow can get, each with its network, in the order in which they are preferred: by the
    /// interface that the flow leaves by, and where that has none, the first of the family.
    pub sources: Vec<(InterfaceId, IpNet)>,
    /// Whose flows, of no service, are masqueraded too when they leave by an uplink: pods that go out of the cluster.
    pub leaving: Vec<IpNet>,
    /// But not to these destinations.
    pub staying: Vec<IpNet>,
    /// Whose packets the kernel routes by tables of their own (`ip rule from …`): they are the kernel's to send on.
    pub by_source: Vec<IpNet>,
}

/// In the root's word, beside the row's place: there are ranges of [`NodeSpec::leaving`].
pub(crate) const MASQUERADES: u32 = 1;
/// There too: there are ranges of [`NodeSpec::by_source`].
pub(crate) const BY_SOURCE: u32 = 2;

const HEAD: usize = 2;
const ITEM: usize = 3;

impl NodeSpec {
    /// Checks the row.
    pub fn check(&self) -> Result<(), Error> {
        for (what, count, most) in [
            ("pod ranges", self.pods.len(), MAX_RANGES),
            ("source addresses", self.sources.len(), MAX_SOURCES),
            ("ranges of masqueraded sources", self.leaving.len(), MAX_RANGES),
            ("ranges of destinations that are not masqueraded to", self.staying.len(), MAX_RANGES),
            ("ranges of sources with routes of their own", self.by_source.len(), MAX_SOURCES),
        ] {
            if count > most {
                let why = format!("{count} {what}; at most {most}");
                return Err(Error::Row { row: "node".into(), why });
            }
        }
        Ok(())
    }

    /// Words of its row.
    pub(crate) fn words(&self) -> usize {
        let ways = self.leaving.len() + self.staying.len() + self.by_source.len();
        let ranges = self.pods.len() + ways;
        HEAD + ITEM * (ranges + self.sources.len())
    }
}

/// Words of the row at `at`, as it says itself.
pub(crate) fn words_of(words: Words<'_>, at: Ref) -> usize {
    high(words.at(at, 0)) as usize
}

/// Writes a checked row.
pub(crate) fn write(arena: &mut Arena, spec: &NodeSpec) -> Result<Ref, Error> {
    let words = spec.words();
    let at = arena.alloc(Table::Interfaces, words)?;
    // Within bounds: see `check`.
    let counts = spec.pods.len() as u32 | (spec.sources.len() as u32) << 16;
    arena.store(at, 0, pack(Ref::from_raw(counts), words as u32));
    let ways = [&spec.leaving, &spec.staying, &spec.by_source];
    let counts = ways.iter().rev().fold(0, |word, nets| word << 16 | nets.len() as u64);
    arena.store(at, 1, counts);
    let range = |net: &IpNet| (*net, 0);
    let sources = spec.sources.iter().map(|(id, net)| (*net, u64::from(id.0) << 8));
    let ways = ways.into_iter().flatten().map(range);
    for (index, (net, more)) in spec.pods.iter().map(range).chain(sources).chain(ways).enumerate() {
        let [upper, lower] = Addr::from(net.addr()).to_words();
        let item = [upper, lower, u64::from(net.prefix_len()) | more];
        for (offset, word) in item.into_iter().enumerate() {
            arena.store(at, HEAD + index * ITEM + offset, word);
        }
    }
    Ok(at)
}

/// The node's row, for reading.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    words: Words<'a>,
    at: Ref,
}

/// One range or source.
#[derive(Clone, Copy)]
struct Item {
    addr: Addr,
    word: u64,
}

impl Item {
    /// Whether `addr` lies in the network that this one is in.
    fn contains(&self, addr: &Addr) -> bool {
        if self.addr.is_v4() != addr.is_v4() {
            return false;
        }
        // IPv4 addresses have their 32 bits lowest.
        let width: u32 = if addr.is_v4() { 32 } else { 128 };
        let beyond = width.saturating_sub((self.word & 0xff) as u32);
        let difference = self.addr.bits() ^ addr.bits();
        difference.checked_shr(beyond).unwrap_or(0) == 0
    }

    fn interface(&self) -> InterfaceId {
        InterfaceId((self.word >> 8) as u16)
    }
}

impl<'a> Node<'a> {
    pub(crate) fn new(words: Words<'a>, at: Ref) -> Self {
        Self { words, at }
    }

    fn counts(&self) -> (usize, usize) {
        if self.at.is_null() {
            return (0, 0);
        }
        let word = self.words.at(self.at, 0);
        let (ranges, sources) = (usize::from(word as u16), usize::from((word >> 16) as u16));
        (ranges.min(MAX_RANGES), sources.min(MAX_SOURCES))
    }

    /// How many of leaving, of staying and by source.
    fn ways(&self) -> (usize, usize, usize) {
        if self.at.is_null() {
            return (0, 0, 0);
        }
        let word = self.words.at(self.at, 1);
        let [leaving, staying, by_source] =
            [0, 16, 32].map(|shift| usize::from((word >> shift) as u16));
        (leaving.min(MAX_RANGES), staying.min(MAX_RANGES), by_source.min(MAX_SOURCES))
    }

    fn items(&self, from: usize, count: usize) -> impl Iterator<Item = Item> + use<'a> {
        let Node { words, at } = *self;
        (from..from + count).map(move |index| {
            let [upper, lower, word] =
                std::array::from_fn(|offset| words.at(at, HEAD + index * ITEM + offset));
            Item { addr: Addr::from_words([upper, lower]), word }
        })
    }

    /// Whether `addr` counts as a pod.
    pub fn is_pod(&self, addr: &Addr) -> bool {
        self.items(0, self.counts().0).any(|range| range.contains(addr))
    }

    /// Whether a flow of no service from `src` to `dst` that leaves by an uplink is masqueraded.
    pub fn leaves(&self, src: &Addr, dst: &Addr) -> bool {
        let (ranges, sources) = self.counts();
        let (leaving, staying, _) = self.ways();
        let from = ranges + sources;
        self.items(from, leaving).any(|range| range.contains(src))
            && !self.items(from + leaving, staying).any(|range| range.contains(dst))
    }

    /// Whether the kernel has routes of their own for packets from `src`.
    pub fn routes_by_source(&self, src: &Addr) -> bool {
        let (ranges, sources) = self.counts();
        let (leaving, staying, by_source) = self.ways();
        let from = ranges + sources + leaving + staying;
        self.items(from, by_source).any(|range| range.contains(src))
    }

    /// [`MASQUERADES`], [`BY_SOURCE`] and the place, for the root's word.
    pub(crate) fn word(&self) -> u64 {
        let (leaving, _, by_source) = self.ways();
        let masquerades = if leaving > 0 { MASQUERADES } else { 0 };
        pack(self.at, masquerades | if by_source > 0 { BY_SOURCE } else { 0 })
    }

    fn sources(&self, peer: &Addr) -> impl Iterator<Item = Item> + use<'a> {
        let (ranges, count) = self.counts();
        let v4 = peer.is_v4();
        self.items(ranges, count).filter(move |item| item.addr.is_v4() == v4)
    }

    /// The address of `interface` that a flow is masqueraded to that leaves by it to the neighbor `peer`: one in the neighbor's
    /// network, else its first.
    pub fn source_on(&self, interface: InterfaceId, peer: &Addr) -> Option<Addr> {
        let here = || self.sources(peer).filter(move |item| item.interface() == interface);
        here().find(|item| item.contains(peer)).or_else(|| here().next()).map(|item| item.addr)
    }

    /// The first of the neighbor's family, for an interface without (Linux' `inet_select_addr` does the same).
    pub fn source(&self, peer: &Addr) -> Option<Addr> {
        self.sources(peer).next().map(|item| item.addr)
    }

    /// All of it (cold).
    pub fn spec(&self) -> NodeSpec {
        let (ranges, count) = self.counts();
        let (leaving, staying, by_source) = self.ways();
        let net = |item: &Item| IpNet::new(item.addr.to_ip(), item.word as u8).ok();
        let nets = |from, count| self.items(from, count).filter_map(|item| net(&item)).collect();
        let ways = ranges + count;
        NodeSpec {
            pods: nets(0, ranges),
            leaving: nets(ways, leaving),
            staying: nets(ways + leaving, staying),
            by_source: nets(ways + leaving + staying, by_source),
            sources: self
                .items(ranges, count)
                .filter_map(|item| Some((item.interface(), net(&item)?)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::{Readers, SegmentConfig, Writer};
    use std::net::IpAddr;

    fn addr(text: &str) -> Addr {
        text.parse::<IpAddr>().unwrap().into()
    }

    fn spec(pods: &[&str], sources: &[(u16, &str)]) -> NodeSpec {
        NodeSpec {
            pods: pods.iter().map(|text| text.parse().unwrap()).collect(),
            sources: sources
                .iter()
                .map(|(id, text)| (InterfaceId(*id), text.parse().unwrap()))
                .collect(),
            ..NodeSpec::default()
        }
    }

    fn writer() -> Writer {
        let config = SegmentConfig { bytes: 4 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        writer.set_readers(Readers::Nobody);
        writer
    }

    #[test]
    fn pods_are_those_in_the_ranges_of_their_family() {
        let mut writer = writer();
        assert!(!writer.tables().snapshot().node().is_pod(&addr("10.0.1.1")), "nothing is set");
        writer.set_node(&spec(&["10.0.0.0/16", "fd00:10::/64"], &[])).unwrap();
        writer.publish().unwrap();
        let tables = writer.tables();
        let node = tables.snapshot().node();
        for (text, is) in [
            ("10.0.0.0", true),
            ("10.0.255.255", true),
            ("10.1.0.0", false),
            ("9.255.255.255", false),
            ("fd00:10::1", true),
            ("fd00:10:0:1::1", false),
            ("::a00:1", false),
        ] {
            assert_eq!(node.is_pod(&addr(text)), is, "{text}");
        }
        writer.set_node(&spec(&["0.0.0.0/0", "::/0"], &[])).unwrap();
        writer.publish().unwrap();
        let all = writer.tables();
        assert!(["1.2.3.4", "::1"].iter().all(|text| all.snapshot().node().is_pod(&addr(text))));
    }

    #[test]
    fn the_source_is_of_the_way_out_where_that_has_one() {
        let mut writer = writer();
        let sources =
            [(0, "192.168.0.2/24"), (0, "172.16.0.9/16"), (3, "10.9.0.1/30"), (3, "fd00:9::1/64")];
        writer.set_node(&spec(&[], &sources)).unwrap();
        writer.publish().unwrap();
        let tables = writer.tables();
        let node = tables.snapshot().node();
        let source = |id, peer| node.source_on(InterfaceId(id), &addr(peer));
        assert_eq!(source(0, "192.168.0.3"), Some(addr("192.168.0.2")));
        assert_eq!(source(0, "172.16.3.3"), Some(addr("172.16.0.9")), "the neighbor's network");
        assert_eq!(source(0, "203.0.113.1"), Some(addr("192.168.0.2")));
        assert_eq!(source(3, "10.9.0.2"), Some(addr("10.9.0.1")));
        assert_eq!((source(7, "10.0.1.5"), source(0, "fd00::1")), (None, None));
        assert_eq!(node.source(&addr("10.0.1.5")), Some(addr("192.168.0.2")));
        assert_eq!(node.source(&addr("fd00::1")), Some(addr("fd00:9::1")));
    }

    #[test]
    fn who_leaves_is_masqueraded_but_not_to_where_it_stays() {
        let mut writer = writer();
        let mut wanted = spec(&["10.0.0.0/16"], &[(0, "192.168.0.2/24")]);
        wanted.leaving = vec!["10.0.0.0/16".parse().unwrap(), "fd00:10::/64".parse().unwrap()];
        wanted.staying = vec!["10.0.0.0/8".parse().unwrap()];
        assert!(!writer.tables().snapshot().has_leaving());
        writer.set_node(&wanted).unwrap();
        writer.publish().unwrap();
        let tables = writer.tables();
        let snapshot = tables.snapshot();
        assert!(snapshot.has_leaving() && snapshot.asks_of_routed());
        assert_eq!(snapshot.node().spec(), wanted);
        let leaves = |src, dst| snapshot.node().leaves(&addr(src), &addr(dst));
        assert!(leaves("10.0.1.5", "203.0.113.1") && leaves("fd00:10::5", "2001:db8::1"));
        assert!(!leaves("10.0.1.5", "10.9.0.1"), "stays");
        assert!(!leaves("192.168.0.9", "203.0.113.1"), "is none of them");
    }

    #[test]
    fn who_has_routes_of_its_own_is_told_from_others() {
        let mut writer = writer();
        let mut wanted = spec(&["10.0.0.0/16"], &[(0, "192.168.0.2/24")]);
        wanted.staying = vec!["10.0.0.0/8".parse().unwrap()];
        wanted.by_source = vec!["192.168.9.2/32".parse().unwrap(), "fd00::/64".parse().unwrap()];
        writer.set_node(&wanted).unwrap();
        writer.publish().unwrap();
        let tables = writer.tables();
        let snapshot = tables.snapshot();
        assert!(snapshot.routes_by_source() && snapshot.asks_of_routed());
        assert!(!snapshot.has_leaving());
        assert_eq!(snapshot.node().spec(), wanted);
        let has = |src| snapshot.node().routes_by_source(&addr(src));
        assert!(has("192.168.9.2") && has("fd00::5"));
        assert!(!has("192.168.9.3") && !has("192.168.0.2") && !has("10.0.0.1"));
    }

    #[test]
    fn the_row_is_replaced_whole_and_given_back() {
        let mut writer = writer();
        let before = writer.usage();
        for round in 0..100 {
            let range = format!("10.{round}.0.0/16");
            let wanted = spec(&[&range], &[(0, "192.168.0.2/24")]);
            writer.set_node(&wanted).unwrap();
            assert!(writer.is_dirty());
            writer.publish().unwrap();
            assert_eq!(writer.tables().snapshot().node().spec(), wanted);
            writer.set_node(&wanted).unwrap();
            assert!(!writer.is_dirty(), "the same again");
        }
        writer.set_node(&NodeSpec::default()).unwrap();
        writer.publish().unwrap();
        writer.reclaim();
        assert_eq!(writer.usage().of(Table::Interfaces), before.of(Table::Interfaces));
        let many =
            NodeSpec { pods: vec!["10.0.0.0/8".parse().unwrap(); 65], ..NodeSpec::default() };
        assert!(writer.set_node(&many).unwrap_err().to_string().contains("65 pod ranges"));
    }
}
