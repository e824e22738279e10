//! Connection tracking as a pure function: what a packet does to the state of its flow.

use super::key::{ICMP, ICMP6, TCP, UDP};

/// The flags byte of a TCP header (RFC 9293 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(u8);

impl TcpFlags {
    /// What to pass for a packet that is not TCP.
    pub const NONE: Self = Self(0);
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);

    /// From byte 13 of the header.
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Byte 13 of the header.
    #[inline(always)]
    pub const fn to_bits(self) -> u8 {
        self.0
    }

    /// Both.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all flags of `other` are set.
    #[inline(always)]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The four flags that move a connection.
    #[inline(always)]
    const fn core(self) -> u8 {
        self.0 & 0x17
    }

    /// Whether a real stack may send this combination: SYN, SYN ACK, RST, RST ACK, ACK, FIN ACK.
    /// URG goes with any of them but RST and SYN ACK; PSH, ECE and CWR with all.
    pub const fn is_valid(self) -> bool {
        matches!(
            self.0 & 0x37,
            0x02 | 0x22 | 0x12 | 0x04 | 0x14 | 0x10 | 0x30 | 0x11 | 0x31
        )
    }
}

/// Which way a packet goes: as the flow's first packet, or against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// From the side that began.
    Forward = 0,
    /// From the side that answers.
    Reverse = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    pub const fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reverse,
            Self::Reverse => Self::Forward,
        }
    }
}

/// How a protocol is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowClass {
    /// TCP: by its flags.
    Tcp = 0,
    /// UDP: whether both sides have spoken.
    Udp = 1,
    /// ICMP and ICMPv6 queries: as UDP.
    Icmp = 2,
    /// Any other: as UDP.
    Other = 3,
}

impl FlowClass {
    /// The class of an IP protocol number.
    #[inline(always)]
    pub const fn of(protocol: u8) -> Self {
        match protocol {
            TCP => Self::Tcp,
            UDP => Self::Udp,
            ICMP | ICMP6 => Self::Icmp,
            _ => Self::Other,
        }
    }
}

/// How far a flow has come. Both records of a flow hold the same state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowState {
    /// One side has spoken. For TCP: a connection that was met in its middle.
    New = 1,
    /// Both sides have spoken; TCP: the handshake is complete.
    Established = 2,
    /// TCP: SYN seen.
    SynSent = 3,
    /// TCP: SYN of both sides seen.
    SynReceived = 4,
    /// TCP: the beginning side has sent its FIN.
    FinForward = 5,
    /// TCP: the answering side has sent its FIN.
    FinReverse = 6,
    /// TCP: both FINs seen.
    Closed = 7,
    /// TCP: RST seen.
    Reset = 8,
}

/// What a packet does to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// Nothing.
    Stay,
    /// The flow has a new state.
    To(FlowState),
    /// A SYN on a connection that has ended: the ports are used again by a new connection, which
    /// has to be decided as one.
    Reopen,
    /// Flags that no stack sends (a scan, a corrupt packet). The flow stays as it was.
    Invalid,
}

impl FlowState {
    /// All states.
    pub const ALL: [Self; 8] = [
        Self::New,
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinForward,
        Self::FinReverse,
        Self::Closed,
        Self::Reset,
    ];

    /// The state that the first packet of a flow begins with; `None` where it must not begin one.
    /// `loose` accepts TCP connections in their middle (after a restart, or a path that moved):
    /// an ACK does, as with Linux's `nf_conntrack_tcp_loose`; SYN ACK, FIN and RST do not.
    pub const fn first(class: FlowClass, flags: TcpFlags, loose: bool) -> Option<Self> {
        match class {
            FlowClass::Tcp if !flags.is_valid() => None,
            FlowClass::Tcp => match flags.core() {
                0x02 => Some(Self::SynSent),
                0x10 if loose => Some(Self::New),
                _ => None,
            },
            _ => Some(Self::New),
        }
    }

