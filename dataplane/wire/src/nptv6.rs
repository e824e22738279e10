//! Prefix translation between IPv6 networks without state (NPTv6, RFC 6296).
//!
//! A prefix is exchanged for another, and one 16-bit word of the address is changed so that the sum of
//! the address stays what it was. No checksum in the packet needs to change, so the translator need not
//! know what the packet carries.
//!
//! ```text
//!  0    15 16   31 32   47 48   63 64   79 80   95 96  111 112  127
//! +-------+-------+-------+-------+-------+-------+-------+-------+
//! |     routing prefix    | subnet|   interface identifier (IID)  |
//! +-------+-------+-------+-------+-------+-------+-------+-------+
//! ```
//!
//! With prefixes of 48 bits or fewer it is the subnet word that changes (section 3.4), with longer ones
//! the first word of the interface identifier that is not 0xffff (section 3.5).

use core::fmt;
use core::net::Ipv6Addr;

use crate::checksum::Delta;

/// Longest prefix, bits: words of the interface identifier make up for it.
pub const MAX_PREFIX_LEN: u8 = 64;
/// Longest prefix, bits, that leaves the interface identifier alone.
const SUBNET_PREFIX_LEN: u8 = 48;

/// A pair of prefixes, one inside and one outside, that addresses are translated between.
///
/// ```
/// use wire::Nptv6;
///
/// let inside = "fd01:203:405::".parse().unwrap();
/// let outside = "2001:db8:1::".parse().unwrap();
/// let pair = Nptv6::new(inside, 48, outside, 48).unwrap();
/// let host = "fd01:203:405:1::1234".parse().unwrap();
/// let seen = "2001:db8:1:d550::1234".parse().unwrap();
/// assert_eq!(pair.outbound(&host), Ok(seen));
/// assert_eq!(pair.inbound(&seen), Ok(host));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Nptv6 {
    internal: u128,
    external: u128,
    /// The bits that are compared and exchanged.
    mask: u128,
    /// The longer of both lengths, bits: to that the shorter prefix is extended with zeros (section 3.7).
    length: u8,
    /// What is added to the word on the way out, in one's complement.
    outbound: u16,
    /// What is added on the way in.
    inbound: u16,
}

impl Nptv6 {
    /// Translation between an internal and an external prefix, lengths in bits. If the lengths differ, the
    /// shorter prefix is extended with zeros, so only that part of its network is translated.
    ///
    /// # Errors
    /// `BadLength`, `HostBits`.
    pub fn new(
        internal: Ipv6Addr,
        internal_length: u8,
        external: Ipv6Addr,
        external_length: u8,
    ) -> Result<Self, Nptv6Error> {
        for (prefix, length) in [(internal, internal_length), (external, external_length)] {
            if length == 0 || length > MAX_PREFIX_LEN {
                return Err(Nptv6Error::BadLength);
            }
            if prefix.to_bits() << length != 0 {
                return Err(Nptv6Error::HostBits);
            }
        }
        // What the sum gains on the way out; the word gives it back.
        let gained = Delta::of_ip6(&internal, &external);
        let length = internal_length.max(external_length);
        Ok(Self {
            internal: internal.to_bits(),
            external: external.to_bits(),
            mask: u128::MAX << (128 - length),
            length,
            outbound: gained.inverse().to_bits(),
            inbound: gained.to_bits(),
        })
    }

    /// The internal prefix and the length that is compared, bits.
    #[inline]
    pub const fn internal(&self) -> (Ipv6Addr, u8) {
        (Ipv6Addr::from_bits(self.internal), self.length)
    }

    /// The external prefix and the length that is compared, bits.
    #[inline]
    pub const fn external(&self) -> (Ipv6Addr, u8) {
        (Ipv6Addr::from_bits(self.external), self.length)
    }

    /// The external address of an internal one: the source of packets on their way out.
    ///
    /// # Errors
    /// `OtherPrefix`, `SubnetAllOnes`, `NoWord`, `ZeroIdentifier`: the packet must be discarded.
    #[inline]
    pub fn outbound(&self, address: &Ipv6Addr) -> Result<Ipv6Addr, Nptv6Error> {
        self.translate(address, self.internal, self.external, self.outbound)
    }

    /// The internal address of an external one: the destination of packets on their way in.
    ///
    /// # Errors
    /// `OtherPrefix`, `SubnetAllOnes`, `NoWord`, `ZeroIdentifier`: the packet must be discarded.
    #[inline]
    pub fn inbound(&self, address: &Ipv6Addr) -> Result<Ipv6Addr, Nptv6Error> {
        self.translate(address, self.external, self.internal, self.inbound)
    }

