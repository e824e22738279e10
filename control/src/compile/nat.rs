//! Translation: which sources are translated on which interface, and where what is sent to us goes.
//!
//! 1. Pools get numbers ([`PoolNumbers`]). One with the addresses of interfaces is a pool for each of them.
//! 2. [`compile`] lowers the objects to [`NatSections`]: plain data, equal where the dataplane would do the same.
//! 3. [`NatSections::to_nat`] makes of it what the nodes read.
//!
//! Addresses of pools, forwards and one-to-one mappings that no interface has become local routes of the VRF (`routes`), so that
//! this node answers for them.

mod numbers;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use graph_nodes::fib::RouteTarget;
use graph_nodes::nat::{
    Destination, DestinationRules, Nat, Pool, Source, SourceRules, Translation,
};
use ipnet::IpNet;
use model::policy::NatOutgoing;
use model::{
    DesiredState, ForwardAddress, InterfaceName, NatAction, NatPool, NatRule, ObjectName, Pairing,
    PoolAddresses, PortForward, StaticNat, VrfName,
};
use tables::acl::{Address, Family, Prefix, Protocols, Rule, Side};
use tables::{Prefix4, Prefix6};

use super::{Numbering, RouteOrigin, Sections};

pub use numbers::{PoolKey, PoolName, PoolNumbers, TooManyPools};

/// Translation of both families.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NatSections {
    /// IPv4.
    pub ip4: NatSection<u32>,
    /// IPv6.
    pub ip6: NatSection<u128>,
}

/// Translation of one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NatSection<A> {
    /// By pool number: those that something refers to.
    pub pools: BTreeMap<u16, PoolRecord<A>>,
    /// By number of the interface that packets leave by: first match first.
    pub source: BTreeMap<u16, Vec<(Rule, SourceRecord<A>)>>,
    /// By VRF number: what becomes of the source of packets that are sent back inside.
    pub hairpin: BTreeMap<u16, Vec<(Rule, SourceRecord<A>)>>,
    /// By VRF number.
    pub destination: BTreeMap<u16, DestinationSection<A>>,
}

impl<A> Default for NatSection<A> {
    fn default() -> Self {
        Self {
            pools: BTreeMap::new(),
            source: BTreeMap::new(),
            hairpin: BTreeMap::new(),
            destination: BTreeMap::new(),
        }
    }
}

/// What becomes of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SourceRecord<A> {
    /// It stays as it is.
    Exempt,
    /// An address and port of the pool with this number.
    Pool(u16),
    /// Another prefix, with the same host bits.
    Prefix {
        /// What it is.
        internal: A,
        /// What it becomes.
        external: A,
        /// Of both, in bits.
        prefix_len: u8,
    },
}

/// A pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolRecord<A> {
    /// First and last, in order, disjoint. None where an interface has no address of the family: nothing can be translated then.
    pub addresses: Vec<(A, A)>,
    /// First and last.
    pub ports: (u16, u16),
    /// A host keeps its address.
    pub paired: bool,
}

/// What is sent to addresses of a VRF.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DestinationSection<A> {
    /// No two are of the same packets.
    pub rules: Vec<DestinationRecord<A>>,
    /// First and last of addresses that are nobody's but translation's, in order, disjoint.
    pub externals: Vec<(A, A)>,
}

impl<A> Default for DestinationSection<A> {
    fn default() -> Self {
        Self {
            rules: Vec::new(),
            externals: Vec::new(),
        }
    }
}

/// Where packets to an address go. The fields of [`Destination`], the pool by number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DestinationRecord<A> {
    /// What they are sent to.
    pub address: A,
    /// Of `address`, in bits.
    pub prefix_len: u8,
    /// Their protocol; any if `None`.
    pub protocol: Option<u8>,
    /// First and last of the ports that they are sent to.
    pub ports: Option<(u16, u16)>,
    /// Where they go.
    pub to: A,
    /// The first port of the target.
    pub port: Option<u16>,
    /// The pool whose address the source becomes.
    pub source: Option<u16>,
}

