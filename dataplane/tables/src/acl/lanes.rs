//! Rules as boxes that fit vector lanes, eight to a block, and tier 0: all of them compared at once.
//!
//! ```text
//! Block<2, 1> (IPv4), three lines: │ value: source, destination │ low, high: ports │ rule │ shifts, protocol, its mask │
//!                                    2 x 8 x 4 B                  2 x 8 x 4 B        32 B    8 x (2 + 1 + 1) B
//! ```
//!
//! A box is a prefix of each address, a range of each port and one or every protocol. Most rules are one
//! box; a list of prefixes, say, becomes several. A rule that would become too many, or that refers to
//! sets, is covered by a box that is too large, and a hit there is checked against the rule itself.

use std::{fmt::Debug, sync::Arc};

use super::{
    NO_MATCH,
    classes::SetClasses,
    key::{Address, Key, Layer4},
    live::Live,
    lowered::{Kept, Lowered, LoweredSide},
    simd::matching_lanes,
    spans::{Point, Span},
};

/// Lanes of a block.
pub(super) const BLOCK: usize = 8;

/// Set in a lane's rule number if a hit must be checked against the rule itself.
const CHECK: u32 = 1 << 31;

/// Eight boxes over addresses of `W / 2` words each; `P` is a quarter of `W + 2`, rounded up.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Block<const W: usize, const P: usize> {
    pub(super) value: [[u32; BLOCK]; W],
    /// Lowest source port in the upper half, lowest destination port in the lower.
    pub(super) low: [u32; BLOCK],
    pub(super) high: [u32; BLOCK],
    pub(super) rule: [u32; BLOCK],
    /// Bytes, four to a word, the lowest first: for each word of `value`, how many low bits of it do not matter (32: none does);
    /// then the protocol; then 255 if the protocol matters, else 0.
    pub(super) bytes: [[u32; BLOCK]; P],
}

/// A packet in the form that lanes are compared with.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Probe<const N: usize> {
    /// The addresses' words, most significant first, source first; then the ports, source in the upper
    /// half; then the protocol; then filler up to a power of two. ICMP type and code stand in the place of
    /// ports. A packet without either has ports 0 here and `high` all ones: only a box over all ports holds it.
    pub(super) words: [u32; N],
    /// The ports again.
    pub(super) high: u32,
}

/// The lane form of an address.
pub trait Lanes: Sized {
    /// Eight boxes.
    type Block: Clone + Debug + Send + Sync + 'static;
    /// A packet.
    type Probe: Copy + Debug;

    /// A block whose lanes match nothing.
    const EMPTY: Self::Block;

    /// Some packet.
    const NOTHING: Self::Probe;

    /// The lane form of `key`.
    fn probe(key: &Key<Self>) -> Self::Probe;
    /// Word `word` of [`Probe::words`]; it wraps around.
    fn word(probe: &Self::Probe, word: usize) -> u32;
    /// Lanes that match, a bit each.
    fn matching(block: &Self::Block, probe: &Self::Probe) -> u32;
    /// Rule numbers of the lanes.
    fn rules(block: &Self::Block) -> &[u32; BLOCK];
    /// Writes a lane.
    fn set(block: &mut Self::Block, lane: usize, bounds: &Bounds<Self>);
}

/// A box and the rule it stands for.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<A> {
    /// Source prefix and its length.
    pub(super) source: (A, u32),
    /// Destination prefix and its length.
    pub(super) destination: (A, u32),
    pub(super) source_ports: Span<u16>,
    pub(super) destination_ports: Span<u16>,
    pub(super) protocol: Option<u8>,
    pub(super) rule: u32,
    /// Whether every packet in the box matches the rule.
    pub(super) exact: bool,
}

