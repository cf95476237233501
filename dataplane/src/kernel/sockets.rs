//! Which ports processes of this node have: listening sockets of TCP and SCTP, all of UDP (sock_diag(7)).
//!
//! Asked of the kernel every two seconds by the thread that follows it, never in a packet's way. Connections are not listed: there
//! can be a million of them, and their ports are the kernel's to give out, which `[snat] ports` is not.

use std::io;

use millrace_wire::Protocol;
use rustix::io::Errno;

use super::netlink::{Netlink, Request};
use crate::snat::HostPorts;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const INET: u8 = 2;
const INET6: u8 = 10;
const LISTENING: u32 = 1 << 10;
const ALL: u32 = u32::MAX;

/// Brings `ports` up to date. A protocol that the kernel can't list is left as it was.
pub(super) fn read(ports: &HostPorts) -> io::Result<()> {
    let netlink = Netlink::of_sockets()?;
    let mut result = Ok(());
    for (protocol, states) in
        [(Protocol::TCP, LISTENING), (Protocol::UDP, ALL), (Protocol::SCTP, LISTENING)]
    {
        match list(&netlink, protocol, states) {
            Ok(found) => ports.set(protocol, found),
            // This kernel has no such protocol, or none of its sockets was ever made.
            Err(error) if error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) => {}
            Err(error) => result = Err(error),
        }
    }
    result
}

fn list(netlink: &Netlink, protocol: Protocol, states: u32) -> io::Result<Vec<u16>> {
    let mut found = Vec::new();
    for family in [INET, INET6] {
        // `struct inet_diag_req_v2`: of any address and port.
        let mut fixed = [0; 56];
        fixed[..2].copy_from_slice(&[family, protocol.0]);
        fixed[4..8].copy_from_slice(&states.to_ne_bytes());
        let request = Request::new(SOCK_DIAG_BY_FAMILY, 0, &fixed);
        let of_family = netlink.dump(request, |found: &mut Vec<u16>, answer| {
            // `struct inet_diag_msg`.
            if let Some(&[high, low]) = answer.body.get(4..6) {
                found.push(u16::from_be_bytes([high, low]));
            }
        })?;
        found.extend(of_family);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn listening_sockets_are_found_and_forgotten_and_connections_are_not_listed() {
        let ports = HostPorts::default();
        let has = |protocol, port| {
            read(&ports).unwrap();
            ports.contains(protocol, port)
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let six = TcpListener::bind("[::]:0").ok();
        let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
        let of = |addr: io::Result<std::net::SocketAddr>| addr.unwrap().port();
        let (tcp, udp) = (of(listener.local_addr()), of(datagrams.local_addr()));
        assert!(has(Protocol::TCP, tcp) && has(Protocol::UDP, udp));
        if let Some(six) = &six {
            assert!(has(Protocol::TCP, of(six.local_addr())));
        }
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!has(Protocol::TCP, of(connection.local_addr())));
        drop(listener);
        assert!(!has(Protocol::TCP, tcp));
    }
}
