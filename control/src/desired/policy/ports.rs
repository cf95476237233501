//! Protocols and destination ports of a rule.

use serde_json::{Map, Value};

use super::{Shown, list, mapping, set};
use crate::desired::check::{Checker, Protocol};

/// What of a packet's protocol and port a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Nothing: ICMP and all other protocols too.
    All,
    /// One of these.
    Of(Vec<Port>),
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// Ports of a protocol, both ends included.
    Range(Protocol, u16, u16),
    /// The port that the destination pod gives this name, in this protocol, or in any when there is none.
    Named(Option<Protocol>, Box<str>),
}

const NETWORK: [&str; 3] = ["protocol", "port", "endPort"];

/// `ports` of a NetworkPolicy's rule. An item that can't be read matches nothing.
pub(super) fn network(check: &mut Checker<'_>, field: &str, rule: &Map<String, Value>) -> Ports {
    match list(check, field, rule, "ports") {
        Some([]) => Ports::All,
        listed => Ports::Of(
            listed
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(at, item)| network_port(check, &format!("{field}.ports[{at}]"), item))
                .collect(),
        ),
    }
}

fn network_port(check: &mut Checker<'_>, field: &str, item: &Value) -> Option<Port> {
    let map = mapping(check, field, item, &NETWORK)?;
    let protocol = match map.get("protocol") {
        None | Some(Value::Null) => Protocol::TCP,
        Some(Value::String(text)) => check.protocol(|| format!("{field}.protocol"), Some(text))?,
        Some(_) => {
            check.refuse(format!("{field}.protocol"), "is not a string");
            return None;
        }
    };
    let end = map.get("endPort").filter(|value| !value.is_null());
    match map.get("port").unwrap_or(&Value::Null) {
        Value::Null if end.is_some() => {
            check.refuse(format!("{field}.endPort"), "needs a port that the range begins with");
            None
        }
        Value::Null => Some(Port::Range(protocol, 0, u16::MAX)),
        Value::String(name) => {
            if !is_port_name(name) {
                check.refuse(
                    format!("{field}.port"),
                    format!(
                        "{} is neither a number nor the name of a port: at most 15 lower-case letters, digits and '-', with a letter",
                        Shown(&Value::String(name.clone()))
                    ),
                );
                return None;
            }
            if end.is_some() {
                check.refuse(
                    format!("{field}.endPort"),
                    "can't be with a named port: a range begins with a number",
                );
                return None;
            }
            Some(Port::Named(Some(protocol), name.as_str().into()))
        }
        first => {
            let first = number(check, &format!("{field}.port"), first)?;
            let Some(end) = end else { return Some(Port::Range(protocol, first, first)) };
            let last = number(check, &format!("{field}.endPort"), end)?;
            if last < first {
                check.refuse(
                    format!("{field}.endPort"),
                    format!("{last} is less than port, which is {first}"),
                );
                return None;
            }
            Some(Port::Range(protocol, first, last))
        }
    }
}

/// `protocols` of a ClusterNetworkPolicy's rule. An item that can't be read matches nothing.
pub(super) fn cluster(check: &mut Checker<'_>, field: &str, rule: &Map<String, Value>) -> Ports {
    match list(check, field, rule, "protocols") {
        // The schema wants an item where there is a list; none at all is no word about ports.
        Some([]) => Ports::All,
        listed => Ports::Of(
            listed
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(at, item)| {
                    cluster_port(check, &format!("{field}.protocols[{at}]"), item)
                })
                .collect(),
        ),
    }
}

