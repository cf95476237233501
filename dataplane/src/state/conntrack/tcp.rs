//! The life of a TCP connection as a router in the middle sees it.
//!
//! The states and the order of events are Linux's (`net/netfilter/nf_conntrack_proto_tcp.c`), without
//! window tracking ("be liberal"): a segment that fits no transition leaves the state alone and is
//! forwarded. Where Linux guesses the sender of a FIN from the state, we keep one bit per direction, so
//! that a retransmitted FIN doesn't pass for the other side's.

use crate::flow::Direction;
use millrace_wire::tcp::Flags;

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TcpState {
    /// A SYN went out.
    SynSent = 1,
    /// It was answered by SYN-ACK (or crossed another SYN).
    SynReceived = 2,
    /// The handshake is done, or was not seen (picked up in the middle).
    Established = 3,
    /// One side has sent FIN.
    FinWait = 4,
    /// That FIN was acknowledged; the other side may go on sending.
    CloseWait = 5,
    /// Both have sent FIN.
    LastAck = 6,
    /// The last FIN was acknowledged too.
    TimeWait = 7,
    /// A RST was seen.
    Close = 8,
}

impl TcpState {
    /// The state that `bits` name; anything else counts as established (memory may be corrupt).
    pub(super) fn from_bits(bits: u8) -> Self {
        match bits {
            1 => Self::SynSent,
            2 => Self::SynReceived,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            _ => Self::Established,
        }
    }

    /// Before the handshake is done: the class that a SYN flood fills.
    #[inline]
    pub fn is_half_open(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }

