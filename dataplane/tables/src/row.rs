//! What readers get: small plain values, copied out of the segment.
//!
//! Nothing here is a Rust enum or bool in memory; each is decoded from integers in which every value means
//! something, so that any bytes give a row.

use crate::{service::Ranges, words::Ref};
use millrace_wire::{Addr, Mac};

/// An interface of the engine: its number in the engine's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InterfaceId(pub u16);

/// A service port of one address family: the number of its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServiceId(pub u32);

/// Why an address is a frontend (Kubernetes' names).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FrontendKind(pub u8);

impl FrontendKind {
    /// The service's cluster address.
    pub const CLUSTER_IP: Self = Self(0);
    /// A port on the node's addresses.
    pub const NODE_PORT: Self = Self(1);
    /// An address of `spec.externalIPs`.
    pub const EXTERNAL_IP: Self = Self(2);
    /// An address of `status.loadBalancer`.
    pub const LOAD_BALANCER: Self = Self(3);
    /// A pod's `hostPort` on the node's addresses.
    pub const HOST_PORT: Self = Self(4);

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CLUSTER_IP => "ClusterIP",
            Self::NODE_PORT => "NodePort",
            Self::EXTERNAL_IP => "ExternalIP",
            Self::LOAD_BALANCER => "LoadBalancer",
            Self::HOST_PORT => "HostPort",
            _ => "Unknown",
        }
    }
}

/// Which of a service's two backend sets a frontend uses (Kubernetes' traffic policies).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum SetChoice {
    /// All backends.
    #[default]
    Cluster,
    /// Those on this node.
    Local,
}

/// What happens to a packet for a set without backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WhenEmpty {
    /// Answered: RST, or ICMP port unreachable.
    #[default]
    Reject,
    /// Dropped silently.
    Drop,
}

/// An address, port and protocol that a service answers on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frontend {
    /// Whose it is.
    pub service: ServiceId,
    /// Why.
    pub kind: FrontendKind,
    /// Which backends it uses.
    pub set: SetChoice,
    /// [`Frontend::MASQUERADE`] and the others.
    pub flags: u8,
}

impl Frontend {
    /// Every flow gets a source address of ours.
    pub const MASQUERADE: u8 = 1;
    /// A flow whose source is no pod ([`crate::Node::is_pod`]) gets one.
    pub const MASQUERADE_FOREIGN: u8 = 2;
    /// A flow from a pod, or from this node, uses the cluster set whatever [`Frontend::set`] says, as if it went out to a load balancer
    /// and came back; this node's own gets a source address of ours beside.
    pub const SHORT_CIRCUIT: u8 = 4;
    /// Flows begin only from the service's source ranges ([`crate::Snapshot::is_in_ranges`]).
    pub const SOURCE_RANGES: u8 = 8;
    /// Clients keep their backend for [`Service::affinity_seconds`].
    pub const AFFINITY: u8 = 16;
}

/// One frontend with its key, as iteration gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrontendRow {
    /// The address.
    pub addr: Addr,
    /// The port, host order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// What it leads to.
    pub frontend: Frontend,
}

/// The backends that one choice picks from: the place of its Maglev table, and of the service's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct BackendSet {
    /// Backends in it.
    pub count: u16,
    /// What happens when `count` is 0.
    pub when_empty: WhenEmpty,
    /// Slots of the Maglev table; 0 when there are no backends.
    pub(crate) slots: u32,
    /// Whether records and table are in pieces.
    pub(crate) large: bool,
    /// Whether it is the local set (for iteration).
    pub(crate) local: bool,
    pub(crate) table: Ref,
    pub(crate) records: Ref,
    /// Records that the service has, those of the other set included.
    pub(crate) total: u16,
}

impl BackendSet {
    /// Whether it has no backends.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Slots of its Maglev table.
    pub const fn table_size(&self) -> u32 {
        self.slots
    }
}

/// A service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// All backends.
    pub cluster: BackendSet,
    /// Those on this node.
    pub local: BackendSet,
    /// Seconds for which a client keeps its backend; 0 for no affinity.
    pub affinity_seconds: u32,
    /// Bits that control and the service stop agree on; the tables only carry them.
    pub flags: u16,
    pub(crate) names: Ref,
    pub(crate) ranges: Ranges,
}

impl Service {
    /// The set that a frontend uses.
    #[inline]
    pub const fn set(&self, choice: SetChoice) -> &BackendSet {
        match choice {
            SetChoice::Cluster => &self.cluster,
            SetChoice::Local => &self.local,
        }
    }
}

/// An address and port that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Its address.
    pub addr: Addr,
    /// Its port, host order.
    pub port: u16,
    /// [`Backend::LOCAL`], [`Backend::TERMINATING`].
    pub flags: u8,
    /// Fingerprint of address and port: the same in every generation, after a restart of control and on
    /// every node. Two backends of one service may share one by accident (2^-32): compare addresses where it matters.
    pub id: u32,
}

impl Backend {
    /// It is on this node.
    pub const LOCAL: u8 = 1;
    /// It is going away and takes no new flows if others can.
    pub const TERMINATING: u8 = 2;
    /// It is in the cluster set.
    pub const IN_CLUSTER: u8 = 4;
    /// It is in the local set.
    pub const IN_LOCAL: u8 = 8;

    /// The fingerprint that `id` is.
    pub fn fingerprint(addr: &Addr, port: u16) -> u32 {
        let bits = addr.bits();
        let mixed = crate::trie::hash(
            0x006d_696c_6c72_6163,
            &[(bits >> 64) as u64, bits as u64, u64::from(port)],
        );
        (mixed >> 32) as u32
    }
}

/// What kind of place an interface leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InterfaceKind(pub u8);

impl InterfaceKind {
    /// Towards the network.
    pub const UPLINK: Self = Self(0);
    /// Towards the node's own stack.
    pub const HOST: Self = Self(1);
    /// Towards one pod.
    pub const POD: Self = Self(2);
    /// Any other interface of a router.
    pub const PORT: Self = Self(3);

    /// As users write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UPLINK => "uplink",
            Self::HOST => "host",
            Self::POD => "pod",
            Self::PORT => "port",
            _ => "unknown",
        }
    }
}

/// An interface as the tables know it (cold: it is built anew for each question).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceRow {
    /// Its number.
    pub id: InterfaceId,
    /// Where it leads.
    pub kind: InterfaceKind,
    /// Its own MAC.
    pub mac: Mac,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Its name.
    pub name: String,
    /// Addresses we own on it, with their on-link prefixes.
    pub addresses: Vec<ipnet::IpNet>,
}

/// A neighbor that is configured, not learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NeighborRow {
    /// On which interface.
    pub interface: InterfaceId,
    /// Its address.
    pub addr: Addr,
    /// Its MAC.
    pub mac: Mac,
}