/// An address of one family.
trait Ip: Address {
    fn of(address: IpAddr) -> Option<Self>;
    fn prefix(net: IpNet) -> Option<Prefix>;
    /// The address after it.
    fn next(self) -> Option<Self>;
    /// The address before it.
    fn previous(self) -> Option<Self>;

    fn is_v6() -> bool {
        Self::FAMILY == Family::V6
    }
}

impl Ip for u32 {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => Some(v4.to_bits()),
            IpAddr::V6(_) => None,
        }
    }

    fn prefix(net: IpNet) -> Option<Prefix> {
        let IpNet::V4(net) = net else { return None };
        let prefix = Prefix4::around(net.addr().to_bits(), net.prefix_len());
        prefix.ok().map(Prefix::from)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

impl Ip for u128 {
    fn of(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6.to_bits()),
        }
    }

    fn prefix(net: IpNet) -> Option<Prefix> {
        let IpNet::V6(net) = net else { return None };
        let prefix = Prefix6::around(net.addr().to_bits(), net.prefix_len());
        prefix.ok().map(Prefix::from)
    }

    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }

    fn previous(self) -> Option<Self> {
        self.checked_sub(1)
    }
}

/// Compiles translation. `outgoing` is what [`model::policy::PolicyState::nat_outgoing_of`] says of this node: it holds in the default VRF, behind all rules.
pub fn compile(
    desired: &DesiredState,
    outgoing: Option<&NatOutgoing>,
    numbering: &Numbering,
    numbers: &PoolNumbers,
) -> NatSections {
    if desired.nat.is_empty() && outgoing.is_none() {
        return NatSections::default();
    }
    let interfaces = Interfaces::new(desired);
    NatSections {
        ip4: Compiler::new(desired, &interfaces, numbering, numbers).run(outgoing),
        ip6: Compiler::new(desired, &interfaces, numbering, numbers).run(outgoing),
    }
}

/// The local routes that make addresses ours which no interface has, in the fewest prefixes.
pub(super) fn routes(desired: &DesiredState, numbering: &Numbering, sections: &mut Sections) {
    let mut put = |vrf: &VrfName, net: IpNet, origin: String| {
        if let Some(vrf) = numbering.vrfs.get(vrf) {
            let route = RouteOrigin {
                target: RouteTarget::Local,
                origin,
            };
            let key = (*vrf, net.network(), net.prefix_len());
            sections.routes.insert(key, route);
        }
    };
    let nat = &desired.nat;
    for (name, forward) in &nat.forwards {
        if let ForwardAddress::Address(address) = &forward.address {
            let origin = format!("PortForward/{name}");
            put(&forward.vrf, IpNet::from(*address), origin);
        }
    }
    for (name, mapping) in &nat.statics {
        put(&mapping.vrf, mapping.external, format!("StaticNat/{name}"));
    }
    for (name, pool) in &nat.pools {
        if let PoolAddresses::Ranges(ranges) = &pool.addresses {
            for net in ranges.iter().flat_map(|range| range.prefixes()) {
                put(&pool.vrf, net, format!("NatPool/{name}"));
            }
        }
    }
}

impl NatSections {
    /// What the nodes read, counting nothing.
    pub fn to_nat(&self) -> Nat {
        Nat {
            ip4: self.ip4.to_translation(),
            ip6: self.ip6.to_translation(),
            ..Nat::default()
        }
    }
}

