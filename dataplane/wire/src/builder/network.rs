//! IPv4, IPv6 and the extension headers of IPv6.

use std::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::sealed::Sealed;
use super::{
    Addresses, Builder, Carrier, Ip6Layer, Layer, NetworkLayer, len16, padded_options, prepend,
};
use crate::ip4::{self, DONT_FRAGMENT, FRAGMENT_OFFSET_MASK, MORE_FRAGMENTS, RESERVED_FLAG};
use crate::ip6::{self, FragmentHeader};
use crate::{Header, Ip4Header, IpProtocol, checksum};

/// An IPv4 header.
#[derive(Debug, Clone)]
pub struct Ip4 {
    header: Ip4Header,
    options: Vec<u8>,
    protocol: Option<u8>,
    version: Option<u8>,
    ihl: Option<u8>,
    total_length: Option<u16>,
    checksum: Option<u16>,
}

impl Ip4 {
    pub(super) fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        Self {
            header: ip4::header(source, destination, IpProtocol(255), 64, 0),
            options: Vec::new(),
            protocol: None,
            version: None,
            ihl: None,
            total_length: None,
            checksum: None,
        }
    }

    fn flag(&mut self, flag: u16) {
        self.header.flags_fragment |= flag;
    }
}

impl Sealed for Ip4 {}

impl Layer for Ip4 {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let words = (Ip4Header::LEN + self.options.len()) / 4;
        let ihl = self.ihl.unwrap_or(words.min(15) as u8);
        let mut header = self.header;
        header.version_ihl = self.version.unwrap_or(4) << 4 | ihl & 0x0f;
        header.total_length = U16::new(self.total_length.unwrap_or(len16(words * 4 + inner.len())));
        header.protocol = self.protocol.map_or(header.protocol, IpProtocol);
        header.checksum = U16::ZERO;
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.options);
        let checksum = self.checksum.unwrap_or(checksum::checksum(&bytes));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
        prepend(&bytes, inner)
    }
}

impl NetworkLayer for Ip4 {
    fn set_protocol(&mut self, protocol: IpProtocol) {
        self.header.protocol = protocol;
    }

    fn addresses(&self) -> Addresses {
        Addresses::V4(self.header.source(), self.header.destination())
    }
}

impl Carrier for Ip4 {
    type Number = u8;

    fn set_number(&mut self, number: u8) {
        self.set_protocol(IpProtocol(number));
    }

    fn set_ip_version(&mut self, version: u8) {
        self.set_protocol(protocol_of_ip(version));
    }
}

impl Builder<Ip4> {
    /// Time to live, hops.
    pub fn ttl(self, ttl: u8) -> Self {
        self.with(|layer| layer.header.ttl = ttl)
    }

    /// Identification.
    pub fn id(self, id: u16) -> Self {
        self.with(|layer| layer.header.id = U16::new(id))
    }

    /// DSCP and ECN together.
    pub fn tos(self, tos: u8) -> Self {
        self.with(|layer| layer.header.tos = tos)
    }

    /// Sets "don't fragment".
    pub fn dont_fragment(self) -> Self {
        self.with(|layer| layer.flag(DONT_FRAGMENT))
    }

    /// Sets "more fragments".
    pub fn more_fragments(self) -> Self {
        self.with(|layer| layer.flag(MORE_FRAGMENTS))
    }

    /// Sets the reserved flag.
    pub fn reserved_flag(self) -> Self {
        self.with(|layer| layer.flag(RESERVED_FLAG))
    }

    /// Fragment offset, units of 8 bytes, 0 to 8191.
    pub fn fragment_offset(self, offset: u16) -> Self {
        self.with(|layer| {
            let flags = layer.header.flags_fragment.get() & !FRAGMENT_OFFSET_MASK;
            layer.header.flags_fragment = U16::new(flags | offset & FRAGMENT_OFFSET_MASK);
        })
    }

    /// Options, filled up with end-of-list bytes to whole words; more than 40 bytes make a malformed
    /// packet.
    pub fn options(self, options: &[u8]) -> Self {
        self.with(|layer| layer.options = padded_options(options))
    }

