//! Which sets a class of addresses belongs to.

use std::collections::HashMap;
use std::sync::Arc;

use super::rule::SetId;

/// What classes mean: for each class the sets that its members are in. Class 0 is in no set. Classes are
/// only ever added ([`push`](Self::push)), and a class never changes its meaning, so a compiled
/// classifier is brought up to date by [`Classifier::extend`](super::Classifier::extend).
#[derive(Clone, Debug)]
pub struct ClassMembership {
    /// `sets[starts[class]..starts[class + 1]]`, ascending.
    sets: Vec<SetId>,
    starts: Vec<u32>,
    /// Copies of the table share what does not change.
    by_set: HashMap<SetId, Arc<Vec<u32>>>,
}

/// The two class tables that the fields of a [`Key`](super::Key) refer to.
#[derive(Clone, Debug, Default)]
pub struct SetClasses {
    /// Of addresses: `all_of`, `none_of`.
    pub addresses: ClassMembership,
    /// Of (address, protocol, port) triples: `port_sets`, `not_port_sets`, `services`.
    pub ip_ports: ClassMembership,
}

impl ClassMembership {
    /// Adds a class whose members are in exactly these sets, in any order, and gives its number.
    ///
    /// # Panics
    /// There are 2^32 memberships already.
    pub fn push(&mut self, sets: &[SetId]) -> u32 {
        let class = self.len();
        let start = self.sets.len();
        self.sets.extend_from_slice(sets);
        self.sets[start..].sort_unstable();
        let mut kept = start;
        for at in start..self.sets.len() {
            if kept == start || self.sets[at] != self.sets[kept - 1] {
                self.sets[kept] = self.sets[at];
                kept += 1;
            }
        }
        self.sets.truncate(kept);
        for &set in &self.sets[start..] {
            Arc::make_mut(self.by_set.entry(set).or_default()).push(class);
        }
        let end = u32::try_from(self.sets.len()).expect("fewer than 2^32 memberships");
        self.starts.push(end);
        class
    }

    /// Number of classes, class 0 included.
    pub fn len(&self) -> u32 {
        self.starts.len() as u32 - 1
    }

    /// Never: class 0 always exists.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The sets of `class`, ascending; none for a class that does not exist.
    pub fn sets(&self, class: u32) -> &[SetId] {
        let class = class as usize;
        match self.starts.get(class..class + 2) {
            Some(&[start, end]) => &self.sets[start as usize..end as usize],
            _ => &[],
        }
    }

    /// Whether members of `class` are in `set`.
    pub fn contains(&self, class: u32, set: SetId) -> bool {
        self.sets(class).binary_search(&set).is_ok()
    }

    /// The classes whose members are in `set`, ascending.
    pub fn classes(&self, set: SetId) -> &[u32] {
        self.by_set
            .get(&set)
            .map_or(&[], |classes| classes.as_slice())
    }
}

impl Default for ClassMembership {
    fn default() -> Self {
        Self {
            sets: Vec::new(),
            starts: vec![0, 0],
            by_set: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_kept_in_both_directions() {
        let mut classes = ClassMembership::default();
        assert_eq!(classes.push(&[7, 3, 7]), 1);
        assert_eq!(classes.push(&[]), 2);
        assert_eq!(classes.push(&[3]), 3);
        assert_eq!(classes.len(), 4);
        assert_eq!(classes.sets(1), [3, 7]);
        assert_eq!(classes.sets(0), [0; 0]);
        assert_eq!(classes.sets(u32::MAX - 2), [0; 0]);
        assert_eq!(classes.classes(3), [1, 3]);
        assert_eq!(classes.classes(9), [0; 0]);
        assert!(classes.contains(1, 7) && !classes.contains(3, 7) && !classes.contains(99, 3));
    }
}
