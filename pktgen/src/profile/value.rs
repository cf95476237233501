//! Values of a profile's keys, from what TOML says to what the generator uses.

use super::raw::RawVxlan;
use super::{Family, Fill, ProfileError, Vlan, VxlanPlan, wrong};
use crate::field::{Spec, interleave};
use ipnet::IpNet;
use millrace_wire::Mac;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use toml::Value;

/// What a field's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// IP addresses, of one version.
    Addresses,
    /// Whole numbers.
    Up {
        /// Greatest.
        to: u64,
    },
    /// Frame sizes, or `imix`.
    Sizes,
}

/// IPv4 addresses have a bit of their own, so that the two versions never meet in one field.
const IPV4: u128 = 0xffff << 32;

/// Sizes and shares of the "simple IMIX" (7 : 4 : 1).
const IMIX: [(u128, u32); 3] = [(64, 7), (594, 4), (1518, 1)];

/// The IP version of a field of [`Numbers::Addresses`].
pub fn family(spec: &Spec) -> Family {
    if spec.bounds().0 >> 32 == IPV4 >> 32 { Family::V4 } else { Family::V6 }
}

/// A field of addresses without the bit that tells the versions apart.
pub fn plain(family: Family, spec: &Spec) -> Spec {
    match family {
        Family::V4 => spec.map(|v| v & 0xffff_ffff),
        Family::V6 => spec.clone(),
    }
}

/// The address of a plain number.
pub fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(number as u32).into(),
        Family::V6 => Ipv6Addr::from(number).into(),
    }
}

/// A field: a number, a text or a table. See [`crate::field`] for the forms.
pub fn spec(key: &str, value: &Value, numbers: Numbers) -> Result<Spec, ProfileError> {
    let spec = match value {
        Value::Integer(n) => Spec::Fixed(number(key, &n.to_string(), numbers)?),
        Value::String(text) => from_text(key, text, numbers)?,
        Value::Array(items) => Spec::Sequence { values: items_of(key, items, numbers)?, every: 1 },
        Value::Table(table) => from_table(key, table, numbers)?,
        other => return Err(wrong(key, format!("{} is no value for it", other.type_str()))),
    };
    let (first, last) = spec.bounds();
    if numbers == Numbers::Addresses && (first >> 32 == IPV4 >> 32) != (last >> 32 == IPV4 >> 32) {
        return Err(wrong(key, "IPv4 and IPv6 addresses can't be in one stream"));
    }
    Ok(spec)
}

fn from_text(key: &str, text: &str, numbers: Numbers) -> Result<Spec, ProfileError> {
    let text = text.trim();
    if numbers == Numbers::Sizes && text == "imix" {
        return Ok(mix(&IMIX));
    }
    let split = |list: &str| -> Result<Vec<u128>, ProfileError> {
        list.split(',').map(|item| number(key, item.trim(), numbers)).collect()
    };
    if let Some(range) = text.strip_prefix("random ") {
        let (first, last) = range_of(key, range.trim(), numbers)?;
        return Ok(Spec::Random { first, last });
    }
    if let Some(list) = text.strip_prefix("one of ") {
        return Ok(Spec::List(split(list)?));
    }
    if text.contains(',') {
        return Ok(Spec::Sequence { values: split(text)?, every: 1 });
    }
    if text.contains('-') || text.contains('/') {
        let (first, last) = range_of(key, text, numbers)?;
        return Ok(Spec::Range { first, last, step: 1, every: 1 });
    }
    Ok(Spec::Fixed(number(key, text, numbers)?))
}

