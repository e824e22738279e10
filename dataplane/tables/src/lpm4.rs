//! IPv4 longest-prefix match: DIR-24-8.
//!
//! ```text
//!            bits 31..8                          bits 7..0
//! tbl24 [ 2^24 x u32 ]  bit 31 clear: value
//!                       bit 31 set:   group ──► tbl8 [ groups x 256 x u32 ]: value
//! ```
//!
//! One load for prefixes up to /24, two for longer ones. Values are written prefix by prefix over
//! what no more-specific prefix holds, one aligned store each, so a reader sees for each address
//! either the old or the new answer. The writer's shadow table says what to skip and what to
//! uncover.
#![expect(unsafe_code, reason = "the hot path indexes without bounds checks")]

use std::{
    collections::VecDeque,
    io,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{
            AtomicU32,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use crate::{
    array::{Array, HugePages},
    error::LpmError,
    prefetch::prefetch,
    rib::{Rib, check_prefix, check_value},
};

const TBL24_LEN: usize = 1 << 24;
const GROUP_LEN: usize = 256;
const EXTENDED: u32 = 1 << 31;
/// One group per /24 is all that can ever be in use; as many again may be in quarantine.
const GROUPS_LIMIT: u32 = 1 << 25;
/// How many lookups lie between a prefetch and the read in [`Lpm4::lookup_batch`].
const PREFETCH_DISTANCE: usize = 16;
/// Lookups per round of [`Lpm4::lookup_batch`].
const CHUNK: usize = 64;

/// Reader half of an IPv4 route table; cheap to clone, used from any thread.
///
/// A lookup costs one load (two for destinations inside prefixes longer than /24), a few ticks when
/// the line is cached. Ask for the line early with [`prefetch`](Self::prefetch) where the table is large.
///
/// # Memory
/// 64 MiB of address space plus 1 KiB per group *per table*, so per VRF. It is committed as routes
/// touch it, in 2 MiB steps with transparent huge pages (one such page holds 8192 consecutive /24s, an eighth
/// of a /8); a default route touches all of it. Many small VRFs would deserve a denser structure.
///
/// # Concurrency
/// A reader may hold a group number for a moment after the writer replaced it. The writer therefore
/// reuses a freed group only after [`Lpm4Writer::reclaim`] said that all readers have moved on.
/// Should that be said too early, a lookup gives a wrong value, never undefined behaviour.
#[derive(Clone, Debug)]
pub struct Lpm4 {
    table: Arc<Table>,
}

/// Writer half of an IPv4 route table: one owner, changes are visible to readers at once.
#[derive(Debug)]
pub struct Lpm4Writer {
    table: Arc<Table>,
    rib: Rib<u32>,
    /// By group: how many prefixes longer than /24 live in it.
    tenants: Vec<u16>,
    free_groups: Vec<u32>,
    /// Groups from here on were never used; taking them last keeps their memory untouched.
    fresh_group: u32,
    /// Freed groups with the epoch at which they were freed, oldest first.
    quarantine: VecDeque<(u64, u32)>,
    epoch: u64,
}

/// tbl24, then the groups of tbl8, in one array.
#[derive(Debug)]
struct Table {
    entries: Array<AtomicU32>,
    capacity_groups: u32,
}

impl Lpm4 {
    /// An empty table with room for `capacity_groups` /24 blocks that hold longer prefixes (at most
    /// 2^25; more are never needed).
    ///
    /// # Errors
    /// The system refuses the address space.
    pub fn new(capacity_groups: u32, pages: HugePages) -> io::Result<(Lpm4Writer, Self)> {
        let capacity_groups = capacity_groups.min(GROUPS_LIMIT);
        let len = TBL24_LEN + capacity_groups as usize * GROUP_LEN;
        let table = Arc::new(Table {
            entries: Array::new(len, pages)?,
            capacity_groups,
        });
        let writer = Lpm4Writer {
            table: Arc::clone(&table),
            rib: Rib::default(),
            tenants: Vec::new(),
            free_groups: Vec::new(),
            fresh_group: 0,
            quarantine: VecDeque::new(),
            epoch: 0,
        };
        Ok((writer, Self { table }))
    }

    /// The value of the longest prefix that contains `addr` (host order); 0 if there is none.
    #[inline(always)]
    pub fn lookup(&self, addr: u32) -> u32 {
        let entry = self.table.tbl24(addr);
        if entry & EXTENDED == 0 {
            entry
        } else {
            self.table.tbl8(entry, addr)
        }
    }

    /// Asks for the line that [`lookup`](Self::lookup) of `addr` reads first.
    #[inline(always)]
    pub fn prefetch(&self, addr: u32) {
        prefetch(
            self.table
                .entries
                .as_ptr()
                .wrapping_add((addr >> 8) as usize),
        );
    }

    /// The table's memory, borrowed for a loop over many addresses: [`lookup`](Self::lookup) would find it anew each time.
    #[inline(always)]
    pub fn view(&self) -> Lpm4View<'_> {
        Lpm4View {
            entries: &self.table.entries,
        }
    }

    /// Looks up every address; prefetches by itself. The shorter slice decides how many.
    #[inline]
    pub fn lookup_batch(&self, addrs: &[u32], out: &mut [u32]) {
        let n = addrs.len().min(out.len());
        let (addrs, out) = (&addrs[..n], &mut out[..n]);
        for &addr in addrs.iter().take(PREFETCH_DISTANCE) {
            self.prefetch(addr);
        }
        for (start, round) in (0..n).step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
            let here = &addrs[start..start + round.len()];
            let ahead = addrs.get(start + PREFETCH_DISTANCE..).unwrap_or(&[]);
            let ahead = &ahead[..ahead.len().min(round.len())];
            let mut seen = 0;
            let (piped, tail) = round.split_at_mut(ahead.len());
            for ((out, &addr), &next) in piped.iter_mut().zip(here).zip(ahead) {
                self.prefetch(next);
                *out = self.table.tbl24(addr);
                seen |= *out;
            }
            for (out, &addr) in tail.iter_mut().zip(&here[ahead.len()..]) {
                *out = self.table.tbl24(addr);
                seen |= *out;
            }
            if seen & EXTENDED != 0 {
                self.resolve_groups(here, round);
            }
        }
    }

    /// The pages behind the table, after a possible fallback.
    pub fn pages(&self) -> HugePages {
        self.table.entries.pages()
    }

    /// Second pass of a batch: replaces group numbers by the values in the groups.
    fn resolve_groups(&self, addrs: &[u32], out: &mut [u32]) {
        for (&entry, &addr) in out.iter().zip(addrs) {
            if entry & EXTENDED != 0 {
                prefetch(
                    self.table
                        .entries
                        .as_ptr()
                        .wrapping_add(Table::tbl8_index(entry, addr)),
                );
            }
        }
        for (out, &addr) in out.iter_mut().zip(addrs) {
            if *out & EXTENDED != 0 {
                *out = self.table.tbl8(*out, addr);
            }
        }
    }
}

