//! The kernels that compare one packet with many rules, or one value with many borders, at once.
#![expect(
    unsafe_code,
    reason = "vector loads; AVX2 is part of the minimum CPU, other machines take the portable path"
)]

use super::lanes::{BLOCK, Block, Probe};

/// Borders of one node of a search tree.
pub const NODE: usize = 16;

/// A type whose borders are searched: ordered as a signed integer, so that AVX2 can compare.
pub trait Border: Copy + Ord {
    /// Behind every border.
    const PAD: Self;
    /// How many of `node` are below `key`. `node` is ascending.
    fn count_below(node: &[Self; NODE], key: Self) -> usize;
}

impl Border for i32 {
    const PAD: Self = Self::MAX;

    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    #[inline(always)]
    fn count_below(node: &[Self; NODE], key: Self) -> usize {
        use core::arch::x86_64::*;
        // JUSTIFICATION: two compares for sixteen borders; the compiler's own code is three times as long.
        // SAFETY: both loads lie within the 64 bytes of `node`; AVX2 is enabled for the whole build.
        let (low, high) = unsafe {
            let borders: *const __m256i = node.as_ptr().cast();
            (
                _mm256_loadu_si256(borders),
                _mm256_loadu_si256(borders.add(1)),
            )
        };
        // JUSTIFICATION: as above.
        // SAFETY: register operations; AVX2 is enabled for the whole build.
        unsafe {
            let key = _mm256_set1_epi32(key);
            let below =
                _mm256_packs_epi32(_mm256_cmpgt_epi32(key, low), _mm256_cmpgt_epi32(key, high));
            // Two bits of the mask for each border.
            _mm256_movemask_epi8(below).count_ones() as usize / 2
        }
    }

    #[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
    #[inline(always)]
    fn count_below(node: &[Self; NODE], key: Self) -> usize {
        count_below_portable(node, key)
    }
}

impl Border for i16 {
    const PAD: Self = Self::MAX;

    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    #[inline(always)]
    fn count_below(node: &[Self; NODE], key: Self) -> usize {
        use core::arch::x86_64::*;
        // JUSTIFICATION: as for `i32`.
        // SAFETY: the load covers the 32 bytes of `node`; AVX2 is enabled for the whole build.
        unsafe {
            let borders = _mm256_loadu_si256(node.as_ptr().cast());
            let below = _mm256_cmpgt_epi16(_mm256_set1_epi16(key), borders);
            _mm256_movemask_epi8(below).count_ones() as usize / 2
        }
    }

    #[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
    #[inline(always)]
    fn count_below(node: &[Self; NODE], key: Self) -> usize {
        count_below_portable(node, key)
    }
}

impl Border for i128 {
    const PAD: Self = Self::MAX;

    #[inline(always)]
    fn count_below(node: &[Self; NODE], key: Self) -> usize {
        count_below_portable(node, key)
    }
}

#[inline(always)]
fn count_below_portable<T: Border>(node: &[T; NODE], key: T) -> usize {
    node.iter().map(|border| usize::from(*border < key)).sum()
}

/// Bit `i` tells whether lane `i` of `block` matches `probe`.
#[inline(always)]
pub(super) fn matching_lanes<const W: usize, const P: usize, const N: usize>(
    block: &Block<W, P>,
    probe: &Probe<N>,
) -> u32 {
    const { assert!(W + 2 <= N && W + 2 <= 4 * P) }
    #[cfg(all(target_arch = "x86_64", target_feature = "avx2"))]
    {
        use core::arch::x86_64::*;
        let load = |lanes: &[u32; BLOCK]| {
            // JUSTIFICATION: there is no safe vector load.
            // SAFETY: `lanes` is 32 bytes; AVX2 is enabled for the whole build.
            unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
        };
        let packed: [__m256i; P] = std::array::from_fn(|at| load(&block.bytes[at]));
        // Behind the byte are those that stand above it in its word.
        let behind = |at: usize| {
            // JUSTIFICATION: as below.
            // SAFETY: register operations; AVX2 is enabled for the whole build.
            unsafe { _mm256_srl_epi32(packed[at / 4], _mm_cvtsi32_si128(8 * (at % 4) as i32)) }
        };
        // JUSTIFICATION: eight rules for the price of one; the compiler does not find this form.
        // SAFETY: register operations; AVX2 is enabled for the whole build.
        return unsafe {
            let byte = |at| _mm256_and_si256(behind(at), _mm256_set1_epi32(0xff));
            let protocol = _mm256_xor_si256(byte(W), splat(probe.words[W + 1]));
            let mut differs = _mm256_and_si256(protocol, behind(W + 1));
            for word in 0..W {
                let value = _mm256_xor_si256(load(&block.value[word]), splat(probe.words[word]));
                // A shift by 32 leaves nothing: the word does not matter.
                let value = _mm256_srlv_epi32(value, byte(word));
                differs = _mm256_or_si256(differs, value);
            }
            let below = _mm256_subs_epu16(load(&block.low), splat(probe.words[W]));
            let above = _mm256_subs_epu16(splat(probe.high), load(&block.high));
            differs = _mm256_or_si256(differs, _mm256_or_si256(below, above));
            let equal = _mm256_cmpeq_epi32(differs, _mm256_setzero_si256());
            _mm256_movemask_ps(_mm256_castsi256_ps(equal)) as u32
        };

        #[inline(always)]
        fn splat(value: u32) -> __m256i {
            // JUSTIFICATION: as above.
            // SAFETY: a register operation; AVX2 is enabled for the whole build.
            unsafe { _mm256_set1_epi32(value as i32) }
        }
    }
    #[cfg(not(all(target_arch = "x86_64", target_feature = "avx2")))]
    matching_lanes_portable(block, probe)
}