fn cluster_port(check: &mut Checker<'_>, field: &str, item: &Value) -> Option<Port> {
    let fields = ["tcp", "udp", "sctp", "destinationNamedPort"];
    let map = mapping(check, field, item, &fields)?;
    let mut given = set(map);
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        check.refuse(field, format!("must have exactly one of {}", fields.join(", ")));
        return None;
    };
    let protocol = match (name, value) {
        ("tcp", _) => Protocol::TCP,
        ("udp", _) => Protocol::UDP,
        ("sctp", _) => Protocol::SCTP,
        (_, Value::String(port)) if is_port_name(port) => {
            return Some(Port::Named(None, port.as_str().into()));
        }
        _ => {
            check.refuse(
                format!("{field}.{name}"),
                format!("{} is not the name of a port", Shown(value)),
            );
            return None;
        }
    };
    let field = format!("{field}.{name}");
    let map = mapping(check, &field, value, &["destinationPort"])?;
    let field = format!("{field}.destinationPort");
    // "If destinationPort is omitted, all ports for the specified protocol match."
    let Some(port) = map.get("destinationPort").filter(|value| !value.is_null()) else {
        return Some(Port::Range(protocol, 0, u16::MAX));
    };
    let map = mapping(check, &field, port, &["number", "range"])?;
    let mut given = set(map);
    match (given.next(), given.next()) {
        (Some(("number", value)), None) => {
            let port = number(check, &format!("{field}.number"), value)?;
            Some(Port::Range(protocol, port, port))
        }
        (Some(("range", value)), None) => {
            let field = format!("{field}.range");
            let map = mapping(check, &field, value, &["start", "end"])?;
            let mut end_of = |name: &str| {
                let value = map.get(name).unwrap_or(&Value::Null);
                number(check, &format!("{field}.{name}"), value)
            };
            let (start, end) = (end_of("start")?, end_of("end")?);
            if start >= end {
                check.refuse(field, format!("start {start} must be less than end {end}"));
                return None;
            }
            Some(Port::Range(protocol, start, end))
        }
        _ => {
            check.refuse(field, "must have exactly one of number, range");
            None
        }
    }
}

/// `ports` of a rule of an AdminNetworkPolicy or BaselineAdminNetworkPolicy. An item that can't be read matches nothing.
pub(super) fn admin(check: &mut Checker<'_>, field: &str, rule: &Map<String, Value>) -> Ports {
    match list(check, field, rule, "ports") {
        Some([]) => Ports::All,
        listed => Ports::Of(
            listed
                .into_iter()
                .flatten()
                .enumerate()
                .filter_map(|(at, item)| admin_port(check, &format!("{field}.ports[{at}]"), item))
                .collect(),
        ),
    }
}

fn admin_port(check: &mut Checker<'_>, field: &str, item: &Value) -> Option<Port> {
    let fields = ["portNumber", "namedPort", "portRange"];
    let map = mapping(check, field, item, &fields)?;
    let mut given = set(map);
    let (Some((name, value)), None) = (given.next(), given.next()) else {
        check.refuse(field, format!("must have exactly one of {}", fields.join(", ")));
        return None;
    };
    let field = format!("{field}.{name}");
    if name == "namedPort" {
        let named = value.as_str().filter(|name| is_port_name(name));
        if named.is_none() {
            check.refuse(field, format!("{} is not the name of a port", Shown(value)));
        }
        return named.map(|name| Port::Named(None, name.into()));
    }
    let is_range = name == "portRange";
    let fields: &[&str] =
        if is_range { &["protocol", "start", "end"] } else { &["protocol", "port"] };
    let map = mapping(check, &field, value, fields)?;
    let protocol = match map.get("protocol") {
        None | Some(Value::Null) => Protocol::TCP,
        Some(Value::String(text)) => check.protocol(|| format!("{field}.protocol"), Some(text))?,
        Some(_) => {
            check.refuse(format!("{field}.protocol"), "is not a string");
            return None;
        }
    };
    let mut port_of = |name: &str| {
        number(check, &format!("{field}.{name}"), map.get(name).unwrap_or(&Value::Null))
    };
    if !is_range {
        return port_of("port").map(|port| Port::Range(protocol, port, port));
    }
    let (start, end) = (port_of("start")?, port_of("end")?);
    if start >= end {
        check.refuse(field, format!("start {start} must be less than end {end}"));
        return None;
    }
    Some(Port::Range(protocol, start, end))
}

fn number(check: &mut Checker<'_>, field: &str, value: &Value) -> Option<u16> {
    match value.as_i64().map(u16::try_from) {
        Some(Ok(port)) if port != 0 => Some(port),
        _ => {
            check.refuse(field, format!("{} is not a port: 1 to 65535", Shown(value)));
            None
        }
    }
}

/// As apimachinery's `IsValidPortName`.
fn is_port_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !name.is_empty()
        && name.len() <= 15
        && name.bytes().all(plain)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}
