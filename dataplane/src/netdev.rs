//! What the kernel says of a network device, read once at start from sysfs.

use millrace_wire::Mac;
use rustix::net::netdevice::name_to_index;
use std::path::{Path, PathBuf};

/// A network device as it was when the engine started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netdev {
    /// The kernel's index.
    pub index: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// Bytes of the largest packet, without the Ethernet header.
    pub mtu: u32,
    /// Receive queues.
    pub rx_queues: u32,
    /// Transmit queues.
    pub tx_queues: u32,
    /// No hardware behind it (veth, tap): frames can carry partial checksums.
    pub is_virtual: bool,
}

/// Why a device's properties can't be read.
#[derive(Debug, thiserror::Error)]
pub enum NetdevError {
    /// No such device in this network namespace.
    #[error("interface {0}: there is none of that name in this network namespace (see `ip link`)")]
    Missing(String),
    /// A property that can't be read or understood.
    #[error("interface {name}: {file}: {why}")]
    Unreadable {
        /// The device.
        name: String,
        /// The file in sysfs.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Netdev {
    /// Reads the properties of `name` in this network namespace.
    pub fn read(name: &str) -> Result<Self, NetdevError> {
        let socket = rustix::net::socket(
            rustix::net::AddressFamily::INET,
            rustix::net::SocketType::DGRAM,
            None,
        )
        .map_err(|e| unreadable(name, Path::new("socket"), e))?;
        let index = name_to_index(&socket, name).map_err(|_| NetdevError::Missing(name.into()))?;
        Self::read_at(Path::new("/sys/class/net"), name, index)
    }

    fn read_at(class: &Path, name: &str, index: u32) -> Result<Self, NetdevError> {
        let folder = class.join(name);
        let seen: u32 = number(name, &folder.join("ifindex"))?;
        if seen != index {
            return Err(unreadable(
                name,
                &folder,
                "/sys shows another network namespace; start the engine with `ip netns exec`, which mounts its own",
            ));
        }
        let file = folder.join("address");
        let mac = text(name, &file)?
            .parse()
            .map_err(|_| unreadable(name, &file, "not an Ethernet address"))?;
        Ok(Self {
            index,
            mac,
            mtu: number(name, &folder.join("mtu"))?,
            rx_queues: queues(&folder, "rx-"),
            tx_queues: queues(&folder, "tx-"),
            is_virtual: !folder.join("device").exists(),
        })
    }
}

fn unreadable(name: &str, file: &Path, why: impl ToString) -> NetdevError {
    NetdevError::Unreadable { name: name.into(), file: file.into(), why: why.to_string() }
}

fn text(name: &str, file: &Path) -> Result<String, NetdevError> {
    let text = std::fs::read_to_string(file).map_err(|e| unreadable(name, file, e))?;
    Ok(text.trim().to_owned())
}

fn number(name: &str, file: &Path) -> Result<u32, NetdevError> {
    text(name, file)?.parse().map_err(|e| unreadable(name, file, e))
}

fn queues(folder: &Path, prefix: &str) -> u32 {
    let Ok(entries) = std::fs::read_dir(folder.join("queues")) else { return 0 };
    let count =
        entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(prefix)).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_there_and_virtual() {
        let lo = Netdev::read("lo").unwrap();
        assert!(lo.is_virtual && lo.index > 0 && lo.mac == Mac::ZERO);
        assert!(lo.rx_queues >= 1 && lo.tx_queues >= 1);
    }

    #[test]
    fn a_device_that_is_not_there_is_named() {
        let error = Netdev::read("millrace-none").unwrap_err().to_string();
        assert!(error.contains("millrace-none"), "{error}");
    }

    #[test]
    fn another_namespaces_sysfs_is_refused() {
        let error = Netdev::read_at(Path::new("/sys/class/net"), "lo", 4_000_000).unwrap_err();
        assert!(error.to_string().contains("ip netns exec"), "{error}");
    }
}
