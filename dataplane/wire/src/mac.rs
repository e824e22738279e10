//! Ethernet addresses (IEEE 802 EUI-48).

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An Ethernet (EUI-48) address, in the order of the wire.
///
/// ```
/// use wire::MacAddr;
///
/// let address: MacAddr = "02:00:00:00:00:2a".parse().unwrap();
/// assert_eq!(address, MacAddr::local(42));
/// assert_eq!(address.to_string(), "02:00:00:00:00:2a");
/// ```
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// All ones: every station.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// All zeros: no address.
    pub const ZERO: Self = Self([0; 6]);

    /// The address with these octets.
    #[inline]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// A locally administered unicast address, `02:00` followed by `n`: for tests and virtual ports.
    pub const fn local(n: u32) -> Self {
        let n = n.to_be_bytes();
        Self([0x02, 0, n[0], n[1], n[2], n[3]])
    }

    /// The group address that carries an IPv4 multicast group (RFC 1112 section 6.4).
    #[inline]
    pub const fn from_ip4_multicast(group: Ipv4Addr) -> Self {
        let g = group.octets();
        Self([0x01, 0x00, 0x5e, g[1] & 0x7f, g[2], g[3]])
    }

    /// The group address that carries an IPv6 multicast group (RFC 2464 section 7).
    #[inline]
    pub const fn from_ip6_multicast(group: Ipv6Addr) -> Self {
        let g = group.octets();
        Self([0x33, 0x33, g[12], g[13], g[14], g[15]])
    }

    /// The octets in the order of the wire.
    #[inline]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether the group bit is set; true for broadcast too.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 0x01 != 0
    }

    /// Whether this is `ff:ff:ff:ff:ff:ff`.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether this is `00:00:00:00:00:00`.
    #[inline]
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }

    /// Whether a station may own it: neither a group address nor zero.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// Whether the address is locally administered.
    #[inline]
    pub const fn is_local(self) -> bool {
        self.0[0] & 0x02 != 0
    }

    /// The IPv6 link-local address with the modified EUI-64 identifier (RFC 4291 appendix A).
    pub const fn link_local(self) -> Ipv6Addr {
        let m = self.0;
        Ipv6Addr::from_octets([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0,
            m[0] ^ 0x02,
            m[1],
            m[2],
            0xff,
            0xfe,
            m[3],
            m[4],
            m[5],
        ])
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl From<MacAddr> for [u8; 6] {
    fn from(address: MacAddr) -> Self {
        address.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MacAddrParseError;

impl fmt::Display for MacAddrParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not an Ethernet address: write six two-digit hexadecimal numbers with ':' or '-' between them, as in 02:00:5e:10:00:01",
        )
    }
}

impl core::error::Error for MacAddrParseError {}

impl FromStr for MacAddr {
    type Err = MacAddrParseError;

    /// Accepts `:` or `-` (one kind throughout) between exactly two hexadecimal digits each.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.as_bytes();
        if text.len() != 17 || (text[2] != b':' && text[2] != b'-') {
            return Err(MacAddrParseError);
        }
        let mut octets = [0; 6];
        for (octet, group) in octets.iter_mut().zip(text.chunks(3)) {
            if group.len() == 3 && group[2] != text[2] {
                return Err(MacAddrParseError);
            }
            *octet = hex_digit(group[0])? << 4 | hex_digit(group[1])?;
        }
        Ok(Self(octets))
    }
}

fn hex_digit(digit: u8) -> Result<u8, MacAddrParseError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(MacAddrParseError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_forms() {
        let address = MacAddr([0x02, 0xab, 0, 1, 0xfe, 0xff]);
        assert_eq!(address.to_string(), "02:ab:00:01:fe:ff");
        assert_eq!("02-AB-00-01-FE-FF".parse(), Ok(address));
        for bad in [
            "",
            "02:ab:00:01:fe",
            "02:ab:00:01:fe:f",
            "02:ab:00:01:fe:fff",
            "02:ab-00:01:fe:ff",
            "02:ab:00:01:fe:fg",
            "+2:ab:00:01:fe:ff",
            "02:ab:00:01:fe:é",
        ] {
            assert_eq!(bad.parse::<MacAddr>(), Err(MacAddrParseError), "{bad}");
        }
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_broadcast() && MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::BROADCAST.is_unicast() && !MacAddr::ZERO.is_unicast());
        assert!(MacAddr::local(7).is_unicast() && MacAddr::local(7).is_local());
        assert_eq!(
            MacAddr::from_ip4_multicast(Ipv4Addr::new(239, 129, 2, 3)).to_string(),
            "01:00:5e:01:02:03"
        );
        assert_eq!(
            MacAddr::from_ip6_multicast("ff02::1:ff12:3456".parse().unwrap()).to_string(),
            "33:33:ff:12:34:56"
        );
        let station: MacAddr = "00:25:96:12:34:56".parse().unwrap();
        assert_eq!(station.link_local().to_string(), "fe80::225:96ff:fe12:3456");
    }

    proptest! {
        #[test]
        fn text_round_trip(octets: [u8; 6]) {
            let address = MacAddr(octets);
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn any_text_is_handled(text: String) {
            let _ = text.parse::<MacAddr>();
        }
    }
}
