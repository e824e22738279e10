//! Hash table of IPv6 host routes (/128).
//!
//! ```text
//! bucket, one line: │ key 0 │ key 1 │ key 2 │ value 0..2 │ state │
//!                     16 B    16 B    16 B    12 B         4 B = writes << 8 | overflow
//! ```
//!
//! An entry lives in the bucket its hash names or, where that is full, in one of the following;
//! `overflow` counts the entries that had to go further, so a lookup reads one line nearly always.
//! The hash is keyed: who does not know the key cannot aim at a bucket.
//!
//! One writer changes the table while readers search it. A value of 0 marks a free slot. A slot gets
//! its key while its value is 0; then `writes` grows; then the value is stored. A reader takes `state`,
//! the keys, the values and `state` again: if it read a value that belongs to a newer key than the one
//! it compared, it also finds the second `state` changed, and searches again. It never waits for the
//! writer to finish something.

#![expect(unsafe_code, reason = "the hot path indexes without bounds checks")]

use std::{
    io,
    sync::atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crate::{
    array::{Array, HugePages, Zeroed},
    prefetch::prefetch,
};

const SLOTS: usize = 3;
const OVERFLOW: u32 = 0xff;
const WRITE: u32 = 0x100;

/// Secret of the hash function.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashKey(pub(crate) [u64; 3]);

#[derive(Debug)]
pub(crate) struct HostTable {
    /// A power of two of buckets, or none at all.
    buckets: Array<Bucket>,
    /// 64 - log2(buckets).
    shift: u32,
    key: HashKey,
}

/// One line: three slots.
#[derive(Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// High and low half of each key.
    keys: [[AtomicU64; 2]; SLOTS],
    values: [AtomicU32; SLOTS],
    /// Bits 31..8: count of keys written, wrapping. Bits 7..0: entries that had to go past this
    /// bucket; 255 stays 255.
    state: AtomicU32,
}

// JUSTIFICATION: buckets come zeroed from the system, untouched until used.
// SAFETY: a bucket is atomics only: zero bytes are a value, nothing to drop, alignment 64.
unsafe impl Zeroed for Bucket {}

impl HostTable {
    /// A table for `capacity` entries, or the empty table that takes none.
    pub(crate) fn new(capacity: usize, key: HashKey) -> io::Result<Self> {
        let buckets = if capacity == 0 {
            0
        } else {
            // At most half of the slots are taken, so entries rarely leave their bucket.
            let least = (capacity.div_ceil(SLOTS))
                .checked_mul(2)
                .ok_or(io::ErrorKind::OutOfMemory)?;
            least
                .checked_next_power_of_two()
                .ok_or(io::ErrorKind::OutOfMemory)?
        };
        let shift = if buckets == 0 {
            0
        } else {
            64 - buckets.trailing_zeros()
        };
        Ok(Self {
            buckets: Array::new(buckets, HugePages::Transparent)?,
            shift,
            key,
        })
    }

    /// How many entries the table takes before the writer should replace it by a larger one.
    pub(crate) fn capacity(&self) -> usize {
        self.buckets.len() * SLOTS / 2
    }

