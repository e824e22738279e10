//! An address with the length of its subnet's prefix.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and a prefix length: an interface's address with its subnet, or the destination of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// The address, host bits included.
    pub address: IpAddr,
    /// Bits of the network part: at most 32 for IPv4, 128 for IPv6.
    pub length: u8,
}

impl Prefix {
    /// `None` when `length` is more than the address has bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let most = if address.is_ipv6() { 128 } else { 32 };
        (length <= most).then_some(Self { address, length })
    }

    /// The address with all host bits cleared.
    pub fn network(self) -> IpAddr {
        match self.address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.length.min(32)))
                    .unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & mask))
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.length.min(128)))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask))
            }
        }
    }

    /// Whether `address` is of the same family and inside the prefix.
    pub fn contains(self, address: IpAddr) -> bool {
        Self::new(address, self.length).is_some_and(|other| {
            address.is_ipv6() == self.address.is_ipv6() && other.network() == self.network()
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    /// Parses `ADDRESS/LENGTH`.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}` is no prefix; expected ADDRESS/LENGTH like 198.18.1.1/24");
        let (address, length) = text.split_once('/').ok_or_else(expected)?;
        let address = address.parse().map_err(|_| expected())?;
        // Digits only: `parse` alone would take a plus sign.
        if !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(expected());
        }
        let length = length.parse().map_err(|_| expected())?;
        Self::new(address, length).ok_or_else(|| {
            format!(
                "`{text}`: the length is at most {}",
                if address.is_ipv6() { 128 } else { 32 }
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Prefix;

    #[test]
    fn networks() {
        let network = |text: &str| {
            text.parse::<Prefix>()
                .expect("a valid prefix")
                .network()
                .to_string()
        };
        assert_eq!(network("198.18.1.77/24"), "198.18.1.0");
        assert_eq!(network("198.18.1.77/32"), "198.18.1.77");
        assert_eq!(network("198.18.1.77/0"), "0.0.0.0");
        assert_eq!(network("2001:db8:1::77/64"), "2001:db8:1::");
        assert_eq!(network("2001:db8:1::77/0"), "::");
    }

    #[test]
    fn membership() {
        let prefix: Prefix = "198.18.1.1/24".parse().expect("a valid prefix");
        let contains = |text: &str| prefix.contains(text.parse().expect("a valid address"));
        assert!(contains("198.18.1.255"));
        assert!(!contains("198.18.2.1"));
        assert!(!contains("2001:db8::1"));
    }

    #[test]
    fn bad_text_is_refused() {
        for bad in [
            "",
            "/",
            "198.18.1.1",
            "198.18.1.1/33",
            "2001:db8::1/129",
            "198.18.1.1/+8",
            "x/8",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
