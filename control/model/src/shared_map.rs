//! A sorted map whose copies share what they have in common.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Entries of the largest chunk.
const MOST: usize = 64;

/// Entries below which a chunk is put together with its neighbour, where both fit into one.
const FEW: usize = MOST / 4;

type Chunk<K, V> = Vec<(K, V)>;

/// A sorted map of chunks that copies share until one of them changes. To copy it costs one count, a change of a copy that is shared costs the
/// list of chunks (8 bytes for about every 50 entries) and one chunk, and to compare two copies costs the list and what is different:
/// so a state of many thousand objects is copied, changed and compared in some microseconds.
///
/// What else it does is what [`BTreeMap`](std::collections::BTreeMap) does.
///
/// ```
/// use model::SharedMap;
///
/// let before: SharedMap<u32, &str> = [(1, "one"), (3, "three")].into_iter().collect();
/// let mut after = before.clone();
/// after.insert(2, "two");
/// after.remove(&1);
/// assert_eq!(before.get(&1), Some(&"one"));
/// let mut changes = Vec::new();
/// after.each_difference(&before, |number, old, new| changes.push((*number, old.copied(), new.copied())));
/// assert_eq!(changes, [(1, Some("one"), None), (2, None, Some("two"))]);
/// ```
pub struct SharedMap<K, V> {
    /// None is empty; all keys of one are less than those of the next.
    chunks: Arc<Vec<Arc<Chunk<K, V>>>>,
    len: usize,
}

impl<K, V> SharedMap<K, V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries in the order of their keys.
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter {
            chunks: self.chunks.iter(),
            front: [].iter(),
            left: self.len,
        }
    }

    /// Keys in their order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

impl<K: Ord, V> SharedMap<K, V> {
    /// The chunk that has the key or would have it; `None` where there is no chunk.
    fn chunk_of<Q: Ord + ?Sized>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
    {
        let begins_behind = |chunk: &Arc<Chunk<K, V>>| {
            chunk
                .first()
                .is_some_and(|(first, _)| first.borrow() <= key)
        };
        let behind = self.chunks.partition_point(begins_behind);
        (!self.chunks.is_empty()).then(|| behind.saturating_sub(1))
    }

    /// Chunk and position of a key.
    fn find<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(usize, usize)>
    where
        K: Borrow<Q>,
    {
        let at = self.chunk_of(key)?;
        Some((at, position(&self.chunks[at], key).ok()?))
    }

