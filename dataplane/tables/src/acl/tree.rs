//! Tier 2: cut trees. Rules become boxes ([`lanes`](super::lanes)); an inner node looks at a few bits
//! of one field of the packet and has a child for each of their values; a leaf compares the packet with a block
//! or a few.
//!
//! The bits may be any window of a field, not only those behind the bits that were looked at before:
//! leaves check whole boxes, so a node only has to tell boxes apart. (Daly and Torng, "ByteCuts: fast
//! packet classification by interior bit extraction", INFOCOM 2018.) A root may look at two windows at once. A box that leaves
//! the bits of a window open is in many children; so boxes are first parted by which of their fields are
//! specific, and each part gets a tree of its own. (Vamanan, Voskuilen and Vijaykumar, "EffiCuts", SIGCOMM 2010.)
//!
//! A packet walks the trees in the order of their first rules. Each node carries the rank of the first rule below it: a packet that
//! has found an earlier one goes no further, so the trees of rules that are far back cost little. Groups of packets walk together,
//! so that neither their cache misses nor their branches stand in each other's way.
//!
//! Leaves of few boxes share blocks: whatever a block holds is compared in full, so boxes of another leaf do no harm.
//! ([`growth`](super::growth) makes the trees.)
//!
//! ```text
//! node, 8 bytes: │ first child │ word, shift, width │ rank │ leaf = 0 │     child = (word >> shift) & ((1 << width) - 1)
//! leaf, 8 bytes: │ first block │ number of blocks   │ rank │ leaf = 1 │
//! ```

use std::sync::Arc;

use super::{
    NO_MATCH,
    classes::SetClasses,
    growth::Builder,
    key::{Address, Key},
    lanes::{BLOCK, Checks, boxes_of},
    live::Live,
    lowered::Lowered,
};
use crate::prefetch::prefetch;

/// Keys that walk together.
const GROUP: usize = 64;
/// Fewer keys than these walk one after the other.
const FEW: usize = 4;
/// Boxes of a rule; one that needs more is covered by a larger box and checked.
const BOXES: usize = 16;

/// The trees of a part of a rule list.
#[derive(Clone, Debug)]
pub(super) struct Trees<A: Address> {
    /// In the order of their first rules.
    trees: Vec<Tree>,
    nodes: Vec<Node>,
    blocks: Vec<A::Block>,
    ranks: Ranks,
    /// Whether blocks are more than the first-level cache holds.
    large: bool,
    /// Whether nodes are more than the second-level cache holds.
    many: bool,
    pub checks: Checks<A>,
}

#[derive(Clone, Copy, Debug)]
struct Tree {
    root: Root,
    /// The rank of the first rule in it.
    rank: u16,
}

/// Where a tree begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Root {
    /// The tree is a leaf.
    Leaf(Node),
    /// Children by two windows at once, the first of which counts more.
    Inner {
        first_child: usize,
        windows: [Window; 2],
    },
}

/// Rule numbers made coarse, so that a leaf has room for that of its first rule.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ranks {
    shift: u32,
}

impl Ranks {
    /// The rank of leaves without rules.
    const NONE: u16 = 0x7fff;

    /// For rule numbers up to `last`.
    pub fn new(last: u32) -> Self {
        let bits = u32::BITS - last.leading_zeros();
        // One bit less than there is room for, so that no rule has the last rank.
        Self {
            shift: bits.saturating_sub(14),
        }
    }

