//! Timers and limits of the neighbour cache.

const SECOND_NS: u64 = 1_000_000_000;

/// Timers of neighbour resolution and unreachability detection; for IPv4 too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourTimers {
    /// Time between solicitations, nanoseconds (`RetransTimer`, RFC 4861 section 10).
    pub retransmit_ns: u64,
    /// Solicitations to everybody before resolution fails (`MAX_MULTICAST_SOLICIT`).
    pub multicast_solicits: u8,
    /// Mean time that a confirmation counts, nanoseconds (`BaseReachableTime`). Each confirmation draws its own, from half
    /// to one and a half of this, so that neighbours are not asked in step.
    pub reachable_ns: u64,
    /// Time between the first packet to a stale neighbour and the first probe, nanoseconds (`DELAY_FIRST_PROBE_TIME`).
    pub delay_ns: u64,
    /// Solicitations to the neighbour alone before it counts as gone (`MAX_UNICAST_SOLICIT`).
    pub unicast_probes: u8,
    /// Time that a failure is remembered, nanoseconds.
    pub failed_ns: u64,
    /// Time without use after which a stale neighbour is forgotten, nanoseconds.
    pub stale_ns: u64,
    /// Time between two looks at whether a stale neighbour was used, nanoseconds. All neighbours are looked at together.
    pub use_check_ns: u64,
    /// Announcements of a new address, [`retransmit_ns`](Self::retransmit_ns) apart (`ANNOUNCE_NUM`, RFC 5227 section 1.1).
    pub announcements: u8,
}

impl Default for NeighbourTimers {
    fn default() -> Self {
        Self {
            retransmit_ns: SECOND_NS,
            multicast_solicits: 3,
            reachable_ns: 30 * SECOND_NS,
            delay_ns: 5 * SECOND_NS,
            unicast_probes: 3,
            failed_ns: 3 * SECOND_NS,
            stale_ns: 600 * SECOND_NS,
            use_check_ns: SECOND_NS,
            announcements: 2,
        }
    }
}

/// How many neighbours the cache holds. Static neighbours do not count: the desired state bounds them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NeighbourLimits {
    /// Dynamic neighbours of one interface.
    pub per_interface: usize,
    /// Dynamic neighbours of one interface that are incomplete or failed: a scan of a connected prefix must not take the
    /// room of neighbours that exist.
    pub unresolved_per_interface: usize,
    /// Dynamic neighbours of all interfaces.
    pub total: usize,
}

impl Default for NeighbourLimits {
    fn default() -> Self {
        Self {
            per_interface: 8192,
            unresolved_per_interface: 1024,
            total: 65_536,
        }
    }
}

/// Pseudo-random numbers from a seed (SplitMix64): for spreading timers, not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A time from half of `base_ns` to one and a half of it.
    pub(super) fn around(&mut self, base_ns: u64) -> u64 {
        (base_ns / 2).saturating_add(self.next() % base_ns.max(1))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_times_fill_their_range() {
        let mut random = Random::new(1);
        let times: Vec<_> = (0..10_000).map(|_| random.around(1000)).collect();
        assert!(times.iter().all(|time| (500..1500).contains(time)));
        assert!(times.iter().any(|&time| time < 510) && times.iter().any(|&time| time >= 1490));
        assert_eq!(
            Random::new(7).around(u64::MAX),
            Random::new(7).around(u64::MAX)
        );
        assert_eq!(Random::new(7).around(0), 0);
    }
}
