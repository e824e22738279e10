//! How often each rule decided, per worker: control makes the table, nodes count, control reads.

use std::fmt;

use dataplane::{Counter, WorkerId};

use super::RuleId;

/// Counters by rule number and worker, shared between the snapshots that know the same rules. A rule's decision counts once
/// for a tracked flow, and once per packet where nothing is tracked.
pub struct RuleCounters {
    workers: Box<[Box<[Counter]>]>,
}

/// One worker's counters, borrowed for a frame.
#[derive(Clone, Copy)]
pub struct WorkerRules<'a>(&'a [Counter]);

impl RuleCounters {
    /// For rules below `rules`: 8 bytes each per worker. Decisions of higher numbers are not counted.
    pub fn new(workers: usize, rules: usize) -> Self {
        let of_worker = |_| (0..rules).map(|_| Counter::default()).collect();
        Self {
            workers: (0..workers).map(of_worker).collect(),
        }
    }

    /// What this worker counts.
    #[inline]
    pub fn of(&self, worker: WorkerId) -> WorkerRules<'_> {
        WorkerRules(
            self.workers
                .get(usize::from(worker.0))
                .map_or(&[], |rules| rules),
        )
    }

    /// A rule's decisions, of all workers.
    pub fn value(&self, rule: RuleId) -> u64 {
        let workers = self.workers.iter();
        let counters = workers.filter_map(|rules| rules.get(rule.0 as usize));
        counters.map(Counter::value).sum()
    }
}

impl WorkerRules<'_> {
    /// Nothing is counted.
    pub const NONE: Self = Self(&[]);

    /// Counts a decision; only the worker itself may.
    #[inline]
    pub fn count(self, rule: RuleId) {
        if let Some(counter) = self.0.get(rule.0 as usize) {
            counter.add(1);
        }
    }
}

impl fmt::Debug for RuleCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.workers.first().map_or(0, |rules| rules.len());
        write!(
            f,
            "RuleCounters({} workers, {rules} rules)",
            self.workers.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_add_up_and_unknown_rules_are_ignored() {
        let counters = RuleCounters::new(2, 3);
        for (worker, rule) in [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1)] {
            counters.of(WorkerId(worker)).count(RuleId(rule));
        }
        let values = [0, 1, 2, 3].map(|rule| counters.value(RuleId(rule)));
        assert_eq!(values, [0, 2, 1, 0]);
        WorkerRules::NONE.count(RuleId(1));
    }
}
