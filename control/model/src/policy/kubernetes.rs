//! Kubernetes' NetworkPolicy (`networking.k8s.io/v1`), converted to Calico's terms when it is read.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::id::{Order, PolicyKind};
use super::network_policy::{Policy, Types, read_staged_action, read_types};
use super::reader::{Fields, Node};
use super::rule::{Action, MAX_NETS, MAX_RULES, Port, Protocol, Rule, Side, read_net};
use super::selector::{Expression, Selector};
use super::value::Value;
use super::{ORCHESTRATOR_LABEL, is_label};

/// Where Kubernetes' policies stand in the default tier.
const ORDER: f64 = 1000.0;

/// What a label selector is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Selects {
    /// Pods: only what Kubernetes runs.
    Pods,
    /// Namespaces.
    Namespaces,
}

/// What is selected where a peer gives no selector: all pods, or in Calico's terms none.
pub(crate) fn all_pods() -> Selector {
    Selector::equal(ORCHESTRATOR_LABEL, "k8s")
}

/// A Kubernetes label selector as one of ours.
pub(crate) fn read_label_selector(node: &Node<'_>, selects: Selects) -> Option<Selector> {
    let mut fields = node.fields()?;
    let mut parts = Vec::new();
    if selects == Selects::Pods {
        parts.push(all_pods());
    }
    if let Some(node) = fields.take("matchLabels") {
        for (key, value) in node.string_map() {
            if check_key(&node, &key) && check_value(&node, &value) {
                parts.push(Selector::equal(&key, &value));
            }
        }
    }
    parts.extend(fields.list("matchExpressions", MAX_RULES, |node| {
        read_requirement(&node)
    }));
    fields.finish();
    Some(Selector::and(parts))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Requirement {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

fn read_requirement(node: &Node<'_>) -> Option<Selector> {
    const WORDS: [(&str, Requirement); 4] = [
        ("In", Requirement::In),
        ("NotIn", Requirement::NotIn),
        ("Exists", Requirement::Exists),
        ("DoesNotExist", Requirement::DoesNotExist),
    ];
    let mut fields = node.fields()?;
    let key = fields
        .required("key")
        .and_then(|node| Some(node.text()?).filter(|key| check_key(&node, key)));
    let operator = fields
        .required("operator")
        .and_then(|node| node.word(&WORDS));
    let values: BTreeSet<Box<str>> = fields
        .list("values", MAX_RULES, |node| {
            node.text().filter(|value| check_value(&node, value))
        })
        .into_iter()
        .map(Box::from)
        .collect();
    let listed = matches!(operator, Some(Requirement::In | Requirement::NotIn));
    if operator.is_some() && listed == values.is_empty() {
        fields.fail(
            "values",
            if listed {
                "required with In and NotIn"
            } else {
                "must be left out with Exists and DoesNotExist"
            },
        );
    }
    fields.finish();
    let key: Box<str> = key?.into();
    let expression = match operator? {
        Requirement::In => Expression::In(key, values),
        Requirement::NotIn => Expression::NotIn(key, values),
        Requirement::Exists => Expression::Has(key),
        Requirement::DoesNotExist => Expression::Not(Box::new(Expression::Has(key))),
    };
    Some(expression.into())
}

fn check_key(node: &Node<'_>, key: &str) -> bool {
    if !is_label(key) {
        node.fail(format!("{key:?} is no label"));
    }
    is_label(key)
}

/// As Kubernetes has label values: at most 63 letters, digits, `-`, `_` and `.`, beginning and ending with a letter or digit.
fn check_value(node: &Node<'_>, value: &str) -> bool {
    let end = |c: Option<u8>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    let fine = value.len() <= 63
        && value
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
        && end(value.bytes().next())
        && end(value.bytes().last());
    if !fine {
        node.fail(format!(
            "{value:?} is no label's value: use at most 63 letters, digits, '-', '_' and '.'"
        ));
    }
    fine
}

/// Ports by protocol; an empty list stands for all ports. `None` is any protocol.
pub(crate) type Ports = BTreeMap<Option<ProtocolName>, Vec<Port>>;

/// A protocol that orders by its name, as conversion orders rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProtocolName(pub(crate) Protocol);

impl PartialOrd for ProtocolName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ProtocolName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.to_string().cmp(&other.0.to_string())
    }
}

/// Adds a port to a protocol's; `None` is all of them, and stays so.
pub(crate) fn add_port(ports: &mut Ports, protocol: Protocol, port: Option<Port>) {
    use std::collections::btree_map::Entry;
    match (ports.entry(Some(ProtocolName(protocol))), port) {
        (Entry::Vacant(entry), port) => {
            entry.insert(port.into_iter().collect());
        }
        (Entry::Occupied(mut entry), None) => entry.get_mut().clear(),
        (Entry::Occupied(mut entry), Some(port)) if !entry.get().is_empty() => {
            entry.get_mut().push(port);
        }
        (Entry::Occupied(_), Some(_)) => {}
    }
}

