//! DPDK's classifier, `rte_acl`, as its program `dpdk-test-acl` runs it: on the same rules and packets.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use tables::acl::{Key, Prefix, Protocols, Rule, Side};

const PROGRAM: &str = "dpdk-test-acl";
/// Packets of a run, about: so many passes over the trace that the first, cold, does not count.
const PACKETS: usize = 3_000_000;
/// Runs, of which the best counts.
const RUNS: usize = 2;
/// Megabytes of memory that it may take.
const MEGABYTES: &str = "2048";
/// Seconds after which it is ended: building may take very long.
const SECONDS: &str = "60";

/// What came of it.
#[derive(Clone, Debug)]
pub enum Peer {
    /// It ran.
    Ran {
        /// Ticks per packet, in calls of 256 packets: the best run's mean.
        ticks: f64,
        /// Index of the rule that each packet of the trace matches.
        answers: Vec<u32>,
    },
    /// It did not, and why.
    Missing(String),
}

/// Runs `dpdk-test-acl` on `core`, with the vector form that it takes for the best on this processor, and like ours without
/// reserved huge pages.
pub(crate) fn run(rules: &[Rule], keys: &[Key<u32>], core: usize) -> Peer {
    let directory = std::env::temp_dir().join(format!("oncilla-test-acl-{}", std::process::id()));
    let result = std::fs::create_dir_all(&directory)
        .map_err(|error| format!("no directory {}: {error}", directory.display()))
        .and_then(|()| run_in(&directory, rules, keys, core));
    // What stays behind is in the way of nobody.
    let _ = std::fs::remove_dir_all(&directory);
    result.unwrap_or_else(Peer::Missing)
}

fn run_in(
    directory: &Path,
    rules: &[Rule],
    keys: &[Key<u32>],
    core: usize,
) -> Result<Peer, String> {
    let [rule_file, trace_file] = ["rules", "trace"].map(|name| directory.join(name));
    let write = |path: &Path, text: Result<String, String>| {
        std::fs::write(path, text?).map_err(|error| format!("{}: {error}", path.display()))
    };
    write(&rule_file, rule_lines(rules))?;
    write(&trace_file, Ok(trace_lines(keys)))?;
    let run = |passes: usize, verbose: usize| {
        let result = Command::new("timeout")
            .args([SECONDS, PROGRAM, "--no-huge", "--no-pci", "--no-telemetry"])
            .args([
                "--no-shconf",
                "-m",
                MEGABYTES,
                "-l",
                &core.to_string(),
                "--",
            ])
            .arg(format!("--rulesf={}", rule_file.display()))
            .arg(format!("--tracef={}", trace_file.display()))
            .arg(format!("--rulenum={}", rules.len() + 1))
            .arg(format!("--tracenum={}", keys.len() + 1))
            .args(["--bldcat=1", "--runcat=1", "--tracestep=256"])
            .args([format!("--iter={passes}"), format!("--verbose={verbose}")])
            .output();
        let output = result.map_err(|error| format!("timeout: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(0) => Ok(text),
            Some(124) => Err(format!("{PROGRAM} was not ready after {SECONDS} s")),
            Some(127) => Err(format!(
                "no {PROGRAM}: 'apt-get install dpdk-dev' brings it"
            )),
            _ => Err(format!("{PROGRAM} failed: {}", last_words(&output.stderr))),
        }
    };
    let answers = answers(&run(1, 3)?);
    let passes = (PACKETS / keys.len()).max(1);
    let mut ticks = f64::INFINITY;
    for _ in 0..RUNS {
        let text = run(passes, 1)?;
        let cycles = cycles(&text).ok_or_else(|| format!("{PROGRAM} printed no figure"))?;
        ticks = ticks.min(cycles);
    }
    Ok(Peer::Ran { ticks, answers })
}

fn last_words(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("it does not say why").trim().to_owned()
}

/// ClassBench's format: `@10.0.0.0/8 11.0.0.0/8 0 : 65535 80 : 80 0x06/0xFF`, separated by tabs.
fn rule_lines(rules: &[Rule]) -> Result<String, String> {
    let mut text = String::new();
    for rule in rules {
        let [source, destination] = [&rule.source, &rule.destination].map(side);
        let (source, destination) = (source?, destination?);
        let (protocol, mask) = if rule.protocols == Protocols::ALL {
            (0, 0)
        } else {
            (rule.protocols.iter().next().unwrap_or(0), 255)
        };
        writeln!(
            text,
            "@{}\t{}\t{} : {}\t{} : {}\t0x{protocol:02x}/0x{mask:02x}",
            source.0, destination.0, source.1.0, source.1.1, destination.1.0, destination.1.1,
        )
        .map_err(|error| error.to_string())?;
    }
    Ok(text)
}

/// The prefix and the ports.
fn side(side: &Side) -> Result<(String, (u16, u16)), String> {
    let prefix = match &side.prefixes[..] {
        [] => "0.0.0.0/0".to_owned(),
        [Prefix::V4(prefix)] => prefix.to_string(),
        _ => return Err("a rule of this list has no form in ClassBench's format".into()),
    };
    let ports = match &side.ports[..] {
        [] => (0, u16::MAX),
        [range] => (range.first(), range.last()),
        _ => return Err("a rule of this list has no form in ClassBench's format".into()),
    };
    Ok((prefix, ports))
}

/// Addresses, ports and protocol in decimal.
fn trace_lines(keys: &[Key<u32>]) -> String {
    let mut text = String::with_capacity(keys.len() * 40);
    for key in keys {
        let (source_port, destination_port) = key.ports().unwrap_or((0, 0));
        let (source, destination) = (key.source(), key.destination());
        let protocol = key.protocol();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{source}\t{destination}\t{source_port}\t{destination_port}\t{protocol}"
        );
    }
    text
}

