use std::net::{Ipv4Addr, Ipv6Addr};

use model::policy::Protocol;
use model::{ObjectSpec, PortSpan};
use proptest::prelude::*;
use tables::acl::{Key, SetClasses};

use super::*;
use crate::convert::to_model;
use crate::yaml;

/// Two interfaces to others, one inside, one in another VRF.
const BASE: &str = "
apiVersion: oncilla.io/v1
kind: List
items:
- {apiVersion: oncilla.io/v1, kind: Vrf, metadata: {name: red}}
- {apiVersion: oncilla.io/v1, kind: Interface, metadata: {name: lan}, spec: {afPacket: {device: eth0}}}
- {apiVersion: oncilla.io/v1, kind: Interface, metadata: {name: wan}, spec: {afPacket: {device: eth1}}}
- {apiVersion: oncilla.io/v1, kind: Interface, metadata: {name: dsl}, spec: {afPacket: {device: eth2}}}
- {apiVersion: oncilla.io/v1, kind: Interface, metadata: {name: red}, spec: {afPacket: {device: eth3}, vrf: red}}
- {apiVersion: oncilla.io/v1, kind: Address, metadata: {name: lan}, spec: {interface: lan, address: 10.0.0.1/16}}
- {apiVersion: oncilla.io/v1, kind: Address, metadata: {name: lan6}, spec: {interface: lan, address: '2001:db8::1/64'}}
- {apiVersion: oncilla.io/v1, kind: Address, metadata: {name: wan}, spec: {interface: wan, address: 192.0.2.1/24}}
- {apiVersion: oncilla.io/v1, kind: Address, metadata: {name: wan-second}, spec: {interface: wan, address: 192.0.2.2/24}}
- {apiVersion: oncilla.io/v1, kind: Address, metadata: {name: wan6}, spec: {interface: wan, address: '2001:db8:1::1/64'}}
- {apiVersion: oncilla.io/v1, kind: Address, metadata: {name: dsl}, spec: {interface: dsl, address: 198.51.100.1/24}}
- {apiVersion: oncilla.io/v1, kind: Address, metadata: {name: red}, spec: {interface: red, address: 10.0.0.1/24}}
";

