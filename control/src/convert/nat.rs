//! Objects of translation.

use std::net::IpAddr;
use std::str::FromStr;

use control_api::v1;
use ipnet::IpNet;
use model::policy::{Order, Protocol};
use model::{
    AddressRange, ForwardAddress, InterfaceName, Invalid, MAX_NAT_INTERFACES, MAX_NAT_PREFIXES,
    MAX_POOL_RANGES, NatAction, NatPool, NatRule, Pairing, PoolAddresses, PortForward, PortSpan,
    StaticNat, nat_host, nat_prefix,
};

use super::Fields;

impl Fields<'_> {
    pub(super) fn nat_pool(&mut self, spec: &v1::NatPoolSpec) -> Option<NatPool> {
        let vrf = self.vrf(spec.vrf.as_ref());
        let addresses = match (spec.addresses.is_empty(), spec.interface_address) {
            (true, true) => Some(PoolAddresses::Interface),
            (false, false) => self.ranges(&spec.addresses).map(PoolAddresses::Ranges),
            (true, false) => {
                self.error(
                    "spec",
                    "says nothing about its addresses: set addresses or interfaceAddress",
                );
                None
            }
            (false, true) => {
                self.error(
                    "spec.interfaceAddress",
                    "addresses is set too; exactly one of them is allowed",
                );
                None
            }
        };
        let ports = match &spec.ports {
            None => Some(NatPool::PORTS),
            Some(ports) => self.port_span("spec.ports", ports),
        };
        let pairing = match &spec.pairing {
            None => Some(Pairing::default()),
            text => self.optional("spec.pairing", text.as_ref()),
        };
        Some(NatPool {
            vrf,
            addresses: addresses?,
            ports: ports?,
            pairing: pairing?,
        })
    }

    /// The addresses of a pool.
    fn ranges(&mut self, texts: &[String]) -> Option<Vec<AddressRange>> {
        let field = "spec.addresses";
        let ranges: Vec<(usize, AddressRange)> =
            self.each(field, texts, MAX_POOL_RANGES, AddressRange::from_str)?;
        let first = ranges.first().map(|(_, range)| *range);
        for (at, (index, range)) in ranges.iter().enumerate() {
            let field = format!("{field}[{index}]");
            if first.is_some_and(|first| first.is_v6() != range.is_v6()) {
                self.error(
                    field,
                    format!(
                        "{range} is not of the family of the others: make a pool for each family"
                    ),
                );
            } else if let Some((other, _)) = ranges[..at]
                .iter()
                .find(|(_, other)| other.overlaps(*range))
            {
                self.error(
                    field,
                    format!(
                        "{range} overlaps spec.addresses[{other}]: name each address in one place"
                    ),
                );
            }
        }
        Some(ranges.into_iter().map(|(_, range)| range).collect())
    }

    pub(super) fn nat_rule(&mut self, spec: &v1::NatRuleSpec) -> Option<NatRule> {
        let order = spec.order.and_then(|number| {
            let order = Order::new(number);
            self.check(
                "spec.order",
                order.ok_or_else(|| Invalid(format!("{number} is no place in an order"))),
            )
        });
        let vrf = self.vrf(spec.vrf.as_ref());
        let out_interfaces = self.out_interfaces(&spec.out_interfaces);
        let sources = self.nets("spec.sources", &spec.sources);
        let destinations = self.nets("spec.destinations", &spec.destinations);
        let not_destinations = self.nets("spec.notDestinations", &spec.not_destinations);
        let protocol = self.optional::<Protocol>("spec.protocol", spec.protocol.as_ref());
        let action = match (&spec.pool, spec.exempt) {
            (Some(pool), false) => self.check("spec.pool", pool.parse()).map(NatAction::Pool),
            (None, true) => Some(NatAction::Exempt),
            (None, false) => {
                self.error(
                    "spec",
                    "says nothing about what becomes of the source: set pool or exempt",
                );
                None
            }
            (Some(_), true) => {
                self.error(
                    "spec.exempt",
                    "pool is set too; exactly one of them is allowed",
                );
                None
            }
        };
        let rule = NatRule {
            order,
            vrf,
            out_interfaces: out_interfaces?,
            sources: sources?,
            destinations: destinations?,
            not_destinations: not_destinations?,
            protocol,
            action: action?,
        };
        if !rule.has_family(false) && !rule.has_family(true) {
            self.error(
                "spec.destinations",
                "no packet has a source of spec.sources and a destination of these: they are of different families",
            );
        }
        Some(rule)
    }

    pub(super) fn port_forward(&mut self, spec: &v1::PortForwardSpec) -> Option<PortForward> {
        let vrf = self.vrf(spec.vrf.as_ref());
        let address = match (&spec.address, &spec.interface) {
            (Some(address), None) => self
                .check("spec.address", nat_host(address))
                .map(ForwardAddress::Address),
            (None, Some(interface)) => self
                .check("spec.interface", interface.parse())
                .map(ForwardAddress::Interface),
            (None, None) => {
                self.error(
                    "spec",
                    "says nothing about where packets are sent to: set address or interface",
                );
                None
            }
            (Some(_), Some(_)) => {
                self.error(
                    "spec.interface",
                    "address is set too; exactly one of them is allowed",
                );
                None
            }
        };
        let protocol = self.required::<Protocol>("spec.protocol", &spec.protocol);
        let target = if spec.target_address.is_empty() {
            self.error("spec.targetAddress", "required");
            None
        } else {
            self.check("spec.targetAddress", nat_host(&spec.target_address))
        };
        if let (Some(ForwardAddress::Address(address)), Some(target)) = (&address, target)
            && address.is_ipv4() != target.is_ipv4()
        {
            self.error(
                "spec.targetAddress",
                format!("{target} is not of the family of {address}"),
            );
        }
        if let (Some(protocol), Some(target)) = (protocol, target) {
            self.icmp_family(protocol, target);
        }
        let ports = self.forwarded_ports(spec, protocol);
        let target_port = match spec.target_port {
            None => None,
            Some(port) => Some(self.check("spec.targetPort", PortSpan::port(port))?),
        };
        if let (Some(Some(ports)), Some(first)) = (ports, target_port)
            && u32::from(first) + u32::from(ports.last() - ports.first()) > u32::from(u16::MAX)
        {
            let count = u32::from(ports.last() - ports.first()) + 1;
            self.error(
                "spec.targetPort",
                format!(
                    "from {first} there are no {count} ports up to 65535: begin lower, or forward fewer"
                ),
            );
        }
        if protocol == Some(Protocol::SCTP)
            && target_port
                .is_some_and(|port| ports.flatten().is_some_and(|ports| ports.first() != port))
        {
            self.error(
                "spec.targetPort",
                "SCTP's checksum is over the whole packet, so that its ports stay as they are: leave it out",
            );
        }
        let source_pool = match &spec.source_pool {
            None => None,
            Some(name) => Some(self.check("spec.sourcePool", name.parse())?),
        };
        Some(PortForward {
            vrf,
            address: address?,
            protocol: protocol?,
            ports: ports?,
            is_range: spec.ports.is_some(),
            target: target?,
            target_port,
            source_pool,
        })
    }

    /// The two ICMPs are of one family each.
    fn icmp_family(&mut self, protocol: Protocol, target: IpAddr) {
        let family = match protocol {
            Protocol::ICMP if target.is_ipv6() => "IPv4",
            Protocol::ICMPV6 if target.is_ipv4() => "IPv6",
            _ => return,
        };
        self.error(
            "spec.protocol",
            format!("{protocol} is of {family}, which {target} is not"),
        );
    }

    /// The ports of a protocol that has them; `None` is an error.
    fn forwarded_ports(
        &mut self,
        spec: &v1::PortForwardSpec,
        protocol: Option<Protocol>,
    ) -> Option<Option<PortSpan>> {
        let protocol = protocol?;
        if !protocol.has_ports() {
            let set = [
                ("spec.port", spec.port.is_some()),
                ("spec.ports", spec.ports.is_some()),
                ("spec.targetPort", spec.target_port.is_some()),
            ];
            for (field, _) in set.into_iter().filter(|(_, set)| *set) {
                self.error(
                    field,
                    format!("protocol {protocol} has no ports: leave it out"),
                );
            }
            return Some(None);
        }
        let span = match (spec.port, &spec.ports) {
            (Some(port), None) => self.check("spec.port", PortSpan::single(port)),
            (None, Some(ports)) => self.port_span("spec.ports", ports),
            (None, None) => {
                self.error(
                    "spec.port",
                    format!("required for {protocol}: set port or ports"),
                );
                None
            }
            (Some(_), Some(_)) => {
                self.error(
                    "spec.ports",
                    "port is set too; exactly one of them is allowed",
                );
                None
            }
        };
        span.map(Some)
    }

    pub(super) fn static_nat(&mut self, spec: &v1::StaticNatSpec) -> Option<StaticNat> {
        let vrf = self.vrf(spec.vrf.as_ref());
        let mut prefix = |field: &str, text: &str| {
            if text.is_empty() {
                self.error(field, "required");
                return None;
            }
            self.check(field, StaticNat::prefix(text))
        };
        let external = prefix("spec.external", &spec.external);
        let internal = prefix("spec.internal", &spec.internal);
        if let (Some(external), Some(internal)) = (external, internal) {
            let message = if external.addr().is_ipv4() != internal.addr().is_ipv4() {
                Some(format!("{internal} is not of the family of {external}"))
            } else if external.prefix_len() != internal.prefix_len() {
                Some(format!(
                    "{internal} has a prefix of {} bits, {external} one of {}: one to one needs equal lengths",
                    internal.prefix_len(),
                    external.prefix_len()
                ))
            } else if external == internal {
                Some(format!("{internal} is what is external too"))
            } else {
                None
            };
            if let Some(message) = message {
                self.error("spec.internal", message);
            }
        }
        let out_interfaces = self.out_interfaces(&spec.out_interfaces);
        Some(StaticNat {
            vrf,
            external: external?,
            internal: internal?,
            out_interfaces: out_interfaces?,
        })
    }

    fn port_span(&mut self, field: &str, ports: &v1::PortRange) -> Option<PortSpan> {
        self.check(field, PortSpan::new(ports.first, ports.last))
    }

    fn nets(&mut self, field: &str, texts: &[String]) -> Option<Vec<IpNet>> {
        let nets = self.each(field, texts, MAX_NAT_PREFIXES, nat_prefix)?;
        Some(nets.into_iter().map(|(_, net)| net).collect())
    }

    fn out_interfaces(&mut self, texts: &[String]) -> Option<Vec<InterfaceName>> {
        let field = "spec.outInterfaces";
        let names = self.each(field, texts, MAX_NAT_INTERFACES, InterfaceName::from_str)?;
        for (at, (index, name)) in names.iter().enumerate() {
            if names[..at].iter().any(|(_, other)| other == name) {
                self.error(
                    format!("{field}[{index}]"),
                    format!("{name} is there twice"),
                );
            }
        }
        Some(names.into_iter().map(|(_, name)| name).collect())
    }

    /// The entries of a list that are right, with their places; `None` where the list is too long.
    fn each<T>(
        &mut self,
        field: &str,
        texts: &[String],
        most: usize,
        read: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<Vec<(usize, T)>> {
        if texts.len() > most {
            self.error(
                field,
                format!("{} entries; there can be {most}", texts.len()),
            );
            return None;
        }
        let entries = texts.iter().enumerate().filter_map(|(index, text)| {
            let entry = self.check(format!("{field}[{index}]"), read(text))?;
            Some((index, entry))
        });
        Some(entries.collect())
    }
}
