//! Where the record of an inside address is: a hash of record numbers.
//!
//! Open addressing, at most half full; who leaves makes those behind close up, so searches stay short
//! whatever came and went. The hash is keyed: hosts cannot aim at a place.

use std::hash::{BuildHasher, RandomState};

use super::{PortBlocksError, filled};
use crate::{flow::fold_product, prefetch::prefetch};

const NONE: u32 = u32::MAX;

#[derive(Clone, Debug)]
pub(super) struct HostIndex {
    /// A power of two, 2 at least.
    entries: Box<[Entry]>,
    /// 32 - log2(entries).
    shift: u32,
    secret: [u64; 4],
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Upper half of the hash; its upper bits are where the search begins.
    tag: u32,
    /// [`NONE`] is a free entry.
    record: u32,
}

impl HostIndex {
    /// For so many hosts, below 2^31.
    pub(super) fn new(hosts: u32) -> Result<Self, PortBlocksError> {
        let entries = (hosts.max(1) as usize * 2).next_power_of_two();
        let free = Entry {
            tag: 0,
            record: NONE,
        };
        Ok(Self {
            entries: filled(entries, free)?,
            shift: 32 - entries.trailing_zeros(),
            secret: [(); 4].map(|()| RandomState::new().hash_one(0)),
        })
    }

    #[inline(always)]
    pub(super) fn prefetch(&self, inside: u128) {
        let home = self.home(self.tag(inside));
        prefetch(self.entries.as_ptr().wrapping_add(home));
    }

    /// The record that is probably the one of `inside`, if it has one: its line does not have to be there yet.
    #[inline(always)]
    pub(super) fn guess(&self, inside: u128) -> u32 {
        let tag = self.tag(inside);
        let home = self.home(tag);
        let entry = self.entries[home];
        let next = self.entries[self.behind(home)];
        if entry.tag == tag {
            entry.record
        } else {
            next.record
        }
    }

    /// The record of `inside`, which `holds` knows.
    #[inline(always)]
    pub(super) fn find(&self, inside: u128, holds: impl Fn(u32) -> bool) -> Option<u32> {
        let at = self.place(inside, holds)?;
        Some(self.entries[at].record)
    }

    /// Adds a record that is not there. The caller adds no more than the index was made for.
    pub(super) fn insert(&mut self, inside: u128, record: u32) {
        let tag = self.tag(inside);
        let mut at = self.home(tag);
        while self.entries[at].record != NONE {
            at = self.behind(at);
        }
        self.entries[at] = Entry { tag, record };
    }

    /// Takes the record of `inside` out.
    pub(super) fn remove(&mut self, inside: u128, holds: impl Fn(u32) -> bool) {
        let Some(mut hole) = self.place(inside, holds) else {
            return;
        };
        let mut at = hole;
        loop {
            at = self.behind(at);
            let entry = self.entries[at];
            if entry.record == NONE {
                self.entries[hole].record = NONE;
                return;
            }
            // Whoever's search begins at the hole or before it moves there.
            if self.distance(self.home(entry.tag), at) >= self.distance(hole, at) {
                self.entries[hole] = entry;
                hole = at;
            }
        }
    }

    /// Bytes that the index occupies.
    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.entries)
    }

    #[inline(always)]
    fn place(&self, inside: u128, holds: impl Fn(u32) -> bool) -> Option<usize> {
        let tag = self.tag(inside);
        let mut at = self.home(tag);
        loop {
            let entry = self.entries[at];
            if entry.record == NONE {
                return None;
            }
            if entry.tag == tag && holds(entry.record) {
                return Some(at);
            }
            at = self.behind(at);
        }
    }

    #[inline(always)]
    fn tag(&self, inside: u128) -> u32 {
        let [a, b, c, d] = self.secret;
        let inner = fold_product((inside >> 64) as u64 ^ a, inside as u64 ^ b);
        (fold_product(inner ^ c, d | 1) >> 32) as u32
    }

    #[inline(always)]
    fn home(&self, tag: u32) -> usize {
        (u64::from(tag) >> self.shift) as usize
    }

    #[inline(always)]
    fn behind(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    /// Steps from one entry to another.
    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.entries.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few places, so that searches run into each other and around the end.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0u32..24), 0..400)) {
            let hosts = 16;
            let mut index = HostIndex::new(hosts).unwrap();
            let inside = |i: u32| u128::from(i) << 96 | 7;
            let mut twin = HashMap::new();
            for (add, i) in steps {
                let found = index.find(inside(i), |record| record == i + 100);
                prop_assert_eq!(found, twin.get(&i).copied());
                if !add {
                    index.remove(inside(i), |record| record == i + 100);
                    twin.remove(&i);
                } else if found.is_none() && twin.len() < hosts as usize {
                    index.insert(inside(i), i + 100);
                    twin.insert(i, i + 100);
                }
                for i in 0..24 {
                    let found = index.find(inside(i), |record| record == i + 100);
                    prop_assert_eq!(found, twin.get(&i).copied());
                }
            }
        }
    }
}