/// The base and more objects: kind, name, specification.
fn state(objects: &[(&str, &str, &str)]) -> DesiredState {
    let mut text = BASE.to_owned();
    for (kind, name, spec) in objects {
        text += &format!(
            "---\napiVersion: oncilla.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        );
    }
    let mut state = DesiredState::default();
    for document in yaml::load(&text, "test").expect("is well-formed") {
        let (key, spec) = to_model(&document.object).expect("is valid");
        state.insert(&key.name, spec).expect("has a name");
    }
    assert_eq!(state.validate(), Ok(()));
    state
}

fn numbering(state: &DesiredState) -> Numbering {
    Numbering::default().next(state).expect("fits")
}

fn compiled(state: &DesiredState) -> (NatSections, PoolNumbers) {
    let outgoing = state.policy.nat_outgoing_of("here");
    let outgoing = outgoing.as_ref();
    let numbers = PoolNumbers::default().next(state, outgoing).expect("fits");
    let sections = compile(state, outgoing, &numbering(state), &numbers);
    (sections, numbers)
}

fn named(name: &str) -> PoolName {
    PoolName::Object(name.parse().expect("a name"))
}

fn v4(text: &str) -> u32 {
    text.parse::<Ipv4Addr>().expect("an address").to_bits()
}

fn v6(text: &str) -> u128 {
    text.parse::<Ipv6Addr>().expect("an address").to_bits()
}

/// What becomes of a source, and the addresses where it is one of a pool.
type Found<A> = (SourceRecord<A>, Vec<(A, A)>);

/// What rules make of a packet's source, and with which addresses where it is one of a pool.
fn find<A: Ip>(
    section: &NatSection<A>,
    rules: Option<&Vec<(Rule, SourceRecord<A>)>>,
    key: &Key<A>,
) -> Option<Found<A>> {
    let sets = SetClasses::default();
    let (_, source) = rules?.iter().find(|(rule, _)| rule.matches(key, &sets))?;
    let addresses = match source {
        SourceRecord::Pool(number) => section.pools[number].addresses.clone(),
        _ => Vec::new(),
    };
    Some((source.clone(), addresses))
}

fn tcp(source: &str, destination: &str) -> Key<u32> {
    Key::with_ports(v4(source), v4(destination), 6, 1000, 80)
}

#[test]
fn one_to_one_goes_before_rules_and_rules_go_by_order_and_name() {
    let state = state(&[
        (
            "NatPool",
            "a",
            "{addresses: [203.0.113.1, 203.0.113.8/30], pairing: arbitrary, ports: {first: 5000, last: 6000}}",
        ),
        ("NatPool", "masquerade", "{interfaceAddress: true}"),
        (
            "NatRule",
            "z-first",
            "{order: -1, sources: [10.0.1.0/24], exempt: true}",
        ),
        (
            "NatRule",
            "a-last",
            "{sources: [10.0.0.0/16], outInterfaces: [wan, dsl], pool: masquerade}",
        ),
        (
            "NatRule",
            "c",
            "{order: 5, sources: [10.0.2.0/24], protocol: udp, pool: masquerade, outInterfaces: [wan, dsl]}",
        ),
        (
            "NatRule",
            "b",
            "{order: 5, sources: [10.0.2.0/24], notDestinations: [192.0.2.0/24], pool: a, outInterfaces: [wan, dsl]}",
        ),
        (
            "StaticNat",
            "s",
            "{external: 203.0.113.16/30, internal: 10.0.1.4/30, outInterfaces: [wan]}",
        ),
    ]);
    let (sections, numbers) = compiled(&state);
    let section = &sections.ip4;
    let numbering = numbering(&state);
    let of = |interface: &str| {
        let number = numbering.interface(&interface.parse().expect("a name"));
        section.source.get(&number.expect("is there"))
    };
    let found = |interface: &str, source: &str, destination: &str| {
        find(section, of(interface), &tcp(source, destination))
    };
    let mapping = SourceRecord::Prefix {
        internal: v4("10.0.1.4"),
        external: v4("203.0.113.16"),
        prefix_len: 30,
    };
    assert_eq!(found("wan", "10.0.1.6", "8.8.8.8"), Some((mapping, vec![])));
    // The mapping is not for this interface; the exemption is for all.
    assert_eq!(
        found("dsl", "10.0.1.6", "8.8.8.8"),
        Some((SourceRecord::Exempt, vec![]))
    );
    let addresses = |found: Option<Found<u32>>| found.expect("some").1;
    let single = |text: &str| (v4(text), v4(text));
    let pool_a = vec![
        single("203.0.113.1"),
        (v4("203.0.113.8"), v4("203.0.113.11")),
    ];
    assert_eq!(addresses(found("wan", "10.0.2.1", "8.8.8.8")), pool_a);
    assert_eq!(
        addresses(found("wan", "10.0.2.1", "192.0.2.77")),
        [single("192.0.2.1")]
    );
    assert_eq!(
        addresses(found("dsl", "10.0.3.1", "8.8.8.8")),
        [single("198.51.100.1")]
    );
    assert_eq!(found("wan", "10.1.0.1", "8.8.8.8"), None);
    assert_eq!(found("lan", "10.0.3.1", "10.0.0.9"), None);
    assert_eq!(of("red"), None);

    let record = section
        .pools
        .values()
        .find(|pool| pool.addresses == pool_a)
        .expect("is there");
    assert_eq!((record.ports, record.paired), ((5000, 6000), false));
    // Two interfaces and the pool of addresses, and in IPv6 nothing that its rules could be about.
    assert_eq!((section.pools.len(), numbers.end()), (3, 3));
    let empty = NatSection::default();
    assert_eq!(
        NatSection {
            destination: BTreeMap::new(),
            ..sections.ip6
        },
        empty
    );

    // Back inside, an exemption that names no interface holds, and the address is that of any interface.
    let hairpin = |source: &str| find(section, section.hairpin.get(&0), &tcp(source, "192.0.2.1"));
    assert_eq!(hairpin("10.0.1.1"), Some((SourceRecord::Exempt, vec![])));
    assert_eq!(addresses(hairpin("10.0.3.1")), [single("198.51.100.1")]);
}

#[test]
fn what_an_interface_has_no_address_for_is_translated_to_none() {
    let state = state(&[
        ("NatPool", "masquerade", "{interfaceAddress: true}"),
        (
            "NatRule",
            "all",
            "{outInterfaces: [dsl, wan], pool: masquerade}",
        ),
    ]);
    let (sections, _) = compiled(&state);
    let key = Key::opaque(v6("2001:db8::9"), v6("2001:db8:f::1"), 58);
    let numbering = numbering(&state);
    let on = |interface: &str| {
        let number = numbering.interface(&interface.parse().expect("a name"));
        let rules = sections.ip6.source.get(&number.expect("is there"));
        find(&sections.ip6, rules, &key).expect("matches").1
    };
    let own = v6("2001:db8:1::1");
    assert_eq!((on("wan"), on("dsl")), (vec![(own, own)], vec![]));
    // The interface that has an address, though it has not the lowest number.
    let hairpin = find(&sections.ip6, sections.ip6.hairpin.get(&0), &key);
    assert_eq!(hairpin.expect("matches").1, [(own, own)]);
    // It can be made.
    let nat = sections.to_nat();
    assert!(nat.is_on());
    let wan = numbering.interface(&"wan".parse().expect("a name"));
    assert!(nat.ip6.source_of(wan.expect("is there")).is_some());
    assert!(nat.ip6.hairpin_of(0).is_some());
}

#[test]
fn destinations_and_addresses_of_nobody_else() {
    let state = state(&[
        ("NatPool", "own", "{addresses: [192.0.2.1-192.0.2.3]}"),
        ("NatPool", "next", "{addresses: [192.0.2.4/30]}"),
        ("NatPool", "red", "{vrf: red, addresses: [192.0.2.4/30]}"),
        ("NatPool", "six", "{addresses: ['2001:db8:2::/112']}"),
        (
            "PortForward",
            "web",
            "{interface: wan, protocol: tcp, port: 80, targetAddress: 10.0.0.7, targetPort: 8080}",
        ),
        (
            "PortForward",
            "range",
            "{address: 203.0.113.9, protocol: UDP, ports: {first: 500, last: 510}, targetAddress: 10.0.0.8, sourcePool: next}",
        ),
        (
            "PortForward",
            "gre",
            "{address: 192.0.2.6, protocol: '47', targetAddress: 10.0.0.9}",
        ),
        (
            "StaticNat",
            "six",
            "{external: '2001:db8:3::/64', internal: '2001:db8::/64'}",
        ),
    ]);
    let (sections, numbers) = compiled(&state);
    let rule = |address: &str, protocol: u8, ports, to: &str, port, source| DestinationRecord {
        address: v4(address),
        prefix_len: 32,
        protocol: Some(protocol),
        ports,
        to: v4(to),
        port,
        source,
    };
    let next = numbers.number(&named("next"), None, false);
    assert!(next.is_some());
    let ip4 = &sections.ip4.destination[&0];
    assert_eq!(
        ip4.rules,
        [
            rule("192.0.2.6", 47, None, "10.0.0.9", None, None),
            rule("203.0.113.9", 17, Some((500, 510)), "10.0.0.8", None, next),
            rule("192.0.2.1", 6, Some((80, 80)), "10.0.0.7", Some(8080), None),
            rule("192.0.2.2", 6, Some((80, 80)), "10.0.0.7", Some(8080), None),
        ]
    );
    // Without the two addresses of the interface, in the fewest ranges.
    assert_eq!(
        ip4.externals,
        [
            (v4("192.0.2.3"), v4("192.0.2.7")),
            (v4("203.0.113.9"), v4("203.0.113.9"))
        ]
    );
    let red = &sections.ip4.destination[&1];
    assert_eq!(red.externals, [(v4("192.0.2.4"), v4("192.0.2.7"))]);
    let ip6 = &sections.ip6.destination[&0];
    assert_eq!(
        ip6.rules,
        [DestinationRecord {
            address: v6("2001:db8:3::"),
            prefix_len: 64,
            protocol: None,
            ports: None,
            to: v6("2001:db8::"),
            port: None,
            source: None,
        }]
    );
    assert_eq!(
        ip6.externals,
        [(v6("2001:db8:2::"), v6("2001:db8:2::ffff"))]
    );

    let mut routed = Sections::default();
    routes(&state, &numbering(&state), &mut routed);
    let routed: Vec<String> = routed
        .routes
        .iter()
        .map(|((vrf, address, length), route)| {
            assert_eq!(route.target, RouteTarget::Local);
            format!("{vrf} {address}/{length} {}", route.origin)
        })
        .collect();
    assert_eq!(
        routed,
        [
            "0 192.0.2.1/32 NatPool/own",
            "0 192.0.2.2/31 NatPool/own",
            "0 192.0.2.4/30 NatPool/next",
            "0 192.0.2.6/32 PortForward/gre",
            "0 203.0.113.9/32 PortForward/range",
            "0 2001:db8:2::/112 NatPool/six",
            "0 2001:db8:3::/64 StaticNat/six",
            "1 192.0.2.4/30 NatPool/red",
        ]
    );
}

/// The conditions of felix's natOutgoing: from a pool that has it, to no pool at all, behind what rules say.
#[test]
fn pools_of_workloads_leave_translated() {
    let mut state = state(&[("NatRule", "r", "{sources: [10.0.7.0/24], exempt: true}")]);
    let add = |state: &mut DesiredState, kind: &str, name: &str, spec: &str| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        );
        for document in yaml::load(&text, "test").expect("is well-formed") {
            let (key, spec) = to_model(&document.object).expect("is valid");
            state.insert(&key.name, spec).expect("has a name");
        }
        assert_eq!(state.validate(), Ok(()));
    };
    add(
        &mut state,
        "IPPool",
        "a",
        "{cidr: 10.0.0.0/20, natOutgoing: true}",
    );
    add(&mut state, "IPPool", "b", "{cidr: 10.0.32.0/20}");
    let numbering = numbering(&state);
    let found = |sections: &NatSections, interface: &str, source: &str, destination: &str| {
        let number = numbering.interface(&interface.parse().expect("a name"));
        let rules = sections.ip4.source.get(&number.expect("is there"));
        let found = find(&sections.ip4, rules, &tcp(source, destination));
        found.map(|(_, addresses)| addresses)
    };
    let one = |address: &str| Some(vec![(v4(address), v4(address))]);
    let (sections, numbers) = compiled(&state);
    assert_eq!(
        found(&sections, "wan", "10.0.1.1", "8.8.8.8"),
        one("192.0.2.1")
    );
    assert_eq!(
        found(&sections, "dsl", "10.0.1.1", "8.8.8.8"),
        one("198.51.100.1")
    );
    assert_eq!(
        found(&sections, "lan", "10.0.1.1", "10.0.99.1"),
        one("10.0.0.1")
    );
    assert_eq!(found(&sections, "lan", "10.0.1.1", "10.0.2.1"), None);
    assert_eq!(found(&sections, "lan", "10.0.1.1", "10.0.33.1"), None);
    assert_eq!(found(&sections, "wan", "10.0.33.1", "8.8.8.8"), None);
    assert_eq!(found(&sections, "red", "10.0.1.1", "8.8.8.8"), None);
    assert_eq!(found(&sections, "wan", "10.0.7.1", "8.8.8.8"), Some(vec![]));
    assert_eq!((numbers.end(), sections.ip4.pools.len()), (3, 3));
    assert!(
        sections
            .ip4
            .pools
            .values()
            .all(|pool| pool.ports == (1, 65535))
    );
    assert_eq!(sections.ip4.hairpin[&0].len(), 1);
    assert!(sections.ip6.pools.is_empty());

    let spec = "{natOutgoingAddress: 203.0.113.1, natPortRange: '2000:3000'}";
    add(&mut state, "FelixConfiguration", "node.here", spec);
    let (sections, numbers) = compiled(&state);
    assert_eq!(
        found(&sections, "wan", "10.0.1.1", "8.8.8.8"),
        one("203.0.113.1")
    );
    assert_eq!(
        found(&sections, "dsl", "10.0.1.1", "8.8.8.8"),
        one("203.0.113.1")
    );
    assert_eq!((numbers.end(), sections.ip4.pools.len()), (1, 1));
    assert_eq!(sections.ip4.pools[&0].ports, (2000, 3000));
}

