//! Access lists: ordered rules on an interface's input or output, without endpoints, labels or tiers (`oncilla.io/v1`).

use ipnet::IpNet;

use super::id::Order;
use super::reader::{Fields, Node};
use super::rule::{Icmp, IpVersion, MAX_NETS, MAX_PORTS, Port, Protocol, read_net_or_address};
use super::value::Value;
use crate::InterfaceName;

/// Rules that an access list may have.
pub const MAX_ACCESS_RULES: usize = 65_536;

/// Which of an interface's packets a list judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessDirection {
    /// What it receives.
    Input,
    /// What it sends.
    Output,
}

/// Rules on an interface. Several lists on one interface and direction are one after the other, by order and then name; where there is any, what
/// no rule matches is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessList {
    /// The interface.
    pub interface: InterfaceName,
    /// Which of its packets.
    pub direction: AccessDirection,
    /// Where the list stands among the interface's; last if `None`.
    pub order: Option<Order>,
    /// First match first.
    pub rules: Vec<AccessRule>,
}

/// A rule of an access list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessRule {
    /// Whether what it matches may pass.
    pub permit: bool,
    /// Whether the flow is tracked, so that replies pass the other direction's list.
    pub reflect: bool,
    /// The version of IP.
    pub ip_version: Option<IpVersion>,
    /// The protocol.
    pub protocol: Option<Protocol>,
    /// Type and code of an ICMP message.
    pub icmp: Option<Icmp>,
    /// Networks of the source; any if empty.
    pub sources: Vec<IpNet>,
    /// Networks of the destination; any if empty.
    pub destinations: Vec<IpNet>,
    /// Ranges of the source port; any if empty.
    pub source_ports: Vec<(u16, u16)>,
    /// Ranges of the destination port; any if empty.
    pub destination_ports: Vec<(u16, u16)>,
}

pub(crate) fn read_access_list(spec: &mut Fields<'_>) -> Option<AccessList> {
    let interface = spec
        .required("interface")
        .and_then(|node| node.check(InterfaceName::new(node.text()?)));
    let direction = spec.required("direction").and_then(|node| {
        node.any_case(&[
            ("Input", AccessDirection::Input),
            ("Output", AccessDirection::Output),
        ])
    });
    let order = spec
        .take("order")
        .and_then(|node| node.number())
        .and_then(Order::new);
    let rules = spec.list("rules", MAX_ACCESS_RULES, |node| read_rule(&node));
    Some(AccessList {
        interface: interface?,
        direction: direction?,
        order,
        rules,
    })
}

fn read_rule(node: &Node<'_>) -> Option<AccessRule> {
    let mut fields = node.fields()?;
    let permit = fields
        .required("action")
        .and_then(|node| node.any_case(&[("Permit", true), ("Deny", false)]));
    let reflect = fields.bool("reflect").unwrap_or(false);
    if reflect && permit == Some(false) {
        fields.fail(
            "reflect",
            "value is true; only a rule that permits may reflect",
        );
    }
    let ip_version = fields.take("ipVersion").and_then(|node| {
        let version = match node.value {
            Value::Integer(4) => Some(IpVersion::V4),
            Value::Integer(6) => Some(IpVersion::V6),
            _ => None,
        };
        if version.is_none() {
            node.must("be 4 or 6");
        }
        version
    });
    let protocol = fields
        .take("protocol")
        .and_then(|node| Protocol::read(&node));
    let icmp = fields.take("icmp").and_then(|node| Icmp::read(&node));
    if icmp.is_some() && !protocol.is_some_and(Protocol::is_icmp) {
        fields.fail("icmp", "the rule's protocol must be ICMP or ICMPv6");
    }
    let ported = protocol.is_some_and(Protocol::has_ports);
    let mut side = |name| {
        fields
            .take(name)
            .and_then(|node| read_side(&node, ported))
            .unwrap_or_default()
    };
    let (sources, source_ports) = side("source");
    let (destinations, destination_ports) = side("destination");
    fields.finish();
    Some(AccessRule {
        permit: permit?,
        reflect,
        ip_version,
        protocol,
        icmp,
        sources,
        destinations,
        source_ports,
        destination_ports,
    })
}

/// Networks and ranges of ports.
type Ends = (Vec<IpNet>, Vec<(u16, u16)>);

fn read_side(node: &Node<'_>, ported: bool) -> Option<Ends> {
    let mut fields = node.fields()?;
    let nets = fields.list("nets", MAX_NETS, |node| read_net_or_address(&node));
    let ports = fields.list("ports", MAX_PORTS, |node| match Port::read(&node)? {
        Port::Range(first, last) => Some((first, last)),
        Port::Named(_) => {
            node.must("be a number or a range: an access list knows no endpoints' names");
            None
        }
    });
    if !ports.is_empty() && !ported {
        fields.fail(
            "ports",
            "the rule's protocol must be TCP, UDP, SCTP or UDPLite",
        );
    }
    fields.finish();
    Some((nets, ports))
}
