//! A profile: what a TOML file says, checked and made into a [`Plan`].
//!
//! Everything that is wrong is said with its key (`stream[1].src_port: …`) before any packet is sent.

pub mod raw;
pub mod value;

use crate::cli::{Load, ZeroCopy};
use crate::field::{self, Spec};
use crate::layout::Layout;
use crate::units::{self, FCS, Rate};
use ipnet::IpNet;
use millrace_wire::Mac;
use raw::{RawEnd, RawProfile, RawStream};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use value::{Numbers, spec};

/// Greatest frame with FCS: one chunk of 4,096 bytes less the kernel's headroom.
pub const MAX_SIZE: u16 = 3840;
/// Most packets in the streams' interleaving.
const MAX_PATTERN: u64 = 1 << 20;

/// What is wrong with a profile, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {why}")]
pub struct ProfileError {
    /// The key, as `stream[0].size`.
    pub key: String,
    /// What is wrong with it.
    pub why: String,
}

/// An error at `key`.
pub fn wrong(key: impl Into<String>, why: impl ToString) -> ProfileError {
    ProfileError { key: key.into(), why: why.to_string() }
}

/// When sending ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After this time.
    Time(Duration),
    /// After so many packets.
    Packets(u64),
}

/// A rate that rises or falls evenly before it stays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ramp {
    /// The rate at the start.
    pub from: Rate,
    /// How long it takes to reach the plan's rate.
    pub over: Duration,
}

/// A checked profile.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its name.
    pub name: String,
    /// Seed of all that is random.
    pub seed: u64,
    /// How much, of all queues together.
    pub rate: Rate,
    /// How it gets there.
    pub ramp: Option<Ramp>,
    /// For how long.
    pub length: Length,
    /// Longest wait for packets under way.
    pub drain: Duration,
    /// A packet that is later than this is given up, and counted as unsent.
    pub max_lag: Duration,
    /// Most packets handed to the kernel at once.
    pub burst: usize,
    /// How long an idle receiver spins before it sleeps.
    pub spin: Duration,
    /// Whether the checksums of all received packets are checked.
    pub verify: bool,
    /// The sending end.
    pub tx: EndPlan,
    /// The receiving end.
    pub rx: EndPlan,
    /// The streams.
    pub streams: Vec<StreamPlan>,
    /// In what order they send.
    pub pattern: Vec<u32>,
}

/// One end.
#[derive(Clone, Debug, Default)]
pub struct EndPlan {
    /// Interface and queues; none: not used.
    pub port: Option<crate::cli::Port>,
    /// Its network namespace.
    pub netns: Option<String>,
    /// Its MAC address, if not the interface's.
    pub mac: Option<Mac>,
    /// Addresses that it has.
    pub addresses: Vec<IpNet>,
    /// Prefixes that it answers for.
    pub answer_for: Vec<IpNet>,
    /// Its IPv4 router.
    pub gateway: Option<Ipv4Addr>,
    /// Its IPv6 router.
    pub gateway6: Option<Ipv6Addr>,
    /// CPUs of the queues' threads.
    pub cpus: Vec<usize>,
    /// The sockets' mode.
    pub zero_copy: ZeroCopy,
    /// Line rate in bit/s, if not what the interface claims.
    pub line_rate: Option<f64>,
}

/// What a stream's packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP, without a connection.
    Tcp,
    /// SCTP DATA chunks.
    Sctp,
    /// ICMP or ICMPv6 echo requests; the source port is the identifier.
    Icmp,
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A VLAN tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vlan {
    /// Its number.
    pub id: u16,
    /// Its priority.
    pub pcp: u8,
}

/// What fills the packets beside the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fill {
    /// Zeros.
    Zeros,
    /// Bytes from the seed, the same in every packet.
    Random,
    /// These bytes, again and again.
    Bytes(Vec<u8>),
}

