//! Classes of many keys at once, so that their look-ups wait together.

use tables::acl::Key;
use tables::address_sets::ClassId;

use super::{Policy, SetAddress, Sets};

/// Keys whose addresses are looked up together.
const GROUP: usize = 64;

impl Policy {
    /// As [`classify`](Self::classify), of all these keys.
    pub(super) fn classify_all<A: SetAddress>(&self, keys: &mut [Key<A>]) {
        if let Some(sets) = &self.sets {
            sets.classify_all(keys);
        }
    }
}

impl Sets {
    fn classify_all<A: SetAddress>(&self, keys: &mut [Key<A>]) {
        if !self.addresses.is_empty() {
            for keys in keys.chunks_mut(GROUP) {
                self.classify_group(keys);
            }
        }
        if !self.ip_ports.is_empty() {
            for key in keys {
                *key = self.classify_ports(*key);
            }
        }
    }

    fn classify_group<A: SetAddress>(&self, keys: &mut [Key<A>]) {
        let mut addresses = [A::default(); 2 * GROUP];
        let mut classes = [ClassId::NONE; 2 * GROUP];
        for (pair, key) in addresses.chunks_exact_mut(2).zip(&*keys) {
            pair.copy_from_slice(&[key.source(), key.destination()]);
        }
        let count = 2 * keys.len().min(GROUP);
        A::classes(&self.addresses, &addresses[..count], &mut classes[..count]);
        for (key, pair) in keys.iter_mut().zip(classes.chunks_exact(2)) {
            *key = key.address_classes(pair[0].0, pair[1].0);
        }
    }
}
