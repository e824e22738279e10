//! Translation of addresses: pools, rules for sources, forwarded ports, one-to-one mappings.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, IpSubnets, Ipv4Subnets, Ipv6Subnets};

use crate::address::{check_host, is_link_local, parse_net};
use crate::error::invalid;
use crate::policy::{Order, Protocol};
use crate::{InterfaceName, Invalid, ObjectName, VrfName};

/// Most entries of a pool's list of addresses.
pub const MAX_POOL_RANGES: usize = 256;

/// Most entries of one of a rule's lists of prefixes.
pub const MAX_NAT_PREFIXES: usize = 1024;

/// Most interfaces that a rule can name.
pub const MAX_NAT_INTERFACES: usize = 1024;

/// All objects of translation, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NatState {
    /// What sources are translated to.
    pub pools: BTreeMap<ObjectName, NatPool>,
    /// Which sources are translated.
    pub rules: BTreeMap<ObjectName, NatRule>,
    /// What is sent to us goes to hosts inside.
    pub forwards: BTreeMap<ObjectName, PortForward>,
    /// One-to-one translation.
    pub statics: BTreeMap<ObjectName, StaticNat>,
}

impl NatState {
    /// Whether nothing is translated.
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty()
            && self.rules.is_empty()
            && self.forwards.is_empty()
            && self.statics.is_empty()
    }

    /// The rules of a VRF, first one first.
    pub fn rules_of(&self, vrf: &VrfName) -> Vec<(&ObjectName, &NatRule)> {
        let of = self.rules.iter().filter(|(_, rule)| rule.vrf == *vrf);
        let mut rules: Vec<_> = of.collect();
        // Stable: those of one order stay by name.
        rules.sort_by(|(_, a), (_, b)| Order::compare(a.order, b.order));
        rules
    }
}

/// Addresses and ports that sources are translated to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatPool {
    /// The VRF whose packets are translated.
    pub vrf: VrfName,
    /// Which addresses.
    pub addresses: PoolAddresses,
    /// Source ports and ICMP query identifiers that are given out.
    pub ports: PortSpan,
    /// Which of several addresses a session gets.
    pub pairing: Pairing,
}

impl NatPool {
    /// Ports that are given out where nothing else is said: without the well-known ones, as RFC 4787 REQ-3 recommends.
    pub const PORTS: PortSpan = PortSpan {
        first: 1024,
        last: u16::MAX,
    };

    /// Whether its addresses are of this family; those of interfaces are of both.
    pub fn has_family(&self, v6: bool) -> bool {
        match &self.addresses {
            PoolAddresses::Interface => true,
            PoolAddresses::Ranges(ranges) => ranges.iter().any(|range| range.is_v6() == v6),
        }
    }
}

/// The addresses of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoolAddresses {
    /// That of the interface that packets leave by.
    Interface,
    /// Of one family, disjoint, at least one, as they were written.
    Ranges(Vec<AddressRange>),
}

/// Which of a pool's addresses a session gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairing {
    /// A host keeps one address (RFC 4787 REQ-2).
    #[default]
    Paired,
    /// Any.
    Arbitrary,
}

impl FromStr for Pairing {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "paired" => Ok(Self::Paired),
            "arbitrary" => Ok(Self::Arbitrary),
            _ => Err(invalid!(
                "{text:?} is no pairing; there are paired and arbitrary"
            )),
        }
    }
}

/// Which packets have their source translated, or keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatRule {
    /// Where the rule stands among the VRF's; last if `None`.
    pub order: Option<Order>,
    /// The VRF that routes the packets.
    pub vrf: VrfName,
    /// What packets leave by; any of the VRF's if empty.
    pub out_interfaces: Vec<InterfaceName>,
    /// Prefixes of the source; any if empty.
    pub sources: Vec<IpNet>,
    /// Prefixes of the destination; any if empty.
    pub destinations: Vec<IpNet>,
    /// Prefixes that the destination is not in.
    pub not_destinations: Vec<IpNet>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// What becomes of the source.
    pub action: NatAction,
}

impl NatRule {
    /// Whether packets of a family can match: it has prefixes of the family, or none at all.
    pub fn has_family(&self, v6: bool) -> bool {
        let of = |nets: &[IpNet]| nets.iter().any(|net| is_v6(*net) == v6);
        let lists = [&self.sources, &self.destinations, &self.not_destinations];
        let bounded = |nets: &[IpNet]| nets.is_empty() || of(nets);
        (lists.iter().all(|nets| nets.is_empty()) || lists.iter().any(|nets| of(nets)))
            && bounded(&self.sources)
            && bounded(&self.destinations)
    }

