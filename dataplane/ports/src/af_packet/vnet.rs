//! The virtio-net header that travels in front of every packet of a port, and what it means to the engine.
//!
//! ```text
//!  0       1          2         4          6            8              10
//!  ├───────┼──────────┼─────────┼──────────┼────────────┼───────────────┤
//!  │ flags │ gso_type │ hdr_len │ gso_size │ csum_start │ csum_offset   │   integers in the machine's byte order
//!  └───────┴──────────┴─────────┴──────────┴────────────┴───────────────┘
//! ```
//!
//! Source: virtio 1.2 section 5.1.6; `<linux/virtio_net.h>`; packet(7) `PACKET_VNET_HDR`.

use dataplane::{Offload, Segmentation};

/// `flags`: the sum over `csum_start..` is to be stored `csum_offset` bytes behind it.
const NEEDS_CHECKSUM: u8 = 1;
/// `flags`: the sum was verified.
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Bit of `gso_type`: the train carries ECN's CWR.
const GSO_ECN: u8 = 0x80;

/// The header's fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct VnetHeader {
    pub(super) flags: u8,
    pub(super) gso_type: u8,
    pub(super) header_length: u16,
    pub(super) gso_size: u16,
    pub(super) checksum_start: u16,
    pub(super) checksum_offset: u16,
}

/// What a received header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Meaning {
    pub(super) offload: Option<Offload>,
    /// The layer-4 checksum needs no verification.
    pub(super) checksum_good: bool,
}

impl VnetHeader {
    pub(super) const SIZE: usize = 10;

    pub(super) fn parse(bytes: &[u8; Self::SIZE]) -> Self {
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_length: half(2),
            gso_size: half(4),
            checksum_start: half(6),
            checksum_offset: half(8),
        }
    }

    pub(super) fn emit(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        bytes[2..4].copy_from_slice(&self.header_length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }

    /// What the header of a received packet of `length` bytes says, with positions counted from `base` bytes in front of the
    /// frame's first; `None` for one that contradicts itself or asks for what the engine does not know.
    pub(super) fn meaning(&self, base: u16, length: usize) -> Option<Meaning> {
        let segmentation = match self.gso_type & !GSO_ECN {
            GSO_NONE => Segmentation::None,
            GSO_TCP4 => Segmentation::Tcp4,
            GSO_TCP6 => Segmentation::Tcp6,
            GSO_UDP_L4 => Segmentation::Udp,
            _ => return None,
        };
        let checksum = self.flags & NEEDS_CHECKSUM != 0;
        let segmented = segmentation != Segmentation::None;
        if segmented && self.gso_size == 0 {
            return None;
        }
        if !checksum && !segmented {
            return Some(Meaning {
                offload: None,
                checksum_good: self.flags & DATA_VALID != 0,
            });
        }
        let mut offload = Offload {
            segmentation,
            checksum,
            ecn: segmented && self.gso_type & GSO_ECN != 0,
            segment_size: if segmented { self.gso_size } else { 0 },
            checksum_start: 0,
            checksum_field: 0,
        };
        if checksum {
            let (start, offset) = (self.checksum_start, self.checksum_offset);
            if usize::from(start) + usize::from(offset) + 2 > length {
                return None;
            }
            offload.checksum_start = base.checked_add(start)?;
            offload.checksum_field = offload.checksum_start.checked_add(offset)?;
        }
        Some(Meaning {
            offload: Some(offload),
            checksum_good: checksum || self.flags & DATA_VALID != 0,
        })
    }

    /// The header for a packet to send: its work left undone, the position of its first byte, and the bytes of its first
    /// buffer.
    pub(super) fn of(offload: &Offload, position: u16, bytes: &[u8]) -> Self {
        let mut header = Self::default();
        if offload.checksum {
            header.flags = NEEDS_CHECKSUM;
            header.checksum_start = offload.checksum_start.saturating_sub(position);
            header.checksum_offset = offload
                .checksum_field
                .saturating_sub(offload.checksum_start);
        }
        let start = usize::from(header.checksum_start);
        let (gso_type, layer4) = match offload.segmentation {
            Segmentation::None => return header,
            // The data offset, in units of four bytes: RFC 9293 section 3.1.
            Segmentation::Tcp4 => (GSO_TCP4, tcp_header(bytes, start)),
            Segmentation::Tcp6 => (GSO_TCP6, tcp_header(bytes, start)),
            Segmentation::Udp => (GSO_UDP_L4, 8),
        };
        header.gso_type = gso_type | if offload.ecn { GSO_ECN } else { 0 };
        header.gso_size = offload.segment_size;
        // The kernel puts this much of the packet in one piece; headers that lie apart cost the receiver a copy.
        let headers = if offload.checksum {
            start + layer4
        } else {
            128
        };
        header.header_length = headers.min(bytes.len()) as u16;
        header
    }
}

