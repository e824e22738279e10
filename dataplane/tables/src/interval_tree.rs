//! IPv6 prefixes up to /127 as a search tree over elementary intervals.
//!
//! Routes cut the 64-bit space of upper halves into intervals, each with one answer. Looking up means
//! counting the interval borders at or below a key, by a nine-way tree whose node is one cache line
//! of eight borders: `child = 9 * node + borders below the key`. The leaves hold all borders in order,
//! so the last step gives the rank of the interval, and the rank indexes the values. Levels are
//! stored one behind the other, root first, without pointers.
//!
//! An interval of a single /64 that holds longer prefixes has a value with [`DEEP`] set: the number
//! of a list of intervals over the lower halves.
#![expect(
    unsafe_code,
    reason = "AVX-512 kernel, and no bounds checks on the hot path"
)]

use std::{io, iter::Peekable, ops::Range};

use crate::{
    array::{Array, HugePages, Zeroed},
    cpu::has_avx512,
    prefetch::prefetch,
    rib::Address,
};

const KEYS: usize = 8;
const FANOUT: usize = 9;
/// 8 x 9^10 borders exceed 2^32.
const MAX_LEVELS: usize = 12;
const DEEP: u32 = 1 << 31;
/// Trees up to this many nodes (128 KiB) stay in the second-level cache: walk key by key, without prefetch.
const SMALL_NODES: usize = 2048;

/// An immutable set of routes.
#[derive(Debug)]
pub(crate) struct IntervalTree {
    nodes: Array<Node>,
    /// First node of each level, root first; the leaves are the last of `depth` levels.
    level_starts: [u32; MAX_LEVELS],
    depth: usize,
    /// By rank: the answer, or `DEEP` and a list number.
    values: Array<u32>,
    /// Lists of (first lower half, value), one behind the other.
    deep: Vec<(u64, u32)>,
    deep_lists: Vec<Range<u32>>,
    avx512: bool,
}

/// Eight borders in ascending order; unused ones are `u64::MAX`. A border is stored as the last
/// key *below* it, so that "greater than" decides and the filler is below no key.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
struct Node([u64; KEYS]);

// JUSTIFICATION: nodes come zeroed from the system, on huge pages where there are many.
// SAFETY: integers only, alignment 64.
unsafe impl Zeroed for Node {}

impl IntervalTree {
    /// The tree of `routes`: prefix, length (0 to 127), value; ordered by prefix, then length, without
    /// repetition.
    pub(crate) fn build(routes: impl Iterator<Item = (u128, u8, u32)>) -> io::Result<Self> {
        let (mut deep, mut deep_lists) = (Vec::new(), Vec::new());
        let mut upper = Sweep::new(0);
        let mut routes = routes.peekable();
        while let Some(&(prefix, len, value)) = routes.peek() {
            let top = (prefix >> 64) as u64;
            if len <= 64 {
                upper.enter(top, (prefix.last(len) >> 64) as u64, value);
                routes.next();
                continue;
            }
            let list = sweep_lower_half(&mut routes, top, upper.value_at(top));
            let start = deep.len() as u32;
            deep.extend(list);
            upper.enter(top, top, DEEP | deep_lists.len() as u32);
            deep_lists.push(start..deep.len() as u32);
        }
        let intervals = upper.finish();
        let mut values = Array::new(intervals.len(), HugePages::Transparent)?;
        for (slot, &(_, value)) in values.iter_mut().zip(&intervals) {
            *slot = value;
        }
        // The first interval starts at 0, below every key: it needs no border.
        let borders: Vec<u64> = intervals[1..].iter().map(|&(start, _)| start - 1).collect();
        let (nodes, level_starts, depth) = lay_out(&borders)?;
        let avx512 = has_avx512();
        Ok(Self {
            nodes,
            level_starts,
            depth,
            values,
            deep,
            deep_lists,
            avx512,
        })
    }

    /// The value of the longest prefix around `addr`; 0 if there is none.
    #[inline(always)]
    pub(crate) fn lookup(&self, addr: u128) -> u32 {
        self.value(self.rank((addr >> 64) as u64, count_portable), addr)
    }

    /// Looks up every address of `addrs`, at most [`BATCH`](Self::BATCH); `out` is as long.
    #[inline]
    pub(crate) fn lookup_batch(&self, addrs: &[u128], out: &mut [u32]) {
        debug_assert!(addrs.len() == out.len());
        let mut keys = [0; Self::BATCH];
        let n = addrs.len().min(out.len()).min(Self::BATCH);
        for (key, &addr) in keys.iter_mut().zip(&addrs[..n]) {
            *key = (addr >> 64) as u64;
        }
        self.ranks(&keys[..n], &mut out[..n]);
        if self.values.len() > 1 << 16 {
            for &rank in &out[..n] {
                prefetch(self.values.as_ptr().wrapping_add(rank as usize));
            }
        }
        for (out, &addr) in out[..n].iter_mut().zip(addrs) {
            *out = self.value(*out as usize, addr);
        }
    }

