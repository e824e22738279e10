//! A translator between IPv4 and IPv6 as RFC 7915 reads: parses with etherparse, builds every packet
//! anew, and computes every checksum over all bytes that it covers.
//!
//! A fragment, or a packet quoted in an ICMP error, lacks bytes that its checksum covers. So each function also
//! takes the whole upper-layer packet that the bytes were cut from.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpFragOffset, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader,
};
use wire::translate::{Policy, Ports, Refusal, Tuple, ZeroChecksum};

const ICMP4: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const DCCP: u8 = 33;
const ICMP6: u8 = 58;
const UDP_LITE: u8 = 136;

/// ICMPv4 types and codes of errors, and what they become (RFC 7915 section 4.2).
const ERRORS_TO_6: [((u8, u8), (u8, u8)); 19] = [
    ((3, 0), (1, 0)),
    ((3, 1), (1, 0)),
    ((3, 2), (4, 1)),
    ((3, 3), (1, 4)),
    ((3, 4), (2, 0)),
    ((3, 5), (1, 0)),
    ((3, 6), (1, 0)),
    ((3, 7), (1, 0)),
    ((3, 8), (1, 0)),
    ((3, 9), (1, 1)),
    ((3, 10), (1, 1)),
    ((3, 11), (1, 0)),
    ((3, 12), (1, 0)),
    ((3, 13), (1, 1)),
    ((3, 15), (1, 1)),
    ((11, 0), (3, 0)),
    ((11, 1), (3, 1)),
    ((12, 0), (4, 0)),
    ((12, 2), (4, 0)),
];

/// ICMPv6 types and codes of errors, and what they become (RFC 7915 section 5.2).
const ERRORS_TO_4: [((u8, u8), (u8, u8)); 10] = [
    ((1, 0), (3, 1)),
    ((1, 1), (3, 10)),
    ((1, 2), (3, 1)),
    ((1, 3), (3, 1)),
    ((1, 4), (3, 3)),
    ((2, 0), (3, 4)),
    ((3, 0), (11, 0)),
    ((3, 1), (11, 1)),
    ((4, 0), (12, 0)),
    ((4, 1), (3, 2)),
];

/// Figure 3: first and last byte of a field in IPv4, and where it is in IPv6.
const POINTERS_TO_6: [(u8, u8, u32); 7] = [
    (0, 0, 0),
    (1, 1, 1),
    (2, 3, 4),
    (8, 8, 7),
    (9, 9, 6),
    (12, 15, 8),
    (16, 19, 24),
];

/// Figure 6: first and last byte of a field in IPv6, and where it is in IPv4.
const POINTERS_TO_4: [(u32, u32, u8); 7] = [
    (0, 0, 0),
    (1, 1, 1),
    (4, 5, 2),
    (6, 6, 9),
    (7, 7, 8),
    (8, 23, 12),
    (24, 39, 16),
];

