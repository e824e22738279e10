//! IPv4 longest-prefix match against a linear scan.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::*},
    thread,
};

use proptest::prelude::*;
use tables::{HugePages, Lpm4, LpmError, Prefix4};

/// The slow twin: a list of routes, searched from end to end.
#[derive(Default)]
struct Scan(Vec<(Prefix4, u32)>);

impl Scan {
    fn insert(&mut self, prefix: Prefix4, value: u32) {
        self.remove(prefix);
        self.0.push((prefix, value));
    }

    fn remove(&mut self, prefix: Prefix4) -> Option<u32> {
        let at = self.0.iter().position(|route| route.0 == prefix)?;
        Some(self.0.swap_remove(at).1)
    }

    fn lookup(&self, addr: u32) -> u32 {
        let containing = self.0.iter().filter(|(prefix, _)| prefix.contains(addr));
        containing
            .max_by_key(|(prefix, _)| prefix.len())
            .map_or(0, |&(_, value)| value)
    }
}

/// Few distinct bits, so that prefixes nest, share blocks and repeat; both ends of the space occur.
fn prefix() -> impl Strategy<Value = Prefix4> {
    let addr = prop_oneof![
        (0u32..4, 0u32..4, any::<u8>())
            .prop_map(|(b, c, d)| 0x0a00_0000 | b << 16 | c << 8 | u32::from(d)),
        any::<u8>().prop_map(|d| 0xffff_ff00 | u32::from(d)),
        any::<u8>().prop_map(u32::from),
    ];
    let len =
        prop_oneof![1 => Just(0u8), 9 => 12u8..=23, 8 => Just(24), 20 => 25u8..=31, 10 => Just(32)];
    (addr, len).prop_map(|(addr, len)| Prefix4::around(addr, len).unwrap())
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Prefix4, u32),
    Remove(Prefix4),
    Reclaim,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (prefix(), 1u32..1 << 31).prop_map(|(prefix, value)| Step::Insert(prefix, value)),
        4 => prefix().prop_map(Step::Remove),
        1 => Just(Step::Reclaim),
    ];
    prop::collection::vec(step, 1..60)
}

