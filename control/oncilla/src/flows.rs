//! `oncilla show flows` and `oncilla show flow-log`: what the workers remember, and how it comes and goes.

use clap::Args;
use control::client::Client;
use control_api::v1;

use crate::packets::next;
use crate::table::{Output, Table, printable, write_out};

/// Which flows.
#[derive(Debug, Args)]
pub(crate) struct Filter {
    /// Only what comes in by this interface, in either direction.
    #[arg(short, long, conflicts_with = "endpoint")]
    interface: Option<String>,
    /// Only an endpoint's: `namespace/name` of a workload, or the name of a host endpoint.
    #[arg(short, long)]
    endpoint: Option<String>,
    /// Only with an end of this address or prefix.
    #[arg(short, long, value_name = "PREFIX")]
    address: Option<String>,
    /// Only of this protocol, by name or number.
    #[arg(short, long)]
    protocol: Option<String>,
    /// Only with an end of this port.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only in this state: `new`, `established`, `syn-sent`, `syn-received`, `fin-wait`, `closed` or `reset`.
    #[arg(short, long)]
    state: Option<String>,
}

/// Arguments of `oncilla show flows`.
#[derive(Debug, Args)]
pub(crate) struct FlowsArgs {
    #[command(flatten)]
    filter: Filter,
    /// How many at the most; 0 for all.
    #[arg(short, long, default_value_t = 1000)]
    limit: u32,
}

impl FlowsArgs {
    /// Which flows, and how many at the most.
    pub(crate) fn to_request(&self) -> v1::FlowsRequest {
        v1::FlowsRequest {
            filter: Some(self.filter.to_request()),
            limit: self.limit,
        }
    }
}

/// Arguments of `oncilla show flow-log`.
#[derive(Debug, Args)]
pub(crate) struct FlowLogArgs {
    #[command(flatten)]
    filter: Filter,
    /// How many records; 0 for no limit.
    #[arg(short, long, default_value_t = 0)]
    count: u32,
    /// Seconds between records of a flow that lives on.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    interval: u32,
}

impl Filter {
    fn to_request(&self) -> v1::FlowFilter {
        v1::FlowFilter {
            interface: self.interface.clone(),
            endpoint: self.endpoint.clone(),
            address: self.address.clone(),
            protocol: self.protocol.clone(),
            port: self.port.map(u32::from),
            state: self.state.clone(),
            translated: None,
        }
    }
}

/// Shows the flows that the workers remember.
pub(crate) async fn flows(
    client: &mut Client,
    args: &FlowsArgs,
    output: Output,
) -> anyhow::Result<()> {
    dump(client, args.to_request(), heading(), row, output).await
}

/// Shows flows as rows of a table, or as lines of JSON.
pub(crate) async fn dump<const N: usize>(
    client: &mut Client,
    request: v1::FlowsRequest,
    mut table: Table,
    row: fn(&v1::Flow) -> [String; N],
    output: Output,
) -> anyhow::Result<()> {
    let limit = request.limit;
    let mut count = 0;
    let whole = each(client, request, |flow| {
        count += 1;
        match output {
            Output::Json => write_out((serde_json::to_string(flow)? + "\n").as_bytes())?,
            Output::Table => table.row(row(flow)),
        }
        Ok(())
    });
    let whole = whole.await;
    if output == Output::Table {
        write_out(table.render().as_bytes())?;
    }
    whole?;
    if limit > 0 && count == limit {
        eprintln!("there may be more than these {count}: --limit 0 shows all");
    }
    Ok(())
}

/// Calls for each flow of a dump, which must come to its end.
pub(crate) async fn each(
    client: &mut Client,
    request: v1::FlowsRequest,
    mut f: impl FnMut(&v1::Flow) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut parts = client.flows(request).await?;
    let mut complete = false;
    while let Some(part) = next(&mut parts).await? {
        complete = part.complete;
        part.flows.iter().try_for_each(&mut f)?;
    }
    if !complete {
        anyhow::bail!(
            "these are not all: the dump was interrupted; try again, with a filter where there are many flows"
        );
    }
    Ok(())
}

