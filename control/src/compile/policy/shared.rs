//! Values that several users share, each made once and gone with the last user.

use std::collections::HashMap;
use std::hash::Hash;

/// Values by key, each with a number that it keeps as long as somebody uses it.
#[derive(Debug)]
pub(super) struct Shared<K, V> {
    numbers: HashMap<K, u32>,
    slots: Vec<Option<Slot<K, V>>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    users: usize,
}

impl<K, V> Default for Shared<K, V> {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<K: Clone + Eq + Hash, V> Shared<K, V> {
    /// The number of a key's value for one more user; `make` makes the value for the first.
    pub(super) fn acquire(&mut self, key: &K, make: impl FnOnce() -> V) -> u32 {
        if let Some(number) = self.acquire_known(key) {
            return number;
        }
        let slot = Slot {
            key: key.clone(),
            value: make(),
            users: 1,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize] = Some(slot);
                number
            }
            None => {
                self.slots.push(Some(slot));
                // As many values do not fit into memory.
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.numbers.insert(key.clone(), number);
        number
    }

    /// The number of a key's value for one more user, if there is a value.
    pub(super) fn acquire_known(&mut self, key: &K) -> Option<u32> {
        let number = *self.numbers.get(key)?;
        if let Some(slot) = &mut self.slots[number as usize] {
            slot.users += 1;
        }
        Some(number)
    }

    /// One user less. Gives the value back when it was the last.
    pub(super) fn release(&mut self, number: u32) -> Option<V> {
        let entry = self.slots.get_mut(number as usize)?;
        let slot = entry.as_mut()?;
        slot.users -= 1;
        if slot.users > 0 {
            return None;
        }
        let slot = entry.take()?;
        self.numbers.remove(&slot.key);
        self.free.push(number);
        Some(slot.value)
    }

    pub(super) fn get(&self, number: u32) -> Option<&V> {
        let slot = self.slots.get(number as usize)?.as_ref()?;
        Some(&slot.value)
    }

    pub(super) fn get_mut(&mut self, number: u32) -> Option<(&K, &mut V)> {
        let slot = self.slots.get_mut(number as usize)?.as_mut()?;
        Some((&slot.key, &mut slot.value))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &V)> {
        let numbered = (0..).zip(&self.slots);
        numbered.filter_map(|(number, slot)| Some((number, &slot.as_ref()?.value)))
    }

    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_long_as_they_are_used() {
        let mut shared = Shared::<&str, i32>::default();
        let one = shared.acquire(&"one", || 1);
        assert_eq!(shared.acquire(&"one", || unreachable!("is there")), one);
        let two = shared.acquire(&"two", || 2);
        assert_ne!(one, two);
        assert_eq!(shared.release(one), None);
        assert_eq!(shared.get(one), Some(&1));
        assert_eq!(shared.release(one), Some(1));
        assert_eq!((shared.get(one), shared.len()), (None, 1));
        assert_eq!(shared.release(one), None, "nobody used it any more");
        assert_eq!(shared.acquire(&"three", || 3), one);
        assert_eq!(shared.acquire_known(&"one"), None);
        assert_eq!(shared.acquire_known(&"two"), Some(two));
        assert_eq!(shared.release(two), None);
        let all: Vec<_> = shared.iter().collect();
        assert_eq!(all, [(one, &3), (two, &2)]);
        if let Some((key, value)) = shared.get_mut(two) {
            assert_eq!(*key, "two");
            *value = 4;
        }
        assert_eq!(shared.get(two), Some(&4));
    }
}
