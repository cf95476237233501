//! Rows to fill tables with, and random numbers that are the same in every run.

use millrace_tables::{BackendSpec, FrontendKind, FrontendSpec, ServiceSpec, SetChoice};
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
