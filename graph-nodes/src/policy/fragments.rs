//! Fragments: what the first of a packet's fragments says about the transport holds for the others.

use std::hash::{BuildHasher, RandomState};

use tables::{FlowKey, Tick};

/// Sets of entries that a name can be in.
const SETS: usize = 128;
/// Entries of a set.
const WAYS: usize = 4;
/// Ticks that a first fragment is remembered: 15 seconds, the shortest time that RFC 791 section 3.2 has fragments wait.
const LIFETIME: u32 = (15_000_000_000 / Tick::NANOS) as u32;

/// What first fragments say, by packet: 512 at the most, the oldest of a set make room. A name is the key of the packet's
/// addresses, with the identification in the place of the ports.
pub(super) struct Fragments<K> {
    entries: Box<[Option<Entry<K>>]>,
    hasher: RandomState,
}

#[derive(Clone, Copy)]
struct Entry<K> {
    name: K,
    transport: Transport,
    seen: Tick,
}

/// What a first fragment says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Transport {
    /// As in the flow's key.
    pub(super) ports: (u16, u16),
    /// ICMP type and code, where it is that.
    pub(super) icmp: Option<(u8, u8)>,
}

impl<K: FlowKey + std::hash::Hash> Default for Fragments<K> {
    fn default() -> Self {
        Self {
            entries: vec![None; SETS * WAYS].into(),
            hasher: RandomState::new(),
        }
    }
}

impl<K: FlowKey + std::hash::Hash> Fragments<K> {
    /// Remembers what a packet's first fragment says.
    pub(super) fn remember(&mut self, name: K, transport: Transport, now: Tick) {
        let set = self.set(&name);
        let set = &mut self.entries[set..set + WAYS];
        let same = |entry: &Option<Entry<K>>| entry.is_some_and(|entry| entry.name == name);
        let oldest =
            |entry: &Option<Entry<K>>| entry.map_or(u32::MAX, |entry| now.since(entry.seen));
        let place = set.iter().position(same);
        let place = place.or_else(|| (0..WAYS).max_by_key(|at| oldest(&set[*at])));
        set[place.unwrap_or(0)] = Some(Entry {
            name,
            transport,
            seen: now,
        });
    }

    /// What the first fragment of a packet said, where it came before and not too long ago.
    pub(super) fn recall(&self, name: &K, now: Tick) -> Option<Transport> {
        let set = self.set(name);
        let entries = self.entries[set..set + WAYS].iter().flatten();
        let mut same = entries.filter(|entry| entry.name == *name);
        let entry = same.next()?;
        (now.since(entry.seen) <= LIFETIME).then_some(entry.transport)
    }

    fn set(&self, name: &K) -> usize {
        self.hasher.hash_one(name) as usize % SETS * WAYS
    }
}

#[cfg(test)]
mod tests {
    use tables::FlowKey4;

    use super::*;

    #[test]
    fn first_fragments_are_remembered_for_a_while_and_few_of_them() {
        let mut fragments = Fragments::default();
        let name = |id: u32| FlowKey4::new(1, 2, (id >> 16) as u16, id as u16, 17, 0);
        let says = |port| Transport {
            ports: (port, 53),
            icmp: None,
        };
        let (now, later) = (Tick::from_nanos(0), Tick::from_nanos(14_000_000_000));
        fragments.remember(name(1), says(7), now);
        assert_eq!(fragments.recall(&name(1), later), Some(says(7)));
        assert_eq!(fragments.recall(&name(2), later), None);
        let end = Tick::from_nanos(16_000_000_000);
        assert_eq!(fragments.recall(&name(1), end), None);
        fragments.remember(name(1), says(8), end);
        assert_eq!(fragments.recall(&name(1), end), Some(says(8)));
        for id in 10..100_000 {
            fragments.remember(name(id), says(9), end);
        }
        let known = (10..100_000).filter(|id| fragments.recall(&name(*id), end).is_some());
        assert_eq!(known.count(), SETS * WAYS);
    }
}
