//! Who holds an interface's XDP hook, when it isn't free.
//!
//! Asks the kernel over rtnetlink (RTM_GETLINK, `IFLA_XDP`, include/uapi/linux/if_link.h) for the
//! program's id and then `bpf(2)` for its name. For messages only: what can't be learned is left out.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_HEADER: usize = 16;
const IFINFOMSG: usize = 16;
const REQUEST: usize = NLMSG_HEADER + IFINFOMSG;
/// Bits 14 and 15 of an attribute's type are flags.
const NLA_TYPE_MASK: u16 = 0x3fff;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;

/// Names the program on the interface: `XDP program "name" (id 7)`, or less where less is known.
pub(super) fn describe(index: u32) -> String {
    let Some(id) = program_id(index) else { return "another XDP program".into() };
    let mut programs = aya::programs::loaded_programs().flatten();
    let name = programs
        .find(|program| program.id() == id)
        .and_then(|p| p.name_as_str().map(str::to_owned));
    match name {
        Some(name) if !name.is_empty() => format!("the XDP program \"{name}\" (id {id})"),
        _ => format!("the XDP program with id {id}"),
    }
}

fn program_id(index: u32) -> Option<u32> {
    // Protocol 0 of this family is NETLINK_ROUTE.
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).ok()?;
    sendto(&socket, &request(index), SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).ok()?;
    // One link's answer is about 2 KiB; a cut one is read as far as it goes.
    let mut answer = vec![0; 32 << 10];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::empty()).ok()?;
    parse(answer.get(..length)?)
}

/// `nlmsghdr` and `ifinfomsg`, native byte order.
fn request(index: u32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    bytes[0..4].copy_from_slice(&(REQUEST as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    bytes[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    bytes[20..24].copy_from_slice(&index.to_ne_bytes());
    bytes
}

fn parse(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    if kind != RTM_NEWLINK {
        return None;
    }
    let xdp = attribute(answer.get(NLMSG_HEADER + IFINFOMSG..)?, IFLA_XDP)?;
    let id = [IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID, IFLA_XDP_SKB_PROG_ID]
        .into_iter()
        .find_map(|kind| attribute(xdp, kind))?;
    Some(u32::from_ne_bytes(id.get(..4)?.try_into().ok()?))
}

/// The first attribute of a type, in a list of `nlattr`s padded to 4 bytes.
fn attribute(mut list: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(list.get(0..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(list.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        // A length under the header's own would make no progress: the slice then is none.
        let value = list.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        list = list.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn answer(attributes: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; NLMSG_HEADER + IFINFOMSG];
        bytes[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn the_program_s_id_is_found_behind_other_attributes() {
        let xdp =
            [attribute_of(2, &[1]), attribute_of(IFLA_XDP_PROG_ID, &77u32.to_ne_bytes())].concat();
        let list = [attribute_of(3, b"veth0\0"), attribute_of(IFLA_XDP | 0x8000, &xdp)].concat();
        assert_eq!(parse(&answer(&list)), Some(77));
    }

    #[test]
    fn an_interface_without_a_program_has_no_id() {
        let xdp = attribute_of(2, &[0]);
        assert_eq!(parse(&answer(&attribute_of(IFLA_XDP, &xdp))), None);
    }

    #[test]
    fn broken_answers_end_without_an_id() {
        let whole = answer(&attribute_of(IFLA_XDP, &attribute_of(IFLA_XDP_PROG_ID, &[1, 0, 0])));
        for length in 0..=whole.len() {
            assert_eq!(parse(&whole[..length]), None, "{length}");
        }
        for length in 0..8u16 {
            let mut looping = attribute_of(9, &[]);
            looping[0..2].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(parse(&answer(&looping)), None, "{length}");
        }
    }
}
