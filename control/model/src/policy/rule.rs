//! Rules of policies and profiles.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use super::Labels;
use super::reader::{Fields, Node};
use super::selector::Selector;
use crate::Invalid;
use crate::address::parse_net;
use crate::error::invalid;

/// Rules that a policy may have in one direction.
pub const MAX_RULES: usize = 1024;
/// Networks in one list of a rule.
pub const MAX_NETS: usize = 256;
/// Ports in one list of a rule.
pub const MAX_PORTS: usize = 50;

/// What happens to a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Deny,
    /// It is logged, and the next rule is tried.
    Log,
    /// The next tier decides, or the profiles after the last.
    Pass,
}

impl Action {
    pub(crate) const WORDS: [(&str, Self); 4] = [
        ("Allow", Self::Allow),
        ("Deny", Self::Deny),
        ("Log", Self::Log),
        ("Pass", Self::Pass),
    ];
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Log => "Log",
            Self::Pass => "Pass",
        })
    }
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// The version of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    /// The version of a network.
    pub fn of_net(net: &IpNet) -> Self {
        Self::of(net.addr())
    }
}

/// A protocol over IP: its number (IANA), from 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite.
    pub const UDPLITE: Self = Self(136);

    const NAMES: [(&str, Self); 6] = [
        ("TCP", Self::TCP),
        ("UDP", Self::UDP),
        ("ICMP", Self::ICMP),
        ("ICMPv6", Self::ICMPV6),
        ("SCTP", Self::SCTP),
        ("UDPLite", Self::UDPLITE),
    ];

    /// Takes a number.
    ///
    /// # Errors
    ///
    /// 0 is none.
    pub fn new(number: u8) -> Result<Self, Invalid> {
        if number == 0 {
            return Err(invalid!(
                "value is 0; it must be a protocol's name or a number from 1 to 255"
            ));
        }
        Ok(Self(number))
    }

    /// The number.
    pub fn number(self) -> u8 {
        self.0
    }

    /// Whether its packets have ports that rules may name: TCP, UDP, SCTP, UDP-Lite.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP | Self::UDPLITE)
    }

    /// Whether it is ICMP, for either version of IP.
    pub fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }

    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        use super::value::Value;
        let read = match node.value {
            Value::Integer(number) => u8::try_from(*number)
                .ok()
                .and_then(|number| Self::new(number).ok()),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        if read.is_none() {
            node.must("be TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255");
        }
        read
    }
}

impl FromStr for Protocol {
    type Err = Invalid;

    /// A name in any case, or a number.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        if let Some((_, protocol)) = Self::NAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
        {
            return Ok(*protocol);
        }
        plain_number(text)
            .and_then(|number: u8| Self::new(number).ok())
            .ok_or_else(|| {
                invalid!(
                    "value is {text:?}; it must be TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255"
                )
            })
    }
}

/// `TCP`, or the number.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, protocol)| protocol == self) {
            Some((name, _)) => f.pad(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Digits alone: no sign, no leading zero.
fn plain_number<T: FromStr>(text: &str) -> Option<T> {
    let plain = text == "0" || !text.starts_with(['0', '+', '-']);
    text.parse().ok().filter(|_| plain)
}

/// The name of a port (RFC 6335 section 5.1): 1 to 15 of a-z, 0-9 and `-`, at least one letter, no `-` at an end or doubled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortName(Box<str>);

impl PortName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PortName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let characters = text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-');
        let fits = (1..=15).contains(&text.len());
        let dashes = text.starts_with('-') || text.ends_with('-') || text.contains("--");
        let letter = text.bytes().any(|c| c.is_ascii_lowercase());
        if fits && characters && letter && !dashes {
            Ok(Self(text.into()))
        } else {
            Err(invalid!(
                "value is {text:?}; it must be a port's name: 1 to 15 of a-z, 0-9 and '-', with a letter"
            ))
        }
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Port {
    /// From the first to the last, both included.
    Range(u16, u16),
    /// Whatever number the endpoint gives this name.
    Named(PortName),
}

impl Port {
    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        use super::value::Value;
        const RULE: &str = "be a port from 0 to 65535, a range such as \"80:90\" or a port's name";
        match node.value {
            Value::Integer(number) => match u16::try_from(*number) {
                Ok(port) => return Some(Self::Range(port, port)),
                Err(_) => node.must(RULE),
            },
            Value::Text(text) => match text.parse() {
                Ok(port) => return Some(port),
                Err(Invalid(message)) => node.fail(message),
            },
            _ => node.must(RULE),
        }
        None
    }
}

