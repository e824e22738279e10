//! How the trees of tier 2 are grown.

use std::collections::{HashMap, VecDeque};

use super::{
    key::Address,
    lanes::{BLOCK, Bounds, blocks_of},
    spans::Span,
    tree::{Node, Ranks, Root, Window},
};

/// Most boxes of a leaf that can still be cut.
const LEAF: usize = BLOCK;
/// Deepest tree.
const DEPTH: usize = 24;
/// Copies of boxes in leaves per box, on average, beyond which nothing is cut any more.
const COPIES: usize = 8;
/// A prefix at least this long, in 32nds of the address width, makes an address specific.
const SPECIFIC: u32 = 12;
/// A range of at most this many ports makes a port specific.
const SPECIFIC_PORTS: u16 = 1 << 10;
/// Boxes that a window is judged by.
const SAMPLE: usize = 512;
/// A tree whose packets meet more blocks than this in a leaf, on average, is not worth having.
const LEAF_BLOCKS: f32 = 24.0;
/// As `LEAF_BLOCKS`, for a tree of at most `FEW` boxes.
const LEAF_BLOCKS_OF_FEW: f32 = 5.0;
/// Boxes for which tier 1 is a good form.
const FEW: usize = 512;
/// A tree for several parts whose packets meet more is given up for one tree for each part.
const GOOD_LEAF: f32 = 2.5;
/// Copies of a box, on average, that a tree for several parts may have.
const MOST_COPIES: f32 = 5.0;
/// Boxes by which it is decided which parts share a tree.
const GROUPING_SAMPLE: usize = 700;
/// Most boxes for which a root looks at one window only.
const PAIR_FROM: usize = 64;
/// Boxes that two windows are judged by.
const PAIR_SAMPLE: usize = 4096;
/// Width of two windows together.
const PAIR_WIDEST: u8 = 13;
/// Blocks with free lanes that the next leaves may use.
const OPEN: usize = 8;

/// What a builder has made.
pub(super) struct Grown<A: Address> {
    /// Roots, each with the least number of a rule in its tree.
    pub roots: Vec<(Root, u32)>,
    pub nodes: Vec<Node>,
    pub blocks: Vec<A::Block>,
    pub boxes: Vec<Bounds<A>>,
    /// Numbers of the rules that no tree serves well, ascending.
    pub left_over: Vec<u32>,
}

pub(super) struct Builder<A: Address> {
    boxes: Vec<Bounds<A>>,
    /// For each box, what it allows in each of `fields`.
    spans: Vec<Span<u32>>,
    fields: Vec<Field>,
    nodes: Vec<Node>,
    blocks: Vec<A::Block>,
    ranks: Ranks,
    /// Boxes by which of their fields are specific.
    parts: [Vec<u32>; 6],
    /// Blocks with free lanes, the youngest last, and the boxes in them.
    open: VecDeque<(usize, Vec<u32>)>,
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

