//! What a classifier is asked: the fields of one packet.

use std::{fmt::Debug, hash::Hash};

use super::{borders::Searched, lanes::Lanes};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address in host order: `u32` for IPv4, `u128` for IPv6. A classifier serves one family.
pub trait Address:
    Lanes + Searched + Copy + Ord + Hash + Debug + Default + Send + Sync + 'static + sealed::Sealed
{
    /// The family whose addresses these are.
    const FAMILY: Family;
    /// Width in bits.
    const BITS: u32;
    /// Protocol number of the family's ICMP.
    const ICMP: u8;

    /// The value in the low bits of an IPv6 address's width.
    fn widen(self) -> u128;
    /// The low bits of `wide`.
    fn narrow(wide: u128) -> Self;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for u32 {}
    impl Sealed for u128 {}
}

macro_rules! address {
    ($int:ty, $family:ident, $icmp:literal) => {
        impl Address for $int {
            const FAMILY: Family = Family::$family;
            const BITS: u32 = <$int>::BITS;
            const ICMP: u8 = $icmp;

            #[inline(always)]
            fn widen(self) -> u128 {
                u128::from(self)
            }

            #[inline(always)]
            fn narrow(wide: u128) -> Self {
                wide as Self
            }
        }
    };
}

address!(u32, V4, 1);
address!(u128, V6, 58);

/// What the first bytes behind the IP header say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Layer4 {
    /// Nothing that rules look at, or nothing there: a fragment other than the first.
    #[default]
    Opaque,
    /// Source and destination port of TCP, UDP, SCTP or UDP-Lite.
    Ports,
    /// Type and code of the family's ICMP.
    Icmp,
}

/// The fields of one packet. Built by [`with_ports`](Self::with_ports), [`icmp`](Self::icmp) or
/// [`opaque`](Self::opaque), so that protocol and contents of the upper layer agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Key<A> {
    pub(super) source: A,
    pub(super) destination: A,
    pub(super) source_class: u32,
    pub(super) destination_class: u32,
    pub(super) source_port_class: u32,
    pub(super) destination_port_class: u32,
    /// Source port, or ICMP type.
    pub(super) source_port: u16,
    /// Destination port, or ICMP code.
    pub(super) destination_port: u16,
    pub(super) protocol: u8,
    pub(super) layer4: Layer4,
}

/// TCP, UDP, SCTP, UDP-Lite: the protocols whose ports rules look at.
pub const PORT_PROTOCOLS: [u8; 4] = [6, 17, 132, 136];

impl<A: Address> Key<A> {
    /// A packet of `protocol` whose ports are known. Of a protocol other than [`PORT_PROTOCOLS`] the
    /// ports are ignored, as by [`opaque`](Self::opaque).
    #[inline]
    pub fn with_ports(
        source: A,
        destination: A,
        protocol: u8,
        source_port: u16,
        destination_port: u16,
    ) -> Self {
        let known = PORT_PROTOCOLS.contains(&protocol);
        Self {
            source_port: if known { source_port } else { 0 },
            destination_port: if known { destination_port } else { 0 },
            layer4: if known { Layer4::Ports } else { Layer4::Opaque },
            ..Self::opaque(source, destination, protocol)
        }
    }

    /// A packet of the family's ICMP whose type and code are known.
    #[inline]
    pub fn icmp(source: A, destination: A, icmp_type: u8, code: u8) -> Self {
        Self {
            source_port: u16::from(icmp_type),
            destination_port: u16::from(code),
            layer4: Layer4::Icmp,
            ..Self::opaque(source, destination, A::ICMP)
        }
    }

    /// A packet of which nothing behind the IP header is known or of interest: any other protocol, or a
    /// fragment other than the first.
    #[inline]
    pub fn opaque(source: A, destination: A, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            ..Self::default()
        }
    }

    /// Adds the classes of both addresses in the table of address sets (class 0: in no set).
    #[inline]
    #[must_use]
    pub fn address_classes(mut self, source: u32, destination: u32) -> Self {
        self.source_class = source;
        self.destination_class = destination;
        self
    }

    /// Adds the classes of (source, protocol, source port) and (destination, protocol, destination port)
    /// in the table of address-and-port sets (class 0: in no set). Ignored for packets without ports.
    #[inline]
    #[must_use]
    pub fn port_classes(mut self, source: u32, destination: u32) -> Self {
        self.source_port_class = source;
        self.destination_port_class = destination;
        self
    }

    /// Source address.
    pub fn source(&self) -> A {
        self.source
    }

    /// Destination address.
    pub fn destination(&self) -> A {
        self.destination
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        self.protocol
    }

    /// ICMP type and code in one number; anything for other packets.
    #[inline(always)]
    pub(super) fn type_and_code(&self) -> u16 {
        self.source_port << 8 | self.destination_port & 0xff
    }

    #[inline(always)]
    pub(super) fn has_ports(&self) -> bool {
        self.layer4 == Layer4::Ports
    }

    /// Source and destination port, if the packet has ports.
    pub fn ports(&self) -> Option<(u16, u16)> {
        (self.layer4 == Layer4::Ports).then_some((self.source_port, self.destination_port))
    }

    /// ICMP type and code, if the packet has them.
    pub fn icmp_type_code(&self) -> Option<(u8, u8)> {
        (self.layer4 == Layer4::Icmp)
            .then_some((self.source_port as u8, self.destination_port as u8))
    }
}
