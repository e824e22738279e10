//! Clocks. A node never reads one: the worker reads it once per loop and hands the value on.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};
use std::time::{Duration, Instant};

/// Reads the cycle counter of this core: the invariant TSC on x86-64, the virtual counter on aarch64.
#[inline(always)]
pub fn ticks() -> u64 {
    arch::ticks()
}

/// Frequency of [`ticks`] in hertz, calibrated once against the monotonic clock (about 20 ms).
pub fn ticks_per_second() -> u64 {
    static FREQUENCY: OnceLock<u64> = OnceLock::new();
    *FREQUENCY.get_or_init(|| {
        let (time, tick) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let (elapsed, ticked) = (time.elapsed(), ticks() - tick);
        ((u128::from(ticked) * 1_000_000_000) / elapsed.as_nanos().max(1)) as u64
    })
}

/// Where a worker's time comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The cycle counter, in nanoseconds since the clock was made.
    Real(RealClock),
    /// Set by a test.
    Manual(Arc<AtomicU64>),
}

/// Nanoseconds from the cycle counter by one multiplication.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    origin: u64,
    /// Nanoseconds per tick, times 2^32.
    scale: u64,
}

impl Clock {
    /// The machine's clock, starting at 0.
    pub fn real() -> Self {
        let scale = ((1_000_000_000u128 << 32) / u128::from(ticks_per_second().max(1))) as u64;
        Self::Real(RealClock {
            origin: ticks(),
            scale,
        })
    }

    /// A clock that stands still until the returned counter (nanoseconds) is changed.
    pub fn manual() -> (Self, Arc<AtomicU64>) {
        let time = Arc::new(AtomicU64::new(0));
        (Self::Manual(Arc::clone(&time)), time)
    }

    /// Nanoseconds since the clock began.
    #[inline]
    pub fn now_ns(&self) -> u64 {
        match self {
            Self::Real(clock) => {
                let elapsed = ticks().wrapping_sub(clock.origin);
                ((u128::from(elapsed) * u128::from(clock.scale)) >> 32) as u64
            }
            Self::Manual(time) => time.load(Ordering::Relaxed),
        }
    }
}

#[expect(
    unsafe_code,
    reason = "reading the cycle counter is an intrinsic or an instruction"
)]
mod arch {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn ticks() -> u64 {
        // JUSTIFICATION: std has no cycle counter.
        // SAFETY: RDTSC is present on every x86-64 processor and touches no memory.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    #[cfg(target_arch = "aarch64")]
    #[inline(always)]
    pub(super) fn ticks() -> u64 {
        let value: u64;
        // JUSTIFICATION: std has no cycle counter.
        // SAFETY: CNTVCT_EL0 is readable from user space on Linux and the read has no side effect.
        unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) value, options(nomem, nostack)) };
        value
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) fn ticks() -> u64 {
        static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        ORIGIN
            .get_or_init(std::time::Instant::now)
            .elapsed()
            .as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_real_clock_agrees_with_the_monotonic_clock() {
        let (clock, start) = (Clock::real(), Instant::now());
        std::thread::sleep(Duration::from_millis(30));
        let (ours, theirs) = (clock.now_ns() as f64, start.elapsed().as_nanos() as f64);
        assert!((ours / theirs - 1.0).abs() < 0.2, "{ours} against {theirs}");
    }

    #[test]
    fn the_manual_clock_stands_still() {
        let (clock, time) = Clock::manual();
        assert_eq!(clock.now_ns(), 0);
        time.store(7, Ordering::Relaxed);
        assert_eq!(clock.now_ns(), 7);
    }
}
