//! The steering program's maps: the words that it and the engine exchange.
//!
//! Layouts are those of `ebpf/millrace.bpf.c`, in native byte order. [`Handles`] are the maps as file
//! descriptors; [`Maps`] is what drives them, whoever attached the program.

use super::Options;
use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, LpmTrie, Map, MapData, MapError, PerCpuArray, XskMap};
use ipnet::IpNet;
use millrace_wire::Protocol;
use rustix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The XSKMAP: one slot for each queue.
pub(super) const XSKS: &str = "xsks";
const SETTINGS: &str = "settings";
const HEARTBEAT: &str = "heartbeat";
const STATS: &str = "stats";
const LOCAL4: &str = "local4";
const LOCAL6: &str = "local6";
const PORTS: &str = "ports";

/// Each map's name, in the order of [`Handles`].
const NAMES: [&str; 7] = [XSKS, SETTINGS, HEARTBEAT, STATS, LOCAL4, LOCAL6, PORTS];

/// All that goes to a destination is ours.
const WHOLE: u8 = 1;
/// What goes to a port of the port map is ours.
const BY_PORT: u8 = 2;
/// Nothing that goes there is ours, and nothing that an uplink receives comes from there.
const SOURCE: u8 = 4;

/// A map that could not be read or written, and why.
#[derive(Debug, thiserror::Error)]
#[error("the steering program's map {map}: {why}")]
pub struct MapFailure {
    map: &'static str,
    why: String,
}

fn failure(map: &'static str) -> impl Fn(MapError) -> MapFailure {
    move |error| MapFailure {
        map,
        why: match error {
            MapError::SyscallError(error) => format!("{}: {}", error.call, error.io_error),
            MapError::OutOfBounds { index, max_entries } => {
                format!("queue {index} is beyond the interface's {max_entries}")
            }
            other => other.to_string(),
        },
    }
}

/// What the program has decided since it was attached, in frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Handed to a socket. The kernel may still drop it there (`XDP_STATISTICS` says so).
    pub redirected: u64,
    /// Not ours: passed to the kernel.
    pub passed: u64,
    /// Ours, but the heartbeat was stale: passed to the kernel.
    pub stale: u64,
    /// Ours, but the queue has no socket: passed to the kernel.
    pub unbound: u64,
}

/// Words of 64 ports for each of three protocols.
const PORT_WORDS: usize = 1024;

/// Ports of TCP, UDP and SCTP, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSet(Box<[u64; 3 * PORT_WORDS]>);

impl Default for PortSet {
    fn default() -> PortSet {
        PortSet(Box::new([0; 3 * PORT_WORDS]))
    }
}

impl PortSet {
    /// Puts a port into the set. Of other protocols nothing is.
    pub fn insert(&mut self, protocol: Protocol, port: u16) {
        let place = match protocol {
            Protocol::TCP => 0,
            Protocol::UDP => 1,
            Protocol::SCTP => 2,
            _ => return,
        };
        if let Some(word) = self.0.get_mut(place * PORT_WORDS + usize::from(port) / 64) {
            *word |= 1 << (port % 64);
        }
    }
}

/// `struct settings`.
pub(super) struct Settings([u64; 3]);

impl From<&Options> for Settings {
    fn from(options: &Options) -> Self {
        let stale_after =
            u64::try_from(options.stale_after.as_nanos()).unwrap_or(u64::MAX).min(i64::MAX as u64);
        let [a, b, c, d, e, f] = options.mac.0;
        let mode = match options.mode {
            super::Mode::Router => 0,
            super::Mode::ServiceProxy => 1,
        };
        Self([stale_after, mode, u64::from_ne_bytes([a, b, c, d, e, f, 0, 0])])
    }
}

/// The maps as file descriptors, in a fixed order; they can be sent to another process.
#[derive(Debug)]
pub struct Handles([OwnedFd; NAMES.len()]);

impl Handles {
    /// The descriptors, always in the same order.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd)
    }

    /// The handles from descriptors that came over a socket, in the order of [`fds`](Self::fds).
    ///
    /// `None` when there are more or fewer; whether they are the right maps is [`Maps::adopt`]'s to see.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        fds.try_into().ok().map(Self)
    }

    /// Takes the maps out of a loaded object.
    pub(super) fn take(loaded: &mut Ebpf) -> Result<Self, MapFailure> {
        let mut fds = Vec::with_capacity(NAMES.len());
        for name in NAMES {
            let map = loaded.map(name);
            let Some(
                Map::XskMap(data) | Map::Array(data) | Map::PerCpuArray(data) | Map::LpmTrie(data),
            ) = map
            else {
                return Err(MapFailure { map: name, why: "is not in the compiled object".into() });
            };
            let fd = data.fd().as_fd().try_clone_to_owned();
            fds.push(fd.map_err(|why| MapFailure { map: name, why: why.to_string() })?);
        }
        Self::from_fds(fds)
            .ok_or(MapFailure { map: XSKS, why: "the program has other maps".into() })
    }
}