/// An IPv4 packet, not an ICMP error; `whole` is the upper-layer packet that its payload is a part of.
pub fn to6(
    packet: &[u8],
    whole: &[u8],
    new: &Tuple<Ipv6Addr>,
    policy: &Policy,
) -> Result<Vec<u8>, Refusal> {
    let (header, rest) = Ipv4Header::from_slice(packet).unwrap();
    let payload = &rest[..usize::from(header.payload_len().unwrap())];
    refuse_source_route(header.options.as_slice())?;
    let source = Ipv4Addr::from(header.source);
    let class_e = u32::from(source) >= 0xf000_0000;
    if source.octets()[0] == 0 || source.is_loopback() || source.is_multicast() || class_e {
        return Err(Refusal::IllegalSource);
    }
    let protocol = protocol_to6(header.protocol.0)?;
    if protocol == ICMP6 {
        if header.is_fragmenting_payload() {
            return Err(Refusal::FragmentedIcmp);
        }
        match payload[0] {
            0 | 8 => {}
            why => return Err(refused_type4(why)),
        }
    }
    refuse_tiny(protocol, header.fragment_offset.value(), payload)?;
    let mut upper = upper_to6(protocol, whole, new);
    if protocol == UDP && header.fragment_offset.value() == 0 && payload[6..8] == [0, 0] {
        if header.is_fragmenting_payload() {
            return Err(Refusal::FragmentedUdpWithoutChecksum);
        }
        if policy.zero_checksum == ZeroChecksum::Refuse {
            return Err(Refusal::UdpWithoutChecksum);
        }
        let len = usize::from(u16::from_be_bytes([payload[4], payload[5]]));
        let sum = pseudo6(new, UDP, len);
        let checksum = finish_udp(sum + add(&upper[..len]));
        upper[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    let at = usize::from(header.fragment_offset.value()) * 8;
    let part = &upper[at..at + payload.len()];
    let split = !header.dont_fragment && 40 + part.len() > usize::from(policy.lowest_ip6_mtu);
    Ok(headers6(&header, part.len(), protocol, new, split, policy)
        .into_iter()
        .chain(part.iter().copied())
        .collect())
}

/// An ICMPv4 error; `whole` is the upper-layer packet that the quoted packet carried.
pub fn error_to6(
    packet: &[u8],
    whole: &[u8],
    outer: &Tuple<Ipv6Addr>,
    inner: &Tuple<Ipv6Addr>,
    policy: &Policy,
) -> Result<Vec<u8>, Refusal> {
    let (header, rest) = Ipv4Header::from_slice(packet).unwrap();
    let message = &rest[..usize::from(header.payload_len().unwrap())];
    refuse_source_route(header.options.as_slice())?;
    if header.is_fragmenting_payload() {
        return Err(Refusal::FragmentedIcmp);
    }
    let (quote, extension) = split_extension(&message[8..], usize::from(message[5]) * 4);
    let (quoted, quoted_rest) = Ipv4Header::from_slice(quote).unwrap();

    let old = (message[0], message[1]);
    let new = match ERRORS_TO_6.iter().find(|row| row.0 == old) {
        Some(row) => row.1,
        None if old.0 == 11 => (3, old.1),
        None => return Err(Refusal::IcmpCode),
    };
    let value = match old {
        (3, 2) => 6,
        (3, 4) => {
            let mut mtu = u32::from(u16::from_be_bytes([message[6], message[7]]));
            if mtu == 0 {
                mtu = plateau(quoted.total_len);
            }
            [
                mtu + 20,
                policy.ip6_mtu.into(),
                u32::from(policy.ip4_mtu) + 20,
            ]
            .into_iter()
            .min()
            .unwrap()
            .max(1280)
        }
        (12, _) => {
            let pointer = message[4];
            let row = POINTERS_TO_6
                .iter()
                .find(|r| r.0 <= pointer && pointer <= r.1);
            row.ok_or(Refusal::IcmpPointer)?.2
        }
        _ => 0,
    };
    let quoted_len = usize::from(quoted.payload_len().unwrap());
    let present = &quoted_rest[..quoted_len.min(quoted_rest.len())];
    let protocol = protocol_to6(quoted.protocol.0)?;
    if protocol == ICMP6 {
        if quoted.is_fragmenting_payload() {
            return Err(Refusal::FragmentedIcmp);
        }
        match present.first() {
            None => return Err(Refusal::QuoteTruncated),
            _ if present.len() < 8 => return Err(Refusal::QuoteTruncated),
            Some(0 | 8) => {}
            Some(3 | 11 | 12) => return Err(Refusal::NestedError),
            Some(&other) => return Err(refused_type4(other)),
        }
    }
    if has_ports(protocol) && quoted.fragment_offset.value() == 0 && present.len() < 4 {
        return Err(Refusal::QuoteTruncated);
    }
    let upper = upper_to6(protocol, whole, inner);
    let at = usize::from(quoted.fragment_offset.value()) * 8;
    let mut new_quote = headers6(&quoted, quoted_len, protocol, inner, false, policy);
    new_quote.extend(overlay(&upper[at..], quoted_rest, quoted_len));

    let mut made = vec![new.0, new.1, 0, 0];
    made.extend(value.to_be_bytes());
    add_quote(
        &mut made,
        new_quote,
        extension,
        matches!(new.0, 1 | 3).then_some((4, 8)),
        1240,
    );
    let sum = pseudo6(outer, ICMP6, made.len()) + add(&made);
    made[2..4].copy_from_slice(&finish(sum).to_be_bytes());
    let plain = Ipv4Header {
        more_fragments: false,
        fragment_offset: IpFragOffset::ZERO,
        ..header
    };
    let mut bytes = headers6(&plain, made.len(), ICMP6, outer, false, policy);
    bytes.extend(made);
    Ok(bytes)
}

/// An IPv6 packet, not an ICMP error; `whole` is the upper-layer packet that its payload is a part of.
pub fn to4(
    packet: &[u8],
    whole: &[u8],
    new: &Tuple<Ipv4Addr>,
    id: u16,
    policy: &Policy,
) -> Result<Vec<u8>, Refusal> {
    let (header, rest) = Ipv6Header::from_slice(packet).unwrap();
    let rest = &rest[..usize::from(header.payload_length)];
    let chain = skip_extensions(header.next_header, rest)?;
    let source = Ipv6Addr::from(header.source);
    if source.is_unspecified()
        || source.is_loopback()
        || source.is_multicast()
        || source.is_unicast_link_local()
    {
        return Err(Refusal::IllegalSource);
    }
    let protocol = protocol_to4(chain.protocol)?;
    if protocol == ICMP4 {
        if chain.is_fragment() {
            return Err(Refusal::FragmentedIcmp);
        }
        match chain.payload[0] {
            128 | 129 => {}
            other => return Err(refused_type6(other)),
        }
    }
    refuse_tiny(protocol, chain.offset() as u16, chain.payload)?;
    let upper = upper_to4(protocol, whole, new);
    let part = &upper[chain.offset()..chain.offset() + chain.payload.len()];
    let mut bytes = header4(&header, &chain, part.len(), protocol, new, id, policy)?;
    bytes.extend(part);
    Ok(bytes)
}

/// An ICMPv6 error; `whole` is the upper-layer packet that the quoted packet carried.
pub fn error_to4(
    packet: &[u8],
    whole: &[u8],
    outer: &Tuple<Ipv4Addr>,
    inner: &Tuple<Ipv4Addr>,
    id: u16,
    policy: &Policy,
) -> Result<Vec<u8>, Refusal> {
    let (header, rest) = Ipv6Header::from_slice(packet).unwrap();
    let chain = skip_extensions(
        header.next_header,
        &rest[..usize::from(header.payload_length)],
    )?;
    if chain.is_fragment() {
        return Err(Refusal::FragmentedIcmp);
    }
    let message = chain.payload;
    let length = match message[0] {
        1 | 3 => usize::from(message[4]) * 8,
        _ => 0,
    };
    let (quote, extension) = split_extension(&message[8..], length);
    let (quoted, quoted_rest) = Ipv6Header::from_slice(quote).unwrap();
    let quoted_chain =
        skip_extensions(quoted.next_header, quoted_rest).map_err(|why| match why {
            Refusal::Truncated => Refusal::QuoteTruncated,
            _ => Refusal::BadQuote,
        })?;

    let old = (message[0], message[1]);
    let new = match ERRORS_TO_4.iter().find(|row| row.0 == old) {
        Some(row) => row.1,
        None if old.0 == 2 => (3, 4),
        None if old.0 == 3 => (11, old.1),
        None => return Err(Refusal::IcmpCode),
    };
    let value = u32::from_be_bytes(message[4..8].try_into().unwrap());
    let value = match old.0 {
        2 => {
            let growth = if quoted_chain.fragment.is_some() {
                28
            } else {
                20
            };
            [
                value.saturating_sub(growth),
                policy.ip4_mtu.into(),
                u32::from(policy.ip6_mtu).saturating_sub(20),
            ]
            .into_iter()
            .min()
            .unwrap()
            .max(68)
        }
        4 if new.0 == 12 => {
            let row = POINTERS_TO_4.iter().find(|r| r.0 <= value && value <= r.1);
            u32::from(row.ok_or(Refusal::IcmpPointer)?.2) << 24
        }
        _ => 0,
    };
    let extensions_len = quoted_rest.len() - quoted_chain.payload.len();
    let quoted_len = usize::from(quoted.payload_length) - extensions_len;
    let present = &quoted_chain.payload[..quoted_len.min(quoted_chain.payload.len())];
    let protocol = protocol_to4(quoted_chain.protocol)?;
    if protocol == ICMP4 {
        if quoted_chain.is_fragment() {
            return Err(Refusal::FragmentedIcmp);
        }
        match present.first() {
            None => return Err(Refusal::QuoteTruncated),
            _ if present.len() < 8 => return Err(Refusal::QuoteTruncated),
            Some(128 | 129) => {}
            Some(1..=4) => return Err(Refusal::NestedError),
            Some(&other) => return Err(refused_type6(other)),
        }
    }
    if has_ports(protocol) && quoted_chain.offset() == 0 && present.len() < 4 {
        return Err(Refusal::QuoteTruncated);
    }
    let upper = upper_to4(protocol, whole, inner);
    let at = quoted_chain.offset();
    let mut new_quote = header4(
        &quoted,
        &quoted_chain,
        quoted_len,
        protocol,
        inner,
        0,
        policy,
    )?;
    new_quote.extend(overlay(&upper[at..], quoted_chain.payload, quoted_len));

    let mut made = vec![new.0, new.1, 0, 0];
    made.extend(value.to_be_bytes());
    let extensible = matches!((old.0, new.0), (1 | 3, _)).then_some((5, 4));
    add_quote(&mut made, new_quote, extension, extensible, 65514);
    let checksum = finish(add(&made));
    made[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut bytes = header4(&header, &chain, made.len(), ICMP4, outer, id, policy)?;
    bytes.extend(made);
    Ok(bytes)
}

/// `quoted` with the bytes of `upper` in their places: a quote can end before the packet does, and padding
/// can follow it.
fn overlay(upper: &[u8], quoted: &[u8], payload_len: usize) -> Vec<u8> {
    let mut bytes = quoted.to_vec();
    let len = payload_len.min(bytes.len());
    bytes[..len].copy_from_slice(&upper[..len]);
    bytes
}

fn refuse_tiny(protocol: u8, offset: u16, payload: &[u8]) -> Result<(), Refusal> {
    let header_len = match protocol {
        TCP => 20,
        DCCP => 12,
        UDP | UDP_LITE => 8,
        _ => return Ok(()),
    };
    if offset == 0 && payload.len() < header_len {
        return Err(Refusal::TinyFragment);
    }
    Ok(())
}

fn refuse_source_route(mut options: &[u8]) -> Result<(), Refusal> {
    while let Some(&kind) = options.first() {
        match kind {
            0 => break,
            1 => options = &options[1..],
            _ => {
                let len = usize::from(options[1]);
                // "If the pointer is greater than the length, the source route is empty" (RFC 791).
                if matches!(kind, 131 | 137) && usize::from(options[2]) <= len {
                    return Err(Refusal::SourceRoute);
                }
                options = &options[len..];
            }
        }
    }
    Ok(())
}

fn protocol_to6(protocol: u8) -> Result<u8, Refusal> {
    match protocol {
        ICMP4 => Ok(ICMP6),
        0 | 2 | 43 | 44 | 58 | 60 => Err(Refusal::Protocol),
        _ => Ok(protocol),
    }
}

fn protocol_to4(protocol: u8) -> Result<u8, Refusal> {
    match protocol {
        ICMP6 => Ok(ICMP4),
        1 | 2 => Err(Refusal::Protocol),
        _ => Ok(protocol),
    }
}

fn refused_type4(icmp_type: u8) -> Refusal {
    match icmp_type {
        5 | 6 | 9 | 10 => Refusal::IcmpOneHop,
        4 | 13..=18 => Refusal::IcmpWithoutCounterpart,
        3 | 11 | 12 => Refusal::IcmpError,
        _ => Refusal::IcmpType,
    }
}

fn refused_type6(icmp_type: u8) -> Refusal {
    match icmp_type {
        130..=137 | 143 => Refusal::IcmpOneHop,
        1..=4 => Refusal::IcmpError,
        _ => Refusal::IcmpType,
    }
}

fn plateau(len: u16) -> u32 {
    let table = [
        68, 296, 508, 1006, 1492, 2002, 4352, 8166, 17914, 32000, 65535,
    ];
    table
        .into_iter()
        .filter(|&p| p < u32::from(len))
        .max()
        .unwrap_or(68)
}

/// A message's body as quoted packet and extensions (RFC 4884).
fn split_extension(body: &[u8], length: usize) -> (&[u8], &[u8]) {
    if length >= 128 && length < body.len() {
        body.split_at(length)
    } else {
        (body, &[])
    }
}

/// Appends quoted packet and extensions, these only if type (where is the length field, what does it
/// count) and size allow.
fn add_quote(
    made: &mut Vec<u8>,
    mut quote: Vec<u8>,
    extension: &[u8],
    field: Option<(usize, usize)>,
    max: usize,
) {
    if let (Some((at, unit)), false) = (field, extension.is_empty()) {
        let mut padded = quote.clone();
        while padded.len() < 128 || !padded.len().is_multiple_of(unit) {
            padded.push(0);
        }
        if padded.len() / unit < 256 && 8 + padded.len() + extension.len() <= max {
            made[at] = (padded.len() / unit) as u8;
            made.extend(padded);
            made.extend(extension);
            return;
        }
    }
    quote.truncate(max - 8);
    made.extend(quote);
}

fn headers6(
    old: &Ipv4Header,
    payload_len: usize,
    protocol: u8,
    new: &Tuple<Ipv6Addr>,
    split: bool,
    policy: &Policy,
) -> Vec<u8> {
    let has_fragment = old.is_fragmenting_payload() || split;
    let class = old.dscp.value() << 2 | old.ecn.value();
    let header = Ipv6Header {
        traffic_class: if policy.copy_traffic_class { class } else { 0 },
        flow_label: Default::default(),
        payload_length: (payload_len + if has_fragment { 8 } else { 0 }) as u16,
        next_header: IpNumber(if has_fragment { 44 } else { protocol }),
        hop_limit: old.time_to_live,
        source: new.source.octets(),
        destination: new.destination.octets(),
    };
    let mut bytes = header.to_bytes().to_vec();
    if has_fragment {
        let fragment = Ipv6FragmentHeader {
            next_header: IpNumber(protocol),
            fragment_offset: old.fragment_offset,
            more_fragments: old.more_fragments,
            identification: old.identification.into(),
        };
        bytes.extend(fragment.to_bytes());
    }
    bytes
}

struct Chain<'a> {
    protocol: u8,
    fragment: Option<Ipv6FragmentHeader>,
    payload: &'a [u8],
}

impl Chain<'_> {
    fn is_fragment(&self) -> bool {
        self.fragment
            .as_ref()
            .is_some_and(|f| f.is_fragmenting_payload())
    }

    fn offset(&self) -> usize {
        let units = self
            .fragment
            .as_ref()
            .map_or(0, |f| f.fragment_offset.value());
        usize::from(units) * 8
    }
}

fn skip_extensions(first: IpNumber, bytes: &[u8]) -> Result<Chain<'_>, Refusal> {
    let (mut next, mut rest, mut count) = (first, bytes, 0);
    loop {
        if count > 0 && next == IpNumber::IPV6_HEADER_HOP_BY_HOP {
            return Err(Refusal::ExtensionOrder);
        }
        if !matches!(next.0, 0 | 43 | 44 | 60) {
            break;
        }
        if count == 8 {
            return Err(Refusal::TooManyExtensions);
        }
        count += 1;
        if next == IpNumber::IPV6_FRAGMENTATION_HEADER {
            let Ok((fragment, payload)) = Ipv6FragmentHeader::from_slice(rest) else {
                return Err(Refusal::Truncated);
            };
            if matches!(
                fragment.next_header.0,
                0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 | 253 | 254
            ) {
                return Err(Refusal::FragmentedExtension);
            }
            return Ok(Chain {
                protocol: fragment.next_header.0,
                fragment: Some(fragment),
                payload,
            });
        }
        let Ok((header, payload)) = Ipv6RawExtHeader::from_slice(rest) else {
            return Err(Refusal::Truncated);
        };
        if next == IpNumber::IPV6_ROUTE_HEADER && header.payload()[1] != 0 {
            return Err(Refusal::RoutingHeader);
        }
        (next, rest) = (header.next_header, payload);
    }
    Ok(Chain {
        protocol: next.0,
        fragment: None,
        payload: rest,
    })
}