    /// Most addresses of one [`lookup_batch`](Self::lookup_batch).
    pub(crate) const BATCH: usize = 64;

    #[inline(always)]
    fn ranks(&self, keys: &[u64], ranks: &mut [u32]) {
        #[cfg(target_arch = "x86_64")]
        if self.avx512 {
            // JUSTIFICATION: one compare and one population count per node; twice as fast as AVX2.
            // SAFETY: `avx512` is set only where the CPU has the features the function needs.
            return unsafe { self.ranks_avx512(keys, ranks) };
        }
        self.ranks_with(keys, ranks, count_portable);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512vl,popcnt")]
    fn ranks_avx512(&self, keys: &[u64], ranks: &mut [u32]) {
        use core::arch::x86_64::{_mm512_cmpgt_epu64_mask, _mm512_load_si512, _mm512_set1_epi64};
        self.ranks_with(keys, ranks, |node, key| {
            // JUSTIFICATION: there is no safe load of a vector from memory.
            // SAFETY: a node is 64 bytes, aligned to 64.
            let borders = unsafe { _mm512_load_si512(node.0.as_ptr().cast()) };
            _mm512_cmpgt_epu64_mask(_mm512_set1_epi64(key as i64), borders).count_ones()
        });
    }

    #[inline(always)]
    fn ranks_with(
        &self,
        keys: &[u64],
        ranks: &mut [u32],
        count: impl Fn(&Node, u64) -> u32 + Copy,
    ) {
        if self.nodes.len() <= SMALL_NODES {
            for (rank, &key) in ranks.iter_mut().zip(keys) {
                *rank = self.rank(key, count) as u32;
            }
            return;
        }
        // Level by level over the whole batch: the next line of each key loads while the others advance.
        ranks.fill(0);
        for level in 0..self.depth {
            let leaf = level + 1 == self.depth;
            let fanout = if leaf { KEYS } else { FANOUT } as u32;
            let start = self.level_starts[level] as usize;
            let next_start = if leaf {
                start
            } else {
                self.level_starts[level + 1] as usize
            };
            let cold = !leaf && next_start > SMALL_NODES / 4;
            for (rank, &key) in ranks.iter_mut().zip(keys) {
                let below = count(self.node(start + *rank as usize), key);
                *rank = *rank * fanout + below;
                if cold {
                    prefetch(
                        self.nodes
                            .as_ptr()
                            .wrapping_add(next_start + *rank as usize),
                    );
                }
            }
        }
    }

    /// Number of borders at or below `key`.
    #[inline(always)]
    fn rank(&self, key: u64, count: impl Fn(&Node, u64) -> u32) -> usize {
        let Some((&leaves, inner)) = self.level_starts[..self.depth].split_last() else {
            return 0;
        };
        let mut at = 0;
        for &start in inner {
            at = at * FANOUT + count(self.node(start as usize + at), key) as usize;
        }
        at * KEYS + count(self.node(leaves as usize + at), key) as usize
    }

    #[inline(always)]
    fn node(&self, index: usize) -> &Node {
        debug_assert!(index < self.nodes.len());
        // JUSTIFICATION: a bounds check per node costs a tenth of the lookup.
        // SAFETY: `lay_out` gives every subtree that holds a border its node, and the search enters
        // only such subtrees: it turns right only behind a real border, never behind the filler.
        unsafe { self.nodes.get_unchecked(index) }
    }

    #[inline(always)]
    fn value(&self, rank: usize, addr: u128) -> u32 {
        debug_assert!(rank < self.values.len());
        // JUSTIFICATION: as in `node`.
        // SAFETY: a rank counts real borders, and there is one value more than borders.
        let value = unsafe { *self.values.get_unchecked(rank) };
        if value & DEEP == 0 {
            value
        } else {
            self.deep_value(value & !DEEP, addr as u64)
        }
    }

    #[cold]
    #[inline(never)]
    fn deep_value(&self, list: u32, lower: u64) -> u32 {
        let range = &self.deep_lists[list as usize];
        let list = &self.deep[range.start as usize..range.end as usize];
        // The first interval of a list starts at 0.
        list[list.partition_point(|&(start, _)| start <= lower) - 1].1
    }
}

/// Borders of `node` below `key`; vectorised by the compiler where the target has AVX2.
#[inline(always)]
fn count_portable(node: &Node, key: u64) -> u32 {
    node.0
        .iter()
        .map(|&border| u64::from(key > border))
        .sum::<u64>() as u32
}

/// Puts sorted `borders` into nodes: gives the nodes, the first node of each level and the depth.
fn lay_out(borders: &[u64]) -> io::Result<(Array<Node>, [u32; MAX_LEVELS], usize)> {
    if borders.is_empty() {
        return Ok((Array::new(0, HugePages::Transparent)?, [0; MAX_LEVELS], 0));
    }
    let mut sizes = vec![borders.len().div_ceil(KEYS)];
    while let Some(&below) = sizes.last()
        && below > 1
    {
        sizes.push(below.div_ceil(FANOUT));
    }
    sizes.reverse();
    let depth = sizes.len();
    if depth > MAX_LEVELS {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let mut nodes = Array::<Node>::new(sizes.iter().sum(), HugePages::Transparent)?;
    let mut level_starts = [0; MAX_LEVELS];
    let mut start = 0;
    for (level, &size) in sizes.iter().enumerate() {
        level_starts[level] = start as u32;
        // How many leaves hang below one child of this level.
        let span = FANOUT.pow((depth - 1 - level).saturating_sub(1) as u32);
        let is_leaf = level + 1 == depth;
        for (number, node) in nodes[start..start + size].iter_mut().enumerate() {
            for (slot, key) in node.0.iter_mut().enumerate() {
                let border = if is_leaf {
                    number * KEYS + slot
                } else {
                    // The smallest border below the child to the right of this key.
                    (number * FANOUT + slot + 1) * span * KEYS
                };
                *key = borders.get(border).copied().unwrap_or(u64::MAX);
            }
        }
        start += size;
    }
    Ok((nodes, level_starts, depth))
}

/// Consumes the routes longer than /64 inside the /64 `top` and gives its intervals.
fn sweep_lower_half(
    routes: &mut Peekable<impl Iterator<Item = (u128, u8, u32)>>,
    top: u64,
    cover: u32,
) -> Vec<(u64, u32)> {
    let mut lower = Sweep::new(cover);
    while let Some((prefix, len, value)) = routes.next_if(|route| (route.0 >> 64) as u64 == top) {
        lower.enter(prefix as u64, prefix.last(len) as u64, value);
    }
    lower.finish()
}

/// Turns nested ranges into disjoint intervals.
struct Sweep {
    /// (first key, value), ascending; neighbours differ in value.
    intervals: Vec<(u64, u32)>,
    /// Last key and value of the ranges around the current position, innermost last.
    open: Vec<(u64, u32)>,
    base: u32,
}

impl Sweep {
    /// `base` is the value where no range is.
    fn new(base: u32) -> Self {
        Self {
            intervals: vec![(0, base)],
            open: Vec::new(),
            base,
        }
    }

    /// A range begins. Ranges come ordered by first key, outer before inner.
    fn enter(&mut self, first: u64, last: u64, value: u32) {
        self.close_before(first);
        self.open.push((last, value));
        self.emit(first, value);
    }

    /// The value around `key`, which lies at or behind all ranges entered.
    fn value_at(&mut self, key: u64) -> u32 {
        self.close_before(key);
        self.current()
    }

    fn finish(mut self) -> Vec<(u64, u32)> {
        while let Some((last, _)) = self.open.pop() {
            // Behind the last key of the space nothing begins, not even outside this range.
            let Some(next) = last.checked_add(1) else {
                break;
            };
            self.emit(next, self.current());
        }
        self.intervals
    }

    fn close_before(&mut self, key: u64) {
        while let Some((last, _)) = self.open.pop_if(|(last, _)| *last < key) {
            self.emit(last + 1, self.current());
        }
    }

    fn current(&self) -> u32 {
        self.open.last().map_or(self.base, |&(_, value)| value)
    }

    fn emit(&mut self, first: u64, value: u32) {
        // A range that begins or ends where another did replaces what was said about that key.
        self.intervals.pop_if(|(start, _)| *start == first);
        if self
            .intervals
            .last()
            .is_none_or(|&(_, before)| before != value)
        {
            self.intervals.push((first, value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Portable and AVX-512 kernel, key by key and level by level, count the same borders.
    #[test]
    fn all_kernels_agree() {
        for count in [0, 1, 7, 8, 9, 72, 73, 648, 649, 20_000] {
            // Every second /64, so that each route gives two borders; the last key of the space among them.
            let tops = (0..count).map(|i| u64::MAX - 3 * i).rev();
            let routes = tops.map(|top| (u128::from(top) << 64, 64, (top % 1000) as u32 + 1));
            let mut tree = IntervalTree::build(routes).unwrap();
            let keys: Vec<u64> = (0..3 * count + 70)
                .map(|i| u64::MAX - i)
                .chain([0])
                .collect();
            for avx512 in [false, tree.avx512] {
                tree.avx512 = avx512;
                for keys in keys.chunks(IntervalTree::BATCH) {
                    let addrs: Vec<u128> =
                        keys.iter().map(|&key| u128::from(key) << 64 | 5).collect();
                    let mut out = vec![0; addrs.len()];
                    tree.lookup_batch(&addrs, &mut out);
                    for (&key, &value) in keys.iter().zip(&out) {
                        let behind = u64::MAX - key;
                        let hit = behind % 3 == 0 && behind < 3 * count;
                        let expected = if hit { (key % 1000) as u32 + 1 } else { 0 };
                        assert_eq!(value, expected, "key {key:#x} of {count}, AVX-512 {avx512}");
                        assert_eq!(tree.lookup(u128::from(key) << 64), expected);
                    }
                }
            }
            assert_eq!(tree.nodes.len() > SMALL_NODES, count == 20_000);
        }
    }
}
