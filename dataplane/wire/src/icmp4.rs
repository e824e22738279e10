//! Internet control message protocol (RFC 792, RFC 1122, RFC 1191, RFC 1812).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------+---------------+-------------------------------+
//! |     type      |     code      |           checksum            |
//! +---------------+---------------+-------------------------------+
//! |   by type: identifier and sequence number, MTU, gateway, …    |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::net::Ipv4Addr;

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Header, ParseError, checksum};

/// The type of an ICMP message.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct Icmp4Type(pub u8);

impl Icmp4Type {
    /// Echo reply.
    pub const ECHO_REPLY: Self = Self(0);
    /// Destination unreachable; codes in [`mod@unreachable`].
    pub const DESTINATION_UNREACHABLE: Self = Self(3);
    /// Source quench (obsolete, RFC 6633).
    pub const SOURCE_QUENCH: Self = Self(4);
    /// Redirect; codes in [`redirect`].
    pub const REDIRECT: Self = Self(5);
    /// Echo request.
    pub const ECHO_REQUEST: Self = Self(8);
    /// Router advertisement (RFC 1256).
    pub const ROUTER_ADVERTISEMENT: Self = Self(9);
    /// Router solicitation (RFC 1256).
    pub const ROUTER_SOLICITATION: Self = Self(10);
    /// Time exceeded; codes in [`time_exceeded`].
    pub const TIME_EXCEEDED: Self = Self(11);
    /// Parameter problem; codes in [`parameter_problem`].
    pub const PARAMETER_PROBLEM: Self = Self(12);
    /// Timestamp request.
    pub const TIMESTAMP: Self = Self(13);
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: Self = Self(14);

    /// Whether it reports an error about another packet: never answered with an error, and carrying
    /// the start of that packet (RFC 1122 section 3.2.2).
    #[inline]
    pub const fn is_error(self) -> bool {
        matches!(
            self,
            Self::DESTINATION_UNREACHABLE
                | Self::SOURCE_QUENCH
                | Self::REDIRECT
                | Self::TIME_EXCEEDED
                | Self::PARAMETER_PROBLEM
        )
    }

    /// Whether it carries an identifier that plays the part of a port (RFC 5508 section 3).
    #[inline]
    pub const fn is_query(self) -> bool {
        matches!(
            self,
            Self::ECHO_REQUEST | Self::ECHO_REPLY | Self::TIMESTAMP | Self::TIMESTAMP_REPLY
        )
    }
}

impl fmt::Display for Icmp4Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::ECHO_REPLY => "echo reply",
            Self::DESTINATION_UNREACHABLE => "destination unreachable",
            Self::SOURCE_QUENCH => "source quench",
            Self::REDIRECT => "redirect",
            Self::ECHO_REQUEST => "echo request",
            Self::ROUTER_ADVERTISEMENT => "router advertisement",
            Self::ROUTER_SOLICITATION => "router solicitation",
            Self::TIME_EXCEEDED => "time exceeded",
            Self::PARAMETER_PROBLEM => "parameter problem",
            Self::TIMESTAMP => "timestamp",
            Self::TIMESTAMP_REPLY => "timestamp reply",
            _ => return write!(f, "type {}", self.0),
        })
    }
}

impl fmt::Debug for Icmp4Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Codes of "destination unreachable" (RFC 792, RFC 1812 section 5.2.7.1).
pub mod unreachable {
    /// No route to the network.
    pub const NETWORK: u8 = 0;
    /// The host does not answer.
    pub const HOST: u8 = 1;
    /// The host does not speak the protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nobody listens on the port.
    pub const PORT: u8 = 3;
    /// Too big for the next link, and "don't fragment" is set; carries the MTU (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// The source route cannot be followed.
    pub const SOURCE_ROUTE_FAILED: u8 = 5;
    /// The network is administratively prohibited.
    pub const NETWORK_PROHIBITED: u8 = 9;
    /// The host is administratively prohibited.
    pub const HOST_PROHIBITED: u8 = 10;
    /// Filtered.
    pub const COMMUNICATION_PROHIBITED: u8 = 13;
}

/// Codes of "redirect".
pub mod redirect {
    /// For the network.
    pub const NETWORK: u8 = 0;
    /// For the host.
    pub const HOST: u8 = 1;
}

/// Codes of "time exceeded".
pub mod time_exceeded {
    /// The time to live reached zero.
    pub const IN_TRANSIT: u8 = 0;
    /// Fragments did not arrive in time.
    pub const REASSEMBLY: u8 = 1;
}

