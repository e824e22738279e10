//! Rules as the classifier takes them.

use std::net::IpAddr;

use ipnet::IpNet;
use model::policy::resolve::{NamedPort, ResolvedRule, ResolvedSide, ServiceMatch};
use model::policy::{AccessRule, FailsafePort, Icmp, IpVersion, Protocol, Selector};
use tables::acl::{self, Family, PORT_PROTOCOLS, PortRange, Prefix, Protocols, Rule, Side};
use tables::{Prefix4, Prefix6};

/// Numbers of sets, asked for by what is in them.
pub(super) trait SetNumbers {
    /// Of what a selector selects.
    fn selector(&mut self, selector: &Selector) -> u32;
    /// Of the addresses of a service's endpoints.
    fn service_addresses(&mut self, service: &ServiceMatch) -> u32;
    /// Of the addresses and ports of a service's endpoints.
    fn service_ports(&mut self, service: &ServiceMatch) -> u32;
    /// Of ports by name.
    fn named_port(&mut self, port: &NamedPort) -> u32;
}

/// The rules that match together what one rule matches; none for one that matches nothing.
pub(super) fn lower(rule: &ResolvedRule, sets: &mut impl SetNumbers) -> Vec<Rule> {
    let protocols = protocols(rule.protocol, rule.not_protocol);
    let mut whole = Rule {
        family: rule.ip_version.map(family),
        source: side(&rule.source, sets),
        destination: side(&rule.destination, sets),
        protocols,
        icmp: rule.icmp.and_then(icmp),
        not_icmp: rule.not_icmp.and_then(icmp),
        services: Vec::new(),
    };
    for (end, side) in [
        (&rule.source, &mut whole.source),
        (&rule.destination, &mut whole.destination),
    ] {
        match &end.service {
            Some(service) if service.with_port => whole.services.push(sets.service_ports(service)),
            Some(service) => side.all_of.push(sets.service_addresses(service)),
            None => {}
        }
    }
    if rule.not_icmp.is_some_and(|icmp| icmp.kind.is_none()) {
        // No ICMP message is of no type, and only those have one.
        return Vec::new();
    }
    let mut lowered = Vec::new();
    if rule.icmp.is_some_and(|icmp| icmp.kind.is_none()) {
        each_icmp(&whole, &mut lowered);
    } else {
        lowered.push(whole);
    }
    lowered
        .into_iter()
        .flat_map(without_ports)
        .filter(|rule| !rule.protocols.is_empty())
        .collect()
}

/// Of an access list.
pub(super) fn lower_access(rule: &AccessRule) -> Vec<Rule> {
    let side = |nets: &[IpNet], ports: &[(u16, u16)]| Side {
        prefixes: nets.iter().map(prefix).collect(),
        ports: ports.iter().filter_map(range).collect(),
        ..Side::default()
    };
    let whole = Rule {
        family: rule.ip_version.map(family),
        source: side(&rule.sources, &rule.source_ports),
        destination: side(&rule.destinations, &rule.destination_ports),
        protocols: protocols(rule.protocol, None),
        icmp: rule.icmp.and_then(icmp),
        not_icmp: None,
        services: Vec::new(),
    };
    if rule.icmp.is_some_and(|icmp| icmp.kind.is_none()) {
        let mut lowered = Vec::new();
        each_icmp(&whole, &mut lowered);
        lowered.retain(|rule| !rule.protocols.is_empty());
        lowered
    } else {
        vec![whole]
    }
}

/// What a failsafe port opens: by destination port, or by source port for replies. The peer is the source of what comes in, the destination
/// of what goes out.
pub(super) fn failsafe(port: &FailsafePort, incoming: bool, replies: bool) -> Rule {
    let mut rule = Rule {
        protocols: Protocols::only(port.protocol.number()),
        ..Rule::default()
    };
    let peer = if incoming {
        &mut rule.source
    } else {
        &mut rule.destination
    };
    peer.prefixes.extend(port.net.as_ref().map(prefix));
    let ported = if replies {
        &mut rule.source
    } else {
        &mut rule.destination
    };
    ported.ports.push(PortRange::single(port.port));
    rule
}

