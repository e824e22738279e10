//! Cases of the rule classifier alone: ClassBench-shaped lists and their traces.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::ticks;
use tables::acl::generate::{Random, Shape, rules, trace};
use tables::acl::reference::Linear;
use tables::acl::{Classifier, Key, Rule, RuleList};

use crate::machine;
use crate::measure::Options;
use crate::test_acl::{self, Peer};

/// Keys of a call, as a worker has them.
const BATCH: usize = 256;
/// Calls of a window: about a tenth of a millisecond.
const CALLS: usize = 8;
/// Keys of a trace, per rule of the list and in all.
const KEYS: (usize, usize) = (10, 200_000);
/// Single changes that are made.
const CHANGES: usize = 64;
/// Comparisons of a key with a rule that checking may cost.
const CHECKED: usize = 5_000_000;

/// A case of the classifier alone.
#[derive(Clone, Copy, Debug)]
pub struct ClassifierCase {
    /// `classbench-acl1-10k`.
    pub name: &'static str,
    /// What it measures, in a sentence.
    pub description: &'static str,
    shape: Shape,
    rules: usize,
}

/// What the classifier cost.
#[derive(Clone, Debug)]
pub struct ClassifierReport {
    /// The case.
    pub case: &'static str,
    /// Rules in the list.
    pub rules: usize,
    /// Ticks per key in calls of 256 keys: the best window.
    pub ticks_min: f64,
    /// The same: the median of the windows.
    pub ticks_median: f64,
    /// The same: the best pass over the whole trace.
    pub ticks_pass: f64,
    /// Ticks of a lookup of one key: the best window.
    pub ticks_single: f64,
    /// Milliseconds that the list took to compile.
    pub compile_ms: f64,
    /// Bytes that lookups read, per rule.
    pub bytes_per_rule: f64,
    /// Microseconds from a single change to a classifier that has it: the median, with up to 64 changes pending.
    pub commit_us: f64,
    /// The same: the worst.
    pub commit_us_max: f64,
    /// Microseconds for which the writer stands still when a new base is taken over.
    pub exchange_us: f64,
    /// The form in a few words.
    pub form: String,
    /// For each tree: nodes and blocks that a key meets.
    pub trees: Vec<(f64, f64)>,
    /// Core cycles per tick.
    pub core_per_tick: f64,
    /// Whether every checked answer was that of the linear search, and the peer's, if there is one.
    pub verified: bool,
    /// What was wrong, where something was.
    pub fault: Option<String>,
    /// DPDK's classifier on the same list and trace, if asked for.
    pub peer: Option<Peer>,
}

macro_rules! case {
    ($name:literal, $shape:ident, $rules:literal) => {
        ClassifierCase {
            name: $name,
            description: "Rule classifier alone, a list in the shape of ClassBench's: lookup, memory, compilation, a single change",
            shape: Shape::$shape,
            rules: $rules,
        }
    };
}

/// All cases of the classifier alone.
pub fn classifier_cases() -> &'static [ClassifierCase] {
    &[
        case!("classbench-acl1-1k", Acl1, 1000),
        case!("classbench-acl1-10k", Acl1, 10_000),
        case!("classbench-acl1-100k", Acl1, 100_000),
        case!("classbench-fw1-1k", Fw1, 1000),
        case!("classbench-fw1-10k", Fw1, 10_000),
        case!("classbench-fw1-100k", Fw1, 100_000),
        case!("classbench-ipc1-1k", Ipc1, 1000),
        case!("classbench-ipc1-10k", Ipc1, 10_000),
        case!("classbench-ipc1-100k", Ipc1, 100_000),
    ]
}

/// The case with this name, with or without `pg-` in front.
pub fn find_classifier(name: &str) -> Option<&'static ClassifierCase> {
    let short = name.strip_prefix("pg-").unwrap_or(name);
    classifier_cases().iter().find(|case| case.name == short)
}

