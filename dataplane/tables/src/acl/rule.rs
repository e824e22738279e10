//! Rules as they are written.

use std::{error::Error, fmt};

use super::{
    classes::SetClasses,
    key::{Address, Family, Key},
};
use crate::{Prefix4, Prefix6};

/// Number of a set of addresses, or of (address, protocol, port) triples; its meaning is the caller's.
pub type SetId = u32;

/// A conjunction: a packet matches if it meets every criterion that is present. `Rule::default()`
/// matches everything.
///
/// # Meaning, where it is not obvious
/// The rules are Calico's (`FilterRuleToIPVersion` in felix) and Linux's:
/// * A prefix list, positive or negated, that is not empty but has no entry of the packet's family makes
///   the rule match nothing in that family. So does a negated list that holds the /0 of the family.
/// * Any criterion on ports, positive or negated, is met only by packets that have ports: TCP, UDP, SCTP and
///   UDP-Lite, not their later fragments. (xt_multiport: an inverted match fails on a packet without ports.)
/// * Any criterion on ICMP, positive or negated, is met only by packets of the family's ICMP (1 for IPv4,
///   58 for IPv6) whose type and code are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Only this family; `None` is both.
    pub family: Option<Family>,
    /// What the source must be.
    pub source: Side,
    /// What the destination must be.
    pub destination: Side,
    /// The IP protocol is one of these.
    pub protocols: Protocols,
    /// ICMP type, or type and code.
    pub icmp: Option<Icmp>,
    /// Neither this ICMP type, nor this type and code.
    pub not_icmp: Option<Icmp>,
    /// (destination, protocol, destination port) is in every one of these sets.
    pub services: Vec<SetId>,
}

/// Criteria on one end of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The address is in one of these; empty is any.
    pub prefixes: Vec<Prefix>,
    /// The address is in none of these.
    pub not_prefixes: Vec<Prefix>,
    /// The address is in every one of these sets.
    pub all_of: Vec<SetId>,
    /// The address is in none of these sets.
    pub none_of: Vec<SetId>,
    /// The port is in one of these ranges or the triple is in one of `port_sets`; both empty is any.
    pub ports: Vec<PortRange>,
    /// (address, protocol, port) is in one of these sets, or the port in one of `ports`.
    pub port_sets: Vec<SetId>,
    /// The port is in none of these ranges.
    pub not_ports: Vec<PortRange>,
    /// (address, protocol, port) is in none of these sets.
    pub not_port_sets: Vec<SetId>,
}

/// A prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// IPv4.
    V4(Prefix4),
    /// IPv6.
    V6(Prefix6),
}

/// Ports from first to last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A range of ports that ends before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRangeError {
    first: u16,
    last: u16,
}

/// An ICMP type, or a type and a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// Type.
    pub icmp_type: u8,
    /// Code; `None` is any.
    pub code: Option<u8>,
}

/// A set of IP protocol numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protocols([u64; 4]);

impl Rule {
    /// Whether `key` meets every criterion: the definition that all compiled forms are tested against.
    /// Cost: linear in the size of the rule.
    pub fn matches<A: Address>(&self, key: &Key<A>, sets: &SetClasses) -> bool {
        if self.family.is_some_and(|family| family != A::FAMILY) {
            return false;
        }
        let source = End {
            address: key.source,
            class: key.source_class,
            port: key.ports().map(|(port, _)| port),
            port_class: key.source_port_class,
        };
        let destination = End {
            address: key.destination,
            class: key.destination_class,
            port: key.ports().map(|(_, port)| port),
            port_class: key.destination_port_class,
        };
        let services = self.services.iter().all(|&set| {
            key.ports().is_some() && sets.ip_ports.contains(key.destination_port_class, set)
        });
        let icmp = |wanted: Icmp, expected: bool| {
            key.icmp_type_code()
                .is_some_and(|packet| wanted.matches(packet) == expected)
        };
        self.source.matches(&source, sets)
            && self.destination.matches(&destination, sets)
            && self.protocols.contains(key.protocol)
            && services
            && self.icmp.is_none_or(|wanted| icmp(wanted, true))
            && self.not_icmp.is_none_or(|unwanted| icmp(unwanted, false))
    }
}

/// One end of a packet.
struct End<A> {
    address: A,
    class: u32,
    port: Option<u16>,
    port_class: u32,
}

impl Side {
    fn matches<A: Address>(&self, end: &End<A>, sets: &SetClasses) -> bool {
        self.address_matches(end.address)
            && (self.all_of.iter()).all(|&set| sets.addresses.contains(end.class, set))
            && !(self.none_of.iter()).any(|&set| sets.addresses.contains(end.class, set))
            && (!self.has_port_criteria()
                || (end.port).is_some_and(|port| self.port_matches(port, end.port_class, sets)))
    }

