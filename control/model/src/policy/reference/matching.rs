//! Whether one rule matches one packet.

use std::net::IpAddr;

use ipnet::IpNet;

use super::super::access::AccessRule;
use super::super::endpoint::EndpointPort;
use super::super::rule::{Icmp, IpVersion, Port, Protocol, Rule, ServiceRef, Side};
use super::super::selector::{Expression, LabelSource, Selector};
use super::super::state::{EffectiveLabels, PolicyState};
use super::super::{NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL};
use super::Packet;

/// A packet as a list of policies sees it.
pub(super) struct Sight {
    pub(super) version: IpVersion,
    pub(super) protocol: u8,
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) source_port: Option<u16>,
    pub(super) destination_port: Option<u16>,
    pub(super) icmp: Option<(u8, u8)>,
}

impl Sight {
    /// Before destination translation if `early`, after it otherwise.
    pub(super) fn new(packet: &Packet, early: bool) -> Self {
        let before = |now, then: Option<_>| if early { then.unwrap_or(now) } else { now };
        Self {
            version: packet.ip_version(),
            protocol: packet.protocol,
            source: packet.source,
            destination: before(packet.destination, packet.pre_nat_destination),
            source_port: packet.source_port,
            destination_port: match packet.pre_nat_destination_port {
                Some(port) if early => Some(port),
                _ => packet.destination_port,
            },
            icmp: packet.icmp,
        }
    }
}

pub(super) fn rule(
    state: &PolicyState,
    rule: &Rule,
    namespace: Option<&str>,
    sight: &Sight,
) -> bool {
    let protocol = |wanted: Protocol| wanted.number() == sight.protocol;
    let icmp = |wanted: Icmp, (kind, code)| wanted.matches(kind, code);
    rule.ip_version.is_none_or(|version| version == sight.version)
        && rule.protocol.is_none_or(protocol)
        && !rule.not_protocol.is_some_and(protocol)
        && rule
            .icmp
            .is_none_or(|wanted| sight.icmp.is_some_and(|found| icmp(wanted, found)))
        // Only ICMP messages have a type that can differ.
        && rule
            .not_icmp
            .is_none_or(|wanted| sight.icmp.is_some_and(|found| !icmp(wanted, found)))
        && End {
            state,
            namespace,
            rule,
            side: &rule.source,
            address: sight.source,
            protocol: sight.protocol,
            port: sight.source_port,
            destination: false,
        }
        .matches()
        && End {
            state,
            namespace,
            rule,
            side: &rule.destination,
            address: sight.destination,
            protocol: sight.protocol,
            port: sight.destination_port,
            destination: true,
        }
        .matches()
}

pub(super) fn access_rule(rule: &AccessRule, packet: &Packet) -> bool {
    let nets = |nets: &[IpNet], address| nets.is_empty() || contains(nets, address);
    let ports = |ranges: &[(u16, u16)], port: Option<u16>| {
        ranges.is_empty()
            || port.is_some_and(|port| {
                ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&port))
            })
    };
    rule.ip_version
        .is_none_or(|version| version == packet.ip_version())
        && rule
            .protocol
            .is_none_or(|protocol| protocol.number() == packet.protocol)
        && rule.icmp.is_none_or(|wanted| {
            packet
                .icmp
                .is_some_and(|(kind, code)| wanted.matches(kind, code))
        })
        && nets(&rule.sources, packet.source)
        && nets(&rule.destinations, packet.destination)
        && ports(&rule.source_ports, packet.source_port)
        && ports(&rule.destination_ports, packet.destination_port)
}

fn contains(nets: &[IpNet], address: IpAddr) -> bool {
    nets.iter().any(|net| net.contains(&address))
}

/// One side of a rule and of a packet.
struct End<'a> {
    state: &'a PolicyState,
    namespace: Option<&'a str>,
    rule: &'a Rule,
    side: &'a Side,
    address: IpAddr,
    protocol: u8,
    port: Option<u16>,
    destination: bool,
}

/// Something that has an address and labels.
struct Item<'a> {
    labels: EffectiveLabels<'a>,
    ports: &'a [EndpointPort],
}

