//! The compiled classifiers against the linear twin: all criteria mixed, both families.

use std::sync::Arc;

use proptest::prelude::*;
use tables::{
    Prefix4, Prefix6,
    acl::{
        Address, ClassMembership, Classifier, EditError, Family, Icmp, Key, NO_MATCH,
        OVERLAY_RULES, PortRange, Prefix, Protocols, Rule, RuleList, SetClasses, Side, Tier,
        generate::{Random, Shape, rules, trace},
        reference::Linear,
    },
};

const TIERS: [Tier; 4] = [Tier::Automatic, Tier::Brute, Tier::BitVectors, Tier::Trees];

/// Few values, so that rules overlap and packets hit; both ends of the space occur.
fn v4() -> impl Strategy<Value = u32> + Clone {
    prop_oneof![
        6 => (0u32..3, 0u32..3, 0u32..4).prop_map(|(b, c, d)| 0x0a00_0000 | b << 16 | c << 8 | d),
        1 => Just(0),
        1 => Just(u32::MAX),
        1 => any::<u32>(),
    ]
}

fn v6() -> impl Strategy<Value = u128> + Clone {
    prop_oneof![
        6 => (0u128..3, 0u128..3, 0u128..3, 0u128..4)
            .prop_map(|(a, b, c, d)| 0x2001_0db8 << 96 | a << 80 | b << 64 | c << 32 | d),
        1 => Just(0),
        1 => Just(u128::MAX),
        1 => any::<u128>(),
    ]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    let len4 = prop_oneof![1 => Just(0u8), 2 => 1u8..=15, 6 => 16u8..=31, 4 => Just(32)];
    let len6 = prop_oneof![1 => Just(0u8), 2 => 1u8..=40, 6 => 41u8..=127, 4 => Just(128)];
    prop_oneof![
        3 => (v4(), len4).prop_map(|(addr, len)| Prefix4::around(addr, len).unwrap().into()),
        2 => (v6(), len6).prop_map(|(addr, len)| Prefix6::around(addr, len).unwrap().into()),
    ]
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        6 => 78u16..86,
        1 => Just(0),
        1 => Just(u16::MAX),
        1 => any::<u16>(),
    ]
}

fn range() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        3 => port().prop_map(PortRange::single),
        3 => (port(), port()).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap()),
        1 => Just(PortRange::ALL),
    ]
}

/// Mostly empty, so that rules keep a chance to match.
fn seldom<T: std::fmt::Debug>(
    of: impl Strategy<Value = T> + 'static,
    weight: u32,
    most: usize,
) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![
        10 - weight => Just(()).prop_map(|()| 0),
        weight => 1..=most,
    ]
    .prop_flat_map({
        let of = of.boxed();
        move |n| prop::collection::vec(of.clone(), n)
    })
}

fn side(sets: bool) -> impl Strategy<Value = Side> {
    let weight = if sets { 2 } else { 0 };
    let few = if sets { 1 } else { 0 };
    (
        seldom(prefix(), 5, 4),
        seldom(prefix(), 1, 3),
        seldom(0u32..6, weight, 2),
        seldom(0u32..6, few, 2),
        seldom(range(), 3, 3),
        seldom(0u32..6, few, 2),
        seldom(range(), 1, 2),
        seldom(0u32..6, few, 2),
    )
        .prop_map(
            |(
                prefixes,
                not_prefixes,
                all_of,
                none_of,
                ports,
                port_sets,
                not_ports,
                not_port_sets,
            )| {
                Side {
                    prefixes,
                    not_prefixes,
                    all_of,
                    none_of,
                    ports,
                    port_sets,
                    not_ports,
                    not_port_sets,
                }
            },
        )
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![
        Just(6u8),
        Just(17),
        Just(1),
        Just(58),
        Just(132),
        Just(136),
        Just(47),
        Just(0),
        Just(255),
    ]
}

