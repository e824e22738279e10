//! What is told, by both nodes in their harness.

use std::sync::Arc;

use dataplane::TestPacket;
use proptest::prelude::*;
use tables::acl::{Classifier, Rule, SetClasses};
use wire::TcpFlags;
use wire::builder::{ip4, ip6};

use super::super::testing::*;
use super::super::{
    Decision, EndpointKind, Ip4Policy, Ip6Policy, LogRule, Outcome, Program, Stage,
};
use super::denials::Denials;
use super::*;

const ON: &str = "ip4-lookup";
const DENIED: &str = "policy-denied";
const SECOND: u64 = 1_000_000_000;
const ALL: FlowCommand = FlowCommand::Listen {
    flows: Some(10 * SECOND),
    logs: true,
};

fn udp(from: u16, to: u16, ports: (u16, u16)) -> Vec<u8> {
    ip4(v4(from, 10), v4(to, 10)).udp(ports.0, ports.1).build()
}

fn tcp(from: u16, to: u16, ports: (u16, u16), flags: TcpFlags) -> Vec<u8> {
    let packet = ip4(v4(from, 10), v4(to, 10)).tcp(ports.0, ports.1);
    packet.flags(flags).build()
}

/// Workload 0 may ask workload 1 for names and pages, by rules 1 and 2 of it, and of workload 1.
fn open() -> Policy {
    let rules = || allowing(&[to_port(17, 53), to_port(6, 80)]);
    policy([
        (0, workload(nothing(), rules())),
        (1, workload(rules(), nothing())),
    ])
}

fn watched(policy: Policy, flows: u32) -> (Gateway, FlowWatcher) {
    Gateway::watched(Ip4Policy::default, policy, flows, ALL, (4096, 64))
}

fn all(watcher: &mut FlowWatcher) -> Vec<FlowEvent> {
    std::iter::from_fn(|| watcher.event()).collect()
}

/// What was told, in turns of `seconds` from one moment to another.
fn later(
    gateway: &mut Gateway,
    watcher: &mut FlowWatcher,
    seconds: std::ops::RangeInclusive<u64>,
) -> Vec<FlowEvent> {
    let mut told = Vec::new();
    for second in seconds {
        gateway.harness.set_time(second * SECOND);
        gateway.harness.turn();
        told.extend(all(watcher));
    }
    told
}

fn news(events: &[FlowEvent]) -> Vec<FlowNews> {
    events.iter().map(|event| event.news).collect()
}

fn count(packets: u64, bytes: u64) -> FlowCount {
    FlowCount { packets, bytes }
}

#[test]
fn a_flow_is_told_of_when_it_begins_lives_and_ends() {
    let (mut gateway, mut watcher) = watched(open(), 100);
    assert_eq!(gateway.fate(0, udp(0, 1, (1000, 53))), ON);
    let told = all(&mut watcher);
    let [start] = told[..] else {
        panic!("{told:?}")
    };
    assert_eq!((start.news, start.allow), (FlowNews::Started, true));
    let flow = start.flow;
    assert_eq!(flow.source, IpAddr::from(v4(0, 10)));
    assert_eq!(flow.destination, IpAddr::from(v4(1, 10)));
    assert_eq!((flow.protocol, flow.ports), (17, Some((1000, 53))));
    assert_eq!((flow.icmp, flow.interfaces), (None, [0, 1]));
    assert_eq!(flow.rules, [RuleId(1), RuleId(1)]);
    assert_eq!(flow.counts, [count(1, 28), count(0, 0)]);
    assert_eq!((flow.state, flow.left_ns / SECOND), (FlowState::New, 60));
    assert_eq!(start.staged, None);

    gateway.harness.set_time(2 * SECOND);
    for _ in 0..3 {
        assert_eq!(gateway.fate(1, udp(1, 0, (53, 1000))), ON);
    }
    assert_eq!(
        all(&mut watcher),
        [],
        "packets of living flows are not told of"
    );
    let told = later(&mut gateway, &mut watcher, 3..=40);
    assert_eq!(
        news(&told),
        [FlowNews::Updated],
        "once: nothing passed since"
    );
    assert_eq!(told[0].time_ns, 10 * SECOND);
    assert_eq!(told[0].flow.counts, [count(1, 28), count(3, 84)]);
    assert_eq!(told[0].flow.state, FlowState::Established);
    assert_eq!(told[0].flow.idle_ns / SECOND, 8);
    assert_eq!((told[0].flow.age_ns + SECOND / 50) / SECOND, 10);

    let told = later(&mut gateway, &mut watcher, 41..=70);
    assert_eq!(news(&told), [FlowNews::Ended(FlowEnd::Expired)]);
    assert_eq!(told[0].flow.counts, [count(1, 28), count(3, 84)]);
    assert_eq!(told[0].flow.rules, [RuleId(1), RuleId(1)]);
    gateway.finish();
}

