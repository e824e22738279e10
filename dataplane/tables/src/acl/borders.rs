//! From a value to the interval it lies in: a 17-way search tree over the borders between intervals.
//!
//! `child = 17 * node + borders of the node below the key`, level by level without pointers; the last
//! step gives the rank of the interval. (An S+ tree, as in Slotin's "Static B-trees".)

use std::fmt::Debug;

use super::{
    simd::{Border, NODE},
    spans::{Point, Span},
};

const FANOUT: usize = NODE + 1;
/// 16 x 17^7 borders exceed 2^32.
const MAX_LEVELS: usize = 8;

/// The borders of one field.
#[derive(Clone, Debug)]
pub(super) struct Borders<T: Searched> {
    nodes: Vec<Node<T::Signed>>,
    /// First node of each level, root first.
    level_starts: [u32; MAX_LEVELS],
    depth: usize,
}

#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
struct Node<S>([S; NODE]);

/// A field that is searched.
pub trait Searched: Point + Debug + Send + Sync + 'static {
    /// The same bits moved so that signed order is the field's order.
    type Signed: Border + Debug + Send + Sync + 'static;
    /// Moves the bits.
    fn signed(self) -> Self::Signed;
}

macro_rules! searched {
    ($($int:ty => $signed:ty),*) => {$(
        impl Searched for $int {
            type Signed = $signed;

            #[inline(always)]
            fn signed(self) -> $signed {
                (self as $signed) ^ <$signed>::MIN
            }
        }
    )*};
}

searched!(u16 => i16, u32 => i32, u128 => i128);

impl<T: Searched> Borders<T> {
    /// Between intervals that start at `starts`: ascending, without repetition, the first one (at the
    /// smallest value) left out.
    fn new(starts: &[T]) -> Self {
        // Stored is the last value in front of a border, so that "above it" decides and the filler, the
        // largest value, is below no key.
        let last: Vec<T::Signed> = starts
            .iter()
            .filter_map(|start| start.before().map(T::signed))
            .collect();
        let mut levels: Vec<Vec<Node<T::Signed>>> = Vec::new();
        // Of each node of the level above: the first border under it.
        let mut firsts: Vec<T::Signed> = Vec::new();
        let mut leaves = Vec::new();
        for chunk in last.chunks(NODE) {
            leaves.push(node_of(chunk));
            firsts.push(chunk[0]);
        }
        levels.push(leaves);
        while firsts.len() > 1 {
            let mut above = Vec::new();
            let mut above_firsts = Vec::new();
            for children in firsts.chunks(FANOUT) {
                above.push(node_of(&children[1..]));
                above_firsts.push(children[0]);
            }
            levels.push(above);
            firsts = above_firsts;
        }
        let depth = if last.is_empty() { 0 } else { levels.len() };
        let mut nodes = Vec::new();
        let mut level_starts = [0; MAX_LEVELS];
        for (start, level) in level_starts.iter_mut().zip(levels.into_iter().rev()) {
            *start = nodes.len() as u32;
            nodes.extend(level);
        }
        Self {
            nodes,
            level_starts,
            depth,
        }
    }

    /// How many borders are at or below `key`.
    #[cfg(test)]
    fn rank(&self, key: T) -> usize {
        let mut found = 0;
        self.ranks([key].into_iter(), |_, rank| found = rank);
        found
    }

    /// For each of `keys`, calls `found` with its place among them and with how many borders are at or
    /// below it.
    #[inline(always)]
    pub fn ranks(&self, keys: impl Iterator<Item = T>, mut found: impl FnMut(usize, usize)) {
        // The depth is the same for all keys: loops of known length.
        match self.depth {
            0 => keys.enumerate().for_each(|(at, _)| found(at, 0)),
            1 => self.ranks_at::<1>(keys, found),
            2 => self.ranks_at::<2>(keys, found),
            3 => self.ranks_at::<3>(keys, found),
            _ => self.ranks_at::<MAX_LEVELS>(keys, found),
        }
    }