fn header4(
    old: &Ipv6Header,
    chain: &Chain<'_>,
    payload_len: usize,
    protocol: u8,
    new: &Tuple<Ipv4Addr>,
    id: u16,
    policy: &Policy,
) -> Result<Vec<u8>, Refusal> {
    let total = 20 + payload_len;
    let class = if policy.copy_traffic_class {
        old.traffic_class
    } else {
        0
    };
    let mut header = Ipv4Header {
        dscp: (class >> 2).try_into().unwrap(),
        ecn: (class & 3).try_into().unwrap(),
        total_len: total.try_into().map_err(|_| Refusal::TooLong)?,
        identification: id,
        dont_fragment: total > 1260,
        time_to_live: old.hop_limit,
        protocol: IpNumber(protocol),
        source: new.source.octets(),
        destination: new.destination.octets(),
        ..Default::default()
    };
    if let Some(fragment) = &chain.fragment {
        header.identification = fragment.identification as u16;
        header.dont_fragment = false;
        header.more_fragments = fragment.more_fragments;
        header.fragment_offset = fragment.fragment_offset;
    }
    header.header_checksum = header.calc_header_checksum();
    Ok(header.to_bytes().to_vec())
}

/// Whether a protocol has ports that are translated.
fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP | DCCP | UDP_LITE)
}

