//! Routes: configured ones, and those that addresses imply.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use graph_nodes::fib::{NeighbourKey, NextHop, RouteTarget, scoped};
use model::{Connected, DesiredState, Kind, ObjectKey, Route, RouteType, SpecError};

use super::{Numbering, RouteOrigin, Sections};

pub(super) fn compile(
    desired: &DesiredState,
    numbering: &Numbering,
    sections: &mut Sections,
) -> Result<(), SpecError> {
    implied(desired, numbering, sections);
    let connected = Connected::new(desired);
    for (name, route) in &desired.routes {
        let Some(vrf) = numbering.vrfs.get(&route.vrf).copied() else {
            continue;
        };
        let target = target(name.as_str(), route, &connected, numbering)?;
        let destination = route.destination.net();
        let key = (vrf, destination.addr(), destination.prefix_len());
        // What an address implies is more certain than what a route says about the same prefix.
        let origin = format!("Route/{}", name.as_str());
        sections
            .routes
            .entry(key)
            .or_insert(RouteOrigin { target, origin });
    }
    Ok(())
}

/// Connected prefixes, our own addresses, and addresses of a subnet that no host has.
fn implied(desired: &DesiredState, numbering: &Numbering, sections: &mut Sections) {
    for (name, address) in &desired.addresses {
        let Some(interface) = numbering.interface(&address.interface) else {
            continue;
        };
        let Some(record) = sections.interfaces.get(&interface) else {
            continue;
        };
        let vrf = record.vrf;
        let origin = format!("Address/{}", name.as_str());
        let (subnet, own) = (address.address.subnet(), address.address.ip());
        let len = subnet.prefix_len();
        let mut put = |address: IpAddr, len: u8, target: RouteTarget| {
            let route = RouteOrigin {
                target,
                origin: origin.clone(),
            };
            sections.routes.insert((vrf, address, len), route);
        };
        match (own, subnet.network()) {
            (IpAddr::V4(own), IpAddr::V4(network)) => {
                if len < 32 {
                    put(network.into(), len, RouteTarget::Connected(interface));
                }
                if len <= 30 {
                    let broadcast = network.to_bits() | (u32::MAX >> len);
                    put(network.into(), 32, RouteTarget::Blackhole);
                    put(
                        Ipv4Addr::from_bits(broadcast).into(),
                        32,
                        RouteTarget::Blackhole,
                    );
                }
                put(own.into(), 32, RouteTarget::Local);
            }
            (IpAddr::V6(own), IpAddr::V6(network)) => {
                let scope =
                    |address: Ipv6Addr| Ipv6Addr::from_bits(scoped(address.to_bits(), interface));
                if len < 128 {
                    put(
                        scope(network).into(),
                        len,
                        RouteTarget::Connected(interface),
                    );
                }
                if len < 127 {
                    // The subnet-router anycast address (RFC 4291 section 2.6.1).
                    put(scope(network).into(), 128, RouteTarget::Local);
                }
                put(scope(own).into(), 128, RouteTarget::Local);
            }
            _ => {}
        }
    }
    for (interface, record) in &sections.interfaces {
        let Some(link_local) = record.link_local else {
            continue;
        };
        let scope = |bits: u128| IpAddr::V6(Ipv6Addr::from_bits(scoped(bits, *interface)));
        let mut put = |address, len, target| {
            let origin = "link-local".to_owned();
            sections
                .routes
                .entry((record.vrf, address, len))
                .or_insert(RouteOrigin { target, origin });
        };
        put(scope(0xfe80 << 112), 64, RouteTarget::Connected(*interface));
        put(scope(link_local.to_bits()), 128, RouteTarget::Local);
    }
}

fn target(
    name: &str,
    route: &Route,
    connected: &Connected<'_>,
    numbering: &Numbering,
) -> Result<RouteTarget, SpecError> {
    match route.route_type {
        RouteType::Blackhole => return Ok(RouteTarget::Blackhole),
        RouteType::Unreachable => return Ok(RouteTarget::Unreachable),
        RouteType::Prohibit => return Ok(RouteTarget::Prohibit),
        RouteType::Unicast => {}
    }
    let error = |field: String, message: &str| {
        Err(SpecError::new(
            ObjectKey::new(Kind::Route, name),
            field,
            message,
        ))
    };
    let mut hops = Vec::new();
    for (index, hop) in route.next_hops.iter().enumerate() {
        let field = |part: &str| format!("spec.nextHops[{index}].{part}");
        let by_subnet = || {
            hop.via
                .and_then(|via| connected.interface_of(&route.vrf, via))
        };
        let interface = hop
            .interface
            .as_ref()
            .or_else(by_subnet)
            .and_then(|name| numbering.interface(name));
        let Some(interface) = interface else {
            return error(
                field("via"),
                "no interface leads to it: name one, or add an address in its subnet",
            );
        };
        match hop.via {
            Some(address) => {
                hops.push(NextHop {
                    neighbour: NeighbourKey { interface, address },
                    weight: hop.weight.value(),
                });
            }
            None if route.next_hops.len() == 1 => return Ok(RouteTarget::Connected(interface)),
            None => {
                return error(
                    field("via"),
                    "one of several next hops needs an address: give each its via",
                );
            }
        }
    }
    Ok(RouteTarget::Forward(hops))
}