    /// Overrides the protocol number.
    pub fn protocol(self, protocol: u8) -> Self {
        self.with(|layer| layer.protocol = Some(protocol))
    }

    /// Overrides the version.
    pub fn version(self, version: u8) -> Self {
        self.with(|layer| layer.version = Some(version))
    }

    /// Overrides the header length, words of 32 bits.
    pub fn ihl(self, ihl: u8) -> Self {
        self.with(|layer| layer.ihl = Some(ihl))
    }

    /// Overrides the total length, bytes.
    pub fn total_length(self, length: u16) -> Self {
        self.with(|layer| layer.total_length = Some(length))
    }

    /// Overrides the header checksum.
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|layer| layer.checksum = Some(checksum))
    }
}

/// The fixed IPv6 header.
#[derive(Debug, Clone)]
pub struct Ip6 {
    source: Ipv6Addr,
    destination: Ipv6Addr,
    protocol: IpProtocol,
    default_hop_limit: u8,
    hop_limit: Option<u8>,
    traffic_class: u8,
    flow_label: u32,
    version: u8,
    next_header: Option<u8>,
    payload_length: Option<u16>,
}

impl Ip6 {
    pub(super) fn new(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        Self {
            source,
            destination,
            protocol: IpProtocol::NO_NEXT_HEADER,
            default_hop_limit: 64,
            hop_limit: None,
            traffic_class: 0,
            flow_label: 0,
            version: 6,
            next_header: None,
            payload_length: None,
        }
    }
}

impl Sealed for Ip6 {}

impl Layer for Ip6 {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let mut header = ip6::header(
            self.source,
            self.destination,
            self.next_header.map_or(self.protocol, IpProtocol),
            self.hop_limit.unwrap_or(self.default_hop_limit),
            self.payload_length.map_or(inner.len(), usize::from),
        );
        header.version_class_flow = U32::new(
            u32::from(self.version) << 28
                | u32::from(self.traffic_class) << 20
                | self.flow_label & 0x000f_ffff,
        );
        prepend(header.as_bytes(), inner)
    }
}

impl NetworkLayer for Ip6 {
    fn set_protocol(&mut self, protocol: IpProtocol) {
        self.protocol = protocol;
    }

    fn addresses(&self) -> Addresses {
        Addresses::V6(self.source, self.destination)
    }
}

impl Ip6Layer for Ip6 {
    fn default_hop_limit(&mut self, hop_limit: u8) {
        self.default_hop_limit = hop_limit;
    }
}

impl Carrier for Ip6 {
    type Number = u8;

    fn set_number(&mut self, number: u8) {
        self.set_protocol(IpProtocol(number));
    }

    fn set_ip_version(&mut self, version: u8) {
        self.set_protocol(protocol_of_ip(version));
    }
}

impl Builder<Ip6> {
    /// Hop limit.
    pub fn ttl(self, hop_limit: u8) -> Self {
        self.with(|layer| layer.hop_limit = Some(hop_limit))
    }

    /// Hop limit; the same as [`ttl`](Self::ttl).
    pub fn hop_limit(self, hop_limit: u8) -> Self {
        self.ttl(hop_limit)
    }

    /// DSCP and ECN together.
    pub fn traffic_class(self, class: u8) -> Self {
        self.with(|layer| layer.traffic_class = class)
    }

    /// Flow label, 20 bits.
    pub fn flow_label(self, label: u32) -> Self {
        self.with(|layer| layer.flow_label = label)
    }

    /// Overrides the version.
    pub fn version(self, version: u8) -> Self {
        self.with(|layer| layer.version = version)
    }

    /// Overrides the next header number.
    pub fn next_header(self, protocol: u8) -> Self {
        self.with(|layer| layer.next_header = Some(protocol))
    }

    /// Overrides the payload length, bytes.
    pub fn payload_length(self, length: u16) -> Self {
        self.with(|layer| layer.payload_length = Some(length))
    }
}

/// An IPv6 extension header.
#[derive(Debug, Clone)]
pub struct Extension {
    /// The header; its first byte names what follows.
    bytes: Vec<u8>,
    addresses: Addresses,
    protocol: IpProtocol,
    next_header: Option<u8>,
    length: Option<u8>,
}

impl Sealed for Extension {}