macro_rules! lanes {
    ($int:ty, $words:literal, $filled:literal) => {
        impl Lanes for $int {
            type Block = Block<{ 2 * $words }, { (2 * $words + 2usize).div_ceil(4) }>;
            type Probe = Probe<$filled>;

            const EMPTY: Self::Block = Block::EMPTY;
            const NOTHING: Self::Probe = Probe {
                words: [0; $filled],
                high: 0,
            };

            #[inline(always)]
            fn probe(key: &Key<Self>) -> Self::Probe {
                let mut words = [0; $filled];
                for word in 0..$words {
                    let down = 32 * ($words - 1 - word);
                    words[word] = (key.source >> down) as u32;
                    words[$words + word] = (key.destination >> down) as u32;
                }
                let ports = u32::from(key.source_port) << 16 | u32::from(key.destination_port);
                // The ports of a packet that has none are 0 in its key.
                words[2 * $words] = ports;
                words[2 * $words + 1] = u32::from(key.protocol);
                let opaque = key.layer4 == Layer4::Opaque;
                Probe {
                    words,
                    high: if opaque { u32::MAX } else { ports },
                }
            }

            #[inline(always)]
            fn word(probe: &Self::Probe, word: usize) -> u32 {
                probe.words[word % $filled]
            }

            #[inline(always)]
            fn matching(block: &Self::Block, probe: &Self::Probe) -> u32 {
                matching_lanes(block, probe)
            }

            #[inline(always)]
            fn rules(block: &Self::Block) -> &[u32; BLOCK] {
                &block.rule
            }

            fn set(block: &mut Self::Block, lane: usize, bounds: &Bounds<Self>) {
                for word in 0..$words {
                    let down = 32 * ($words - 1 - word) as u32;
                    for (at, (address, len)) in
                        [(word, bounds.source), ($words + word, bounds.destination)]
                    {
                        block.value[at][lane] = (address >> down) as u32;
                        let fixed = len.saturating_sub(32 * word as u32).min(32);
                        block.set_byte(at, lane, (32 - fixed) as u8);
                    }
                }
                let pack = |source: u16, destination: u16| {
                    u32::from(source) << 16 | u32::from(destination)
                };
                block.low[lane] = pack(bounds.source_ports.0, bounds.destination_ports.0);
                block.high[lane] = pack(bounds.source_ports.1, bounds.destination_ports.1);
                block.set_byte(2 * $words, lane, bounds.protocol.unwrap_or(0));
                let matters = if bounds.protocol.is_some() { 255 } else { 0 };
                block.set_byte(2 * $words + 1, lane, matters);
                block.rule[lane] = bounds.rule | if bounds.exact { 0 } else { CHECK };
            }
        }
    };
}

lanes!(u32, 1, 4);
lanes!(u128, 4, 16);

impl<const W: usize, const P: usize> Block<W, P> {
    /// Lanes that match nothing: their port ranges end before they begin.
    pub(super) const EMPTY: Self = Self {
        value: [[0; BLOCK]; W],
        low: [u32::MAX; BLOCK],
        high: [0; BLOCK],
        rule: [0; BLOCK],
        bytes: [[0; BLOCK]; P],
    };

    /// Byte `at` of `lane` in [`bytes`](Self::bytes).
    pub(super) fn byte(&self, at: usize, lane: usize) -> u8 {
        self.bytes[at / 4][lane].to_le_bytes()[at % 4]
    }

    fn set_byte(&mut self, at: usize, lane: usize, byte: u8) {
        let shift = 8 * (at % 4);
        let word = &mut self.bytes[at / 4][lane];
        *word = *word & !(0xff << shift) | u32::from(byte) << shift;
    }
}

/// `boxes` in blocks, in their order.
pub(super) fn blocks_of<A: Address>(boxes: &[Bounds<A>]) -> Vec<A::Block> {
    let block = |chunk: &[Bounds<A>]| {
        let mut block = A::EMPTY;
        for (lane, bounds) in chunk.iter().enumerate() {
            A::set(&mut block, lane, bounds);
        }
        block
    };
    boxes.chunks(BLOCK).map(block).collect()
}

