//! IPv6 addresses that hold an IPv4 address (RFC 6052): how NAT64 names IPv4 hosts in IPv6.
//!
//! ```text
//! +--+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+
//! |PL| 0-------------32--40--48--56--64--72--80--88--96--104---------|
//! +--+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+
//! |32|     prefix    |v4(32)         | u | suffix                    |
//! |40|     prefix        |v4(24)     | u |(8)| suffix                |
//! |48|     prefix            |v4(16) | u | (16)  | suffix            |
//! |56|     prefix                |(8)| u |  v4(24)   | suffix        |
//! |64|     prefix                    | u |   v4(32)      | suffix    |
//! |96|     prefix                                    |    v4(32)     |
//! +--+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+---+
//! ```
//!
//! The octet u (bits 64 to 71) is zero in every such address.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};

/// Bits 64 to 71.
const RESERVED_OCTET: u128 = 0xff << 56;
/// Bits 64 to 127.
const LOW_HALF: u128 = u64::MAX as u128;

/// A prefix under which IPv6 addresses stand for IPv4 addresses ("Pref64::/n" of RFC 6146).
///
/// ```
/// use std::net::{Ipv4Addr, Ipv6Addr};
/// use wire::Pref64;
///
/// let prefix = Pref64::new("2001:db8:122::".parse().unwrap(), 48).unwrap();
/// let address: Ipv6Addr = "2001:db8:122:c000:2:2100::".parse().unwrap();
/// assert_eq!(prefix.embed(Ipv4Addr::new(192, 0, 2, 33)), Ok(address));
/// assert_eq!(prefix.extract(&address), Ok(Ipv4Addr::new(192, 0, 2, 33)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pref64 {
    /// The prefix; all bits after it are zero.
    prefix: u128,
    /// The bits that it takes.
    mask: u128,
    /// 32, 40, 48, 56, 64 or 96.
    length: u8,
}

impl Pref64 {
    /// The well-known prefix 64:ff9b::/96 (RFC 6052 section 2.1). It must not carry addresses that are
    /// not global (section 3.1); [`embed`](Self::embed) and [`extract`](Self::extract) refuse them.
    pub const WELL_KNOWN: Self = Self {
        prefix: 0x0064_ff9b << 96,
        mask: u128::MAX << 32,
        length: 96,
    };

    /// A prefix of `length` bits.
    ///
    /// # Errors
    /// `BadLength`, `HostBits`, `ReservedOctet`.
    pub const fn new(prefix: Ipv6Addr, length: u8) -> Result<Self, Pref64Error> {
        let prefix = prefix.to_bits();
        if !matches!(length, 32 | 40 | 48 | 56 | 64 | 96) {
            return Err(Pref64Error::BadLength);
        }
        if prefix << length != 0 {
            return Err(Pref64Error::HostBits);
        }
        // Only a prefix of 96 bits reaches that far.
        if prefix & RESERVED_OCTET != 0 {
            return Err(Pref64Error::ReservedOctet);
        }
        Ok(Self {
            prefix,
            mask: u128::MAX << (128 - length),
            length,
        })
    }

    /// The prefix, all bits after it zero.
    #[inline]
    pub const fn prefix(&self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.prefix)
    }

    /// Length of the prefix, bits.
    #[inline]
    pub const fn length(&self) -> u8 {
        self.length
    }

    /// Whether an address is under the prefix.
    #[inline]
    pub const fn contains(&self, address: &Ipv6Addr) -> bool {
        (address.to_bits() ^ self.prefix) & self.mask == 0
    }

    /// The IPv6 address that stands for `address` (RFC 6052 section 2.3). Its suffix is zero.
    ///
    /// # Errors
    /// `NotGlobal` under the well-known prefix.
    #[inline]
    pub const fn embed(&self, address: Ipv4Addr) -> Result<Ipv6Addr, Pref64Error> {
        if self.prefix == Self::WELL_KNOWN.prefix && !is_global(address) {
            return Err(Pref64Error::NotGlobal);
        }
        Ok(self.compose(address))
    }

    /// The IPv4 address that `address` stands for (RFC 6052 section 2.3). Nothing is demanded of the
    /// suffix, which is reserved.
    ///
    /// # Errors
    /// `OtherPrefix`; `ReservedOctet`; `NotGlobal` under the well-known prefix.
    #[inline]
    pub const fn extract(&self, address: &Ipv6Addr) -> Result<Ipv4Addr, Pref64Error> {
        if !self.contains(address) {
            return Err(Pref64Error::OtherPrefix);
        }
        let bits = address.to_bits();
        if bits & RESERVED_OCTET != 0 {
            return Err(Pref64Error::ReservedOctet);
        }
        let embedded = if self.length == 96 {
            bits as u32
        } else {
            // Closes the gap that the reserved octet makes.
            let joined = bits & !LOW_HALF | (bits & LOW_HALF) << 8;
            (joined >> (96 - self.length)) as u32
        };
        let embedded = Ipv4Addr::from_bits(embedded);
        if self.prefix == Self::WELL_KNOWN.prefix && !is_global(embedded) {
            return Err(Pref64Error::NotGlobal);
        }
        Ok(embedded)
    }

    /// The algorithm alone.
    #[inline]
    const fn compose(&self, address: Ipv4Addr) -> Ipv6Addr {
        let address = address.to_bits() as u128;
        let embedded = if self.length == 96 {
            address
        } else {
            // As if there were no reserved octet; then what lies behind bit 63 moves on by one octet.
            let joined = address << (96 - self.length);
            joined & !LOW_HALF | (joined & LOW_HALF) >> 8
        };
        Ipv6Addr::from_bits(self.prefix | embedded)
    }
}

