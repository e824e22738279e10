//! IPv6 longest-prefix match against a linear scan.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::*},
    thread,
};

use proptest::prelude::*;
use tables::{Lpm6, LpmError, Prefix6};

/// The slow twin: a list of routes, searched from end to end.
#[derive(Clone, Default)]
struct Scan(Vec<(Prefix6, u32)>);

impl Scan {
    fn insert(&mut self, prefix: Prefix6, value: u32) {
        self.remove(prefix);
        self.0.push((prefix, value));
    }

    fn remove(&mut self, prefix: Prefix6) -> Option<u32> {
        let at = self.0.iter().position(|route| route.0 == prefix)?;
        Some(self.0.swap_remove(at).1)
    }

    fn lookup(&self, addr: u128) -> u32 {
        let containing = self.0.iter().filter(|(prefix, _)| prefix.contains(addr));
        containing
            .max_by_key(|(prefix, _)| prefix.len())
            .map_or(0, |&(_, value)| value)
    }
}

/// Few distinct bits around both ends of each half, so that prefixes nest and repeat.
fn prefix() -> impl Strategy<Value = Prefix6> {
    let half = || {
        prop_oneof![
            3 => (0u64..4, 0u64..4).prop_map(|(a, b)| 0x2001_0db8_0000_0000 | a << 16 | b),
            1 => 0u64..4,
            1 => (0u64..4).prop_map(|low| u64::MAX - low),
        ]
    };
    let addr = (half(), half()).prop_map(|(high, low)| u128::from(high) << 64 | u128::from(low));
    let len = prop_oneof![
        1 => Just(0u8), 4 => 1u8..=63, 3 => Just(64), 6 => 65u8..=127, 1 => Just(127), 6 => Just(128)
    ];
    (addr, len).prop_map(|(addr, len)| Prefix6::around(addr, len).unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Prefix6, u32),
    Remove(Prefix6),
    Commit,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (prefix(), 1u32..1 << 31).prop_map(|(prefix, value)| Step::Insert(prefix, value)),
        4 => prefix().prop_map(Step::Remove),
        2 => Just(Step::Commit),
    ];
    prop::collection::vec(step, 1..120)
}

