//! The engine's configuration: [`File`] is what was typed, [`Config`] is what it means.
//!
//! All checks happen in [`Config::parse`], once; whoever holds a `Config` need not look again. Every
//! error names the entry and what to write instead.

mod snat;
mod trunk;

use ipnet::IpNet;
use millrace_tables::session::Mode;
use millrace_wire::Mac;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::kernel;
use crate::snat::{BESIDE_KERNEL, Ports, UNPRIVILEGED};
use crate::state::conntrack::Timeouts;

/// The socket on which the engine listens when the file names none.
pub const DEFAULT_SOCKET: &str = "/run/millrace/engine.sock";

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
    /// Not TOML, or a key of the wrong type or name.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A value that cannot be used.
    #[error("{entry}: {why}")]
    Value {
        /// The entry, as `[table] key`.
        entry: String,
        /// What is wrong and what to write.
        why: String,
    },
}

fn refuse<T>(entry: impl Into<String>, why: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Value { entry: entry.into(), why: why.into() })
}

/// The file, key by key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    mode: Option<String>,
    socket: Option<PathBuf>,
    tables: Option<PathBuf>,
    #[serde(default)]
    workers: Workers,
    #[serde(default)]
    umem: UmemFile,
    #[serde(default)]
    conntrack: ConntrackFile,
    #[serde(default)]
    neighbors: NeighborsFile,
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    snat: snat::File,
    #[serde(default)]
    trunk: trunk::File,
    #[serde(default, rename = "interface")]
    interfaces: Vec<InterfaceFile>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Workers {
    cpus: Option<Vec<usize>>,
    mode: Option<String>,
    busy_poll_us: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UmemFile {
    frames: Option<u32>,
    chunk: Option<u32>,
    pages: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConntrackFile {
    entries: Option<u32>,
    half_open: Option<u32>,
    #[serde(default)]
    timeouts: Timeouts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NeighborsFile {
    entries: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    icmp_errors_per_second: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InterfaceFile {
    name: String,
    #[serde(default)]
    addresses: Vec<String>,
    driver: Option<String>,
    zero_copy: Option<String>,
    checksums: Option<String>,
    mac: Option<String>,
    mtu: Option<u16>,
    read: Option<PathBuf>,
    write: Option<PathBuf>,
}

/// Who sleeps when there is nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Spin a little, then sleep in `poll` until a packet comes.
    Adaptive,
    /// Never sleep.
    Busy,
}

/// Page size of the UMEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 4 KiB.
    Small,
    /// 2 MiB, from the kernel's pool (`sysctl vm.nr_hugepages`).
    Huge,
}

/// Zero-copy as asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Try it, fall back to copy mode and say so.
    Auto,
    /// Fail without it.
    Always,
    /// Copy mode.
    Never,
}

/// Whether L4 checksums of received frames can be partial (`CHECKSUM_PARTIAL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksums {
    /// As the device is: virtual ones hand over partial checksums, NICs do not.
    Auto,
    /// Assume that they can.
    Partial,
    /// Assume that they cannot.
    Complete,
}

