//! The cache as a whole: packets in, actions out.

use wire::builder::ip6;

use super::NeighbourState::{Delay, Failed, Incomplete, Probe, Reachable, Stale, Static};
use super::properties::check;
use super::*;

pub(super) const SECOND: u64 = 1_000_000_000;
pub(super) const OWN_MAC: MacAddr = MacAddr::local(0xffff);
pub(super) const A: MacAddr = MacAddr::local(1);
const B: MacAddr = MacAddr::local(2);
const OWN4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const OWN6: &str = "2001:db8::1";
const LINK_LOCAL: &str = "fe80::1";

pub(super) fn facts(number: u16) -> InterfaceFacts {
    InterfaceFacts {
        number,
        mac: OWN_MAC,
        ip4: vec![(OWN4, 8)],
        ip6: vec![(addr6(OWN6), 64)],
        link_local: Some(addr6(LINK_LOCAL)),
        up: true,
    }
}

/// A cache with interfaces 1 and 2 whose announcements are over.
fn cache_with(limits: NeighbourLimits) -> NeighbourCache {
    let mut cache = NeighbourCache::new(NeighbourTimers::default(), 7).with_limits(limits);
    cache.set_interfaces([facts(1), facts(2)], 0);
    while let Some(at) = cache.next_deadline() {
        cache.tick(at, |_| false);
    }
    cache.drain_actions();
    cache
}

fn cache() -> NeighbourCache {
    cache_with(NeighbourLimits::default())
}

