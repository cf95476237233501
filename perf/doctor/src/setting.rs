//! Settings that can be changed and changed back, each with the command that an operator would type.
//!
//! A setting's value is a text, as it is read and as it is written: to restore is to write what was read.

use crate::nic::Nic;
use serde::{Deserialize, Serialize};

/// One setting of an interface or of the machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// Channels: `combined`, `rx` or `tx`.
    Channels(String),
    /// Entries of the ring `rx` or `tx`.
    Ring(String),
    /// A feature by the kernel's name: `on` or `off`.
    Feature(String),
    /// Adaptive coalescing of `rx` or `tx`: `on` or `off`.
    Adaptive(String),
    /// Microseconds of coalescing of `rx` or `tx`.
    Usecs(String),
    /// Hashed fields of a type of flow, as letters.
    HashFields(String),
    /// MTU.
    Mtu,
    /// A file of the interface in sysfs.
    Interface(String),
    /// CPUs of an interrupt, as a list.
    Interrupt(u32),
    /// A file of the machine, under `/sys` or `/proc`.
    Machine(String),
}

/// A setting and what it is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The setting.
    pub setting: Setting,
    /// Its new value.
    pub to: String,
}

impl Change {
    /// One.
    pub fn new(setting: Setting, to: impl ToString) -> Self {
        Self { setting, to: to.to_string() }
    }
}

impl Setting {
    /// The command that gives it this value.
    pub fn command(&self, interface: &str, value: &str) -> String {
        match self {
            Self::Channels(kind) => format!("ethtool -L {interface} {kind} {value}"),
            Self::Ring(side) => format!("ethtool -G {interface} {side} {value}"),
            Self::Feature(name) => format!("ethtool -K {interface} {} {value}", short(name)),
            Self::Adaptive(side) => format!("ethtool -C {interface} adaptive-{side} {value}"),
            Self::Usecs(side) => format!("ethtool -C {interface} {side}-usecs {value}"),
            Self::HashFields(flow) => format!("ethtool -N {interface} rx-flow-hash {flow} {value}"),
            Self::Mtu => format!("ip link set {interface} mtu {value}"),
            Self::Interface(file) => format!("echo {value} > /sys/class/net/{interface}/{file}"),
            Self::Interrupt(number) => {
                format!("echo {value} > /proc/irq/{number}/smp_affinity_list")
            }
            Self::Machine(file) => format!("echo {value} > /{file}"),
        }
    }

    /// True for what belongs to the machine and not to the interface.
    pub fn is_of_machine(&self) -> bool {
        matches!(self, Self::Machine(_))
    }

    /// Its value as it was observed.
    pub fn of(&self, nic: &Nic) -> Option<String> {
        let answers = &nic.answers;
        match self {
            Self::Channels(kind) => {
                let channels = answers.channels?;
                Some(match kind.as_str() {
                    "combined" => channels.combined.to_string(),
                    "rx" => channels.rx.to_string(),
                    "tx" => channels.tx.to_string(),
                    _ => return None,
                })
            }
            Self::Ring(side) => answers
                .rings
                .map(|rings| if side == "rx" { rings.rx } else { rings.tx }.to_string()),
            Self::Feature(name) => answers.features.get(name).map(|feature| on_off(feature.on)),
            Self::Adaptive(side) => {
                let coalesce = answers.coalesce?;
                if side == "rx" { coalesce.adaptive_rx } else { coalesce.adaptive_tx }.map(on_off)
            }
            Self::Usecs(side) => {
                let coalesce = answers.coalesce?;
                if side == "rx" { coalesce.rx_usecs } else { coalesce.tx_usecs }
                    .map(|n| n.to_string())
            }
            Self::HashFields(flow) => answers.hash_fields.get(flow).cloned(),
            Self::Mtu => Some(answers.link.mtu.to_string()),
            Self::Interface(file) => match file.as_str() {
                "napi_defer_hard_irqs" => nic.napi.napi_defer_hard_irqs.map(|n| n.to_string()),
                "gro_flush_timeout" => nic.napi.gro_flush_timeout.map(|n| n.to_string()),
                "threaded" => nic.napi.threaded.map(|n| n.to_string()),
                _ => {
                    let queue = file.strip_prefix("queues/rx-")?.strip_suffix("/rps_cpus")?;
                    nic.napi.rps_cpus.get(&queue.parse().ok()?).cloned()
                }
            },
            Self::Interrupt(number) => {
                let interrupt = nic.device.interrupts.get(number)?;
                (!interrupt.allowed.is_empty()).then(|| list(&interrupt.allowed))
            }
            Self::Machine(file) => match file.as_str() {
                SHMEM_ENABLED => nic.host.shmem_enabled.as_deref().map(chosen),
                _ => None,
            },
        }
    }
}

impl Setting {
    /// Changes it in what was observed, as a device would that does just what it is told. False where it can't be.
    pub fn set(&self, nic: &mut Nic, value: &str) -> bool {
        let number = || value.parse::<u32>().ok();
        self.put(nic, value, number()).is_some()
    }

