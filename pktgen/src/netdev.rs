//! What the kernel says of an interface, asked over rtnetlink in the calling thread's network namespace.
//!
//! Not from sysfs: that shows the namespace it was mounted in, and one process here drives ends in several.

use millrace_wire::Mac;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};
use std::path::Path;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Netdev {
    /// Its index.
    pub index: u32,
    /// Its MAC address.
    pub mac: Mac,
    /// Bytes of its largest packet without the Ethernet header.
    pub mtu: u32,
    /// Whether it is up.
    pub up: bool,
    /// What sort of virtual interface it is, or empty.
    pub kind: String,
    /// Receive queues that it may have.
    pub rx_queues: u32,
    /// Megabits a second, if known.
    pub speed: Option<u32>,
}

/// Why an interface can't be used.
#[derive(Debug, thiserror::Error)]
#[error("interface {name}: {why}")]
pub struct NetdevError {
    name: String,
    why: String,
}

const RTM_GETLINK: u16 = 18;
const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFF_UP: u32 = 1;
/// Lengths of struct nlmsghdr and struct ifinfomsg.
const HEADERS: usize = 16 + 16;

impl Netdev {
    /// Asks for the interface `name`.
    pub fn read(name: &str) -> Result<Self, NetdevError> {
        let fail = |why: String| NetdevError { name: name.into(), why };
        if name.is_empty() || name.len() > 15 {
            return Err(fail("no interface has such a name".into()));
        }
        // Protocol 0 of netlink is rtnetlink.
        let kind = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, kind, None)
            .map_err(|e| fail(format!("rtnetlink: {e}")))?;
        send(&socket, &request(name), SendFlags::empty())
            .map_err(|e| fail(format!("rtnetlink: {e}")))?;
        let mut answer = vec![0; 32 * 1024];
        let (len, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())
            .map_err(|e| fail(format!("rtnetlink: {e}")))?;
        let mut device = parse(answer.get(..len).unwrap_or_default()).map_err(&fail)?;
        device.speed = speed(name, device.index, &device.kind);
        if !device.up {
            return Err(fail("it is down (`ip link set … up`)".into()));
        }
        Ok(device)
    }
}

fn request(name: &str) -> Vec<u8> {
    let attribute = 4 + name.len() + 1;
    let total = HEADERS + attribute.next_multiple_of(4);
    let mut bytes = Vec::with_capacity(total);
    bytes.extend((total as u32).to_ne_bytes());
    bytes.extend(RTM_GETLINK.to_ne_bytes());
    bytes.extend(NLM_F_REQUEST.to_ne_bytes());
    bytes.extend([0; 8 + 16]);
    bytes.extend((attribute as u16).to_ne_bytes());
    bytes.extend(IFLA_IFNAME.to_ne_bytes());
    bytes.extend(name.as_bytes());
    bytes.resize(total, 0);
    bytes
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn parse(message: &[u8]) -> Result<Netdev, String> {
    let short = || "rtnetlink: an answer that ends too soon".to_owned();
    match u16_at(message, 4).ok_or_else(short)? {
        RTM_NEWLINK => {}
        NLMSG_ERROR => {
            let code = u32_at(message, 16).ok_or_else(short)? as i32;
            let error = std::io::Error::from_raw_os_error(-code);
            if -code == 19 {
                return Err(
                    "there is none of that name in this network namespace (`ip link`)".into()
                );
            }
            return Err(format!("rtnetlink: {error}"));
        }
        other => return Err(format!("rtnetlink: an answer of type {other}")),
    }
    let mut device = Netdev {
        index: u32_at(message, 16 + 4).ok_or_else(short)?,
        up: u32_at(message, 16 + 8).ok_or_else(short)? & IFF_UP != 0,
        ..Netdev::default()
    };
    for (kind, value) in attributes(message.get(HEADERS..).unwrap_or_default()) {
        match kind {
            IFLA_ADDRESS => {
                device.mac =
                    value.try_into().map(Mac).map_err(|_| "it isn't Ethernet".to_owned())?;
            }
            IFLA_MTU => device.mtu = u32_at(value, 0).ok_or_else(short)?,
            IFLA_NUM_RX_QUEUES => device.rx_queues = u32_at(value, 0).ok_or_else(short)?,
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(kind, _)| *kind == IFLA_INFO_KIND);
                let text = kind.map(|(_, text)| String::from_utf8_lossy(text).into_owned());
                device.kind = text.unwrap_or_default().trim_end_matches('\0').to_owned();
            }
            _ => {}
        }
    }
    Ok(device)
}

/// Attributes of a message: type and value; what doesn't fit ends them.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The speed that sysfs has, where it shows this very interface; a veth claims 10 Gbit/s (drivers/net/veth.c).
fn speed(name: &str, index: u32, kind: &str) -> Option<u32> {
    if kind == "veth" {
        return Some(10_000);
    }
    let folder = Path::new("/sys/class/net").join(name);
    let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
    if read("ifindex")?.trim().parse::<u32>().ok()? != index {
        return None;
    }
    read("speed")?.trim().parse::<u32>().ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_and_a_missing_one_named() {
        let lo = Netdev::read("lo").unwrap();
        assert!(lo.index > 0 && lo.mtu >= 1500 && lo.mac == Mac::ZERO);
        let error = Netdev::read("millrace-none").unwrap_err().to_string();
        assert!(error.starts_with("interface millrace-none: there is none"), "{error}");
        assert!(Netdev::read("").is_err() && Netdev::read("a-name-that-is-too-long").is_err());
    }

    #[test]
    fn broken_answers_are_errors() {
        for len in 0..HEADERS - 4 {
            assert!(parse(&vec![0; len]).is_err());
        }
        let mut message = vec![0; HEADERS + 8];
        message[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        // An attribute that says it is longer than what is there ends the list.
        message[HEADERS] = 200;
        assert!(parse(&message).is_ok());
    }
}
