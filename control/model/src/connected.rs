//! Connected subnets: which interface reaches an address directly.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{DesiredState, InterfaceName, ObjectName, VrfName};

/// An index of a desired state's addresses. Look-ups cost one probe per prefix length in use.
#[derive(Debug, Default)]
pub struct Connected<'a> {
    vrfs: HashMap<&'a VrfName, Subnets<'a>>,
    links: HashMap<&'a InterfaceName, BTreeSet<IpNet>>,
}

#[derive(Debug, Default)]
struct Subnets<'a> {
    interfaces: BTreeMap<IpNet, &'a InterfaceName>,
    lengths: BTreeSet<u8>,
    own: HashMap<IpAddr, &'a ObjectName>,
}

impl<'a> Connected<'a> {
    /// Indexes the addresses of interfaces that exist. IPv6 link-local addresses are in no VRF's index.
    pub fn new(state: &'a DesiredState) -> Self {
        let mut connected = Self::default();
        for (name, address) in &state.addresses {
            let Some(vrf) = state.vrf_of(&address.interface) else {
                continue;
            };
            let subnet = address.address.subnet();
            connected
                .links
                .entry(&address.interface)
                .or_default()
                .insert(subnet);
            if address.address.is_link_local() {
                continue;
            }
            let subnets = connected.vrfs.entry(vrf).or_default();
            subnets.lengths.insert(subnet.prefix_len());
            subnets
                .interfaces
                .entry(subnet)
                .or_insert(&address.interface);
            subnets.own.entry(address.address.ip()).or_insert(name);
        }
        connected
    }

    /// The interface whose subnet holds an address, by the longest prefix. `None` for IPv6 link-local addresses: every link has
    /// them.
    pub fn interface_of(&self, vrf: &VrfName, address: IpAddr) -> Option<&'a InterfaceName> {
        let subnets = self.vrfs.get(vrf)?;
        subnets.lengths.iter().rev().find_map(|length| {
            let subnet = IpNet::new(address, *length).ok()?.trunc();
            subnets.interfaces.get(&subnet).copied()
        })
    }

    /// The interface that has exactly this subnet.
    pub fn interface_with(&self, vrf: &VrfName, subnet: IpNet) -> Option<&'a InterfaceName> {
        self.vrfs.get(vrf)?.interfaces.get(&subnet).copied()
    }

    /// Whether an address is inside one of an interface's subnets. An IPv6 link-local address is, everywhere.
    pub fn on_link(&self, interface: &InterfaceName, address: IpAddr) -> bool {
        crate::address::is_link_local(address)
            || self
                .links
                .get(interface)
                .is_some_and(|subnets| subnets.iter().any(|subnet| subnet.contains(&address)))
    }

    /// The subnets of an interface.
    pub fn subnets(&self, interface: &InterfaceName) -> impl Iterator<Item = IpNet> {
        self.links.get(interface).into_iter().flatten().copied()
    }

    /// The Address object that makes an address ours.
    pub fn own(&self, vrf: &VrfName, address: IpAddr) -> Option<&'a ObjectName> {
        self.vrfs.get(vrf)?.own.get(&address).copied()
    }
}
