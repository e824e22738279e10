//! Cases by name, as `oncilla bench` runs them but soon built: `case [--seconds=N] [case ...]`.

use benches::{Options, find, run};

fn main() {
    let (flags, names): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .partition(|argument| argument.starts_with("--"));
    let seconds = flags
        .iter()
        .find_map(|flag| flag.strip_prefix("--seconds=")?.parse().ok());
    let options = Options {
        seconds: seconds.unwrap_or(3.0),
        ..Options::default()
    };
    for name in names {
        let Some(case) = find(&name) else {
            println!("{name}: no such case");
            continue;
        };
        match run(case, &options, |_| ()) {
            Err(error) => println!("{name}: {error}"),
            Ok(report) => {
                println!(
                    "{name}: ticks {:.1} (median {:.1}, with generator {:.1}), {:.2} Mpps, {} flows, fault {:?}",
                    report.ticks_min,
                    report.ticks_median,
                    report.ticks_total_min,
                    report.mpps,
                    report.flows,
                    report.fault,
                );
                for node in &report.nodes {
                    println!(
                        "    {:20} {:6.1} ticks, {:.1} per call",
                        node.name, node.ticks, node.vectors_per_call
                    );
                }
            }
        }
    }
}
