//! IPv6 longest-prefix match: a hash of host routes, then a tree of intervals.
#![expect(
    unsafe_code,
    reason = "replaced tables are freed while readers may exist"
)]

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{BuildHasher, RandomState},
    io, mem,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    error::LpmError,
    hosts::{HashKey, HostTable},
    interval_tree::IntervalTree,
    published::{Published, Retired},
    rib::{Rib, check_prefix, check_value},
};

/// Host routes the first hash table takes.
const FIRST_HOSTS: usize = 48;

/// Reader half of an IPv6 route table; cheap to clone, used from any thread.
///
/// A lookup first asks a hash table of /128 routes (one line; skipped while there never was any), then a
/// nine-way search tree over the upper 64 bits (one line per level: one level up to 8 interval
/// borders, six for 400 000). Prefixes longer than /64 cost a binary search more.
/// [`lookup_batch`](Self::lookup_batch) overlaps the cache misses of many addresses: prefer it.
#[derive(Clone, Debug)]
pub struct Lpm6 {
    shared: Arc<Shared>,
    /// Shows the writer that somebody may read what was current when this handle was made.
    _lease: Arc<Lease>,
}

/// Writer half of an IPv6 route table.
///
/// /128 routes take effect at once. All others take effect for readers at [`commit`](Self::commit),
/// which rebuilds the tree (about 0.2 µs per route) and swaps it in: a reader sees the routes of one
/// commit, never a mixture.
///
/// # Freeing what was replaced
/// A commit, or a growing host table, leaves a replaced structure that readers may still be using. Two ways to free it:
/// * [`reclaim`](Self::reclaim), for readers that keep their handle: the caller knows from its own quiescent-state
///   tracking which epoch all of them have left. Not checked, hence `unsafe`.
/// * [`reclaim_unread`](Self::reclaim_unread), safe: frees what was replaced before the oldest living reader
///   handle was made by [`reader`](Self::reader). It happens by itself at every replacement. It suffices
///   where each published snapshot gets a handle of its own and old snapshots are dropped.
#[derive(Debug)]
pub struct Lpm6Writer {
    shared: Arc<Shared>,
    /// Routes of length 0 to 127.
    rib: Rib<u128>,
    /// Routes of length 128.
    hosts: BTreeMap<u128, u32>,
    key: HashKey,
    /// Whether `rib` holds changes that the tree does not.
    dirty: bool,
    epoch: u64,
    /// Oldest first.
    replaced: VecDeque<Replaced>,
    /// Given to readers made now.
    lease: Arc<Lease>,
    /// Leases of older readers, oldest first.
    old_leases: VecDeque<Arc<Lease>>,
}

/// What a reader holds as long as it may read; the number grows with every replacement.
#[derive(Debug)]
struct Lease(u64);

#[derive(Debug)]
struct Shared {
    hosts: Published<HostTable>,
    tree: Published<IntervalTree>,
    /// What the writer still kept when it went away.
    left_behind: Mutex<Vec<Structure>>,
}

#[derive(Debug)]
struct Replaced {
    epoch: u64,
    /// Readers with a lease up to this one may use it.
    lease: u64,
    structure: Structure,
}

#[derive(Debug)]
enum Structure {
    Hosts(Retired<HostTable>),
    Tree(Retired<IntervalTree>),
}

impl Lpm6 {
    /// An empty table whose hash of host routes has a random key.
    ///
    /// # Errors
    /// The system refuses the memory (a few pages).
    pub fn new() -> io::Result<(Lpm6Writer, Self)> {
        Self::with_key([(); 3].map(|()| RandomState::new().hash_one(0)))
    }

