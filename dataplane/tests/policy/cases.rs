//! The 48 end-to-end NetworkPolicy cases of Kubernetes by packets (`e2e.txt` has them, under their numbers and names).
//!
//! ```text
//! case NUMBER NAME
//! policy NAMESPACE/NAME JSON          made, or replaced: the spec
//! delete NAMESPACE/NAME
//! label pod NAMESPACE/NAME KEY=VALUE…   or: label namespace NAME KEY=VALUE
//! expect TCP 80                       everyone reaches everyone but for what follows
//! no FROM TO | yes FROM TO            x/a, x/* or *; later lines come before earlier ones
//! ```
//! Each expectation is asked in IPv4 and IPv6 between all nine pods, x/a to z/c (the originals make only the pods that they need), and held against the model too. What
//! a pod sends to itself never comes to an interface; the originals leave it out as well.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};

use super::worlds;
use crate::common::peers::probe::{self, Kind, Probe};
use crate::common::pods::{PODS, Pods, addresses};
use crate::model::Model;

const TEXT: &str = include_str!("e2e.txt");
/// Cases that there are.
const CASES: usize = 48;

/// `x/a` to `z/c`.
pub fn name(n: usize) -> String {
    let of = |at: usize, names: &str| names.chars().nth(at).unwrap();
    format!("{}/{}", of(n / 3, "xyz"), of(n % 3, "abc"))
}

