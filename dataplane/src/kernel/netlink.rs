//! Requests to the kernel over rtnetlink (RFC 3549, include/uapi/linux/rtnetlink.h), one at a time and each acknowledged.
//!
//! Decides nothing: [`Request`] writes bytes, [`Netlink`] sends them and reads what comes back. A socket belongs to the network namespace of the
//! thread that opened it, wherever it is used.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto,
    socket_with,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Interrupted dumps in a row before it is given up.
const TORN: u32 = 20;
const HEADER: usize = 16;
/// Bits 14 and 15 of an attribute's type are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// The kernel answers within microseconds; a socket that stays silent is broken.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Make it; if it is there already, an error.
pub(super) const CREATE: u16 = 0x400 | 0x200;
/// Make it, or put it in the place of what is there.
pub(super) const REPLACE: u16 = 0x400 | 0x100;

/// A message in the making.
pub(super) struct Request(Vec<u8>);

impl Request {
    /// Of this kind, with `flags` beside those that every request has, and the fixed part of its kind.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Request(bytes).aligned()
    }

    fn add_flags(&mut self, more: u16) {
        let flags = u16::from_ne_bytes([self.0[6], self.0[7]]) | more;
        self.0[6..8].copy_from_slice(&flags.to_ne_bytes());
    }

    fn aligned(mut self) -> Request {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// An attribute.
    pub(super) fn with(mut self, kind: u16, value: &[u8]) -> Request {
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.aligned()
    }

    /// A number as an attribute.
    pub(super) fn with_u32(self, kind: u16, value: u32) -> Request {
        self.with(kind, &value.to_ne_bytes())
    }

    /// A name as an attribute, with the zero byte that ends it.
    pub(super) fn with_name(self, kind: u16, name: &str) -> Request {
        self.with(kind, &[name.as_bytes(), &[0]].concat())
    }

    /// An attribute that holds a fixed part, which may be empty, and others.
    pub(super) fn with_nest(
        mut self,
        kind: u16,
        fixed: &[u8],
        inner: impl FnOnce(Request) -> Request,
    ) -> Request {
        let at = self.0.len();
        self = self.with(kind, fixed);
        self = inner(self);
        let len = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&len.to_ne_bytes());
        self
    }
}

/// One message of an answer, without its header.
pub(super) struct Answer<'a> {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: &'a [u8],
}

/// A socket, and the number of its last request.
pub(super) struct Netlink(OwnedFd, AtomicU32);

impl Netlink {
    /// In the network namespace of this thread.
    pub(super) fn open() -> io::Result<Netlink> {
        // Protocol 0 of this family is NETLINK_ROUTE.
        Netlink::of(None)
    }

    /// One that is asked about sockets (sock_diag(7)).
    pub(super) fn of_sockets() -> io::Result<Netlink> {
        Netlink::of(Some(SOCK_DIAG))
    }