/// Tells of flows until there are enough records, or Ctrl-C.
pub(crate) async fn flow_log(
    client: &mut Client,
    args: &FlowLogArgs,
    output: Output,
) -> anyhow::Result<()> {
    let request = v1::FlowLogRequest {
        filter: Some(args.filter.to_request()),
        count: args.count,
        interval_seconds: args.interval,
    };
    let mut records = client.flow_log(request).await?;
    while let Some(record) = next(&mut records).await? {
        let line = match output {
            Output::Json => serde_json::to_string(&record)?,
            Output::Table => describe(&record),
        };
        write_out((line + "\n").as_bytes())?;
    }
    Ok(())
}

fn heading() -> Table {
    Table::new(&[
        "PROTOCOL",
        "SOURCE",
        "DESTINATION",
        "IN",
        "OUT",
        "STATE",
        ">PACKETS",
        ">BYTES",
        ">BACK",
        ">BYTES",
        ">AGE",
        ">TIMEOUT",
        "ALLOWED BY",
    ])
}

fn row(flow: &v1::Flow) -> [String; 13] {
    let (there, back) = (
        flow.forward.unwrap_or_default(),
        flow.reverse.unwrap_or_default(),
    );
    let (source, destination) = ends(flow);
    [
        flow.protocol.clone(),
        source,
        destination,
        place(&flow.input, &flow.input_endpoint),
        place(&flow.output, &flow.output_endpoint),
        flow.state.clone(),
        there.packets.to_string(),
        there.bytes.to_string(),
        back.packets.to_string(),
        back.bytes.to_string(),
        seconds(flow.age_ms),
        seconds(flow.timeout_ms),
        rules(&flow.rules),
    ]
}

/// One record in one line.
fn describe(record: &v1::FlowLogRecord) -> String {
    let time = record.timestamp_ns / 1_000_000;
    let (day, ms) = (time / 1000 % 86_400, time % 1000);
    let clock = format!(
        "{:02}:{:02}:{:02}.{ms:03}",
        day / 3600,
        day / 60 % 60,
        day % 60
    );
    let Some(flow) = &record.flow else {
        return format!("{clock} {:<6} {} records", record.event, record.lost);
    };
    let (source, destination) = ends(flow);
    let icmp = match (flow.icmp_type, flow.icmp_code) {
        (Some(kind), Some(code)) => format!(" type {kind} code {code}"),
        _ => String::new(),
    };
    let mut line = format!(
        "{clock} {:<6} {:<5} {} {source} > {destination}{icmp}, {} > {}",
        record.event,
        record.verdict,
        flow.protocol,
        place(&flow.input, &flow.input_endpoint),
        place(&flow.output, &flow.output_endpoint),
    );
    for (name, text) in [
        ("", &*record.end_reason),
        ("", &*record.drop_reason),
        ("by ", &*rules(&flow.rules)),
    ] {
        if !text.is_empty() {
            line += &format!(", {name}{text}");
        }
    }
    let (there, back) = (
        flow.forward.unwrap_or_default(),
        flow.reverse.unwrap_or_default(),
    );
    match &*record.event {
        "log" => {}
        "denied" => line += &format!(", {} packets, {} bytes", there.packets, there.bytes),
        _ => {
            line += &format!(
                ", {}/{} packets, {}/{} bytes, {}",
                there.packets,
                back.packets,
                there.bytes,
                back.bytes,
                seconds(flow.age_ms)
            );
        }
    }
    if !record.staged_rules.is_empty() {
        let by = rules(&record.staged_rules);
        line += &format!(", staged: {} by {by}", record.staged_verdict);
    }
    printable(&line)
}

/// An address with its port, where there is one.
pub(crate) fn end(address: &str, port: u32) -> String {
    match (port, address.contains(':')) {
        (0, _) => address.to_owned(),
        (port, true) => format!("[{address}]:{port}"),
        (port, false) => format!("{address}:{port}"),
    }
}

pub(crate) fn ends(flow: &v1::Flow) -> (String, String) {
    (
        end(&flow.source, flow.source_port),
        end(&flow.destination, flow.destination_port),
    )
}

