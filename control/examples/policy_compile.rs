//! Times of compiling policy: a state of many policies from nothing, then again after the labels of one workload have changed.
//!
//! `cargo run --release -p control --example policy_compile -- 1000`: so many policies, and twice as many workloads.

use std::sync::Arc;
use std::time::Instant;

use control::compile::policy::PolicyCompiler;
use model::policy::generate::{Random, state};

fn main() {
    let size = std::env::args()
        .nth(1)
        .and_then(|size| size.parse().ok())
        .unwrap_or(1000);
    let mut state = state(1, size);
    let mut compiler = PolicyCompiler::new().expect("has memory");
    let begin = Instant::now();
    let compiled = compiler.compile(&state, None).expect("fits");
    println!(
        "{} policies, {} workloads, {} programs, {} classes of addresses: {:.1} ms from nothing",
        state.policies.len(),
        state.workload_endpoints.len(),
        compiled.programs,
        compiled.sets.addresses.class_count(),
        begin.elapsed().as_secs_f64() * 1e3
    );
    let mut random = Random::new(2);
    let mut times = Vec::new();
    for _ in 0..20 {
        let index = random.below(state.workload_endpoints.len());
        if let Some(workload) = state.workload_endpoints.values_mut().nth(index) {
            let value = *random.pick(&["a", "b", "web"]);
            Arc::make_mut(workload)
                .labels
                .insert("app".into(), value.into());
        }
        let begin = Instant::now();
        compiler.compile(&state, None).expect("fits");
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "after a change of one workload's labels: median {:.1} ms, least {:.1} ms",
        times[times.len() / 2],
        times[0]
    );
}
