//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).
//!
//! A checksum here is always the number that the field holds, as [`U16::get`](zerocopy::big_endian::U16::get)
//! reads it. Sums are taken over words in the machine's byte order and turned round once at the end,
//! which RFC 1071 section 2(B) shows to be the same.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::IpProtocol;

/// A one's complement sum in progress: a chain of byte strings and header words.
///
/// Slices may have odd lengths: the next one continues in the middle of a word, as if all slices
/// were one string.
///
/// ```
/// use wire::checksum::Sum;
///
/// let whole = Sum::new().bytes(b"hello world").checksum();
/// assert_eq!(Sum::new().bytes(b"hel").bytes(b"lo world").checksum(), whole);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sum {
    /// Sum of 16-bit words in the machine's byte order, carries not yet folded in; below 2^48.
    words: u64,
    /// Whether an odd number of bytes has been summed.
    odd: bool,
}

impl Sum {
    /// The empty sum.
    #[inline]
    pub const fn new() -> Self {
        Self {
            words: 0,
            odd: false,
        }
    }

    /// The pseudo-header of TCP and UDP over IPv4 (RFC 9293 section 3.1, RFC 768). `length` is that
    /// of the transport header and its payload, bytes.
    #[inline]
    pub fn pseudo_header4(
        source: Ipv4Addr,
        destination: Ipv4Addr,
        protocol: IpProtocol,
        length: u16,
    ) -> Self {
        Self::new()
            .word32(source.to_bits())
            .word32(destination.to_bits())
            .word16(u16::from(protocol.0))
            .word16(length)
    }

    /// The pseudo-header of upper-layer protocols over IPv6 (RFC 8200 section 8.1). `length` is that
    /// of the upper-layer header and its payload, bytes; extension headers do not count.
    #[inline]
    pub fn pseudo_header6(
        source: &Ipv6Addr,
        destination: &Ipv6Addr,
        protocol: IpProtocol,
        length: u32,
    ) -> Self {
        Self::new()
            .bytes(&source.octets())
            .bytes(&destination.octets())
            .word16(u16::from(protocol.0))
            .word32(length)
    }

    /// Adds a string of bytes.
    #[inline]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        let words = sum_words(bytes);
        if self.odd {
            // The string starts at the second byte of a word: its even bytes weigh as odd ones.
            self.words += u64::from(fold(words).swap_bytes());
        } else {
            self.words += u64::from(fold(words));
        }
        self.odd ^= bytes.len() % 2 == 1;
        self
    }

    /// Adds one 16-bit word. After an odd number of bytes it counts as starting a new word.
    #[inline]
    pub fn word16(mut self, value: u16) -> Self {
        self.words += u64::from(value.to_be());
        self
    }

    /// Adds a 32-bit word. After an odd number of bytes it counts as starting a new word.
    #[inline]
    pub fn word32(mut self, value: u32) -> Self {
        let value = value.to_be();
        self.words += u64::from(value & 0xffff) + u64::from(value >> 16);
        self
    }

    /// The folded sum, not complemented. Over bytes with a correct checksum inside it is 0xffff
    /// (or 0, if every byte is zero).
    #[inline]
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum to store: the complement of the folded sum.
    #[inline]
    pub fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum to store in a UDP header: zero means "none" there, so 0xffff stands for it
    /// (RFC 768; RFC 8200 section 8.1).
    #[inline]
    pub fn udp_checksum(self) -> u16 {
        udp_value(self.checksum())
    }

    /// Whether the bytes summed, with the checksum among them, are intact.
    #[inline]
    pub fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The checksum of a string of bytes.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// The checksum of a string of bytes that holds its own checksum is intact.
#[inline]
pub fn is_valid(bytes: &[u8]) -> bool {
    Sum::new().bytes(bytes).is_valid()
}

/// Folded sum over a 20-byte IPv4 header: 0xffff if its checksum is right. Five additions.
#[inline]
pub fn ip4_header_sum(header: &[u8; 20]) -> u16 {
    let (words, _) = header.as_chunks::<4>();
    let sum: u64 = words
        .iter()
        .map(|&word| u64::from(u32::from_ne_bytes(word)))
        .sum();
    u16::from_be(fold(sum))
}

/// Whether the checksum of a 20-byte IPv4 header is right, given as its first 16 bytes in two words and its last 4, all in one
/// byte order. Says so of a header that is all zeros too.
///
/// 2^16 is 1 modulo 0xffff, so the ones-complement sum of the 16-bit words is the remainder of the number that longer words add
/// up to; and a number is a multiple of the odd 0xffff where its product with the inverse modulo 2^64 is small. One
/// multiplication in place of the folds of [`ip4_header_sum`].
#[inline(always)]
pub const fn ip4_header_is_valid(first: u64, second: u64, third: u32) -> bool {
    const LARGEST: u64 = u64::MAX / 0xffff;
    const INVERSE: u64 = LARGEST.wrapping_neg();
    let (sum, carry) = first.overflowing_add(second);
    let sum = sum.wrapping_add(carry as u64);
    let (sum, carry) = sum.overflowing_add(third as u64);
    let sum = sum.wrapping_add(carry as u64);
    sum.wrapping_mul(INVERSE) <= LARGEST
}