    /// The value of a key.
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key)?;
        Some(&self.chunks[chunk][at].1)
    }

    /// Whether there is a key.
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.find(key).is_some()
    }

    /// Calls back, in the order of keys, for each key whose value is not what it was in `previous`: with what was, and what is.
    pub fn each_difference<'a>(
        &'a self,
        previous: &'a Self,
        mut each: impl FnMut(&'a K, Option<&'a V>, Option<&'a V>),
    ) where
        V: PartialEq,
    {
        self.compare(previous, &mut |key, old, new| {
            each(key, old, new);
            true
        });
    }

    /// As [`Self::each_difference`], until the callback says that it wants no more. Whether it never did.
    fn compare<'a>(
        &'a self,
        previous: &'a Self,
        each: &mut dyn FnMut(&'a K, Option<&'a V>, Option<&'a V>) -> bool,
    ) -> bool
    where
        V: PartialEq,
    {
        if Arc::ptr_eq(&self.chunks, &previous.chunks) {
            return true;
        }
        let (mut old, mut new) = (Cursor::new(previous), Cursor::new(self));
        loop {
            // Both begin a chunk: if it is the same one, nothing in it is different.
            while old.skip_shared(&mut new) {}
            let go_on = match (old.entry(), new.entry()) {
                (None, None) => return true,
                (Some((key, value)), None) => {
                    old.step();
                    each(key, Some(value), None)
                }
                (None, Some((key, value))) => {
                    new.step();
                    each(key, None, Some(value))
                }
                (Some((before, was)), Some((after, is))) => match before.cmp(after) {
                    Ordering::Less => {
                        old.step();
                        each(before, Some(was), None)
                    }
                    Ordering::Greater => {
                        new.step();
                        each(after, None, Some(is))
                    }
                    Ordering::Equal => {
                        old.step();
                        new.step();
                        was == is || each(after, Some(was), Some(is))
                    }
                },
            };
            if !go_on {
                return false;
            }
        }
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Sets the value of a key. Gives what it was.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let chunks = Arc::make_mut(&mut self.chunks);
        let behind =
            chunks.partition_point(|chunk| chunk.first().is_some_and(|(first, _)| *first <= key));
        let Some(chunk) = chunks.get_mut(behind.saturating_sub(1)) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len += 1;
            return None;
        };
        let at = behind.saturating_sub(1);
        match position(chunk, &key) {
            Ok(place) => {
                let entry = &mut Arc::make_mut(chunk)[place];
                return Some(std::mem::replace(&mut entry.1, value));
            }
            // Keys that come in their order fill chunks; others halve them.
            Err(MOST) if chunk.len() == MOST => {
                chunks.insert(at + 1, Arc::new(vec![(key, value)]));
            }
            Err(place) => {
                let own = Arc::make_mut(chunk);
                own.insert(place, (key, value));
                if own.len() > MOST {
                    let half = own.split_off(MOST / 2);
                    chunks.insert(at + 1, Arc::new(half));
                }
            }
        }
        self.len += 1;
        None
    }

    /// Takes a key out. Gives what its value was.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (at, place) = self.find(key)?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let own = Arc::make_mut(&mut chunks[at]);
        let (_, value) = own.remove(place);
        self.len -= 1;
        if own.is_empty() {
            chunks.remove(at);
        } else if own.len() < FEW {
            let next = [at.checked_sub(1), Some(at)].into_iter().flatten();
            let fits = |first: &usize| {
                let pair = chunks.get(*first..first + 2);
                pair.is_some_and(|pair| pair[0].len() + pair[1].len() <= MOST)
            };
            if let Some(first) = next.into_iter().find(fits) {
                let second = chunks.remove(first + 1);
                Arc::make_mut(&mut chunks[first]).extend(second.iter().cloned());
            }
        }
        Some(value)
    }

    /// The value of a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        let (chunk, at) = self.find(key)?;
        let chunk = &mut Arc::make_mut(&mut self.chunks)[chunk];
        Some(&mut Arc::make_mut(chunk)[at].1)
    }

    /// Values in the order of their keys, to be changed. Nothing is shared any more then.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let chunks = Arc::make_mut(&mut self.chunks).iter_mut();
        chunks.flat_map(|chunk| Arc::make_mut(chunk).iter_mut().map(|(_, value)| value))
    }
}

/// Where a key is in a chunk, or would be.
fn position<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized>(
    chunk: &Chunk<K, V>,
    key: &Q,
) -> Result<usize, usize> {
    chunk.binary_search_by(|(other, _)| other.borrow().cmp(key))
}

/// A place in a map; behind each entry it is at the next one.
struct Cursor<'a, K, V> {
    chunks: &'a [Arc<Chunk<K, V>>],
    at: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn new(map: &'a SharedMap<K, V>) -> Self {
        Self {
            chunks: &map.chunks,
            at: 0,
        }
    }

    fn entry(&self) -> Option<(&'a K, &'a V)> {
        let (key, value) = self.chunks.first()?.get(self.at)?;
        Some((key, value))
    }

    fn step(&mut self) {
        self.at += 1;
        if let Some((first, rest)) = self.chunks.split_first()
            && self.at >= first.len()
        {
            self.chunks = rest;
            self.at = 0;
        }
    }

    fn skip_shared(&mut self, other: &mut Self) -> bool {
        let (Some((own, rest)), Some((others, others_rest))) =
            (self.chunks.split_first(), other.chunks.split_first())
        else {
            return false;
        };
        let shared = self.at == 0 && other.at == 0 && Arc::ptr_eq(own, others);
        if shared {
            self.chunks = rest;
            other.chunks = others_rest;
        }
        shared
    }
}

