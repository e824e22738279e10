//! Packets in words and in JSON, and the endpoints that they are asked about.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use model::policy::reference::{EndpointId, Packet};
use model::policy::{Direction, IpVersion, NamespacedName, PolicyState, Protocol};
use serde::Deserialize;

/// Why something is no question about a packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct PacketError {
    /// The field; empty where the whole is meant.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// `field: message`.
impl std::fmt::Display for PacketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

fn wrong(field: &str, message: impl Into<String>) -> PacketError {
    PacketError {
        field: field.to_owned(),
        message: message.into(),
    }
}

/// A packet, and whose policy is to judge it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose.
    pub endpoint: EndpointId,
    /// Which way the packet goes, as the endpoint sees it.
    pub direction: Direction,
    /// The packet.
    pub packet: Packet,
}

/// The endpoint of a name: `namespace/name` or `name` of a workload, `name` of a host, or either with its kind in front
/// (`HostEndpoint/name`).
///
/// # Errors
///
/// There is none, or there are several.
pub fn endpoint(state: &PolicyState, name: &str) -> Result<EndpointId, PacketError> {
    let (workloads, hosts, rest) = match name.split_once('/') {
        Some(("WorkloadEndpoint", rest)) => (true, false, rest),
        Some(("HostEndpoint", rest)) => (false, true, rest),
        _ => (true, true, name),
    };
    let mut found = Vec::new();
    if workloads && let Some((namespace, name)) = rest.split_once('/') {
        let id = NamespacedName::new(namespace, name);
        if state.workload_endpoints.contains_key(&id) {
            found.push(EndpointId::Workload(id));
        }
    } else if workloads {
        let ids = state.workload_endpoints.keys();
        found.extend(
            ids.filter(|id| &*id.name == rest)
                .map(|id| EndpointId::Workload(id.clone())),
        );
    }
    if hosts && state.host_endpoints.contains_key(rest) {
        found.push(EndpointId::Host(rest.into()));
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(wrong(
            "endpoint",
            format!("there is no WorkloadEndpoint or HostEndpoint {name:?}"),
        )),
        many => {
            let names: Vec<_> = many
                .iter()
                .map(|id| match id {
                    EndpointId::Workload(id) => format!("WorkloadEndpoint/{id}"),
                    EndpointId::Host(name) => format!("HostEndpoint/{name}"),
                })
                .collect();
            Err(wrong(
                "endpoint",
                format!("{name:?} may be {}: say which", names.join(" or ")),
            ))
        }
    }
}

/// A packet as `--packets` reads it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Line {
    endpoint: String,
    direction: String,
    ip_version: Option<u8>,
    protocol: serde_json::Value,
    source: String,
    destination: String,
    source_port: Option<u16>,
    destination_port: Option<u16>,
    icmp_type: Option<u8>,
    icmp_code: Option<u8>,
    forwarded: Option<bool>,
    pre_nat_destination: Option<String>,
    pre_nat_destination_port: Option<u16>,
}

