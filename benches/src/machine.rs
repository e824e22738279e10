//! The machine that figures were measured on.

use std::hint::black_box;

use dataplane::ticks;

/// Core cycles per tick of the time-stamp counter, now: the clock that the core runs at, over the counter's.
///
/// A chain of dependent operations of known latency: an exclusive or (1 cycle) and a multiplication (3 cycles), which is what
/// both Zen and Intel cores since Nehalem take.
pub fn core_per_tick() -> f64 {
    const STEPS: u64 = 200_000;
    let best = (0..9).map(|_| {
        let mut value = black_box(0x9e37_79b9_7f4a_7c15u64);
        let begin = ticks();
        for _ in 0..STEPS {
            value = (value ^ 0x55).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        black_box(value);
        ticks().wrapping_sub(begin)
    });
    (STEPS * 4) as f64 / best.min().unwrap_or(1).max(1) as f64
}

/// The processor's name, family, model and count, to compare figures of equal machines only.
pub fn fingerprint() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info
            .lines()
            .find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split(':').nth(1))
            .map(|value| value.trim().to_owned())
            .unwrap_or_default()
    };
    let cores = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    format!(
        "{} family {} model {}, {cores} cores",
        field("model name"),
        field("cpu family"),
        field("model")
    )
}