fn tcp_header(bytes: &[u8], start: usize) -> usize {
    bytes
        .get(start + 12)
        .map_or(20, |byte| usize::from(byte >> 4) * 4)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tcp_train_is_described_as_the_kernel_does() {
        // Ethernet 14, IPv4 20, TCP 32: positions from the frame's first byte.
        let header = VnetHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: GSO_TCP4 | GSO_ECN,
            header_length: 66,
            gso_size: 1448,
            checksum_start: 34,
            checksum_offset: 16,
        };
        let meaning = header.meaning(128, 3000).expect("valid");
        assert!(meaning.checksum_good);
        let offload = meaning.offload.expect("work is left");
        assert_eq!((offload.checksum_start, offload.checksum_field), (162, 178));
        assert_eq!(
            (offload.segmentation, offload.segment_size, offload.ecn),
            (Segmentation::Tcp4, 1448, true)
        );
        let mut bytes = [0; 2048];
        bytes[34 + 12] = 0x80;
        assert_eq!(VnetHeader::of(&offload, 128, &bytes), header);
        // Four bytes were pushed in front: the layer-4 header is four bytes later in the frame.
        assert_eq!(VnetHeader::of(&offload, 124, &bytes).checksum_start, 38);
    }

    #[test]
    fn nonsense_is_refused() {
        let train = VnetHeader {
            gso_type: GSO_TCP4,
            gso_size: 1,
            ..VnetHeader::default()
        };
        assert!(train.meaning(128, 100).is_some());
        assert_eq!(
            VnetHeader {
                gso_size: 0,
                ..train
            }
            .meaning(128, 100),
            None
        );
        assert_eq!(
            VnetHeader {
                gso_type: 3,
                ..train
            }
            .meaning(128, 100),
            None,
            "UFO is gone"
        );
        assert_eq!(
            VnetHeader {
                gso_type: 0x7f,
                ..train
            }
            .meaning(128, 100),
            None
        );
        let sum = VnetHeader {
            flags: NEEDS_CHECKSUM,
            checksum_start: 90,
            checksum_offset: 8,
            ..VnetHeader::default()
        };
        assert!(sum.meaning(128, 100).is_some());
        assert_eq!(
            sum.meaning(128, 99),
            None,
            "the field lies behind the packet"
        );
        assert_eq!(
            VnetHeader {
                checksum_start: u16::MAX,
                ..sum
            }
            .meaning(128, 70_000),
            None
        );
        let valid = VnetHeader {
            flags: DATA_VALID,
            ..VnetHeader::default()
        };
        assert_eq!(
            valid.meaning(128, 60),
            Some(Meaning {
                offload: None,
                checksum_good: true
            })
        );
    }

    proptest! {
        #[test]
        fn any_ten_bytes_are_a_meaning_or_refused(bytes: [u8; 10], base in 0u16..256, length in 0usize..70_000) {
            let header = VnetHeader::parse(&bytes);
            prop_assert_eq!(header.emit(), bytes);
            let Some(Meaning { offload: Some(offload), .. }) = header.meaning(base, length) else { return Ok(()) };
            if offload.checksum {
                prop_assert!(usize::from(offload.checksum_field - base) + 2 <= length);
            }
            let back = VnetHeader::of(&offload, base, &vec![0x50; length.min(2048)]);
            prop_assert!(usize::from(back.header_length) <= length);
            // What is sent on says the same as what was received.
            prop_assert_eq!(back.meaning(base, length).map(|meaning| meaning.offload), Some(Some(offload)));
        }
    }
}