/// The boxes of `rule`, numbered `number`: at most `limit` (at least 1). All are exact if that is possible.
pub(super) fn boxes_of<A: Address>(rule: &Lowered<A>, number: u32, limit: usize) -> Vec<Bounds<A>> {
    let mut exact = !rule.uses_sets();
    let protocols = protocols_of(rule);
    let sources = prefixes_of(&rule.source.addresses);
    let destinations = prefixes_of(&rule.destination.addresses);
    let (source_ports, destination_ports) = ports_of(rule);
    // A port criterion that holds for every port is still not met by a packet without ports.
    let all = (0, u16::MAX);
    if rule.needs_ports && source_ports.contains(&all) && destination_ports.contains(&all) {
        exact = false;
    }
    let mut protocols = protocols;
    let mut fields = (sources, destinations, source_ports, destination_ports);
    let paired = rule.icmp.is_some();
    loop {
        let ports = if paired {
            fields.2.len()
        } else {
            fields.2.len() * fields.3.len()
        };
        let lens = [fields.0.len(), fields.1.len(), ports, protocols.len()];
        let total = lens
            .iter()
            .fold(1usize, |all, &len| all.saturating_mul(len));
        if total <= limit {
            break;
        }
        // Widen the longest list to one box that covers it.
        exact = false;
        let longest = (0..4).max_by_key(|&field| lens[field]).unwrap_or(0);
        match longest {
            0 => fields.0 = vec![covering(&rule.source)],
            1 => fields.1 = vec![covering(&rule.destination)],
            2 => {
                fields.2 = vec![hull(&fields.2)];
                fields.3 = vec![hull(&fields.3)];
            }
            _ => protocols = vec![None],
        }
    }
    let mut boxes = Vec::new();
    for &protocol in &protocols {
        for &source in &fields.0 {
            for &destination in &fields.1 {
                for (at, &source_ports) in fields.2.iter().enumerate() {
                    let own = if paired && fields.2.len() == fields.3.len() {
                        &fields.3[at..=at]
                    } else {
                        &fields.3[..]
                    };
                    boxes.extend(own.iter().map(|&destination_ports| Bounds {
                        source,
                        destination,
                        source_ports,
                        destination_ports,
                        protocol,
                        rule: number,
                        exact,
                    }));
                }
            }
        }
    }
    boxes
}

fn protocols_of<A: Address>(rule: &Lowered<A>) -> Vec<Option<u8>> {
    if rule.protocols.len() == 256 {
        return vec![None];
    }
    rule.protocols.iter().map(Some).collect()
}

/// Port ranges; for ICMP, type and code ranges that belong together pair by pair.
fn ports_of<A: Address>(rule: &Lowered<A>) -> (Vec<Span<u16>>, Vec<Span<u16>>) {
    let all = (0, u16::MAX);
    if let Some(spans) = &rule.icmp {
        return spans.iter().flat_map(|&span| types_and_codes(span)).unzip();
    }
    let side = |side: &LoweredSide<A>| {
        if side.ports.accepted_sets.is_empty() {
            side.ports.accepted.clone()
        } else {
            vec![all]
        }
    };
    if rule.needs_ports {
        (side(&rule.source), side(&rule.destination))
    } else {
        (vec![all], vec![all])
    }
}

/// A range of (type << 8 | code) as ranges of types with ranges of codes.
fn types_and_codes((first, last): Span<u16>) -> Vec<(Span<u16>, Span<u16>)> {
    let (first_type, first_code) = (first >> 8, first & 0xff);
    let (last_type, last_code) = (last >> 8, last & 0xff);
    if first_type == last_type {
        return vec![((first_type, first_type), (first_code, last_code))];
    }
    let mut parts = Vec::new();
    let (mut whole_first, mut whole_last) = (first_type, last_type);
    if first_code != 0 {
        parts.push(((first_type, first_type), (first_code, 0xff)));
        whole_first += 1;
    }
    if last_code != 0xff {
        parts.push(((last_type, last_type), (0, last_code)));
        whole_last -= 1;
    }
    if whole_first <= whole_last {
        parts.push(((whole_first, whole_last), (0, 0xff)));
    }
    parts
}

/// The smallest prefix over all addresses of a side.
fn covering<A: Address>(side: &LoweredSide<A>) -> (A, u32) {
    let first = side.addresses[0].0.widen();
    let last = side.addresses[side.addresses.len() - 1].1.widen();
    let differing = 128 - (first ^ last).leading_zeros();
    let host = if differing == 128 {
        u128::MAX
    } else {
        (1 << differing) - 1
    };
    (A::narrow(first & !host), A::BITS - differing)
}

/// The prefixes that make up `spans`.
fn prefixes_of<A: Address>(spans: &[Span<A>]) -> Vec<(A, u32)> {
    let mut prefixes = Vec::new();
    for &(first, last) in spans {
        let (mut first, last) = (first.widen(), last.widen());
        loop {
            // As many addresses as the alignment of the first and the distance to the last allow.
            let aligned = first.trailing_zeros().min(A::BITS);
            let room = match (last - first).checked_add(1) {
                Some(count) => 127 - count.leading_zeros(),
                None => 128,
            };
            let host = aligned.min(room);
            prefixes.push((A::narrow(first), A::BITS - host));
            let next = 1u128
                .checked_shl(host)
                .and_then(|size| first.checked_add(size));
            match next {
                Some(next) if next <= last => first = next,
                _ => break,
            }
        }
    }
    prefixes
}

