//! Exact-match map: built once, then only read.
//!
//! ```text
//! bucket, one line where a value has up to 4 bytes:
//! │ key 0 │ key 1 │ key 2 │ taken │ sent on │ value 0..2 │
//!   16 B    16 B    16 B     1 B      1 B        12 B
//! ```
//!
//! Cuckoo hashing: an entry lives in one of two buckets that its hash names, in the first of them if there
//! is room. A bucket knows whether an entry had to go from it to its second one, so nearly every lookup,
//! hit or miss, reads one line, and none reads more than two. The hash is keyed: who does not know the
//! secret cannot choose keys that fall together.

use std::{
    error::Error,
    fmt,
    hash::{BuildHasher, RandomState},
};

use crate::{flow::fold_product, prefetch::prefetch};

const SLOTS: usize = 3;
/// How many entries an insertion may move before another secret is tried. At half load more than a
/// dozen is rare.
const MOST_MOVES: usize = 256;

/// An immutable map from 128-bit keys, which the caller packs, to small values.
///
/// Made for the destination of a new flow: VRF, address, protocol and port in one key. A lookup that
/// finds nothing is as cheap as one that does, as most destinations are no service's.
///
/// Memory: about 43 bytes per entry where `V` has up to 4 bytes; 85 up to 25 bytes.
///
/// ```
/// use tables::ExactMap;
///
/// let services = ExactMap::build([(443, 'a'), (80, 'b')])?;
/// assert_eq!(services.get(80), Some('b'));
/// assert_eq!(services.get(81), None);
/// # Ok::<(), tables::ExactMapError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExactMap<V> {
    /// At least two, or none at all.
    buckets: Vec<Bucket<V>>,
    secret: [u64; 4],
    len: usize,
}

/// Why an [`ExactMap`] could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExactMapError {
    /// Two entries have the same key.
    Duplicate {
        /// The key.
        key: u128,
    },
    /// The system refuses the memory.
    OutOfMemory,
}

/// Keys first: the line that [`ExactMap::prefetch`] asks for tells hit from miss.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Bucket<V> {
    keys: [u128; SLOTS],
    /// One bit per slot.
    taken: u8,
    /// Whether an entry whose first bucket this is lives in its second one.
    sent_on: bool,
    values: [V; SLOTS],
}

impl<V: Copy> ExactMap<V> {
    /// A map of the entries, in any order. Takes time linear in their number.
    ///
    /// # Errors
    /// Two entries have the same key, or the system refuses the memory.
    pub fn build(entries: impl IntoIterator<Item = (u128, V)>) -> Result<Self, ExactMapError> {
        let random = || [(); 4].map(|()| RandomState::new().hash_one(0));
        Self::build_with(entries, random)
    }

    /// With secrets from `draw`: one after the other, until one serves.
    fn build_with(
        entries: impl IntoIterator<Item = (u128, V)>,
        mut draw: impl FnMut() -> [u64; 4],
    ) -> Result<Self, ExactMapError> {
        let entries: Vec<_> = entries.into_iter().collect();
        let mut map = Self {
            buckets: Vec::new(),
            secret: draw(),
            len: entries.len(),
        };
        let Some(&(_, filler)) = entries.first() else {
            return Ok(map);
        };
        let void = Bucket {
            keys: [0; SLOTS],
            taken: 0,
            sent_on: false,
            values: [filler; SLOTS],
        };
        // Half of the slots stay free. A secret that does not serve is bad luck: the next one gets a
        // little more room, so that the end is certain.
        let mut count = entries.len().div_ceil(SLOTS).saturating_mul(2).max(2);
        loop {
            map.buckets.clear();
            map.buckets
                .try_reserve_exact(count)
                .map_err(|_| ExactMapError::OutOfMemory)?;
            map.buckets.resize(count, void);
            if map.place_all(&entries)? {
                return Ok(map);
            }
            map.secret = draw();
            count = count.saturating_add(count / 4 + 1);
        }
    }

    /// The value of `key`.
    #[inline]
    pub fn get(&self, key: u128) -> Option<V> {
        let hash = self.hash(key);
        let bucket = self.buckets.get(self.first(hash))?;
        match bucket.find(key) {
            None if bucket.sent_on => self.buckets[self.second(hash)].find(key),
            found => found,
        }
    }

