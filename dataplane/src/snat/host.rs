//! Ports that processes of this node have, and that so are no source ports of masqueraded flows, though the configuration lists them.
//!
//! One writer, who reads the kernel's sockets now and then (`kernel/sockets.rs`); read by flows that are masqueraded, a bit each. A
//! port that a process takes while flows have it as source stays theirs: what is not of those flows goes to the process.

use std::sync::atomic::{AtomicU64, Ordering};

use millrace_wire::Protocol;

/// Words of 64 ports.
const WORDS: usize = 1024;
/// Protocols that are told apart.
const PROTOCOLS: usize = 3;

/// Ports of TCP, UDP and SCTP, one bit each.
#[derive(Debug)]
pub struct HostPorts(Box<[AtomicU64; PROTOCOLS * WORDS]>);

impl Default for HostPorts {
    fn default() -> HostPorts {
        HostPorts(Box::new([const { AtomicU64::new(0) }; PROTOCOLS * WORDS]))
    }
}

/// Where a protocol's words begin.
fn base(protocol: Protocol) -> Option<usize> {
    match protocol {
        Protocol::TCP => Some(0),
        Protocol::UDP => Some(WORDS),
        Protocol::SCTP => Some(2 * WORDS),
        _ => None,
    }
}

impl HostPorts {
    /// Whether a process has it.
    #[inline]
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        let word = base(protocol).and_then(|base| self.0.get(base + usize::from(port) / 64));
        word.is_some_and(|word| word.load(Ordering::Relaxed) >> (port % 64) & 1 != 0)
    }

    /// These are a protocol's ports now.
    pub fn set(&self, protocol: Protocol, ports: impl IntoIterator<Item = u16>) {
        let mut words = vec![0u64; WORDS];
        for port in ports {
            if let Some(word) = words.get_mut(usize::from(port) / 64) {
                *word |= 1 << (port % 64);
            }
        }
        let places = base(protocol).and_then(|base| self.0.get(base..base + WORDS));
        for (place, word) in places.unwrap_or_default().iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_a_protocol_s_own_and_replaced_as_a_whole() {
        let ports = HostPorts::default();
        ports.set(Protocol::TCP, [61_000, 65_535, 0]);
        ports.set(Protocol::SCTP, [61_001]);
        let has = |protocol, port| ports.contains(protocol, port);
        assert!(has(Protocol::TCP, 61_000) && has(Protocol::TCP, 65_535));
        assert!(has(Protocol::SCTP, 61_001) && !has(Protocol::TCP, 61_001));
        assert!(!has(Protocol::UDP, 61_000) && !has(Protocol::ICMP, 0));
        ports.set(Protocol::TCP, [80]);
        assert!(has(Protocol::TCP, 80) && !has(Protocol::TCP, 61_000));
    }
}