fn protocols() -> impl Strategy<Value = Protocols> {
    prop_oneof![
        5 => Just(Protocols::ALL),
        4 => protocol().prop_map(Protocols::only),
        2 => protocol().prop_map(|protocol| Protocols::ALL.without(protocol)),
        2 => (protocol(), protocol()).prop_map(|(a, b)| Protocols::only(a).with(b)),
        1 => Just(Protocols::NONE),
    ]
}

fn icmp() -> impl Strategy<Value = Option<Icmp>> {
    let code = prop_oneof![Just(None), (0u8..3).prop_map(Some), Just(Some(255)),];
    let icmp_type = prop_oneof![0u8..4, Just(255)];
    let some = (icmp_type, code).prop_map(|(icmp_type, code)| Some(Icmp { icmp_type, code }));
    prop_oneof![9 => Just(None), 1 => some]
}

fn rule(sets: bool) -> impl Strategy<Value = Rule> {
    let family =
        prop_oneof![8 => Just(None), 1 => Just(Some(Family::V4)), 1 => Just(Some(Family::V6))];
    let services = seldom(0u32..6, if sets { 1 } else { 0 }, 2);
    (
        family,
        side(sets),
        side(sets),
        protocols(),
        icmp(),
        icmp(),
        services,
    )
        .prop_map(
            |(family, source, destination, protocols, icmp, not_icmp, services)| Rule {
                family,
                source,
                destination,
                protocols,
                icmp,
                not_icmp,
                services,
            },
        )
}

fn membership() -> impl Strategy<Value = ClassMembership> {
    prop::collection::vec(prop::collection::vec(0u32..6, 0..5), 0..9).prop_map(|classes| {
        let mut membership = ClassMembership::default();
        for sets in classes {
            membership.push(&sets);
        }
        membership
    })
}

fn sets() -> impl Strategy<Value = SetClasses> {
    (membership(), membership()).prop_map(|(addresses, ip_ports)| SetClasses {
        addresses,
        ip_ports,
    })
}

fn key<A: Address>(address: impl Strategy<Value = A> + Clone) -> impl Strategy<Value = Key<A>> {
    let upper = prop_oneof![
        6 => (protocol(), port(), port()).prop_map(|(p, a, b)| (0, p, a, b)),
        1 => (0u8..4, 0u8..3).prop_map(|(t, c)| (1, 0, u16::from(t), u16::from(c))),
        1 => Just((1, 0, 255, 255)),
        1 => protocol().prop_map(|p| (2, p, 0, 0)),
    ];
    // Class 9 and above may not exist.
    let class = 0u32..10;
    let classes = (class.clone(), class.clone(), class.clone(), class);
    (address.clone(), address, upper, classes).prop_map(|(source, destination, upper, classes)| {
        let key = match upper {
            (0, protocol, a, b) => Key::with_ports(source, destination, protocol, a, b),
            (1, _, a, b) => Key::icmp(source, destination, a as u8, b as u8),
            (_, protocol, ..) => Key::opaque(source, destination, protocol),
        };
        key.address_classes(classes.0, classes.1)
            .port_classes(classes.2, classes.3)
    })
}