    /// Asks for the line where the search for `key` begins.
    #[inline(always)]
    pub fn prefetch(&self, key: u128) {
        let bucket = self.first(self.hash(key));
        prefetch(self.buckets.as_ptr().wrapping_add(bucket));
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the map occupies.
    pub fn memory_bytes(&self) -> u64 {
        (self.buckets.capacity() * size_of::<Bucket<V>>()) as u64
    }

    #[inline(always)]
    fn hash(&self, key: u128) -> u64 {
        let [a, b, c, d] = self.secret;
        let inner = fold_product((key >> 64) as u64 ^ a, key as u64 ^ b);
        fold_product(inner ^ c, d | 1)
    }

    #[inline(always)]
    fn first(&self, hash: u64) -> usize {
        scale(hash, self.buckets.len())
    }

    /// Another bucket than the first.
    #[inline(always)]
    fn second(&self, hash: u64) -> usize {
        let second = scale(
            hash.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            self.buckets.len() - 1,
        );
        // One number is left out.
        second + usize::from(second >= self.first(hash))
    }

    /// Whether every entry found a place.
    fn place_all(&mut self, entries: &[(u128, V)]) -> Result<bool, ExactMapError> {
        for &(key, value) in entries {
            let hash = self.hash(key);
            let homes = [self.first(hash), self.second(hash)];
            if homes.iter().any(|&at| self.buckets[at].find(key).is_some()) {
                return Err(ExactMapError::Duplicate { key });
            }
            if !self.place(homes, key, value) {
                return Ok(false);
            }
        }
        for at in 0..self.buckets.len() {
            for slot in 0..SLOTS {
                let bucket = &self.buckets[at];
                let first = self.first(self.hash(bucket.keys[slot]));
                if bucket.taken & 1 << slot != 0 && first != at {
                    self.buckets[first].sent_on = true;
                }
            }
        }
        Ok(true)
    }

    /// Puts an entry into one of its buckets, whatever has to move for it. `false`: something found no place.
    fn place(&mut self, homes: [usize; 2], mut key: u128, mut value: V) -> bool {
        if homes.iter().any(|&at| self.buckets[at].add(key, value)) {
            return true;
        }
        let mut at = homes[0];
        for moves in 0..MOST_MOVES {
            // Whoever stands in the slot has to go to its other bucket. Slots take turns, so that two
            // full buckets do not pass the same pair to and fro.
            let (bucket, slot) = (&mut self.buckets[at], moves % SLOTS);
            (key, bucket.keys[slot]) = (bucket.keys[slot], key);
            (value, bucket.values[slot]) = (bucket.values[slot], value);
            let hash = self.hash(key);
            let first = self.first(hash);
            at = if at == first {
                self.second(hash)
            } else {
                first
            };
            if self.buckets[at].add(key, value) {
                return true;
            }
        }
        false
    }
}

impl<V: Copy> Bucket<V> {
    #[inline(always)]
    fn find(&self, key: u128) -> Option<V> {
        let mut hits = 0;
        for (slot, held) in self.keys.iter().enumerate() {
            hits |= u8::from(*held == key) << slot;
        }
        // A free slot holds some number too.
        hits &= self.taken;
        (hits != 0).then(|| self.values[hits.trailing_zeros() as usize])
    }

    /// Whether there was room.
    fn add(&mut self, key: u128, value: V) -> bool {
        let slot = self.taken.trailing_ones() as usize;
        let has_room = slot < SLOTS;
        if has_room {
            self.keys[slot] = key;
            self.values[slot] = value;
            self.taken |= 1 << slot;
        }
        has_room
    }
}

/// A number below `bound` that `hash` names; 0 where `bound` is 0.
#[inline(always)]
fn scale(hash: u64, bound: usize) -> usize {
    ((u128::from(hash) * bound as u128) >> 64) as usize
}

impl fmt::Display for ExactMapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate { key } => write!(f, "two entries have the key {key:#034x}"),
            Self::OutOfMemory => write!(f, "the system refused memory for the map"),
        }
    }
}