    /// Whether a tree over `boxes` boxes is better than tier 1.
    fn is_worth_it(self, boxes: usize) -> bool {
        self.blocks
            <= if boxes > FEW {
                LEAF_BLOCKS
            } else {
                LEAF_BLOCKS_OF_FEW
            }
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

impl<A: Address> Builder<A> {
    pub fn new(ranks: Ranks) -> Self {
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
            // For leaves without boxes, though nobody looks there.
            blocks: vec![A::EMPTY],
            ranks,
            parts: Default::default(),
            open: VecDeque::new(),
            known: HashMap::new(),
            placed: 0,
            room: 0,
            met: 0,
            deep: 0,
            counts: Vec::new(),
        }
    }

    /// Adds a box; rules come in the order of their numbers.
    pub fn add(&mut self, bounds: &Bounds<A>) {
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
        let prefix = |len: u32| len * 32 >= SPECIFIC * A::BITS;
        let ports = |(first, last): Span<u16>| last - first <= SPECIFIC_PORTS;
        let part = match (prefix(bounds.source.1), prefix(bounds.destination.1)) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) if ports(bounds.destination_ports) => 3,
            (false, false) if ports(bounds.source_ports) => 4,
            (false, false) => 5,
        };
        self.parts[part].push(at);
    }

    /// Trees over all boxes.
    pub fn grow(mut self) -> Grown<A> {
        let mut roots = Vec::new();
        let mut left_over: Vec<u32> = Vec::new();
        let first = |builder: &Self, part: &[u32]| {
            let first = part.first().map(|&at| builder.boxes[at as usize].rule);
            first.unwrap_or(u32::MAX)
        };
        let parts = std::mem::take(&mut self.parts);
        for group in self.grouped(parts) {
            let (root, quality) = self.rooted(&group.boxes);
            let single = group.parts.len() == 1;
            if quality.blocks <= GOOD_LEAF || single && quality.is_worth_it(group.boxes.len()) {
                roots.push((root, first(&self, &group.boxes)));
                continue;
            }
            self.undo(quality.before);
            // The sample promised too much: a tree for each part, after all.
            let singly = if single {
                vec![group.boxes]
            } else {
                group.parts
            };
            for part in singly {
                let (root, quality) = self.rooted(&part);
                if quality.is_worth_it(part.len()) {
                    roots.push((root, first(&self, &part)));
                } else {
                    self.undo(quality.before);
                    left_over.extend(part.iter().map(|&at| self.boxes[at as usize].rule));
                }
            }
        }
        left_over.sort_unstable();
        left_over.dedup();
        self.blocks.shrink_to_fit();
        self.nodes.shrink_to_fit();
        Grown {
            roots,
            nodes: self.nodes,
            blocks: self.blocks,
            boxes: self.boxes,
            left_over,
        }
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
        self.open.clear();
    }

    /// A tree over `part`, ascending, and what it is like.
    fn rooted(&mut self, part: &[u32]) -> (Root, Quality) {
        self.judged(part, |builder| {
            let (first_child, windows) = match builder.choose_two(part) {
                Some(cuts) => {
                    let windows = cuts.map(|(at, shift, width)| builder.window(at, shift, width));
                    (builder.children_of_two(part, cuts), windows)
                }
                None => match builder.node(part, 0) {
                    leaf if leaf.is_leaf() => return Root::Leaf(leaf),
                    inner => {
                        let none = Window {
                            width: 0,
                            ..inner.window()
                        };
                        (inner.first(), [inner.window(), none])
                    }
                },
            };
            Root::Inner {
                first_child,
                windows,
            }
        })
    }

    /// As [`rooted`](Self::rooted), but sooner made: to see what it would be like.
    fn tree(&mut self, part: &[u32]) -> Quality {
        self.judged(part, |builder| builder.node(part, 0)).1
    }

    fn judged<T>(&mut self, part: &[u32], make: impl FnOnce(&mut Self) -> T) -> (T, Quality) {
        let before = self.mark();
        self.room = self.placed + COPIES * part.len().max(64);
        let root = make(self);
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
    fn grouped(&mut self, parts: [Vec<u32>; 6]) -> Vec<Group> {
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
        let quality = self.tree(&sample);
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
                let first = self.children(&children, depth + 1);
                let rank = self.ranks.of(self.boxes[list[0] as usize].rule);
                Node::inner(first, self.window(field, shift, width), rank)
            }
        };
        self.known.insert(list.into(), node);
        node
    }

    /// Nodes for `lists`, next to each other; the first of them.
    fn children(&mut self, lists: &[Vec<u32>], depth: usize) -> usize {
        let first = self.nodes.len();
        self.nodes.resize(first + lists.len(), Node::EMPTY);
        for (at, list) in lists.iter().enumerate() {
            self.nodes[first + at] = self.node(list, depth);
        }
        first
    }

    fn window(&self, field: usize, shift: u8, width: u8) -> Window {
        let Field { word, lowest, .. } = self.fields[field];
        Window {
            word,
            shift: lowest + shift,
            width,
        }
    }

    /// The two windows that part `list` best together, if they do so better than the best single one.
    fn choose_two(&mut self, list: &[u32]) -> Option<[(usize, u8, u8); 2]> {
        if list.len() <= PAIR_FROM {
            return None;
        }
        let step = list.len().div_ceil(PAIR_SAMPLE);
        let sample: Vec<u32> = list.iter().copied().step_by(step).collect();
        let scale = list.len() as f32 / sample.len() as f32;
        let widest = (list.len() / (LEAF / 2)).ilog2() as u8 + 1;
        let widest = widest.min(PAIR_WIDEST);
        let spans: Vec<Vec<Span<u32>>> = (0..self.fields.len())
            .map(|field| sample.iter().map(|&at| self.span(at, field)).collect())
            .collect();
        // The best place for each width in each field.
        let mut places = Vec::new();
        let mut best_score = match self.choose(list) {
            Some((field, shift, width)) => {
                score(&spans[field], shift, width, scale, &mut self.counts)
            }
            None => f32::INFINITY,
        };
        for (field, spans) in spans.iter().enumerate() {
            if spans.iter().all(|span| *span == spans[0]) {
                continue;
            }
            let bits = self.fields[field].width;
            for width in 3..=bits.min(widest - 2) {
                // Where to cut is seen with fewer boxes than how well.
                let few: Vec<Span<u32>> = spans.iter().copied().step_by(8).collect();
                let scale = scale * spans.len() as f32 / few.len() as f32;
                let at = (0..=bits - width).map(|shift| {
                    let score = score(&few, shift, width, scale, &mut self.counts);
                    (score, shift)
                });
                if let Some((_, shift)) = at.min_by(|a, b| a.0.total_cmp(&b.0)) {
                    places.push((field, shift, width));
                }
            }
        }
        let mut best = None;
        for (at, &one) in places.iter().enumerate() {
            for &other in &places[at + 1..] {
                let width = one.2 + other.2;
                if one.0 == other.0 || width > widest || width + 3 < widest {
                    continue;
                }
                let score = score_of_two(
                    [&spans[one.0], &spans[other.0]],
                    [one, other].map(|(_, shift, width)| (shift, width)),
                    scale,
                    &mut self.counts,
                );
                if score < best_score {
                    best_score = score;
                    best = Some([one, other]);
                }
            }
        }
        best
    }

    fn children_of_two(&mut self, list: &[u32], windows: [(usize, u8, u8); 2]) -> usize {
        let [
            (one, one_shift, one_width),
            (other, other_shift, other_width),
        ] = windows;
        let mut children = vec![Vec::new(); 1 << (one_width + other_width)];
        for &at in list {
            let (first, last) = values(self.span(at, one), one_shift, one_width);
            let (low, high) = values(self.span(at, other), other_shift, other_width);
            for row in first..=last {
                let row = row << other_width;
                for child in &mut children[row | low..=row | high] {
                    child.push(at);
                }
            }
        }
        self.children(&children, 1)
    }

    fn leaf(&mut self, list: &[u32], depth: usize) -> Node {
        let Some(&first) = list.first() else {
            return Node::EMPTY;
        };
        let rank = self.ranks.of(self.boxes[first as usize].rule);
        let blocks = list.len().div_ceil(BLOCK);
        self.placed += list.len();
        self.met += list.len() * blocks;
        self.deep += list.len() * depth;
        let place = if blocks == 1 {
            self.share(list)
        } else {
            let place = self.blocks.len();
            let blocks = self.compiled(list);
            self.blocks.extend(blocks);
            place
        };
        Node::leaf(place, blocks, rank)
    }

    /// A block with the boxes of `list` in it, and others: what matches them is right as well.
    fn share(&mut self, list: &[u32]) -> usize {
        let mut best = None;
        for (at, (_, boxes)) in self.open.iter().enumerate() {
            let all = union(boxes, list);
            let grows = all.len() - boxes.len();
            if all.len() <= BLOCK && best.as_ref().is_none_or(|(_, least, _)| grows < *least) {
                best = Some((at, grows, all));
            }
        }
        if let Some((at, _, all)) = best {
            let place = self.open[at].0;
            self.blocks[place] = self.compiled(&all).remove(0);
            if all.len() == BLOCK {
                self.open.remove(at);
            } else {
                self.open[at].1 = all;
            }
            return place;
        }
        let place = self.blocks.len();
        let blocks = self.compiled(list);
        self.blocks.extend(blocks);
        if list.len() < BLOCK {
            if self.open.len() == OPEN {
                self.open.pop_front();
            }
            self.open.push_back((place, list.to_vec()));
        }
        place
    }

    fn compiled(&self, list: &[u32]) -> Vec<A::Block> {
        let boxes: Vec<Bounds<A>> = list.iter().map(|&at| self.boxes[at as usize]).collect();
        blocks_of(&boxes)
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
    let n = spans.len() as f32 * scale;
    merit(copies as f32 * scale, squares as f32, scale, n, width)
}