    fn of(protocol: Option<Protocol>) -> io::Result<Netlink> {
        let socket =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Netlink(socket, AtomicU32::new(0)))
    }

    /// Sends it and waits until the kernel has done it, or said why not.
    pub(super) fn ask(&self, mut request: Request) -> io::Result<()> {
        request.add_flags(NLM_F_ACK);
        self.exchange(&mut request, |_| ()).map(drop)
    }

    /// Sends a question about all of something; `each` puts a message of the answer to what is found. A dump that a change has
    /// interrupted may miss a row, and is begun anew.
    pub(super) fn dump<T: Default>(
        &self,
        mut request: Request,
        mut each: impl FnMut(&mut T, Answer<'_>),
    ) -> io::Result<T> {
        request.add_flags(NLM_F_DUMP);
        for _ in 0..TORN {
            let mut found = T::default();
            if self.exchange(&mut request, |answer| each(&mut found, answer))? == Dumped::Whole {
                return Ok(found);
            }
        }
        Err(io::Error::other("it changes faster than it can be listed"))
    }

    fn exchange(
        &self,
        request: &mut Request,
        mut each: impl FnMut(Answer<'_>),
    ) -> io::Result<Dumped> {
        let len = u32::try_from(request.0.len()).unwrap_or(u32::MAX);
        request.0[0..4].copy_from_slice(&len.to_ne_bytes());
        let sequence = self.1.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        request.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        sendto(&self.0, &request.0, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut buffer = vec![0; 64 << 10];
        let mut dumped = Dumped::Whole;
        loop {
            let (length, _) = match recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let datagram = buffer.get(..length).unwrap_or_default();
            if let Some(end) = take(datagram, sequence, &mut dumped, &mut each) {
                return end.map(|()| dumped);
            }
        }
    }
}

/// Whether a dump has everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dumped {
    Whole,
    /// Something changed meanwhile.
    Torn,
}

/// Takes in a datagram of an answer; how that ended, when it has.
fn take(
    datagram: &[u8],
    sequence: u32,
    dumped: &mut Dumped,
    each: &mut impl FnMut(Answer<'_>),
) -> Option<io::Result<()>> {
    let mut rest = datagram;
    while let Some((answer, next)) = split(rest) {
        rest = next;
        // To a request that was given up.
        if answer.sequence != sequence {
            continue;
        }
        if answer.flags & NLM_F_DUMP_INTR != 0 {
            *dumped = Dumped::Torn;
        }
        if answer.kind != NLMSG_ERROR && answer.kind != NLMSG_DONE {
            each(answer);
            continue;
        }
        // Both begin with the negative error, zero for none.
        let code = answer.body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        return Some(match code.saturating_neg() {
            0 => Ok(()),
            code if code == Errno::INTR.raw_os_error() => {
                *dumped = Dumped::Torn;
                Ok(())
            }
            code => Err(io::Error::from_raw_os_error(code)),
        });
    }
    None
}

/// The first message of some bytes, and what follows it.
fn split(bytes: &[u8]) -> Option<(Answer<'_>, &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(HEADER..len)?;
    Some((
        Answer { kind, flags, sequence, body },
        bytes.get(len.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// The attributes of a message behind its fixed part.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An error as people read it, with what was tried.
pub(super) fn explain(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nests_know_their_length() {
        let request =
            Request::new(16, CREATE, &[1, 2, 3])
                .with_name(3, "ab")
                .with_nest(18, &[], |inner| inner.with_u32(1, 7).with(2, &[9]));
        assert_eq!(request.0.len() % 4, 0);
        let read: Vec<_> = attributes(&request.0[HEADER + 4..]).collect();
        assert_eq!(read.len(), 2);
        assert_eq!(read[0], (3, &b"ab\0"[..]));
        let inner: Vec<_> = attributes(read[1].1).collect();
        assert_eq!(inner, [(1, &7u32.to_ne_bytes()[..]), (2, &[9][..])]);
    }

    #[test]
    fn any_bytes_are_read_to_an_end() {
        for bytes in [&[][..], &[0; 3], &[0; 64], &[255; 64], &[5, 0, 1, 0, 9], &[4, 0, 1, 0]] {
            assert!(attributes(bytes).count() <= 1);
            assert!(split(bytes).is_none());
        }
    }

    #[test]
    fn a_dump_that_a_change_interrupted_is_not_whole() {
        let message = |kind: u16, flags: u16, body: &[u8]| {
            let mut bytes = Request::new(kind, flags, body).0;
            let len = u32::try_from(HEADER + body.len()).unwrap();
            bytes[0..4].copy_from_slice(&len.to_ne_bytes());
            bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
            bytes
        };
        let read = |datagram: &[u8], sequence| {
            let (mut dumped, mut rows) = (Dumped::Whole, 0);
            let end = take(datagram, sequence, &mut dumped, &mut |_| rows += 1);
            (end.map(|end| end.map_err(|why| why.raw_os_error())), dumped, rows)
        };
        let done = |flags, code: i32| message(NLMSG_DONE, flags, &code.to_ne_bytes());
        let row = |flags| message(24, flags, &[0; 12]);
        let whole = [row(2), row(2), done(2, 0)].concat();
        assert_eq!(read(&whole, 7), (Some(Ok(())), Dumped::Whole, 2));
        assert_eq!(read(&whole, 8), (None, Dumped::Whole, 0), "of another request");
        assert_eq!(read(&row(2), 7), (None, Dumped::Whole, 1));
        let torn = [row(2), row(2 | NLM_F_DUMP_INTR), done(2, 0)].concat();
        assert_eq!(read(&torn, 7), (Some(Ok(())), Dumped::Torn, 2));
        assert_eq!(read(&done(2 | NLM_F_DUMP_INTR, 0), 7), (Some(Ok(())), Dumped::Torn, 0));
        assert_eq!(read(&done(2, -4), 7), (Some(Ok(())), Dumped::Torn, 0));
        assert_eq!(read(&done(2, -105), 7), (Some(Err(Some(105))), Dumped::Whole, 0));
    }

    #[test]
    fn an_answer_that_came_too_late_is_not_taken_for_the_next() {
        let netlink = Netlink::open().unwrap();
        // RTM_GETLINK of an index that is none: refused, and nobody has waited for it.
        let mut none = [0; 16];
        none[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let mut late = Request::new(18, NLM_F_ACK, &none).0;
        let len = u32::try_from(late.len()).unwrap();
        late[0..4].copy_from_slice(&len.to_ne_bytes());
        sendto(&netlink.0, &late, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).unwrap();
        let links: u32 = netlink.dump(Request::new(18, 0, &[0; 16]), |n, _| *n += 1).unwrap();
        assert!(links >= 1);
    }

    #[test]
    fn the_kernel_answers_and_refuses() {
        let netlink = Netlink::open().unwrap();
        // RTM_GETLINK, all of them.
        let links: u32 = netlink.dump(Request::new(18, 0, &[0; 16]), |n, _| *n += 1).unwrap();
        assert!(links >= 1);
        // One of an index that is none.
        let mut none = [0; 16];
        none[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        assert_eq!(netlink.ask(Request::new(18, 0, &none)).unwrap_err().raw_os_error(), Some(19));
    }
}
