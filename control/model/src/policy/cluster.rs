//! Kubernetes' ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`), converted to Calico's terms when it is read.
//!
//! A rule that cannot be converted fails closed, as in Calico: Deny and Pass become a rule that denies everything, Accept is left out. What was
//! done is noted in [`Policy::notes`].

use super::id::Order;
use super::kubernetes::{Ports, Selects, add_port, all_pods, expand, read_label_selector};
use super::network_policy::{Policy, Types};
use super::reader::{Fields, Node};
use super::rule::{Action, Port, Protocol, Rule, Side, read_net};

/// Rules and peers that the API allows.
const MAX_ENTRIES: usize = 100;

/// What a rule's name becomes.
const RULE_NAME: &str = "policy.networking.k8s.io/rule-name";

/// Reads the specification of a ClusterNetworkPolicy.
pub(crate) fn read_policy(spec: &mut Fields<'_>) -> Policy {
    let mut policy = Policy::new(Types::default());
    let tier = spec
        .required("tier")
        .and_then(|node| node.word(&[("Admin", "kube-admin"), ("Baseline", "kube-baseline")]));
    policy.tier = tier.unwrap_or_default().into();
    #[expect(clippy::cast_precision_loss, reason = "at most 1000")]
    let priority = spec
        .required("priority")
        .and_then(|node| node.integer(0, 1000))
        .map(|priority| priority as f64);
    policy.order = priority.and_then(Order::new);
    if let Some(node) = spec.required("subject")
        && let Some((pods, namespaces)) = read_subject(&node)
    {
        policy.selector = pods;
        policy.namespace_selector = Some(namespaces);
    }
    policy.ingress = read_rules(spec, &mut policy.notes, "ingress", "from", true);
    policy.egress = read_rules(spec, &mut policy.notes, "egress", "to", false);
    // The tiers pass at their end, so that a direction without rules changes nothing.
    policy.types = Types {
        ingress: !policy.ingress.is_empty() || policy.egress.is_empty(),
        egress: !policy.egress.is_empty() || policy.ingress.is_empty(),
    };
    policy
}

/// Selectors of pods and of namespaces: exactly one of `namespaces` and `pods`.
fn read_subject(node: &Node<'_>) -> Option<(super::Selector, super::Selector)> {
    let mut fields = node.fields()?;
    let namespaces = fields.take("namespaces");
    let pods = fields.take("pods");
    fields.finish();
    match (namespaces, pods) {
        (Some(node), None) => Some((all_pods(), read_label_selector(&node, Selects::Namespaces)?)),
        (None, Some(node)) => read_pods(&node),
        _ => {
            node.fail("must have either namespaces or pods");
            None
        }
    }
}

fn read_pods(node: &Node<'_>) -> Option<(super::Selector, super::Selector)> {
    let mut fields = node.fields()?;
    let namespaces = fields
        .required("namespaceSelector")
        .and_then(|node| read_label_selector(&node, Selects::Namespaces));
    let pods = fields
        .required("podSelector")
        .and_then(|node| read_label_selector(&node, Selects::Pods));
    fields.finish();
    Some((pods?, namespaces?))
}

fn read_rules(
    spec: &mut Fields<'_>,
    notes: &mut Vec<String>,
    name: &'static str,
    peers: &'static str,
    ingress: bool,
) -> Vec<Rule> {
    spec.list(name, MAX_ENTRIES, |node| {
        let path = node.path.clone();
        let mut fields = node.fields()?;
        let action = fields.required("action").and_then(|node| {
            node.word(&[
                ("Accept", Action::Allow),
                ("Deny", Action::Deny),
                ("Pass", Action::Pass),
            ])
        });
        let mut rule = Rule::new(action.unwrap_or(Action::Deny));
        if let Some(name) = fields.text("name") {
            rule.annotations.insert(RULE_NAME.into(), name.into());
        }
        let mut unsupported = Vec::new();
        let sides = fields.list(peers, MAX_ENTRIES, |node| {
            read_peer(&node, ingress, &mut unsupported)
        });
        if !fields.has(peers) || sides.is_empty() && unsupported.is_empty() {
            fields.fail(peers, "required: at least one peer");
        }
        let mut ports = Ports::new();
        for (protocol, port) in fields.list("protocols", MAX_ENTRIES, |node| {
            read_protocol(&node, &mut unsupported)
        }) {
            add_port(&mut ports, protocol, port);
        }
        if !fields.has("protocols") || ports.is_empty() && unsupported.is_empty() {
            ports.insert(None, Vec::new());
        }
        fields.finish();
        if unsupported.is_empty() {
            return Some(expand(&ports, &sides, ingress, &rule));
        }
        let instead = if rule.action == Action::Allow {
            "the rule is left out"
        } else {
            "the rule denies everything"
        };
        notes.extend(
            unsupported
                .into_iter()
                .map(|what| format!("{path}: {what}; {instead}")),
        );
        Some(match rule.action {
            Action::Allow => Vec::new(),
            _ => vec![Rule::new(Action::Deny)],
        })
    })
    .into_iter()
    .flatten()
    .collect()
}

