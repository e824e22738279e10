//! `oncilla show`: what the dataplane does.

use clap::{Args as ClapArgs, Subcommand};
use control::client::Client;
use control_api::v1;

use crate::table::{Output, Table, print_json, write_out};
use crate::{flows, nat};

/// Arguments of `oncilla show`.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t, global = true)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum What {
    /// State and counters of every interface.
    Interfaces,
    /// The routing tables as the dataplane uses them.
    Routes {
        /// One VRF; all without it.
        #[arg(long)]
        vrf: Option<String>,
    },
    /// The neighbour tables (ARP and IPv6 neighbour discovery).
    #[command(alias = "neighbors")]
    Neighbours,
    /// Work and time by worker and node.
    Runtime,
    /// Dropped packets by node and reason.
    Drops {
        /// By the rules of policies, profiles and access lists that denied them, with what these rules allowed.
        #[arg(long)]
        by_rule: bool,
    },
    /// The flows that policy has allowed, with their state, counters and the rules that allowed them; JSON has one in a line.
    Flows(flows::FlowsArgs),
    /// Translation: sessions, pools, and how outside addresses are used.
    Nat {
        #[command(subcommand)]
        what: nat::What,
    },
    /// Flows as they begin, live on and end, packets that are denied, and what rules log, with the rules; JSON has one record in a line.
    FlowLog(flows::FlowLogArgs),
    /// Which daemon this is and how it is.
    #[command(alias = "info")]
    Version,
}

/// Shows what was asked for.
pub(crate) async fn show(client: &mut Client, args: Args) -> anyhow::Result<()> {
    let output = args.output;
    let json = output == Output::Json;
    let text = match args.what {
        What::Interfaces => {
            let answer = client.interfaces().await?;
            if json {
                return print_json(&answer);
            }
            interfaces(&answer)
        }
        What::Routes { vrf } => {
            let answer = client.routes(vrf.as_deref()).await?;
            if json {
                return print_json(&answer);
            }
            routes(&answer)
        }
        What::Neighbours => {
            let answer = client.neighbours().await?;
            if json {
                return print_json(&answer);
            }
            neighbours(&answer)
        }
        What::Runtime => {
            let answer = client.runtime().await?;
            if json {
                return print_json(&answer);
            }
            runtime(&answer)
        }
        What::Drops { by_rule: true } => {
            let answer = client.rule_counters(true).await?;
            if json {
                return print_json(&answer);
            }
            rule_counters(&answer)
        }
        What::Drops { by_rule: false } => {
            let answer = client.drops().await?;
            if json {
                return print_json(&answer);
            }
            drops(&answer)
        }
        What::Flows(args) => return flows::flows(client, &args, output).await,
        What::Nat { what } => return nat::show(client, &what, output).await,
        What::FlowLog(args) => return flows::flow_log(client, &args, output).await,
        What::Version => {
            let answer = client.info().await?;
            if json {
                return print_json(&answer);
            }
            version(&answer)
        }
    };
    write_out(text.as_bytes())
}

