//! Text scenarios: objects in, frontends with backends, refusals, interfaces and routes out. One behaviour a file.
//!
//! Each runs through the whole of control short of the socket: decode, judge, store, compile, stage, publish; expectations are
//! read back from the tables' own snapshot. The format is described in `control/README.md`.

use std::{
    collections::BTreeSet,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use crate::policy;
use millrace_control::{
    Compiler, Key, Store, World, apply,
    compile::node::{self, NodeOptions},
    desired::Pod,
    reflect::documents,
    world::NodeView,
};
use millrace_tables::{Readers, Route, SegmentConfig, SetChoice, Snapshot, WhenEmpty, Writer};

fn testdata() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata")
}

#[test]
fn every_scenario_holds() {
    let mut paths: Vec<_> =
        fs::read_dir(testdata()).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    assert!(paths.len() >= 130, "only {} scenarios found", paths.len());
    let mut failed = String::new();
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        if let Err(why) = run(&text) {
            writeln!(failed, "{}: {why}", path.file_name().unwrap().to_string_lossy()).unwrap();
        }
    }
    assert!(failed.is_empty(), "\n{failed}");
}

#[test]
fn a_scenario_that_does_not_hold_says_where() {
    let error = run("== frontends\n10.0.0.1:80/TCP ClusterIP default/x -> reject\n").unwrap_err();
    assert!(error.contains("line 1, frontends") && error.contains("10.0.0.1:80/TCP"), "{error}");
    assert!(
        run("== nonsense\n").is_err()
            && run("node\n== frontends\n").is_err()
            && run("only words\n").is_err()
    );
}

struct Scenario {
    store: Store,
    compiler: Compiler,
    writer: Writer,
    view: NodeView,
    world_of: Option<String>,
    options: NodeOptions,
    world: World,
    refused: Vec<String>,
    /// Texts that the head names: objects that are there before the first step.
    with: Vec<String>,
}

fn run(text: &str) -> Result<(), String> {
    let config = SegmentConfig { bytes: 16 << 20, ..SegmentConfig::default() };
    let mut writer = Writer::create(&config).map_err(|error| error.to_string())?;
    writer.set_readers(Readers::Nobody);
    let mut scenario = Scenario {
        store: Store::new(),
        compiler: Compiler::new(),
        writer,
        view: NodeView::default(),
        world_of: None,
        options: NodeOptions::default(),
        world: World::default(),
        refused: Vec::new(),
        with: Vec::new(),
    };
    let mut parts = text.split("\n== ");
    let head = parts.next().unwrap_or_default();
    let (head, first) = match head.strip_prefix("== ") {
        Some(step) => ("", Some(step)),
        None => (head, None),
    };
    for line in head.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        scenario.set(line)?;
    }
    for text in std::mem::take(&mut scenario.with) {
        scenario.step("apply", &text).map_err(|why| format!("with: {why}"))?;
    }
    let mut steps = 0;
    let mut line = head.lines().count() + 1;
    for step in first.into_iter().chain(parts) {
        let (verb, body) = step.split_once('\n').unwrap_or((step, ""));
        scenario.step(verb.trim(), body).map_err(|why| format!("line {line}, {verb}: {why}"))?;
        line += step.lines().count();
        steps += 1;
    }
    if steps == 0 { Err("has no step".into()) } else { Ok(()) }
}

