//! Resolution: policies as rules over sets of addresses, each set named by the one selector, named port or service that says what is in it.
//!
//! What is scoped, prefixed and combined here follows Calico's conversion (`updateprocessors/rules.go`, `felix/calc/rule_scanner.go`):
//! - a side of a namespace's policy that selects anything selects within the namespace, unless it has a namespace selector;
//! - a positive selector absorbs the negated one; alone, the negated one stays apart, because it must also hold for unknown addresses;
//! - a side with named ports only needs no set of addresses beside the set of ports.

use ipnet::IpNet;

use super::id::{Order, PolicyId};
use super::network_policy::{Policy, Types};
use super::rule::{Action, Icmp, IpVersion, Port, PortName, Protocol, Rule, ServiceRef, Side};
use super::selector::Selector;
use super::{Direction, NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL, set_id};

/// A policy whose selectors stand for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedPolicy {
    /// Which one.
    pub id: PolicyId,
    /// Its tier.
    pub tier: Box<str>,
    /// Where it stands in the tier; last if `None`.
    pub order: Option<Order>,
    /// Which endpoints it applies to.
    pub selector: Selector,
    /// Which directions it governs.
    pub types: Types,
    /// What may come to endpoints, first match first; the positions are those of the policy.
    pub ingress: Vec<ResolvedRule>,
    /// What endpoints may send.
    pub egress: Vec<ResolvedRule>,
    /// As in the policy.
    pub do_not_track: bool,
    /// As in the policy.
    pub pre_dnat: bool,
    /// As in the policy.
    pub apply_on_forward: bool,
}

/// A rule whose selectors stand for themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedRule {
    /// What happens to what it matches.
    pub action: Action,
    /// The version of IP.
    pub ip_version: Option<IpVersion>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// Any protocol but this.
    pub not_protocol: Option<Protocol>,
    /// Type and code of an ICMP message.
    pub icmp: Option<Icmp>,
    /// Any ICMP message but these.
    pub not_icmp: Option<Icmp>,
    /// Of the source.
    pub source: ResolvedSide,
    /// Of the destination.
    pub destination: ResolvedSide,
}

/// What a rule asks of one side; everything must hold, and an empty criterion always does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedSide {
    /// The address is in one of these.
    pub nets: Vec<IpNet>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNet>,
    /// The address is in the set of what this selects.
    pub selector: Option<Selector>,
    /// The address is not in the set of what this selects.
    pub not_selector: Option<Selector>,
    /// The port is in one of these ranges, or of these sets.
    pub ports: Vec<(u16, u16)>,
    /// Address, protocol and port are in one of these sets, or the port in one of the ranges.
    pub named_ports: Vec<NamedPort>,
    /// The port is in none of these ranges.
    pub not_ports: Vec<(u16, u16)>,
    /// Address, protocol and port are in none of these sets.
    pub not_named_ports: Vec<NamedPort>,
    /// The address is one of a service's endpoints'.
    pub service: Option<ServiceMatch>,
}

/// The set of the ports that some endpoints call by a name: of (address, protocol, port).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamedPort {
    /// Which endpoints.
    pub selector: Selector,
    /// Their ports of this protocol; of TCP, UDP and SCTP if `None`.
    pub protocol: Option<Protocol>,
    /// Their ports of this name.
    pub name: PortName,
}

impl NamedPort {
    /// The set's id.
    pub fn id(&self) -> String {
        let protocol = self
            .protocol
            .map_or_else(|| "none".to_owned(), |protocol| protocol.to_string());
        let text = format!(
            "{},{},{}",
            self.selector.id(),
            protocol.to_ascii_lowercase(),
            self.name
        );
        set_id("n", &text)
    }
}

/// The set of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceMatch {
    /// Which one.
    pub service: ServiceRef,
    /// Whether the set is of (address, protocol, port), as for destinations, or of addresses alone, as for sources.
    pub with_port: bool,
}

impl ServiceMatch {
    /// The set's id.
    pub fn id(&self) -> String {
        let prefix = if self.with_port { "svc" } else { "svcnoport" };
        set_id(prefix, &self.service.to_string())
    }
}

