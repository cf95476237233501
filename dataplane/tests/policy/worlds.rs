//! Random worlds, asked about everything by packets: what the network does is what the model says, and what `explain` says.

use std::net::IpAddr;
use std::ops::Range;
use std::time::Instant;

use serde_json::{Value, json};

use crate::common::peers::probe::{self, Kind, Probe};
use crate::common::pods::{OUTSIDE, PODS, Pods, addresses};
use crate::model::Model;
use crate::random::{self, Odds, Random};

/// What is asked of each pair of addresses.
const FLOWS: [(Kind, u16); 16] = [
    (Kind::Echo, 0),
    (Kind::Tcp, 53),
    (Kind::Tcp, 80),
    (Kind::Tcp, 443),
    (Kind::Tcp, 8080),
    (Kind::Tcp, 1),
    (Kind::Tcp, 79),
    (Kind::Tcp, 65535),
    (Kind::Udp, 53),
    (Kind::Udp, 80),
    (Kind::Udp, 443),
    (Kind::Udp, 8081),
    (Kind::Sctp, 53),
    (Kind::Sctp, 80),
    (Kind::Sctp, 443),
    (Kind::Sctp, 9999),
];

/// Of so many probes one is explained.
const EXPLAINED: usize = 23;

fn world(seed: u64) -> Vec<Value> {
    let mut random = Random::new(seed);
    let random = &mut random;
    let odds = Odds(random.one(&[0, 3, 12]));
    let mut objects = vec![random::node(0, random), random::node(1, random)];
    for _ in 0..random.below(4) {
        objects.push(random::namespace(random));
    }
    for number in 0..PODS as u64 {
        objects.push(random::pod(number, random));
    }
    for number in 0..2 + random.below(6) {
        objects.push(random::network_policy(&format!("np{number}"), random, odds));
    }
    for number in 0..random.below(4) {
        objects.push(random::cluster_policy(&format!("cnp{number}"), random, odds));
    }
    random::last_of_each_name(objects)
}

/// All flows between hosts that pass the engine, with what the model says of them.
pub fn questions(model: &Model, flows: &[(Kind, u16)]) -> Vec<Probe> {
    let mut hosts: Vec<(usize, IpAddr)> =
        (0..PODS).flat_map(|n| addresses(n).map(|addr| (n, addr))).collect();
    hosts.extend(Pods::outside_addresses().into_iter().map(|addr| (OUTSIDE, addr)));
    let mut probes = Vec::new();
    for (host, src) in &hosts {
        for (other, dst) in &hosts {
            if host == other || src.is_ipv4() != dst.is_ipv4() {
                continue;
            }
            // Identifiers of echo requests are nothing that policies see.
            let asked: Vec<(&str, u64)> =
                flows.iter().map(|(kind, port)| (named(*kind), u64::from(*port))).collect();
            let said = model.judge(*src, *dst, &asked);
            for ((kind, port), (expected, _, _)) in flows.iter().zip(said) {
                let (host, src, dst) = (*host, *src, *dst);
                probes.push(Probe { host, src, dst, kind: *kind, port: *port, expected });
            }
        }
    }
    probes
}

fn named(kind: Kind) -> &'static str {
    kind.name(IpAddr::from([0; 4]))
}

/// Fails unless `explain` says of the live tables what is expected of these.
pub fn explain(pods: &Pods, probes: &[Probe], place: &str) {
    let flows: Vec<Value> = probes
        .iter()
        .map(|probe| {
            let Probe { src, dst, kind, port, .. } = probe;
            json!({"src": src, "sport": 40_000, "dst": dst, "dport": port, "protocol": kind.name(*src)})
        })
        .collect();
    for (probe, answer) in probes.iter().zip(pods.explain(&flows)) {
        let transmits = answer["outcomes"][0]["verdict"] == "transmit";
        assert_eq!(transmits, probe.expected, "{place}: {probe:?}: explain says {answer}");
    }
}

pub fn run(pods: &mut Pods, seeds: Range<u64>) {
    let (mut asked, mut denied, mut explained) = (0, 0, 0);
    let began = Instant::now();
    for seed in seeds {
        let objects = world(seed);
        pods.set(&objects);
        let probes = questions(&Model::new(&objects, "node-0"), &FLOWS);
        let wrong = probe::mistaken(&pods.hosts(), &probes);
        let shown: String = objects.iter().map(|object| format!("{object}\n")).collect();
        let allowed = |probe: &Probe| if probe.expected { "allow" } else { "deny" };
        let named: Vec<String> = wrong
            .iter()
            .take(8)
            .map(|probe| format!("{probe:?}: the model says {}", allowed(probe)))
            .collect();
        assert!(
            wrong.is_empty(),
            "seed {seed}: {} of {} flows went otherwise:\n{}\n{shown}",
            wrong.len(),
            probes.len(),
            named.join("\n")
        );
        let sample: Vec<Probe> =
            probes.iter().skip(seed as usize % EXPLAINED).step_by(EXPLAINED).copied().collect();
        explain(pods, &sample, &format!("seed {seed}"));
        asked += probes.len();
        denied += probes.iter().filter(|probe| !probe.expected).count();
        explained += sample.len();
    }
    pods.check_ledger();
    println!(
        "{asked} verdicts by packets, {denied} of them denials, {explained} explained, in {:.1?}",
        began.elapsed()
    );
    assert!(denied > asked / 20 && denied < asked * 19 / 20, "{denied} of {asked}");
}
