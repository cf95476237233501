//! What becomes of a packet: every packet ends in one [`Verdict`], every drop has a [`DropReason`].
//!
//! The three lists below are the only place where a reason, a punt or a reply is named. Each row makes the enum
//! variant, the name that metrics, `millrace show counters` and `millrace explain` print, and the help text; the
//! counter's place in memory is the row's place in its list (`counters.rs`). Rows stand in the order of the stops.

use millrace_tables::InterfaceId;
use millrace_wire::Addr;
use millrace_xsk::TxOffload;

/// The decision about one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the rewritten frame out of `interface`.
    Transmit {
        /// Where it leaves.
        interface: InterfaceId,
        /// What is left to do to its checksum on the way out.
        offload: TxOffload,
    },
    /// The frame now holds our answer; it leaves by the interface that it came in on.
    Reply(ReplyKind),
    /// The frame waits, unchanged, until the neighbor is known; or, a fragment, until the first of its packet comes.
    Hold {
        /// The interface that the neighbor is on; of a fragment the one that it came in on.
        interface: InterfaceId,
        /// The neighbor's address; of a fragment its destination.
        neighbor: Addr,
    },
    /// Not ours to forward: for the kernel, or used up by the neighbor table.
    Punt(PuntReason),
    /// Thrown away, and why.
    Drop(DropReason),
}

impl From<DropReason> for Verdict {
    fn from(reason: DropReason) -> Verdict {
        Verdict::Drop(reason)
    }
}

impl From<PuntReason> for Verdict {
    fn from(reason: PuntReason) -> Verdict {
        Verdict::Punt(reason)
    }
}

impl From<ReplyKind> for Verdict {
    fn from(kind: ReplyKind) -> Verdict {
        Verdict::Reply(kind)
    }
}