/// What is around the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanPlan {
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// Outer source.
    pub src: IpAddr,
    /// Outer destination.
    pub dst: IpAddr,
    /// Outer source ports.
    pub src_port: Spec,
    /// Outer destination port.
    pub dst_port: u16,
    /// Inner source MAC.
    pub inner_src_mac: Mac,
    /// Inner destination MAC.
    pub inner_dst_mac: Mac,
}

/// A checked stream.
#[derive(Clone, Debug)]
pub struct StreamPlan {
    /// Its name.
    pub name: String,
    /// Its share of the packets.
    pub weight: u32,
    /// What its packets are.
    pub transport: Transport,
    /// IP version, of the inner packet with VXLAN.
    pub family: Family,
    /// Source addresses.
    pub src: Spec,
    /// Destination addresses.
    pub dst: Spec,
    /// Source ports.
    pub src_port: Spec,
    /// Destination ports.
    pub dst_port: Spec,
    /// Frame sizes, with FCS.
    pub size: Spec,
    /// VLAN tags, outer first.
    pub vlans: Vec<Vlan>,
    /// Source MAC, if not the end's.
    pub src_mac: Option<Mac>,
    /// Destination MAC, if not to be resolved.
    pub dst_mac: Option<Mac>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// DSCP.
    pub dscp: u8,
    /// TCP flags.
    pub flags: u8,
    /// Payload.
    pub fill: Fill,
    /// Whether packets carry a signature.
    pub signature: bool,
    /// Whether they are encapsulated.
    pub vxlan: Option<VxlanPlan>,
}

impl StreamPlan {
    /// Addresses of the outermost packet: what the next hop depends on.
    pub fn outer_dst(&self) -> Option<IpAddr> {
        if let Some(vxlan) = &self.vxlan {
            return Some(vxlan.dst);
        }
        self.dst.fixed().map(|dst| value::address(self.family, dst))
    }

    /// The outermost packet's IP version.
    pub fn outer_family(&self) -> Family {
        match &self.vxlan {
            Some(vxlan) if vxlan.dst.is_ipv4() => Family::V4,
            Some(_) => Family::V6,
            None => self.family,
        }
    }
}

impl Plan {
    /// Reads a profile's text.
    pub fn parse(text: &str) -> Result<RawProfile, ProfileError> {
        let line = |e: &toml::de::Error| {
            let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            before.matches('\n').count() + 1
        };
        let reader = toml::Deserializer::parse(text)
            .map_err(|e| wrong(format!("line {}", line(&e)), e.message()))?;
        serde_path_to_error::deserialize(reader).map_err(|e| {
            let key = e.path().to_string();
            let key = if key == "." { format!("line {}", line(e.inner())) } else { key };
            wrong(key, e.inner().message())
        })
    }

