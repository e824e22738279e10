//! IP prefixes whose host bits are known to be zero.

use std::{
    error::Error,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

/// An IPv4 prefix: `10.0.0.0/8`. Ordered by address, then length: a prefix sorts directly in front
/// of its more-specifics.
///
/// ```
/// use tables::Prefix4;
/// let lan: Prefix4 = "192.0.2.0/24".parse()?;
/// assert!(lan.contains(u32::from_be_bytes([192, 0, 2, 77])));
/// assert!("192.0.2.1/24".parse::<Prefix4>().is_err());
/// # Ok::<(), tables::PrefixError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix4 {
    addr: u32,
    len: u8,
}

/// An IPv6 prefix: `2001:db8::/32`. Ordered by address, then length.
///
/// ```
/// use tables::Prefix6;
/// let site: Prefix6 = "2001:db8::/32".parse()?;
/// assert_eq!(site.len(), 32);
/// assert_eq!(site.to_string(), "2001:db8::/32");
/// # Ok::<(), tables::PrefixError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix6 {
    addr: u128,
    len: u8,
}

/// Why something is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PrefixError {
    /// The length is beyond the address width.
    Length {
        /// Length as given.
        len: u8,
        /// Address width in bits.
        bits: u8,
    },
    /// Bits behind the length are set.
    HostBits {
        /// Length as given.
        len: u8,
    },
    /// Not of the form `address/length`.
    Syntax,
}

macro_rules! prefix {
    ($prefix:ident, $int:ty, $std:ty, $bits:literal) => {
        impl $prefix {
            /// The prefix of length 0, which contains every address.
            pub const DEFAULT: Self = Self { addr: 0, len: 0 };

            /// `addr` (host order) with `len` leading bits.
            ///
            /// # Errors
            /// The length exceeds the address width, or a host bit is set.
            pub const fn new(addr: $int, len: u8) -> Result<Self, PrefixError> {
                if len > $bits {
                    return Err(PrefixError::Length { len, bits: $bits });
                }
                if addr & !Self::mask_of(len) != 0 {
                    return Err(PrefixError::HostBits { len });
                }
                Ok(Self { addr, len })
            }

            /// The prefix of length `len` around `addr`; host bits are cleared.
            ///
            /// # Errors
            /// The length exceeds the address width.
            pub const fn around(addr: $int, len: u8) -> Result<Self, PrefixError> {
                if len > $bits {
                    return Err(PrefixError::Length { len, bits: $bits });
                }
                Ok(Self {
                    addr: addr & Self::mask_of(len),
                    len,
                })
            }

            /// First address, host order.
            pub const fn addr(self) -> $int {
                self.addr
            }

            /// Last address, host order.
            pub const fn last(self) -> $int {
                self.addr | !self.mask()
            }

            /// Length in bits.
            #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a count")]
            pub const fn len(self) -> u8 {
                self.len
            }

            /// The net mask.
            pub const fn mask(self) -> $int {
                Self::mask_of(self.len)
            }

            /// Whether `addr` (host order) lies inside.
            pub const fn contains(self, addr: $int) -> bool {
                (addr ^ self.addr) & self.mask() == 0
            }

            /// Whether every address of `other` lies inside.
            pub const fn covers(self, other: Self) -> bool {
                self.len <= other.len && self.contains(other.addr)
            }

            const fn mask_of(len: u8) -> $int {
                if len == 0 {
                    0
                } else {
                    <$int>::MAX << ($bits - len)
                }
            }
        }

        impl fmt::Display for $prefix {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", <$std>::from(self.addr), self.len)
            }
        }

        impl FromStr for $prefix {
            type Err = PrefixError;

            fn from_str(text: &str) -> Result<Self, PrefixError> {
                let (addr, len) = text.split_once('/').ok_or(PrefixError::Syntax)?;
                let addr: $std = addr.parse().map_err(|_| PrefixError::Syntax)?;
                // `u8::from_str` would take "+8".
                if !len.bytes().all(|digit| digit.is_ascii_digit()) {
                    return Err(PrefixError::Syntax);
                }
                let len: u8 = len.parse().map_err(|_| PrefixError::Syntax)?;
                Self::new(<$int>::from(addr), len)
            }
        }
    };
}

prefix!(Prefix4, u32, Ipv4Addr, 32);
prefix!(Prefix6, u128, Ipv6Addr, 128);

impl fmt::Display for PrefixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { len, bits } => {
                write!(
                    f,
                    "prefix length /{len} exceeds the address width of {bits} bits"
                )
            }
            Self::HostBits { len } => {
                write!(
                    f,
                    "address bits behind the prefix length /{len} are set: clear them"
                )
            }
            Self::Syntax => write!(f, "not a prefix: write address/length, as in 192.0.2.0/24"),
        }
    }
}

impl Error for PrefixError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn host_bits_and_lengths_are_checked() {
        assert_eq!(
            Prefix4::new(0x0a00_0001, 8),
            Err(PrefixError::HostBits { len: 8 })
        );
        assert_eq!(
            Prefix4::new(0, 33),
            Err(PrefixError::Length { len: 33, bits: 32 })
        );
        assert_eq!(
            Prefix6::new(1, 127),
            Err(PrefixError::HostBits { len: 127 })
        );
        assert_eq!(
            Prefix6::new(0, 129),
            Err(PrefixError::Length {
                len: 129,
                bits: 128
            })
        );
        assert_eq!(Prefix4::new(1, 0), Err(PrefixError::HostBits { len: 0 }));
        assert!(Prefix4::DEFAULT.contains(u32::MAX));
        assert_eq!(Prefix4::DEFAULT.last(), u32::MAX);
    }

    #[test]
    fn bad_text_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0/8",
            "10.0.0.0/256",
            "::/8",
        ] {
            assert_eq!(text.parse::<Prefix4>(), Err(PrefixError::Syntax), "{text}");
        }
        assert_eq!(
            "10.0.0.0/40".parse::<Prefix4>(),
            Err(PrefixError::Length { len: 40, bits: 32 })
        );
        assert_eq!("1.0.0.0/8".parse::<Prefix6>(), Err(PrefixError::Syntax));
    }

    proptest! {
        #[test]
        fn text_round_trip(a in any::<u32>(), l in 0u8..=32, b in any::<u128>(), m in 0u8..=128) {
            let p = Prefix4::around(a, l).unwrap();
            prop_assert_eq!(p.to_string().parse::<Prefix4>(), Ok(p));
            prop_assert!(p.contains(a) && p.addr() <= a && a <= p.last());
            let q = Prefix6::around(b, m).unwrap();
            prop_assert_eq!(q.to_string().parse::<Prefix6>(), Ok(q));
            prop_assert!(q.contains(b) && q.addr() <= b && b <= q.last());
        }

        #[test]
        fn any_text_is_answered(text in "\\PC*") {
            let _ = text.parse::<Prefix4>();
            let _ = text.parse::<Prefix6>();
        }
    }
}
