//! The description of a lab: hosts, one router, the links between them.
//!
//! A topology is written as text, one item a line; `#` starts a comment:
//!
//! ```text
//! router gw
//! port p0 198.18.1.1/24 2001:db8:1::1/64
//! port p1 198.18.2.1/24 mtu 1400
//! port p2
//! sub p2 vlan 10 198.18.3.1/24
//! host a to p0 198.18.1.2/24 2001:db8:1::2/64 via 198.18.1.1 via 2001:db8:1::1
//! host b to p1 198.18.2.2/24 via 198.18.2.1 mtu 1400
//! host c to p2 vlan 10 198.18.3.2/24 via 198.18.3.1
//! ```
//!
//! | line | meaning |
//! | --- | --- |
//! | `router NAME` | the one router; at most one, before its ports |
//! | `port NAME …` | a port of the router, the device of that name in its namespace |
//! | `sub PORT vlan N [outer N] …` | what the router has on a VLAN of a port; data for whoever configures it |
//! | `host NAME [dev DEVICE] to PORT …` | an interface of a host on a port; several lines give several interfaces |
//! | `host NAME [dev DEVICE] wire WIRE …` | an interface of a host on a link between two hosts |
//!
//! | word | on | meaning |
//! | --- | --- | --- |
//! | `ADDRESS/LENGTH` | all | an address with its subnet, IPv4 or IPv6 |
//! | `mtu BYTES` | `port`, `host` | largest IP packet, 1500 if absent |
//! | `queues N` | `port`, `host` | transmit and receive queues of the device, 1 if absent |
//! | `mac ADDRESS` | `port`, `host` | Ethernet address; the lab numbers its devices if absent |
//! | `via GATEWAY` | `host` | default route of the gateway's family |
//! | `route PREFIX via GATEWAY` | `host` | a further route |
//! | `neighbour ADDRESS MAC` | `port`, `host` | a permanent neighbour entry |
//! | `vlan N [outer N]` | `host` | the link is tagged with 802.1Q id N, inside an 802.1ad tag where `outer` is given |

mod parse;
mod prefix;

use std::collections::HashSet;
use std::fmt;
use std::net::IpAddr;

use crate::{MacAddress, SimError};

pub use prefix::Prefix;

/// MTU of an interface whose line gives none, in bytes.
pub const DEFAULT_MTU: u32 = 1500;
/// Device name of a host's interface whose line gives none.
pub const DEFAULT_DEVICE: &str = "eth0";

/// A lab as data. Build it from text (`text.parse()`) or field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// The router, if the lab has one.
    pub router: Option<Router>,
    /// The hosts.
    pub hosts: Vec<Host>,
}

/// The router: a namespace whose ports are for the dataplane, or for the kernel's forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Router {
    /// Name of the namespace.
    pub name: String,
    /// Its ports.
    pub ports: Vec<Port>,
}

/// A port of the router.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Device name in the router's namespace.
    pub name: String,
    /// What the router's untagged interface there is to have. The lab itself sets it only for kernel forwarding.
    pub addresses: Vec<Prefix>,
    /// Settings of the device.
    pub device: Device,
    /// What the router is to have on VLANs of this port.
    pub sub_interfaces: Vec<SubInterface>,
}

/// What the router has on one VLAN of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubInterface {
    /// The VLAN.
    pub tag: Tag,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
}

/// A namespace with Linux's stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Name of the namespace.
    pub name: String,
    /// Its interfaces, one at least.
    pub interfaces: Vec<HostInterface>,
}

/// An interface of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// Device name in the host's namespace.
    pub name: String,
    /// What it is plugged into.
    pub attachment: Attachment,
    /// The VLAN its link is tagged with; the host itself sees untagged frames.
    pub tag: Option<Tag>,
    /// Its addresses.
    pub addresses: Vec<Prefix>,
    /// Default routes, at most one for each family.
    pub gateways: Vec<IpAddr>,
    /// Further routes: destination and gateway.
    pub routes: Vec<(Prefix, IpAddr)>,
    /// Settings of the device.
    pub device: Device,
}