impl FromStr for Port {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = || {
            invalid!(
                "value is {text:?}; it must be a port from 0 to 65535, a range such as \"80:90\" or a port's name"
            )
        };
        if let Some((first, last)) = text.split_once(':') {
            let (Some(first), Some(last)) = (plain_number(first), plain_number(last)) else {
                return Err(wrong());
            };
            if first > last {
                return Err(invalid!(
                    "value is {text:?}; it must be a range whose first port is not above the last"
                ));
            }
            return Ok(Self::Range(first, last));
        }
        if text.bytes().all(|c| c.is_ascii_digit()) {
            let port = plain_number(text).ok_or_else(wrong)?;
            return Ok(Self::Range(port, port));
        }
        text.parse().map(Self::Named).map_err(|_| wrong())
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(first, last) if first == last => write!(f, "{first}"),
            Self::Range(first, last) => write!(f, "{first}:{last}"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

/// A type of ICMP message, and a code if not any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Icmp {
    /// Type; any if `None`, so that only the protocol matters.
    pub kind: Option<u8>,
    /// Code; any if `None`.
    pub code: Option<u8>,
}

impl Icmp {
    pub(crate) fn read(node: &Node<'_>) -> Option<Self> {
        let mut fields = node.fields()?;
        let mut number = |name, highest| {
            let number = fields.take(name)?.integer(0, highest)?;
            u8::try_from(number).ok()
        };
        let kind = number("type", 254);
        let code = number("code", 255);
        if code.is_some() && !fields.has("type") {
            fields.fail("code", "needs a type");
        }
        fields.finish();
        Some(Self { kind, code })
    }

    /// Whether a message is of this type and code.
    pub fn matches(self, kind: u8, code: u8) -> bool {
        self.kind.is_none_or(|wanted| wanted == kind)
            && self.code.is_none_or(|wanted| wanted == code)
    }
}

/// A match on service accounts: by name and by label, both where both are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceAccounts {
    /// Any of these; any at all if empty.
    pub names: Vec<Box<str>>,
    /// Labels of the account.
    pub selector: Option<Selector>,
}

/// A service, by reference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceRef {
    /// Its namespace.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
}

impl fmt::Display for ServiceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What a rule asks of the source or the destination; an empty criterion asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The address is in one of these.
    pub nets: Vec<IpNet>,
    /// The address is in none of these.
    pub not_nets: Vec<IpNet>,
    /// The address belongs to something with such labels.
    pub selector: Option<Selector>,
    /// The address belongs to nothing with such labels.
    pub not_selector: Option<Selector>,
    /// The address belongs to something in a namespace with such labels.
    pub namespace_selector: Option<Selector>,
    /// The address belongs to something with such a service account.
    pub service_accounts: Option<ServiceAccounts>,
    /// The port is one of these.
    pub ports: Vec<Port>,
    /// The port is none of these.
    pub not_ports: Vec<Port>,
    /// The address, and for a destination the port, is one of this service's endpoints'.
    pub service: Option<ServiceRef>,
}

impl Side {
    /// Whether it asks nothing.
    pub fn is_any(&self) -> bool {
        *self == Self::default()
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
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
    /// Where packets come from.
    pub source: Side,
    /// Where packets go to: after destination translation, except in preDNAT and doNotTrack policies.
    pub destination: Side,
    /// For people.
    pub annotations: Labels,
}

impl Rule {
    /// A rule that matches everything.
    pub fn new(action: Action) -> Self {
        Self {
            action,
            ip_version: None,
            protocol: None,
            not_protocol: None,
            icmp: None,
            not_icmp: None,
            source: Side::default(),
            destination: Side::default(),
            annotations: Labels::new(),
        }
    }
}

/// Where rules stand, as far as it decides what they may say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// The policy's namespace, if it is in one.
    pub(crate) namespace: Option<&'a str>,
    /// Whether the rules judge what comes to endpoints.
    pub(crate) ingress: bool,
    /// Whether they are a profile's.
    pub(crate) profile: bool,
}

pub(crate) fn read_rules(
    fields: &mut Fields<'_>,
    name: &'static str,
    place: Place<'_>,
) -> Vec<Rule> {
    fields.list(name, MAX_RULES, |node| read_rule(&node, place))
}

