//! Translation in the node, clause by clause.

use core::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::{Offload, Segmentation, TestPacket};
use tables::acl::{Prefix, Rule, Side};
use wire::builder::{ip4, ip6};
use wire::checksum::Sum;
use wire::{IpProtocol, TcpFlags};

use super::*;
use crate::icmp::{ErrorWord, Icmp4Error};
use crate::policy::testing::*;
use crate::policy::{EndpointKind, Ip4Policy, Ip6Policy, OUTPUT, Policy, RuleCounters, RuleId};

/// The interface whose packets leave translated.
pub(super) const OUTSIDE: u16 = 4;
/// Ports of the pool.
pub(super) const PORTS: (u16, u16) = (1024, 65_535);
/// What port forwards are about.
pub(super) const FORWARDED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

pub(super) fn pool_addresses() -> std::ops::RangeInclusive<u32> {
    Ipv4Addr::new(203, 0, 113, 1).to_bits()..=Ipv4Addr::new(203, 0, 113, 4).to_bits()
}

pub(super) fn pool(first: Ipv4Addr, last: Ipv4Addr, ports: (u16, u16)) -> Arc<Pool<u32>> {
    Arc::new(Pool {
        number: 0,
        addresses: [(first.to_bits(), last.to_bits())].into(),
        ports,
        paired: true,
    })
}

pub(super) fn from(net: &str) -> Rule {
    Rule {
        source: Side {
            prefixes: vec![Prefix::V4(net4(net))],
            ..Side::default()
        },
        ..Rule::default()
    }
}

fn to(net: &str) -> Rule {
    Rule {
        destination: from(net).source,
        ..Rule::default()
    }
}

/// A port forward of one port, or of several.
fn forward(protocol: u8, ports: (u16, u16), to: Ipv4Addr, port: u16) -> Destination<u32> {
    Destination {
        address: FORWARDED.to_bits(),
        prefix_len: 32,
        protocol: Some(protocol),
        ports: Some(ports),
        to: to.to_bits(),
        port: Some(port),
        source: None,
    }
}

/// Hosts 64 to 71 one to one, one exemption, and a pool for the others; forwards to three hosts inside.
pub(super) fn rules() -> Nat {
    let external = Ipv4Addr::new(203, 0, 113, 64).to_bits();
    let one_to_one = Source::Prefix {
        internal: v4(0, 64).to_bits(),
        external,
        prefix_len: 29,
    };
    let addresses = (
        Ipv4Addr::from_bits(*pool_addresses().start()),
        Ipv4Addr::from_bits(*pool_addresses().end()),
    );
    let sources = SourceRules::new(&[
        (from("10.0.0.64/29"), one_to_one),
        (to("10.0.4.200/32"), Source::Exempt),
        (
            from("10.0.0.0/22"),
            Source::Pool(pool(addresses.0, addresses.1, PORTS)),
        ),
    ]);
    let mut twice = forward(6, (443, 443), v4(0, 22), 443);
    twice.source = Some(pool(v4(0, 250), v4(0, 250), PORTS));
    let prefix = Destination {
        address: external,
        prefix_len: 29,
        protocol: None,
        ports: None,
        to: v4(0, 64).to_bits(),
        port: None,
        source: None,
    };
    let destinations = [
        forward(6, (80, 80), v4(0, 20), 8080),
        forward(17, (5000, 5009), v4(1, 21), 6000),
        twice,
        prefix,
    ];
    let externals = (*pool_addresses().start(), *pool_addresses().end());
    nat(sources, DestinationRules::new(&destinations, &[externals]))
}

fn nat(sources: SourceRules<u32>, destinations: DestinationRules<u32>) -> Nat {
    let sources = Arc::new(sources);
    let mut by_interface = vec![None; usize::from(INTERFACES)];
    by_interface[usize::from(OUTSIDE)] = Some(Arc::clone(&sources));
    Nat {
        ip4: Translation {
            source: by_interface,
            hairpin: vec![Some(sources)],
            destination: vec![Some(Arc::new(destinations))],
        },
        ..Nat::default()
    }
}