/// As [`matching_lanes`], in plain code.
#[cfg_attr(
    all(target_arch = "x86_64", target_feature = "avx2"),
    cfg_attr(
        not(test),
        expect(dead_code, reason = "for other machines and the test")
    )
)]
fn matching_lanes_portable<const W: usize, const P: usize, const N: usize>(
    block: &Block<W, P>,
    probe: &Probe<N>,
) -> u32 {
    let ports = probe.words[W];
    let within = |low: u32, high: u32| {
        low >> 16 <= ports >> 16
            && low & 0xffff <= ports & 0xffff
            && probe.high >> 16 <= high >> 16
            && probe.high & 0xffff <= high & 0xffff
    };
    let matches = |lane: usize| {
        let protocol = (u32::from(block.byte(W, lane)) ^ probe.words[W + 1])
            & u32::from(block.byte(W + 1, lane));
        let words = (0..W).all(|word| {
            let differs = u64::from(block.value[word][lane] ^ probe.words[word]);
            differs >> block.byte(word, lane) == 0
        });
        protocol == 0 && words && within(block.low[lane], block.high[lane])
    };
    (0..BLOCK)
        .map(|lane| u32::from(matches(lane)) << lane)
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn few() -> impl Strategy<Value = u32> {
        prop_oneof![
            Just(0),
            Just(u32::MAX),
            Just(0x0001_0000),
            Just(0x0001_0001),
            any::<u32>()
        ]
    }

    proptest! {
        #[test]
        fn blocks_agree_with_plain_code(
            value in prop::array::uniform2(prop::array::uniform8(few())),
            shift in prop::array::uniform2(prop::array::uniform8(prop_oneof![0u8..=32, Just(32)])),
            low in prop::array::uniform8(prop_oneof![Just(0), few()]),
            high in prop::array::uniform8(prop_oneof![Just(u32::MAX), few()]),
            protocol in prop::array::uniform8(0u8..3),
            matters in prop::array::uniform8(prop_oneof![Just(0u8), Just(255)]),
            words in prop::array::uniform2(few()),
            ports in (few(), few()),
            packet in 0u32..3,
        ) {
            let bytes = std::array::from_fn(|lane| {
                let [source, destination] = [shift[0][lane], shift[1][lane]];
                u32::from_le_bytes([source, destination, protocol[lane], matters[lane]])
            });
            let block = Block::<2, 1> { value, low, high, bytes: [bytes], ..Block::EMPTY };
            let words = [words[0], words[1], ports.0, packet];
            let probe = Probe { words, high: ports.1 };
            prop_assert_eq!(matching_lanes(&block, &probe), matching_lanes_portable(&block, &probe));
        }

        #[test]
        fn wide_blocks_agree_with_plain_code(
            mut block in prop::array::uniform8(prop::array::uniform8(few())),
            shift in prop::array::uniform8(prop::array::uniform8(prop_oneof![0u8..=32, Just(32)])),
            near in prop::array::uniform8(any::<prop::sample::Index>()),
            protocol in prop::array::uniform8((0u8..3, prop_oneof![Just(0u8), Just(255)])),
            mut words in prop::array::uniform16(few()),
            packet in 0u32..3,
        ) {
            // Words of the packet that one lane or another has too, or nearly.
            for word in 0..8 {
                words[word] = block[word][near[word].index(8)];
                block[word][0] = words[word] ^ 1;
            }
            words[9] = packet;
            let mut bytes = [[0; BLOCK]; 3];
            for lane in 0..BLOCK {
                let byte = |at: usize| shift[at][lane];
                bytes[0][lane] = u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)]);
                bytes[1][lane] = u32::from_le_bytes([byte(4), byte(5), byte(6), byte(7)]);
                bytes[2][lane] = u32::from_le_bytes([protocol[lane].0, protocol[lane].1, 0, 0]);
            }
            let block = Block::<8, 3> {
                value: block, bytes, low: [0; BLOCK], high: [u32::MAX; BLOCK], ..Block::EMPTY
            };
            let probe = Probe { words, high: words[8] };
            prop_assert_eq!(matching_lanes(&block, &probe), matching_lanes_portable(&block, &probe));
        }

        #[test]
        fn nodes_agree_with_plain_code(mut wide: [i32; NODE], mut short: [i16; NODE], key: i32) {
            wide.sort_unstable();
            short.sort_unstable();
            for key in [key, wide[3], wide[15], i32::MIN, i32::MAX] {
                prop_assert_eq!(i32::count_below(&wide, key), count_below_portable(&wide, key));
            }
            for key in [key as i16, short[3], short[15], i16::MIN, i16::MAX] {
                prop_assert_eq!(i16::count_below(&short, key), count_below_portable(&short, key));
            }
        }
    }
}
