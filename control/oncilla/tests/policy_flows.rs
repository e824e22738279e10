//! What the daemon tells about flows and rules, with real traffic: counts that are those of the packets sent, and the rules that decided.

mod kit;

use std::process::Stdio;
use std::time::Duration;

use afpacket_sim::traffic::{Integrity, PingOptions, TcpOptions, tcp_transfer};
use control::client::{Client, ClientError};
use control_api::v1;
use kit::{Daemon, TOPOLOGY, ip, lab, objects, pings, wait_until};
use serde_json::Value;
use tonic::Code;

fn calico(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
    )
}

fn workload(host: &str, interface: &str, role: &str, addresses: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
         metadata: {{name: {host}, namespace: lab, labels: {{role: {role}}}}}\n\
         spec: {{node: gw, interfaceName: {interface}, ipNetworks: {addresses}}}\n"
    )
}

/// Hosts `a`, `b` and `d` as workloads: `b` logs what comes, and takes ICMP and TCP from `a` alone. A staged policy would refuse ICMP.
fn policies() -> String {
    [
        workload("a", "p0", "client", "[198.18.1.2]"),
        workload("b", "p1", "web", "[198.18.2.2]"),
        workload("d", "p3.100.20", "other", "[198.18.4.2]"),
        calico(
            "GlobalNetworkPolicy",
            "web",
            "{order: 10, selector: role == 'web', types: [Ingress], ingress: [
               {action: Log, protocol: ICMP},
               {action: Allow, protocol: ICMP, source: {selector: role == 'client'}},
               {action: Allow, protocol: TCP, source: {selector: role == 'client'}}]}",
        ),
        calico(
            "GlobalNetworkPolicy",
            "leave",
            "{order: 20, selector: all(), types: [Egress], egress: [{action: Allow}]}",
        ),
        calico(
            "StagedGlobalNetworkPolicy",
            "no-icmp",
            "{order: 5, selector: role == 'web', types: [Ingress], ingress: [{action: Deny, protocol: ICMP}]}",
        ),
    ]
    .concat()
}

fn ping_options(count: u32) -> PingOptions {
    PingOptions {
        count,
        interval: Duration::from_millis(10),
        timeout: Duration::from_millis(400),
        ..PingOptions::default()
    }
}

/// Records until there are enough of them.
fn records(
    daemon: &mut Daemon,
    log: &mut tonic::Streaming<v1::FlowLogRecord>,
    enough: impl Fn(&[v1::FlowLogRecord]) -> bool,
) -> Vec<v1::FlowLogRecord> {
    daemon.ask(async |_| {
        let mut list = Vec::new();
        while !enough(&list) {
            let next = log.message().await.expect("the stream goes on");
            list.push(next.expect("the stream goes on"));
        }
        list
    })
}

fn of<'a>(list: &'a [v1::FlowLogRecord], event: &str) -> Vec<&'a v1::FlowLogRecord> {
    list.iter().filter(|record| record.event == event).collect()
}

/// Tier, policy, position and direction.
fn named(rule: &v1::RuleReason) -> (&str, &str, Option<u32>, &str) {
    (&rule.tier, &rule.policy, rule.rule, &rule.direction)
}

fn denied_packets(list: &[v1::FlowLogRecord]) -> u64 {
    let flows = of(list, "denied").into_iter();
    let flows = flows.filter_map(|record| record.flow.as_ref()?.forward);
    flows.map(|count| count.packets).sum()
}

