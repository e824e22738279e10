use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::policy::IpPool;
use crate::{
    AddressRange, Changes, DeviceName, Interface, InterfaceKind, ObjectSpec, Pairing, StaticNat,
};

/// An interface with an address whose subnet holds all that is inside.
fn base() -> DesiredState {
    let device = DeviceName::new("a").expect("valid");
    let interface = Interface::new(InterfaceKind::AfPacket(crate::AfPacket::new(device)));
    let address = crate::Address {
        interface: InterfaceName::new("a").expect("valid"),
        address: "10.0.0.1/16".parse().expect("valid"),
    };
    let mut state = DesiredState::default();
    let objects = [
        ("a", ObjectSpec::Interface(interface)),
        ("a", ObjectSpec::Address(address)),
    ];
    for (name, spec) in objects {
        state.insert(name, spec).expect("valid");
    }
    state
}

fn pool(ranges: &[(u8, u8)]) -> NatPool {
    let range = |(first, more): &(u8, u8)| -> AddressRange {
        let last = first.saturating_add(*more);
        format!("192.0.2.{first}-192.0.2.{last}")
            .parse()
            .expect("valid")
    };
    NatPool {
        vrf: VrfName::default(),
        addresses: PoolAddresses::Ranges(ranges.iter().map(range).collect()),
        ports: NatPool::PORTS,
        pairing: Pairing::Paired,
    }
}

fn mapping(external: u8, internal: u8, length: u8) -> StaticNat {
    let net = |text: String| text.parse::<IpNet>().expect("valid").trunc();
    StaticNat {
        vrf: VrfName::default(),
        external: net(format!("192.0.2.{external}/{length}")),
        internal: net(format!("10.0.0.{internal}/{length}")),
        out_interfaces: Vec::new(),
    }
}

fn forward(address: u8, udp: bool, first: u16, more: u16) -> PortForward {
    PortForward {
        vrf: VrfName::default(),
        address: ForwardAddress::Address(IpAddr::from([203, 0, 113, address])),
        protocol: if udp { Protocol::UDP } else { Protocol::TCP },
        ports: Some(PortSpan::new(first.into(), (first + more).into()).expect("valid")),
        is_range: more > 0,
        target: IpAddr::from([10, 0, 0, 9]),
        target_port: None,
        source_pool: None,
    }
}

#[test]
fn what_translation_uses_cannot_go_alone() {
    let mut state = base();
    state
        .insert("p", ObjectSpec::NatPool(pool(&[(1, 0)])))
        .expect("valid");
    let forward = PortForward {
        source_pool: Some("p".parse().expect("valid")),
        ..forward(1, false, 80, 0)
    };
    state
        .insert("f", ObjectSpec::PortForward(forward))
        .expect("valid");
    assert_eq!(state.validate(), Ok(()));
    let before = state.clone();
    let key = ObjectKey::new(Kind::NatPool, "p");
    assert!(state.remove(&key));
    let changes: Changes = state.changes_since(&before);
    assert_eq!(changes.deleted, BTreeSet::from([key.clone()]));
    let errors = state.validate_change(&changes).expect_err("is used");
    let message = "still used by PortForward/f (spec.sourcePool)";
    assert_eq!(errors, [SpecError::new(key.clone(), "", message)]);
    let gone = state.remove_with_dependants(&key);
    assert_eq!(
        gone,
        BTreeSet::from([ObjectKey::new(Kind::PortForward, "f")])
    );
    // A new pool that overlaps an old one is the one that is wrong, whatever it is called.
    let mut state = before.clone();
    state
        .insert("a", ObjectSpec::NatPool(pool(&[(0, 5)])))
        .expect("valid");
    for (before, blamed) in [(&before, "a"), (&base(), "p")] {
        let errors = state
            .validate_change(&state.changes_since(before))
            .expect_err("overlaps");
        assert_eq!(errors[0].object, ObjectKey::new(Kind::NatPool, blamed));
    }
}

