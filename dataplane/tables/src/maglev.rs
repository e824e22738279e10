//! Maglev consistent hashing: which backend takes a new flow.
//!
//! Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section
//! 3.4. Every backend has a permutation of the table's slots that its identity alone decides; backends
//! take turns, and each turn claims the next slot of the permutation that is still free. Where a backend
//! leaves, its slots go to others, and few of the others' slots change hands: at the size for 100
//! backends, 0.6 % of them.
//!
//! Weights: a backend of weight `w` takes its turn number `k` (from 1) at the time `k / w`, which is compared exactly;
//! backends whose turn comes at the same time go in the order of their identities. Only the backend's own
//! weight is in this, so that another one's coming or going shifts nobody's turns. Equal weights are the paper's algorithm.
//!
//! Nothing is drawn at random: gateways that have the same backends build the same table, and a flow that
//! another gateway takes over finds the same backend there.

use std::{cmp::Ordering, collections::BinaryHeap, error::Error, fmt};

const FREE: u16 = u16::MAX;

/// A table of slots, each with the backend that takes the flows whose hash falls there.
///
/// Memory: two bytes per slot. Asked once per flow: the flow table remembers the answer.
///
/// ```
/// use tables::Maglev;
///
/// // Identity (a hash of the backend's name or address) and weight.
/// let backends = [(0x9b31, 2), (0x17c4, 1), (0x6d02, 1)];
/// let table = Maglev::build(&backends, Maglev::size_for(backends.len()))?;
/// assert!(table.pick(0x1234_5678_9abc_def0) < 3);
/// # Ok::<(), tables::MaglevError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Maglev {
    /// Positions in the list of backends.
    slots: Box<[u16]>,
}

/// Why a [`Maglev`] table could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MaglevError {
    /// No backend, or none whose weight is above 0.
    NoBackend,
    /// More backends than a slot can name.
    TooManyBackends {
        /// Number of backends.
        count: usize,
    },
    /// Two backends have the same identity.
    SameIdentity {
        /// Position of the one.
        first: usize,
        /// Position of the other.
        second: usize,
    },
    /// The size is no prime number, or exceeds [`Maglev::MOST_SLOTS`].
    Size {
        /// Slots asked for.
        size: usize,
    },
    /// Fewer slots than backends.
    TooSmall {
        /// Slots asked for.
        size: usize,
        /// Number of backends.
        backends: usize,
    },
}

impl Maglev {
    /// Most backends of a table.
    pub const MOST_BACKENDS: usize = FREE as usize;

    /// Bound on the size of a table.
    pub const MOST_SLOTS: usize = 1 << 24;

    /// A size at which shares are right to 1 % and, where one of the backends leaves, 1 % of the others'
    /// slots change hands on average, up to 2.5 % with few backends: 650 slots per backend, but not more than 65537 (128 KiB) for up to 1024 backends.
    pub const fn size_for(backends: usize) -> usize {
        match backends {
            0..=1 => 1021,
            2..=6 => 4093,
            7..=25 => 16381,
            26..=1024 => 65537,
            _ => 655_373,
        }
    }

    /// A table of `size` slots, a prime number, for backends given by identity and weight. The identity is a hash of what
    /// stays the same as long as the backend exists; the order of the list does not matter.
    ///
    /// A backend gets its weight's share of the slots, give or take a few slots: none where it has weight 0, and perhaps none
    /// where its share is below one slot.
    ///
    /// Takes time in `size` x log(`size`), and x log(backends) where weights differ: on the reference machine 1.6 ms for 65537 slots, with
    /// different weights 4 to 6 ms (`benches/nat.rs`).
    ///
    /// # Errors
    /// See [`MaglevError`].
    pub fn build(backends: &[(u64, u32)], size: usize) -> Result<Self, MaglevError> {
        let count = backends.len();
        if count > Self::MOST_BACKENDS {
            return Err(MaglevError::TooManyBackends { count });
        }
        if size > Self::MOST_SLOTS || !is_prime(size) {
            return Err(MaglevError::Size { size });
        }
        if size < count {
            let backends = count;
            return Err(MaglevError::TooSmall { size, backends });
        }
        let mut order: Vec<u16> = (0..count as u16).collect();
        let identity = |at: &u16| backends[usize::from(*at)].0;
        order.sort_by_key(|at| (identity(at), *at));
        let same = order
            .windows(2)
            .find(|two| identity(&two[0]) == identity(&two[1]));
        if let Some(&[first, second]) = same {
            let [first, second] = [first.into(), second.into()];
            return Err(MaglevError::SameIdentity { first, second });
        }
        order.retain(|at| backends[usize::from(*at)].1 != 0);
        let Some(&some) = order.first() else {
            return Err(MaglevError::NoBackend);
        };
        let weight = |at: &u16| backends[usize::from(*at)].1;
        let walk = |at| Walk::new(identity(at), size);
        let mut walks: Vec<Walk> = order.iter().map(walk).collect();
        let mut slots = vec![FREE; size].into_boxed_slice();
        if order.iter().all(|at| weight(at) == weight(&some)) {
            populate_in_turns(&mut slots, &order, &mut walks);
        } else {
            let weights: Vec<u32> = order.iter().map(weight).collect();
            populate_by_weight(&mut slots, &order, &weights, &mut walks);
        }
        Ok(Self { slots })
    }

