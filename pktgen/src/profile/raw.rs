//! A profile as it is written: every key, before any of it is checked.

use crate::cli::{Ends, StreamArgs, ZeroCopy};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawProfile {
    /// What the report calls it.
    pub name: String,
    /// Seed of all that is random.
    pub seed: Option<u64>,
    /// Rate of all streams together.
    pub rate: Option<String>,
    /// How the rate gets there.
    pub ramp: Option<RawRamp>,
    /// How long to send.
    pub duration: Option<String>,
    /// How many packets to send.
    pub count: Option<String>,
    /// How long to wait for packets under way.
    pub drain: Option<String>,
    /// From what lateness a packet is given up.
    pub max_lag: Option<String>,
    /// Most packets handed over at once.
    pub burst: Option<u32>,
    /// Sending end.
    pub tx: RawEnd,
    /// Receiving end.
    pub rx: RawEnd,
    /// How to receive.
    pub receive: RawReceive,
    /// The streams.
    pub stream: Vec<RawStream>,
}

/// `[ramp]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawRamp {
    /// Rate at the start.
    pub from: String,
    /// Time until the rate is reached.
    pub over: String,
}

/// `[tx]` and `[rx]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawEnd {
    /// Interface.
    pub interface: Option<String>,
    /// Network namespace.
    pub netns: Option<String>,
    /// First queue.
    pub first_queue: u32,
    /// Queues.
    pub queues: Option<u32>,
    /// CPUs of their threads.
    pub cpus: Vec<usize>,
    /// MAC address.
    pub mac: Option<String>,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Prefixes that are answered for.
    pub answer_for: Vec<String>,
    /// IPv4 router.
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 router.
    pub gateway6: Option<Ipv6Addr>,
    /// Sockets' mode.
    pub zero_copy: ZeroCopy,
    /// Line rate, where the interface has none.
    pub line_rate: Option<String>,
}

/// `[receive]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawReceive {
    /// Check all checksums.
    pub verify: bool,
    /// How long to spin before sleeping.
    pub spin: Option<String>,
}

impl Default for RawReceive {
    fn default() -> Self {
        Self { verify: true, spin: None }
    }
}

/// `[[stream]]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RawStream {
    /// Name.
    pub name: Option<String>,
    /// Share of the packets.
    pub weight: u32,
    /// udp, tcp, sctp, icmp.
    pub protocol: String,
    /// Source addresses.
    pub src: Option<toml::Value>,
    /// Destination addresses.
    pub dst: Option<toml::Value>,
    /// Source ports.
    pub src_port: Option<toml::Value>,
    /// Destination ports.
    pub dst_port: Option<toml::Value>,
    /// Frame sizes.
    pub size: Option<toml::Value>,
    /// VLAN tags.
    pub vlan: Option<toml::Value>,
    /// Source MAC.
    pub src_mac: Option<String>,
    /// Destination MAC.
    pub dst_mac: Option<String>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP.
    pub dscp: u8,
    /// TCP flags.
    pub flags: String,
    /// Payload.
    pub payload: String,
    /// Whether packets carry a signature.
    pub signature: bool,
    /// Encapsulation.
    pub vxlan: Option<RawVxlan>,
}

impl Default for RawStream {
    fn default() -> Self {
        Self {
            name: None,
            weight: 1,
            protocol: "udp".into(),
            src: None,
            dst: None,
            src_port: None,
            dst_port: None,
            size: None,
            vlan: None,
            src_mac: None,
            dst_mac: None,
            ttl: 64,
            dscp: 0,
            flags: "syn".into(),
            payload: "zeros".into(),
            signature: true,
            vxlan: None,
        }
    }
}

/// `[stream.vxlan]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawVxlan {
    /// Network identifier.
    pub vni: u32,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// Outer source ports.
    pub src_port: Option<toml::Value>,
    /// Outer destination port.
    pub dst_port: Option<u16>,
    /// Inner source MAC.
    pub inner_src_mac: Option<String>,
    /// Inner destination MAC.
    pub inner_dst_mac: Option<String>,
}

impl RawProfile {
    /// Puts what the command line says over what the file says.
    pub fn overlay(&mut self, ends: &Ends, stream: &StreamArgs) {
        for (raw, port, netns, addresses, cpus) in [
            (&mut self.tx, &ends.tx, &ends.netns_tx, &ends.tx_address, &ends.cpus_tx),
            (&mut self.rx, &ends.rx, &ends.netns_rx, &ends.rx_address, &ends.cpus_rx),
        ] {
            if let Some(port) = port {
                raw.interface = Some(port.interface.clone());
                raw.first_queue = port.first;
                raw.queues = port.queues;
            }
            if netns.is_some() {
                raw.netns.clone_from(netns);
            }
            if !addresses.is_empty() {
                raw.addresses = addresses.iter().map(ToString::to_string).collect();
            }
            if !cpus.is_empty() {
                raw.cpus.clone_from(cpus);
            }
            if let Some(mode) = ends.zero_copy {
                raw.zero_copy = mode;
            }
        }
        for (raw, gateway) in [(&mut self.tx, ends.gateway), (&mut self.rx, ends.rx_gateway)] {
            match gateway {
                Some(IpAddr::V4(gateway)) => raw.gateway = Some(gateway),
                Some(IpAddr::V6(gateway)) => raw.gateway6 = Some(gateway),
                None => {}
            }
        }
        if self.stream.is_empty() && *stream != StreamArgs::default() {
            let name = Some("command line".into());
            self.stream = vec![RawStream { name, ..RawStream::default() }];
        }
        self.stream.iter_mut().for_each(|raw| raw.overlay(stream));
    }
}

impl RawStream {
    /// What the command line gives is every stream's.
    fn overlay(&mut self, given: &StreamArgs) {
        let StreamArgs { protocol, src, dst, src_port, dst_port, size, vlan, dst_mac, src_mac } =
            given;
        for (raw, text) in [
            (&mut self.src, src),
            (&mut self.dst, dst),
            (&mut self.src_port, src_port),
            (&mut self.dst_port, dst_port),
            (&mut self.size, size),
        ] {
            if let Some(text) = text {
                *raw = Some(toml::Value::String(text.clone()));
            }
        }
        for (raw, text) in [(&mut self.src_mac, src_mac), (&mut self.dst_mac, dst_mac)] {
            if text.is_some() {
                raw.clone_from(text);
            }
        }
        if let Some(protocol) = protocol {
            self.protocol.clone_from(protocol);
        }
        if !vlan.is_empty() {
            let ids = vlan.iter().map(|id| toml::Value::Integer((*id).into()));
            self.vlan = Some(toml::Value::Array(ids.collect()));
        }
    }
}
