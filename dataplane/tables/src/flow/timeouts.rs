//! Coarse time, and how long a flow without packets lives.

use std::time::Duration;

use super::state::{FlowClass, FlowState, StateByte};

/// A moment in units of 2^24 ns (16.8 ms): coarse enough for 32 bits to last 2.3 years between
/// two looks at a record, fine enough for every timeout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tick(pub(crate) u32);

impl Tick {
    /// Nanoseconds in a tick.
    pub const NANOS: u64 = 1 << 24;

    /// From the worker's clock, in nanoseconds of any origin.
    #[inline(always)]
    pub const fn from_nanos(ns: u64) -> Self {
        Self((ns >> 24) as u32)
    }

    /// Ticks since `earlier`; 0 where that lies in the future.
    #[inline(always)]
    pub const fn since(self, earlier: Self) -> u32 {
        let age = self.0.wrapping_sub(earlier.0);
        if age > i32::MAX as u32 { 0 } else { age }
    }

    /// The later of two moments.
    #[inline(always)]
    pub const fn later(self, other: Self) -> Self {
        if self.since(other) == 0 { other } else { self }
    }
}

/// How long a flow lives without a packet in either direction. The defaults are those of Calico's
/// `BPFConntrackTimeouts`. A timeout counts in [`Tick`]s, rounded up, up to 2^31 - 1 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    /// No flow ends earlier than this after its first packet, whatever the others say.
    pub creation_grace: Duration,
    /// TCP before the handshake is complete, and connections met in their middle.
    pub tcp_syn_sent: Duration,
    /// TCP with a complete handshake, until both sides have sent FIN.
    pub tcp_established: Duration,
    /// TCP after both FINs.
    pub tcp_fins_seen: Duration,
    /// TCP after a reset.
    pub tcp_reset: Duration,
    /// UDP.
    pub udp: Duration,
    /// ICMP and ICMPv6 queries.
    pub icmp: Duration,
    /// All other protocols.
    pub generic: Duration,
}

impl Default for FlowTimeouts {
    fn default() -> Self {
        Self {
            creation_grace: Duration::from_secs(10),
            tcp_syn_sent: Duration::from_secs(20),
            tcp_established: Duration::from_secs(3600),
            tcp_fins_seen: Duration::from_secs(30),
            tcp_reset: Duration::from_secs(40),
            udp: Duration::from_secs(60),
            icmp: Duration::from_secs(5),
            generic: Duration::from_secs(600),
        }
    }
}

impl FlowTimeouts {
    /// The timeout of a flow of `class` in `state`.
    pub const fn of(&self, class: FlowClass, state: FlowState) -> Duration {
        match class {
            FlowClass::Tcp => match state {
                FlowState::New | FlowState::SynSent | FlowState::SynReceived => self.tcp_syn_sent,
                FlowState::Established | FlowState::FinForward | FlowState::FinReverse => {
                    self.tcp_established
                }
                FlowState::Closed => self.tcp_fins_seen,
                FlowState::Reset => self.tcp_reset,
            },
            FlowClass::Udp => self.udp,
            FlowClass::Icmp => self.icmp,
            FlowClass::Other => self.generic,
        }
    }
}

/// [`FlowTimeouts`] in ticks, by state byte.
#[derive(Clone, Debug)]
pub struct Limits {
    by_state: [u32; StateByte::COUNT],
    grace: u32,
}

impl Limits {
    pub(crate) fn new(timeouts: &FlowTimeouts) -> Self {
        let limit = |byte: usize| {
            let byte = StateByte(byte as u8);
            byte.state()
                .map_or(0, |state| ticks(timeouts.of(byte.class(), state)))
        };
        Self {
            by_state: std::array::from_fn(limit),
            grace: ticks(timeouts.creation_grace),
        }
    }

