//! Layer-4 checksums that were left to whoever sends the packet.

use dataplane::{Buffers, Descriptor, Offload};
use wire::checksum::{Sum, udp_value};

/// Distance from a UDP header's start to its checksum; TCP's is 16, ICMPv6's 2.
const UDP_FIELD: u16 = 6;

/// Fills in the checksum that `offload` describes: the sum over everything from `checksum_start` to the end of the last segment,
/// where the field holds the pseudo-header's sum already (virtio 1.2 section 5.1.6.2). The descriptor's offload stays as it is:
/// the caller says what is left to do.
///
/// False, with the packet untouched, where the positions lie outside the packet's first buffer or contradict each other.
#[must_use]
pub fn fill(buffers: &Buffers, packet: &mut Descriptor, offload: &Offload) -> bool {
    let Some((start, field)) = positions(packet, offload) else {
        return false;
    };
    let mut sum = Sum::new();
    let mut skip = start;
    for segment in buffers.segments(packet) {
        // Only the first segment is skipped into: `start` lies inside it.
        sum = sum.bytes(segment.get(skip..).unwrap_or_default());
        skip = 0;
    }
    let value = if offload.checksum_field - offload.checksum_start == UDP_FIELD {
        sum.udp_checksum()
    } else {
        sum.checksum()
    };
    if let Some(bytes) = buffers.bytes_mut(packet).get_mut(field..field + 2) {
        bytes.copy_from_slice(&value.to_be_bytes());
    }
    true
}

/// Start of the sum and place of the checksum, in bytes from the current header; `None` where they are not in the first buffer.
pub fn positions(packet: &Descriptor, offload: &Offload) -> Option<(usize, usize)> {
    let start = offload.checksum_start.checked_sub(packet.position())?;
    let field = offload.checksum_field.checked_sub(packet.position())?;
    let (start, field) = (usize::from(start), usize::from(field));
    (start <= field && field + 2 <= packet.length()).then_some((start, field))
}

/// A finished sum as a layer-4 header stores it. Zero says "no checksum" in UDP (RFC 768).
pub(crate) fn stored(sum: Sum, udp: bool) -> u16 {
    if udp {
        udp_value(sum.checksum())
    } else {
        sum.checksum()
    }
}

#[cfg(test)]
mod tests {
    use dataplane::{Pages, Pool};
    use proptest::prelude::*;

    use super::*;

    fn offload(start: u16, field: u16) -> Offload {
        Offload {
            checksum: true,
            checksum_start: start,
            checksum_field: field,
            ..Offload::default()
        }
    }

    #[test]
    fn a_zero_sum_is_stored_as_ones_by_udp_alone() {
        let pool = Pool::new(4, Pages::Transparent).expect("a pool");
        let mut buffers = pool.cache();
        for (field, expected) in [(6, [0xff, 0xff]), (16, [0, 0])] {
            let mut bytes = [0; 24];
            bytes[0..2].copy_from_slice(&[0xff, 0xff]);
            let mut packet = buffers.copy_from(&bytes).expect("a buffer");
            let base = packet.position();
            assert!(fill(&buffers, &mut packet, &offload(base, base + field)));
            let at = usize::from(field);
            assert_eq!(buffers.bytes(&packet)[at..at + 2], expected);
            buffers.free(packet);
        }
        drop(buffers);
        pool.audit().expect("balanced");
    }

    proptest! {
        #[test]
        fn any_positions_are_filled_or_refused(
            length in 0usize..5000, start in 100u16..2500, field in 100u16..2500, skip in 0usize..64
        ) {
            let pool = Pool::new(8, Pages::Transparent).expect("a pool");
            let mut buffers = pool.cache();
            let bytes: Vec<u8> = (0..length).map(|i| (i * 7 + i / 256) as u8).collect();
            let mut packet = buffers.copy_from(&bytes).expect("buffers");
            let skip = if packet.advance(skip) { skip } else { 0 };
            let position = packet.position();
            let inside = start >= position && field >= start && usize::from(field - position) + 2 <= packet.length();
            prop_assert_eq!(fill(&buffers, &mut packet, &offload(start, field)), inside);
            let mut expected = bytes[skip..].to_vec();
            if inside {
                let (start, at) = (usize::from(start - position), usize::from(field - position));
                let sum = wire::checksum::checksum(&expected[start..]);
                let sum = if at - start == 6 { udp_value(sum) } else { sum };
                expected[at..at + 2].copy_from_slice(&sum.to_be_bytes());
            }
            let after: Vec<u8> = buffers.segments(&packet).flatten().copied().collect();
            prop_assert_eq!(after, expected);
            buffers.free(packet);
        }
    }
}