    /// An empty table whose hash is keyed with `key`, for reproducible runs. Who can choose /128 routes
    /// must not know the key.
    ///
    /// # Errors
    /// The system refuses the memory (a few pages).
    pub fn with_key(key: [u64; 3]) -> io::Result<(Lpm6Writer, Self)> {
        let key = HashKey(key);
        let shared = Arc::new(Shared {
            hosts: Published::new(HostTable::new(0, key)?),
            tree: Published::new(IntervalTree::build(std::iter::empty())?),
            left_behind: Mutex::new(Vec::new()),
        });
        let writer = Lpm6Writer {
            shared,
            rib: Rib::default(),
            hosts: BTreeMap::new(),
            key,
            dirty: false,
            epoch: 0,
            replaced: VecDeque::new(),
            lease: Arc::new(Lease(0)),
            old_leases: VecDeque::new(),
        };
        let reader = writer.reader();
        Ok((writer, reader))
    }

    /// The value of the longest prefix that contains `addr` (host order); 0 if there is none.
    #[inline(always)]
    pub fn lookup(&self, addr: u128) -> u32 {
        let hosts = self.shared.hosts.read();
        if !hosts.is_void() {
            let value = hosts.lookup(addr, hosts.home(addr));
            if value != 0 {
                return value;
            }
        }
        self.shared.tree.read().lookup(addr)
    }

    /// Asks for the line of the host-route hash that [`lookup`](Self::lookup) of `addr` reads.
    #[inline(always)]
    pub fn prefetch(&self, addr: u128) {
        let hosts = self.shared.hosts.read();
        if !hosts.is_void() {
            hosts.prefetch(hosts.home(addr));
        }
    }

    /// As [`lookup_batch`](Self::lookup_batch), for addresses that are worked out on the way and put into `addrs`. The shortest of
    /// the three decides how many.
    #[inline(always)]
    pub fn lookup_batch_of(
        &self,
        addresses: impl IntoIterator<Item = u128>,
        addrs: &mut [u128],
        out: &mut [u32],
    ) {
        let mut addresses = addresses.into_iter();
        let hosts = self.shared.hosts.read();
        let tree = self.shared.tree.read();
        let rounds = addrs
            .chunks_mut(IntervalTree::BATCH)
            .zip(out.chunks_mut(IntervalTree::BATCH));
        for (addrs, out) in rounds {
            let mut n = 0;
            if hosts.is_void() {
                for (addr, address) in addrs.iter_mut().take(out.len()).zip(&mut addresses) {
                    *addr = address;
                    n += 1;
                }
                tree.lookup_batch(&addrs[..n], &mut out[..n]);
                continue;
            }
            for ((addr, home), address) in addrs.iter_mut().zip(&mut *out).zip(&mut addresses) {
                *addr = address;
                *home = hosts.home(address);
                hosts.prefetch(*home);
                n += 1;
            }
            let (addrs, out) = (&addrs[..n], &mut out[..n]);
            if hosts.lookup_homes(addrs, out) != 0 {
                lookup_missing(tree, addrs, out);
            }
        }
    }

    /// Looks up every address; prefetches by itself. The shorter slice decides how many.
    #[inline]
    pub fn lookup_batch(&self, addrs: &[u128], out: &mut [u32]) {
        let hosts = self.shared.hosts.read();
        let tree = self.shared.tree.read();
        let rounds = addrs
            .chunks(IntervalTree::BATCH)
            .zip(out.chunks_mut(IntervalTree::BATCH));
        for (addrs, out) in rounds {
            let n = addrs.len().min(out.len());
            let (addrs, out) = (&addrs[..n], &mut out[..n]);
            if hosts.is_void() {
                tree.lookup_batch(addrs, out);
            } else if hosts.lookup_batch(addrs, out) != 0 {
                lookup_missing(tree, addrs, out);
            }
        }
    }
}

impl Lpm6Writer {
    /// Another reader of this table.
    pub fn reader(&self) -> Lpm6 {
        Lpm6 {
            shared: Arc::clone(&self.shared),
            _lease: Arc::clone(&self.lease),
        }
    }

