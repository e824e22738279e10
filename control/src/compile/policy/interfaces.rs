//! Which interface has whose policy.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use graph_nodes::policy::{EndpointKind, InterfacePolicy, Lists, Settings};
use ipnet::IpNet;
use model::policy::{
    DenyAction, EndpointToHost, Felix, NamespacedName, PolicyState, WorkloadEndpoint,
};
use tables::acl::Prefix;
use tables::{FlowTimeouts, Prefix4, Prefix6};

use super::rules::prefix;
use super::{CompiledPolicy, Endpoint};

/// Interfaces with such names lead to workloads, and are closed before it is known to which.
const WORKLOAD_PREFIX: &str = "cali";

/// An interface, as far as policy looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyInterface {
    /// Its number.
    pub number: u16,
    /// Its name, by which endpoints and access lists call it.
    pub name: Box<str>,
    /// Its addresses, by which host endpoints may find it.
    pub addresses: Vec<IpAddr>,
}

impl CompiledPolicy {
    /// What the nodes read: by interface number. Empty where no interface has any policy.
    pub fn interfaces(
        &self,
        state: &PolicyState,
        node: &str,
        interfaces: &[PolicyInterface],
    ) -> Vec<Option<Arc<InterfacePolicy>>> {
        let workloads = workloads_of(state, node);
        let mut list = Vec::new();
        for interface in interfaces {
            let workload = workloads.get(&*interface.name).copied();
            let policy = self.interface(state, node, workload, interface);
            put(&mut list, interface.number, policy);
        }
        list
    }

    /// The workload behind a node's interface: the lowest by name of those that name it.
    fn workload_on<'a>(
        &'a self,
        state: &'a PolicyState,
        node: &str,
        interface: &str,
    ) -> Option<Workload<'a>> {
        self.by_interface.get(interface)?.iter().find_map(|id| {
            let workload = state.workload_endpoints.get(id)?;
            (*workload.node == *node).then_some((id, &**workload))
        })
    }

    fn interface(
        &self,
        state: &PolicyState,
        node: &str,
        workload: Option<Workload<'_>>,
        interface: &PolicyInterface,
    ) -> Option<InterfacePolicy> {
        let name = &*interface.name;
        let none = InterfacePolicy {
            kind: EndpointKind::None,
            closed: false,
            lists: Lists::default(),
            staged: None,
            sources4: Vec::new(),
            sources6: Vec::new(),
            access: self.access.get(name).cloned().unwrap_or_default(),
        };
        if let Some((id, workload)) = workload {
            let endpoint = self.workloads.get(id);
            let (sources4, sources6) = sources(workload);
            let all = state.host_endpoint_of_all(node);
            let all = all.and_then(|(name, _)| self.hosts.get(name));
            return Some(InterfacePolicy {
                kind: EndpointKind::Workload,
                closed: endpoint.is_none(),
                lists: endpoint
                    .map(|endpoint| around(&endpoint.lists, all.map(|all| &all.lists)))
                    .unwrap_or_default(),
                staged: endpoint.and_then(|endpoint| staged(endpoint, all)),
                sources4,
                sources6,
                ..none
            });
        }
        if name.starts_with(WORKLOAD_PREFIX) {
            return Some(InterfacePolicy {
                kind: EndpointKind::Workload,
                closed: true,
                ..none
            });
        }
        let host = state.host_endpoint_of(node, name, &interface.addresses);
        if let Some(endpoint) = host.and_then(|(name, _)| self.hosts.get(name)) {
            return Some(InterfacePolicy {
                kind: EndpointKind::Host,
                lists: endpoint.lists.clone(),
                staged: endpoint.staged.clone(),
                ..none
            });
        }
        none.access.iter().any(Option::is_some).then_some(none)
    }
}

/// Interfaces with their policies, from compilation to compilation: only what one has [touched](super::Touched) is made anew.
#[derive(Debug, Default)]
pub struct InterfaceList {
    interfaces: Arc<[PolicyInterface]>,
    /// Their places.
    by_name: HashMap<Box<str>, usize>,
    list: Vec<Option<Arc<InterfacePolicy>>>,
}

impl InterfaceList {
    /// What [`CompiledPolicy::interfaces`] says, at the cost of what is different. Every compilation has to pass here, in order; where one
    /// failed, a new list has to take the place of this one.
    pub fn update(
        &mut self,
        compiled: &CompiledPolicy,
        state: &PolicyState,
        node: &str,
        interfaces: &Arc<[PolicyInterface]>,
    ) -> Vec<Option<Arc<InterfacePolicy>>> {
        if compiled.touched.all || *self.interfaces != **interfaces {
            self.by_name = (0..)
                .zip(interfaces.iter())
                .map(|(at, interface)| (interface.name.clone(), at))
                .collect();
            self.interfaces = Arc::clone(interfaces);
            self.list = compiled.interfaces(state, node, interfaces);
            return self.list.clone();
        }
        for name in &compiled.touched.names {
            let Some(at) = self.by_name.get(name) else {
                continue;
            };
            let interface = &self.interfaces[*at];
            let workload = compiled.workload_on(state, node, name);
            let policy = compiled.interface(state, node, workload, interface);
            put(&mut self.list, interface.number, policy);
        }
        self.list.clone()
    }
}

