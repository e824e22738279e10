//! ICMPv6 (RFC 4443). Neighbour discovery messages are in [`nd`](crate::nd).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     type      |     code      |           checksum            |
//! +---------------+---------------+-------------------------------+
//! |     by type: identifier and sequence number, MTU, pointer     |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::{self, Sum};
use crate::{Header, ParseError};

/// The type of an ICMPv6 message.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Icmp6Type(pub u8);

impl Icmp6Type {
    /// Destination unreachable; codes in [`mod@unreachable`].
    pub const DESTINATION_UNREACHABLE: Self = Self(1);
    /// Packet too big; carries the MTU.
    pub const PACKET_TOO_BIG: Self = Self(2);
    /// Time exceeded; codes in [`time_exceeded`].
    pub const TIME_EXCEEDED: Self = Self(3);
    /// Parameter problem; codes in [`parameter_problem`].
    pub const PARAMETER_PROBLEM: Self = Self(4);
    /// Echo request.
    pub const ECHO_REQUEST: Self = Self(128);
    /// Echo reply.
    pub const ECHO_REPLY: Self = Self(129);
    /// Multicast listener query (RFC 2710).
    pub const MULTICAST_LISTENER_QUERY: Self = Self(130);
    /// Multicast listener report (RFC 2710).
    pub const MULTICAST_LISTENER_REPORT: Self = Self(131);
    /// Multicast listener done (RFC 2710).
    pub const MULTICAST_LISTENER_DONE: Self = Self(132);
    /// Router solicitation (RFC 4861).
    pub const ROUTER_SOLICITATION: Self = Self(133);
    /// Router advertisement (RFC 4861).
    pub const ROUTER_ADVERTISEMENT: Self = Self(134);
    /// Neighbour solicitation (RFC 4861).
    pub const NEIGHBOUR_SOLICITATION: Self = Self(135);
    /// Neighbour advertisement (RFC 4861).
    pub const NEIGHBOUR_ADVERTISEMENT: Self = Self(136);
    /// Redirect (RFC 4861).
    pub const REDIRECT: Self = Self(137);
    /// Multicast listener report, version 2 (RFC 3810).
    pub const MULTICAST_LISTENER_REPORT_V2: Self = Self(143);

    /// Whether it reports an error about another packet (RFC 4443 section 2.1: types 0 to 127).
    #[inline]
    pub const fn is_error(self) -> bool {
        self.0 < 128
    }

    /// Whether it carries an identifier that plays the part of a port.
    #[inline]
    pub const fn is_query(self) -> bool {
        matches!(self, Self::ECHO_REQUEST | Self::ECHO_REPLY)
    }

    /// Whether it belongs to neighbour discovery: valid only with a hop limit of 255.
    #[inline]
    pub const fn is_neighbour_discovery(self) -> bool {
        self.0 >= Self::ROUTER_SOLICITATION.0 && self.0 <= Self::REDIRECT.0
    }
}

impl fmt::Display for Icmp6Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::DESTINATION_UNREACHABLE => "destination unreachable",
            Self::PACKET_TOO_BIG => "packet too big",
            Self::TIME_EXCEEDED => "time exceeded",
            Self::PARAMETER_PROBLEM => "parameter problem",
            Self::ECHO_REQUEST => "echo request",
            Self::ECHO_REPLY => "echo reply",
            Self::MULTICAST_LISTENER_QUERY => "multicast listener query",
            Self::MULTICAST_LISTENER_REPORT => "multicast listener report",
            Self::MULTICAST_LISTENER_DONE => "multicast listener done",
            Self::ROUTER_SOLICITATION => "router solicitation",
            Self::ROUTER_ADVERTISEMENT => "router advertisement",
            Self::NEIGHBOUR_SOLICITATION => "neighbour solicitation",
            Self::NEIGHBOUR_ADVERTISEMENT => "neighbour advertisement",
            Self::REDIRECT => "redirect",
            Self::MULTICAST_LISTENER_REPORT_V2 => "multicast listener report v2",
            _ => return write!(f, "type {}", self.0),
        })
    }
}

impl fmt::Debug for Icmp6Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Codes of "destination unreachable" (RFC 4443 section 3.1).
pub mod unreachable {
    /// No route to the destination.
    pub const NO_ROUTE: u8 = 0;
    /// Administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// Beyond the scope of the source address.
    pub const BEYOND_SCOPE: u8 = 2;
    /// The address does not answer.
    pub const ADDRESS: u8 = 3;
    /// Nobody listens on the port.
    pub const PORT: u8 = 4;
    /// The source address failed the ingress or egress policy.
    pub const SOURCE_POLICY: u8 = 5;
    /// The route to the destination rejects.
    pub const REJECT_ROUTE: u8 = 6;
}