#[test]
fn a_pool_keeps_its_number_and_a_number_given_back_rests() {
    let base = state(&[]);
    let with = |pools: &[&str]| {
        let mut state = base.clone();
        for (at, name) in pools.iter().enumerate() {
            let pool = NatPool {
                vrf: VrfName::default(),
                addresses: PoolAddresses::Ranges(vec![
                    format!("203.0.113.{at}").parse().expect("valid"),
                ]),
                ports: PortSpan::ALL,
                pairing: Pairing::Paired,
            };
            state
                .insert(name, ObjectSpec::NatPool(pool))
                .expect("has a name");
        }
        state
    };
    let number = |numbers: &PoolNumbers, name: &str| numbers.number(&named(name), None, false);
    let first = PoolNumbers::default()
        .next(&with(&["b", "d"]), None)
        .expect("fits");
    assert_eq!(
        (number(&first, "b"), number(&first, "d")),
        (Some(0), Some(1))
    );
    let second = first.next(&with(&["a", "d"]), None).expect("fits");
    assert_eq!(
        (number(&second, "a"), number(&second, "d")),
        (Some(2), Some(1))
    );
    assert_eq!(second.name(2).map(|key| &key.pool), Some(&named("a")));
    assert_eq!((second.name(0), second.end()), (None, 3));
    assert_eq!(second.next(&with(&["a", "d"]), None).as_ref(), Ok(&second));
    // When all have been given out, those that are free again are.
    let mut last = second;
    for at in 0..70_000 {
        let name = format!("p{at}");
        last = last.next(&with(&[&name, "d"]), None).expect("fits");
        if at % 10_000 == 0 {
            assert_eq!(number(&last, "d"), Some(1));
        }
    }
    assert_eq!(last.end(), 65_536);
}

