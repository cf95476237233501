//! Control's own configuration file: what no Kubernetes object says.
//!
//! Decides entry by entry: a bad one is reported by file, entry and field, and the others are in force; the last good version
//! of a route that breaks stays. Needs TOML text. Leaves to [`crate::compile::interfaces`] whether an entry fits the engine's interfaces.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use millrace_tables::{PolicyChanges, node::MAX_RANGES};
use millrace_wire::{Addr, Mac};
use serde::Deserialize;
use toml::{Table, Value};

use crate::{
    compile::node::{DetectLocalMode, NodePortAddresses},
    object::Key,
    world::PolicyOptions,
};

mod pod;

pub use pod::PodInterface;

/// Where the engine listens when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/millrace/engine.sock";

/// What is in force of the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// `engine`: path of the engine's socket.
    pub engine: Option<PathBuf>,
    /// `manifests`: directory of manifests.
    pub manifests: Option<PathBuf>,
    /// `kubeconfig`: how to reach the API server.
    pub kubeconfig: Option<PathBuf>,
    /// `node`: name of this node in Kubernetes.
    pub node: Option<String>,
    /// `nodeport_addresses`.
    pub nodeport_addresses: Vec<NodePortAddresses>,
    /// `service_cidr`.
    pub service_cidr: Vec<IpNet>,
    /// `cluster_cidr`.
    pub cluster_cidr: Vec<IpNet>,
    /// `detect_local_mode`.
    pub detect_local_mode: DetectLocalMode,
    /// `masquerade_all`.
    pub masquerade_all: bool,
    /// `policy_changes` and `unknown_pods`.
    pub policies: PolicyOptions,
    /// `[masquerade]`: whose flows are masqueraded that leave the cluster, and to where not.
    pub masquerade: Masquerade,
    /// `[[route]]`, each prefix once.
    pub routes: Vec<Route>,
    /// `[[neighbor]]`.
    pub neighbors: Vec<Neighbor>,
    /// `[[pod]]`, each interface once.
    pub pods: Vec<PodInterface>,
}

/// A place in a file, for messages: `control.toml: [[route]] 2`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(String);

impl At {
    /// A place outside of the file.
    pub fn new(place: String) -> At {
        At(place)
    }
}

/// `[masquerade]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Masquerade {
    /// Pods.
    pub sources: Vec<IpNet>,
    /// Destinations that see their addresses.
    #[serde(default)]
    pub except: Vec<IpNet>,
}

impl Masquerade {
    fn check(self) -> Result<Masquerade, Fault> {
        for (field, ranges) in [("sources", &self.sources), ("except", &self.except)] {
            if ranges.len() > MAX_RANGES {
                return Err((
                    field.into(),
                    format!("has {} ranges, at most {MAX_RANGES} are allowed", ranges.len()),
                ));
            }
        }
        Ok(self)
    }
}

/// One `[[route]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where it stands.
    pub at: At,
    /// Destinations.
    pub prefix: IpNet,
    /// What becomes of packets to them.
    pub action: Action,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Dropped without an answer.
    Blackhole,
    /// Answered with ICMP unreachable.
    Unreachable,
    /// Sent on, by weight.
    Forward(Vec<Hop>),
}

/// One next hop. At least one of `via` and `dev` is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Hop {
    /// The neighbor; the destination itself when absent.
    pub via: Option<Addr>,
    /// Name of the interface; the one whose network has `via` when absent.
    pub dev: Option<String>,
    /// Share, 1 to 256.
    pub weight: u16,
}

/// One `[[neighbor]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbor {
    /// Where it stands.
    pub at: At,
    /// Name of the interface.
    pub interface: String,
    /// Its address.
    pub address: Addr,
    /// Its MAC.
    pub mac: Mac,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    File,
    Entry,
    Misfit,
}

/// An entry, or the whole file, that is not in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    at: At,
    field: String,
    why: String,
    scope: Scope,
}

impl Problem {
    /// A fault of the entry `at`; `field` is empty when the entry as a whole is meant.
    pub fn new(at: At, field: impl Into<String>, why: impl Into<String>) -> Problem {
        Problem { at, field: field.into(), why: why.into(), scope: Scope::Entry }
    }

    /// A good entry that doesn't fit the engine's interfaces: other interfaces may mend it.
    pub fn misfit(at: At, field: impl Into<String>, why: impl Into<String>) -> Problem {
        Problem { scope: Scope::Misfit, ..Problem::new(at, field, why) }
    }

    fn file(at: At, why: String) -> Problem {
        Problem { scope: Scope::File, ..Problem::new(at, "", why) }
    }

    /// Whether it is a misfit.
    pub fn is_about_interfaces(&self) -> bool {
        self.scope == Scope::Misfit
    }