    #[inline]
    fn translate(
        &self,
        address: &Ipv6Addr,
        from: u128,
        to: u128,
        adjustment: u16,
    ) -> Result<Ipv6Addr, Nptv6Error> {
        let bits = address.to_bits();
        if (bits ^ from) & self.mask != 0 {
            return Err(Nptv6Error::OtherPrefix);
        }
        // The prefix is in the upper half, the word in either.
        let (high, low) = ((bits ^ from ^ to) >> 64, bits as u64);
        if self.length <= SUBNET_PREFIX_LEN {
            let word = high as u16;
            if word == 0xffff {
                return Err(Nptv6Error::SubnetAllOnes);
            }
            let high = high ^ u128::from(word ^ adjust(word, adjustment));
            return Ok(Ipv6Addr::from_bits(high << 64 | u128::from(low)));
        }
        let shift = word_of_identifier(low)?;
        let word = (low >> shift) as u16;
        let low = low ^ u64::from(word ^ adjust(word, adjustment)) << shift;
        Ok(Ipv6Addr::from_bits(high << 64 | u128::from(low)))
    }
}

impl fmt::Display for Nptv6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (internal, length) = self.internal();
        let (external, _) = self.external();
        write!(f, "{internal}/{length} to {external}/{length}")
    }
}

/// Why a pair of prefixes or an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Nptv6Error {
    /// A prefix of no bits or of more than 64.
    BadLength,
    /// Bits after a prefix are not zero.
    HostBits,
    /// The address is not under the prefix.
    OtherPrefix,
    /// The subnet is 0xffff, which stands for no network where prefixes are translated.
    SubnetAllOnes,
    /// All words of the interface identifier are 0xffff: none can take the adjustment.
    NoWord,
    /// The interface identifier is zero: the subnet router's anycast address.
    ZeroIdentifier,
}

impl Nptv6Error {
    /// The reason in words for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::BadLength => "length of a translated prefix is not 1 to 64",
            Self::HostBits => "bits after the translated prefix are not zero",
            Self::OtherPrefix => "address is not under the translated prefix",
            Self::SubnetAllOnes => "subnet 0xffff cannot be translated",
            Self::NoWord => "interface identifier of all ones cannot be translated",
            Self::ZeroIdentifier => "interface identifier of zero cannot be translated",
        }
    }
}

impl fmt::Display for Nptv6Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Nptv6Error {}

/// How far from the end of an interface identifier the word lies that takes the adjustment, bits. It never is
/// 0xffff, the second zero of one's complement, which the way back could not tell from 0.
#[inline]
fn word_of_identifier(identifier: u64) -> Result<u32, Nptv6Error> {
    // The subnet router's anycast address would become that of a host (section 3.7).
    if identifier == 0 {
        return Err(Nptv6Error::ZeroIdentifier);
    }
    match (!identifier).leading_zeros() {
        64 => Err(Nptv6Error::NoWord),
        ones => Ok(48 - ones / 16 * 16),
    }
}