impl<A: Address> NatSection<A> {
    fn to_translation(&self) -> Translation<A> {
        let pools: BTreeMap<u16, Arc<Pool<A>>> = self
            .pools
            .iter()
            .map(|(number, pool)| {
                let pool = Pool {
                    number: *number,
                    addresses: pool.addresses.clone().into_boxed_slice(),
                    ports: pool.ports,
                    paired: pool.paired,
                };
                (*number, Arc::new(pool))
            })
            .collect();
        let sources = |rules: &Vec<(Rule, SourceRecord<A>)>| {
            let rules: Vec<(Rule, Source<A>)> = rules
                .iter()
                .filter_map(|(rule, source)| {
                    let source = match source {
                        SourceRecord::Exempt => Source::Exempt,
                        SourceRecord::Pool(number) => Source::Pool(Arc::clone(pools.get(number)?)),
                        SourceRecord::Prefix {
                            internal,
                            external,
                            prefix_len,
                        } => Source::Prefix {
                            internal: *internal,
                            external: *external,
                            prefix_len: *prefix_len,
                        },
                    };
                    Some((rule.clone(), source))
                })
                .collect();
            Arc::new(SourceRules::new(&rules))
        };
        let destinations = |section: &DestinationSection<A>| {
            let rules: Vec<Destination<A>> = section
                .rules
                .iter()
                .map(|rule| Destination {
                    address: rule.address,
                    prefix_len: rule.prefix_len,
                    protocol: rule.protocol,
                    ports: rule.ports,
                    to: rule.to,
                    port: rule.port,
                    source: rule.source.and_then(|number| pools.get(&number).cloned()),
                })
                .collect();
            Arc::new(DestinationRules::new(&rules, &section.externals))
        };
        Translation {
            source: by_number(&self.source, sources),
            hairpin: by_number(&self.hairpin, sources),
            destination: by_number(&self.destination, destinations),
        }
    }
}

fn by_number<T, U>(map: &BTreeMap<u16, T>, make: impl Fn(&T) -> U) -> Vec<Option<U>> {
    let count = map
        .keys()
        .next_back()
        .map_or(0, |last| usize::from(*last) + 1);
    let mut list: Vec<Option<U>> = std::iter::repeat_with(|| None).take(count).collect();
    for (number, item) in map {
        list[usize::from(*number)] = Some(make(item));
    }
    list
}

/// What interfaces have.
struct Interfaces<'a> {
    /// The addresses of each, by the name of the object, without link-local ones.
    addresses: BTreeMap<&'a InterfaceName, Vec<IpAddr>>,
    /// All of them by VRF.
    own: BTreeSet<(&'a VrfName, IpAddr)>,
}

impl<'a> Interfaces<'a> {
    fn new(desired: &'a DesiredState) -> Self {
        let mut addresses: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut own = BTreeSet::new();
        for address in desired.addresses.values() {
            if address.address.is_link_local() {
                continue;
            }
            let ip = address.address.ip();
            addresses.entry(&address.interface).or_default().push(ip);
            if let Some(vrf) = desired.vrf_of(&address.interface) {
                own.insert((vrf, ip));
            }
        }
        Self { addresses, own }
    }

    fn of<A: Ip>(&self, interface: &InterfaceName) -> impl Iterator<Item = A> {
        let addresses = self.addresses.get(interface).into_iter().flatten();
        addresses.filter_map(|address| A::of(*address))
    }
}

/// Compiles one family.
struct Compiler<'a, A> {
    desired: &'a DesiredState,
    interfaces: &'a Interfaces<'a>,
    numbering: &'a Numbering,
    numbers: &'a PoolNumbers,
    section: NatSection<A>,
}

impl<'a, A: Ip> Compiler<'a, A> {
    fn new(
        desired: &'a DesiredState,
        interfaces: &'a Interfaces<'a>,
        numbering: &'a Numbering,
        numbers: &'a PoolNumbers,
    ) -> Self {
        Self {
            desired,
            interfaces,
            numbering,
            numbers,
            section: NatSection::default(),
        }
    }