/// Packets that lie at the corners of a rule: where bounds are wrong, these tell.
fn corners<A: Address>(rule: &Rule, like: &Key<A>) -> Vec<Key<A>> {
    let ends = |prefixes: &[Prefix], otherwise: A| -> Vec<A> {
        let mut ends: Vec<A> = prefixes
            .iter()
            .filter(|prefix| prefix.family() == A::FAMILY)
            .flat_map(|prefix| match prefix {
                Prefix::V4(p) => [u128::from(p.addr()), u128::from(p.last())],
                Prefix::V6(p) => [p.addr(), p.last()],
            })
            .flat_map(|end| [end, end.wrapping_sub(1), end.wrapping_add(1)])
            .map(A::narrow)
            .collect();
        ends.push(otherwise);
        ends
    };
    let ports = |side: &Side, otherwise: u16| -> Vec<u16> {
        let mut ports: Vec<u16> = (side.ports.iter().chain(&side.not_ports))
            .flat_map(|range| [range.first(), range.last(), range.last().wrapping_add(1)])
            .collect();
        ports.push(otherwise);
        ports
    };
    let protocol = rule.protocols.iter().next().unwrap_or(6);
    let protocol = if rule.protocols == Protocols::ALL {
        6
    } else {
        protocol
    };
    let mut keys = Vec::new();
    let (source_port, destination_port) = like.ports().unwrap_or((80, 81));
    for (at, &source) in ends(&rule.source.prefixes, like.source())
        .iter()
        .enumerate()
    {
        for &destination in &ends(&rule.destination.prefixes, like.destination()) {
            let sources = ports(&rule.source, source_port);
            let destinations = ports(&rule.destination, destination_port);
            let a = sources[at % sources.len()];
            for &b in &destinations {
                keys.push(Key::with_ports(source, destination, protocol, a, b));
            }
        }
    }
    if let Some(icmp) = rule.icmp.or(rule.not_icmp) {
        for code in [0, 1, icmp.code.unwrap_or(2)] {
            keys.push(Key::icmp(
                like.source(),
                like.destination(),
                icmp.icmp_type,
                code,
            ));
        }
    }
    keys
}

/// Every tier gives what the twin gives, in batches and one by one.
fn check<A: Address>(rules: &[Rule], sets: &Arc<SetClasses>, keys: &[Key<A>], tiers: &[Tier]) {
    let mut keys = keys.to_vec();
    if let Some(&like) = keys.first() {
        let more: Vec<_> = rules.iter().flat_map(|rule| corners(rule, &like)).collect();
        keys.extend(more);
    }
    let mut expected = vec![0; keys.len()];
    Linear::new(rules, sets).classify(&keys, &mut expected);
    for &tier in tiers {
        let classifier = Classifier::<A>::with_tier(rules, sets, tier);
        assert_eq!(classifier.len(), rules.len());
        let mut out = vec![7; keys.len()];
        classifier.classify(&keys, &mut out);
        for (at, key) in keys.iter().enumerate() {
            let wanted = expected[at];
            assert_eq!(
                out[at],
                wanted,
                "{tier:?}, {key:?}: {:?}",
                rules.get(wanted as usize)
            );
            assert_eq!(
                classifier.classify_one(key),
                wanted,
                "{tier:?}, one by one, {key:?}"
            );
        }
    }
}

