//! Both nodes, branch by branch.

use std::sync::Arc;

use dataplane::{Flags, TestPacket, WorkerId};
use tables::acl::Rule;
use wire::TcpFlags;
use wire::builder::{ip4, ip6};

use super::EndpointKind::{Host, None as Nobody};
use super::testing::*;
use super::*;
use crate::icmp::ErrorWord;

const ON: &str = "ip4-lookup";
const ON6: &str = "ip6-lookup";
const DENIED: &str = "policy-denied";

/// From host 10 behind one interface to host 10 behind another.
fn udp(from: u16, to: u16, ports: (u16, u16)) -> Vec<u8> {
    ip4(v4(from, 10), v4(to, 10)).udp(ports.0, ports.1).build()
}

fn tcp(from: u16, to: u16, ports: (u16, u16), flags: TcpFlags) -> Vec<u8> {
    let packet = ip4(v4(from, 10), v4(to, 10)).tcp(ports.0, ports.1);
    packet.flags(flags).build()
}

fn udp6(from: u16, to: u16, ports: (u16, u16)) -> Vec<u8> {
    ip6(v6(from, 10), v6(to, 10)).udp(ports.0, ports.1).build()
}

/// Workload 0 may ask workload 1 for names, and nothing else.
fn names() -> Policy {
    policy([
        (0, workload(nothing(), allowing(&[to_port(17, 53)]))),
        (
            1,
            workload(allowing(&[to_port(17, 53), to_port(6, 80)]), nothing()),
        ),
    ])
}

#[test]
fn both_ends_must_allow_and_replies_pass() {
    let mut gateway = Gateway::ip4(names());
    // The reply before its request, and a flow of its own the other way.
    assert_eq!(gateway.fate(1, udp(1, 0, (53, 1000))), DENIED);
    for _ in 0..3 {
        assert_eq!(gateway.fate(0, udp(0, 1, (1000, 53))), ON);
        assert_eq!(gateway.fate(1, udp(1, 0, (53, 1000))), ON);
    }
    assert_eq!(gateway.fate(1, udp(1, 0, (53, 1001))), DENIED);
    assert_eq!(gateway.fate(0, udp(0, 1, (1000, 54))), DENIED);
    // The destination alone allows it.
    assert_eq!(
        gateway.fate(0, tcp(0, 1, (1000, 80), TcpFlags::SYN)),
        DENIED
    );
    assert_eq!(gateway.fate(4, tcp(4, 1, (1000, 80), TcpFlags::SYN)), ON);
    // The source alone does.
    assert_eq!(gateway.fate(0, udp(0, 4, (1000, 53))), ON);
    assert_eq!(gateway.fate(4, udp(4, 1, (1000, 54))), DENIED);
    // Neither is asked.
    assert_eq!(gateway.fate(4, udp(4, 3, (1, 2))), ON);
    gateway.finish();

    let mut gateway = Gateway::ip6(names());
    assert_eq!(gateway.fate(1, udp6(1, 0, (53, 1000))), DENIED);
    assert_eq!(gateway.fate(0, udp6(0, 1, (1000, 53))), ON6);
    assert_eq!(gateway.fate(1, udp6(1, 0, (53, 1000))), ON6);
    assert_eq!(gateway.fate(1, udp6(1, 0, (53, 1001))), DENIED);
    gateway.finish();
}

#[test]
fn packets_of_one_frame_see_the_flows_of_those_in_front() {
    let mut gateway = Gateway::ip4(names());
    let packet = |interface, bytes| TestPacket {
        bytes,
        interface,
        ..TestPacket::default()
    };
    let mut frame = Vec::new();
    for port in 0..60 {
        frame.push(packet(1, udp(1, 0, (53, port))));
        frame.push(packet(0, udp(0, 1, (port, 53))));
        frame.push(packet(1, udp(1, 0, (53, port))));
        frame.push(packet(0, udp(0, 1, (port, 53))));
    }
    assert_eq!(gateway.harness.run(frame.clone()).len(), 180);
    assert_eq!(gateway.harness.drops(), [(DENIED, 60)]);
    assert_eq!(gateway.harness.run(frame).len(), 240);
    gateway.finish();
}