impl ResolvedPolicy {
    /// Resolves a policy.
    pub fn new(id: &PolicyId, policy: &Policy) -> Self {
        let namespace = id.namespace.as_deref();
        let rules = |direction| {
            policy
                .rules(direction)
                .iter()
                .map(|rule| ResolvedRule::new(rule, namespace))
                .collect()
        };
        Self {
            id: id.clone(),
            tier: policy.tier.clone(),
            order: policy.order,
            selector: policy.scope(namespace),
            types: policy.types,
            ingress: rules(Direction::Ingress),
            egress: rules(Direction::Egress),
            do_not_track: policy.do_not_track,
            pre_dnat: policy.pre_dnat,
            apply_on_forward: policy.apply_on_forward,
        }
    }

    /// The rules of a direction.
    pub fn rules(&self, direction: Direction) -> &[ResolvedRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl ResolvedRule {
    /// Resolves a rule of a policy in a namespace, or of one in none, or of a profile.
    pub fn new(rule: &Rule, namespace: Option<&str>) -> Self {
        Self {
            action: rule.action,
            ip_version: rule.ip_version,
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp,
            source: resolve_side(&rule.source, namespace, rule.protocol, false),
            destination: resolve_side(&rule.destination, namespace, rule.protocol, true),
        }
    }

    /// Every selector whose set of addresses the rule needs.
    pub fn selectors(&self) -> impl Iterator<Item = &Selector> {
        [&self.source, &self.destination]
            .into_iter()
            .flat_map(|side| side.selector.iter().chain(&side.not_selector))
    }

    /// Every named port whose set the rule needs.
    pub fn named_ports(&self) -> impl Iterator<Item = &NamedPort> {
        [&self.source, &self.destination]
            .into_iter()
            .flat_map(|side| side.named_ports.iter().chain(&side.not_named_ports))
    }

    /// Every service whose set the rule needs.
    pub fn services(&self) -> impl Iterator<Item = &ServiceMatch> {
        [&self.source, &self.destination]
            .into_iter()
            .filter_map(|side| side.service.as_ref())
    }
}

/// The selector of a side, scoped; `None` where it selects by nothing.
pub fn scoped_selector(side: &Side, namespace: Option<&str>) -> Option<Selector> {
    let mut own = Vec::new();
    if let Some(accounts) = &side.service_accounts {
        let labels = accounts
            .selector
            .as_ref()
            .map(Selector::of_service_accounts);
        let names = Some(&accounts.names)
            .filter(|names| !names.is_empty())
            .map(|names| Selector::one_of(SERVICE_ACCOUNT_LABEL, names.iter().map(AsRef::as_ref)));
        own.push(Selector::and(labels.into_iter().chain(names)));
    }
    own.extend(side.selector.clone());
    let scope = match (&side.namespace_selector, namespace) {
        (Some(selector), _) => Some(selector.of_namespaces()),
        (None, Some(namespace)) if !own.is_empty() || side.not_selector.is_some() => {
            Some(Selector::equal(NAMESPACE_LABEL, namespace))
        }
        (None, _) => None,
    };
    let own = (!own.is_empty()).then(|| Selector::and(own));
    match (scope, own) {
        (None, None) => None,
        (scope, own) => Some(Selector::and(scope.into_iter().chain(own))),
    }
}

fn resolve_side(
    side: &Side,
    namespace: Option<&str>,
    protocol: Option<Protocol>,
    destination: bool,
) -> ResolvedSide {
    let mut selector = scoped_selector(side, namespace);
    let mut not_selector = side.not_selector.clone();
    if let Some(positive) = &selector
        && let Some(negative) = not_selector.take()
    {
        selector = Some(Selector::and([positive.clone(), negative.negated()]));
    }
    let filter = selector.clone().unwrap_or_else(Selector::all);
    let split = |ports: &[Port]| {
        let mut ranges = Vec::new();
        let mut named = Vec::new();
        for port in ports {
            match port {
                Port::Range(first, last) => ranges.push((*first, *last)),
                Port::Named(name) => named.push(NamedPort {
                    selector: filter.clone(),
                    protocol,
                    name: name.clone(),
                }),
            }
        }
        (ranges, named)
    };
    let (ports, named_ports) = split(&side.ports);
    let (not_ports, not_named_ports) = split(&side.not_ports);
    if ports.is_empty() && !named_ports.is_empty() {
        selector = None;
    }
    ResolvedSide {
        nets: side.nets.clone(),
        not_nets: side.not_nets.clone(),
        selector,
        not_selector,
        ports,
        named_ports,
        not_ports,
        not_named_ports,
        service: side.service.clone().map(|service| ServiceMatch {
            service,
            with_port: destination,
        }),
    }
}
