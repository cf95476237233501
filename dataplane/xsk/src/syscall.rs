//! The system calls of this crate, each as one safe function that returns `io::Result`.
//!
//! Decides nothing. Leaves the meaning of an errno to the caller.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Plain old data: every field an integer, no meaning in any padding, all-zero a legal value.
///
/// # Safety
/// The implementor promises the above.
pub unsafe trait Plain: Copy {}

// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: an integer.
unsafe impl Plain for u64 {}
// SAFETY: an integer.
unsafe impl Plain for libc::c_int {}
// SAFETY: a struct of integers.
unsafe impl Plain for libc::xdp_umem_reg {}
// SAFETY: a struct of integers.
unsafe impl Plain for libc::xdp_mmap_offsets {}
// SAFETY: a struct of integers.
unsafe impl Plain for libc::xdp_statistics {}
// SAFETY: a struct of one integer.
unsafe impl Plain for libc::xdp_options {}

/// A new AF_XDP socket, closed on exec.
pub fn socket() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointer.
    let fd = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the kernel just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `setsockopt` with a plain value.
pub fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, pointer, size_of::<T>() as libc::socklen_t)
    })?;
    Ok(())
}

/// `getsockopt` of a plain value; what an older kernel does not fill stays zero.
pub fn get_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
) -> io::Result<T> {
    // SAFETY: `Plain` allows all zeroes.
    let mut value: T = unsafe { std::mem::zeroed() };
    let mut len = size_of::<T>() as libc::socklen_t;
    let pointer = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel writes at most `len` bytes into a live value, and `Plain` allows any bytes.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, pointer, &raw mut len) })?;
    Ok(value)
}

/// Binds an AF_XDP socket.
pub fn bind(fd: BorrowedFd<'_>, address: &libc::sockaddr_xdp) -> io::Result<()> {
    let len = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of a live address.
    check(unsafe { libc::bind(fd.as_raw_fd(), std::ptr::from_ref(address).cast(), len) })?;
    Ok(())
}

/// Tells the kernel that the tx ring has work: an empty `sendto` that never waits.
pub fn kick_tx(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a null buffer of length 0 and no address: nothing is read.
    let sent = unsafe {
        libc::sendto(fd.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Tells the kernel that the fill ring has chunks, or drives its busy poll: an empty `recvfrom` that never waits.
pub fn kick_rx(fd: BorrowedFd<'_>) -> io::Result<()> {
    let none = std::ptr::null_mut();
    // SAFETY: a null buffer of length 0 and no address: nothing is written.
    let received = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            none,
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if received < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