/// How an interface is driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Driver {
    /// AF_XDP.
    Xsk {
        /// Zero-copy as asked for.
        zero_copy: ZeroCopy,
    },
    /// A capture file in, a capture file out.
    Pcap {
        /// Frames received; none without.
        read: Option<PathBuf>,
        /// Frames sent; thrown away without.
        write: Option<PathBuf>,
        /// The interface's MAC address.
        mac: Mac,
        /// The interface's MTU in bytes.
        mtu: u16,
    },
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The netdev's name, or a label for a capture.
    pub name: String,
    /// Addresses that the engine owns there, with their prefix.
    pub addresses: Vec<IpNet>,
    /// How it is driven.
    pub driver: Driver,
    /// Whether received L4 checksums can be partial.
    pub checksums: Checksums,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Whose the interfaces' addresses are.
    pub mode: Mode,
    /// The trunk to the node's stack, in [`Mode::ServiceProxy`].
    pub trunk: kernel::Settings,
    /// The Unix socket for control and the command.
    pub socket: PathBuf,
    /// Whether the file names the socket. On captures, which are over in a moment, that means to wait for control.
    pub names_socket: bool,
    /// A tables image to run on instead of waiting for control.
    pub tables: Option<PathBuf>,
    /// One worker for each CPU.
    pub cpus: Vec<usize>,
    /// Who sleeps.
    pub idle: Idle,
    /// Kernel busy polling, in microseconds (`SO_BUSY_POLL`).
    pub busy_poll_us: Option<u32>,
    /// UMEM frames, of all workers together.
    pub frames: u32,
    /// Bytes of one chunk.
    pub chunk: u32,
    /// Page size.
    pub pages: Pages,
    /// Conntrack capacity in connections.
    pub conntrack_entries: u32,
    /// Most unfinished TCP handshakes.
    pub conntrack_half_open: u32,
    /// How long flows may be idle.
    pub conntrack_timeouts: Timeouts,
    /// Neighbor table capacity.
    pub neighbor_entries: u32,
    /// ICMP errors a second and worker.
    pub icmp_errors_per_second: u32,
    /// Source ports of masqueraded flows.
    pub snat_ports: Ports,
    /// Those with an address of the trunk as source.
    pub trunk_ports: Ports,
    /// Those of them for flows that find none of `snat_ports`.
    pub overflow_ports: Option<Ports>,
    /// The interfaces, in the order of their ids.
    pub interfaces: Vec<Interface>,
}

impl Config {
    /// Reads and checks `path`.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(&text)
    }

    /// Checks a configuration's text.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text)?;
        let modes = "write \"router\" or \"service-proxy\"";
        let mode = match file.mode.as_deref() {
            Some("router") => Mode::Router,
            Some("service-proxy") => Mode::ServiceProxy,
            Some(other) => {
                return refuse("mode", format!("\"{other}\" is not a mode; {modes}"));
            }
            None => return refuse("mode", format!("is missing; {modes}")),
        };
        let usual_ports = match mode {
            Mode::Router if file.trunk.is_given() => {
                return refuse("[trunk]", "is for mode = \"service-proxy\"");
            }
            Mode::Router => UNPRIVILEGED,
            Mode::ServiceProxy => BESIDE_KERNEL,
        };
        let cpus = cpus(file.workers.cpus)?;
        let idle = match file.workers.mode.as_deref() {
            None | Some("adaptive") => Idle::Adaptive,
            Some("busy") => Idle::Busy,
            Some(other) => {
                return refuse(
                    "[workers] mode",
                    format!("\"{other}\": write \"adaptive\" or \"busy\""),
                );
            }
        };
        let frames = file.umem.frames.unwrap_or(8192);
        if !(64..=1 << 22).contains(&frames) {
            return refuse("[umem] frames", format!("{frames} is not between 64 and {}", 1 << 22));
        }
        let chunk = file.umem.chunk.unwrap_or(4096);
        if chunk != 2048 && chunk != 4096 {
            return refuse("[umem] chunk", format!("{chunk}: AF_XDP takes 2048 or 4096"));
        }
        let pages = match file.umem.pages.as_deref() {
            None | Some("4k") => Pages::Small,
            Some("2m") => Pages::Huge,
            Some(other) => {
                return refuse("[umem] pages", format!("\"{other}\": write \"4k\" or \"2m\""));
            }
        };
        let conntrack_entries = file.conntrack.entries.unwrap_or(1 << 20);
        if !(1 << 10..=1 << 24).contains(&conntrack_entries) {
            return refuse(
                "[conntrack] entries",
                format!("{conntrack_entries} is not between 1024 and 16777216"),
            );
        }
        let conntrack_half_open = file.conntrack.half_open.unwrap_or(conntrack_entries / 4);
        if !(1..=conntrack_entries).contains(&conntrack_half_open) {
            return refuse(
                "[conntrack] half_open",
                format!("{conntrack_half_open} is not between 1 and entries, {conntrack_entries}"),
            );
        }
        if let Some((name, seconds)) = file.conntrack.timeouts.out_of_bounds() {
            return refuse(
                "[conntrack.timeouts]",
                format!("{name} = {seconds} is not between 1 and {} seconds", Timeouts::LONGEST),
            );
        }
        let neighbor_entries = file.neighbors.entries.unwrap_or(4096);
        if !(16..=65_535).contains(&neighbor_entries) {
            return refuse(
                "[neighbors] entries",
                format!("{neighbor_entries} is not between 16 and 65535"),
            );
        }
        let snat = snat::ports(&file.snat, usual_ports)?;
        let icmp_errors_per_second = file.limits.icmp_errors_per_second.unwrap_or(1000);
        Ok(Self {
            names_socket: file.socket.is_some(),
            socket: file.socket.unwrap_or_else(|| DEFAULT_SOCKET.into()),
            tables: file.tables,
            cpus,
            idle,
            busy_poll_us: file.workers.busy_poll_us,
            frames,
            chunk,
            pages,
            conntrack_entries,
            conntrack_half_open,
            conntrack_timeouts: file.conntrack.timeouts,
            neighbor_entries,
            icmp_errors_per_second,
            snat_ports: snat.ports,
            trunk_ports: snat.trunk,
            overflow_ports: snat.overflow,
            trunk: trunk::settings(file.trunk)?,
            interfaces: interfaces(file.interfaces, mode)?,
            mode,
        })
    }

    /// Whether every frame comes from and goes to files: one worker, packet time, exit at the end.
    pub fn is_pcap(&self) -> bool {
        self.interfaces.iter().any(|i| matches!(i.driver, Driver::Pcap { .. }))
    }
}