    /// What a packet with `flags` (of TCP; ignored elsewhere) in `direction` does to a flow of
    /// `class` in this state. Sequence numbers are not looked at.
    pub const fn after(
        self,
        class: FlowClass,
        direction: Direction,
        flags: TcpFlags,
    ) -> Transition {
        use Transition::{Invalid, Reopen, Stay, To};
        let forward = matches!(direction, Direction::Forward);
        if !matches!(class, FlowClass::Tcp) {
            return match self {
                Self::New if !forward => To(Self::Established),
                _ => Stay,
            };
        }
        if !flags.is_valid() {
            return Invalid;
        }
        if flags.has(TcpFlags::RST) {
            return match self {
                Self::Reset => Stay,
                // Both sides are done; what late resets say changes nothing.
                Self::Closed => Stay,
                _ => To(Self::Reset),
            };
        }
        let (syn, fin) = (flags.has(TcpFlags::SYN), flags.has(TcpFlags::FIN));
        let ack = flags.has(TcpFlags::ACK);
        match self {
            Self::SynSent => match (syn, forward) {
                // The answer, or a simultaneous open.
                (true, false) => To(Self::SynReceived),
                _ => Stay,
            },
            Self::SynReceived => match (syn && !ack, fin, forward) {
                (true, ..) | (.., false) => Stay,
                (false, true, true) => To(Self::FinForward),
                (false, false, true) => To(Self::Established),
            },
            Self::New => match (syn, fin, forward) {
                (.., true) | (true, ..) => Stay,
                // Whether the other side has sent its FIN before we met the connection is unknown.
                (false, true, false) => To(Self::Closed),
                (false, false, false) => To(Self::Established),
            },
            Self::Established => match (fin, forward) {
                (false, _) => Stay,
                (true, true) => To(Self::FinForward),
                (true, false) => To(Self::FinReverse),
            },
            Self::FinForward if fin && !forward => To(Self::Closed),
            Self::FinReverse if fin && forward => To(Self::Closed),
            Self::FinForward | Self::FinReverse => Stay,
            Self::Closed | Self::Reset if syn && !ack => Reopen,
            Self::Closed | Self::Reset => Stay,
        }
    }

    /// Whether only one side has shown that it exists: such a flow makes room for others when the
    /// table is full.
    #[inline]
    pub const fn is_half_open(self) -> bool {
        matches!(self, Self::New | Self::SynSent | Self::SynReceived)
    }

    /// Whether the connection has ended and waits for its last packets.
    #[inline]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Closed | Self::Reset)
    }
}

/// Class and state in one byte; zero is a free record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct StateByte(pub(crate) u8);

impl StateByte {
    pub(crate) const FREE: Self = Self(0);
    pub(crate) const COUNT: usize = 64;

    pub(crate) const fn new(class: FlowClass, state: FlowState) -> Self {
        Self((class as u8) << 4 | state as u8)
    }

    #[inline(always)]
    pub(crate) const fn class(self) -> FlowClass {
        match self.0 >> 4 {
            0 => FlowClass::Tcp,
            1 => FlowClass::Udp,
            2 => FlowClass::Icmp,
            _ => FlowClass::Other,
        }
    }

    /// `None` for a free record.
    #[inline(always)]
    pub(crate) const fn state(self) -> Option<FlowState> {
        Some(match self.0 & 15 {
            1 => FlowState::New,
            2 => FlowState::Established,
            3 => FlowState::SynSent,
            4 => FlowState::SynReceived,
            5 => FlowState::FinForward,
            6 => FlowState::FinReverse,
            7 => FlowState::Closed,
            8 => FlowState::Reset,
            _ => return None,
        })
    }