impl End<'_> {
    fn matches(&self) -> bool {
        self.nets() && self.selectors() && self.ports() && self.service()
    }

    /// Networks of the other version are as if they were not there; but a list of them alone leaves no packet of this version to match, and
    /// neither does one whose negation leaves no address.
    fn nets(&self) -> bool {
        let version = IpVersion::of(self.address);
        let of_version = |nets: &[IpNet]| {
            nets.iter()
                .filter(|net| IpVersion::of_net(net) == version)
                .copied()
                .collect::<Vec<_>>()
        };
        let nets = of_version(&self.side.nets);
        let not_nets = of_version(&self.side.not_nets);
        let nothing_left = |given: &[IpNet], left: &[IpNet]| !given.is_empty() && left.is_empty();
        if nothing_left(&self.side.nets, &nets) || nothing_left(&self.side.not_nets, &not_nets) {
            return false;
        }
        (nets.is_empty() || contains(&nets, self.address)) && !contains(&not_nets, self.address)
    }

    /// Whatever has the address: workloads, hosts, sets of networks.
    fn items(&self) -> Vec<Item<'_>> {
        let state = self.state;
        let workloads = state
            .workload_endpoints
            .values()
            .filter(|workload| workload.addresses.contains(&self.address))
            .map(|workload| Item {
                labels: state.labels_of_workload(workload),
                ports: &workload.ports,
            });
        let hosts = state
            .host_endpoints
            .values()
            .filter(|host| host.expected_ips.contains(&self.address))
            .map(|host| Item {
                labels: state.labels_of_host(host),
                ports: &host.ports,
            });
        let sets = state
            .network_sets
            .values()
            .chain(state.global_network_sets.values())
            .filter(|set| contains(&set.nets, self.address))
            .map(|set| Item {
                labels: state.labels_of_set(set),
                ports: &[],
            });
        workloads.chain(hosts).chain(sets).collect()
    }

    /// Whether the side selects, so that only known addresses can match.
    fn is_positive(&self) -> bool {
        let side = self.side;
        let any = side.selector.is_some()
            || side.service_accounts.is_some()
            || side.namespace_selector.is_some();
        // In a namespace's policy, what is not selected is not selected among the namespace's.
        any || self.namespace.is_some() && side.not_selector.is_some()
    }

    /// Whether something is what the side selects.
    fn selects(&self, labels: &impl LabelSource) -> bool {
        let side = self.side;
        let by_labels = |selector: &Option<Selector>| {
            selector
                .as_ref()
                .is_none_or(|selector| selector.matches(labels))
        };
        let in_scope = match (&side.namespace_selector, self.namespace) {
            (Some(selector), _) => namespaces(selector, labels),
            (None, Some(namespace)) => labels.label(NAMESPACE_LABEL) == Some(namespace),
            (None, None) => true,
        };
        let by_account = side.service_accounts.as_ref().is_none_or(|accounts| {
            let named = accounts.names.is_empty()
                || labels
                    .label(SERVICE_ACCOUNT_LABEL)
                    .is_some_and(|name| accounts.names.iter().any(|wanted| &**wanted == name));
            named
                && accounts
                    .selector
                    .as_ref()
                    .is_none_or(|selector| service_accounts(selector, labels))
        });
        in_scope
            && by_account
            && by_labels(&side.selector)
            && !side
                .not_selector
                .as_ref()
                .is_some_and(|selector| selector.matches(labels))
    }

    fn selectors(&self) -> bool {
        if self.is_positive() {
            return self.items().iter().any(|item| self.selects(&item.labels));
        }
        let Some(not_selector) = &self.side.not_selector else {
            return true;
        };
        !self
            .items()
            .iter()
            .any(|item| not_selector.matches(&item.labels))
    }

    fn ports(&self) -> bool {
        let ported = Protocol::new(self.protocol).is_ok_and(Protocol::has_ports);
        let port = self.port.filter(|_| ported);
        let is_one_of = |ports: &[Port]| {
            port.is_some_and(|port| {
                ports.iter().any(|wanted| match wanted {
                    Port::Range(first, last) => (*first..=*last).contains(&port),
                    Port::Named(name) => self.is_named(name.as_str(), port),
                })
            })
        };
        (self.side.ports.is_empty() || is_one_of(&self.side.ports))
            && !is_one_of(&self.side.not_ports)
    }

    /// Whether something that the side selects calls the packet's port by this name.
    fn is_named(&self, name: &str, port: u16) -> bool {
        let named = [Protocol::TCP, Protocol::UDP, Protocol::SCTP]
            .iter()
            .any(|protocol| protocol.number() == self.protocol);
        let wanted = self
            .rule
            .protocol
            .is_none_or(|protocol| protocol.number() == self.protocol);
        named
            && wanted
            && self.items().iter().any(|item| {
                let selected = !self.is_positive() || self.selects(&item.labels);
                selected
                    && item.ports.iter().any(|known| {
                        known.name.as_str() == name
                            && known.port == port
                            && known.protocol.number() == self.protocol
                    })
            })
    }

    fn service(&self) -> bool {
        let Some(service) = &self.side.service else {
            return true;
        };
        self.state
            .endpoint_slices
            .values()
            .filter(|slice| {
                slice.service.as_ref().is_some_and(|id| {
                    let ServiceRef { namespace, name } = service;
                    id.namespace == *namespace && id.name == *name
                })
            })
            .any(|slice| {
                slice.addresses.contains(&self.address)
                    && (!self.destination
                        || slice.ports.iter().any(|(protocol, port)| {
                            protocol.number() == self.protocol && Some(*port) == self.port
                        }))
            })
    }
}

/// Labels of something, looked at through a prefix.
struct Prefixed<'a, L> {
    labels: &'a L,
    prefix: &'static str,
}

impl<L: LabelSource> LabelSource for Prefixed<'_, L> {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.label(&format!("{}{name}", self.prefix))
    }
}

/// Whether a selector of namespaces selects the one that something is in. `all()` is true of what is in one, `global()` of what is not.
pub(super) fn namespaces(selector: &Selector, labels: &impl LabelSource) -> bool {
    let inside = labels.label(NAMESPACE_LABEL).is_some();
    walk(
        selector.expression(),
        &Prefixed {
            labels,
            prefix: "pcns.",
        },
        inside,
        !inside,
    )
}

fn service_accounts(selector: &Selector, labels: &impl LabelSource) -> bool {
    let labels = Prefixed {
        labels,
        prefix: "pcsa.",
    };
    walk(selector.expression(), &labels, true, true)
}

/// As [`service_accounts`], where `all()` is true of what has an account.
pub(super) fn any_service_account(selector: &Selector, labels: &impl LabelSource) -> bool {
    let account = labels.label(SERVICE_ACCOUNT_LABEL).is_some();
    let labels = Prefixed {
        labels,
        prefix: "pcsa.",
    };
    walk(selector.expression(), &labels, account, true)
}

fn walk(expression: &Expression, labels: &impl LabelSource, all: bool, global: bool) -> bool {
    match expression {
        Expression::All => all,
        Expression::Global => global,
        Expression::Not(inner) => !walk(inner, labels, all, global),
        Expression::And(list) => list.iter().all(|inner| walk(inner, labels, all, global)),
        Expression::Or(list) => list.iter().any(|inner| walk(inner, labels, all, global)),
        leaf => Selector::from(leaf.clone()).matches(labels),
    }
}
