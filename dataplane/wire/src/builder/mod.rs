//! Packets in one line, for tests, tools and the slow path.
//!
//! Layers are written from the outside in. The types admit only orders that make sense (no ICMPv6 in
//! IPv4, no VLAN tag in IP); lengths, protocol numbers and checksums are filled in by
//! [`Builder::build`], and every one can be overridden to make malformed packets.
//!
//! ```
//! use wire::{builder::{eth, ip4}, MacAddr, TcpFlags};
//!
//! let (a, b) = (MacAddr::local(1), MacAddr::local(2));
//! let frame = eth(a, b)
//!     .vlan(10)
//!     .ip4([10, 0, 0, 1], [10, 0, 0, 2]).ttl(3).dont_fragment()
//!     .tcp(40000, 80).flags(TcpFlags::SYN).options(&[2, 4, 5, 0xb4])
//!     .pad_to(60)
//!     .build();
//! assert_eq!(frame.len(), 14 + 4 + 20 + 24);
//!
//! // From the IP header on, with a wrong checksum:
//! let packet = ip4([10, 0, 0, 1], [10, 0, 0, 2]).checksum(0xbad).udp(1, 2).payload(b"x").build();
//! assert!(wire::ip4::validate(&packet).is_err());
//! ```
//!
//! A builder can be cloned and built any number of times. Lengths that do not fit in their fields
//! saturate.

mod icmp;
mod link;
mod network;
mod transport;

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use crate::checksum::Sum;
use crate::{EtherType, IpProtocol, MacAddr};

pub use icmp::{Icmp4, Icmp6, NdLayer};
pub use link::{Arp, Eth, Vlan};
pub use network::{Extension, Ip4, Ip6};
pub use transport::{Raw, Tcp, Udp};

/// Starts a frame from the station `source` to the station `destination`.
pub fn eth(source: impl Into<MacAddr>, destination: impl Into<MacAddr>) -> Builder<Eth> {
    Builder::start(Eth::new(source.into(), destination.into()))
}

/// Starts an IPv4 packet without a link header.
pub fn ip4(source: impl Into<Ipv4Addr>, destination: impl Into<Ipv4Addr>) -> Builder<Ip4> {
    Builder::start(Ip4::new(source.into(), destination.into()))
}

/// Starts an IPv6 packet without a link header.
pub fn ip6(source: impl Into<Ipv6Addr>, destination: impl Into<Ipv6Addr>) -> Builder<Ip6> {
    Builder::start(Ip6::new(source.into(), destination.into()))
}

/// A packet in the making, whose innermost layer so far is `L`: overrides apply to that layer.
#[derive(Clone)]
#[must_use = "a packet is made by `build`"]
pub struct Builder<L> {
    outer: Vec<Arc<dyn Layer>>,
    layer: L,
    payload: Vec<u8>,
    min_len: usize,
}

impl<L: Layer> Builder<L> {
    /// Appends bytes to the payload, which always is the innermost part.
    pub fn payload(mut self, bytes: &[u8]) -> Self {
        self.payload.extend_from_slice(bytes);
        self
    }

    /// Appends zeros to the whole packet, outside of all lengths and checksums, until it is this many
    /// bytes long: what a link does to short frames.
    pub fn pad_to(mut self, len: usize) -> Self {
        self.min_len = len;
        self
    }

    /// The bytes of the packet.
    pub fn build(&self) -> Vec<u8> {
        let mut packet = self.layer.wrap(self.payload.clone());
        for layer in self.outer.iter().rev() {
            packet = layer.wrap(packet);
        }
        if packet.len() < self.min_len {
            packet.resize(self.min_len, 0);
        }
        packet
    }

    fn start(layer: L) -> Self {
        Self {
            outer: Vec::new(),
            layer,
            payload: Vec::new(),
            min_len: 0,
        }
    }

    fn push<M: Layer>(mut self, layer: M) -> Builder<M> {
        self.outer.push(Arc::new(self.layer));
        Builder {
            outer: self.outer,
            layer,
            payload: self.payload,
            min_len: self.min_len,
        }
    }

    fn with(mut self, change: impl FnOnce(&mut L)) -> Self {
        change(&mut self.layer);
        self
    }
}

impl<L: Layer> fmt::Debug for Builder<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builder({})", crate::describe::hexdump(&self.build()))
    }
}

