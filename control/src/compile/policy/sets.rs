//! Sets that rules refer to: which ones, by what number, and what is in them.
//!
//! A set lives as long as lowered rules refer to it. What is in it is counted member by member (two endpoints may have
//! the same address), so that a change of one endpoint changes the sets that select it, and no other is looked into.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

use ipnet::IpNet;
use model::policy::resolve::{NamedPort, ServiceMatch};
use model::policy::{
    EndpointPort, Labels, NamespacedName, PolicyState, Protocol, Selector, ServiceRef,
};
use tables::acl::Prefix;
use tables::address_sets::{IpPort, Member};

use super::finder::Finder;
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

/// What a set is filled from.
trait Filled {
    /// Only items that this selects make members of it; `None` where items make none.
    fn selector(&self) -> Option<&Selector>;
}

impl Filled for AddressSet {
    fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Selected(selector) => Some(selector),
            Self::Service(_) => None,
        }
    }
}

impl Filled for PortSet {
    fn selector(&self) -> Option<&Selector> {
        match self {
            Self::Named(port) => Some(&port.selector),
            Self::Service(_) => None,
        }
    }
}

/// Something with addresses and labels, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ItemId {
    Workload(NamespacedName),
    Host(Box<str>),
    NetworkSet(NamespacedName),
    GlobalNetworkSet(Box<str>),
}

/// Something with addresses and labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Its own and those that it inherits.
    pub(super) labels: Labels,
    members: Vec<Member>,
    addresses: Vec<IpAddr>,
    ports: Vec<EndpointPort>,
}

/// All of them.
pub(super) type Items = BTreeMap<ItemId, Item>;

impl Item {
    /// What a state says about it; `None` where there is none.
    pub(super) fn of(state: &PolicyState, id: &ItemId) -> Option<Self> {
        let endpoint = |labels: Labels, addresses: &[IpAddr], ports: &[EndpointPort]| Self {
            labels,
            members: addresses
                .iter()
                .map(|address| member(&IpNet::from(*address)))
                .collect(),
            addresses: addresses.to_vec(),
            ports: ports.to_vec(),
        };
        let set = match id {
            ItemId::Workload(id) => {
                let workload = state.workload_endpoints.get(id)?;
                let labels = state.labels_of_workload(workload).to_labels();
                return Some(endpoint(labels, &workload.addresses, &workload.ports));
            }
            ItemId::Host(name) => {
                let host = state.host_endpoints.get(name)?;
                let labels = state.labels_of_host(host).to_labels();
                return Some(endpoint(labels, &host.expected_ips, &host.ports));
            }
            ItemId::NetworkSet(id) => state.network_sets.get(id)?,
            ItemId::GlobalNetworkSet(name) => state.global_network_sets.get(name)?,
        };
        Some(Self {
            labels: state.labels_of_set(set).to_labels(),
            members: set.nets.iter().map(member).collect(),
            addresses: Vec::new(),
            ports: Vec::new(),
        })
    }

    /// All that a state has.
    pub(super) fn ids(state: &PolicyState) -> impl Iterator<Item = ItemId> {
        let workloads = state.workload_endpoints.keys().cloned();
        let hosts = state.host_endpoints.keys().cloned();
        let sets = state.network_sets.keys().cloned();
        let global = state.global_network_sets.keys().cloned();
        workloads
            .map(ItemId::Workload)
            .chain(hosts.map(ItemId::Host))
            .chain(sets.map(ItemId::NetworkSet))
            .chain(global.map(ItemId::GlobalNetworkSet))
    }
}

/// An item that was, is, or both.
pub(super) struct ItemChange {
    pub(super) old: Option<Item>,
    pub(super) new: Option<Item>,
}

/// Members that come to sets (`true`) or go from them, in order: of existing sets first what comes.
pub(super) type MemberChanges<M> = Vec<(u32, M, bool)>;