/// A pod of these names as the originals make them: with its name for a label, and named ports.
pub fn pod(n: usize, more: &[(String, String)]) -> Value {
    let whole = name(n);
    let (namespace, name) = whole.split_once('/').unwrap();
    let mut labels = serde_json::Map::new();
    labels.insert("pod".into(), name.into());
    labels.extend(more.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
    let ports: Vec<Value> = [80, 81]
        .into_iter()
        .flat_map(|port| ["TCP", "UDP", "SCTP"].map(|protocol| (port, protocol)))
        .map(|(port, protocol)| {
            let name = format!("serve-{port}-{}", protocol.to_lowercase());
            json!({"name": name, "containerPort": port, "protocol": protocol})
        })
        .collect();
    let ips: Vec<Value> = addresses(n).iter().map(|ip| json!({"ip": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": labels},
        "spec": {"nodeName": "node-0", "containers": [{"name": "c", "ports": ports}]},
        "status": {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}})
}

/// A namespace.
pub fn namespace(name: &str, more: &[(String, String)]) -> Value {
    let mut labels = serde_json::Map::new();
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    labels.extend(more.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// A policy.
pub fn policy(whole: &str, spec: Value) -> Value {
    let (namespace, name) = whole.split_once('/').unwrap();
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": namespace, "name": name}, "spec": spec})
}

/// All nine pods and their namespaces.
pub fn everyone() -> Vec<Value> {
    let mut objects: Vec<Value> = ["x", "y", "z"].map(|name| namespace(name, &[])).into();
    objects.extend((0..PODS).map(|n| pod(n, &[])));
    objects
}

#[derive(Default)]
struct Case {
    title: String,
    has_asked: bool,
    policies: BTreeMap<String, Value>,
    labels: BTreeMap<String, Vec<(String, String)>>,
}

impl Case {
    fn objects(&self) -> Vec<Value> {
        let labels = |of: &str| self.labels.get(of).map_or(&[][..], Vec::as_slice);
        let mut objects: Vec<Value> = (0..2).map(crate::common::pods::node).collect();
        objects.extend(["x", "y", "z"].map(|name| namespace(name, labels(name))));
        objects.extend((0..PODS).map(|n| pod(n, labels(&name(n)))));
        objects.extend(self.policies.iter().map(|(name, spec)| policy(name, spec.clone())));
        objects
    }
}

/// `expect`, and what follows it.
struct Expectation {
    kind: Kind,
    port: u16,
    exceptions: Vec<(bool, String, String)>,
    is_first: bool,
}

fn is(pattern: &str, name: &str) -> bool {
    pattern == "*"
        || pattern == name
        || pattern.strip_suffix('*').is_some_and(|of| name.starts_with(of))
}

impl Expectation {
    fn probes(&self) -> Vec<Probe> {
        let mut probes = Vec::new();
        for (from, to) in (0..PODS).flat_map(|from| (0..PODS).map(move |to| (from, to))) {
            if from == to {
                continue;
            }
            let hits =
                |(_, of, at): &&(bool, String, String)| is(of, &name(from)) && is(at, &name(to));
            let expected = self.exceptions.iter().rev().find(hits).is_none_or(|found| found.0);
            for family in 0..2 {
                let (src, dst) = (addresses(from)[family], addresses(to)[family]);
                let (kind, port) = (self.kind, self.port);
                probes.push(Probe { host: from, src, dst, kind, port, expected });
            }
        }
        probes
    }

    fn check(&self, case: &Case, pods: &Pods) -> usize {
        let probes = self.probes();
        let place = format!("case {}, {:?} {}", case.title, self.kind, self.port);
        let model = Model::new(&case.objects(), "node-0");
        for probe in &probes {
            let flow = [(probe.kind.name(probe.src), u64::from(probe.port))];
            let said = model.judge(probe.src, probe.dst, &flow)[0].0;
            assert_eq!(said, probe.expected, "{place}: {probe:?}: the model");
        }
        let wrong = probe::mistaken(&pods.hosts(), &probes);
        assert!(
            wrong.is_empty(),
            "{place}: {} of {} went otherwise: {wrong:?}",
            wrong.len(),
            probes.len()
        );
        self.explain(pods, &probes, &place);
        probes.len()
    }
}

impl Expectation {
    /// Of the first of each case's expectations a few are explained too.
    fn explain(&self, pods: &Pods, probes: &[Probe], place: &str) {
        if self.is_first {
            let sample: Vec<Probe> = probes.iter().step_by(13).copied().collect();
            worlds::explain(pods, &sample, place);
        }
    }
}

pub fn run(pods: &mut Pods) {
    let began = Instant::now();
    let (mut case, mut expectation) = (Case::default(), None::<Expectation>);
    let (mut cases, mut asked) = (0, 0);
    let mut is_set = false;
    for line in
        TEXT.lines().chain(["end"]).filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let two = || rest.split_once(' ').unwrap_or_else(|| panic!("{line}: of what?"));
        if let "yes" | "no" = word {
            let (from, to) = two();
            let exceptions = &mut expectation.as_mut().expect(line).exceptions;
            exceptions.push((word == "yes", from.to_owned(), to.to_owned()));
            continue;
        }
        if let Some(expectation) = expectation.take() {
            if !is_set {
                pods.set(&case.objects());
                is_set = true;
            }
            asked += expectation.check(&case, pods);
        }
        is_set &= word == "expect";
        match word {
            "case" => {
                cases += 1;
                assert!(rest.starts_with(&format!("{cases} ")), "{line}: it is number {cases}");
                case = Case { title: rest.to_owned(), ..Case::default() };
            }
            "policy" => {
                let (name, spec) = two();
                let spec = serde_json::from_str(spec).unwrap_or_else(|why| panic!("{line}: {why}"));
                case.policies.insert(name.to_owned(), spec);
            }
            "delete" => assert!(case.policies.remove(rest).is_some(), "{line}: there is none"),
            "label" => {
                let (of, label) = rest.split_once(' ').unwrap();
                let (key, value) = label.split_once('=').unwrap();
                let labels = case.labels.entry(of.to_owned()).or_default();
                labels.push((key.to_owned(), value.to_owned()));
            }
            "expect" => {
                let (kind, port) = two();
                let kind = match kind {
                    "TCP" => Kind::Tcp,
                    "UDP" => Kind::Udp,
                    "SCTP" => Kind::Sctp,
                    _ => panic!("{line}"),
                };
                let port = port.parse().unwrap();
                let is_first = !std::mem::replace(&mut case.has_asked, true);
                expectation = Some(Expectation { kind, port, exceptions: Vec::new(), is_first });
            }
            "end" => {}
            _ => panic!("{line}"),
        }
    }
    assert_eq!(cases, CASES);
    pods.check_ledger();
    println!("{cases} cases, {asked} verdicts by packets in {:.1?}", began.elapsed());
}
