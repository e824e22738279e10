//! `oncilla show nat`: what is translated to what.

use std::collections::{BTreeMap, BTreeSet};

use clap::Subcommand;
use control::client::Client;
use control_api::v1;

use crate::flows::{FlowsArgs, dump, each, end, ends, place, seconds};
use crate::table::{Output, Table, print_json, write_out};

/// What to show.
#[derive(Debug, Subcommand)]
pub(crate) enum What {
    /// Flows that are translated, as they come in and as they leave; JSON has one in a line.
    Sessions(FlowsArgs),
    /// The pools, and what they gave out.
    Pools,
    /// Outside addresses in use: how many sessions, hosts behind them, and ports.
    Usage,
}

/// Shows what was asked for.
pub(crate) async fn show(client: &mut Client, what: &What, output: Output) -> anyhow::Result<()> {
    match what {
        What::Sessions(args) => {
            let request = translated(args.to_request());
            dump(client, request, sessions(), session, output).await
        }
        What::Pools => {
            let answer = client.nat_pools().await?;
            match output {
                Output::Json => print_json(&answer),
                Output::Table => write_out(pools(&answer).as_bytes()),
            }
        }
        What::Usage => {
            let mut usage = Usage::default();
            let request = translated(v1::FlowsRequest::default());
            each(client, request, |flow| {
                usage.add(flow);
                Ok(())
            })
            .await?;
            match output {
                Output::Json => print_json(&usage.rows()),
                Output::Table => write_out(usage.table().as_bytes()),
            }
        }
    }
}

fn translated(mut request: v1::FlowsRequest) -> v1::FlowsRequest {
    let filter = request.filter.get_or_insert_default();
    filter.translated = Some(true);
    request
}

fn sessions() -> Table {
    Table::new(&[
        "PROTOCOL",
        "SOURCE",
        "DESTINATION",
        "LEAVES FROM",
        "LEAVES TO",
        "IN",
        "OUT",
        "STATE",
        ">PACKETS",
        ">BACK",
        ">AGE",
        ">TIMEOUT",
    ])
}

fn session(flow: &v1::Flow) -> [String; 12] {
    let (source, destination) = ends(flow);
    let becomes = flow.becomes.clone().unwrap_or_default();
    let packets = |count: Option<v1::FlowCounters>| count.unwrap_or_default().packets.to_string();
    [
        flow.protocol.clone(),
        source,
        destination,
        end(&becomes.source, becomes.source_port),
        end(&becomes.destination, becomes.destination_port),
        place(&flow.input, &flow.input_endpoint),
        place(&flow.output, &flow.output_endpoint),
        flow.state.clone(),
        packets(flow.forward),
        packets(flow.reverse),
        seconds(flow.age_ms),
        seconds(flow.timeout_ms),
    ]
}

fn pools(answer: &v1::NatPoolsResponse) -> String {
    let mut table = Table::new(&[
        "POOL",
        "INTERFACE",
        "ADDRESSES",
        "PORTS",
        "PAIRING",
        ">SESSIONS",
        ">EXHAUSTED",
    ]);
    for pool in &answer.pools {
        let addresses = match pool.addresses.is_empty() {
            true => "none".to_owned(),
            false => pool.addresses.join(", "),
        };
        table.row([
            pool.name.clone(),
            pool.interface.clone(),
            addresses,
            format!("{}-{}", pool.first_port, pool.last_port),
            pool.pairing.clone(),
            pool.sessions.to_string(),
            pool.exhausted.to_string(),
        ]);
    }
    table.render()
}

/// What sources became, by address.
#[derive(Default)]
struct Usage(BTreeMap<String, Used>);

#[derive(Default)]
struct Used {
    sessions: u64,
    hosts: BTreeSet<String>,
    ports: BTreeSet<u32>,
}

/// One outside address, for programs.
#[derive(serde::Serialize)]
struct UsedAddress<'a> {
    address: &'a str,
    sessions: u64,
    hosts: usize,
    ports: usize,
}

impl Usage {
    fn add(&mut self, flow: &v1::Flow) {
        let Some(becomes) = flow.becomes.as_ref() else {
            return;
        };
        if becomes.source == flow.source {
            return;
        }
        let used = self.0.entry(becomes.source.clone()).or_default();
        used.sessions += 1;
        used.hosts.insert(flow.source.clone());
        if becomes.source_port != 0 {
            used.ports.insert(becomes.source_port);
        }
    }

    fn rows(&self) -> Vec<UsedAddress<'_>> {
        self.0
            .iter()
            .map(|(address, used)| UsedAddress {
                address,
                sessions: used.sessions,
                hosts: used.hosts.len(),
                ports: used.ports.len(),
            })
            .collect()
    }

    fn table(&self) -> String {
        let mut table = Table::new(&["ADDRESS", ">SESSIONS", ">HOSTS", ">PORTS"]);
        for row in self.rows() {
            table.row([
                row.address.to_owned(),
                row.sessions.to_string(),
                row.hosts.to_string(),
                row.ports.to_string(),
            ]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(source: &str, port: u32, becomes: (&str, u32)) -> v1::Flow {
        v1::Flow {
            source: source.into(),
            source_port: port,
            destination: "192.0.2.1".into(),
            destination_port: 80,
            protocol: "tcp".into(),
            becomes: Some(v1::FlowEnds {
                source: becomes.0.into(),
                source_port: becomes.1,
                destination: "192.0.2.1".into(),
                destination_port: 80,
            }),
            ..v1::Flow::default()
        }
    }

    #[test]
    fn outside_addresses_are_counted_where_sources_become_them() {
        let mut usage = Usage::default();
        for flow in [
            flow("10.0.0.1", 1000, ("203.0.113.1", 1000)),
            flow("10.0.0.1", 1001, ("203.0.113.1", 1001)),
            flow("10.0.0.2", 1000, ("203.0.113.1", 1000)),
            flow("10.0.0.3", 1000, ("203.0.113.2", 1000)),
            // Only the destination is translated.
            flow("198.51.100.1", 5, ("198.51.100.1", 5)),
            v1::Flow::default(),
        ] {
            usage.add(&flow);
        }
        let rows: Vec<_> = usage
            .rows()
            .iter()
            .map(|row| (row.address.to_owned(), row.sessions, row.hosts, row.ports))
            .collect();
        assert_eq!(
            rows,
            [
                ("203.0.113.1".to_owned(), 3, 2, 2),
                ("203.0.113.2".to_owned(), 1, 1, 1)
            ]
        );
    }

    #[test]
    fn a_session_shows_both_sides() {
        let row = session(&flow("10.0.0.1", 1000, ("203.0.113.1", 2000)));
        assert_eq!(
            &row[..5],
            [
                "tcp",
                "10.0.0.1:1000",
                "192.0.2.1:80",
                "203.0.113.1:2000",
                "192.0.2.1:80"
            ]
        );
    }
}