/// The other end of a host's link.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attachment {
    /// The router's port of this name.
    Port(String),
    /// The link of this name, on which another host is too.
    Wire(String),
}

/// Settings of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Largest IP packet in bytes, 68 to 65535; at least 1280 with IPv6 (RFC 8200 section 5).
    pub mtu: u32,
    /// Transmit and receive queues, 1 to 64.
    pub queues: u32,
    /// Ethernet address; the lab picks one when absent.
    pub mac: Option<MacAddress>,
    /// Permanent neighbour entries.
    pub neighbours: Vec<(IpAddr, MacAddress)>,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            mtu: DEFAULT_MTU,
            queues: 1,
            mac: None,
            neighbours: Vec::new(),
        }
    }
}

/// The VLAN of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// 802.1Q VLAN id, 1 to 4094.
    pub vlan: u16,
    /// VLAN id of an 802.1ad service tag around it, 1 to 4094.
    pub outer: Option<u16>,
}

impl Tag {
    /// Bytes that the tag adds to a frame: 4 or 8.
    pub fn bytes(self) -> u16 {
        if self.outer.is_some() { 8 } else { 4 }
    }
}

/// Three hosts around the router `gw`: `a`, `b` behind a link with an MTU of 1400 bytes, and `c` behind VLAN 10;
/// all with IPv4 and IPv6.
pub fn demo() -> Topology {
    const TEXT: &str = "
        router gw
        port p0 198.18.1.1/24 2001:db8:1::1/64
        port p1 198.18.2.1/24 2001:db8:2::1/64 mtu 1400
        port p2
        sub p2 vlan 10 198.18.3.1/24 2001:db8:3::1/64
        host a to p0 198.18.1.2/24 2001:db8:1::2/64 via 198.18.1.1 via 2001:db8:1::1
        host b to p1 198.18.2.2/24 2001:db8:2::2/64 via 198.18.2.1 via 2001:db8:2::1 mtu 1400
        host c to p2 vlan 10 198.18.3.2/24 2001:db8:3::2/64 via 198.18.3.1 via 2001:db8:3::1
    ";
    TEXT.parse()
        .unwrap_or_else(|error| unreachable!("a test parses this text: {error}"))
}

impl Topology {
    /// Checks that the parts fit together: names, links, addresses, gateways, ranges.
    ///
    /// # Errors
    /// [`SimError::Topology`] naming the first part that does not fit, and why.
    pub fn validate(&self) -> Result<(), SimError> {
        self.problem()
            .map_or(Ok(()), |problem| Err(SimError::Topology(problem)))
    }

    /// The host named `name`.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name == name)
    }

    /// The router's ports; none without a router.
    pub fn ports(&self) -> &[Port] {
        self.router.as_ref().map_or(&[], |router| &router.ports)
    }

    fn problem(&self) -> Option<String> {
        let names = self.hosts.iter().map(|host| &host.name);
        let names = names.chain(self.router.iter().map(|router| &router.name));
        names_problem("namespace", names)
            .or_else(|| names_problem("port", self.ports().iter().map(|port| &port.name)))
            .or_else(|| self.ports().iter().find_map(port_problem))
            .or_else(|| self.hosts.iter().find_map(host_problem))
            .or_else(|| self.link_problem())
            .or_else(|| self.address_problem())
    }

    /// Every port has one host, every wire two ends.
    fn link_problem(&self) -> Option<String> {
        let attachments: Vec<_> = self
            .hosts
            .iter()
            .flat_map(|host| {
                host.interfaces
                    .iter()
                    .map(|interface| &interface.attachment)
            })
            .collect();
        let ends = |wanted: &Attachment| attachments.iter().filter(|end| **end == wanted).count();
        for attachment in &attachments {
            match attachment {
                Attachment::Port(name) if !self.ports().iter().any(|port| port.name == *name) => {
                    return Some(format!(
                        "a host is on port `{name}`, which the router does not have"
                    ));
                }
                Attachment::Wire(name) if ends(attachment) != 2 => {
                    let count = ends(attachment);
                    return Some(format!(
                        "wire `{name}` has {count} end(s); a wire joins two"
                    ));
                }
                _ => {}
            }
        }
        self.ports()
            .iter()
            .find_map(|port| match ends(&Attachment::Port(port.name.clone())) {
                1 => None,
                0 => Some(format!(
                    "no host is on port `{}`; a port needs one",
                    port.name
                )),
                _ => Some(format!("more than one host is on port `{}`", port.name)),
            })
    }

    /// No address is given twice in the lab.
    fn address_problem(&self) -> Option<String> {
        let mut seen = HashSet::new();
        let ports = self.ports().iter().flat_map(|port| {
            let tagged = port.sub_interfaces.iter().flat_map(|sub| &sub.addresses);
            port.addresses.iter().chain(tagged)
        });
        let interfaces = self.hosts.iter().flat_map(|host| &host.interfaces);
        let hosts = interfaces.flat_map(|interface| &interface.addresses);
        ports
            .chain(hosts)
            .find(|prefix| !seen.insert(prefix.address))
            .map(|prefix| format!("address {} is given twice", prefix.address))
    }
}

