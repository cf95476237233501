//! Rows to fill tables with, and random numbers that are the same in every run.

use millrace_tables::{
    BackendSpec, ByPolicies, ClassId, DecisionId, DecisionSpec, EndpointSpec, FrontendKind,
    FrontendSpec, PolicyId, PolicySpec, PortMapId, PortMapSpec, ServiceSpec, SetChoice, SubjectId,
    Writer,
};
use millrace_wire::Addr;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

pub fn v4(bits: u32) -> Addr {
    Addr::from_v4(bits.to_be_bytes())
}

pub fn frontend(addr: Addr, port: u16) -> FrontendSpec {
    FrontendSpec {
        addr,
        port,
        protocol: 6,
        kind: FrontendKind::CLUSTER_IP,
        set: SetChoice::Cluster,
        flags: 0,
    }
}

pub fn backend(addr: Addr, port: u16, name: String) -> BackendSpec {
    BackendSpec {
        addr,
        port,
        name,
        weight: 1,
        local: false,
        terminating: false,
        in_cluster: true,
        in_local: false,
    }
}

/// Service `number` with `backends` endpoints, named as a cluster's are.
pub fn service(number: u32, backends: u32) -> ServiceSpec {
    ServiceSpec {
        name: format!("namespace-{}/service-{number}:http", number % 100),
        frontends: vec![frontend(v4(0xac1e_0000 + number), 80)],
        backends: (0..backends)
            .map(|i| {
                let name =
                    format!("service-{number}-7d4b9c6f5-{:05x}", (number * 31 + i) % 0xf_ffff);
                backend(v4(0x0a00_0000 + number * 64 % 0xf0_0000 + i), 8080, name)
            })
            .collect(),
        ..ServiceSpec::default()
    }
}

/// Isolates pods from each other, both ways, but for every second of `ports` ports from 80 on. Numbers count up from `ports`.
pub fn isolate(writer: &mut Writer, pods: &[Addr], ports: u16) {
    let (first, policy) = (u32::from(ports), PolicyId(u32::from(ports)));
    let name = format!("NetworkPolicy default/some-{ports}");
    writer
        .set_policy(policy, &PolicySpec { name, pods: pods.len() as u32, shadow: false })
        .unwrap();
    let by =
        |rule| ByPolicies { policies: vec![policy; 2 - usize::from(rule > 0)], rule: Some(rule) };
    for (id, allow) in [(first, false), (first + 1, true)] {
        let spec = DecisionSpec { allow, by: by(id as u16 - ports), shadow: Some(by(0)) };
        writer.set_decision(DecisionId(id), &spec).unwrap();
    }
    let mut map = PortMapSpec::all(DecisionId(first));
    writer.set_port_map(PortMapId(first), &map).unwrap();
    map.tcp.extend((0..ports).map(|n| (80 + n, DecisionId(first + u32::from(n % 2)))));
    writer.set_port_map(PortMapId(first + 1), &map).unwrap();
    let subject = SubjectId(first % 4);
    writer.set_subject(subject, PortMapId(first)).unwrap();
    writer.set_cells(subject, &[(ClassId(77), Some(PortMapId(first + 1)))]).unwrap();
    for (n, pod) in pods.iter().enumerate() {
        let spec = EndpointSpec {
            class: ClassId(77 - n as u32 % 2),
            ingress: Some(subject),
            egress: Some(subject),
            flags: n as u32 % 4,
            name: format!("default/pod-{n}"),
            itself: [None, (n % 2 == 1).then_some(PortMapId(first))],
        };
        writer.set_policy_endpoint(pod.to_ip().into(), &spec).unwrap();
    }
}
