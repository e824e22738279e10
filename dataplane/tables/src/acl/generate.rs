//! Rule lists and packet traces for tests and benches, reproducible from a seed.
//!
//! The lists have the shape of ClassBench's filter sets (Taylor and Turner, "ClassBench: a packet
//! classification benchmark", 2007): how long prefixes are, how often they repeat and nest, which kinds of
//! port ranges go together, how common protocols are. They are not made from ClassBench's seed files.

use std::collections::HashSet;

use super::{Key, PortRange, Prefix, Protocols, Rule, Side};
use crate::Prefix4;

/// A family of rule lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Access lists of routers: specific destinations, exact destination ports, any source port.
    Acl1,
    /// Firewalls: many wildcards, port ranges on both sides.
    Fw1,
    /// Linux IP chains: between the two.
    Ipc1,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Acl1, Self::Fw1, Self::Ipc1];

    /// As ClassBench names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acl1 => "acl1",
            Self::Fw1 => "fw1",
            Self::Ipc1 => "ipc1",
        }
    }
}

/// A small generator of pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.bits() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// One of `items` with its weight.
    fn weighted<T: Copy>(&mut self, items: &[(u32, T)]) -> T {
        let total = items.iter().map(|item| item.0).sum();
        let mut left = self.below(total);
        for &(weight, item) in items {
            if left < weight {
                return item;
            }
            left -= weight;
        }
        items[items.len() - 1].1
    }
}

/// `n` different rules of the shape, IPv4.
pub fn rules(shape: Shape, n: usize, seed: u64) -> Vec<Rule> {
    let mut random = Random::new(seed ^ (shape as u64) << 32);
    let (mut sources, mut destinations) = (Vec::new(), Vec::new());
    let profile = profile(shape);
    let mut seen = HashSet::new();
    let mut rules = Vec::with_capacity(n);
    while rules.len() < n {
        let (wild_source, wild_destination) = random.weighted(profile.wild);
        let source = address(
            &mut random,
            &mut sources,
            profile.source_lens,
            profile.source_repeat,
            wild_source,
        );
        let destination = address(
            &mut random,
            &mut destinations,
            profile.destination_lens,
            profile.destination_repeat,
            wild_destination,
        );
        let protocol = random.weighted(profile.protocols);
        let ported = matches!(protocol, Some(6 | 17));
        let (source_kind, destination_kind) = random.weighted(profile.ports);
        let source_port = port(&mut random, if ported { source_kind } else { Ports::Any });
        let destination_port = port(
            &mut random,
            if ported { destination_kind } else { Ports::Any },
        );
        if seen.insert((source, destination, protocol, source_port, destination_port)) {
            rules.push(Rule {
                source: side(source, source_port),
                destination: side(destination, destination_port),
                protocols: protocol.map_or(Protocols::ALL, Protocols::only),
                ..Rule::default()
            });
        }
    }
    // As ClassBench does: a rule stands in front of those that hold it, so that none is in vain.
    rules.sort_by_cached_key(|rule| std::cmp::Reverse(specificity(rule)));
    rules
}

/// Grows when a rule is narrowed: bits of the addresses that matter, and how narrow ports and protocol are.
fn specificity(rule: &Rule) -> u32 {
    let side = |side: &Side| {
        let address = side.prefixes.first().map_or(0, |prefix| match prefix {
            Prefix::V4(prefix) => u32::from(prefix.len()),
            Prefix::V6(prefix) => u32::from(prefix.len()),
        });
        let ports = side.ports.first().map_or(0, |range| {
            17 - (u32::from(range.last() - range.first()) + 1).ilog2()
        });
        address + ports
    };
    let protocol = if rule.protocols == Protocols::ALL {
        0
    } else {
        8
    };
    side(&rule.source) + side(&rule.destination) + protocol
}

/// CSIT's access list: `deny` rules that the traffic does not match (entry k: 30.30.30.1+k to 40.40.40.1+k, both
/// ports 1000+k), then those that it does: 10.10.10.0/24 and 20.20.20.0/24 as sources.
pub fn csit(deny: u32) -> Vec<Rule> {
    let host = |first: [u8; 4], k: u32| prefix(u32::from_be_bytes(first).wrapping_add(k), 32);
    let mut rules: Vec<Rule> = (0..deny)
        .map(|k| {
            let port = Some((1000 + k as u16, 1000 + k as u16));
            Rule {
                source: side(host([30, 30, 30, 1], k), port),
                destination: side(host([40, 40, 40, 1], k), port),
                protocols: Protocols::only(17),
                ..Rule::default()
            }
        })
        .collect();
    for network in [[10, 10, 10, 0], [20, 20, 20, 0]] {
        rules.push(Rule {
            source: side(prefix(u32::from_be_bytes(network), 24), None),
            ..Rule::default()
        });
    }
    rules
}