/// An interface, and the endpoint behind it.
pub(crate) fn place(interface: &str, endpoint: &str) -> String {
    match (interface, endpoint) {
        ("", _) => "this host".into(),
        (interface, "") => interface.into(),
        (interface, endpoint) => format!("{interface} ({endpoint})"),
    }
}

fn rules(rules: &[v1::RuleReason]) -> String {
    let rules: Vec<String> = rules.iter().map(rule).collect();
    rules.join(" and ")
}

/// A rule in words: `rule 0 of GlobalNetworkPolicy web (tier default, ingress)`.
fn rule(rule: &v1::RuleReason) -> String {
    let mut text = match rule.rule {
        Some(number) => format!("rule {number} of {} {}", rule.kind, rule.policy),
        None => format!("{} {}", rule.reason, rule.policy)
            .trim_end()
            .to_owned(),
    };
    let mut where_from = Vec::new();
    if !rule.tier.is_empty() {
        where_from.push(format!("tier {}", rule.tier));
    }
    match (&*rule.direction, &*rule.interface) {
        ("", _) => {}
        (direction, "") => where_from.push(direction.into()),
        (direction, interface) => where_from.push(format!("{direction} of {interface}")),
    }
    if !where_from.is_empty() {
        text += &format!(" ({})", where_from.join(", "));
    }
    text
}

pub(crate) fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> v1::Flow {
        let count = |packets, bytes| Some(v1::FlowCounters { packets, bytes });
        v1::Flow {
            source: "2001:db8::1".into(),
            destination: "10.0.0.2".into(),
            protocol: "tcp".into(),
            source_port: 40_000,
            destination_port: 80,
            input: "p0".into(),
            input_endpoint: "lab/a".into(),
            forward: count(3, 180),
            reverse: count(2, 120),
            age_ms: 1_250,
            rules: vec![
                v1::RuleReason {
                    tier: "default".into(),
                    kind: "GlobalNetworkPolicy".into(),
                    policy: "web".into(),
                    rule: Some(0),
                    direction: "egress".into(),
                    reason: "rule".into(),
                    ..Default::default()
                },
                v1::RuleReason {
                    reason: "failsafe port".into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        }
    }

    #[test]
    fn a_record_is_one_line() {
        let mut record = v1::FlowLogRecord {
            event: "end".into(),
            timestamp_ns: 86_400_000_000_000 + 3_723_004_000_000,
            verdict: "allow".into(),
            end_reason: "closed".into(),
            flow: Some(flow()),
            staged_verdict: "allow".into(),
            ..Default::default()
        };
        let by = "by rule 0 of GlobalNetworkPolicy web (tier default, egress) and failsafe port";
        assert_eq!(
            describe(&record),
            format!(
                "01:02:03.004 end    allow tcp [2001:db8::1]:40000 > 10.0.0.2:80, p0 (lab/a) > this host, closed, {by}, 3/2 packets, 180/120 bytes, 1.2 s"
            )
        );
        record.event = "denied".into();
        record.verdict = "deny".into();
        record.end_reason.clear();
        record.drop_reason = "policy-denied".into();
        record.staged_rules = vec![v1::RuleReason {
            tier: "default".into(),
            direction: "ingress".into(),
            reason: "end of tier".into(),
            ..Default::default()
        }];
        record.staged_verdict = "deny\n".into();
        let line = describe(&record);
        assert!(line.contains("policy-denied, by rule 0"), "{line}");
        let end =
            "3 packets, 180 bytes, staged: deny\u{fffd} by end of tier (tier default, ingress)";
        assert!(line.ends_with(end), "{line}");
        let lost = v1::FlowLogRecord {
            event: "lost".into(),
            lost: 9,
            ..Default::default()
        };
        assert_eq!(describe(&lost), "00:00:00.000 lost   9 records");
    }

    #[test]
    fn flows_have_a_row_each() {
        let mut table = heading();
        table.row(row(&flow()));
        let text = table.render();
        let line = text.lines().nth(1).unwrap_or_default();
        assert!(
            line.contains("tcp       [2001:db8::1]:40000  10.0.0.2:80"),
            "{text}"
        );
        assert!(line.contains("p0 (lab/a)  this host"), "{text}");
    }
}
