//! Tier 2: cut trees. Rules become boxes ([`lanes`](super::lanes)); an inner node looks at a few bits
//! of one field of the packet and has a child for each of their values; a leaf compares the packet with a block
//! or a few.
//!
//! The bits may be any window of a field, not only those behind the bits that were looked at before:
//! leaves check whole boxes, so a node only has to tell boxes apart. (Daly and Torng, "ByteCuts: fast
//! packet classification by interior bit extraction", INFOCOM 2018.) A box that leaves the bits of a window
//! open is in many children; so boxes are first parted by which of their addresses are
//! specific, and each part gets a tree of its own. (Vamanan, Voskuilen and Vijaykumar, "EffiCuts", SIGCOMM 2010.)
//! A packet walks every tree; groups of packets walk together, so that their cache misses overlap.
//!
//! ```text
//! node, 8 bytes: │ first child │ word │ shift │ width │ leaf = 0 │     child = (word >> shift) & ((1 << width) - 1)
//! leaf, 8 bytes: │ first block │ number of blocks     │ leaf = 1 │
//! ```

use std::collections::HashMap;

use super::{
    NO_MATCH,
    key::{Address, Key},
    lanes::{BLOCK, Bounds, Checks, blocks_of, boxes_of},
    live::Live,
    lowered::Lowered,
    spans::Span,
};
use crate::prefetch::prefetch;

/// Keys that walk together.
const GROUP: usize = 32;
/// Boxes of a rule; one that needs more is covered by a larger box and checked.
const BOXES: usize = 16;
/// Most boxes of a leaf that can still be cut.
const LEAF: usize = BLOCK;
/// Deepest tree.
const DEPTH: usize = 24;
/// Copies of boxes in leaves per box, on average, beyond which nothing is cut any more.
const COPIES: usize = 8;
/// A prefix at least this long, in 32nds of the address width, makes an address specific.
const SPECIFIC: u32 = 12;
/// Boxes that a window is judged by.
const SAMPLE: usize = 512;
/// A tree whose packets meet more blocks than this in a leaf, on average, is not worth having.
const LEAF_BLOCKS: f32 = 24.0;
/// A tree for several parts whose packets meet more is given up for one tree for each part.
const GOOD_LEAF: f32 = 2.5;
/// Copies of a box, on average, that a tree for several parts may have.
const MOST_COPIES: f32 = 5.0;
/// Boxes by which it is decided which parts share a tree.
const GROUPING_SAMPLE: usize = 2000;

/// The trees of a part of a rule list.
#[derive(Clone, Debug)]
pub(super) struct Trees<A: Address> {
    roots: Vec<Node>,
    nodes: Vec<Node>,
    blocks: Vec<A::Block>,
    /// Whether blocks are more than the first-level cache holds.
    large: bool,
    /// Whether nodes are more than the second-level cache holds.
    many: bool,
    pub checks: Checks<A>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Node(u64);

impl Node {
    const LEAF: u64 = 1 << 63;

    fn inner(first_child: usize, window: Window) -> Self {
        Self(
            first_child as u64
                | u64::from(window.word) << 32
                | u64::from(window.shift) << 40
                | u64::from(window.width) << 48,
        )
    }

    fn leaf(first_block: usize, blocks: usize) -> Self {
        Self(Self::LEAF | first_block as u64 | (blocks as u64) << 32)
    }

    #[inline(always)]
    fn is_leaf(self) -> bool {
        self.0 & Self::LEAF != 0
    }

    /// The first child or block.
    #[inline(always)]
    fn first(self) -> usize {
        self.0 as u32 as usize
    }

    #[inline(always)]
    fn blocks(self) -> usize {
        (self.0 >> 32) as usize & 0xffff
    }