    /// Linux's name, as `conntrack -L` prints it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SynSent => "SYN_SENT",
            Self::SynReceived => "SYN_RECV",
            Self::Established => "ESTABLISHED",
            Self::FinWait => "FIN_WAIT",
            Self::CloseWait => "CLOSE_WAIT",
            Self::LastAck => "LAST_ACK",
            Self::TimeWait => "TIME_WAIT",
            Self::Close => "CLOSE",
        }
    }

    /// The state of a connection whose first packet we see has `flags`, and whether that was a FIN.
    pub(super) fn first(flags: Flags) -> (Self, bool) {
        if flags.contains(Flags::RST) {
            (Self::Close, false)
        } else if flags.contains(Flags::SYN) && !flags.contains(Flags::ACK) {
            (Self::SynSent, false)
        } else if flags.contains(Flags::FIN) {
            (Self::FinWait, true)
        } else {
            (Self::Established, false)
        }
    }

    /// Whether a segment opens a new connection on the tuples of this one, which is over.
    #[inline]
    pub(super) fn is_reopened_by(self, direction: Direction, flags: Flags) -> bool {
        matches!(self, Self::TimeWait | Self::Close)
            && direction == Direction::Original
            && flags.contains(Flags::SYN)
            && !flags.intersects(Flags(Flags::ACK.0 | Flags::RST.0 | Flags::FIN.0))
    }

    /// The state after a segment, given which directions had sent FIN before it (`fins`, by
    /// [`Direction::index`]).
    pub(super) fn next(self, direction: Direction, flags: Flags, fins: [bool; 2]) -> Self {
        let other_fin = fins[direction.reversed().index()];
        let own_fin = fins[direction.index()];
        if flags.contains(Flags::RST) {
            return Self::Close;
        }
        if flags.contains(Flags::SYN) {
            return match (self, direction) {
                // SYN-ACK, or the crossing SYN of a simultaneous open.
                (Self::SynSent, Direction::Reply) => Self::SynReceived,
                _ => self,
            };
        }
        if flags.contains(Flags::FIN) {
            return match self {
                Self::SynReceived | Self::Established => Self::FinWait,
                Self::FinWait | Self::CloseWait if other_fin => Self::LastAck,
                _ => self,
            };
        }
        if !flags.contains(Flags::ACK) {
            return self;
        }
        match self {
            Self::SynReceived if direction == Direction::Original => Self::Established,
            Self::FinWait if !own_fin => Self::CloseWait,
            Self::LastAck => Self::TimeWait,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Original, Reply};
    use TcpState::*;

    const SYN: Flags = Flags::SYN;
    const ACK: Flags = Flags::ACK;
    const SYN_ACK: Flags = Flags(Flags::SYN.0 | Flags::ACK.0);
    const FIN_ACK: Flags = Flags(Flags::FIN.0 | Flags::ACK.0);
    const RST: Flags = Flags::RST;

    /// Plays segments and gives the state after each.
    fn play(segments: &[(Direction, Flags)]) -> Vec<TcpState> {
        let mut states = Vec::new();
        let mut fins = [false; 2];
        for &(direction, flags) in segments {
            let state = match states.last() {
                None => TcpState::first(flags).0,
                Some(&state) => TcpState::next(state, direction, flags, fins),
            };
            fins[direction.index()] |= flags.contains(Flags::FIN);
            states.push(state);
        }
        states
    }

    #[test]
    fn a_connection_opens_and_closes() {
        let states = play(&[
            (Original, SYN),
            (Reply, SYN_ACK),
            (Original, ACK),
            (Reply, ACK),
            (Original, FIN_ACK),
            (Reply, ACK),
            (Reply, FIN_ACK),
            (Original, ACK),
        ]);
        assert_eq!(
            states,
            [SynSent, SynReceived, Established, Established, FinWait, CloseWait, LastAck, TimeWait]
        );
    }

    #[test]
    fn the_server_may_close_first() {
        let states = play(&[
            (Original, SYN),
            (Reply, SYN_ACK),
            (Original, ACK),
            (Reply, FIN_ACK),
            (Original, FIN_ACK),
            (Reply, ACK),
        ]);
        assert_eq!(states[3..], [FinWait, LastAck, TimeWait]);
    }

    #[test]
    fn a_retransmitted_fin_is_not_the_other_sides() {
        let states = play(&[(Original, ACK), (Original, FIN_ACK), (Original, FIN_ACK)]);
        assert_eq!(states, [Established, FinWait, FinWait]);
    }

    #[test]
    fn the_closing_sides_own_acks_do_not_close() {
        let states = play(&[(Original, ACK), (Original, FIN_ACK), (Original, ACK), (Reply, ACK)]);
        assert_eq!(states, [Established, FinWait, FinWait, CloseWait]);
    }

    #[test]
    fn a_retransmitted_handshake_changes_nothing() {
        let states = play(&[(Original, SYN), (Original, SYN), (Reply, SYN_ACK), (Reply, SYN_ACK)]);
        assert_eq!(states, [SynSent, SynSent, SynReceived, SynReceived]);
        let states = play(&[(Original, ACK), (Original, SYN), (Reply, SYN_ACK)]);
        assert_eq!(states, [Established; 3]);
    }

    #[test]
    fn a_crossing_syn_opens_too() {
        let states = play(&[
            (Original, SYN),
            (Reply, SYN),
            (Reply, SYN_ACK),
            (Original, SYN_ACK),
            (Original, ACK),
        ]);
        assert_eq!(states, [SynSent, SynReceived, SynReceived, SynReceived, Established]);
    }

    #[test]
    fn a_reset_closes_in_every_state() {
        for bits in 1..=8 {
            for direction in [Original, Reply] {
                let state = TcpState::from_bits(bits);
                assert_eq!(state.next(direction, RST, [false; 2]), Close);
            }
        }
    }

    #[test]
    fn only_a_clients_plain_syn_reopens_and_only_what_is_over() {
        for bits in 1..=8 {
            let state = TcpState::from_bits(bits);
            let over = matches!(state, TimeWait | Close);
            assert_eq!(state.is_reopened_by(Original, SYN), over, "{state:?}");
            assert!(!state.is_reopened_by(Reply, SYN));
            assert!(!state.is_reopened_by(Original, SYN_ACK));
            assert!(!state.is_reopened_by(Original, ACK));
        }
    }

    #[test]
    fn a_connection_is_picked_up_in_the_middle() {
        assert_eq!(TcpState::first(ACK), (Established, false));
        assert_eq!(TcpState::first(SYN_ACK), (Established, false));
        assert_eq!(TcpState::first(FIN_ACK), (FinWait, true));
        assert_eq!(TcpState::first(RST), (Close, false));
        assert_eq!(TcpState::first(Flags(0)), (Established, false));
    }

    #[test]
    fn bits_name_the_same_state_back() {
        for bits in 1..=8 {
            assert_eq!(TcpState::from_bits(bits) as u8, bits);
        }
        assert_eq!(TcpState::from_bits(200), Established);
    }
}