/// Stored in a UDP header, zero means "no checksum"; a sum that comes out as zero is sent as 0xffff.
#[inline]
pub const fn udp_value(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// The checksum after one 16-bit word of the data changed from `old` to `new` (RFC 1624 equation 3).
#[inline]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    Delta::of16(old, new).apply(checksum)
}

/// The checksum after an aligned 32-bit word, such as an IPv4 address, changed (RFC 1624 equation 3).
#[inline]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    Delta::of32(old, new).apply(checksum)
}

/// The IPv4 header checksum after the time to live went down by one (RFC 1624 section 4).
///
/// The result never is 0xffff, which no complete computation over a real header yields.
#[inline]
pub const fn decrement_ttl(checksum: u16) -> u16 {
    let sum = checksum as u32 + 0x0100;
    // End-around carry: 0xffff and 0x1_0000 upwards both go once round.
    (sum + (sum >= 0xffff) as u32) as u16
}

/// A change of data, ready to be applied to checksums: computed once per flow, used per packet.
///
/// ```
/// use wire::checksum::Delta;
///
/// // Source address and port rewritten by NAT: one addition per packet and checksum.
/// let delta = Delta::of32(0x0a00_0001, 0xc633_6401).and(Delta::of16(1024, 40000));
/// let checksum = delta.apply(0x1234);
/// assert_eq!(delta.inverse().apply(checksum), 0x1234);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const NONE: Self = Self(0);

    /// One 16-bit word changes.
    #[inline]
    pub const fn of16(old: u16, new: u16) -> Self {
        Self(add(!old, new))
    }

    /// An aligned 32-bit word changes.
    #[inline]
    pub const fn of32(old: u32, new: u32) -> Self {
        Self(fold(!old as u64 + new as u64))
    }

    /// An IPv6 address changes.
    #[inline]
    pub fn of_ip6(old: &Ipv6Addr, new: &Ipv6Addr) -> Self {
        let old = u16::from_be(fold(sum_words(&old.octets())));
        let new = u16::from_be(fold(sum_words(&new.octets())));
        Self::of16(old, new)
    }

    /// Bytes are added to the data (an IPv4 address leaves, an IPv6 address comes: the pseudo-header changes).
    #[inline]
    pub fn of_bytes(old: &[u8], new: &[u8]) -> Self {
        Self::of16(
            Sum::new().bytes(old).folded(),
            Sum::new().bytes(new).folded(),
        )
    }

    /// Both changes together.
    #[inline]
    pub const fn and(self, other: Self) -> Self {
        Self(add(self.0, other.0))
    }

    /// The change back.
    #[inline]
    pub const fn inverse(self) -> Self {
        Self(!self.0)
    }

    /// The 16 bits, for a flow record.
    #[inline]
    pub const fn to_bits(self) -> u16 {
        self.0
    }

    /// From the 16 bits of a flow record.
    #[inline]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    /// The checksum after the change (RFC 1624 equation 3).
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !add(!checksum, self.0)
    }

    /// The checksum of a UDP packet after the change. Zero, "no checksum", stays (RFC 768), and a
    /// result of zero becomes 0xffff.
    #[inline]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            0
        } else {
            udp_value(self.apply(checksum))
        }
    }
}

/// One's complement addition.
#[inline]
const fn add(a: u16, b: u16) -> u16 {
    let sum = a as u32 + b as u32;
    (sum + (sum >> 16)) as u16
}

