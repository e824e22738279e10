//! `oncilla bench`: what forwarding costs on this machine.

use std::io::{IsTerminal, Write};

use benches::{Case, ClassifierCase, ClassifierReport, Frames, Options, Peer, Report};
use serde_json::json;

use crate::table;

/// Arguments of `oncilla bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Cases to run; all where none is named.
    cases: Vec<String>,
    /// List the cases.
    #[arg(long)]
    list: bool,
    /// One JSON object per line.
    #[arg(long)]
    json: bool,
    /// Seconds per case.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    seconds: f64,
    /// Core of the first worker; the last core where not given.
    #[arg(long, value_name = "CORE")]
    core: Option<usize>,
    /// Frame size in bytes with check sequence, or `imix`.
    #[arg(long, value_name = "BYTES|imix")]
    frame: Option<Frames>,
    /// Workers, on consecutive cores.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    workers: usize,
    /// Let each worker's generators make only packets of flows that the worker owns, so that nothing is handed to another; without
    /// this, two workers hand over half of the packets whose flows are tracked.
    #[arg(long)]
    own_flows: bool,
    /// Packets that a worker takes from a port at a time.
    #[arg(long, value_name = "COUNT", default_value_t = 256)]
    burst: usize,
    /// Beside the cases of the rule classifier, run DPDK's on the same rules and packets.
    #[arg(long, value_name = "PROGRAM", value_parser = ["dpdk-test-acl"])]
    peer: Option<String>,
}