/// Reads one line of JSON: `endpoint`, `direction`, `ipVersion`, `protocol` (name or number), `source`, `destination`, `sourcePort`,
/// `destinationPort`, `icmpType`, `icmpCode`, `forwarded`, `preNatDestination`, `preNatDestinationPort`. What is `null` is as if it were not there.
///
/// # Errors
///
/// The field that is wrong, or unknown, or that there is no such endpoint.
pub fn read_line(line: &str, state: &PolicyState) -> Result<Question, PacketError> {
    let mut json = serde_json::Deserializer::from_str(line);
    let read: Line = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { "" } else { &field };
        wrong(field, error.inner().to_string())
    })?;
    json.end().map_err(|error| wrong("", error.to_string()))?;
    let address = |field, text: &str| -> Result<IpAddr, PacketError> {
        text.parse().map_err(|_| {
            wrong(
                field,
                format!("value is {text:?}; it must be an address such as 10.0.0.1"),
            )
        })
    };
    let protocol = match &read.protocol {
        serde_json::Value::String(text) => protocol(text)?,
        serde_json::Value::Number(number) => number
            .as_u64()
            .and_then(|number| u8::try_from(number).ok())
            .ok_or_else(|| {
                wrong(
                    "protocol",
                    format!("value is {number}; it must be a name or a number from 0 to 255"),
                )
            })?,
        other => {
            return Err(wrong(
                "protocol",
                format!("value is {other}; it must be a name or a number from 0 to 255"),
            ));
        }
    };
    let mut packet = Packet::new(
        address("source", &read.source)?,
        address("destination", &read.destination)?,
        protocol,
    );
    packet.source_port = read.source_port;
    packet.destination_port = read.destination_port;
    packet.icmp = read
        .icmp_type
        .map(|kind| (kind, read.icmp_code.unwrap_or(0)));
    if read.icmp_type.is_none() && read.icmp_code.is_some_and(|code| code != 0) {
        return Err(wrong("icmpCode", "needs an icmpType"));
    }
    packet.forwarded = read.forwarded.unwrap_or(false);
    let before = read.pre_nat_destination.as_deref();
    packet.pre_nat_destination = before
        .map(|text| address("preNatDestination", text))
        .transpose()?;
    packet.pre_nat_destination_port = read.pre_nat_destination_port;
    let packet = settle(packet)?;
    if let Some(version) = read.ip_version {
        let is = match packet.ip_version() {
            IpVersion::V4 => 4,
            IpVersion::V6 => 6,
        };
        if version != is {
            return Err(wrong(
                "ipVersion",
                format!("value is {version}, but the addresses are of version {is}"),
            ));
        }
    }
    Ok(Question {
        endpoint: endpoint(state, &read.endpoint)?,
        direction: direction(&read.direction)?,
        packet,
    })
}

/// Reads `ingress` or `egress`.
///
/// # Errors
///
/// It is neither.
pub fn direction(text: &str) -> Result<Direction, PacketError> {
    if text.eq_ignore_ascii_case("ingress") {
        Ok(Direction::Ingress)
    } else if text.eq_ignore_ascii_case("egress") {
        Ok(Direction::Egress)
    } else {
        Err(wrong(
            "direction",
            format!("value is {text:?}; it must be ingress or egress"),
        ))
    }
}

fn protocol(text: &str) -> Result<u8, PacketError> {
    if text == "0" {
        return Ok(0);
    }
    Protocol::from_str(text)
        .map(Protocol::number)
        .map_err(|error| wrong("protocol", error.to_string()))
}

/// Reads a packet in words: `tcp 10.0.0.1:1234 > 10.0.0.2:80`, `udp [fd00::1]:53 > [fd00::2]:53`, `icmp 10.0.0.1 > 10.0.0.2 type 8 code 0`,
/// `47 10.0.0.1 > 10.0.0.2`.
///
/// # Errors
///
/// What is wrong.
pub fn read_packet(text: &str) -> Result<Packet, PacketError> {
    const FORM: &str = "write \"PROTOCOL SOURCE[:PORT] > DESTINATION[:PORT]\", for ICMP with \"type N code N\" behind";
    let mut words = text.split_whitespace();
    let mut next = || words.next().ok_or_else(|| wrong("", FORM));
    let protocol = protocol(next()?)?;
    let (source, source_port) = end("source", next()?)?;
    if next()? != ">" {
        return Err(wrong("", FORM));
    }
    let (destination, destination_port) = end("destination", next()?)?;
    let mut packet = Packet::new(source, destination, protocol);
    (packet.source_port, packet.destination_port) = (source_port, destination_port);
    let mut icmp = (None, None);
    while let Some(word) = words.next() {
        let value = match word {
            "type" => &mut icmp.0,
            "code" => &mut icmp.1,
            _ => return Err(wrong("", format!("{word:?} is not understood: {FORM}"))),
        };
        let number = words.next().and_then(|number| number.parse::<u8>().ok());
        let number = number.ok_or_else(|| wrong(word, "must be a number from 0 to 255"))?;
        if value.replace(number).is_some() {
            return Err(wrong(word, "is there twice"));
        }
    }
    packet.icmp = match icmp {
        (Some(kind), code) => Some((kind, code.unwrap_or(0))),
        (None, None) => None,
        (None, Some(_)) => return Err(wrong("code", "needs a type")),
    };
    settle(packet)
}

fn end(field: &str, text: &str) -> Result<(IpAddr, Option<u16>), PacketError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok((socket.ip(), Some(socket.port())));
    }
    Err(wrong(
        field,
        format!(
            "value is {text:?}; it must be an address, with a port such as 10.0.0.1:80 or [fd00::1]:80"
        ),
    ))
}