/// The maps of one attached program.
pub struct Maps {
    handles: Handles,
    xsks: XskMap<MapData>,
    settings: Array<MapData, [u64; 3]>,
    heartbeat: Array<MapData, u64>,
    stats: PerCpuArray<MapData, [u64; 4]>,
    local4: LpmTrie<MapData, [u8; 4], u8>,
    local6: LpmTrie<MapData, [u8; 16], u8>,
    ports: Array<MapData, u64>,
    local: BTreeMap<IpNet, u8>,
    ours: PortSet,
}

impl Maps {
    /// Drives the maps behind `handles`, refusing those of another kind or size.
    pub fn adopt(handles: Handles) -> Result<Self, MapFailure> {
        let map = |index: usize| -> Result<Map, MapFailure> {
            let name = NAMES[index];
            let fd = handles.0[index].try_clone();
            let fd = fd.map_err(|why| MapFailure { map: name, why: why.to_string() })?;
            MapData::from_fd(fd).and_then(Map::from_map_data).map_err(failure(name))
        };
        let mut maps = Self {
            xsks: map(0)?.try_into().map_err(failure(XSKS))?,
            settings: map(1)?.try_into().map_err(failure(SETTINGS))?,
            heartbeat: map(2)?.try_into().map_err(failure(HEARTBEAT))?,
            stats: map(3)?.try_into().map_err(failure(STATS))?,
            local4: map(4)?.try_into().map_err(failure(LOCAL4))?,
            local6: map(5)?.try_into().map_err(failure(LOCAL6))?,
            ports: map(6)?.try_into().map_err(failure(PORTS))?,
            local: BTreeMap::new(),
            ours: PortSet::default(),
            handles,
        };
        maps.local = maps.read_local()?;
        for (at, word) in (0u32..).zip(&mut *maps.ours.0) {
            *word = maps.ports.get(&at, 0).map_err(failure(PORTS))?;
        }
        Ok(maps)
    }

    /// Another set of descriptors of the same maps.
    pub fn handles(&self) -> Result<Handles, MapFailure> {
        let fds = self.handles.0.iter().map(OwnedFd::try_clone).collect::<Result<Vec<_>, _>>();
        let fds = fds.map_err(|why| MapFailure { map: XSKS, why: why.to_string() })?;
        Handles::from_fds(fds)
            .ok_or(MapFailure { map: XSKS, why: "a descriptor is missing".into() })
    }

    pub(super) fn set_settings(&mut self, settings: &Settings) -> Result<(), MapFailure> {
        self.settings.set(0, settings.0, 0).map_err(failure(SETTINGS))
    }

    /// Says that the workers are alive, as of now: one system call.
    pub fn beat(&mut self) -> Result<(), MapFailure> {
        let now = clock_gettime(ClockId::Monotonic);
        let now = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        self.heartbeat.set(0, now, 0).map_err(failure(HEARTBEAT))
    }