fn addr6(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn key(address: &str) -> NeighbourKey {
    NeighbourKey {
        interface: 1,
        address: address.parse().unwrap(),
    }
}

fn neighbour(cache: &NeighbourCache, address: &str) -> Option<Neighbour> {
    cache.entries().find(|entry| entry.key == key(address))
}

fn state(cache: &NeighbourCache, address: &str) -> Option<(NeighbourState, Option<MacAddr>)> {
    neighbour(cache, address).map(|entry| (entry.state, entry.mac))
}

fn request(from: MacAddr, sender: [u8; 4], target: [u8; 4]) -> ArpPacket {
    ArpPacket::new(
        ArpOperation::REQUEST,
        (from, sender.into()),
        (MacAddr::ZERO, target.into()),
    )
}

pub(super) fn reply(from: MacAddr, sender: [u8; 4]) -> ArpPacket {
    ArpPacket::new(ArpOperation::REPLY, (from, sender.into()), (OWN_MAC, OWN4))
}

fn solicitation(source: &str, target: &str, mac: Option<MacAddr>) -> Vec<u8> {
    let target = addr6(target);
    ip6(addr6(source), nd::solicited_node(target))
        .neighbour_solicitation(target, mac)
        .build()
}

fn advertisement(target: &str, flags: u8, mac: Option<MacAddr>) -> Vec<u8> {
    let to = if flags & nd::ADVERTISEMENT_SOLICITED == 0 {
        nd::ALL_NODES
    } else {
        addr6(LINK_LOCAL)
    };
    ip6(addr6(target), to)
        .neighbour_advertisement(addr6(target), flags, mac)
        .build()
}

/// Actions in short: "?destination" for frames, "+key mac", "-key".
fn drain(cache: &mut NeighbourCache) -> Vec<String> {
    let short = |action| match action {
        Action::Send { interface, frame } => format!("{interface}?{}", frame.destination),
        Action::Resolve { key, mac } => format!("{}+{} {mac}", key.interface, key.address),
        Action::Forget { key } => format!("{}-{}", key.interface, key.address),
    };
    cache.drain_actions().into_iter().map(short).collect()
}

/// Ticks through all deadlines up to `until`.
fn run(cache: &mut NeighbourCache, until: u64, used: bool) {
    while let Some(at) = cache.next_deadline().filter(|at| *at <= until) {
        cache.tick(at, |_| used);
    }
}

/// Resolves an IPv4 neighbour.
fn make_reachable(cache: &mut NeighbourCache, address: [u8; 4], now: u64) {
    cache.resolve(1, Ipv4Addr::from(address).into(), now);
    cache.arp(1, &reply(A, address), now);
    cache.drain_actions();
}

#[test]
fn resolves_over_arp_and_watches_the_neighbour() {
    let mut cache = cache();
    let t = 100 * SECOND;
    cache.resolve(1, [10, 0, 0, 2].into(), t);
    cache.resolve(1, [10, 0, 0, 2].into(), t + 1);
    assert_eq!(drain(&mut cache), ["1?ff:ff:ff:ff:ff:ff"]);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Incomplete, None)));
    cache.tick(t + SECOND, |_| panic!("not resolved yet"));
    assert_eq!(drain(&mut cache), ["1?ff:ff:ff:ff:ff:ff"]);

    let t = t + SECOND + 5;
    cache.arp(1, &reply(A, [10, 0, 0, 2]), t);
    assert_eq!(drain(&mut cache), ["1+10.0.0.2 02:00:00:00:00:01"]);
    let entry = neighbour(&cache, "10.0.0.2").unwrap();
    assert_eq!((entry.state, entry.confirmed_ns), (Reachable, Some(t)));

    // Used: after the reachable time it is asked alone, answers, and the circle begins anew.
    let end = cache.next_deadline().unwrap();
    assert!((t + 15 * SECOND..=t + 45 * SECOND).contains(&end));
    cache.tick(end, |key| key.address == IpAddr::from([10, 0, 0, 2]));
    assert_eq!(state(&cache, "10.0.0.2"), Some((Delay, Some(A))));
    cache.tick(end + 5 * SECOND, |_| false);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Probe, Some(A))));
    assert_eq!(drain(&mut cache), ["1?02:00:00:00:00:01"]);
    cache.arp(1, &reply(A, [10, 0, 0, 2]), end + 5 * SECOND + 1);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Reachable, Some(A))));
    // Nothing changed for the data path.
    assert!(drain(&mut cache).is_empty());

    // Not used: it becomes stale, and is forgotten ten minutes later.
    let end = cache.next_deadline().unwrap();
    cache.tick(end, |_| false);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Stale, Some(A))));
    run(&mut cache, end + 600 * SECOND - 1, false);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Stale, Some(A))));
    run(&mut cache, end + 600 * SECOND, false);
    assert_eq!(drain(&mut cache), ["1-10.0.0.2"]);
    assert_eq!(cache.next_deadline(), None);
}

#[test]
fn a_neighbour_that_leaves_is_forgotten() {
    let mut cache = cache();
    cache.resolve(1, addr6("fe80::2").into(), 0);
    let solicited = nd::ADVERTISEMENT_SOLICITED | nd::ADVERTISEMENT_OVERRIDE;
    cache.discovery(1, &advertisement("fe80::2", solicited, Some(A)), 1);
    assert_eq!(
        drain(&mut cache),
        ["1?33:33:ff:00:00:02", "1+fe80::2 02:00:00:00:00:01"]
    );
    run(&mut cache, 600 * SECOND, true);
    // Three probes to it, no answer.
    assert_eq!(
        drain(&mut cache),
        [
            "1?02:00:00:00:00:01",
            "1?02:00:00:00:00:01",
            "1?02:00:00:00:00:01",
            "1-fe80::2"
        ]
    );
    assert_eq!(neighbour(&cache, "fe80::2"), None);
}

#[test]
fn a_neighbour_that_is_not_there_fails() {
    let mut cache = cache();
    cache.resolve(1, [10, 0, 0, 2].into(), 0);
    for second in 1..3 {
        cache.tick(second * SECOND, |_| false);
        assert_eq!(state(&cache, "10.0.0.2"), Some((Incomplete, None)));
    }
    cache.tick(3 * SECOND, |_| false);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Failed, None)));
    assert_eq!(drain(&mut cache), ["1?ff:ff:ff:ff:ff:ff"; 3]);
    cache.tick(6 * SECOND, |_| false);
    assert_eq!(cache.entries().count(), 0);
    assert!(drain(&mut cache).is_empty());

    // However often it is wanted, it is asked for once a second.
    for step in 0..10_000 {
        let now = 10 * SECOND + step * 1_000_000;
        cache.resolve(1, [10, 0, 0, 2].into(), now);
        cache.tick(now, |_| false);
    }
    assert_eq!(drain(&mut cache).len(), 10);
}