/// A table borrowed for a loop; see [`Lpm4::view`].
#[derive(Clone, Copy, Debug)]
pub struct Lpm4View<'a> {
    /// As [`Table::entries`]: at least 2^24 items, then 256 for each group.
    entries: &'a [AtomicU32],
}

impl Lpm4View<'_> {
    /// As [`Lpm4::lookup`].
    #[inline(always)]
    pub fn lookup(self, addr: u32) -> u32 {
        // JUSTIFICATION: as in `Table::tbl24`.
        // SAFETY: as in `Table::tbl24`: these are a table's entries.
        let entry = unsafe { self.entries.get_unchecked((addr >> 8) as usize) }.load(Acquire);
        if entry & EXTENDED == 0 {
            return entry;
        }
        // JUSTIFICATION: as in `Table::tbl8`.
        // SAFETY: as in `Table::tbl8`: these are a table's entries.
        unsafe { self.entries.get_unchecked(Table::tbl8_index(entry, addr)) }.load(Relaxed)
    }

    /// As [`Lpm4::prefetch`].
    #[inline(always)]
    pub fn prefetch(self, addr: u32) {
        prefetch(self.entries.as_ptr().wrapping_add((addr >> 8) as usize));
    }
}

impl Lpm4Writer {
    /// Another reader of this table.
    pub fn reader(&self) -> Lpm4 {
        Lpm4 {
            table: Arc::clone(&self.table),
        }
    }