/// Runs one case on core `options.core` for `options.seconds`, and DPDK's classifier beside it where `peer` says so. Of the other
/// options none matters.
pub fn run_classifier(case: &ClassifierCase, options: &Options, peer: bool) -> ClassifierReport {
    let core = options.core;
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
            run_here(case, options, peer)
        });
        match run.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn run_here(case: &ClassifierCase, options: &Options, peer: bool) -> ClassifierReport {
    let list = rules(case.shape, case.rules, 1);
    let keys = trace(&list, (KEYS.0 * case.rules).min(KEYS.1), 2);
    let tagged: Vec<(Rule, u32)> = list.iter().cloned().zip(0..).collect();
    let begin = Instant::now();
    let mut edited = RuleList::<u32>::new(tagged, Arc::default());
    let compile_ms = begin.elapsed().as_secs_f64() * 1e3;
    let classifier = edited.base().clone();
    let mut fault = verify(&list, &keys, &classifier);
    let lookups = measure(&classifier, &keys, options.seconds);
    let ticks_single = single(&classifier, &keys, options.seconds / 4.0);
    let changes = change(&mut edited, case);
    let peer = peer.then(|| test_acl::run(&list, &keys, options.core));
    if let Some(Peer::Ran { answers, .. }) = &peer {
        let mut own = vec![0; keys.len()];
        classifier.classify(&keys, &mut own);
        let wrong = own.iter().zip(answers).filter(|(own, other)| own != other);
        let wrong = wrong.count() + own.len().abs_diff(answers.len());
        if wrong > 0 {
            fault.get_or_insert(format!("dpdk-test-acl says otherwise of {wrong} packets"));
        }
    }
    ClassifierReport {
        case: case.name,
        rules: case.rules,
        ticks_min: lookups.min,
        ticks_median: lookups.median,
        ticks_pass: lookups.pass,
        ticks_single,
        compile_ms,
        bytes_per_rule: classifier.bytes() as f64 / case.rules as f64,
        commit_us: changes.median,
        commit_us_max: changes.max,
        exchange_us: changes.exchange,
        form: classifier.describe(),
        trees: classifier.lengths(&keys),
        core_per_tick: machine::core_per_tick(),
        verified: fault.is_none(),
        fault,
        peer,
    }
}

/// Against the linear search; what was wrong, where something was.
fn verify(list: &[Rule], keys: &[Key<u32>], classifier: &Classifier<u32>) -> Option<String> {
    let sets = Arc::default();
    let linear = Linear::new(list, &sets);
    let count = (CHECKED / list.len()).clamp(50, 5000).min(keys.len());
    let mut found = vec![0; keys.len()];
    classifier.classify(keys, &mut found);
    let step = keys.len() / count;
    let wrong = (keys.iter().zip(found).step_by(step))
        .filter(|(key, found)| {
            linear.classify_one(key) != *found || classifier.classify_one(key) != *found
        })
        .count();
    (wrong > 0).then(|| format!("{wrong} of {count} answers are not those of the linear search"))
}

struct Lookups {
    min: f64,
    median: f64,
    pass: f64,
}

fn measure(classifier: &Classifier<u32>, keys: &[Key<u32>], seconds: f64) -> Lookups {
    let mut out = [0; BATCH];
    let (mut windows, mut pass) = (Vec::new(), f64::INFINITY);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    loop {
        let mut sum = 0;
        for window in keys.chunks(BATCH * CALLS) {
            let begin = ticks();
            for keys in window.chunks(BATCH) {
                classifier.classify(keys, &mut out);
                black_box(&out);
            }
            let elapsed = ticks().wrapping_sub(begin);
            sum += elapsed;
            windows.push(elapsed as f64 / window.len() as f64);
        }
        pass = pass.min(sum as f64 / keys.len() as f64);
        if Instant::now() >= end {
            break;
        }
    }
    windows.sort_by(f64::total_cmp);
    Lookups {
        min: windows.first().copied().unwrap_or(f64::NAN),
        median: windows.get(windows.len() / 2).copied().unwrap_or(f64::NAN),
        pass,
    }
}

fn single(classifier: &Classifier<u32>, keys: &[Key<u32>], seconds: f64) -> f64 {
    let mut best = f64::INFINITY;
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    for window in keys.chunks(BATCH).cycle() {
        let begin = ticks();
        for key in window {
            black_box(classifier.classify_one(black_box(key)));
        }
        best = best.min(ticks().wrapping_sub(begin) as f64 / window.len() as f64);
        if Instant::now() >= end {
            break;
        }
    }
    best
}

struct Changes {
    median: f64,
    max: f64,
    exchange: f64,
}

/// Rules are put in and taken out, one at a time; then all goes into a new base.
fn change(list: &mut RuleList<u32>, case: &ClassifierCase) -> Changes {
    let mut random = Random::new(3);
    let mut times = Vec::with_capacity(CHANGES);
    // Kept, as workers keep it until they have the next.
    let mut current = list.snapshot();
    for (change, rule) in rules(case.shape, CHANGES, 4).into_iter().enumerate() {
        let position = random.below(list.len() as u32) as usize;
        let begin = Instant::now();
        let changed = if change % 2 == 0 {
            list.insert(position, rule, u32::MAX - 1)
        } else {
            list.remove(position)
        };
        let next = list.snapshot();
        times.push(begin.elapsed().as_secs_f64() * 1e6);
        debug_assert!(changed.is_ok(), "the position is in the list");
        current = next;
    }
    black_box(&current);
    times.sort_by(f64::total_cmp);
    let rebuilt = list.rebuild().run();
    let begin = Instant::now();
    let retired = list.exchange(rebuilt);
    let exchange = begin.elapsed().as_secs_f64() * 1e6;
    drop(retired);
    Changes {
        median: times[times.len() / 2],
        max: times[times.len() - 1],
        exchange,
    }
}