#[test]
fn without_an_address_resolution_fails_at_once() {
    let mut cache = cache();
    let mut bare = facts(1);
    bare.ip4.clear();
    cache.set_interfaces([bare], 0);
    cache.drain_actions();
    cache.resolve(1, [10, 0, 0, 2].into(), SECOND);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Failed, None)));
    cache.resolve(1, [10, 0, 0, 2].into(), SECOND + 1);
    assert!(drain(&mut cache).is_empty());
    assert_eq!(cache.next_deadline(), Some(4 * SECOND));
    // It works once there is one.
    cache.set_interfaces([facts(1)], 2 * SECOND);
    cache.drain_actions();
    cache.resolve(1, [10, 0, 0, 2].into(), 2 * SECOND);
    assert_eq!(drain(&mut cache), ["1?ff:ff:ff:ff:ff:ff"]);
}

/// RFC 826, "Packet Reception": merge, and add where the packet is for us.
#[test]
fn arp_merge() {
    const PEER: [u8; 4] = [10, 0, 0, 2];
    const OWN: [u8; 4] = OWN4.octets();
    let gratuitous_reply = ArpPacket::new(
        ArpOperation::REPLY,
        (B, PEER.into()),
        (MacAddr::BROADCAST, PEER.into()),
    );
    let reply_to_all = ArpPacket::new(
        ArpOperation::REPLY,
        (B, PEER.into()),
        (MacAddr::BROADCAST, OWN4),
    );
    // Packet; result where the sender is unknown, asked for, reachable at A.
    type Row = (
        &'static str,
        ArpPacket,
        Option<MacAddr>,
        [(NeighbourState, MacAddr); 2],
    );
    let rows: &[Row] = &[
        (
            "request",
            request(B, PEER, OWN),
            Some(B),
            [(Stale, B), (Stale, B)],
        ),
        (
            "same",
            request(A, PEER, OWN),
            Some(A),
            [(Stale, A), (Reachable, A)],
        ),
        (
            "for others",
            request(B, PEER, [10, 0, 0, 9]),
            None,
            [(Stale, B), (Stale, B)],
        ),
        (
            "reply",
            reply(B, PEER),
            Some(B),
            [(Reachable, B), (Reachable, B)],
        ),
        (
            "reply to all",
            reply_to_all,
            Some(B),
            [(Stale, B), (Stale, B)],
        ),
        (
            "announcement",
            request(B, PEER, PEER),
            None,
            [(Stale, B), (Stale, B)],
        ),
        (
            "gratuitous reply",
            gratuitous_reply,
            None,
            [(Stale, B), (Stale, B)],
        ),
    ];
    for (name, packet, unknown, [incomplete, reachable]) in rows {
        let mut fresh = cache();
        fresh.arp(1, packet, SECOND);
        let learned = unknown.map(|mac| (Stale, Some(mac)));
        assert_eq!(state(&fresh, "10.0.0.2"), learned, "{name}, unknown");
        assert_eq!(
            drain(&mut fresh).len(),
            usize::from(unknown.is_some()),
            "{name}"
        );

        let mut asking = cache();
        asking.resolve(1, PEER.into(), SECOND);
        asking.drain_actions();
        asking.arp(1, packet, SECOND);
        let expected = (incomplete.0, Some(incomplete.1));
        assert_eq!(
            state(&asking, "10.0.0.2"),
            Some(expected),
            "{name}, incomplete"
        );
        assert_eq!(drain(&mut asking).len(), 1, "{name}, incomplete");

        let mut known = cache();
        make_reachable(&mut known, PEER, SECOND);
        known.arp(1, packet, SECOND);
        let expected = (reachable.0, Some(reachable.1));
        assert_eq!(
            state(&known, "10.0.0.2"),
            Some(expected),
            "{name}, reachable"
        );
        let changed = usize::from(reachable.1 != A);
        assert_eq!(drain(&mut known).len(), changed, "{name}, reachable");
    }
}

