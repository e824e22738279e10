//! `explain`: what policies do with a packet, and which rule decides.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use control::client::Client;
use control::policy::{
    Explainer, PolicyState, Question, direction, endpoint, load, read_line, read_packet, state_of,
};

use crate::table::{Output, write_out};

/// Arguments of `oncilla explain`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// A file of objects (YAML or JSON), a directory of them, or `-` for standard input; may be repeated. Calico's kinds
    /// (projectcalico.org/v3), Kubernetes' NetworkPolicy, ClusterNetworkPolicy, Namespace, ServiceAccount and EndpointSlice, and our AccessList.
    /// Without it, the daemon's objects.
    #[arg(short = 'f', long = "file", value_name = "PATH")]
    files: Vec<PathBuf>,
    /// Whose policy judges: a workload (`namespace/name` or `name`) or a host endpoint (`name`).
    #[arg(long, value_name = "NAME", required_unless_present = "packets")]
    endpoint: Option<String>,
    /// Which way the packet goes, as the endpoint sees it: `ingress` or `egress`.
    #[arg(long, value_name = "DIRECTION", required_unless_present = "packets")]
    direction: Option<String>,
    /// The packet: "tcp 10.0.0.1:1234 > 10.0.0.2:80", "icmp 10.0.0.1 > 10.0.0.2 type 8 code 0".
    #[arg(long, value_name = "PACKET", required_unless_present = "packets")]
    packet: Option<String>,
    /// For host endpoints: the packet passes through the host.
    #[arg(long)]
    forwarded: bool,
    /// For host endpoints: where the packet went before destination translation.
    #[arg(long, value_name = "ADDRESS")]
    pre_nat_destination: Option<std::net::IpAddr>,
    /// For host endpoints: its destination port before translation.
    #[arg(long, value_name = "PORT")]
    pre_nat_destination_port: Option<u16>,
    /// Packets as JSON, one object per line (`-` for standard input): `endpoint`, `direction`, `ipVersion`, `protocol`, `source`, `destination`,
    /// `sourcePort`, `destinationPort`, `icmpType`, `icmpCode`, `forwarded`, `preNatDestination`, `preNatDestinationPort`. Answers with one
    /// line of JSON for each, in order.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["endpoint", "direction", "packet", "forwarded", "pre_nat_destination", "pre_nat_destination_port"]
    )]
    packets: Option<PathBuf>,
    /// How to print; lines of JSON for `--packets` always.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Bytes of the longest line of `--packets`.
const LINE_LIMIT: u64 = 64 * 1024;

impl Args {
    /// Whether a daemon has to be asked for the objects.
    pub(crate) fn is_live(&self) -> bool {
        self.files.is_empty()
    }
}

/// Explains by what is in files.
pub(crate) fn explain(args: &Args) -> anyhow::Result<()> {
    match load(&args.files) {
        Ok(state) => answer(args, &state),
        Err(errors) => {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            bail!("{}", lines.join("\n"));
        }
    }
}

/// Explains by what a daemon has.
pub(crate) async fn live(client: &mut Client, args: Args) -> anyhow::Result<()> {
    let (_, objects) = client.list(&[]).await?;
    match state_of(&objects) {
        Ok(state) => answer(&args, &state),
        Err(errors) => {
            let lines: Vec<_> = errors.iter().map(ToString::to_string).collect();
            bail!("{}", lines.join("\n"));
        }
    }
}

fn answer(args: &Args, state: &PolicyState) -> anyhow::Result<()> {
    for (id, policy) in &state.policies {
        for note in &policy.notes {
            eprintln!("note: {}/{id}: {note}", id.kind);
        }
    }
    if let Some(path) = &args.packets {
        let explainer = Explainer::new(state)?;
        return lines(path, &|line| {
            let question = read_line(line, state)?;
            Ok(serde_json::to_string(&explainer.answer(&question))?)
        });
    }
    let (Some(name), Some(way), Some(packet)) = (&args.endpoint, &args.direction, &args.packet)
    else {
        bail!("--endpoint, --direction and --packet are needed, or --packets");
    };
    let mut packet = read_packet(packet).context("--packet")?;
    packet.forwarded = args.forwarded;
    if let Some(before) = args.pre_nat_destination {
        if before.is_ipv4() != packet.source.is_ipv4() {
            bail!("--pre-nat-destination: {before} is not of the packet's IP version");
        }
        packet.pre_nat_destination = Some(before);
    }
    if args.pre_nat_destination_port.is_some() {
        if packet.destination_port.is_none() {
            bail!(
                "--pre-nat-destination-port: protocol {} has no ports",
                packet.protocol
            );
        }
        packet.pre_nat_destination_port = args.pre_nat_destination_port;
    }
    let question = Question {
        endpoint: endpoint(state, name).context("--endpoint")?,
        direction: direction(way).context("--direction")?,
        packet,
    };
    let explainer = Explainer::new(state)?;
    if args.output == Output::Json {
        let line = serde_json::to_string(&explainer.answer(&question))? + "\n";
        return write_out(line.as_bytes());
    }
    write_out(in_words(&explainer, &question)?.as_bytes())
}

fn in_words(explainer: &Explainer, question: &Question) -> Result<String, std::fmt::Error> {
    let word = |allow| if allow { "allow" } else { "deny" };
    let answer = explainer.explain(question);
    let mut text = String::new();
    writeln!(text, "{}: {}", word(answer.allow), answer.why)?;
    if answer.untracked {
        writeln!(text, "untracked: replies need a rule of their own")?;
    }
    if let Some(all) = &answer.all_interfaces {
        writeln!(
            text,
            "host endpoint {}, for all interfaces, judges here too: {}: {}",
            all.endpoint,
            word(all.allow),
            all.why
        )?;
    }
    for log in &answer.logs {
        writeln!(text, "logged by {log}")?;
    }
    if (answer.staged_allow, &answer.staged_why) != (answer.allow, &answer.why) {
        let verdict = word(answer.staged_allow);
        writeln!(
            text,
            "with staged policies: {verdict}: {}",
            answer.staged_why
        )?;
    }
    Ok(text)
}

/// Answers each line of a file with a line.
fn lines(path: &Path, answer: &dyn Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<()> {
    let input: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(std::io::stdin().lock())
    } else {
        let file = std::fs::File::open(path);
        Box::new(file.with_context(|| format!("{} cannot be read", path.display()))?)
    };
    let mut input = BufReader::new(input);
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut line = String::new();
    for number in 1_u64.. {
        line.clear();
        let context = || format!("{}:{number}", path.display());
        let read = input.by_ref().take(LINE_LIMIT).read_line(&mut line);
        match read.with_context(context)? as u64 {
            0 => break,
            LINE_LIMIT if !line.ends_with('\n') => {
                out.flush()?;
                bail!("{}: more than {LINE_LIMIT} bytes in a line", context());
            }
            _ => {}
        }
        if line.trim().is_empty() {
            continue;
        }
        match answer(&line) {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(error) => {
                out.flush()?;
                return Err(error.context(context()));
            }
        }
    }
    out.flush()?;
    Ok(())
}