    #[inline(always)]
    fn child<A: Address>(self, probe: &A::Probe) -> usize {
        let word = A::word(probe, (self.0 >> 32) as usize & 15);
        let window = word >> (self.0 >> 40 & 31) & ((1 << (self.0 >> 48 & 31)) - 1);
        self.first() + window as usize
    }
}

/// Bits of a packet.
#[derive(Clone, Copy, Debug)]
struct Window {
    /// As [`Lanes::word`](super::lanes::Lanes::word) counts.
    word: u8,
    /// Lowest bit in the word.
    shift: u8,
    width: u8,
}

impl<A: Address> Trees<A> {
    /// Trees over the rules whose numbers are in `numbers`, ascending, and the numbers of those that no tree
    /// serves well.
    pub fn new(checks: Checks<A>, numbers: &[u32]) -> (Self, Vec<u32>) {
        let mut builder = Builder::<A>::default();
        let mut parts: [Vec<u32>; 4] = Default::default();
        for &number in numbers {
            let Some(rule) = &checks.rules[number as usize] else {
                continue;
            };
            for bounds in boxes_of(rule, number, BOXES) {
                let specific = |len: u32| usize::from(len * 32 >= SPECIFIC * A::BITS);
                let part = specific(bounds.source.1) * 2 + specific(bounds.destination.1);
                parts[part].push(builder.add(&bounds));
            }
        }
        let mut roots = Vec::new();
        let mut left_over: Vec<u32> = Vec::new();
        for group in builder.grouped(parts) {
            let (root, quality) = builder.tree(&group.boxes);
            if quality.blocks <= GOOD_LEAF || group.parts.len() == 1 && quality.is_worth_it() {
                roots.push(root);
                continue;
            }
            // The sample promised too much: a tree for each part, after all.
            builder.undo(quality.before);
            let singly = if group.parts.len() > 1 {
                group.parts
            } else {
                vec![group.boxes]
            };
            for part in singly {
                let (root, quality) = builder.tree(&part);
                if quality.is_worth_it() {
                    roots.push(root);
                } else {
                    builder.undo(quality.before);
                    left_over.extend(part.iter().map(|&at| builder.boxes[at as usize].rule));
                }
            }
        }
        left_over.sort_unstable();
        left_over.dedup();
        builder.blocks.shrink_to_fit();
        builder.nodes.shrink_to_fit();
        let trees = Self {
            roots,
            large: size_of_val(&builder.blocks[..]) > 64 << 10,
            many: size_of_val(&builder.nodes[..]) > 256 << 10,
            nodes: builder.nodes,
            blocks: builder.blocks,
            checks,
        };
        (trees, left_over)
    }

    /// Lowers every `out` to the first rule that matches, if that is smaller.
    #[inline]
    pub fn classify(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        for (keys, out) in keys.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
            self.classify_group(keys, out, live);
        }
    }

    #[inline(always)]
    fn classify_group(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        let n = keys.len().min(GROUP);
        let mut probes = [A::NOTHING; GROUP];
        for (probe, key) in probes.iter_mut().zip(keys) {
            *probe = A::probe(key);
        }
        for &root in &self.roots {
            let mut at = [root; GROUP];
            self.walk(root, &probes, &mut at[..n]);
            self.search(&at[..n], &probes, keys, out, live);
        }
    }

    /// Takes every packet from the root to its leaf.
    #[inline(always)]
    fn walk(&self, root: Node, probes: &[A::Probe; GROUP], at: &mut [Node]) {
        if root.is_leaf() {
            return;
        }
        // Packets that are not at a leaf yet.
        let mut active = [0u8; GROUP];
        let mut count = 0;
        for (i, at) in at.iter_mut().enumerate() {
            *at = self.nodes[root.child::<A>(&probes[i])];
            active[count] = i as u8;
            count += usize::from(!at.is_leaf());
            self.prefetch(*at, &probes[i]);
        }
        while count != 0 {
            let mut left = 0;
            for turn in 0..count {
                let i = usize::from(active[turn]) % GROUP;
                let node = self.nodes[at[i].child::<A>(&probes[i])];
                at[i] = node;
                active[left] = i as u8;
                left += usize::from(!node.is_leaf());
                self.prefetch(node, &probes[i]);
            }
            count = left;
        }
    }

    /// Asks for what a packet at `node` reads next, where nodes are many.
    #[inline(always)]
    fn prefetch(&self, node: Node, probe: &A::Probe) {
        if self.many {
            // Nonsense at a leaf, but a hint may be nonsense.
            prefetch(self.nodes.as_ptr().wrapping_add(node.child::<A>(probe)));
        }
    }

