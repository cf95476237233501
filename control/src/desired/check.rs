//! Field checks that every kind shares: each refuses one part, names its field and lets the rest pass.

use std::net::IpAddr;

use ipnet::IpNet;
use millrace_wire::Addr;

use crate::object::{Key, Refusal};

/// Longest name of a port (RFC 1123 label).
const LONGEST_LABEL: usize = 63;

/// What an address is going to be used for: addresses that make no sense there are refused, as the API server does
/// (`ValidateNonSpecialIP`), because manifests from files have passed no API server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// A VIP, an endpoint, a pod or a node: not unspecified, loopback, multicast or broadcast.
    Unicast,
    /// The same and not link-local: endpoints and external IPs.
    Global,
}

/// Collects the refusals of one object.
pub struct Checker<'a> {
    key: &'a Key,
    /// What has been refused so far.
    pub refusals: Vec<Refusal>,
}

impl<'a> Checker<'a> {
    /// Of the object `key`.
    pub fn new(key: &'a Key) -> Self {
        Checker { key, refusals: Vec::new() }
    }

    /// Refuses a part.
    pub fn refuse(&mut self, field: impl Into<String>, why: impl Into<String>) {
        let Key { kind, namespace, name } = self.key.clone();
        self.refusals.push(Refusal {
            kind: kind.name().into(),
            namespace,
            name,
            field: field.into(),
            why: why.into(),
        });
    }

    /// Puts what was refused while the object was read before the rest. Such an item is empty by now, and what was said of that is
    /// nothing new.
    pub fn refused_before(&mut self, refused: &[(String, String)]) {
        let item = |field: &str| field.find(']').map_or(field.len(), |end| end + 1);
        let items: Vec<&str> = refused.iter().map(|(field, _)| &field[..item(field)]).collect();
        let rest = std::mem::take(&mut self.refusals);
        for (field, why) in refused {
            self.refuse(field, why);
        }
        let inside = |field: &str| {
            items.iter().any(|item| {
                field
                    .strip_prefix(item)
                    .is_some_and(|rest| matches!(rest.get(..1), None | Some(".")))
            })
        };
        self.refusals.extend(rest.into_iter().filter(|refusal| !inside(&refusal.field)));
    }

    /// An IP address in its plain form. Leading zeros are refused because readers disagree whether they mean octal
    /// (CVE-2021-29923), IPv4 in IPv6 because one host would have two names.
    pub fn address(
        &mut self,
        field: impl Fn() -> String,
        text: &str,
        purpose: Use,
    ) -> Option<Addr> {
        let Ok(ip) = text.parse::<IpAddr>() else {
            self.refuse(field(), format!("{text:?} is not an IP address{}", address_hint(text)));
            return None;
        };
        let fault = match ip {
            IpAddr::V4(v4) if v4.is_unspecified() => Some("is unspecified"),
            IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
                Some("is IPv4 written as IPv6: write it as IPv4")
            }
            IpAddr::V6(v6) if v6.is_unspecified() => Some("is unspecified"),
            IpAddr::V4(v4) if v4.is_broadcast() => Some("is broadcast"),
            _ if ip.is_loopback() => Some("is loopback"),
            _ if ip.is_multicast() => Some("is multicast"),
            IpAddr::V4(v4) if purpose == Use::Global && v4.is_link_local() => Some("is link-local"),
            IpAddr::V6(v6) if purpose == Use::Global && v6.is_unicast_link_local() => {
                Some("is link-local")
            }
            _ => None,
        };
        match fault {
            Some(fault) => {
                self.refuse(field(), format!("{text} {fault}"));
                None
            }
            None => Some(Addr::from(ip)),
        }
    }

    /// A prefix; bits beyond its length are cut off.
    pub fn range(&mut self, field: impl Fn() -> String, text: &str) -> Option<IpNet> {
        self.prefix(
            field,
            &network(text).map_or_else(|| text.to_owned(), |net| net.trunc().to_string()),
        )
    }

    /// A prefix whose host bits are zero.
    pub fn prefix(&mut self, field: impl Fn() -> String, text: &str) -> Option<IpNet> {
        match network(text) {
            Some(net) if net.trunc() == net => Some(net),
            Some(net) => {
                self.refuse(
                    field(),
                    format!("{text} has bits set beyond its length, did you mean {}?", net.trunc()),
                );
                None
            }
            None => {
                self.refuse(
                    field(),
                    format!("{text:?} is not a prefix such as 10.0.1.0/24{}", address_hint(text)),
                );
                None
            }
        }
    }

    /// A port number, 1 to 65535.
    pub fn port(&mut self, field: impl Fn() -> String, number: i32) -> Option<u16> {
        match u16::try_from(number) {
            Ok(port) if port != 0 => Some(port),
            _ => {
                self.refuse(field(), format!("{number} is not a port: 1 to 65535"));
                None
            }
        }
    }

    /// TCP, UDP or SCTP; TCP when absent, as the API defaults it.
    pub fn protocol(&mut self, field: impl Fn() -> String, text: Option<&str>) -> Option<Protocol> {
        match text {
            None | Some("TCP") => Some(Protocol::TCP),
            Some("UDP") => Some(Protocol::UDP),
            Some("SCTP") => Some(Protocol::SCTP),
            Some(other) => {
                self.refuse(field(), format!("{other:?} is not TCP, UDP or SCTP"));
                None
            }
        }
    }

    /// A port's name; empty when absent.
    pub fn port_name(&mut self, field: impl Fn() -> String, text: Option<&str>) -> Option<String> {
        let text = text.unwrap_or_default();
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.len() <= LONGEST_LABEL && text.bytes().all(allowed) {
            return Some(text.into());
        }
        self.refuse(
            field(),
            format!(
                "{:?} is not a port name: at most 63 lower-case letters, digits and '-'",
                text.chars().take(80).collect::<String>()
            ),
        );
        None
    }
}