    /// Installs `prefix/len` (host order) with `value`, or changes its value.
    ///
    /// Touches one entry per /24 inside the prefix, or a few in one group; `O(log routes)` besides
    /// the more-specific prefixes that are skipped.
    ///
    /// # Errors
    /// Host bits set, a length above 32, a value of 0 or from 2^31 on, or no group left for a prefix
    /// longer than /24. The table is then unchanged.
    pub fn insert(&mut self, prefix: u32, len: u8, value: u32) -> Result<(), LpmError> {
        check_prefix(prefix, len)?;
        check_value(value)?;
        if len <= 24 {
            self.rib.insert(prefix, len, value);
            self.rib
                .gaps(prefix, len, |range| self.table.paint(range, value));
            return Ok(());
        }
        let entry = self.table.tbl24(prefix);
        let group = if entry & EXTENDED != 0 {
            entry & !EXTENDED
        } else {
            self.claim_group()?
        };
        let is_new = self.rib.insert(prefix, len, value).is_none();
        self.tenants[group as usize] += u16::from(is_new);
        let slots = self.table.group(group);
        if entry & EXTENDED == 0 {
            for slot in slots {
                slot.store(entry, Relaxed); // nobody reads this group yet
            }
        }
        self.rib
            .gaps(prefix, len, |range| paint_slots(slots, range, value));
        if entry & EXTENDED == 0 {
            self.table.entries[(prefix >> 8) as usize].store(EXTENDED | group, Release);
        }
        Ok(())
    }

    /// Removes exactly `prefix/len` and gives its value; the covering prefix takes over. `None`,
    /// and no change, if it is not installed.
    pub fn remove(&mut self, prefix: u32, len: u8) -> Option<u32> {
        let value = self.rib.remove(prefix, len)?;
        let cover = self.rib.covering(prefix, len);
        if len <= 24 {
            self.rib
                .gaps(prefix, len, |range| self.table.paint(range, cover));
            return Some(value);
        }
        let group = self.table.tbl24(prefix) & !EXTENDED;
        self.tenants[group as usize] -= 1;
        if self.tenants[group as usize] == 0 {
            // The last long prefix is gone, so what covers it covers the whole block.
            self.table.entries[(prefix >> 8) as usize].store(cover, Release);
            self.quarantine.push_back((self.epoch, group));
        } else {
            let slots = self.table.group(group);
            self.rib
                .gaps(prefix, len, |range| paint_slots(slots, range, cover));
        }
        Some(value)
    }

    /// The value of exactly `prefix/len`.
    pub fn exact(&self, prefix: u32, len: u8) -> Option<u32> {
        self.rib.exact(prefix, len)
    }

    /// What a reader sees for `addr`.
    pub fn lookup(&self, addr: u32) -> u32 {
        let entry = self.table.tbl24(addr);
        if entry & EXTENDED == 0 {
            entry
        } else {
            self.table.tbl8(entry, addr)
        }
    }

    /// Prefix, length and value of every route, ordered by prefix, then length.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u8, u32)> + '_ {
        self.rib.iter()
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.rib.len()
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Groups in use, including those in quarantine.
    pub fn groups_in_use(&self) -> u32 {
        self.fresh_group - self.free_groups.len() as u32
    }

    /// Groups the table was created with.
    pub fn capacity_groups(&self) -> u32 {
        self.table.capacity_groups
    }