fn hull<T: Point>(spans: &[Span<T>]) -> Span<T> {
    let first = spans.iter().map(|span| span.0).min();
    let last = spans.iter().map(|span| span.1).max();
    (first.unwrap_or(T::FIRST), last.unwrap_or(T::LAST))
}

/// What a hit in a lane is checked against.
#[derive(Clone, Debug)]
pub(super) struct Checks<A> {
    /// Those that are not the same as their boxes.
    pub rules: Arc<Kept<A>>,
    pub sets: Arc<SetClasses>,
}

impl<A: Address> Checks<A> {
    /// For `boxes` of the rules `all`.
    pub fn new(all: &[Option<Lowered<A>>], boxes: &[Bounds<A>], sets: &Arc<SetClasses>) -> Self {
        let inexact = boxes.iter().filter(|bounds| !bounds.exact);
        let rules = Kept::new(all, inexact.map(|bounds| bounds.rule).collect());
        Self {
            rules: Arc::new(rules),
            sets: Arc::clone(sets),
        }
    }

    /// The rule of the first lane of `lanes` (a bit each, from `blocks[0]` on) that really matches.
    #[inline(always)]
    pub fn first(&self, blocks: &[A::Block], mut lanes: u64, key: &Key<A>, live: Live<'_>) -> u32 {
        while lanes != 0 {
            let lane = lanes.trailing_zeros() as usize;
            let rule = A::rules(&blocks[lane / BLOCK])[lane % BLOCK];
            if rule & CHECK == 0 && live.all() {
                return rule;
            }
            if let Some(rule) = self.check(rule, key, live) {
                return rule;
            }
            lanes &= lanes - 1;
        }
        NO_MATCH
    }

    #[inline(never)]
    fn check(&self, rule: u32, key: &Key<A>, live: Live<'_>) -> Option<u32> {
        let number = rule & !CHECK;
        if !live.contains(number) {
            return None;
        }
        let matches = rule & CHECK == 0
            || (self.rules.rule(number)).is_some_and(|rule| rule.matches(key, &self.sets));
        matches.then_some(number)
    }
}

/// Tier 0: every box is compared with every packet. Up to [`Brute::LANES`] boxes.
#[derive(Clone, Debug)]
pub(super) struct Brute<A: Address> {
    blocks: Vec<A::Block>,
    pub checks: Checks<A>,
}

impl<A: Address> Brute<A> {
    /// Most boxes.
    pub const LANES: usize = 64;

    /// `None` if `rules` make more than `most` boxes, at most [`LANES`](Self::LANES).
    pub fn new(rules: &[Option<Lowered<A>>], sets: &Arc<SetClasses>, most: usize) -> Option<Self> {
        let mut boxes = Vec::new();
        for (number, rule) in rules.iter().enumerate() {
            let Some(rule) = rule else { continue };
            boxes.extend(boxes_of(rule, number as u32, BLOCK));
            if boxes.len() > most.min(Self::LANES) {
                return None;
            }
        }
        Some(Self {
            blocks: blocks_of(&boxes),
            checks: Checks::new(rules, &boxes, sets),
        })
    }

    #[inline]
    pub fn classify(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        const GROUP: usize = 32;
        for (keys, out) in keys.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
            let mut probes = [A::NOTHING; GROUP];
            for (probe, key) in probes.iter_mut().zip(keys) {
                *probe = A::probe(key);
            }
            let mut lanes = [0u64; GROUP];
            for (at, block) in self.blocks.iter().enumerate() {
                for (lanes, probe) in lanes[..keys.len()].iter_mut().zip(&probes) {
                    *lanes |= u64::from(A::matching(block, probe)) << (at * BLOCK);
                }
            }
            for ((out, key), &lanes) in out.iter_mut().zip(keys).zip(&lanes) {
                *out = self.checks.first(&self.blocks, lanes, key, live);
            }
        }
    }

    /// Blocks of eight lanes.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    pub fn bytes(&self) -> usize {
        size_of_val(&self.blocks[..]) + self.checks.rules.bytes()
    }
}
