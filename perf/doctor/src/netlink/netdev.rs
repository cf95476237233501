//! The generic family `netdev`: what a driver can do for XDP (Linux 6.3; segments of zero-copy 6.6).

use super::{Refused, Socket, attributes, put, uint_of};

const DEV_GET: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
const XDP_ZC_MAX_SEGS: u16 = 4;
/// `enum netdev_xdp_act`, in the order of its bits.
const NAMES: [&str; 7] =
    ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"];

/// A driver's abilities, and the most chunks of one packet in zero-copy mode.
pub fn abilities(index: u32) -> Result<(Vec<String>, Option<u32>), Refused> {
    let mut socket = Socket::generic()?;
    let family = socket.family("netdev")?;
    let mut body = vec![DEV_GET, 1, 0, 0];
    put(&mut body, IFINDEX, &index.to_ne_bytes());
    let replies = socket.ask(family, &body)?;
    let mut names = Vec::new();
    let mut segments = None;
    for (kind, value) in
        replies.iter().flat_map(|reply| attributes(reply.get(4..).unwrap_or_default()))
    {
        match kind {
            XDP_FEATURES => {
                let bits = uint_of(value).unwrap_or(0);
                names = (0..)
                    .zip(NAMES)
                    .filter(|(bit, _)| bits >> bit & 1 != 0)
                    .map(|(_, name)| name.into())
                    .collect();
            }
            XDP_ZC_MAX_SEGS => segments = uint_of(value).map(|n| n as u32),
            _ => {}
        }
    }
    Ok((names, segments))
}
