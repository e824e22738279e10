//! The cases of `oncilla bench`, soon built: `cases [--seconds N] [case ...]`, all of them without names.

use benches::{Options, cases, find};

fn main() {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let mut options = Options::default();
    if let Some(at) = names.iter().position(|name| name == "--seconds") {
        let seconds = names.get(at + 1).and_then(|seconds| seconds.parse().ok());
        options.seconds = seconds.expect("--seconds takes a number");
        names.drain(at..at + 2);
    }
    let chosen: Vec<_> = match names.is_empty() {
        true => cases().iter().collect(),
        false => names
            .iter()
            .map(|name| find(name).unwrap_or_else(|| panic!("{name:?} is no case")))
            .collect(),
    };
    for case in chosen {
        match benches::run(case, &options, |_| ()) {
            Ok(report) => {
                let nodes = report.nodes.iter();
                let nodes: Vec<_> = nodes
                    .map(|node| format!("{} {:.1}", node.name, node.ticks))
                    .collect();
                println!(
                    "{}: ticks {:.1} (median {:.1}, loop {:.1}), {:.2} Mpps; {}; {}",
                    report.case,
                    report.ticks_min,
                    report.ticks_median,
                    report.ticks_total_min,
                    report.mpps,
                    nodes.join(", "),
                    report.fault.as_deref().unwrap_or("verified"),
                );
            }
            Err(error) => println!("{}: {error}", case.name),
        }
    }
}