    fn put(&self, nic: &mut Nic, value: &str, number: Option<u32>) -> Option<()> {
        let answers = &mut nic.answers;
        match self {
            Self::Channels(kind) => {
                let channels = answers.channels.as_mut()?;
                let (place, limit) = match kind.as_str() {
                    "combined" => (&mut channels.combined, channels.combined_max),
                    "rx" => (&mut channels.rx, channels.rx_max),
                    "tx" => (&mut channels.tx, channels.tx_max),
                    _ => return None,
                };
                *place = number.filter(|&count| count <= limit)?;
                let queues = channels.receiving();
                if let Some(rss) = answers.rss.as_mut().filter(|_| queues > 0) {
                    let entries = rss.table.len() as u32;
                    rss.table = (0..entries).map(|entry| entry % queues).collect();
                }
            }
            Self::Ring(side) => {
                let rings = answers.rings.as_mut()?;
                let (place, limit) = match side.as_str() {
                    "rx" => (&mut rings.rx, rings.rx_max),
                    _ => (&mut rings.tx, rings.tx_max),
                };
                *place = number.filter(|&entries| entries <= limit)?;
            }
            Self::Feature(name) => {
                let feature = answers.features.get_mut(name).filter(|feature| !feature.fixed)?;
                feature.on = value == "on";
                feature.wanted = feature.on;
            }
            Self::Adaptive(side) => {
                let coalesce = answers.coalesce.as_mut()?;
                let place = if side == "rx" {
                    &mut coalesce.adaptive_rx
                } else {
                    &mut coalesce.adaptive_tx
                };
                *place = Some(value == "on");
            }
            Self::Usecs(side) => {
                let coalesce = answers.coalesce.as_mut()?;
                let place =
                    if side == "rx" { &mut coalesce.rx_usecs } else { &mut coalesce.tx_usecs };
                *place = Some(number?);
            }
            Self::HashFields(flow) => *answers.hash_fields.get_mut(flow)? = value.into(),
            Self::Mtu => answers.link.mtu = number?,
            Self::Interface(file) => match file.as_str() {
                "napi_defer_hard_irqs" => nic.napi.napi_defer_hard_irqs = Some(number?),
                "gro_flush_timeout" => nic.napi.gro_flush_timeout = Some(value.parse().ok()?),
                "threaded" => nic.napi.threaded = Some(number?),
                _ => {
                    let queue = file.strip_prefix("queues/rx-")?.strip_suffix("/rps_cpus")?;
                    *nic.napi.rps_cpus.get_mut(&queue.parse().ok()?)? = value.into();
                }
            },
            Self::Interrupt(irq) => {
                let interrupt = nic.device.interrupts.get_mut(irq)?;
                interrupt.allowed = parse_list(value);
                interrupt.cpus = interrupt.allowed.clone();
            }
            Self::Machine(file) => match file.as_str() {
                SHMEM_ENABLED => nic.host.shmem_enabled = Some(value.into()),
                _ => return None,
            },
        }
        Some(())
    }
}

/// Where the kernel keeps whether shared memory gets huge pages.
pub const SHMEM_ENABLED: &str = "sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// `on` or `off`.
pub fn on_off(on: bool) -> String {
    if on { "on" } else { "off" }.into()
}

/// The word in brackets where a file lists its choices, else all of it.
pub fn chosen(text: &str) -> String {
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    word.map_or(text, |(word, _)| word).trim().into()
}

/// CPUs as the kernel lists them: `0-3,8`.
pub fn list(cpus: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = cpus.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while let Some(next) = rest.next_if(|&next| Some(next) == last.checked_add(1)) {
            last = next;
        }
        let comma = if text.is_empty() { "" } else { "," };
        text += &match first == last {
            true => format!("{comma}{first}"),
            false => format!("{comma}{first}-{last}"),
        };
    }
    text
}

/// The reverse of [`list`]; what is no number ends nothing. At most 8,192 CPUs.
pub fn parse_list(text: &str) -> Vec<u32> {
    let mut cpus: Vec<u32> = text
        .trim()
        .split(',')
        .filter_map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(first.trim().parse().ok()?..=last.trim().parse::<u32>().ok()?.min(8191))
        })
        .flatten()
        .collect();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// The names that ethtool's manual uses.
fn short(feature: &str) -> &str {
    match feature {
        "rx-lro" => "lro",
        "rx-gro" => "gro",
        "rx-vlan-hw-parse" => "rxvlan",
        "rx-ntuple-filter" => "ntuple",
        "rx-hashing" => "rxhash",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_as_they_are_read() {
        for text in ["", "0", "0-3", "0-1,4,6-7"] {
            assert_eq!(list(&parse_list(text)), text);
        }
        assert_eq!(parse_list("a,2"), [2]);
        assert_eq!(parse_list("0-4294967295").len(), 8192);
    }

    #[test]
    fn the_chosen_word_is_in_brackets() {
        assert_eq!(chosen("always within_size advise [never] deny force"), "never");
        assert_eq!(chosen("7"), "7");
    }
}
