//! Half a word of an entry: how far its flow has come, and how long it may be idle there.
//!
//! Bits 0–7 the TCP state (0: not TCP), bit 8 whether the reply direction has been seen, bits 9–10
//! which directions have sent FIN, bits 11–31 the idle timeout in seconds (so 24 days at most). It
//! changes a handful of times in a flow's life, by compare-and-exchange; packets of an established
//! flow only read it.

use super::tcp::TcpState;
use crate::clock::{Nanos, SECOND};
use crate::flow::Direction;
use millrace_wire::{Protocol, tcp::Flags};

/// The unit of time in entries: what a packet of an established flow writes, it writes once a tick.
pub const TICK: Nanos = SECOND;

/// `now` in ticks. Wraps after 136 years; differences are taken modulo 2³².
#[inline]
pub fn tick(now: Nanos) -> u32 {
    (now / TICK) as u32
}

/// Ticks from `then` to `now`; 0 when another worker's clock reading was a little ahead.
#[inline]
pub fn ticks_since(then: u32, now: u32) -> u32 {
    let ticks = now.wrapping_sub(then);
    if ticks > u32::MAX / 2 { 0 } else { ticks }
}

/// How long a flow may be idle before its entry goes, in seconds, by protocol and state.
///
/// Defaults are Linux's (`net.netfilter.nf_conntrack_*_timeout*`), except that a handshake gets
/// 30 s instead of 120 and 60: a half-open entry is what a flood makes, and each retransmission
/// starts the 30 s again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// SYN sent, no answer.
    pub tcp_syn_sent: u32,
    /// SYN-ACK seen.
    pub tcp_syn_received: u32,
    /// Both directions seen after the handshake.
    pub tcp_established: u32,
    /// One FIN.
    pub tcp_fin_wait: u32,
    /// One FIN, acknowledged.
    pub tcp_close_wait: u32,
    /// Both FINs.
    pub tcp_last_ack: u32,
    /// Both FINs, acknowledged.
    pub tcp_time_wait: u32,
    /// RST.
    pub tcp_close: u32,
    /// Picked up in the middle, the other direction not seen yet.
    pub tcp_unreplied: u32,
    /// UDP, one direction seen.
    pub udp: u32,
    /// UDP, both.
    pub udp_stream: u32,
    /// ICMP and ICMPv6 echo.
    pub icmp: u32,
    /// SCTP, one direction seen.
    pub sctp: u32,
    /// SCTP, both.
    pub sctp_established: u32,
    /// Everything else.
    pub other: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_syn_sent: 30,
            tcp_syn_received: 30,
            tcp_established: 432_000,
            tcp_fin_wait: 120,
            tcp_close_wait: 60,
            tcp_last_ack: 30,
            tcp_time_wait: 120,
            tcp_close: 10,
            tcp_unreplied: 300,
            udp: 30,
            udp_stream: 120,
            icmp: 30,
            sctp: 30,
            sctp_established: 210,
            other: 600,
        }
    }
}

impl Timeouts {
    /// The longest, in seconds: 24 days.
    pub const LONGEST: u32 = LONGEST;

    /// The first one that is 0 or longer than [`Timeouts::LONGEST`].
    pub fn out_of_bounds(&self) -> Option<(&'static str, u32)> {
        let all = [
            ("tcp_syn_sent", self.tcp_syn_sent),
            ("tcp_syn_received", self.tcp_syn_received),
            ("tcp_established", self.tcp_established),
            ("tcp_fin_wait", self.tcp_fin_wait),
            ("tcp_close_wait", self.tcp_close_wait),
            ("tcp_last_ack", self.tcp_last_ack),
            ("tcp_time_wait", self.tcp_time_wait),
            ("tcp_close", self.tcp_close),
            ("tcp_unreplied", self.tcp_unreplied),
            ("udp", self.udp),
            ("udp_stream", self.udp_stream),
            ("icmp", self.icmp),
            ("sctp", self.sctp),
            ("sctp_established", self.sctp_established),
            ("other", self.other),
        ];
        all.into_iter().find(|(_, seconds)| !(1..=LONGEST).contains(seconds))
    }
}

/// See the top of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress(pub(super) u32);

