//! Netlink, as much as is asked here: requests with attributes, replies, and the kernel's own words when it refuses.
//!
//! Every reply is bytes from outside: lengths are checked, what is too short ends the list of attributes.

pub mod ethtool;
pub mod link;
pub mod netdev;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto,
    socket_with,
};
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const HEADER: usize = 16;

/// The kernel's refusal: its number and, where it gives one, its reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// The errno.
    pub errno: i32,
    /// What the driver said.
    pub reason: Option<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = std::io::Error::from_raw_os_error(self.errno);
        match &self.reason {
            Some(reason) => write!(f, "{reason} ({error})"),
            None => error.fmt(f),
        }
    }
}

impl Refused {
    /// True where the driver or the kernel just does not have the thing.
    pub fn is_missing(&self) -> bool {
        [libc::EOPNOTSUPP, libc::ENOENT].contains(&self.errno)
    }
}

impl From<rustix::io::Errno> for Refused {
    fn from(errno: rustix::io::Errno) -> Self {
        Self { errno: errno.raw_os_error(), reason: None }
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self { errno, reason: None },
            None => Self { errno: libc::EIO, reason: Some(error.to_string()) },
        }
    }
}

/// A socket of one netlink protocol.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For routes and links.
    pub fn route() -> Result<Self, Refused> {
        Self::open(None)
    }

    /// For generic families.
    pub fn generic() -> Result<Self, Refused> {
        Self::open(Some(rustix::net::netlink::GENERIC))
    }

    fn open(protocol: Option<Protocol>) -> Result<Self, Refused> {
        let fd =
            socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(Duration::from_secs(10)))?;
        // An older kernel then gives no reasons.
        let _ = crate::sys::extended_acks(&fd);
        Ok(Self { fd, sequence: 1 })
    }

    /// The number of a generic family.
    pub fn family(&mut self, name: &str) -> Result<u16, Refused> {
        let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        put(&mut body, CTRL_ATTR_FAMILY_NAME, &string(name));
        let replies = self.ask(GENL_ID_CTRL, &body)?;
        replies
            .iter()
            .flat_map(|reply| attributes(reply.get(4..).unwrap_or_default()))
            .find(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID)
            .and_then(|(_, value)| u16_of(value))
            .ok_or(Refused { errno: libc::ENOENT, reason: None })
    }

    /// One request; the bodies of the replies before the acknowledgment.
    pub fn ask(&mut self, kind: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
        self.exchange(kind, NLM_F_REQUEST | NLM_F_ACK, body)
    }

    /// All objects of a kind.
    pub fn dump(&mut self, kind: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
        self.exchange(kind, NLM_F_REQUEST | NLM_F_DUMP, body)
    }

    fn exchange(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        sendto(&self.fd, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let (length, _) = recv(&self.fd, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = buffer.get(..length).unwrap_or_default();
            while let Some((message, next)) = split(rest) {
                rest = next;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    NLMSG_DONE => return Ok(replies),
                    NLMSG_ERROR => {
                        return match message.refusal() {
                            None => Ok(replies),
                            Some(refused) => Err(refused),
                        };
                    }
                    _ => replies.push(message.body.to_vec()),
                }
            }
        }
    }
}

/// One message of a reply.
#[derive(Clone, Copy, Debug)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Message<'_> {
    /// None where the "error" says that all is well.
    fn refusal(&self) -> Option<Refused> {
        let code = i32::from_ne_bytes(self.body.get(..4)?.try_into().ok()?);
        if code == 0 {
            return None;
        }
        let quoted = if self.flags & NLM_F_CAPPED != 0 {
            HEADER
        } else {
            self.body.get(4..).and_then(u32_of).unwrap_or(0) as usize
        };
        let reasons = self.body.get(4 + quoted.div_ceil(4) * 4..).unwrap_or_default();
        let reason = (self.flags & NLM_F_ACK_TLVS != 0)
            .then(|| attributes(reasons).find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
            .flatten()
            .map(|(_, value)| text_of(value));
        Some(Refused { errno: code.saturating_neg(), reason })
    }
}

fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32_of(bytes)? as usize;
    let body = bytes.get(HEADER..length)?;
    let message = Message {
        kind: u16_of(bytes.get(4..)?)?,
        flags: u16_of(bytes.get(6..)?)?,
        sequence: u32_of(bytes.get(8..)?)?,
        body,
    };
    Some((message, bytes.get(length.div_ceil(4) * 4..).unwrap_or_default()))
}

/// The attributes of a message or of another attribute: kind and value.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_of(rest)?);
        let kind = u16_of(rest.get(2..)?)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.div_ceil(4) * 4..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute.
pub fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().div_ceil(4) * 4, 0);
}

/// Appends an attribute made of attributes.
pub fn nest(body: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    put(body, kind | 0x8000, &inner);
}

/// With the zero that ends it.
pub fn string(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

/// The first two bytes.
pub fn u16_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// The first four bytes.
pub fn u32_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A number of one, two, four or eight bytes, as the kernel's `uint` is.
pub fn uint_of(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        1 => bytes.first().map(|&byte| byte.into()),
        2 => u16_of(bytes).map(Into::into),
        4 => u32_of(bytes).map(Into::into),
        _ => Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?)),
    }
}

/// Up to the first zero, what is no UTF-8 replaced.
pub fn text_of(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_come_back_as_they_were_put() {
        let mut body = Vec::new();
        put(&mut body, 3, b"abc\0");
        nest(&mut body, 4, |inner| put(inner, 1, &7_u32.to_ne_bytes()));
        let list: Vec<_> = attributes(&body).collect();
        assert_eq!(list[0], (3, &b"abc\0"[..]));
        assert_eq!(list[1].0, 4);
        let inner: Vec<_> = attributes(list[1].1).collect();
        assert_eq!(uint_of(inner[0].1), Some(7));
    }

    #[test]
    fn a_refusal_carries_the_drivers_words() {
        let mut body = (-libc::EINVAL).to_ne_bytes().to_vec();
        body.extend([0; HEADER]);
        put(&mut body, NLMSGERR_ATTR_MSG, &string("too many"));
        let flags = NLM_F_CAPPED | NLM_F_ACK_TLVS;
        let refused = Message { kind: NLMSG_ERROR, flags, sequence: 0, body: &body }.refusal();
        assert_eq!(refused.unwrap().to_string(), "too many (Invalid argument (os error 22))");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for (_, value) in attributes(&bytes) {
                let _ = (uint_of(value), text_of(value));
            }
            let mut rest = &bytes[..];
            while let Some((message, next)) = split(rest) {
                let _ = message.refusal();
                prop_assert!(next.len() < rest.len());
                rest = next;
            }
        }
    }
}