    /// Groups freed from now on belong to `epoch`. Epochs must not go back; one that does is ignored.
    pub fn set_epoch(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
    }

    /// Makes groups freed at `safe_epoch` or before reusable, and says how many. Every reader must
    /// have been outside a lookup at some moment since that epoch ended.
    pub fn reclaim(&mut self, safe_epoch: u64) -> usize {
        let before = self.free_groups.len();
        while let Some((_, group)) = self
            .quarantine
            .pop_front_if(|(epoch, _)| *epoch <= safe_epoch)
        {
            self.free_groups.push(group);
        }
        self.free_groups.len() - before
    }

    fn claim_group(&mut self) -> Result<u32, LpmError> {
        if let Some(group) = self.free_groups.pop() {
            return Ok(group);
        }
        if self.fresh_group == self.table.capacity_groups {
            return Err(LpmError::Full {
                capacity_groups: self.table.capacity_groups,
                quarantined: self.quarantine.len() as u32,
            });
        }
        let group = self.fresh_group;
        self.fresh_group += 1;
        self.tenants.push(0);
        Ok(group)
    }
}

impl Table {
    #[inline(always)]
    fn tbl24(&self, addr: u32) -> u32 {
        // JUSTIFICATION: a bounds check per packet for an index that cannot be out of bounds.
        // SAFETY: `addr >> 8` is below 2^24 and `entries` has at least 2^24 items.
        unsafe { self.entries.get_unchecked((addr >> 8) as usize) }.load(Acquire)
    }

    /// Value for `addr` in the group named by an extended tbl24 `entry`.
    #[inline(always)]
    fn tbl8(&self, entry: u32, addr: u32) -> u32 {
        // JUSTIFICATION: as in `tbl24`.
        // SAFETY: only `Lpm4Writer` stores entries with `EXTENDED`, and their group number comes from
        // `claim_group`, so it is below `capacity_groups`; `entries` holds 256 items for each.
        unsafe { self.entries.get_unchecked(Self::tbl8_index(entry, addr)) }.load(Relaxed)
    }

    #[inline(always)]
    fn tbl8_index(entry: u32, addr: u32) -> usize {
        TBL24_LEN + (entry & !EXTENDED) as usize * GROUP_LEN + (addr & 0xff) as usize
    }

    fn group(&self, group: u32) -> &[AtomicU32] {
        let start = TBL24_LEN + group as usize * GROUP_LEN;
        &self.entries[start..start + GROUP_LEN]
    }

    /// Gives a range inside a prefix of at most 24 bits the value `value`.
    fn paint(&self, range: RangeInclusive<u32>, value: u32) {
        let (first, last) = (*range.start(), *range.end());
        let mut block = first >> 8;
        let last_block = last >> 8;
        // A range that starts or ends inside a block does so beside a longer prefix, so the block has a
        // group; a block that is painted whole holds no longer prefix, so it has none.
        if first & 0xff != 0 {
            self.paint_group(first..=last.min(first | 0xff), value);
            block += 1;
        }
        let whole_end = if last & 0xff == 0xff {
            last_block + 1
        } else {
            last_block
        };
        if let Some(entries) = self.entries.get(block as usize..whole_end as usize) {
            for entry in entries {
                entry.store(value, Release);
            }
        }
        if last & 0xff != 0xff && block <= last_block {
            self.paint_group(last & !0xff..=last, value);
        }
    }

    /// As [`paint`](Self::paint), for a part of one block that has a group.
    fn paint_group(&self, range: RangeInclusive<u32>, value: u32) {
        let entry = self.tbl24(*range.start());
        debug_assert!(entry & EXTENDED != 0, "a part of a block without a group");
        paint_slots(self.group(entry & !EXTENDED), range, value);
    }
}

fn paint_slots(slots: &[AtomicU32], range: RangeInclusive<u32>, value: u32) {
    for slot in &slots[(range.start() & 0xff) as usize..=(range.end() & 0xff) as usize] {
        slot.store(value, Release);
    }
}
