//! Why a UMEM or a socket could not be made, in words that say what to change.
//!
//! Decides: which errno of which call means what. Only set-up fails with these; the packet path has counters.

use std::{io, time::Duration};

/// Everything that can go wrong before the first packet.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The UMEM's configuration contradicts the kernel's rules.
    #[error("UMEM: {0}")]
    UmemConfig(String),
    /// The socket's configuration contradicts the kernel's rules.
    #[error("socket on {interface} queue {queue}: {what}")]
    SocketConfig {
        /// Interface name.
        interface: String,
        /// Queue number.
        queue: u32,
        /// What contradicts.
        what: String,
    },
    /// The memory of the UMEM could not be had.
    #[error(
        "UMEM of {bytes} bytes: no memory for it ({source}); use fewer frames or give the machine (or the cgroup) more memory"
    )]
    Memory {
        /// Size asked for.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Not enough 2 MiB pages.
    #[error(
        "UMEM of {pages} huge pages: the kernel has not that many free ({source}); run `sysctl vm.nr_hugepages={pages}` (or more), or use small pages"
    )]
    HugePages {
        /// 2 MiB pages needed.
        pages: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Registering the UMEM exceeds RLIMIT_MEMLOCK (ENOBUFS).
    #[error(
        "UMEM of {bytes} bytes exceeds the locked-memory limit of this process (RLIMIT_MEMLOCK); raise it (`ulimit -l`, `LimitMEMLOCK=`), grant CAP_IPC_LOCK, or use fewer frames"
    )]
    LockedMemory {
        /// Size of the UMEM.
        bytes: usize,
    },
    /// The kernel refused the UMEM's TX metadata.
    #[error(
        "UMEM with TX metadata: the kernel refused it (EINVAL); it needs Linux 6.11 or later: turn `tx_metadata` off"
    )]
    TxMetadata,
    /// No interface of that name, or it went away (ENODEV, ENXIO).
    #[error("interface {name}: there is none in this network namespace; `ip link` lists them")]
    NoInterface {
        /// The name asked for.
        name: String,
    },
    /// A privilege is missing (EPERM, EACCES).
    #[error("{what}: permission denied; run as root or grant {capability}")]
    Permission {
        /// What was attempted.
        what: &'static str,
        /// The capability that allows it.
        capability: &'static str,
    },
    /// The kernel has no AF_XDP (EAFNOSUPPORT).
    #[error("the kernel has no AF_XDP sockets; it must be built with CONFIG_XDP_SOCKETS")]
    NoAfXdp,
    /// The queue number is not below the number of channels (EINVAL).
    #[error("{interface} has no queue {queue}: it has {channels} (0 to {}); use a lower queue, or give the interface more (`ethtool -L`, or `numrxqueues`/`numtxqueues` when a veth is made)", channels.saturating_sub(1))]
    NoQueue {
        /// Interface name.
        interface: String,
        /// Queue asked for.
        queue: u32,
        /// How many there are.
        channels: u32,
    },
    /// Another socket has the queue (EBUSY), and still had it when the deadline passed.
    #[error("{interface} queue {queue} is in use by another AF_XDP socket, and still was after {}; stop the program that has it (`ss --xdp -p`), or take another queue", Seconds(*waited))]
    Busy {
        /// Interface name.
        interface: String,
        /// Queue asked for.
        queue: u32,
        /// How long the bind was retried.
        waited: Duration,
    },
    /// Zero-copy was demanded and the driver has none (EOPNOTSUPP).
    #[error(
        "{interface}: its driver has no zero-copy mode for AF_XDP (veth never has); use copy mode, or `Auto`, which tries zero-copy first"
    )]
    NoZeroCopy {
        /// Interface name.
        interface: String,
    },
    /// The kernel or driver can not do multi-buffer.
    #[error(
        "{interface}: multi-buffer (XDP_USE_SG) is refused; it needs Linux 6.6 or later and, in zero-copy mode, a driver with it: turn `multi_buffer` off and keep the MTU at {mtu} or less"
    )]
    NoMultiBuffer {
        /// Interface name.
        interface: String,
        /// Largest MTU that fits one chunk.
        mtu: u32,
    },
    /// The interface is down (ENETDOWN).
    #[error("{interface} is down; `ip link set {interface} up`")]
    Down {
        /// Interface name.
        interface: String,
    },
    /// Attaching the program: another one is there (EBUSY, EEXIST).
    #[error(
        "{interface} already has an XDP program; detach it (`ip link set {interface} xdp off`, or stop the program that holds its link)"
    )]
    ProgramBusy {
        /// Interface name.
        interface: String,
    },
    /// Attaching the program: the driver has no native XDP (EOPNOTSUPP).
    #[error(
        "{interface}: its driver has no native XDP, and generic mode is not used, for it drops large TCP frames; use another interface"
    )]
    NoNativeXdp {
        /// Interface name.
        interface: String,
    },
    /// Attaching the program: the MTU does not fit (ERANGE, EINVAL from the driver).
    #[error(
        "{interface}: its MTU is too large for the XDP program; lower the MTU, or use a driver with multi-buffer XDP"
    )]
    MtuTooLarge {
        /// Interface name.
        interface: String,
    },
    /// Anything else, with the call that failed.
    #[error("{what}: {source}")]
    Os {
        /// The call, and on what.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A duration as an operator reads it: `2.5 s`.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

impl Error {
    pub(crate) fn os(what: impl Into<String>, source: io::Error) -> Self {
        Error::Os { what: what.into(), source }
    }
}