impl Scenario {
    /// A line of the head: `node NAME [ADDRESS…]`, `world NAME`, `service-cidr CIDR`, `nodeport-addresses ITEM`.
    fn set(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let (verb, name) = (
            words.next().unwrap_or_default(),
            words.next().ok_or(format!("{line:?} needs a word more"))?,
        );
        match verb {
            "node" => {
                let addresses: Result<Vec<std::net::IpAddr>, _> = words.map(str::parse).collect();
                let addresses = addresses.map_err(|error| error.to_string())?;
                self.view = NodeView {
                    name: name.into(),
                    node_port_addresses: addresses.into_iter().map(Into::into).collect(),
                    ..self.view.clone()
                };
            }
            "world" => self.world_of = Some(name.into()),
            "with" => {
                let path = testdata().join(format!("{name}.yaml"));
                self.with.push(fs::read_to_string(path).map_err(|error| error.to_string())?);
            }
            "service-cidr" => {
                self.options.service_cidr.push(name.parse().map_err(|_| "not a prefix")?)
            }
            "nodeport-addresses" => self.options.nodeport_addresses.push(name.parse()?),
            "cluster-cidr" => {
                self.options.cluster_cidr.push(name.parse().map_err(|_| "not a prefix")?)
            }
            "masquerade-all" => self.options.masquerade_all = name == "yes",
            "detect-local-mode" => {
                let mode = clap::ValueEnum::from_str(name, false)?;
                self.options.detect_local_mode = Some(mode);
            }
            _ => return Err(format!("{verb:?} is no option")),
        }
        Ok(())
    }

    fn step(&mut self, verb: &str, body: &str) -> Result<(), String> {
        match verb {
            "apply" => self.apply(body),
            "delete" => self.delete(body),
            "frontends" => compare(body, &frontends(self.writer.tables().snapshot())),
            "refused" => compare(body, &self.refused),
            "conflicts" => compare(body, &self.conflicts()),
            "interfaces" => compare(body, &interfaces(self.writer.tables().snapshot())),
            "routes" => compare(body, &routes(self.writer.tables().snapshot())),
            "masquerade" => compare(body, &masquerade(self.writer.tables().snapshot())),
            "sources" => compare(body, &self.sources()),
            "verdicts" => self.verdicts(body),
            "endpoints" => compare(body, &endpoints(self.writer.tables().snapshot())),
            _ => Err(
                "is no step: apply, delete, frontends, refused, conflicts, interfaces, routes, masquerade, sources, verdicts or endpoints"
                    .into(),
            ),
        }
    }

    fn apply(&mut self, body: &str) -> Result<(), String> {
        self.refused.clear();
        for document in documents::parse(body) {
            match document.value {
                Ok(value) => self
                    .refused
                    .extend(self.store.apply_json(value).iter().map(ToString::to_string)),
                Err(error) => return Err(format!("document {}: {}", document.number, error.why)),
            }
        }
        self.publish()
    }

    fn delete(&mut self, body: &str) -> Result<(), String> {
        for line in body.lines().filter(|line| !line.trim().is_empty()) {
            let (kind, name) = line.trim().split_once(' ').ok_or("wants `Kind namespace/name`")?;
            let (namespace, name) = name.split_once('/').unwrap_or(("", name));
            if !self.store.delete_named(kind, namespace, name) {
                return Err(format!("there is no {line}"));
            }
        }
        self.publish()
    }

    fn publish(&mut self) -> Result<(), String> {
        self.world = match &self.world_of {
            Some(name) => node::world(&self.store, name, &self.options, Some(&self.world))
                .map_err(|error| error.to_string())?,
            None => World { node: self.view.clone(), ..World::default() },
        };
        let changes = self.compiler.update(&mut self.store, &self.world.clone().into());
        let refused = apply(&mut self.writer, changes);
        if let Some(row) = refused.first() {
            return Err(format!("the tables refused a row: {}", row.error));
        }
        self.writer.publish().map(drop).map_err(|error| error.to_string())
    }