/// A layer of a packet. Implemented by the types of this module only.
pub trait Layer: sealed::Sealed + Send + Sync + 'static {
    /// The layer's header in front of `inner`.
    #[doc(hidden)]
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8>;
}

/// A layer that names what follows by an EtherType: Ethernet, VLAN.
pub trait LinkLayer: Layer {
    /// Says what follows.
    #[doc(hidden)]
    fn set_ethertype(&mut self, ethertype: EtherType);
    /// Source and destination of the frame.
    #[doc(hidden)]
    fn stations(&self) -> (MacAddr, MacAddr);
}

/// A layer that names what follows by an IP protocol number: IPv4, IPv6, extension headers.
pub trait NetworkLayer: Layer {
    /// Says what follows.
    #[doc(hidden)]
    fn set_protocol(&mut self, protocol: IpProtocol);
    /// Source and destination, for the pseudo-header.
    #[doc(hidden)]
    fn addresses(&self) -> Addresses;
}

/// A layer that can be followed by IPv6 extension headers and ICMPv6: IPv6, extension headers.
pub trait Ip6Layer: NetworkLayer {
    /// Hop limit to use unless the caller sets one.
    #[doc(hidden)]
    fn default_hop_limit(&mut self, hop_limit: u8);
}

/// A layer that can be followed by an IP header or by bytes of any protocol: link layers, and IP itself
/// for tunnels.
pub trait Carrier: Layer {
    /// What names the next protocol: an EtherType (`u16`) or an IP protocol number (`u8`).
    type Number;
    /// Says what follows.
    #[doc(hidden)]
    fn set_number(&mut self, number: Self::Number);
    /// Says that an IP header of this version (4 or 6) follows.
    #[doc(hidden)]
    fn set_ip_version(&mut self, version: u8);
}

impl<L: Carrier> Builder<L> {
    /// An IPv4 header: TTL 64, identification 0, no flags.
    pub fn ip4(
        self,
        source: impl Into<Ipv4Addr>,
        destination: impl Into<Ipv4Addr>,
    ) -> Builder<Ip4> {
        self.with(|layer| layer.set_ip_version(4))
            .push(Ip4::new(source.into(), destination.into()))
    }

    /// An IPv6 header: hop limit 64 (255 in front of neighbour discovery), flow label 0.
    pub fn ip6(
        self,
        source: impl Into<Ipv6Addr>,
        destination: impl Into<Ipv6Addr>,
    ) -> Builder<Ip6> {
        self.with(|layer| layer.set_ip_version(6))
            .push(Ip6::new(source.into(), destination.into()))
    }

    /// Bytes of any protocol, named by its EtherType after a link layer and by its IP protocol number
    /// after IP.
    pub fn raw(self, number: L::Number, bytes: &[u8]) -> Builder<Raw> {
        self.with(|layer| layer.set_number(number))
            .push(Raw)
            .payload(bytes)
    }
}

/// Source and destination for a pseudo-header.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub enum Addresses {
    /// IPv4.
    V4(Ipv4Addr, Ipv4Addr),
    /// IPv6.
    V6(Ipv6Addr, Ipv6Addr),
}

impl Addresses {
    fn pseudo_header(self, protocol: IpProtocol, length: usize) -> Sum {
        match self {
            Self::V4(source, destination) => {
                Sum::pseudo_header4(source, destination, protocol, len16(length))
            }
            Self::V6(source, destination) => {
                let length = u32::try_from(length).unwrap_or(u32::MAX);
                Sum::pseudo_header6(&source, &destination, protocol, length)
            }
        }
    }
}

/// `header` in front of `inner`.
fn prepend(header: &[u8], mut inner: Vec<u8>) -> Vec<u8> {
    inner.splice(0..0, header.iter().copied());
    inner
}

/// A length for a 16-bit field.
fn len16(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// `options` filled up with zeros to whole 32-bit words.
fn padded_options(options: &[u8]) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    options
}

mod sealed {
    /// Keeps other packages from implementing layers, whose methods may change.
    pub trait Sealed {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TcpFlags, checksum, icmp4, ip4 as wire_ip4, tcp, udp};

