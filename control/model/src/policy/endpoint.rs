//! Endpoints, sets of networks, and what gives them labels.

use std::net::IpAddr;

use ipnet::IpNet;

use super::object::Metadata;
use super::reader::{Fields, Node};
use super::rule::{
    MAX_RULES, Place, PortName, Protocol, Rule, read_address, read_name, read_net_or_address,
    read_rules,
};
use super::{
    Direction, Labels, NAMESPACE_LABEL, ORCHESTRATOR_LABEL, SERVICE_ACCOUNT_LABEL, is_label,
};

/// Entries of the lists of an endpoint or a set.
const MAX_ENTRIES: usize = 1 << 20;

/// A port of an endpoint that rules may call by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndpointPort {
    /// The name.
    pub name: PortName,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The number.
    pub port: u16,
}

/// A workload's place in the network: a pod, a container, a virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// Its own labels, with `projectcalico.org/namespace`, `projectcalico.org/orchestrator` and `projectcalico.org/serviceaccount`.
    pub labels: Labels,
    /// The node that it is on.
    pub node: Box<str>,
    /// The interface that leads to it, on the node.
    pub interface: Box<str>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Profiles, which give it labels and rules, first match first.
    pub profiles: Vec<Box<str>>,
    /// Named ports.
    pub ports: Vec<EndpointPort>,
    /// Further sources that it may send from.
    pub allowed_sources: Vec<IpNet>,
}

/// A host's interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostEndpoint {
    /// Its own labels.
    pub labels: Labels,
    /// The host.
    pub node: Box<str>,
    /// The interface; `*` for all of the host's that no other host endpoint names; empty where the addresses say which.
    pub interface: Box<str>,
    /// Addresses, which rules' selectors find.
    pub expected_ips: Vec<IpAddr>,
    /// Profiles.
    pub profiles: Vec<Box<str>>,
    /// Named ports.
    pub ports: Vec<EndpointPort>,
}

/// Networks with labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkSet {
    /// Its own labels, with `projectcalico.org/namespace` where it is in one.
    pub labels: Labels,
    /// The networks.
    pub nets: Vec<IpNet>,
}

/// Labels and rules that endpoints take over by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Labels that an endpoint has unless it has its own of the name.
    pub labels_to_apply: Labels,
    /// What may come to endpoints, where no tier decides.
    pub ingress: Vec<Rule>,
    /// What endpoints may send, where no tier decides.
    pub egress: Vec<Rule>,
}

impl Profile {
    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

/// Labels of a namespace or a service account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    /// The labels.
    pub labels: Labels,
}

pub(crate) fn check_labels(node: &Node<'_>) -> Labels {
    let labels = node.string_map();
    for label in labels.keys() {
        if !is_label(label) {
            node.fail(format!(
                "{label:?} is no label: use at most 512 letters, digits, '_', '.', '/' and '-'"
            ));
        }
    }
    labels
}

fn read_ports(spec: &mut Fields<'_>, host_port: bool) -> Vec<EndpointPort> {
    spec.list("ports", MAX_RULES, |node| {
        let mut fields = node.fields()?;
        let name = fields
            .required("name")
            .and_then(|node| node.check(node.text()?.parse()));
        let protocol = fields.required("protocol").and_then(|node| {
            let protocol = Protocol::read(&node)?;
            let fine = matches!(protocol, Protocol::TCP | Protocol::UDP | Protocol::SCTP);
            if !fine {
                node.must("be TCP, UDP or SCTP");
            }
            fine.then_some(protocol)
        });
        let port = fields
            .required("port")
            .and_then(|node| node.integer(1, 65535))
            .and_then(|port| u16::try_from(port).ok());
        if host_port {
            let unsupported = "ports of the host are not supported yet: leave it out";
            if let Some(node) = fields.take("hostPort")
                && node.integer(0, 65535).is_some_and(|port| port != 0)
            {
                node.fail(unsupported);
            }
            if fields.text("hostIP").is_some() {
                fields.fail("hostIP", unsupported);
            }
        }
        fields.finish();
        Some(EndpointPort {
            name: name?,
            protocol: protocol?,
            port: port?,
        })
    })
}

pub(crate) fn read_workload(spec: &mut Fields<'_>, metadata: &Metadata) -> WorkloadEndpoint {
    let mut labels = metadata.labels.clone();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    labels.insert(NAMESPACE_LABEL.into(), namespace.into());
    if let Some(orchestrator) = spec.text("orchestrator") {
        labels.insert(ORCHESTRATOR_LABEL.into(), orchestrator.into());
    }
    if let Some(account) = spec
        .take("serviceAccountName")
        .filter(|node| *node.value != "".into())
        .and_then(|node| read_name(&node))
    {
        labels.insert(SERVICE_ACCOUNT_LABEL.into(), account.into());
    }
    let node = spec.required_text("node").unwrap_or_default().into();
    let interface = spec.text("interfaceName").unwrap_or_default().into();
    let addresses = spec.list("ipNetworks", 256, |node| {
        let net = read_net_or_address(&node)?;
        let single = net.prefix_len() == net.max_prefix_len();
        if !single {
            node.must("be one address: its prefix length must be 32 or 128");
        }
        single.then(|| net.addr())
    });
    spec.refuse("ipNATs", "floating addresses are not supported yet");
    // Who it is outside of the network, and what the node's kernel would need.
    spec.skip(&[
        "workload",
        "containerID",
        "pod",
        "endpoint",
        "mac",
        "ipv4Gateway",
        "ipv6Gateway",
    ]);
    WorkloadEndpoint {
        labels,
        node,
        interface,
        addresses,
        profiles: spec.list("profiles", 256, |node| read_name(&node)),
        ports: read_ports(spec, true),
        allowed_sources: spec.list("allowSpoofedSourcePrefixes", 256, |node| {
            read_net_or_address(&node)
        }),
    }
}

pub(crate) fn read_host(spec: &mut Fields<'_>, metadata: &Metadata) -> HostEndpoint {
    let host = HostEndpoint {
        labels: metadata.labels.clone(),
        node: spec.required_text("node").unwrap_or_default().into(),
        interface: spec.text("interfaceName").unwrap_or_default().into(),
        expected_ips: spec.list("expectedIPs", 1024, |node| read_address(&node)),
        profiles: spec.list("profiles", 256, |node| read_name(&node)),
        ports: read_ports(spec, false),
    };
    if host.interface.is_empty() && !spec.has("expectedIPs") {
        spec.fail("interfaceName", "required where there are no expectedIPs");
    }
    host
}

pub(crate) fn read_network_set(spec: &mut Fields<'_>, metadata: &Metadata) -> NetworkSet {
    let mut labels = metadata.labels.clone();
    if let Some(namespace) = &metadata.namespace {
        labels.insert(NAMESPACE_LABEL.into(), namespace.to_string());
    }
    spec.refuse(
        "allowedEgressDomains",
        "domain names are not supported yet; refusing rather than leaving them out",
    );
    NetworkSet {
        labels,
        nets: spec.list("nets", MAX_ENTRIES, |node| read_net_or_address(&node)),
    }
}

pub(crate) fn read_profile(spec: &mut Fields<'_>) -> Profile {
    let place = |ingress| Place {
        namespace: None,
        ingress,
        profile: true,
    };
    Profile {
        labels_to_apply: spec
            .take("labelsToApply")
            .map(|node| check_labels(&node))
            .unwrap_or_default(),
        ingress: read_rules(spec, "ingress", place(true)),
        egress: read_rules(spec, "egress", place(false)),
    }
}
