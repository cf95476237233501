//! The system calls that no crate at hand wraps: ethtool's ioctls, the name of a BPF program, a socket option.
//!
//! The only file of this crate with unsafe code; every function exported is safe.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// `include/uapi/linux/sockios.h`.
const SIOCETHTOOL: libc::Ioctl = 0x8946;
/// `include/uapi/linux/ethtool.h`.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GRXFH: u32 = 0x29;
const ETHTOOL_SRXFH: u32 = 0x2a;
const ETHTOOL_GRXCLSRLCNT: u32 = 0x2e;
/// `include/uapi/linux/bpf.h`.
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Asks for reasons beside errors, and for errors without the request in them.
pub fn extended_acks(fd: &impl AsFd) -> io::Result<()> {
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        let one: libc::c_int = 1;
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        let pointer = std::ptr::from_ref(&one).cast();
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: the kernel reads `length` bytes of a live integer.
        check(unsafe { libc::setsockopt(fd, libc::SOL_NETLINK, option, pointer, length) })?;
    }
    Ok(())
}

/// `struct ifreq`: a name and a union of 24 bytes, of which ethtool uses a pointer.
#[repr(C)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u8,
    rest: [u8; 16],
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

/// Runs an ethtool ioctl on `words`, which the kernel reads and overwrites. `words` must be as long as the command's
/// structure; private, so that only the functions below choose.
fn ethtool<const N: usize>(interface: &str, words: &mut [u64; N]) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from;
    }
    let mut request = Request { name, data: words.as_mut_ptr().cast(), rest: [0; 16] };
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `request` and the words it points to outlive the call, and each caller's array is at least as long as
    // the structure that its command reads and writes.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) })
}

/// Two 32-bit values as one word of memory.
fn pair(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// The driver's name (`struct ethtool_drvinfo`, 196 bytes: command, driver[32], …).
pub fn driver(interface: &str) -> io::Result<String> {
    let mut words = [0; 25];
    words[0] = pair(ETHTOOL_GDRVINFO, 0);
    ethtool(interface, &mut words)?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(crate::netlink::text_of(bytes.get(4..36).unwrap_or_default()))
}

/// `struct ethtool_rxnfc`, 192 bytes: command, flow type, data, a flow, a count.
const RXNFC: usize = 24;

/// The fields that are hashed for a type of flow, as `RXH_*` bits.
pub fn hash_fields(interface: &str, flow: u32) -> io::Result<u64> {
    let mut words = [0; RXNFC];
    words[0] = pair(ETHTOOL_GRXFH, flow);
    ethtool(interface, &mut words)?;
    Ok(words[1])
}

/// Chooses them.
pub fn set_hash_fields(interface: &str, flow: u32, fields: u64) -> io::Result<()> {
    let mut words = [0; RXNFC];
    words[0] = pair(ETHTOOL_SRXFH, flow);
    words[1] = fields;
    ethtool(interface, &mut words)
}

/// How many steering rules there are. The count is at byte 184, after the flow.
pub fn steering_rules(interface: &str) -> io::Result<u32> {
    let mut words = [0; RXNFC];
    words[0] = pair(ETHTOOL_GRXCLSRLCNT, 0);
    ethtool(interface, &mut words)?;
    let [a, b, c, d, ..] = words[RXNFC - 1].to_ne_bytes();
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// The name of a loaded BPF program (`struct bpf_prog_info`: `name` is 16 bytes at 64).
pub fn program_name(id: u32) -> io::Result<String> {
    let mut by_id = [0_u32; 8];
    by_id[0] = id;
    let size = size_of_val(&by_id);
    let pointer = by_id.as_mut_ptr();
    // SAFETY: the kernel reads `size` bytes of a live array.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, pointer, size) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us alone.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let mut information = [0_u64; 32];
    let mut by_fd = [0_u64; 2];
    by_fd[0] = pair(fd.as_raw_fd() as u32, size_of_val(&information) as u32);
    by_fd[1] = information.as_mut_ptr() as u64;
    let size = size_of_val(&by_fd);
    let pointer = by_fd.as_mut_ptr();
    // SAFETY: the kernel reads `size` bytes of a live array, and writes at most the bytes named in it behind the pointer.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, pointer, size) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    let bytes: Vec<u8> = information.iter().flat_map(|word| word.to_ne_bytes()).collect();
    Ok(crate::netlink::text_of(bytes.get(64..80).unwrap_or_default()))
}
