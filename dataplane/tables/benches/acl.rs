//! The rule classifier: CSIT's access lists and ClassBench-shaped lists, and single changes to long lists. Prints, before criterion's
//! figures of lookups, compile time, memory and the best time per lookup of each list.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tables::acl::{
    Classifier, Key, Rule, RuleList, SetClasses, Tier,
    generate::{Random, Shape, csit, csit_trace, rules, trace},
};

/// Keys of one call: what a worker has in hand.
const BATCH: usize = 256;

struct Case {
    name: String,
    rules: Vec<Rule>,
    keys: Vec<Key<u32>>,
    tier: Tier,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for deny in [1, 10, 50] {
        for tier in [Tier::Automatic, Tier::BitVectors] {
            cases.push(Case {
                name: format!("csit-{deny}-{tier:?}"),
                rules: csit(deny),
                keys: csit_trace(64_000),
                tier,
            });
        }
    }
    for shape in Shape::ALL {
        for n in [200, 1000, 10_000, 100_000] {
            let list = rules(shape, n, 1);
            cases.push(Case {
                name: format!("classbench-{}-{n}", shape.name()),
                keys: trace(&list, 10 * n.min(20_000), 2),
                rules: list,
                tier: Tier::Automatic,
            });
        }
    }
    cases
}

fn classify_all(classifier: &Classifier<u32>, keys: &[Key<u32>], out: &mut [u32; BATCH]) {
    for keys in keys.chunks(BATCH) {
        classifier.classify(keys, out);
        black_box(&out);
    }
}

fn lookups(criterion: &mut Criterion) {
    let sets = Arc::new(SetClasses::default());
    let mut group = criterion.benchmark_group("acl");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(500));
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    for case in cases() {
        if filter
            .as_ref()
            .is_some_and(|part| !case.name.contains(part.as_str()))
        {
            continue;
        }
        let start = Instant::now();
        let classifier = Classifier::<u32>::with_tier(&case.rules, &sets, case.tier);
        let compile = start.elapsed();
        let mut out = [0; BATCH];
        let mut best = Duration::MAX;
        for _ in 0..(5_000_000 / case.keys.len()).clamp(3, 60) {
            let start = Instant::now();
            classify_all(&classifier, &case.keys, &mut out);
            best = best.min(start.elapsed());
        }
        eprintln!(
            "{}: compiled in {:.2} ms, {:.0} bytes per rule, best {:.2} ns per lookup; {}",
            case.name,
            compile.as_secs_f64() * 1e3,
            classifier.bytes() as f64 / case.rules.len() as f64,
            best.as_secs_f64() * 1e9 / case.keys.len() as f64,
            classifier.describe(),
        );
        let keys = &case.keys[..case.keys.len().min(100 * BATCH)];
        group.throughput(Throughput::Elements(keys.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(&case.name), |bencher| {
            bencher.iter(|| classify_all(&classifier, black_box(keys), &mut out));
        });
    }
    group.finish();
}

/// A rule in the place of another, and the classifier that has it; 1 or 200 rules wait for a new base.
fn changes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("acl-change");
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(200));
    group.measurement_time(Duration::from_millis(500));
    for n in [10_000, 100_000] {
        let tagged: Vec<(Rule, u32)> = rules(Shape::Acl1, n, 1).into_iter().zip(0..).collect();
        let spare = rules(Shape::Acl1, 200, 3);
        let list = RuleList::<u32>::new(tagged, Arc::default());
        for pending in [1, 200] {
            let mut list = list.clone();
            let mut random = Random::new(4);
            let places: Vec<usize> = spare[..pending]
                .iter()
                .filter_map(|rule| {
                    let place = random.below(n as u32) as usize;
                    list.replace(place, rule.clone(), 0).ok().map(|()| place)
                })
                .collect();
            let mut turn = 0;
            let name = format!("{n}-rules-{pending}-pending");
            group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
                bencher.iter(|| {
                    turn += 1;
                    let (place, rule) = (places[turn % places.len()], &spare[turn % spare.len()]);
                    let changed = list.replace(place, rule.clone(), turn as u32);
                    (changed, list.snapshot())
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lookups, changes);
criterion_main!(benches);