#[test]
fn connections_end_by_fin_and_by_reset() {
    let (mut gateway, mut watcher) = watched(open(), 100);
    let (fin, ack) = (TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0), TcpFlags::ACK);
    let out = |port, flags| tcp(0, 1, (port, 80), flags);
    let back = |port, flags| tcp(1, 0, (80, port), flags);
    for port in [1, 2] {
        assert_eq!(gateway.fate(0, out(port, TcpFlags::SYN)), ON);
        assert_eq!(gateway.fate(1, back(port, TcpFlags::SYN_ACK)), ON);
        assert_eq!(gateway.fate(0, out(port, ack)), ON);
    }
    assert_eq!(gateway.fate(0, out(1, fin)), ON);
    assert_eq!(gateway.fate(1, back(1, fin)), ON);
    assert_eq!(gateway.fate(0, out(1, ack)), ON);
    assert_eq!(gateway.fate(1, back(2, TcpFlags::RST)), ON);
    let told = all(&mut watcher);
    assert_eq!(news(&told), [FlowNews::Started; 2]);
    assert_eq!(told[1].flow.rules, [RuleId(2), RuleId(2)]);
    let mut told = later(&mut gateway, &mut watcher, 1..=50);
    told.retain(|event| event.news != FlowNews::Updated);
    assert_eq!(news(&told), [FlowNews::Ended(FlowEnd::Expired); 2]);
    let ends: Vec<_> = told
        .iter()
        .map(|event| {
            let packets = event.flow.counts.map(|count| count.packets);
            (event.flow.state, event.time_ns / SECOND, packets)
        })
        .collect();
    assert_eq!(
        ends,
        [
            (FlowState::Closed, 31, [4, 2]),
            (FlowState::Reset, 41, [2, 2])
        ]
    );
    gateway.finish();
}

#[test]
fn flows_that_make_room_or_are_taken_away_are_told_of() {
    // Half open ones make room for others.
    let (mut gateway, mut watcher) = watched(open(), 2);
    for port in [1, 2, 3] {
        assert_eq!(gateway.fate(0, tcp(0, 1, (port, 80), TcpFlags::SYN)), ON);
    }
    let told = all(&mut watcher);
    let evicted = FlowNews::Ended(FlowEnd::Evicted);
    let started = FlowNews::Started;
    assert_eq!(news(&told), [started, started, evicted, started]);
    assert_eq!(told[2].flow.counts[0].packets, 1);
    gateway.finish();

    // Ports that are used again.
    let (mut gateway, mut watcher) = watched(open(), 100);
    for flags in [TcpFlags::SYN, TcpFlags::RST, TcpFlags::SYN] {
        assert_eq!(gateway.fate(0, tcp(0, 1, (1, 80), flags)), ON);
    }
    let replaced = FlowNews::Ended(FlowEnd::Replaced);
    assert_eq!(news(&all(&mut watcher)), [started, replaced, started]);

    // An endpoint that is gone.
    gateway.harness.set_time(2 * SECOND);
    let mut without = open();
    without.generation = 2;
    without.interfaces[1] = None;
    gateway.publish(without);
    gateway.harness.turn();
    let told = all(&mut watcher);
    assert_eq!(news(&told), [FlowNews::Ended(FlowEnd::Removed)]);
    assert_eq!(told[0].flow.interfaces, [0, 1]);
    gateway.finish();

    // A flow that is decided again.
    let (mut gateway, mut watcher) = watched(open(), 100);
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 53))), ON);
    let mut closed = policy([(0, workload(nothing(), nothing()))]);
    closed.generation = 2;
    closed.settings.reevaluate = true;
    gateway.publish(closed);
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 53))), DENIED);
    let removed = FlowNews::Ended(FlowEnd::Removed);
    assert_eq!(news(&all(&mut watcher)), [started, removed]);
    let told = later(&mut gateway, &mut watcher, 1..=3);
    assert_eq!(news(&told), [FlowNews::Denied(Drop::PolicyDenied)]);
    gateway.finish();
}

