//! From a hash to the records that may have it: a cuckoo hash table of tag buckets.
//!
//! ```text
//! bucket, one line: │ tag 0..7 │ record 0..7 │ overflow │ secondary │ spare │
//!                     16 B       32 B          4 B        1 B         11 B
//! ```
//!
//! An entry stands in its primary bucket, which the high half of the hash names, or in its
//! secondary one, which the primary and the tag name: either can be had from the other without the
//! key. `overflow` counts the entries whose primary bucket this is and which stand in their
//! secondary, so that a search for what is not there reads one line nearly always (Cuckoo++).
//! `secondary` says which slots hold entries that are not at home. Entries move on insertion only.
#![expect(
    unsafe_code,
    reason = "buckets come zeroed from the system; eight tags are compared at once"
)]

use std::io;

use crate::{
    array::{Array, HugePages, Zeroed},
    prefetch::prefetch,
};

use super::key::FlowHash;

const SLOTS: usize = 8;
/// Below this number of buckets, chance decides about a bucket's load.
const LEAST_BUCKETS: u32 = 8;
/// Buckets that an insertion looks at before it gives up.
const REACH: usize = 128;

/// What a bucket can say about a hash at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Candidate {
    /// Nothing with this hash is in the table.
    Absent,
    /// Not in the primary bucket, perhaps in the secondary, whose line is on its way.
    Further,
    /// Perhaps this record.
    Record(u32),
}

/// An entry could not be placed: both buckets and all within reach are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Crowded;

#[derive(Debug)]
pub(super) struct Index {
    buckets: Array<Bucket>,
}

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Bucket {
    /// Eight tags of 16 bits, the first in the low end; 0 is a free slot.
    tags: [u64; 2],
    records: [u32; SLOTS],
    overflow: u32,
    /// One bit per slot.
    secondary: u8,
    _spare: [u8; 11],
}

// JUSTIFICATION: buckets come zeroed from the system, untouched until used.
// SAFETY: a bucket is integers only: zero bytes are a value, nothing to drop, alignment 64.
unsafe impl Zeroed for Bucket {}

impl Index {
    /// Bytes of one bucket.
    pub(super) const BUCKET_BYTES: usize = size_of::<Bucket>();

    /// An index that is at most 3/4 full with `entries`.
    pub(super) fn new(entries: u64, pages: HugePages) -> io::Result<Self> {
        let buckets = entries
            .div_ceil(SLOTS as u64 * 3 / 4)
            .max(u64::from(LEAST_BUCKETS));
        let buckets = u32::try_from(buckets).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok(Self {
            buckets: Array::new_hot(buckets as usize, pages)?,
        })
    }

    pub(super) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Asks for the line where the search begins.
    #[inline(always)]
    pub(super) fn prefetch(&self, hash: FlowHash) {
        let at = self.primary(hash);
        prefetch(self.buckets.as_ptr().wrapping_add(at as usize));
    }

    /// Asks for the secondary bucket where a search that finds nothing, or an insertion, would go there.
    #[inline(always)]
    pub(super) fn prefetch_second(&self, hash: FlowHash) {
        let (at, tag) = (self.primary(hash), tag_of(hash));
        let bucket = &self.buckets[at as usize];
        if bucket.overflow != 0 || bucket.matches(0) == 0 {
            let other = self.alternate(at, tag);
            prefetch(self.buckets.as_ptr().wrapping_add(other as usize));
        }
    }

    /// Asks for the secondary bucket where the record is not in the primary one, which is read.
    #[inline]
    pub(super) fn prefetch_removal(&self, hash: FlowHash, record: u32) {
        let (at, tag) = (self.primary(hash), tag_of(hash));
        if self.buckets[at as usize].slot_of(tag, record).is_none() {
            let other = self.alternate(at, tag);
            prefetch(self.buckets.as_ptr().wrapping_add(other as usize));
        }
    }

    /// The first look: reads the primary bucket's line only.
    #[inline(always)]
    pub(super) fn candidate(&self, hash: FlowHash) -> Candidate {
        let (at, tag) = (self.primary(hash), tag_of(hash));
        let bucket = &self.buckets[at as usize];
        let hits = bucket.matches(tag);
        if hits != 0 {
            Candidate::Record(bucket.records[hits.trailing_zeros() as usize % SLOTS])
        } else if bucket.overflow == 0 {
            Candidate::Absent
        } else {
            let other = self.alternate(at, tag);
            prefetch(self.buckets.as_ptr().wrapping_add(other as usize));
            Candidate::Further
        }
    }