/// The pool that is new is wrong, whichever holds the other.
#[test]
fn pools_of_workloads_have_no_address_in_common() {
    let add = |state: &mut DesiredState, name: &str, cidr: &str| {
        let pool = IpPool {
            cidr: cidr.parse().expect("valid"),
            nat_outgoing: true,
        };
        state.policy.ip_pools.insert(name.into(), Arc::new(pool));
    };
    let mut state = base();
    add(&mut state, "b", "10.48.0.0/16");
    add(&mut state, "c", "10.50.0.0/16");
    add(&mut state, "six", "2001:db8::/64");
    assert_eq!(state.validate(), Ok(()));
    let before = state.clone();
    for (name, cidr, message) in [
        (
            "a",
            "10.48.9.0/24",
            "10.48.9.0/24 overlaps 10.48.0.0/16 of IPPool/b",
        ),
        (
            "d",
            "10.50.0.0/16",
            "10.50.0.0/16 overlaps 10.50.0.0/16 of IPPool/c",
        ),
        (
            "a",
            "10.50.0.0/15",
            "10.50.0.0/15 overlaps 10.50.0.0/16 of IPPool/c",
        ),
        (
            "z",
            "2001:db8::/32",
            "2001:db8::/32 overlaps 2001:db8::/64 of IPPool/six",
        ),
    ] {
        let mut state = before.clone();
        add(&mut state, name, cidr);
        let errors = state
            .validate_change(&state.changes_since(&before))
            .expect_err("overlaps");
        let error = &errors[0];
        assert_eq!((errors.len(), error.object.name.as_str()), (1, name));
        assert_eq!(error.field, "spec.cidr");
        assert!(error.message.contains(message), "{error}");
    }
}

proptest! {
    /// The sweep finds an overlap exactly where comparing all pairs does, and taking out what is wrong leaves a valid state.
    #[test]
    fn claims_overlap_as_all_pairs_say(
        pools in proptest::collection::vec((2u8..250, 0u8..6), 0..7),
        mappings in proptest::collection::vec((0u8..250, 0u8..250, 28u8..=32), 0..4),
    ) {
        let mut state = base();
        let mut spans: Vec<(u8, u8)> = Vec::new();
        let mut inside: Vec<IpNet> = Vec::new();
        for (at, (first, more)) in pools.iter().enumerate() {
            spans.push((*first, first.saturating_add(*more)));
            state.insert(&format!("p{at}"), ObjectSpec::NatPool(pool(&[(*first, *more)]))).expect("valid");
        }
        let mut inside_of_own = false;
        for (at, (external, internal, length)) in mappings.iter().enumerate() {
            let mapping = mapping(*external, *internal, *length);
            let (IpAddr::V4(first), IpAddr::V4(last)) = (mapping.external.network(), mapping.external.broadcast()) else {
                continue;
            };
            spans.push((first.octets()[3], last.octets()[3]));
            inside_of_own |= inside.iter().any(|other| other.contains(&mapping.internal) || mapping.internal.contains(other));
            inside.push(mapping.internal);
            state.insert(&format!("m{at}"), ObjectSpec::StaticNat(mapping)).expect("valid");
        }
        let overlap = spans.iter().enumerate().any(|(at, (first, last))| {
            spans[..at].iter().any(|(other_first, other_last)| first <= other_last && other_first <= last)
        });
        prop_assert_eq!(state.validate().is_err(), overlap || inside_of_own);
        state.remove_with_dependants(&ObjectKey::new(Kind::NatPool, "p0"));
        prop_assert_eq!(state.validate(), Ok(()));
    }

    /// Two forwards of the same packets are found exactly where comparing all pairs finds them.
    #[test]
    fn forwards_are_the_same_as_all_pairs_say(
        forwards in proptest::collection::vec((1u8..4, any::<bool>(), 1u16..40, 0u16..6), 0..12),
    ) {
        let mut state = base();
        for (at, (address, udp, first, more)) in forwards.iter().enumerate() {
            let spec = ObjectSpec::PortForward(forward(*address, *udp, *first, *more));
            state.insert(&format!("f{at}"), spec).expect("valid");
        }
        let clash = forwards.iter().enumerate().any(|(at, (address, udp, first, more))| {
            forwards[..at].iter().any(|(other_address, other_udp, other_first, other_more)| {
                (address, udp) == (other_address, other_udp)
                    && *first <= other_first + other_more
                    && *other_first <= first + more
            })
        });
        prop_assert_eq!(state.validate().is_err(), clash);
    }
}