#[test]
fn denied_packets_are_put_together_and_add_up() {
    let (mut gateway, mut watcher) = watched(open(), 100);
    for port in 0..1000 {
        assert_eq!(gateway.fate(0, udp(0, 1, (port, 54))), DENIED);
    }
    for _ in 0..7 {
        assert_eq!(gateway.fate(0, udp(0, 1, (1, 55))), DENIED);
    }
    assert_eq!(all(&mut watcher), []);
    let mut told = later(&mut gateway, &mut watcher, 1..=3);
    told.sort_by_key(|event| event.flow.ports);
    let [first, second] = told[..] else {
        panic!("{told:?}")
    };
    let denied = FlowNews::Denied(Drop::PolicyDenied);
    assert_eq!((first.news, second.news), (denied, denied));
    assert!(!first.allow && !second.allow);
    assert_eq!(first.flow.counts[0], count(1000, 28_000));
    assert_eq!(first.flow.ports, Some((0, 54)));
    assert_eq!(first.flow.rules, [RuleId(99), RuleId::NONE]);
    assert_eq!(first.flow.interfaces, [0, 1]);
    assert_eq!(second.flow.counts[0], count(7, 196));
    // Again in another second.
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 55))), DENIED);
    let told = later(&mut gateway, &mut watcher, 4..=5);
    assert_eq!(told[0].flow.counts[0], count(1, 28));
    assert_eq!(told.len(), 1);

    // A flood from everywhere: few events, and none of the packets is forgotten.
    let sent = 20_000;
    for number in 0..sent / 200 {
        let frame = (0..200).map(|at| {
            let source = Ipv4Addr::from_bits(0x1400_0000 + number * 200 + at);
            TestPacket {
                bytes: ip4(source, v4(1, 10)).udp(1, 54).build(),
                interface: 0,
                ..TestPacket::default()
            }
        });
        assert!(gateway.harness.run(frame.collect()).is_empty());
    }
    let told = later(&mut gateway, &mut watcher, 6..=8);
    let packets: u64 = told.iter().map(|event| event.flow.counts[0].packets).sum();
    let untold = watcher.untold();
    assert_eq!(packets + untold.denied.value(), u64::from(sent));
    assert!(told.len() <= 2000, "{}", told.len());
    assert_eq!(untold.events.value(), 0);
    gateway.finish();
}

#[test]
fn what_is_dropped_in_front_of_flows_is_told_of_too() {
    let mut forger = workload(everything(), everything());
    forger.sources4 = vec![net4("10.0.0.10/32")];
    let mut closed = workload(everything(), everything());
    closed.closed = true;
    let mut host = endpoint(EndpointKind::Host);
    let untracked = with_end(
        &[
            (to_port(17, 1), Outcome::Deny, 7),
            (to_port(17, 2), Outcome::Allow, 8),
        ],
        true,
        0,
    );
    host.lists.untracked[0] = Some(Arc::new(untracked));
    let policy = policy([(0, forger), (1, closed), (2, host)]);
    let (mut gateway, mut watcher) = watched(policy, 100);
    let forged = ip4(v4(3, 10), v4(4, 10)).udp(1, 2).build();
    assert_eq!(gateway.fate(0, forged), "spoofed");
    assert_eq!(gateway.fate(1, udp(1, 4, (1, 2))), "closed");
    assert_eq!(gateway.fate(4, udp(4, 1, (1, 2))), "closed");
    assert_eq!(gateway.fate(2, udp(2, 4, (9, 1))), DENIED);
    assert_eq!(gateway.fate(2, udp(2, 4, (9, 2))), ON);
    assert_eq!(gateway.fate(2, udp(2, 4, (9, 3))), ON);
    let mut told = later(&mut gateway, &mut watcher, 1..=3);
    told.sort_by_key(|event| event.flow.interfaces);
    let seen: Vec<_> = told
        .iter()
        .map(|event| (event.news, event.flow.interfaces, event.flow.rules[0].0))
        .collect();
    assert_eq!(
        seen,
        [
            (FlowNews::Denied(Drop::Spoofed), [0, 4], 0),
            (FlowNews::Denied(Drop::Closed), [1, 4], 0),
            (FlowNews::Denied(Drop::PolicyDenied), [2, 4], 7),
            (FlowNews::Denied(Drop::Closed), [4, 1], 0),
        ]
    );
    gateway.finish();
}