/// What leaves for the look-up, or the reason of a drop; `icmp4-error` for what is answered.
pub(super) fn pass(gateway: &mut Gateway, packet: TestPacket) -> Result<TestPacket, &'static str> {
    let before = gateway.harness.drops();
    let mut out = gateway.harness.run(vec![packet]);
    let after = gateway.harness.drops();
    let count = |name: &str| {
        before
            .iter()
            .find(|(reason, _)| *reason == name)
            .map_or(0, |(_, count)| *count)
    };
    let fresh = after.iter().find(|(reason, now)| *now > count(reason));
    match (out.pop(), fresh) {
        (Some(one), None) if one.node.ends_with("-lookup") => Ok(one.packet),
        (Some(one), None) => Err(one.node),
        (None, Some((reason, _))) => Err(reason),
        other => panic!("{other:?}"),
    }
}

pub(super) fn bytes(
    gateway: &mut Gateway,
    interface: u16,
    bytes: Vec<u8>,
) -> Result<Vec<u8>, &'static str> {
    let packet = TestPacket {
        bytes,
        interface,
        ..TestPacket::default()
    };
    pass(gateway, packet).map(|packet| packet.bytes)
}

pub(super) fn gateway(policy: Policy, nat: Nat) -> Gateway {
    Gateway::translating(Ip4Policy::default, policy, nat, 1000)
}

pub(super) fn source_of(packet: &[u8]) -> (Ipv4Addr, u16) {
    let address = Ipv4Addr::from_octets(*packet[12..].first_chunk().unwrap());
    (address, u16::from_be_bytes([packet[20], packet[21]]))
}

#[test]
fn the_look_up_is_told_of_the_new_destination() {
    let mut gateway = gateway(Policy::default(), rules());
    let packet = ip4(v4(OUTSIDE, 10), FORWARDED)
        .tcp(999, 80)
        .flags(TcpFlags::SYN)
        .build();
    for _ in 0..2 {
        let packet = TestPacket {
            bytes: packet.clone(),
            interface: OUTSIDE,
            word: FORWARDED.to_bits(),
            ..TestPacket::default()
        };
        let out = pass(&mut gateway, packet).unwrap();
        assert_eq!(out.word, v4(0, 20).to_bits());
    }
    gateway.finish();
}

/// A sum that hardware or the output port completes is one of the pseudo-header, and follows its addresses.
#[test]
fn checksums_that_are_left_undone_stay_so() {
    let offload = Offload {
        segmentation: Segmentation::None,
        checksum: true,
        checksum_start: 20,
        checksum_field: 36,
        ..Offload::default()
    };
    let partial = |from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)| {
        let sum = Sum::pseudo_header4(from, to, IpProtocol::TCP, 20 + 100).folded();
        let tcp = ip4(from, to).tcp(ports.0, ports.1).flags(TcpFlags::ACK);
        tcp.checksum(sum).payload(&[1; 100]).build()
    };
    let (host, far) = (v4(0, 10), v4(OUTSIDE, 10));
    let mut gateway = gateway(Policy::default(), rules());
    let mut sent = |interface, bytes| {
        let packet = TestPacket {
            bytes,
            interface,
            offload: Some(offload),
            ..TestPacket::default()
        };
        pass(&mut gateway, packet).unwrap().bytes
    };
    // The first packet, later ones, and answers.
    for _ in 0..2 {
        let out = sent(0, partial(host, far, (4000, 80)));
        let (external, port) = source_of(&out);
        assert_ne!(external, host);
        assert_eq!(out, partial(external, far, (port, 80)));
        let back = sent(OUTSIDE, partial(far, external, (80, port)));
        assert_eq!(back, partial(far, host, (80, 4000)));
    }
    gateway.finish();
}

