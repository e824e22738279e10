//! Translation.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::Check;
use crate::nat::is_v6;
use crate::policy::{Protocol, ResourceKind};
use crate::{
    DesiredState, ForwardAddress, InterfaceName, Kind, NatAction, NatPool, NatRule, ObjectKey,
    ObjectName, PoolAddresses, PortForward, PortSpan, RouteType, SpecError, VrfName,
};

/// Addresses that an object of translation has for itself.
struct Claim<'a> {
    vrf: &'a VrfName,
    v6: bool,
    first: u128,
    last: u128,
    kind: Kind,
    name: &'a ObjectName,
    /// Of a pool, the entry of its list.
    index: usize,
}

impl Claim<'_> {
    fn key(&self) -> ObjectKey {
        ObjectKey::new(self.kind, self.name.as_str())
    }

    fn field(&self) -> String {
        match self.kind {
            Kind::NatPool => format!("spec.addresses[{}]", self.index),
            _ => "spec.external".into(),
        }
    }

    fn place(&self) -> (&VrfName, bool) {
        (self.vrf, self.v6)
    }
}

/// Which routes lead to an address: made when the first address that is on no link asks.
#[derive(Default)]
struct Routed<'a> {
    routes: HashMap<(&'a VrfName, IpNet), RouteType>,
    lengths: BTreeSet<u8>,
}

impl<'a> Routed<'a> {
    fn new(state: &'a DesiredState) -> Self {
        let mut routed = Self::default();
        for route in state.routes.values() {
            let net = route.destination.net();
            routed.lengths.insert(net.prefix_len());
            routed.routes.insert((&route.vrf, net), route.route_type);
        }
        routed
    }

    fn leads_to(&self, vrf: &VrfName, address: IpAddr) -> bool {
        let longest = self.lengths.iter().rev().find_map(|length| {
            let net = IpNet::new(address, *length).ok()?.trunc();
            self.routes.get(&(vrf, net))
        });
        longest == Some(&RouteType::Unicast)
    }
}

impl<'a> Check<'a> {
    pub(super) fn nat(&mut self) {
        self.ip_pools();
        if self.state.nat.is_empty() {
            return;
        }
        let claims = self.claims();
        self.nat_pools();
        self.own_addresses(&claims);
        self.nat_rules();
        self.port_forwards(&claims);
        self.statics();
    }

    /// Pools of workloads have no address in common, as in Calico.
    fn ip_pools(&mut self) {
        let pools = self.state.policy.ip_pools.iter();
        let mut pools: Vec<_> = pools.map(|(name, pool)| (pool.cidr, name)).collect();
        // Prefixes are nested or disjoint: one that another holds comes behind it, with nothing between that it does not hold.
        pools.sort();
        let mut outer: Option<(IpNet, &str)> = None;
        for (cidr, name) in pools {
            match outer {
                Some((held, other)) if held.contains(&cidr) => {
                    let message = |mine: IpNet, theirs: IpNet, other: &str| {
                        format!(
                            "{mine} overlaps {theirs} of IPPool/{other}: give each its own addresses"
                        )
                    };
                    let key = |name: &str| ObjectKey::new(Kind::Policy(ResourceKind::IpPool), name);
                    let first = (key(name), "spec.cidr", message(cidr, held, other));
                    let second = (key(other), "spec.cidr", message(held, cidr, name));
                    self.conflict(first, second);
                }
                _ => outer = Some((cidr, name)),
            }
        }
    }

