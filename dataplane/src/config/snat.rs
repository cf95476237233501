//! `[snat]`: which source ports masqueraded flows may get.

use std::ops::RangeInclusive;

use serde::Deserialize;

use super::{ConfigError, refuse};
use crate::snat::{NODE_PORTS, Ports};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    ports: Option<Vec<String>>,
    node_ports: Option<String>,
}

/// `usual` ports, unless others are listed; never node ports.
pub(super) fn ports(file: &File, usual: RangeInclusive<u16>) -> Result<Ports, ConfigError> {
    let range = |entry: &str, text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(first..=last),
            _ => {
                refuse(entry, format!("\"{text}\": write a port or a range such as \"1024-29999\""))
            }
        }
    };
    let wanted = match &file.ports {
        None => vec![usual],
        Some(texts) => {
            texts.iter().map(|text| range("[snat] ports", text)).collect::<Result<_, _>>()?
        }
    };
    let node_ports = match &file.node_ports {
        None => NODE_PORTS,
        Some(text) => range("[snat] node_ports", text)?,
    };
    match Ports::new(&wanted, &[node_ports]) {
        Some(ports) => Ok(ports),
        None => refuse(
            "[snat] ports",
            "leaves no port beside node_ports, or is more than eight ranges: write such as [\"1024-29999\", \"32768-65535\"]",
        ),
    }
}