    /// Whether nothing at all could be read.
    pub fn is_about_the_file(&self) -> bool {
        self.scope == Scope::File
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem { at: At(at), field, why, .. } = self;
        if field.is_empty() { write!(f, "{at}: {why}") } else { write!(f, "{at}: {field}: {why}") }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteEntry {
    prefix: IpNet,
    #[serde(rename = "type", default)]
    kind: RouteKind,
    via: Option<std::net::IpAddr>,
    dev: Option<String>,
    #[serde(default)]
    next_hop: Vec<HopEntry>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RouteKind {
    #[default]
    Forward,
    Blackhole,
    Unreachable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HopEntry {
    via: Option<std::net::IpAddr>,
    dev: Option<String>,
    #[serde(default = "one")]
    weight: u16,
}

fn one() -> u16 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NeighborEntry {
    interface: String,
    address: std::net::IpAddr,
    mac: String,
}

/// Most next hops of a route.
const MOST_HOPS: usize = 64;
/// Largest weight of a next hop.
const HEAVIEST: u16 = 256;

impl Config {
    /// Reads `text` of the file `path`. `last` is what was in force before.
    pub fn parse(path: &Path, text: &str, last: &Config) -> (Config, Vec<Problem>) {
        let file = path.display().to_string();
        let at = |entry: &str| {
            At(if entry.is_empty() { file.clone() } else { format!("{file}: {entry}") })
        };
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let error: toml::de::Error = error;
                let newlines =
                    |end: usize| text.bytes().take(end).filter(|byte| *byte == b'\n').count();
                let line = error.span().map(|span| format!("line {}", newlines(span.start) + 1));
                let why = format!("{}: the file as it was before stays in force", error.message());
                return (last.clone(), vec![Problem::file(at(&line.unwrap_or_default()), why)]);
            }
        };
        let mut config = Config::default();
        let mut problems = Vec::new();
        for (key, value) in table {
            let outcome = match key.as_str() {
                "engine" => read(value).map(|path| config.engine = Some(path)),
                "manifests" => read(value).map(|path| config.manifests = Some(path)),
                "kubeconfig" => read(value).map(|path| config.kubeconfig = Some(path)),
                "node" => read(value).map(|name| config.node = Some(name)),
                "nodeport_addresses" => read::<Vec<String>>(value).and_then(|items| {
                    config.nodeport_addresses = items.iter().map(|item| item.parse()).collect::<Result<_, _>>().map_err(|why| (String::new(), why))?;
                    Ok(())
                }),
                "service_cidr" => read(value).map(|ranges| config.service_cidr = ranges),
                "cluster_cidr" => read(value).map(|ranges| config.cluster_cidr = ranges),
                "detect_local_mode" => read(value).map(|mode| config.detect_local_mode = mode),
                "masquerade_all" => read(value).map(|all| config.masquerade_all = all),
                "policy_changes" => one_of(value, [("strict", PolicyChanges::Strict), ("keep", PolicyChanges::Keep)])
                    .map(|changes| config.policies.changes = changes),
                "unknown_pods" => one_of(value, [("closed", false), ("open", true)]).map(|open| config.policies.unknown_pods_open = open),
                "masquerade" => read(value).and_then(Masquerade::check).map(|it| config.masquerade = it),
                "route" => entries(value, |number, value| {
                    let at = at(&format!("[[route]] {number}"));
                    let prefix = value.get("prefix").and_then(Value::as_str).and_then(|text| text.parse::<IpNet>().ok());
                    let before = last.routes.iter().find(|route| Some(route.prefix) == prefix);
                    match route(value, at.clone()) {
                        Ok(new) if config.routes.iter().any(|other| other.prefix == new.prefix) => {
                            problems.push(Problem::new(at, "prefix", format!("{} is routed by an earlier entry, which is in force", new.prefix)));
                        }
                        Ok(new) => config.routes.push(new),
                        Err((field, why)) => {
                            problems.push(Problem::new(at, field, why));
                            config.routes.extend(before.cloned());
                        }
                    }
                }),
                "neighbor" => entries(value, |number, value| {
                    let at = at(&format!("[[neighbor]] {number}"));
                    match neighbor(value, at.clone()) {
                        Ok(new) => config.neighbors.push(new),
                        Err((field, why)) => problems.push(Problem::new(at, field, why)),
                    }
                }),
                "pod" => entries(value, |number, value| {
                    let at = at(&format!("[[pod]] {number}"));
                    let interface = value.get("interface").and_then(Value::as_str).map(str::to_owned);
                    match pod::read(value, at.clone()) {
                        Ok(new) if config.pods.iter().any(|other| other.interface == new.interface) => {
                            problems.push(Problem::new(at, "interface", format!("{:?} is of an earlier entry, which is in force", new.interface)));
                        }
                        Ok(new) => config.pods.push(new),
                        Err((field, why)) => {
                            problems.push(Problem::new(at.clone(), field, why));
                            // Nobody's: what is not known to be a pod's own does not pass.
                            config.pods.extend(interface.map(|interface| PodInterface::nobodys(at, interface)));
                        }
                    }
                }),
                _ => Err((String::new(), "is no option: engine, manifests, kubeconfig, node, nodeport_addresses, service_cidr, cluster_cidr, detect_local_mode, masquerade_all, [masquerade], policy_changes, unknown_pods, [[route]], [[neighbor]] or [[pod]]".into())),
            };
            if let Err((field, why)) = outcome {
                problems.push(Problem::new(at(&key), field, why));
            }
        }
        (config, problems)
    }

    /// Whether an interface is this object's: a change of it is one of the world.
    pub fn has_interface_of(&self, object: &Key) -> bool {
        self.pods.iter().any(|entry| entry.pod.as_ref() == Some(object))
    }

    /// Reads the file. One that can't be read leaves `last` in force.
    pub fn read(path: &Path, last: &Config) -> (Config, Vec<Problem>) {
        match std::fs::read_to_string(path) {
            Ok(text) => Config::parse(path, &text, last),
            Err(error) => {
                let at = At(path.display().to_string());
                (last.clone(), vec![Problem::file(at, format!("can't be read: {error}"))])
            }
        }
    }
}

type Fault = (String, String);

fn read<T: for<'de> Deserialize<'de>>(value: Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        (if path == "." { String::new() } else { path }, error.inner().message().trim().to_owned())
    })
}