impl Error for ExactMapError {}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SECRET: [u64; 4] = [
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    ];

    /// Ports of addresses in a row, as services have them.
    fn service(i: u32) -> u128 {
        0x2001_0db8 << 96 | u128::from(i / 4) << 32 | u128::from(80 + i % 4)
    }

    #[test]
    fn one_line_for_small_values() {
        assert_eq!(size_of::<Bucket<u32>>(), 64);
        assert_eq!(size_of::<Bucket<u64>>(), 128);
    }

    #[test]
    fn empty_and_tiny_maps() {
        let empty = ExactMap::<u32>::build([]).unwrap();
        assert!(empty.is_empty());
        assert_eq!(empty.get(0), None);
        empty.prefetch(0);
        for len in 1..10u128 {
            let map = ExactMap::build((0..len).map(|key| (key, key))).unwrap();
            assert_eq!(map.len() as u128, len);
            for key in 0..len {
                assert_eq!(map.get(key), Some(key));
            }
            assert_eq!(map.get(len), None);
            assert_eq!(map.get(u128::MAX), None);
        }
    }

    #[test]
    fn duplicates_are_refused_by_name() {
        let mut entries: Vec<_> = (0..1000).map(|i| (service(i), i)).collect();
        entries.push((service(77), 1));
        let error = ExactMap::build(entries).unwrap_err();
        assert_eq!(error, ExactMapError::Duplicate { key: service(77) });
        assert_eq!(
            error.to_string(),
            "two entries have the key 0x20010db8000000000000001300000051"
        );
    }

    #[test]
    fn nearly_every_lookup_reads_one_line() {
        let map = ExactMap::build_with((0..100_000).map(|i| (service(i), i)), || SECRET).unwrap();
        assert_eq!(map.secret, SECRET);
        assert!(map.memory_bytes() <= 43 * 100_000);
        for i in 0..100_000 {
            assert_eq!(map.get(service(i)), Some(i));
            assert_eq!(map.get(service(100_000 + i)), None);
        }
        let two_lines = map.buckets.iter().filter(|bucket| bucket.sent_on).count();
        assert!(two_lines * 10 < map.buckets.len(), "{two_lines}");
    }

    /// A secret under which all keys fall together is given up for the next one.
    #[test]
    fn bad_secrets_are_replaced() {
        let mut secrets = [SECRET, [0; 4], [0; 4]].to_vec();
        let entries = (1..=50).map(|i| (i << 64, i));
        let map = ExactMap::build_with(entries, || secrets.pop().unwrap()).unwrap();
        assert_eq!(map.secret, SECRET);
        for i in 1..=50 {
            assert_eq!(map.get(i << 64), Some(i));
            assert_eq!(map.get(i), None);
        }
    }

    proptest! {
        /// Keys are few bits anywhere in the word, so that lookups hit and near misses are many.
        #[test]
        fn agrees_with_a_hash_map(
            entries in prop::collection::vec((0u128..64, 0u32..128, any::<u32>()), 0..400),
            probes in prop::collection::vec((0u128..64, 0u32..128), 0..400),
        ) {
            let mut twin = HashMap::new();
            let mut twice = None;
            let key = |low: u128, shift: u32| low.rotate_left(shift);
            let entries: Vec<_> = entries.iter().map(|&(low, shift, value)| (key(low, shift), value)).collect();
            for &(key, value) in &entries {
                if twin.insert(key, value).is_some() {
                    twice = twice.or(Some(key));
                }
            }
            if let Some(key) = twice {
                prop_assert_eq!(
                    ExactMap::build(entries).map(|map| map.len()),
                    Err(ExactMapError::Duplicate { key })
                );
            }
            let map = ExactMap::build(twin.iter().map(|(key, value)| (*key, *value))).unwrap();
            prop_assert_eq!(map.len(), twin.len());
            for (low, shift) in probes {
                let key = key(low, shift);
                prop_assert_eq!(map.get(key), twin.get(&key).copied());
            }
            for (key, value) in twin {
                prop_assert_eq!(map.get(key), Some(value));
            }
        }
    }
}