/// One's complement addition; a sum of 0xffff is written as 0 (section 3.2).
#[inline]
const fn adjust(word: u16, adjustment: u16) -> u16 {
    let sum = word as u32 + adjustment as u32;
    // End-around carry: 0xffff and 0x1_0000 upwards both go once round.
    (sum + (sum >= 0xffff) as u32) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Sum;
    use proptest::prelude::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn pair(inside: &str, inside_len: u8, outside: &str, outside_len: u8) -> Nptv6 {
        Nptv6::new(v6(inside), inside_len, v6(outside), outside_len).unwrap()
    }

    #[test]
    fn example_of_the_rfc() {
        // Section 3.6: the adjustment is 0xd54f.
        let pair = pair("fd01:203:405::", 48, "2001:db8:1::", 48);
        assert_eq!(pair.outbound, 0xd54f);
        let (inside, outside) = (v6("fd01:203:405:1::1234"), v6("2001:db8:1:d550::1234"));
        assert_eq!(pair.outbound(&inside), Ok(outside));
        assert_eq!(pair.inbound(&outside), Ok(inside));
    }

    #[test]
    fn longer_prefixes_change_the_interface_identifier() {
        let pair = pair("fd01:203:405:1::", 64, "2001:db8:1::", 48);
        let (inside, outside) = (v6("fd01:203:405:1:1::1234"), v6("2001:db8:1:0:d551::1234"));
        assert_eq!(pair.outbound(&inside), Ok(outside));
        assert_eq!(pair.inbound(&outside), Ok(inside));
        // Only the zero-extended part of the shorter prefix is translated.
        assert_eq!(
            pair.inbound(&v6("2001:db8:1:1:d551::1234")),
            Err(Nptv6Error::OtherPrefix)
        );
        // Words of all ones are passed over.
        let (inside, outside) = (
            v6("fd01:203:405:1:ffff:ffff:1:1234"),
            v6("2001:db8:1:0:ffff:ffff:d551:1234"),
        );
        assert_eq!(pair.outbound(&inside), Ok(outside));
        assert_eq!(pair.inbound(&outside), Ok(inside));
    }

    #[test]
    fn addresses_that_cannot_be_translated() {
        let short = pair("fd01:203:405::", 48, "2001:db8:1::", 48);
        let long = pair("fd01:203:405:1::", 64, "2001:db8:1:2::", 64);
        for (pair, inside, outside, why) in [
            (
                short,
                "fd01:203:405:ffff::1",
                "2001:db8:1:ffff::1",
                Nptv6Error::SubnetAllOnes,
            ),
            (
                short,
                "fd01:203:406::1",
                "2001:db8:2::1",
                Nptv6Error::OtherPrefix,
            ),
            (
                long,
                "fd01:203:405:1::",
                "2001:db8:1:2::",
                Nptv6Error::ZeroIdentifier,
            ),
            (
                long,
                "fd01:203:405:1:ffff:ffff:ffff:ffff",
                "2001:db8:1:2:ffff:ffff:ffff:ffff",
                Nptv6Error::NoWord,
            ),
            (
                long,
                "fd01:203:405:2::1",
                "2001:db8:1:1::1",
                Nptv6Error::OtherPrefix,
            ),
        ] {
            assert_eq!(pair.outbound(&v6(inside)), Err(why), "{pair}");
            assert_eq!(pair.inbound(&v6(outside)), Err(why), "{pair}");
        }
        // With short prefixes the identifier may be what it likes.
        assert!(short.outbound(&v6("fd01:203:405:1::")).is_ok());
    }

    #[test]
    fn prefixes_of_equal_sums() {
        // Nothing to make up for: the adjustment is the second zero.
        let pair = pair("fd00:1:2::", 48, "fd00:2:1::", 48);
        let host = v6("fd00:1:2::1");
        assert_eq!(pair.outbound(&host), Ok(v6("fd00:2:1::1")));
        assert_eq!(pair.inbound(&v6("fd00:2:1::1")), Ok(host));
    }

    #[test]
    fn bad_pairs() {
        let (a, b) = (v6("fd00::"), v6("2001:db8::"));
        for (inside, outside) in [(0, 48), (48, 0), (65, 48), (48, 128), (255, 255)] {
            assert_eq!(
                Nptv6::new(a, inside, b, outside),
                Err(Nptv6Error::BadLength)
            );
        }
        assert_eq!(
            Nptv6::new(v6("fd00::1"), 64, b, 48),
            Err(Nptv6Error::HostBits)
        );
        assert_eq!(Nptv6::new(a, 48, b, 16), Err(Nptv6Error::HostBits));
    }

    proptest! {
        #[test]
        fn there_and_back_and_neutral(
            prefixes: (u128, u128),
            lengths in (1u8..=64, 1u8..=64),
            address: u128,
            ones in 0u8..16,
        ) {
            let cut = |bits: u128, length: u8| bits >> (128 - length) << (128 - length);
            let (inside, outside) = (cut(prefixes.0, lengths.0), cut(prefixes.1, lengths.1));
            let pair = Nptv6::new(
                Ipv6Addr::from_bits(inside), lengths.0,
                Ipv6Addr::from_bits(outside), lengths.1,
            ).unwrap();
            let length = lengths.0.max(lengths.1);
            let mut host = inside | address << length >> length;
            for word in 0..4 {
                if ones >> word & 1 != 0 {
                    host |= 0xffff << (word * 16);
                }
            }
            // All ones in the subnet word too, now and then.
            if ones & 5 == 5 && length <= 48 {
                host |= 0xffff << 64;
            }
            let sum = |a: &Ipv6Addr| Sum::new().bytes(&a.octets()).folded();
            let host = Ipv6Addr::from_bits(host);
            match pair.outbound(&host) {
                Ok(seen) => {
                    prop_assert_eq!(seen.to_bits() >> (128 - length), outside >> (128 - length));
                    // Both names of zero weigh the same.
                    prop_assert_eq!(sum(&seen) % 0xffff, sum(&host) % 0xffff);
                    prop_assert_eq!(pair.inbound(&seen), Ok(host));
                    let word = |a: &Ipv6Addr| a.segments();
                    let changed = (0..8)
                        .filter(|&i| i * 16 >= usize::from(length) && word(&host)[i] != word(&seen)[i])
                        .count();
                    prop_assert!(changed <= 1);
                }
                Err(Nptv6Error::SubnetAllOnes) => {
                    prop_assert!(length <= 48 && host.segments()[3] == 0xffff);
                }
                Err(Nptv6Error::NoWord) => prop_assert_eq!(host.to_bits() as u64, u64::MAX),
                Err(why) => prop_assert_eq!((why, host.to_bits() as u64), (Nptv6Error::ZeroIdentifier, 0)),
            }
        }

        #[test]
        fn any_address_inbound(prefixes: (u128, u128), lengths in (1u8..=64, 1u8..=64), address: u128) {
            let cut = |bits: u128, length: u8| bits >> (128 - length) << (128 - length);
            let pair = Nptv6::new(
                Ipv6Addr::from_bits(cut(prefixes.0, lengths.0)), lengths.0,
                Ipv6Addr::from_bits(cut(prefixes.1, lengths.1)), lengths.1,
            ).unwrap();
            let length = lengths.0.max(lengths.1);
            let near = Ipv6Addr::from_bits(cut(prefixes.1, lengths.1) | address << length >> length);
            for seen in [near, Ipv6Addr::from_bits(address)] {
                if let Ok(host) = pair.inbound(&seen) {
                    prop_assert_eq!(pair.outbound(&host), Ok(seen));
                }
            }
        }
    }
}
