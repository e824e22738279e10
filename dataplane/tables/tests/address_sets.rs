//! Address sets against a linear scan, their limits, and views under concurrent changes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::*},
    },
    thread,
};

use proptest::prelude::*;
use tables::{HugePages, LpmError, Prefix4, Prefix6, address_sets::*};

/// The slow twin: every member, searched from end to end.
#[derive(Clone, Default)]
struct Scan(BTreeSet<(SetId, Member)>);

impl Scan {
    fn sets4(&self, addr: u32) -> Vec<SetId> {
        self.sets(|member| matches!(member, Member::V4(prefix) if prefix.contains(addr)))
    }

    fn sets6(&self, addr: u128) -> Vec<SetId> {
        self.sets(|member| matches!(member, Member::V6(prefix) if prefix.contains(addr)))
    }

    fn sets(&self, has: impl Fn(Member) -> bool) -> Vec<SetId> {
        let of = self.0.iter().filter(|(_, member)| has(*member));
        let mut sets: Vec<_> = of.map(|&(set, _)| set).collect();
        sets.dedup();
        sets
    }

    /// First and last address of every member, and what is next to them.
    fn edges4(&self) -> Vec<u32> {
        let prefixes = self.0.iter().filter_map(|(_, member)| match member {
            Member::V4(prefix) => Some(*prefix),
            Member::V6(_) => None,
        });
        let edges = |p: Prefix4| {
            [
                p.addr(),
                p.last(),
                p.addr().wrapping_sub(1),
                p.last().wrapping_add(1),
            ]
        };
        let mut edges: Vec<_> = prefixes.flat_map(edges).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    fn edges6(&self) -> Vec<u128> {
        let prefixes = self.0.iter().filter_map(|(_, member)| match member {
            Member::V6(prefix) => Some(*prefix),
            Member::V4(_) => None,
        });
        let edges = |p: Prefix6| {
            [
                p.addr(),
                p.last(),
                p.addr().wrapping_sub(1),
                p.last().wrapping_add(1),
            ]
        };
        let mut edges: Vec<_> = prefixes.flat_map(edges).collect();
        edges.sort_unstable();
        edges.dedup();
        edges
    }
}

fn prefix4() -> impl Strategy<Value = Prefix4> {
    let addr = prop_oneof![
        4 => (0u32..4, 0u32..4, any::<u8>())
            .prop_map(|(b, c, d)| 0x0a00_0000 | b << 16 | c << 8 | u32::from(d)),
        1 => any::<u32>(),
    ];
    let len = prop_oneof![1 => Just(0u8), 9 => 8u8..=23, 8 => 24u8..=31, 20 => Just(32)];
    (addr, len).prop_map(|(addr, len)| Prefix4::around(addr, len).unwrap())
}

fn prefix6() -> impl Strategy<Value = Prefix6> {
    let addr = prop_oneof![
        4 => (0u128..4, 0u128..4, any::<u8>())
            .prop_map(|(b, c, d)| 0x2001 << 112 | b << 72 | c << 64 | u128::from(d)),
        1 => any::<u128>(),
    ];
    let len = prop_oneof![1 => Just(0u8), 9 => 32u8..=64, 8 => 65u8..=127, 20 => Just(128)];
    (addr, len).prop_map(|(addr, len)| Prefix6::around(addr, len).unwrap())
}

fn member() -> impl Strategy<Value = Member> {
    prop_oneof![
        prefix4().prop_map(Member::from),
        prefix6().prop_map(Member::from),
    ]
}

/// A view says of every address what its twin says, one by one and in batches of all lengths.
fn assert_equal(view: &AddressSets, scan: &Scan, more4: &[u32], more6: &[u128]) {
    let mut addrs4 = scan.edges4();
    addrs4.extend_from_slice(more4);
    let mut classes = vec![ClassId(u32::MAX); addrs4.len()];
    view.classes4(&addrs4, &mut classes);
    for (&addr, &class) in addrs4.iter().zip(&classes) {
        assert_eq!(view.sets(class), scan.sets4(addr), "address {addr:#x}");
        assert_eq!(view.class4(addr), class);
    }
    let mut addrs6 = scan.edges6();
    addrs6.extend_from_slice(more6);
    let mut classes = vec![ClassId(u32::MAX); addrs6.len()];
    view.classes6(&addrs6, &mut classes);
    for (&addr, &class) in addrs6.iter().zip(&classes) {
        assert_eq!(view.sets(class), scan.sets6(addr), "address {addr:#x}");
        assert_eq!(view.class6(addr), class);
    }
    assert_eq!(view.is_empty(), scan.0.is_empty());
}

fn writer(limits: AddressSetLimits) -> AddressSetsWriter {
    AddressSetsWriter::new(limits, HugePages::Transparent).unwrap()
}

fn p4(text: &str) -> Member {
    text.parse::<Prefix4>().unwrap().into()
}

fn p6(text: &str) -> Member {
    text.parse::<Prefix6>().unwrap().into()
}

fn added(members: &[(u32, Member)]) -> Delta<Member> {
    let mut delta = Delta::default();
    for &(set, member) in members {
        delta.add(SetId(set), member);
    }
    delta
}

fn removed(members: &[(u32, Member)]) -> Delta<Member> {
    let mut delta = Delta::default();
    for &(set, member) in members {
        delta.remove(SetId(set), member);
    }
    delta
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Large deltas, and views that outlive several of them.
    #[test]
    fn views_equal_a_scan(
        deltas in prop::collection::vec(
            prop::collection::vec((prop::bool::weighted(0.7), 0u32..12, member()), 1..80), 1..6),
        more4 in prop::collection::vec(any::<u32>(), 300),
        more6 in prop::collection::vec(any::<u128>(), 300),
    ) {
        let mut writer = writer(AddressSetLimits::default());
        let mut scan = Scan::default();
        let mut views = vec![(writer.view(), scan.clone())];
        for operations in deltas {
            let mut delta = Delta::<Member>::default();
            // What was there before is what a removal is likely to find.
            let there: Vec<_> = scan.0.iter().copied().collect();
            for (i, &(add, set, member)) in operations.iter().enumerate() {
                if add {
                    delta.add(SetId(set), member);
                    scan.0.insert((SetId(set), member));
                } else if let Some(&(set, member)) = there.get(i * 7 % there.len().max(1)) {
                    delta.remove(set, member);
                    scan.0.remove(&(set, member));
                }
            }
            let applied = writer.apply(&delta).unwrap();
            prop_assert_eq!(
                applied.added + applied.removed + applied.duplicates + applied.absent,
                delta.len()
            );
            prop_assert_eq!(writer.member_count(), scan.0.len());
            views.push((writer.view(), scan.clone()));
        }
        for (view, scan) in &views {
            assert_equal(view, scan, &more4, &more6);
        }
    }

    #[test]
    fn any_delta_is_answered(
        operations in prop::collection::vec((any::<bool>(), any::<u32>(), member()), 0..20),
        class: u32, set: u32, addr4: u32, addr6: u128,
    ) {
        let mut writer = writer(AddressSetLimits { sets: 1 << 31, ..AddressSetLimits::default() });
        let mut delta = Delta::<Member>::default();
        for &(add, set, member) in &operations {
            if add { delta.add(SetId(set), member) } else { delta.remove(SetId(set), member) }
        }
        let legal = operations.iter().all(|operation| operation.1 < 1 << 31);
        prop_assert_eq!(writer.apply(&delta).is_ok(), legal);
        let view = writer.view();
        let _ = view.contains(ClassId(class), SetId(set));
        prop_assert!(view.class4(addr4).0 < view.class_count());
        prop_assert!(view.class6(addr6).0 < view.class_count());
    }
}

/// More atoms than a few chunks, so that batches prefetch and small changes copy few of many chunks.
#[test]
fn many_members_one_by_one_and_in_batches() {
    let mut writer = writer(AddressSetLimits::default());
    let mut delta = Delta::<Member>::default();
    let addr4 = |i: u32| 0x0a00_0000 + i * 3;
    let addr6 = |i: u32| 0x2001 << 112 | u128::from(i) << 8;
    for i in 0..20_000 {
        delta.add(SetId(i % 3), Prefix4::new(addr4(i), 32).unwrap());
        delta.add(SetId(i % 5), Prefix6::new(addr6(i), 128).unwrap());
    }
    let nets = [(7, p4("10.0.0.0/16")), (8, p6("2001::/120"))];
    assert_eq!(writer.apply(&delta).unwrap().added, 40_000);
    writer.apply(&added(&nets)).unwrap();
    writer.apply(&removed(&[(1, p4("10.0.0.3/32"))])).unwrap();
    let view = writer.view();
    let addrs4: Vec<u32> = (0x0a00_0000..0x0a00_0000 + 60_001).collect();
    let mut classes = vec![ClassId(u32::MAX); addrs4.len()];
    view.classes4(&addrs4, &mut classes);
    for (&addr, &class) in addrs4.iter().zip(&classes) {
        let offset = addr - 0x0a00_0000;
        let mut expected = Vec::new();
        if offset % 3 == 0 && offset < 60_000 && offset != 3 {
            expected.push(SetId(offset / 3 % 3));
        }
        if offset < 1 << 16 {
            expected.push(SetId(7));
        }
        assert_eq!(view.sets(class), expected, "{addr:#x}");
    }
    let addrs6: Vec<u128> = (0..20_001).map(addr6).collect();
    let mut classes = vec![ClassId(u32::MAX); addrs6.len()];
    view.classes6(&addrs6, &mut classes);
    for (i, &class) in classes.iter().enumerate() {
        let mut expected = Vec::new();
        if i < 20_000 {
            expected.push(SetId(i as u32 % 5));
        }
        if i == 0 {
            expected.push(SetId(8));
        }
        assert_eq!(view.sets(class), expected, "{i}");
    }
    assert_eq!(writer.members(SetId(7)).collect::<Vec<_>>(), [nets[0].1]);
}

#[test]
fn slices_of_different_length_are_answered_up_to_the_shorter() {
    let mut writer = writer(AddressSetLimits::default());
    writer.apply(&added(&[(3, p4("0.0.0.0/0"))])).unwrap();
    let view = writer.view();
    let class = view.class4(1);
    for (addrs, outs) in [(0, 5), (5, 0), (600, 37), (37, 600), (256, 256), (257, 257)] {
        let mut out = vec![ClassId(99); outs];
        view.classes4(&vec![7; addrs], &mut out);
        let n = addrs.min(outs);
        assert!(out[..n].iter().all(|&c| c == class) && out[n..].iter().all(|&c| c.0 == 99));
    }
}

#[test]
fn classes_are_numbered_on_until_a_compaction() {
    let mut writer = writer(AddressSetLimits::default());
    let mut known: HashMap<u32, Vec<SetId>> = HashMap::new();
    let mut epoch = writer.view().class_epoch();
    let (mut compactions, mut most) = (0, 0);
    for i in 0..2000u32 {
        // One address in a combination that never was before.
        let mut delta = Delta::<Member>::default();
        let host = p4("10.0.0.1/32");
        for set in writer_sets(i) {
            delta.add(set, host);
        }
        if i > 0 {
            for set in writer_sets(i - 1) {
                if !writer_sets(i).contains(&set) {
                    delta.remove(set, host);
                }
            }
        }
        writer.apply(&delta).unwrap();
        let view = writer.view();
        if view.class_epoch() != epoch {
            compactions += 1;
            epoch = view.class_epoch();
            known.clear();
        }
        most = most.max(view.class_count());
        let class = view.class4(0x0a00_0001);
        assert_eq!(view.sets(class), writer_sets(i));
        for class in 0..view.class_count() {
            let sets = view.sets(ClassId(class)).to_vec();
            let before = known.entry(class).or_insert_with(|| sets.clone());
            assert_eq!(
                *before, sets,
                "class {class} changed its meaning in epoch {epoch}"
            );
        }
    }
    assert!(compactions > 2, "{compactions} compactions");
    assert!(most < 300, "{most} classes for one address");
}

fn writer_sets(i: u32) -> Vec<SetId> {
    (0..12)
        .filter(|bit| (i + 1) & 1 << bit != 0)
        .map(SetId)
        .collect()
}

#[test]
fn limits_refuse_whole_deltas() {
    let limits = AddressSetLimits {
        sets: 4,
        members: 5,
        prefixes: 4,
        classes: 4,
        blocks4: 1,
    };
    let mut writer = writer(limits);
    let base = [(0, p4("10.0.0.0/8")), (1, p4("10.0.0.1/32"))];
    writer.apply(&added(&base)).unwrap();
    let scan = Scan(
        base.iter()
            .map(|&(set, member)| (SetId(set), member))
            .collect(),
    );
    let before = writer.view();
    let (a, b, c) = (p6("2001:db8::/32"), p6("2001:db8::1/128"), p6("::/0"));
    let refused = [
        (
            vec![(2, a), (4, b)],
            SetsError::SetNumber {
                set: SetId(4),
                limit: 4,
            },
        ),
        (
            vec![(2, a), (0, b), (1, b), (3, a)],
            SetsError::Members { limit: 5 },
        ),
        (
            vec![(2, a), (2, b), (2, c)],
            SetsError::Distinct {
                limit: 4,
                waiting: 0,
            },
        ),
        (vec![(2, a), (3, b)], SetsError::Classes { limit: 4 }),
        (
            vec![(0, a), (0, p4("10.0.1.1/32"))],
            SetsError::Lpm(LpmError::Full {
                capacity_groups: 1,
                quarantined: 0,
            }),
        ),
    ];
    for (members, error) in refused {
        assert_eq!(writer.apply(&added(&members)), Err(error), "{members:?}");
        assert!(!error.to_string().is_empty());
        for view in [&before, &writer.view()] {
            assert_equal(
                view,
                &scan,
                &[],
                &[0, 0x2001_0db8 << 96, 0x2001_0db8 << 96 | 1],
            );
        }
        assert_eq!(writer.member_count(), 2);
        writer.reclaim();
    }
    // What was refused has left nothing behind: there is room as before.
    drop(before);
    writer.reclaim();
    assert_eq!(writer.prefixes_in_use(), 2);
    writer
        .apply(&added(&[(0, a), (0, b), (1, p4("10.0.0.0/8"))]))
        .unwrap();
    assert_eq!(writer.member_count(), 5);
}

#[test]
fn numbers_wait_for_old_views_and_are_used_again() {
    let limits = AddressSetLimits {
        prefixes: 2,
        ..AddressSetLimits::default()
    };
    let mut writer = writer(limits);
    let host = |i: u32| [(0, Member::from(Prefix4::new(i, 32).unwrap()))];
    writer.apply(&added(&host(1))).unwrap();
    let old = writer.view();
    writer.apply(&removed(&host(1))).unwrap();
    writer.apply(&added(&host(2))).unwrap();
    let full = SetsError::Distinct {
        limit: 2,
        waiting: 1,
    };
    assert_eq!(writer.apply(&added(&host(3))), Err(full));
    assert_eq!(old.sets(old.class4(1)), [SetId(0)]);
    assert_eq!(old.class4(2), ClassId::NONE);
    drop(old);
    for i in 3..2000 {
        writer.apply(&removed(&host(i - 1))).unwrap();
        writer.apply(&added(&host(i))).unwrap();
        let view = writer.view();
        assert_eq!(view.sets(view.class4(i)), [SetId(0)]);
        assert_eq!(view.class4(i - 1), ClassId::NONE);
    }
    // One that comes back while it waits keeps its place.
    writer.apply(&removed(&host(1999))).unwrap();
    let without = writer.view();
    writer.apply(&added(&host(1999))).unwrap();
    assert_eq!(without.class4(1999), ClassId::NONE);
    let with = writer.view();
    assert_eq!(with.sets(with.class4(1999)), [SetId(0)]);
}

#[test]
fn absent_and_duplicate_members_are_counted() {
    let mut writer = writer(AddressSetLimits::default());
    let (net, host) = (p4("10.0.0.0/8"), p6("2001:db8::1/128"));
    let applied = writer.apply(&added(&[(1, net), (1, net), (2, net), (1, host)]));
    let expected = Applied {
        added: 3,
        duplicates: 1,
        ..Applied::default()
    };
    assert_eq!(applied, Ok(expected));
    let mut delta = removed(&[(3, net), (1, p4("10.0.0.0/9")), (2, net), (2, net)]);
    delta.add(SetId(2), net);
    let expected = Applied {
        added: 1,
        removed: 1,
        absent: 3,
        ..Applied::default()
    };
    assert_eq!(writer.apply(&delta), Ok(expected));
    assert_eq!(writer.member_count(), 3);
    // Nothing to do makes no new view.
    let (count, view) = (writer.prefixes_in_use(), writer.view());
    writer.apply(&removed(&[(9, net)])).unwrap();
    assert_eq!(
        (writer.prefixes_in_use(), writer.view().class_count()),
        (count, view.class_count())
    );
}

/// Threads look at views of all ages while the writer changes what lies below them.
#[test]
fn views_keep_their_meaning_while_the_writer_works() {
    let mut writer = writer(AddressSetLimits {
        prefixes: 600,
        blocks4: 40,
        ..AddressSetLimits::default()
    });
    let mut scan = Scan::default();
    let published = Mutex::new(vec![(writer.view(), scan.clone())]);
    let done = AtomicBool::new(false);
    let (looked, rounds) = (AtomicUsize::new(0), 1500);
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: u64| {
        seed = seed
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let mut refused = 0;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2usize)
            .map(|reader| {
                let (published, done, looked) = (&published, &done, &looked);
                scope.spawn(move || {
                    let mut turn = reader;
                    while !done.load(Relaxed) {
                        turn += 1;
                        let (view, scan) = {
                            let published = published.lock().unwrap();
                            published[turn % published.len()].clone()
                        };
                        let (edges4, edges6) = (scan.edges4(), scan.edges6());
                        let expected4: Vec<_> = edges4.iter().map(|&a| scan.sets4(a)).collect();
                        let expected6: Vec<_> = edges6.iter().map(|&a| scan.sets6(a)).collect();
                        let mut classes4 = vec![ClassId::NONE; edges4.len()];
                        let mut classes6 = vec![ClassId::NONE; edges6.len()];
                        for _ in 0..20 {
                            view.classes4(&edges4, &mut classes4);
                            view.classes6(&edges6, &mut classes6);
                            for (class, expected) in classes4.iter().zip(&expected4) {
                                assert_eq!(view.sets(*class), expected);
                            }
                            for (class, expected) in classes6.iter().zip(&expected6) {
                                assert_eq!(view.sets(*class), expected);
                            }
                        }
                        looked.fetch_add(1, Relaxed);
                    }
                })
            })
            .collect();
        let mut round = 0;
        while round < rounds && !readers.iter().any(|reader| reader.is_finished()) {
            let mut delta = Delta::<Member>::default();
            let mut next = scan.clone();
            for _ in 0..=random(4) {
                let set = SetId(random(6) as u32);
                let bits = random(1 << 12);
                let member: Member = if random(3) == 0 {
                    let len = [0, 48, 64, 100, 128, 128, 128, 128][random(8) as usize];
                    let addr = 0x2001 << 112 | u128::from(bits >> 6) << 64 | u128::from(bits & 63);
                    Prefix6::around(addr, len).unwrap().into()
                } else {
                    let len = [12, 20, 24, 28, 32, 32, 32, 32][random(8) as usize];
                    let addr = 0x0a00_0000 | (bits as u32 >> 8) << 8 | bits as u32 & 0x3f;
                    Prefix4::around(addr, len).unwrap().into()
                };
                if random(5) < 2 {
                    delta.add(set, member);
                    next.0.insert((set, member));
                } else if let Some(&(set, member)) =
                    next.0.iter().nth(random(next.0.len() as u64 + 1) as usize)
                {
                    delta.remove(set, member);
                    next.0.remove(&(set, member));
                }
            }
            if writer.apply(&delta).is_ok() {
                scan = next;
            } else {
                refused += 1;
            }
            let mut published = published.lock().unwrap();
            published.push((writer.view(), scan.clone()));
            if published.len() > 6 {
                let which = random(6) as usize;
                published.swap_remove(which);
            }
            drop(published);
            if round % 100 == 0 {
                // Let readers look at what is there: on one processor they may not have had a turn.
                let before = looked.load(Relaxed);
                while looked.load(Relaxed) < before + 2
                    && !readers.iter().any(|reader| reader.is_finished())
                {
                    thread::yield_now();
                }
            }
            round += 1;
        }
        done.store(true, Relaxed);
    });
    assert!(looked.load(Relaxed) >= 30);
    assert!(refused < rounds / 2, "{refused} deltas refused");
}
