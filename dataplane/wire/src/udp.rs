//! User datagram protocol (RFC 768).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |          source port          |       destination port        |
//! +-------------------------------+-------------------------------+
//! |            length             |           checksum            |
//! +-------------------------------+-------------------------------+
//! ```

use zerocopy::big_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::{Header, ParseError};

/// A UDP header, 8 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: U16,
    /// Destination port.
    pub dst_port: U16,
    /// Length of header and payload, bytes.
    pub length: U16,
    /// Checksum over pseudo-header, header and payload; 0 is "none", allowed over IPv4 only.
    pub checksum: U16,
}

impl Header for UdpHeader {}

impl UdpHeader {
    /// The header and its payload, cut to the header's own length.
    ///
    /// A length of 0 (jumbograms, RFC 2675) is refused as malformed.
    ///
    /// # Errors
    /// `Truncated`; `BadTotalLength` if the length is below 8 or beyond the bytes.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        let (header, _) = Self::split(bytes)?;
        match bytes.get(Self::LEN..header.length.get().into()) {
            Some(payload) => Ok((header, payload)),
            None => Err(ParseError::BadTotalLength),
        }
    }
}

/// Verifies the checksum of `datagram` (header and payload, cut to the header's length), with `pseudo`
/// from [`Ip4Header::pseudo_header`](crate::Ip4Header::pseudo_header) or
/// [`Ip6Header::pseudo_header`](crate::Ip6Header::pseudo_header). `zero_allowed` is true over IPv4, where 0 says
/// that there is no checksum (RFC 768), and false over IPv6 (RFC 8200 section 8.1).
///
/// # Errors
/// `Truncated`, `BadChecksum`.
pub fn verify_checksum(pseudo: Sum, datagram: &[u8], zero_allowed: bool) -> Result<(), ParseError> {
    let header = UdpHeader::view(datagram)?;
    let valid = match header.checksum.get() {
        0 => zero_allowed,
        _ => pseudo.bytes(datagram).is_valid(),
    };
    if valid {
        Ok(())
    } else {
        Err(ParseError::BadChecksum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IpProtocol;
    use core::net::Ipv4Addr;

    // 10.0.0.1 > 10.0.0.2, ports 1000 > 53, payload "x" and two bytes of padding.
    const DATAGRAM: [u8; 11] = [0x03, 0xe8, 0x00, 0x35, 0x00, 0x09, 0x6f, 0xbc, b'x', 9, 9];

    fn pseudo() -> Sum {
        let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        Sum::pseudo_header4(a, b, IpProtocol::UDP, 9)
    }

    #[test]
    fn parse_literal() {
        let (header, payload) = UdpHeader::parse(&DATAGRAM).unwrap();
        assert_eq!((header.src_port.get(), header.dst_port.get()), (1000, 53));
        assert_eq!(payload, b"x");
        assert_eq!(verify_checksum(pseudo(), &DATAGRAM[..9], true), Ok(()));
    }

    #[test]
    fn damage_is_noticed() {
        let mut datagram = DATAGRAM;
        datagram[8] = b'y';
        let verify = |d: &[u8], zero| verify_checksum(pseudo(), &d[..9], zero);
        assert_eq!(verify(&datagram, true), Err(ParseError::BadChecksum));
        datagram[6..8].fill(0);
        assert_eq!(verify(&datagram, true), Ok(()));
        assert_eq!(verify(&datagram, false), Err(ParseError::BadChecksum));
        assert_eq!(
            verify_checksum(pseudo(), &datagram[..7], true),
            Err(ParseError::Truncated)
        );
    }

    #[test]
    fn lengths() {
        assert_eq!(UdpHeader::parse(&DATAGRAM[..7]), Err(ParseError::Truncated));
        for length in [0, 7, 12] {
            let mut datagram = DATAGRAM;
            datagram[5] = length;
            assert_eq!(
                UdpHeader::parse(&datagram),
                Err(ParseError::BadTotalLength),
                "{length}"
            );
        }
        assert_eq!(
            UdpHeader::parse(&DATAGRAM[..8]),
            Err(ParseError::BadTotalLength)
        );
    }
}
