//! What surrounds the services on this node: interfaces, routes, neighbors, and the node's own addresses.
//!
//! Made by [`crate::compile::interfaces`] from a running engine's interfaces and the configuration, or by
//! [`crate::compile::node`] from Node and Pod objects; the rest of control doesn't know which.

use std::collections::BTreeMap;

use ipnet::IpNet;
use millrace_tables::{
    GuardSpec, InterfaceId, InterfaceKind, InterfaceSpec, NodeSpec, PolicyChanges, RouteSpec,
};
use millrace_wire::{Addr, Mac};

use crate::desired::Families;

/// The surroundings, each row under its own key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// The node that packets are handled on.
    pub node: NodeView,
    /// By number; the number is the engine's.
    pub interfaces: BTreeMap<InterfaceId, InterfaceSpec>,
    /// Without the host routes of VIPs, which the tables keep themselves.
    pub routes: BTreeMap<IpNet, RouteSpec>,
    /// Configured ones.
    pub neighbors: BTreeMap<(InterfaceId, Addr), Mac>,
    /// The node's own row.
    pub row: NodeSpec,
    /// Who may send from an interface: what comes with other addresses is forged.
    pub guards: BTreeMap<InterfaceId, GuardSpec>,
    /// How policies are enforced.
    pub policies: PolicyOptions,
    /// Where endpoints are, of a node's world made from objects alone: also those that were listed once, since whoever is on its
    /// way out of a slice still runs.
    pub places: BTreeMap<Addr, Place>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this node: the pod as `namespace/name`.
    Pod(String),
    /// On that node; empty when not said.
    Node(String),
}

/// How policies are enforced, as far as no object says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyOptions {
    /// An address of this node's pods that no object has is open, while policies are in force.
    pub unknown_pods_open: bool,
    /// What established flows do when policies change.
    pub changes: PolicyChanges,
}

/// What a service's rows depend on besides objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Empty when unknown: then no endpoint is local.
    pub name: String,
    /// Addresses that node ports answer on, each once.
    pub node_port_addresses: Vec<Addr>,
    /// Those that pods' host ports answer on; none where somebody else connects the pods, and answers for them.
    pub host_port_addresses: Vec<Addr>,
    /// The node's main address of each family.
    pub primary: Vec<Addr>,
    /// Families in which pods can be told from others.
    pub pods_known: Families,
    /// Whether every flow to a cluster IP is masqueraded.
    pub masquerade_all: bool,
}

impl World {
    /// The interface of that name.
    pub fn interface(&self, name: &str) -> Option<&InterfaceSpec> {
        self.interfaces.values().find(|interface| interface.name == name)
    }

    /// The first uplink.
    pub fn uplink(&self) -> Option<&InterfaceSpec> {
        self.interfaces.values().find(|interface| interface.kind == InterfaceKind::UPLINK)
    }
}