fn interfaces(answer: &v1::InterfacesResponse) -> String {
    let mut table = Table::new(&[
        "NAME",
        "TYPE",
        "DEVICE",
        "STATE",
        "MAC",
        ">MTU",
        "VRF",
        ">RX-PACKETS",
        ">RX-BYTES",
        ">RX-DROPS",
        ">TX-PACKETS",
        ">TX-BYTES",
        ">TX-DROPS",
        "ADDRESSES",
    ]);
    for interface in &answer.interfaces {
        let counters = interface.counters.unwrap_or_default();
        let vlans: Vec<String> = interface.vlan_ids.iter().map(ToString::to_string).collect();
        let kind = if vlans.is_empty() {
            interface.r#type.clone()
        } else {
            format!("{} {}", interface.r#type, vlans.join("."))
        };
        let state = match (
            interface.fault.is_empty(),
            interface.admin_up,
            interface.link_up,
        ) {
            (false, _, _) => format!("fault: {}", interface.fault),
            (true, false, _) => "off".to_owned(),
            (true, true, false) => "no link".to_owned(),
            (true, true, true) => "up".to_owned(),
        };
        table.row([
            interface.name.clone(),
            kind,
            interface.device.clone(),
            state,
            interface.mac_address.clone(),
            interface.mtu.to_string(),
            interface.vrf.clone(),
            counters.rx_packets.to_string(),
            counters.rx_bytes.to_string(),
            (counters.rx_drops + counters.rx_discards).to_string(),
            counters.tx_packets.to_string(),
            counters.tx_bytes.to_string(),
            counters.tx_drops.to_string(),
            interface.addresses.join(" "),
        ]);
    }
    table.render()
}

fn routes(answer: &v1::RoutesResponse) -> String {
    let mut table = Table::new(&["VRF", "DESTINATION", "TYPE", "NEXT HOP", "ORIGIN"]);
    for route in &answer.routes {
        let hops: Vec<String> = route.next_hops.iter().map(next_hop).collect();
        table.row([
            route.vrf.clone(),
            route.destination.clone(),
            route.r#type.clone(),
            hops.join(", "),
            route.origin.clone(),
        ]);
    }
    table.render()
}

fn next_hop(hop: &v1::NextHopEntry) -> String {
    let mut words = Vec::new();
    if !hop.via.is_empty() {
        words.push(format!("via {}", hop.via));
    }
    if !hop.interface.is_empty() {
        words.push(format!("on {}", hop.interface));
    }
    if hop.weight > 1 {
        words.push(format!("weight {}", hop.weight));
    }
    match (hop.mac_address.as_str(), hop.state.as_str()) {
        ("", "") => {}
        ("", state) => words.push(format!("({state})")),
        (mac, _) => words.push(format!("({mac})")),
    }
    words.join(" ")
}

fn neighbours(answer: &v1::NeighboursResponse) -> String {
    let mut table = Table::new(&["ADDRESS", "MAC", "INTERFACE", "STATE", ">AGE"]);
    for neighbour in &answer.neighbours {
        let age = match neighbour.state.as_str() {
            "static" => String::new(),
            _ => format!(
                "{}.{:03} s",
                neighbour.age_ms / 1000,
                neighbour.age_ms % 1000
            ),
        };
        table.row([
            neighbour.address.clone(),
            neighbour.mac_address.clone(),
            neighbour.interface.clone(),
            neighbour.state.clone(),
            age,
        ]);
    }
    table.render()
}

fn runtime(answer: &v1::RuntimeResponse) -> String {
    let mut text = String::new();
    for worker in &answer.workers {
        let core = worker
            .core
            .map(|core| format!(" on core {core}"))
            .unwrap_or_default();
        let ticks = worker.busy_ticks + worker.idle_ticks;
        text.push_str(&format!(
            "worker {}{core}: generation {}, {} loops ({} empty), {} sleeps, {:.1} % busy",
            worker.worker,
            worker.generation,
            worker.loops,
            worker.empty_loops,
            worker.sleeps,
            100.0 * ratio(worker.busy_ticks, ticks),
        ));
        if worker.panics > 0 {
            text.push_str(&format!(", {} panics contained", worker.panics));
        }
        text.push('\n');
        for pair in &worker.handoff {
            text.push_str(&format!(
                "  handed over: {} packets to worker {}, {} from it, {} that it did not take\n",
                pair.sent, pair.worker, pair.received, pair.congested,
            ));
        }
        let mut table = Table::new(&[
            "  NODE",
            ">CALLS",
            ">PACKETS",
            ">TICKS/PACKET",
            ">PACKETS/CALL",
        ]);
        for node in worker.nodes.iter().filter(|node| node.calls > 0) {
            table.row([
                format!("  {}", node.name),
                node.calls.to_string(),
                node.packets.to_string(),
                format!("{:.1}", ratio(node.ticks, node.packets)),
                format!("{:.2}", ratio(node.packets, node.calls)),
            ]);
        }
        text.push_str(&table.render());
    }
    text
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn drops(answer: &v1::DropsResponse) -> String {
    let mut table = Table::new(&[">PACKETS", "NODE", "REASON", "MEANING"]);
    for drop in &answer.drops {
        table.row([
            drop.packets.to_string(),
            drop.node.clone(),
            drop.reason.clone(),
            drop.text.clone(),
        ]);
    }
    table.render()
}

fn rule_counters(answer: &v1::RuleCountersResponse) -> String {
    let mut table = Table::new(&[
        ">DENIED",
        ">ALLOWED",
        "TIER",
        "POLICY",
        ">RULE",
        "DIRECTION",
        "REASON",
    ]);
    for counter in &answer.rules {
        let rule = counter.rule.clone().unwrap_or_default();
        table.row([
            counter.denied.to_string(),
            counter.allowed.to_string(),
            rule.tier.clone(),
            policy(&rule),
            rule.rule.map(|rule| rule.to_string()).unwrap_or_default(),
            direction(&rule),
            rule.reason,
        ]);
    }
    table.render()
}

/// Kind and name of what has the rule.
fn policy(rule: &v1::RuleReason) -> String {
    format!("{} {}", rule.kind, rule.policy).trim().to_owned()
}

fn direction(rule: &v1::RuleReason) -> String {
    match &*rule.interface {
        "" => rule.direction.clone(),
        interface => format!("{} of {interface}", rule.direction),
    }
}

fn version(answer: &v1::InfoResponse) -> String {
    let objects: Vec<String> = answer
        .objects
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let mut text = format!(
        "oncilla {} (process {}), up {} s\ngeneration {}: {}\nworkers {}, time-stamp counter at {:.3} GHz\nstore {}\n",
        answer.version,
        answer.pid,
        answer.uptime_seconds,
        answer.generation,
        objects.join(", "),
        answer.workers,
        answer.ticks_per_second as f64 / 1e9,
        answer.store,
    );
    for fault in &answer.not_live {
        text.push_str(&format!("not live: {fault}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_a_line_each() {
        let rule = |kind: &str, policy: &str, rule| v1::RuleReason {
            kind: kind.into(),
            policy: policy.into(),
            rule,
            direction: "input".into(),
            reason: "rule".into(),
            ..Default::default()
        };
        let of_list = v1::RuleReason {
            interface: "lan".into(),
            ..rule("AccessList", "no-telnet", Some(0))
        };
        let end = v1::RuleReason {
            tier: "default".into(),
            direction: "ingress".into(),
            reason: "end of tier".into(),
            ..rule("", "", None)
        };
        let counter = |rule, denied| v1::RuleCounter {
            rule: Some(rule),
            denied,
            ..Default::default()
        };
        let text = rule_counters(&v1::RuleCountersResponse {
            rules: vec![counter(of_list, 12), counter(end, 3)],
        });
        let expected = [
            "DENIED  ALLOWED  TIER     POLICY                RULE  DIRECTION     REASON",
            "    12        0           AccessList no-telnet     0  input of lan  rule",
            "     3        0  default                              ingress       end of tier",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn numbers_are_put_in_relation() {
        let node = v1::NodeRuntime {
            name: "ip4-lookup".into(),
            calls: 4,
            packets: 10,
            ticks: 125,
        };
        let worker = v1::WorkerRuntime {
            core: Some(1),
            loops: 5,
            busy_ticks: 1,
            idle_ticks: 3,
            nodes: vec![
                node,
                v1::NodeRuntime {
                    name: "never".into(),
                    ..Default::default()
                },
            ],
            ..Default::default()
        };
        let text = runtime(&v1::RuntimeResponse {
            workers: vec![worker],
            ticks_per_second: 1,
        });
        assert!(text.starts_with(
            "worker 0 on core 1: generation 0, 5 loops (0 empty), 0 sleeps, 25.0 % busy\n"
        ));
        let words: Vec<_> = text
            .lines()
            .nth(2)
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        assert_eq!(words, ["ip4-lookup", "4", "10", "12.5", "2.50"]);
        assert!(!text.contains("never"));
    }
}