    /// The backend, as a position in the list that the table was built from, for a flow of this hash.
    /// The upper bits decide: they must be well mixed.
    #[inline(always)]
    pub fn pick(&self, hash: u64) -> usize {
        let slot = (u128::from(hash) * self.slots.len() as u128) >> 64;
        self.slots[slot as usize].into()
    }

    /// The backend of every slot.
    pub fn slots(&self) -> &[u16] {
        &self.slots
    }
}

/// A backend's way through its permutation.
#[derive(Clone, Copy)]
struct Walk {
    next: usize,
    skip: usize,
}

impl Walk {
    fn new(identity: u64, size: usize) -> Self {
        let offset = mix(identity);
        let skip = mix(offset);
        let below = |hash: u64, bound: usize| ((u128::from(hash) * bound as u128) >> 64) as usize;
        Self {
            next: below(offset, size),
            skip: 1 + below(skip, size - 1),
        }
    }

    /// Gives the first free slot on the way to `backend`. There must be one.
    #[inline(always)]
    fn claim(&mut self, slots: &mut [u16], backend: u16) {
        loop {
            let at = self.next;
            self.next += self.skip;
            if self.next >= slots.len() {
                self.next -= slots.len();
            }
            if slots[at] == FREE {
                slots[at] = backend;
                return;
            }
        }
    }
}

fn populate_in_turns(slots: &mut [u16], order: &[u16], walks: &mut [Walk]) {
    let mut left = slots.len();
    while left != 0 {
        for (walk, backend) in walks.iter_mut().zip(order).take(left) {
            walk.claim(slots, *backend);
        }
        left = left.saturating_sub(order.len());
    }
}

fn populate_by_weight(slots: &mut [u16], order: &[u16], weights: &[u32], walks: &mut [Walk]) {
    let turn = |(rank, &weight)| Turn {
        number: 1,
        weight,
        rank,
    };
    let mut turns: BinaryHeap<Turn> = weights.iter().enumerate().map(turn).collect();
    for _ in 0..slots.len() {
        if let Some(mut turn) = turns.peek_mut() {
            walks[turn.rank].claim(slots, order[turn.rank]);
            turn.number += 1;
        }
    }
}

/// A backend's next turn: its time is `number / weight`.
#[derive(PartialEq, Eq)]
struct Turn {
    number: u32,
    weight: u32,
    rank: usize,
}

impl Ord for Turn {
    /// The greatest is first.
    fn cmp(&self, other: &Self) -> Ordering {
        let here = u64::from(self.number) * u64::from(other.weight);
        let there = u64::from(other.number) * u64::from(self.weight);
        there.cmp(&here).then(other.rank.cmp(&self.rank))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The finalizer of splitmix64: a permutation of 64-bit words. Part of the table's definition, as gateways must agree.
fn mix(word: u64) -> u64 {
    let z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

fn is_prime(n: usize) -> bool {
    n >= 2
        && (2..)
            .take_while(|d| d * d <= n)
            .all(|d| !n.is_multiple_of(d))
}

impl fmt::Display for MaglevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBackend => write!(f, "no backend with a weight above 0"),
            Self::TooManyBackends { count } => {
                let most = Maglev::MOST_BACKENDS;
                write!(f, "{count} backends exceed {most}, the most a table takes")
            }
            Self::SameIdentity { first, second } => {
                write!(f, "backends {first} and {second} have the same identity")
            }
            Self::Size { size } => {
                let most = Maglev::MOST_SLOTS;
                write!(f, "{size} slots: a prime number up to {most} is needed")
            }
            Self::TooSmall { size, backends } => {
                write!(f, "{size} slots are fewer than the {backends} backends")
            }
        }
    }
}

