//! Ports and checksums of the transports: what both directions change in the same way.

use super::{Ports, Refusal};
use crate::IpProtocol;
use crate::checksum::{Delta, fold, udp_value};

/// Datagram congestion control protocol (RFC 4340).
const DCCP: IpProtocol = IpProtocol(33);
/// Lightweight UDP (RFC 3828).
const UDP_LITE: IpProtocol = IpProtocol(136);

/// A transport whose checksum covers a pseudo-header.
#[derive(Clone, Copy)]
pub(super) struct Transport {
    /// Where its checksum is, bytes.
    checksum_at: usize,
    /// Length of its fixed header, bytes.
    header_len: usize,
    /// Whether a checksum of zero says that there is none.
    zero_means_none: bool,
    /// Whether a checksum of zero is written as 0xffff.
    no_zero: bool,
}

impl Transport {
    /// The transport of a protocol number; `None` for protocols that pass unchanged.
    #[inline]
    pub(super) fn of(protocol: IpProtocol) -> Option<Self> {
        let (checksum_at, header_len) = match protocol {
            IpProtocol::TCP => (16, 20),
            IpProtocol::UDP | UDP_LITE => (6, 8),
            DCCP => (6, 12),
            _ => return None,
        };
        Some(Self {
            checksum_at,
            header_len,
            zero_means_none: protocol == IpProtocol::UDP,
            no_zero: protocol == IpProtocol::UDP || protocol == UDP_LITE,
        })
    }

    /// Whether `payload` holds the header.
    ///
    /// # Errors
    /// `TinyFragment`, or `Truncated` if the packet is whole.
    #[inline]
    pub(super) fn check(self, payload: &[u8], is_fragment: bool) -> Result<(), Refusal> {
        if payload.len() >= self.header_len {
            Ok(())
        } else if is_fragment {
            Err(Refusal::TinyFragment)
        } else {
            Err(Refusal::Truncated)
        }
    }

    /// Whether the sender computed no checksum.
    #[inline]
    pub(super) fn lacks_checksum(self, payload: &[u8]) -> bool {
        self.zero_means_none && word(payload, self.checksum_at) == Some(0)
    }

    /// Replaces the ports by those in `new` and adjusts the checksum to them and to the addresses. What lies beyond the
    /// end of `payload`, as in a packet quoted in an ICMP error, is left out.
    #[inline]
    pub(super) fn rewrite(self, payload: &mut [u8], new: [u8; 4], addresses: Delta) {
        let Some(ports) = payload.first_chunk_mut::<4>() else {
            return;
        };
        // One sum of everything in the machine's byte order, as in `checksum`.
        let old = u32::from_ne_bytes(*ports);
        let new_ports = u32::from_ne_bytes(new);
        *ports = new;
        let Some(Ok(field)) = payload
            .get_mut(self.checksum_at..self.checksum_at + 2)
            .map(<&mut [u8; 2]>::try_from)
        else {
            return;
        };
        let checksum = u16::from_ne_bytes(*field);
        if self.zero_means_none && checksum == 0 {
            return;
        }
        let sum = u64::from(!checksum)
            + u64::from(addresses.to_bits().to_be())
            + u64::from(!old)
            + u64::from(new_ports);
        let mut checksum = !fold(sum);
        if self.no_zero {
            checksum = udp_value(checksum);
        }
        *field = checksum.to_ne_bytes();
    }

    /// Whether `payload` holds the whole header of a TCP or UDP packet with a checksum: what most packets
    /// are, and what is translated without looking further.
    #[inline]
    pub(super) fn plain(protocol: IpProtocol, payload: &[u8]) -> Option<Self> {
        let transport = match protocol {
            IpProtocol::TCP | IpProtocol::UDP => Self::of(protocol)?,
            _ => return None,
        };
        let fits = payload.len() >= transport.header_len;
        (fits && !transport.lacks_checksum(payload)).then_some(transport)
    }
}

/// The ports in front of a transport's payload.
#[inline]
pub(super) fn ports(payload: &[u8]) -> Option<Ports> {
    payload
        .first_chunk::<4>()
        .map(|bytes| Ports::from_bytes(*bytes))
}

/// The 16-bit word at an offset.
#[inline]
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u16> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}