/// The sets without their last classes.
fn shorter(sets: &ClassMembership, by: u32) -> ClassMembership {
    let mut shorter = ClassMembership::default();
    for class in 1..sets.len().saturating_sub(by) {
        shorter.push(sets.sets(class));
    }
    shorter
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn tiers_agree_with_the_twin_v4(
        rules in prop::collection::vec(rule(true), 0..12),
        sets in sets(),
        keys in prop::collection::vec(key(v4()), 1..80),
    ) {
        check(&rules, &Arc::new(sets), &keys, &TIERS);
    }

    #[test]
    fn tiers_agree_with_the_twin_v6(
        rules in prop::collection::vec(rule(true), 0..12),
        sets in sets(),
        keys in prop::collection::vec(key(v6()), 1..80),
    ) {
        check(&rules, &Arc::new(sets), &keys, &TIERS);
    }

    #[test]
    fn rules_without_sets(
        rules in prop::collection::vec(rule(false), 0..30),
        keys4 in prop::collection::vec(key(v4()), 1..40),
        keys6 in prop::collection::vec(key(v6()), 1..40),
    ) {
        let sets = Arc::default();
        check(&rules, &sets, &keys4, &TIERS);
        check(&rules, &sets, &keys6, &TIERS);
    }

    #[test]
    fn new_classes_are_learned(
        rules in prop::collection::vec(rule(true), 0..20),
        sets in sets(),
        missing in (0u32..6, 0u32..6),
        keys in prop::collection::vec(key(v4()), 1..60),
    ) {
        let before = Arc::new(SetClasses {
            addresses: shorter(&sets.addresses, missing.0),
            ip_ports: shorter(&sets.ip_ports, missing.1),
        });
        let after = Arc::new(sets);
        let (mut out, mut expected) = (vec![0; keys.len()], vec![0; keys.len()]);
        for tier in TIERS {
            let old = Classifier::<u32>::with_tier(&rules, &before, tier);
            let mut new = old.clone();
            new.extend(&after);
            for (classifier, sets) in [(&old, &before), (&new, &after)] {
                classifier.classify(&keys, &mut out);
                Linear::new(&rules, sets).classify(&keys, &mut expected);
                prop_assert_eq!(&out, &expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Every width of rows: 1 to 8 words, and long rows with summaries.
    #[test]
    fn many_rules(
        rules in prop::collection::vec(rule(true), 900),
        sets in sets(),
        keys4 in prop::collection::vec(key(v4()), 60),
        keys6 in prop::collection::vec(key(v6()), 60),
    ) {
        let sets = Arc::new(sets);
        for n in [63, 64, 65, 128, 200, 300, 512, 513, 900] {
            let (mut out, mut expected) = (vec![0; 60], vec![0; 60]);
            // Rules that match nearly everything come last, so that late bits are the first.
            let mut rules = rules[..n].to_vec();
            rules.sort_by_key(|rule| rule.source.prefixes.is_empty());
            for tier in [Tier::Automatic, Tier::BitVectors, Tier::Trees] {
                Classifier::with_tier(&rules, &sets, tier).classify(&keys4, &mut out);
                Linear::new(&rules, &sets).classify(&keys4, &mut expected);
                prop_assert_eq!(&out, &expected);
                Classifier::with_tier(&rules, &sets, tier).classify(&keys6, &mut out);
                Linear::new(&rules, &sets).classify(&keys6, &mut expected);
                prop_assert_eq!(&out, &expected);
            }
        }
    }
}

fn classify(rules: &[Rule], key: Key<u32>) -> u32 {
    let sets = Arc::default();
    let mut answers =
        TIERS.map(|tier| Classifier::with_tier(rules, &sets, tier).classify_one(&key));
    answers.sort_unstable();
    assert_eq!(answers[0], answers[3], "the tiers differ");
    assert_eq!(answers[0], Linear::new(rules, &sets).classify_one(&key));
    answers[0]
}

#[test]
fn no_rule_matches_nothing() {
    assert_eq!(classify(&[], Key::opaque(1, 2, 6)), NO_MATCH);
    assert_eq!(classify(&[Rule::default()], Key::opaque(1, 2, 6)), 0);
}

/// calico.md 2.3, family filter.
#[test]
fn lists_of_the_other_family_match_nothing() {
    let v6: Prefix = "2001:db8::/32".parse::<Prefix6>().unwrap().into();
    let v4: Prefix = "10.0.0.0/8".parse::<Prefix4>().unwrap().into();
    let key = Key::opaque(0x0a00_0001, 0x0b00_0001, 47);
    let source = |prefixes: &[Prefix], not_prefixes: &[Prefix]| Rule {
        source: Side {
            prefixes: prefixes.to_vec(),
            not_prefixes: not_prefixes.to_vec(),
            ..Side::default()
        },
        ..Rule::default()
    };
    assert_eq!(classify(&[source(&[v6], &[])], key), NO_MATCH);
    assert_eq!(classify(&[source(&[], &[v6])], key), NO_MATCH);
    assert_eq!(classify(&[source(&[v6, v4], &[])], key), 0);
    assert_eq!(classify(&[source(&[v4], &[v6])], key), NO_MATCH);
    assert_eq!(
        classify(&[source(&[], &[Prefix4::DEFAULT.into()])], key),
        NO_MATCH
    );
}

#[test]
fn ports_need_ports() {
    let ports = |ports: &[PortRange], not_ports: &[PortRange]| Rule {
        destination: Side {
            ports: ports.to_vec(),
            not_ports: not_ports.to_vec(),
            ..Side::default()
        },
        ..Rule::default()
    };
    let tcp = Key::with_ports(1, 2, 6, 1000, 80);
    let fragment = Key::opaque(1, 2, 6);
    let ping = Key::icmp(1, 2, 8, 0);
    let gre = Key::with_ports(1, 2, 47, 1000, 80);
    for (rule, tcp_matches) in [
        (ports(&[PortRange::ALL], &[]), true),
        (ports(&[PortRange::single(80)], &[]), true),
        (ports(&[], &[PortRange::single(81)]), true),
        (ports(&[], &[PortRange::single(80)]), false),
        (ports(&[], &[PortRange::ALL]), false),
        (ports(&[PortRange::ALL], &[PortRange::single(80)]), false),
    ] {
        let rules = [rule];
        assert_eq!(classify(&rules, tcp) == 0, tcp_matches, "{rules:?}");
        for portless in [fragment, ping, gre] {
            assert_eq!(
                classify(&rules, portless),
                NO_MATCH,
                "{rules:?} {portless:?}"
            );
        }
    }
}

#[test]
fn icmp_needs_icmp_of_the_family() {
    let echo = Icmp {
        icmp_type: 8,
        code: None,
    };
    let wanted = [Rule {
        icmp: Some(echo),
        ..Rule::default()
    }];
    let unwanted = [Rule {
        not_icmp: Some(echo),
        ..Rule::default()
    }];
    assert_eq!(classify(&wanted, Key::icmp(1, 2, 8, 3)), 0);
    assert_eq!(classify(&wanted, Key::icmp(1, 2, 0, 3)), NO_MATCH);
    assert_eq!(classify(&unwanted, Key::icmp(1, 2, 0, 3)), 0);
    for key in [
        Key::opaque(1, 2, 1),
        Key::opaque(1, 2, 58),
        Key::with_ports(1, 2, 6, 8, 0),
    ] {
        assert_eq!(classify(&wanted, key), NO_MATCH);
        assert_eq!(classify(&unwanted, key), NO_MATCH);
    }
}

#[test]
fn a_backward_range_is_refused() {
    let error = PortRange::new(80, 79).unwrap_err();
    assert_eq!(
        error.to_string(),
        "port range 80:79 ends before it begins: write the lower port first"
    );
    assert!(PortRange::new(0, u16::MAX).is_ok());
}

/// Large lists of every shape, packets from their corners.
#[test]
fn large_lists_agree_with_the_twin() {
    let sets = Arc::default();
    for shape in Shape::ALL {
        for seed in 0..3 {
            let rules = rules(shape, 2000, seed);
            let keys = trace(&rules, 3000, seed + 100);
            let (mut out, mut expected) = (vec![0; keys.len()], vec![0; keys.len()]);
            Linear::new(&rules, &sets).classify(&keys, &mut expected);
            for tier in [Tier::Automatic, Tier::BitVectors, Tier::Trees] {
                Classifier::with_tier(&rules, &sets, tier).classify(&keys, &mut out);
                assert_eq!(out, expected, "{shape:?} {tier:?}");
            }
        }
    }
}

/// More rules than ranks in nodes, in an order in which general ones stand in front as well; groups of every length.
#[test]
fn rules_beyond_the_ranks_agree_with_the_twin() {
    let sets = Arc::default();
    for shape in Shape::ALL {
        let mut list = rules(shape, 40_000, 11);
        let mut random = Random::new(12);
        for at in (1..list.len()).rev() {
            list.swap(at, random.below(at as u32 + 1) as usize);
        }
        let keys = trace(&list, 200, 13);
        let mut expected = vec![0; keys.len()];
        Linear::new(&list, &sets).classify(&keys, &mut expected);
        let classifier = Classifier::with_tier(&list, &sets, Tier::Trees);
        let mut from = 0;
        for len in [1, 2, 3, 4, 5, 63, 64, 65, 200] {
            let to = (from + len).min(keys.len());
            let mut out = vec![0; to - from];
            classifier.classify(&keys[from..to], &mut out);
            assert_eq!(out, expected[from..to], "{shape:?}, {len} keys");
            from = if to == keys.len() { 0 } else { to };
        }
        let lengths = classifier.lengths(&keys);
        assert!(!lengths.is_empty() && lengths.iter().any(|&(_, blocks)| blocks > 0.0));
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(usize, Box<Rule>),
    Remove(usize),
    Replace(usize, Box<Rule>),
    BeginRebuild,
    Adopt,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let rule = || rule(true).prop_map(Box::new);
    let step = prop_oneof![
        4 => (any::<usize>(), rule()).prop_map(|(at, rule)| Step::Insert(at, rule)),
        3 => any::<usize>().prop_map(Step::Remove),
        2 => (any::<usize>(), rule()).prop_map(|(at, rule)| Step::Replace(at, rule)),
        1 => Just(Step::BeginRebuild),
        1 => Just(Step::Adopt),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Any sequence of changes, with rebuilds that other changes overtake, against the list itself.
    #[test]
    fn changes_agree_with_the_twin(
        first in prop::collection::vec(rule(true), 0..30),
        steps in steps(),
        sets in sets(),
        keys in prop::collection::vec(key(v4()), 40),
    ) {
        let sets = Arc::new(sets);
        let mut tags = 1000..;
        let mut twin: Vec<(Rule, u32)> = first.into_iter().zip(tags.by_ref()).collect();
        let mut list = RuleList::<u32>::new(twin.clone(), Arc::clone(&sets));
        let mut rebuild = None;
        for step in steps {
            let len = twin.len();
            match step {
                Step::Insert(at, rule) => {
                    let (at, tag) = (at % (len + 1), tags.next().unwrap());
                    list.insert(at, (*rule).clone(), tag).unwrap();
                    twin.insert(at, (*rule, tag));
                }
                Step::Remove(at) if len != 0 => {
                    list.remove(at % len).unwrap();
                    twin.remove(at % len);
                }
                Step::Replace(at, rule) if len != 0 => {
                    let tag = tags.next().unwrap();
                    list.replace(at % len, (*rule).clone(), tag).unwrap();
                    twin[at % len] = (*rule, tag);
                }
                Step::BeginRebuild => rebuild = Some(list.rebuild()),
                Step::Adopt => {
                    if let Some(rebuild) = rebuild.take() {
                        prop_assert!(list.adopt(rebuild.run()));
                    }
                }
                // Nothing there to change.
                Step::Remove(at) => {
                    let refused = EditError::Position { position: at, len: 0 };
                    prop_assert_eq!(list.remove(at), Err(refused));
                }
                Step::Replace(at, rule) => {
                    prop_assert!(list.replace(at, *rule, 1).is_err());
                }
            }
            prop_assert_eq!(list.len(), twin.len());
            let (rules, tags): (Vec<Rule>, Vec<u32>) = twin.iter().cloned().unzip();
            prop_assert!(list.iter().eq(twin.iter().map(|(rule, tag)| (rule, *tag))));
            let mut out = vec![0; keys.len()];
            list.snapshot().classify(&keys, &mut out);
            let linear = Linear::new(&rules, &sets);
            for (key, found) in keys.iter().zip(out) {
                let expected = linear.classify_one(key);
                let expected = tags.get(expected as usize).copied().unwrap_or(NO_MATCH);
                prop_assert_eq!(found, expected);
            }
        }
    }
}

#[test]
fn changes_of_a_large_list() {
    let sets: Arc<SetClasses> = Arc::default();
    for shape in Shape::ALL {
        let spare = rules(shape, 400, 5);
        let mut twin: Vec<(Rule, u32)> = rules(shape, 3000, 6).into_iter().zip(0..).collect();
        let mut list = RuleList::<u32>::new(twin.clone(), Arc::clone(&sets));
        let mut random = Random::new(7);
        for (rule, tag) in spare.iter().take(OVERLAY_RULES).zip(10_000..) {
            let at = random.below(twin.len() as u32) as usize;
            list.insert(at, rule.clone(), tag).unwrap();
            twin.insert(at, (rule.clone(), tag));
            let gone = random.below(twin.len() as u32) as usize;
            list.remove(gone).unwrap();
            twin.remove(gone);
        }
        let (rules, tags): (Vec<Rule>, Vec<u32>) = twin.iter().cloned().unzip();
        let keys = trace(&rules, 4000, 8);
        let linear = Linear::new(&rules, &sets);
        let expected: Vec<u32> = keys
            .iter()
            .map(|key| tags[linear.classify_one(key) as usize])
            .collect();
        let mut out = vec![0; keys.len()];
        for rebuilt in [false, true] {
            if rebuilt {
                let rebuilt = list.rebuild().run();
                assert!(list.pending() != 0 && list.adopt(rebuilt) && list.pending() == 0);
            }
            list.snapshot().classify(&keys, &mut out);
            assert_eq!(out, expected, "{shape:?}, rebuilt: {rebuilt}");
        }
    }
}

#[test]
fn the_overlay_has_an_end() {
    let mut list = RuleList::<u32>::new(vec![(Rule::default(), 1)], Arc::default());
    for tag in 0..OVERLAY_RULES as u32 {
        list.insert(0, Rule::default(), tag).unwrap();
    }
    assert_eq!(list.insert(0, Rule::default(), 7), Err(EditError::Full));
    let last = list.len() - 1;
    assert_eq!(list.replace(last, Rule::default(), 7), Err(EditError::Full));
    assert_eq!(list.len(), OVERLAY_RULES + 1);
    // A rule that is itself waiting can be replaced.
    list.replace(0, Rule::default(), 77).unwrap();
    assert_eq!(list.snapshot().classify_one(&Key::opaque(1, 2, 3)), 77);
    assert_eq!(
        list.insert(999, Rule::default(), 7),
        Err(EditError::Position {
            position: 999,
            len: OVERLAY_RULES + 1
        })
    );
    // A rebuild that a later one overtook is not adopted.
    let (early, late) = (list.rebuild().run(), list.rebuild().run());
    assert!(list.exchange(early).is_none() && list.exchange(late).is_some());
    list.insert(0, Rule::default(), 7).unwrap();
    assert_eq!(list.snapshot().classify_one(&Key::opaque(1, 2, 3)), 7);
}

#[test]
fn a_list_learns_new_classes() {
    let from_set = Rule {
        source: Side {
            all_of: vec![5],
            ..Side::default()
        },
        ..Rule::default()
    };
    let mut list = RuleList::<u32>::new(vec![(from_set.clone(), 1)], Arc::default());
    list.insert(
        1,
        Rule {
            icmp: Some(Icmp {
                icmp_type: 8,
                code: None,
            }),
            ..from_set
        },
        2,
    )
    .unwrap();
    let key = Key::icmp(1, 2, 8, 0).address_classes(1, 0);
    assert_eq!(list.snapshot().classify_one(&key), NO_MATCH);
    let mut sets = SetClasses::default();
    assert_eq!(sets.addresses.push(&[5]), 1);
    list.extend(&Arc::new(sets));
    assert_eq!(list.snapshot().classify_one(&key), 1);
    list.remove(0).unwrap();
    assert_eq!(list.snapshot().classify_one(&key), 2);
}