/// What is told to a sender is about what it sent, wherever on the way it was found to be wrong.
#[test]
fn errors_of_this_host_quote_what_was_sent() {
    use crate::snapshot::WorkerState;
    use tables::{
        FlowConfig, FlowKey as _, FlowKey4, FlowState, FlowTable, LegFlags, NewFlow, Tick,
    };

    let (host, external, far) = (v4(0, 10), Ipv4Addr::new(203, 0, 113, 1), v4(OUTSIDE, 10));
    let key = FlowKey4::new(host.to_bits(), far.to_bits(), 4000, 53, 17, 0);
    let leaving = FlowKey4::new(external.to_bits(), far.to_bits(), 5000, 53, 17, 0);
    let table = move || {
        let mut table = FlowTable::new(&FlowConfig::new(10)).unwrap();
        let mut flow = NewFlow::new(key, FlowState::New);
        flow.reply = leaving.reversed();
        flow.rewrites = [
            key.rewrite_to(&leaving),
            flow.reply.rewrite_to(&key.reversed()),
        ];
        for leg in &mut flow.legs {
            leg.flags = LegFlags::REWRITE;
        }
        let made = table.insert(&flow, Tick::default(), |_, _| ());
        assert!(matches!(made, tables::Inserted::New(_)));
        table
    };
    let writer = writer();
    let mut snapshot = snapshot(&writer, Policy::default(), rules());
    for (number, interface) in (0..).zip(&mut snapshot.interfaces) {
        interface.ip4 = vec![crate::snapshot::InterfaceAddress {
            address: v4(number, 1),
            prefix_len: 24,
        }];
    }
    let state =
        move || WorkerState::new(crate::snapshot::IcmpLimits::default()).with_flows(table());
    let mut harness = dataplane::NodeHarness::new(|| Icmp4Error, snapshot, state).unwrap();
    let packet = |from: Ipv4Addr, to: Ipv4Addr, ports: (u16, u16)| {
        ip4(from, to)
            .ttl(1)
            .udp(ports.0, ports.1)
            .payload(&[9; 20])
            .build()
    };
    let mut error = |interface, bytes: Vec<u8>| {
        let packet = TestPacket {
            bytes,
            interface,
            word: ErrorWord::new(11, 0).to_word(),
            ..TestPacket::default()
        };
        harness.run(vec![packet]).pop().unwrap().packet.bytes
    };
    // Translated: back to the host inside. Not translated: as it is.
    let cases = [
        (
            0,
            packet(external, far, (5000, 53)),
            host,
            packet(host, far, (4000, 53)),
        ),
        (
            OUTSIDE,
            packet(far, host, (53, 4000)),
            far,
            packet(far, external, (53, 5000)),
        ),
        (
            0,
            packet(host, far, (4001, 53)),
            host,
            packet(host, far, (4001, 53)),
        ),
    ];
    for (interface, about, told, quoted) in cases {
        let out = error(interface, about);
        let (header, rest) = wire::Ip4Header::parse(&out).unwrap();
        assert_eq!(header.dst.get(), told.to_bits());
        assert_eq!(&rest[8..], quoted);
        assert!(checksum::is_valid(rest));
    }
}

use wire::checksum;

