//! Sets that rules refer to: which ones, by what number, and what is in them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use model::policy::resolve::{NamedPort, ServiceMatch};
use model::policy::{EndpointPort, Labels, PolicyState, Protocol, Selector, ServiceRef};
use tables::acl::Prefix;
use tables::address_sets::{IpPort, Member};

use super::rules::{SetNumbers, prefix};

/// What is in a set of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AddressSet {
    Selected(Selector),
    Service(ServiceRef),
}

/// What is in a set of addresses with protocol and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PortSet {
    Named(NamedPort),
    Service(ServiceRef),
}

/// Numbers of sets. A set that stays in use keeps its number; the number of one that is no longer in use is given out again, but not in
/// the compilation that dropped it, so that no number changes its meaning from one to the next.
#[derive(Clone, Debug, Default)]
pub struct SetNumbering {
    addresses: Numbers<AddressSet>,
    ports: Numbers<PortSet>,
}

#[derive(Clone, Debug)]
struct Numbers<K> {
    before: HashMap<K, u32>,
    now: HashMap<K, u32>,
    taken: BTreeSet<u32>,
    /// No free number is below.
    lowest: u32,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self {
            before: HashMap::new(),
            now: HashMap::new(),
            taken: BTreeSet::new(),
            lowest: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Numbers<K> {
    fn begin(&mut self) {
        self.before = std::mem::take(&mut self.now);
        self.taken = self.before.values().copied().collect();
        self.lowest = 0;
    }

    fn number(&mut self, set: &K) -> u32 {
        if let Some(number) = self.now.get(set) {
            return *number;
        }
        let number = self.before.get(set).copied().unwrap_or_else(|| {
            while self.taken.contains(&self.lowest) {
                self.lowest += 1;
            }
            self.taken.insert(self.lowest);
            self.lowest
        });
        self.now.insert(set.clone(), number);
        number
    }
}

impl SetNumbering {
    /// Begins a compilation: what is not asked for from now on is out of use.
    pub(super) fn begin(&mut self) {
        self.addresses.begin();
        self.ports.begin();
    }
}

impl SetNumbers for SetNumbering {
    fn selector(&mut self, selector: &Selector) -> u32 {
        self.addresses
            .number(&AddressSet::Selected(selector.clone()))
    }

    fn service_addresses(&mut self, service: &ServiceMatch) -> u32 {
        self.addresses
            .number(&AddressSet::Service(service.service.clone()))
    }

    fn service_ports(&mut self, service: &ServiceMatch) -> u32 {
        self.ports
            .number(&PortSet::Service(service.service.clone()))
    }

    fn named_port(&mut self, port: &NamedPort) -> u32 {
        self.ports.number(&PortSet::Named(port.clone()))
    }
}

/// Members of all sets, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Of sets of addresses.
    pub addresses: BTreeMap<u32, BTreeSet<Member>>,
    /// Of sets of addresses with protocol and port.
    pub ip_ports: BTreeMap<u32, BTreeSet<IpPort>>,
}

/// Something with addresses and labels.
struct Item<'a> {
    labels: Labels,
    members: Vec<Member>,
    addresses: &'a [IpAddr],
    ports: &'a [EndpointPort],
}

impl Members {
    /// Of the sets in use. Linear in sets times endpoints and network sets.
    pub(super) fn of(state: &PolicyState, numbering: &SetNumbering) -> Self {
        let items = items(state);
        let mut members = Self::default();
        for (set, number) in &numbering.addresses.now {
            let found = match set {
                AddressSet::Selected(selector) => items
                    .iter()
                    .filter(|item| selector.matches(&item.labels))
                    .flat_map(|item| item.members.iter().copied())
                    .collect(),
                AddressSet::Service(service) => endpoints(state, service)
                    .map(|(address, _)| member(&IpNet::from(address)))
                    .collect(),
            };
            members.addresses.insert(*number, found);
        }
        for (set, number) in &numbering.ports.now {
            let found = match set {
                PortSet::Named(port) => named(&items, port),
                PortSet::Service(service) => endpoints(state, service)
                    .flat_map(|(addr, ports)| {
                        ports.iter().map(move |(protocol, port)| IpPort {
                            addr,
                            protocol: protocol.number(),
                            port: *port,
                        })
                    })
                    .collect(),
            };
            members.ip_ports.insert(*number, found);
        }
        members
    }
}

fn member(net: &IpNet) -> Member {
    match prefix(net) {
        Prefix::V4(prefix) => prefix.into(),
        Prefix::V6(prefix) => prefix.into(),
    }
}

fn items(state: &PolicyState) -> Vec<Item<'_>> {
    fn endpoint<'a>(
        labels: Labels,
        addresses: &'a [IpAddr],
        ports: &'a [EndpointPort],
    ) -> Item<'a> {
        let members = addresses
            .iter()
            .map(|address| member(&IpNet::from(*address)))
            .collect();
        Item {
            labels,
            members,
            addresses,
            ports,
        }
    }
    let workloads = state.workload_endpoints.values().map(|workload| {
        let labels = state.labels_of_workload(workload).to_labels();
        endpoint(labels, &workload.addresses, &workload.ports)
    });
    let hosts = state.host_endpoints.values().map(|host| {
        let labels = state.labels_of_host(host).to_labels();
        endpoint(labels, &host.expected_ips, &host.ports)
    });
    let namespaced = state.network_sets.values();
    let sets = namespaced
        .chain(state.global_network_sets.values())
        .map(|set| Item {
            labels: state.labels_of_set(set).to_labels(),
            members: set.nets.iter().map(member).collect(),
            addresses: &[],
            ports: &[],
        });
    workloads.chain(hosts).chain(sets).collect()
}

fn named(items: &[Item<'_>], wanted: &NamedPort) -> BTreeSet<IpPort> {
    let is_wanted = |port: &&EndpointPort| {
        port.name == wanted.name
            && match wanted.protocol {
                Some(protocol) => port.protocol == protocol,
                None => [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&port.protocol),
            }
    };
    items
        .iter()
        .filter(|item| !item.ports.is_empty() && wanted.selector.matches(&item.labels))
        .flat_map(|item| {
            item.ports.iter().filter(is_wanted).flat_map(|port| {
                item.addresses.iter().map(|addr| IpPort {
                    addr: *addr,
                    protocol: port.protocol.number(),
                    port: port.port,
                })
            })
        })
        .collect()
}

/// Each address of a service's endpoints with the ports of its slice.
fn endpoints<'a>(
    state: &'a PolicyState,
    service: &'a ServiceRef,
) -> impl Iterator<Item = (IpAddr, &'a [(Protocol, u16)])> {
    let slices = state.endpoint_slices.values().filter(|slice| {
        slice
            .service
            .as_ref()
            .is_some_and(|id| id.namespace == service.namespace && id.name == service.name)
    });
    slices.flat_map(|slice| {
        slice
            .addresses
            .iter()
            .map(|address| (*address, &slice.ports[..]))
    })
}