#[test]
fn a_workload_without_policy_is_closed() {
    let mut closed = workload(everything(), everything());
    closed.closed = true;
    let half = workload(None, everything());
    let mut gateway = Gateway::ip4(policy([(0, closed.clone()), (1, half)]));
    assert_eq!(gateway.fate(0, udp(0, 4, (1, 2))), "closed");
    assert_eq!(gateway.fate(4, udp(4, 0, (1, 2))), "closed");
    assert_eq!(gateway.fate(4, udp(4, 1, (1, 2))), "closed");
    assert_eq!(gateway.fate(1, udp(1, 4, (1, 2))), ON);
    gateway.finish();
    let mut gateway = Gateway::ip6(policy([(0, closed)]));
    let solicitation = ip6(v6(0, 10), v6(0, 1)).neighbour_solicitation(v6(0, 1), None);
    assert_eq!(gateway.fate(0, solicitation.build()), "closed");
    gateway.finish();
}

#[test]
fn workloads_send_from_their_own_addresses() {
    let mut sender = workload(everything(), everything());
    sender.sources4 = vec![net4("10.0.0.10/32"), net4("10.9.0.0/16")];
    sender.sources6 = vec![net6("2001:db8:0:0::a/128")];
    let mut gateway = Gateway::ip4(policy([(0, sender.clone())]));
    let from = |source: [u8; 4]| ip4(source, v4(4, 10)).udp(1, 2).build();
    assert_eq!(gateway.fate(0, from([10, 0, 0, 10])), ON);
    assert_eq!(gateway.fate(0, from([10, 9, 3, 4])), ON);
    assert_eq!(gateway.fate(0, from([10, 0, 0, 11])), "spoofed");
    // Nor into another's flow.
    assert_eq!(gateway.fate(4, udp(4, 3, (1, 2))), ON);
    assert_eq!(gateway.fate(0, udp(4, 3, (1, 2))), "spoofed");
    gateway.finish();

    let mut gateway = Gateway::ip6(policy([(0, sender)]));
    let link: core::net::Ipv6Addr = "fe80::5".parse().expect("an address");
    let any = core::net::Ipv6Addr::UNSPECIFIED;
    let group: core::net::Ipv6Addr = "ff02::1:ff00:1".parse().expect("an address");
    let asks = |from, to| ip6(from, to).neighbour_solicitation(v6(0, 1), None).build();
    assert_eq!(
        gateway.fate(0, ip6(v6(0, 10), v6(4, 10)).udp(1, 2).build()),
        ON6
    );
    assert_eq!(
        gateway.fate(0, ip6(v6(0, 11), v6(4, 10)).udp(1, 2).build()),
        "spoofed"
    );
    assert_eq!(gateway.fate(0, asks(any, group)), "ip6-local");
    assert_eq!(gateway.fate(0, asks(link, group)), "ip6-local");
    assert_eq!(gateway.fate(0, asks(link, v6(0, 1))), ON6);
    assert_eq!(gateway.fate(0, asks(v6(0, 11), v6(0, 1))), "spoofed");
    assert_eq!(
        gateway.fate(0, ip6(link, group).udp(1, 2).build()),
        "spoofed"
    );
    gateway.finish();
}

#[test]
fn workloads_reach_the_host_where_settings_and_their_egress_allow() {
    let to_host = |port| ip4(v4(0, 10), v4(0, 1)).udp(1, port).build();
    let mut policy = policy([(0, workload(nothing(), allowing(&[to_port(17, 53)])))]);
    let mut gateway = Gateway::ip4(policy.clone());
    assert_eq!(gateway.fate(0, to_host(53)), ON);
    assert_eq!(gateway.fate(0, to_host(54)), DENIED);
    gateway.finish();
    policy.settings.workload_to_host = false;
    let mut gateway = Gateway::ip4(policy.clone());
    assert_eq!(gateway.fate(0, to_host(53)), "workload-to-host");
    gateway.finish();
    // What a link needs always does: 130 to 133, 135, 136.
    let mut gateway = Gateway::ip6(policy);
    let link: core::net::Ipv6Addr = "fe80::5".parse().expect("an address");
    let group: core::net::Ipv6Addr = "ff02::16".parse().expect("an address");
    for kind in 128..=140 {
        let packet = ip6(link, group).icmp6(kind, 0, [0; 4]).build();
        let expected = match kind {
            130..=133 | 135 | 136 => "ip6-local",
            _ => DENIED,
        };
        assert_eq!(gateway.fate(0, packet), expected, "{kind}");
        let forwarded = ip6(v6(0, 10), v6(4, 10)).icmp6(kind, 0, [0; 4]).build();
        assert_eq!(gateway.fate(0, forwarded), DENIED, "{kind}");
    }
    gateway.finish();
}