/// Named ports, then the fewest ranges that hold the numbers.
pub(crate) fn simplify(ports: &[Port]) -> Vec<Port> {
    let mut simple = Vec::new();
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match port {
            Port::Named(_) => simple.push(port.clone()),
            Port::Range(first, last) => ranges.push((*first, *last)),
        }
    }
    ranges.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if u32::from(first) <= u32::from(*end) + 1 => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    simple.extend(
        merged
            .into_iter()
            .map(|(first, last)| Port::Range(first, last)),
    );
    simple
}

/// One rule per protocol and peer.
pub(crate) fn expand(ports: &Ports, peers: &[Side], ingress: bool, rule: &Rule) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (protocol, ports) in ports {
        for peer in peers {
            let mut rule = rule.clone();
            rule.protocol = protocol.map(|protocol| protocol.0);
            if ingress {
                rule.source = peer.clone();
            } else {
                rule.destination = peer.clone();
            }
            rule.destination.ports = simplify(ports);
            rules.push(rule);
        }
    }
    rules
}

/// Reads the specification of a NetworkPolicy of Kubernetes', or of one that is staged.
pub(crate) fn read_policy(spec: &mut Fields<'_>, kind: PolicyKind) -> Policy {
    let mut policy = Policy::new(Types::default());
    policy.order = Order::new(ORDER);
    policy.selector = match spec.take("podSelector") {
        Some(node) => read_label_selector(&node, Selects::Pods).unwrap_or_else(all_pods),
        None => all_pods(),
    };
    let egress_rules = matches!(
        spec.take("egress").map(|node| node.value),
        Some(Value::List(list)) if !list.is_empty()
    );
    policy.ingress = read_rules(spec, "ingress", "from", true);
    policy.egress = read_rules(spec, "egress", "to", false);
    policy.types = read_types(spec, "policyTypes").unwrap_or(Types {
        ingress: true,
        egress: egress_rules,
    });
    if kind.is_staged() {
        policy.staged_action = read_staged_action(spec);
    }
    policy
}

fn read_rules(
    spec: &mut Fields<'_>,
    name: &'static str,
    peers: &'static str,
    ingress: bool,
) -> Vec<Rule> {
    spec.list(name, MAX_RULES, |node| {
        let mut fields = node.fields()?;
        let mut sides = fields.list(peers, MAX_RULES, |node| read_peer(&node));
        if sides.is_empty() {
            sides.push(Side::default());
        }
        let mut ports = Ports::new();
        for (protocol, port) in fields.list("ports", MAX_RULES, |node| read_port(&node)) {
            add_port(&mut ports, protocol, port);
        }
        if ports.is_empty() {
            ports.insert(None, Vec::new());
        }
        fields.finish();
        Some(expand(&ports, &sides, ingress, &Rule::new(Action::Allow)))
    })
    .into_iter()
    .flatten()
    .collect()
}

fn read_peer(node: &Node<'_>) -> Option<Side> {
    let mut fields = node.fields()?;
    let mut side = Side::default();
    let pods = fields.take("podSelector");
    let namespaces = fields.take("namespaceSelector");
    let block = fields.take("ipBlock");
    fields.finish();
    if let Some(block) = block {
        if pods.is_some() || namespaces.is_some() {
            block.fail("must stand alone in a peer");
        }
        (side.nets, side.not_nets) = read_block(&block)?;
        return Some(side);
    }
    if pods.is_none() && namespaces.is_none() {
        node.fail("must have a podSelector, a namespaceSelector or an ipBlock");
    }
    side.selector = Some(match pods {
        Some(node) => read_label_selector(&node, Selects::Pods)?,
        None => all_pods(),
    });
    if let Some(node) = namespaces {
        side.namespace_selector = Some(read_label_selector(&node, Selects::Namespaces)?);
    }
    Some(side)
}

fn read_block(node: &Node<'_>) -> Option<(Vec<IpNet>, Vec<IpNet>)> {
    let mut fields = node.fields()?;
    let net = fields.required("cidr").and_then(|node| read_net(&node));
    let except = fields.list("except", MAX_NETS, |node| {
        let inner = read_net(&node)?;
        if let Some(net) = net
            && (!net.contains(&inner) || net == inner)
        {
            node.must(format!("be a part of {net}"));
        }
        Some(inner)
    });
    fields.finish();
    Some((vec![net?], except))
}

fn read_port(node: &Node<'_>) -> Option<(Protocol, Option<Port>)> {
    let mut fields = node.fields()?;
    let protocol = match fields.take("protocol") {
        Some(node) => node.word(&[
            ("TCP", Protocol::TCP),
            ("UDP", Protocol::UDP),
            ("SCTP", Protocol::SCTP),
        ]),
        None => Some(Protocol::TCP),
    };
    let given = fields.take("port");
    let mut port = match &given {
        None => None,
        Some(node) => Some(match node.value {
            Value::Text(text) => Port::Named(node.check(text.parse())?),
            _ => {
                let number = u16::try_from(node.integer(1, 65535)?).ok()?;
                Port::Range(number, number)
            }
        }),
    };
    if let Some(node) = fields.take("endPort") {
        match port {
            Some(Port::Range(first, _)) => {
                let last = node.integer(i64::from(first), 65535)?;
                port = Some(Port::Range(first, u16::try_from(last).ok()?));
            }
            _ => node.fail("needs a port that is a number"),
        }
    }
    fields.finish();
    Some((protocol?, port))
}
