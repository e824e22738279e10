//! Ethernet II framing (IEEE 802.3, RFC 894, RFC 2464).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                     destination address                       |
//! +                               +-------------------------------+
//! |                               |                               |
//! +-------------------------------+                               +
//! |                        source address                         |
//! +-------------------------------+-------------------------------+
//! |           EtherType           |
//! +-------------------------------+
//! ```

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Header, MacAddr, ParseError};

/// Smallest frame on a wire without its frame check sequence, bytes.
pub const MIN_FRAME_LEN: usize = 60;

/// An Ethernet II header, 14 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct EthernetHeader {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// What follows; below 0x0600 it is an IEEE 802.3 length.
    pub ethertype: EtherType,
}

impl Header for EthernetHeader {}

impl EthernetHeader {
    /// The header and the bytes after it. Every value of every field is legal.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        Self::split(bytes)
    }
}

/// The protocol that follows an Ethernet header or a VLAN tag.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct EtherType([u8; 2]);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IP4: Self = Self::new(0x0800);
    /// ARP (RFC 826).
    pub const ARP: Self = Self::new(0x0806);
    /// Customer VLAN tag (IEEE 802.1Q).
    pub const VLAN: Self = Self::new(0x8100);
    /// IPv6 (RFC 2464).
    pub const IP6: Self = Self::new(0x86dd);
    /// MPLS unicast (RFC 3032).
    pub const MPLS: Self = Self::new(0x8847);
    /// PPPoE discovery (RFC 2516).
    pub const PPPOE_DISCOVERY: Self = Self::new(0x8863);
    /// PPPoE session (RFC 2516).
    pub const PPPOE_SESSION: Self = Self::new(0x8864);
    /// Service VLAN tag (IEEE 802.1ad).
    pub const VLAN_AD: Self = Self::new(0x88a8);
    /// LLDP (IEEE 802.1AB).
    pub const LLDP: Self = Self::new(0x88cc);
    /// Outer VLAN tag of equipment older than IEEE 802.1ad.
    pub const VLAN_9100: Self = Self::new(0x9100);
    /// Ethernet frame inside GRE (RFC 7637).
    pub const TRANSPARENT_ETHERNET: Self = Self::new(0x6558);

    /// The type with this number.
    #[inline]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be_bytes())
    }

    /// The number.
    #[inline]
    pub const fn value(self) -> u16 {
        u16::from_be_bytes(self.0)
    }

    /// Whether a VLAN tag follows: 802.1Q, 802.1ad or 0x9100.
    #[inline]
    pub fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::VLAN_AD | Self::VLAN_9100)
    }

    /// Whether this is an IEEE 802.3 length and not a type.
    #[inline]
    pub const fn is_length(self) -> bool {
        self.value() < 0x0600
    }
}

impl From<u16> for EtherType {
    fn from(value: u16) -> Self {
        Self::new(value)
    }
}

impl fmt::Display for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::IP4 => "IPv4",
            Self::ARP => "ARP",
            Self::VLAN => "802.1Q",
            Self::IP6 => "IPv6",
            Self::MPLS => "MPLS",
            Self::PPPOE_DISCOVERY => "PPPoE-discovery",
            Self::PPPOE_SESSION => "PPPoE",
            Self::VLAN_AD => "802.1ad",
            Self::LLDP => "LLDP",
            _ => return write!(f, "0x{:04x}", self.value()),
        })
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: [u8; 16] = [
        0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x08, 0x00, 0xaa, 0xbb,
    ];

    #[test]
    fn parse_literal() {
        let (header, rest) = EthernetHeader::parse(&FRAME).unwrap();
        assert_eq!(header.dst, MacAddr::local(2));
        assert_eq!(header.src, MacAddr::local(1));
        assert_eq!(header.ethertype, EtherType::IP4);
        assert_eq!(rest, [0xaa, 0xbb]);
        assert_eq!(header.as_bytes(), &FRAME[..14]);
        assert_eq!(EthernetHeader::LEN, 14);
    }

    #[test]
    fn too_short() {
        assert_eq!(
            EthernetHeader::parse(&FRAME[..13]),
            Err(ParseError::Truncated)
        );
    }

    #[test]
    fn write_in_place() {
        let mut frame = FRAME;
        EthernetHeader::view_mut(&mut frame).unwrap().ethertype = EtherType::IP6;
        assert_eq!(frame[12..14], [0x86, 0xdd]);
    }

    #[test]
    fn kinds_of_type() {
        assert!(EtherType::VLAN.is_vlan() && EtherType::new(0x9100).is_vlan());
        assert!(!EtherType::IP4.is_vlan());
        assert!(EtherType::new(0x05ff).is_length() && !EtherType::new(0x0600).is_length());
        assert_eq!(EtherType::new(0x1234).to_string(), "0x1234");
    }
}