/// Gives a packet what it must have, and checks the rest: a port that is left out is 0; an ICMP message without a type is one that no rule with a
/// type matches.
fn settle(mut packet: Packet) -> Result<Packet, PacketError> {
    let ported = Protocol::new(packet.protocol).is_ok_and(Protocol::has_ports);
    for (port, field) in [
        (&mut packet.source_port, "sourcePort"),
        (&mut packet.destination_port, "destinationPort"),
    ] {
        if ported {
            port.get_or_insert(0);
        } else if port.take().is_some_and(|port| port != 0) {
            let message = format!("protocol {} has no ports", packet.protocol);
            return Err(wrong(field, message));
        }
    }
    if !ported
        && packet
            .pre_nat_destination_port
            .take()
            .is_some_and(|port| port != 0)
    {
        let message = format!("protocol {} has no ports", packet.protocol);
        return Err(wrong("preNatDestinationPort", message));
    }
    let version = IpVersion::of(packet.source);
    for (address, field) in [
        (Some(packet.destination), "destination"),
        (packet.pre_nat_destination, "preNatDestination"),
    ] {
        if let Some(address) = address
            && IpVersion::of(address) != version
        {
            let message = format!("{address} is not of the source's IP version");
            return Err(wrong(field, message));
        }
    }
    let icmp = match version {
        IpVersion::V4 => Protocol::ICMP,
        IpVersion::V6 => Protocol::ICMPV6,
    };
    if packet.protocol != icmp.number() && packet.icmp.take().is_some_and(|types| types != (0, 0)) {
        return Err(wrong(
            "icmpType",
            "a type belongs to ICMP in IPv4 and to ICMPv6 in IPv6",
        ));
    }
    Ok(packet)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    #[test]
    fn packets_in_words() {
        let v6 = |last| IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last));
        let icmp = |source, destination, protocol, icmp| Packet {
            icmp: Some(icmp),
            ..Packet::new(source, destination, protocol)
        };
        for (text, packet) in [
            (
                "tcp 10.0.0.1:1234 > 10.0.0.2:80",
                Packet::new(v4(1), v4(2), 6).with_ports(1234, 80),
            ),
            (
                "UDP [fd00::1]:53 > fd00::2",
                Packet::new(v6(1), v6(2), 17).with_ports(53, 0),
            ),
            ("47 10.0.0.1 > 10.0.0.2", Packet::new(v4(1), v4(2), 47)),
            (
                "icmp 10.0.0.1 > 10.0.0.2 type 8",
                icmp(v4(1), v4(2), 1, (8, 0)),
            ),
            (
                "icmpv6 fd00::1 > fd00::2 code 4 type 1",
                icmp(v6(1), v6(2), 58, (1, 4)),
            ),
        ] {
            assert_eq!(read_packet(text), Ok(packet), "{text}");
            assert_eq!(packet.check(), Ok(()), "{text}");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused() {
        for (text, wanted) in [
            ("", "write"),
            ("tcp 10.0.0.1:1", "write"),
            ("tcp 10.0.0.1:1 10.0.0.2:2", "write"),
            ("tpc 10.0.0.1:1 > 10.0.0.2:2", "protocol: value is \"tpc\""),
            ("tcp 10.0.0:1 > 10.0.0.2:2", "source: value is \"10.0.0:1\""),
            ("tcp 10.0.0.1:1 > 10.0.0.2:70000", "destination: value is"),
            (
                "tcp 10.0.0.1:1 > [fd00::2]:2",
                "destination: fd00::2 is not",
            ),
            ("47 10.0.0.1:1 > 10.0.0.2", "sourcePort: protocol 47 has no"),
            ("icmp 10.0.0.1 > 10.0.0.2 code 1", "code: needs a type"),
            ("icmp 10.0.0.1 > 10.0.0.2 type 256", "type: must be"),
            ("icmp 10.0.0.1 > 10.0.0.2 type 8 type 8", "type: is there"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 type 8", "icmpType: a type"),
            ("tcp 10.0.0.1:1 > 10.0.0.2:2 syn", "\"syn\" is not"),
        ] {
            let error = read_packet(text).unwrap_err().to_string();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }
}