    /// Whether a packet of this direction with `flags` surely leaves the state as it is: the test that nearly every
    /// packet passes, before [`FlowState::after`] is asked. Where only one side speaks, its packets do.
    #[inline(always)]
    pub(crate) const fn is_settled(self, direction: Direction, flags: TcpFlags) -> bool {
        const TCP_ESTABLISHED: u8 = StateByte::new(FlowClass::Tcp, FlowState::Established).0;
        if self.0 == TCP_ESTABLISHED {
            flags.core() == 0x10
        } else {
            // New, of the side that began, or established: 1 and 2.
            let reverse = direction as u8;
            self.0 > 15 && (self.0 & 15).wrapping_sub(1 + reverse) <= 1 - reverse
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Direction::*, FlowState::*, Transition::*, *};

    const CLASSES: [FlowClass; 4] = [
        FlowClass::Tcp,
        FlowClass::Udp,
        FlowClass::Icmp,
        FlowClass::Other,
    ];

    /// Letters of the flags, as in a trace.
    fn flags(text: &str) -> TcpFlags {
        text.chars().fold(TcpFlags::NONE, |flags, letter| {
            flags.and(match letter {
                'F' => TcpFlags::FIN,
                'S' => TcpFlags::SYN,
                'R' => TcpFlags::RST,
                'P' => TcpFlags::PSH,
                'A' => TcpFlags::ACK,
                'U' => TcpFlags::URG,
                'E' => TcpFlags::from_bits(0x40),
                'C' => TcpFlags::from_bits(0x80),
                other => panic!("{other}"),
            })
        })
    }

    /// Every state, both directions, every kind of segment: one row per state and direction.
    #[test]
    fn tcp_transitions() {
        let segments = ["S", "SA", "A", "FA", "R", "RA"];
        #[rustfmt::skip]
        let rows = [
            //                       S                SA               A                FA               R          RA
            (SynSent,     Forward, [Stay,            Stay,            Stay,            Stay,            To(Reset), To(Reset)]),
            (SynSent,     Reverse, [To(SynReceived), To(SynReceived), Stay,            Stay,            To(Reset), To(Reset)]),
            (SynReceived, Forward, [Stay,            To(Established), To(Established), To(FinForward),  To(Reset), To(Reset)]),
            (SynReceived, Reverse, [Stay,            Stay,            Stay,            Stay,            To(Reset), To(Reset)]),
            (New,         Forward, [Stay,            Stay,            Stay,            Stay,            To(Reset), To(Reset)]),
            (New,         Reverse, [Stay,            Stay,            To(Established), To(Closed),      To(Reset), To(Reset)]),
            (Established, Forward, [Stay,            Stay,            Stay,            To(FinForward),  To(Reset), To(Reset)]),
            (Established, Reverse, [Stay,            Stay,            Stay,            To(FinReverse),  To(Reset), To(Reset)]),
            (FinForward,  Forward, [Stay,            Stay,            Stay,            Stay,            To(Reset), To(Reset)]),
            (FinForward,  Reverse, [Stay,            Stay,            Stay,            To(Closed),      To(Reset), To(Reset)]),
            (FinReverse,  Forward, [Stay,            Stay,            Stay,            To(Closed),      To(Reset), To(Reset)]),
            (FinReverse,  Reverse, [Stay,            Stay,            Stay,            Stay,            To(Reset), To(Reset)]),
            (Closed,      Forward, [Reopen,          Stay,            Stay,            Stay,            Stay,      Stay]),
            (Closed,      Reverse, [Reopen,          Stay,            Stay,            Stay,            Stay,      Stay]),
            (Reset,       Forward, [Reopen,          Stay,            Stay,            Stay,            Stay,      Stay]),
            (Reset,       Reverse, [Reopen,          Stay,            Stay,            Stay,            Stay,      Stay]),
        ];
        assert_eq!(rows.len(), FlowState::ALL.len() * 2);
        for (state, direction, expected) in rows {
            for (segment, expected) in segments.iter().zip(expected) {
                for extra in ["", "P", "E", "C", "PEC"] {
                    let flags = flags(&format!("{segment}{extra}"));
                    let got = state.after(FlowClass::Tcp, direction, flags);
                    assert_eq!(got, expected, "{state:?} {direction:?} {segment}{extra}");
                }
            }
        }
    }

    #[test]
    fn exactly_these_flag_combinations_are_valid() {
        let valid = ["S", "SU", "SA", "R", "RA", "A", "AU", "FA", "FAU"].map(|text| flags(text).0);
        for bits in 0..=255u8 {
            let expected = valid.contains(&(bits & 0x37));
            assert_eq!(TcpFlags::from_bits(bits).is_valid(), expected, "{bits:#x}");
            for state in FlowState::ALL {
                for direction in [Forward, Reverse] {
                    let after = state.after(FlowClass::Tcp, direction, TcpFlags::from_bits(bits));
                    assert_eq!(after == Invalid, !expected);
                    // A change changes, and nobody comes back from the end by himself.
                    assert_ne!(after, To(state));
                    assert!(!state.is_ended() || !matches!(after, To(_)));
                    for class in &CLASSES[1..] {
                        let after = state.after(*class, direction, TcpFlags::from_bits(bits));
                        let answered = state == New && direction == Reverse;
                        assert_eq!(after, if answered { To(Established) } else { Stay });
                    }
                }
            }
        }
    }

    /// The sequences of whole connections.
    #[test]
    fn connections_from_first_to_last_segment() {
        let run = |first: &str, rest: &[(Direction, &str)]| {
            let mut states = vec![FlowState::first(FlowClass::Tcp, flags(first), true).unwrap()];
            for &(direction, segment) in rest {
                let state = *states.last().unwrap();
                match state.after(FlowClass::Tcp, direction, flags(segment)) {
                    To(next) => states.push(next),
                    Stay => {}
                    other => panic!("{other:?} in {state:?}"),
                }
            }
            states
        };
        let open = [
            (Reverse, "SA"),
            (Forward, "A"),
            (Forward, "AP"),
            (Reverse, "A"),
        ];
        let close = [
            (Forward, "FA"),
            (Reverse, "A"),
            (Reverse, "FA"),
            (Forward, "A"),
        ];
        assert_eq!(
            run("S", &[open, close].concat()),
            [SynSent, SynReceived, Established, FinForward, Closed]
        );
        let refused = run("S", &[(Forward, "S"), (Reverse, "RA")]);
        assert_eq!(refused, [SynSent, Reset]);
        let simultaneous = [
            (Reverse, "S"),
            (Forward, "SA"),
            (Reverse, "SA"),
            (Forward, "A"),
        ];
        assert_eq!(run("S", &simultaneous), [SynSent, SynReceived, Established]);
        let passive = [
            (Reverse, "FA"),
            (Forward, "A"),
            (Forward, "FA"),
            (Reverse, "A"),
        ];
        assert_eq!(
            run("SEC", &[open, passive].concat()),
            [SynSent, SynReceived, Established, FinReverse, Closed]
        );
        assert_eq!(
            run("A", &[(Forward, "A"), (Reverse, "A")]),
            [New, Established]
        );
    }

    #[test]
    fn what_begins_a_flow() {
        let tcp = |text: &str, loose| FlowState::first(FlowClass::Tcp, flags(text), loose);
        for loose in [false, true] {
            assert_eq!(tcp("S", loose), Some(SynSent));
            assert_eq!(tcp("SEC", loose), Some(SynSent));
            assert_eq!(tcp("AP", loose), loose.then_some(New));
            for text in ["SA", "FA", "R", "RA", "", "SF", "SR", "FPU", "F"] {
                assert_eq!(tcp(text, loose), None, "{text}");
            }
            for class in &CLASSES[1..] {
                assert_eq!(FlowState::first(*class, TcpFlags::NONE, loose), Some(New));
            }
        }
    }

    #[test]
    fn the_byte_holds_class_and_state_and_settled_agrees_with_the_function() {
        assert_eq!(StateByte::FREE.state(), None);
        for class in CLASSES {
            for state in FlowState::ALL {
                let byte = StateByte::new(class, state);
                assert_eq!((byte.class(), byte.state()), (class, Some(state)));
                assert!(usize::from(byte.0) < StateByte::COUNT && byte != StateByte::FREE);
                for bits in 0..=255 {
                    let flags = TcpFlags::from_bits(bits);
                    for direction in [Forward, Reverse] {
                        let after = state.after(class, direction, flags);
                        let settled = byte.is_settled(direction, flags);
                        assert!(!settled || after == Stay);
                        // Other protocols have no more to find out.
                        let is_first = matches!(state, New | Established);
                        assert!(settled || class == FlowClass::Tcp || !is_first || after != Stay);
                    }
                }
            }
        }
        let established = StateByte::new(FlowClass::Tcp, Established);
        assert!(established.is_settled(Reverse, flags("AP")));
        assert!(!StateByte::FREE.is_settled(Forward, TcpFlags::NONE));
    }
}
