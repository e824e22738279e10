//! Token bucket: limits how often something may happen.

const NANOS_PER_S: u64 = 1_000_000_000;

/// A token bucket in integers, without a clock: the caller passes the time in nanoseconds, of any
/// origin. Used to limit ICMP errors (RFC 1812 section 4.3.2.8, RFC 4443 section 2.4 (f)).
///
/// The bucket starts full. It gains `rate_per_s` tokens per second without rounding loss, up to
/// `burst`. A rate of 0 never refills; a burst of 0 never grants. Time that runs backwards refills
/// nothing and takes nothing away.
///
/// ```
/// use tables::TokenBucket;
/// let mut icmp = TokenBucket::new(10, 2, 0);
/// assert!(icmp.take(0, 1) && icmp.take(0, 1) && !icmp.take(0, 1));
/// assert!(icmp.take(100_000_000, 1)); // a tenth of a second later
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    rate_per_s: u64,
    burst: u64,
    tokens: u64,
    /// Parts of the next token, in units of 1e-9 token; below 1e9.
    nano_tokens: u64,
    refilled_ns: u64,
}

impl TokenBucket {
    /// A full bucket.
    pub const fn new(rate_per_s: u64, burst: u64, now_ns: u64) -> Self {
        Self {
            rate_per_s,
            burst,
            tokens: burst,
            nano_tokens: 0,
            refilled_ns: now_ns,
        }
    }

    /// Takes `n` tokens if that many are there; takes none otherwise.
    #[inline]
    pub fn take(&mut self, now_ns: u64, n: u64) -> bool {
        self.refill(now_ns);
        let granted = self.tokens >= n && self.burst != 0;
        if granted {
            self.tokens -= n;
        }
        granted
    }

    /// Takes up to `n` tokens and says how many: one call decides about a whole frame.
    #[inline]
    pub fn take_up_to(&mut self, now_ns: u64, n: u64) -> u64 {
        self.refill(now_ns);
        let granted = self.tokens.min(n);
        self.tokens -= granted;
        granted
    }

    /// Tokens that are there at `now_ns`.
    pub fn available(&mut self, now_ns: u64) -> u64 {
        self.refill(now_ns);
        self.tokens
    }

    /// Tokens gained per second.
    pub const fn rate_per_s(&self) -> u64 {
        self.rate_per_s
    }

    /// Most tokens the bucket holds.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    #[inline]
    fn refill(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.refilled_ns);
        if elapsed_ns == 0 {
            return;
        }
        self.refilled_ns = now_ns;
        // 128 bits: a rate of 1e9/s over a minute exceeds 64 bits of nano-tokens.
        let gained =
            u128::from(elapsed_ns) * u128::from(self.rate_per_s) + u128::from(self.nano_tokens);
        let (whole, rest) = match u64::try_from(gained) {
            Ok(gained) => (gained / NANOS_PER_S, gained % NANOS_PER_S),
            Err(_) => (
                u64::try_from(gained / u128::from(NANOS_PER_S)).unwrap_or(u64::MAX),
                (gained % u128::from(NANOS_PER_S)) as u64,
            ),
        };
        self.tokens = self.tokens.saturating_add(whole).min(self.burst);
        self.nano_tokens = if self.tokens == self.burst { 0 } else { rest };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = TokenBucket::new(1000, 5, 77);
        assert_eq!((0..10).filter(|_| bucket.take(77, 1)).count(), 5);
        assert!(!bucket.take(77 + 999_999, 1));
        assert!(bucket.take(77 + 1_000_000, 1));
        assert_eq!(bucket.available(u64::MAX), 5);
    }

    #[test]
    fn zero_rate_zero_burst_and_backward_time() {
        let mut no_refill = TokenBucket::new(0, 1, 0);
        assert!(no_refill.take(0, 1));
        assert!(!no_refill.take(u64::MAX, 1));
        let mut nothing = TokenBucket::new(u64::MAX, 0, 0);
        assert!(!nothing.take(u64::MAX, 1));
        let mut bucket = TokenBucket::new(NANOS_PER_S, 10, 1000);
        assert!(bucket.take(1000, 10));
        assert!(!bucket.take(500, 1));
        assert!(bucket.take(1001, 1));
    }

    proptest! {
        /// However the calls are spread, grants never exceed burst + rate x time, and a patient
        /// caller gets exactly rate x time (rounded down).
        #[test]
        fn grants_match_the_exact_sum(
            rate in 0u64..3_000_000_000,
            burst in 1u64..1000,
            steps in prop::collection::vec((0u64..5_000_000, 0u64..20), 0..200),
        ) {
            let mut bucket = TokenBucket::new(rate, burst, 0);
            // Twin: credit in nano-tokens, in one wide number.
            let full = u128::from(burst) * 1_000_000_000;
            let (mut now, mut credit) = (0u64, full);
            for (step_ns, n) in steps {
                now += step_ns;
                credit = (credit + u128::from(step_ns) * u128::from(rate)).min(full);
                let wanted = u128::from(n) * 1_000_000_000;
                let expected = credit >= wanted;
                if expected {
                    credit -= wanted;
                }
                prop_assert_eq!(bucket.take(now, n), expected);
                prop_assert_eq!(u128::from(bucket.available(now)), credit / 1_000_000_000);
            }
        }

        #[test]
        fn any_input_is_answered(rate: u64, burst: u64, times: Vec<(u64, u64)>) {
            let mut bucket = TokenBucket::new(rate, burst, 0);
            for (now, n) in times {
                bucket.take(now, n);
                prop_assert!(bucket.available(now) <= burst);
                prop_assert!(bucket.take_up_to(now, n) <= n);
            }
        }
    }
}