fn port_problem(port: &Port) -> Option<String> {
    let what = format!("port `{}`", port.name);
    let mut tags = HashSet::new();
    device_problem(&what, &port.device, &port.addresses).or_else(|| {
        port.sub_interfaces.iter().find_map(|sub| {
            if !tags.insert(sub.tag) {
                return Some(format!("{what} has two sub-interfaces on {}", sub.tag));
            }
            tag_problem(&what, sub.tag)
                .or_else(|| device_problem(&what, &port.device, &sub.addresses))
        })
    })
}

fn host_problem(host: &Host) -> Option<String> {
    if host.interfaces.is_empty() {
        return Some(format!("host `{}` has no interface", host.name));
    }
    let names = host.interfaces.iter().map(|interface| &interface.name);
    let named = format!("interface of host `{}`", host.name);
    names_problem(&named, names)
        .or_else(|| {
            host.interfaces
                .iter()
                .find_map(|interface| interface_problem(host, interface))
        })
        .or_else(|| {
            [true, false].into_iter().find_map(|ip6| {
                let gateways = host
                    .interfaces
                    .iter()
                    .flat_map(|interface| &interface.gateways);
                let count = gateways.filter(|gateway| gateway.is_ipv6() == ip6).count();
                let family = if ip6 { "IPv6" } else { "IPv4" };
                (count > 1).then(|| format!("host `{}` has two {family} default routes", host.name))
            })
        })
}

fn interface_problem(host: &Host, interface: &HostInterface) -> Option<String> {
    let what = format!("interface `{}` of host `{}`", interface.name, host.name);
    let (Attachment::Port(link) | Attachment::Wire(link)) = &interface.attachment;
    if let Some(problem) = names_problem("link", std::iter::once(link)) {
        return Some(problem);
    }
    if interface.name == "lo" {
        return Some(format!("{what}: `lo` is the loopback device"));
    }
    let off_link = interface
        .gateways
        .iter()
        .chain(interface.routes.iter().map(|(_, gateway)| gateway))
        .find(|gateway| {
            !interface
                .addresses
                .iter()
                .any(|own| own.contains(**gateway))
        });
    if let Some(gateway) = off_link {
        return Some(format!(
            "{what}: gateway {gateway} is on none of its subnets"
        ));
    }
    let mixed = interface
        .routes
        .iter()
        .find(|(prefix, gateway)| prefix.address.is_ipv6() != gateway.is_ipv6());
    if let Some((prefix, gateway)) = mixed {
        return Some(format!(
            "{what}: route {prefix} and its gateway {gateway} differ in family"
        ));
    }
    device_problem(&what, &interface.device, &interface.addresses)
        .or_else(|| interface.tag.and_then(|tag| tag_problem(&what, tag)))
}