#[test]
fn arp_that_teaches_nothing() {
    let own = OWN4.octets();
    let mut odd = request(B, [10, 0, 0, 2], own);
    odd.operation = ArpOperation::new(3);
    let mut long = request(B, [10, 0, 0, 2], own);
    long.hardware_len = 8;
    for (packet, ignored, conflicts) in [
        (odd, 1, 0),
        (long, 1, 0),
        (request(MacAddr::BROADCAST, [10, 0, 0, 2], own), 1, 0),
        (request(MacAddr::ZERO, [10, 0, 0, 2], own), 1, 0),
        (request(B, [10, 255, 255, 255], own), 1, 0),
        (request(B, [224, 0, 0, 1], own), 1, 0),
        // A probe for our address; our own frame; another station with our address.
        (request(B, [0, 0, 0, 0], own), 0, 0),
        (request(OWN_MAC, [10, 0, 0, 2], own), 0, 0),
        (request(B, own, own), 0, 1),
        (reply(B, own), 0, 1),
        // Not of this link: it would attract the traffic of a host elsewhere.
        (request(B, [192, 0, 2, 1], own), 0, 0),
    ] {
        let mut cache = cache();
        cache.arp(1, &packet, SECOND);
        cache.arp(9, &packet, SECOND);
        let counters = cache.counters();
        assert_eq!(
            (counters.ignored, counters.conflicts),
            (ignored, conflicts),
            "{packet:?}"
        );
        assert_eq!(cache.entries().count(), 0, "{packet:?}");
        assert!(drain(&mut cache).is_empty(), "{packet:?}");
    }
    // Where the route says so, a neighbour may have any address.
    let mut cache = cache();
    cache.resolve(1, [192, 0, 2, 1].into(), SECOND);
    cache.arp(1, &reply(B, [192, 0, 2, 1]), SECOND);
    assert_eq!(state(&cache, "192.0.2.1"), Some((Reachable, Some(B))));
}

#[test]
fn solicitations_teach() {
    let router = |source: &str| {
        ip6(addr6(source), nd::ALL_ROUTERS)
            .router_solicitation()
            .option(&nd::link_layer_option(nd::option::SOURCE_LINK_LAYER, A))
            .build()
    };
    for (packet, source, learned) in [
        (solicitation("fe80::2", OWN6, Some(A)), "fe80::2", true),
        (
            solicitation("2001:db8::2", LINK_LOCAL, Some(A)),
            "2001:db8::2",
            true,
        ),
        (router("fe80::2"), "fe80::2", true),
        // For another node, from elsewhere, from a station that cannot be.
        (
            solicitation("fe80::2", "2001:db8::9", Some(A)),
            "fe80::2",
            false,
        ),
        (
            solicitation("2001:db8:1::2", OWN6, Some(A)),
            "2001:db8:1::2",
            false,
        ),
        (router("2001:db8:1::2"), "2001:db8:1::2", false),
        (
            solicitation("fe80::2", OWN6, Some(MacAddr::BROADCAST)),
            "fe80::2",
            false,
        ),
        (
            solicitation("fe80::2", OWN6, Some(OWN_MAC)),
            "fe80::2",
            false,
        ),
        (solicitation(OWN6, OWN6, Some(A)), OWN6, false),
        // Duplicate address detection.
        (solicitation("::", OWN6, None), "::", false),
    ] {
        let mut cache = cache();
        cache.discovery(1, &packet, SECOND);
        let expected = learned.then_some((Stale, Some(A)));
        assert_eq!(state(&cache, source), expected, "{source}");
        assert_eq!(cache.entries().count(), usize::from(learned), "{source}");
    }
    // Without an address: nothing, but a unicast question may come so.
    let mut cache = cache();
    let asked = ip6(addr6("fe80::2"), addr6(OWN6)).neighbour_solicitation(addr6(OWN6), None);
    cache.discovery(1, &asked.build(), SECOND);
    assert_eq!(cache.entries().count(), 0);
    assert_eq!(cache.counters().ignored, 0);
}