    #[inline(always)]
    fn ranks_at<const DEPTH: usize>(
        &self,
        keys: impl Iterator<Item = T>,
        mut found: impl FnMut(usize, usize),
    ) {
        let depth = if DEPTH == MAX_LEVELS {
            self.depth
        } else {
            DEPTH
        };
        let leaves = &self.nodes[self.level_starts[depth - 1] as usize..];
        for (place, key) in keys.enumerate() {
            let key = key.signed();
            let mut at = 0;
            for level in 0..depth - 1 {
                let node = &self.nodes[self.level_starts[level] as usize + at];
                at = FANOUT * at + T::Signed::count_below(&node.0, key);
            }
            found(
                place,
                NODE * at + T::Signed::count_below(&leaves[at].0, key),
            );
        }
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.nodes[..])
    }
}

fn node_of<S: Border>(borders: &[S]) -> Node<S> {
    let mut node = Node([S::PAD; NODE]);
    node.0[..borders.len()].copy_from_slice(borders);
    node
}

/// Walks a field from its smallest to its largest value, calling `row` for every interval over which the
/// set of rules does not change; gives the borders and what `row` gave for each interval. Neighbours
/// with equal answers become one interval.
///
/// `spans` are ranges and the rule that has them; `current` holds a bit per rule, with all rules that
/// are not in `spans` as they shall be.
pub(super) fn sweep<T: Searched>(
    spans: impl Iterator<Item = (u32, Span<T>)>,
    current: &mut [u64],
    mut row: impl FnMut(&[u64]) -> u32,
) -> (Borders<T>, Vec<u32>) {
    let mut events: Vec<(T, u32)> = Vec::new();
    for (rule, (first, last)) in spans {
        events.push((first, rule));
        // Behind the largest value nothing ends.
        events.extend(last.after().map(|next| (next, rule)));
    }
    events.sort_unstable();
    let mut starts = Vec::new();
    let mut values = Vec::new();
    let mut at = 0;
    let mut start = T::FIRST;
    loop {
        while let Some(&(_, rule)) = events.get(at).filter(|event| event.0 == start) {
            // Ranges of a rule neither overlap nor touch, so each event turns the rule on or off.
            current[rule as usize / 64] ^= 1 << (rule % 64);
            at += 1;
        }
        let value = row(current);
        if values.last() != Some(&value) {
            if start > T::FIRST {
                starts.push(start);
            }
            values.push(value);
        }
        let Some(&(next, _)) = events.get(at) else {
            break;
        };
        start = next;
    }
    (Borders::new(&starts), values)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranks_are_counts(starts in prop::collection::btree_set(1u32..20_000, 0..900), high: u32) {
            let mut starts: BTreeSet<u32> = starts;
            starts.insert(high.max(1));
            starts.insert(u32::MAX);
            let starts: Vec<u32> = starts.into_iter().collect();
            let borders = Borders::new(&starts);
            let wide: Vec<u128> = starts.iter().map(|&s| u128::from(s) << 90).collect();
            let wide_borders = Borders::new(&wide);
            let probes = starts.iter().flat_map(|&s| [s - 1, s, s.saturating_add(1)]);
            for probe in probes.chain([0, u32::MAX]) {
                let expected = starts.partition_point(|&s| s <= probe);
                prop_assert_eq!(borders.rank(probe), expected);
                prop_assert_eq!(wide_borders.rank(u128::from(probe) << 90), expected);
            }
        }

        #[test]
        fn all_ports(starts in prop::collection::btree_set(1u16.., 0..400)) {
            let starts: Vec<u16> = starts.into_iter().collect();
            let borders = Borders::new(&starts);
            let mut expected = 0;
            for port in 0..=u16::MAX {
                while starts.get(expected).is_some_and(|&start| start <= port) {
                    expected += 1;
                }
                prop_assert_eq!(borders.rank(port), expected);
            }
        }
    }
}