    /// Installs `prefix/len` (host order) with `value`, or changes its value. Readers see a /128 at
    /// once, anything else after [`commit`](Self::commit).
    ///
    /// # Errors
    /// Host bits set, a length above 128, a value of 0 or from 2^31 on, or no memory for a larger
    /// table of hosts. The table is then unchanged.
    pub fn insert(&mut self, prefix: u128, len: u8, value: u32) -> Result<(), LpmError> {
        check_prefix(prefix, len)?;
        check_value(value)?;
        if len < 128 {
            self.dirty |= self.rib.insert(prefix, len, value) != Some(value);
            return Ok(());
        }
        let hosts = self.shared.hosts.read();
        if self.hosts.len() < hosts.capacity() || self.hosts.contains_key(&prefix) {
            hosts.insert(prefix, value);
            self.hosts.insert(prefix, value);
            return Ok(());
        }
        let capacity = (hosts.capacity() * 2).max(FIRST_HOSTS);
        let larger = HostTable::new(capacity, self.key).map_err(|_| LpmError::OutOfMemory)?;
        self.hosts.insert(prefix, value);
        for (&addr, &value) in &self.hosts {
            larger.insert(addr, value);
        }
        let old = self.shared.hosts.replace(larger);
        self.retire(Structure::Hosts(old));
        Ok(())
    }

    /// Removes exactly `prefix/len` and gives its value; `None` if it is not installed. Readers see
    /// the removal of a /128 at once, anything else after [`commit`](Self::commit).
    pub fn remove(&mut self, prefix: u128, len: u8) -> Option<u32> {
        if len == 128 {
            let value = self.hosts.remove(&prefix)?;
            self.shared.hosts.read().remove(prefix);
            return Some(value);
        }
        let value = self.rib.remove(prefix, len)?;
        self.dirty = true;
        Some(value)
    }

    /// Makes all changes visible to readers. Does nothing if there are none.
    ///
    /// # Errors
    /// No memory for the new tree: readers keep the routes of the last commit.
    pub fn commit(&mut self) -> Result<(), LpmError> {
        if !self.dirty {
            return Ok(());
        }
        let tree = IntervalTree::build(self.rib.iter()).map_err(|_| LpmError::OutOfMemory)?;
        let old = self.shared.tree.replace(tree);
        self.retire(Structure::Tree(old));
        self.dirty = false;
        Ok(())
    }

    /// Whether changes wait for [`commit`](Self::commit).
    pub fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The value of exactly `prefix/len`, committed or not.
    pub fn exact(&self, prefix: u128, len: u8) -> Option<u32> {
        if len == 128 {
            self.hosts.get(&prefix).copied()
        } else {
            self.rib.exact(prefix, len)
        }
    }

    /// What a reader sees for `addr` once everything is committed.
    pub fn lookup(&self, addr: u128) -> u32 {
        self.hosts
            .get(&addr)
            .copied()
            .unwrap_or_else(|| self.rib.longest(addr, 127))
    }