    /// Checks a profile, with what the command line says over it.
    pub fn build(raw: RawProfile, load: &Load) -> Result<Self, ProfileError> {
        let rate = match (load.rate, &raw.rate) {
            (Some(rate), _) => rate,
            (None, Some(text)) => text.parse().map_err(|e| wrong("rate", e))?,
            (None, None) => Rate::Packets(1000.0),
        };
        let time = |key: &str, raw: &Option<String>, default: Duration| match raw {
            Some(text) => units::duration(text).map_err(|e| wrong(key, e)),
            None => Ok(default),
        };
        let length = match (load.duration, load.count, &raw.duration, &raw.count) {
            (Some(time), ..) => Length::Time(time),
            (None, Some(count), ..) => Length::Packets(count),
            (None, None, Some(_), Some(_)) => {
                return Err(wrong("count", "there is a duration already; say one of them"));
            }
            (None, None, Some(text), None) => {
                Length::Time(units::duration(text).map_err(|e| wrong("duration", e))?)
            }
            (None, None, None, Some(text)) => {
                Length::Packets(units::count(text).map_err(|e| wrong("count", e))?)
            }
            (None, None, None, None) => Length::Time(Duration::from_secs(10)),
        };
        let ramp = raw.ramp.as_ref().map(|ramp| {
            let from: Rate = ramp.from.parse().map_err(|e| wrong("ramp.from", e))?;
            let over = units::duration(&ramp.over).map_err(|e| wrong("ramp.over", e))?;
            if from.between(rate, 0.5).is_none() {
                let why = format!("{from} and the rate {rate} have to be in the same unit");
                return Err(wrong("ramp.from", why));
            }
            Ok(Ramp { from, over })
        });
        let burst = raw.burst.unwrap_or(32);
        if !(1..=256).contains(&burst) {
            return Err(wrong("burst", "it has to be from 1 to 256"));
        }
        let seed = load.seed.or(raw.seed).unwrap_or(1);
        if raw.stream.is_empty() {
            return Err(wrong("stream", "there is none; give a [[stream]], or --src and --dst"));
        }
        let streams: Vec<_> = raw
            .stream
            .iter()
            .enumerate()
            .map(|(i, stream)| check_stream(&format!("stream[{i}]"), i, stream))
            .collect::<Result<_, _>>()?;
        let weights: Vec<_> = streams.iter().map(|s| s.weight).collect();
        let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
        if total > MAX_PATTERN {
            return Err(wrong(
                "stream",
                format!("all weights together are {total}, more than {MAX_PATTERN}"),
            ));
        }
        Ok(Self {
            name: raw.name.clone(),
            seed,
            rate,
            ramp: ramp.transpose()?,
            length,
            drain: match load.drain {
                Some(drain) => drain,
                None => time("drain", &raw.drain, Duration::from_millis(500))?,
            },
            max_lag: time("max_lag", &raw.max_lag, Duration::from_millis(10))?,
            burst: burst as usize,
            spin: time("receive.spin", &raw.receive.spin, Duration::from_micros(20))?,
            verify: raw.receive.verify,
            tx: check_end("tx", &raw.tx)?,
            rx: check_end("rx", &raw.rx)?,
            streams,
            pattern: field::interleave(&weights),
        })
    }

    /// Mean size of the frames, with FCS.
    pub fn mean_size(&self) -> f64 {
        let (mut bytes, mut weights) = (0.0, 0.0);
        for stream in &self.streams {
            let layout = Layout::of(stream);
            // Sizes of a sequence are rounded one by one, those of a range in the mean.
            let mean = match &stream.size {
                Spec::Sequence { values, .. } | Spec::List(values) => {
                    let lens = values.iter().map(|v| layout.frame_len(*v as usize) as f64);
                    lens.sum::<f64>() / values.len().max(1) as f64
                }
                Spec::Fixed(size) => layout.frame_len(*size as usize) as f64,
                other => other.mean() - FCS as f64,
            };
            bytes += (mean + FCS as f64) * f64::from(stream.weight);
            weights += f64::from(stream.weight);
        }
        bytes / weights.max(1.0)
    }
}

fn check_end(key: &str, raw: &RawEnd) -> Result<EndPlan, ProfileError> {
    let at = |name: &str| format!("{key}.{name}");
    let nets = |name: &str, texts: &[String]| -> Result<Vec<IpNet>, ProfileError> {
        texts.iter().map(|text| value::net(text).map_err(|e| wrong(at(name), e))).collect()
    };
    let port = raw.interface.as_ref().map(|interface| crate::cli::Port {
        interface: interface.clone(),
        first: raw.first_queue,
        queues: raw.queues,
    });
    if raw.queues.is_some_and(|n| n == 0 || n > 64) {
        return Err(wrong(at("queues"), "it has to be from 1 to 64"));
    }
    let line_rate = match &raw.line_rate {
        None => None,
        Some(text) => match text.parse() {
            Ok(Rate::Layer2(bits) | Rate::Layer1(bits)) => Some(bits),
            _ => {
                return Err(wrong(
                    at("line_rate"),
                    format!("{text:?}: say bits a second, as \"10gbps\""),
                ));
            }
        },
    };
    Ok(EndPlan {
        port,
        netns: raw.netns.clone(),
        mac: value::mac_at(&at("mac"), raw.mac.as_deref())?,
        addresses: nets("addresses", &raw.addresses)?,
        answer_for: nets("answer_for", &raw.answer_for)?,
        gateway: raw.gateway,
        gateway6: raw.gateway6,
        cpus: raw.cpus.clone(),
        zero_copy: raw.zero_copy,
        line_rate,
    })
}

