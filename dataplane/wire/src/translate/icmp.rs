//! What ICMP types, codes, pointers and MTUs become in the other version (RFC 7915 sections 4.2 and 5.2).

use super::{Policy, Refusal};
use crate::icmp4::{self, Icmp4Header, Icmp4Type};
use crate::icmp6::{self, Icmp6Header, Icmp6Type};
use crate::ip6;

/// How much longer the IPv6 header is than the IPv4 header, bytes.
const GROWTH: u32 = 20;
/// The same with a fragment header.
const GROWTH_FRAGMENT: u32 = 28;
/// Smallest MTU of IPv4, bytes (RFC 791 section 3.2).
const MIN_IP4_MTU: u32 = 68;

/// Sizes of packets on the links of the world, bytes (RFC 1191 section 7), in descending order.
const PLATEAUS: [u16; 11] = [
    65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68,
];

/// What kind of message a type is to a translator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Echo request or reply, with its type in the other version.
    Echo(u8),
    /// An error.
    Error,
}

/// The first eight bytes of an error in the other version, without its checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorHeader {
    pub(super) icmp_type: u8,
    pub(super) code: u8,
    pub(super) rest: [u8; 4],
    /// Where in `rest` the length of the quoted packet is, if this type may have extensions (RFC 4884).
    pub(super) length_at: Option<usize>,
}

impl ErrorHeader {
    const fn new(icmp_type: u8, code: u8) -> Self {
        Self {
            icmp_type,
            code,
            rest: [0; 4],
            length_at: None,
        }
    }

    const fn with_rest(icmp_type: u8, code: u8, rest: u32) -> Self {
        Self {
            icmp_type,
            code,
            rest: rest.to_be_bytes(),
            length_at: None,
        }
    }
}

/// The class of an ICMPv4 type.
///
/// # Errors
/// Why messages of this type are dropped.
#[inline]
pub(super) fn class4(icmp_type: Icmp4Type) -> Result<Class, Refusal> {
    /// Alternative host address.
    const ALTERNATE_ADDRESS: Icmp4Type = Icmp4Type(6);
    match icmp_type {
        Icmp4Type::ECHO_REQUEST => Ok(Class::Echo(Icmp6Type::ECHO_REQUEST.0)),
        Icmp4Type::ECHO_REPLY => Ok(Class::Echo(Icmp6Type::ECHO_REPLY.0)),
        Icmp4Type::DESTINATION_UNREACHABLE
        | Icmp4Type::TIME_EXCEEDED
        | Icmp4Type::PARAMETER_PROBLEM => Ok(Class::Error),
        Icmp4Type::REDIRECT
        | ALTERNATE_ADDRESS
        | Icmp4Type::ROUTER_ADVERTISEMENT
        | Icmp4Type::ROUTER_SOLICITATION => Err(Refusal::IcmpOneHop),
        // Timestamp, information and address mask; request and reply of each.
        Icmp4Type::SOURCE_QUENCH | Icmp4Type(13..=18) => Err(Refusal::IcmpWithoutCounterpart),
        _ => Err(Refusal::IcmpType),
    }
}

/// The class of an ICMPv6 type.
///
/// # Errors
/// Why messages of this type are dropped.
#[inline]
pub(super) fn class6(icmp_type: Icmp6Type) -> Result<Class, Refusal> {
    match icmp_type {
        Icmp6Type::ECHO_REQUEST => Ok(Class::Echo(Icmp4Type::ECHO_REQUEST.0)),
        Icmp6Type::ECHO_REPLY => Ok(Class::Echo(Icmp4Type::ECHO_REPLY.0)),
        Icmp6Type::DESTINATION_UNREACHABLE
        | Icmp6Type::PACKET_TOO_BIG
        | Icmp6Type::TIME_EXCEEDED
        | Icmp6Type::PARAMETER_PROBLEM => Ok(Class::Error),
        // Multicast listeners (130 to 132) and neighbour discovery (133 to 137).
        Icmp6Type(130..=137) | Icmp6Type::MULTICAST_LISTENER_REPORT_V2 => Err(Refusal::IcmpOneHop),
        _ => Err(Refusal::IcmpType),
    }
}

