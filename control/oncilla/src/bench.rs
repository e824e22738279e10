//! `oncilla bench`: what forwarding costs on this machine.

use std::io::{IsTerminal, Write};

use benches::{Case, Frames, Options, Report};
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
}

/// Runs the cases one after the other.
pub(crate) fn bench(args: &Args) -> anyhow::Result<()> {
    if args.list {
        return list(args.json);
    }
    let cases: Vec<&Case> = match &args.cases[..] {
        [] => benches::cases().iter().collect(),
        names => names
            .iter()
            .map(|name| {
                benches::find(name).ok_or_else(|| {
                    anyhow::anyhow!("there is no case {name}: 'oncilla bench --list' names them")
                })
            })
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
        let report = benches::run(case, &options, |left| progress(case.name, left))?;
        progress(case.name, -1.0);
        let text = if args.json {
            format!("{}\n", to_json(&report))
        } else {
            to_text(&report)
        };
        table::write_out(text.as_bytes())?;
        if let Some(fault) = &report.fault {
            wrong.push(format!("{}: {fault}", report.case));
        }
    }
    anyhow::ensure!(wrong.is_empty(), "not verified: {}", wrong.join("; "));
    Ok(())
}

fn list(json: bool) -> anyhow::Result<()> {
    let lines: String = benches::cases()
        .iter()
        .map(|case| match json {
            true => format!(
                "{}\n",
                json!({ "case": case.name, "description": case.description })
            ),
            false => format!("{:<24} {}\n", case.name, case.description),
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

fn to_json(report: &Report) -> serde_json::Value {
    let round = |value: f64| (value * 100.0).round() / 100.0;
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
