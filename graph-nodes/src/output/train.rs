//! Segment trains: where their headers are.

use dataplane::{Buffers, Descriptor, Offload, Segmentation};
use wire::vlan::parse_vlans;
use wire::{EtherType, Header, Ip4Header, Ip6Header, IpProtocol, TcpHeader, UdpHeader};

/// The network header of a train.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Network {
    Ip4,
    Ip6,
}

/// A frame that stands for many: positions in bytes from its Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Train {
    pub(super) network: Network,
    pub(super) udp: bool,
    /// The IP header.
    pub(super) ip: usize,
    /// The TCP or UDP header.
    pub(super) layer4: usize,
    /// All headers together.
    pub(super) headers: usize,
    /// Bytes behind the headers, link-layer padding aside.
    pub(super) payload: usize,
    /// Bytes of payload in each segment, at least 1.
    pub(super) segment: usize,
}

/// The longest headers that segments can have, in bytes: half a buffer.
const MAX_HEADERS: usize = dataplane::DATA_SIZE / 2;

impl Train {
    /// The train that `packet` is; `None` where the headers do not lie in the first buffer whole, contradict each other, or are not
    /// what `offload` says.
    pub(super) fn of(packet: &Descriptor, buffers: &Buffers, offload: &Offload) -> Option<Self> {
        let train = Self::parse(buffers.bytes(packet), buffers.total_length(packet), offload)?;
        let here = usize::from(packet.position());
        let agrees = usize::from(offload.checksum_start) == here + train.layer4
            && usize::from(offload.checksum_field) == here + train.checksum_field();
        (agrees || !offload.checksum).then_some(train)
    }

    /// As [`Train::of`] for the first buffer's bytes and the length of the frame, wherever the checksum is.
    fn parse(bytes: &[u8], total: usize, offload: &Offload) -> Option<Self> {
        let tagged = parse_vlans(bytes).ok()?;
        let ip = tagged.offset;
        let room = total.checked_sub(ip)?;
        let (network, protocol, layer4, ip_length) = match tagged.ethertype {
            EtherType::IP4 => {
                let (header, _) = Ip4Header::parse(tagged.rest).ok()?;
                if header.is_fragment() {
                    return None;
                }
                let length = usize::from(header.total_length.get());
                let layer4 = ip + header.header_len();
                (Network::Ip4, header.protocol, layer4, length)
            }
            EtherType::IP6 => {
                let (header, payload) = Ip6Header::parse(tagged.rest).ok()?;
                let limit = wire::ip6::DEFAULT_EXTENSION_LIMIT;
                let chain = wire::ip6::walk_extensions(header.next_header, payload, limit);
                if chain.fault.is_some() || chain.fragment.is_some() {
                    return None;
                }
                let length = match usize::from(header.payload_length.get()) {
                    // With hop-by-hop options it would be a jumbogram (RFC 2675), whose option no segment may carry.
                    0 if header.next_header == IpProtocol::HOP_BY_HOP => return None,
                    0 => 0,
                    length => Ip6Header::LEN + length,
                };
                let layer4 = ip + Ip6Header::LEN + chain.offset;
                (Network::Ip6, chain.protocol, layer4, length)
            }
            _ => return None,
        };
        // A length of zero is how trains of more than 64 KiB are written: they reach to the end of the frame.
        let end = match ip_length {
            0 => total,
            length if length <= room => ip + length,
            _ => return None,
        };
        let rest = bytes.get(layer4..)?;
        let (udp, layer4_length) = match (offload.segmentation, network, protocol) {
            (Segmentation::Tcp4, Network::Ip4, IpProtocol::TCP)
            | (Segmentation::Tcp6, Network::Ip6, IpProtocol::TCP) => {
                let length = TcpHeader::view(rest).ok()?.header_len();
                (false, length)
            }
            (Segmentation::Udp, _, IpProtocol::UDP) => (true, UdpHeader::LEN),
            _ => return None,
        };
        let headers = layer4 + layer4_length;
        let minimum = if udp { UdpHeader::LEN } else { TcpHeader::LEN };
        if layer4_length < minimum || headers > bytes.len().min(MAX_HEADERS) {
            return None;
        }
        let payload = end.checked_sub(headers)?;
        let segment = usize::from(offload.segment_size);
        // Each segment has a length field of 16 bits.
        if segment == 0 || headers - ip + segment.min(payload) > usize::from(u16::MAX) {
            return None;
        }
        Some(Self {
            network,
            udp,
            ip,
            layer4,
            headers,
            payload,
            segment,
        })
    }

    /// The longest frame that it turns into, in bytes.
    pub(super) fn longest_frame(&self) -> usize {
        self.headers + self.segment.min(self.payload)
    }

    /// Where the checksum stands in its layer-4 header.
    pub(super) fn checksum_field(&self) -> usize {
        self.layer4 + if self.udp { 6 } else { 16 }
    }
}
