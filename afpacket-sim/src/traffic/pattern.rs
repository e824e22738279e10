//! Pseudo-random content by position, so that a receiver can tell what any byte of a stream has to be.

/// A pseudo-random stream of bytes, named by its seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pattern {
    seed: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed: mix(seed) }
    }

    /// Writes the bytes of the stream from position `offset` on.
    pub(crate) fn fill(self, offset: u64, buffer: &mut [u8]) {
        self.each_word(offset, buffer.len(), |range, bytes| {
            buffer[range].copy_from_slice(bytes)
        });
    }

    /// Where `bytes`, which begin at position `offset`, first differ from the stream.
    pub(crate) fn first_difference(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut differs = None;
        self.each_word(offset, bytes.len(), |range, expected| {
            if differs.is_none() && bytes[range.clone()] != *expected {
                let within = bytes[range.clone()]
                    .iter()
                    .zip(expected)
                    .position(|(a, b)| a != b);
                differs = within.map(|within| offset + (range.start + within) as u64);
            }
        });
        differs
    }

    /// Walks over `length` bytes from `offset` in pieces of at most one word.
    fn each_word(
        self,
        offset: u64,
        length: usize,
        mut visit: impl FnMut(std::ops::Range<usize>, &[u8]),
    ) {
        let mut at = 0;
        while at < length {
            let position = offset + at as u64;
            let skip = (position % 8) as usize;
            let word = mix(self.seed ^ (position / 8)).to_le_bytes();
            let take = (8 - skip).min(length - at);
            visit(at..at + take, &word[skip..skip + take]);
            at += take;
        }
    }
}

/// The finalizer of splitmix64: a bijection whose output bits all depend on all input bits.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Pattern;

    proptest! {
        #[test]
        fn any_cut_of_the_stream_is_the_same(start in 0_u64..100, length in 0_usize..100) {
            let pattern = Pattern::new(7);
            let mut whole = [0; 200];
            pattern.fill(0, &mut whole);
            let mut piece = vec![0; length];
            pattern.fill(start, &mut piece);
            prop_assert_eq!(&piece[..], &whole[start as usize..start as usize + length]);
            prop_assert_eq!(pattern.first_difference(start, &piece), None);
        }

        #[test]
        fn a_changed_byte_is_found(offset in 0_u64..1000, at in 0_usize..100, change in 1_u8..) {
            let pattern = Pattern::new(8);
            let mut bytes = [0; 100];
            pattern.fill(offset, &mut bytes);
            bytes[at] ^= change;
            prop_assert_eq!(pattern.first_difference(offset, &bytes), Some(offset + at as u64));
        }
    }

    #[test]
    fn seeds_differ() {
        let mut bytes = [0; 64];
        Pattern::new(1).fill(0, &mut bytes);
        assert_eq!(Pattern::new(2).first_difference(0, &bytes), Some(0));
    }
}
