//! Steering: attaches the XDP program that gives an interface's queues to the workers.
//!
//! Decides: how `ebpf/millrace.bpf.c` is loaded (once for each interface, native mode, held by a
//! `bpf_link`) and what a refusal means. Needs: bound AF_XDP sockets. Leaves to the engine: the
//! heartbeat, without which every frame falls to the kernel.
//!
//! All kernel objects of steering are made in [`Steering::attach`] and nowhere else. The link lives
//! as long as the `Steering`, so a process that outlives the engine (a holder) calls `attach` and
//! hands [`Steering::handles`] to each engine in turn, which drives the same program through
//! [`Maps::adopt`]; the frames in between meet a stale heartbeat, not a detached program.

pub mod maps;
mod occupant;
pub mod program;
pub mod wanted;

use aya::EbpfError;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, XdpMode};
use ipnet::IpNet;
use maps::{Handles, MapFailure, Maps};
use millrace_wire::Mac;
use program::Program;
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

pub use maps::{PortSet, Statistics};

/// Who owns an interface's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The engine: it gets all ARP and ND, and all IP that is addressed to the interface's MAC.
    Router,
    /// The kernel: the engine gets what [`Steering::set_local`] lists.
    ServiceProxy,
}

/// What the program is told once, when it is attached.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Who owns the interface's addresses.
    pub mode: Mode,
    /// The interface's MAC address; unicast frames to others are never ours.
    pub mac: Mac,
    /// Queues of the interface: one socket slot each.
    pub queues: u32,
    /// Age of the last beat from which frames fall to the kernel.
    pub stale_after: Duration,
}

/// Why an interface can't be steered. Each message says what to change.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no such interface.
    #[error("interface {interface}: there is none with index {index} in this network namespace")]
    Missing {
        /// The interface.
        interface: String,
        /// Its index when the engine looked.
        index: u32,
    },
    /// EPERM.
    #[error(
        "interface {interface}: loading an XDP program needs CAP_BPF and CAP_NET_ADMIN: run as root or grant them"
    )]
    Denied {
        /// The interface.
        interface: String,
    },
    /// EBUSY.
    #[error(
        "interface {interface}: {program} is attached already; detach it first (`ip link show dev {interface}` shows it)"
    )]
    Occupied {
        /// The interface.
        interface: String,
        /// The other program, as well as it can be named.
        program: String,
    },
    /// ERANGE.
    #[error(
        "interface {interface}: its MTU is too large for native XDP in this driver; lower it (`ip link set dev {interface} mtu 3498`, or less), on a veth on both ends"
    )]
    MtuTooLarge {
        /// The interface.
        interface: String,
    },
    /// ENOSPC, from veth.
    #[error(
        "interface {interface}: it has fewer receive queues than its peer has transmit queues; give both ends as many (`ip link add … numrxqueues N numtxqueues N`, `ethtool -L`)"
    )]
    TooFewQueues {
        /// The interface.
        interface: String,
    },
    /// EOPNOTSUPP.
    #[error(
        "interface {interface}: its driver has no native XDP; Millrace does not fall back to generic mode, in which frames over one page are lost and TCP stalls: use another NIC, or a veth"
    )]
    NoNativeXdp {
        /// The interface.
        interface: String,
    },
    /// The kernel attached it without a `bpf_link`.
    #[error(
        "interface {interface}: this kernel has no bpf_link for XDP, without which the program would outlive a killed engine: Linux 5.9 or newer is needed"
    )]
    NoLink {
        /// The interface.
        interface: String,
    },
    /// The verifier refused the program.
    #[error("interface {interface}: the kernel refused the steering program: {why}")]
    Load {
        /// The interface.
        interface: String,
        /// The verifier's words.
        why: String,
    },
    /// Anything else that `bpf(2)` answered.
    #[error("interface {interface}: attaching the steering program: {why}")]
    Attach {
        /// The interface.
        interface: String,
        /// The kernel's words.
        why: String,
    },
    /// A map of the program could not be read or written.
    #[error("interface {interface}: {source}")]
    Map {
        /// The interface.
        interface: String,
        /// Which map, and why.
        source: MapFailure,
    },
}

/// An attached program; dropping it detaches.
pub struct Steering {
    interface: String,
    maps: Maps,
    // Held, not used: the kernel detaches the program when the last reference to the link goes.
    _link: FdLink,
}

