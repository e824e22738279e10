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
    cpu::has_avx512,
    prefetch::prefetch,
};

const SLOTS: usize = 3;
const OVERFLOW: u32 = 0xff;
const WRITE: u32 = 0x100;
/// No value: the search has to go on behind the home bucket.
const FURTHER: u32 = 1 << 31;

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
    avx512: bool,
}

/// One line: three slots.
#[derive(Debug)]
#[repr(C, align(64))]
struct Bucket {
    /// Low and high half of each key. A live key stands in the first of the slots that hold it: a new
    /// key takes the first free slot, and what a free slot held is overwritten.
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
        let buckets = Array::new(buckets, HugePages::Transparent)?;
        Ok(Self {
            buckets,
            shift,
            key,
            avx512: has_avx512(),
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

    /// Looks up every address of `addrs`; `out`, as long, gets the value or 0. Gives the number of zeros.
    #[inline]
    pub(crate) fn lookup_batch(&self, addrs: &[u128], out: &mut [u32]) -> usize {
        for (home, &addr) in out.iter_mut().zip(addrs) {
            *home = self.home(addr);
            self.prefetch(*home);
        }
        self.lookup_homes(addrs, out)
    }

    /// As [`lookup_batch`](Self::lookup_batch), where `out` holds each address's [`home`](Self::home) already: other numbers in it
    /// panic.
    #[inline]
    pub(crate) fn lookup_homes(&self, addrs: &[u128], out: &mut [u32]) -> usize {
        let beyond = |home: &&u32| **home as usize >= self.buckets.len();
        assert!(out.iter().filter(beyond).count() == 0);
        self.search_homes(addrs, out);
        if out.iter().fold(0, |all, &value| all | value) & FURTHER != 0 {
            for (out, &addr) in out
                .iter_mut()
                .zip(addrs)
                .filter(|(out, _)| **out == FURTHER)
            {
                *out = self.lookup_further(addr, self.home(addr));
            }
        }
        out.iter().map(|&value| u32::from(value == 0)).sum::<u32>() as usize
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
        let [low, high] = &bucket.keys[slot];
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

    /// Replaces each home bucket in `out` by the value found there, 0, or [`FURTHER`].
    #[inline(always)]
    fn search_homes(&self, addrs: &[u128], out: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        if self.avx512 {
            // JUSTIFICATION: compares the three keys of a bucket at once; saves a third of the lookup.
            // SAFETY: `avx512` is set only where the CPU has the features the function needs.
            return unsafe { self.search_homes_avx512(addrs, out) };
        }
        #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
        self.search_homes_with(addrs, out, Bucket::lookup_avx2);
        #[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
        self.search_homes_with(addrs, out, Bucket::lookup);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn search_homes_avx512(&self, addrs: &[u128], out: &mut [u32]) {
        self.search_homes_with(addrs, out, |bucket, addr| bucket.lookup_avx512(addr));
    }

    #[inline(always)]
    fn search_homes_with(
        &self,
        addrs: &[u128],
        out: &mut [u32],
        lookup: impl Fn(&Bucket, u128) -> (u32, u32),
    ) {
        let buckets = &self.buckets[..];
        for (out, &addr) in out.iter_mut().zip(addrs) {
            debug_assert!((*out as usize) < buckets.len());
            // JUSTIFICATION: a bounds check and its registers cost a tenth of the lookup.
            // SAFETY: `out` holds what `home` gave for the same address: a number below the number of
            // buckets, as `shift` leaves log2(buckets) bits.
            let bucket = unsafe { buckets.get_unchecked(*out as usize) };
            let (value, overflow) = lookup(bucket, addr);
            let nothing = if overflow == 0 { 0 } else { FURTHER };
            *out = if value == 0 { nothing } else { value };
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
        let key = [addr as u64, (addr >> 64) as u64];
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
                let differs = (key[0].load(Acquire) ^ low) | (key[1].load(Acquire) ^ high);
                let value = value.load(Acquire);
                found |= if differs == 0 { value } else { 0 };
            }
            if self.state.load(Relaxed) == state {
                return (found, state & OVERFLOW);
            }
        }
    }

    /// As [`lookup`](Self::lookup).
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    #[inline(always)]
    fn lookup_avx2(&self, addr: u128) -> (u32, u32) {
        use core::arch::{
            asm,
            x86_64::{__m256i, _mm_set_epi64x, _mm256_broadcastsi128_si256},
        };
        let state = self.state.load(Acquire);
        let (low, high): (u32, u32);
        // JUSTIFICATION: as in `lookup_avx512`.
        // SAFETY: reads the 64 bytes of `self`, aligned to 64, in two halves, each aligned eight bytes at once, as atomic loads
        // would; x86 keeps loads in order. Without `nomem` and `readonly` the compiler moves no other access across. AVX2 is
        // part of the target.
        unsafe {
            let key: __m256i =
                _mm256_broadcastsi128_si256(_mm_set_epi64x((addr >> 64) as i64, addr as i64));
            asm!(
                "vpcmpeqq {first}, {key}, ymmword ptr [{bucket}]",
                "vpcmpeqq {second}, {key}, ymmword ptr [{bucket} + 32]",
                "vmovmskpd {low:e}, {first}",
                "vmovmskpd {high:e}, {second}",
                bucket = in(reg) self,
                key = in(ymm_reg) key,
                first = out(ymm_reg) _,
                second = out(ymm_reg) _,
                low = out(reg) low,
                high = out(reg) high,
                options(nostack, preserves_flags),
            );
        }
        let equal = low | high << 4;
        // As in `lookup_avx512`.
        let hits = equal & (equal >> 1) & 0b01_01_01;
        let slot = (hits | 0b01_00_00).trailing_zeros() as usize / 2;
        let value = self.values[slot].load(Acquire);
        if self.state.load(Relaxed) != state {
            return self.lookup_again(addr);
        }
        (if hits == 0 { 0 } else { value }, state & OVERFLOW)
    }

    /// As [`lookup`](Self::lookup).
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    fn lookup_avx512(&self, addr: u128) -> (u32, u32) {
        use core::arch::{
            asm,
            x86_64::{_mm_set_epi64x, _mm512_broadcast_i64x2},
        };
        let key = _mm512_broadcast_i64x2(_mm_set_epi64x((addr >> 64) as i64, addr as i64));
        let state = self.state.load(Acquire);
        let equal: u32;
        // JUSTIFICATION: an intrinsic would be a plain read, which must not race with the writer.
        // SAFETY: reads the 64 bytes of `self`, aligned to 64, each aligned eight bytes at once, as eight
        // atomic loads would; x86 keeps loads in order. Without `nomem` and `readonly` the compiler moves no
        // other access across.
        unsafe {
            asm!(
                "vpcmpeqq {equal_halves}, {key}, zmmword ptr [{bucket}]",
                "kmovb {equal:e}, {equal_halves}",
                bucket = in(reg) self,
                key = in(zmm_reg) key,
                equal_halves = out(kreg) _,
                equal = out(reg) equal,
                options(nostack, preserves_flags),
            );
        }
        // Bits 0, 2, 4: both halves of slot 0, 1, 2 are equal.
        let hits = equal & (equal >> 1) & 0b01_01_01;
        let slot = (hits | 0b01_00_00).trailing_zeros() as usize / 2;
        let value = self.values[slot].load(Acquire);
        if self.state.load(Relaxed) != state {
            return self.lookup_again(addr);
        }
        (if hits == 0 { 0 } else { value }, state & OVERFLOW)
    }

    /// [`lookup`](Self::lookup) out of line, for the rare case that the writer came in between.
    #[cfg(target_arch = "x86_64")]
    #[cold]
    #[inline(never)]
    fn lookup_again(&self, addr: u128) -> (u32, u32) {
        self.lookup(addr)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths for CPUs with and without AVX-512, and the portable one, give the same answers, overflowed buckets included.
    #[test]
    fn all_kernels_agree() {
        let mut table = HostTable::new(600, HashKey([5, 6, 7])).unwrap();
        let addr = |i: u128| i << 64 | (i * i) << 3;
        for i in 0..600 {
            table.insert(addr(i), i as u32 + 1);
        }
        for i in (0..600).step_by(7) {
            table.remove(addr(i));
        }
        let overflowed = |bucket: &Bucket| bucket.state.load(Relaxed) & OVERFLOW != 0;
        assert!(
            table.buckets.iter().any(overflowed),
            "the test wants overflowed buckets"
        );
        let addrs: Vec<u128> = (0..900).map(addr).collect();
        for avx512 in [false, has_avx512()] {
            table.avx512 = avx512;
            let mut out = vec![0; addrs.len()];
            let misses = table.lookup_batch(&addrs, &mut out);
            for (i, &value) in out.iter().enumerate() {
                let expected = if i % 7 == 0 || i >= 600 {
                    0
                } else {
                    i as u32 + 1
                };
                assert_eq!(value, expected, "host {i}, AVX-512 {avx512}");
                let plain = table.bucket(table.home(addrs[i]) as usize).lookup(addrs[i]);
                assert!(plain.0 == expected || plain.0 == 0 && plain.1 != 0 && expected != 0);
                assert_eq!(table.lookup(addrs[i], table.home(addrs[i])), expected);
            }
            assert_eq!(misses, out.iter().filter(|value| **value == 0).count());
        }
    }

    #[test]
    fn slots_are_reused() {
        let table = HostTable::new(3, HashKey([5, 6, 7])).unwrap();
        for i in 1..10_000u32 {
            table.insert(u128::from(i), i);
            assert_eq!(table.lookup(u128::from(i), table.home(u128::from(i))), i);
            table.remove(u128::from(i));
            assert_eq!(table.lookup(u128::from(i), table.home(u128::from(i))), 0);
        }
        assert!(
            table
                .buckets
                .iter()
                .all(|bucket| bucket.state.load(Relaxed) & OVERFLOW == 0)
        );
    }
}