/// Codes of "time exceeded" (RFC 4443 section 3.3).
pub mod time_exceeded {
    /// The hop limit reached zero.
    pub const IN_TRANSIT: u8 = 0;
    /// Fragments did not arrive in time.
    pub const REASSEMBLY: u8 = 1;
}

/// Codes of "parameter problem" (RFC 4443 section 3.4).
pub mod parameter_problem {
    /// A header field is in error.
    pub const HEADER_FIELD: u8 = 0;
    /// The next header is not known.
    pub const NEXT_HEADER: u8 = 1;
    /// The option is not known.
    pub const OPTION: u8 = 2;
}

/// The first 8 bytes of every ICMPv6 message.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Icmp6Header {
    /// Type.
    pub icmp_type: Icmp6Type,
    /// Code; its meaning depends on the type.
    pub code: u8,
    /// Checksum over pseudo-header and the whole message.
    pub checksum: U16,
    /// Four bytes whose meaning depends on the type.
    pub rest: [u8; 4],
}

impl Header for Icmp6Header {}

impl Icmp6Header {
    /// The header and the bytes after it; the checksum is not verified, see [`verify_checksum`].
    ///
    /// # Errors
    /// `Truncated`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        Self::split(bytes)
    }

    /// Identifier of an echo message.
    #[inline]
    pub const fn id(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    /// Replaces the identifier of an echo message and adjusts the checksum.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.checksum
            .set(checksum::update16(self.checksum.get(), self.id(), id));
        [self.rest[0], self.rest[1]] = id.to_be_bytes();
    }

    /// Sequence number of an echo message.
    #[inline]
    pub const fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// MTU of the next link in "packet too big", bytes.
    #[inline]
    pub const fn mtu(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }

    /// Offset of the byte in error in "parameter problem".
    #[inline]
    pub const fn pointer(&self) -> u32 {
        u32::from_be_bytes(self.rest)
    }
}

/// Verifies the checksum of a whole message, with `pseudo` from
/// [`Ip6Header::pseudo_header`](crate::Ip6Header::pseudo_header).
///
/// # Errors
/// `Truncated`, `BadChecksum`.
#[inline]
pub fn verify_checksum(pseudo: Sum, message: &[u8]) -> Result<(), ParseError> {
    Icmp6Header::view(message)?;
    if pseudo.bytes(message).is_valid() {
        Ok(())
    } else {
        Err(ParseError::BadChecksum)
    }
}

/// How much of the packet that caused an error goes into the message: as much as fits in the minimum
/// IPv6 MTU (RFC 4443 section 2.4 (c)).
pub const MAX_QUOTE_LEN: usize = crate::ip6::MIN_MTU as usize - 40 - 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IpProtocol;
    use core::net::Ipv6Addr;

    // Captured shape: ::1 > ::1, echo request, id 1, sequence 2, no data.
    // ~(0001 + 0001 + 0008 + 003a + 8000 + 0001 + 0002) = ~8047 = 7fb8
    const ECHO: [u8; 8] = [128, 0, 0x7f, 0xb8, 0, 1, 0, 2];

    #[test]
    fn parse_literal() {
        let lo = Ipv6Addr::LOCALHOST;
        let pseudo = Sum::pseudo_header6(&lo, &lo, IpProtocol::ICMP6, 8);
        assert_eq!(verify_checksum(pseudo, &ECHO), Ok(()));
        let (header, rest) = Icmp6Header::parse(&ECHO).unwrap();
        assert_eq!(
            (header.icmp_type, header.id(), header.sequence()),
            (Icmp6Type::ECHO_REQUEST, 1, 2)
        );
        assert!(rest.is_empty());

        let mut rewritten = ECHO;
        Icmp6Header::view_mut(&mut rewritten)
            .unwrap()
            .set_id(0xbeef);
        assert_eq!(verify_checksum(pseudo, &rewritten), Ok(()));
        rewritten[7] ^= 1;
        assert_eq!(
            verify_checksum(pseudo, &rewritten),
            Err(ParseError::BadChecksum)
        );
        assert_eq!(
            verify_checksum(pseudo, &ECHO[..7]),
            Err(ParseError::Truncated)
        );
    }

    #[test]
    fn kinds() {
        assert!(Icmp6Type::PACKET_TOO_BIG.is_error() && !Icmp6Type::ECHO_REPLY.is_error());
        assert!(Icmp6Type::REDIRECT.is_neighbour_discovery());
        assert!(!Icmp6Type::MULTICAST_LISTENER_DONE.is_neighbour_discovery());
        assert!(Icmp6Type::ECHO_REPLY.is_query());
        assert_eq!(
            Icmp6Header::view(&[2, 0, 0, 0, 0, 0, 5, 0]).unwrap().mtu(),
            1280
        );
        assert_eq!(
            Icmp6Header::view(&[4, 1, 0, 0, 0, 0, 0, 40])
                .unwrap()
                .pointer(),
            40
        );
    }
}
