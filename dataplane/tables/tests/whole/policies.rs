//! Policies against a dumb model: maps of what was set, asked anew for each verdict; and what a world of them takes.

use ipnet::IpNet;
use millrace_tables::{
    ByPolicies, ClassId, Decision, DecisionId, DecisionSpec, Endpoint, EndpointSpec, Judgements,
    PolicyChanges, PolicyId, PolicySpec, PortMapId, PortMapSpec, ReaderEpoch, Readers,
    SegmentConfig, Slots, Snapshot, SubjectId, Table, Writer, epoch,
    shm::{Seals, Segment},
};
use millrace_wire::Addr;
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

#[derive(Clone, Debug)]
enum Step {
    Endpoint(u8, EndpointSpec),
    NoEndpoint(u8),
    Subject(u8, u8),
    NoSubject(u8),
    Cells(u8, Vec<(u16, Option<u8>)>),
    /// A run of classes, so that chunks fill up and become uniform.
    Run(u8, u16, u16, Option<u8>),
    PortMap(u8, PortMapSpec),
    NoPortMap(u8),
    Decision(u8, DecisionSpec),
    NoDecision(u8),
    Policy(u8, PolicySpec),
    NoPolicy(u8),
    Keep(bool),
    Publish,
    Enter(usize),
}

fn prefix(n: u8) -> IpNet {
    let text = match n % 5 {
        0 => format!("10.1.{}.{n}/32", n % 3),
        1 => format!("10.1.0.0/{}", 8 + n % 24),
        2 => format!("fd00::{n:x}/128"),
        3 => format!("fd00::/{}", n % 128),
        _ => format!("0.0.0.0/{}", n % 8),
    };
    text.parse::<IpNet>().unwrap().trunc()
}

fn addresses() -> impl Iterator<Item = Addr> {
    let hosts = (0..=40u8).map(|n| prefix(n).addr());
    let others = ["10.1.0.77", "10.77.0.1", "192.0.2.1", "fd00::7777", "2001:db8::1"];
    hosts.chain(others.into_iter().map(|text| text.parse::<IpAddr>().unwrap())).map(Addr::from)
}

fn by() -> impl Strategy<Value = ByPolicies> {
    (prop::collection::vec(0u32..6, 0..4), prop::option::of(0u16..9)).prop_map(|(ids, rule)| {
        ByPolicies { policies: ids.into_iter().map(PolicyId).collect(), rule }
    })
}

fn intervals() -> impl Strategy<Value = Vec<(u16, DecisionId)>> {
    let few = prop::collection::btree_map(1u16.., 0u32..6, 0..5);
    let many = prop::collection::btree_map(1u16.., 0u32..6, 0..80);
    (0u32..6, prop_oneof![4 => few, 1 => many]).prop_map(|(first, others)| {
        std::iter::once((0, first)).chain(others).map(|(port, id)| (port, DecisionId(id))).collect()
    })
}