    /// Whether a record last seen `age` ticks ago may have to go.
    #[inline(always)]
    pub(crate) fn is_over(&self, state: StateByte, age: u32) -> bool {
        age > self.by_state[usize::from(state.0) % StateByte::COUNT]
    }

    /// Ticks until a flow, last seen `idle` and made `age` ticks ago, may go: 0 in the last one of its time, and after it.
    pub(crate) fn left(&self, state: StateByte, idle: u32, age: u32) -> u32 {
        let timeout = self.by_state[usize::from(state.0) % StateByte::COUNT];
        timeout
            .saturating_sub(idle)
            .max(self.grace.saturating_sub(age))
    }

    /// Whether a flow made `age` ticks ago is protected.
    #[inline]
    pub(crate) fn is_young(&self, age: u32) -> bool {
        age <= self.grace
    }
}

/// Rounded up, at most 2^31 - 1.
pub(crate) fn ticks(duration: Duration) -> u32 {
    let ticks = duration.as_nanos().div_ceil(u128::from(Tick::NANOS));
    u32::try_from(ticks).map_or(i32::MAX as u32, |ticks| ticks.min(i32::MAX as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_wrap_and_the_future_is_no_age() {
        assert_eq!(Tick(5).since(Tick(u32::MAX)), 6);
        assert_eq!(Tick(5).since(Tick(7)), 0);
        assert_eq!(Tick(5).later(Tick(u32::MAX)), Tick(5));
        assert_eq!(Tick(u32::MAX).later(Tick(5)), Tick(5));
        assert_eq!(Tick::from_nanos(u64::MAX), Tick(u32::MAX));
        assert_eq!(Tick::from_nanos((1 << 24) - 1), Tick(0));
    }

    #[test]
    fn limits_are_rounded_up_and_bounded() {
        assert_eq!(ticks(Duration::ZERO), 0);
        assert_eq!(ticks(Duration::from_nanos(1)), 1);
        assert_eq!(ticks(Duration::from_nanos(1 << 24)), 1);
        assert_eq!(ticks(Duration::from_nanos((1 << 24) + 1)), 2);
        assert_eq!(ticks(Duration::MAX), i32::MAX as u32);
        let limits = Limits::new(&FlowTimeouts::default());
        let tcp = StateByte::new(FlowClass::Tcp, FlowState::Established);
        let hour = ticks(Duration::from_secs(3600));
        assert!(!limits.is_over(tcp, hour) && limits.is_over(tcp, hour + 1));
        let left = [(0, 0), (5, 9), (hour, hour), (hour + 9, hour + 9)]
            .map(|(idle, age)| limits.left(tcp, idle, age));
        assert_eq!(left, [hour, hour - 5, 0, 0]);
        let icmp = StateByte::new(FlowClass::Icmp, FlowState::New);
        let (five, ten) = (ticks(Duration::from_secs(5)), limits.grace);
        assert!(limits.is_young(ten) && five < ten);
        assert_eq!(limits.left(icmp, five, five), ten - five, "the grace");
        assert_eq!(limits.left(icmp, 1, ten), five - 1);
    }

    /// The numbers of Calico's documentation.
    #[test]
    fn defaults_by_class_and_state() {
        let timeouts = FlowTimeouts::default();
        let seconds = |class, state| timeouts.of(class, state).as_secs();
        use FlowState::*;
        for (state, expected) in [
            (New, 20),
            (SynSent, 20),
            (SynReceived, 20),
            (Established, 3600),
            (FinForward, 3600),
            (FinReverse, 3600),
            (Closed, 30),
            (Reset, 40),
        ] {
            assert_eq!(seconds(FlowClass::Tcp, state), expected, "{state:?}");
        }
        for state in [New, Established] {
            assert_eq!(seconds(FlowClass::Udp, state), 60);
            assert_eq!(seconds(FlowClass::Icmp, state), 5);
            assert_eq!(seconds(FlowClass::Other, state), 600);
        }
        assert_eq!(timeouts.creation_grace.as_secs(), 10);
    }
}
