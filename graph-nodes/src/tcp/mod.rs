//! TCP: what this node says to those whose segments are rejected.

pub mod tcp4_reset;
pub mod tcp6_reset;

use wire::checksum::Sum;
use wire::{Header, TcpFlags, TcpHeader};

pub use tcp4_reset::Tcp4Reset;
pub use tcp6_reset::Tcp6Reset;

/// What a segment says, as far as its answer depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Segment {
    /// Source and destination.
    ports: (u16, u16),
    seq: u32,
    ack: u32,
    flags: TcpFlags,
    /// Bytes of header and options.
    header: usize,
}

impl Segment {
    /// From the bytes behind the IP header; `None` where they are no whole TCP header.
    fn read(bytes: &[u8]) -> Option<Self> {
        let header = TcpHeader::view(bytes).ok()?;
        Some(Self {
            ports: (header.src_port.get(), header.dst_port.get()),
            seq: header.seq.get(),
            ack: header.ack.get(),
            flags: header.flags,
            header: header.header_len(),
        })
    }

    /// The reset that a closed port answers a segment of `length` bytes with, header and all, which has no reset flag itself:
    /// RFC 9293 section 3.10.7.1. Without checksum.
    fn reset(&self, length: usize) -> TcpHeader {
        let (seq, ack, flags) = if self.flags.contains(TcpFlags::ACK) {
            (self.ack, 0, TcpFlags::RST)
        } else {
            let controls = [TcpFlags::SYN, TcpFlags::FIN];
            let controls = controls.iter().filter(|flag| self.flags.contains(**flag));
            // Sequence numbers wrap; a segment is not longer than 65535 bytes.
            let count = (length.saturating_sub(self.header) + controls.count()) as u32;
            (
                0,
                self.seq.wrapping_add(count),
                TcpFlags::RST | TcpFlags::ACK,
            )
        };
        TcpHeader {
            src_port: self.ports.1.into(),
            dst_port: self.ports.0.into(),
            seq: seq.into(),
            ack: ack.into(),
            data_offset_reserved: (TcpHeader::LEN as u8 / 4) << 4,
            flags,
            window: 0.into(),
            checksum: 0.into(),
            urgent: 0.into(),
        }
    }
}

/// Writes a header to the start of `out`, which has room for it and for nothing more, with its checksum over a pseudo-header.
fn write(header: TcpHeader, pseudo: Sum, out: &mut [u8]) {
    let Ok(place) = TcpHeader::view_mut(out) else {
        return;
    };
    *place = header;
    let checksum = pseudo.bytes(out).checksum();
    if let Ok(place) = TcpHeader::view_mut(out) {
        place.checksum.set(checksum);
    }
}
