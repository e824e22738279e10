//! Tests of the gleaning nodes, with forwarding tables of their own.

use dataplane::{Collected, Flags, NodeHarness, PortId, TestPacket};
use proptest::prelude::*;
use wire::MacAddr;
use wire::builder::{ip4, ip6};

use super::*;
use crate::fib::{ForwardingSize, ForwardingWriter, Link, NeighbourKey, NextHop, RouteTarget};
use crate::snapshot::{IcmpLimits, Interface, Tags, WorkerState};

const SECOND: u64 = 1_000_000_000;
const VIA: [u8; 4] = [10, 0, 0, 254];

/// Interface 0 has 10.0.0.0/16 and 2001:db8::/64; 20.0.0.0/8 and 2001:db8:20::/48 lead through its host 254; 30.0.0.0/8
/// leads through that and 10.0.0.253.
struct Net {
    writer: ForwardingWriter,
    vrf: Vrf,
}

fn v4(octets: [u8; 4]) -> IpAddr {
    octets.into()
}

fn v6(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn key(address: IpAddr) -> NeighbourKey {
    NeighbourKey {
        interface: 0,
        address,
    }
}

impl Net {
    fn new() -> Self {
        let size = ForwardingSize {
            groups: 64,
            adjacencies: 64,
            buckets: 64,
        };
        let mut writer = ForwardingWriter::new(size, 64);
        writer.add_vrf(0).expect("memory");
        let link = Link {
            port: PortId(0),
            mtu: 1500,
            vrf: 0,
            mac: MacAddr::local(1),
            tags: Tags::default(),
        };
        writer.set_link(0, link).expect("a new link");
        let via = |address| NextHop {
            neighbour: key(address),
            weight: 1,
        };
        let two = vec![via(v4(VIA)), via(v4([10, 0, 0, 253]))];
        for (net, len, target) in [
            (v4([10, 0, 0, 0]), 16, RouteTarget::Connected(0)),
            (
                v4([20, 0, 0, 0]),
                8,
                RouteTarget::Forward(vec![via(v4(VIA))]),
            ),
            (v4([30, 0, 0, 0]), 8, RouteTarget::Forward(two)),
            (v6("2001:db8::"), 64, RouteTarget::Connected(0)),
            (
                v6("2001:db8:20::"),
                48,
                RouteTarget::Forward(vec![via(v6("2001:db8::fe"))]),
            ),
            (v6("fe80::"), 64, RouteTarget::Connected(0)),
        ] {
            writer.set_route(0, net, len, target).expect("room");
        }
        writer.commit().expect("memory");
        let vrf = writer.vrf(0).expect("the VRF");
        Self { writer, vrf }
    }

    fn snapshot(&self, up: bool) -> Snapshot {
        let interface = Interface {
            up,
            ..Interface::absent()
        };
        Snapshot {
            interfaces: vec![interface],
            vrfs: vec![self.vrf.clone()],
            forwarding: self.writer.forwarding(),
            ..Snapshot::default()
        }
    }

    fn harness<N: Node<Snapshot> + Default>(&self) -> NodeHarness<Snapshot> {
        let state = || WorkerState::new(IcmpLimits::default());
        NodeHarness::new(N::default, self.snapshot(true), state).expect("a harness")
    }

    /// The word that the nodes in front leave for a packet to this destination.
    fn word(&self, destination: IpAddr) -> u32 {
        let vrf = &self.vrf;
        let group = match destination {
            IpAddr::V4(address) => vrf.ip4.lookup(address.to_bits()),
            IpAddr::V6(address) => vrf.ip6.lookup(scoped(address.to_bits(), 0)),
        };
        let forwarding = self.writer.forwarding();
        let group = forwarding.group(group);
        match group.action() {
            RouteAction::Glean => GLEAN_INTERFACE | group.payload(),
            RouteAction::Forward => group.payload(),
            RouteAction::Multipath => {
                forwarding.bucket(group, flow_hash::ip4(&bytes(destination, 0)))
            }
            other => panic!("{other:?}"),
        }
    }

    fn packet(&self, destination: IpAddr, number: u16) -> TestPacket {
        TestPacket {
            bytes: bytes(destination, number),
            word: self.word(destination),
            ..TestPacket::default()
        }
    }
}

/// A packet whose source port is its number.
fn bytes(destination: IpAddr, number: u16) -> Vec<u8> {
    match destination {
        IpAddr::V4(address) => ip4([99, 0, 0, 1], address).udp(number, 53).build(),
        IpAddr::V6(address) => {
            let source: core::net::Ipv6Addr = "2001:db8:99::1".parse().expect("an address");
            ip6(source, address).udp(number, 53).build()
        }
    }
}

/// Where packets went and which.
fn numbers(out: &[Collected]) -> Vec<(&'static str, u16)> {
    let number = |out: &Collected| {
        let at = if out.packet.bytes[0] >> 4 == 4 {
            20
        } else {
            40
        };
        u16::from_be_bytes([out.packet.bytes[at], out.packet.bytes[at + 1]])
    };
    out.iter().map(|out| (out.node, number(out))).collect()
}

/// The addresses that the slow path was asked for.
fn asked(harness: &mut NodeHarness<Snapshot>) -> Vec<Vec<u8>> {
    let punts = harness.punts();
    assert!(punts.iter().all(|(header, _)| *header
        == PuntHeader {
            kind: Punt::Resolve as u16,
            interface: 0,
            word: 0
        }));
    punts.into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn packets_wait_in_order_until_the_neighbour_is_resolved() {
    let mut net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    let (host, far) = (v4([10, 0, 3, 9]), v4([20, 1, 2, 3]));
    let packets = vec![net.packet(host, 1), net.packet(far, 2), net.packet(host, 3)];
    let flags = Flags::LOCAL;
    let own = TestPacket {
        flags,
        ..net.packet(far, 4)
    };
    assert!(harness.run(packets).is_empty());
    assert!(harness.run(vec![own]).is_empty());
    assert_eq!(asked(&mut harness), [vec![10, 0, 3, 9], VIA.to_vec()]);
    // Somebody else's resolution changes nothing.
    net.writer
        .resolve(key(v4([10, 0, 7, 7])), MacAddr::local(7))
        .expect("room");
    assert!(harness.turn().is_empty());
    net.writer
        .resolve(key(host), MacAddr::local(9))
        .expect("room");
    let out = harness.turn();
    assert_eq!(numbers(&out), [("ip4-lookup", 1), ("ip4-lookup", 3)]);
    assert!(out.iter().all(|out| out.packet.word == 0x0a00_0309));
    net.writer
        .resolve(key(v4(VIA)), MacAddr::local(8))
        .expect("room");
    let out = harness.turn();
    assert_eq!(numbers(&out), [("ip4-lookup", 2), ("ip4-lookup", 4)]);
    assert_eq!(
        (out[1].packet.word, out[1].packet.flags),
        (0x1401_0203, Flags::LOCAL)
    );
    assert!(harness.drops().is_empty() && asked(&mut harness).is_empty());
    harness.audit().expect("balanced");
}

#[test]
fn ip6_waits_likewise() {
    let mut net = Net::new();
    let mut harness = net.harness::<Ip6Glean>();
    let (host, far, link) = (v6("2001:db8::9"), v6("2001:db8:20::1"), v6("fe80::9"));
    let packets = vec![net.packet(host, 1), net.packet(far, 2), net.packet(link, 3)];
    assert!(harness.run(packets).is_empty());
    let octets = |text: &str| match v6(text) {
        IpAddr::V6(address) => address.octets().to_vec(),
        IpAddr::V4(address) => address.octets().to_vec(),
    };
    let wanted = [
        octets("2001:db8::9"),
        octets("2001:db8::fe"),
        octets("fe80::9"),
    ];
    assert_eq!(asked(&mut harness), wanted);
    net.writer
        .resolve(key(v6("2001:db8::fe")), MacAddr::local(8))
        .expect("room");
    net.writer.commit().expect("memory");
    assert_eq!(numbers(&harness.turn()), [("ip6-lookup", 2)]);
    // Neighbours are in the table at once, routes with the next commit.
    net.writer
        .resolve(key(host), MacAddr::local(9))
        .expect("room");
    assert_eq!(numbers(&harness.turn()), [("ip6-lookup", 1)]);
    harness.set_time(TIMEOUT_NS);
    let out = harness.turn();
    assert_eq!(numbers(&out), [("icmp6-error", 3)]);
    assert_eq!(out[0].packet.word, ErrorWord::new(1, 3).to_word());
    harness.audit().expect("balanced");
}

#[test]
fn questions_are_repeated_and_then_given_up() {
    let net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    let host = v4([10, 0, 3, 9]);
    harness.run(vec![net.packet(host, 1)]);
    assert_eq!(asked(&mut harness).len(), 1);
    let mut questions = Vec::new();
    for step in 1..300 {
        harness.set_time(step * SECOND / 100);
        let out = if step == 250 {
            harness.run(vec![net.packet(host, 2)])
        } else {
            harness.turn()
        };
        assert!(out.is_empty(), "at {step}");
        if !asked(&mut harness).is_empty() {
            questions.push(step);
        }
    }
    assert_eq!(questions, [100, 200]);
    harness.set_time(TIMEOUT_NS);
    let out = harness.turn();
    assert_eq!(numbers(&out), [("icmp4-error", 1), ("icmp4-error", 2)]);
    assert!(
        out.iter()
            .all(|out| out.packet.word == ErrorWord::new(3, 1).to_word())
    );
    // The next packet begins anew.
    assert!(harness.run(vec![net.packet(host, 3)]).is_empty());
    assert_eq!(asked(&mut harness).len(), 1);
    harness.set_time(2 * TIMEOUT_NS);
    assert_eq!(harness.turn().len(), 1);
    harness.audit().expect("balanced");
}

#[test]
fn a_changed_route_lets_packets_go() {
    let mut net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    harness.run(vec![
        net.packet(v4([20, 0, 0, 1]), 1),
        net.packet(v4(VIA), 2),
        net.packet(v4([20, 0, 0, 2]), 3),
    ]);
    assert_eq!(asked(&mut harness).len(), 1, "one neighbour");
    let target = RouteTarget::Blackhole;
    net.writer
        .set_route(0, v4([20, 0, 0, 0]), 8, target)
        .expect("room");
    assert!(harness.turn().is_empty());
    harness.set_time(RECHECK_NS);
    assert_eq!(
        numbers(&harness.turn()),
        [("ip4-lookup", 1), ("ip4-lookup", 3)]
    );
    harness.set_time(TIMEOUT_NS);
    assert_eq!(numbers(&harness.turn()), [("icmp4-error", 2)]);
    harness.audit().expect("balanced");
}

#[test]
fn several_next_hops_are_chosen_as_the_lookup_does() {
    let mut net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    let packets: Vec<_> = (0..20u8)
        .map(|host| net.packet(v4([30, 0, 0, host]), 0))
        .collect();
    let through_via = packets
        .iter()
        .filter(|packet| packet.word == net.word(v4([20, 0, 0, 1])))
        .count();
    assert!(0 < through_via && through_via < 20, "both are used");
    // No more of either than can wait.
    let fit = |count: usize| count.min(MAX_QUEUE);
    assert!(harness.run(packets).is_empty());
    net.writer
        .resolve(key(v4(VIA)), MacAddr::local(8))
        .expect("room");
    assert_eq!(harness.turn().len(), fit(through_via));
    net.writer
        .resolve(key(v4([10, 0, 0, 253])), MacAddr::local(7))
        .expect("room");
    assert_eq!(harness.turn().len(), fit(20 - through_via));
    harness.audit().expect("balanced");
}

#[test]
fn what_is_resolved_meanwhile_goes_on_behind_those_that_wait() {
    let mut net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    let far = v4([20, 0, 0, 1]);
    let first = net.packet(far, 1);
    assert!(harness.run(vec![first]).is_empty());
    let (second, lonely) = (net.packet(far, 2), net.packet(v4([30, 0, 0, 1]), 3));
    // Both are resolved, and the node has polled in this turn before it sees the packets: the order holds all the same.
    net.writer
        .resolve(key(v4(VIA)), MacAddr::local(8))
        .expect("room");
    net.writer
        .resolve(key(v4([10, 0, 0, 253])), MacAddr::local(7))
        .expect("room");
    let out = harness.run(vec![second, lonely]);
    let lookup = "ip4-lookup";
    assert_eq!(
        numbers(&out),
        [(lookup, 1), (lookup, 2), (lookup, 0)]
            .map(|(node, number)| (node, if number == 0 { 3 } else { number }))
    );
    assert_eq!(out[2].packet.word, 0x1e00_0001);
    harness.audit().expect("balanced");
}

#[test]
fn an_interface_that_goes_down_holds_nothing() {
    let net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    let packet = || net.packet(v4([10, 0, 3, 9]), 1);
    assert!(harness.run(vec![packet()]).is_empty());
    harness.publish(net.snapshot(false));
    harness.set_time(RECHECK_NS);
    // The lookup's tables still lead here, where the packet ends.
    assert_eq!(numbers(&harness.turn()), [("ip4-lookup", 1)]);
    assert!(harness.run(vec![packet()]).is_empty());
    assert_eq!(harness.drops(), [("interface-down", 1)]);
    harness.audit().expect("balanced");
}

#[test]
fn every_drop_has_its_reason() {
    let net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    let to = |word| TestPacket {
        word,
        ..net.packet(v4([10, 0, 3, 9]), 1)
    };
    harness.run(vec![
        to(GLEAN_INTERFACE | 7),
        to(GLEAN_INTERFACE | 0x1_0000),
        to(60),
    ]);
    harness.run(vec![to(0x7fff_ffff)]);
    let short = TestPacket {
        bytes: vec![0x45; 19],
        ..to(GLEAN_INTERFACE)
    };
    harness.run(vec![short]);
    assert_eq!(
        harness.drops(),
        [("truncated", 1), ("no-neighbour", 2), ("interface-down", 2)]
    );
    harness.audit().expect("balanced");
}

#[test]
fn limits_hold_and_the_newest_are_dropped() {
    let net = Net::new();
    let mut harness = net.harness::<Ip4Glean>();
    let host = |number: u16| v4([10, 0, (number >> 8) as u8 + 1, number as u8]);
    let to = |from: u16, until: u16| {
        (from..until)
            .map(|number| net.packet(host(number), number))
            .collect::<Vec<_>>()
    };
    // 64 neighbours with 16 packets each fill the table.
    for _ in 0..MAX_QUEUE {
        assert!(harness.run(to(0, 64)).is_empty());
    }
    assert!(harness.drops().is_empty());
    harness.run(to(0, 1));
    harness.run(to(64, 65));
    assert_eq!(harness.drops(), [("queue-full", 1), ("table-full", 1)]);
    harness.set_time(TIMEOUT_NS);
    assert_eq!(harness.turn().len(), MAX_HELD);
    // 256 neighbours are as many as can be waited for; those have room for more.
    assert!(harness.run(to(0, 256)).is_empty());
    harness.run(to(256, 258));
    harness.run(to(255, 256));
    assert_eq!(
        harness.drops(),
        [("queue-full", 1), ("table-full", 1), ("neighbours-full", 2)]
    );
    assert_eq!(asked(&mut harness).len(), 64 + 256);
    harness.set_time(2 * TIMEOUT_NS);
    assert_eq!(harness.turn().len(), 257);
    harness.audit().expect("balanced");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn nothing_is_lost_and_order_holds(steps in proptest::collection::vec((0u8..6, 0u8..8, 0u64..700), 1..80)) {
        let mut net = Net::new();
        let mut harness = net.harness::<Ip4Glean>();
        let (mut sent, mut now) = (0u16, 0);
        let mut out = Vec::new();
        for (what, host, milliseconds) in steps {
            let near = v4([10, 0, 1, host]);
            match what {
                0 => net.writer.resolve(key(near), MacAddr::local(1)).expect("room"),
                1 => net.writer.forget(key(near)),
                2 => {
                    now += milliseconds * 1_000_000;
                    harness.set_time(now);
                }
                _ => {
                    let IpAddr::V4(address) = near else { continue };
                    let group = net.writer.forwarding().group(net.vrf.ip4.lookup(address.to_bits()));
                    // Packets to resolved neighbours do not come here.
                    if group.action() == RouteAction::Glean {
                        sent += 1;
                        out.extend(harness.run(vec![net.packet(near, sent)]));
                    }
                }
            }
            out.extend(harness.turn());
        }
        harness.set_time(now + TIMEOUT_NS);
        out.extend(harness.turn());
        let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
        prop_assert_eq!(out.len() as u64 + dropped, u64::from(sent));
        for host in 0..8u8 {
            let to_host: Vec<_> = out.iter().filter(|out| out.packet.bytes[16..20] == [10, 0, 1, host]).cloned().collect();
            prop_assert!(numbers(&to_host).is_sorted_by_key(|(_, number)| *number));
        }
        harness.audit().expect("balanced");
    }

    #[test]
    fn every_packet_has_one_fate(bytes in proptest::collection::vec(any::<u8>(), 0..60), word: u32, near: bool) {
        let net = Net::new();
        let word = if near { word & (GLEAN_INTERFACE | 1) } else { word };
        fn fate<N: Node<Snapshot> + Default>(net: &Net, packet: TestPacket) -> u64 {
            let mut harness = net.harness::<N>();
            let mut out = harness.run(vec![packet]).len() as u64;
            harness.set_time(TIMEOUT_NS);
            out += harness.turn().len() as u64;
            assert!(harness.drops().iter().all(|(reason, _)| *reason != "undecided"));
            let dropped: u64 = harness.drops().iter().map(|(_, count)| count).sum();
            harness.audit().expect("balanced");
            out + dropped
        }
        let packet = TestPacket { bytes, word, ..TestPacket::default() };
        prop_assert_eq!(fate::<Ip4Glean>(&net, packet.clone()), 1);
        prop_assert_eq!(fate::<Ip6Glean>(&net, packet), 1);
    }
}
