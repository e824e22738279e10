//! What IPv4 and IPv6 share: protocol numbers, congestion marks.

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The protocol that follows an IP header (IANA protocol numbers).
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
pub struct IpProtocol(pub u8);

impl IpProtocol {
    /// IPv6 hop-by-hop options (RFC 8200).
    pub const HOP_BY_HOP: Self = Self(0);
    /// ICMP for IPv4 (RFC 792).
    pub const ICMP4: Self = Self(1);
    /// IGMP (RFC 3376).
    pub const IGMP: Self = Self(2);
    /// IPv4 inside IP (RFC 2003).
    pub const IP4: Self = Self(4);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// IPv6 inside IP (RFC 4213).
    pub const IP6: Self = Self(41);
    /// IPv6 routing header (RFC 8200).
    pub const ROUTING: Self = Self(43);
    /// IPv6 fragment header (RFC 8200).
    pub const FRAGMENT: Self = Self(44);
    /// GRE (RFC 2784).
    pub const GRE: Self = Self(47);
    /// Encapsulating security payload (RFC 4303).
    pub const ESP: Self = Self(50);
    /// Authentication header (RFC 4302).
    pub const AH: Self = Self(51);
    /// ICMPv6 (RFC 4443).
    pub const ICMP6: Self = Self(58);
    /// IPv6: nothing follows (RFC 8200).
    pub const NO_NEXT_HEADER: Self = Self(59);
    /// IPv6 destination options (RFC 8200).
    pub const DESTINATION_OPTIONS: Self = Self(60);
    /// OSPF (RFC 2328).
    pub const OSPF: Self = Self(89);
    /// VRRP (RFC 9568).
    pub const VRRP: Self = Self(112);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// Whether it is an IPv6 extension header that a walker can step over.
    #[inline]
    pub const fn is_ip6_extension(self) -> bool {
        matches!(
            self,
            Self::HOP_BY_HOP
                | Self::ROUTING
                | Self::FRAGMENT
                | Self::AH
                | Self::DESTINATION_OPTIONS
        )
    }

    /// Whether source and destination ports are the first four bytes of the payload.
    #[inline]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }
}

impl From<u8> for IpProtocol {
    fn from(value: u8) -> Self {
        Self(value)
    }
}

impl fmt::Display for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::HOP_BY_HOP => "hop-by-hop",
            Self::ICMP4 => "ICMP",
            Self::IGMP => "IGMP",
            Self::IP4 => "IPv4",
            Self::TCP => "TCP",
            Self::UDP => "UDP",
            Self::IP6 => "IPv6",
            Self::ROUTING => "routing",
            Self::FRAGMENT => "fragment",
            Self::GRE => "GRE",
            Self::ESP => "ESP",
            Self::AH => "AH",
            Self::ICMP6 => "ICMPv6",
            Self::NO_NEXT_HEADER => "no-next-header",
            Self::DESTINATION_OPTIONS => "destination-options",
            Self::OSPF => "OSPF",
            Self::VRRP => "VRRP",
            Self::SCTP => "SCTP",
            _ => return write!(f, "protocol {}", self.0),
        })
    }
}

impl fmt::Debug for IpProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Explicit congestion notification (RFC 3168): the low two bits of the TOS or traffic class byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ecn {
    /// The transport does not understand marks.
    NotCapable = 0,
    /// Capable, ECT(1).
    Capable1 = 1,
    /// Capable, ECT(0).
    Capable0 = 2,
    /// A router on the path is congested.
    CongestionExperienced = 3,
}

impl Ecn {
    /// The mark in a TOS or traffic class byte.
    #[inline]
    pub const fn from_traffic_class(class: u8) -> Self {
        match class & 3 {
            0 => Self::NotCapable,
            1 => Self::Capable1,
            2 => Self::Capable0,
            _ => Self::CongestionExperienced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_kinds() {
        assert_eq!(IpProtocol::TCP.to_string(), "TCP");
        assert_eq!(IpProtocol(200).to_string(), "protocol 200");
        assert!(IpProtocol::AH.is_ip6_extension() && !IpProtocol::ESP.is_ip6_extension());
        assert!(IpProtocol::SCTP.has_ports() && !IpProtocol::ICMP4.has_ports());
        assert_eq!(Ecn::from_traffic_class(0xff), Ecn::CongestionExperienced);
        assert_eq!(Ecn::from_traffic_class(0xb8), Ecn::NotCapable);
    }
}