fn from_table(key: &str, table: &toml::Table, numbers: Numbers) -> Result<Spec, ProfileError> {
    const FORMS: [&str; 5] = ["range", "sequence", "random", "list", "imix"];
    for name in table.keys() {
        if !FORMS.contains(&name.as_str()) && name != "step" && name != "every" {
            return Err(wrong(format!("{key}.{name}"), "there is no such key"));
        }
    }
    let form = FORMS.iter().filter(|f| table.contains_key(**f)).collect::<Vec<_>>();
    let [form] = form[..] else {
        return Err(wrong(key, "say one of range, sequence, random, list or imix"));
    };
    let at = |name: &str| format!("{key}.{name}");
    let turn = |name: &str| match table.get(name) {
        None => Ok(1),
        Some(Value::Integer(n)) if *n > 0 => Ok(*n as u64),
        Some(_) => Err(wrong(at(name), "it has to be a number above 0")),
    };
    let (step, every) = (turn("step")?, turn("every")?);
    let (here, value) = (at(form), table.get(*form).cloned().unwrap_or(Value::Boolean(false)));
    let given = |name: &str| table.contains_key(name);
    let misplaced = if given("step") && *form != "range" {
        Some("step")
    } else if given("every") && !matches!(*form, "range" | "sequence") {
        Some("every")
    } else {
        None
    };
    if let Some(name) = misplaced {
        return Err(wrong(at(name), format!("it says nothing with {form}")));
    }
    match (*form, &value) {
        ("range", Value::String(text)) => {
            let (first, last) = range_of(&here, text, numbers)?;
            Ok(Spec::Range { first, last, step: step.into(), every })
        }
        ("random", Value::String(text)) => {
            let (first, last) = range_of(&here, text, numbers)?;
            Ok(Spec::Random { first, last })
        }
        ("sequence", Value::Array(items)) => {
            Ok(Spec::Sequence { values: items_of(&here, items, numbers)?, every })
        }
        ("list", Value::Array(items)) => Ok(Spec::List(items_of(&here, items, numbers)?)),
        ("imix", Value::Array(items)) if numbers == Numbers::Sizes => {
            let pairs = items.iter().map(|item| match item.as_array().map(Vec::as_slice) {
                Some([Value::Integer(size), Value::Integer(share)])
                    if (1..=10_000).contains(share) =>
                {
                    Ok((number(&here, &size.to_string(), numbers)?, *share as u32))
                }
                _ => Err(wrong(
                    &here,
                    "say pairs of size and share, as [[64, 7], [594, 4], [1518, 1]]",
                )),
            });
            let pairs: Vec<_> = pairs.collect::<Result<_, _>>()?;
            if pairs.is_empty() {
                return Err(wrong(here, "it is empty"));
            }
            Ok(mix(&pairs))
        }
        ("range" | "random", _) => Err(wrong(here, "say a text, as \"1024-2047\"")),
        _ => Err(wrong(here, "say a list, as [1, 2, 3]")),
    }
}

fn mix(sizes: &[(u128, u32)]) -> Spec {
    let shares: Vec<_> = sizes.iter().map(|(_, share)| *share).collect();
    let order = interleave(&shares);
    let values = order.iter().filter_map(|i| sizes.get(*i as usize)).map(|(size, _)| *size);
    Spec::Sequence { values: values.collect(), every: 1 }
}

fn items_of(key: &str, items: &[Value], numbers: Numbers) -> Result<Vec<u128>, ProfileError> {
    if items.is_empty() {
        return Err(wrong(key, "it is empty"));
    }
    let texts = items.iter().map(|item| match item {
        Value::Integer(n) => number(key, &n.to_string(), numbers),
        Value::String(text) => number(key, text, numbers),
        other => Err(wrong(key, format!("{} is no value for it", other.type_str()))),
    });
    texts.collect()
}

fn range_of(key: &str, text: &str, numbers: Numbers) -> Result<(u128, u128), ProfileError> {
    if numbers == Numbers::Addresses && text.contains('/') {
        let net = net(text).map_err(|why| wrong(key, why))?;
        let ends = [net.network(), net.broadcast()].map(|a| number(key, &a.to_string(), numbers));
        let [first, last] = ends;
        return Ok((first?, last?));
    }
    let (first, last) =
        text.split_once('-').ok_or_else(|| wrong(key, format!("{text:?}: say first-last")))?;
    let first = number(key, first.trim(), numbers)?;
    let last = number(key, last.trim(), numbers)?;
    if first > last {
        return Err(wrong(key, format!("{text:?}: it ends before it begins")));
    }
    Ok((first, last))
}

fn number(key: &str, text: &str, numbers: Numbers) -> Result<u128, ProfileError> {
    match numbers {
        Numbers::Addresses => match text.parse() {
            Ok(IpAddr::V4(v4)) => Ok(u128::from(v4.to_bits()) | IPV4),
            Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
                Err(wrong(key, format!("{text:?}: write it as an IPv4 address")))
            }
            Ok(IpAddr::V6(v6)) => Ok(v6.to_bits()),
            Err(_) => Err(wrong(key, format!("{text:?} is no IP address"))),
        },
        Numbers::Up { to } => match text.parse::<u64>() {
            Ok(n) if n <= to => Ok(n.into()),
            _ => Err(wrong(key, format!("{text:?} is no number from 0 to {to}"))),
        },
        Numbers::Sizes => match text.parse::<u16>() {
            Ok(n) => Ok(n.into()),
            Err(_) => Err(wrong(key, format!("{text:?} is no frame size in bytes, nor imix"))),
        },
    }
}