impl fmt::Display for Pref64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.prefix(), self.length)
    }
}

/// Why a prefix or an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Pref64Error {
    /// The length is not 32, 40, 48, 56, 64 or 96 bits.
    BadLength,
    /// Bits after the prefix are not zero.
    HostBits,
    /// Bits 64 to 71 are not zero.
    ReservedOctet,
    /// The address is not under the prefix.
    OtherPrefix,
    /// An IPv4 address that is not global under the well-known prefix.
    NotGlobal,
}

impl Pref64Error {
    /// The reason in words for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::BadLength => "length of a NAT64 prefix is not 32, 40, 48, 56, 64 or 96",
            Self::HostBits => "bits after the NAT64 prefix are not zero",
            Self::ReservedOctet => "bits 64 to 71 of a NAT64 address are not zero",
            Self::OtherPrefix => "address is not under the NAT64 prefix",
            Self::NotGlobal => "IPv4 address that is not global under the well-known NAT64 prefix",
        }
    }
}

impl fmt::Display for Pref64Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for Pref64Error {}

/// Whether an IPv4 address may stand under the well-known prefix (RFC 6052 section 3.1): everything but
/// the special-use addresses of RFC 5735 section 3 and the shared address space of RFC 6598.
#[inline]
pub const fn is_global(address: Ipv4Addr) -> bool {
    /// First address and prefix length.
    const SPECIAL: [([u8; 4], u32); 15] = [
        ([0, 0, 0, 0], 8),       // this network
        ([10, 0, 0, 0], 8),      // private
        ([100, 64, 0, 0], 10),   // shared
        ([127, 0, 0, 0], 8),     // loopback
        ([169, 254, 0, 0], 16),  // link-local
        ([172, 16, 0, 0], 12),   // private
        ([192, 0, 0, 0], 24),    // protocol assignments
        ([192, 0, 2, 0], 24),    // documentation
        ([192, 88, 99, 0], 24),  // relays of 6to4
        ([192, 168, 0, 0], 16),  // private
        ([198, 18, 0, 0], 15),   // benchmarks
        ([198, 51, 100, 0], 24), // documentation
        ([203, 0, 113, 0], 24),  // documentation
        ([224, 0, 0, 0], 4),     // multicast
        ([240, 0, 0, 0], 4),     // future use, limited broadcast
    ];
    let address = address.to_bits();
    let mut at = 0;
    while at < SPECIAL.len() {
        let (first, length) = SPECIAL[at];
        if (address ^ u32::from_be_bytes(first)) >> (32 - length) == 0 {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v6(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    /// RFC 6052 section 2.4, tables 1 and 2.
    const TABLE: [(&str, u8, &str); 7] = [
        ("2001:db8::", 32, "2001:db8:c000:221::"),
        ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
        ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100:0"),
        ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33"),
        ("64:ff9b::", 96, "64:ff9b::192.0.2.33"),
    ];

    #[test]
    fn table_of_the_rfc() {
        let host = Ipv4Addr::new(192, 0, 2, 33);
        for (prefix, length, address) in TABLE {
            let prefix = Pref64::new(v6(prefix), length).unwrap();
            assert_eq!(prefix.compose(host), v6(address), "{prefix}");
            if prefix == Pref64::WELL_KNOWN {
                // The RFC's example is a documentation address, which may not be used for packets.
                assert_eq!(prefix.embed(host), Err(Pref64Error::NotGlobal));
                assert_eq!(prefix.extract(&v6(address)), Err(Pref64Error::NotGlobal));
            } else {
                assert_eq!(prefix.embed(host), Ok(v6(address)), "{prefix}");
                assert_eq!(prefix.extract(&v6(address)), Ok(host), "{prefix}");
            }
        }
    }

    #[test]
    fn well_known_prefix_carries_global_addresses() {
        let prefix = Pref64::WELL_KNOWN;
        assert_eq!(prefix.to_string(), "64:ff9b::/96");
        assert_eq!(
            prefix.embed(Ipv4Addr::new(8, 8, 4, 4)),
            Ok(v6("64:ff9b::808:404"))
        );
        assert_eq!(
            prefix.extract(&v6("64:ff9b::808:404")),
            Ok(Ipv4Addr::new(8, 8, 4, 4))
        );
        // Its neighbours and the local-use prefix of RFC 8215 are other prefixes.
        for address in ["64:ff9b::1:0:808:404", "64:ff9b:1::808:404", "64:ff9a::1"] {
            assert_eq!(prefix.extract(&v6(address)), Err(Pref64Error::OtherPrefix));
        }
    }

    #[test]
    fn edges_of_special_use() {
        for (first, last) in [
            ("0.0.0.0", "0.255.255.255"),
            ("10.0.0.0", "10.255.255.255"),
            ("100.64.0.0", "100.127.255.255"),
            ("127.0.0.0", "127.255.255.255"),
            ("169.254.0.0", "169.254.255.255"),
            ("172.16.0.0", "172.31.255.255"),
            ("192.0.0.0", "192.0.0.255"),
            ("192.0.2.0", "192.0.2.255"),
            ("192.88.99.0", "192.88.99.255"),
            ("192.168.0.0", "192.168.255.255"),
            ("198.18.0.0", "198.19.255.255"),
            ("198.51.100.0", "198.51.100.255"),
            ("203.0.113.0", "203.0.113.255"),
            ("224.0.0.0", "255.255.255.255"),
        ] {
            let (first, last): (Ipv4Addr, Ipv4Addr) =
                (first.parse().unwrap(), last.parse().unwrap());
            assert!(!is_global(first) && !is_global(last), "{first} {last}");
            for outside in [
                first.to_bits().checked_sub(1),
                last.to_bits().checked_add(1),
            ] {
                assert!(
                    outside.is_none_or(|bits| is_global(Ipv4Addr::from_bits(bits))),
                    "{first} {last}"
                );
            }
        }
    }

    #[test]
    fn bad_prefixes() {
        for length in (0..=u8::MAX).filter(|l| ![32, 40, 48, 56, 64, 96].contains(l)) {
            assert_eq!(
                Pref64::new(v6("2001:db8::"), length),
                Err(Pref64Error::BadLength)
            );
        }
        for (prefix, length) in [("2001:db8:1::", 32), ("2001:db8::1", 96), ("::1:0:0", 64)] {
            let refused = Pref64::new(v6(prefix), length);
            assert_eq!(refused, Err(Pref64Error::HostBits), "{prefix}/{length}");
        }
        assert_eq!(
            Pref64::new(v6("2001:db8:0:0:100::"), 96),
            Err(Pref64Error::ReservedOctet)
        );
        assert!(Pref64::new(v6("2001:db8:0:0:ff::"), 96).is_ok());
    }

    #[test]
    fn reserved_octet_of_an_address() {
        let prefix = Pref64::new(v6("2001:db8::"), 32).unwrap();
        assert_eq!(
            prefix.extract(&v6("2001:db8:c000:221:100::")),
            Err(Pref64Error::ReservedOctet)
        );
        // The suffix says nothing.
        assert_eq!(
            prefix.extract(&v6("2001:db8:c000:221:ff::1")),
            Ok(Ipv4Addr::new(192, 0, 2, 33))
        );
    }

    proptest! {
        /// Octet by octet as section 2.2 draws it.
        #[test]
        fn agrees_with_the_picture(
            bits: u128,
            length in prop::sample::select(vec![32u8, 40, 48, 56, 64, 96]),
            address: [u8; 4],
        ) {
            let bits = bits >> (128 - length) << (128 - length) & !RESERVED_OCTET;
            let prefix = Pref64::new(Ipv6Addr::from_bits(bits), length).unwrap();
            let mut octets = bits.to_be_bytes();
            let mut at = usize::from(length / 8);
            for octet in address {
                at += usize::from(at == 8);
                octets[at] = octet;
                at += 1;
            }
            let composed = prefix.compose(Ipv4Addr::from(address));
            prop_assert_eq!(composed.octets(), octets);
            prop_assert!(prefix.contains(&composed));
            if prefix != Pref64::WELL_KNOWN {
                prop_assert_eq!(prefix.extract(&composed), Ok(Ipv4Addr::from(address)));
            }
        }

        #[test]
        fn any_address_extracts_or_says_why(address: u128, length in prop::sample::select(vec![32u8, 40, 48, 56, 64, 96])) {
            let bits = address >> (128 - length) << (128 - length);
            if let Ok(prefix) = Pref64::new(Ipv6Addr::from_bits(bits), length) {
                match prefix.extract(&Ipv6Addr::from_bits(address)) {
                    Ok(host) => prop_assert!(prefix.contains(&prefix.compose(host))),
                    Err(why) => prop_assert!(why == Pref64Error::ReservedOctet && address & RESERVED_OCTET != 0),
                }
            }
        }
    }
}