    fn run(mut self, outgoing: Option<&NatOutgoing>) -> NatSection<A> {
        for (vrf, number) in &self.numbering.vrfs {
            let nat = &self.desired.nat;
            let of_vrf = |mapping: &StaticNat| mapping.vrf == *vrf;
            let statics: Vec<_> = nat
                .statics
                .values()
                .filter(|mapping| of_vrf(mapping))
                .filter_map(|mapping| Some((mapping, one_to_one::<A>(mapping)?)))
                .collect();
            let rules: Vec<_> = nat
                .rules_of(vrf)
                .into_iter()
                .filter_map(|(_, rule)| Some((rule, lower::<A>(rule)?)))
                .collect();
            let outgoing = outgoing
                .filter(|_| vrf.is_default())
                .and_then(|outgoing| Some((outgoing, leaves_pools::<A>(outgoing)?)));
            if !statics.is_empty() || !rules.is_empty() || outgoing.is_some() {
                let exits: Vec<_> = self
                    .desired
                    .interfaces
                    .iter()
                    .filter(|(_, interface)| interface.vrf == *vrf)
                    .filter_map(|(name, _)| Some((name, self.numbering.interface(name)?)))
                    .collect();
                for (name, number) in &exits {
                    let mut list = self.sources_of(name, &statics, &rules);
                    if let Some((outgoing, rule)) = &outgoing
                        && let Some(pool) = self.outgoing_pool(outgoing, name)
                    {
                        list.push((rule.clone(), SourceRecord::Pool(pool)));
                    }
                    if !list.is_empty() {
                        self.section.source.insert(*number, list);
                    }
                }
                let list = self.hairpin(&exits, &statics, &rules);
                if !list.is_empty() {
                    self.section.hairpin.insert(*number, list);
                }
            }
            let destinations = self.destinations(vrf);
            if destinations != DestinationSection::default() {
                self.section.destination.insert(*number, destinations);
            }
        }
        self.section
    }

    /// What becomes of the sources of packets that leave by an interface.
    fn sources_of(
        &mut self,
        exit: &InterfaceName,
        statics: &[(&StaticNat, (Rule, SourceRecord<A>))],
        rules: &[(&NatRule, Rule)],
    ) -> Vec<(Rule, SourceRecord<A>)> {
        let mut list: Vec<_> = statics
            .iter()
            .filter(|(mapping, _)| mapping.leaves_by(exit))
            .map(|(_, entry)| entry.clone())
            .collect();
        for (rule, lowered) in rules.iter().filter(|(rule, _)| rule.leaves_by(exit)) {
            if let Some(source) = self.source(&rule.action, exit) {
                list.push((lowered.clone(), source));
            }
        }
        list
    }

    /// What becomes of the sources of packets that are sent to an external address and go back inside: the rules of all interfaces, which are
    /// asked about the external address, as if the packet left. By which interface it would have left is not known, so exemptions for
    /// some interfaces are no answer.
    fn hairpin(
        &mut self,
        exits: &[(&InterfaceName, u16)],
        statics: &[(&StaticNat, (Rule, SourceRecord<A>))],
        rules: &[(&NatRule, Rule)],
    ) -> Vec<(Rule, SourceRecord<A>)> {
        let mut list: Vec<_> = statics.iter().map(|(_, entry)| entry.clone()).collect();
        for (rule, lowered) in rules {
            if rule.action == NatAction::Exempt && !rule.out_interfaces.is_empty() {
                continue;
            }
            // Replies come back here from the address of each interface: it is that of the one with the lowest number that has one.
            let mut leaves_by: Vec<_> = exits
                .iter()
                .filter(|(name, _)| rule.leaves_by(name))
                .collect();
            leaves_by.sort_by_key(|(name, number)| {
                (self.interfaces.of::<A>(name).next().is_none(), *number)
            });
            let Some((exit, _)) = leaves_by.first() else {
                continue;
            };
            if let Some(source) = self.source(&rule.action, exit) {
                list.push((lowered.clone(), source));
            }
        }
        list
    }