/// Policy sees what Calico's does: lists before translation the destination as it was sent, the others the one that it becomes, and
/// sources as they were. The access list where a packet leaves sees it as it leaves.
#[test]
fn lists_see_packets_before_and_after() {
    let packet = |port| {
        ip4(v4(OUTSIDE, 10), FORWARDED)
            .tcp(999, port)
            .flags(TcpFlags::SYN)
            .build()
    };
    // The workload lets in what comes to its own port.
    for (port, fate) in [(8080, true), (80, false)] {
        let inside = workload(allowing(&[to_port(6, port)]), everything());
        let mut gateway = gateway(policy([(0, inside)]), rules());
        let out = bytes(&mut gateway, OUTSIDE, packet(80));
        assert_eq!(out.is_ok(), fate, "{port}: {out:?}");
        gateway.finish();
    }
    // The host endpoint outside denies before translation what is sent to this port.
    for (port, fate) in [(8080, true), (80, false)] {
        let mut host = endpoint(EndpointKind::Host);
        let denied = [(to_port(6, port), crate::policy::Outcome::Deny, 1)];
        host.lists.pre_dnat = Some(Arc::new(with_end(&denied, true, 0)));
        let mut gateway = gateway(policy([(OUTSIDE, host)]), rules());
        let out = bytes(&mut gateway, OUTSIDE, packet(80));
        assert_eq!(out.is_ok(), fate, "{port}: {out:?}");
        gateway.finish();
    }
    // A workload's egress is judged by its own address, the access list behind by the one that it gets.
    let out = |source: &str, list: &str| {
        let mut outside = endpoint(EndpointKind::None);
        outside.access[OUTPUT] = access(&[from(list)], &[]);
        let inside = workload(nothing(), allowing(&[from(source)]));
        let mut gateway = gateway(policy([(0, inside), (OUTSIDE, outside)]), rules());
        let packet = ip4(v4(0, 10), v4(OUTSIDE, 10)).udp(4000, 53).build();
        let fate = bytes(&mut gateway, 0, packet).map(|_| ());
        gateway.finish();
        fate
    };
    assert_eq!(out("10.0.0.0/24", "203.0.113.0/24"), Ok(()));
    assert_eq!(out("10.0.0.0/24", "10.0.0.0/24"), Err("access-list"));
    assert_eq!(
        out("203.0.113.0/24", "203.0.113.0/24"),
        Err("policy-denied")
    );
}

/// Flows that are there stay when policy is asked again, and are judged by what they were and became.
#[test]
fn flows_are_asked_again_as_what_they_were() {
    for (rule, stays) in [(to_port(6, 8080), true), (to_port(6, 80), false)] {
        for answer in [false, true] {
            let of = |rule: Rule, generation| {
                let inside = workload(allowing(&[rule]), everything());
                let mut policy = policy([(0, inside)]);
                policy.settings.reevaluate = true;
                policy.generation = generation;
                policy
            };
            let mut gateway = gateway(of(to_port(6, 8080), 1), rules());
            let there = ip4(v4(OUTSIDE, 10), FORWARDED)
                .tcp(999, 80)
                .flags(TcpFlags::SYN)
                .build();
            let back = ip4(v4(0, 20), v4(OUTSIDE, 10))
                .tcp(8080, 999)
                .flags(TcpFlags::SYN | TcpFlags::ACK)
                .build();
            bytes(&mut gateway, OUTSIDE, there.clone()).unwrap();
            bytes(&mut gateway, 0, back.clone()).unwrap();
            gateway
                .harness
                .publish(snapshot(&gateway.writer, of(rule.clone(), 2), rules()));
            let (interface, packet, from) = if answer {
                (0, back, FORWARDED)
            } else {
                (OUTSIDE, there, v4(OUTSIDE, 10))
            };
            let out = bytes(&mut gateway, interface, packet);
            match stays {
                true => assert_eq!(source_of(&out.unwrap()).0, from),
                // The answer begins a flow of its own, which egress allows and nothing translates; the packet itself is denied.
                false if answer => assert_ne!(source_of(&out.unwrap()).0, FORWARDED),
                false => assert_eq!(out, Err("policy-denied")),
            }
            gateway.finish();
        }
    }
}

