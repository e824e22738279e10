//! How often each rule decided, per worker: control makes the table, nodes count, control reads.

use std::fmt;
use std::sync::Arc;

use dataplane::{Counter, WorkerId};

use super::{Judgement, RuleId};

/// Rules whose counters are allocated together.
const CHUNK: usize = 256;

/// Counters by rule number and worker. A rule's decision counts once for a tracked flow, and once per packet where nothing is
/// tracked; what is denied counts by packet.
///
/// Tables that [`grow`](Self::grow) makes share the counters of those that they were made from: nothing that was counted is lost,
/// and a worker that still reads an older snapshot counts in the same place.
#[derive(Clone)]
pub struct RuleCounters {
    workers: Box<[Chunks]>,
}

/// One worker's counters.
type Chunks = Box<[Arc<[RuleCounter; CHUNK]>]>;

/// What one rule decided on one worker.
#[derive(Default, Debug)]
struct RuleCounter {
    allowed: Counter,
    denied: Counter,
}

/// How often a rule decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleCount {
    /// Flows that it allowed, and packets of which no flow is remembered.
    pub allowed: u64,
    /// Packets that it denied.
    pub denied: u64,
}

/// One worker's counters, borrowed for a frame.
#[derive(Clone, Copy)]
pub struct WorkerRules<'a>(&'a [Arc<[RuleCounter; CHUNK]>]);

impl RuleCounters {
    /// For rules below `rules`, rounded up to 256 of them: 16 bytes each per worker. Decisions of higher numbers are not counted.
    pub fn new(workers: usize, rules: usize) -> Self {
        let none = |_| Chunks::default();
        Self {
            workers: (0..workers).map(none).collect(),
        }
        .grow(rules)
    }

    /// With room for rules below `rules`, if that is more; what this table and the new one count is the same.
    #[must_use]
    pub fn grow(&self, rules: usize) -> Self {
        let chunks = rules.div_ceil(CHUNK);
        let fresh = || Arc::new(std::array::from_fn(|_| RuleCounter::default()));
        let grown = |known: &Chunks| {
            let missing = chunks.saturating_sub(known.len());
            let fresh = std::iter::repeat_with(fresh).take(missing);
            known.iter().cloned().chain(fresh).collect()
        };
        Self {
            workers: self.workers.iter().map(grown).collect(),
        }
    }

    /// Rules that there is room for.
    pub fn rules(&self) -> usize {
        self.workers
            .first()
            .map_or(0, |chunks| chunks.len() * CHUNK)
    }

    /// What this worker counts.
    #[inline]
    pub fn of(&self, worker: WorkerId) -> WorkerRules<'_> {
        WorkerRules(
            self.workers
                .get(usize::from(worker.0))
                .map_or(&[], |chunks| chunks),
        )
    }

    /// A rule's decisions, of all workers.
    pub fn value(&self, rule: RuleId) -> RuleCount {
        let counters = (0..self.workers.len())
            .filter_map(|worker| self.of(WorkerId(worker as u16)).counter(rule));
        counters.fold(RuleCount::default(), |sum, counter| RuleCount {
            allowed: sum.allowed + counter.allowed.value(),
            denied: sum.denied + counter.denied.value(),
        })
    }
}

impl<'a> WorkerRules<'a> {
    /// Nothing is counted.
    pub const NONE: Self = Self(&[]);

    /// Counts a decision; only the worker itself may.
    #[inline]
    pub fn count(self, judgement: Judgement) {
        if let Some(counter) = self.counter(judgement.rule) {
            let counter = if judgement.allow {
                &counter.allowed
            } else {
                &counter.denied
            };
            counter.add(1);
        }
    }

    #[inline]
    fn counter(self, rule: RuleId) -> Option<&'a RuleCounter> {
        let at = rule.0 as usize;
        Some(&self.0.get(at / CHUNK)?[at % CHUNK])
    }
}

impl fmt::Debug for RuleCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (workers, rules) = (self.workers.len(), self.rules());
        write!(f, "RuleCounters({workers} workers, {rules} rules)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(allow: bool, rule: u32) -> Judgement {
        Judgement {
            allow,
            rule: RuleId(rule),
        }
    }

    #[test]
    fn workers_add_up_and_unknown_rules_are_ignored() {
        let counters = RuleCounters::new(2, 3);
        for (worker, rule) in [(0, 1), (1, 1), (1, 2), (1, 256), (2, 1)] {
            counters.of(WorkerId(worker)).count(judged(true, rule));
        }
        counters.of(WorkerId(1)).count(judged(false, 1));
        let values = [0, 1, 2, 256].map(|rule| counters.value(RuleId(rule)));
        assert_eq!(values.map(|count| count.allowed), [0, 2, 1, 0]);
        assert_eq!(values.map(|count| count.denied), [0, 1, 0, 0]);
        WorkerRules::NONE.count(judged(true, 1));
        assert_eq!(counters.rules(), 256);
    }

    #[test]
    fn what_was_counted_stays_when_the_table_grows() {
        let old = RuleCounters::new(2, 256);
        old.of(WorkerId(1)).count(judged(false, 7));
        let new = old.grow(257);
        assert_eq!(new.rules(), 512);
        // A worker that has not seen the new table yet.
        old.of(WorkerId(1)).count(judged(false, 7));
        new.of(WorkerId(0)).count(judged(false, 7));
        new.of(WorkerId(0)).count(judged(true, 256));
        for counters in [&old, &new] {
            assert_eq!(counters.value(RuleId(7)).denied, 3);
        }
        assert_eq!(new.value(RuleId(256)).allowed, 1);
        assert_eq!(old.value(RuleId(256)).allowed, 0);
        assert_eq!(new.grow(1).rules(), 512, "it never shrinks");
    }
}