#[test]
fn host_endpoints_have_lists_for_the_host_and_for_what_passes_through() {
    let mut host = endpoint(Host);
    host.lists.normal = [allowing(&[to_port(6, 22)]), nothing()];
    host.lists.forward = [allowing(&[to_port(17, 1)]), allowing(&[to_port(17, 2)])];
    let mut gateway = Gateway::ip4(policy([(2, host)]));
    let to_us = |port| {
        let packet = ip4(v4(2, 10), v4(2, 1)).tcp(9, port);
        packet.flags(TcpFlags::SYN).build()
    };
    assert_eq!(gateway.fate(2, to_us(22)), ON);
    assert_eq!(gateway.fate(2, to_us(23)), DENIED);
    assert_eq!(gateway.fate(2, udp(2, 4, (9, 1))), ON);
    assert_eq!(gateway.fate(2, udp(2, 4, (9, 2))), DENIED);
    assert_eq!(gateway.fate(4, udp(4, 2, (9, 2))), ON);
    assert_eq!(gateway.fate(4, udp(4, 2, (9, 1))), DENIED);
    // Replies.
    assert_eq!(gateway.fate(4, udp(4, 2, (1, 9))), ON);
    assert_eq!(gateway.fate(2, udp(2, 4, (2, 9))), ON);
    // What the host itself sends is not asked about, nor what groups are sent.
    let local = TestPacket {
        bytes: udp(4, 2, (9, 7)),
        interface: 4,
        flags: Flags::LOCAL,
        ..TestPacket::default()
    };
    assert_eq!(gateway.fate_of(local), ON);
    let group = |port| ip4(v4(2, 10), [224, 0, 0, 9]).tcp(9, port).build();
    assert_eq!(gateway.fate(2, group(22)), "ip4-local");
    assert_eq!(gateway.fate(2, group(23)), DENIED);
    gateway.finish();
    // An endpoint without lists polices nothing.
    let mut gateway = Gateway::ip4(policy([(2, endpoint(Host))]));
    assert_eq!(gateway.fate(2, to_us(23)), ON);
    assert_eq!(gateway.fate(4, udp(4, 2, (9, 1))), ON);
    gateway.finish();
}

#[test]
fn lists_before_translation_and_tracking_are_final_or_say_nothing() {
    let list = || {
        let rules = [
            (to_port(17, 1), Outcome::Allow, 1),
            (to_port(17, 2), Outcome::Deny, 2),
        ];
        Some(Arc::new(with_end(&rules, true, 0)))
    };
    let lists = Lists {
        forward: [allowing(&[to_port(17, 3)]), everything()],
        normal: [nothing(), nothing()],
        ..Lists::default()
    };
    let mut before_dnat = endpoint(Host);
    before_dnat.lists = Lists {
        pre_dnat: list(),
        ..lists.clone()
    };
    let mut untracked = endpoint(Host);
    untracked.lists = Lists {
        untracked: [list(), None],
        ..lists
    };
    let target = workload(allowing(&[to_port(17, 1), to_port(17, 3)]), everything());
    let both = policy([(0, target), (1, before_dnat), (2, untracked)]);
    let mut gateway = Gateway::ip4(both);
    for from in [1, 2] {
        let to_us = |port| ip4(v4(from, 10), v4(from, 1)).udp(9, port).build();
        assert_eq!(gateway.fate(from, to_us(1)), ON, "final for the host");
        assert_eq!(
            gateway.fate(from, udp(from, 4, (9, 1))),
            ON,
            "final forward"
        );
        assert_eq!(gateway.fate(from, udp(from, 4, (9, 2))), DENIED);
        assert_eq!(gateway.fate(from, udp(from, 4, (9, 3))), ON, "no match");
        assert_eq!(gateway.fate(from, udp(from, 4, (9, 4))), DENIED, "no match");
        assert_eq!(
            gateway.fate(from, udp(from, 0, (9, 1))),
            ON,
            "the workload too"
        );
        assert_eq!(gateway.fate(from, udp(from, 0, (9, 3))), ON);
    }
    // The target of a tracked flow may answer, that of an untracked one by its own egress list only.
    let mut gateway = Gateway::ip4({
        let mut untracked = endpoint(Host);
        untracked.lists.untracked = [list(), None];
        let mut before_dnat = endpoint(Host);
        before_dnat.lists.pre_dnat = list();
        let target = workload(allowing(&[to_port(17, 1)]), nothing());
        policy([(0, target), (1, before_dnat), (2, untracked)])
    });
    for (from, answer) in [(1, ON), (2, DENIED)] {
        assert_eq!(gateway.fate(from, udp(from, 0, (9, 1))), ON);
        assert_eq!(gateway.fate(0, udp(0, from, (1, 9))), answer);
    }
    gateway.finish();
}