    /// Whether the table has no buckets, so that [`lookup`](Self::lookup) must not be asked.
    #[inline(always)]
    pub(crate) fn is_void(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Where the search for `addr` begins.
    #[inline(always)]
    pub(crate) fn home(&self, addr: u128) -> u32 {
        let [a, b, c] = self.key.0;
        let product = u128::from((addr >> 64) as u64 ^ a) * u128::from(addr as u64 ^ b);
        let folded = (product >> 64) as u64 ^ product as u64;
        (folded.wrapping_mul(c | 1) >> self.shift) as u32
    }

    #[inline(always)]
    pub(crate) fn prefetch(&self, home: u32) {
        prefetch(self.buckets.as_ptr().wrapping_add(home as usize));
    }

    /// The value of `addr`, whose [`home`](Self::home) is given; 0 if it is not there.
    #[inline(always)]
    pub(crate) fn lookup(&self, addr: u128, home: u32) -> u32 {
        let (value, overflow) = self.bucket(home as usize).lookup(addr);
        if value == 0 && overflow != 0 {
            self.lookup_further(addr, home)
        } else {
            value
        }
    }

    /// Adds `addr` or changes its value, while readers may search. The caller keeps `value` above 0
    /// and the number of entries within [`capacity`](Self::capacity).
    pub(crate) fn insert(&self, addr: u128, value: u32) {
        let home = self.home(addr) as usize;
        if let Some((bucket, slot)) = self.find(addr, home) {
            bucket.values[slot].store(value, Release);
            return;
        }
        let free = (0..self.buckets.len()).find_map(|distance| {
            let bucket = self.bucket(home + distance);
            let slot = bucket
                .values
                .iter()
                .position(|value| value.load(Relaxed) == 0)?;
            Some((distance, bucket, slot))
        });
        let Some((distance, bucket, slot)) = free else {
            unreachable!("the writer replaces the table before every slot is taken");
        };
        for passed in home..home + distance {
            self.bucket(passed).count_overflow(true);
        }
        let [high, low] = &bucket.keys[slot];
        // Release: who reads a new half of a key also sees the value 0 that was stored before it.
        high.store((addr >> 64) as u64, Release);
        low.store(addr as u64, Release);
        bucket
            .state
            .store(bucket.state.load(Relaxed).wrapping_add(WRITE), Release);
        bucket.values[slot].store(value, Release);
    }

    /// Takes `addr` out, while readers may search.
    pub(crate) fn remove(&self, addr: u128) {
        let home = self.home(addr) as usize;
        let Some((bucket, slot)) = self.find(addr, home) else {
            return;
        };
        bucket.values[slot].store(0, Release);
        for passed in (home..)
            .map(|at| self.bucket(at))
            .take_while(|&at| !std::ptr::eq(at, bucket))
        {
            passed.count_overflow(false);
        }
    }

    #[cold]
    #[inline(never)]
    fn lookup_further(&self, addr: u128, home: u32) -> u32 {
        for distance in 1..self.buckets.len() {
            let (value, overflow) = self.bucket(home as usize + distance).lookup(addr);
            if value != 0 || overflow == 0 {
                return value;
            }
        }
        0
    }

    /// The slot that holds `addr`. For the writer.
    fn find(&self, addr: u128, home: usize) -> Option<(&Bucket, usize)> {
        let key = [(addr >> 64) as u64, addr as u64];
        for distance in 0..self.buckets.len() {
            let bucket = self.bucket(home + distance);
            let holds = |slot: &usize| {
                bucket.values[*slot].load(Relaxed) != 0
                    && bucket.keys[*slot].each_ref().map(|half| half.load(Relaxed)) == key
            };
            if let Some(slot) = (0..SLOTS).find(holds) {
                return Some((bucket, slot));
            }
            if bucket.state.load(Relaxed) & OVERFLOW == 0 {
                return None;
            }
        }
        None
    }

    /// The bucket at `index`, wrapping around. Not to be asked of a table without buckets.
    #[inline(always)]
    fn bucket(&self, index: usize) -> &Bucket {
        debug_assert!(!self.is_void());
        &self.buckets[index & (self.buckets.len() - 1)]
    }
}

impl Bucket {
    /// The value of `addr`, or 0, and how many entries went past this bucket.
    #[inline(always)]
    fn lookup(&self, addr: u128) -> (u32, u32) {
        let (high, low) = ((addr >> 64) as u64, addr as u64);
        loop {
            let state = self.state.load(Acquire);
            let mut found = 0;
            for (key, value) in self.keys.iter().zip(&self.values) {
                let differs = (key[0].load(Acquire) ^ high) | (key[1].load(Acquire) ^ low);
                let value = value.load(Acquire);
                found |= if differs == 0 { value } else { 0 };
            }
            if self.state.load(Relaxed) == state {
                return (found, state & OVERFLOW);
            }
        }
    }

    fn count_overflow(&self, up: bool) {
        let state = self.state.load(Relaxed);
        match state & OVERFLOW {
            OVERFLOW => {}
            _ if up => self.state.store(state + 1, Release),
            _ => self.state.store(state - 1, Release),
        }
    }
}