/// A rule of the property test: order, whether it is for `wan` alone, source and destination, excluded destination, whether of UDP alone,
/// and what it does: 0 nothing, 1 a pool, 2 masquerade.
type AnyRule = (
    Option<i8>,
    bool,
    Option<IpNet>,
    Option<IpNet>,
    Option<IpNet>,
    bool,
    u8,
);

fn any_net() -> impl Strategy<Value = IpNet> {
    let v4 = (0u8..4, 29u8..=32).prop_map(|(host, length)| format!("10.0.0.{}/{length}", host * 3));
    let v6 =
        (0u8..4, 125u8..=128).prop_map(|(host, length)| format!("2001:db8::{}/{length}", host * 3));
    prop_oneof![3 => v4, 1 => v6].prop_map(|text| text.parse::<IpNet>().expect("valid").trunc())
}

fn any_rule() -> impl Strategy<Value = AnyRule> {
    (
        proptest::option::of(-2i8..3),
        any::<bool>(),
        proptest::option::of(any_net()),
        proptest::option::of(any_net()),
        proptest::option::of(any_net()),
        any::<bool>(),
        0u8..3,
    )
}

fn model_rule(rule: &AnyRule) -> NatRule {
    let (order, wan_only, source, destination, excluded, udp, action) = *rule;
    NatRule {
        order: order.and_then(|order| model::policy::Order::new(order.into())),
        vrf: VrfName::default(),
        out_interfaces: wan_only
            .then(|| "wan".parse().expect("a name"))
            .into_iter()
            .collect(),
        sources: source.into_iter().collect(),
        destinations: destination.into_iter().collect(),
        not_destinations: excluded.into_iter().collect(),
        protocol: udp.then_some(Protocol::UDP),
        action: match action {
            0 => NatAction::Exempt,
            1 => NatAction::Pool("pool".parse().expect("a name")),
            _ => NatAction::Pool("masquerade".parse().expect("a name")),
        },
    }
}

