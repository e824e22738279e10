//! What readers of address sets hold.

use std::sync::{
    Arc,
    atomic::{
        AtomicU32,
        Ordering::{Acquire, Relaxed},
        fence,
    },
};

use super::{
    ClassId, SetId,
    atoms::{AtomsView, UNKNOWN},
    classes::ClassTable,
};
use crate::{array::Array, lpm4::Lpm4, lpm6::Lpm6};

/// Addresses per round of a batch.
const BATCH: usize = 256;
/// A parent's prefix is shorter than its child's, so no chain of parents has more links.
const LONGEST_CHAIN: u32 = 128;

/// An immutable view of address sets: the reader's half. Cheap to clone, used from any thread; takes no lock and
/// writes no shared memory.
///
/// A lookup costs a longest-prefix match and one line more. Prefixes and class numbers are recycled when no older
/// view lives, so views should be dropped when they are replaced (see [the module](super)).
#[derive(Clone, Debug)]
pub struct AddressSets {
    pub(super) view: Arc<View>,
}

#[derive(Debug)]
pub(super) struct View {
    pub(super) ip4: Lpm4,
    pub(super) ip6: Lpm6,
    pub(super) atoms: AtomsView,
    /// By atom: the atom of the longest prefix around it when it was inserted.
    pub(super) parents: Arc<Array<AtomicU32>>,
    pub(super) classes: ClassTable,
    /// Whether no set has a member.
    pub(super) is_empty: bool,
    /// Shows the writer that this view lives.
    pub(super) _lease: Arc<Lease>,
}

/// What a view holds as long as it lives: its number, in the order in which views are made.
#[derive(Debug)]
pub(super) struct Lease(pub(super) u64);

impl AddressSets {
    /// The class of an IPv4 address (host order).
    #[inline(always)]
    pub fn class4(&self, addr: u32) -> ClassId {
        self.view.class(self.view.ip4.lookup(addr))
    }

    /// The class of an IPv6 address (host order).
    #[inline(always)]
    pub fn class6(&self, addr: u128) -> ClassId {
        self.view.class(self.view.ip6.lookup(addr))
    }

    /// The class of every address; prefetches by itself. The shorter slice decides how many.
    #[inline]
    pub fn classes4(&self, addrs: &[u32], out: &mut [ClassId]) {
        self.batch(addrs, out, |addrs, atoms| {
            self.view.ip4.lookup_batch(addrs, atoms);
        });
    }

    /// The class of every address; prefetches by itself. The shorter slice decides how many.
    #[inline]
    pub fn classes6(&self, addrs: &[u128], out: &mut [ClassId]) {
        self.batch(addrs, out, |addrs, atoms| {
            self.view.ip6.lookup_batch(addrs, atoms);
        });
    }

    /// Asks for the line that [`class4`](Self::class4) of `addr` reads first.
    #[inline(always)]
    pub fn prefetch4(&self, addr: u32) {
        self.view.ip4.prefetch(addr);
    }

    /// Asks for the line that [`class6`](Self::class6) of `addr` reads first.
    #[inline(always)]
    pub fn prefetch6(&self, addr: u128) {
        self.view.ip6.prefetch(addr);
    }

    /// Whether no set has a member, so that every address has the class [`ClassId::NONE`].
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.view.is_empty
    }

    /// The sets that contain the addresses of `class`, ascending. None for a number that this view does not know.
    #[inline]
    pub fn sets(&self, class: ClassId) -> &[SetId] {
        self.view.classes.sets(class)
    }

    /// Whether the addresses of `class` are in `set`. `O(log sets of the class)`.
    #[inline]
    pub fn contains(&self, class: ClassId, set: SetId) -> bool {
        self.sets(class).binary_search(&set).is_ok()
    }

    /// Every class number of this view is below this one.
    pub fn class_count(&self) -> u32 {
        self.view.classes.count()
    }

    /// Class numbers have the same meaning in all views of one epoch.
    pub fn class_epoch(&self) -> u64 {
        self.view.classes.epoch()
    }

    #[inline(always)]
    fn batch<A>(&self, addrs: &[A], out: &mut [ClassId], lookup: impl Fn(&[A], &mut [u32])) {
        let view = &*self.view;
        let mut atoms = [0; BATCH];
        for (addrs, out) in addrs.chunks(BATCH).zip(out.chunks_mut(BATCH)) {
            let n = addrs.len().min(out.len());
            let atoms = &mut atoms[..n];
            lookup(&addrs[..n], atoms);
            if view.atoms.is_large() {
                for &atom in &*atoms {
                    view.atoms.prefetch(atom);
                }
            }
            for (out, &atom) in out.iter_mut().zip(&*atoms) {
                *out = view.class(atom);
            }
        }
    }
}

impl View {
    /// The class of an atom that the longest-prefix match gave.
    #[inline(always)]
    fn class(&self, atom: u32) -> ClassId {
        let class = self.atoms.class(atom);
        if class == UNKNOWN {
            self.inherited(atom)
        } else {
            ClassId(class)
        }
    }

    /// The class of an atom that is younger than this view: that of the prefix around it.
    #[cold]
    #[inline(never)]
    fn inherited(&self, mut atom: u32) -> ClassId {
        // The writer stored the parents, then, with Release, the atom. Not every load of the match is an Acquire.
        fence(Acquire);
        for _ in 0..LONGEST_CHAIN {
            let Some(parent) = self.parents.get(atom as usize) else {
                break;
            };
            atom = parent.load(Relaxed);
            let class = self.atoms.class(atom);
            if class != UNKNOWN {
                return ClassId(class);
            }
        }
        debug_assert!(false, "atom {atom} has no known ancestor");
        ClassId::NONE
    }
}
