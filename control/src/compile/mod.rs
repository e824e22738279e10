//! From the desired state to what the nodes read: a pure function, one file per family.
//!
//! [`compile`] sees the desired state, the numbers that objects have ([`Numbering`]), and what the devices are like
//! ([`PortFacts`]). The same input gives the same [`Sections`], whatever was compiled before.

mod interfaces;
pub mod nat;
mod numbering;
pub mod policy;
mod routes;

use std::collections::BTreeMap;
use std::net::IpAddr;

use dataplane::{PortCapabilities, PortId};
use graph_nodes::fib::{Link, NeighbourKey, RouteTarget};
use graph_nodes::{Interface, Port};
use model::{DesiredState, InterfaceName, SpecError};
use wire::MacAddr;

pub use numbering::{Numbering, NumberingError};

/// What a device is like, learnt when it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortFacts {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The longest IP packet that it carries, in bytes.
    pub mtu: u32,
    /// What it carries without help.
    pub capabilities: PortCapabilities,
}

/// Where a route comes from, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RouteOrigin {
    /// What it leads to.
    pub target: RouteTarget,
    /// The object that made it: `Route/default-v4`.
    pub origin: String,
}

/// Everything that the dataplane needs, as numbers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sections {
    /// By port number.
    pub ports: Vec<PortSection>,
    /// By interface number.
    pub interfaces: BTreeMap<u16, InterfaceRecord>,
    /// What each interface puts in front of packets.
    pub links: BTreeMap<u16, Link>,
    /// By VRF number, address and prefix length.
    pub routes: BTreeMap<(u16, IpAddr, u8), RouteOrigin>,
    /// Static neighbours.
    pub neighbours: BTreeMap<NeighbourKey, MacAddr>,
}

/// A port's part of the snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortSection {
    /// What it carries without help.
    pub capabilities: PortCapabilities,
    /// Sub-interfaces by tag.
    pub vlans: BTreeMap<u16, u16>,
    /// Sub-interfaces by outer and inner tag.
    pub stacked_vlans: BTreeMap<(u16, u16), u16>,
}

/// An interface's part of the snapshot: the fields of [`Interface`] that are compiled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfaceRecord {
    /// Carries packets.
    pub up: bool,
    /// The port below.
    pub port: PortId,
    /// The tags on its frames.
    pub tags: graph_nodes::Tags,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// The longest IP packet in bytes.
    pub mtu: u16,
    /// Number of its VRF.
    pub vrf: u16,
    /// See [`Interface::proxy_arp`].
    pub proxy_arp: bool,
    /// See [`Interface::redirects`].
    pub redirects: bool,
    /// IPv4 addresses with prefix lengths.
    pub ip4: Vec<(std::net::Ipv4Addr, u8)>,
    /// IPv6 addresses with prefix lengths, link-local ones aside.
    pub ip6: Vec<(std::net::Ipv6Addr, u8)>,
    /// The link-local address, where IPv6 is on.
    pub link_local: Option<std::net::Ipv6Addr>,
}

/// Compiles the desired state.
///
/// # Errors
///
/// The object that the devices cannot carry, and why.
pub fn compile(
    desired: &DesiredState,
    numbering: &Numbering,
    facts: &BTreeMap<InterfaceName, PortFacts>,
) -> Result<Sections, SpecError> {
    let mut sections = Sections::default();
    interfaces::compile(desired, numbering, facts, &mut sections)?;
    // What addresses of interfaces imply goes over these, and these go over configured routes.
    nat::routes(desired, numbering, &mut sections);
    routes::compile(desired, numbering, &mut sections)?;
    Ok(sections)
}

impl Sections {
    /// The snapshot's list of interfaces.
    pub fn interface_list(&self) -> Vec<Interface> {
        let count = self
            .interfaces
            .keys()
            .next_back()
            .map_or(0, |last| usize::from(*last) + 1);
        let mut list: Vec<Interface> = std::iter::repeat_with(Interface::absent)
            .take(count)
            .collect();
        for (number, record) in &self.interfaces {
            list[usize::from(*number)] = record.to_interface();
        }
        list
    }

    /// The snapshot's list of ports.
    pub fn port_list(&self) -> Vec<Port> {
        self.ports.iter().map(PortSection::to_port).collect()
    }
}

impl PortSection {
    fn to_port(&self) -> Port {
        let mut vlans = Vec::new();
        if !self.vlans.is_empty() {
            vlans = vec![graph_nodes::NO_INTERFACE; 4096];
            for (tag, interface) in &self.vlans {
                vlans[usize::from(*tag)] = *interface;
            }
        }
        let stacked = self.stacked_vlans.iter();
        let stacked_vlans = stacked
            .map(|((outer, inner), to)| (u32::from(*outer) << 16 | u32::from(*inner), *to))
            .collect();
        Port {
            capabilities: self.capabilities,
            vlans,
            stacked_vlans,
        }
    }
}

impl InterfaceRecord {
    fn to_interface(&self) -> Interface {
        Interface {
            up: self.up,
            port: self.port,
            tags: self.tags,
            mac: self.mac,
            mtu: self.mtu,
            vrf: self.vrf,
            proxy_arp: self.proxy_arp,
            redirects: self.redirects,
            ip4: self
                .ip4
                .iter()
                .map(|(address, prefix_len)| address_of(*address, *prefix_len))
                .collect(),
            ip6: self
                .ip6
                .iter()
                .map(|(address, prefix_len)| address_of(*address, *prefix_len))
                .collect(),
            link_local: self.link_local,
            ..Interface::absent()
        }
    }
}

fn address_of<A>(address: A, prefix_len: u8) -> graph_nodes::InterfaceAddress<A> {
    graph_nodes::InterfaceAddress {
        address,
        prefix_len,
    }
}