/// Logs UDP by rule 5, then allows port 53 by rule 6.
fn logging(allow: bool) -> Option<Arc<Program>> {
    let sets = Arc::new(SetClasses::default());
    let rules = [to_port(17, 53)];
    let decision = |outcome, rule| Decision {
        outcome,
        rule: RuleId(rule),
    };
    let log = |rule: Rule, number| LogRule {
        before: 0,
        matches: rule,
        rule: RuleId(number),
    };
    let stage = Stage::new(
        Classifier::compile(&rules, &sets),
        Classifier::compile(&rules, &sets),
        vec![decision(Outcome::Allow, 6)],
        vec![log(of_protocols(&[17]), 5), log(of_protocols(&[6]), 4)],
        decision(Outcome::Deny, 9),
    );
    let end = crate::policy::Judgement {
        allow,
        rule: RuleId(10),
    };
    Some(Arc::new(Program::new(vec![stage], end)))
}

#[test]
fn rules_that_log_are_told_of_at_a_bounded_rate() {
    let listen = FlowCommand::Listen {
        flows: None,
        logs: true,
    };
    let logged = policy([(0, workload(nothing(), logging(true)))]);
    let (mut gateway, mut watcher) =
        Gateway::watched(Ip4Policy::default, logged, 1000, listen, (4096, 64));
    gateway.harness.turn();
    assert_eq!(gateway.fate(0, udp(0, 4, (1, 53))), ON);
    assert_eq!(
        gateway.fate(0, udp(0, 4, (1, 53))),
        ON,
        "not a first packet"
    );
    assert_eq!(gateway.fate(0, udp(0, 4, (1, 54))), DENIED);
    assert_eq!(gateway.fate(4, udp(4, 3, (1, 53))), ON, "another's");
    let told = all(&mut watcher);
    let seen: Vec<_> = told
        .iter()
        .map(|event| (event.news, event.allow, event.flow.rules[0].0))
        .collect();
    let log = FlowNews::Logged;
    assert_eq!(seen, [(log, true, 5), (log, false, 5)]);
    assert_eq!(told[1].flow.ports, Some((1, 54)));
    // The verdicts are what they are without it; 98 of the burst are left.
    for port in 2..252 {
        assert_eq!(gateway.fate(0, udp(0, 4, (port, 53))), ON);
    }
    assert_eq!(news(&all(&mut watcher)), [log; 98]);
    assert_eq!(watcher.untold().logs.value(), 152);
    gateway.harness.set_time(SECOND / 2);
    for port in 300..400 {
        assert_eq!(gateway.fate(0, udp(0, 4, (port, 53))), ON);
    }
    assert_eq!(news(&all(&mut watcher)).len(), 50);
    gateway.finish();
}

#[test]
fn staged_policies_are_asked_and_not_enforced() {
    let mut first = workload(nothing(), allowing(&[to_port(17, 53)]));
    let mut staged = first.lists.clone();
    staged.normal[1] = Some(Arc::new(program(&[
        (to_port(17, 54), Outcome::Allow, 3),
        (to_port(17, 53), Outcome::Deny, 4),
    ])));
    first.staged = Some(staged);
    let all_of = policy([(0, first), (1, workload(everything(), everything()))]);
    let (mut gateway, mut watcher) = watched(all_of, 100);
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 53))), ON);
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 54))), DENIED);
    assert_eq!(gateway.fate(1, udp(1, 4, (1, 54))), ON);
    let told = later(&mut gateway, &mut watcher, 0..=80);
    let seen: Vec<_> = told
        .iter()
        .map(|event| {
            let staged = event
                .staged
                .map(|staged| (staged.allow, staged.rules.map(|rule| rule.0)));
            (event.news, staged)
        })
        .collect();
    let ended = FlowNews::Ended(FlowEnd::Expired);
    assert_eq!(
        seen,
        [
            (FlowNews::Started, Some((false, [4, 0]))),
            (FlowNews::Started, None),
            (FlowNews::Denied(Drop::PolicyDenied), Some((true, [3, 1]))),
            (FlowNews::Updated, Some((false, [4, 0]))),
            (FlowNews::Updated, None),
            (ended, Some((false, [4, 0]))),
            (ended, None),
        ]
    );
    gateway.finish();
}

