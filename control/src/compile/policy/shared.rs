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
        if let Some(number) = self.numbers.get(key) {
            if let Some(slot) = &mut self.slots[*number as usize] {
                slot.users += 1;
            }
            return *number;
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

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &K, &mut V)> {
        (0..).zip(&mut self.slots).filter_map(|(number, slot)| {
            let slot = slot.as_mut()?;
            Some((number, &slot.key, &mut slot.value))
        })
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
        let all: Vec<_> = shared
            .iter_mut()
            .map(|(_, key, value)| (*key, *value))
            .collect();
        assert_eq!(all, [("three", 3), ("two", 2)]);
    }
}
