//! Why a packet is not translated.

use core::fmt;

/// Why a packet is not translated. One byte, so that a node can count by it. The packet is to be dropped
/// silently, unless [`icmp4`](Self::icmp4) or [`icmp6`](Self::icmp6) name an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Refusal {
    /// The packet ends before its headers do.
    Truncated,
    /// The version is not the one that is translated from.
    BadVersion,
    /// The header length or the length of the packet contradicts the bytes.
    BadLength,
    /// The result would be longer than an IP packet can be.
    TooLong,
    /// The source address is not that of a host (RFC 7915 sections 4.1 and 5.1, RFC 1812 section 5.3.7).
    IllegalSource,
    /// An IPv4 source route that has not reached its end (RFC 7915 section 4.1).
    SourceRoute,
    /// An IPv4 option that is malformed, where a source route could hide.
    BadOption,
    /// An IPv6 routing header with segments left (RFC 7915 section 5.1).
    RoutingHeader,
    /// Hop-by-hop options that are not the first extension header.
    ExtensionOrder,
    /// More extension headers than [`DEFAULT_EXTENSION_LIMIT`](crate::ip6::DEFAULT_EXTENSION_LIMIT).
    TooManyExtensions,
    /// An extension header inside of a fragment (RFC 7915 section 5.1.1).
    FragmentedExtension,
    /// A fragment before the last whose length is not a multiple of 8, or one that ends beyond 65535.
    BadFragment,
    /// A first fragment that does not hold the whole transport header.
    TinyFragment,
    /// A fragment of an ICMP message, whose checksum covers all fragments (RFC 7915 sections 4.2 and 5.2).
    FragmentedIcmp,
    /// A UDP packet without a checksum, refused by policy (RFC 7915 section 4.5).
    UdpWithoutChecksum,
    /// The first fragment of a UDP packet without a checksum (RFC 7915 section 4.5).
    FragmentedUdpWithoutChecksum,
    /// A UDP length that contradicts the packet, where a checksum had to be computed.
    BadUdpLength,
    /// A protocol that exists in one version of IP only, or whose number means another thing in the other:
    /// IGMP, the other version's ICMP, and in IPv4 the numbers of IPv6 extension headers.
    Protocol,
    /// An ICMP message for one hop: neighbour and router discovery, multicast listeners, redirects.
    IcmpOneHop,
    /// An ICMP message that has no counterpart: source quench, timestamp, information, address mask.
    IcmpWithoutCounterpart,
    /// An ICMP message of an unknown type.
    IcmpType,
    /// An ICMP error whose code has no counterpart.
    IcmpCode,
    /// An ICMP parameter problem about a field that has no counterpart.
    IcmpPointer,
    /// An ICMP error, which only [`error_to6`](super::error_to6) and [`error_to4`](super::error_to4) translate.
    IcmpError,
    /// Not an ICMP error, although one was asked for.
    NotAnError,
    /// The packet quoted in an ICMP error ends before its ports or its identifier.
    QuoteTruncated,
    /// The packet quoted in an ICMP error is not an IP packet of the same version, or contradicts itself.
    BadQuote,
    /// The packet quoted in an ICMP error is an ICMP error (RFC 7915 sections 4.3 and 5.3).
    NestedError,
}

impl Refusal {
    /// The reason in words for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Truncated => "packet ends before its headers do",
            Self::BadVersion => "IP version is not the one to translate from",
            Self::BadLength => "header or packet length contradicts the bytes",
            Self::TooLong => "packet would become longer than 65535 bytes",
            Self::IllegalSource => "source address is not that of a host",
            Self::SourceRoute => "IPv4 source route has not reached its end",
            Self::BadOption => "malformed IPv4 option",
            Self::RoutingHeader => "IPv6 routing header has segments left",
            Self::ExtensionOrder => "IPv6 hop-by-hop options out of order",
            Self::TooManyExtensions => "too many IPv6 extension headers",
            Self::FragmentedExtension => "IPv6 extension header inside of a fragment",
            Self::BadFragment => "fragment of an illegal length",
            Self::TinyFragment => "first fragment without the whole transport header",
            Self::FragmentedIcmp => "fragment of an ICMP message",
            Self::UdpWithoutChecksum => "UDP packet without checksum",
            Self::FragmentedUdpWithoutChecksum => "fragment of a UDP packet without checksum",
            Self::BadUdpLength => "UDP length contradicts the packet",
            Self::Protocol => "protocol exists in one version of IP only",
            Self::IcmpOneHop => "ICMP message for one hop",
            Self::IcmpWithoutCounterpart => "ICMP message without counterpart",
            Self::IcmpType => "ICMP message of an unknown type",
            Self::IcmpCode => "ICMP error whose code has no counterpart",
            Self::IcmpPointer => "ICMP parameter problem about a field without counterpart",
            Self::IcmpError => "ICMP error where another packet is expected",
            Self::NotAnError => "not an ICMP error",
            Self::QuoteTruncated => "packet quoted in an ICMP error is too short",
            Self::BadQuote => "packet quoted in an ICMP error is malformed",
            Self::NestedError => "ICMP error about an ICMP error",
        }
    }

    /// Type and code of the ICMP message that the sender of an IPv4 packet should get (RFC 7915 section 4.1).
    #[inline]
    pub const fn icmp4(self) -> Option<(u8, u8)> {
        match self {
            Self::SourceRoute => Some((
                crate::Icmp4Type::DESTINATION_UNREACHABLE.0,
                crate::icmp4::unreachable::SOURCE_ROUTE_FAILED,
            )),
            _ => None,
        }
    }

    /// Type and code of the ICMPv6 message that the sender of an IPv6 packet should get (RFC 7915
    /// section 5.1); its pointer is [`segments_left_pointer`](super::segments_left_pointer).
    #[inline]
    pub const fn icmp6(self) -> Option<(u8, u8)> {
        match self {
            Self::RoutingHeader => Some((
                crate::Icmp6Type::PARAMETER_PROBLEM.0,
                crate::icmp6::parameter_problem::HEADER_FIELD,
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Refusal {}