/// Both sides of both ends of a prefix.
fn edges(prefix: Prefix6) -> [u128; 4] {
    let (first, last) = (prefix.addr(), prefix.last());
    [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_scan(steps in steps(), random: [u128; 8]) {
        let (mut writer, reader) = Lpm6::new().unwrap();
        // `committed` holds what readers may see: /128 at once, the rest since the last commit.
        let (mut scan, mut committed) = (Scan::default(), Scan::default());
        let mut probes = random.to_vec();
        for step in steps.into_iter().chain([Step::Commit]) {
            match step {
                Step::Insert(prefix, value) => {
                    writer.insert(prefix.addr(), prefix.len(), value).unwrap();
                    scan.insert(prefix, value);
                    if prefix.len() == 128 {
                        committed.insert(prefix, value);
                    }
                    probes.extend(edges(prefix));
                }
                Step::Remove(prefix) => {
                    let exact = scan.0.iter().find(|route| route.0 == prefix).map(|route| route.1);
                    prop_assert_eq!(writer.exact(prefix.addr(), prefix.len()), exact);
                    prop_assert_eq!(writer.remove(prefix.addr(), prefix.len()), scan.remove(prefix));
                    if prefix.len() == 128 {
                        committed.remove(prefix);
                    }
                    probes.extend(edges(prefix));
                }
                Step::Commit => {
                    writer.commit().unwrap();
                    prop_assert!(!writer.is_dirty());
                    committed = scan.clone();
                }
            }
            let mut batch = vec![u32::MAX; probes.len()];
            reader.lookup_batch(&probes, &mut batch);
            for (&addr, &value) in probes.iter().zip(&batch) {
                prop_assert_eq!(value, committed.lookup(addr), "address {:#x}", addr);
                prop_assert_eq!(reader.lookup(addr), value);
                prop_assert_eq!(writer.lookup(addr), scan.lookup(addr));
            }
        }
        let mut routes: Vec<_> = scan.0.iter().map(|&(prefix, value)| (prefix.addr(), prefix.len(), value)).collect();
        routes.sort_unstable_by_key(|&(addr, len, _)| (len == 128, addr, len));
        prop_assert_eq!(writer.iter().collect::<Vec<_>>(), routes);
    }

    /// Enough intervals for several levels of the tree; the answer is also known from a sorted list.
    #[test]
    fn large_tables_agree_with_a_sorted_list(seed: u64, count in 1usize..6000, len in 16u8..=64) {
        let (mut writer, reader) = Lpm6::new().unwrap();
        let mut state = seed;
        let mut sorted = std::collections::BTreeMap::new();
        for value in 1..=count as u32 {
            let addr = u128::from(scramble(&mut state)) << 64 & u128::MAX << (128 - len);
            writer.insert(addr, len, value).unwrap();
            sorted.insert(addr, value);
        }
        writer.insert(0, 0, 1 << 30).unwrap();
        writer.commit().unwrap();
        // Prefixes of one length are disjoint, so the greatest at or below an address decides.
        let expected = |addr: u128| {
            let below = sorted.range(..=addr).next_back();
            below.filter(|(first, _)| (*first ^ addr) >> (128 - len) == 0).map_or(1 << 30, |(_, &v)| v)
        };
        let mut probes: Vec<u128> = sorted.keys().flat_map(|&addr| {
            let last = addr | !(u128::MAX << (128 - len));
            [addr, last, addr.wrapping_sub(1), last.wrapping_add(1)]
        }).collect();
        probes.extend((0..1000).map(|_| u128::from(scramble(&mut state)) << 64));
        probes.push(u128::MAX);
        let mut batch = vec![0; probes.len()];
        reader.lookup_batch(&probes, &mut batch);
        for (&addr, &value) in probes.iter().zip(&batch) {
            prop_assert_eq!(value, expected(addr), "address {:#x}", addr);
            prop_assert_eq!(reader.lookup(addr), value);
        }
    }

    #[test]
    fn any_arguments_are_answered(prefix: u128, len: u8, value: u32) {
        let (mut writer, reader) = Lpm6::new().unwrap();
        let legal = Prefix6::new(prefix, len).is_ok() && value != 0 && value < 1 << 31;
        prop_assert_eq!(writer.insert(prefix, len, value).is_ok(), legal);
        writer.commit().unwrap();
        prop_assert_eq!(reader.lookup(prefix), if legal { value } else { 0 });
        prop_assert_eq!(writer.remove(prefix, len), legal.then_some(value));
    }
}

/// splitmix64.
fn scramble(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn many_hosts_come_and_go() {
    let (mut writer, reader) = Lpm6::with_key([1, 2, 3]).unwrap();
    let addr = |i: u32| 0x2001_0db8 << 96 | u128::from(i);
    for i in 0..20_000 {
        writer.insert(addr(i), 128, i + 1).unwrap();
    }
    assert!((0..20_000).all(|i| reader.lookup(addr(i)) == i + 1));
    for i in (0..20_000).step_by(2) {
        assert_eq!(writer.remove(addr(i), 128), Some(i + 1));
    }
    assert!((0..20_000).all(|i| reader.lookup(addr(i)) == if i % 2 == 0 { 0 } else { i + 1 }));
    for i in 20_000..30_000 {
        writer.insert(addr(i), 128, i + 1).unwrap();
    }
    assert!((20_000..30_000).all(|i| reader.lookup(addr(i)) == i + 1));
    assert_eq!((reader.lookup(addr(30_000)), writer.len()), (0, 20_000));
}

/// A bad key puts all hosts into one bucket: slow, but right.
#[test]
fn colliding_hosts_are_still_found() {
    let (mut writer, reader) = Lpm6::with_key([7, 0, 0]).unwrap();
    let addr = |i: u64| 7 << 64 | u128::from(i); // upper half ^ key = 0
    for i in 0..1000 {
        writer.insert(addr(i), 128, i as u32 + 1).unwrap();
    }
    for i in (0..1000).filter(|i| i % 3 == 0) {
        writer.remove(addr(i), 128);
    }
    for i in 0..1000 {
        assert_eq!(
            reader.lookup(addr(i)),
            if i % 3 == 0 { 0 } else { i as u32 + 1 }
        );
    }
}

#[test]
fn errors_name_the_cause() {
    let (mut writer, _reader) = Lpm6::new().unwrap();
    assert_eq!(
        writer.insert(1, 64, 1),
        Err(LpmError::InvalidPrefix { len: 64, bits: 128 })
    );
    assert_eq!(
        writer.insert(1, 129, 1),
        Err(LpmError::InvalidPrefix {
            len: 129,
            bits: 128
        })
    );
    assert_eq!(writer.insert(1, 128, 0), Err(LpmError::InvalidValue(0)));
    assert_eq!(
        writer.insert(1, 128, 1 << 31),
        Err(LpmError::InvalidValue(1 << 31))
    );
    assert_eq!(
        (
            writer.remove(0, 200),
            writer.exact(0, 200),
            writer.is_empty()
        ),
        (None, None, true)
    );
}

#[test]
fn replaced_trees_live_as_long_as_older_handles() {
    let (mut writer, old) = Lpm6::new().unwrap();
    writer.insert(0, 0, 1).unwrap();
    writer.commit().unwrap();
    assert_eq!(
        writer.unreclaimed(),
        1,
        "the first handle may be inside the empty tree"
    );
    let new = writer.reader();
    let copy = old.clone();
    drop(old);
    assert_eq!(writer.reclaim_unread(), 0, "the copy counts as well");
    drop(copy);
    assert_eq!(writer.reclaim_unread(), 1);
    writer.insert(0, 0, 2).unwrap();
    writer.commit().unwrap();
    assert_eq!((writer.unreclaimed(), new.lookup(5)), (1, 2));
    drop(writer);
    assert_eq!(new.lookup(5), 2, "readers outlive the writer");
}

#[test]
fn epochs_free_what_is_old_enough() {
    let (mut writer, reader) = Lpm6::new().unwrap();
    for epoch in 1..=3 {
        writer.set_epoch(u64::from(epoch));
        writer.insert(0, 0, epoch).unwrap();
        writer.commit().unwrap();
    }
    assert_eq!(writer.unreclaimed(), 3);
    // JUSTIFICATION: what this test is about.
    // SAFETY: the only reader is on this thread and inside no call.
    assert_eq!(unsafe { writer.reclaim(2) }, 2);
    assert_eq!((writer.unreclaimed(), reader.lookup(1)), (1, 3));
}

/// Every answer a reader gets while routes change is one that held before or holds after the change, and
/// replaced structures are freed under running readers once those have passed a quiescent point.
#[test]
fn readers_see_only_legal_values_while_routes_flip() {
    let (mut writer, reader) = Lpm6::new().unwrap();
    let net = 0x2001_0db8u128 << 96;
    let host = net | 1;
    writer.insert(net, 32, 1).unwrap();
    writer.commit().unwrap();
    let done = AtomicBool::new(false);
    let epoch = AtomicU64::new(1);
    let seen = [const { AtomicU64::new(0) }; 2];
    thread::scope(|scope| {
        for seen in &seen {
            let (reader, done, epoch) = (reader.clone(), &done, &epoch);
            scope.spawn(move || {
                let addrs = [host, net | 0xff, net | 1 << 64, net | 0x10_0000, net << 1];
                let mut out = [0; 5];
                while !done.load(Relaxed) {
                    seen.store(epoch.load(Acquire), Release);
                    reader.lookup_batch(&addrs, &mut out);
                    assert!([1, 2, 3, 4].contains(&out[0]), "host: {out:?}");
                    assert!([1, 2, 3].contains(&out[1]), "inside the /96: {out:?}");
                    assert_eq!(out[2], 1, "next /64: {out:?}");
                    assert!(
                        out[3] == 0x10_0000 || [1, 2, 3].contains(&out[3]),
                        "other host: {out:?}"
                    );
                    assert_eq!(out[4], 0, "outside: {out:?}");
                    assert!([1, 2, 3, 4].contains(&reader.lookup(host)));
                }
                seen.store(u64::MAX, Release);
            });
        }
        for round in 0..2000u64 {
            writer.set_epoch(round + 1);
            writer.insert(net, 64, 2).unwrap();
            writer.insert(net, 96, 3).unwrap();
            writer.commit().unwrap();
            // Slots change owner, and the table of hosts grows now and then.
            writer.insert(host, 128, 4).unwrap();
            for i in 0x10_0000..0x10_0000 + round as u32 % 300 {
                writer.insert(net | u128::from(i), 128, i).unwrap();
            }
            writer.remove(host, 128);
            for i in 0x10_0000..0x10_0000 + round as u32 % 300 {
                writer.remove(net | u128::from(i), 128);
            }
            writer.remove(net, 64);
            writer.remove(net, 96);
            writer.commit().unwrap();
            epoch.store(round + 2, Release);
            let safe = seen
                .iter()
                .map(|seen| seen.load(Acquire))
                .min()
                .unwrap_or(0);
            // JUSTIFICATION: what this test is about.
            // SAFETY: each reader stores the epoch it has seen outside of lookups. Having seen e + 1, it is past
            // every lookup that began before epoch e ended.
            unsafe { writer.reclaim(safe.saturating_sub(1)) };
        }
        done.store(true, Relaxed);
    });
}