const REPLIED: u32 = 1 << 8;
const FIN: [u32; 2] = [1 << 9, 1 << 10];
/// The timeout begins here; what is below is the state.
const TIMEOUT: u32 = 11;
/// The longest timeout, in seconds.
const LONGEST: u32 = u32::MAX >> TIMEOUT;

impl Progress {
    /// A flow of which one packet, with `flags` if it is TCP, was seen.
    pub(super) fn first(protocol: Protocol, flags: Option<Flags>, timeouts: &Timeouts) -> Self {
        let mut progress = Self(0);
        if protocol == Protocol::TCP {
            let (state, fin) = TcpState::first(flags.unwrap_or(Flags(0)));
            progress.0 = u32::from(state as u8) | if fin { FIN[0] } else { 0 };
        }
        progress.with_timeout(protocol, timeouts)
    }

    /// The TCP state; `None` for other protocols.
    #[inline]
    pub fn tcp(self) -> Option<TcpState> {
        match self.0 as u8 {
            0 => None,
            bits => Some(TcpState::from_bits(bits)),
        }
    }

    /// Whether the reply direction has been seen.
    #[inline]
    pub fn is_replied(self) -> bool {
        self.0 & REPLIED != 0
    }

    /// Whether it belongs to the class that a SYN flood fills.
    #[inline]
    pub fn is_half_open(self) -> bool {
        self.tcp().is_some_and(TcpState::is_half_open)
    }

    /// The idle timeout, in ticks.
    #[inline]
    pub fn timeout(self) -> u32 {
        (self.0 >> TIMEOUT) * (SECOND / TICK) as u32
    }

    /// After one more packet.
    #[inline]
    pub(super) fn after(
        self,
        protocol: Protocol,
        direction: Direction,
        flags: Option<Flags>,
        timeouts: &Timeouts,
    ) -> Self {
        let seen = if direction == Direction::Reply { self.0 | REPLIED } else { self.0 };
        let events = Flags(Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0);
        match (self.tcp(), flags) {
            // The established path: nothing but data and acknowledgments, or no TCP at all.
            (None, _) | (_, None) if seen == self.0 => self,
            (Some(TcpState::Established), Some(flags))
                if seen == self.0 && !flags.intersects(events) =>
            {
                self
            }
            (Some(state), Some(flags)) => {
                let fins = [seen & FIN[0] != 0, seen & FIN[1] != 0];
                let next = state.next(direction, flags, fins);
                let fin = if flags.contains(Flags::FIN) { FIN[direction.index()] } else { 0 };
                if next == state && seen | fin == self.0 {
                    return self;
                }
                Self(seen & !0xff | fin | u32::from(next as u8)).with_timeout(protocol, timeouts)
            }
            _ => Self(seen).with_timeout(protocol, timeouts),
        }
    }

    /// Whether one more packet, with `flags` if it is TCP, leaves a flow of this `protocol` as it is: the established path
    /// of [`Progress::after`].
    #[inline]
    pub(super) fn is_steady(self, direction: Direction, protocol: Protocol, flags: Flags) -> bool {
        let events = Flags(Flags::SYN.0 | Flags::FIN.0 | Flags::RST.0);
        let settled = if protocol == Protocol::TCP { TcpState::Established as u8 } else { 0 };
        self.0 as u8 == settled
            && !flags.intersects(events)
            && (direction == Direction::Original || self.is_replied())
    }