/// What a change of the state does to the sets in use.
#[derive(Default)]
pub(super) struct SetChanges {
    pub(super) addresses: MemberChanges<Member>,
    pub(super) ip_ports: MemberChanges<IpPort>,
}

/// Members of all sets, by number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Of sets of addresses.
    pub addresses: BTreeMap<u32, BTreeSet<Member>>,
    /// Of sets of addresses with protocol and port.
    pub ip_ports: BTreeMap<u32, BTreeSet<IpPort>>,
}

/// The sets in use.
#[derive(Debug, Default)]
pub(super) struct Sets {
    addresses: InUse<AddressSet, Member>,
    ip_ports: InUse<PortSet, IpPort>,
}

/// A set that somebody asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum AnySet {
    Addresses(AddressSet),
    IpPorts(PortSet),
}

/// Gives out numbers of sets, and notes which.
pub(super) struct Asking<'a> {
    sets: &'a mut Sets,
    asked: HashMap<AnySet, u32>,
}

impl<'a> Asking<'a> {
    pub(super) fn new(sets: &'a mut Sets) -> Self {
        Self {
            sets,
            asked: HashMap::new(),
        }
    }

    /// The sets that were asked for, which now have one user more each.
    pub(super) fn into_asked(self) -> Vec<AnySet> {
        self.asked.into_keys().collect()
    }

    fn number(&mut self, set: AnySet) -> u32 {
        let sets = &mut *self.sets;
        *self.asked.entry(set).or_insert_with_key(|set| match set {
            AnySet::Addresses(set) => sets.addresses.acquire(set),
            AnySet::IpPorts(set) => sets.ip_ports.acquire(set),
        })
    }
}

impl SetNumbers for Asking<'_> {
    fn selector(&mut self, selector: &Selector) -> u32 {
        self.number(AnySet::Addresses(AddressSet::Selected(selector.clone())))
    }

    fn service_addresses(&mut self, service: &ServiceMatch) -> u32 {
        self.number(AnySet::Addresses(AddressSet::Service(
            service.service.clone(),
        )))
    }

    fn service_ports(&mut self, service: &ServiceMatch) -> u32 {
        self.number(AnySet::IpPorts(PortSet::Service(service.service.clone())))
    }

    fn named_port(&mut self, port: &NamedPort) -> u32 {
        self.number(AnySet::IpPorts(PortSet::Named(port.clone())))
    }
}

impl Sets {
    /// Begins a compilation: numbers that the one before took out of use can be given out again. So no number changes its meaning from
    /// one compilation to the next.
    pub(super) fn begin(&mut self) {
        self.addresses.begin();
        self.ip_ports.begin();
    }

    /// One user less for each of these.
    pub(super) fn release(&mut self, sets: &[AnySet]) {
        for set in sets {
            match set {
                AnySet::Addresses(set) => self.addresses.release(set),
                AnySet::IpPorts(set) => self.ip_ports.release(set),
            }
        }
    }

    /// Brings all members up to date: with the items that have changed, with services where `slices` says so, for sets that have come
    /// into use, and for those that are out of use. Linear in changed items and the sets that may select them, and in new sets times items.
    pub(super) fn change(
        &mut self,
        changed: &[ItemChange],
        slices: bool,
        items: &Items,
        state: &PolicyState,
    ) -> SetChanges {
        let service = |service: &ServiceRef| {
            let of = endpoints(state, service);
            of.map(|(address, _)| member(&IpNet::from(address)))
                .collect()
        };
        let addresses = self.addresses.change(
            changed,
            slices,
            items,
            |set, item, each| match set {
                AddressSet::Selected(selector) if selector.matches(&item.labels) => {
                    item.members.iter().for_each(|member| each(*member));
                }
                _ => {}
            },
            |set| match set {
                AddressSet::Selected(_) => None,
                AddressSet::Service(name) => Some(service(name)),
            },
        );
        let service = |service: &ServiceRef| {
            endpoints(state, service)
                .flat_map(|(addr, ports)| {
                    ports.iter().map(move |(protocol, port)| IpPort {
                        addr,
                        protocol: protocol.number(),
                        port: *port,
                    })
                })
                .collect()
        };
        let ip_ports = self.ip_ports.change(
            changed,
            slices,
            items,
            |set, item, each| {
                if let PortSet::Named(port) = set {
                    named(item, port, each);
                }
            },
            |set| match set {
                PortSet::Named(_) => None,
                PortSet::Service(name) => Some(service(name)),
            },
        );
        SetChanges {
            addresses,
            ip_ports,
        }
    }