fn upper_to6(protocol: u8, whole: &[u8], new: &Tuple<Ipv6Addr>) -> Vec<u8> {
    upper(protocol, whole, new.ports, |p, len| pseudo6(new, p, len))
}

fn upper_to4(protocol: u8, whole: &[u8], new: &Tuple<Ipv4Addr>) -> Vec<u8> {
    upper(protocol, whole, new.ports, |p, len| {
        // ICMPv4 has no pseudo-header.
        if p == ICMP4 { 0 } else { pseudo4(new, p, len) }
    })
}

/// A whole upper-layer packet with new ports or identifier and a new checksum.
pub fn upper(
    protocol: u8,
    whole: &[u8],
    ports: Ports,
    pseudo: impl Fn(u8, usize) -> u64,
) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    let at = match protocol {
        TCP => 16,
        UDP | UDP_LITE | DCCP => 6,
        ICMP4 | ICMP6 => 2,
        _ => return bytes,
    };
    if matches!(protocol, ICMP4 | ICMP6) {
        bytes[0] = match bytes[0] {
            8 => 128,
            0 => 129,
            128 => 8,
            129 => 0,
            other => other,
        };
        bytes[4..6].copy_from_slice(&ports.source.to_be_bytes());
    } else {
        bytes[..2].copy_from_slice(&ports.source.to_be_bytes());
        bytes[2..4].copy_from_slice(&ports.destination.to_be_bytes());
    }
    if protocol == UDP && bytes[6..8] == [0, 0] {
        return bytes;
    }
    bytes[at..at + 2].fill(0);
    let sum = pseudo(protocol, bytes.len()) + add(&bytes);
    let checksum = match protocol {
        UDP | UDP_LITE => finish_udp(sum),
        _ => finish(sum),
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

pub fn pseudo4(addresses: &Tuple<Ipv4Addr>, protocol: u8, len: usize) -> u64 {
    add(&addresses.source.octets())
        + add(&addresses.destination.octets())
        + u64::from(protocol)
        + len as u64
}

pub fn pseudo6(addresses: &Tuple<Ipv6Addr>, protocol: u8, len: usize) -> u64 {
    add(&addresses.source.octets())
        + add(&addresses.destination.octets())
        + u64::from(protocol)
        + len as u64
}

/// Sum of the 16-bit words, the last filled up with a zero.
fn add(bytes: &[u8]) -> u64 {
    let mut sum = 0;
    for (at, byte) in bytes.iter().enumerate() {
        sum += u64::from(*byte) << if at % 2 == 0 { 8 } else { 0 };
    }
    sum
}

/// The checksum for a sum.
fn finish(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn finish_udp(sum: u64) -> u16 {
    match finish(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
}