const NO_HTTP: &str =
    "L7 rules are not supported yet; refusing rather than enforcing only the L3/L4 part";

fn read_rule(node: &Node<'_>, place: Place<'_>) -> Option<Rule> {
    let mut fields = node.fields()?;
    let action = match fields.required("action") {
        Some(node) => node.any_case(&Action::WORDS),
        None => None,
    };
    if place.profile && action == Some(Action::Pass) {
        fields.fail(
            "action",
            "value is \"Pass\"; in a profile it must be Allow, Deny or Log: nothing comes after profiles",
        );
    }
    let mut rule = Rule::new(action.unwrap_or(Action::Deny));
    rule.ip_version = fields.take("ipVersion").and_then(|node| {
        let version = match node.value {
            super::value::Value::Integer(4) => Some(IpVersion::V4),
            super::value::Value::Integer(6) => Some(IpVersion::V6),
            _ => None,
        };
        if version.is_none() {
            node.must("be 4 or 6");
        }
        version
    });
    rule.protocol = fields
        .take("protocol")
        .and_then(|node| Protocol::read(&node));
    rule.not_protocol = fields
        .take("notProtocol")
        .and_then(|node| Protocol::read(&node));
    rule.icmp = fields.take("icmp").and_then(|node| Icmp::read(&node));
    rule.not_icmp = fields.take("notICMP").and_then(|node| Icmp::read(&node));
    if let Some(node) = fields.take("source") {
        rule.source = read_side(&node, place, true);
    }
    if let Some(node) = fields.take("destination") {
        rule.destination = read_side(&node, place, false);
    }
    fields.refuse("http", NO_HTTP);
    if let Some(mut metadata) = fields.take("metadata").and_then(|node| node.fields()) {
        if let Some(node) = metadata.take("annotations") {
            rule.annotations = node.string_map();
        }
        metadata.finish();
    }
    check_rule(&fields, &rule);
    fields.finish();
    Some(rule)
}

/// What criteria say about each other.
fn check_rule(fields: &Fields<'_>, rule: &Rule) {
    if let Some(protocol) = rule.protocol
        && !protocol.has_ports()
    {
        for (side, name) in [(&rule.source, "source"), (&rule.destination, "destination")] {
            for (ports, list) in [(&side.ports, "ports"), (&side.not_ports, "notPorts")] {
                if !ports.is_empty() {
                    fields.fail(
                        &format!("{name}.{list}"),
                        format!(
                            "protocol {protocol} has no ports; it must be TCP, UDP, SCTP or UDPLite"
                        ),
                    );
                }
            }
        }
    }
    for (icmp, name) in [(rule.icmp, "icmp"), (rule.not_icmp, "notICMP")] {
        if icmp.is_some()
            && let Some(protocol) = rule.protocol
            && !protocol.is_icmp()
        {
            fields.fail(
                name,
                format!("the rule's protocol is {protocol}; it must be ICMP or ICMPv6"),
            );
        }
    }
    for (protocol, version, other) in [
        (Protocol::ICMP, IpVersion::V6, 4),
        (Protocol::ICMPV6, IpVersion::V4, 6),
    ] {
        let named = [rule.protocol, rule.not_protocol].contains(&Some(protocol));
        if named && rule.ip_version == Some(version) {
            fields.fail(
                "ipVersion",
                format!("with protocol {protocol} it must be {other}"),
            );
        }
    }
    if let Some(version) = rule.ip_version {
        for (side, name) in [(&rule.source, "source"), (&rule.destination, "destination")] {
            for (nets, list) in [(&side.nets, "nets"), (&side.not_nets, "notNets")] {
                for net in nets {
                    if IpVersion::of_net(net) != version {
                        fields.fail(
                            &format!("{name}.{list}"),
                            format!("{net} is not of the rule's ipVersion"),
                        );
                    }
                }
            }
        }
    }
}