#[test]
fn access_lists_track_what_they_reflect() {
    let mut port = endpoint(Nobody);
    port.access = [
        access(&[to_port(17, 1), to_port(17, 2)], &[2]),
        access(&[to_port(17, 3), to_port(17, 4)], &[2]),
    ];
    let mut gateway = Gateway::ip4(policy([(3, port)]));
    // In: without and with tracking.
    assert_eq!(gateway.fate(3, udp(3, 4, (9, 1))), ON);
    assert_eq!(gateway.fate(4, udp(4, 3, (1, 9))), "access-list");
    assert_eq!(gateway.fate(4, udp(4, 3, (2, 9))), "access-list");
    assert_eq!(gateway.fate(3, udp(3, 4, (9, 2))), ON);
    assert_eq!(gateway.fate(4, udp(4, 3, (2, 9))), ON);
    assert_eq!(gateway.fate(3, udp(3, 4, (9, 5))), "access-list");
    // Out.
    assert_eq!(gateway.fate(4, udp(4, 3, (8, 3))), ON);
    assert_eq!(gateway.fate(3, udp(3, 4, (3, 8))), "access-list");
    assert_eq!(gateway.fate(4, udp(4, 3, (8, 4))), ON);
    assert_eq!(gateway.fate(3, udp(3, 4, (4, 8))), ON);
    // To nowhere: the input list alone, and nothing is remembered.
    let lost = |port| ip4(v4(3, 10), [99, 0, 0, 1]).udp(9, port).build();
    assert_eq!(gateway.fate(3, lost(2)), ON);
    assert_eq!(gateway.fate(3, lost(5)), "access-list");
    gateway.finish();
}

#[test]
fn icmp_belongs_to_the_flow_that_it_is_about() {
    let mut gateway = Gateway::ip4(policy([
        (
            0,
            workload(nothing(), allowing(&[to_port(17, 53), of_protocols(&[1])])),
        ),
        (1, workload(everything(), nothing())),
    ]));
    let echo = |id| ip4(v4(0, 10), v4(1, 10)).icmp4_echo(id, 1).build();
    let reply = |id| ip4(v4(1, 10), v4(0, 10)).icmp4_echo_reply(id, 1).build();
    assert_eq!(gateway.fate(1, reply(7)), DENIED);
    assert_eq!(gateway.fate(0, echo(7)), ON);
    assert_eq!(gateway.fate(1, reply(7)), ON);
    assert_eq!(gateway.fate(1, reply(8)), DENIED);
    let request = ip4(v4(1, 10), v4(0, 10)).icmp4_echo(7, 1).build();
    assert_eq!(gateway.fate(1, request), DENIED, "another flow");
    // Errors, from anywhere on the way.
    let asked = udp(0, 1, (1000, 53));
    let error = |from: core::net::Ipv4Addr, to: core::net::Ipv4Addr, about: &[u8]| {
        ip4(from, to).icmp4_error(3, 3, 0, about).build()
    };
    let about = |bytes: &[u8]| error(v4(1, 10), v4(0, 10), bytes);
    assert_eq!(gateway.fate(1, about(&asked)), DENIED);
    assert_eq!(gateway.fate(0, asked.clone()), ON);
    assert_eq!(gateway.fate(1, about(&asked)), ON);
    assert_eq!(gateway.fate(1, about(&udp(0, 1, (1001, 53)))), DENIED);
    assert_eq!(
        gateway.fate(1, error(v4(1, 10), v4(0, 11), &asked)),
        DENIED,
        "not its sender"
    );
    assert_eq!(gateway.fate(1, about(&asked[..27])), ON, "ports are quoted");
    assert_eq!(
        gateway.fate(1, about(&asked[..23])),
        DENIED,
        "ports are not"
    );
    assert_eq!(gateway.fate(1, about(&asked[..19])), DENIED);
    // One of no flow is invalid, even where rules allow it, and opens none.
    let allowed = ip4(v4(0, 10), v4(1, 10)).icmp4_error(3, 1, 0, &udp(1, 0, (5, 5)));
    assert_eq!(gateway.fate(0, allowed.build()), "invalid");
    let back = ip4(v4(1, 10), v4(0, 10)).icmp4_error(3, 1, 0, &udp(0, 1, (5, 5)));
    assert_eq!(gateway.fate(1, back.build()), DENIED);
    gateway.finish();
    // Access lists are about packets: what they permit passes.
    let mut lists = endpoint(Nobody);
    lists.access[INPUT] = access(&[Rule::default()], &[1]);
    let mut gateway = Gateway::ip4(policy([(0, lists)]));
    let permitted = ip4(v4(0, 10), v4(1, 10)).icmp4_error(3, 1, 0, &udp(1, 0, (5, 5)));
    assert_eq!(gateway.fate(0, permitted.build()), ON);
    gateway.finish();

    let mut gateway = Gateway::ip6(names());
    let asked = udp6(0, 1, (1000, 53));
    let about = |bytes: &[u8]| {
        let error = ip6(v6(1, 10), v6(0, 10)).icmp6_error(1, 4, 0, bytes);
        error.build()
    };
    assert_eq!(gateway.fate(1, about(&asked)), DENIED);
    assert_eq!(gateway.fate(0, asked.clone()), ON6);
    assert_eq!(gateway.fate(1, about(&asked)), ON6);
    gateway.finish();
}