/// Packets that CSIT sends through [`csit`]: `flows` different ones.
pub fn csit_trace(flows: u32) -> Vec<Key<u32>> {
    (0..flows)
        .map(|flow| {
            let source = u32::from_be_bytes([20, 20, 20, (flow % 254) as u8]);
            let destination = u32::from_be_bytes([10, 10, 10, (flow / 254 % 254) as u8]);
            Key::with_ports(source, destination, 17, 1024 + (flow >> 8) as u16, 1024)
        })
        .collect()
}

/// `n` packets at the corners of `rules`, each repeated a Pareto-distributed number of times (shape
/// parameter 1, scale 0.1), as ClassBench's trace generator does.
pub fn trace(rules: &[Rule], n: usize, seed: u64) -> Vec<Key<u32>> {
    let mut random = Random::new(seed);
    let mut keys = Vec::with_capacity(n);
    while keys.len() < n && !rules.is_empty() {
        let rule = &rules[random.below(rules.len() as u32) as usize];
        let mut address = |side: &Side| {
            let prefix = side.prefixes.first();
            match prefix.and_then(Prefix::range::<u32>) {
                Some(ends) => pick(&mut random, ends),
                None => random.bits() as u32,
            }
        };
        let (source, destination) = (address(&rule.source), address(&rule.destination));
        let mut port = |side: &Side| match side.ports.first() {
            Some(range) => pick(&mut random, (range.first(), range.last())),
            None => random.bits() as u16,
        };
        let (source_port, destination_port) = (port(&rule.source), port(&rule.destination));
        let protocol = if rule.protocols == Protocols::ALL {
            random.weighted(&[(6, 6), (3, 17), (1, 47)])
        } else {
            rule.protocols.iter().next().unwrap_or(0)
        };
        let key = if protocol == 1 {
            Key::icmp(source, destination, 8, 0)
        } else {
            Key::with_ports(source, destination, protocol, source_port, destination_port)
        };
        let uniform = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let copies = (0.1 / uniform.max(1e-3)).ceil() as usize;
        keys.extend(std::iter::repeat_n(key, copies.min(n - keys.len())));
    }
    keys
}

fn pick<T>(random: &mut Random, (first, last): (T, T)) -> T {
    if random.chance(50) { first } else { last }
}

/// Kinds of port ranges: ClassBench's WC, HI, LO, AR and EM.
#[derive(Clone, Copy)]
enum Ports {
    Any,
    High,
    Low,
    Range,
    Exact,
}

type Weights<T> = &'static [(u32, T)];

struct Profile {
    /// Whether source and destination are any address.
    wild: Weights<(bool, bool)>,
    source_lens: Weights<u8>,
    destination_lens: Weights<u8>,
    /// How often, in percent, a prefix is one that was there before.
    source_repeat: u32,
    destination_repeat: u32,
    protocols: Weights<Option<u8>>,
    ports: Weights<(Ports, Ports)>,
}

fn profile(shape: Shape) -> Profile {
    use Ports::{Any, Exact, High, Low, Range};
    match shape {
        Shape::Acl1 => Profile {
            wild: &[(94, (false, false)), (4, (true, false)), (2, (false, true))],
            source_lens: &[
                (1, 8),
                (2, 16),
                (3, 20),
                (6, 22),
                (5, 23),
                (20, 24),
                (4, 26),
                (6, 27),
                (8, 28),
                (8, 29),
                (7, 30),
                (30, 32),
            ],
            destination_lens: &[
                (2, 16),
                (3, 21),
                (5, 23),
                (20, 24),
                (6, 27),
                (8, 28),
                (56, 32),
            ],
            source_repeat: 60,
            destination_repeat: 85,
            protocols: &[(86, Some(6)), (8, Some(17)), (2, Some(1)), (4, None)],
            ports: &[
                (22, (Any, Any)),
                (66, (Any, Exact)),
                (8, (Any, Range)),
                (4, (Any, High)),
            ],
        },
        Shape::Fw1 => Profile {
            wild: &[
                (34, (false, false)),
                (38, (true, false)),
                (26, (false, true)),
                (2, (true, true)),
            ],
            source_lens: &[(2, 8), (4, 16), (3, 20), (10, 24), (3, 28), (78, 32)],
            destination_lens: &[(1, 8), (4, 16), (3, 21), (12, 24), (4, 28), (76, 32)],
            source_repeat: 45,
            destination_repeat: 45,
            protocols: &[
                (62, Some(6)),
                (26, Some(17)),
                (4, Some(1)),
                (2, Some(47)),
                (6, None),
            ],
            ports: &[
                (12, (Any, Any)),
                (40, (Any, Exact)),
                (10, (Any, Range)),
                (6, (Any, High)),
                (12, (High, Exact)),
                (6, (Exact, Any)),
                (6, (Exact, High)),
                (4, (Exact, Exact)),
                (2, (Low, Any)),
                (2, (Range, Any)),
            ],
        },
        Shape::Ipc1 => Profile {
            wild: &[
                (82, (false, false)),
                (10, (true, false)),
                (7, (false, true)),
                (1, (true, true)),
            ],
            source_lens: &[
                (1, 8),
                (4, 14),
                (6, 16),
                (4, 20),
                (6, 22),
                (14, 24),
                (4, 26),
                (6, 28),
                (55, 32),
            ],
            destination_lens: &[
                (1, 8),
                (3, 14),
                (6, 16),
                (5, 21),
                (16, 24),
                (5, 27),
                (64, 32),
            ],
            source_repeat: 70,
            destination_repeat: 70,
            protocols: &[
                (52, Some(6)),
                (32, Some(17)),
                (5, Some(1)),
                (1, Some(89)),
                (10, None),
            ],
            ports: &[
                (34, (Any, Any)),
                (34, (Any, Exact)),
                (8, (Any, Range)),
                (4, (Any, High)),
                (8, (Exact, Any)),
                (5, (Exact, Exact)),
                (4, (High, High)),
                (3, (High, Exact)),
            ],
        },
    }
}