    /// What a rule makes of the source of a packet that leaves by an interface; `None` where the pool is of the other family.
    fn source(&mut self, action: &NatAction, exit: &InterfaceName) -> Option<SourceRecord<A>> {
        match action {
            NatAction::Exempt => Some(SourceRecord::Exempt),
            NatAction::Pool(name) => self.pool(name, Some(exit)).map(SourceRecord::Pool),
        }
    }

    /// The number of a pool, which is then there; `None` where it is of the other family, or of interfaces and none is given.
    fn pool(&mut self, name: &ObjectName, exit: Option<&InterfaceName>) -> Option<u16> {
        let pool = self.desired.nat.pools.get(name)?;
        let (interface, addresses) = match &pool.addresses {
            PoolAddresses::Ranges(ranges) => {
                let ranges = ranges.iter();
                let mut list: Vec<(A, A)> = ranges
                    .filter_map(|range| Some((A::of(range.first())?, A::of(range.last())?)))
                    .collect();
                if list.is_empty() {
                    return None;
                }
                list.sort_unstable();
                (None, list)
            }
            PoolAddresses::Interface => {
                let exit = exit?;
                let first = self.interfaces.of::<A>(exit).next();
                (
                    Some(exit),
                    first
                        .map(|address| (address, address))
                        .into_iter()
                        .collect(),
                )
            }
        };
        let name = PoolName::Object(name.clone());
        let number = self.numbers.number(&name, interface, A::is_v6())?;
        let record = || record(pool, addresses);
        self.section.pools.entry(number).or_insert_with(record);
        Some(number)
    }

    /// The number of the pool for sources of pools with natOutgoing that leave by an interface, which is then there.
    fn outgoing_pool(&mut self, outgoing: &NatOutgoing, exit: &InterfaceName) -> Option<u16> {
        let (interface, address) = match outgoing.address.and_then(A::of) {
            Some(address) => (None, Some(address)),
            None => (Some(exit), self.interfaces.of::<A>(exit).next()),
        };
        let name = PoolName::Outgoing;
        let number = self.numbers.number(&name, interface, A::is_v6())?;
        let record = || PoolRecord {
            addresses: address
                .map(|address| (address, address))
                .into_iter()
                .collect(),
            ports: (outgoing.ports.first(), outgoing.ports.last()),
            paired: true,
        };
        self.section.pools.entry(number).or_insert_with(record);
        Some(number)
    }

    fn destinations(&mut self, vrf: &VrfName) -> DestinationSection<A> {
        let nat = &self.desired.nat;
        let mut section = DestinationSection::default();
        let mut externals = Vec::new();
        for forward in nat.forwards.values().filter(|forward| forward.vrf == *vrf) {
            let Some(to) = A::of(forward.target) else {
                continue;
            };
            let addresses: Vec<A> = match &forward.address {
                ForwardAddress::Address(address) => A::of(*address).into_iter().collect(),
                ForwardAddress::Interface(interface) => {
                    self.interfaces.of::<A>(interface).collect()
                }
            };
            externals.extend(addresses.iter().map(|address| (*address, *address)));
            let source = match &forward.source_pool {
                Some(name) => self.pool(name, None),
                None => None,
            };
            section.rules.extend(
                addresses
                    .into_iter()
                    .map(|address| forwarded(forward, address, to, source)),
            );
        }
        for mapping in nat.statics.values().filter(|mapping| mapping.vrf == *vrf) {
            let ends = A::of(mapping.external.network()).zip(A::of(mapping.internal.network()));
            if let Some((address, to)) = ends {
                section.rules.push(DestinationRecord {
                    address,
                    prefix_len: mapping.external.prefix_len(),
                    protocol: None,
                    ports: None,
                    to,
                    port: None,
                    source: None,
                });
            }
        }
        for pool in nat.pools.values().filter(|pool| pool.vrf == *vrf) {
            if let PoolAddresses::Ranges(ranges) = &pool.addresses {
                externals.extend(
                    ranges
                        .iter()
                        .filter_map(|range| Some((A::of(range.first())?, A::of(range.last())?))),
                );
            }
        }
        let own = self.interfaces.own.iter();
        let own: BTreeSet<A> = own
            .filter(|(of, _)| *of == vrf)
            .filter_map(|(_, address)| A::of(*address))
            .collect();
        section.externals = without(merged(externals), &own);
        section
    }
}

