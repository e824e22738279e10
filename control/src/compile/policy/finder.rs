//! Which of many selectors may match some labels, found without trying all of them.
//!
//! Most selectors demand that a label has one of a few values. Such a selector is filed under these values of one label, and looked at
//! only for what is labelled so; the others are always looked at.

use std::collections::{BTreeSet, HashMap};

use model::policy::{Labels, Selector};

/// Selectors by number.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// By label, then by value.
    by_value: HashMap<Box<str>, HashMap<Box<str>, BTreeSet<u32>>>,
    /// Those that demand no value of any label.
    others: BTreeSet<u32>,
}

/// A label of which a selector demands one of the fewest values.
fn demand(selector: &Selector) -> Option<(Box<str>, BTreeSet<Box<str>>)> {
    let demands = selector.restrictions().into_iter();
    demands
        .filter_map(|(label, of)| Some((label, of.one_of?)))
        .min_by_key(|(_, values)| values.len())
}

impl Finder {
    /// Files a selector. Numbers are the caller's.
    pub(super) fn insert(&mut self, selector: &Selector, number: u32) {
        let Some((label, values)) = demand(selector) else {
            self.others.insert(number);
            return;
        };
        // One that can have no value matches nothing.
        let of_label = self.by_value.entry(label).or_default();
        for value in values {
            of_label.entry(value).or_default().insert(number);
        }
    }

    /// Takes out what was [inserted](Self::insert) with these arguments.
    pub(super) fn remove(&mut self, selector: &Selector, number: u32) {
        let Some((label, values)) = demand(selector) else {
            self.others.remove(&number);
            return;
        };
        let Some(of_label) = self.by_value.get_mut(&label) else {
            return;
        };
        for value in values {
            if let Some(numbers) = of_label.get_mut(&value) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    of_label.remove(&value);
                }
            }
        }
        if of_label.is_empty() {
            self.by_value.remove(&label);
        }
    }

    /// Adds the numbers of all selectors that match these labels, and of some that do not. Costs what it adds, and the labels.
    pub(super) fn candidates(&self, labels: &Labels, into: &mut BTreeSet<u32>) {
        into.extend(&self.others);
        for (label, value) in labels {
            let of_label = self.by_value.get(label.as_str());
            into.extend(
                of_label
                    .and_then(|values| values.get(value.as_str()))
                    .into_iter()
                    .flatten(),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn selector() -> impl Strategy<Value = Selector> {
        let label = || "[ab]";
        let leaf = prop_oneof![
            3 => (label(), "[xyz]").prop_map(|(label, value)| format!("{label} == '{value}'")),
            1 => (label(), "[xyz]").prop_map(|(label, value)| format!("{label} != '{value}'")),
            1 => (label(), "[xyz]", "[xyz]").prop_map(|(label, a, b)| format!("{label} in {{'{a}', '{b}'}}")),
            1 => label().prop_map(|label| format!("has({label})")),
            1 => Just("all()".to_owned()),
        ];
        let text = leaf.prop_recursive(3, 12, 3, |inner| {
            let operator = prop_oneof![Just(" && "), Just(" || ")];
            (
                proptest::collection::vec(inner, 2..4),
                operator,
                any::<bool>(),
            )
                .prop_map(|(parts, operator, not)| {
                    let joined = parts.join(operator);
                    format!("{}({joined})", if not { "!" } else { "" })
                })
        });
        text.prop_map(|text| Selector::new(&text).expect("a selector"))
    }

    proptest! {
        /// Every selector that matches is found, none that is gone is, and one that demands a value is found only with it.
        #[test]
        fn finds_what_matches(
            selectors in proptest::collection::vec((selector(), any::<bool>()), 0..40),
            labels in proptest::collection::btree_map("[abc]", "[xyz]", 0..3),
        ) {
            let mut finder = Finder::default();
            for (number, (selector, _)) in (0..).zip(&selectors) {
                finder.insert(selector, number);
            }
            for (number, (selector, stays)) in (0..).zip(&selectors) {
                if !stays {
                    finder.remove(selector, number);
                }
            }
            let mut found = BTreeSet::new();
            finder.candidates(&labels, &mut found);
            for (number, (selector, stays)) in (0..).zip(&selectors) {
                let matches = *stays && selector.matches(&labels);
                prop_assert!(!matches || found.contains(&number), "{:?}", selector);
                prop_assert!(*stays || !found.contains(&number));
                if let Some((label, values)) = demand(selector) {
                    let admitted = labels.get(&*label).is_some_and(|value| values.contains(value.as_str()));
                    prop_assert_eq!(found.contains(&number), *stays && admitted);
                }
            }
            for (number, (selector, stays)) in (0..).zip(&selectors) {
                if *stays {
                    finder.remove(selector, number);
                }
            }
            prop_assert!(finder.others.is_empty() && finder.by_value.is_empty());
        }
    }
}
