//! The readers' side: a mapped tables segment and its snapshots.
//!
//! [`Tables`] is checked once, when it is opened: seals, size, magic, ABI, layout. A [`Snapshot`] is one generation of all
//! tables; every answer it gives is of that generation. It stays whole for as long as the reader's epoch pins it (see
//! [`crate::epoch`]); without a pin the writer may use its blocks for something else, and answers may then be wrong, but are
//! still answers: no bytes in the segment lead to a panic, an endless loop or undefined behaviour.

use crate::{
    cold,
    epoch::{self, ReaderEpoch},
    error::Error,
    fib::{self, Begun, Family, Near},
    guard::Guard,
    index, interface,
    layout::{self, HEADER_BYTES, header, high, root},
    node::Node,
    policy::{
        self, ClassId, Decision, Endpoint, PolicyChanges, PolicyId, PolicyRow, SubjectId, record,
    },
    route::{self, Destination, Group, NextHop, Route, RouteRoots},
    row::{
        Backend, BackendSet, Frontend, FrontendKind, FrontendRow, InterfaceId, InterfaceRow,
        NeighborRow, Service, ServiceId, SetChoice,
    },
    service,
    shm::{Segment, WORD},
    sync::AtomicU64,
    trie,
    words::{Ref, Words},
};
use ipnet::IpNet;
use millrace_wire::{Addr, Mac};
use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64 as Counter, Ordering},
    },
};

/// Numbers the segments opened in this process, so that a reader can tell two of them apart even if
/// the second is mapped where the first was.
static OPENED: Counter = Counter::new(1);

/// A tables segment, for reading.
#[derive(Debug)]
pub struct Tables {
    segment: Arc<Segment>,
    seed: u64,
    id: u64,
}

impl Tables {
    /// Maps a segment received from the writer.
    pub fn open(fd: OwnedFd) -> Result<Self, Error> {
        Self::over(Arc::new(Segment::open(fd)?))
    }

    /// A reader on a mapping that is there already.
    pub fn over(segment: Arc<Segment>) -> Result<Self, Error> {
        let words = Words(segment.words());
        let bytes = (segment.words().len() * WORD) as u64;
        let what = "tables";
        if words.load(header::MAGIC) != layout::MAGIC {
            return Err(Error::Magic {
                what,
                found: words.load(header::MAGIC),
                want: layout::MAGIC,
            });
        }
        if words.load(header::ABI) != layout::ABI {
            return Err(Error::Abi { what, found: words.load(header::ABI), want: layout::ABI });
        }
        if words.load(header::LAYOUT) != layout::HASH {
            return Err(Error::Layout {
                what,
                found: words.load(header::LAYOUT),
                want: layout::HASH,
            });
        }
        if words.load(header::BYTES) != bytes || bytes < HEADER_BYTES as u64 {
            return Err(Error::Size {
                bytes,
                want: words.load(header::BYTES).max(HEADER_BYTES as u64),
            });
        }
        let seed = words.load(header::SEED);
        Ok(Self { segment, seed, id: OPENED.fetch_add(1, Ordering::Relaxed) })
    }

    /// Its number in this process: another for each [`Tables`] made.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The segment, to hand its file on.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The newest generation, not pinned: for readers that no writer outruns (an image, the writer's own
    /// process) or that something else pins (an observer, for which the engine does).
    pub fn snapshot(&self) -> Snapshot<'_> {
        let words = Words(self.segment.words());
        self.at(epoch::newest(words))
    }

    fn at(&self, root: Ref) -> Snapshot<'_> {
        let words = Words(self.segment.words());
        Snapshot::new(words, root, words.at(root, root::GENERATION), self.seed)
    }
}

impl ReaderEpoch {
    /// Enters the newest generation of `tables`: what the snapshot shows is left alone until this reader enters
    /// again or goes idle.
    #[inline]
    pub fn enter<'a>(&mut self, tables: &'a Tables) -> Snapshot<'a> {
        let words = Words(tables.segment.words());
        let pin = self.pin(tables.id, words);
        Snapshot::new(words, pin.root, pin.generation, tables.seed)
    }
}

