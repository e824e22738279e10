//! UDP, TCP and bytes of any other protocol.

use zerocopy::IntoBytes;
use zerocopy::big_endian::{U16, U32};

use super::sealed::Sealed;
use super::{Addresses, Builder, Layer, NetworkLayer, len16, padded_options, prepend};
use crate::{Header, IpProtocol, TcpFlags, TcpHeader, UdpHeader};

/// A UDP header.
#[derive(Debug, Clone)]
pub struct Udp {
    addresses: Addresses,
    src_port: u16,
    dst_port: u16,
    length: Option<u16>,
    checksum: Option<u16>,
}

impl Sealed for Udp {}

impl Layer for Udp {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let length = UdpHeader::LEN + inner.len();
        let header = UdpHeader {
            src_port: U16::new(self.src_port),
            dst_port: U16::new(self.dst_port),
            length: U16::new(self.length.unwrap_or(len16(length))),
            checksum: U16::ZERO,
        };
        let mut bytes = prepend(header.as_bytes(), inner);
        let checksum = self.checksum.unwrap_or_else(|| {
            self.addresses
                .pseudo_header(IpProtocol::UDP, length)
                .bytes(&bytes)
                .udp_checksum()
        });
        bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Builder<Udp> {
    /// Overrides the length, bytes.
    pub fn length(self, length: u16) -> Self {
        self.with(|layer| layer.length = Some(length))
    }

    /// Overrides the checksum.
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|layer| layer.checksum = Some(checksum))
    }

    /// Sends no checksum: the field is 0.
    pub fn no_checksum(self) -> Self {
        self.checksum(0)
    }
}

/// A TCP header.
#[derive(Debug, Clone)]
pub struct Tcp {
    addresses: Addresses,
    header: TcpHeader,
    options: Vec<u8>,
    data_offset: Option<u8>,
    checksum: Option<u16>,
}

impl Sealed for Tcp {}

impl Layer for Tcp {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        let words = ((TcpHeader::LEN + self.options.len()) / 4).min(15) as u8;
        let mut header = self.header;
        header.data_offset_reserved |= self.data_offset.unwrap_or(words) << 4;
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&self.options);
        let mut bytes = prepend(&bytes, inner);
        let checksum = self.checksum.unwrap_or_else(|| {
            self.addresses
                .pseudo_header(IpProtocol::TCP, bytes.len())
                .bytes(&bytes)
                .checksum()
        });
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }
}

impl Builder<Tcp> {
    /// Sequence number.
    pub fn seq(self, seq: u32) -> Self {
        self.with(|layer| layer.header.seq = U32::new(seq))
    }

    /// Acknowledgment number; sets the ACK flag only if [`flags`](Self::flags) does.
    pub fn ack(self, ack: u32) -> Self {
        self.with(|layer| layer.header.ack = U32::new(ack))
    }

    /// Flags; ACK by default.
    pub fn flags(self, flags: TcpFlags) -> Self {
        self.with(|layer| layer.header.flags = flags)
    }

    /// Reserved bits and accurate ECN: the low four bits beside the data offset.
    pub fn reserved(self, bits: u8) -> Self {
        self.with(|layer| layer.header.data_offset_reserved = bits & 0x0f)
    }

    /// Window; 65535 by default.
    pub fn window(self, window: u16) -> Self {
        self.with(|layer| layer.header.window = U16::new(window))
    }

    /// Urgent pointer.
    pub fn urgent(self, urgent: u16) -> Self {
        self.with(|layer| layer.header.urgent = U16::new(urgent))
    }

    /// Options, filled up with end-of-list bytes to whole words; more than 40 bytes make a malformed
    /// segment.
    pub fn options(self, options: &[u8]) -> Self {
        self.with(|layer| layer.options = padded_options(options))
    }

    /// Overrides the data offset, words of 32 bits.
    pub fn data_offset(self, words: u8) -> Self {
        self.with(|layer| layer.data_offset = Some(words))
    }

    /// Overrides the checksum.
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|layer| layer.checksum = Some(checksum))
    }
}

/// Bytes without a header of their own.
#[derive(Debug, Clone)]
pub struct Raw;

impl Sealed for Raw {}

impl Layer for Raw {
    fn wrap(&self, inner: Vec<u8>) -> Vec<u8> {
        inner
    }
}

impl<L: NetworkLayer> Builder<L> {
    /// A UDP header.
    pub fn udp(self, src_port: u16, dst_port: u16) -> Builder<Udp> {
        let addresses = self.layer.addresses();
        self.transport(
            IpProtocol::UDP,
            Udp {
                addresses,
                src_port,
                dst_port,
                length: None,
                checksum: None,
            },
        )
    }

    /// A TCP header: flags ACK, window 65535, numbers 0.
    pub fn tcp(self, src_port: u16, dst_port: u16) -> Builder<Tcp> {
        let addresses = self.layer.addresses();
        let header = TcpHeader {
            src_port: U16::new(src_port),
            dst_port: U16::new(dst_port),
            seq: U32::ZERO,
            ack: U32::ZERO,
            data_offset_reserved: 0,
            flags: TcpFlags::ACK,
            window: U16::new(65535),
            checksum: U16::ZERO,
            urgent: U16::ZERO,
        };
        self.transport(
            IpProtocol::TCP,
            Tcp {
                addresses,
                header,
                options: Vec::new(),
                data_offset: None,
                checksum: None,
            },
        )
    }

    pub(super) fn transport<M: Layer>(self, protocol: IpProtocol, layer: M) -> Builder<M> {
        self.with(|network| network.set_protocol(protocol))
            .push(layer)
    }
}
