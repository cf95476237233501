//! The two sockets to the kernel: one that is told of changes, one that is asked.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink, recvfrom, sendto, socket_with, sockopt,
    },
};

use super::message::{DONE, DUMP_INTERRUPTED, ERROR, Message, messages, request, u32_at};

/// More than the kernel puts into one datagram (32 KiB).
const BUFFER: usize = 128 * 1024;
/// What may wait to be read. As much as the kernel allows without privilege, which is less.
const BACKLOG: usize = 8 << 20;
/// Longer than any dump takes; then the kernel is asked again.
const DUMP_LIMIT: Duration = Duration::from_secs(10);

/// A socket to the kernel's routing.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

/// How a dump ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dumped {
    /// It is all there.
    Whole,
    /// Something changed meanwhile: it has to be asked for again.
    Torn,
}

impl Socket {
    /// One that hears of these groups (bit `n` − 1 is group `n`); none for one to ask with.
    pub(super) fn new(groups: u32) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        // Too much is cut down to what is allowed, as documented; refused where even that is not.
        let _ = sockopt::set_socket_recv_buffer_size(&fd, BACKLOG);
        bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Socket { fd, buffer: vec![0; BUFFER], sequence: 0 })
    }

    /// Reads one datagram of the kernel's, and gives out its messages. False when there is none; `ENOBUFS` when some were lost.
    pub(super) fn read(&mut self, each: &mut impl FnMut(Message<'_>)) -> Result<bool, Errno> {
        loop {
            let from = recvfrom(&self.fd, &mut self.buffer[..], RecvFlags::TRUNC);
            let (_, length, sender) = match from {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(false),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            // Other processes may send to us too.
            let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
            if sender.is_none_or(|sender| sender.pid() != 0) {
                continue;
            }
            let Some(datagram) = self.buffer.get(..length) else {
                return Err(Errno::NOBUFS);
            };
            messages(datagram).for_each(each);
            return Ok(true);
        }
    }

    /// Asks for all rows of a kind (`RTM_GET…`), whose bodies have a fixed part of `fixed` bytes.
    pub(super) fn dump(
        &mut self,
        kind: u16,
        fixed: usize,
        mut row: impl FnMut(&[u8]),
    ) -> io::Result<Dumped> {
        self.sequence = self.sequence.wrapping_add(1);
        let sequence = self.sequence;
        let request = request(kind, sequence, 0, fixed);
        sendto(&self.fd, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let deadline = Instant::now() + DUMP_LIMIT;
        let (mut torn, mut ended, mut failed) = (false, false, None);
        while !ended {
            let mut each = |message: Message<'_>| {
                // Of a dump that was given up.
                if message.sequence != sequence || ended {
                    return;
                }
                torn |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    DONE | ERROR => {
                        ended = true;
                        // Both begin with the negative error, zero for none.
                        let code = u32_at(message.body, 0).unwrap_or(0).cast_signed();
                        failed = (code != 0).then(|| io::Error::from_raw_os_error(-code));
                    }
                    _ => row(message.body),
                }
            };
            match self.read(&mut each) {
                Ok(true) => {}
                Ok(false) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() || !wait(self.as_fd(), Some(left))? {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        match failed {
            Some(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {
                Ok(Dumped::Torn)
            }
            Some(error) => Err(error),
            None if torn => Ok(Dumped::Torn),
            None => Ok(Dumped::Whole),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Waits until there is something to read; false when the time is up.
pub(super) fn wait(fd: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<bool> {
    let limit = limit.map(|limit| Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    let mut ready = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    match poll(&mut ready, limit.as_ref()) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