    /// At most that of a later rule; that of [`NO_MATCH`] is below [`NONE`](Self::NONE).
    #[inline(always)]
    pub fn of(self, rule: u32) -> u16 {
        (rule >> self.shift).min(u32::from(Self::NONE) - 1) as u16
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node(u64);

impl Node {
    const LEAF: u64 = 1 << 63;
    /// A leaf without boxes.
    pub const EMPTY: Self = Self(Self::LEAF | (Ranks::NONE as u64) << 48);
    /// Most blocks of a leaf.
    pub const BLOCKS: usize = 0xffff;

    pub fn inner(first_child: usize, window: Window, rank: u16) -> Self {
        debug_assert!(window.word < 16 && window.shift < 32 && window.width < 16);
        Self(
            first_child as u64
                | u64::from(window.word) << 32
                | u64::from(window.shift) << 36
                | u64::from(window.width) << 41
                | u64::from(rank) << 48,
        )
    }

    pub fn leaf(first_block: usize, blocks: usize, rank: u16) -> Self {
        debug_assert!(blocks <= Self::BLOCKS && rank < Ranks::NONE);
        Self(Self::LEAF | first_block as u64 | (blocks as u64) << 32 | u64::from(rank) << 48)
    }

    #[inline(always)]
    pub fn is_leaf(self) -> bool {
        self.0 & Self::LEAF != 0
    }

    /// The first child or block.
    #[inline(always)]
    pub fn first(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    fn blocks(self) -> usize {
        (self.0 >> 32) as usize & Self::BLOCKS
    }

    /// The window of an inner node.
    pub fn window(self) -> Window {
        Window {
            word: (self.0 >> 32) as u8 & 15,
            shift: (self.0 >> 36) as u8 & 31,
            width: (self.0 >> 41) as u8 & 15,
        }
    }

    /// The rank of the first rule in or below it.
    #[inline(always)]
    pub fn rank(self) -> u16 {
        (self.0 >> 48) as u16 & Ranks::NONE
    }

    #[inline(always)]
    fn child<A: Address>(self, probe: &A::Probe) -> usize {
        let word = A::word(probe, (self.0 >> 32) as usize & 15);
        let window = word >> (self.0 >> 36 & 31) & ((1 << (self.0 >> 41 & 15)) - 1);
        self.first() + window as usize
    }
}

/// Bits of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// As [`Lanes::word`](super::lanes::Lanes::word) counts.
    pub word: u8,
    /// Lowest bit in the word.
    pub shift: u8,
    pub width: u8,
}

impl Window {
    #[inline(always)]
    fn of<A: Address>(self, probe: &A::Probe) -> usize {
        let word = A::word(probe, usize::from(self.word));
        (word >> (self.shift & 31) & ((1 << (self.width & 31)) - 1)) as usize
    }
}

/// Where a packet goes from a root.
#[inline(always)]
fn first_step<A: Address>(first_child: usize, windows: [Window; 2], probe: &A::Probe) -> usize {
    let [one, other] = windows;
    first_child + (one.of::<A>(probe) << (other.width & 31) | other.of::<A>(probe))
}

impl<A: Address> Trees<A> {
    /// Trees over those of `rules` whose numbers are in `numbers`, ascending, and the numbers of those that no tree
    /// serves well.
    pub fn new(
        rules: &[Option<Lowered<A>>],
        sets: &Arc<SetClasses>,
        numbers: &[u32],
    ) -> (Self, Vec<u32>) {
        let ranks = Ranks::new(numbers.last().copied().unwrap_or(0));
        let mut builder = Builder::<A>::new(ranks);
        for &number in numbers {
            let Some(rule) = &rules[number as usize] else {
                continue;
            };
            for bounds in boxes_of(rule, number, BOXES) {
                builder.add(&bounds);
            }
        }
        let grown = builder.grow();
        let mut trees: Vec<Tree> = (grown.roots.into_iter())
            .map(|(root, first)| Tree {
                root,
                rank: ranks.of(first),
            })
            .collect();
        trees.sort_by_key(|tree| tree.rank);
        let trees = Self {
            trees,
            ranks,
            large: size_of_val(&grown.blocks[..]) > 64 << 10,
            many: size_of_val(&grown.nodes[..]) > 256 << 10,
            nodes: grown.nodes,
            blocks: grown.blocks,
            checks: Checks::new(rules, &grown.boxes, sets),
        };
        (trees, grown.left_over)
    }

    /// Lowers every `out` to the first rule that matches, if that is smaller.
    #[inline]
    pub fn classify(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        for (keys, out) in keys.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
            if keys.len() < FEW {
                for (key, out) in keys.iter().zip(out) {
                    *out = self.classify_single(key, *out, live);
                }
            } else {
                self.classify_group(keys, out, live);
            }
        }
    }

    /// The first rule that `key` matches, if it is before `out`; else `out`.
    fn classify_single(&self, key: &Key<A>, mut out: u32, live: Live<'_>) -> u32 {
        let probe = A::probe(key);
        for tree in &self.trees {
            let rank = self.ranks.of(out);
            let mut node = match tree.root {
                _ if tree.rank > rank => break,
                Root::Leaf(leaf) => leaf,
                Root::Inner {
                    first_child,
                    windows,
                } => self.nodes[first_step::<A>(first_child, windows, &probe)],
            };
            while !node.is_leaf() && node.rank() <= rank {
                node = self.nodes[node.child::<A>(&probe)];
            }
            if node.rank() > rank {
                continue;
            }
            for block in &self.blocks[node.first()..][..node.blocks()] {
                let lanes = u64::from(A::matching(block, &probe));
                let block = std::slice::from_ref(block);
                let found = self.checks.first(block, lanes, key, live);
                if found != NO_MATCH {
                    out = out.min(found);
                    break;
                }
            }
        }
        out
    }

    #[inline(always)]
    fn classify_group(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        let mut probes = [A::NOTHING; GROUP];
        for (probe, key) in probes.iter_mut().zip(keys) {
            *probe = A::probe(key);
            // Of the next group, if the keys come from a long array.
            prefetch(std::ptr::from_ref(key).wrapping_add(GROUP));
        }
        let mut ranks = [0; GROUP];
        for (rank, &out) in ranks.iter_mut().zip(&*out) {
            *rank = self.ranks.of(out);
        }
        // Packets that can still find an earlier rule in the trees to come.
        let mut open: [u8; GROUP] = std::array::from_fn(|i| i as u8);
        let mut opened = out.len().min(GROUP);
        for tree in &self.trees {
            let mut left = 0;
            for turn in 0..opened {
                let i = open[turn % GROUP];
                open[left % GROUP] = i;
                left += usize::from(tree.rank <= ranks[usize::from(i) % GROUP]);
            }
            opened = left;
            if opened == 0 {
                return;
            }
            let mut at = [Node::EMPTY; GROUP];
            let mut active = [0u8; GROUP];
            let count = match tree.root {
                Root::Leaf(leaf) => {
                    at = [leaf; GROUP];
                    active = open;
                    opened
                }
                Root::Inner {
                    first_child,
                    windows,
                } => {
                    let first = |probe: &_| first_step::<A>(first_child, windows, probe);
                    self.walk(
                        first,
                        &probes,
                        &ranks,
                        &open[..opened],
                        &mut at,
                        &mut active,
                    )
                }
            };
            self.search(
                (&at, &probes),
                &mut ranks,
                &mut active[..count],
                keys,
                out,
                live,
            );
        }
    }

    /// Takes the packets `open` from the root, whose children `first` tells, to their leaves. Those that can find an earlier rule
    /// than they have are then in front in `reached`; says how many.
    #[inline(always)]
    fn walk(
        &self,
        first: impl Fn(&A::Probe) -> usize,
        probes: &[A::Probe; GROUP],
        ranks: &[u16; GROUP],
        open: &[u8],
        at: &mut [Node; GROUP],
        reached: &mut [u8; GROUP],
    ) -> usize {
        // Packets that are not at a leaf yet.
        let mut inside = [0u8; GROUP];
        let (mut count, mut done) = (0, 0);
        for &i in open {
            let own = usize::from(i) % GROUP;
            let node = self.nodes[first(&probes[own])];
            at[own] = node;
            let wanted = usize::from(node.rank() <= ranks[own]);
            let leaf = usize::from(node.is_leaf());
            inside[count % GROUP] = i;
            count += wanted & !leaf;
            reached[done % GROUP] = i;
            done += wanted & leaf;
            self.prefetch(node, &probes[own]);
        }
        while count != 0 {
            let mut left = 0;
            for turn in 0..count {
                let i = inside[turn % GROUP];
                let own = usize::from(i) % GROUP;
                let node = self.nodes[at[own].child::<A>(&probes[own])];
                at[own] = node;
                let wanted = usize::from(node.rank() <= ranks[own]);
                let leaf = usize::from(node.is_leaf());
                inside[left % GROUP] = i;
                left += wanted & !leaf;
                reached[done % GROUP] = i;
                done += wanted & leaf;
                self.prefetch(node, &probes[own]);
            }
            count = left;
        }
        done
    }

    /// Asks for what a packet at `node` reads next, where nodes are many.
    #[inline(always)]
    fn prefetch(&self, node: Node, probe: &A::Probe) {
        if self.many {
            // Nonsense at a leaf, but a hint may be nonsense.
            prefetch(self.nodes.as_ptr().wrapping_add(node.child::<A>(probe)));
        }
    }

    /// Lowers `out` of the packets `active` to the first match in their leaves.
    #[inline(always)]
    fn search(
        &self,
        (at, probes): (&[Node; GROUP], &[A::Probe; GROUP]),
        ranks: &mut [u16; GROUP],
        active: &mut [u8],
        keys: &[Key<A>],
        out: &mut [u32],
        live: Live<'_>,
    ) {
        if self.large {
            for &i in &*active {
                let first = at[usize::from(i) % GROUP].first();
                let block = self.blocks.as_ptr().wrapping_add(first).cast::<u8>();
                for line in 0..size_of::<A::Block>() / 64 {
                    prefetch(block.wrapping_add(64 * line));
                }
            }
        }
        // Whether a block holds a match at all cannot be predicted, so there is no branch on it.
        let mut count = active.len();
        let mut round = 0;
        while count != 0 {
            let mut left = 0;
            for turn in 0..count {
                let i = usize::from(active[turn]) % GROUP;
                let block = &self.blocks[at[i].first() + round];
                let lanes = A::matching(block, &probes[i]);
                let lane = (lanes | 1 << (BLOCK - 1)).trailing_zeros();
                let rule = A::rules(block)[lane as usize];
                let mut found = if lanes == 0 { NO_MATCH } else { rule };
                if !live.all() || found > NO_MATCH >> 1 && found != NO_MATCH {
                    let block = std::slice::from_ref(block);
                    found = self.checks.first(block, u64::from(lanes), &keys[i], live);
                }
                out[i] = out[i].min(found);
                ranks[i] = ranks[i].min(self.ranks.of(found));
                active[left] = i as u8;
                left += usize::from(found == NO_MATCH && round + 1 < at[i].blocks());
            }
            count = left;
            round += 1;
        }
    }

    /// What `keys` meet in each tree, on average: nodes on the way, blocks that are compared. Trees and leaves whose rules all come
    /// behind one that was found before are left out, as in a lookup.
    pub fn lengths(&self, keys: &[Key<A>]) -> Vec<(f64, f64)> {
        let mut lengths = vec![(0, 0); self.trees.len()];
        for key in keys {
            let probe = A::probe(key);
            let mut out = NO_MATCH;
            for (tree, (nodes, blocks)) in self.trees.iter().zip(&mut lengths) {
                let best = self.ranks.of(out);
                let mut node = match tree.root {
                    _ if tree.rank > best => break,
                    Root::Leaf(leaf) => leaf,
                    Root::Inner {
                        first_child,
                        windows,
                    } => {
                        *nodes += 1;
                        self.nodes[first_step::<A>(first_child, windows, &probe)]
                    }
                };
                while !node.is_leaf() && node.rank() <= best {
                    node = self.nodes[node.child::<A>(&probe)];
                    *nodes += 1;
                }
                if node.rank() > best {
                    continue;
                }
                for block in &self.blocks[node.first()..][..node.blocks()] {
                    *blocks += 1;
                    let lanes = u64::from(A::matching(block, &probe));
                    let block = std::slice::from_ref(block);
                    let found = self.checks.first(block, lanes, key, Live::ALL);
                    if found != NO_MATCH {
                        out = out.min(found);
                        break;
                    }
                }
            }
        }
        let per_key = |sum: usize| sum as f64 / keys.len().max(1) as f64;
        let averages = lengths.into_iter();
        averages
            .map(|(nodes, blocks)| (per_key(nodes), per_key(blocks)))
            .collect()
    }

    /// Bytes of nodes and leaves.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.nodes[..]) + size_of_val(&self.blocks[..]) + self.checks.rules.bytes()
    }

    pub fn describe(&self) -> String {
        format!(
            "{} trees, {} nodes, {} blocks",
            self.trees.len(),
            self.nodes.len(),
            self.blocks.len()
        )
    }
}

/// Whether rules can go into trees: those that refer to sets cannot.
pub(super) fn suits<A: Address>(rule: &Lowered<A>) -> bool {
    !rule.uses_sets()
}
