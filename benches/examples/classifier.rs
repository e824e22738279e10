//! The cases of the rule classifier alone, as `oncilla bench` runs them but soon built: `classifier [--peer] [case ...]`.

use benches::{Options, Peer, classifier_cases, find_classifier, run_classifier};

fn main() {
    let (flags, names): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let peer = flags.iter().any(|flag| flag == "--peer");
    let mut cases: Vec<_> = names
        .iter()
        .filter_map(|name| find_classifier(name))
        .collect();
    if names.is_empty() {
        cases = classifier_cases().iter().collect();
    }
    let options = Options {
        seconds: 1.0,
        ..Options::default()
    };
    for case in cases {
        let report = run_classifier(case, &options, peer);
        println!(
            "{}: ticks {:.1} (median {:.1}, pass {:.1}, single {:.1}), {:.0} ms, {:.0} B/rule, change {:.0} us (max {:.0}), \
             exchange {:.0} us, {:?}; {} {:.1?}",
            report.case,
            report.ticks_min,
            report.ticks_median,
            report.ticks_pass,
            report.ticks_single,
            report.compile_ms,
            report.bytes_per_rule,
            report.commit_us,
            report.commit_us_max,
            report.exchange_us,
            report.fault,
            report.form,
            report.trees,
        );
        match report.peer {
            None => {}
            Some(Peer::Ran { ticks, .. }) => {
                let ratio = ticks / report.ticks_pass;
                println!("    dpdk-test-acl: {ticks:.1} ticks, ratio {ratio:.2}");
            }
            Some(Peer::Missing(why)) => println!("    dpdk-test-acl: {why}"),
        }
    }
}