    fn address_matches<A: Address>(&self, address: A) -> bool {
        let of_family = |list: &[Prefix]| -> Option<Vec<Prefix>> {
            let own: Vec<Prefix> = list.iter().copied().filter(Prefix::is_of::<A>).collect();
            (list.is_empty() || !own.is_empty()).then_some(own)
        };
        let (Some(wanted), Some(unwanted)) =
            (of_family(&self.prefixes), of_family(&self.not_prefixes))
        else {
            return false;
        };
        // A negated /0 contains every address: no need to treat it apart.
        (wanted.is_empty() || wanted.iter().any(|prefix| prefix.contains(address)))
            && !unwanted.iter().any(|prefix| prefix.contains(address))
    }

    fn port_matches(&self, port: u16, class: u32, sets: &SetClasses) -> bool {
        let in_ranges = |ranges: &[PortRange]| ranges.iter().any(|range| range.contains(port));
        let in_sets = |ids: &[SetId]| ids.iter().any(|&set| sets.ip_ports.contains(class, set));
        let any = self.ports.is_empty() && self.port_sets.is_empty();
        (any || in_ranges(&self.ports) || in_sets(&self.port_sets))
            && !in_ranges(&self.not_ports)
            && !in_sets(&self.not_port_sets)
    }

    /// Whether only packets with ports can match.
    pub fn has_port_criteria(&self) -> bool {
        !(self.ports.is_empty()
            && self.port_sets.is_empty()
            && self.not_ports.is_empty()
            && self.not_port_sets.is_empty())
    }
}

impl Prefix {
    /// The family of the prefix.
    pub fn family(&self) -> Family {
        match self {
            Self::V4(_) => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    fn is_of<A: Address>(&self) -> bool {
        self.family() == A::FAMILY
    }

    /// Whether `address` is inside; an address of the other family never is.
    pub fn contains<A: Address>(&self, address: A) -> bool {
        match self {
            Self::V4(prefix) => A::FAMILY == Family::V4 && prefix.contains(address.widen() as u32),
            Self::V6(prefix) => A::FAMILY == Family::V6 && prefix.contains(address.widen()),
        }
    }

    /// First and last address, if the prefix is of the family of `A`.
    pub(super) fn range<A: Address>(&self) -> Option<(A, A)> {
        let (first, last) = match self {
            Self::V4(prefix) => (u128::from(prefix.addr()), u128::from(prefix.last())),
            Self::V6(prefix) => (prefix.addr(), prefix.last()),
        };
        self.is_of::<A>()
            .then(|| (A::narrow(first), A::narrow(last)))
    }
}

impl From<Prefix4> for Prefix {
    fn from(prefix: Prefix4) -> Self {
        Self::V4(prefix)
    }
}

impl From<Prefix6> for Prefix {
    fn from(prefix: Prefix6) -> Self {
        Self::V6(prefix)
    }
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self {
        first: 0,
        last: u16::MAX,
    };

    /// From `first` to `last`, both included.
    ///
    /// # Errors
    /// `last` is below `first`.
    pub const fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        if last < first {
            return Err(PortRangeError { first, last });
        }
        Ok(Self { first, last })
    }

    /// One port.
    pub const fn single(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }

    /// Lowest port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is inside.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl fmt::Display for PortRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "port range {}:{} ends before it begins: write the lower port first",
            self.first, self.last
        )
    }
}

impl Error for PortRangeError {}

impl Icmp {
    fn matches(self, (icmp_type, code): (u8, u8)) -> bool {
        self.icmp_type == icmp_type && self.code.is_none_or(|wanted| wanted == code)
    }
}

impl Protocols {
    /// Every protocol.
    pub const ALL: Self = Self([u64::MAX; 4]);
    /// No protocol: the rule matches nothing.
    pub const NONE: Self = Self([0; 4]);

    /// One protocol.
    pub const fn only(protocol: u8) -> Self {
        Self::NONE.with(protocol)
    }

    /// These and `protocol`.
    #[must_use]
    pub const fn with(mut self, protocol: u8) -> Self {
        self.0[protocol as usize / 64] |= 1 << (protocol % 64);
        self
    }

    /// These without `protocol`.
    #[must_use]
    pub const fn without(mut self, protocol: u8) -> Self {
        self.0[protocol as usize / 64] &= !(1 << (protocol % 64));
        self
    }

    /// Whether `protocol` is one of these.
    pub const fn contains(self, protocol: u8) -> bool {
        self.0[protocol as usize / 64] >> (protocol % 64) & 1 != 0
    }

    /// How many.
    pub fn len(self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// In ascending order.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |&protocol| self.contains(protocol))
    }
}

impl Default for Protocols {
    fn default() -> Self {
        Self::ALL
    }
}

impl FromIterator<u8> for Protocols {
    fn from_iter<I: IntoIterator<Item = u8>>(protocols: I) -> Self {
        protocols.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Debug for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return write!(f, "all");
        }
        f.debug_set().entries(self.iter()).finish()
    }
}
