//! Policy in the whole graph: what passes, what the senders hear, and that no packet sees half of a change.

mod kit;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dataplane::InterfaceCounter;
use graph_nodes::Snapshot;
use graph_nodes::policy::{
    Decision, EndpointKind, InterfacePolicy, Judgement, Lists, Outcome, Policy, Program, RuleId,
    Stage,
};
use kit::{A, B, D, HOST, Lab, gateway_mac, mac, v4, v6};
use tables::acl::{Classifier, PortRange, Protocols, Rule, SetClasses, Side};
use wire::builder::{Builder, Eth, eth};
use wire::{Header, Icmp4Header, Icmp4Type, Ip4Header, TcpFlags, UdpHeader};

/// Allows UDP to these ports, and nothing else.
fn to_ports(ports: &[u16]) -> Option<Arc<Program>> {
    let rule = |port: &u16| Rule {
        protocols: Protocols::from_iter([17]),
        destination: Side {
            ports: PortRange::new(*port, *port).into_iter().collect(),
            ..Side::default()
        },
        ..Rule::default()
    };
    let rules: Vec<Rule> = ports.iter().map(rule).collect();
    let sets = Arc::new(SetClasses::default());
    let decision = |outcome| Decision {
        outcome,
        rule: RuleId(1),
    };
    let stage = Stage::new(
        Classifier::compile(&rules, &sets),
        Classifier::compile(&rules, &sets),
        vec![decision(Outcome::Allow); rules.len()],
        Vec::new(),
        decision(Outcome::Deny),
    );
    let end = Judgement {
        allow: false,
        rule: RuleId(0),
    };
    Some(Arc::new(Program::new(vec![stage], end)))
}

fn workload(ingress: &[u16], egress: &[u16]) -> Option<Arc<InterfacePolicy>> {
    Some(Arc::new(InterfacePolicy {
        kind: EndpointKind::Workload,
        closed: false,
        lists: Lists {
            normal: [to_ports(ingress), to_ports(egress)],
            ..Lists::default()
        },
        staged: None,
        sources4: Vec::new(),
        sources6: Vec::new(),
        access: [None, None],
    }))
}

/// Policies of the interfaces A and B.
fn between(
    generation: u32,
    a: Option<Arc<InterfacePolicy>>,
    b: Option<Arc<InterfacePolicy>>,
) -> Policy {
    let mut policy = Policy {
        generation,
        ..Policy::default()
    };
    policy.interfaces.resize_with(usize::from(D) + 1, || None);
    policy.interfaces[usize::from(A)] = a;
    policy.interfaces[usize::from(B)] = b;
    policy
}

fn with(policy: Policy) -> impl FnOnce(&mut Snapshot) {
    |snapshot| {
        snapshot.policy = policy;
        snapshot.set_policy_features();
    }
}

fn frame(from: u8) -> Builder<Eth> {
    eth(mac(from, HOST), gateway_mac(from.into()))
}

fn udp(from: u8, to: u8, ports: (u16, u16)) -> Vec<u8> {
    let packet = frame(from).ip4(v4(from, HOST), v4(to, HOST));
    packet.udp(ports.0, ports.1).payload(b"policy").build()
}

fn udp6(from: u8, to: u8, ports: (u16, u16)) -> Vec<u8> {
    let packet = frame(from).ip6(v6(from, HOST), v6(to, HOST));
    packet.udp(ports.0, ports.1).payload(b"policy").build()
}

/// Ports on which something came out.
fn out(lab: &mut Lab, port: usize, bytes: Vec<u8>) -> Vec<usize> {
    lab.run(port, bytes)
        .into_iter()
        .map(|(port, _)| port)
        .collect()
}