impl Layer for Extension {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes[0] = self.next_header.unwrap_or(self.protocol.0);
        if let Some(length) = self.length {
            bytes[1] = length;
        }
        prepend(&bytes, inner)
    }
}

impl NetworkLayer for Extension {
    fn set_protocol(&mut self, protocol: IpProtocol) {
        self.protocol = protocol;
    }

    fn addresses(&self) -> Addresses {
        self.addresses
    }
}

impl Ip6Layer for Extension {
    /// The fixed header is closed by now: set the hop limit there.
    fn default_hop_limit(&mut self, _: u8) {}
}

impl Carrier for Extension {
    type Number = u8;

    fn set_number(&mut self, number: u8) {
        self.set_protocol(IpProtocol(number));
    }

    fn set_ip_version(&mut self, version: u8) {
        self.set_protocol(protocol_of_ip(version));
    }
}

impl Builder<Extension> {
    /// Overrides the next header number.
    pub fn next_header(self, protocol: u8) -> Self {
        self.with(|layer| layer.next_header = Some(protocol))
    }

    /// Overrides the second byte: the length of options, routing and authentication headers.
    pub fn length(self, length: u8) -> Self {
        self.with(|layer| layer.length = Some(length))
    }
}

impl<L: Ip6Layer> Builder<L> {
    /// A hop-by-hop options header; options are filled up with padding options.
    pub fn hop_by_hop(self, options: &[u8]) -> Builder<Extension> {
        self.extension(IpProtocol::HOP_BY_HOP, options_header(options))
    }

    /// A destination options header; options are filled up with padding options.
    pub fn destination_options(self, options: &[u8]) -> Builder<Extension> {
        self.extension(IpProtocol::DESTINATION_OPTIONS, options_header(options))
    }

    /// A routing header; `data` is filled up with zeros.
    pub fn routing(self, kind: u8, segments_left: u8, data: &[u8]) -> Builder<Extension> {
        let mut bytes = vec![0, 0, kind, segments_left];
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes[1] = (bytes.len() / 8 - 1).min(255) as u8;
        self.extension(IpProtocol::ROUTING, bytes)
    }

    /// A fragment header; the offset is in units of 8 bytes, 0 to 8191.
    pub fn fragment(self, id: u32, offset: u16, more: bool) -> Builder<Extension> {
        let header = FragmentHeader {
            next_header: IpProtocol::NO_NEXT_HEADER,
            reserved: 0,
            offset_more: U16::new(offset << 3 | u16::from(more)),
            id: U32::new(id),
        };
        self.extension(IpProtocol::FRAGMENT, header.as_bytes().to_vec())
    }

    /// An authentication header (RFC 4302); the integrity check value is filled up with zeros.
    pub fn auth(self, spi: u32, sequence: u32, icv: &[u8]) -> Builder<Extension> {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&spi.to_be_bytes());
        bytes.extend_from_slice(&sequence.to_be_bytes());
        bytes.extend_from_slice(icv);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes[1] = (bytes.len() / 4 - 2).min(255) as u8;
        self.extension(IpProtocol::AH, bytes)
    }

    fn extension(self, protocol: IpProtocol, bytes: Vec<u8>) -> Builder<Extension> {
        let addresses = self.layer.addresses();
        self.with(|layer| layer.set_protocol(protocol))
            .push(Extension {
                bytes,
                addresses,
                protocol: IpProtocol::NO_NEXT_HEADER,
                next_header: None,
                length: None,
            })
    }
}

/// An options header around `options`, padded to whole units of 8 bytes.
fn options_header(options: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend_from_slice(options);
    match bytes.len().next_multiple_of(8) - bytes.len() {
        0 => {}
        1 => bytes.push(ip6::option::PAD1),
        missing => {
            bytes.extend([ip6::option::PADN, missing as u8 - 2]);
            bytes.resize(bytes.len() + missing - 2, 0);
        }
    }
    bytes[1] = (bytes.len() / 8 - 1).min(255) as u8;
    bytes
}

const fn protocol_of_ip(version: u8) -> IpProtocol {
    if version == 4 {
        IpProtocol::IP4
    } else {
        IpProtocol::IP6
    }
}