    /// Lowers `out` to the first match in the leaf of each packet.
    #[inline(always)]
    fn search(
        &self,
        at: &[Node],
        probes: &[A::Probe; GROUP],
        keys: &[Key<A>],
        out: &mut [u32],
        live: Live<'_>,
    ) {
        if self.large {
            for node in at {
                let block = self.blocks.as_ptr().wrapping_add(node.first()).cast::<u8>();
                for line in 0..size_of::<A::Block>() / 64 {
                    prefetch(block.wrapping_add(64 * line));
                }
            }
        }
        // Packets whose leaf has further blocks; all have a first one. Whether a block holds a match at all
        // cannot be predicted, so there is no branch on it.
        let mut active: [u8; GROUP] = std::array::from_fn(|i| i as u8);
        let mut count = at.len();
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
                active[left] = i as u8;
                left += usize::from(found == NO_MATCH && round + 1 < at[i].blocks());
            }
            count = left;
            round += 1;
        }
    }

    /// Bytes of nodes and leaves.
    pub fn bytes(&self) -> usize {
        size_of_val(&self.nodes[..]) + size_of_val(&self.blocks[..])
    }

    pub fn describe(&self) -> String {
        format!(
            "{} trees, {} nodes, {} blocks",
            self.roots.len(),
            self.nodes.len(),
            self.blocks.len()
        )
    }
}

struct Builder<A: Address> {
    boxes: Vec<Bounds<A>>,
    /// For each box, what it allows in each of `fields`.
    spans: Vec<Span<u32>>,
    fields: Vec<Field>,
    nodes: Vec<Node>,
    blocks: Vec<A::Block>,
    /// Trees of lists that have occurred: a list determines its tree.
    known: HashMap<Box<[u32]>, Node>,
    /// Copies of boxes in leaves so far, and how many there may be.
    placed: usize,
    room: usize,
    /// Sum over leaves of boxes times blocks, and of boxes: how many blocks a packet meets.
    met: usize,
    /// Sum over leaves of boxes times depth.
    deep: usize,
    counts: Vec<i32>,
}

/// A field as part of a word.
#[derive(Clone, Copy, Debug)]
struct Field {
    word: u8,
    lowest: u8,
    width: u8,
}

/// What packets meet in a tree, taken to be spread as the boxes are.
#[derive(Clone, Copy)]
struct Quality {
    /// Where the tree began.
    before: Mark,
    /// Nodes on the way.
    depth: f32,
    /// Blocks of the leaf.
    blocks: f32,
    /// Copies of a box.
    copies: f32,
}

impl Quality {
    /// About the cycles of a lookup; copies have their price because they fill the cache.
    fn price(self, copies: f32) -> f32 {
        if copies > MOST_COPIES {
            return f32::INFINITY;
        }
        20.0 + 15.0 * self.depth + 15.0 * self.blocks + 4.0 * (copies - 1.0)
    }

    fn is_worth_it(self) -> bool {
        self.blocks <= LEAF_BLOCKS
    }
}

/// Boxes that share a tree.
struct Group {
    boxes: Vec<u32>,
    /// The parts they come from.
    parts: Vec<Vec<u32>>,
    price: f32,
}

#[derive(Clone, Copy)]
struct Mark {
    deep: usize,
    nodes: usize,
    blocks: usize,
    placed: usize,
    met: usize,
}

impl<A: Address> Default for Builder<A> {
    fn default() -> Self {
        let address_words = (A::BITS / 16) as u8;
        let whole = (0..address_words).map(|word| Field {
            word,
            lowest: 0,
            width: 32,
        });
        let ports = [16, 0].map(|lowest| Field {
            word: address_words,
            lowest,
            width: 16,
        });
        let protocol = Field {
            word: address_words + 1,
            lowest: 0,
            width: 8,
        };
        Self {
            boxes: Vec::new(),
            spans: Vec::new(),
            fields: whole.chain(ports).chain([protocol]).collect(),
            nodes: Vec::new(),
            blocks: vec![A::EMPTY],
            known: HashMap::new(),
            placed: 0,
            room: 0,
            met: 0,
            deep: 0,
            counts: Vec::new(),
        }
    }
}