    /// The addresses of pools and one-to-one mappings, in order; those that two objects claim are wrong.
    fn claims(&mut self) -> Vec<Claim<'a>> {
        let mut claims = Vec::new();
        for (name, pool) in &self.state.nat.pools {
            let PoolAddresses::Ranges(ranges) = &pool.addresses else {
                continue;
            };
            claims.extend(ranges.iter().enumerate().map(|(index, range)| Claim {
                vrf: &pool.vrf,
                v6: range.is_v6(),
                first: number(range.first()),
                last: number(range.last()),
                kind: Kind::NatPool,
                name,
                index,
            }));
        }
        for (name, mapping) in &self.state.nat.statics {
            claims.push(Claim {
                vrf: &mapping.vrf,
                v6: is_v6(mapping.external),
                first: number(mapping.external.network()),
                last: number(mapping.external.broadcast()),
                kind: Kind::StaticNat,
                name,
                index: 0,
            });
        }
        claims.sort_by_key(|claim| {
            (
                claim.vrf,
                claim.v6,
                claim.first,
                std::cmp::Reverse(claim.last),
                claim.kind,
                claim.name,
            )
        });
        let mut furthest: Option<&Claim<'a>> = None;
        for claim in &claims {
            if let Some(other) = furthest.filter(|other| other.place() == claim.place()) {
                if other.last >= claim.first {
                    self.overlapping(claim, other);
                }
                if other.last >= claim.last {
                    continue;
                }
            }
            furthest = Some(claim);
        }
        claims
    }

    fn overlapping(&mut self, claim: &Claim<'_>, other: &Claim<'_>) {
        let message = |mine: &Claim<'_>, other: &Claim<'_>| {
            format!(
                "{} overlaps {} of {} ({}) in VRF {}: give each its own addresses",
                span(mine),
                span(other),
                other.key(),
                other.field(),
                mine.vrf
            )
        };
        self.conflict(
            (claim.key(), &claim.field(), message(claim, other)),
            (other.key(), &other.field(), message(other, claim)),
        );
    }

    fn nat_pools(&mut self) {
        let mut masquerades: BTreeMap<&VrfName, Vec<(&ObjectName, PortSpan)>> = BTreeMap::new();
        for (name, pool) in &self.state.nat.pools {
            let key = || ObjectKey::new(Kind::NatPool, name.as_str());
            self.vrf_exists(key, "spec.vrf", &pool.vrf);
            if pool.addresses != PoolAddresses::Interface {
                continue;
            }
            let others = masquerades.entry(&pool.vrf).or_default();
            if let Some((other, _)) = others.iter().find(|(_, ports)| ports.overlaps(pool.ports)) {
                let message = |other: &ObjectName| {
                    format!(
                        "NatPool/{other} has the same addresses and ports in VRF {}: use that one, or give each its own spec.ports",
                        pool.vrf
                    )
                };
                let other_key = ObjectKey::new(Kind::NatPool, other.as_str());
                let field = "spec.interfaceAddress";
                let first = (key(), field, message(other));
                let second = (other_key, field, message(name));
                self.conflict(first, second);
            }
            others.push((name, pool.ports));
        }
    }

    /// What our own addresses and their subnets do not share with pools and mappings.
    fn own_addresses(&mut self, claims: &[Claim<'a>]) {
        if claims.is_empty() {
            return;
        }
        for (name, address) in &self.state.addresses {
            let Some(vrf) = self.state.vrf_of(&address.interface) else {
                continue;
            };
            if address.address.is_link_local() {
                continue;
            }
            let (own, subnet) = (address.address.ip(), address.address.subnet());
            let mut wrong = Vec::new();
            if let Some(claim) = holder(claims, vrf, own) {
                match claim.kind {
                    Kind::NatPool => {
                        if let Some(other) = self.masquerade_beside(claim, vrf) {
                            wrong.push((claim, format!(
                                "{own} is the address of Interface/{} (Address/{name}), which NatPool/{other} gives out with the same ports: leave it out, or give each its own spec.ports",
                                address.interface
                            )));
                        }
                    }
                    _ => wrong.push((claim, format!(
                        "{own} is the address of Interface/{} (Address/{name}), which would not be reached any more: use another one, or a PortForward",
                        address.interface
                    ))),
                }
            }
            let (first, last) = (subnet.network(), subnet.broadcast());
            if own.is_ipv4() && subnet.prefix_len() <= 30 {
                for (address, what) in [(first, "the first"), (last, "the broadcast address")] {
                    if let Some(claim) = holder(claims, vrf, address) {
                        wrong.push((
                            claim,
                            format!(
                                "{address} is {what} of the subnet {subnet} (Address/{name}), no host's: leave it out"
                            ),
                        ));
                    }
                }
            } else if first != last
                && let Some(claim) = holder(claims, vrf, first)
                && number(last) <= claim.last
            {
                wrong.push((
                    claim,
                    format!(
                        "covers the subnet {subnet} of Interface/{} (Address/{name}): leave it out",
                        address.interface
                    ),
                ));
            }
            for (claim, message) in wrong {
                let own_message = format!("{}, of {}: {message}", claim.field(), claim.key());
                let own_key = ObjectKey::new(Kind::Address, name.as_str());
                self.conflict(
                    (claim.key(), &claim.field(), message),
                    (own_key, "spec.address", own_message),
                );
            }
        }
    }

    /// A pool that gives out interfaces' addresses with ports of the claim's pool.
    fn masquerade_beside(&self, claim: &Claim<'_>, vrf: &VrfName) -> Option<&'a ObjectName> {
        let ports = self.state.nat.pools.get(claim.name)?.ports;
        let beside = |pool: &NatPool| {
            pool.addresses == PoolAddresses::Interface
                && pool.vrf == *vrf
                && pool.ports.overlaps(ports)
        };
        let mut pools = self.state.nat.pools.iter();
        pools.find(|(_, pool)| beside(pool)).map(|(name, _)| name)
    }

    fn nat_rules(&mut self) {
        for (name, rule) in &self.state.nat.rules {
            let key = || ObjectKey::new(Kind::NatRule, name.as_str());
            let known = self.vrf_exists(key, "spec.vrf", &rule.vrf);
            if known {
                self.out_interfaces(key, &rule.vrf, &rule.out_interfaces);
            }
            if let NatAction::Pool(pool) = &rule.action
                && let Some(pool) = self.pool(key, "spec.pool", &rule.vrf, pool)
            {
                self.prefixes_of_family(&key(), rule, pool);
            }
        }
    }

    /// A pool that an object of a VRF names.
    fn pool(
        &mut self,
        key: impl Fn() -> ObjectKey,
        field: &str,
        vrf: &VrfName,
        name: &ObjectName,
    ) -> Option<&'a NatPool> {
        let state = self.state;
        let Some(pool) = state.nat.pools.get(name) else {
            let target = ObjectKey::new(Kind::NatPool, name.as_str());
            self.missing(key(), field, target);
            return None;
        };
        if pool.vrf != *vrf {
            let message = format!(
                "NatPool/{name} is in VRF {}, this is in VRF {vrf}: use a pool of VRF {vrf}",
                pool.vrf
            );
            self.errors.push(SpecError::new(key(), field, message));
            return None;
        }
        Some(pool)
    }

    /// A prefix of a family that the pool has no address of would do nothing.
    fn prefixes_of_family(&mut self, key: &ObjectKey, rule: &NatRule, pool: &NatPool) {
        for (field, nets) in [
            ("spec.sources", &rule.sources),
            ("spec.destinations", &rule.destinations),
            ("spec.notDestinations", &rule.not_destinations),
        ] {
            for (index, net) in nets.iter().enumerate() {
                if !pool.has_family(is_v6(*net)) {
                    let message = format!(
                        "{net} is not of the family of the addresses of spec.pool: leave it out, or use another pool"
                    );
                    let field = format!("{field}[{index}]");
                    self.errors
                        .push(SpecError::new(key.clone(), field, message));
                }
            }
        }
    }

    fn out_interfaces(
        &mut self,
        key: impl Fn() -> ObjectKey,
        vrf: &VrfName,
        names: &[InterfaceName],
    ) {
        for (index, name) in names.iter().enumerate() {
            self.interface_of_vrf(&key, &format!("spec.outInterfaces[{index}]"), vrf, name);
        }
    }

    /// Whether there is an interface of this name in the VRF.
    fn interface_of_vrf(
        &mut self,
        key: impl Fn() -> ObjectKey,
        field: &str,
        vrf: &VrfName,
        name: &InterfaceName,
    ) -> bool {
        match self.state.vrf_of(name) {
            None => {
                let target = ObjectKey::new(Kind::Interface, name.as_str());
                self.missing(key(), field, target);
                false
            }
            Some(of) if of != vrf => {
                let message = format!(
                    "Interface/{name} is in VRF {of}, this is in VRF {vrf}: name one of VRF {vrf}"
                );
                self.errors.push(SpecError::new(key(), field, message));
                false
            }
            Some(_) => true,
        }
    }

    fn port_forwards(&mut self, claims: &[Claim<'a>]) {
        if self.state.nat.forwards.is_empty() {
            return;
        }
        let mut routed = None;
        let mut own: HashMap<&InterfaceName, Vec<IpAddr>> = HashMap::new();
        for address in self.state.addresses.values() {
            if !address.address.is_link_local() {
                let of = own.entry(&address.interface).or_default();
                of.push(address.address.ip());
            }
        }
        let mut taken: Vec<(&VrfName, IpAddr, Protocol, PortSpan, &ObjectName)> = Vec::new();
        for (name, forward) in &self.state.nat.forwards {
            let key = || ObjectKey::new(Kind::PortForward, name.as_str());
            if !self.vrf_exists(key, "spec.vrf", &forward.vrf) {
                continue;
            }
            let addresses = match &forward.address {
                ForwardAddress::Address(address) => {
                    self.outside_of_statics(&key(), forward, *address, claims);
                    vec![*address]
                }
                ForwardAddress::Interface(interface) => {
                    let field = forward.address_field();
                    if !self.interface_of_vrf(key, field, &forward.vrf, interface) {
                        continue;
                    }
                    let of = own.get(interface).into_iter().flatten().copied();
                    let of: Vec<IpAddr> = of
                        .filter(|address| address.is_ipv4() == forward.target.is_ipv4())
                        .collect();
                    if of.is_empty() {
                        let message = format!(
                            "Interface/{interface} has no address of the family of {}: add an Address, or set spec.address",
                            forward.target
                        );
                        self.errors.push(SpecError::new(key(), field, message));
                    }
                    of
                }
            };
            self.reached(
                &key(),
                "spec.targetAddress",
                &forward.vrf,
                forward.target,
                &mut routed,
            );
            if let Some(name) = &forward.source_pool
                && let Some(pool) = self.pool(key, "spec.sourcePool", &forward.vrf, name)
            {
                self.source_pool(&key(), forward, name, pool);
            }
            let ports = forward.ports.unwrap_or(PortSpan::ALL);
            taken.extend(
                addresses
                    .into_iter()
                    .map(|address| (&forward.vrf, address, forward.protocol, ports, name)),
            );
        }
        self.duplicate_forwards(taken);
    }

    fn source_pool(
        &mut self,
        key: &ObjectKey,
        forward: &PortForward,
        name: &ObjectName,
        pool: &NatPool,
    ) {
        let message = if pool.addresses == PoolAddresses::Interface {
            format!("NatPool/{name} has the addresses of interfaces: use one with spec.addresses")
        } else if !pool.has_family(forward.target.is_ipv6()) {
            format!(
                "the addresses of NatPool/{name} are not of the family of {}: use another pool",
                forward.target
            )
        } else {
            return;
        };
        let error = SpecError::new(key.clone(), "spec.sourcePool", message);
        self.errors.push(error);
    }

    fn outside_of_statics(
        &mut self,
        key: &ObjectKey,
        forward: &PortForward,
        address: IpAddr,
        claims: &[Claim<'a>],
    ) {
        let holder = holder(claims, &forward.vrf, address);
        let Some(claim) = holder.filter(|claim| claim.kind == Kind::StaticNat) else {
            return;
        };
        self.conflict(
            (
                key.clone(),
                forward.address_field(),
                format!(
                    "{address} is in {} of {}, which translates all of its ports: use another address",
                    span(claim),
                    claim.key()
                ),
            ),
            (
                claim.key(),
                &claim.field(),
                format!("holds {address} of {key}: leave it out, or delete that"),
            ),
        );
    }

    /// Two forwards of the same packets.
    fn duplicate_forwards(
        &mut self,
        mut taken: Vec<(&'a VrfName, IpAddr, Protocol, PortSpan, &'a ObjectName)>,
    ) {
        taken.sort_by_key(|(vrf, address, protocol, ports, name)| {
            (*vrf, *address, protocol.number(), *ports, *name)
        });
        // Of those with the same address and protocol so far, the one that ends last.
        let mut furthest: Option<&(&VrfName, IpAddr, Protocol, PortSpan, &ObjectName)> = None;
        for entry in &taken {
            let (vrf, address, protocol, ports, name) = entry;
            let same = |other: &&(&VrfName, IpAddr, Protocol, PortSpan, &ObjectName)| {
                (other.0, other.1, other.2) == (*vrf, *address, *protocol)
            };
            if let Some(other) = furthest.filter(same) {
                if other.3.last() >= ports.first() && other.4 != *name {
                    let message = |mine: PortSpan, other: &ObjectName, theirs: PortSpan| {
                        let what = |ports: PortSpan| match protocol.has_ports() {
                            true => format!(" port {ports}"),
                            false => String::new(),
                        };
                        format!(
                            "{protocol}{} to {address} overlaps{} of PortForward/{other} in VRF {vrf}: forward it once",
                            what(mine),
                            what(theirs)
                        )
                    };
                    let forwards = &self.state.nat.forwards;
                    let field = |name: &ObjectName| {
                        forwards
                            .get(name)
                            .map_or("spec.port", PortForward::port_field)
                    };
                    let key = |name: &ObjectName| ObjectKey::new(Kind::PortForward, name.as_str());
                    let first = (key(name), field(name), message(*ports, other.4, other.3));
                    let second = (key(other.4), field(other.4), message(other.3, name, *ports));
                    self.conflict(first, second);
                }
                if other.3.last() >= ports.last() {
                    continue;
                }
            }
            furthest = Some(entry);
        }
    }

    fn statics(&mut self) {
        let mut routed = None;
        let mut internals = Vec::new();
        for (name, mapping) in &self.state.nat.statics {
            let key = || ObjectKey::new(Kind::StaticNat, name.as_str());
            if !self.vrf_exists(key, "spec.vrf", &mapping.vrf) {
                continue;
            }
            self.out_interfaces(key, &mapping.vrf, &mapping.out_interfaces);
            let inside = mapping.internal.contains(&mapping.external)
                || mapping.external.contains(&mapping.internal);
            if !inside {
                for end in [mapping.internal.network(), mapping.internal.broadcast()] {
                    if !self.reached(&key(), "spec.internal", &mapping.vrf, end, &mut routed) {
                        break;
                    }
                }
            }
            internals.push((&mapping.vrf, mapping.internal, name));
        }
        // Prefixes of a VRF in this order: those that hold the next one come before it, without a gap.
        internals.sort_by_key(|(vrf, net, name)| (*vrf, net.network(), net.prefix_len(), *name));
        let mut around: Vec<(&VrfName, IpNet, &ObjectName)> = Vec::new();
        for (vrf, net, name) in internals {
            let holds =
                |outer: &(&VrfName, IpNet, &ObjectName)| outer.0 == vrf && outer.1.contains(&net);
            while around.last().is_some_and(|outer| !holds(outer)) {
                around.pop();
            }
            if let Some((_, outer, other)) = around
                .iter()
                .rev()
                .find(|(_, _, other)| self.share_interfaces(name, other))
            {
                let message = |mine: IpNet, theirs: IpNet, other: &ObjectName| {
                    format!(
                        "{mine} overlaps {theirs} of StaticNat/{other} in VRF {vrf}: translate each address once, or name different outInterfaces"
                    )
                };
                let key = |name: &ObjectName| ObjectKey::new(Kind::StaticNat, name.as_str());
                let first = (key(name), "spec.internal", message(net, *outer, other));
                let second = (key(other), "spec.internal", message(*outer, net, name));
                self.conflict(first, second);
            }
            around.push((vrf, net, name));
        }
    }

    /// Whether packets that leave by some interface could be translated by either.
    fn share_interfaces(&self, one: &ObjectName, other: &ObjectName) -> bool {
        let of = |name| self.state.nat.statics.get::<ObjectName>(name);
        let (Some(one), Some(other)) = (of(one), of(other)) else {
            return false;
        };
        one.out_interfaces.is_empty()
            || other.out_interfaces.is_empty()
            || one.out_interfaces.iter().any(|name| other.leaves_by(name))
    }

    /// Whether a connected subnet or route of the VRF leads to an address.
    fn reached(
        &mut self,
        key: &ObjectKey,
        field: &str,
        vrf: &VrfName,
        address: IpAddr,
        routed: &mut Option<Routed<'a>>,
    ) -> bool {
        let state = self.state;
        let reached = self.connected.interface_of(vrf, address).is_some()
            || routed
                .get_or_insert_with(|| Routed::new(state))
                .leads_to(vrf, address);
        if !reached {
            let message = format!(
                "{address} is in no connected subnet of VRF {vrf}, and no route leads to it: add an Address or a Route"
            );
            self.errors
                .push(SpecError::new(key.clone(), field, message));
        }
        reached
    }
}

/// The claim that has an address. Of claims that overlap, which are wrong anyway, one of them or none.
fn holder<'c, 'a>(
    claims: &'c [Claim<'a>],
    vrf: &VrfName,
    address: IpAddr,
) -> Option<&'c Claim<'a>> {
    let wanted = (vrf, address.is_ipv6(), number(address));
    let after = claims.partition_point(|claim| (claim.vrf, claim.v6, claim.first) <= wanted);
    let claim = claims.get(after.checked_sub(1)?)?;
    (claim.place() == (wanted.0, wanted.1) && wanted.2 <= claim.last).then_some(claim)
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The addresses of a claim, for people.
fn span(claim: &Claim<'_>) -> String {
    let address = |number: u128| match u32::try_from(number) {
        Ok(number) if !claim.v6 => IpAddr::from(number.to_be_bytes()),
        _ => IpAddr::from(number.to_be_bytes()),
    };
    if claim.first == claim.last {
        address(claim.first).to_string()
    } else {
        format!("{}-{}", address(claim.first), address(claim.last))
    }
}