    /// Gives `queue` to a bound socket.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), MapFailure> {
        self.xsks.set(queue, socket, 0).map_err(failure(XSKS))
    }

    /// Replaces the destinations that are ours in service-proxy mode; those that stay are not touched.
    pub fn set_local(
        &mut self,
        prefixes: impl IntoIterator<Item = IpNet>,
    ) -> Result<(), MapFailure> {
        self.set_destinations(prefixes.into_iter().map(|prefix| (prefix.trunc(), WHOLE)).collect())
    }

    /// The same, and the node's own addresses, of which only those of `ports` are ours. Ports come first and go last, so that no packet is
    /// asked about a port that is not listed yet. What says that it comes from `addresses` or from `trunk` is the kernel's.
    pub fn set_ours(
        &mut self,
        prefixes: impl IntoIterator<Item = IpNet>,
        addresses: impl IntoIterator<Item = IpNet>,
        trunk: impl IntoIterator<Item = IpNet>,
        ports: &PortSet,
    ) -> Result<(), MapFailure> {
        for (at, word) in (0u32..).zip(&*ports.0) {
            let place = self.ours.0.get_mut(at as usize);
            if let Some(before) = place.filter(|before| *before != word) {
                self.ports.set(at, word, 0).map_err(failure(PORTS))?;
                *before = *word;
            }
        }
        let whole = prefixes.into_iter().map(|prefix| (prefix.trunc(), WHOLE));
        let by_port = addresses.into_iter().map(|prefix| (prefix, BY_PORT));
        let sources = trunk.into_iter().map(|prefix| (prefix.trunc(), SOURCE));
        self.set_destinations(whole.chain(by_port).chain(sources).collect())
    }

    /// One that fails does not keep the others back; the first failure is returned, and calling it again tries those that failed.
    fn set_destinations(&mut self, wanted: BTreeMap<IpNet, u8>) -> Result<(), MapFailure> {
        let mut result = Ok(());
        // What goes first makes room for what comes.
        let gone: Vec<IpNet> =
            self.local.keys().filter(|it| !wanted.contains_key(it)).copied().collect();
        for prefix in gone {
            let removed = match &prefix {
                IpNet::V4(p) => self.local4.remove(&key4(p)).map_err(failure(LOCAL4)),
                IpNet::V6(p) => self.local6.remove(&key6(p)).map_err(failure(LOCAL6)),
            };
            if removed.is_ok() {
                self.local.remove(&prefix);
            }
            result = result.and(removed);
        }
        for (prefix, what) in wanted {
            if self.local.get(&prefix) == Some(&what) {
                continue;
            }
            let inserted = match &prefix {
                IpNet::V4(p) => self.local4.insert(&key4(p), what, 0).map_err(failure(LOCAL4)),
                IpNet::V6(p) => self.local6.insert(&key6(p), what, 0).map_err(failure(LOCAL6)),
            };
            if inserted.is_ok() {
                self.local.insert(prefix, what);
            }
            result = result.and(inserted);
        }
        result
    }

    /// What the program has decided so far, over all CPUs.
    pub fn statistics(&self) -> Result<Statistics, MapFailure> {
        let cpus = self.stats.get(&0, 0).map_err(failure(STATS))?;
        let mut sum = Statistics::default();
        for &[redirected, passed, stale, unbound] in cpus.iter() {
            sum.redirected += redirected;
            sum.passed += passed;
            sum.stale += stale;
            sum.unbound += unbound;
        }
        Ok(sum)
    }

    /// What the kernel holds: an adopter starts from what the engine before it had set.
    fn read_local(&self) -> Result<BTreeMap<IpNet, u8>, MapFailure> {
        let mut local = BTreeMap::new();
        let refuse =
            |map| move |why: ipnet::PrefixLenError| MapFailure { map, why: why.to_string() };
        for key in self.local4.keys() {
            let key = key.map_err(failure(LOCAL4))?;
            let what = self.local4.get(&key, 0).map_err(failure(LOCAL4))?;
            local.insert(
                IpNet::new(key.data().into(), length(key.prefix_len())).map_err(refuse(LOCAL4))?,
                what,
            );
        }
        for key in self.local6.keys() {
            let key = key.map_err(failure(LOCAL6))?;
            let what = self.local6.get(&key, 0).map_err(failure(LOCAL6))?;
            local.insert(
                IpNet::new(key.data().into(), length(key.prefix_len())).map_err(refuse(LOCAL6))?,
                what,
            );
        }
        Ok(local)
    }
}

fn length(bits: u32) -> u8 {
    u8::try_from(bits).unwrap_or(u8::MAX)
}

fn key4(prefix: &ipnet::Ipv4Net) -> Key<[u8; 4]> {
    Key::new(prefix.prefix_len().into(), prefix.addr().octets())
}

fn key6(prefix: &ipnet::Ipv6Net) -> Key<[u8; 16]> {
    Key::new(prefix.prefix_len().into(), prefix.addr().octets())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steer::Mode;
    use millrace_wire::Mac;
    use std::time::Duration;

    fn options(stale_after: Duration) -> Options {
        Options { mode: Mode::ServiceProxy, mac: Mac([2, 0, 0, 0, 0, 9]), queues: 2, stale_after }
    }

    #[test]
    fn settings_are_three_native_words() {
        let Settings([stale_after, mode, mac]) =
            Settings::from(&options(Duration::from_millis(250)));
        assert_eq!((stale_after, mode), (250_000_000, 1));
        assert_eq!(mac.to_ne_bytes(), [2, 0, 0, 0, 0, 9, 0, 0]);
    }

    #[test]
    fn a_stale_time_beyond_the_program_s_signed_arithmetic_is_capped() {
        let Settings([stale_after, ..]) = Settings::from(&options(Duration::MAX));
        assert_eq!(stale_after, i64::MAX as u64);
    }

    #[test]
    fn handles_need_one_descriptor_for_each_map() {
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(Handles::from_fds(vec![null()]).is_none());
        let handles = Handles::from_fds(std::iter::repeat_with(null).take(7).collect()).unwrap();
        let refused = Maps::adopt(handles).err().unwrap().to_string();
        assert!(refused.contains("xsks"), "{refused}");
    }
}