/// Whether a mapping has these fields alone. Each other one is refused, with the one it may be meant to be.
pub fn known(
    check: &mut Checker<'_>,
    field: &str,
    map: &serde_json::Map<String, serde_json::Value>,
    fields: &[&str],
) -> bool {
    let strange =
        map.iter().filter(|(name, value)| !value.is_null() && !fields.contains(&name.as_str()));
    let mut known = true;
    for (name, _) in strange {
        let shown: String = name.chars().take(80).collect();
        let meant = fields.iter().find(|field| field.eq_ignore_ascii_case(&shown));
        let why = match meant {
            Some(meant) => format!("is no field here, did you mean {meant}?"),
            None => format!("is no field here: there are {}", fields.join(", ")),
        };
        check.refuse(format!("{field}.{shown}"), why);
        known = false;
    }
    known
}

/// `ipnet` alone takes leading zeros, also of the length.
fn network(text: &str) -> Option<IpNet> {
    let (addr, length) = text.split_once('/')?;
    addr.parse::<IpAddr>().ok()?;
    let plain = length.bytes().all(|byte| byte.is_ascii_digit());
    if !plain || (length.len() > 1 && length.starts_with('0')) {
        return None;
    }
    text.parse().ok()
}

pub use millrace_wire::Protocol;

fn address_hint(text: &str) -> &'static str {
    if text != text.trim() {
        return ": it has white space around it";
    }
    let zero_led = |part: &str| {
        part.len() > 1 && part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit())
    };
    let v4 = text.split('/').next().unwrap_or_default();
    if v4.split('.').count() == 4 && v4.split('.').any(zero_led) {
        return ": parts with leading zeros are read as octal by some and as decimal by others";
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Kind;

    fn address(text: &str, purpose: Use) -> Result<Addr, String> {
        let key = Key { kind: Kind::Service, namespace: "default".into(), name: "web".into() };
        let mut check = Checker::new(&key);
        check.address(|| "f".into(), text, purpose).ok_or_else(|| check.refusals[0].why.clone())
    }

    #[test]
    fn plain_addresses_pass() {
        for text in ["10.0.0.1", "169.254.20.10", "2001:db8::1", "fe80::1", "::2"] {
            assert_eq!(
                address(text, Use::Unicast).map(|addr| addr.to_string()).as_deref(),
                Ok(text)
            );
        }
    }

    #[test]
    fn addresses_that_readers_disagree_on_are_refused_with_the_reason() {
        assert!(address("172.30.0.041", Use::Unicast).unwrap_err().contains("octal"));
        assert!(address(" 10.0.0.1", Use::Unicast).unwrap_err().contains("white space"));
        assert!(address("::ffff:10.0.0.1", Use::Unicast).unwrap_err().contains("write it as IPv4"));
    }

    #[test]
    fn addresses_nobody_can_serve_on_are_refused() {
        for text in [
            "",
            "None",
            "10.0.0",
            "10.0.0.256",
            "fe80::1%eth0",
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "1.2.3.4/32",
        ] {
            assert!(address(text, Use::Unicast).is_err(), "{text}");
        }
        assert!(
            address("169.254.1.1", Use::Global).is_err()
                && address("fe80::1", Use::Global).is_err()
        );
    }
}