impl<A: Address> Builder<A> {
    fn add(&mut self, bounds: &Bounds<A>) -> u32 {
        let at = self.boxes.len() as u32;
        self.boxes.push(*bounds);
        for (address, len) in [bounds.source, bounds.destination] {
            for word in 0..A::BITS / 32 {
                let value = (address.widen() >> (A::BITS - 32 * (word + 1))) as u32;
                let fixed = len.saturating_sub(32 * word).min(32);
                let open = u32::MAX.checked_shr(fixed).unwrap_or(0);
                self.spans.push((value, value | open));
            }
        }
        for ports in [bounds.source_ports, bounds.destination_ports] {
            self.spans.push((u32::from(ports.0), u32::from(ports.1)));
        }
        self.spans.push(match bounds.protocol {
            Some(protocol) => (u32::from(protocol), u32::from(protocol)),
            None => (0, 255),
        });
        at
    }

    fn mark(&self) -> Mark {
        Mark {
            nodes: self.nodes.len(),
            blocks: self.blocks.len(),
            placed: self.placed,
            met: self.met,
            deep: self.deep,
        }
    }

    fn undo(&mut self, mark: Mark) {
        self.nodes.truncate(mark.nodes);
        self.blocks.truncate(mark.blocks);
        self.placed = mark.placed;
        self.met = mark.met;
        self.deep = mark.deep;
        self.known.clear();
    }

    /// A tree over `part`, ascending, and what it is like.
    fn tree(&mut self, part: &[u32]) -> (Node, Quality) {
        let before = self.mark();
        self.room = self.placed + COPIES * part.len().max(64);
        let root = self.node(part, 0);
        let placed = (self.placed - before.placed).max(1) as f32;
        let quality = Quality {
            before,
            depth: (self.deep - before.deep) as f32 / placed,
            blocks: (self.met - before.met) as f32 / placed,
            copies: placed / part.len().max(1) as f32,
        };
        (root, quality)
    }

    /// Parts put together where one tree for both costs less than two: judged by trees over samples.
    fn grouped(&mut self, parts: [Vec<u32>; 4]) -> Vec<Group> {
        let all: usize = parts.iter().map(Vec::len).sum();
        let step = all.div_ceil(GROUPING_SAMPLE).max(1);
        let mut groups: Vec<Group> = Vec::new();
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            let price = self.price(&part, step);
            let (boxes, parts) = (part.clone(), vec![part]);
            groups.push(Group {
                boxes,
                parts,
                price,
            });
        }
        'again: loop {
            for one in 0..groups.len() {
                for other in one + 1..groups.len() {
                    let mut boxes = [&groups[one].boxes[..], &groups[other].boxes].concat();
                    boxes.sort_unstable();
                    let price = self.price(&boxes, step);
                    if price < groups[one].price + groups[other].price {
                        let other = groups.remove(other);
                        let group = &mut groups[one];
                        group.parts.extend(other.parts);
                        (group.boxes, group.price) = (boxes, price);
                        continue 'again;
                    }
                }
            }
            return groups;
        }
    }

    /// The price of a tree over `part`, as far as a tree over each `step`th box of it tells.
    fn price(&mut self, part: &[u32], step: usize) -> f32 {
        let sample: Vec<u32> = part.iter().copied().step_by(step).collect();
        let (_, quality) = self.tree(&sample);
        self.undo(quality.before);
        // A box that is open where others are cut has a copy for each of the others.
        quality.price(1.0 + (quality.copies - 1.0) * step as f32)
    }

    /// The tree of the boxes in `list`, ascending.
    fn node(&mut self, list: &[u32], depth: usize) -> Node {
        if let Some(&known) = self.known.get(list) {
            return known;
        }
        let window = if list.len() <= LEAF || depth == DEPTH || self.placed >= self.room {
            None
        } else {
            self.choose(list)
        };
        let node = match window {
            None => self.leaf(list, depth),
            Some((field, shift, width)) => {
                let children = self.cut(list, field, shift, width);
                let first = self.nodes.len();
                self.nodes.resize(first + children.len(), Node(0));
                for (at, child) in children.iter().enumerate() {
                    self.nodes[first + at] = self.node(child, depth + 1);
                }
                let Field { word, lowest, .. } = self.fields[field];
                Node::inner(
                    first,
                    Window {
                        word,
                        shift: lowest + shift,
                        width,
                    },
                )
            }
        };
        self.known.insert(list.into(), node);
        node
    }

    fn leaf(&mut self, list: &[u32], depth: usize) -> Node {
        if list.is_empty() {
            // One block for all of them: it matches nothing, and a leaf of one block needs no branch.
            return Node::leaf(0, 1);
        }
        let boxes: Vec<Bounds<A>> = list.iter().map(|&at| self.boxes[at as usize]).collect();
        let first = self.blocks.len();
        self.blocks.extend(blocks_of(&boxes));
        let blocks = self.blocks.len() - first;
        self.placed += list.len();
        self.met += list.len() * blocks;
        self.deep += list.len() * depth;
        Node::leaf(first, blocks)
    }

    fn span(&self, at: u32, field: usize) -> Span<u32> {
        self.spans[at as usize * self.fields.len() + field]
    }

    fn cut(&self, list: &[u32], field: usize, shift: u8, width: u8) -> Vec<Vec<u32>> {
        let mut children = vec![Vec::new(); 1 << width];
        for &at in list {
            let (first, last) = values(self.span(at, field), shift, width);
            for child in &mut children[first..=last] {
                child.push(at);
            }
        }
        children
    }

    /// The window that parts `list` best: field, shift within it and width. `None` if none parts it.
    fn choose(&mut self, list: &[u32]) -> Option<(usize, u8, u8)> {
        let step = list.len().div_ceil(SAMPLE);
        let sample: Vec<u32> = list.iter().copied().step_by(step).collect();
        let scale = list.len() as f32 / sample.len() as f32;
        // Enough children for leaves of a few boxes.
        let wanted = (list.len() / (LEAF / 2))
            .next_power_of_two()
            .trailing_zeros() as u8;
        let widest = wanted.clamp(1, 12);
        let mut best = None;
        let mut best_score = f32::INFINITY;
        for field in 0..self.fields.len() {
            let spans: Vec<Span<u32>> = sample.iter().map(|&at| self.span(at, field)).collect();
            if spans.iter().all(|span| *span == spans[0]) {
                continue;
            }
            let bits = self.fields[field].width;
            let mut width = widest.min(bits);
            while width != 0 {
                for shift in 0..=bits - width {
                    let score = score(&spans, shift, width, scale, &mut self.counts);
                    if score < best_score {
                        best_score = score;
                        best = Some((field, shift, width));
                    }
                }
                width = if width > 4 { width - 2 } else { width - 1 };
            }
        }
        // Somewhat better than not to cut at all.
        best.filter(|_| best_score < (list.len() as f32).log2() - 0.1)
    }
}