/// One generation of all tables.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot<'a> {
    words: Words<'a>,
    root: Ref,
    generation: u64,
    seed: u64,
    /// Read once, as every packet needs them.
    routes: RouteRoots,
    /// So are these.
    policy: u64,
    /// [`root::NODE`]'s word.
    node: u64,
    guards: u64,
}

impl<'a> Snapshot<'a> {
    #[inline]
    fn new(words: Words<'a>, root: Ref, generation: u64, seed: u64) -> Self {
        let routes = RouteRoots {
            v4: words.at(root, root::ROUTES4) as u32,
            v6: words.at(root, root::ROUTES6) as u32,
            groups: words.at(root, root::GROUPS),
        };
        let (policy, node) = (words.at(root, root::POLICY), words.at(root, root::NODE));
        let guards = words.at(root, root::GUARDS);
        Snapshot { words, root, generation, seed, routes, policy, node, guards }
    }

    /// Its generation.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Its root record.
    pub(crate) fn root(&self) -> Ref {
        self.root
    }

    #[inline]
    pub(crate) fn slot(&self, slot: usize) -> u64 {
        self.words.at(self.root, slot)
    }

    /// Its words.
    #[inline]
    pub(crate) fn view(&self) -> Words<'a> {
        self.words
    }

    /// What the tries' hashes are keyed with.
    #[inline]
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// The words, for tests that flip them.
    #[doc(hidden)]
    pub fn words(&self) -> &'a [AtomicU64] {
        self.words.0
    }

    #[inline]
    fn frontend_word(&self, addr: &Addr, port: u16, protocol: u8) -> Option<u64> {
        let key = frontend_key(addr, port, protocol);
        let found: Option<[u64; 1]> =
            trie::find(self.words, self.slot(root::FRONTENDS), trie::hash(self.seed, &key), &key);
        found.map(|[word]| word)
    }

    /// The frontend on exactly this address, port and protocol.
    #[inline]
    pub fn frontend(&self, addr: &Addr, port: u16, protocol: u8) -> Option<Frontend> {
        if port == 0 || protocol == 0 {
            return None;
        }
        self.frontend_word(addr, port, protocol).map(frontend_of)
    }

    /// Whether any service answers on this address (on whatever port).
    #[inline]
    pub fn is_vip(&self, addr: &Addr) -> bool {
        self.frontend_word(addr, 0, 0).is_some()
    }

    /// All frontends, in no useful order.
    pub fn frontends(&self) -> impl Iterator<Item = FrontendRow> + use<'a> {
        trie::iter::<3, 1>(self.words, self.slot(root::FRONTENDS))
            .filter(|entry| entry.key[2] != 0)
            .map(|entry| FrontendRow {
                addr: Addr::from_words([entry.key[0], entry.key[1]]),
                port: entry.key[2] as u16,
                protocol: (entry.key[2] >> 16) as u8,
                frontend: frontend_of(entry.value[0]),
            })
    }

    /// A service by its number.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<Service> {
        let at = index::find(self.words, self.slot(root::SERVICES), id.0);
        (!at.is_null()).then(|| service::read(self.words, at))
    }

    /// All services, lowest number first.
    pub fn services(&self) -> impl Iterator<Item = Service> + use<'a> {
        let words = self.words;
        index::iter(words, self.slot(root::SERVICES)).map(move |(_, at)| service::read(words, at))
    }

    /// The backend that `hash` falls to: always the same while the set is the same, and mostly when it isn't
    /// (Maglev). `None` when the set is empty.
    #[inline]
    pub fn pick(&self, set: &BackendSet, hash: u64) -> Option<Backend> {
        service::pick(self.words, set, hash)
    }

    /// All backends of a set; up to 256 by address and port, more in no useful order.
    pub fn backends(&self, set: &BackendSet) -> impl Iterator<Item = Backend> + use<'a> {
        service::backends(self.words, set)
    }

    /// The backend of a service at this address and port, whichever set it is in, if any.
    pub fn find_backend(&self, service: &Service, addr: &Addr, port: u16) -> Option<Backend> {
        service::find(self.words, &service.cluster, addr, port)
    }

    /// Whether `addr` is in the service's source ranges.
    pub fn is_in_ranges(&self, service: &Service, addr: &Addr) -> bool {
        service::ranges::contain(self.words, service.ranges, addr)
    }

    /// Whether there is any service.
    pub fn has_services(&self) -> bool {
        // An index without records has no height.
        high(self.slot(root::SERVICES)) != 0
    }

    /// What a service is called: `namespace/name:port` (cold).
    pub fn service_name(&self, id: ServiceId) -> String {
        self.service(id)
            .and_then(|service| cold::read(self.words, service.names).nth(1))
            .unwrap_or_default()
    }

    /// The key a service was set under (cold).
    pub fn service_key(&self, id: ServiceId) -> String {
        self.service(id)
            .and_then(|service| cold::read(self.words, service.names).next())
            .unwrap_or_default()
    }

    /// All backends of a service, those in no set included, with their names (cold).
    pub fn named_backends(
        &self,
        service: &Service,
    ) -> impl Iterator<Item = (Backend, String)> + use<'a> {
        service::named_backends(self.words, service)
    }

    /// The name of the backend at this address and port (cold).
    pub fn backend_name(&self, id: ServiceId, addr: &Addr, port: u16) -> Option<String> {
        let service = self.service(id)?;
        self.named_backends(&service)
            .find(|(b, _)| b.addr == *addr && b.port == port)
            .map(|(_, name)| name)
    }

    #[inline]
    fn route_roots(&self) -> RouteRoots {
        self.routes
    }

    /// Begins what [`Snapshot::destination`] does at once: by steps, so that no memory is waited for when each is taken some packets after
    /// the one before.
    #[inline]
    pub fn route_begin(&self, addr: &Addr) -> Begun {
        route::begin(self.words, &self.routes, addr)
    }

    /// The second step.
    #[inline]
    pub fn route_near(&self, addr: &Addr, begun: Begun) -> Near {
        route::near(self.words, addr, begun)
    }

    /// The third step, which IPv4 does not need. Left out it costs time, nothing else.
    #[inline]
    pub fn route_nearer(&self, addr: &Addr, near: Near) {
        route::nearer(self.words, addr, near);
    }

    /// The end of the same address's steps: its destination.
    #[inline]
    pub fn route_arrive(&self, addr: &Addr, near: Near) -> Destination {
        route::arrive(self.words, &self.routes, addr, near)
    }

    /// Whether there are so many routes that [`Snapshot::route_begin`] is worth its while. To be asked once a burst.
    #[inline]
    pub fn routes_are_far(&self) -> bool {
        route::are_far(self.words, &self.routes)
    }

    /// What the FIB knows of an address: the route, and whether to look for frontends.
    #[inline]
    pub fn destination(&self, addr: &Addr) -> Destination {
        route::destination(self.words, &self.route_roots(), addr)
    }

    /// What the longest matching prefix says.
    #[inline]
    pub fn route(&self, addr: &Addr) -> Option<Route> {
        route::route(self.words, &self.route_roots(), addr)
    }

    /// The longest matching prefix with its route (cold).
    pub fn best_route(&self, addr: &Addr) -> Option<(IpNet, Route)> {
        route::best(self.words, &self.route_roots(), addr)
    }

    /// All next hops of a group, with their weights (cold).
    pub fn next_hops(&self, group: Group) -> Vec<(NextHop, u16)> {
        route::next_hops(self.words, self.routes.groups, group)
    }

    /// The next hop that `hash` falls to.
    #[inline]
    pub fn next_hop(&self, group: Group, hash: u64) -> Option<NextHop> {
        route::next_hop(self.words, self.routes.groups, group, hash)
    }

    /// The next hop of a group that has only this one, which is a gateway: all its packets go to the same neighbor.
    #[inline]
    pub fn only_gateway(&self, group: Group) -> Option<(InterfaceId, Addr)> {
        let hop = route::only_hop(self.words, self.routes.groups, group)?;
        Some((hop.interface, hop.gateway?))
    }

    /// All routes (cold).
    pub fn routes(&self) -> impl Iterator<Item = (IpNet, Route)> + use<'a> {
        route::routes(self.words, &self.route_roots())
    }

    /// The node's own row.
    #[inline]
    pub fn node(&self) -> Node<'a> {
        Node::new(self.words, Ref::from_raw(self.node as u32))
    }

    /// Whether some flows of no service are masqueraded: [`NodeSpec::leaving`](crate::NodeSpec::leaving).
    #[inline]
    pub fn has_leaving(&self) -> bool {
        high(self.node) & crate::node::MASQUERADES != 0
    }

    /// Whether some sources have routes of their own: [`NodeSpec::by_source`](crate::NodeSpec::by_source).
    #[inline]
    pub fn routes_by_source(&self) -> bool {
        high(self.node) & crate::node::BY_SOURCE != 0
    }

    /// Whether anything may have to be asked about a packet that is only routed: policies, a masquerade, or its source's own routes.
    #[inline]
    pub fn asks_of_routed(&self) -> bool {
        (self.policy | self.node) >> 32 != 0
    }

    /// Whether any endpoint is isolated, or a pod of this node. If not, nothing is judged, and nothing remembered for policies to come.
    #[inline]
    pub fn has_policies(&self) -> bool {
        high(self.policy) & policy::IN_FORCE != 0
    }

    #[inline]
    pub(crate) fn policy_tables(&self) -> policy::View<'a> {
        policy::View::new(self.words, self.policy)
    }

    /// What the policies know of an address.
    #[inline]
    pub fn policy_endpoint(&self, addr: &Addr) -> Endpoint {
        self.policy_tables().endpoint(addr)
    }

    /// Whether a flow may begin by the rules of `subject`: its peer is of `class`, and it goes to `port` (host order; of no consequence where
    /// the protocol has none), translated, whichever end the subject is.
    #[inline]
    pub fn judge(&self, subject: SubjectId, class: ClassId, protocol: u8, port: u16) -> Decision {
        self.policy_tables().judge(subject, class, protocol, port)
    }

    /// What is said of a flow that an endpoint sends to itself by way of a service, as its source and as its destination (cold). `None`:
    /// nothing, so that it may pass.
    pub fn judge_itself(
        &self,
        endpoint: &Endpoint,
        protocol: u8,
        port: u16,
    ) -> [Option<Decision>; 2] {
        self.policy_tables().judge_itself(endpoint, protocol, port)
    }

    /// What established flows do when policies change.
    #[inline]
    pub fn policy_changes(&self) -> PolicyChanges {
        if self.policy_tables().word(record::FLAGS) & policy::KEEPS_FLOWS != 0 {
            PolicyChanges::Keep
        } else {
            PolicyChanges::Strict
        }
    }

    /// Whether all packets of this endpoint are to come to the engine where a kernel forwards them: it is isolated; or, where changes leave
    /// established flows alone, it is any pod of this node, since which are established only who has seen them can tell.
    pub fn is_led(&self, endpoint: &policy::Endpoint) -> bool {
        endpoint.is_isolated()
            || endpoint.is_local() && self.policy_changes() == PolicyChanges::Keep
    }

    /// The policies that decided, or with `shadow` those that would deny: those that isolate the endpoint, or the one whose rule it was (cold).
    pub fn deciders(
        &self,
        decision: &Decision,
        shadow: bool,
    ) -> impl Iterator<Item = PolicyId> + use<'a> {
        self.policy_tables().deciders(decision, shadow)
    }

    /// What an endpoint is called, if anything (cold).
    pub fn endpoint_name(&self, endpoint: &Endpoint) -> Option<String> {
        cold::read(self.words, self.policy_tables().endpoint_names(endpoint)).next()
    }

    /// All prefixes that the policies know something of (cold).
    pub fn policy_endpoints(&self) -> impl Iterator<Item = (IpNet, Endpoint)> + use<'a> {
        let view = self.policy_tables();
        let roots = view.word(record::ENDPOINTS);
        fib::routes(self.words, roots as u32, Family::V4)
            .chain(fib::routes(self.words, high(roots), Family::V6))
            .map(move |(prefix, leaf)| (prefix, view.endpoint_of(leaf)))
    }

    /// A policy (cold).
    pub fn policy(&self, id: PolicyId) -> Option<PolicyRow> {
        self.policy_tables().policy(id)
    }

    /// All policies, lowest number first (cold).
    pub fn policies(&self) -> impl Iterator<Item = PolicyRow> + use<'a> {
        let view = self.policy_tables();
        view.fingerprints().filter_map(move |(id, _)| view.policy(id))
    }

    /// The number of each policy and the fingerprint of its name, lowest number first.
    pub fn policy_fingerprints(&self) -> impl Iterator<Item = (PolicyId, u32)> + use<'a> {
        self.policy_tables().fingerprints()
    }

    /// Who may send from an interface. `None`: anybody.
    #[inline]
    pub fn guard(&self, interface: InterfaceId) -> Option<Guard<'a>> {
        Guard::find(self.words, self.guards, interface)
    }

    /// Whose a guard is (cold).
    pub fn guard_name(&self, guard: &Guard<'_>) -> String {
        cold::read(self.words, guard.names).next().unwrap_or_default()
    }

    /// Since which generation the policies have the names that they have: their numbers may mean others since.
    #[inline]
    pub fn policies_named(&self) -> u64 {
        self.policy_tables().word(record::FLAGS) >> 8
    }

    /// The configured MAC of a neighbor.
    pub fn static_neighbor(&self, interface: InterfaceId, addr: &Addr) -> Option<Mac> {
        let key = neighbor_key(interface, addr);
        let found: Option<[u64; 1]> =
            trie::find(self.words, self.slot(root::NEIGHBORS), trie::hash(self.seed, &key), &key);
        found.map(|[mac]| Mac::from_u64(mac))
    }

    /// All configured neighbors, in no useful order.
    pub fn static_neighbors(&self) -> impl Iterator<Item = NeighborRow> + use<'a> {
        trie::iter::<3, 1>(self.words, self.slot(root::NEIGHBORS)).map(|entry| NeighborRow {
            interface: InterfaceId(entry.key[2] as u16),
            addr: Addr::from_words([entry.key[0], entry.key[1]]),
            mac: Mac::from_u64(entry.value[0]),
        })
    }

    /// An interface (cold).
    pub fn interface(&self, id: InterfaceId) -> Option<InterfaceRow> {
        let at = index::find(self.words, self.slot(root::INTERFACES), u32::from(id.0));
        (!at.is_null()).then(|| interface::read(self.words, at))
    }

    /// All interfaces, lowest number first (cold).
    pub fn interfaces(&self) -> impl Iterator<Item = InterfaceRow> + use<'a> {
        let words = self.words;
        index::iter(words, self.slot(root::INTERFACES))
            .map(move |(_, at)| interface::read(words, at))
    }
}

/// The trie key of a frontend; port and protocol 0 for the address as such.
#[inline]
pub(crate) fn frontend_key(addr: &Addr, port: u16, protocol: u8) -> [u64; 3] {
    let [high, low] = addr.to_words();
    [high, low, u64::from(port) | u64::from(protocol) << 16]
}

/// The trie key of a neighbor.
pub(crate) fn neighbor_key(interface: InterfaceId, addr: &Addr) -> [u64; 3] {
    let [high, low] = addr.to_words();
    [high, low, u64::from(interface.0)]
}

#[inline]
pub(crate) fn frontend_of(word: u64) -> Frontend {
    Frontend {
        service: ServiceId(word as u32),
        kind: FrontendKind((word >> 32) as u8),
        set: if word >> 40 & 0xff == 0 { SetChoice::Cluster } else { SetChoice::Local },
        flags: (word >> 48) as u8,
    }
}

/// The value word of a frontend.
pub(crate) fn frontend_value(frontend: &Frontend) -> u64 {
    u64::from(frontend.service.0)
        | u64::from(frontend.kind.0) << 32
        | u64::from(frontend.set == SetChoice::Local) << 40
        | u64::from(frontend.flags) << 48
}