/// One of these words.
fn one_of<T>(value: Value, words: [(&str, T); 2]) -> Result<T, Fault> {
    let [(one, _), (other, _)] = &words;
    let why = format!("{value} is neither \"{one}\" nor \"{other}\"");
    let said = value.as_str();
    let found = words.into_iter().find(|(word, _)| said == Some(*word));
    found.map(|(_, meant)| meant).ok_or((String::new(), why))
}

fn entries(value: Value, mut each: impl FnMut(usize, Value)) -> Result<(), Fault> {
    let Value::Array(values) = value else {
        return Err((
            String::new(),
            "must be written as [[route]], [[neighbor]] or [[pod]]".into(),
        ));
    };
    for (at, value) in values.into_iter().enumerate() {
        each(at + 1, value);
    }
    Ok(())
}

fn route(value: Value, at: At) -> Result<Route, Fault> {
    let fault = |field: &str, why: &str| Err((field.to_owned(), why.to_owned()));
    let RouteEntry { prefix, kind, via, dev, next_hop } = read(value)?;
    if prefix.trunc() != prefix {
        return Err((
            "prefix".into(),
            format!("{prefix} has bits set beyond its length, did you mean {}?", prefix.trunc()),
        ));
    }
    let single = via.is_some() || dev.is_some();
    let action = match kind {
        RouteKind::Blackhole | RouteKind::Unreachable if single || !next_hop.is_empty() => {
            return fault("type", "takes no via, dev or next_hop");
        }
        RouteKind::Blackhole => Action::Blackhole,
        RouteKind::Unreachable => Action::Unreachable,
        RouteKind::Forward if single && !next_hop.is_empty() => {
            return fault("next_hop", "excludes via and dev beside it");
        }
        RouteKind::Forward if single => Action::Forward(vec![
            hop(HopEntry { via, dev, weight: 1 }, &prefix)
                .map_err(|(field, why)| (field.into(), why))?,
        ]),
        RouteKind::Forward if next_hop.is_empty() => {
            return fault("via", "is missing: give via, dev or next_hop, or a type");
        }
        RouteKind::Forward if next_hop.len() > MOST_HOPS => {
            return Err((
                "next_hop".into(),
                format!("has {} items, at most {MOST_HOPS} are allowed", next_hop.len()),
            ));
        }
        RouteKind::Forward => {
            let hops = next_hop.into_iter().enumerate();
            let hops = hops.map(|(at, entry)| {
                hop(entry, &prefix).map_err(|(field, why)| (format!("next_hop[{at}].{field}"), why))
            });
            Action::Forward(hops.collect::<Result<_, _>>()?)
        }
    };
    Ok(Route { at, prefix, action })
}

fn hop(entry: HopEntry, prefix: &IpNet) -> Result<Hop, (&'static str, String)> {
    let HopEntry { via, dev, weight } = entry;
    if via.is_none() && dev.is_none() {
        return Err(("via", "is missing, and so is dev".into()));
    }
    if let Some(via) = via {
        if via.is_ipv4() != prefix.addr().is_ipv4() {
            return Err(("via", format!("{via} is not of the family of {prefix}")));
        }
        if via.is_unspecified() || via.is_multicast() || via.is_loopback() {
            return Err(("via", format!("{via} is not an address of a neighbor")));
        }
    }
    if !(1..=HEAVIEST).contains(&weight) {
        return Err(("weight", format!("{weight} is not in 1 to {HEAVIEST}")));
    }
    Ok(Hop { via: via.map(Addr::from), dev, weight })
}

fn neighbor(value: Value, at: At) -> Result<Neighbor, Fault> {
    let NeighborEntry { interface, address, mac } = read(value)?;
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(("address".into(), format!("{address} is not an address of a neighbor")));
    }
    let mac: Mac = mac.parse().map_err(|_| {
        ("mac".to_owned(), format!("{mac:?} is not a MAC address such as 02:00:00:00:00:01"))
    })?;
    if mac.is_multicast() || mac == Mac::ZERO {
        return Err(("mac".into(), format!("{mac} is not an address of one neighbor")));
    }
    Ok(Neighbor { at, interface, address: Addr::from(address), mac })
}

#[cfg(test)]
mod tests;