#[test]
fn replies_pass_and_nothing_else_does() {
    let policy = between(1, workload(&[], &[53]), None);
    let mut lab = Lab::with(&graph_nodes::graph(), with(policy));
    for make in [udp, udp6] {
        assert_eq!(out(&mut lab, 1, make(1, 0, (53, 1000))), []);
        assert_eq!(out(&mut lab, 0, make(0, 1, (1000, 53))), [1]);
        assert_eq!(out(&mut lab, 1, make(1, 0, (53, 1000))), [0]);
        for other in [(54, 1000), (53, 1001), (1000, 53)] {
            assert_eq!(out(&mut lab, 1, make(1, 0, other)), [], "{other:?}");
        }
        assert_eq!(out(&mut lab, 0, make(0, 1, (1000, 54))), []);
        // Between interfaces without policy as ever.
        assert_eq!(out(&mut lab, 1, make(1, 2, (7, 8))), [2]);
    }
    let drops = lab.drops();
    assert!(
        drops.contains(&("ip4-policy/policy-denied".into(), 5)),
        "{drops:?}"
    );
    assert!(
        drops.contains(&("ip6-policy/policy-denied".into(), 5)),
        "{drops:?}"
    );
    // The workload still finds its gateway, and its gateway it.
    let solicitation = frame(0)
        .ip6(v6(0, HOST), v6(0, 1))
        .hop_limit(255)
        .neighbour_solicitation(v6(0, 1), Some(mac(0, HOST)));
    assert_eq!(out(&mut lab, 0, solicitation.build()), [0]);
    let echo = frame(0).ip4(v4(0, HOST), v4(0, 1)).icmp4_echo(1, 1).build();
    assert_eq!(out(&mut lab, 0, echo), []);
    let stats = lab.stats().interface(A).expect("an interface");
    assert!(stats.value(InterfaceCounter::Rx).0 > 0);
    lab.finish();
}

#[test]
fn senders_hear_of_denials_where_asked_for() {
    let mut policy = between(1, workload(&[], &[53]), None);
    policy.settings.reject = true;
    let mut lab = Lab::with(&graph_nodes::graph(), with(policy));
    let denied = udp(1, 0, (1, 2));
    let answers = lab.run(1, denied.clone());
    let [(1, answer)] = &answers[..] else {
        panic!("{answers:?}")
    };
    let (header, rest) = Ip4Header::parse(&answer[14..]).expect("IPv4");
    assert_eq!(
        (header.source(), header.destination()),
        (v4(1, 1), v4(1, HOST))
    );
    let (icmp, quote) = Icmp4Header::parse(rest).expect("ICMP");
    assert_eq!(
        (icmp.icmp_type, icmp.code),
        (Icmp4Type::DESTINATION_UNREACHABLE, 13)
    );
    assert_eq!(quote[..28], denied[14..42]);

    // TCP: as if the port were closed, in the name of whom the segment was for. To a reset, nothing.
    let segment = frame(1).ip4(v4(1, HOST), v4(0, HOST)).tcp(1, 2).seq(7);
    let answers = lab.run(1, segment.clone().flags(TcpFlags::SYN).build());
    let [(1, answer)] = &answers[..] else {
        panic!("{answers:?}")
    };
    let expected = eth(gateway_mac(1), mac(1, HOST))
        .ip4(v4(0, HOST), v4(1, HOST))
        .dont_fragment()
        .tcp(2, 1)
        .ack(8)
        .flags(TcpFlags::RST | TcpFlags::ACK)
        .window(0);
    assert_eq!(answer[..54], expected.build()[..54]);
    assert_eq!(out(&mut lab, 1, segment.flags(TcpFlags::RST).build()), []);
    let segment = frame(1).ip6(v6(1, HOST), v6(0, HOST)).tcp(1, 2).ack(9);
    let answers = lab.run(1, segment.build());
    let [(1, answer)] = &answers[..] else {
        panic!("{answers:?}")
    };
    let expected = eth(gateway_mac(1), mac(1, HOST))
        .ip6(v6(0, HOST), v6(1, HOST))
        .tcp(2, 1)
        .seq(9)
        .flags(TcpFlags::RST)
        .window(0);
    assert_eq!(answer[..], expected.build());
    let drops = lab.drops();
    assert!(
        drops.contains(&("tcp4-reset/about-reset".into(), 1)),
        "{drops:?}"
    );
    lab.finish();
}

