//! Views looked at in the midst of changes.

use std::{cell::RefCell, collections::BTreeSet, fmt, rc::Rc};

use proptest::prelude::*;

use super::*;
use crate::array::HugePages;

/// What a test wants to see after each step of a change.
#[derive(Default)]
pub(super) struct Watcher(pub(super) Option<Box<dyn FnMut()>>);

impl Watcher {
    pub(super) fn look(&mut self) {
        if let Some(look) = &mut self.0 {
            look();
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watcher")
    }
}

/// The slow twin: every member, searched from end to end.
type Twin = BTreeSet<(SetId, Member)>;

fn sets4(twin: &Twin, addr: u32) -> Vec<SetId> {
    let has = |(_, member): &&(SetId, Member)| matches!(member, Member::V4(p) if p.contains(addr));
    dedup(twin.iter().filter(has))
}

fn sets6(twin: &Twin, addr: u128) -> Vec<SetId> {
    let has = |(_, member): &&(SetId, Member)| matches!(member, Member::V6(p) if p.contains(addr));
    dedup(twin.iter().filter(has))
}

fn dedup<'a>(members: impl Iterator<Item = &'a (SetId, Member)>) -> Vec<SetId> {
    let mut sets: Vec<_> = members.map(|&(set, _)| set).collect();
    sets.dedup();
    sets
}

/// Few distinct bits, so that prefixes nest, meet and come back.
fn member() -> impl Strategy<Value = Member> {
    let len4 = prop_oneof![Just(0u8), 20u8..=24, 25u8..=31, Just(32), Just(32)];
    let addr4 = (0u32..2, 0u32..8).prop_map(|(c, d)| 0x0a00_0000 | c << 8 | d << 5 | d);
    let len6 = prop_oneof![Just(0u8), 60u8..=64, 120u8..=127, Just(128), Just(128)];
    let addr6 = (0u128..2, 0u128..8).prop_map(|(c, d)| 0x2001 << 112 | c << 64 | d << 5 | d);
    prop_oneof![
        (addr4, len4).prop_map(|(addr, len)| Prefix4::around(addr, len).unwrap().into()),
        (addr6, len6).prop_map(|(addr, len)| Prefix6::around(addr, len).unwrap().into()),
    ]
}

fn probes() -> (Vec<u32>, Vec<u128>) {
    let mut four = vec![0, u32::MAX, 0x0a00_0200, 0x09ff_ffff];
    let mut six = vec![0, u128::MAX, 0x2001 << 112 | 2 << 64];
    for (c, d) in (0..2).flat_map(|c| (0..8).map(move |d| (c, d))) {
        let addr4 = 0x0a00_0000 | c << 8 | d << 5 | d;
        let addr6 = 0x2001 << 112 | u128::from(c) << 64 | u128::from(d) << 5 | u128::from(d);
        for bit in 0..6 {
            four.extend([addr4, addr4 ^ 1 << bit, addr4 | 0x1f]);
            six.extend([addr6, addr6 ^ 1 << bit, addr6 | 0x1f]);
        }
    }
    four.sort_unstable();
    four.dedup();
    six.sort_unstable();
    six.dedup();
    (four, six)
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<(bool, u32, Member)>),
    DropView(usize),
    Reclaim,
}

fn step() -> impl Strategy<Value = Step> {
    let operation = (prop::bool::weighted(0.6), 0u32..4, member());
    prop_oneof![
        8 => prop::collection::vec(operation, 1..6).prop_map(Step::Apply),
        6 => any::<usize>().prop_map(Step::DropView),
        1 => Just(Step::Reclaim),
    ]
}

/// A view, and what it has to say about each probe.
struct Watched {
    view: AddressSets,
    sets4: Vec<Vec<SetId>>,
    sets6: Vec<Vec<SetId>>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After every single change of the longest-prefix match, each living view, however old, says exactly what
    /// its twin says: no address ever has another class than before the change or after it.
    #[test]
    fn every_view_is_right_at_every_step(
        steps in prop::collection::vec(step(), 1..40),
        prefixes in prop_oneof![Just(8u32), Just(1000)],
        blocks4 in prop_oneof![Just(1u32), Just(8)],
        classes in prop_oneof![Just(6u32), Just(1000)],
    ) {
        let limits = AddressSetLimits { sets: 4, members: 30, prefixes, classes, blocks4 };
        let mut writer = AddressSetsWriter::new(limits, HugePages::Transparent).unwrap();
        let mut twin = Twin::new();
        let (four, six) = probes();
        let watched = {
            let (four, six) = (four.clone(), six.clone());
            move |view: AddressSets, twin: &Twin| Watched {
                view,
                sets4: four.iter().map(|&addr| sets4(twin, addr)).collect(),
                sets6: six.iter().map(|&addr| sets6(twin, addr)).collect(),
            }
        };
        let views = Rc::new(RefCell::new(vec![watched(writer.view(), &twin)]));
        let check = {
            let views = Rc::clone(&views);
            move || for watched in views.borrow().iter() {
                let view = &watched.view;
                for (&addr, sets) in four.iter().zip(&watched.sets4) {
                    assert_eq!(view.sets(view.class4(addr)), sets, "{addr:#x}");
                }
                for (&addr, sets) in six.iter().zip(&watched.sets6) {
                    assert_eq!(view.sets(view.class6(addr)), sets, "{addr:#x}");
                }
            }
        };
        writer.watcher.0 = Some(Box::new(check.clone()));
        for step in steps {
            match step {
                Step::Apply(operations) => {
                    let mut delta = Delta::<Member>::default();
                    let mut next = twin.clone();
                    let mut expected = Applied::default();
                    for &(add, set, member) in &operations {
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
                        twin = next;
                    }
                    views.borrow_mut().push(watched(writer.view(), &twin));
                    prop_assert_eq!(writer.member_count(), twin.len());
                    for set in (0..4).map(SetId) {
                        let members: Vec<_> = writer.members(set).collect();
                        let expected: Vec<_> =
                            twin.iter().filter(|of| of.0 == set).map(|of| of.1).collect();
                        prop_assert_eq!(members, expected);
                    }
                }
                Step::DropView(which) => {
                    let mut views = views.borrow_mut();
                    if !views.is_empty() {
                        let which = which % views.len();
                        views.swap_remove(which);
                    }
                }
                Step::Reclaim => writer.reclaim(),
            }
            check();
            prop_assert!(writer.prefixes_in_use() <= prefixes);
            prop_assert!(writer.view().class_count() <= classes);
        }
        // Nothing is lost: without members and old views, every number is free again.
        views.borrow_mut().clear();
        let mut delta = Delta::<Member>::default();
        for &(set, member) in &twin {
            delta.remove(set, member);
        }
        writer.apply(&delta).unwrap();
        writer.reclaim();
        prop_assert_eq!(writer.prefixes_in_use(), 0);
        prop_assert_eq!(writer.prefixes_waiting(), 0);
        prop_assert!(writer.view().is_empty());
    }
}