/// Makes an enum of unit variants with the tables that print it: `Variant = "name": "help";`.
macro_rules! list {
    ($(#[$meta:meta])* $list:ident { $($variant:ident = $name:literal : $help:literal;)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $list {
            $(#[doc = $help] $variant,)+
        }

        impl $list {
            /// Every row, in order.
            pub const ALL: &'static [$list] = &[$($list::$variant,)+];

            /// The name in metrics and in answers.
            pub const fn name(self) -> &'static str {
                match self {
                    $($list::$variant => $name,)+
                }
            }

            /// One sentence for who reads the counter.
            pub const fn help(self) -> &'static str {
                match self {
                    $($list::$variant => $help,)+
                }
            }

            /// The row's place in the list.
            pub const fn index(self) -> usize {
                self as usize
            }
        }

        impl std::fmt::Display for $list {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(crate) use list;

list! {
    /// Why a packet was thrown away, grouped by the stop that does so.
    DropReason {
        // rx and parse
        Truncated = "truncated": "A header or the packet it announces ends past the end of the frame.";
        NotForUs = "not_for_us": "The destination MAC is another station's.";
        BadEthernet = "bad_ethernet": "The source MAC is a group address, or there are more than two VLAN tags.";
        BadVersion = "bad_version": "The IP version does not match the EtherType.";
        BadHeader = "bad_header": "An IP header contradicts itself: header length under 20 bytes, or an IPv6 extension header out of place.";
        BadLength = "bad_length": "The IP total length is shorter than its header, or a TCP or UDP length contradicts it.";
        BadChecksum = "bad_checksum": "The IPv4 header or the ICMPv6 checksum is wrong, or UDP over IPv6 to translate has none.";
        ExtensionHeaders = "extension_headers": "More than eight IPv6 extension headers.";
        SourceRoute = "source_route": "An IPv4 option by which the sender chooses the route (RFC 7126 section 4.3).";
        Martian = "martian": "A source or destination that may not be on a wire: loopback, multicast source, 0.0.0.0, IPv4-mapped IPv6.";
        Spoofed = "spoofed": "From the interface of a pod, with a source MAC or address that is not the pod's.";
        // neighbor
        MalformedArp = "malformed_arp": "An ARP packet that is not Ethernet/IPv4, or whose sender is no station.";
        MalformedNd = "malformed_nd": "A neighbor discovery message that RFC 4861 section 7.1 tells to discard.";
        NdHopLimit = "nd_hop_limit": "A neighbor discovery message with a hop limit other than 255: it came through a router.";
        AddressConflict = "address_conflict": "Another station claims an address of ours.";
        // service
        FragmentUnsupported = "fragment_unsupported": "A fragment to us, or of a translated flow of a protocol that does not allow to translate fragments (SCTP).";
        FragmentInvalid = "fragment_invalid": "A fragment that contradicts the first of its packet, or is of a packet that another contradicted.";
        FragmentFull = "fragment_full": "A fragment came before the first of its packet, and no place to wait was left.";
        FragmentTimeout = "fragment_timeout": "A fragment waited for the first of its packet, which never came.";
        NoFrontend = "no_frontend": "The service address has no such port, and no answer was due or allowed.";
        NoBackend = "no_backend": "The service has no endpoints, and no answer was due or allowed.";
        NoLocalBackend = "no_local_backend": "The traffic policy leaves no endpoint on this node and says to drop.";
        SourceRange = "source_range": "The service's source ranges do not have the client's address.";
        // conntrack
        ConntrackInvalid = "conntrack_invalid": "A segment that can't start a connection, or an ICMP error about no known flow.";
        ConntrackFull = "conntrack_full": "No room for a new flow in its part of the conntrack table.";
        NoFreePort = "no_free_port": "No source port is left that keeps the flow apart from the others.";
        SnatExhausted = "snat_exhausted": "Every source port that a masqueraded flow to this backend can get is another flow's.";
        NoSnatAddress = "no_snat_address": "A flow is to be masqueraded, and we have no address of its family.";
        // fib and local
        NoRoute = "no_route": "No route to the destination, and no answer was due or allowed.";
        Blackhole = "blackhole": "The route says to throw away.";
        Unreachable = "unreachable": "The route says unreachable, and no answer was due or allowed.";
        DirectedBroadcast = "directed_broadcast": "The broadcast address of a network of ours (RFC 2644).";
        BeyondScope = "beyond_scope": "An IPv6 link-local address would leave its link.";
        TtlExceeded = "ttl_exceeded": "The TTL or hop limit ran out here, and no answer was due or allowed.";
        FragmentNeeded = "fragment_needed": "Bigger than the MTU of the way out, not to be cut up, and no answer was due or allowed.";
        RoutingHeader = "routing_header": "A routing header that asks us to forward on (RFC 5095).";
        NotListening = "not_listening": "Addressed to us, where nothing listens, and no answer was due or allowed.";
        // policy
        Policy = "policy": "A policy denies it.";
        // neighbor, on the way out
        Unresolved = "arp_incomplete": "The next hop's MAC is unknown: its waiting queue was full or its answer never came.";
        NeighborTableFull = "neighbor_table_full": "No room in the neighbor table for the next hop.";
        // tx
        NoInterface = "no_interface": "The route names an interface that this worker does not drive.";
        NoRoom = "no_room": "The answer is longer than a chunk of the UMEM, or no frame was left for a packet's fragments.";
        TxFull = "tx_full": "The transmit ring was full.";
        Inconsistent = "inconsistent": "The tables contradict themselves: a reference to a row that is not there.";
    }
}

list! {
    /// Why a packet is left to the kernel, or was used up here without an answer.
    PuntReason {
        Multicast = "multicast": "To a group.";
        Broadcast = "broadcast": "To all stations.";
        EtherType = "ether_type": "Neither ARP nor IP.";
        Consumed = "consumed": "An ARP reply or neighbor advertisement that the neighbor table has taken in.";
        NotOwned = "not_owned": "An ARP request or neighbor solicitation for an address that is not ours.";
        Control = "control": "A control message that the engine has no part in: router solicitation, advertisement, redirect.";
        Local = "local": "Addressed to us, and neither traffic of a service nor anything the engine answers.";
    }
}

list! {
    /// What we answered.
    ReplyKind {
        Arp = "arp-reply": "ARP reply.";
        NeighborAdvertisement = "neighbor-advertisement": "Neighbor advertisement.";
        Echo = "icmp-echo-reply": "ICMP or ICMPv6 echo reply.";
        TcpReset = "tcp-reset": "TCP segment with RST.";
        PortUnreachable = "icmp-port-unreachable": "ICMP 3/3 or ICMPv6 1/4.";
        ProtocolUnreachable = "icmp-protocol-unreachable": "ICMP 3/2 or ICMPv6 4/1.";
        NetUnreachable = "icmp-net-unreachable": "ICMP 3/0 or ICMPv6 1/0.";
        HostUnreachable = "icmp-host-unreachable": "ICMP 3/1 or ICMPv6 1/3: the neighbor did not answer.";
        BeyondScope = "icmp-beyond-scope": "ICMPv6 1/2.";
        TimeExceeded = "icmp-time-exceeded": "ICMP 11/0 or ICMPv6 3/0.";
        TooBig = "icmp-too-big": "ICMP 3/4 or ICMPv6 2/0, with the MTU.";
        RoutingHeader = "icmp-parameter-problem": "ICMPv6 4/0 at a routing header.";
    }
}

const _: () = assert!(size_of::<Verdict>() <= 24);

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_rows_are_in_place() {
        let mut names = HashSet::new();
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
            assert!(names.insert(reason.name()), "{reason} twice");
            assert!(reason.help().ends_with('.'), "{reason}: help is a sentence");
        }
        let punts: HashSet<_> = PuntReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(punts.len(), PuntReason::ALL.len());
        let replies: HashSet<_> = ReplyKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(replies.len(), ReplyKind::ALL.len());
    }
}
