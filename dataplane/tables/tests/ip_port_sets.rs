//! Address-and-port sets against a linear scan, and their limits.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use proptest::prelude::*;
use tables::address_sets::*;

type Scan = BTreeSet<(SetId, IpPort)>;

fn sets(scan: &Scan, member: IpPort) -> Vec<SetId> {
    let of = scan.iter().filter(|(_, other)| *other == member);
    of.map(|&(set, _)| set).collect()
}

fn class(view: &IpPortSets, member: IpPort) -> ClassId {
    match member.addr {
        IpAddr::V4(addr) => view.class4(addr.into(), member.protocol, member.port),
        IpAddr::V6(addr) => view.class6(addr.into(), member.protocol, member.port),
    }
}

/// Few distinct bits in every field, so that members repeat and differ in one field only; the same number is
/// an address of both families.
fn member() -> impl Strategy<Value = IpPort> {
    let addr = (any::<bool>(), 0u8..12).prop_map(|(v4, bits)| {
        if v4 {
            IpAddr::V4(Ipv4Addr::from(u32::from(bits)))
        } else {
            IpAddr::V6(Ipv6Addr::from(u128::from(bits)))
        }
    });
    (addr, prop::sample::select(vec![6u8, 17, 132]), 0u16..12).prop_map(|(addr, protocol, port)| {
        IpPort {
            addr,
            protocol,
            port,
        }
    })
}

fn host(i: u32) -> IpPort {
    IpPort {
        addr: Ipv4Addr::from(0x0a60_0000 + i / 4).into(),
        protocol: 6,
        port: (i % 4) as u16,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn views_equal_a_scan(
        deltas in prop::collection::vec(
            prop::collection::vec((prop::bool::weighted(0.55), 0u32..6, member()), 1..400), 1..8),
        probes in prop::collection::vec(member(), 200),
        classes in prop_oneof![Just(20u32), Just(1000)],
    ) {
        let limits = IpPortSetLimits { classes, keys: 400, members: 700, sets: 6 };
        let mut writer = IpPortSetsWriter::new(limits);
        let mut scan = Scan::new();
        let mut views = vec![(writer.view(), scan.clone())];
        for operations in &deltas {
            let mut delta = Delta::default();
            let mut next = scan.clone();
            let mut expected = Applied::default();
            for &(add, set, member) in operations {
                let set = SetId(set);
                if add {
                    delta.add(set, member);
                    let is_new = next.insert((set, member));
                    *(if is_new { &mut expected.added } else { &mut expected.duplicates }) += 1;
                } else {
                    delta.remove(set, member);
                    let was_there = next.remove(&(set, member));
                    *(if was_there { &mut expected.removed } else { &mut expected.absent }) += 1;
                }
            }
            if let Ok(applied) = writer.apply(&delta) {
                prop_assert_eq!(applied, expected);
                scan = next;
            }
            prop_assert_eq!(writer.member_count(), scan.len());
            let keys: BTreeSet<_> = scan.iter().map(|of| of.1).collect();
            prop_assert_eq!(writer.keys_in_use(), keys.len());
            for set in (0..6).map(SetId) {
                let expected: Vec<_> =
                    scan.iter().filter(|of| of.0 == set).map(|of| of.1).collect();
                prop_assert_eq!(writer.members(set), expected);
            }
            views.push((writer.view(), scan.clone()));
        }
        for (view, scan) in &views {
            prop_assert_eq!(view.is_empty(), scan.is_empty());
            for &probe in probes.iter().chain(scan.iter().map(|of| &of.1)) {
                prop_assert_eq!(view.sets(class(view, probe)), sets(scan, probe));
                for set in (0..6).map(SetId) {
                    let expected = scan.contains(&(set, probe));
                    prop_assert_eq!(view.contains(class(view, probe), set), expected);
                }
            }
        }
    }
}

/// The table grows into many shards and shrinks again, and a view in between stays.
#[test]
fn shards_come_and_go() {
    let mut writer = IpPortSetsWriter::new(IpPortSetLimits::default());
    let mut delta = Delta::default();
    for i in 0..20_000 {
        delta.add(SetId(i % 7), host(i));
    }
    assert_eq!(writer.apply(&delta).unwrap().added, 20_000);
    let full = writer.view();
    let mut delta = Delta::default();
    for i in 0..19_990 {
        delta.remove(SetId(i % 7), host(i));
    }
    assert_eq!(writer.apply(&delta).unwrap().removed, 19_990);
    let few = writer.view();
    for i in 0..20_010 {
        let expected = if i < 20_000 {
            vec![SetId(i % 7)]
        } else {
            vec![]
        };
        assert_eq!(full.sets(class(&full, host(i))), expected, "{i}");
        let expected = if i >= 19_990 { expected } else { vec![] };
        assert_eq!(few.sets(class(&few, host(i))), expected, "{i}");
    }
    assert_eq!(writer.keys_in_use(), 10);
}

#[test]
fn limits_refuse_whole_deltas() {
    let limits = IpPortSetLimits {
        sets: 3,
        members: 4,
        keys: 3,
        classes: 4,
    };
    let mut writer = IpPortSetsWriter::new(limits);
    let mut delta = Delta::default();
    delta.add(SetId(0), host(0));
    writer.apply(&delta).unwrap();
    let set = SetId(3);
    let refused = [
        (
            vec![(1, host(1)), (3, host(1))],
            SetsError::SetNumber { set, limit: 3 },
        ),
        (
            vec![(0, host(1)), (0, host(2)), (0, host(3))],
            SetsError::Distinct {
                limit: 3,
                waiting: 0,
            },
        ),
        (
            vec![(1, host(0)), (0, host(1)), (1, host(1)), (0, host(2))],
            SetsError::Members { limit: 4 },
        ),
        (
            vec![(1, host(1)), (2, host(2)), (1, host(0))],
            SetsError::Classes { limit: 4 },
        ),
    ];
    for (members, error) in refused {
        let mut delta = Delta::default();
        for &(set, member) in &members {
            delta.add(SetId(set), member);
        }
        assert_eq!(writer.apply(&delta), Err(error));
        let view = writer.view();
        assert_eq!(view.sets(class(&view, host(0))), [SetId(0)]);
        assert!((1..4).all(|i| class(&view, host(i)) == ClassId::NONE));
        assert_eq!((writer.keys_in_use(), writer.member_count()), (1, 1));
    }
    // A class that nothing is in any more makes room for another.
    for i in 1..20 {
        let mut delta = Delta::default();
        let which = |i: u32| {
            [vec![SetId(1)], vec![SetId(1), SetId(2)], vec![SetId(2)]][i as usize % 3].clone()
        };
        for set in which(i - 1) {
            delta.remove(set, host(9));
        }
        for set in which(i) {
            delta.add(set, host(9));
        }
        writer.apply(&delta).unwrap();
        let view = writer.view();
        assert_eq!(view.sets(class(&view, host(9))), which(i));
        assert!(view.class_count() <= 4);
    }
}
