//! Address resolution for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |       hardware type (1)       |     protocol type (0x0800)    |
//! +---------------+---------------+-------------------------------+
//! | hw length (6) |proto length(4)|           operation           |
//! +---------------+---------------+-------------------------------+
//! |                    sender hardware address                    |
//! +                               +-------------------------------+
//! |                               |    sender protocol address    |
//! +-------------------------------+-------------------------------+
//! |                               |                               |
//! +-------------------------------+                               +
//! |                    target hardware address                    |
//! +---------------------------------------------------------------+
//! |                    target protocol address                    |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::net::Ipv4Addr;

use zerocopy::big_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{EtherType, Header, MacAddr, ParseError};

/// Hardware type of Ethernet.
pub const HARDWARE_ETHERNET: u16 = 1;

/// An ARP packet for IPv4 over Ethernet, 28 bytes.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct ArpPacket {
    /// Kind of link; 1 is Ethernet.
    pub hardware_type: U16,
    /// Protocol whose address is resolved.
    pub protocol_type: EtherType,
    /// Length of a link address, bytes.
    pub hardware_len: u8,
    /// Length of a protocol address, bytes.
    pub protocol_len: u8,
    /// Request or reply.
    pub operation: ArpOperation,
    /// Link address of the sender.
    pub sender_mac: MacAddr,
    /// IPv4 address of the sender.
    pub sender_ip: U32,
    /// Link address of the target; not significant in a request.
    pub target_mac: MacAddr,
    /// IPv4 address of the target.
    pub target_ip: U32,
}

impl Header for ArpPacket {}

impl ArpPacket {
    /// A packet of this operation for IPv4 over Ethernet.
    #[inline]
    pub fn new(
        operation: ArpOperation,
        (sender_mac, sender_ip): (MacAddr, Ipv4Addr),
        (target_mac, target_ip): (MacAddr, Ipv4Addr),
    ) -> Self {
        Self {
            hardware_type: U16::new(HARDWARE_ETHERNET),
            protocol_type: EtherType::IP4,
            hardware_len: 6,
            protocol_len: 4,
            operation,
            sender_mac,
            sender_ip: U32::new(sender_ip.to_bits()),
            target_mac,
            target_ip: U32::new(target_ip.to_bits()),
        }
    }

    /// The packet and the bytes after it (padding).
    ///
    /// `BadType` if it is not for IPv4 over Ethernet, `BadHeaderLength` if its address lengths are
    /// not 6 and 4. The operation is not checked: the caller decides which it answers.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<(&Self, &[u8]), ParseError> {
        let (packet, rest) = Self::split(bytes)?;
        if packet.hardware_type.get() != HARDWARE_ETHERNET || packet.protocol_type != EtherType::IP4
        {
            return Err(ParseError::BadType);
        }
        if packet.hardware_len != 6 || packet.protocol_len != 4 {
            return Err(ParseError::BadHeaderLength);
        }
        Ok((packet, rest))
    }

    /// IPv4 address of the sender.
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.sender_ip.get())
    }

    /// IPv4 address of the target.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.target_ip.get())
    }

    /// Whether the sender announces or claims its own address (RFC 5227 section 3).
    #[inline]
    pub fn is_gratuitous(&self) -> bool {
        self.sender_ip == self.target_ip
    }

    /// Whether the sender asks if an address is free (RFC 5227 section 2.1.1): its own is still zero.
    #[inline]
    pub fn is_probe(&self) -> bool {
        self.operation == ArpOperation::REQUEST && self.sender_ip.get() == 0
    }

    /// The reply that the owner of the requested address sends, who has the link address `mac`.
    #[inline]
    pub fn reply_from(&self, mac: MacAddr) -> Self {
        Self {
            operation: ArpOperation::REPLY,
            sender_mac: mac,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
            ..*self
        }
    }
}

/// What an ARP packet wants.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(transparent)]
pub struct ArpOperation([u8; 2]);

impl ArpOperation {
    /// Who has the target address?
    pub const REQUEST: Self = Self::new(1);
    /// The sender has it.
    pub const REPLY: Self = Self::new(2);

    /// The operation with this number.
    #[inline]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be_bytes())
    }

    /// The number.
    #[inline]
    pub const fn value(self) -> u16 {
        u16::from_be_bytes(self.0)
    }
}

impl fmt::Debug for ArpOperation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::REQUEST => f.write_str("request"),
            Self::REPLY => f.write_str("reply"),
            _ => write!(f, "{}", self.value()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [u8; 28] = [
        0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
    ];

    #[test]
    fn parse_and_answer() {
        let (packet, rest) = ArpPacket::parse(&REQUEST).unwrap();
        assert!(rest.is_empty());
        assert_eq!(packet.operation, ArpOperation::REQUEST);
        assert_eq!(packet.sender_mac, MacAddr::local(1));
        assert_eq!(packet.sender_ip(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(packet.target_ip(), Ipv4Addr::new(10, 0, 0, 2));
        assert!(!packet.is_gratuitous() && !packet.is_probe());
        let expected = ArpPacket::new(
            ArpOperation::REPLY,
            (MacAddr::local(2), Ipv4Addr::new(10, 0, 0, 2)),
            (MacAddr::local(1), Ipv4Addr::new(10, 0, 0, 1)),
        );
        assert_eq!(packet.reply_from(MacAddr::local(2)), expected);
    }

    #[test]
    fn refuses_other_links_and_lengths() {
        for (at, value, error) in [
            (1, 6, ParseError::BadType),
            (2, 0x86, ParseError::BadType),
            (4, 8, ParseError::BadHeaderLength),
            (5, 16, ParseError::BadHeaderLength),
        ] {
            let mut bytes = REQUEST;
            bytes[at] = value;
            assert_eq!(ArpPacket::parse(&bytes), Err(error));
        }
        assert_eq!(ArpPacket::parse(&REQUEST[..27]), Err(ParseError::Truncated));
    }
}
