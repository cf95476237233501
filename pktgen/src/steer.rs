//! Attaches the XDP program that gives an interface's frames to the generator's sockets.
//!
//! In native mode, held by a `bpf_link`: it goes with the process, also with a killed one.

use aya::maps::XskMap;
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use std::os::fd::AsRawFd;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pktgen.bpf.o"));

/// An attached program; dropping it detaches.
pub struct Steering {
    _loaded: Ebpf,
    _link: FdLink,
}

/// Why frames can't be had.
#[derive(Debug, thiserror::Error)]
#[error("interface {interface}: {why}")]
pub struct SteerError {
    interface: String,
    why: String,
}

impl Steering {
    /// Attaches to the interface with `index` in the calling thread's network namespace; `sockets` are pairs of queue and socket.
    pub fn attach(
        interface: &str,
        index: u32,
        sockets: &[(u32, &dyn AsRawFd)],
    ) -> Result<Self, SteerError> {
        let fail = |why: String| SteerError { interface: interface.into(), why };
        let said = |doing: &str, e: &dyn std::error::Error| fail(format!("{doing}: {}", chain(e)));
        let slots = sockets.iter().map(|(queue, _)| queue + 1).max().unwrap_or(1);
        let mut loaded =
            EbpfLoader::new().map_max_entries("xsks", slots).load(OBJECT).map_err(|e| {
                said("loading the XDP program (root, or CAP_BPF and CAP_NET_ADMIN)", &e)
            })?;
        let map =
            loaded.map_mut("xsks").ok_or_else(|| fail("the XDP program has no map".into()))?;
        let mut map = XskMap::try_from(map).map_err(|e| said("the XDP program's map", &e))?;
        for (queue, socket) in sockets {
            map.set(*queue, socket.as_raw_fd(), 0)
                .map_err(|e| said("the XDP program's map", &e))?;
        }
        let program = loaded
            .program_mut("millrace_pktgen")
            .ok_or_else(|| fail("the object has no program".into()))?;
        let program: &mut Xdp = program.try_into().map_err(|e| said("the XDP program", &e))?;
        program.load().map_err(|e| said("loading the XDP program", &e))?;
        let id = program.attach_to_if_index(index, XdpMode::Driver).map_err(|e| {
            let why = chain(&e);
            let hint = match errno(&e) {
                Some(16 | 17) => {
                    "another XDP program is attached already (`ip link` shows it); detach it"
                }
                Some(34) => "its MTU is too large for XDP; lower it, on a veth on both ends",
                Some(28) => "it has fewer receive queues than its peer has transmit queues",
                Some(95) => "its driver has no native XDP",
                _ => return fail(format!("attaching the XDP program: {why}")),
            };
            fail(format!("{hint} ({why})"))
        })?;
        let link = program.take_link(id).map_err(|e| said("attaching the XDP program", &e))?;
        let link = link.try_into().map_err(|_| {
            fail("this kernel has no bpf_link for XDP: Linux 5.9 or newer is needed".into())
        })?;
        Ok(Self { _loaded: loaded, _link: link })
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        said = format!("{said}: {error}");
        next = error.source();
    }
    said
}

fn errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error();
        }
        next = error.source();
    }
    None
}