fn cpus(cpus: Option<Vec<usize>>) -> Result<Vec<usize>, ConfigError> {
    let cpus = cpus.unwrap_or_else(|| vec![0]);
    if cpus.is_empty() || cpus.len() > 64 {
        return refuse(
            "[workers] cpus",
            format!("{} CPUs; list 1 to 64, such as cpus = [2, 3]", cpus.len()),
        );
    }
    if cpus.iter().collect::<BTreeSet<_>>().len() != cpus.len() {
        return refuse("[workers] cpus", "names a CPU twice; each worker has its own");
    }
    Ok(cpus)
}

fn interfaces(files: Vec<InterfaceFile>, mode: Mode) -> Result<Vec<Interface>, ConfigError> {
    if files.is_empty() {
        return refuse("[[interface]]", "there is none; the engine needs at least one");
    }
    let most = if mode == Mode::Router { 64 } else { 63 };
    if files.len() > most {
        return refuse("[[interface]]", format!("{} of them; {most} at most", files.len()));
    }
    let mut names = BTreeSet::new();
    let mut owned = BTreeSet::new();
    let mut interfaces = Vec::with_capacity(files.len());
    for (index, file) in files.into_iter().enumerate() {
        let interface = interface(index, file)?;
        if !names.insert(interface.name.clone()) {
            return refuse("[[interface]] name", format!("\"{}\" is there twice", interface.name));
        }
        if mode == Mode::ServiceProxy {
            beside_kernel(&interface)?;
        }
        for net in &interface.addresses {
            if !owned.insert(net.addr()) {
                return refuse(
                    format!("[[interface]] {} addresses", interface.name),
                    format!("{} is on another interface too", net.addr()),
                );
            }
        }
        interfaces.push(interface);
    }
    let captures = interfaces.iter().filter(|i| matches!(i.driver, Driver::Pcap { .. })).count();
    if captures != 0 && captures != interfaces.len() {
        return refuse(
            "[[interface]] driver",
            "\"pcap\" and \"xsk\" can't be mixed: packet time is not real time",
        );
    }
    Ok(interfaces)
}

/// What an interface can't have that is the kernel's.
fn beside_kernel(interface: &Interface) -> Result<(), ConfigError> {
    let entry = |key: &str| format!("[[interface]] {} {key}", interface.name);
    if !interface.addresses.is_empty() {
        let why = "in service-proxy mode the addresses are the kernel's, and control mirrors them: leave the key out";
        return refuse(entry("addresses"), why);
    }
    if matches!(interface.driver, Driver::Pcap { .. }) {
        return refuse(
            entry("driver"),
            "there is no kernel behind captures: write mode = \"router\"",
        );
    }
    Ok(())
}

