//! `[snat]`: which source ports masqueraded flows may get.

use std::ops::RangeInclusive;

use serde::Deserialize;

use super::{ConfigError, refuse};
use crate::snat::{NODE_PORTS, Ports, UNPRIVILEGED};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    ports: Option<Vec<String>>,
    node_ports: Option<String>,
}

/// Which source ports masqueraded flows may get.
pub(super) struct Chosen {
    /// On the node's addresses.
    pub(super) ports: Ports,
    /// Beside a kernel on the trunk's, which are the engine's alone.
    pub(super) trunk: Ports,
    /// There for what finds no port on the node's: none of `ports`. None, if there are no others.
    pub(super) overflow: Option<Ports>,
}

/// `usual` ports, unless others are listed; never node ports.
pub(super) fn ports(file: &File, usual: RangeInclusive<u16>) -> Result<Chosen, ConfigError> {
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
    let Some(ports) = Ports::new(&wanted, std::slice::from_ref(&node_ports)) else {
        return refuse(
            "[snat] ports",
            "leaves no port beside node_ports, or is more than eight ranges: write such as [\"1024-29999\", \"32768-65535\"]",
        );
    };
    let trunk = Ports::new(&[UNPRIVILEGED], std::slice::from_ref(&node_ports)).unwrap_or(ports);
    let taken: Vec<_> = ports.ranges().map(|(a, b)| a..=b).chain([node_ports]).collect();
    Ok(Chosen { ports, trunk, overflow: Ports::new(&[UNPRIVILEGED], &taken) })
}