/// The list ends with what is there.
fn put(list: &mut Vec<Option<Arc<InterfacePolicy>>>, number: u16, policy: Option<InterfacePolicy>) {
    let number = usize::from(number);
    if policy.is_some() && list.len() <= number {
        list.resize(number + 1, None);
    }
    if let Some(place) = list.get_mut(number) {
        *place = policy.map(Arc::new);
    }
    while list.last().is_some_and(Option::is_none) {
        list.pop();
    }
}

/// A workload's lists with those of the host endpoint for all interfaces that hold on the workload's interface, too.
fn around(workload: &Lists, all: Option<&Lists>) -> Lists {
    let (forward, pre_dnat) = match all {
        Some(all) => (all.forward.clone(), all.pre_dnat.clone()),
        None => Default::default(),
    };
    Lists {
        forward,
        pre_dnat,
        ..workload.clone()
    }
}

/// Likewise what staged policies would make of it, where they change one of both.
fn staged(workload: &Endpoint, all: Option<&Endpoint>) -> Option<Lists> {
    let of_all = all.and_then(|all| all.staged.as_ref());
    (workload.staged.is_some() || of_all.is_some()).then(|| {
        around(
            workload.staged.as_ref().unwrap_or(&workload.lists),
            of_all.or(all.map(|all| &all.lists)),
        )
    })
}

type Workload<'a> = (&'a NamespacedName, &'a WorkloadEndpoint);

/// Workloads by the interface that leads to them.
type Workloads<'a> = HashMap<&'a str, Workload<'a>>;

/// The workloads behind a node's interfaces: the lowest by name of those that name the same one.
fn workloads_of<'a>(state: &'a PolicyState, node: &str) -> Workloads<'a> {
    let mut workloads = Workloads::new();
    let here = state.workload_endpoints.iter();
    for (id, workload) in here.filter(|(_, workload)| &*workload.node == node) {
        workloads
            .entry(&*workload.interface)
            .or_insert((id, &**workload));
    }
    workloads
}

/// What a workload may send from: its addresses, further prefixes, and what hosts say before they have an address (RFC 2131, RFC 4861).
fn sources(workload: &WorkloadEndpoint) -> (Vec<Prefix4>, Vec<Prefix6>) {
    let mut sources4: Vec<_> = Prefix4::around(0, 32).into_iter().collect();
    let mut sources6: Vec<_> = [(0, 128), (0xfe80_u128 << 112, 10)]
        .into_iter()
        .filter_map(|(address, len)| Prefix6::around(address, len).ok())
        .collect();
    let own = workload.addresses.iter().map(|ip| IpNet::from(*ip));
    for net in own.chain(workload.allowed_sources.iter().copied()) {
        match prefix(&net) {
            Prefix::V4(prefix) => sources4.push(prefix),
            Prefix::V6(prefix) => sources6.push(prefix),
        }
    }
    (sources4, sources6)
}

/// A node's settings as the nodes of its graph read them.
pub fn settings(felix: &Felix) -> Settings {
    Settings {
        reject: felix.deny_action == DenyAction::Reject,
        reevaluate: felix.reevaluate_live_flows,
        workload_to_host: felix.endpoint_to_host != EndpointToHost::Drop,
        timeouts: timeouts(&felix.timeouts),
    }
}

fn timeouts(of: &model::policy::FlowTimeouts) -> FlowTimeouts {
    FlowTimeouts {
        creation_grace: of.creation_grace,
        tcp_syn_sent: of.tcp_syn_sent,
        tcp_established: of.tcp_established,
        tcp_fins_seen: of.tcp_fins_seen,
        tcp_reset: of.tcp_reset_seen,
        udp: of.udp,
        icmp: of.icmp,
        generic: of.generic,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::policy::FelixConfiguration;

    use super::*;

    #[test]
    fn timeouts_are_the_configured_ones() {
        let seconds = Duration::from_secs;
        let mut felix = Felix::default();
        assert_eq!(settings(&felix).timeouts, FlowTimeouts::default());
        felix.apply(&FelixConfiguration {
            timeouts: [1, 2, 3, 4, 5, 6, 7, 8].map(|number| Some(seconds(number))),
            ..FelixConfiguration::default()
        });
        let expected = FlowTimeouts {
            creation_grace: seconds(1),
            tcp_syn_sent: seconds(2),
            tcp_established: seconds(3),
            tcp_fins_seen: seconds(4),
            tcp_reset: seconds(5),
            udp: seconds(6),
            generic: seconds(7),
            icmp: seconds(8),
        };
        assert_eq!(settings(&felix).timeouts, expected);
    }
}
