//! ethtool's questions and orders: the generic family `ethtool`, and ioctls for what it lacks.
//!
//! Numbers: `include/uapi/linux/ethtool_netlink.h` and `ethtool.h`, Linux 6.18.

use super::{Refused, Socket, attributes, nest, put, string, text_of, u32_of, uint_of};
use crate::nic::{Channels, Coalesce, Feature, Rings, Rss};
use crate::sys;
use std::collections::BTreeMap;

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const PRIVFLAGS_GET: u8 = 13;
const RINGS_GET: u8 = 15;
const RINGS_SET: u8 = 16;
const CHANNELS_GET: u8 = 17;
const CHANNELS_SET: u8 = 18;
const COALESCE_GET: u8 = 19;
const COALESCE_SET: u8 = 20;
const RSS_GET: u8 = 38;

const HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;

/// Flow types whose hashed fields matter here: name as `ethtool -N` takes it, and number.
pub const FLOWS: [(&str, u32); 4] = [("tcp4", 1), ("udp4", 2), ("tcp6", 5), ("udp6", 6)];
/// Hashed fields: the letter of `ethtool -N`, and bit (`RXH_*`).
pub const FIELDS: [(char, u64); 7] = [
    ('m', 1 << 1),
    ('v', 1 << 2),
    ('t', 1 << 3),
    ('s', 1 << 4),
    ('d', 1 << 5),
    ('f', 1 << 6),
    ('n', 1 << 7),
];

/// The family for one interface.
#[derive(Debug)]
pub struct Ethtool {
    socket: Socket,
    family: u16,
    interface: String,
}

impl Ethtool {
    /// Finds the family.
    pub fn of(interface: &str) -> Result<Self, Refused> {
        let mut socket = Socket::generic()?;
        let family = socket.family("ethtool")?;
        Ok(Self { socket, family, interface: interface.into() })
    }

    fn request(&self, command: u8) -> Vec<u8> {
        let mut body = vec![command, 1, 0, 0];
        nest(&mut body, HEADER, |header| put(header, HEADER_DEV_NAME, &string(&self.interface)));
        body
    }

    /// The attributes of the answer, by their number.
    fn get(&mut self, command: u8) -> Result<BTreeMap<u16, Vec<u8>>, Refused> {
        let body = self.request(command);
        let replies = self.socket.ask(self.family, &body)?;
        let reply = replies.first().ok_or(Refused { errno: libc::EOPNOTSUPP, reason: None })?;
        let list = attributes(reply.get(4..).unwrap_or_default());
        Ok(list.map(|(kind, value)| (kind, value.to_vec())).collect())
    }