#[test]
fn advertisements_update_only_what_is_there() {
    let (s, o) = (nd::ADVERTISEMENT_SOLICITED, nd::ADVERTISEMENT_OVERRIDE);
    let mut cache = cache();
    cache.discovery(1, &advertisement("fe80::2", o, Some(A)), 0);
    assert_eq!(cache.entries().count(), 0);
    cache.discovery(1, &solicitation("fe80::2", OWN6, Some(A)), 0);
    let steps = [
        (s, None, (Reachable, A), false),
        (s, Some(B), (Stale, A), false),
        (
            s | o | nd::ADVERTISEMENT_ROUTER,
            Some(B),
            (Reachable, B),
            true,
        ),
        (o, Some(A), (Stale, A), false),
        (s, Some(A), (Reachable, A), false),
    ];
    for (now, (flags, mac, (expected, cached), router)) in (1..).zip(steps) {
        cache.discovery(1, &advertisement("fe80::2", flags, mac), now);
        let entry = neighbour(&cache, "fe80::2").unwrap();
        assert_eq!((entry.state, entry.mac), (expected, Some(cached)), "{now}");
        assert_eq!(entry.router, router, "{now}");
    }
    assert_eq!(
        drain(&mut cache),
        [
            "1+fe80::2 02:00:00:00:00:01",
            "1+fe80::2 02:00:00:00:00:02",
            "1+fe80::2 02:00:00:00:00:01"
        ]
    );
    cache.discovery(
        1,
        &advertisement("fe80::2", s | o, Some(MacAddr::BROADCAST)),
        9,
    );
    assert_eq!(state(&cache, "fe80::2"), Some((Reachable, Some(A))));
    cache.discovery(1, &advertisement(OWN6, o, Some(A)), 9);
    let counters = cache.counters();
    assert_eq!((counters.ignored, counters.conflicts), (1, 1));
}

#[test]
fn malformed_discovery_is_ignored() {
    let good = solicitation("fe80::2", OWN6, Some(A));
    let changed = |at: usize, value: u8| {
        let mut bad = good.clone();
        bad[at] = value;
        bad
    };
    let fragment = [&good[..40], &[58, 0, 0, 0, 0, 0, 0, 1], &good[40..]].concat();
    let mut fragment = fragment;
    fragment[5] += 8;
    fragment[6] = 44;
    let mut bad = vec![
        changed(0, 0x45),
        changed(6, 17),
        changed(7, 64),
        changed(41, 1),
        changed(60, 0xee),
        changed(65, 0),
        fragment,
    ];
    bad.extend((0..good.len()).map(|len| good[..len].to_vec()));
    let mut cache = cache();
    for packet in &bad {
        cache.discovery(1, packet, SECOND);
    }
    assert_eq!(cache.entries().count(), 0);
    assert_eq!(cache.counters().ignored, bad.len() as u64);
    // Padding does not matter.
    cache.discovery(1, &[&good[..], &[0; 6]].concat(), SECOND);
    assert_eq!(cache.entries().count(), 1);
}