    /// Whether it is for packets that leave by this interface of its VRF.
    pub fn leaves_by(&self, interface: &InterfaceName) -> bool {
        self.out_interfaces.is_empty() || self.out_interfaces.contains(interface)
    }
}

/// What becomes of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatAction {
    /// An address and port of a pool.
    Pool(ObjectName),
    /// It stays as it is.
    Exempt,
}

/// What is sent to an address or port of ours goes to a host inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForward {
    /// The VRF that the packets are in, and the target.
    pub vrf: VrfName,
    /// What packets are sent to.
    pub address: ForwardAddress,
    /// Their protocol.
    pub protocol: Protocol,
    /// The ports that they are sent to: there for a protocol that has ports.
    pub ports: Option<PortSpan>,
    /// Whether the port was written as a range.
    pub is_range: bool,
    /// The host inside.
    pub target: IpAddr,
    /// The target's port, the first one where there are several. The same if `None`.
    pub target_port: Option<u16>,
    /// What the source becomes.
    pub source_pool: Option<ObjectName>,
}

/// What forwarded packets are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForwardAddress {
    /// This address.
    Address(IpAddr),
    /// The addresses of an interface that are of the target's family.
    Interface(InterfaceName),
}

impl PortForward {
    /// The field that its port is written in.
    pub fn port_field(&self) -> &'static str {
        match (self.ports, self.is_range) {
            (None, _) => "spec.protocol",
            (Some(_), false) => "spec.port",
            (Some(_), true) => "spec.ports",
        }
    }

    /// The field that its address is written in.
    pub fn address_field(&self) -> &'static str {
        match self.address {
            ForwardAddress::Address(_) => "spec.address",
            ForwardAddress::Interface(_) => "spec.interface",
        }
    }
}

/// One-to-one translation: host bits and ports stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticNat {
    /// The VRF of both sides.
    pub vrf: VrfName,
    /// What the others see.
    pub external: IpNet,
    /// What the hosts have: of the same family and length, disjoint from `external`.
    pub internal: IpNet,
    /// What packets leave by whose source is translated; any of the VRF's if empty.
    pub out_interfaces: Vec<InterfaceName>,
}

impl StaticNat {
    /// Checks and takes one of the two prefixes: without host bits, of addresses that hosts have.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn prefix(text: &str) -> Result<IpNet, Invalid> {
        let net = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => parse_net(text).ok_or_else(|| {
                invalid!("{text:?} is no prefix: write it like 192.0.2.0/28 or 2001:db8::/64")
            })?,
        };
        no_host_bits(net)?;
        check_hosts(net.network(), net.broadcast(), text)?;
        Ok(net)
    }

    /// Whether it is for packets that leave by this interface of its VRF.
    pub fn leaves_by(&self, interface: &InterfaceName) -> bool {
        self.out_interfaces.is_empty() || self.out_interfaces.contains(interface)
    }
}

/// Addresses from first to last, both included: of one family, and all of them hosts'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl AddressRange {
    /// The lowest address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The highest address.
    pub fn last(self) -> IpAddr {
        self.last
    }

    /// Whether it is IPv6.
    pub fn is_v6(self) -> bool {
        self.first.is_ipv6()
    }

    /// Whether two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.is_v6() == other.is_v6() && self.first <= other.last && other.first <= self.last
    }

    /// The fewest prefixes that have just these addresses.
    pub fn prefixes(self) -> IpSubnets {
        match (self.first, self.last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                IpSubnets::from(Ipv4Subnets::new(first, last, 0))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                IpSubnets::from(Ipv6Subnets::new(first, last, 0))
            }
            // The constructor has seen to it that both are of one family.
            (first, _) => match IpNet::from(first) {
                IpNet::V4(net) => IpSubnets::from(Ipv4Subnets::new(net.addr(), net.addr(), 0)),
                IpNet::V6(net) => IpSubnets::from(Ipv6Subnets::new(net.addr(), net.addr(), 0)),
            },
        }
    }
}

impl FromStr for AddressRange {
    type Err = Invalid;

    /// A prefix without host bits, `first-last`, or one address.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let unreadable = || {
            invalid!(
                "{text:?} is no address, prefix or range: write it like 192.0.2.1, 192.0.2.0/28 or 192.0.2.1-192.0.2.9"
            )
        };
        let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|_| unreadable());
        let (first, last) = if let Some((first, last)) = text.split_once('-') {
            (address(first)?, address(last)?)
        } else if text.contains('/') {
            let net = parse_net(text).ok_or_else(unreadable)?;
            no_host_bits(net)?;
            (net.network(), net.broadcast())
        } else {
            (address(text)?, address(text)?)
        };
        if first.is_ipv4() != last.is_ipv4() {
            return Err(invalid!("{first} and {last} are of different families"));
        }
        if first > last {
            return Err(invalid!(
                "{text:?} ends before it begins: write {last}-{first}"
            ));
        }
        check_hosts(first, last, text)?;
        Ok(Self { first, last })
    }
}