/// What an IPv4 packet's source becomes, straight from the objects: `None` stays; else the pool's addresses, or the mapped address.
fn plainly(
    state: &DesiredState,
    exit: &str,
    (source, destination, protocol): (Ipv4Addr, Ipv4Addr, u8),
) -> Option<Vec<(u32, u32)>> {
    let exit: InterfaceName = exit.parse().expect("a name");
    for mapping in state.nat.statics.values() {
        if mapping.leaves_by(&exit) && mapping.internal.contains(&IpAddr::V4(source)) {
            let (IpAddr::V4(internal), IpAddr::V4(external)) =
                (mapping.internal.addr(), mapping.external.addr())
            else {
                continue;
            };
            let mapped = source.to_bits() - internal.to_bits() + external.to_bits();
            return Some(vec![(mapped, mapped)]);
        }
    }
    let mut rules: Vec<_> = state.nat.rules.iter().collect();
    rules.sort_by(|(a, left), (b, right)| {
        let order = |rule: &NatRule| rule.order.map_or(f64::INFINITY, |order| order.get());
        order(left).total_cmp(&order(right)).then_with(|| a.cmp(b))
    });
    let (source, destination) = (IpAddr::V4(source), IpAddr::V4(destination));
    for (_, rule) in rules {
        let within = |nets: &[IpNet], address| {
            nets.is_empty() || nets.iter().any(|net| net.contains(address))
        };
        let lists = [&rule.sources, &rule.destinations, &rule.not_destinations];
        let named = lists.iter().any(|nets| !nets.is_empty());
        let of_family = lists
            .iter()
            .any(|nets| nets.iter().any(|net| matches!(net, IpNet::V4(_))));
        let matches = rule.leaves_by(&exit)
            && (!named || of_family)
            && within(&rule.sources, &source)
            && within(&rule.destinations, &destination)
            && !rule
                .not_destinations
                .iter()
                .any(|net| net.contains(&destination))
            && rule.protocol.is_none_or(|own| own.number() == protocol);
        if matches {
            return match &rule.action {
                NatAction::Exempt => None,
                NatAction::Pool(name) if name.as_str() == "pool" => {
                    Some(vec![(v4("203.0.113.4"), v4("203.0.113.7"))])
                }
                NatAction::Pool(_) => {
                    let own = match exit.as_str() {
                        "wan" => "192.0.2.1",
                        "dsl" => "198.51.100.1",
                        _ => "10.0.0.1",
                    };
                    Some(vec![(v4(own), v4(own))])
                }
            };
        }
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// What is compiled says what the objects say.
    #[test]
    fn compiled_rules_equal_the_objects(
        rules in proptest::collection::vec(any_rule(), 0..8),
        mapped in any::<bool>(),
        packets in proptest::collection::vec((0u8..16, 0u8..16, any::<bool>(), 0usize..3), 40),
    ) {
        let mut state = state(&[
            ("NatPool", "pool", "{addresses: [203.0.113.4/30]}"),
            ("NatPool", "masquerade", "{interfaceAddress: true}"),
        ]);
        for (at, rule) in rules.iter().enumerate() {
            state.insert(&format!("r{at}"), ObjectSpec::NatRule(model_rule(rule))).expect("has a name");
        }
        if mapped {
            let mapping = StaticNat {
                vrf: VrfName::default(),
                external: "203.0.113.8/31".parse().expect("valid"),
                internal: "10.0.0.6/31".parse().expect("valid"),
                out_interfaces: vec!["dsl".parse().expect("a name")],
            };
            state.insert("s", ObjectSpec::StaticNat(mapping)).expect("has a name");
        }
        let (sections, _) = compiled(&state);
        let nat = sections.to_nat();
        let numbering = numbering(&state);
        for (source, destination, udp, exit) in packets {
            let exit = ["lan", "wan", "dsl"][exit];
            let number = numbering.interface(&exit.parse().expect("a name")).expect("is there");
            let (source, destination) = (Ipv4Addr::new(10, 0, 0, source), Ipv4Addr::new(10, 0, 0, destination));
            let protocol = if udp { 17 } else { 6 };
            let key = Key::with_ports(source.to_bits(), destination.to_bits(), protocol, 1000, 80);
            let found = nat.ip4.source_of(number).and_then(|rules| rules.find(&key));
            let found = match found {
                None | Some(Source::Exempt) => None,
                Some(Source::Pool(pool)) => Some(pool.addresses.to_vec()),
                Some(Source::Prefix { internal, external, .. }) => {
                    let mapped = source.to_bits() - internal + external;
                    Some(vec![(mapped, mapped)])
                }
            };
            prop_assert_eq!(found, plainly(&state, exit, (source, destination, protocol)));
        }
    }

    /// Ranges without holes hold what they held, but for the holes.
    #[test]
    fn holes_are_left_out(
        ranges in proptest::collection::vec((0u32..60, 0u32..9), 0..6),
        holes in proptest::collection::btree_set(prop_oneof![0u32..70, Just(u32::MAX)], 0..6),
        last in any::<bool>(),
    ) {
        let mut ranges: Vec<_> = ranges.into_iter().map(|(first, more)| (first, first + more)).collect();
        if last {
            ranges.push((u32::MAX - 2, u32::MAX));
        }
        let left = without(merged(ranges.clone()), &holes);
        prop_assert!(left.is_sorted() && left.windows(2).all(|pair| pair[0].1 < pair[1].0));
        for address in (0..80).chain(u32::MAX - 4..=u32::MAX) {
            let held = |list: &[(u32, u32)]| list.iter().any(|(first, last)| (*first..=*last).contains(&address));
            prop_assert_eq!(held(&left), held(&ranges) && !holes.contains(&address));
        }
    }
}