fn step() -> impl Strategy<Value = Step> {
    let map = || prop_oneof![3 => Just(None), 1 => (0u32..5).prop_map(|id| Some(PortMapId(id)))];
    let subject = || prop::option::of(0u32..4);
    let itself = [map(), map()];
    let endpoint = (0u32..100, subject(), subject(), 0u32..16, "(pod-[a-c])?", itself).prop_map(
        |(class, ingress, egress, flags, name, itself)| EndpointSpec {
            class: ClassId(class),
            ingress: ingress.map(SubjectId),
            egress: egress.map(SubjectId),
            flags,
            name,
            itself,
        },
    );
    let map =
        (intervals(), intervals(), intervals(), 0u32..6).prop_map(|(tcp, udp, sctp, other)| {
            PortMapSpec { tcp, udp, sctp, other: DecisionId(other) }
        });
    let decision = (any::<bool>(), by(), prop::option::of(by()))
        .prop_map(|(allow, by, shadow)| DecisionSpec { allow, by, shadow });
    let cells = prop::collection::vec((0u16..200, prop::option::of(0u8..5)), 0..6);
    prop_oneof![
        4 => (0u8..=40, endpoint).prop_map(|(n, spec)| Step::Endpoint(n, spec)),
        2 => (0u8..=40).prop_map(Step::NoEndpoint),
        3 => (0u8..4, 0u8..5).prop_map(|(s, map)| Step::Subject(s, map)),
        1 => (0u8..4).prop_map(Step::NoSubject),
        4 => (0u8..4, cells).prop_map(|(s, cells)| Step::Cells(s, cells)),
        2 => (0u8..4, 0u16..4, 1u16..70, prop::option::of(0u8..5))
            .prop_map(|(s, first, count, map)| Step::Run(s, first * 16, count, map)),
        4 => (0u8..5, map).prop_map(|(id, spec)| Step::PortMap(id, spec)),
        1 => (0u8..5).prop_map(Step::NoPortMap),
        4 => (0u8..6, decision).prop_map(|(id, spec)| Step::Decision(id, spec)),
        1 => (0u8..6).prop_map(Step::NoDecision),
        2 => (0u8..6, "[a-c]{1,9}", 0u32..9, any::<bool>())
            .prop_map(|(id, name, pods, shadow)| Step::Policy(id, PolicySpec { name, pods, shadow })),
        1 => (0u8..6).prop_map(Step::NoPolicy),
        1 => any::<bool>().prop_map(Step::Keep),
        4 => Just(Step::Publish),
        3 => (0usize..2).prop_map(Step::Enter),
    ]
}

#[derive(Clone, Default)]
struct Model {
    endpoints: BTreeMap<IpNet, EndpointSpec>,
    defaults: BTreeMap<u32, u32>,
    cells: BTreeMap<(u32, u32), u32>,
    maps: BTreeMap<u32, PortMapSpec>,
    decisions: BTreeMap<u32, DecisionSpec>,
    policies: BTreeMap<u32, PolicySpec>,
    keep: bool,
}