    /// What is in all of them.
    pub(super) fn members(&self) -> Members {
        Members {
            addresses: self.addresses.members(),
            ip_ports: self.ip_ports.members(),
        }
    }

    /// What is in all of them, by what they are.
    pub(super) fn by_meaning(&self) -> BTreeMap<String, BTreeSet<String>> {
        let addresses = self.addresses.sets.iter().map(|(set, entry)| {
            let members = entry.members.keys().map(ToString::to_string);
            (format!("{set:?}"), members.collect())
        });
        let ip_ports = self.ip_ports.sets.iter().map(|(set, entry)| {
            let members = entry.members.keys().map(|member| format!("{member:?}"));
            (format!("{set:?}"), members.collect())
        });
        addresses.chain(ip_ports).collect()
    }
}

/// Sets of one kind.
#[derive(Debug)]
struct InUse<K, M> {
    sets: HashMap<K, Entry<M>>,
    by_number: HashMap<u32, K>,
    /// Those that items make members of.
    finder: Finder,
    /// Asked for since members were last brought up to date.
    new: Vec<K>,
    /// Without a user since then; one may have come meanwhile.
    idle: Vec<K>,
    free: BTreeSet<u32>,
    /// Free from the next compilation on.
    resting: Vec<u32>,
    next: u32,
}

#[derive(Debug)]
struct Entry<M> {
    number: u32,
    users: usize,
    /// How many items make each a member.
    members: HashMap<M, u32>,
}

impl<K, M> Default for InUse<K, M> {
    fn default() -> Self {
        Self {
            sets: HashMap::new(),
            by_number: HashMap::new(),
            finder: Finder::default(),
            new: Vec::new(),
            idle: Vec::new(),
            free: BTreeSet::new(),
            resting: Vec::new(),
            next: 0,
        }
    }
}

impl<K: Filled + Clone + Eq + Hash, M: Copy + Eq + Hash + Ord> InUse<K, M> {
    fn begin(&mut self) {
        self.free.extend(self.resting.drain(..));
    }

    fn acquire(&mut self, set: &K) -> u32 {
        if let Some(entry) = self.sets.get_mut(set) {
            entry.users += 1;
            return entry.number;
        }
        let number = self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        let entry = Entry {
            number,
            users: 1,
            members: HashMap::new(),
        };
        self.sets.insert(set.clone(), entry);
        self.by_number.insert(number, set.clone());
        if let Some(selector) = set.selector() {
            self.finder.insert(selector, number);
        }
        self.new.push(set.clone());
        number
    }

    fn release(&mut self, set: &K) {
        if let Some(entry) = self.sets.get_mut(set) {
            entry.users -= 1;
            if entry.users == 0 {
                self.idle.push(set.clone());
            }
        }
    }