/// An ICMPv4 error in ICMPv6 (section 4.2). `quoted_len` is the total length of the packet that it is
/// about, bytes.
pub(super) fn error_to6(
    header: &Icmp4Header,
    quoted_len: u16,
    policy: &Policy,
) -> Result<ErrorHeader, Refusal> {
    use icmp4::unreachable::*;
    const UNREACHABLE: u8 = Icmp6Type::DESTINATION_UNREACHABLE.0;
    const PROBLEM: u8 = Icmp6Type::PARAMETER_PROBLEM.0;
    let extensible = |icmp_type, code| ErrorHeader {
        length_at: Some(0),
        ..ErrorHeader::new(icmp_type, code)
    };
    match (header.icmp_type, header.code) {
        // The others of these: 6 network unknown, 7 host unknown, 8 source isolated, 11 and 12 no such
        // type of service.
        (
            Icmp4Type::DESTINATION_UNREACHABLE,
            NETWORK | HOST | SOURCE_ROUTE_FAILED | 6..=8 | 11 | 12,
        ) => Ok(extensible(UNREACHABLE, icmp6::unreachable::NO_ROUTE)),
        // 15 is "precedence cutoff in effect".
        (
            Icmp4Type::DESTINATION_UNREACHABLE,
            NETWORK_PROHIBITED | HOST_PROHIBITED | COMMUNICATION_PROHIBITED | 15,
        ) => Ok(extensible(UNREACHABLE, icmp6::unreachable::PROHIBITED)),
        (Icmp4Type::DESTINATION_UNREACHABLE, PORT) => {
            Ok(extensible(UNREACHABLE, icmp6::unreachable::PORT))
        }
        // The pointer is that of the next header field.
        (Icmp4Type::DESTINATION_UNREACHABLE, PROTOCOL) => Ok(ErrorHeader::with_rest(
            PROBLEM,
            icmp6::parameter_problem::NEXT_HEADER,
            6,
        )),
        (Icmp4Type::DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED) => {
            let mtu = match header.mtu() {
                0 => plateau_below(quoted_len),
                mtu => mtu,
            };
            let mtu = (u32::from(mtu) + GROWTH)
                .min(policy.ip6_mtu.into())
                .min(u32::from(policy.ip4_mtu) + GROWTH)
                .max(ip6::MIN_MTU.into());
            Ok(ErrorHeader::with_rest(Icmp6Type::PACKET_TOO_BIG.0, 0, mtu))
        }
        (Icmp4Type::TIME_EXCEEDED, code) => Ok(extensible(Icmp6Type::TIME_EXCEEDED.0, code)),
        (
            Icmp4Type::PARAMETER_PROBLEM,
            icmp4::parameter_problem::POINTER | icmp4::parameter_problem::BAD_LENGTH,
        ) => {
            let pointer = pointer_to6(header.pointer()).ok_or(Refusal::IcmpPointer)?;
            let code = icmp6::parameter_problem::HEADER_FIELD;
            Ok(ErrorHeader::with_rest(PROBLEM, code, pointer.into()))
        }
        (Icmp4Type::DESTINATION_UNREACHABLE | Icmp4Type::PARAMETER_PROBLEM, _) => {
            Err(Refusal::IcmpCode)
        }
        _ => Err(Refusal::NotAnError),
    }
}