#[test]
fn static_neighbours_stay() {
    let mut cache = cache();
    make_reachable(&mut cache, [10, 0, 0, 2], 0);
    cache.set_static(key("10.0.0.2"), B).unwrap();
    cache.set_static(key("10.0.0.2"), B).unwrap();
    assert_eq!(drain(&mut cache), ["1+10.0.0.2 02:00:00:00:00:02"]);
    assert_eq!(cache.next_deadline(), None);
    cache.arp(1, &reply(A, [10, 0, 0, 2]), SECOND);
    cache.arp(1, &request(A, [10, 0, 0, 2], [10, 0, 0, 1]), SECOND);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Static, Some(B))));
    // A data path that misses it is told again, not more than once a second.
    for now in 0..100 {
        cache.resolve(1, [10, 0, 0, 2].into(), 2 * SECOND + now);
    }
    assert_eq!(drain(&mut cache), ["1+10.0.0.2 02:00:00:00:00:02"]);
    assert!(!cache.remove_static(key("10.0.0.3")));
    assert!(cache.remove_static(key("10.0.0.2")));
    assert!(!cache.remove_static(key("10.0.0.2")));
    assert_eq!(drain(&mut cache), ["1-10.0.0.2"]);

    for (interface, address, mac, error) in [
        (
            9,
            IpAddr::from([10, 0, 0, 2]),
            A,
            NeighbourError::UnknownInterface(9),
        ),
        (1, OWN4.into(), A, NeighbourError::Address(OWN4.into())),
        (
            1,
            [10, 0, 0, 2].into(),
            MacAddr::ZERO,
            NeighbourError::Mac(MacAddr::ZERO),
        ),
    ] {
        let key = NeighbourKey { interface, address };
        assert_eq!(cache.set_static(key, mac), Err(error));
    }
    // A dynamic neighbour is not removed by that name.
    make_reachable(&mut cache, [10, 0, 0, 2], 9 * SECOND);
    assert!(!cache.remove_static(key("10.0.0.2")));
}

#[test]
fn interfaces_come_and_go() {
    let mut cache = cache();
    make_reachable(&mut cache, [10, 0, 0, 2], 0);
    cache.resolve(1, [10, 0, 0, 3].into(), 0);
    cache.resolve(2, [10, 0, 0, 2].into(), 0);
    cache.set_static(key("10.0.0.4"), B).unwrap();
    cache.drain_actions();

    // Nothing new: nothing happens.
    cache.set_interfaces([facts(1), facts(2)], SECOND / 2);
    assert!(drain(&mut cache).is_empty());
    // Down: static neighbours stay, and nothing is learned or asked.
    let mut down = facts(1);
    down.up = false;
    cache.set_interfaces([down, facts(2)], SECOND / 2);
    assert_eq!(drain(&mut cache), ["1-10.0.0.2"]);
    cache.resolve(1, [10, 0, 0, 2].into(), SECOND);
    cache.arp(1, &request(A, [10, 0, 0, 2], [10, 0, 0, 1]), SECOND);
    cache.discovery(1, &solicitation("fe80::2", OWN6, Some(A)), SECOND);
    let left: Vec<_> = cache.entries().map(|entry| entry.key).collect();
    let other = NeighbourKey {
        interface: 2,
        ..key("10.0.0.2")
    };
    assert_eq!(left, [key("10.0.0.4"), other]);
    assert!(drain(&mut cache).is_empty());
    // Gone: all go.
    cache.set_interfaces([facts(2)], SECOND);
    assert_eq!(drain(&mut cache), ["1-10.0.0.4"]);
    cache.set_interfaces([], SECOND);
    assert_eq!((cache.entries().count(), cache.next_deadline()), (0, None));
    assert!(drain(&mut cache).is_empty());
}

#[test]
fn a_neighbour_whose_address_becomes_ours_is_forgotten() {
    let mut cache = cache();
    make_reachable(&mut cache, [10, 0, 0, 2], 0);
    let mut more = facts(1);
    more.ip4.push(([10, 0, 0, 2].into(), 32));
    cache.set_interfaces([more], SECOND);
    assert_eq!(drain(&mut cache), ["1-10.0.0.2", "1?ff:ff:ff:ff:ff:ff"]);
}