    const A: MacAddr = MacAddr::local(1);
    const B: MacAddr = MacAddr::local(2);

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    #[test]
    fn literal_udp_over_vlan() {
        let frame = eth(A, B)
            .vlan(10)
            .ip4([10, 0, 0, 1], [10, 0, 0, 2])
            .udp(1000, 53)
            .payload(b"x");
        assert_eq!(
            frame.build(),
            [
                2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x81, 0, // Ethernet
                0, 10, 8, 0, // VLAN
                0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0x66, 0xce, 10, 0, 0, 1, 10, 0, 0,
                2, // IPv4
                0x03, 0xe8, 0x00, 0x35, 0, 9, 0x6f, 0xbc, b'x', // UDP
            ]
        );
    }

    #[test]
    fn literal_arp() {
        let frame = eth(A, MacAddr::BROADCAST)
            .arp_request([10, 0, 0, 1], [10, 0, 0, 2])
            .build();
        assert_eq!(
            frame[12..],
            [
                8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10,
                0, 0, 2
            ]
        );
        let reply = eth(B, A)
            .vlan(3)
            .arp_reply([10, 0, 0, 2], [10, 0, 0, 1])
            .build();
        let (packet, _) = crate::ArpPacket::parse(&reply[18..]).unwrap();
        assert_eq!((packet.sender_mac, packet.target_mac), (B, A));
        assert_eq!(packet.operation, crate::ArpOperation::REPLY);
    }

