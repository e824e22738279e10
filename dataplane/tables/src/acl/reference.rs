//! The slow twin of every compiled classifier: the list of rules, searched from the first to the last.

use super::{Address, Key, NO_MATCH, Rule, SetClasses};

/// Rules in order. Classifies in time linear in their number; holds both families.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    rules: &'a [Rule],
    sets: &'a SetClasses,
}

impl<'a> Linear<'a> {
    /// Over `rules`, whose sets are described by `sets`.
    pub fn new(rules: &'a [Rule], sets: &'a SetClasses) -> Self {
        Self { rules, sets }
    }

    /// Index of the first rule that matches, or [`NO_MATCH`].
    pub fn classify_one<A: Address>(&self, key: &Key<A>) -> u32 {
        let first = self
            .rules
            .iter()
            .position(|rule| rule.matches(key, self.sets));
        first.map_or(NO_MATCH, |index| index as u32)
    }

    /// As [`classify_one`](Self::classify_one), for every key.
    pub fn classify<A: Address>(&self, keys: &[Key<A>], out: &mut [u32]) {
        for (out, key) in out.iter_mut().zip(keys) {
            *out = self.classify_one(key);
        }
    }
}