/// Which values of the window a range allows: from first to last.
#[inline(always)]
fn values((first, last): Span<u32>, shift: u8, width: u8) -> (usize, usize) {
    let mask = (1u32 << width) - 1;
    let (low, high) = (first >> shift, last >> shift);
    if u64::from(low) >> width == u64::from(high) >> width {
        ((low & mask) as usize, (high & mask) as usize)
    } else {
        (0, mask as usize)
    }
}

/// How good it is to cut by a window: the logarithm of the boxes that a packet is left with, plus a price for
/// copies and for children. Less is better.
fn score(spans: &[Span<u32>], shift: u8, width: u8, scale: f32, counts: &mut Vec<i32>) -> f32 {
    let children = 1usize << width;
    counts.clear();
    counts.resize(children + 1, 0);
    for &span in spans {
        let (first, last) = values(span, shift, width);
        counts[first] += 1;
        counts[last + 1] -= 1;
    }
    let (mut count, mut copies, mut squares) = (0, 0i64, 0i64);
    for &change in &counts[..children] {
        count += change;
        copies += i64::from(count);
        squares += i64::from(count) * i64::from(count);
    }
    // Packets are taken to be spread as the boxes are. In a sample, a box alone in a child stands for others.
    let n = spans.len() as f32;
    let left = (squares as f32 / copies as f32 - 1.0) * scale + 1.0;
    let left = left.max(LEAF as f32 / 2.0);
    let copied = copies as f32 / n;
    left.log2()
        + 1.5 * copied.log2()
        + 0.1 * (children as f32 / (n * scale)).max(1.0).log2()
        + 0.02 * f32::from(width)
}

/// Whether rules can go into trees: those that refer to sets cannot.
pub(super) fn suits<A: Address>(rule: &Lowered<A>) -> bool {
    !rule.uses_sets()
}