impl Model {
    fn apply(&mut self, writer: &mut Writer, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Endpoint(n, spec) => {
                writer.set_policy_endpoint(prefix(*n), spec).unwrap();
                self.endpoints.insert(prefix(*n), spec.clone());
            }
            Step::NoEndpoint(n) => {
                let was = self.endpoints.remove(&prefix(*n)).is_some();
                prop_assert_eq!(writer.remove_policy_endpoint(&prefix(*n)).unwrap(), was);
            }
            Step::Subject(subject, map) => {
                let (subject, map) = (u32::from(*subject), u32::from(*map));
                writer.set_subject(SubjectId(subject), PortMapId(map)).unwrap();
                self.defaults.insert(subject, map);
            }
            Step::NoSubject(subject) => {
                let subject = u32::from(*subject);
                let was = self.defaults.remove(&subject).is_some();
                self.cells.retain(|(of, _), _| *of != subject);
                prop_assert_eq!(writer.remove_subject(SubjectId(subject)).unwrap(), was);
            }
            Step::Cells(subject, cells) => {
                let cells: Vec<_> =
                    cells.iter().map(|(class, map)| (u32::from(*class), *map)).collect();
                self.set_cells(writer, (*subject).into(), &cells)?;
            }
            Step::Run(subject, first, count, map) => {
                let cells: Vec<_> =
                    (*first..first + count).map(|class| (class.into(), *map)).collect();
                self.set_cells(writer, (*subject).into(), &cells)?;
            }
            Step::PortMap(id, spec) => {
                writer.set_port_map(PortMapId((*id).into()), spec).unwrap();
                self.maps.insert((*id).into(), spec.clone());
            }
            Step::NoPortMap(id) => {
                let was = self.maps.remove(&(*id).into()).is_some();
                prop_assert_eq!(writer.remove_port_map(PortMapId((*id).into())).unwrap(), was);
            }
            Step::Decision(id, spec) => {
                writer.set_decision(DecisionId((*id).into()), spec).unwrap();
                self.decisions.insert((*id).into(), spec.clone());
            }
            Step::NoDecision(id) => {
                let was = self.decisions.remove(&(*id).into()).is_some();
                prop_assert_eq!(writer.remove_decision(DecisionId((*id).into())).unwrap(), was);
            }
            Step::Policy(id, spec) => {
                writer.set_policy(PolicyId((*id).into()), spec).unwrap();
                self.policies.insert((*id).into(), spec.clone());
            }
            Step::NoPolicy(id) => {
                let was = self.policies.remove(&(*id).into()).is_some();
                prop_assert_eq!(writer.remove_policy(PolicyId((*id).into())).unwrap(), was);
            }
            Step::Keep(keep) => {
                let changes = if *keep { PolicyChanges::Keep } else { PolicyChanges::Strict };
                writer.set_policy_changes(changes);
                self.keep = *keep;
            }
            Step::Publish | Step::Enter(_) => {}
        }
        Ok(())
    }

    fn set_cells(
        &mut self,
        writer: &mut Writer,
        subject: u32,
        cells: &[(u32, Option<u8>)],
    ) -> Result<(), TestCaseError> {
        let told: Vec<_> = cells
            .iter()
            .map(|(class, map)| (ClassId(*class), map.map(|map| PortMapId(map.into()))))
            .collect();
        let set = writer.set_cells(SubjectId(subject), &told);
        prop_assert_eq!(set.is_ok(), self.defaults.contains_key(&subject));
        if set.is_ok() {
            for (class, map) in cells {
                match map {
                    Some(map) => _ = self.cells.insert((subject, *class), (*map).into()),
                    None => _ = self.cells.remove(&(subject, *class)),
                }
            }
        }
        Ok(())
    }

    fn endpoint(&self, addr: &Addr) -> Option<&EndpointSpec> {
        let ip = addr.to_ip();
        let covering = self.endpoints.iter().filter(|(prefix, _)| prefix.contains(&ip));
        covering.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, spec)| spec)
    }

    fn judge(&self, subject: u32, class: u32, protocol: u8, port: u16) -> Option<&DecisionSpec> {
        let default = self.defaults.get(&subject)?;
        self.ask(*self.cells.get(&(subject, class)).unwrap_or(default), protocol, port)
    }

    fn ask(&self, map: u32, protocol: u8, port: u16) -> Option<&DecisionSpec> {
        let map = self.maps.get(&map)?;
        let ports = match protocol {
            6 => &map.tcp,
            17 => &map.udp,
            132 => &map.sctp,
            _ => return self.decisions.get(&map.other.0),
        };
        let (_, id) = ports.iter().rev().find(|(first, _)| *first <= port)?;
        self.decisions.get(&id.0)
    }

    fn check(&self, snapshot: Snapshot<'_>) -> Result<(), TestCaseError> {
        let isolated = |spec: &EndpointSpec| {
            spec.ingress.is_some() || spec.egress.is_some() || spec.flags & Endpoint::CLOSED != 0
        };
        let asked = |spec: &EndpointSpec| isolated(spec) || spec.flags & Endpoint::LOCAL != 0;
        prop_assert_eq!(snapshot.has_policies(), self.endpoints.values().any(asked));
        prop_assert_eq!(snapshot.policy_changes() == PolicyChanges::Keep, self.keep);
        for addr in addresses() {
            let found = snapshot.policy_endpoint(&addr);
            let want = self.endpoint(&addr).cloned().unwrap_or_default();
            prop_assert_eq!(found.class, want.class, "{}", addr);
            prop_assert_eq!((found.ingress(), found.egress()), (want.ingress, want.egress));
            prop_assert_eq!((found.flags, found.is_isolated()), (want.flags, isolated(&want)));
            prop_assert_eq!(snapshot.endpoint_name(&found).unwrap_or_default(), want.name);
            let [ingress, egress] = want.itself;
            for (said, map) in
                snapshot.judge_itself(&found, 6, 80).into_iter().zip([egress, ingress])
            {
                prop_assert_eq!(said.is_some(), map.is_some());
                if let (Some(said), Some(map)) = (said, map) {
                    same(snapshot, &said, self.ask(map.0, 6, 80))?;
                }
            }
        }
        at_once(snapshot)?;
        let shown: BTreeSet<IpNet> =
            snapshot.policy_endpoints().map(|(prefix, _)| prefix).collect();
        prop_assert_eq!(shown, self.endpoints.keys().copied().collect());
        let ports: BTreeSet<u16> = self
            .maps
            .values()
            .flat_map(|map| map.tcp.iter().chain(&map.udp).chain(&map.sctp))
            .flat_map(|(port, _)| [port.saturating_sub(1), *port, port.saturating_add(1)])
            .chain([u16::MAX])
            .collect();
        let classes: BTreeSet<u32> =
            self.cells.keys().map(|(_, class)| *class).chain([0, 63, 64, 199, 4_000]).collect();
        for subject in 0..5 {
            for (n, class) in classes.iter().enumerate() {
                for (m, port) in ports.iter().enumerate() {
                    // All ports with some classes, all classes with some ports.
                    if n % 16 != 0 && m % 16 != 0 {
                        continue;
                    }
                    for protocol in [6, 17, 132, 1] {
                        let found =
                            snapshot.judge(SubjectId(subject), ClassId(*class), protocol, *port);
                        let want = self.judge(subject, *class, protocol, *port);
                        same(snapshot, &found, want)?;
                    }
                }
            }
        }
        let rows: BTreeMap<u32, PolicySpec> = snapshot
            .policies()
            .map(|row| {
                (row.id.0, PolicySpec { name: row.name, pods: row.pods, shadow: row.shadow })
            })
            .collect();
        prop_assert_eq!(&rows, &self.policies);
        prop_assert_eq!(snapshot.policy(PolicyId(77)), None);
        Ok(())
    }
}

