//! Combinations of sets and their numbers.

use std::{collections::HashMap, sync::Arc};

use super::{ClassId, SetId, SetsError};

/// Classes per chunk of the table that views share.
const CHUNK: usize = 256;
/// So many numbers may be out of use before a compaction is worth its while.
const DEAD_TOLERATED: usize = 256;

type Chunk = Vec<Arc<[SetId]>>;

/// What the classes of a view stand for.
#[derive(Debug)]
pub(super) struct ClassTable {
    chunks: Box<[Arc<Chunk>]>,
    count: u32,
    epoch: u64,
}

/// The writer's classes: finds the number of a combination, or gives it one.
#[derive(Debug)]
pub(super) struct Interner {
    numbers: HashMap<Arc<[SetId]>, u32>,
    chunks: Vec<Arc<Chunk>>,
    /// By class: how many users it has.
    users: Vec<u32>,
    /// Classes without users, except class 0.
    dead: usize,
    epoch: u64,
    limit: u32,
}

impl ClassTable {
    /// The sets of a class, ascending; none for a number that was not given out.
    #[inline]
    pub(super) fn sets(&self, class: ClassId) -> &[SetId] {
        sets(&self.chunks, class.0)
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Interner {
    /// Class 0, the empty combination, and room for `limit` classes in all.
    pub(super) fn new(limit: u32) -> Self {
        let mut interner = Self {
            numbers: HashMap::new(),
            chunks: Vec::new(),
            users: Vec::new(),
            dead: 0,
            epoch: 0,
            limit: limit.max(1),
        };
        interner.append(Arc::default());
        interner
    }

    pub(super) fn len(&self) -> usize {
        self.users.len()
    }

    /// The sets of a class, ascending.
    pub(super) fn sets(&self, class: u32) -> &[SetId] {
        sets(&self.chunks, class)
    }

    /// The number of the combination `sets`, which are ascending and different.
    pub(super) fn intern(&mut self, sets: &[SetId]) -> Result<u32, SetsError> {
        debug_assert!(sets.is_sorted_by(|a, b| a < b));
        if let Some(&class) = self.numbers.get(sets) {
            return Ok(class);
        }
        if self.len() >= self.limit as usize {
            return Err(SetsError::Classes { limit: self.limit });
        }
        self.dead += 1;
        Ok(self.append(sets.into()))
    }

    /// Notes that one user went from class `old` to class `new`; class 0 stands for none as well.
    pub(super) fn exchange(&mut self, old: u32, new: u32) {
        if new != 0 {
            let users = &mut self.users[new as usize];
            self.dead -= usize::from(*users == 0);
            *users += 1;
        }
        if old != 0 {
            let users = &mut self.users[old as usize];
            *users -= 1;
            self.dead += usize::from(*users == 0);
        }
    }

    /// Forgets the classes from number `len` on, which have no users.
    pub(super) fn truncate(&mut self, len: usize) {
        while self.users.len() > len {
            debug_assert_eq!(self.users.last(), Some(&0));
            self.users.pop();
            self.dead -= 1;
            if let Some(chunk) = self.chunks.last_mut() {
                let chunk = Arc::make_mut(chunk);
                if let Some(sets) = chunk.pop() {
                    self.numbers.remove(&sets);
                }
                if chunk.is_empty() {
                    self.chunks.pop();
                }
            }
        }
    }

    /// Whether some numbers are out of use.
    pub(super) fn has_dead(&self) -> bool {
        self.dead != 0
    }

    /// Whether so many numbers are out of use that a compaction pays.
    pub(super) fn is_sparse(&self) -> bool {
        self.dead > DEAD_TOLERATED.max(self.len() - self.dead)
    }

    /// Numbers the classes that have users anew, in the same order, and gives the new number of each old one.
    pub(super) fn compact(&mut self) -> Vec<u32> {
        let mut compacted = Self::new(self.limit);
        compacted.epoch = self.epoch + 1;
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        let renumbered = all.zip(&self.users).map(|(sets, &users)| {
            if users == 0 {
                return 0;
            }
            let number = compacted.append(Arc::clone(sets));
            compacted.users[number as usize] = users;
            number
        });
        let renumbered = renumbered.collect();
        *self = compacted;
        renumbered
    }

    /// The classes as they are now. `O(classes / 256)`.
    pub(super) fn view(&self) -> ClassTable {
        ClassTable {
            chunks: self.chunks.clone().into_boxed_slice(),
            count: self.len() as u32,
            epoch: self.epoch,
        }
    }

    fn append(&mut self, sets: Arc<[SetId]>) -> u32 {
        let number = self.users.len() as u32;
        if number as usize / CHUNK == self.chunks.len() {
            self.chunks.push(Arc::default());
        }
        if let Some(chunk) = self.chunks.last_mut() {
            Arc::make_mut(chunk).push(Arc::clone(&sets));
        }
        self.numbers.insert(sets, number);
        self.users.push(0);
        number
    }
}

fn sets(chunks: &[Arc<Chunk>], class: u32) -> &[SetId] {
    let chunk = chunks.get(class as usize / CHUNK);
    chunk
        .and_then(|chunk| chunk.get(class as usize % CHUNK))
        .map_or(&[], |sets| sets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_meaning_until_a_compaction() {
        let mut interner = Interner::new(600);
        for i in 1..600 {
            assert_eq!(interner.intern(&[SetId(i), SetId(i + 1)]), Ok(i));
            interner.exchange(0, i);
        }
        let full = SetsError::Classes { limit: 600 };
        assert_eq!(interner.intern(&[SetId(7)]), Err(full));
        assert!(!interner.has_dead());
        let view = interner.view();
        for i in (1..600).filter(|i| i % 3 != 0) {
            interner.exchange(i, 0);
        }
        assert!(interner.is_sparse());
        let renumbered = interner.compact();
        assert_eq!((renumbered[0], renumbered[1], renumbered[3]), (0, 0, 1));
        assert_eq!((interner.len(), interner.has_dead()), (200, false));
        let after = interner.view();
        assert!(after.epoch() > view.epoch());
        for i in (3..600).step_by(3) {
            assert_eq!(after.sets(ClassId(i / 3)), view.sets(ClassId(i)));
            assert_eq!(interner.intern(&[SetId(i), SetId(i + 1)]), Ok(i / 3));
        }
        assert_eq!(view.sets(ClassId(1)), [SetId(1), SetId(2)]);
        assert!(view.sets(ClassId(600)).is_empty() && view.sets(ClassId(u32::MAX)).is_empty());
    }

    #[test]
    fn truncation_forgets_what_was_numbered_since() {
        let mut interner = Interner::new(1 << 20);
        let one = interner.intern(&[SetId(1)]).unwrap();
        interner.exchange(0, one);
        let mark = interner.len();
        for i in 2..1000 {
            interner.intern(&[SetId(i)]).unwrap();
        }
        interner.truncate(mark);
        assert_eq!((interner.len(), interner.has_dead()), (2, false));
        assert_eq!(interner.intern(&[SetId(1)]), Ok(1));
        assert_eq!(interner.intern(&[SetId(999)]), Ok(2));
        assert_eq!(interner.sets(2), [SetId(999)]);
    }
}