/// An ICMPv6 error in ICMPv4 (section 5.2). `quoted_fragment` says whether the packet that it is about
/// has a fragment header.
pub(super) fn error_to4(
    header: &Icmp6Header,
    quoted_fragment: bool,
    policy: &Policy,
) -> Result<ErrorHeader, Refusal> {
    use icmp6::unreachable::*;
    const UNREACHABLE: u8 = Icmp4Type::DESTINATION_UNREACHABLE.0;
    let extensible = |icmp_type, code| ErrorHeader {
        length_at: Some(1),
        ..ErrorHeader::new(icmp_type, code)
    };
    let value = u32::from_be_bytes(header.rest);
    match (header.icmp_type, header.code) {
        (Icmp6Type::DESTINATION_UNREACHABLE, NO_ROUTE | BEYOND_SCOPE | ADDRESS) => {
            Ok(extensible(UNREACHABLE, icmp4::unreachable::HOST))
        }
        (Icmp6Type::DESTINATION_UNREACHABLE, PROHIBITED) => {
            Ok(extensible(UNREACHABLE, icmp4::unreachable::HOST_PROHIBITED))
        }
        (Icmp6Type::DESTINATION_UNREACHABLE, PORT) => {
            Ok(extensible(UNREACHABLE, icmp4::unreachable::PORT))
        }
        (Icmp6Type::PACKET_TOO_BIG, _) => {
            let growth = if quoted_fragment {
                GROWTH_FRAGMENT
            } else {
                GROWTH
            };
            // An MTU of 0 would say that the router does not know it: what is too small to be true
            // becomes the smallest that is.
            let mtu = value
                .saturating_sub(growth)
                .min(policy.ip4_mtu.into())
                .min(u32::from(policy.ip6_mtu).saturating_sub(GROWTH))
                .max(MIN_IP4_MTU);
            let code = icmp4::unreachable::FRAGMENTATION_NEEDED;
            Ok(ErrorHeader::with_rest(UNREACHABLE, code, mtu))
        }
        (Icmp6Type::TIME_EXCEEDED, code) => Ok(extensible(Icmp4Type::TIME_EXCEEDED.0, code)),
        (Icmp6Type::PARAMETER_PROBLEM, icmp6::parameter_problem::HEADER_FIELD) => {
            let pointer = pointer_to4(value).ok_or(Refusal::IcmpPointer)?;
            Ok(ErrorHeader::with_rest(
                Icmp4Type::PARAMETER_PROBLEM.0,
                icmp4::parameter_problem::POINTER,
                u32::from(pointer) << 24,
            ))
        }
        (Icmp6Type::PARAMETER_PROBLEM, icmp6::parameter_problem::NEXT_HEADER) => {
            Ok(ErrorHeader::new(UNREACHABLE, icmp4::unreachable::PROTOCOL))
        }
        (Icmp6Type::DESTINATION_UNREACHABLE | Icmp6Type::PARAMETER_PROBLEM, _) => {
            Err(Refusal::IcmpCode)
        }
        _ => Err(Refusal::NotAnError),
    }
}

/// The largest plateau below the length of a packet that was too big for a router which did not say its
/// MTU (RFC 7915 section 4.2).
fn plateau_below(length: u16) -> u16 {
    PLATEAUS
        .into_iter()
        .find(|&plateau| plateau < length)
        .unwrap_or(MIN_IP4_MTU as u16)
}

/// The offset in an IPv6 header of the field at an offset in an IPv4 header (RFC 7915 figure 3).
const fn pointer_to6(pointer: u8) -> Option<u8> {
    match pointer {
        0 => Some(0),        // version and header length: version and traffic class
        1 => Some(1),        // type of service: traffic class and flow label
        2 | 3 => Some(4),    // total length: payload length
        8 => Some(7),        // time to live: hop limit
        9 => Some(6),        // protocol: next header
        12..=15 => Some(8),  // source
        16..=19 => Some(24), // destination
        _ => None,           // identification, fragmentation, checksum, options
    }
}

/// The offset in an IPv4 header of the field at an offset in an IPv6 header (RFC 7915 figure 6).
const fn pointer_to4(pointer: u32) -> Option<u8> {
    match pointer {
        0 => Some(0),        // version and traffic class: version and header length
        1 => Some(1),        // traffic class and flow label: type of service
        4 | 5 => Some(2),    // payload length: total length
        6 => Some(9),        // next header: protocol
        7 => Some(8),        // hop limit: time to live
        8..=23 => Some(12),  // source
        24..=39 => Some(16), // destination
        _ => None,           // flow label, extension headers
    }
}
