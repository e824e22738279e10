//! Summary of measured times.

/// Round-trip times in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RttSummary {
    /// Shortest.
    pub min_ns: u64,
    /// Middle one; the lower of two.
    pub median_ns: u64,
    /// 99 of 100 are at most this long (nearest rank).
    pub p99_ns: u64,
    /// Longest.
    pub max_ns: u64,
}

impl RttSummary {
    /// `None` when there is nothing to summarise.
    pub fn of(times_ns: &[u64]) -> Option<Self> {
        let mut sorted = times_ns.to_vec();
        sorted.sort_unstable();
        // Nearest rank: the smallest value that at least `percent` of all do not exceed.
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        let (min_ns, max_ns) = (*sorted.first()?, *sorted.last()?);
        Some(Self {
            min_ns,
            median_ns: rank(50),
            p99_ns: rank(99),
            max_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::RttSummary;

    #[test]
    fn nearest_ranks() {
        let times: Vec<u64> = (1..=200).rev().collect();
        let summary = RttSummary {
            min_ns: 1,
            median_ns: 100,
            p99_ns: 198,
            max_ns: 200,
        };
        assert_eq!(RttSummary::of(&times), Some(summary));
        assert_eq!(
            RttSummary::of(&[7]),
            Some(RttSummary {
                min_ns: 7,
                median_ns: 7,
                p99_ns: 7,
                max_ns: 7
            })
        );
        assert_eq!(RttSummary::of(&[]), None);
    }
}
