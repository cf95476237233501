//! What the writer is told: rows as control compiles them, checked before anything is changed.

use crate::{
    error::Error,
    row::{FrontendKind, InterfaceId, InterfaceKind, SetChoice, WhenEmpty},
};
use ipnet::IpNet;
use millrace_wire::{Addr, Mac};
use std::collections::HashSet;

/// A service port of one address family.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceSpec {
    /// What `show` and `explain` call it: `namespace/name:port`. The key it is set under may be longer.
    pub name: String,
    /// Where it answers.
    pub frontends: Vec<FrontendSpec>,
    /// Who serves, of the frontends' address family.
    pub backends: Vec<BackendSpec>,
    /// Seconds for which a client keeps its backend; 0 for no affinity.
    pub affinity_seconds: u32,
    /// What happens when no backend is `in_cluster`.
    pub when_cluster_empty: WhenEmpty,
    /// What happens when no backend is `in_local`.
    pub when_local_empty: WhenEmpty,
    /// Where flows to frontends with [`crate::Frontend::SOURCE_RANGES`] may come from.
    pub source_ranges: Vec<IpNet>,
    /// Carried to [`crate::Service::flags`].
    pub flags: u16,
}

/// One address, port and protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrontendSpec {
    /// The address.
    pub addr: Addr,
    /// The port, host order, not 0.
    pub port: u16,
    /// IP protocol number, not 0.
    pub protocol: u8,
    /// Why.
    pub kind: FrontendKind,
    /// Which backends it uses.
    pub set: SetChoice,
    /// [`crate::Frontend::MASQUERADE`] and the others.
    pub flags: u8,
}

/// One backend of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BackendSpec {
    /// Its address.
    pub addr: Addr,
    /// Its port, host order, not 0.
    pub port: u16,
    /// What `show` and `explain` call it.
    pub name: String,
    /// Its share; 0 takes no new flows.
    pub weight: u16,
    /// It is on this node.
    pub local: bool,
    /// It is going away.
    pub terminating: bool,
    /// Whether frontends with [`SetChoice::Cluster`] use it.
    pub in_cluster: bool,
    /// Whether frontends with [`SetChoice::Local`] use it.
    pub in_local: bool,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// Its number in the engine.
    pub id: InterfaceId,
    /// Where it leads.
    pub kind: InterfaceKind,
    /// Its MAC.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Its name, up to [`MAX_NAME`] bytes: that of a pod's interface has its namespace and name.
    pub name: String,
    /// Addresses we own on it, up to 1024.
    pub addresses: Vec<IpNet>,
}

/// Longest name, in bytes, of a service, backend or key.
pub const MAX_NAME: usize = 1024;
/// Most backends of one service.
pub const MAX_BACKENDS: usize = 65_535;
/// Most source ranges of one service.
pub const MAX_RANGES: usize = 4096;
/// Most addresses of one interface.
pub const MAX_ADDRESSES: usize = 1024;

fn refused(row: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Row { row: row.into(), why: why.into() }
}

impl ServiceSpec {
    /// Whether any frontend picks from the local set.
    pub fn uses_local(&self) -> bool {
        self.frontends.iter().any(|frontend| frontend.set == SetChoice::Local)
    }

    /// Checks all that can be checked without knowing the other rows.
    pub fn check(&self, key: &str) -> Result<(), Error> {
        let row = || format!("service {key}");
        if key.is_empty() || key.len() > MAX_NAME || self.name.len() > MAX_NAME {
            return Err(refused(
                row(),
                format!("its key and name have to have 1 to {MAX_NAME} bytes"),
            ));
        }
        if self.backends.len() > MAX_BACKENDS {
            return Err(refused(
                row(),
                format!("{} backends; at most {MAX_BACKENDS}", self.backends.len()),
            ));
        }
        if self.source_ranges.len() > MAX_RANGES {
            return Err(refused(
                row(),
                format!("{} source ranges; at most {MAX_RANGES}", self.source_ranges.len()),
            ));
        }
        let mut seen = HashSet::new();
        for frontend in &self.frontends {
            let FrontendSpec { addr, port, protocol, .. } = frontend;
            let refuse = |why: &str| {
                Err(refused(
                    row(),
                    format!("frontend {addr} port {port} protocol {protocol}: {why}"),
                ))
            };
            if *port == 0 || *protocol == 0 {
                return refuse("port and protocol have to be given");
            }
            if !is_host(addr) {
                return refuse("not an address a service can answer on");
            }
            if !seen.insert((*addr, *port, *protocol)) {
                return refuse("listed twice");
            }
        }
        let mut family = self.frontends.first().map(|frontend| frontend.addr.is_v4());
        // Mostly sorted already.
        let mut places: Vec<(Addr, u16)> =
            self.backends.iter().map(|backend| (backend.addr, backend.port)).collect();
        places.sort_unstable();
        if let Some(place) = places.windows(2).find(|pair| pair[0] == pair[1]) {
            let (addr, port) = place[0];
            return Err(refused(row(), format!("backend {addr} port {port}: listed twice")));
        }
        for backend in &self.backends {
            let BackendSpec { addr, port, name, .. } = backend;
            let refuse = |why: &str| {
                Err(refused(row(), format!("backend {addr} port {port} ({name}): {why}")))
            };
            if *port == 0 {
                return refuse("has no port");
            }
            if !is_host(addr) {
                return refuse("not an address a backend can have");
            }
            if name.len() > MAX_NAME {
                return refuse("its name is too long");
            }
            if *family.get_or_insert(addr.is_v4()) != addr.is_v4() {
                return refuse(
                    "of another address family than the frontends: make it a service of its own",
                );
            }
        }
        if self.frontends.iter().any(|frontend| Some(frontend.addr.is_v4()) != family) {
            return Err(refused(
                row(),
                "frontends of two address families: make them two services",
            ));
        }
        Ok(())
    }
}

fn is_host(addr: &Addr) -> bool {
    !addr.is_unspecified() && !addr.is_multicast() && !addr.is_broadcast()
}

impl InterfaceSpec {
    /// Checks the row.
    pub fn check(&self) -> Result<(), Error> {
        let row = || format!("interface {} ({})", self.id.0, self.name);
        if self.name.is_empty() || self.name.len() > MAX_NAME {
            return Err(refused(row(), format!("its name has to have 1 to {MAX_NAME} bytes")));
        }
        if self.addresses.len() > MAX_ADDRESSES {
            return Err(refused(
                row(),
                format!("{} addresses; at most {MAX_ADDRESSES}", self.addresses.len()),
            ));
        }
        Ok(())
    }
}