/// Flows among all addresses, judged many at once, are judged as one by one.
fn at_once(snapshot: Snapshot<'_>) -> Result<(), TestCaseError> {
    let addrs: Vec<Addr> = addresses().collect();
    let mut all = Judgements::with_room(FLOWS);
    for (n, dst) in addrs.iter().enumerate() {
        for (sources, port) in addrs.chunks(FLOWS).zip([0, 80, 443, 8_080].into_iter().cycle()) {
            all.clear();
            let protocol = [6, 17, 132, 1][n % 4];
            for (number, src) in sources.iter().enumerate() {
                prop_assert_eq!(all.ask([*src, *dst], protocol, port), Some(number));
            }
            let mut counted = Vec::new();
            snapshot.judge_all(&mut all, |policy| counted.push(policy));
            for (number, src) in sources.iter().enumerate() {
                let judged = all.get(number).unwrap();
                prop_assert!(judged.is_of([src, dst], protocol, port));
                prop_assert!(!judged.is_of([src, dst], protocol, port + 1));
                let [source, destination] = [src, dst].map(|addr| snapshot.policy_endpoint(addr));
                prop_assert_eq!(judged.endpoints, [source, destination]);
                let says = |subject: Option<SubjectId>, peer: &Endpoint| {
                    subject.map(|subject| snapshot.judge(subject, peer.class, protocol, port))
                };
                let want =
                    [says(source.egress(), &destination), says(destination.ingress(), &source)];
                prop_assert_eq!(judged.decisions, want);
                for policy in want.into_iter().flatten().filter_map(|said| said.policy()) {
                    prop_assert!(counted.contains(&policy));
                }
            }
        }
    }
    Ok(())
}

/// Flows that are judged at once.
const FLOWS: usize = 16;