#[test]
fn the_hosts_own_answers_are_judged_where_their_requests_are_untracked() {
    let pings = |outcome, rule| {
        let rules = [Rule {
            protocols: Protocols::from_iter([1, 58]),
            ..Rule::default()
        }];
        let sets = Arc::new(SetClasses::default());
        let decision = |outcome, rule| Decision {
            outcome,
            rule: RuleId(rule),
        };
        let stage = Stage::new(
            Classifier::compile(&rules, &sets),
            Classifier::compile(&rules, &sets),
            vec![decision(outcome, rule)],
            Vec::new(),
            decision(Outcome::Pass, 0),
        );
        Some(Arc::new(Program::new(vec![stage], Judgement::UNDECIDED)))
    };
    let echo = || {
        let packet = frame(0).ip4(v4(0, HOST), v4(0, 1));
        packet.icmp4_echo(1, 1).build()
    };
    let echo6 = || {
        let packet = frame(0).ip6(v6(0, HOST), v6(0, 1));
        packet.icmp6_echo(1, 1).build()
    };
    let (allow, deny) = (pings(Outcome::Allow, 1), pings(Outcome::Deny, 2));
    for (untracked, answered) in [
        ([allow.clone(), None], false),
        ([allow.clone(), deny.clone()], false),
        ([allow.clone(), allow], true),
        ([None, deny], true),
    ] {
        let host = InterfacePolicy {
            kind: EndpointKind::Host,
            closed: false,
            lists: Lists {
                normal: [pings(Outcome::Allow, 3), to_ports(&[])],
                untracked,
                ..Lists::default()
            },
            staged: None,
            sources4: Vec::new(),
            sources6: Vec::new(),
            access: [None, None],
        };
        let policy = between(1, Some(Arc::new(host)), None);
        let mut lab = Lab::with(&graph_nodes::graph(), with(policy));
        let expected: &[usize] = if answered { &[0] } else { &[] };
        assert_eq!(out(&mut lab, 0, echo()), expected);
        assert_eq!(out(&mut lab, 0, echo6()), expected);
        lab.finish();
    }
}

/// Two policies that allow different ports. Each of ports 3 and 4 passes only if one end's list is of one policy, and the other
/// end's of the other.
fn mutually_exclusive(generation: u32) -> Policy {
    if generation % 2 == 1 {
        between(generation, workload(&[], &[1, 3]), workload(&[1, 4], &[]))
    } else {
        between(generation, workload(&[], &[2, 4]), workload(&[2, 3], &[]))
    }
}

#[test]
fn no_packet_sees_half_of_a_change() {
    const FLIPS: u32 = 1000;
    let mut lab = Lab::with(&graph_nodes::graph(), with(mutually_exclusive(1)));
    let (rounds, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let (engine, writer) = (&mut lab.engine, &lab.writer);
    let (worker, ends) = (&mut lab.worker, &mut lab.ends);
    let (mut sent, mut seen) = (0, [0u64; 2]);
    std::thread::scope(|scope| {
        let flipping = scope.spawn(|| {
            for generation in 2..FLIPS + 2 {
                let before = rounds.load(Ordering::Acquire);
                let mut snapshot = kit::snapshot(writer);
                with(mutually_exclusive(generation))(&mut snapshot);
                let epoch = engine.publish(snapshot);
                // Packets run under each of them.
                while !engine.is_live(epoch) || rounds.load(Ordering::Acquire) < before + 2 {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::yield_now();
                }
                engine.reclaim();
            }
        });
        let mut source = u32::from_be_bytes([172, 16, 0, 0]);
        while !flipping.is_finished() {
            for _ in 0..4 {
                for port in [1, 2, 3, 4] {
                    // All of them new flows.
                    source += 1;
                    let packet = frame(0).ip4(Ipv4Addr::from_bits(source), v4(1, HOST));
                    let bytes = packet.udp(9, port).build();
                    assert!(ends[0].send(dataplane::MemoryWire {
                        bytes,
                        offload: None
                    }));
                    sent += 1;
                }
            }
            worker.turn();
            let mut passed = [0; 5];
            while let Some(frame) = ends[1].receive() {
                let (header, _) = UdpHeader::split(&frame.bytes[34..]).expect("UDP");
                passed[usize::from(header.dst_port.get())] += 1;
            }
            let whole = passed == [0, 4, 0, 0, 0] || passed == [0, 0, 4, 0, 0];
            failed.store(!whole, Ordering::Relaxed);
            assert!(whole, "one frame, one policy: {passed:?}");
            seen[usize::from(passed[2] > 0)] += 1;
            rounds.fetch_add(1, Ordering::Release);
        }
        flipping.join().expect("the flips go on to their end");
    });
    assert!(
        seen.iter().all(|rounds| *rounds >= u64::from(FLIPS) / 2),
        "{seen:?}"
    );
    let rounds = rounds.load(Ordering::Relaxed);
    assert_eq!((sent, seen[0] + seen[1]), (rounds * 16, rounds));
    lab.offered += sent;
    lab.sent += rounds * 4;
    lab.finish();
}