/// A prefix that repeats an earlier one, nests in one, or is new; `None` is any address.
fn address(
    random: &mut Random,
    earlier: &mut Vec<Prefix4>,
    lens: &[(u32, u8)],
    repeat: u32,
    wild: bool,
) -> Option<Prefix4> {
    if wild {
        return None;
    }
    let known = earlier.len() as u32;
    if known != 0 && random.chance(repeat) {
        // Skewed: some prefixes are in many rules.
        let bound = 1 + random.below(known);
        return Some(earlier[random.below(bound) as usize]);
    }
    let len = random.weighted(lens);
    let mut bits = random.bits() as u32;
    if known != 0 && random.chance(70) {
        // Near an earlier one: the leading bits are those of a network that is in use.
        let near = earlier[random.below(known) as usize];
        let common = near.len().min(24).saturating_sub(random.below(9) as u8);
        let common = common.max(8).min(len);
        let mask = u32::MAX << (32 - u32::from(common));
        bits = near.addr() & mask | bits & !mask;
    }
    let prefix = Prefix4::around(bits, len).ok()?;
    earlier.push(prefix);
    Some(prefix)
}

/// Ports that services use, for exact matches.
const WELL_KNOWN: [u16; 24] = [
    20, 21, 22, 23, 25, 53, 69, 80, 110, 123, 135, 139, 143, 161, 389, 443, 445, 514, 993, 1433,
    1521, 3306, 3389, 8080,
];

fn port(random: &mut Random, kind: Ports) -> Option<(u16, u16)> {
    match kind {
        Ports::Any => None,
        Ports::High => Some((1024, u16::MAX)),
        Ports::Low => Some((0, 1023)),
        Ports::Range => {
            let first = random.bits() as u16;
            let len = random.weighted(&[(3, 3), (3, 16), (3, 128), (2, 1000), (1, 8000)]);
            Some((first, first.saturating_add(random.below(len) as u16 + 1)))
        }
        Ports::Exact => {
            let port = if random.chance(70) {
                WELL_KNOWN[random.below(WELL_KNOWN.len() as u32) as usize]
            } else {
                random.bits() as u16
            };
            Some((port, port))
        }
    }
}

fn prefix(addr: u32, len: u8) -> Option<Prefix4> {
    Prefix4::around(addr, len).ok()
}

fn side(prefix: Option<Prefix4>, ports: Option<(u16, u16)>) -> Side {
    Side {
        prefixes: prefix.map(Into::into).into_iter().collect(),
        ports: ports
            .and_then(|(first, last)| PortRange::new(first, last).ok())
            .into_iter()
            .collect(),
        ..Side::default()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::acl::{NO_MATCH, reference::Linear};

    #[test]
    fn lists_are_reproducible_and_traces_hit_them() {
        for shape in Shape::ALL {
            let list = rules(shape, 500, 7);
            assert_eq!(list.len(), 500);
            assert_eq!(list, rules(shape, 500, 7));
            assert_ne!(list, rules(shape, 500, 8));
            let keys = trace(&list, 2000, 9);
            assert_eq!(keys.len(), 2000);
            let sets = Arc::default();
            let linear = Linear::new(&list, &sets);
            let found: HashSet<u32> = keys.iter().map(|key| linear.classify_one(key)).collect();
            assert!(
                !found.contains(&NO_MATCH),
                "{shape:?}: a packet from a rule's corner misses"
            );
            assert!(
                found.len() > 200,
                "{shape:?}: only {} rules are hit",
                found.len()
            );
        }
        assert!(trace(&[], 5, 1).is_empty());
    }

    #[test]
    fn csit_traffic_matches_the_last_rules() {
        let list = csit(50);
        let sets = Arc::default();
        let linear = Linear::new(&list, &sets);
        let hits = csit_trace(10_000)
            .iter()
            .all(|key| linear.classify_one(key) == 51);
        assert!(hits && list.len() == 52);
    }
}