/// Codes of "parameter problem".
pub mod parameter_problem {
    /// The pointer names the byte in error.
    pub const POINTER: u8 = 0;
    /// A required option is missing.
    pub const MISSING_OPTION: u8 = 1;
    /// Bad length.
    pub const BAD_LENGTH: u8 = 2;
}

/// The first 8 bytes of every ICMP message.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Icmp4Header {
    /// Type.
    pub icmp_type: Icmp4Type,
    /// Code; its meaning depends on the type.
    pub code: u8,
    /// Checksum over the whole message, without pseudo-header.
    pub checksum: U16,
    /// Four bytes whose meaning depends on the type.
    pub rest: [u8; 4],
}

impl Header for Icmp4Header {}

impl Icmp4Header {
    /// The header and the bytes after it; the checksum is not verified, see [`verify_checksum`].
    ///
    /// # Errors
    /// `Truncated`.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        Self::split(bytes)
    }

    /// Identifier of an echo or timestamp message.
    #[inline]
    pub const fn id(&self) -> u16 {
        u16::from_be_bytes([self.rest[0], self.rest[1]])
    }

    /// Replaces the identifier of an echo or timestamp message and adjusts the checksum.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        self.checksum
            .set(checksum::update16(self.checksum.get(), self.id(), id));
        [self.rest[0], self.rest[1]] = id.to_be_bytes();
    }

    /// Sequence number of an echo or timestamp message.
    #[inline]
    pub const fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// MTU of the next link in "fragmentation needed", bytes; 0 from routers older than RFC 1191.
    #[inline]
    pub const fn mtu(&self) -> u16 {
        u16::from_be_bytes([self.rest[2], self.rest[3]])
    }

    /// Offset of the byte in error in "parameter problem".
    #[inline]
    pub const fn pointer(&self) -> u8 {
        self.rest[0]
    }

    /// The better gateway in "redirect".
    #[inline]
    pub const fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(self.rest)
    }
}

/// Verifies the checksum of a whole message.
///
/// # Errors
/// `Truncated`, `BadChecksum`.
#[inline]
pub fn verify_checksum(message: &[u8]) -> Result<(), ParseError> {
    Icmp4Header::view(message)?;
    if checksum::is_valid(message) {
        Ok(())
    } else {
        Err(ParseError::BadChecksum)
    }
}

/// How much of the packet that caused an error goes into the message: as much as fits in 576 bytes
/// together with an outer header of 20 bytes (RFC 1812 section 4.3.2.3).
pub const MAX_QUOTE_LEN: usize = 576 - 20 - 8;

#[cfg(test)]
mod tests {
    use super::*;

    const ECHO: [u8; 10] = [8, 0, 0x7d, 0x5b, 0x12, 0x34, 0, 7, b'h', b'i'];

    #[test]
    fn parse_literal() {
        // ~(0800 + 1234 + 0007 + 6869) = 7d5b
        let mut echo = ECHO;
        assert_eq!(verify_checksum(&echo), Ok(()));
        let (header, rest) = Icmp4Header::parse(&echo).unwrap();
        assert_eq!(
            (header.icmp_type, header.code),
            (Icmp4Type::ECHO_REQUEST, 0)
        );
        assert_eq!(
            (header.id(), header.sequence(), rest),
            (0x1234, 7, &b"hi"[..])
        );
        echo[9] ^= 1;
        assert_eq!(verify_checksum(&echo), Err(ParseError::BadChecksum));
        assert_eq!(verify_checksum(&echo[..7]), Err(ParseError::Truncated));
    }

    #[test]
    fn rewriting_the_identifier_keeps_the_checksum_right() {
        let mut message = [8, 0, 0, 0, 0x12, 0x34, 0, 7];
        let checksum = checksum::checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        Icmp4Header::view_mut(&mut message).unwrap().set_id(0xbeef);
        assert_eq!(Icmp4Header::view(&message).unwrap().id(), 0xbeef);
        assert_eq!(verify_checksum(&message), Ok(()));
    }

    #[test]
    fn fields_by_type() {
        let header = Icmp4Header::view(&[3, 4, 0, 0, 0, 0, 0x05, 0x78]).unwrap();
        assert_eq!((header.mtu(), header.icmp_type.is_error()), (1400, true));
        let header = Icmp4Header::view(&[5, 1, 0, 0, 10, 0, 0, 9]).unwrap();
        assert_eq!(header.gateway(), Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(
            Icmp4Header::view(&[12, 0, 0, 0, 20, 0, 0, 0])
                .unwrap()
                .pointer(),
            20
        );
        assert!(Icmp4Type::TIMESTAMP.is_query() && !Icmp4Type::REDIRECT.is_query());
        assert_eq!(Icmp4Type(77).to_string(), "type 77");
    }
}
