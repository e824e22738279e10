//! Interfaces and their addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::PortId;
use graph_nodes::Tags;
use graph_nodes::fib::Link;
use model::{DesiredState, Interface, InterfaceKind, InterfaceName, Kind, ObjectKey, SpecError};
use wire::{EtherType, MacAddr};

use super::{InterfaceRecord, Numbering, PortFacts, PortSection, Sections};

pub(super) fn compile(
    desired: &DesiredState,
    numbering: &Numbering,
    facts: &BTreeMap<InterfaceName, PortFacts>,
    sections: &mut Sections,
) -> Result<(), SpecError> {
    for (name, interface) in &desired.interfaces {
        let Some(number) = numbering.interface(name) else {
            continue;
        };
        let (physical_name, physical) = physical(desired, name, interface);
        let Some(facts) = facts.get(physical_name) else {
            return Err(error(
                name,
                "",
                format!("its device {physical_name} is not open"),
            ));
        };
        let Some(port) = numbering.interface(physical_name) else {
            continue;
        };
        let mtu = mtu(desired, name, interface, facts)?;
        let tags = tags(interface);
        let mac = interface
            .mac_address
            .or(physical.mac_address)
            .map_or(facts.mac, |mac| MacAddr::new(mac.octets()));
        let addresses = desired
            .addresses
            .values()
            .filter(|address| address.interface == *name);
        let mut record = InterfaceRecord {
            up: interface.admin_up && physical.admin_up,
            port: PortId(port),
            tags,
            mac,
            mtu,
            vrf: numbering.vrfs.get(&interface.vrf).copied().unwrap_or(0),
            proxy_arp: interface.proxy_arp,
            redirects: interface.redirects,
            ip4: Vec::new(),
            ip6: Vec::new(),
            link_local: None,
        };
        for address in addresses {
            let len = address.address.subnet().prefix_len();
            match address.address.ip() {
                IpAddr::V4(ip) => record.ip4.push((ip, len)),
                IpAddr::V6(ip) if address.address.is_link_local() => record.link_local = Some(ip),
                IpAddr::V6(ip) => record.ip6.push((ip, len)),
            }
        }
        if !record.ip6.is_empty() && record.link_local.is_none() {
            record.link_local = Some(mac.link_local());
        }
        let at = usize::from(port);
        if sections.ports.len() <= at {
            sections.ports.resize_with(at + 1, PortSection::default);
        }
        let section = &mut sections.ports[at];
        section.capabilities = facts.capabilities;
        if let Some(inner) = tags.inner {
            match tags.outer {
                None => section.vlans.insert(inner, number),
                Some((_, outer)) => section.stacked_vlans.insert((outer, inner), number),
            };
        }
        let link = Link {
            port: PortId(port),
            mtu,
            vrf: record.vrf,
            mac,
            tags,
        };
        sections.links.insert(number, link);
        sections.interfaces.insert(number, record);
    }
    for neighbour in desired.neighbours.values() {
        if let Some(interface) = numbering.interface(&neighbour.interface) {
            let key = graph_nodes::fib::NeighbourKey {
                interface,
                address: neighbour.address,
            };
            sections
                .neighbours
                .insert(key, MacAddr::new(neighbour.mac_address.octets()));
        }
    }
    Ok(())
}

/// The interface that has the device.
fn physical<'a>(
    desired: &'a DesiredState,
    name: &'a InterfaceName,
    interface: &'a Interface,
) -> (&'a InterfaceName, &'a Interface) {
    match &interface.kind {
        InterfaceKind::AfPacket(_) => (name, interface),
        InterfaceKind::Vlan(vlan) => desired
            .interfaces
            .get(&vlan.parent)
            .map_or((name, interface), |parent| (&vlan.parent, parent)),
    }
}

fn mtu(
    desired: &DesiredState,
    name: &InterfaceName,
    interface: &Interface,
    facts: &PortFacts,
) -> Result<u16, SpecError> {
    let device = u16::try_from(facts.mtu).unwrap_or(u16::MAX);
    let below = match &interface.kind {
        InterfaceKind::AfPacket(_) => device,
        InterfaceKind::Vlan(vlan) => {
            let parent = desired
                .interfaces
                .get(&vlan.parent)
                .and_then(|parent| parent.mtu);
            parent.map_or(device, |mtu| mtu.bytes())
        }
    };
    match interface.mtu.map(|mtu| mtu.bytes()) {
        Some(mtu) if mtu > below => {
            let what = if matches!(interface.kind, InterfaceKind::AfPacket(_)) {
                "the device"
            } else {
                "its parent"
            };
            let message = format!(
                "{mtu} bytes are more than {what} carries, which is {below}: lower it, or raise that first"
            );
            Err(error(name, "spec.mtu", message))
        }
        Some(mtu) => Ok(mtu),
        None => Ok(below),
    }
}

fn tags(interface: &Interface) -> Tags {
    match &interface.kind {
        InterfaceKind::AfPacket(_) => Tags::default(),
        InterfaceKind::Vlan(vlan) => Tags {
            outer: vlan
                .outer
                .map(|(protocol, id)| (EtherType::new(protocol.ethertype()), id.value())),
            inner: Some(vlan.id.value()),
        },
    }
}

fn error(name: &InterfaceName, field: &str, message: String) -> SpecError {
    SpecError::new(
        ObjectKey::new(Kind::Interface, name.as_str()),
        field,
        message,
    )
}