impl Error for MaglevError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Listing 1 of the paper: whole permutations, then `populate`. The turns of weighted backends are laid out
    /// in full and sorted.
    fn plain(backends: &[(u64, u32)], size: usize) -> Vec<usize> {
        let mut sorted: Vec<_> = backends.iter().enumerate().collect();
        sorted.sort_by_key(|(_, backend)| backend.0);
        let permutation: Vec<Vec<usize>> = sorted
            .iter()
            .map(|(_, backend)| {
                let (h1, h2) = (mix(backend.0), mix(mix(backend.0)));
                let offset = ((u128::from(h1) * size as u128) >> 64) as usize;
                let skip = ((u128::from(h2) * (size - 1) as u128) >> 64) as usize + 1;
                (0..size).map(|j| (offset + j * skip) % size).collect()
            })
            .collect();
        let mut turns: Vec<(u64, usize)> = Vec::new();
        for (i, (_, backend)) in sorted.iter().enumerate().filter(|(_, of)| of.1.1 != 0) {
            // Times k / w over the common denominator of all weights that the tests use.
            let unit = 5040 / u64::from(backend.1);
            turns.extend((1..=size as u64).map(|k| (k * unit, i)));
        }
        turns.sort();
        let mut next = vec![0; sorted.len()];
        let mut entry = vec![None; size];
        for (_, i) in turns.into_iter().take(size) {
            // The paper's inner loop.
            while entry[permutation[i][next[i]]].is_some() {
                next[i] += 1;
            }
            entry[permutation[i][next[i]]] = Some(sorted[i].0);
        }
        entry.into_iter().map(|entry| entry.unwrap()).collect()
    }

    fn alike(count: u64) -> Vec<(u64, u32)> {
        (0..count).map(|i| (mix(i), 1)).collect()
    }

    fn shares(table: &Maglev, backends: usize) -> Vec<usize> {
        let mut shares = vec![0; backends];
        for &slot in table.slots() {
            shares[usize::from(slot)] += 1;
        }
        shares
    }

    /// Part of the slots not of `gone` that change hands when it leaves.
    fn moved(backends: &[(u64, u32)], size: usize, gone: usize) -> f64 {
        let before = Maglev::build(backends, size).unwrap();
        let mut rest = backends.to_vec();
        rest.remove(gone);
        let after = Maglev::build(&rest, size).unwrap();
        let name = |table: &Maglev, backends: &[(u64, u32)], slot: usize| {
            backends[usize::from(table.slots()[slot])].0
        };
        let others: Vec<usize> = (0..size)
            .filter(|&slot| usize::from(before.slots()[slot]) != gone)
            .collect();
        let moved = others
            .iter()
            .filter(|&&slot| name(&before, backends, slot) != name(&after, &rest, slot));
        moved.count() as f64 / others.len() as f64
    }

    #[test]
    fn one_of_100_leaves_and_under_one_percent_of_the_others_move() {
        let backends = alike(100);
        for gone in (0..100).step_by(3) {
            let moved = moved(&backends, 65537, gone);
            assert!(moved > 0.0 && moved <= 0.01, "backend {gone}: {moved}");
        }
        // The same with weights of 1 to 3.
        let weighted: Vec<_> = backends
            .iter()
            .zip(0u32..)
            .map(|(b, i)| (b.0, 1 + i % 3))
            .collect();
        for gone in (0..100).step_by(9) {
            let moved = moved(&weighted, 65537, gone);
            assert!(moved > 0.0 && moved <= 0.01, "backend {gone}: {moved}");
        }
    }

    #[test]
    fn sizes_keep_what_their_documentation_says() {
        for count in [2, 3, 6, 7, 25, 26, 100, 1000] {
            let size = Maglev::size_for(count);
            let backends = alike(count as u64);
            let step = count.div_ceil(10);
            let moved: Vec<f64> = (0..count)
                .step_by(step)
                .map(|gone| moved(&backends, size, gone))
                .collect();
            let mean = moved.iter().sum::<f64>() / moved.len() as f64;
            let worst = moved
                .iter()
                .fold(0.0, |worst: f64, &moved| worst.max(moved));
            assert!(
                mean <= 0.01 && worst <= 0.025,
                "{count} backends: {mean} {worst}"
            );
            let table = Maglev::build(&backends, size).unwrap();
            for share in shares(&table, count) {
                let part = (share * count) as f64 / size as f64;
                assert!((0.99..=1.01).contains(&part), "{count} backends: {part}");
            }
        }
    }

    #[test]
    fn shares_follow_weights() {
        let backends: Vec<_> = (0..50)
            .map(|i| (mix(i), [1, 2, 5, 100, 0][i as usize % 5]))
            .collect();
        let table = Maglev::build(&backends, 65537).unwrap();
        let total: u32 = backends.iter().map(|backend| backend.1).sum();
        for (share, (_, weight)) in shares(&table, 50).into_iter().zip(&backends) {
            let expected = 65537.0 * f64::from(*weight) / f64::from(total);
            assert!(
                (share as f64 - expected).abs() <= 1.0 + expected * 0.02,
                "{weight}: {share} {expected}"
            );
        }
        let extreme = Maglev::build(&[(1, u32::MAX), (2, 1), (3, u32::MAX)], 1021).unwrap();
        assert_eq!(shares(&extreme, 3), [511, 0, 510]);
    }

    #[test]
    fn picks_are_spread_over_all_hashes() {
        let table = Maglev::build(&alike(7), 1021).unwrap();
        assert_eq!(table.pick(0), usize::from(table.slots()[0]));
        assert_eq!(table.pick(u64::MAX), usize::from(table.slots()[1020]));
        let mut counts = [0; 7];
        for i in 0..70_000 {
            counts[table.pick(mix(i))] += 1;
        }
        assert!(
            counts.iter().all(|count| (9_500..10_500).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn single_and_no_backend() {
        let table = Maglev::build(&[(5, 3)], 2).unwrap();
        assert_eq!(table.slots(), [0, 0]);
        let table = Maglev::build(&[(5, 0), (6, 1), (7, 0)], 13).unwrap();
        assert!(table.slots().iter().all(|&slot| slot == 1));
        for none in [&[][..], &[(1, 0), (2, 0)]] {
            assert_eq!(Maglev::build(none, 13), Err(MaglevError::NoBackend));
        }
    }

    #[test]
    fn bad_input_is_refused() {
        for size in [0, 1, 4, 65535, 65537 * 257, usize::MAX] {
            assert_eq!(
                Maglev::build(&alike(1), size),
                Err(MaglevError::Size { size })
            );
        }
        for size in (0..5000).map(Maglev::size_for) {
            assert!(is_prime(size), "{size}");
        }
        let error = Maglev::build(&alike(14), 13).unwrap_err();
        assert_eq!(
            error,
            MaglevError::TooSmall {
                size: 13,
                backends: 14
            }
        );
        let error = Maglev::build(&[(7, 1), (1, 1), (7, 0)], 13).unwrap_err();
        assert_eq!(
            error,
            MaglevError::SameIdentity {
                first: 0,
                second: 2
            }
        );
        assert_eq!(error.to_string(), "backends 0 and 2 have the same identity");
        let error = Maglev::build(&alike(65536), 655_373).unwrap_err();
        assert_eq!(error, MaglevError::TooManyBackends { count: 65536 });
    }

    /// The most backends that a slot can name.
    #[test]
    fn many_backends() {
        let table = Maglev::build(&alike(65535), 65537).unwrap();
        assert!(
            shares(&table, 65535)
                .iter()
                .all(|share| (1..=2).contains(share))
        );
    }

    proptest! {
        #[test]
        fn agrees_with_the_paper(
            weights in prop::collection::vec(0u32..=10, 1..20),
            seed: u64,
            same: bool,
            size in prop::sample::select(vec![23usize, 101, 251, 509]),
        ) {
            let weight = |weight| if same { 3 } else { weight };
            let backends: Vec<_> =
                weights.iter().zip(0..).map(|(w, i)| (mix(seed ^ i), weight(*w))).collect();
            match Maglev::build(&backends, size) {
                Ok(table) => {
                    let slots: Vec<usize> = table.slots().iter().map(|&slot| slot.into()).collect();
                    prop_assert_eq!(slots, plain(&backends, size));
                }
                Err(error) => {
                    prop_assert_eq!(error, MaglevError::NoBackend);
                    prop_assert!(backends.iter().all(|backend| backend.1 == 0));
                }
            }
        }

        /// The list's order is nothing, and who comes back finds everything as it was.
        #[test]
        fn only_identities_matter(count in 1usize..20, seed: u64, turn in 0usize..20) {
            let backends: Vec<_> = (0..count as u64).map(|i| (mix(seed ^ i), 1 + (i % 3) as u32)).collect();
            let mut turned = backends.clone();
            turned.rotate_left(turn % count);
            let names = |backends: &[(u64, u32)]| -> Vec<u64> {
                let table = Maglev::build(backends, 251).unwrap();
                table.slots().iter().map(|&slot| backends[usize::from(slot)].0).collect()
            };
            prop_assert_eq!(names(&backends), names(&turned));
        }
    }
}