    fn with_timeout(self, protocol: Protocol, timeouts: &Timeouts) -> Self {
        let replied = self.is_replied();
        let seconds = match (protocol, self.tcp()) {
            (_, Some(state)) => match state {
                TcpState::SynSent => timeouts.tcp_syn_sent,
                TcpState::SynReceived => timeouts.tcp_syn_received,
                TcpState::Established if replied => timeouts.tcp_established,
                TcpState::Established => timeouts.tcp_unreplied,
                TcpState::FinWait => timeouts.tcp_fin_wait,
                TcpState::CloseWait => timeouts.tcp_close_wait,
                TcpState::LastAck => timeouts.tcp_last_ack,
                TcpState::TimeWait => timeouts.tcp_time_wait,
                TcpState::Close => timeouts.tcp_close,
            },
            (Protocol::UDP | Protocol::UDP_LITE, _) if replied => timeouts.udp_stream,
            (Protocol::UDP | Protocol::UDP_LITE, _) => timeouts.udp,
            (Protocol::ICMP | Protocol::ICMPV6, _) => timeouts.icmp,
            (Protocol::SCTP, _) if replied => timeouts.sctp_established,
            (Protocol::SCTP, _) => timeouts.sctp,
            _ => timeouts.other,
        };
        Self(self.0 & ((1 << TIMEOUT) - 1) | seconds.min(LONGEST) << TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        tcp_syn_sent: 1,
        tcp_syn_received: 2,
        tcp_established: 3,
        tcp_fin_wait: 4,
        tcp_close_wait: 5,
        tcp_last_ack: 6,
        tcp_time_wait: 7,
        tcp_close: 8,
        tcp_unreplied: 9,
        udp: 10,
        udp_stream: 11,
        icmp: 12,
        sctp: 13,
        sctp_established: 14,
        other: 15,
    };

    fn seconds(progress: Progress) -> u32 {
        progress.timeout()
    }

    #[test]
    fn each_state_has_its_timeout() {
        let ack = Some(Flags::ACK);
        let fin = Some(Flags(Flags::FIN.0 | Flags::ACK.0));
        let mut flow = Progress::first(Protocol::TCP, Some(Flags::SYN), &TIMEOUTS);
        let mut seen = vec![seconds(flow)];
        for (direction, flags) in [
            (Direction::Reply, Some(Flags(Flags::SYN.0 | Flags::ACK.0))),
            (Direction::Original, ack),
            (Direction::Original, fin),
            (Direction::Reply, ack),
            (Direction::Reply, fin),
            (Direction::Original, ack),
            (Direction::Reply, Some(Flags::RST)),
        ] {
            flow = flow.after(Protocol::TCP, direction, flags, &TIMEOUTS);
            seen.push(seconds(flow));
        }
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn a_picked_up_connection_lives_long_only_once_it_is_answered() {
        let flow = Progress::first(Protocol::TCP, Some(Flags::ACK), &TIMEOUTS);
        assert_eq!(seconds(flow), 9);
        let same = flow.after(Protocol::TCP, Direction::Original, Some(Flags::ACK), &TIMEOUTS);
        assert_eq!(same, flow);
        let answered = flow.after(Protocol::TCP, Direction::Reply, Some(Flags::ACK), &TIMEOUTS);
        assert_eq!((seconds(answered), answered.is_replied()), (3, true));
    }

    #[test]
    fn answers_lengthen_udp_and_sctp() {
        for (protocol, one, both) in [
            (Protocol::UDP, 10, 11),
            (Protocol::ICMP, 12, 12),
            (Protocol::ICMPV6, 12, 12),
            (Protocol::SCTP, 13, 14),
            (Protocol(47), 15, 15),
        ] {
            let flow = Progress::first(protocol, None, &TIMEOUTS);
            assert_eq!((seconds(flow), flow.tcp()), (one, None));
            assert_eq!(flow.after(protocol, Direction::Original, None, &TIMEOUTS), flow);
            let both_seen = flow.after(protocol, Direction::Reply, None, &TIMEOUTS);
            assert_eq!(seconds(both_seen), both);
            assert_eq!(both_seen.after(protocol, Direction::Reply, None, &TIMEOUTS), both_seen);
        }
    }

    #[test]
    fn a_reset_is_remembered_though_the_sender_goes_on() {
        let flow = Progress::first(Protocol::TCP, Some(Flags::ACK), &TIMEOUTS).after(
            Protocol::TCP,
            Direction::Reply,
            Some(Flags::RST),
            &TIMEOUTS,
        );
        let later = flow.after(Protocol::TCP, Direction::Original, Some(Flags::ACK), &TIMEOUTS);
        assert_eq!((later, seconds(later)), (flow, 8));
    }

    #[test]
    fn a_clock_reading_that_is_behind_is_no_eternity() {
        assert_eq!(ticks_since(10, 9), 0);
        assert_eq!(ticks_since(u32::MAX, 4), 5);
        assert_eq!(tick(30 * SECOND) - tick(0), 30);
    }

    #[test]
    fn an_absurd_timeout_is_cut_to_what_the_word_can_tell() {
        let timeouts = Timeouts { other: u32::MAX, ..TIMEOUTS };
        let flow = Progress::first(Protocol(47), None, &timeouts);
        assert_eq!(seconds(flow), LONGEST);
    }
}