/// `ipv4_5tuple: 1, category: 0, result: 17` for each packet.
fn answers(text: &str) -> Vec<u32> {
    let lines = text.lines().filter(|line| line.starts_with("ipv4_5tuple:"));
    let answer = |line: &str| line.rsplit(' ').next()?.parse().ok();
    lines.map(|line| answer(line).unwrap_or(u32::MAX)).collect()
}

/// `... 4336.50 cycles/pkt, ...`, which are ticks of the time-stamp counter.
fn cycles(text: &str) -> Option<f64> {
    let before = text.split(" cycles/pkt").next()?;
    (before.len() < text.len()).then_some(())?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tables::acl::generate::{Shape, rules, trace};

    #[test]
    fn what_it_prints_is_understood() {
        let text = "ipv4_5tuple: 1, category: 0, result: 17\nipv4_5tuple: 2, category: 0, result: 4294967295\n\
            search_ip5tuples  @lcore 1: 5 iterations, 10 pkts, 1 categories, 43365 cycles (0.00 sec), 4336.50 cycles/pkt, 1 pkt/sec\n";
        assert_eq!(answers(text), [17, u32::MAX]);
        assert_eq!(cycles(text), Some(4336.5));
        assert_eq!(cycles("nothing"), None);
    }

    #[test]
    fn every_rule_and_packet_has_a_line() {
        for shape in Shape::ALL {
            let list = rules(shape, 500, 1);
            let lines = rule_lines(&list).unwrap();
            assert_eq!(lines.lines().count(), 500);
            let fields = |line: &str| line.split('\t').count();
            assert!(
                lines
                    .lines()
                    .all(|line| line.starts_with('@') && fields(line) == 5)
            );
            let keys = trace(&list, 500, 2);
            let lines = trace_lines(&keys);
            assert!(lines.lines().count() == 500 && lines.lines().all(|line| fields(line) == 5));
        }
        let mut rule = Rule::default();
        rule.source.ports = vec![tables::acl::PortRange::single(1); 2];
        assert!(rule_lines(&[rule]).is_err());
    }
}