#[test]
fn fragments_follow_the_first() {
    let mut gateway = Gateway::ip4(names());
    let first = |id: u16, port| {
        let packet = ip4(v4(0, 10), v4(1, 10)).id(id).more_fragments();
        packet.udp(1000, port).payload(&[1; 8]).build()
    };
    let later = |id: u16| {
        let packet = ip4(v4(0, 10), v4(1, 10)).id(id).fragment_offset(2);
        packet.raw(17, &[2; 8]).build()
    };
    assert_eq!(gateway.fate(0, later(1)), "fragment");
    assert_eq!(gateway.fate(0, first(1, 53)), ON);
    assert_eq!(gateway.fate(0, later(1)), ON);
    assert_eq!(gateway.fate(0, later(2)), "fragment");
    assert_eq!(gateway.fate(0, first(2, 54)), DENIED);
    assert_eq!(gateway.fate(0, later(2)), DENIED);
    let over_flags = ip4(v4(0, 10), v4(1, 10)).id(1).fragment_offset(1);
    assert_eq!(
        gateway.fate(0, over_flags.raw(6, &[0; 8]).build()),
        "fragment"
    );
    gateway.harness.set_time(100_000_000_000);
    assert_eq!(gateway.fate(0, later(1)), "fragment");
    gateway.finish();

    let mut gateway = Gateway::ip6(names());
    let first = |id, port| {
        let packet = ip6(v6(0, 10), v6(1, 10)).fragment(id, 0, true);
        packet.udp(1000, port).payload(&[1; 8]).build()
    };
    let later = |id| {
        let packet = ip6(v6(0, 10), v6(1, 10)).fragment(id, 2, false);
        packet.raw(17, &[2; 8]).build()
    };
    assert_eq!(gateway.fate(0, later(1)), "fragment");
    assert_eq!(gateway.fate(0, first(1, 53)), ON6);
    assert_eq!(gateway.fate(0, later(1)), ON6);
    assert_eq!(gateway.fate(0, first(2, 54)), DENIED);
    assert_eq!(gateway.fate(0, later(2)), DENIED);
    gateway.finish();
}