/// A pool without a free port: the new flow is answered and counted, those that are there go on.
#[test]
fn an_exhausted_pool_takes_no_more_and_keeps_what_it_has() {
    let small = pool(FORWARDED, FORWARDED, (2000, 2063));
    let sources = SourceRules::new(&[(from("10.0.0.0/22"), Source::Pool(small))]);
    let counters = Arc::new(RuleCounters::new(1, 2));
    let nat = Nat {
        counters: Some(Arc::clone(&counters)),
        ..nat(sources, DestinationRules::new(&[], &[]))
    };
    let mut gateway = gateway(Policy::default(), nat);
    let far = v4(OUTSIDE, 10);
    let packet = |port: u16| ip4(v4(0, 10), far).udp(port, 53).build();
    let mut used = std::collections::HashSet::new();
    let mut fates: Vec<_> = Vec::new();
    for port in 3000..3100 {
        let out = bytes(&mut gateway, 0, packet(port));
        fates.push(out.as_ref().map(|_| ()).map_err(|reason| *reason));
        if let Ok(out) = out {
            assert!(used.insert(source_of(&out)), "a port twice");
        }
    }
    assert_eq!(used.len(), 64);
    assert_eq!(fates[..64], vec![Ok(()); 64]);
    assert_eq!(fates[64..], vec![Err("icmp4-error"); 36]);
    let count = counters.value(RuleId(1));
    assert_eq!((count.allowed, count.denied), (64, 36));
    // The same ports are free towards another endpoint, and the flows that are there live.
    let other = ip4(v4(0, 11), v4(OUTSIDE, 11)).udp(3000, 53).build();
    assert!(bytes(&mut gateway, 0, other).is_ok());
    for port in 3000..3064 {
        assert!(bytes(&mut gateway, 0, packet(port)).is_ok());
    }
    gateway.finish();
}

/// What belongs to no flow does not leave with an inside address, nor come in.
#[test]
fn errors_of_no_flow_are_dropped() {
    let mut gateway = gateway(Policy::default(), rules());
    let about = ip4(v4(OUTSIDE, 10), v4(0, 10)).udp(53, 4000).build();
    let leaving = ip4(v4(0, 10), v4(OUTSIDE, 10))
        .icmp4_error(3, 3, 0, &about)
        .build();
    assert_eq!(bytes(&mut gateway, 0, leaving), Err("nat-no-session"));
    let external = Ipv4Addr::new(203, 0, 113, 1);
    let about = ip4(external, v4(OUTSIDE, 10)).udp(4000, 53).build();
    let coming = ip4(v4(OUTSIDE, 10), external)
        .icmp4_error(3, 3, 0, &about)
        .build();
    assert_eq!(bytes(&mut gateway, OUTSIDE, coming), Err("nat-no-session"));
    gateway.finish();
}

/// Packets shorter than what would be translated.
#[test]
fn truncated_packets_of_translated_flows_are_dropped_or_pass_unharmed() {
    let mut gateway = gateway(Policy::default(), rules());
    let packet = ip4(v4(0, 10), v4(OUTSIDE, 10))
        .udp(4000, 53)
        .payload(&[1; 20])
        .build();
    bytes(&mut gateway, 0, packet.clone()).unwrap();
    for length in 0..packet.len() {
        let _ = bytes(&mut gateway, 0, packet[..length].to_vec());
    }
    let about = ip4(v4(OUTSIDE, 10), Ipv4Addr::new(203, 0, 113, 1))
        .udp(53, 4000)
        .build();
    let error = ip4(v4(0, 77), v4(OUTSIDE, 10))
        .icmp4_error(3, 3, 0, &about)
        .build();
    for length in 0..error.len() {
        let _ = bytes(&mut gateway, 0, error[..length].to_vec());
    }
    gateway.finish();
}