/// Both sides of both ends of a prefix.
fn edges(prefix: Prefix4) -> [u32; 4] {
    let (first, last) = (prefix.addr(), prefix.last());
    [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_scan(steps in steps(), groups in 0u32..12, random: [u32; 8]) {
        let (mut writer, reader) = Lpm4::new(groups, HugePages::Transparent).unwrap();
        let mut scan = Scan::default();
        let mut probes = random.to_vec();
        for (epoch, step) in steps.into_iter().enumerate() {
            writer.set_epoch(epoch as u64);
            match step {
                Step::Insert(prefix, value) => {
                    match writer.insert(prefix.addr(), prefix.len(), value) {
                        Ok(()) => scan.insert(prefix, value),
                        Err(error) => {
                            let full = matches!(error, LpmError::Full { .. });
                            prop_assert!(full && prefix.len() > 24, "{}", error);
                            prop_assert_eq!(writer.groups_in_use(), groups);
                        }
                    }
                    probes.extend(edges(prefix));
                }
                Step::Remove(prefix) => {
                    prop_assert_eq!(writer.exact(prefix.addr(), prefix.len()), scan.0.iter().find(|r| r.0 == prefix).map(|r| r.1));
                    prop_assert_eq!(writer.remove(prefix.addr(), prefix.len()), scan.remove(prefix));
                    probes.extend(edges(prefix));
                }
                Step::Reclaim => {
                    writer.reclaim(epoch as u64);
                }
            }
            for &addr in &probes {
                prop_assert_eq!(reader.lookup(addr), scan.lookup(addr), "address {:#x}", addr);
            }
        }
        let mut batch = vec![u32::MAX; probes.len()];
        reader.lookup_batch(&probes, &mut batch);
        for (&addr, &value) in probes.iter().zip(&batch) {
            prop_assert_eq!(value, scan.lookup(addr));
            prop_assert_eq!(value, writer.lookup(addr));
        }
        let mut routes: Vec<_> = scan.0.iter().map(|&(prefix, value)| (prefix.addr(), prefix.len(), value)).collect();
        routes.sort_unstable();
        prop_assert_eq!(writer.iter().collect::<Vec<_>>(), routes);
        // Everything out again: the table ends empty and all groups come back.
        for (prefix, _) in scan.0 {
            prop_assert!(writer.remove(prefix.addr(), prefix.len()).is_some());
        }
        writer.reclaim(u64::MAX);
        prop_assert!(writer.is_empty());
        prop_assert_eq!(writer.groups_in_use(), 0);
        prop_assert!(probes.iter().all(|&addr| reader.lookup(addr) == 0));
    }

    #[test]
    fn any_arguments_are_answered(prefix: u32, len: u8, value: u32) {
        let (mut writer, reader) = Lpm4::new(1, HugePages::Transparent).unwrap();
        let legal = Prefix4::new(prefix, len).is_ok() && value != 0 && value < 1 << 31;
        prop_assert_eq!(writer.insert(prefix, len, value).is_ok(), legal);
        prop_assert_eq!(reader.lookup(prefix), if legal { value } else { 0 });
        prop_assert_eq!(writer.remove(prefix, len), legal.then_some(value));
    }
}

#[test]
fn full_table_says_so_and_is_unchanged() {
    let (mut writer, reader) = Lpm4::new(1, HugePages::Transparent).unwrap();
    writer.insert(0x0a00_0000, 25, 1).unwrap();
    let full = LpmError::Full {
        capacity_groups: 1,
        quarantined: 0,
    };
    assert_eq!(writer.insert(0x0b00_0000, 32, 2), Err(full));
    assert_eq!((reader.lookup(0x0b00_0000), writer.len()), (0, 1));
    writer.insert(0x0a00_0080, 32, 3).unwrap(); // same block, no further group
    assert_eq!(writer.remove(0x0a00_0000, 25), Some(1));
    assert_eq!(writer.remove(0x0a00_0080, 32), Some(3));
    let waiting = LpmError::Full {
        capacity_groups: 1,
        quarantined: 1,
    };
    assert_eq!(writer.insert(0x0b00_0000, 32, 2), Err(waiting));
    assert!(waiting.to_string().contains("1 of them waiting"));
    assert_eq!(writer.reclaim(0), 1);
    writer.insert(0x0b00_0000, 32, 2).unwrap();
    assert_eq!(reader.lookup(0x0b00_0000), 2);
}

#[test]
fn groups_stay_in_quarantine_until_their_epoch_is_safe() {
    let (mut writer, _reader) = Lpm4::new(1, HugePages::Transparent).unwrap();
    writer.set_epoch(5);
    writer.insert(0, 32, 1).unwrap();
    writer.remove(0, 32);
    assert_eq!(writer.reclaim(4), 0);
    assert!(writer.insert(0, 32, 1).is_err());
    assert_eq!(writer.reclaim(5), 1);
    assert!(writer.insert(0, 32, 1).is_ok());
}

#[test]
fn slices_of_different_length_are_answered_up_to_the_shorter() {
    let (mut writer, reader) = Lpm4::new(0, HugePages::Transparent).unwrap();
    writer.insert(0, 0, 9).unwrap();
    for (addrs, outs) in [
        (0, 5),
        (5, 0),
        (100, 37),
        (37, 100),
        (64, 64),
        (65, 65),
        (200, 200),
    ] {
        let mut out = vec![1; outs];
        reader.lookup_batch(&vec![7; addrs], &mut out);
        let n = addrs.min(outs);
        assert!(out[..n].iter().all(|&v| v == 9) && out[n..].iter().all(|&v| v == 1));
    }
}

/// Every answer a reader gets while routes flip is one that held before or holds after the change, also
/// while groups come, go and are reused by another block.
#[test]
fn readers_see_only_legal_values_while_routes_flip() {
    let (mut writer, reader) = Lpm4::new(8, HugePages::Transparent).unwrap();
    let (host, other) = (0x0a00_0180, 0x0a00_0301);
    writer.insert(0x0a00_0000, 8, 1).unwrap();
    let done = AtomicBool::new(false);
    let epoch = AtomicU64::new(1);
    let seen = [const { AtomicU64::new(0) }; 2];
    let mut reused = 0;
    thread::scope(|scope| {
        let readers = seen.each_ref().map(|seen| {
            let (reader, done, epoch) = (reader.clone(), &done, &epoch);
            scope.spawn(move || {
                let addrs = [host, host + 1, host & !0xff, 0x0a00_0280, other];
                let mut out = [0; 5];
                while !done.load(Relaxed) {
                    seen.store(epoch.load(Acquire), Release);
                    reader.lookup_batch(&addrs, &mut out);
                    assert!((1..=4).contains(&out[0]), "host: {out:?}");
                    assert!((1..=3).contains(&out[1]), "beside the host: {out:?}");
                    assert!((1..=2).contains(&out[2]), "start of the block: {out:?}");
                    assert_eq!(out[3], 1, "a block without changes: {out:?}");
                    assert!([1, 5].contains(&out[4]), "host of another block: {out:?}");
                    assert!((1..=4).contains(&reader.lookup(host)));
                }
            })
        });
        for round in 0..1000 {
            writer.set_epoch(round + 1);
            writer.insert(host & !0xff, 24, 2).unwrap();
            writer.insert(host & !0x7f, 25, 3).unwrap();
            writer.insert(host, 32, 4).unwrap();
            let removals = [(host & !0xff, 24), (host, 32), (host & !0x7f, 25)];
            for i in 0..3 {
                let (prefix, len) = removals[(i + round as usize) % 3];
                assert!(writer.remove(prefix, len).is_some());
            }
            writer.insert(other, 32, 5).unwrap();
            assert!(writer.remove(other, 32).is_some());
            epoch.store(round + 2, Release);
            // A reader that stored e + 1 is past every lookup that began in epoch e. The next round needs two groups.
            while writer.capacity_groups() - writer.groups_in_use() < 2 || round % 16 == 0 {
                let safe = seen
                    .iter()
                    .map(|seen| seen.load(Acquire))
                    .min()
                    .unwrap_or(0);
                let reclaimed = writer.reclaim(safe.saturating_sub(1));
                reused += reclaimed;
                // A reader that failed moves no further: its message matters, not our waiting.
                if reclaimed != 0 || readers.iter().any(|reader| reader.is_finished()) {
                    break;
                }
                thread::yield_now();
            }
        }
        done.store(true, Relaxed);
    });
    assert!(reused >= 1000, "groups were reused {reused} times");
}