#[test]
fn where_nobody_listens_nothing_is_told() {
    let listen = FlowCommand::Listen {
        flows: None,
        logs: false,
    };
    let logged = policy([(0, workload(nothing(), logging(true)))]);
    let (mut gateway, mut watcher) =
        Gateway::watched(Ip4Policy::default, logged, 1000, listen, (4096, 64));
    assert_eq!(gateway.fate(0, udp(0, 4, (1, 53))), ON);
    assert_eq!(gateway.fate(0, udp(0, 4, (1, 54))), DENIED);
    assert_eq!(later(&mut gateway, &mut watcher, 1..=70), []);
    // Who listens then hears of what comes, and stops hearing.
    assert!(watcher.send(ALL));
    gateway.harness.turn();
    assert_eq!(gateway.fate(0, udp(0, 4, (2, 53))), ON);
    let told = all(&mut watcher);
    assert_eq!(news(&told), [FlowNews::Logged, FlowNews::Started]);
    assert!(watcher.send(listen));
    assert_eq!(later(&mut gateway, &mut watcher, 71..=200), []);
    gateway.finish();
}

#[test]
fn events_that_find_no_room_are_counted() {
    let (mut gateway, mut watcher) =
        Gateway::watched(Ip4Policy::default, open(), 100, ALL, (8, 64));
    gateway.harness.turn();
    for port in 0..20 {
        assert_eq!(gateway.fate(0, udp(0, 1, (port, 53))), ON);
    }
    assert_eq!(watcher.untold().events.value(), 12);
    assert_eq!(all(&mut watcher).len(), 8);
    // Updates wait for room: all flows are told of, some turns later.
    let told = later(&mut gateway, &mut watcher, 10..=19);
    assert_eq!(news(&told), [FlowNews::Updated; 20]);
    gateway.finish();
}

#[test]
fn a_dump_has_every_flow_that_matches_and_waits_for_room() {
    let (mut gateway, mut watcher) =
        Gateway::watched(Ip4Policy::default, open(), 1000, ALL, (4096, 8));
    for port in 200..300 {
        assert_eq!(gateway.fate(0, udp(0, 1, (port, 53))), ON);
    }
    assert_eq!(gateway.fate(0, tcp(0, 1, (207, 80), TcpFlags::SYN)), ON);
    let mut dump = |filter: FlowFilter| {
        let id = 5;
        assert!(watcher.send(FlowCommand::Dump { id, filter }));
        let mut flows = Vec::new();
        for _ in 0..100 {
            gateway.harness.turn();
            let mut parts = 0;
            while let Some(part) = watcher.dumped() {
                parts += 1;
                assert_eq!(part.id, id);
                match part.flow {
                    Some(flow) => flows.push(flow),
                    None => {
                        assert_eq!(watcher.dumped(), None, "nothing behind the end");
                        return flows;
                    }
                }
            }
            assert!(parts <= 8);
        }
        panic!("no end");
    };
    let everything = dump(FlowFilter::default());
    let mut ports: Vec<_> = everything.iter().map(|flow| flow.ports).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((everything.len(), ports.len()), (101, 101));
    let of = |filter: FlowFilter, flows: &[FlowFacts]| {
        flows.iter().filter(|flow| filter.matches(flow)).count()
    };
    let net = |text: &str| Some(Prefix::V4(net4(text)));
    let state = |state: FlowState| Some(1 << state as u8);
    for (filter, expected) in [
        (
            FlowFilter {
                interface: Some(1),
                ..FlowFilter::default()
            },
            101,
        ),
        (
            FlowFilter {
                interface: Some(2),
                ..FlowFilter::default()
            },
            0,
        ),
        (
            FlowFilter {
                prefix: net("10.0.1.10/32"),
                ..FlowFilter::default()
            },
            101,
        ),
        (
            FlowFilter {
                prefix: net("10.0.2.0/24"),
                ..FlowFilter::default()
            },
            0,
        ),
        (
            FlowFilter {
                prefix: Some(Prefix::V6(net6("::/0"))),
                ..FlowFilter::default()
            },
            0,
        ),
        (
            FlowFilter {
                protocol: Some(6),
                ..FlowFilter::default()
            },
            1,
        ),
        (
            FlowFilter {
                port: Some(80),
                ..FlowFilter::default()
            },
            1,
        ),
        (
            FlowFilter {
                port: Some(207),
                ..FlowFilter::default()
            },
            2,
        ),
        (
            FlowFilter {
                port: Some(53),
                protocol: Some(6),
                ..FlowFilter::default()
            },
            0,
        ),
        (
            FlowFilter {
                states: state(FlowState::SynSent),
                ..FlowFilter::default()
            },
            1,
        ),
        (
            FlowFilter {
                states: state(FlowState::New),
                ..FlowFilter::default()
            },
            100,
        ),
    ] {
        assert_eq!(of(filter, &everything), expected, "{filter:?}");
        assert_eq!(dump(filter).len(), expected, "{filter:?}");
    }
    // One that is given up.
    let filter = FlowFilter::default();
    assert!(watcher.send(FlowCommand::Dump { id: 6, filter }));
    gateway.harness.turn();
    assert!(watcher.send(FlowCommand::Cancel));
    gateway.harness.turn();
    while watcher.dumped().is_some() {}
    gateway.harness.turn();
    assert_eq!(watcher.dumped(), None);
    gateway.finish();
}