fn read_side(node: &Node<'_>, place: Place<'_>, source: bool) -> Side {
    let Some(mut fields) = node.fields() else {
        return Side::default();
    };
    let mut side = Side {
        nets: fields.list("nets", MAX_NETS, |node| read_net(&node)),
        not_nets: fields.list("notNets", MAX_NETS, |node| read_net(&node)),
        selector: read_selector(&mut fields, "selector"),
        not_selector: read_selector(&mut fields, "notSelector"),
        namespace_selector: read_selector(&mut fields, "namespaceSelector"),
        service_accounts: None,
        ports: fields.list("ports", MAX_PORTS, |node| Port::read(&node)),
        not_ports: fields.list("notPorts", MAX_PORTS, |node| Port::read(&node)),
        service: None,
    };
    refuse_global(&fields, "selector", side.selector.as_ref());
    if let Some(selector) = &side.namespace_selector
        && selector.mentions_global()
        && selector.as_str() != "global()"
    {
        fields.fail(
            "namespaceSelector",
            format!(
                "value is {:?}; global() must stand alone",
                selector.as_str()
            ),
        );
    }
    if let Some(mut accounts) = fields
        .take("serviceAccounts")
        .and_then(|node| node.fields())
    {
        let names = accounts.list("names", MAX_NETS, |node| read_name(&node));
        let selector = read_selector(&mut accounts, "selector");
        accounts.finish();
        // With neither it asks nothing.
        if !names.is_empty() || selector.is_some() {
            side.service_accounts = Some(ServiceAccounts { names, selector });
        }
    }
    if let Some(node) = fields.take("services") {
        side.service = read_service(&node, place);
        if place.ingress != source {
            fields.fail(
                "services",
                if place.ingress {
                    "an ingress rule may name a service in its source only"
                } else {
                    "an egress rule may name a service in its destination only"
                },
            );
        }
        for name in [
            "nets",
            "notNets",
            "selector",
            "notSelector",
            "namespaceSelector",
            "serviceAccounts",
        ] {
            if fields.has(name) {
                fields.fail(
                    name,
                    "must not stand beside services, which says the addresses",
                );
            }
        }
        if !source {
            for name in ["ports", "notPorts"] {
                if fields.has(name) {
                    fields.fail(name, "must not stand beside services, which says the ports");
                }
            }
        }
    }
    fields.finish();
    side
}

fn read_service(node: &Node<'_>, place: Place<'_>) -> Option<ServiceRef> {
    let mut fields = node.fields()?;
    let name = fields.required("name").and_then(|node| read_name(&node));
    let namespace = match fields.take("namespace") {
        Some(node) => read_name(&node),
        None if place.namespace.is_none() => {
            fields.fail("namespace", "required in a policy that is in no namespace");
            None
        }
        None => place.namespace.map(Box::from),
    };
    fields.finish();
    Some(ServiceRef {
        namespace: namespace?,
        name: name?,
    })
}

/// A network with its prefix length; host bits are taken away.
pub(crate) fn read_net(node: &Node<'_>) -> Option<IpNet> {
    let net = node.text().and_then(parse_net);
    if net.is_none() && matches!(node.value, super::value::Value::Text(_)) {
        node.must("be a network such as 10.0.0.0/8 or 2001:db8::/32");
    }
    net.map(|net| net.trunc())
}

/// A network, or an address that stands for itself alone.
pub(crate) fn read_net_or_address(node: &Node<'_>) -> Option<IpNet> {
    if let super::value::Value::Text(text) = node.value
        && let Ok(address) = text.parse::<IpAddr>()
    {
        return Some(address.into());
    }
    read_net(node)
}

/// An address.
pub(crate) fn read_address(node: &Node<'_>) -> Option<IpAddr> {
    let address = node.text().and_then(|text| text.parse().ok());
    if address.is_none() && matches!(node.value, super::value::Value::Text(_)) {
        node.must("be an address such as 10.0.0.1 or 2001:db8::1");
    }
    address
}

/// The name of another object.
pub(crate) fn read_name(node: &Node<'_>) -> Option<Box<str>> {
    let name = node.check(crate::ObjectName::new(node.text()?))?;
    Some(name.as_str().into())
}

/// A selector, unless it is empty.
pub(crate) fn read_selector(fields: &mut Fields<'_>, name: &'static str) -> Option<Selector> {
    let node = fields.take(name)?;
    let text = node.text()?;
    match Selector::new(text) {
        Ok(selector) => Some(selector).filter(|_| !text.trim_matches([' ', '\t']).is_empty()),
        Err(error) => {
            node.fail(format!("value is {:?}; {error}", text));
            None
        }
    }
}

pub(crate) fn refuse_global(fields: &Fields<'_>, name: &str, selector: Option<&Selector>) {
    if let Some(selector) = selector.filter(|selector| selector.mentions_global()) {
        fields.fail(
            name,
            format!(
                "value is {:?}; global() may stand in a namespaceSelector only",
                selector.as_str()
            ),
        );
    }
}