fn read_peer(node: &Node<'_>, ingress: bool, unsupported: &mut Vec<String>) -> Option<Side> {
    let mut fields = node.fields()?;
    let mut side = Side::default();
    let mut given = 0;
    if let Some(node) = fields.take("namespaces") {
        given += 1;
        side.namespace_selector = read_label_selector(&node, Selects::Namespaces);
    }
    if let Some(node) = fields.take("pods") {
        given += 1;
        if let Some((pods, namespaces)) = read_pods(&node) {
            side.selector = Some(pods);
            side.namespace_selector = Some(namespaces);
        }
    }
    let mut supported = true;
    if !ingress {
        if fields.has("networks") {
            given += 1;
            let mut entries = 0;
            side.nets = fields.list("networks", MAX_ENTRIES, |node| {
                entries += 1;
                read_net(&node)
            });
            if entries == 0 {
                fields.fail("networks", "required: at least one network");
            }
        }
        for name in ["nodes", "domainNames"] {
            if fields.take(name).is_some() {
                given += 1;
                supported = false;
                unsupported.push(format!("{name} are not supported"));
            }
        }
    }
    fields.finish();
    if given != 1 {
        node.fail(if ingress {
            "must have either namespaces or pods"
        } else {
            "must have exactly one of namespaces, pods, networks, nodes and domainNames"
        });
    }
    supported.then_some(side)
}

fn read_protocol(
    node: &Node<'_>,
    unsupported: &mut Vec<String>,
) -> Option<(Protocol, Option<Port>)> {
    let mut fields = node.fields()?;
    let mut read = None;
    let mut given = 0;
    for (name, protocol) in [
        ("tcp", Protocol::TCP),
        ("udp", Protocol::UDP),
        ("sctp", Protocol::SCTP),
    ] {
        if let Some(node) = fields.take(name) {
            given += 1;
            read = read_destination_port(&node).map(|port| (protocol, port));
        }
    }
    if fields.take("destinationNamedPort").is_some() {
        given += 1;
        unsupported.push("destinationNamedPort is not supported".into());
    }
    fields.finish();
    if given != 1 {
        node.fail("must have exactly one of tcp, udp, sctp and destinationNamedPort");
    }
    read
}

fn read_destination_port(node: &Node<'_>) -> Option<Option<Port>> {
    let mut fields = node.fields()?;
    let port = fields.take("destinationPort");
    fields.finish();
    let Some(port) = port else { return Some(None) };
    let mut fields = port.fields()?;
    let number = fields.take("number");
    let range = fields.take("range");
    fields.finish();
    let one = |node: Node<'_>| u16::try_from(node.integer(1, 65535)?).ok();
    match (number, range) {
        (Some(node), None) => one(node).map(|number| Some(Port::Range(number, number))),
        (None, Some(node)) => {
            let mut fields = node.fields()?;
            let start = fields.required("start").and_then(one);
            let end = fields.required("end").and_then(one);
            fields.finish();
            let (start, end) = (start?, end?);
            if start > end {
                node.fail(format!("end is {end}; it must not be below start"));
                return None;
            }
            Some(Some(Port::Range(start, end)))
        }
        _ => {
            port.fail("must have either a number or a range");
            None
        }
    }
}