    /// Lines such as `tcp default/a -> 10.0.2.7:80 deny by NetworkPolicy default/x (egress)`: each is asked and has to be answered so.
    fn verdicts(&self, body: &str) -> Result<(), String> {
        let mut asked = Vec::new();
        let lines = body.lines().map(str::trim);
        for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [protocol, from, "->", to, ..] = words[..] else {
                return Err(format!("{line:?} wants `PROTOCOL FROM -> TO[:PORT] VERDICT`"));
            };
            let v6 = protocol.ends_with('6');
            let number = match protocol.trim_end_matches('6') {
                "tcp" => 6,
                "udp" => 17,
                "sctp" => 132,
                "icmp" if v6 => 58,
                "icmp" => 1,
                other => return Err(format!("{other:?} is no protocol")),
            };
            let (to_name, port) = match to.rsplit_once(':') {
                Some((name, port)) if !["icmp", "icmp6"].contains(&protocol) => {
                    (name, port.parse().map_err(|_| format!("{to:?} has no port"))?)
                }
                _ => (to, 0),
            };
            let (from, to_addr) = (self.address(from, v6)?, self.address(to_name, v6)?);
            let tables = self.writer.tables();
            let said = policy::said(tables.snapshot(), from, to_addr, number, port);
            asked.push(format!("{} {} -> {to} {said}", protocol, words[1]));
        }
        compare(body, &asked)
    }

    /// Of a pod as `namespace/name`, or written out (IPv6 in brackets).
    fn address(&self, name: &str, v6: bool) -> Result<millrace_wire::Addr, String> {
        let plain = name.trim_matches(['[', ']']);
        if let Ok(ip) = plain.parse::<std::net::IpAddr>() {
            return Ok(ip.into());
        }
        let (namespace, pod) =
            name.split_once('/').ok_or(format!("{name:?} is no pod or address"))?;
        let of = |(key, _): &(&Key, &Pod)| key.namespace == namespace && key.name == pod;
        let (_, row) = self.store.pods().find(of).ok_or(format!("there is no pod {name}"))?;
        let found = row.addresses.iter().find(|addr| addr.is_v4() != v6);
        found.copied().ok_or(format!("pod {name} has no such address"))
    }

    /// Frontends that ask where a flow comes from, and the ranges that it may come from.
    fn sources(&self) -> Vec<String> {
        let tables = self.writer.tables();
        let snapshot = tables.snapshot();
        let asks = |row: &millrace_tables::FrontendRow| {
            row.frontend.flags & millrace_tables::Frontend::SOURCE_RANGES != 0
        };
        let line = |row: millrace_tables::FrontendRow| {
            let place = socket(row.addr.into(), row.port);
            let spec = &self.compiler.services()[&snapshot.service_key(row.frontend.service)];
            let service = snapshot.service(row.frontend.service).unwrap();
            let mut ranges: Vec<String> =
                spec.source_ranges.iter().map(ToString::to_string).collect();
            for range in &spec.source_ranges {
                assert!(snapshot.is_in_ranges(&service, &range.addr().into()), "{range}");
            }
            ranges.sort();
            ranges.insert(0, format!("{place}/{} from", millrace_wire::Protocol(row.protocol)));
            ranges.join(" ")
        };
        snapshot.frontends().filter(asks).map(line).collect()
    }

    fn conflicts(&self) -> Vec<String> {
        let show = |conflict: millrace_control::compile::Conflict| {
            let (addr, port, protocol) = conflict.frontend;
            format!(
                "{}/{} {} keeps, {} asks",
                socket(addr.into(), port),
                millrace_wire::Protocol(protocol),
                conflict.owner,
                conflict.refused
            )
        };
        self.compiler.conflicts().map(show).collect()
    }
}

fn frontends(snapshot: Snapshot<'_>) -> Vec<String> {
    let line = |row: millrace_tables::FrontendRow| {
        let service = snapshot
            .service(row.frontend.service)
            .expect("a frontend's service is in the same generation");
        let set = service.set(row.frontend.set);
        let mut line = format!(
            "{}/{} ",
            socket(row.addr.into(), row.port),
            millrace_wire::Protocol(row.protocol)
        );
        write!(line, "{} {}", row.frontend.kind.name(), snapshot.service_name(service.id)).unwrap();
        if row.frontend.set == SetChoice::Local {
            line += " local";
        }
        if service.affinity_seconds != 0 {
            write!(line, " affinity={}", service.affinity_seconds).unwrap();
        }
        line += " ->";
        let backends: BTreeSet<String> = snapshot
            .backends(set)
            .map(|backend| {
                let terminating = if backend.flags & millrace_tables::Backend::TERMINATING != 0 {
                    " (terminating)"
                } else {
                    ""
                };
                socket(backend.addr.into(), backend.port) + terminating
            })
            .collect();
        match (backends.is_empty(), set.when_empty) {
            (false, _) => backends.iter().for_each(|backend| write!(line, " {backend}").unwrap()),
            (true, WhenEmpty::Reject) => line += " reject",
            (true, WhenEmpty::Drop) => line += " drop",
        }
        // What packets see, not only what lists say: a pick gives a member, or nothing when there is none.
        let picked = snapshot
            .pick(set, 0x9e37_79b9_7f4a_7c15)
            .map(|backend| socket(backend.addr.into(), backend.port));
        assert_eq!(picked.is_some(), !backends.is_empty(), "{line}");
        assert!(
            picked.is_none_or(|picked| backends.iter().any(|backend| backend.starts_with(&picked))),
            "{line}"
        );
        line
    };
    snapshot.frontends().map(line).collect()
}