#[test]
fn what_is_told_of_flows_is_what_happened() {
    let Some((lab, _turn)) = lab("what_is_told_of_flows_is_what_happened", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&lab, directory.path(), &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    daemon.apply(&policies());
    let request = v1::FlowLogRequest {
        filter: Some(v1::FlowFilter {
            address: Some("198.18.2.2".into()),
            ..v1::FlowFilter::default()
        }),
        interval_seconds: 3600,
        ..v1::FlowLogRequest::default()
    };
    let mut log = daemon
        .ask(async |client| client.flow_log(request).await)
        .expect("begins");
    let mut lines =
        daemon.cli_command(&["show", "flow-log", "-o", "json", "-p", "icmp", "-c", "2"]);
    let lines = lines.stdout(Stdio::piped()).spawn().expect("starts");
    // The command line follows the log too once its records come; until then single packets of another kind.
    let answered = |from: &str, to: &str, count| {
        let report = pings(&lab, from, to, &ping_options(count));
        assert_eq!(report.sent, u64::from(count), "{report:?}");
        report.received
    };

    // Five pings are a flow; seven from elsewhere are denied, each of them.
    assert_eq!(answered("a", "198.18.2.2", 5), 5);
    assert_eq!(answered("d", "198.18.2.2", 7), 0);
    let list = records(&mut daemon, &mut log, |list| denied_packets(list) >= 7);
    assert_eq!(denied_packets(&list), 7);
    assert_eq!(of(&list, "lost").len(), 0);
    let [start] = of(&list, "start")[..] else {
        panic!("{list:?}")
    };
    assert_eq!((&*start.verdict, &*start.staged_verdict), ("allow", "deny"));
    let staged: Vec<_> = start
        .staged_rules
        .iter()
        .map(|rule| rule.policy.as_str())
        .collect();
    assert_eq!(staged, ["no-icmp"]);
    let flow = start.flow.as_ref().unwrap();
    assert_eq!(
        (&*flow.source, &*flow.destination),
        ("198.18.1.2", "198.18.2.2")
    );
    assert_eq!((&*flow.protocol, flow.icmp_type), ("icmp", Some(8)));
    assert_eq!((&*flow.input, &*flow.output), ("p0", "p1"));
    assert_eq!(
        (&*flow.input_endpoint, &*flow.output_endpoint),
        ("lab/a", "lab/b")
    );
    let rules: Vec<_> = flow.rules.iter().map(named).collect();
    let leave = ("default", "leave", Some(0), "egress");
    assert_eq!(rules, [leave, ("default", "web", Some(1), "ingress")]);
    for denied in of(&list, "denied") {
        let flow = denied.flow.as_ref().unwrap();
        assert_eq!(
            (&*denied.verdict, &*denied.drop_reason),
            ("deny", "policy-denied")
        );
        assert_eq!(
            (&*flow.source, &*flow.input_endpoint),
            ("198.18.4.2", "lab/d")
        );
        let rules: Vec<_> = flow.rules.iter().map(named).collect();
        assert_eq!(rules, [("default", "", None, "ingress")]);
        assert_eq!(flow.rules[0].reason, "end of tier");
        assert_eq!(denied.staged_verdict, "deny");
        assert_eq!(denied.staged_rules[0].policy, "no-icmp");
    }
    // The rule that logs saw one first packet of the flow, and all that were denied.
    let logged: Vec<_> = of(&list, "log");
    let verdicts = |verdict| logged.iter().filter(|log| log.verdict == verdict).count();
    assert_eq!((verdicts("allow"), verdicts("deny")), (1, 7));
    for log in &logged {
        let rule = &log.flow.as_ref().unwrap().rules[0];
        assert_eq!(named(rule), ("default", "web", Some(0), "ingress"));
    }
    assert!(
        daemon.log().contains("a rule logs 198.18.4.2"),
        "{}",
        daemon.log()
    );

    // What the rules counted.
    let counted = |daemon: &mut Daemon, policy: &str, rule: Option<u32>| {
        let all = daemon.ask(async |client| client.rule_counters(false).await);
        let found = all.expect("answers").rules.into_iter().find(|counter| {
            let name = counter.rule.as_ref().map(named);
            name == Some(("default", policy, rule, "ingress"))
        });
        found.map_or((0, 0), |counter| (counter.allowed, counter.denied))
    };
    assert_eq!(counted(&mut daemon, "web", Some(1)), (1, 0));
    assert_eq!(counted(&mut daemon, "", None), (0, 7));
    let (code, text, errors) = daemon.cli(&["show", "drops", "--by-rule"]);
    assert_eq!((code, &*errors), (0, ""));
    let line = text.lines().nth(1).unwrap_or_default();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(
        words,
        ["7", "0", "default", "ingress", "end", "of", "tier"],
        "{text}"
    );
    // They stay when policy changes, and go on.
    daemon.apply(&calico(
        "GlobalNetworkPolicy",
        "another",
        "{selector: role == 'x', ingress: [{action: Allow}]}",
    ));
    assert_eq!(answered("d", "198.18.2.2", 2), 0);
    assert_eq!(counted(&mut daemon, "", None), (0, 9));
    let list = records(&mut daemon, &mut log, |list| denied_packets(list) >= 2);
    assert_eq!(denied_packets(&list), 2);

    // The table has both flows, with the counters of both directions.
    let options = TcpOptions {
        bytes_per_stream: Some(100_000),
        verify: true,
        timeout: kit::PATIENCE,
        ..TcpOptions::default()
    };
    let (client, server) = (lab.namespace("a").unwrap(), lab.namespace("b").unwrap());
    let report = tcp_transfer(client, server, ip("198.18.2.2"), &options).unwrap();
    assert_eq!(report.integrity, Integrity::Intact);
    let show = |daemon: &Daemon, arguments: &[&str]| -> Vec<Value> {
        let command = [&["show", "flows", "-o", "json"], arguments].concat();
        let (code, text, errors) = daemon.cli(&command);
        assert_eq!((code, &*errors), (0, ""));
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let flows = show(
        &daemon,
        &["-p", "tcp", "-e", "lab/b", "-a", "198.18.0.0/16"],
    );
    assert!(!flows.is_empty());
    let bytes: u64 = flows
        .iter()
        .filter_map(|flow| flow["forward"]["bytes"].as_u64())
        .sum();
    let back: u64 = flows
        .iter()
        .filter_map(|flow| flow["reverse"]["bytes"].as_u64())
        .sum();
    assert!(bytes + back > 100_000 && bytes.min(back) > 0, "{flows:?}");
    for flow in &flows {
        assert_eq!(
            (&flow["input"], &flow["output"]),
            (&"p0".into(), &"p1".into())
        );
        assert_eq!(flow["rules"][1]["rule"], 2);
        assert!(flow["timeoutMs"].as_u64() > Some(0), "{flow}");
    }
    let icmp = show(&daemon, &["-p", "icmp", "-i", "p1"]);
    let [flow] = &icmp[..] else {
        panic!("{icmp:?}")
    };
    assert_eq!(
        (&flow["forward"]["packets"], &flow["reverse"]["packets"]),
        (&5.into(), &5.into())
    );
    assert_eq!(flow["state"], "established");
    assert_eq!(show(&daemon, &["-p", "icmp", "-i", "p2"]).len(), 0);
    let (code, text, _) = daemon.cli(&["show", "flows", "-p", "icmp"]);
    assert!(
        code == 0 && text.contains("198.18.1.2") && text.contains("p1 (lab/b)"),
        "{text}"
    );
    let (code, text, hint) = daemon.cli(&["show", "flows", "-o", "json", "--limit", "1"]);
    assert_eq!((code, text.lines().count()), (0, 1));
    assert!(hint.contains("--limit 0"), "{hint}");

    // Flows of an endpoint that is taken away end, with what they have carried.
    daemon.delete(&[("WorkloadEndpoint", "lab/b")]);
    let is_end = |record: &&v1::FlowLogRecord| {
        let flow = record.flow.as_ref();
        record.event == "end" && flow.is_some_and(|flow| flow.protocol == "icmp")
    };
    let list = records(&mut daemon, &mut log, |list| {
        list.iter().any(|record| is_end(&record))
    });
    let end = list.iter().find(is_end).unwrap();
    let flow = end.flow.as_ref().unwrap();
    let (there, back) = (flow.forward.unwrap(), flow.reverse.unwrap());
    assert_eq!((there.packets, back.packets), (5, 5));
    assert_eq!(there.bytes, back.bytes);
    assert_eq!(end.end_reason, "removed");
    let rules: Vec<_> = flow.rules.iter().map(named).collect();
    assert_eq!(rules, [leave, ("default", "web", Some(1), "ingress")]);
    assert!(
        of(&list, "start")
            .iter()
            .all(|record| record.flow.as_ref().unwrap().protocol == "tcp")
    );

    // The command line has written a line of JSON for each of two records.
    let mut lines = lines;
    wait_until("the command line has its records", || {
        if lines.try_wait().expect("is ours").is_some() {
            return true;
        }
        answered("a", "198.18.4.2", 1);
        false
    });
    let output = lines.wait_with_output().expect("has ended");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let parsed: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(parsed.len(), 2, "{text}");
    assert!(
        parsed
            .iter()
            .all(|record| record["flow"]["protocol"] == "icmp"),
        "{text}"
    );
    drop(log);
    daemon.stop();
}

#[test]
fn filters_that_make_no_sense_are_refused() {
    let Some((lab, _turn)) = lab("filters_that_make_no_sense_are_refused", TOPOLOGY) else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(&lab, directory.path(), &["--node", "gw"]);
    daemon.apply(&objects(lab.topology()));
    daemon.apply(&policies());
    daemon.apply(&calico(
        "HostEndpoint",
        "both",
        "{node: gw, interfaceName: '*'}",
    ));
    let none = v1::FlowFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let (bad, missing) = (Code::InvalidArgument, Code::NotFound);
    for (filter, code, part) in [
        (
            v1::FlowFilter {
                address: text("10.0.0"),
                ..none()
            },
            bad,
            "filter.address: \"10.0.0\" is no address or prefix",
        ),
        (
            v1::FlowFilter {
                address: text("10.0.0.0/33"),
                ..none()
            },
            bad,
            "filter.address",
        ),
        (
            v1::FlowFilter {
                address: text(""),
                ..none()
            },
            bad,
            "filter.address",
        ),
        (
            v1::FlowFilter {
                protocol: text("tpc"),
                ..none()
            },
            bad,
            "filter.protocol: \"tpc\" is no protocol: write tcp",
        ),
        (
            v1::FlowFilter {
                protocol: text("256"),
                ..none()
            },
            bad,
            "filter.protocol",
        ),
        (
            v1::FlowFilter {
                port: Some(0),
                ..none()
            },
            bad,
            "filter.port: 0 is no port: use 1 to 65535",
        ),
        (
            v1::FlowFilter {
                port: Some(65_536),
                ..none()
            },
            bad,
            "filter.port",
        ),
        (
            v1::FlowFilter {
                state: text("open"),
                ..none()
            },
            bad,
            "filter.state: \"open\" is no state; there are new, established",
        ),
        (
            v1::FlowFilter {
                interface: text("p9"),
                ..none()
            },
            missing,
            "there is no interface p9: 'oncilla show interfaces'",
        ),
        (
            v1::FlowFilter {
                endpoint: text("lab/z"),
                ..none()
            },
            missing,
            "no interface of this node has an endpoint lab/z",
        ),
        (
            v1::FlowFilter {
                endpoint: text("lab/a"),
                interface: text("p0"),
                ..none()
            },
            bad,
            "filter.endpoint: an endpoint is an interface already",
        ),
    ] {
        let request = v1::FlowsRequest {
            filter: Some(filter.clone()),
            limit: 0,
        };
        let dump = daemon.ask(async |client| client.flows(request).await.map(drop));
        let request = v1::FlowLogRequest {
            filter: Some(filter.clone()),
            ..v1::FlowLogRequest::default()
        };
        let log = daemon.ask(async |client| client.flow_log(request).await.map(drop));
        for refused in [dump, log] {
            let error = refused.expect_err(part);
            assert_eq!(error.code(), Some(code), "{filter:?}: {error}");
            assert!(error.to_string().contains(part), "{filter:?}: {error}");
        }
    }
    let request = v1::FlowLogRequest {
        interval_seconds: 3601,
        ..v1::FlowLogRequest::default()
    };
    let error = daemon.ask(async |client| client.flow_log(request).await.map(drop));
    let error = error.expect_err("refused").to_string();
    assert!(
        error.contains("intervalSeconds: 3601 is too much: use 1 to 3600"),
        "{error}"
    );
    let (code, _, error) = daemon.cli(&["show", "flows", "--state", "open"]);
    assert!(
        code == 1 && error.contains("is no state; there are new"),
        "{error}"
    );

    // No more than eight at a time, and there is room again when one has ended.
    let follow = |daemon: &mut Daemon| {
        let request = v1::FlowLogRequest::default();
        daemon.ask(async |client: &mut Client| client.flow_log(request).await)
    };
    let logs: Vec<_> = (0..8)
        .map(|_| follow(&mut daemon).expect("there is room"))
        .collect();
    let error: ClientError = follow(&mut daemon).expect_err("there is none");
    assert_eq!(error.code(), Some(Code::ResourceExhausted));
    drop(logs);
    wait_until("there is room again", || follow(&mut daemon).is_ok());
    daemon.stop();
}