/// Brings the carries of a sum of 16-bit or 32-bit words back in until 16 bits are left.
#[inline]
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32); // at most 33 bits
    let sum = (sum & 0xffff) + (sum >> 16); // at most 18 bits
    let sum = (sum & 0xffff) + (sum >> 16); // at most 17 bits
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of 32-bit words in the machine's order, the tail filled up with zeros. Cannot overflow below 16 GiB.
#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    // Eight independent lanes become vector additions.
    let (blocks, tail) = bytes.as_chunks::<32>();
    let mut lanes = [0u64; 8];
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, &word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(word));
        }
    }
    let mut sum: u64 = lanes.iter().sum();
    let (words, tail) = tail.as_chunks::<4>();
    for &word in words {
        sum += u64::from(u32::from_ne_bytes(word));
    }
    let mut last = [0; 4];
    last[..tail.len()].copy_from_slice(tail);
    sum + u64::from(u32::from_ne_bytes(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_header_check_agrees_with_the_sum() {
        let mut state = 1u64;
        for _ in 0..200_000 {
            let mut header = [0u8; 20];
            for byte in &mut header {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                // Many zeros and ones make carries of every length.
                *byte = match state >> 61 {
                    0 | 1 => 0,
                    2 | 3 => 0xff,
                    _ => (state >> 40) as u8,
                };
            }
            header[0] |= 0x45;
            if state & (1 << 50) != 0 {
                header[10..12].fill(0);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
            }
            let (words, last) = header.as_chunks::<8>();
            let last = [last[0], last[1], last[2], last[3]];
            let right = ip4_header_sum(&header) == 0xffff;
            let (first, second) = (u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]));
            let third = u32::from_be_bytes(last);
            assert_eq!(
                ip4_header_is_valid(first, second, third),
                right,
                "{header:02x?}"
            );
            let (first, second) = (first.swap_bytes(), second.swap_bytes());
            assert_eq!(
                ip4_header_is_valid(first, second, third.swap_bytes()),
                right,
                "{header:02x?}"
            );
        }
    }
    use proptest::prelude::*;

    /// The definition of RFC 1071 section 1, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !(sum as u16)
    }

    #[test]
    fn example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().bytes(&bytes).folded(), 0xddf2);
        assert_eq!(checksum(&bytes), 0x220d);
    }

    #[test]
    fn example_of_rfc_1624() {
        // Section 4: the result is 0x0000, not 0xffff as RFC 1141 gives.
        assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    #[test]
    fn literal_ip4_header() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8,
            0x00, 0x01, 0xc0, 0xa8, 0x00, 0xc7,
        ];
        assert_eq!(ip4_header_sum(&header), 0xffff);
        assert!(is_valid(&header));
        let mut damaged = header;
        damaged[8] ^= 1;
        assert_ne!(ip4_header_sum(&damaged), 0xffff);
    }

    #[test]
    fn udp_zero_is_sent_as_all_ones() {
        assert_eq!(Sum::new().word16(0xffff).udp_checksum(), 0xffff);
        assert_eq!(Sum::new().word16(0xfffe).udp_checksum(), 1);
        assert_eq!(Delta::of16(1, 2).apply_udp(0), 0);
        assert_eq!(Delta::of16(1, 2).apply_udp(1), 0xffff);
    }

    proptest! {
        #[test]
        fn fast_equals_slow(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(checksum(&bytes), slow(&bytes));
        }

        #[test]
        fn any_split_equals_the_whole(
            bytes in proptest::collection::vec(any::<u8>(), 0..120),
            a in 0usize..120,
            b in 0usize..120,
        ) {
            let (a, b) = (a.min(bytes.len()), b.min(bytes.len()));
            let (a, b) = (a.min(b), a.max(b));
            let sum = Sum::new().bytes(&bytes[..a]).bytes(&bytes[a..b]).bytes(&bytes[b..]);
            prop_assert_eq!(sum.checksum(), checksum(&bytes));
        }

        #[test]
        fn words_equal_bytes(a: u16, b: u32) {
            let mut bytes = a.to_be_bytes().to_vec();
            bytes.extend(b.to_be_bytes());
            prop_assert_eq!(Sum::new().word16(a).word32(b).checksum(), checksum(&bytes));
        }

        #[test]
        fn header_sum_equals_generic(header: [u8; 20]) {
            prop_assert_eq!(ip4_header_sum(&header), Sum::new().bytes(&header).folded());
        }

        #[test]
        fn incremental_equals_recomputed(mut data: [u8; 20], at in 0usize..5, new: u32, fixed in 1u8..) {
            // A header has at least one non-zero word besides the changed one (its version).
            data[(at * 4 + 4) % 20] = fixed;
            let before = checksum(&data);
            let old = u32::from_be_bytes(data[at * 4..at * 4 + 4].try_into().unwrap());
            data[at * 4..at * 4 + 4].copy_from_slice(&new.to_be_bytes());
            let after = checksum(&data);
            prop_assert_eq!(update32(before, old, new), after);
            let by_halves = update16(
                update16(before, (old >> 16) as u16, (new >> 16) as u16),
                old as u16,
                new as u16,
            );
            prop_assert_eq!(by_halves, after);
            prop_assert_eq!(Delta::of32(old, new).inverse().apply(after), before);
        }

        #[test]
        fn ttl_equals_recomputed(mut header: [u8; 20], ttl in 1u8..) {
            header[0] = 0x45;
            header[8] = ttl;
            header[10..12].fill(0);
            let before = checksum(&header);
            header[8] -= 1;
            prop_assert_eq!(decrement_ttl(before), checksum(&header));
        }

        #[test]
        fn address_change_of_ip6(old: [u8; 16], new: [u8; 16], rest in 1u16..) {
            let (old, new) = (Ipv6Addr::from_octets(old), Ipv6Addr::from_octets(new));
            let of = |a: &Ipv6Addr| Sum::new().bytes(&a.octets()).word16(rest).checksum();
            prop_assert_eq!(Delta::of_ip6(&old, &new).apply(of(&old)), of(&new));
            prop_assert_eq!(Delta::of_bytes(&old.octets(), &new.octets()).apply(of(&old)), of(&new));
        }
    }
}