    /// `each` calls back for each member that an item makes; `whole` gives all members of a set that is made by other things than items.
    fn change(
        &mut self,
        changed: &[ItemChange],
        others: bool,
        items: &Items,
        each: impl Fn(&K, &Item, &mut dyn FnMut(M)),
        whole: impl Fn(&K) -> Option<BTreeSet<M>>,
    ) -> MemberChanges<M> {
        let mut changes = Vec::new();
        // New ones are filled below, with what is now.
        let new: Vec<K> = std::mem::take(&mut self.new);
        let mut filled: HashMap<&K, ()> = HashMap::new();
        for set in &new {
            filled.insert(set, ());
        }
        for ItemChange { old, new } in changed {
            let mut candidates = BTreeSet::new();
            for item in old.iter().chain(new) {
                self.finder.candidates(&item.labels, &mut candidates);
            }
            for number in candidates {
                let set = self.by_number.get(&number);
                let Some(set) = set.filter(|set| !filled.contains_key(set)) else {
                    continue;
                };
                let Some(entry) = self.sets.get_mut(set) else {
                    continue;
                };
                if let Some(item) = new {
                    each(set, item, &mut |member| entry.add(member, &mut changes));
                }
                if let Some(item) = old {
                    each(set, item, &mut |member| entry.take(member, &mut changes));
                }
            }
        }
        if others {
            for (set, entry) in &mut self.sets {
                if !filled.contains_key(set)
                    && let Some(now) = whole(set)
                {
                    entry.bring_to(&now, &mut changes);
                }
            }
        }
        for set in std::mem::take(&mut self.idle) {
            let Some(entry) = self.sets.get(&set).filter(|entry| entry.users == 0) else {
                continue;
            };
            let number = entry.number;
            let gone = entry.members.keys().map(|member| (number, *member, false));
            changes.extend(gone);
            self.resting.push(number);
            self.sets.remove(&set);
            self.by_number.remove(&number);
            if let Some(selector) = set.selector() {
                self.finder.remove(selector, number);
            }
        }
        for set in &new {
            let Some(entry) = self.sets.get_mut(set) else {
                continue;
            };
            match whole(set) {
                Some(now) => entry.bring_to(&now, &mut changes),
                None => {
                    for item in items.values() {
                        each(set, item, &mut |member| entry.add(member, &mut changes));
                    }
                }
            }
        }
        changes
    }

    fn members(&self) -> BTreeMap<u32, BTreeSet<M>> {
        let sets = self.sets.values();
        sets.map(|entry| (entry.number, entry.members.keys().copied().collect()))
            .collect()
    }
}

impl<M: Copy + Eq + Hash + Ord> Entry<M> {
    fn add(&mut self, member: M, changes: &mut MemberChanges<M>) {
        let count = self.members.entry(member).or_insert(0);
        *count += 1;
        if *count == 1 {
            changes.push((self.number, member, true));
        }
    }

    fn take(&mut self, member: M, changes: &mut MemberChanges<M>) {
        let Some(count) = self.members.get_mut(&member) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.members.remove(&member);
            changes.push((self.number, member, false));
        }
    }

    fn bring_to(&mut self, now: &BTreeSet<M>, changes: &mut MemberChanges<M>) {
        let gone: Vec<M> = self
            .members
            .keys()
            .filter(|member| !now.contains(member))
            .copied()
            .collect();
        for member in now {
            if !self.members.contains_key(member) {
                self.add(*member, changes);
            }
        }
        for member in gone {
            self.take(member, changes);
        }
    }
}

fn member(net: &IpNet) -> Member {
    match prefix(net) {
        Prefix::V4(prefix) => prefix.into(),
        Prefix::V6(prefix) => prefix.into(),
    }
}

fn named(item: &Item, wanted: &NamedPort, each: &mut dyn FnMut(IpPort)) {
    let is_wanted = |port: &&EndpointPort| {
        port.name == wanted.name
            && match wanted.protocol {
                Some(protocol) => port.protocol == protocol,
                None => [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&port.protocol),
            }
    };
    if item.ports.is_empty() || !wanted.selector.matches(&item.labels) {
        return;
    }
    for port in item.ports.iter().filter(is_wanted) {
        for addr in &item.addresses {
            each(IpPort {
                addr: *addr,
                protocol: port.protocol.number(),
                port: port.port,
            });
        }
    }
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
