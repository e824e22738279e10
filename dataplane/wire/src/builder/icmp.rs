//! ICMP for IPv4 and IPv6, and neighbour discovery.

use std::net::Ipv6Addr;

use zerocopy::IntoBytes;
use zerocopy::big_endian::U16;

use super::sealed::Sealed;
use super::{Addresses, Builder, Ip4, Ip6Layer, Layer, prepend};
use crate::{
    Icmp4Header, Icmp4Type, Icmp6Header, Icmp6Type, IpProtocol, MacAddr, checksum, icmp4, icmp6, nd,
};

/// An ICMP header for IPv4.
#[derive(Debug, Clone)]
pub struct Icmp4 {
    header: Icmp4Header,
    checksum: Option<u16>,
}

impl Sealed for Icmp4 {}

impl Layer for Icmp4 {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let mut bytes = prepend(self.header.as_bytes(), inner);
        let checksum = self.checksum.unwrap_or_else(|| checksum::checksum(&bytes));
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Builder<Icmp4> {
    /// Overrides the checksum.
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|layer| layer.checksum = Some(checksum))
    }
}

impl Builder<Ip4> {
    /// An ICMP message of any type; `rest` is bytes 4 to 7.
    pub fn icmp4(self, icmp_type: u8, code: u8, rest: [u8; 4]) -> Builder<Icmp4> {
        let header = Icmp4Header {
            icmp_type: Icmp4Type(icmp_type),
            code,
            checksum: U16::ZERO,
            rest,
        };
        self.transport(
            IpProtocol::ICMP4,
            Icmp4 {
                header,
                checksum: None,
            },
        )
    }

    /// An echo request.
    pub fn icmp4_echo(self, id: u16, sequence: u16) -> Builder<Icmp4> {
        self.icmp4(Icmp4Type::ECHO_REQUEST.0, 0, words(id, sequence))
    }

    /// An echo reply.
    pub fn icmp4_echo_reply(self, id: u16, sequence: u16) -> Builder<Icmp4> {
        self.icmp4(Icmp4Type::ECHO_REPLY.0, 0, words(id, sequence))
    }

    /// An error about the packet `original` (from its IP header on), which is cut to what the message
    /// may carry. `info` is bytes 4 to 7 as a number: the MTU of "fragmentation needed", the gateway of
    /// "redirect", and the pointer of "parameter problem" in its highest byte.
    pub fn icmp4_error(
        self,
        icmp_type: u8,
        code: u8,
        info: u32,
        original: &[u8],
    ) -> Builder<Icmp4> {
        let quote = &original[..original.len().min(icmp4::MAX_QUOTE_LEN)];
        self.icmp4(icmp_type, code, info.to_be_bytes())
            .payload(quote)
    }
}

/// An ICMPv6 header.
#[derive(Debug, Clone)]
pub struct Icmp6 {
    message: Icmp6Message,
}

/// A neighbour discovery message: an ICMPv6 header, its body, and options.
#[derive(Debug, Clone)]
pub struct NdLayer {
    message: Icmp6Message,
    /// What follows the first 8 bytes, before the options.
    body: Vec<u8>,
}

/// What all ICMPv6 messages share.
#[derive(Debug, Clone)]
struct Icmp6Message {
    addresses: Addresses,
    header: Icmp6Header,
    checksum: Option<u16>,
}

impl Icmp6Message {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let mut bytes = prepend(self.header.as_bytes(), inner);
        let checksum = self.checksum.unwrap_or_else(|| {
            self.addresses
                .pseudo_header(IpProtocol::ICMP6, bytes.len())
                .bytes(&bytes)
                .checksum()
        });
        bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Sealed for Icmp6 {}

impl Layer for Icmp6 {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        self.message.wrap(inner)
    }
}

impl Sealed for NdLayer {}

impl Layer for NdLayer {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        self.message.wrap(prepend(&self.body, inner))
    }
}

impl Builder<Icmp6> {
    /// Overrides the checksum.
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|layer| layer.message.checksum = Some(checksum))
    }
}

impl Builder<NdLayer> {
    /// Overrides the checksum.
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|layer| layer.message.checksum = Some(checksum))
    }

    /// Appends an option as it is on the wire, such as [`nd::mtu_option`] makes.
    pub fn option(self, option: &[u8]) -> Self {
        self.payload(option)
    }
}