#[test]
fn ip6_and_icmp_are_told_of_by_their_names() {
    let icmp = policy([(0, workload(nothing(), allowing(&[of_protocols(&[58])])))]);
    let (mut gateway, mut watcher) = Gateway::watched(Ip6Policy::default, icmp, 100, ALL, (64, 64));
    let echo = ip6(v6(0, 10), v6(4, 10)).icmp6_echo(7, 1).build();
    assert_eq!(gateway.fate(0, echo), "ip6-lookup");
    let told = all(&mut watcher);
    assert_eq!(news(&told), [FlowNews::Started]);
    let flow = told[0].flow;
    assert_eq!(flow.source, IpAddr::from(v6(0, 10)));
    assert_eq!(flow.destination, IpAddr::from(v6(4, 10)));
    assert_eq!((flow.icmp, flow.ports), (Some((128, 0)), None));
    assert_eq!((flow.protocol, flow.interfaces), (58, [0, 4]));
    gateway.finish();

    let icmp = policy([(0, workload(nothing(), allowing(&[of_protocols(&[1])])))]);
    let (mut gateway, mut watcher) = watched(icmp, 100);
    let echo = ip4(v4(0, 10), v4(4, 10)).icmp4_echo(7, 1).build();
    assert_eq!(gateway.fate(0, echo), ON);
    let told = all(&mut watcher);
    assert_eq!(news(&told), [FlowNews::Started]);
    assert_eq!(told[0].flow.icmp, Some((8, 0)));
    assert_eq!((told[0].flow.ports, told[0].flow.protocol), (None, 1));
    assert_eq!(told[0].flow.interfaces, [0, 4]);
    gateway.finish();
}

proptest! {
    /// Against a list: what is told and what is refused is what was added, kind by kind.
    #[test]
    fn denials_are_those_of_the_plain_twin(
        packets in prop::collection::vec((0u32..2000, 0u16..3, 1u64..100), 1..3000),
        gap_ns in 0u64..3_000_000,
    ) {
        let mut denials = Denials::default();
        let (mut told, mut refused) = (Vec::new(), Vec::new());
        let mut now = 0;
        let facts = |host: u32, port: u16, bytes| {
            let mut facts = FlowFacts::asked(&Key::<u32>::with_ports(host, 2, 17, 1, port));
            facts.counts[0] = count(1, bytes);
            facts
        };
        for (host, port, bytes) in &packets {
            now += gap_ns;
            let flow = facts(*host, *port, *bytes);
            let first = || FlowEvent {
                news: FlowNews::Denied(Drop::PolicyDenied),
                time_ns: now,
                allow: false,
                flow,
                staged: None,
            };
            let id = (RuleId::NONE, Drop::PolicyDenied, flow);
            if !denials.add(id, first, now, |event| told.push(event)) {
                refused.push((*host, *port, *bytes));
            }
            denials.tell(now, |event| told.push(event));
        }
        denials.tell(now + 10 * SECOND, |event| told.push(event));
        let mut sums = std::collections::BTreeMap::new();
        for (host, port, bytes) in packets {
            let sum: &mut (u64, u64) = sums.entry((host, port)).or_default();
            *sum = (sum.0 + 1, sum.1 + bytes);
        }
        for event in told {
            let IpAddr::V4(host) = event.flow.source else { panic!("{event:?}") };
            let port = event.flow.ports.unwrap_or_default().1;
            let sum = sums.get_mut(&(host.to_bits(), port)).expect("sent");
            let counted = event.flow.counts[0];
            *sum = (sum.0 - counted.packets, sum.1 - counted.bytes);
        }
        for (host, port, bytes) in refused {
            let sum = sums.get_mut(&(host, port)).expect("sent");
            *sum = (sum.0 - 1, sum.1 - bytes);
        }
        prop_assert!(sums.values().all(|sum| *sum == (0, 0)));
    }
}