#[test]
fn new_addresses_are_announced_twice() {
    let mut cache = NeighbourCache::new(Default::default(), 1);
    let (all4, all6) = ("1?ff:ff:ff:ff:ff:ff", "1?33:33:00:00:00:01");
    cache.set_interfaces([facts(1)], SECOND);
    assert_eq!(drain(&mut cache), [all4, all6, all6]);
    assert_eq!(cache.next_deadline(), Some(2 * SECOND));
    // One that goes before its second announcement is not announced again.
    let mut fewer = facts(1);
    fewer.ip6.clear();
    cache.set_interfaces([fewer.clone()], SECOND + 1);
    assert!(drain(&mut cache).is_empty());
    cache.tick(2 * SECOND, |_| false);
    assert_eq!(drain(&mut cache), [all4, all6]);
    assert_eq!(cache.next_deadline(), None);
    // An address comes back; the Ethernet address changes; the interface comes up.
    cache.set_interfaces([facts(1)], 3 * SECOND);
    assert_eq!(drain(&mut cache), [all6]);
    let mut other = facts(1);
    other.mac = A;
    cache.set_interfaces([other.clone()], 4 * SECOND);
    assert_eq!(drain(&mut cache), [all4, all6, all6]);
    other.up = false;
    cache.set_interfaces([other.clone()], 4 * SECOND);
    assert_eq!(cache.next_deadline(), None);
    other.up = true;
    cache.set_interfaces([other], 4 * SECOND);
    assert_eq!(drain(&mut cache), [all4, all6, all6]);
}

/// 100,000 packets from random stations: memory stays bounded, and nothing that is in use goes.
#[test]
fn floods_are_bounded() {
    let limits = NeighbourLimits {
        per_interface: 300,
        unresolved_per_interface: 100,
        total: 500,
    };
    let mut cache = cache_with(limits);
    let mut random = Random::new(99);
    let mut now = 10 * SECOND;
    // In use: reachable, stale after use, static.
    make_reachable(&mut cache, [10, 0, 0, 2], now);
    make_reachable(&mut cache, [10, 0, 0, 3], now);
    cache.arp(1, &request(B, [10, 0, 0, 3], [10, 0, 0, 9]), now);
    assert_eq!(state(&cache, "10.0.0.3"), Some((Stale, Some(B))));
    cache.set_static(key("10.0.0.4"), A).unwrap();
    cache.drain_actions();
    let mut resolved = BTreeSet::new();
    for _ in 0..100_000 {
        now += 1000;
        let number = random.next();
        let mac = MacAddr::local(number as u32);
        // Never one of the three.
        let sender = Ipv4Addr::from_bits(0x0a80_0000 | number as u32 & 0xf_ffff);
        let interface = 1 + (number >> 40 & 1) as u16;
        if number >> 41 & 1 == 0 {
            cache.arp(
                interface,
                &request(mac, sender.octets(), OWN4.octets()),
                now,
            );
        } else {
            let source = Ipv6Addr::from_bits(0xfe80 << 112 | u128::from(number | 2 << 48));
            let packet = ip6(source, addr6(OWN6)).neighbour_solicitation(addr6(OWN6), Some(mac));
            cache.discovery(interface, &packet.build(), now);
        }
        for action in cache.drain_actions() {
            match action {
                Action::Resolve { key, .. } => {
                    resolved.insert(key);
                }
                Action::Forget { key } => assert!(resolved.remove(&key), "{key:?}"),
                Action::Send { .. } => panic!("nobody was asked for"),
            }
        }
    }
    // The static neighbour is beyond the limits, and was resolved before.
    assert_eq!(cache.entries().count(), 501);
    assert_eq!(resolved.len(), 501 - 3);
    check(&cache);
    // Some stations spoke twice.
    let counters = cache.counters();
    assert!((99_000..100_000 - 498).contains(&(counters.evicted + counters.refused)));
    for address in ["10.0.0.2", "10.0.0.3", "10.0.0.4"] {
        assert!(state(&cache, address).is_some_and(|(state, _)| state.is_resolved()));
    }

    // A scan of the prefix: bounded too, and the reachable and the static neighbour stay.
    for n in 0..100_000_u32 {
        cache.resolve(1, Ipv4Addr::from_bits(0x0a40_0000 + n).into(), now);
    }
    check(&cache);
    assert_eq!(
        drain(&mut cache)
            .iter()
            .filter(|action| action.contains('?'))
            .count(),
        100
    );
    assert_eq!(cache.entries().count(), 501);
    assert_eq!(state(&cache, "10.0.0.2"), Some((Reachable, Some(A))));
    assert_eq!(state(&cache, "10.0.0.4"), Some((Static, Some(A))));
    // Who asks us in the meantime is still learned.
    cache.arp(1, &request(B, [10, 0, 0, 77], OWN4.octets()), now);
    assert_eq!(state(&cache, "10.0.0.77"), Some((Stale, Some(B))));
}