#[test]
fn connections_and_what_belongs_to_none() {
    let mut gateway = Gateway::ip4(policy([(
        0,
        workload(nothing(), allowing(&[to_port(6, 80)])),
    )]));
    let out = |port, flags| tcp(0, 4, (port, 80), flags);
    let back = |port, flags| tcp(4, 0, (80, port), flags);
    assert_eq!(gateway.fate(4, back(1, TcpFlags::SYN_ACK)), DENIED);
    assert_eq!(gateway.fate(0, out(1, TcpFlags::SYN)), ON);
    assert_eq!(gateway.fate(4, back(1, TcpFlags::SYN_ACK)), ON);
    assert_eq!(gateway.fate(0, out(1, TcpFlags::ACK)), ON);
    assert_eq!(gateway.fate(4, back(1, TcpFlags::ACK)), ON);
    let scan = TcpFlags(TcpFlags::SYN.0 | TcpFlags::FIN.0);
    assert_eq!(gateway.fate(0, out(1, scan)), "invalid");
    assert_eq!(gateway.fate(0, out(2, scan)), "invalid");
    // In the middle of one: as new.
    assert_eq!(gateway.fate(0, out(3, TcpFlags::ACK)), ON);
    assert_eq!(gateway.fate(4, back(3, TcpFlags::ACK)), ON);
    // What begins none passes where allowed, and nothing is remembered.
    for (port, flags) in [(4, TcpFlags::RST), (5, TcpFlags::SYN_ACK)] {
        assert_eq!(gateway.fate(0, out(port, flags)), ON);
        assert_eq!(gateway.fate(4, back(port, TcpFlags::ACK)), DENIED);
    }
    // After the end the ports open another one.
    assert_eq!(gateway.fate(0, out(1, TcpFlags::RST)), ON);
    assert_eq!(gateway.fate(4, back(1, TcpFlags::SYN)), DENIED);
    assert_eq!(gateway.fate(0, out(1, TcpFlags::SYN)), ON);
    assert_eq!(gateway.fate(4, back(1, TcpFlags::SYN_ACK)), ON);
    gateway.finish();
}

#[test]
fn flows_end_and_a_full_table_takes_no_more() {
    let mut gateway = Gateway::new(Ip4Policy::default, names(), 2);
    for port in [1, 2] {
        assert_eq!(gateway.fate(0, udp(0, 1, (port, 53))), ON);
        assert_eq!(gateway.fate(1, udp(1, 0, (53, port))), ON);
    }
    assert_eq!(gateway.fate(0, udp(0, 1, (3, 53))), "flow-table-full");
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 53))), ON);
    gateway.harness.set_time(61_000_000_000);
    assert_eq!(gateway.fate(1, udp(1, 0, (53, 1))), DENIED);
    assert_eq!(gateway.fate(0, udp(0, 1, (3, 53))), ON);
    assert_eq!(gateway.fate(1, udp(1, 0, (53, 3))), ON);
    gateway.finish();
}

#[test]
fn denied_packets_are_answered_where_asked_for() {
    let mut policy = names();
    policy.settings.reject = true;
    let mut gateway = Gateway::ip4(policy.clone());
    let packet = |bytes, interface| TestPacket {
        bytes,
        interface,
        ..TestPacket::default()
    };
    let out = gateway.harness.run(vec![packet(udp(1, 0, (1, 2)), 1)]);
    assert_eq!(out[0].node, "icmp4-error");
    assert_eq!(
        ErrorWord::from_word(out[0].packet.word),
        ErrorWord::new(3, 13)
    );
    let mut gateway = Gateway::ip6(policy.clone());
    let out = gateway.harness.run(vec![packet(udp6(1, 0, (1, 2)), 1)]);
    assert_eq!(out[0].node, "icmp6-error");
    assert_eq!(
        ErrorWord::from_word(out[0].packet.word),
        ErrorWord::new(1, 1)
    );
    // TCP hears what a closed port says; an ICMP error about a segment is no segment.
    let mut gateway = Gateway::ip4(policy.clone());
    let segment = tcp(1, 0, (1, 2), TcpFlags::SYN);
    assert_eq!(gateway.fate(1, segment.clone()), "tcp4-reset");
    let about = ip4(v4(1, 10), v4(0, 10)).icmp4_error(3, 1, 0, &tcp(0, 1, (1, 2), TcpFlags::SYN));
    let out = gateway.harness.run(vec![packet(about.build(), 1)]);
    assert_eq!(out[0].node, "icmp4-error");
    gateway.finish();
    let mut gateway = Gateway::ip6(policy.clone());
    let segment = ip6(v6(1, 10), v6(0, 10)).tcp(1, 2).flags(TcpFlags::SYN);
    assert_eq!(gateway.fate(1, segment.build()), "tcp6-reset");
    gateway.finish();
    // Nobody says who forged a source, or what is broken.
    let mut forger = workload(everything(), everything());
    forger.sources4 = vec![net4("10.0.0.10/32")];
    policy.interfaces[0] = Some(Arc::new(forger));
    let mut gateway = Gateway::ip4(policy);
    assert_eq!(gateway.fate(0, udp(3, 1, (1, 53))), "spoofed");
    gateway.finish();
}