fn check_stream(key: &str, index: usize, raw: &RawStream) -> Result<StreamPlan, ProfileError> {
    let at = |name: &str| format!("{key}.{name}");
    let transport = match raw.protocol.as_str() {
        "udp" => Transport::Udp,
        "tcp" => Transport::Tcp,
        "sctp" => Transport::Sctp,
        "icmp" | "icmpv6" => Transport::Icmp,
        other => {
            return Err(wrong(at("protocol"), format!("{other:?}: say udp, tcp, sctp or icmp")));
        }
    };
    let needed = |name: &str, raw: &Option<toml::Value>| {
        raw.clone().ok_or_else(|| wrong(at(name), format!("it is needed (--{name})")))
    };
    let src = spec(&at("src"), &needed("src", &raw.src)?, Numbers::Addresses)?;
    let dst = spec(&at("dst"), &needed("dst", &raw.dst)?, Numbers::Addresses)?;
    let (src_family, dst_family) = (value::family(&src), value::family(&dst));
    if src_family != dst_family {
        return Err(wrong(at("dst"), "source and destination have to be of one IP version"));
    }
    let family = src_family;
    let [src, dst] = [src, dst].map(|s| value::plain(family, &s));
    let port = |name: &str, raw: &Option<toml::Value>, default: u128| match raw {
        Some(raw) => spec(&at(name), raw, Numbers::Up { to: 65535 }),
        None => Ok(Spec::Fixed(default)),
    };
    let size = match &raw.size {
        Some(raw) => spec(&at("size"), raw, Numbers::Sizes)?,
        None => Spec::Fixed(64),
    };
    let vxlan = raw.vxlan.as_ref().map(|raw| value::vxlan(&at("vxlan"), raw)).transpose()?;
    if raw.weight == 0 {
        return Err(wrong(at("weight"), "it has to be 1 or more"));
    }
    if raw.dscp > 63 {
        return Err(wrong(at("dscp"), "it has to be from 0 to 63"));
    }
    let plan = StreamPlan {
        name: raw.name.clone().unwrap_or_else(|| format!("stream {index}")),
        weight: raw.weight,
        transport,
        family,
        src,
        dst,
        src_port: port("src_port", &raw.src_port, 1024)?,
        dst_port: port("dst_port", &raw.dst_port, 9)?,
        size,
        vlans: value::vlans(&at("vlan"), raw.vlan.as_ref())?,
        src_mac: value::mac_at(&at("src_mac"), raw.src_mac.as_deref())?,
        dst_mac: value::mac_at(&at("dst_mac"), raw.dst_mac.as_deref())?,
        ttl: raw.ttl,
        dscp: raw.dscp,
        flags: value::flags(&at("flags"), &raw.flags)?,
        fill: value::fill(&at("payload"), &raw.payload)?,
        signature: raw.signature,
        vxlan,
    };
    check_sizes(&at("size"), &plan)?;
    Ok(plan)
}

fn check_sizes(key: &str, plan: &StreamPlan) -> Result<(), ProfileError> {
    let layout = Layout::of(plan);
    let least = layout.min_frame() + FCS;
    let (from, to) = plan.size.bounds();
    if (from as usize) < least {
        let (with, without) = match plan.signature {
            true => (" and the signature", "; signature = false leaves it away"),
            false => ("", ""),
        };
        let why = format!(
            "{from}: headers{with} of this stream take {least} bytes with the FCS{without}"
        );
        return Err(wrong(key, why));
    }
    if to as usize > usize::from(MAX_SIZE) {
        return Err(wrong(
            key,
            format!("{to}: at most {MAX_SIZE}, which is what one buffer holds"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