#[test]
fn the_oldest_that_was_never_used_makes_room() {
    let limits = NeighbourLimits {
        per_interface: 3,
        unresolved_per_interface: 2,
        total: 10,
    };
    let mut cache = cache_with(limits);
    // Used once, and stale for longest; then two that only spoke.
    make_reachable(&mut cache, [10, 0, 0, 2], 0);
    cache.arp(1, &request(B, [10, 0, 0, 2], OWN4.octets()), 0);
    cache.arp(1, &request(A, [10, 0, 0, 3], OWN4.octets()), 1);
    cache.arp(1, &request(A, [10, 0, 0, 4], OWN4.octets()), 2);
    cache.drain_actions();
    cache.arp(1, &request(A, [10, 0, 0, 5], OWN4.octets()), 3);
    assert_eq!(
        drain(&mut cache),
        ["1-10.0.0.3", "1+10.0.0.5 02:00:00:00:00:01"]
    );
    cache.resolve(1, [10, 0, 0, 6].into(), 4);
    cache.resolve(1, [10, 0, 0, 7].into(), 5);
    assert_eq!(
        drain(&mut cache),
        [
            "1-10.0.0.4",
            "1?ff:ff:ff:ff:ff:ff",
            "1-10.0.0.5",
            "1?ff:ff:ff:ff:ff:ff"
        ]
    );
    // Neither a third that is not resolved, nor one that is merely heard, displaces it.
    cache.resolve(1, [10, 0, 0, 8].into(), 6);
    cache.arp(1, &request(A, [10, 0, 0, 9], OWN4.octets()), 7);
    assert!(drain(&mut cache).is_empty());
    let counters = cache.counters();
    assert_eq!((counters.evicted, counters.refused), (3, 2));
    // One that is wanted does, once there is room for those that are not resolved.
    cache.arp(1, &reply(A, [10, 0, 0, 6]), 8);
    cache.drain_actions();
    cache.resolve(1, [10, 0, 0, 8].into(), 9);
    assert_eq!(drain(&mut cache), ["1-10.0.0.2", "1?ff:ff:ff:ff:ff:ff"]);
}

#[test]
fn neighbours_leave_with_their_subnet() {
    let mut cache = cache();
    cache.arp(1, &request(A, [10, 0, 0, 2], [10, 0, 0, 1]), SECOND);
    cache.set_static(key("10.0.0.3"), B).unwrap();
    assert!(state(&cache, "10.0.0.2").is_some());
    cache.drain_actions();
    let mut moved = facts(1);
    moved.ip4 = vec![(Ipv4Addr::new(192, 0, 2, 1), 24)];
    cache.set_interfaces([moved, facts(2)], SECOND);
    assert_eq!(state(&cache, "10.0.0.2"), None);
    assert!(cache.drain_actions().contains(&Action::Forget {
        key: key("10.0.0.2")
    }));
    // What was configured goes when the configuration says so.
    assert_eq!(state(&cache, "10.0.0.3"), Some((Static, Some(B))));
    check(&cache);
}