/// Whether the kernel would take it as an interface's name.
fn is_name(name: &str) -> bool {
    !(name.is_empty() || name.len() > 15 || name.contains(['/', ' ', ':', '"']))
}

fn interface(index: usize, file: InterfaceFile) -> Result<Interface, ConfigError> {
    let entry = |key: &str| format!("[[interface]] {} {key}", file.name);
    if !is_name(&file.name) {
        return refuse(
            "[[interface]] name",
            format!("\"{}\" is not an interface's name", file.name),
        );
    }
    let mut addresses = Vec::new();
    for text in &file.addresses {
        addresses.push(address(text).or_else(|why| refuse(entry("addresses"), why))?);
    }
    let checksums = match file.checksums.as_deref() {
        None | Some("auto") => Checksums::Auto,
        Some("partial") => Checksums::Partial,
        Some("complete") => Checksums::Complete,
        Some(other) => {
            return refuse(
                entry("checksums"),
                format!("\"{other}\": write \"auto\", \"partial\" or \"complete\""),
            );
        }
    };
    let driver = match file.driver.as_deref() {
        None | Some("xsk") => {
            for (key, there) in [
                ("mac", file.mac.is_some()),
                ("mtu", file.mtu.is_some()),
                ("read", file.read.is_some()),
                ("write", file.write.is_some()),
            ] {
                if there {
                    return refuse(
                        entry(key),
                        "is for driver = \"pcap\"; a real interface has its own",
                    );
                }
            }
            let zero_copy = match file.zero_copy.as_deref() {
                None | Some("auto") => ZeroCopy::Auto,
                Some("always") => ZeroCopy::Always,
                Some("never") => ZeroCopy::Never,
                Some(other) => {
                    return refuse(
                        entry("zero_copy"),
                        format!("\"{other}\": write \"auto\", \"always\" or \"never\""),
                    );
                }
            };
            Driver::Xsk { zero_copy }
        }
        Some("pcap") => {
            let mac = match &file.mac {
                // Locally administered, and the same in every run.
                None => Mac([0x02, 0, 0, 0, 0, u8::try_from(index + 1).unwrap_or(u8::MAX)]),
                Some(text) => match text.parse::<Mac>() {
                    Ok(mac) if !mac.is_multicast() => mac,
                    _ => {
                        return refuse(
                            entry("mac"),
                            format!("\"{text}\": write it like 02:00:00:00:00:01"),
                        );
                    }
                },
            };
            let mtu = file.mtu.unwrap_or(1500);
            if !(576..=9216).contains(&mtu) {
                return refuse(entry("mtu"), format!("{mtu} is not between 576 and 9216"));
            }
            if file.read.is_some() && file.read == file.write {
                return refuse(entry("write"), "is the file that is read");
            }
            Driver::Pcap { read: file.read.clone(), write: file.write.clone(), mac, mtu }
        }
        Some(other) => {
            return refuse(entry("driver"), format!("\"{other}\": write \"xsk\" or \"pcap\""));
        }
    };
    Ok(Interface { name: file.name.clone(), addresses, driver, checksums })
}

fn address(text: &str) -> Result<IpNet, String> {
    // Not IpNet's own reader, which takes 010.0.0.1 for 10.0.0.1.
    let parsed = text
        .split_once('/')
        .and_then(|(addr, len)| IpNet::new(addr.parse().ok()?, len.parse().ok()?).ok());
    let net = parsed.ok_or_else(|| {
        format!("\"{text}\": write an address with its prefix, such as 192.0.2.1/24")
    })?;
    let addr = net.addr();
    let unusable = match addr {
        IpAddr::V4(a) => a.is_broadcast() || a.is_loopback(),
        IpAddr::V6(a) => a.is_loopback() || a.to_ipv4_mapped().is_some(),
    };
    if unusable || addr.is_unspecified() || addr.is_multicast() {
        return Err(format!("{addr} can't be an interface's address"));
    }
    let host = net.max_prefix_len() - net.prefix_len();
    if host > 1 && (addr == net.network() || (addr == net.broadcast() && addr.is_ipv4())) {
        return Err(format!("{net} is the network itself; give the interface an address in it"));
    }
    Ok(net)
}

#[cfg(test)]
mod tests;