/// IPv6 is translated by the same code: one address for all (masquerade), and a forward.
#[test]
fn ip6_sources_and_destinations() {
    let external = v6(OUTSIDE, 1);
    let pool = Arc::new(Pool {
        number: 0,
        addresses: [(external.to_bits(), external.to_bits())].into(),
        ports: PORTS,
        paired: true,
    });
    let sources = SourceRules::new(&[(Rule::default(), Source::Pool(pool))]);
    let forward = Destination {
        address: external.to_bits(),
        prefix_len: 128,
        protocol: Some(6),
        ports: Some((80, 80)),
        to: v6(0, 20).to_bits(),
        port: Some(8080),
        source: None,
    };
    let mut source = vec![None; usize::from(INTERFACES)];
    source[usize::from(OUTSIDE)] = Some(Arc::new(sources));
    let nat = Nat {
        ip6: Translation {
            source,
            hairpin: Vec::new(),
            destination: vec![Some(Arc::new(DestinationRules::new(&[forward], &[])))],
        },
        ..Nat::default()
    };
    let mut gateway = Gateway::translating(Ip6Policy::default, Policy::default(), nat, 1000);
    let far = v6(OUTSIDE, 10);
    let udp =
        |from, to, ports: (u16, u16)| ip6(from, to).udp(ports.0, ports.1).payload(&[3; 9]).build();
    for _ in 0..2 {
        let out = bytes(&mut gateway, 0, udp(v6(0, 10), far, (4000, 53)));
        assert_eq!(out, Ok(udp(external, far, (4000, 53))));
        let back = bytes(&mut gateway, OUTSIDE, udp(far, external, (53, 4000)));
        assert_eq!(back, Ok(udp(far, v6(0, 10), (53, 4000))));
    }
    // Another host gets another port.
    let out = bytes(&mut gateway, 0, udp(v6(0, 11), far, (4000, 53))).unwrap();
    assert_ne!(out, udp(external, far, (4000, 53)));
    let echo = |from, to, id| ip6(from, to).icmp6_echo(id, 1).build();
    assert_eq!(
        bytes(&mut gateway, 0, echo(v6(0, 10), far, 2007)),
        Ok(echo(external, far, 2007))
    );
    let reply = ip6(far, external).icmp6_echo_reply(2007, 1).build();
    assert_eq!(
        bytes(&mut gateway, OUTSIDE, reply),
        Ok(ip6(far, v6(0, 10)).icmp6_echo_reply(2007, 1).build())
    );
    // An error about it, from a router.
    let error = |to, about: &[u8]| ip6(v6(OUTSIDE, 77), to).icmp6_error(1, 0, 0, about).build();
    let out = bytes(
        &mut gateway,
        OUTSIDE,
        error(external, &udp(external, far, (4000, 53))),
    );
    assert_eq!(out, Ok(error(v6(0, 10), &udp(v6(0, 10), far, (4000, 53)))));
    // In fragments: the later ones have no ports.
    let fragment = |from, to, offset, more, bytes: &[u8]| {
        ip6(from, to)
            .fragment(5, offset, more)
            .raw(17, bytes)
            .build()
    };
    let whole = |from, to| udp(from, to, (4000, 53))[40..].to_vec();
    let (inside, outside) = (whole(v6(0, 10), far), whole(external, far));
    let first = bytes(
        &mut gateway,
        0,
        fragment(v6(0, 10), far, 0, true, &inside[..16]),
    );
    assert_eq!(first, Ok(fragment(external, far, 0, true, &outside[..16])));
    let later = bytes(
        &mut gateway,
        0,
        fragment(v6(0, 10), far, 16, false, &inside[16..]),
    );
    assert_eq!(later, Ok(fragment(external, far, 16, false, &inside[16..])));
    let tcp = |from, to, ports: (u16, u16), flags| {
        ip6(from, to).tcp(ports.0, ports.1).flags(flags).build()
    };
    let out = bytes(
        &mut gateway,
        OUTSIDE,
        tcp(far, external, (999, 80), TcpFlags::SYN),
    );
    assert_eq!(out, Ok(tcp(far, v6(0, 20), (999, 8080), TcpFlags::SYN)));
    let back = bytes(
        &mut gateway,
        0,
        tcp(v6(0, 20), far, (8080, 999), TcpFlags::SYN | TcpFlags::ACK),
    );
    assert_eq!(
        back,
        Ok(tcp(external, far, (80, 999), TcpFlags::SYN | TcpFlags::ACK))
    );
    gateway.finish();
}
