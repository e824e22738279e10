//! Random inputs in random order, and what must hold after each.

use proptest::prelude::*;
use wire::builder::ip6;

use super::NeighbourState::Static;
use super::tests::{A, OWN_MAC, SECOND, facts, reply};
use super::*;

/// What is kept about the entries agrees with the entries.
pub(super) fn check(cache: &NeighbourCache) {
    let mut deadlines: BTreeSet<_> = BTreeSet::new();
    for (key, entry) in &cache.entries {
        assert!(cache.interfaces.contains_key(&key.interface), "{key:?}");
        assert_eq!(
            entry.mac.is_some(),
            entry.state.is_resolved(),
            "{key:?} {entry:?}"
        );
        assert_eq!(
            entry.deadline_ns.is_none(),
            entry.state == Static,
            "{key:?} {entry:?}"
        );
        deadlines.extend(entry.deadline_ns.map(|at| (at, Timer::Neighbour(*key))));
    }
    for (key, announcement) in &cache.announcements {
        deadlines.insert((announcement.due_ns, Timer::Announcement(*key)));
    }
    assert_eq!(cache.deadlines, deadlines);
    let dynamic = |entry: &&Entry| entry.state != Static;
    assert_eq!(
        cache.entries.values().filter(dynamic).count(),
        cache.dynamic
    );
    assert!(cache.dynamic <= cache.limits.total);
    for (number, interface) in &cache.interfaces {
        let of = || of_interface(&cache.entries, *number);
        let count = of().filter(|(_, entry)| dynamic(entry)).count();
        assert_eq!(count, interface.dynamic);
        assert!(count <= cache.limits.per_interface);
        let unresolved = of().filter(|(_, entry)| !entry.state.is_resolved());
        assert_eq!(unresolved.count(), interface.unresolved);
        let evictable = of().filter(|(_, entry)| entry.is_evictable());
        let evictable: BTreeSet<_> = evictable
            .map(|(key, entry)| Rank::of(*key, entry))
            .collect();
        assert_eq!(evictable, interface.evictable);
    }
}

/// An input; small numbers, so that they meet.
#[derive(Clone, Debug)]
enum Input {
    Resolve(u16, IpAddr),
    Arp(u16, ArpPacket),
    Discovery(u16, Vec<u8>),
    SetStatic(u16, IpAddr, MacAddr),
    RemoveStatic(u16, IpAddr),
    Interfaces(Vec<InterfaceFacts>),
    Tick(u64),
    Next,
}

fn any_mac() -> impl Strategy<Value = MacAddr> {
    prop_oneof![
        8 => (1..5_u32).prop_map(MacAddr::local),
        1 => Just(OWN_MAC),
        1 => any::<[u8; 6]>().prop_map(MacAddr),
    ]
}

fn any_ip4() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        8 => (0..9_u8).prop_map(|n| Ipv4Addr::new(10, 0, 0, n)),
        1 => any::<Ipv4Addr>(),
    ]
}

fn any_ip6() -> impl Strategy<Value = Ipv6Addr> {
    prop_oneof![
        6 => (0..6_u16).prop_map(|n| Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, n)),
        4 => (0..6_u16).prop_map(|n| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)),
        1 => any::<Ipv6Addr>(),
    ]
}

fn any_address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any_ip4().prop_map(IpAddr::V4),
        any_ip6().prop_map(IpAddr::V6)
    ]
}

fn any_arp() -> impl Strategy<Value = ArpPacket> {
    let operation = prop_oneof![9 => 1..3_u16, 1 => any::<u16>()];
    let target_mac = prop_oneof![Just(OWN_MAC), any_mac()];
    (operation, any_mac(), any_ip4(), target_mac, any_ip4()).prop_map(
        |(operation, mac, sender, target_mac, target)| {
            let operation = ArpOperation::new(operation);
            ArpPacket::new(operation, (mac, sender), (target_mac, target))
        },
    )
}

fn any_discovery() -> impl Strategy<Value = Vec<u8>> {
    let mac = || prop::option::weighted(0.8, any_mac());
    let built = (
        any::<bool>(),
        any_ip6(),
        any_ip6(),
        any_ip6(),
        any::<u8>(),
        mac(),
    )
        .prop_map(|(ask, source, destination, target, flags, mac)| {
            let ip = ip6(source, destination);
            if ask {
                ip.neighbour_solicitation(target, mac).build()
            } else {
                ip.neighbour_advertisement(target, flags, mac).build()
            }
        });
    let built = built.boxed();
    let damaged = (built.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
        |(mut packet, at, value)| {
            let at = at.index(packet.len());
            packet[at] = value;
            packet
        },
    );
    prop_oneof![
        8 => built,
        1 => damaged,
        1 => prop::collection::vec(any::<u8>(), 0..120),
    ]
}

fn any_facts() -> impl Strategy<Value = InterfaceFacts> {
    (
        0..3_u16,
        any_mac(),
        prop::collection::vec((any_ip4(), any::<u8>()), 0..3),
        prop::collection::vec((any_ip6(), any::<u8>()), 0..3),
        prop::option::of(any_ip6()),
        prop::bool::weighted(0.8),
    )
        .prop_map(|(number, mac, ip4, ip6, link_local, up)| InterfaceFacts {
            number,
            mac,
            ip4,
            ip6,
            link_local,
            up,
        })
}