    fn set(&mut self, command: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Result<(), Refused> {
        let mut body = self.request(command);
        fill(&mut body);
        self.socket.ask(self.family, &body).map(drop)
    }

    /// Ring sizes.
    pub fn rings(&mut self) -> Result<Rings, Refused> {
        let answer = self.get(RINGS_GET)?;
        let number = |kind| answer.get(&kind).and_then(|value| u32_of(value)).unwrap_or(0);
        Ok(Rings { rx_max: number(2), tx_max: number(5), rx: number(6), tx: number(9) })
    }

    /// Sets the sizes given.
    pub fn set_rings(&mut self, rx: Option<u32>, tx: Option<u32>) -> Result<(), Refused> {
        self.set(RINGS_SET, |body| {
            for (kind, value) in [(6, rx), (9, tx)] {
                if let Some(value) = value {
                    put(body, kind, &value.to_ne_bytes());
                }
            }
        })
    }

    /// Channel counts.
    pub fn channels(&mut self) -> Result<Channels, Refused> {
        let answer = self.get(CHANNELS_GET)?;
        let number = |kind| answer.get(&kind).and_then(|value| u32_of(value)).unwrap_or(0);
        Ok(Channels {
            rx_max: number(2),
            tx_max: number(3),
            combined_max: number(5),
            rx: number(6),
            tx: number(7),
            combined: number(9),
        })
    }

    /// Sets the counts given.
    pub fn set_channels(
        &mut self,
        rx: Option<u32>,
        tx: Option<u32>,
        combined: Option<u32>,
    ) -> Result<(), Refused> {
        self.set(CHANNELS_SET, |body| {
            for (kind, value) in [(6, rx), (7, tx), (9, combined)] {
                if let Some(value) = value {
                    put(body, kind, &value.to_ne_bytes());
                }
            }
        })
    }

    /// Features by their names in the kernel.
    pub fn features(&mut self) -> Result<BTreeMap<String, Feature>, Refused> {
        let answer = self.get(FEATURES_GET)?;
        let bits = |kind| answer.get(&kind).map(|set| bits_of(set)).unwrap_or_default();
        let (changeable, wanted, active, fixed) = (bits(2), bits(3), bits(4), bits(5));
        let mut features = BTreeMap::new();
        for name in changeable.iter().chain(&active).chain(&fixed).chain(&wanted) {
            features.insert(
                name.clone(),
                Feature {
                    on: active.contains(name),
                    wanted: wanted.contains(name),
                    fixed: !changeable.contains(name) || fixed.contains(name),
                },
            );
        }
        Ok(features)
    }

    /// Wants a feature on or off. The kernel may keep what another feature needs; look afterwards.
    pub fn set_feature(&mut self, name: &str, on: bool) -> Result<(), Refused> {
        self.set(FEATURES_SET, |body| {
            nest(body, 3, |set| {
                nest(set, 3, |bits| {
                    nest(bits, 1, |bit| {
                        put(bit, 2, &string(name));
                        if on {
                            put(bit, 3, &[]);
                        }
                    });
                });
            });
        })
    }

    /// The driver's private flags.
    pub fn private_flags(&mut self) -> Result<BTreeMap<String, bool>, Refused> {
        let answer = self.get(PRIVFLAGS_GET)?;
        Ok(answer.get(&2).map(|set| values_of(set)).unwrap_or_default())
    }

    /// Interrupt coalescing.
    pub fn coalesce(&mut self) -> Result<Coalesce, Refused> {
        let answer = self.get(COALESCE_GET)?;
        let number = |kind| answer.get(&kind).and_then(|value| uint_of(value));
        Ok(Coalesce {
            rx_usecs: number(2).map(|n| n as u32),
            tx_usecs: number(6).map(|n| n as u32),
            adaptive_rx: number(11).map(|n| n != 0),
            adaptive_tx: number(12).map(|n| n != 0),
        })
    }

    /// Turns adaptive coalescing of the receiving or the sending side on or off.
    pub fn set_adaptive(&mut self, receive: bool, on: bool) -> Result<(), Refused> {
        self.set(COALESCE_SET, |body| put(body, if receive { 11 } else { 12 }, &[on.into()]))
    }

    /// Sets how long interrupts of a side are held back.
    pub fn set_usecs(&mut self, receive: bool, usecs: u32) -> Result<(), Refused> {
        self.set(COALESCE_SET, |body| put(body, if receive { 2 } else { 6 }, &usecs.to_ne_bytes()))
    }

    /// The table and the way of receive-side scaling (Linux 6.3).
    pub fn rss(&mut self) -> Result<Rss, Refused> {
        let answer = self.get(RSS_GET)?;
        let bytes = |kind| answer.get(&kind).map(Vec::as_slice).unwrap_or_default();
        let function = match u32_of(bytes(3)) {
            Some(1) => Some("toeplitz"),
            Some(2) => Some("xor"),
            Some(4) => Some("crc32"),
            _ => None,
        };
        Ok(Rss {
            table: bytes(4).chunks_exact(4).filter_map(u32_of).collect(),
            function: function.map(Into::into),
            // `RXH_XFRM_SYM_XOR`, `RXH_XFRM_SYM_OR_XOR`.
            symmetric: u32_of(bytes(6)).map(|bits| bits & 3 != 0),
        })
    }

    /// Hashed fields as the letters of `ethtool -N`.
    pub fn hash_fields(&self, flow: &str) -> Result<String, Refused> {
        let bits = sys::hash_fields(&self.interface, number(flow)?)?;
        Ok(FIELDS.iter().filter(|(_, bit)| bits & bit != 0).map(|(letter, _)| *letter).collect())
    }

    /// Sets them.
    pub fn set_hash_fields(&self, flow: &str, letters: &str) -> Result<(), Refused> {
        let known = |letter| FIELDS.iter().find(|(name, _)| *name == letter);
        let mut bits = 0;
        for letter in letters.chars() {
            let reason = format!("`{letter}` names no field to hash");
            bits |= known(letter).ok_or(Refused { errno: libc::EINVAL, reason: Some(reason) })?.1;
        }
        Ok(sys::set_hash_fields(&self.interface, number(flow)?, bits)?)
    }
}

fn number(flow: &str) -> Result<u32, Refused> {
    let reason = format!("`{flow}` is no type of flow");
    let found = FLOWS.iter().find(|(name, _)| *name == flow);
    Ok(found.ok_or(Refused { errno: libc::EINVAL, reason: Some(reason) })?.1)
}

/// The names in a set of bits: all that are listed where it has no mask, those with a value where it has one.
fn bits_of(set: &[u8]) -> Vec<String> {
    let masked = !attributes(set).any(|(kind, _)| kind == 1);
    list_of(set).into_iter().filter(|(_, value)| *value || !masked).map(|(name, _)| name).collect()
}

fn values_of(set: &[u8]) -> BTreeMap<String, bool> {
    list_of(set).into_iter().collect()
}

fn list_of(set: &[u8]) -> Vec<(String, bool)> {
    let bits = attributes(set).find(|(kind, _)| *kind == 3).map(|(_, bits)| bits);
    attributes(bits.unwrap_or_default())
        .map(|(_, bit)| {
            let name = attributes(bit).find(|(kind, _)| *kind == 2);
            let value = attributes(bit).any(|(kind, _)| kind == 3);
            (name.map(|(_, name)| text_of(name)).unwrap_or_default(), value)
        })
        .collect()
}