/// Something that can be run.
enum Either {
    Forwarding(&'static Case),
    Classifier(&'static ClassifierCase),
}

fn find(name: &str) -> anyhow::Result<Either> {
    let forwarding = benches::find(name).map(Either::Forwarding);
    forwarding
        .or_else(|| benches::find_classifier(name).map(Either::Classifier))
        .ok_or_else(|| {
            anyhow::anyhow!("there is no case {name}: 'oncilla bench --list' names them")
        })
}

fn all() -> impl Iterator<Item = Either> {
    let forwarding = benches::cases().iter().map(Either::Forwarding);
    forwarding.chain(benches::classifier_cases().iter().map(Either::Classifier))
}

/// Runs the cases one after the other.
pub(crate) fn bench(args: &Args) -> anyhow::Result<()> {
    if args.list {
        return list(args.json);
    }
    let cases: Vec<Either> = match &args.cases[..] {
        [] => all().collect(),
        names => names
            .iter()
            .map(|name| find(name))
            .collect::<anyhow::Result<_>>()?,
    };
    let cores = std::thread::available_parallelism()?.get();
    anyhow::ensure!(
        args.seconds > 0.0 && args.seconds <= 3600.0,
        "--seconds is more than 0 and at most 3600"
    );
    anyhow::ensure!(
        (1..=cores).contains(&args.workers),
        "--workers is 1 to {cores} on this machine"
    );
    let core = args.core.unwrap_or(cores - args.workers);
    anyhow::ensure!(
        core + args.workers <= cores,
        "--core and --workers reach beyond this machine's {cores} cores"
    );
    let options = Options {
        seconds: args.seconds,
        core,
        frames: args.frame,
        workers: args.workers,
        own_flows: args.own_flows,
        burst: args.burst,
        ..Options::default()
    };
    let mut wrong = Vec::new();
    for case in cases {
        let (name, json, text, fault) = match case {
            Either::Forwarding(case) => {
                let report = benches::run(case, &options, |left| progress(case.name, left))?;
                let (json, text) = (to_json(&report), to_text(&report));
                (case.name, json, text, report.fault)
            }
            Either::Classifier(case) => {
                progress(case.name, args.seconds);
                let report = benches::run_classifier(case, &options, args.peer.is_some());
                let (json, text) = (classifier_json(&report), classifier_text(&report));
                (case.name, json, text, report.fault)
            }
        };
        progress(name, -1.0);
        let text = if args.json { format!("{json}\n") } else { text };
        table::write_out(text.as_bytes())?;
        if let Some(fault) = fault {
            wrong.push(format!("{name}: {fault}"));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "not verified: {}", wrong.join("; "));
    Ok(())
}

fn list(json: bool) -> anyhow::Result<()> {
    let lines: String = all()
        .map(|case| match case {
            Either::Forwarding(case) => (case.name, case.description),
            Either::Classifier(case) => (case.name, case.description),
        })
        .map(|(name, description)| match json {
            true => format!("{}\n", json!({ "case": name, "description": description })),
            false => format!("{name:<24} {description}\n"),
        })
        .collect();
    table::write_out(lines.as_bytes())
}

/// What runs and how long still, where somebody watches; negative seconds wipe the line.
fn progress(case: &str, left: f64) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let text = if left < 0.0 {
            String::new()
        } else {
            format!("{case}: {left:.0} s")
        };
        // Whoever closed the terminal does not miss it.
        let _ = write!(out, "\r\x1b[K{text}");
    }
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

fn to_json(report: &Report) -> serde_json::Value {
    let nodes: Vec<_> = report
        .nodes
        .iter()
        .map(|node| {
            json!({ "name": node.name, "ticks": round(node.ticks), "vectors_per_call": round(node.vectors_per_call) })
        })
        .collect();
    json!({
        "case": report.case,
        "frame_bytes": round(report.frame_bytes),
        "flows": report.flows,
        "routes": report.routes,
        "workers": report.workers,
        "ticks_min": round(report.ticks_min),
        "ticks_median": round(report.ticks_median),
        "ticks_total_min": round(report.ticks_total_min),
        "mpps": round(report.mpps),
        "handed_over": round(report.handed_over),
        "congested": round(report.congested),
        "nodes": nodes,
        "tsc_ghz": round(report.tsc_ghz),
        "core_per_tick": round(report.core_per_tick),
        "verified": report.verified,
        "cpu": benches::fingerprint(),
    })
}

fn to_text(report: &Report) -> String {
    let mut text = format!(
        "{}: {:.1} ticks per packet (median {:.1}, with generator {:.1}), {:.2} Mpps, {} bytes, {} flows, {} worker(s), {}\n",
        report.case,
        report.ticks_min,
        report.ticks_median,
        report.ticks_total_min,
        report.mpps,
        report.frame_bytes,
        report.flows,
        report.workers,
        match &report.fault {
            None => "verified".to_owned(),
            Some(fault) => format!("NOT VERIFIED: {fault}"),
        },
    );
    if report.handed_over > 0.0 {
        text += &format!(
            "    {:.1} % of all packets handed to another worker, {:.1} % more not taken\n",
            100.0 * report.handed_over,
            100.0 * report.congested,
        );
    }
    for node in &report.nodes {
        text += &format!(
            "    {:<20} {:>7.2} ticks {:>7.1} packets per call\n",
            node.name, node.ticks, node.vectors_per_call
        );
    }
    text
}

fn classifier_json(report: &ClassifierReport) -> serde_json::Value {
    let trees: Vec<_> = (report.trees.iter())
        .map(|&(nodes, blocks)| json!({ "nodes": round(nodes), "blocks": round(blocks) }))
        .collect();
    let peer = report.peer.as_ref().map(|peer| match peer {
        Peer::Ran { ticks, .. } => json!({
            "program": "dpdk-test-acl",
            "ticks": round(*ticks),
            "ratio": round(ticks / report.ticks_pass),
        }),
        Peer::Missing(why) => json!({ "program": "dpdk-test-acl", "missing": why }),
    });
    json!({
        "case": report.case,
        "rules": report.rules,
        "ticks_min": round(report.ticks_min),
        "ticks_median": round(report.ticks_median),
        "ticks_pass": round(report.ticks_pass),
        "ticks_single": round(report.ticks_single),
        "compile_ms": round(report.compile_ms),
        "bytes_per_rule": round(report.bytes_per_rule),
        "commit_us": round(report.commit_us),
        "commit_us_max": round(report.commit_us_max),
        "exchange_us": round(report.exchange_us),
        "form": report.form,
        "trees": trees,
        "peer": peer,
        "core_per_tick": round(report.core_per_tick),
        "verified": report.verified,
        "cpu": benches::fingerprint(),
    })
}

fn classifier_text(report: &ClassifierReport) -> String {
    let mut text = format!(
        "{}: {:.1} ticks per lookup (median {:.1}, whole trace {:.1}, one at a time {:.1}), compiled in {:.0} ms, {:.0} bytes per rule, \
         a change in {:.0} us (at most {:.0}), {}\n    {}",
        report.case,
        report.ticks_min,
        report.ticks_median,
        report.ticks_pass,
        report.ticks_single,
        report.compile_ms,
        report.bytes_per_rule,
        report.commit_us,
        report.commit_us_max,
        match &report.fault {
            None => "verified".to_owned(),
            Some(fault) => format!("NOT VERIFIED: {fault}"),
        },
        report.form,
    );
    if !report.trees.is_empty() {
        let sum = |of: fn(&(f64, f64)) -> f64| report.trees.iter().map(of).sum::<f64>();
        text += &format!(
            "; a packet meets {:.1} nodes and {:.1} blocks",
            sum(|tree| tree.0),
            sum(|tree| tree.1)
        );
    }
    match &report.peer {
        None => {}
        Some(Peer::Ran { ticks, .. }) => {
            text += &format!(
                "\n    dpdk-test-acl: {ticks:.1} ticks per packet over the whole trace, {:.2} times as many",
                ticks / report.ticks_pass
            );
        }
        Some(Peer::Missing(why)) => text += &format!("\n    dpdk-test-acl: {why}"),
    }
    text + "\n"
}