fn record<A>(pool: &NatPool, addresses: Vec<(A, A)>) -> PoolRecord<A> {
    PoolRecord {
        addresses,
        ports: (pool.ports.first(), pool.ports.last()),
        paired: pool.pairing == Pairing::Paired,
    }
}

fn forwarded<A>(
    forward: &PortForward,
    address: A,
    to: A,
    source: Option<u16>,
) -> DestinationRecord<A>
where
    A: Ip,
{
    DestinationRecord {
        address,
        prefix_len: A::BITS as u8,
        protocol: Some(forward.protocol.number()),
        ports: forward.ports.map(|ports| (ports.first(), ports.last())),
        to,
        port: forward.target_port,
        source,
    }
}

/// The rule of a one-to-one mapping; `None` for one of the other family.
fn one_to_one<A: Ip>(mapping: &StaticNat) -> Option<(Rule, SourceRecord<A>)> {
    let rule = Rule {
        source: side::<A>(&[mapping.internal]),
        ..Rule::default()
    };
    let source = SourceRecord::Prefix {
        internal: A::of(mapping.internal.network())?,
        external: A::of(mapping.external.network())?,
        prefix_len: mapping.internal.prefix_len(),
    };
    Some((rule, source))
}

/// From a pool with natOutgoing to no pool; `None` where none of the family has it.
fn leaves_pools<A: Ip>(outgoing: &NatOutgoing) -> Option<Rule> {
    let rule = Rule {
        source: side::<A>(&outgoing.sources),
        destination: Side {
            not_prefixes: prefixes::<A>(&outgoing.not_destinations),
            ..Side::default()
        },
        ..Rule::default()
    };
    (!rule.source.prefixes.is_empty()).then_some(rule)
}

/// The conditions of a rule; `None` where no packet of the family meets them.
fn lower<A: Ip>(rule: &NatRule) -> Option<Rule> {
    rule.has_family(A::is_v6()).then(|| Rule {
        source: side::<A>(&rule.sources),
        destination: Side {
            not_prefixes: prefixes::<A>(&rule.not_destinations),
            ..side::<A>(&rule.destinations)
        },
        protocols: rule.protocol.map_or_else(Protocols::default, |protocol| {
            Protocols::only(protocol.number())
        }),
        ..Rule::default()
    })
}

fn side<A: Ip>(nets: &[IpNet]) -> Side {
    Side {
        prefixes: prefixes::<A>(nets),
        ..Side::default()
    }
}

fn prefixes<A: Ip>(nets: &[IpNet]) -> Vec<Prefix> {
    nets.iter().filter_map(|net| A::prefix(*net)).collect()
}

/// The same addresses in the fewest ranges, in order.
fn merged<A: Ip>(mut ranges: Vec<(A, A)>) -> Vec<(A, A)> {
    ranges.sort_unstable();
    let mut merged: Vec<(A, A)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if end.next().is_none_or(|next| first <= next) => {
                *end = (*end).max(last);
            }
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// Ranges in order, without some addresses.
fn without<A: Ip>(ranges: Vec<(A, A)>, holes: &BTreeSet<A>) -> Vec<(A, A)> {
    let mut left = Vec::new();
    for (first, last) in ranges {
        let mut begin = Some(first);
        for hole in holes.range(first..=last) {
            if let (Some(begin), Some(end)) = (begin, hole.previous())
                && begin <= end
            {
                left.push((begin, end));
            }
            begin = hole.next();
        }
        if let Some(begin) = begin.filter(|begin| *begin <= last) {
            left.push((begin, last));
        }
    }
    left
}