/// ICMPv6 messages of a type.
pub(super) fn icmp6(icmp_type: u8) -> Rule {
    Rule {
        family: Some(Family::V6),
        protocols: Protocols::only(Protocol::ICMPV6.number()),
        icmp: Some(acl::Icmp {
            icmp_type,
            code: None,
        }),
        ..Rule::default()
    }
}

/// Packets of a protocol, and to a port where it has ports.
pub(super) fn protocol_and_port(protocol: u8, port: Option<u16>) -> Rule {
    Rule {
        protocols: Protocols::only(protocol),
        destination: Side {
            ports: port.map(PortRange::single).into_iter().collect(),
            ..Side::default()
        },
        ..Rule::default()
    }
}

/// A network as the tables take it.
pub(super) fn prefix(net: &IpNet) -> Prefix {
    // Lengths of a network are within its family's.
    match net.addr() {
        IpAddr::V4(address) => Prefix4::around(address.into(), net.prefix_len())
            .map_or(Prefix::V4(Prefix4::DEFAULT), Prefix::V4),
        IpAddr::V6(address) => Prefix6::around(address.into(), net.prefix_len())
            .map_or(Prefix::V6(Prefix6::DEFAULT), Prefix::V6),
    }
}

fn family(version: IpVersion) -> Family {
    match version {
        IpVersion::V4 => Family::V4,
        IpVersion::V6 => Family::V6,
    }
}

fn protocols(only: Option<Protocol>, not: Option<Protocol>) -> Protocols {
    let protocols = only.map_or(Protocols::ALL, |only| Protocols::only(only.number()));
    not.map_or(protocols, |not| protocols.without(not.number()))
}

fn icmp(icmp: Icmp) -> Option<acl::Icmp> {
    icmp.kind.map(|icmp_type| acl::Icmp {
        icmp_type,
        code: icmp.code,
    })
}

fn range((first, last): &(u16, u16)) -> Option<PortRange> {
    // The model has no range that ends before it begins; one would match nothing.
    PortRange::new(*first, *last).ok()
}

fn side(side: &ResolvedSide, sets: &mut impl SetNumbers) -> Side {
    let mut numbers = |ports: &[NamedPort]| -> Vec<u32> {
        ports.iter().map(|port| sets.named_port(port)).collect()
    };
    let port_sets = numbers(&side.named_ports);
    let not_port_sets = numbers(&side.not_named_ports);
    let mut number = |selector: &Option<Selector>| -> Vec<u32> {
        selector
            .iter()
            .map(|selector| sets.selector(selector))
            .collect()
    };
    Side {
        prefixes: side.nets.iter().map(prefix).collect(),
        not_prefixes: side.not_nets.iter().map(prefix).collect(),
        all_of: number(&side.selector),
        none_of: number(&side.not_selector),
        ports: side.ports.iter().filter_map(range).collect(),
        port_sets,
        not_ports: side.not_ports.iter().filter_map(range).collect(),
        not_port_sets,
    }
}

/// ICMP of any type is a protocol of its own in each family.
fn each_icmp(rule: &Rule, lowered: &mut Vec<Rule>) {
    for (own, protocol) in [
        (Family::V4, Protocol::ICMP.number()),
        (Family::V6, Protocol::ICMPV6.number()),
    ] {
        let fits = rule.family.is_none_or(|family| family == own);
        if fits && rule.protocols.contains(protocol) {
            lowered.push(Rule {
                family: Some(own),
                protocols: Protocols::only(protocol),
                ..rule.clone()
            });
        }
    }
}

/// Not to have certain ports is true of packets without ports, which the classifier's rules with ports never match: they get a rule of their own.
fn without_ports(rule: Rule) -> impl Iterator<Item = Rule> {
    let sides = [&rule.source, &rule.destination];
    let needs_ports = !rule.services.is_empty()
        || sides
            .iter()
            .any(|side| !side.ports.is_empty() || !side.port_sets.is_empty());
    let excludes_ports = sides.iter().any(|side| side.has_port_criteria());
    let other = (excludes_ports && !needs_ports).then(|| {
        let mut other = rule.clone();
        for side in [&mut other.source, &mut other.destination] {
            side.not_ports.clear();
            side.not_port_sets.clear();
        }
        other.protocols = PORT_PROTOCOLS
            .into_iter()
            .fold(other.protocols, Protocols::without);
        other
    });
    std::iter::once(rule).chain(other)
}
