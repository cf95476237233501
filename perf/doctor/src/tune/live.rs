//! The settings of a live interface: ethtool and links by netlink, the rest as files.

use super::journal::Identity;
use super::{Backend, Snapshot};
use crate::netlink::ethtool::{Ethtool, FLOWS};
use crate::netlink::link;
use crate::observe;
use crate::setting::{SHMEM_ENABLED, Setting, chosen, on_off};
use std::fs;

/// Files of an interface that are settings here.
const FILES: [&str; 3] = ["napi_defer_hard_irqs", "gro_flush_timeout", "threaded"];

/// An interface of this namespace.
#[derive(Debug)]
pub struct Live {
    interface: String,
    ethtool: Ethtool,
}

impl Live {
    /// Of an interface that exists.
    pub fn of(interface: &str) -> Result<Self, String> {
        if !observe::is_name(interface) {
            return Err(format!("`{interface}` is no interface's name"));
        }
        let ethtool = Ethtool::of(interface).map_err(|refused| format!("ethtool: {refused}"))?;
        Ok(Self { interface: interface.into(), ethtool })
    }

    fn link(&self) -> Result<crate::nic::Link, String> {
        let links = observe::links().map_err(|error| error.to_string())?;
        let found = links.into_iter().find(|link| link.name == self.interface);
        found.ok_or_else(|| format!("interface {}: there is none", self.interface))
    }

    fn path(&self, setting: &Setting) -> Option<String> {
        match setting {
            Setting::Interface(file) => Some(format!("/sys/class/net/{}/{file}", self.interface)),
            Setting::Interrupt(number) => Some(format!("/proc/irq/{number}/smp_affinity_list")),
            Setting::Machine(file) => Some(format!("/{file}")),
            _ => None,
        }
    }

    fn file(&self, setting: &Setting) -> Option<String> {
        let text = fs::read_to_string(self.path(setting)?).ok()?;
        Some(if setting.is_of_machine() { chosen(&text) } else { text.trim().into() })
    }

    /// The settings that are files, whether they exist or not.
    fn files(&self) -> Vec<Setting> {
        let mut settings: Vec<_> =
            FILES.iter().map(|file| Setting::Interface((*file).into())).collect();
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(format!("/sys/class/net/{}/{folder}", self.interface));
            let entries = entries.into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        let queues = names("queues").into_iter().filter(|name| name.starts_with("rx-"));
        settings.extend(queues.map(|name| Setting::Interface(format!("queues/{name}/rps_cpus"))));
        for folder in ["device/msi_irqs", "device/../msi_irqs"] {
            let numbers: Vec<u32> =
                names(folder).iter().filter_map(|name| name.parse().ok()).collect();
            if !numbers.is_empty() {
                settings.extend(numbers.into_iter().map(Setting::Interrupt));
                break;
            }
        }
        settings.push(Setting::Machine(SHMEM_ENABLED.into()));
        settings
    }
}

impl Backend for Live {
    fn identity(&mut self) -> Result<Identity, String> {
        let link = self.link()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Ok(Identity { boot: boot.trim().into(), index: link.index, mac: link.mac })
    }

    fn snapshot(&mut self) -> Result<Snapshot, String> {
        let mut all = Snapshot::new();
        all.insert(Setting::Mtu, self.link()?.mtu.to_string());
        if let Ok(channels) = self.ethtool.channels() {
            let kinds = [
                ("combined", channels.combined_max, channels.combined),
                ("rx", channels.rx_max, channels.rx),
                ("tx", channels.tx_max, channels.tx),
            ];
            for (kind, _, count) in kinds.into_iter().filter(|(_, limit, _)| *limit > 0) {
                all.insert(Setting::Channels(kind.into()), count.to_string());
            }
        }
        if let Ok(rings) = self.ethtool.rings() {
            for (side, limit, entries) in
                [("rx", rings.rx_max, rings.rx), ("tx", rings.tx_max, rings.tx)]
            {
                if limit > 0 {
                    all.insert(Setting::Ring(side.into()), entries.to_string());
                }
            }
        }
        // What is wanted is what can be set; what is in force follows.
        for (name, feature) in self.ethtool.features().unwrap_or_default() {
            if !feature.fixed {
                all.insert(Setting::Feature(name), on_off(feature.wanted));
            }
        }
        if let Ok(coalesce) = self.ethtool.coalesce() {
            for (side, adaptive, usecs) in [
                ("rx", coalesce.adaptive_rx, coalesce.rx_usecs),
                ("tx", coalesce.adaptive_tx, coalesce.tx_usecs),
            ] {
                if let Some(on) = adaptive {
                    all.insert(Setting::Adaptive(side.into()), on_off(on));
                }
                // While it adapts, the figure is the driver's and changes by itself.
                if let Some(usecs) = usecs.filter(|_| adaptive != Some(true)) {
                    all.insert(Setting::Usecs(side.into()), usecs.to_string());
                }
            }
        }
        for (flow, _) in FLOWS {
            if let Some(fields) =
                self.ethtool.hash_fields(flow).ok().filter(|fields| !fields.is_empty())
            {
                all.insert(Setting::HashFields(flow.into()), fields);
            }
        }
        for setting in self.files() {
            if let Some(value) = self.file(&setting) {
                all.insert(setting, value);
            }
        }
        Ok(all)
    }

    fn get(&mut self, setting: &Setting) -> Result<String, String> {
        let value = self.snapshot()?.remove(setting);
        value.ok_or_else(|| format!("{setting:?} can't be read"))
    }

    fn set(&mut self, setting: &Setting, value: &str) -> Result<(), String> {
        let command = setting.command(&self.interface, value);
        let number = || value.parse::<u32>().map_err(|_| format!("{command}: no number"));
        let result = match setting {
            Setting::Channels(kind) => {
                let count = |name| if kind == name { number().map(Some) } else { Ok(None) };
                self.ethtool.set_channels(count("rx")?, count("tx")?, count("combined")?)
            }
            Setting::Ring(side) => {
                let size = |name| if side == name { number().map(Some) } else { Ok(None) };
                self.ethtool.set_rings(size("rx")?, size("tx")?)
            }
            Setting::Feature(name) => self.ethtool.set_feature(name, value == "on"),
            Setting::Adaptive(side) => self.ethtool.set_adaptive(side == "rx", value == "on"),
            Setting::Usecs(side) => self.ethtool.set_usecs(side == "rx", number()?),
            Setting::HashFields(flow) => self.ethtool.set_hash_fields(flow, value),
            Setting::Mtu => link::set_mtu(&self.interface, number()?),
            Setting::Interface(_) | Setting::Interrupt(_) | Setting::Machine(_) => {
                let path = self.path(setting).unwrap_or_default();
                fs::write(path, value).map_err(Into::into)
            }
        };
        result.map_err(|refused| format!("{command}: {refused}"))?;
        // A driver may say yes and keep what it had.
        let now = self.get(setting)?;
        let holds = now == value || matches!(setting, Setting::Ring(_) | Setting::Usecs(_));
        if holds { Ok(()) } else { Err(format!("{command}: it is {now} afterwards")) }
    }
}
