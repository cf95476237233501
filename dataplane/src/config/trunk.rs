//! `[trunk]`: the veth pair to the node's own stack.

use ipnet::IpNet;
use serde::Deserialize;

use super::{ConfigError, address, is_name, refuse};
use crate::kernel::Settings;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    name: Option<String>,
    addresses: Option<Vec<String>>,
    mark: Option<u32>,
    after_exit: Option<AfterExit>,
}

/// What isolated pods are after a normal end.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum AfterExit {
    Open,
    Closed,
}

impl File {
    pub(super) fn is_given(&self) -> bool {
        self.name.is_some()
            || self.addresses.is_some()
            || self.mark.is_some()
            || self.after_exit.is_some()
    }
}

pub(super) fn settings(file: File) -> Result<Settings, ConfigError> {
    let usual = Settings::default();
    let name = file.name.unwrap_or(usual.name);
    if !is_name(&name) {
        return refuse("[trunk] name", format!("\"{name}\" is not an interface's name"));
    }
    let addresses = match file.addresses {
        None => usual.addresses,
        Some(texts) => {
            let mut addresses: Vec<IpNet> = Vec::new();
            for text in texts {
                let net = address(&text).or_else(|why| refuse("[trunk] addresses", why))?;
                if millrace_tables::trunk::peer(&net).is_none() {
                    let why = format!(
                        "{net}: write a /30 or /126, of which the kernel gets the other host"
                    );
                    return refuse("[trunk] addresses", why);
                }
                if addresses.iter().any(|it| it.addr().is_ipv4() == net.addr().is_ipv4()) {
                    return refuse("[trunk] addresses", "one of each family at most");
                }
                addresses.push(net);
            }
            addresses
        }
    };
    if addresses.is_empty() {
        return refuse("[trunk] addresses", "there is none; leave the key out for the usual ones");
    }
    let mark = file.mark.unwrap_or(usual.mark);
    if mark.count_ones() != 1 {
        return refuse(
            "[trunk] mark",
            format!("{mark:#x} is not one bit; write one that nobody else uses, such as 0x1000"),
        );
    }
    let closed_after_exit = matches!(file.after_exit, Some(AfterExit::Closed));
    Ok(Settings { name, addresses, mark, closed_after_exit })
}