    /// What [`Candidate::Further`] leads to: perhaps this record. Reads the secondary's line.
    #[inline]
    pub(super) fn further(&self, hash: FlowHash) -> Option<u32> {
        let tag = tag_of(hash);
        let bucket = &self.buckets[self.alternate(self.primary(hash), tag) as usize];
        let hits = bucket.matches(tag);
        (hits != 0).then(|| bucket.records[hits.trailing_zeros() as usize % SLOTS])
    }

    /// The record with this hash that `same` accepts.
    #[inline]
    pub(super) fn find(&self, hash: FlowHash, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let (at, tag) = (self.primary(hash), tag_of(hash));
        let bucket = &self.buckets[at as usize];
        if let Some(record) = bucket.find(tag, &mut same) {
            return Some(record);
        }
        if bucket.overflow == 0 {
            return None;
        }
        self.buckets[self.alternate(at, tag) as usize].find(tag, &mut same)
    }

    /// Adds a record. It must not be there yet.
    pub(super) fn insert(&mut self, hash: FlowHash, record: u32) -> Result<(), Crowded> {
        let (home, tag) = (self.primary(hash), tag_of(hash));
        let other = self.alternate(home, tag);
        let (at, slot) = if let Some(slot) = self.buckets[home as usize].free_slot() {
            (home, slot)
        } else if let Some(slot) = self.buckets[other as usize].free_slot() {
            (other, slot)
        } else {
            self.make_room([home, other]).ok_or(Crowded)?
        };
        self.buckets[at as usize].put(slot, tag, record, at != home);
        if at != home {
            self.buckets[home as usize].overflow += 1;
        }
        Ok(())
    }

    /// Removes a record; says whether it was there.
    pub(super) fn remove(&mut self, hash: FlowHash, record: u32) -> bool {
        let (home, tag) = (self.primary(hash), tag_of(hash));
        if let Some(slot) = self.buckets[home as usize].slot_of(tag, record) {
            let bucket = &mut self.buckets[home as usize];
            // Where both buckets are one, every entry is at home.
            debug_assert!(bucket.secondary & 1 << slot == 0);
            bucket.clear(slot);
            return true;
        }
        let other = self.alternate(home, tag);
        if let Some(slot) = self.buckets[other as usize].slot_of(tag, record) {
            self.buckets[other as usize].clear(slot);
            self.buckets[home as usize].overflow -= 1;
            return true;
        }
        false
    }

    /// The bucket that the high half of the hash names.
    #[inline(always)]
    fn primary(&self, hash: FlowHash) -> u32 {
        self.scale((hash.0 >> 32) as u32)
    }

    /// The other bucket of an entry. Its own inverse: the two add up to a number that depends on the
    /// tag alone, modulo the number of buckets, which need not be a power of two.
    #[inline(always)]
    fn alternate(&self, bucket: u32, tag: u16) -> u32 {
        let sum = self.scale(u32::from(tag).wrapping_mul(0x9e37_79b1));
        let (other, borrow) = sum.overflowing_sub(bucket);
        if borrow {
            other.wrapping_add(self.buckets.len() as u32)
        } else {
            other
        }
    }

    /// From 32 random bits to a bucket.
    #[inline(always)]
    fn scale(&self, bits: u32) -> u32 {
        ((u64::from(bits) * self.buckets.len() as u64) >> 32) as u32
    }

    /// Frees a slot in one of two full buckets: searches, breadth first, for the shortest chain of
    /// entries that can each move to their other bucket, and moves them. Reads no key.
    #[cold]
    #[inline(never)]
    fn make_room(&mut self, roots: [u32; 2]) -> Option<(u32, usize)> {
        #[derive(Clone, Copy, Default)]
        struct Step {
            bucket: u32,
            /// The step from whose bucket an entry would come, and its slot there.
            parent: Option<(u8, u8)>,
        }
        let mut steps = [Step::default(); REACH];
        let mut count = 2;
        for (step, bucket) in steps.iter_mut().zip(roots) {
            step.bucket = bucket;
        }
        let mut at = 0;
        while at < count {
            let from = steps[at].bucket;
            for slot in 0..SLOTS {
                let to = self.alternate(from, self.buckets[from as usize].tag(slot));
                // A chain that came back to a bucket would move an entry that has moved.
                let mut above = Some(at);
                let mut comes_back = false;
                while let Some(step) = above {
                    comes_back |= steps[step].bucket == to;
                    above = steps[step].parent.map(|(parent, _)| usize::from(parent));
                }
                if comes_back {
                    continue;
                }
                if let Some(free) = self.buckets[to as usize].free_slot() {
                    let (mut free, mut hole) = (free, to);
                    let mut next = Some((at as u8, slot as u8));
                    while let Some((step, slot)) = next {
                        let bucket = steps[usize::from(step)].bucket;
                        self.relocate(bucket, usize::from(slot), hole, free);
                        (hole, free) = (bucket, usize::from(slot));
                        next = steps[usize::from(step)].parent;
                    }
                    return Some((hole, free));
                }
                if count < REACH {
                    let parent = Some((at as u8, slot as u8));
                    steps[count] = Step { bucket: to, parent };
                    count += 1;
                }
            }
            at += 1;
        }
        None
    }