/// The entries of a [`SharedMap`].
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    chunks: std::slice::Iter<'a, Arc<Chunk<K, V>>>,
    front: std::slice::Iter<'a, (K, V)>,
    left: usize,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((key, value)) = self.front.next() {
                self.left -= 1;
                return Some((key, value));
            }
            self.front = self.chunks.next()?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<K, V> ExactSizeIterator for Iter<'_, K, V> {}

impl<'a, K, V> IntoIterator for &'a SharedMap<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            chunks: Arc::clone(&self.chunks),
            len: self.len,
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            chunks: Arc::default(),
            len: 0,
        }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.compare(other, &mut |_, _, _| false)
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Twin = BTreeMap<u16, u8>;

    /// `None` takes the key out.
    fn edits() -> impl Strategy<Value = Vec<(u16, Option<u8>)>> {
        let key = prop_oneof![0u16..400, 0u16..20];
        proptest::collection::vec((key, proptest::option::weighted(0.6, 0u8..4)), 0..600)
    }

    fn apply(map: &mut SharedMap<u16, u8>, twin: &mut Twin, edits: &[(u16, Option<u8>)]) {
        for (key, value) in edits {
            match value {
                Some(value) => assert_eq!(map.insert(*key, *value), twin.insert(*key, *value)),
                None => assert_eq!(map.remove(key), twin.remove(key)),
            }
        }
    }

    fn check(map: &SharedMap<u16, u8>, twin: &Twin) {
        assert!(map.iter().eq(twin.iter()) && map.iter().len() == twin.len());
        assert_eq!((map.len(), map.is_empty()), (twin.len(), twin.is_empty()));
        assert!(
            map.chunks
                .iter()
                .all(|chunk| !chunk.is_empty() && chunk.len() <= MOST)
        );
        for key in 0..410 {
            assert_eq!(map.get(&key), twin.get(&key));
            assert_eq!(map.contains_key(&key), twin.contains_key(&key));
        }
    }

    proptest! {
        /// Everything is as in a map of the standard library; copies keep what they had, and differences are those between the two.
        #[test]
        fn equals_a_plain_map(first in edits(), second in edits(), at in 0u16..400) {
            let (mut map, mut twin) = (SharedMap::default(), Twin::new());
            apply(&mut map, &mut twin, &first);
            check(&map, &twin);
            let (before, before_twin) = (map.clone(), twin.clone());
            apply(&mut map, &mut twin, &second);
            check(&map, &twin);
            check(&before, &before_twin);
            prop_assert_eq!(map == before, twin == before_twin);

            let mut expected = Vec::new();
            for key in 0..410 {
                let (old, new) = (before_twin.get(&key), twin.get(&key));
                if old != new {
                    expected.push((key, old, new));
                }
            }
            let mut differences = Vec::new();
            map.each_difference(&before, |key, old, new| differences.push((*key, old, new)));
            prop_assert_eq!(differences, expected);

            prop_assert_eq!(map.get_mut(&at).map(|value| *value += 10).is_some(), twin.contains_key(&at));
            twin.entry(at).and_modify(|value| *value += 10);
            check(&map, &twin);
            map.values_mut().for_each(|value| *value /= 2);
            twin.values_mut().for_each(|value| *value /= 2);
            check(&map, &twin);
            check(&before, &before_twin);
            prop_assert_eq!(&twin.into_iter().collect::<SharedMap<_, _>>(), &map);
        }
    }

    #[test]
    fn copies_share_what_did_not_change() {
        let mut map: SharedMap<u32, u32> = (0..10_000).map(|number| (number, 0)).collect();
        assert_eq!(
            map.chunks.len(),
            10_000_usize.div_ceil(MOST),
            "filled in order"
        );
        let before = map.clone();
        assert!(Arc::ptr_eq(&map.chunks, &before.chunks));
        map.insert(5000, 1);
        map.remove(&7000);
        let shared = map
            .chunks
            .iter()
            .filter(|chunk| before.chunks.iter().any(|other| Arc::ptr_eq(chunk, other)));
        assert_eq!(shared.count(), map.chunks.len() - 2);
        while map.len() > 100 {
            let key = *map.keys().next().expect("is there");
            map.remove(&key);
        }
        assert!(map.chunks.len() <= 4);
    }
}