/// As [`score`], by two windows: for each of two fields the spans, the shift and the width.
fn score_of_two(
    spans: [&[Span<u32>]; 2],
    windows: [(u8, u8); 2],
    scale: f32,
    counts: &mut Vec<i32>,
) -> f32 {
    let [(one_shift, one_width), (other_shift, other_width)] = windows;
    let (rows, columns) = (1usize << one_width, 1usize << other_width);
    let stride = columns + 1;
    counts.clear();
    counts.resize((rows + 1) * stride, 0);
    for (&one, &other) in spans[0].iter().zip(spans[1]) {
        let (first, last) = values(one, one_shift, one_width);
        let (low, high) = values(other, other_shift, other_width);
        counts[first * stride + low] += 1;
        counts[first * stride + high + 1] -= 1;
        counts[(last + 1) * stride + low] -= 1;
        counts[(last + 1) * stride + high + 1] += 1;
    }
    let (mut copies, mut squares) = (0, 0i64);
    for row in 0..rows {
        let mut count = 0;
        let (above, below) = counts.split_at_mut((row + 1) * stride);
        for (own, next) in above[row * stride..].iter().zip(below) {
            count += *own;
            copies += i64::from(count);
            squares += i64::from(count) * i64::from(count);
            *next += *own;
        }
    }
    let n = spans[0].len() as f32 * scale;
    merit(
        copies as f32 * scale,
        squares as f32,
        scale,
        n,
        one_width + other_width,
    )
}

/// How good a cut of `n` boxes into `2^width` children is that makes `copies` of them, where the squares of the numbers of boxes in
/// the children sum to `squares` in a sample of each `scale`th box.
fn merit(copies: f32, squares: f32, scale: f32, n: f32, width: u8) -> f32 {
    // Packets are taken to be spread as the boxes are. In a sample, a box alone in a child stands for others.
    let left = (squares * scale / copies - 1.0) * scale + 1.0;
    let left = left.max(LEAF as f32 / 2.0);
    let children = (width as f32).exp2();
    left.log2()
        + 1.5 * (copies / n).log2()
        + 0.1 * (children / n).max(1.0).log2()
        + 0.02 * f32::from(width)
}

/// The union of two ascending lists.
fn union(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut all = [a, b].concat();
    all.sort_unstable();
    all.dedup();
    all
}