    /// Moves an entry to a free slot of its other bucket.
    fn relocate(&mut self, from: u32, slot: usize, to: u32, free: usize) {
        let source = &mut self.buckets[from as usize];
        let (tag, record) = (source.tag(slot), source.records[slot]);
        let was_secondary = source.secondary & 1 << slot != 0;
        source.clear(slot);
        if !was_secondary {
            source.overflow += 1;
        }
        let target = &mut self.buckets[to as usize];
        if was_secondary {
            target.overflow -= 1;
        }
        target.put(free, tag, record, !was_secondary);
    }
}

impl Bucket {
    #[inline(always)]
    fn find(&self, tag: u16, same: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let mut hits = self.matches(tag);
        while hits != 0 {
            let record = self.records[hits.trailing_zeros() as usize % SLOTS];
            if same(record) {
                return Some(record);
            }
            hits &= hits - 1;
        }
        None
    }

    /// One bit for each slot with this tag.
    #[inline(always)]
    fn matches(&self, tag: u16) -> u32 {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{
                _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_set_epi64x,
                _mm_set1_epi16, _mm_setzero_si128,
            };
            // JUSTIFICATION: eight comparisons at once, on the packet path; the intrinsics are unsafe functions.
            // SAFETY: registers only; SSE2 is part of x86-64.
            unsafe {
                let tags = _mm_set_epi64x(self.tags[1] as i64, self.tags[0] as i64);
                let equal = _mm_cmpeq_epi16(tags, _mm_set1_epi16(tag as i16));
                _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        self.matches_portable(tag)
    }

    /// As [`matches`](Self::matches), for any CPU.
    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn matches_portable(&self, tag: u16) -> u32 {
        (0..SLOTS).fold(0, |hits, slot| {
            hits | u32::from(self.tag(slot) == tag) << slot
        })
    }

    #[inline(always)]
    fn tag(&self, slot: usize) -> u16 {
        (self.tags[slot / 4 % 2] >> (slot % 4 * 16)) as u16
    }

    fn free_slot(&self) -> Option<usize> {
        let free = self.matches(0);
        (free != 0).then(|| free.trailing_zeros() as usize)
    }

    fn slot_of(&self, tag: u16, record: u32) -> Option<usize> {
        let hits = self.matches(tag);
        (0..SLOTS).find(|slot| hits & 1 << slot != 0 && self.records[*slot] == record)
    }

    fn put(&mut self, slot: usize, tag: u16, record: u32, secondary: bool) {
        debug_assert!(self.tag(slot) == 0 && tag != 0);
        self.tags[slot / 4] |= u64::from(tag) << (slot % 4 * 16);
        self.records[slot] = record;
        self.secondary |= u8::from(secondary) << slot;
    }

    fn clear(&mut self, slot: usize) {
        self.tags[slot / 4] &= !(0xffff << (slot % 4 * 16));
        self.secondary &= !(1 << slot);
    }
}

/// 16 bits that the bucket's number does not use; never 0.
#[inline(always)]
fn tag_of(hash: FlowHash) -> u16 {
    (hash.0 as u16).max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// What must hold between any two operations.
    fn audit(index: &Index, entries: &HashMap<u32, FlowHash>) {
        let mut found = HashMap::new();
        let mut away = vec![0; index.buckets()];
        for (at, bucket) in index.buckets.iter().enumerate() {
            for slot in (0..SLOTS).filter(|slot| bucket.tag(*slot) != 0) {
                let hash = entries[&bucket.records[slot]];
                assert_eq!(bucket.tag(slot), tag_of(hash));
                assert!(found.insert(bucket.records[slot], at).is_none());
                let home = index.primary(hash);
                let secondary = bucket.secondary & 1 << slot != 0;
                assert_eq!(secondary, at != home as usize);
                if secondary {
                    assert_eq!(index.alternate(home, tag_of(hash)) as usize, at);
                    away[home as usize] += 1;
                }
            }
            let free = (0..SLOTS).filter(|slot| bucket.tag(*slot) == 0);
            assert!(free.fold(0, |all, slot| all | bucket.secondary & 1 << slot) == 0);
        }
        assert_eq!(found.len(), entries.len());
        for (bucket, away) in index.buckets.iter().zip(away) {
            assert_eq!(bucket.overflow, away);
        }
    }

    fn hash(i: u32) -> FlowHash {
        let product = (u128::from(i) + 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_d6e8_feb8;
        FlowHash((product >> 40) as u64 ^ product as u64)
    }

    #[test]
    fn the_other_bucket_of_the_other_bucket_is_the_first() {
        for entries in [1, 60, 1000, 77_777] {
            let index = Index::new(entries, HugePages::Transparent).unwrap();
            for tag in (1..=u16::MAX).step_by(97) {
                for bucket in (0..index.buckets() as u32).step_by(7) {
                    let other = index.alternate(bucket, tag);
                    assert!((other as usize) < index.buckets());
                    assert_eq!(index.alternate(other, tag), bucket);
                }
            }
        }
    }

    #[test]
    fn both_comparisons_agree() {
        let mut bucket = Bucket::default();
        for (slot, tag) in [7, 0xffff, 7, 0, 1, 0x8000, 7, 0x7fff]
            .into_iter()
            .enumerate()
        {
            if tag != 0 {
                bucket.put(slot, tag, slot as u32, false);
            }
        }
        for tag in 0..=u16::MAX {
            assert_eq!(bucket.matches(tag), bucket.matches_portable(tag), "{tag}");
        }
        assert_eq!(bucket.matches(7), 0b0100_0101);
    }

    /// At the promised load every entry finds a place, and fuller tables still take most.
    #[test]
    fn three_quarters_always_fit() {
        for entries in [6, 48, 49, 100, 1000, 50_000u32] {
            let mut index = Index::new(u64::from(entries), HugePages::Transparent).unwrap();
            let mut all = HashMap::new();
            for i in 0..entries {
                index.insert(hash(i), i + 2).unwrap();
                all.insert(i + 2, hash(i));
            }
            audit(&index, &all);
            let slots = index.buckets() * SLOTS;
            let mut i = entries;
            while index.insert(hash(i), i + 2).is_ok() {
                all.insert(i + 2, hash(i));
                i += 1;
            }
            audit(&index, &all);
            assert!(all.len() * 10 > slots * 9, "{} of {slots}", all.len());
            for (&record, &hash) in &all {
                assert_eq!(index.find(hash, |found| found == record), Some(record));
                assert!(index.remove(hash, record) && !index.remove(hash, record));
            }
            audit(&index, &HashMap::new());
        }
    }

    proptest! {
        /// Few hashes, so that buckets overflow, entries move, and some find no place.
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((0u32..90, any::<bool>()), 0..400)) {
            let mut index = Index::new(1, HugePages::Transparent).unwrap();
            let mut all = HashMap::new();
            for (i, insert) in steps {
                let (hash, record) = (hash(i), i + 2);
                let there = all.contains_key(&record);
                if insert && !there {
                    match index.insert(hash, record) {
                        Ok(()) => drop(all.insert(record, hash)),
                        Err(Crowded) => prop_assert!(all.len() * 4 > index.buckets() * SLOTS * 3),
                    }
                } else if !insert {
                    prop_assert_eq!(index.remove(hash, record), there);
                    all.remove(&record);
                }
            }
            audit(&index, &all);
            for i in 0..100 {
                let expected = all.contains_key(&(i + 2)).then_some(i + 2);
                prop_assert_eq!(index.find(hash(i), |found| found == i + 2), expected);
                match index.candidate(hash(i)) {
                    Candidate::Absent => prop_assert_eq!(expected, None),
                    Candidate::Further => {
                        let further = index.further(hash(i));
                        prop_assert!(expected.is_none() || further.is_some());
                    }
                    Candidate::Record(_) => {}
                }
            }
        }
    }
}