/// `192.0.2.1`, or `192.0.2.1-192.0.2.9`.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

/// Ports from first to last, both included, without 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortSpan {
    first: u16,
    last: u16,
}

impl PortSpan {
    /// All ports there are.
    pub const ALL: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    /// Checks and takes two ports.
    ///
    /// # Errors
    ///
    /// One is none, or they are in reverse.
    pub fn new(first: u32, last: u32) -> Result<Self, Invalid> {
        let (first, last) = (Self::port(first)?, Self::port(last)?);
        if first > last {
            return Err(invalid!(
                "{first} to {last} ends before it begins: first is the lower port"
            ));
        }
        Ok(Self { first, last })
    }

    /// Checks and takes a port.
    ///
    /// # Errors
    ///
    /// It is 0 or above 65535.
    pub fn port(number: u32) -> Result<u16, Invalid> {
        u16::try_from(number)
            .ok()
            .filter(|port| *port != 0)
            .ok_or_else(|| invalid!("{number} is no port; it is 1 to 65535"))
    }

    /// One port alone.
    ///
    /// # Errors
    ///
    /// It is 0 or above 65535.
    pub fn single(port: u32) -> Result<Self, Invalid> {
        Self::new(port, port)
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether two have a port in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// `80`, or `8000-8010`.
impl fmt::Display for PortSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

/// A prefix without host bits that a rule matches, or an address alone.
///
/// # Errors
///
/// It is neither.
pub fn nat_prefix(text: &str) -> Result<IpNet, Invalid> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let net = parse_net(text).ok_or_else(|| {
        invalid!("{text:?} is no prefix: write it like 10.0.0.0/8 or 2001:db8::/32")
    })?;
    no_host_bits(net)?;
    Ok(net)
}

/// An address that packets can be forwarded from and to: a host's, and not only on one link.
///
/// # Errors
///
/// It is none.
pub fn nat_host(text: &str) -> Result<IpAddr, Invalid> {
    let address = text.parse().map_err(|_| {
        invalid!("{text:?} is no IP address: write it like 10.0.0.1 or 2001:db8::1")
    })?;
    check_host(address)?;
    if is_link_local(address) {
        return Err(invalid!(
            "{address} is valid on its link only; use an address of the VRF"
        ));
    }
    Ok(address)
}

pub(crate) fn is_v6(net: IpNet) -> bool {
    matches!(net, IpNet::V6(_))
}

fn no_host_bits(net: IpNet) -> Result<(), Invalid> {
    if net.addr() == net.network() {
        Ok(())
    } else {
        Err(invalid!(
            "{net} has host bits; the prefix is {}",
            net.trunc()
        ))
    }
}

/// Refuses what has an address that no host has, or only on its link.
fn check_hosts(first: IpAddr, last: IpAddr, text: &str) -> Result<(), Invalid> {
    const V4: [(u32, u32, &str); 3] = [
        (0, 0x00ff_ffff, "of \"this network\" (0.0.0.0/8)"),
        (0x7f00_0000, 0x7fff_ffff, "loopback addresses (127.0.0.0/8)"),
        (0xe000_0000, u32::MAX, "multicast or reserved (224.0.0.0/3)"),
    ];
    const V6: [(u128, u128, &str); 4] = [
        (0, 1, "the unspecified or loopback address (::/127)"),
        (
            0xffff << 32,
            0xffff_ffff_ffff,
            "IPv4-mapped (::ffff:0:0/96)",
        ),
        (
            0xfe80 << 112,
            (0xfec0 << 112) - 1,
            "valid on their link only (fe80::/10)",
        ),
        (0xff00 << 112, u128::MAX, "multicast (ff00::/8)"),
    ];
    let wrong = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => V4
            .iter()
            .find(|(low, high, _)| first.to_bits() <= *high && *low <= last.to_bits())
            .map(|(.., what)| what),
        (IpAddr::V6(first), IpAddr::V6(last)) => V6
            .iter()
            .find(|(low, high, _)| first.to_bits() <= *high && *low <= last.to_bits())
            .map(|(.., what)| what),
        _ => None,
    };
    match wrong {
        Some(what) => Err(invalid!(
            "{text} has addresses that are {what}, no host's: leave them out"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_addresses_of_hosts() {
        for (text, first, last) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
            ("192.0.2.0/28", "192.0.2.0", "192.0.2.15"),
            ("192.0.2.1-192.0.2.9", "192.0.2.1", "192.0.2.9"),
            ("192.0.2.1 - 192.0.2.9", "192.0.2.1", "192.0.2.9"),
            ("2001:db8::/126", "2001:db8::", "2001:db8::3"),
            ("2001:db8::1-2001:db8::2", "2001:db8::1", "2001:db8::2"),
        ] {
            let range: AddressRange = text.parse().expect(text);
            assert_eq!(range.first(), first.parse::<IpAddr>().expect("valid"));
            assert_eq!(range.last(), last.parse::<IpAddr>().expect("valid"));
        }
        for (text, part) in [
            ("", "no address, prefix or range"),
            ("192.0.2.256", "no address, prefix or range"),
            ("192.0.2.1-", "no address, prefix or range"),
            ("192.0.2.1-192.0.2.2-192.0.2.3", "no address"),
            ("192.0.2.1/28", "the prefix is 192.0.2.0/28"),
            ("192.0.2.9-192.0.2.1", "write 192.0.2.1-192.0.2.9"),
            ("192.0.2.1-2001:db8::1", "different families"),
            ("126.0.0.0-128.0.0.0", "loopback"),
            ("0.0.0.0/0", "this network"),
            ("224.0.0.1", "multicast"),
            ("::/0", "loopback"),
            ("fe80::/64", "link only"),
            ("febf::-fec0::", "link only"),
            ("::ffff:10.0.0.1", "IPv4-mapped"),
            ("fe00::-ff00::", "link only"),
            ("fec0::-ff00::", "multicast"),
        ] {
            let error = text.parse::<AddressRange>().expect_err(text);
            assert!(error.0.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ports_are_never_zero() {
        assert!(PortSpan::new(1, 65535).is_ok() && PortSpan::single(80).is_ok());
        for (first, last) in [(0, 1), (1, 0), (1, 65536), (81, 80), (65536, 65537)] {
            assert!(PortSpan::new(first, last).is_err(), "{first} {last}");
        }
        let span = |first, last| PortSpan::new(first, last).expect("valid");
        assert!(span(1, 5).overlaps(span(5, 9)) && !span(1, 4).overlaps(span(5, 9)));
        assert_eq!(
            (span(5, 9).to_string(), span(5, 5).to_string()),
            ("5-9".into(), "5".into())
        );
    }

    #[test]
    fn a_rule_is_for_the_families_of_its_prefixes() {
        let rule = |sources: &[&str], destinations: &[&str], not: &[&str]| {
            let nets = |list: &[&str]| {
                list.iter()
                    .map(|text| nat_prefix(text).expect("valid"))
                    .collect()
            };
            let rule = NatRule {
                order: None,
                vrf: VrfName::default(),
                out_interfaces: Vec::new(),
                sources: nets(sources),
                destinations: nets(destinations),
                not_destinations: nets(not),
                protocol: None,
                action: NatAction::Exempt,
            };
            (rule.has_family(false), rule.has_family(true))
        };
        let (v4, v6) = ("10.0.0.0/8", "2001:db8::/32");
        assert_eq!(rule(&[], &[], &[]), (true, true));
        assert_eq!(rule(&[v4], &[], &[]), (true, false));
        assert_eq!(rule(&[], &[v6], &[]), (false, true));
        assert_eq!(rule(&[], &[], &[v4]), (true, false));
        assert_eq!(rule(&[v4, v6], &[], &[v4]), (true, true));
        assert_eq!(rule(&[v4, v6], &[v4], &[]), (true, false));
        assert_eq!(rule(&[v4], &[v6], &[]), (false, false));
    }

    proptest! {
        /// The prefixes of a range have its addresses, each once.
        #[test]
        fn prefixes_make_the_range(first in 0x0a00_0000u32..0x0a01_0000, more in 0u32..5000) {
            let last = first + more;
            let ip = std::net::Ipv4Addr::from_bits;
            let range: AddressRange = format!("{}-{}", ip(first), ip(last)).parse().expect("valid");
            let mut next = u64::from(first);
            let mut count = 0;
            for net in range.prefixes() {
                let (IpAddr::V4(low), IpAddr::V4(high)) = (net.network(), net.broadcast()) else {
                    panic!("of another family");
                };
                prop_assert_eq!(u64::from(low.to_bits()), next);
                next = u64::from(high.to_bits()) + 1;
                count += 1;
            }
            prop_assert_eq!(next, u64::from(last) + 1);
            prop_assert!(count <= 24);
        }
    }
}