    /// Prefix, length and value of every route, committed or not: those up to /127, then the /128s, each
    /// ordered by prefix, then length.
    pub fn iter(&self) -> impl Iterator<Item = (u128, u8, u32)> + '_ {
        self.rib
            .iter()
            .chain(self.hosts.iter().map(|(&addr, &value)| (addr, 128, value)))
    }

    /// Number of routes, committed or not.
    pub fn len(&self) -> usize {
        self.rib.len() + self.hosts.len()
    }

    /// Whether there is no route, committed or not.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is replaced from now on belongs to `epoch`. Epochs must not go back; one that does is ignored.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Frees what was replaced at `safe_epoch` or before, and says how many structures that were.
    ///
    /// # Safety
    /// Every thread that uses a reader handle of this table has been outside every call on a handle at some
    /// moment after the last change made at `safe_epoch`, and has since synchronised with the caller (it
    /// stored a counter with Release, say, that the caller read with Acquire).
    pub unsafe fn reclaim(&mut self, safe_epoch: u64) -> usize {
        let mut freed = 0;
        while let Some(replaced) = self.replaced.pop_front_if(|old| old.epoch <= safe_epoch) {
            // JUSTIFICATION: the end of manual reclamation.
            // SAFETY: it is no longer current, so a call that begins now cannot reach it; by the caller's
            // promise all calls that began before it was replaced are over.
            unsafe { replaced.structure.free() };
            freed += 1;
        }
        freed
    }

    /// Frees what no living reader handle can have seen, and says how many structures that were.
    pub fn reclaim_unread(&mut self) -> usize {
        while self
            .old_leases
            .pop_front_if(|lease| Arc::get_mut(lease).is_some())
            .is_some()
        {}
        let current = self.lease.0;
        let oldest = self.old_leases.front().map_or(current, |lease| lease.0);
        let mut freed = 0;
        while let Some(replaced) = self.replaced.pop_front_if(|old| old.lease < oldest) {
            // JUSTIFICATION: the end of manual reclamation.
            // SAFETY: a call reaches this structure only if it began before the replacement, on a handle
            // that lived then and therefore has a lease up to `replaced.lease`. All these leases are back:
            // `Arc::get_mut` found each without another owner, which also orders the readers' last access
            // before this. A handle outlives the calls on it, so none of them is still running.
            unsafe { replaced.structure.free() };
            freed += 1;
        }
        freed
    }

    /// Replaced structures that still wait to be freed.
    pub fn unreclaimed(&self) -> usize {
        self.replaced.len()
    }

    /// Keeps a structure that is no longer current until no reader uses it.
    fn retire(&mut self, structure: Structure) {
        let lease = self.lease.0;
        let successor = Arc::new(Lease(lease + 1));
        self.old_leases
            .push_back(mem::replace(&mut self.lease, successor));
        self.replaced.push_back(Replaced {
            epoch: self.epoch,
            lease,
            structure,
        });
        self.reclaim_unread();
    }
}

impl Drop for Lpm6Writer {
    fn drop(&mut self) {
        // Readers may go on without a writer; the last of them frees the rest.
        let mut left_behind = self
            .shared
            .left_behind
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        left_behind.extend(self.replaced.drain(..).map(|replaced| replaced.structure));
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let left_behind = self
            .left_behind
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        for structure in left_behind.drain(..) {
            // JUSTIFICATION: the end of manual reclamation.
            // SAFETY: neither writer nor reader is left, so nothing borrows from the table.
            unsafe { structure.free() };
        }
    }
}

impl Structure {
    /// # Safety
    /// As for [`Retired::free`].
    unsafe fn free(self) {
        match self {
            // JUSTIFICATION: forwards.
            // SAFETY: the caller's promise.
            Self::Hosts(hosts) => unsafe { hosts.free() },
            // JUSTIFICATION: forwards.
            // SAFETY: the caller's promise.
            Self::Tree(tree) => unsafe { tree.free() },
        }
    }
}

/// Looks up in the tree what has no answer yet, at most one batch.
#[inline(never)]
fn lookup_missing(tree: &IntervalTree, addrs: &[u128], out: &mut [u32]) {
    let mut missing = [0; IntervalTree::BATCH];
    let mut places = [0u8; IntervalTree::BATCH];
    let mut misses = 0;
    for (place, (out, &addr)) in out.iter().zip(addrs).enumerate() {
        // Written for every address, kept for a miss: no branch to mispredict.
        missing[misses & (IntervalTree::BATCH - 1)] = addr;
        places[misses & (IntervalTree::BATCH - 1)] = place as u8;
        misses += usize::from(*out == 0);
    }
    let mut values = [0; IntervalTree::BATCH];
    tree.lookup_batch(&missing[..misses], &mut values[..misses]);
    for (&place, &value) in places[..misses].iter().zip(&values) {
        out[usize::from(place)] = value;
    }
}
