//! Netlink's framing: messages in a datagram, attributes in a message.
//!
//! Decides nothing about what they mean. Lengths are the sender's word: each is checked, and what does not fit ends the walk. Unknown
//! attributes are the caller's to pass over; it looks for those that it knows.

/// Flag of a request.
pub(super) const REQUEST: u16 = 0x1;
/// The dump was interrupted by a change: what came of it may miss a row, or have one twice.
pub(super) const DUMP_INTERRUPTED: u16 = 0x10;
/// Ask for all.
pub(super) const DUMP: u16 = 0x300;

/// Message of the kernel: error, or acknowledgement.
pub(super) const ERROR: u16 = 2;
/// End of a dump.
pub(super) const DONE: u16 = 3;

const HEADER: usize = 16;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// Without the header.
    pub(super) body: &'a [u8],
}

/// The messages of a datagram. A length that does not fit ends them.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let body = rest.get(HEADER..length)?;
        let message = Message {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            sequence: u32_at(rest, 8)?,
            body,
        };
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some(message)
    })
}

/// A request for all rows of a kind; `family` is the first byte of every body.
pub(super) fn request(kind: u16, sequence: u32, family: u8, body: usize) -> Vec<u8> {
    let length = (HEADER + body) as u32;
    let mut bytes = Vec::with_capacity(HEADER + body);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | DUMP).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.push(family);
    bytes.resize(HEADER + body, 0);
    bytes
}

/// One attribute: its number without the flags for nested ones and for byte order, and its value.
pub(super) type Attribute<'a> = (u16, &'a [u8]);

/// The attributes behind a body's fixed part, or in another attribute. A length that does not fit ends them.
pub(super) fn attributes(bytes: &[u8]) -> impl Iterator<Item = Attribute<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let value = rest.get(4..length)?;
        let kind = u16_at(rest, 2)? & 0x3fff;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Where the next one begins.
pub(super) fn aligned(length: usize) -> usize {
    length.saturating_add(3) & !3
}

pub(super) fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_message() {
        let bytes = request(26, 7, 10, 12);
        let all: Vec<_> = messages(&bytes).collect();
        let mut body = [0; 12];
        body[0] = 10;
        assert_eq!(all, [Message { kind: 26, flags: 0x301, sequence: 7, body: &body }]);
    }

    #[test]
    fn messages_are_aligned_and_a_wrong_length_ends_them() {
        let mut bytes = request(16, 1, 0, 5);
        bytes.resize(24, 0);
        bytes.extend(request(17, 2, 0, 4));
        let kinds = |bytes: &[u8]| messages(bytes).map(|message| message.kind).collect::<Vec<_>>();
        assert_eq!(kinds(&bytes), [16, 17]);
        for length in [0u32, 15, 21, u32::MAX] {
            bytes[24..28].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(kinds(&bytes), [16], "{length}");
        }
        assert!(kinds(&[]).is_empty());
    }

    #[test]
    fn attributes_are_aligned_and_a_wrong_length_ends_them() {
        let mut bytes = vec![5, 0, 1, 0x80, 9, 0, 0, 0, 4, 0, 2, 0];
        let all = |bytes: &[u8]| {
            attributes(bytes).map(|(kind, value)| (kind, value.to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(all(&bytes), [(1, vec![9]), (2, vec![])]);
        for length in [0, 3, 5] {
            bytes[8] = length;
            assert_eq!(all(&bytes), [(1, vec![9])], "{length}");
        }
    }
}