impl<L: Ip6Layer> Builder<L> {
    /// An ICMPv6 message of any type; `rest` is bytes 4 to 7.
    pub fn icmp6(self, icmp_type: u8, code: u8, rest: [u8; 4]) -> Builder<Icmp6> {
        let message = self.icmp6_message(Icmp6Type(icmp_type), code, rest);
        self.transport(IpProtocol::ICMP6, Icmp6 { message })
    }

    /// An echo request.
    pub fn icmp6_echo(self, id: u16, sequence: u16) -> Builder<Icmp6> {
        self.icmp6(Icmp6Type::ECHO_REQUEST.0, 0, words(id, sequence))
    }

    /// An echo reply.
    pub fn icmp6_echo_reply(self, id: u16, sequence: u16) -> Builder<Icmp6> {
        self.icmp6(Icmp6Type::ECHO_REPLY.0, 0, words(id, sequence))
    }

    /// An error about the packet `original` (from its IP header on), which is cut to what the message
    /// may carry. `info` is the MTU of "packet too big" or the pointer of "parameter problem".
    pub fn icmp6_error(
        self,
        icmp_type: u8,
        code: u8,
        info: u32,
        original: &[u8],
    ) -> Builder<Icmp6> {
        let quote = &original[..original.len().min(icmp6::MAX_QUOTE_LEN)];
        self.icmp6(icmp_type, code, info.to_be_bytes())
            .payload(quote)
    }

    /// A neighbour solicitation for `target`, with the sender's link address unless it is `None`.
    pub fn neighbour_solicitation(
        self,
        target: impl Into<Ipv6Addr>,
        source_mac: Option<MacAddr>,
    ) -> Builder<NdLayer> {
        let body = target.into().octets().to_vec();
        let builder = self.nd(Icmp6Type::NEIGHBOUR_SOLICITATION, [0; 4], body);
        match source_mac {
            Some(mac) => builder.option(&nd::link_layer_option(nd::option::SOURCE_LINK_LAYER, mac)),
            None => builder,
        }
    }

    /// A neighbour advertisement for `target`, with the target's link address unless it is `None`.
    /// `flags` are [`nd::ADVERTISEMENT_ROUTER`] and its neighbours.
    pub fn neighbour_advertisement(
        self,
        target: impl Into<Ipv6Addr>,
        flags: u8,
        target_mac: Option<MacAddr>,
    ) -> Builder<NdLayer> {
        let body = target.into().octets().to_vec();
        let builder = self.nd(Icmp6Type::NEIGHBOUR_ADVERTISEMENT, [flags, 0, 0, 0], body);
        match target_mac {
            Some(mac) => builder.option(&nd::link_layer_option(nd::option::TARGET_LINK_LAYER, mac)),
            None => builder,
        }
    }

    /// A router solicitation.
    pub fn router_solicitation(self) -> Builder<NdLayer> {
        self.nd(Icmp6Type::ROUTER_SOLICITATION, [0; 4], Vec::new())
    }

    /// A router advertisement that leaves hop limit and times unspecified. `lifetime_s` is how long the
    /// sender is a default router, seconds.
    pub fn router_advertisement(self, flags: u8, lifetime_s: u16) -> Builder<NdLayer> {
        let [high, low] = lifetime_s.to_be_bytes();
        self.nd(
            Icmp6Type::ROUTER_ADVERTISEMENT,
            [0, flags, high, low],
            vec![0; 8],
        )
    }

    /// A redirect of packets to `destination` to the better first hop `target`.
    pub fn redirect6(
        self,
        target: impl Into<Ipv6Addr>,
        destination: impl Into<Ipv6Addr>,
    ) -> Builder<NdLayer> {
        let body = [target.into().octets(), destination.into().octets()].concat();
        self.nd(Icmp6Type::REDIRECT, [0; 4], body)
    }

    fn nd(self, icmp_type: Icmp6Type, rest: [u8; 4], body: Vec<u8>) -> Builder<NdLayer> {
        let message = self.icmp6_message(icmp_type, 0, rest);
        self.with(|ip| ip.default_hop_limit(nd::HOP_LIMIT))
            .transport(IpProtocol::ICMP6, NdLayer { message, body })
    }

    fn icmp6_message(&self, icmp_type: Icmp6Type, code: u8, rest: [u8; 4]) -> Icmp6Message {
        let header = Icmp6Header {
            icmp_type,
            code,
            checksum: U16::ZERO,
            rest,
        };
        Icmp6Message {
            addresses: self.layer.addresses(),
            header,
            checksum: None,
        }
    }
}

fn words(a: u16, b: u16) -> [u8; 4] {
    (u32::from(a) << 16 | u32::from(b)).to_be_bytes()
}