fn any_input() -> impl Strategy<Value = Input> {
    let interface = || 0..3_u16;
    let change = prop_oneof![
        4 => Just(vec![facts(0), facts(1)]),
        1 => prop::collection::vec(any_facts(), 0..4),
    ];
    let time = prop_oneof![
        20 => 0..3 * SECOND,
        4 => 0..700 * SECOND,
        1 => any::<u64>(),
    ];
    prop_oneof![
        8 => (interface(), any_address()).prop_map(|(i, a)| Input::Resolve(i, a)),
        8 => (interface(), any_arp()).prop_map(|(i, packet)| Input::Arp(i, packet)),
        8 => (interface(), any_discovery()).prop_map(|(i, packet)| Input::Discovery(i, packet)),
        1 => (interface(), any_address(), any_mac()).prop_map(|(i, a, m)| Input::SetStatic(i, a, m)),
        1 => (interface(), any_address()).prop_map(|(i, a)| Input::RemoveStatic(i, a)),
        1 => change.prop_map(Input::Interfaces),
        4 => time.prop_map(Input::Tick),
        8 => Just(Input::Next),
    ]
}

proptest! {
    /// Random inputs in random order: no panic, and the actions tell the truth.
    #[test]
    fn any_inputs_are_handled(
        inputs in prop::collection::vec(any_input(), 1..200),
        seed: u64,
        per_interface in 0..6_usize,
        timers_are_zero in prop::bool::weighted(0.05),
    ) {
        let limits = NeighbourLimits {
            per_interface,
            unresolved_per_interface: 3,
            total: 8,
        };
        let mut timers = NeighbourTimers::default();
        if timers_are_zero {
            timers = NeighbourTimers {
                retransmit_ns: 0, multicast_solicits: 0, reachable_ns: 0, delay_ns: 0, unicast_probes: 0,
                failed_ns: 0, stale_ns: 0, use_check_ns: 0, announcements: 0,
            };
        }
        let mut cache = NeighbourCache::new(timers, seed).with_limits(limits);
        cache.set_interfaces([facts(0), facts(1)], 0);
        cache.drain_actions();
        let (mut now, mut random) = (0_u64, Random::new(seed));
        let mut resolved: BTreeMap<NeighbourKey, MacAddr> = BTreeMap::new();
        for input in inputs {
            match input {
                Input::Resolve(interface, address) => cache.resolve(interface, address, now),
                Input::Arp(interface, packet) => cache.arp(interface, &packet, now),
                Input::Discovery(interface, packet) => cache.discovery(interface, &packet, now),
                Input::SetStatic(interface, address, mac) => {
                    let key = NeighbourKey { interface, address };
                    let done = cache.set_static(key, mac).is_ok();
                    prop_assert!(!done || cache.entries[&key].state == Static);
                }
                Input::RemoveStatic(interface, address) => {
                    cache.remove_static(NeighbourKey { interface, address });
                }
                Input::Interfaces(facts) => cache.set_interfaces(facts, now),
                Input::Tick(_) | Input::Next => {
                    now = match (input, cache.next_deadline()) {
                        (Input::Tick(time), _) => now.saturating_add(time),
                        (_, at) => at.unwrap_or(now).max(now),
                    };
                    cache.tick(now, |_| random.around(4) % 2 == 0);
                    let next = cache.next_deadline();
                    prop_assert!(next.is_none_or(|at| at > now || now == u64::MAX));
                }
            }
            for action in cache.drain_actions() {
                match action {
                    Action::Resolve { key, mac } => {
                        prop_assert!(mac.is_unicast());
                        resolved.insert(key, mac);
                    }
                    Action::Forget { key } => prop_assert!(resolved.remove(&key).is_some()),
                    Action::Send { interface, frame } => {
                        prop_assert!(cache.facts_up(interface).is_some());
                        prop_assert!(!frame.payload.is_empty());
                    }
                }
            }
            let macs = cache.entries().filter_map(|entry| Some((entry.key, entry.mac?)));
            prop_assert_eq!(&macs.collect::<BTreeMap<_, _>>(), &resolved);
            check(&cache);
        }
        // Left alone, everything comes to rest.
        if now < u64::MAX / 2 {
            let mut steps = 0;
            while let Some(at) = cache.next_deadline() {
                cache.tick(at, |_| false);
                steps += 1;
                prop_assert!(steps < 20_000);
            }
            prop_assert!(cache.entries().all(|entry| entry.state == Static));
        }
    }

    /// The same inputs give the same actions.
    #[test]
    fn is_deterministic(inputs in prop::collection::vec((0..9_u8, 0..20 * SECOND), 1..50), seed: u64) {
        let play = || {
            let mut cache = NeighbourCache::new(Default::default(), seed);
            cache.set_interfaces([facts(1)], 0);
            let mut now = 0;
            for (n, time) in &inputs {
                now += time;
                cache.resolve(1, [10, 0, 0, *n].into(), now);
                cache.arp(1, &reply(A, [10, 0, 0, n / 2]), now);
                cache.tick(now, |key| key.address < IpAddr::from([10, 0, 0, 5]));
            }
            cache.drain_actions()
        };
        prop_assert_eq!(play(), play());
    }
}
