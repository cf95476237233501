//! The kernel's own words for AF_XDP: what `libc` does not have yet, and the descriptor.
//!
//! Decides nothing. Source of every value: `include/uapi/linux/if_xdp.h`, Linux 6.18 unless another version is
//! named. Debian 12's copy of that header is of 6.1 and lacks the newer half.

/// `SOL_XDP` option: descriptors one `sendto` may send in copy mode (Linux 6.17; 32 without it).
pub const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Bytes the kernel leaves free before a received packet, beyond the UMEM's headroom
/// (`XDP_PACKET_HEADROOM`, `include/uapi/linux/bpf.h`).
pub const XDP_PACKET_HEADROOM: u32 = 256;

/// One entry of an rx or tx ring (`struct xdp_desc`). Any bytes are a legal value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Bytes from the start of the UMEM to the packet's first byte.
    pub addr: u64,
    /// Bytes of the packet in this chunk.
    pub len: u32,
    /// `XDP_PKT_CONTD`, `XDP_TX_METADATA`.
    pub options: u32,
}

/// What the kernel reads from the bytes right before a packet whose descriptor has `XDP_TX_METADATA`
/// (`struct xsk_tx_metadata`; `launch_time` since 6.15).
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct TxMetadata {
    /// `XDP_TXMD_FLAGS_*`.
    pub flags: u64,
    /// Bytes from the packet's start to where the sum begins.
    pub csum_start: u16,
    /// Bytes from `csum_start` to the checksum field.
    pub csum_offset: u16,
    /// The hole C leaves before the next field.
    pub padding: u32,
    /// Not used here; part of the size.
    pub launch_time: u64,
}

/// Length of [`TxMetadata`], `tx_metadata_len` of the UMEM: under 256 and a multiple of 8 (`xdp_umem_reg`).
pub const TX_METADATA_LEN: u32 = size_of::<TxMetadata>() as u32;

const _: () = assert!(size_of::<Descriptor>() == 16);
const _: () = assert!(TX_METADATA_LEN == 24);