impl Steering {
    /// Loads the program for `interface` and attaches it in native mode.
    ///
    /// `index` is the interface's in the calling thread's network namespace. `sockets` are pairs of queue
    /// and bound AF_XDP socket; a queue without one goes to the kernel. Until the first
    /// [`beat`](Self::beat) everything goes to the kernel.
    pub fn attach(
        interface: &str,
        index: u32,
        sockets: &[(u32, BorrowedFd<'_>)],
        options: &Options,
    ) -> Result<Self, Error> {
        let mut program = Program::load(interface, options)?;
        for (queue, socket) in sockets {
            let set = program.maps.set_socket(*queue, *socket);
            set.map_err(|source| Error::Map { interface: interface.into(), source })?;
        }
        let attach = |source| explain_attach(interface, index, source);
        let xdp = program.xdp().map_err(attach)?;
        let id = xdp.attach_to_if_index(index, XdpMode::Driver).map_err(attach)?;
        let link = xdp.take_link(id).map_err(attach)?;
        let link = link.try_into().map_err(|_| Error::NoLink { interface: interface.into() })?;
        Ok(Self { interface: interface.into(), maps: program.maps, _link: link })
    }

    /// Says that the workers are alive, as of now. Call it several times in `stale_after`.
    pub fn beat(&mut self) -> Result<(), Error> {
        self.maps.beat().map_err(|source| Error::Map { interface: self.interface.clone(), source })
    }

    /// Gives `queue` to a bound socket, instead of the one it had.
    pub fn set_socket(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.maps
            .set_socket(queue, socket)
            .map_err(|source| Error::Map { interface: self.interface.clone(), source })
    }

    /// Replaces the destinations that are ours in [`Mode::ServiceProxy`]; the router needs none.
    ///
    /// Prefixes that stay are not touched, so their packets are not disturbed.
    pub fn set_local(&mut self, prefixes: impl IntoIterator<Item = IpNet>) -> Result<(), Error> {
        self.maps
            .set_local(prefixes)
            .map_err(|source| Error::Map { interface: self.interface.clone(), source })
    }

    /// The same, and of these addresses of the node's the ports that are ours; what says that it comes from them or from the `trunk`'s
    /// networks is not ([`Maps::set_ours`]).
    pub fn set_ours(
        &mut self,
        prefixes: impl IntoIterator<Item = IpNet>,
        addresses: impl IntoIterator<Item = IpNet>,
        trunk: impl IntoIterator<Item = IpNet>,
        ports: &PortSet,
    ) -> Result<(), Error> {
        self.maps
            .set_ours(prefixes, addresses, trunk, ports)
            .map_err(|source| Error::Map { interface: self.interface.clone(), source })
    }

    /// What the program has decided so far, over all CPUs.
    pub fn statistics(&self) -> Result<Statistics, Error> {
        self.maps
            .statistics()
            .map_err(|source| Error::Map { interface: self.interface.clone(), source })
    }

    /// The program's maps as file descriptors, for a process that adopts them ([`Maps::adopt`]).
    pub fn handles(&self) -> Result<Handles, Error> {
        self.maps
            .handles()
            .map_err(|source| Error::Map { interface: self.interface.clone(), source })
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steering").field("interface", &self.interface).finish_non_exhaustive()
    }
}

fn explain_load(interface: &str, source: EbpfError) -> Error {
    let interface = interface.into();
    // EACCES is not among them: the verifier answers it, with a log that must not be hidden.
    if errno(&source) == Some(Errno::PERM) {
        return Error::Denied { interface };
    }
    Error::Load { interface, why: chain(&source) }
}

fn explain_attach(interface: &str, index: u32, source: ProgramError) -> Error {
    let name = interface;
    let interface = name.to_owned();
    match errno(&source) {
        Some(Errno::PERM) => Error::Denied { interface },
        Some(Errno::NODEV | Errno::NOENT) => Error::Missing { interface, index },
        // Another link answers EBUSY, a program attached through netlink EEXIST.
        Some(Errno::BUSY | Errno::EXIST) => {
            Error::Occupied { program: occupant::describe(index), interface }
        }
        Some(Errno::RANGE) => Error::MtuTooLarge { interface },
        Some(Errno::NOSPC) => Error::TooFewQueues { interface },
        Some(Errno::OPNOTSUPP) => Error::NoNativeXdp { interface },
        _ => Error::Attach { interface, why: chain(&source) },
    }
}

/// An error of the loader with its causes, which its own message leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        said = format!("{said}: {error}");
        next = error.source();
    }
    said
}

/// The kernel's number behind an error of the loader, however deep it is wrapped.
fn errno(error: &(dyn std::error::Error + 'static)) -> Option<Errno> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return Errno::from_io_error(error);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use aya::sys::SyscallError;

    fn refused(errno: Errno) -> Error {
        let error = SyscallError { call: "bpf_link_create", io_error: errno.into() };
        explain_attach("eth9", u32::MAX, error.into())
    }

    #[test]
    fn each_refusal_of_the_kernel_says_what_to_change() {
        let cases = [
            (Errno::PERM, "CAP_BPF"),
            (Errno::NODEV, "none with index"),
            (Errno::BUSY, "another XDP program is attached already"),
            (Errno::EXIST, "another XDP program is attached already"),
            (Errno::RANGE, "MTU"),
            (Errno::NOSPC, "numrxqueues"),
            (Errno::OPNOTSUPP, "no native XDP"),
            (Errno::NOMEM, "os error 12"),
        ];
        for (errno, needle) in cases {
            let message = refused(errno).to_string();
            assert!(
                message.starts_with("interface eth9: ") && message.contains(needle),
                "{errno}: {message}"
            );
        }
    }
}
