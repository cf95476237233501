//! A network interface, as a socket and a program need it: name, index, number of queues.
//!
//! Decides nothing. Needs no privilege. Looks in the network namespace of the calling thread.

use std::{fmt, os::fd::AsRawFd};

use crate::error::Error;

/// An interface of this thread's network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    name: String,
    index: u32,
}

impl Interface {
    /// The interface of that name.
    ///
    /// # Errors
    /// [`Error::NoInterface`].
    pub fn named(name: &str) -> Result<Interface, Error> {
        let none = || Error::NoInterface { name: name.to_owned() };
        let index = rustix::net::netdevice::name_to_index(probe()?, name).map_err(|_| none())?;
        Ok(Interface { name: name.to_owned(), index })
    }

    /// The interface of that index.
    ///
    /// # Errors
    /// [`Error::NoInterface`].
    pub fn indexed(index: u32) -> Result<Interface, Error> {
        let none = |_| Error::NoInterface { name: format!("with index {index}") };
        let name = rustix::net::netdevice::index_to_name(probe()?, index).map_err(none)?;
        Ok(Interface { name, index })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index, unique in its network namespace.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Number of queues an AF_XDP socket can bind to, numbered from 0 (`ETHTOOL_GCHANNELS`). None where the driver does
    /// not say.
    pub fn queues(&self) -> Option<u32> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        let mut request =
            Request { name: [0; libc::IFNAMSIZ], data: &raw mut channels, rest: [0; 16] };
        let name = self.name.as_bytes();
        request.name.get_mut(..name.len())?.copy_from_slice(name);
        let probe = probe().ok()?;
        let request = &raw mut request;
        // SAFETY: the request is laid out as `struct ifreq` with a pointer to a `struct ethtool_channels`, both alive
        // across the call; the kernel writes only into the latter.
        let done = unsafe { libc::ioctl(probe.as_raw_fd(), SIOCETHTOOL, request) };
        (done == 0).then(|| channels.combined_count + channels.rx_count.max(channels.tx_count))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Any socket will do to ask for interfaces.
fn probe() -> Result<std::net::UdpSocket, Error> {
    // An address of port 0 of the loopback net: nothing is sent, and every namespace has it.
    let datagram = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    datagram
        .map(Into::into)
        .map_err(|errno| Error::os("socket to ask for interfaces", errno.into()))
}

/// `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// `include/uapi/linux/ethtool.h`.
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// `struct ethtool_channels`, `include/uapi/linux/ethtool.h`.
#[derive(Default)]
#[repr(C)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx_count: u32,
    tx_count: u32,
    other_count: u32,
    combined_count: u32,
}

/// `struct ifreq`, `include/uapi/linux/if.h`: a name and a union of 24 bytes.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut Channels,
    rest: [u8; 16],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_loopback_by_name_and_by_index() {
        let named = Interface::named("lo").unwrap();
        assert_eq!(Interface::indexed(named.index()).unwrap(), named);
    }

    #[test]
    fn an_unknown_interface_is_named_in_the_error() {
        let error = Interface::named("no-such-if").unwrap_err().to_string();
        assert!(error.starts_with("interface no-such-if: there is none"), "{error}");
    }
}