    #[test]
    fn qinq_uses_the_service_tag_outside() {
        let frame = eth(A, B)
            .qinq(100, 10)
            .ip4([1, 1, 1, 1], [2, 2, 2, 2])
            .build();
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 10, 8, 0]);
        let frame = eth(A, B)
            .vlan(5)
            .pcp(7)
            .dei()
            .tpid(0x9100)
            .ip6(v6("::1"), v6("::2"))
            .build();
        assert_eq!(frame[12..18], [0x91, 0, 0xf0, 5, 0x86, 0xdd]);
    }

    #[test]
    fn checksums_verify() {
        let packet = ip4([10, 0, 0, 1], [10, 0, 0, 2])
            .options(&[148, 4, 0, 0])
            .tcp(1, 2)
            .payload(b"abc")
            .build();
        let header = wire_ip4::validate(&packet).unwrap();
        assert_eq!(header.header_len(), 24);
        assert_eq!(
            tcp::verify_checksum(header.pseudo_header(23), &packet[24..]),
            Ok(())
        );

        let packet = ip6(v6("fe80::1"), v6("fe80::2"))
            .udp(1, 2)
            .payload(&[7; 100])
            .build();
        let header = crate::ip6::validate(&packet).unwrap();
        let pseudo = header.pseudo_header(IpProtocol::UDP, 108);
        assert_eq!(udp::verify_checksum(pseudo, &packet[40..], false), Ok(()));

        let packet = ip4([10, 0, 0, 1], [10, 0, 0, 2])
            .icmp4_echo(7, 9)
            .payload(b"ping")
            .build();
        assert_eq!(icmp4::verify_checksum(&packet[20..]), Ok(()));
        assert_eq!(packet[20..22], [8, 0]);
    }

    #[test]
    fn udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
        // The payload word is chosen so that the sum over everything is 0xffff.
        let with = |word: u16| {
            let ip = ip4([10, 0, 0, 1], [10, 0, 0, 2]);
            ip.udp(1, 2).payload(&word.to_be_bytes()).build()
        };
        let base = with(0);
        let checksum = u16::from_be_bytes([base[26], base[27]]);
        assert_eq!(with(checksum)[26..28], [0xff, 0xff]);
    }

    #[test]
    fn overrides_make_malformed_packets() {
        let base = ip4([10, 0, 0, 1], [10, 0, 0, 2]);
        let packet = base
            .clone()
            .ihl(4)
            .total_length(9)
            .version(5)
            .checksum(0x1234)
            .build();
        assert_eq!(packet[..4], [0x54, 0, 0, 9]);
        assert_eq!(packet[10..12], [0x12, 0x34]);
        let packet = base
            .clone()
            .id(7)
            .tos(0xb8)
            .more_fragments()
            .fragment_offset(185)
            .ttl(0)
            .build();
        assert_eq!(packet[..9], [0x45, 0xb8, 0, 20, 0, 7, 0x20, 185, 0]);
        let packet = base
            .clone()
            .protocol(99)
            .udp(1, 2)
            .length(3)
            .no_checksum()
            .build();
        assert_eq!((packet[9], &packet[24..28]), (99, &[0, 3, 0, 0][..]));
        let packet = base
            .tcp(1, 2)
            .data_offset(15)
            .seq(1)
            .ack(2)
            .flags(TcpFlags::RST)
            .window(3)
            .urgent(4)
            .build();
        assert_eq!(packet[24..36], [0, 0, 0, 1, 0, 0, 0, 2, 0xf0, 4, 0, 3]);
        assert_eq!(packet[38..40], [0, 4]);
        let packet = ip6(v6("::1"), v6("::2"))
            .payload_length(7)
            .flow_label(0x12345)
            .traffic_class(0xab)
            .next_header(200)
            .ttl(9)
            .build();
        assert_eq!(packet[..8], [0x6a, 0xb1, 0x23, 0x45, 0, 7, 200, 9]);
    }

    #[test]
    fn extension_headers_chain() {
        let packet = ip6(v6("::1"), v6("::2"))
            .hop_by_hop(&[5, 2, 0, 0])
            .routing(0, 1, &[0; 20])
            .destination_options(&[])
            .auth(1, 2, &[0; 12])
            .fragment(9, 0, true)
            .udp(1, 2)
            .build();
        let chain = crate::ip6::Ip6Packet::parse(&packet).unwrap().walk(8);
        assert_eq!(
            (chain.protocol, chain.extensions, chain.fault),
            (IpProtocol::UDP, 5, None)
        );
        assert_eq!(
            (chain.offset, chain.segments_left),
            (8 + 24 + 8 + 24 + 8, 1)
        );
        assert!(chain.fragment.unwrap().0.more_fragments());
        let options = crate::ip6::Ip6Options::of_header(&packet[40..]).unwrap();
        assert_eq!(options.validate(), Ok(()));
        let pseudo = Addresses::V6(v6("::1"), v6("::2")).pseudo_header(IpProtocol::UDP, 8);
        assert_eq!(
            udp::verify_checksum(pseudo, &packet[40 + chain.offset..], false),
            Ok(())
        );
    }

    #[test]
    fn errors_quote_the_original() {
        let original = ip4([10, 0, 0, 1], [10, 9, 9, 9])
            .udp(1, 2)
            .payload(&[1; 1000])
            .build();
        let packet = ip4([10, 0, 0, 254], [10, 0, 0, 1])
            .icmp4_error(3, 4, 1400, &original)
            .build();
        assert_eq!(packet.len(), 576);
        assert_eq!(packet[20..22], [3, 4]);
        assert_eq!(packet[24..28], [0, 0, 5, 0x78]);
        assert_eq!(icmp4::verify_checksum(&packet[20..]), Ok(()));
        assert_eq!(packet[28..48], original[..20]);
        let packet = ip6(v6("::1"), v6("::2"))
            .icmp6_error(2, 0, 1280, &[0x60; 2000])
            .build();
        assert_eq!(packet.len(), 1280);
    }

    #[test]
    fn tunnels_and_raw() {
        let packet = ip4([1, 1, 1, 1], [2, 2, 2, 2])
            .ip6(v6("::1"), v6("::2"))
            .udp(1, 2)
            .build();
        assert_eq!((packet[9], packet[20] >> 4), (41, 6));
        let packet = ip6(v6("::1"), v6("::2"))
            .ip4([1, 1, 1, 1], [2, 2, 2, 2])
            .raw(50, b"esp")
            .build();
        assert_eq!(
            (packet[6], packet[40 + 9], &packet[60..]),
            (4, 50, &b"esp"[..])
        );
        let frame = eth(A, B).raw(0x88cc, b"lldp").pad_to(60).build();
        assert_eq!(
            (frame.len(), &frame[12..18]),
            (60, &[0x88, 0xcc, b'l', b'l', b'd', b'p'][..])
        );
        assert_eq!(checksum::udp_value(0), 0xffff);
    }

    #[test]
    fn padding_is_outside_of_lengths() {
        let frame = eth(A, B)
            .ip4([1, 1, 1, 1], [2, 2, 2, 2])
            .udp(1, 2)
            .pad_to(60)
            .build();
        assert_eq!((frame.len(), frame[17]), (60, 28));
    }
}
