//! `oncilla demo`: a lab of namespaces on this machine, the gateway between its hosts, real traffic, and what happened.
//!
//! ```text
//!  a ────── p0 ┌─────────┐ p1 ────── b   MTU 1400
//!  1500        │ gateway │
//!              └─────────┘ p2 ══════ c   VLAN 10
//! ```
//!
//! The gateway is the daemon as anyone runs it: a process of its own, configured over gRPC. The same lab with the kernel
//! forwarding is the yardstick, measured before and after, so that a machine that gets slower or faster meanwhile
//! favours neither.

mod configuration;
mod directory;
mod gateway;
mod keep;
mod measure;
mod render;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use afpacket_sim::{Privilege, enter_user_namespace_if_needed};
use anyhow::bail;

use crate::table::{print_json, write_out};
use measure::{Plan, Stage};
use report::Report;

/// Arguments of `oncilla demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print one JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// Leave the lab up afterwards, to play with; until Ctrl-C.
    #[arg(long)]
    keep: bool,
    /// Echo requests of each ping, one in a millisecond [default: 1000, with --quick 100].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pings: Option<u32>,
    /// Seconds of each TCP run [default: 3, with --quick 0.5].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Show everything, but measure only roughly.
    #[arg(long)]
    quick: bool,
    /// Make this directory, and remove it when standard input ends.
    #[arg(long, hide = true, value_name = "PATH", exclusive = true)]
    sweep: Option<PathBuf>,
}

/// Shows the gateway at work; an error when not everything went as it should. Must be called while the process has one thread.
pub(crate) fn demo(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.sweep {
        return directory::sweep(path);
    }
    let plan = Plan {
        pings: args.pings.unwrap_or(if args.quick { 100 } else { 1000 }),
        tcp: args
            .seconds
            .unwrap_or(Duration::from_millis(if args.quick { 500 } else { 3000 })),
        rounds: if args.quick { 1 } else { 2 },
    };
    let progress = Progress::start();
    let mut report = Report::default();
    let stage = perform(&plan, &progress, &mut report);
    if let Err(error) = &stage {
        report.problems.push(format!("{error:#}"));
    }
    report.judge();
    progress.say("done");
    let printed = if args.json {
        print_json(&report)
    } else {
        write_out(render::render(&report).as_bytes())
    };
    // Who reads only the first lines still gets the right exit code.
    if report.ok {
        printed?;
    }
    if args.keep
        && let Ok(stage) = stage
    {
        keep::keep(&stage, &report, args.json)?;
    }
    let first_line = |problem: &String| {
        let line = problem.lines().next().unwrap_or_default();
        line.trim_end_matches("; the end of its log:").to_owned()
    };
    match report.problems.as_slice() {
        [] => Ok(()),
        [one] => bail!("the demo failed: {}", first_line(one)),
        [first, rest @ ..] => {
            bail!(
                "the demo failed: {} (and {} more problems)",
                first_line(first),
                rest.len()
            )
        }
    }
}

/// Tells on standard error what is being done.
struct Progress(Instant);

impl Progress {
    fn start() -> Self {
        Self(Instant::now())
    }

    fn say(&self, what: &str) {
        eprintln!("[{:5.1} s] {what}", self.0.elapsed().as_secs_f64());
    }
}

fn perform(plan: &Plan, progress: &Progress, report: &mut Report) -> anyhow::Result<Stage> {
    let privilege = enter_user_namespace_if_needed()?;
    report.privilege = match privilege {
        Privilege::Own => "own",
        Privilege::UserNamespace => "user-namespace",
    };
    measure::perform(plan, privilege, progress, report)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let range = 0.1..=600.0;
    match text.parse() {
        Ok(seconds) if range.contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("give seconds, from 0.1 to 600".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_lasts_a_reasonable_time() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "nan", "inf", "601", "3s", ""] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
