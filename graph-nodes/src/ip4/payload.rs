//! Sums over the payload of packets that may lie in several buffers.

use dataplane::{Buffers, Descriptor};
use wire::checksum::Sum;

/// Adds `length` bytes of a packet, from `skip` bytes behind its current header on, to a sum. What the packet does not have is
/// not added: callers compare lengths before.
pub fn add(
    mut sum: Sum,
    buffers: &Buffers,
    packet: &Descriptor,
    skip: usize,
    length: usize,
) -> Sum {
    let (mut skip, mut left) = (skip, length);
    for segment in buffers.segments(packet) {
        let part = segment.get(skip..).unwrap_or_default();
        skip = skip.saturating_sub(segment.len());
        let part = &part[..part.len().min(left)];
        sum = sum.bytes(part);
        left -= part.len();
        if left == 0 {
            break;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use dataplane::{Pages, Pool};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_the_sum_over_one_slice(length in 0usize..6000, skip in 0usize..6000, take in 0usize..6000) {
            let pool = Pool::new(8, Pages::Transparent).expect("a pool");
            let mut buffers = pool.cache();
            let bytes: Vec<u8> = (0..length).map(|i| (i * 31 + i / 255) as u8).collect();
            let packet = buffers.copy_from(&bytes).expect("buffers");
            let from = skip.min(length);
            let expected = Sum::new().word16(7).bytes(&bytes[from..(from + take).min(length)]).folded();
            prop_assert_eq!(add(Sum::new().word16(7), &buffers, &packet, skip, take).folded(), expected);
            buffers.free(packet);
        }
    }
}