#[test]
fn answers_to_untracked_requests_need_a_rule_of_their_own() {
    let list = |rules: &[(Rule, Outcome, u32)]| Some(Arc::new(with_end(rules, true, 0)));
    let pings = || of_protocols(&[1, 58]);
    let allow = || list(&[(pings(), Outcome::Allow, 1)]);
    let with = |ingress, egress| {
        let mut host = endpoint(Host);
        host.lists.normal = [nothing(), nothing()];
        host.lists.untracked = [ingress, egress];
        policy([(2, host)])
    };
    // Of this host, about a packet that came in by an interface.
    let local = |interface, bytes| TestPacket {
        bytes,
        interface,
        flags: Flags::LOCAL,
        ..TestPacket::default()
    };
    let reply = |to| ip4(v4(2, 1), v4(to, 10)).icmp4_echo_reply(7, 1).build();
    let reply6 = |to| ip6(v6(2, 1), v6(to, 10)).icmp6_echo_reply(7, 1).build();
    for (ingress, egress, expected) in [
        (allow(), None, "invalid"),
        (allow(), list(&[]), "invalid"),
        (
            allow(),
            list(&[(to_port(17, 1), Outcome::Allow, 2)]),
            "invalid",
        ),
        (allow(), allow(), "on"),
        (allow(), list(&[(pings(), Outcome::Deny, 2)]), DENIED),
        // Its request is tracked, or there was none.
        (list(&[]), list(&[(pings(), Outcome::Deny, 2)]), "on"),
        (None, list(&[(pings(), Outcome::Deny, 2)]), "on"),
    ] {
        let policy = with(ingress, egress);
        let (mut four, mut six) = (Gateway::ip4(policy.clone()), Gateway::ip6(policy));
        let on = |fate| match fate {
            ON | ON6 => "on",
            other => other,
        };
        assert_eq!(on(four.fate_of(local(2, reply(2)))), expected);
        assert_eq!(on(six.fate_of(local(2, reply6(2)))), expected);
        four.finish();
        six.finish();
    }
    let deny = || list(&[(Rule::default(), Outcome::Deny, 2)]);
    let mut gateway = Gateway::ip4(with(allow(), deny()));
    // By an interface without policy, and to a request that came in by one.
    assert_eq!(gateway.fate_of(local(2, reply(4))), ON);
    assert_eq!(gateway.fate_of(local(4, reply(2))), ON);
    // Errors belong to what they are about.
    let error = ip4(v4(2, 1), v4(2, 10)).icmp4_error(3, 13, 0, &udp(2, 4, (5, 5)));
    assert_eq!(gateway.fate_of(local(2, error.build())), ON);
    gateway.finish();
}

#[test]
fn established_flows_stay_unless_policy_is_to_be_asked_again() {
    for (reevaluate, after) in [(false, ON), (true, DENIED)] {
        let mut gateway = Gateway::ip4(names());
        for port in [1, 2, 3] {
            assert_eq!(gateway.fate(0, udp(0, 1, (port, 53))), ON);
        }
        let mut same = names();
        same.generation = 2;
        same.settings.reevaluate = reevaluate;
        gateway.publish(same);
        assert_eq!(
            gateway.fate(1, udp(1, 0, (53, 1))),
            ON,
            "from the other end"
        );
        assert_eq!(gateway.fate(0, udp(0, 1, (2, 53))), ON);
        let mut without = policy([
            (0, workload(nothing(), nothing())),
            (1, workload(everything(), nothing())),
        ]);
        without.generation = 3;
        without.settings.reevaluate = reevaluate;
        gateway.publish(without);
        assert_eq!(gateway.fate(1, udp(1, 0, (53, 1))), after);
        assert_eq!(gateway.fate(0, udp(0, 1, (1, 53))), after);
        assert_eq!(gateway.fate(0, udp(0, 1, (2, 53))), after);
        assert_eq!(gateway.fate(1, udp(1, 0, (53, 2))), after);
        assert_eq!(gateway.fate(0, udp(0, 1, (4, 53))), DENIED);
        gateway.finish();
    }
}