/// What policies know of addresses, but for their numbers.
fn endpoints(snapshot: Snapshot<'_>) -> Vec<String> {
    let line = |(net, endpoint): (ipnet::IpNet, millrace_tables::Endpoint)| {
        let mut line = net.to_string();
        line += endpoint.ingress().map_or("", |_| " ingress");
        line += endpoint.egress().map_or("", |_| " egress");
        line += if endpoint.is_node() { " node" } else { "" };
        line += if endpoint.is_closed() { " closed" } else { "" };
        line + &snapshot.endpoint_name(&endpoint).map(|name| format!(" {name}")).unwrap_or_default()
    };
    snapshot.policy_endpoints().map(line).collect()
}

/// Where sources are changed, and what the node's row says of pods and addresses.
fn masquerade(snapshot: Snapshot<'_>) -> Vec<String> {
    use millrace_tables::Frontend;
    let line = |row: millrace_tables::FrontendRow| {
        let how = match row.frontend.flags & !(Frontend::SOURCE_RANGES | Frontend::AFFINITY) {
            0 => "none",
            Frontend::MASQUERADE => "all",
            Frontend::MASQUERADE_FOREIGN => "but-pods",
            Frontend::SHORT_CIRCUIT => "node",
            _ => "?",
        };
        let kind = row.frontend.kind.name();
        format!(
            "{}/{} {kind} {how}",
            socket(row.addr.into(), row.port),
            millrace_wire::Protocol(row.protocol)
        )
    };
    let spec = snapshot.node().spec();
    let pods = spec.pods.iter().map(|range| format!("pods {range}"));
    let sources = spec.sources.iter().map(|(id, net)| format!("source {} {net}", id.0));
    snapshot.frontends().map(line).chain(pods).chain(sources).collect()
}

fn interfaces(snapshot: Snapshot<'_>) -> Vec<String> {
    let line = |row: millrace_tables::InterfaceRow| {
        let addresses = row.addresses.iter().map(|address| format!(" {address}"));
        format!("{} {} {}{}", row.id.0, row.kind.name(), row.name, addresses.collect::<String>())
    };
    snapshot.interfaces().map(line).collect()
}

fn routes(snapshot: Snapshot<'_>) -> Vec<String> {
    let name = |id| snapshot.interface(id).map(|row| row.name).unwrap_or_default();
    let line = |(prefix, route)| match route {
        Route::Forward(group) => {
            let hop = snapshot.next_hop(group, 0).expect("a group has a hop");
            let via = hop.gateway.map(|via| format!(" via {via}")).unwrap_or_default();
            format!("{prefix}{via} dev {}", name(hop.interface))
        }
        other => format!("{prefix} {other:?}").to_lowercase(),
    };
    snapshot.routes().map(line).collect()
}

fn socket(addr: std::net::IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(addr, port).to_string()
}

/// Lines in any order, exactly these.
fn compare(expected: &str, found: &[String]) -> Result<(), String> {
    let lines =
        expected.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut expected: Vec<&str> = lines.collect();
    let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
    expected.sort_unstable();
    found.sort_unstable();
    if expected == found {
        return Ok(());
    }
    let mut why = String::new();
    for line in expected.iter().filter(|line| !found.contains(line)) {
        write!(why, "\n    missing:  {line}").unwrap();
    }
    for line in found.iter().filter(|line| !expected.contains(line)) {
        write!(why, "\n    not meant: {line}").unwrap();
    }
    Err(if why.is_empty() { "a line comes more than once".into() } else { why })
}