fn same(
    snapshot: Snapshot<'_>,
    found: &Decision,
    want: Option<&DecisionSpec>,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.is_missing(), want.is_none());
    prop_assert_eq!(found.is_allowed(), want.is_some_and(|want| want.allow));
    let by = want.map(|want| want.by.clone()).unwrap_or_default();
    prop_assert_eq!(found.policy(), by.policies.first().copied());
    prop_assert_eq!(found.rule(), by.rule);
    prop_assert_eq!(snapshot.deciders(found, false).collect::<Vec<_>>(), by.policies);
    let shadow = want.and_then(|want| want.shadow.clone());
    prop_assert_eq!(found.would_be_denied(), shadow.is_some());
    let shadow = shadow.unwrap_or_default();
    prop_assert_eq!(
        (found.shadow_policy(), found.shadow_rule()),
        (shadow.policies.first().copied(), shadow.rule)
    );
    prop_assert_eq!(snapshot.deciders(found, true).collect::<Vec<_>>(), shadow.policies);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_pinned_generation_judges_as_it_was_told(steps in prop::collection::vec(step(), 1..100)) {
        let config = SegmentConfig { bytes: 16 << 20, ..SegmentConfig::default() };
        let mut writer = Writer::create(&config).unwrap();
        let state = Segment::create("state", epoch::bytes(2), Seals::Shared).unwrap();
        let slots = Slots::create(Arc::new(state), 2, 0).unwrap();
        writer.set_readers(Readers::Epochs(slots.epochs()));
        let empty = writer.usage();
        let tables = writer.tables();
        let mut readers: Vec<(ReaderEpoch, Option<(Snapshot<'_>, Model)>)> =
            (0..2).map(|slot| (slots.reader(slot).unwrap(), None)).collect();
        let (mut staged, mut published) = (Model::default(), Model::default());
        for step in &steps {
            staged.apply(&mut writer, step)?;
            match step {
                Step::Publish => {
                    writer.publish().unwrap();
                    published = staged.clone();
                }
                Step::Enter(reader) => {
                    let (epoch, pinned) = &mut readers[*reader];
                    if let Some((snapshot, model)) = pinned {
                        model.check(*snapshot)?;
                    }
                    *pinned = Some((epoch.enter(&tables), published.clone()));
                }
                _ => {}
            }
        }
        for (snapshot, model) in readers.iter().filter_map(|(_, pinned)| pinned.as_ref()) {
            model.check(*snapshot)?;
        }
        for (epoch, _) in &mut readers {
            epoch.idle();
        }
        writer.publish().unwrap();
        staged.check(tables.snapshot())?;
        for n in 0..=40 {
            staged.apply(&mut writer, &Step::NoEndpoint(n))?;
        }
        for n in 0..6 {
            for step in [Step::NoSubject(n), Step::NoPortMap(n), Step::NoDecision(n), Step::NoPolicy(n)] {
                staged.apply(&mut writer, &step)?;
            }
        }
        staged.apply(&mut writer, &Step::Keep(false))?;
        writer.publish().unwrap();
        writer.reclaim();
        prop_assert_eq!(writer.usage(), empty);
    }
}

fn writer(bytes: usize) -> Writer {
    let mut writer = Writer::create(&SegmentConfig { bytes, ..SegmentConfig::default() }).unwrap();
    writer.set_readers(Readers::Nobody);
    writer
}

fn policy_bytes(writer: &mut Writer, change: impl FnOnce(&mut Writer)) -> u64 {
    let before = writer.usage().of(Table::Policy);
    change(writer);
    writer.publish().unwrap();
    writer.reclaim();
    writer.usage().of(Table::Policy) - before
}

fn ports(first: u16, count: u16) -> PortMapSpec {
    let mut spec = PortMapSpec::all(DecisionId(0));
    spec.tcp =
        (0..count).map(|n| (if n == 0 { 0 } else { first + n }, DecisionId(n.into()))).collect();
    spec
}

#[test]
fn rows_take_the_bytes_that_are_stated() {
    const COUNT: u32 = 4_096;
    let mut writer = writer(64 << 20);
    // What there is of each table before its first row is not counted.
    let slack = |bytes: u64| bytes / u64::from(COUNT);
    let endpoints = policy_bytes(&mut writer, |writer| {
        for n in 0..COUNT {
            let addr = Addr::from_v4((0x0a01_0000 + n).to_be_bytes());
            let spec = EndpointSpec {
                class: ClassId(n),
                ingress: Some(SubjectId(n)),
                ..EndpointSpec::default()
            };
            writer.set_policy_endpoint(addr.to_ip().into(), &spec).unwrap();
        }
    });
    println!("endpoint: {} bytes", slack(endpoints));
    assert!(slack(endpoints) <= 48, "an endpoint takes {} bytes", slack(endpoints));
    let subjects = policy_bytes(&mut writer, |writer| {
        for n in 0..COUNT {
            writer.set_subject(SubjectId(n), PortMapId(0)).unwrap();
        }
    });
    assert!(slack(subjects) <= 17, "a subject takes {} bytes", slack(subjects));
    let maps = policy_bytes(&mut writer, |writer| {
        for n in 0..COUNT {
            writer.set_port_map(PortMapId(n), &ports(80, 5)).unwrap();
        }
    });
    assert!(slack(maps) <= 65, "a small port map takes {} bytes", slack(maps));
    let decisions = policy_bytes(&mut writer, |writer| {
        for n in 0..COUNT {
            let by = ByPolicies { policies: vec![PolicyId(n)], rule: Some(1) };
            writer
                .set_decision(DecisionId(n), &DecisionSpec { allow: true, by, shadow: None })
                .unwrap();
        }
    });
    assert!(slack(decisions) <= 33, "a decision takes {} bytes", slack(decisions));
    let list = policy_bytes(&mut writer, |writer| {
        writer.set_port_map(PortMapId(0), &ports(80, 40)).unwrap();
    });
    assert!(list <= 512, "a port map of 42 intervals takes {list} bytes more");
    let radix = policy_bytes(&mut writer, |writer| {
        writer.set_port_map(PortMapId(1), &ports(1_024, 512)).unwrap();
    });
    // Two pages of ports that differ, and the top.
    assert_eq!(radix, 3 << 10, "a port map of 512 ports");
}

#[test]
fn cells_take_the_bytes_that_are_stated_and_equal_ones_none() {
    let mut writer = writer(16 << 20);
    let set = |writer: &mut Writer, cells: &[(ClassId, Option<PortMapId>)]| {
        policy_bytes(writer, |writer| writer.set_cells(SubjectId(0), cells).unwrap())
    };
    writer.set_subject(SubjectId(0), PortMapId(0)).unwrap();
    writer.publish().unwrap();
    let classes = |map: &dyn Fn(u32) -> u32| -> Vec<_> {
        (0..4_096).map(|class| (ClassId(class), Some(PortMapId(map(class))))).collect()
    };
    let dense = set(&mut writer, &classes(&|class| class % 7));
    assert_eq!(dense, 64 * 320 + 64 * 4, "5 bytes a cell, 4 for each 64 classes");
    writer.remove_subject(SubjectId(0)).unwrap();
    writer.set_subject(SubjectId(0), PortMapId(0)).unwrap();
    writer.publish().unwrap();
    writer.reclaim();
    let uniform = set(&mut writer, &classes(&|_| 3));
    assert_eq!(uniform, 64 * 4, "equal ones take nothing but the top");
    let one = set(&mut writer, &[(ClassId(77), Some(PortMapId(5)))]);
    assert_eq!(one, 32, "one that differs");
    let scattered: Vec<_> = (0..16).map(|n| (ClassId(n * 256 + 9), Some(PortMapId(5)))).collect();
    assert_eq!(set(&mut writer, &scattered), 16 * 32, "one of each of 16 nodes");

    let before = writer.written();
    writer.set_cells(SubjectId(0), &[(ClassId(78), Some(PortMapId(6)))]).unwrap();
    writer.publish().unwrap();
    let written = writer.written() - before;
    println!("one cell: {written} bytes written");
    assert!(written <= 2 << 10, "{written} bytes written for one cell");
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut writer = writer(2 << 20);
    let generation = writer.generation();
    let prefix: IpNet = "10.1.0.1/24".parse().unwrap();
    assert!(writer.set_policy_endpoint(prefix, &EndpointSpec::default()).is_err());
    let mapped: IpNet = "::ffff:10.0.0.1/128".parse().unwrap();
    assert!(writer.set_policy_endpoint(mapped, &EndpointSpec::default()).is_err());
    let far = EndpointSpec { class: ClassId(u32::MAX), ..EndpointSpec::default() };
    assert!(writer.set_policy_endpoint(prefix.trunc(), &far).is_err());
    let nowhere =
        EndpointSpec { itself: [None, Some(PortMapId(u32::MAX))], ..EndpointSpec::default() };
    assert!(writer.set_policy_endpoint("10.0.0.0/8".parse().unwrap(), &nowhere).is_err());
    let odd = EndpointSpec { flags: 64, ..EndpointSpec::default() };
    assert!(writer.set_policy_endpoint(prefix.trunc(), &odd).is_err());
    assert!(writer.set_subject(SubjectId(u32::MAX), PortMapId(0)).is_err());
    assert!(writer.set_cells(SubjectId(0), &[]).is_err(), "no such subject");
    let mut map = PortMapSpec::all(DecisionId(0));
    map.udp = vec![(1, DecisionId(0))];
    assert!(writer.set_port_map(PortMapId(0), &map).is_err(), "does not begin at 0");
    map.udp = vec![(0, DecisionId(0)), (9, DecisionId(1)), (9, DecisionId(2))];
    assert!(writer.set_port_map(PortMapId(0), &map).is_err(), "does not ascend");
    let name = PolicySpec { name: String::new(), ..PolicySpec::default() };
    assert!(writer.set_policy(PolicyId(0), &name).is_err());
    let by = ByPolicies { policies: vec![PolicyId(1 << 20)], rule: None };
    let decision = DecisionSpec { allow: true, by, shadow: None };
    assert!(writer.set_decision(DecisionId(0), &decision).is_err());
    assert!(!writer.is_dirty());
    assert_eq!(writer.publish().unwrap(), generation);
}

#[test]
fn a_full_segment_refuses_and_can_be_emptied() {
    let mut writer = writer(2 << 20);
    let empty = writer.usage();
    writer.set_subject(SubjectId(0), PortMapId(0)).unwrap();
    let mut maps = 0;
    while writer.set_port_map(PortMapId(maps), &ports(1, 2_000)).is_ok() {
        maps += 1;
        writer.publish().unwrap();
    }
    let mut pods = 0;
    let prefix = |n: u32| IpNet::from(Addr::from_v4((0x0a01_0000 + n).to_be_bytes()).to_ip());
    let spec = EndpointSpec { ingress: Some(SubjectId(0)), ..EndpointSpec::default() };
    while writer.set_policy_endpoint(prefix(pods), &spec).is_ok() {
        pods += 1;
        writer.publish().unwrap();
    }
    assert!(maps > 10, "{maps} port maps");
    let tables = writer.tables();
    for n in 0..pods {
        assert!(tables.snapshot().policy_endpoint(&Addr::from(prefix(n).addr())).is_isolated());
    }
    for n in 0..pods {
        assert!(writer.remove_policy_endpoint(&prefix(n)).unwrap());
        writer.publish().unwrap();
    }
    for n in 0..maps {
        assert!(writer.remove_port_map(PortMapId(n)).unwrap());
        writer.publish().unwrap();
    }
    assert!(writer.remove_subject(SubjectId(0)).unwrap());
    writer.publish().unwrap();
    writer.reclaim();
    assert_eq!(writer.usage(), empty);
}