/// A flow that policy no longer remembers: both directions are judged as they come.
#[test]
fn a_flow_that_is_no_longer_tracked_is_forgotten() {
    let mut gateway = Gateway::ip4(names());
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 53))), ON);
    let mut port = endpoint(Nobody);
    port.access = [access(&[to_port(17, 53)], &[]), None];
    let mut stateless = policy([(0, port.clone()), (1, port)]);
    stateless.generation = 2;
    stateless.settings.reevaluate = true;
    gateway.publish(stateless);
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 53))), ON);
    assert_eq!(gateway.fate(1, udp(1, 0, (53, 1))), "access-list");
    gateway.finish();
}

#[test]
fn flows_of_an_endpoint_that_is_gone_are_gone() {
    let open = || {
        policy([
            (0, workload(nothing(), everything())),
            (1, workload(everything(), nothing())),
        ])
    };
    let mut gateway = Gateway::ip4(open());
    assert_eq!(gateway.fate(0, udp(0, 1, (1, 2))), ON);
    assert_eq!(gateway.fate(0, udp(0, 4, (1, 2))), ON);
    gateway.harness.set_time(2_000_000_000);
    let mut without = open();
    without.generation = 2;
    without.interfaces[1] = None;
    gateway.publish(without);
    gateway.harness.turn();
    let mut again = open();
    again.generation = 3;
    gateway.publish(again);
    assert_eq!(gateway.fate(1, udp(1, 0, (2, 1))), DENIED);
    assert_eq!(gateway.fate(4, udp(4, 0, (2, 1))), ON);
    gateway.finish();
}

#[test]
fn decisions_are_counted_by_rule() {
    let counters = Arc::new(RuleCounters::new(1, 50));
    let mut policy = names();
    policy.counters = Some(Arc::clone(&counters));
    let mut gateway = Gateway::ip4(policy);
    for port in 0..10 {
        for _ in 0..3 {
            assert_eq!(gateway.fate(4, tcp(4, 1, (port, 80), TcpFlags::SYN)), ON);
        }
        assert_eq!(gateway.fate(0, udp(0, 1, (port, 53))), ON);
    }
    // Both ends' rule 1, and the TCP rule 2 of the destination; rule 99 is the end that denies.
    assert_eq!(gateway.fate(1, udp(1, 0, (7, 7))), DENIED);
    let values = [0, 1, 2, 99].map(|rule| counters.value(RuleId(rule)));
    assert_eq!(values.map(|count| count.allowed), [0, 20, 10, 0]);
    assert_eq!(values.map(|count| count.denied), [0, 0, 0, 1]);
    counters.of(WorkerId(0)).count(Judgement {
        allow: true,
        rule: RuleId(2),
    });
    assert_eq!(counters.value(RuleId(2)).allowed, 11);
    gateway.finish();
}

#[test]
fn packets_that_end_in_their_headers_are_dropped() {
    let mut gateway = Gateway::ip4(names());
    let whole = udp(0, 1, (1, 53));
    for length in 0..24 {
        assert_eq!(gateway.fate(0, whole[..length].to_vec()), "truncated");
    }
    let whole = tcp(0, 1, (1, 80), TcpFlags::SYN);
    assert_eq!(gateway.fate(0, whole[..33].to_vec()), "truncated");
    let whole = ip4(v4(0, 10), v4(1, 10)).icmp4_echo(1, 1).build();
    assert_eq!(gateway.fate(0, whole[..27].to_vec()), "truncated");
    gateway.finish();
    let mut gateway = Gateway::ip6(names());
    let whole = udp6(0, 1, (1, 53));
    for length in 0..44 {
        assert_eq!(gateway.fate(0, whole[..length].to_vec()), "truncated");
    }
    let twice = ip6(v6(0, 10), v6(1, 10))
        .fragment(1, 0, true)
        .fragment(1, 0, true);
    assert_eq!(gateway.fate(0, twice.udp(1, 53).build()), "malformed");
    let behind = ip6(v6(0, 10), v6(1, 10))
        .destination_options(&[])
        .udp(1, 53);
    assert_eq!(gateway.fate(0, behind.build()), ON6);
    gateway.finish();
}