/// A prefix; an address alone is one of full length.
pub fn net(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    text.parse().map_err(|_| format!("{text:?} is no address nor prefix"))
}

/// A MAC address, if there is one.
pub fn mac_at(key: &str, text: Option<&str>) -> Result<Option<Mac>, ProfileError> {
    let parse =
        |text: &str| text.parse().map_err(|_| wrong(key, format!("{text:?} is no MAC address")));
    text.map(parse).transpose()
}

/// VLAN tags, outer first: `100`, `[100, 200]`, `{ id = 100, priority = 3 }` or a list of these.
pub fn vlans(key: &str, value: Option<&Value>) -> Result<Vec<Vlan>, ProfileError> {
    let one = |value: &Value| {
        let (id, pcp) = match value {
            Value::Integer(id) => (*id, 0),
            Value::Table(table) => {
                if let Some(name) = table.keys().find(|k| *k != "id" && *k != "priority") {
                    return Err(wrong(format!("{key}.{name}"), "there is no such key"));
                }
                let get = |name| table.get(name).and_then(Value::as_integer);
                (get("id").unwrap_or(-1), get("priority").unwrap_or(0))
            }
            _ => (-1, 0),
        };
        if !(0..=4094).contains(&id) || !(0..=7).contains(&pcp) {
            return Err(wrong(key, "say a VLAN from 0 to 4094, or { id = 100, priority = 3 }"));
        }
        Ok(Vlan { id: id as u16, pcp: pcp as u8 })
    };
    let tags = match value {
        None => Vec::new(),
        Some(Value::Array(tags)) => tags.iter().map(one).collect::<Result<_, _>>()?,
        Some(tag) => vec![one(tag)?],
    };
    if tags.len() > 2 {
        return Err(wrong(key, "there can be two tags"));
    }
    Ok(tags)
}

/// TCP flags: `syn`, `syn,ack`, `none`.
pub fn flags(key: &str, text: &str) -> Result<u8, ProfileError> {
    const NAMES: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let mut flags = 0;
    for name in text.split([',', '|', ' ']).filter(|n| !n.is_empty() && *n != "none") {
        let bit = NAMES.iter().position(|n| *n == name);
        let bit =
            bit.ok_or_else(|| wrong(key, format!("{name:?} is none of {}", NAMES.join(", "))))?;
        flags |= 1 << bit;
    }
    Ok(flags)
}

/// Payload: `zeros`, `random`, `hex:0102ff`.
pub fn fill(key: &str, text: &str) -> Result<Fill, ProfileError> {
    match text {
        "zeros" => Ok(Fill::Zeros),
        "random" => Ok(Fill::Random),
        _ => {
            let digits = text
                .strip_prefix("hex:")
                .filter(|d| !d.is_empty() && d.len() % 2 == 0 && d.is_ascii());
            let bytes = digits.and_then(|digits| {
                let at = (0..digits.len()).step_by(2);
                at.map(|i| u8::from_str_radix(digits.get(i..i + 2)?, 16).ok()).collect()
            });
            bytes.map(Fill::Bytes).ok_or_else(|| {
                wrong(key, format!("{text:?}: say zeros, random, or bytes as hex:0102ff"))
            })
        }
    }
}

/// `[stream.vxlan]`.
pub fn vxlan(key: &str, raw: &RawVxlan) -> Result<VxlanPlan, ProfileError> {
    let at = |name: &str| format!("{key}.{name}");
    if raw.vni >= 1 << 24 {
        return Err(wrong(at("vni"), "it has 24 bits"));
    }
    if raw.src.is_ipv4() != raw.dst.is_ipv4() {
        return Err(wrong(at("dst"), "source and destination have to be of one IP version"));
    }
    let src_port = match &raw.src_port {
        Some(value) => spec(&at("src_port"), value, Numbers::Up { to: 65535 })?,
        None => Spec::Fixed(49152),
    };
    let mac = |name, text: &Option<String>, default| {
        Ok(mac_at(&at(name), text.as_deref())?.unwrap_or(default))
    };
    Ok(VxlanPlan {
        vni: raw.vni,
        src: raw.src,
        dst: raw.dst,
        src_port,
        dst_port: raw.dst_port.unwrap_or(4789),
        inner_src_mac: mac("inner_src_mac", &raw.inner_src_mac, Mac([2, 0, 0, 0, 0, 1]))?,
        inner_dst_mac: mac("inner_dst_mac", &raw.inner_dst_mac, Mac([2, 0, 0, 0, 0, 2]))?,
    })
}