fn device_problem(what: &str, device: &Device, addresses: &[Prefix]) -> Option<String> {
    let least = if addresses.iter().any(|prefix| prefix.address.is_ipv6()) {
        1280
    } else {
        68
    };
    if !(least..=65_535).contains(&device.mtu) {
        return Some(format!(
            "{what}: mtu {} is out of range {least} to 65535",
            device.mtu
        ));
    }
    if !(1..=64).contains(&device.queues) {
        return Some(format!(
            "{what}: {} queues are out of range 1 to 64",
            device.queues
        ));
    }
    match device.mac {
        Some(mac) if mac.is_multicast() => Some(format!("{what}: {mac} is a group address")),
        _ => None,
    }
}

fn tag_problem(what: &str, tag: Tag) -> Option<String> {
    let ids = std::iter::once(tag.vlan).chain(tag.outer);
    ids.into_iter()
        .find(|id| !(1..=4094).contains(id))
        .map(|id| format!("{what}: VLAN id {id} is out of range 1 to 4094"))
}

/// Names are unique, and fit the kernel's device names.
fn names_problem<'a>(kind: &str, names: impl Iterator<Item = &'a String>) -> Option<String> {
    let mut seen = HashSet::new();
    for name in names {
        let fits = (1..=15).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && name.bytes().any(|byte| byte != b'.');
        if !fits {
            return Some(format!(
                "{kind} name `{name}`: expected 1 to 15 letters, digits, `-`, `_`, `.`"
            ));
        }
        if !seen.insert(name) {
            return Some(format!("two of kind {kind} are named `{name}`"));
        }
    }
    None
}

impl fmt::Display for Tag {
    /// The words of the text format.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vlan {}", self.vlan)?;
        self.outer
            .map_or(Ok(()), |outer| write!(f, " outer {outer}"))
    }
}

impl fmt::Display for Topology {
    /// The text format; parsing it gives the same topology.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(router) = &self.router {
            writeln!(f, "router {}", router.name)?;
            for port in &router.ports {
                write!(f, "port {}", port.name)?;
                write_addresses(f, &port.addresses)?;
                write_device(f, &port.device)?;
                writeln!(f)?;
                for sub in &port.sub_interfaces {
                    write!(f, "sub {} {}", port.name, sub.tag)?;
                    write_addresses(f, &sub.addresses)?;
                    writeln!(f)?;
                }
            }
        }
        for host in &self.hosts {
            for interface in &host.interfaces {
                write!(f, "host {} dev {}", host.name, interface.name)?;
                match &interface.attachment {
                    Attachment::Port(port) => write!(f, " to {port}")?,
                    Attachment::Wire(wire) => write!(f, " wire {wire}")?,
                }
                if let Some(tag) = interface.tag {
                    write!(f, " {tag}")?;
                }
                write_addresses(f, &interface.addresses)?;
                for gateway in &interface.gateways {
                    write!(f, " via {gateway}")?;
                }
                for (prefix, gateway) in &interface.routes {
                    write!(f, " route {prefix} via {gateway}")?;
                }
                write_device(f, &interface.device)?;
                writeln!(f)?;
            }
        }
        Ok(())
    }
}

fn write_addresses(f: &mut fmt::Formatter<'_>, addresses: &[Prefix]) -> fmt::Result {
    addresses
        .iter()
        .try_for_each(|address| write!(f, " {address}"))
}

fn write_device(f: &mut fmt::Formatter<'_>, device: &Device) -> fmt::Result {
    if device.mtu != DEFAULT_MTU {
        write!(f, " mtu {}", device.mtu)?;
    }
    if device.queues != 1 {
        write!(f, " queues {}", device.queues)?;
    }
    if let Some(mac) = device.mac {
        write!(f, " mac {mac}")?;
    }
    device
        .neighbours
        .iter()
        .try_for_each(|(ip, mac)| write!(f, " neighbour {ip} {mac}"))
}
