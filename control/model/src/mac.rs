//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

use crate::Invalid;
use crate::error::invalid;

/// A unicast Ethernet address: the group bit is clear, and it is not all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// Checks and takes an address.
    ///
    /// # Errors
    ///
    /// A group address, or all zeros.
    pub fn new(octets: [u8; 6]) -> Result<Self, Invalid> {
        let address = Self(octets);
        if octets[0] & 1 != 0 {
            return Err(invalid!(
                "{address} is a group address; an interface or host has a unicast one"
            ));
        }
        if octets == [0; 6] {
            return Err(invalid!("{address} is no host's address"));
        }
        Ok(address)
    }

    /// In the order of transmission.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = Invalid;

    /// Six pairs of hexadecimal digits between colons or between hyphens.
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let separator = if text.contains('-') { '-' } else { ':' };
        let mut octets = [0; 6];
        let mut parts = text.split(separator);
        for octet in &mut octets {
            let part = parts.next().filter(|part| {
                part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit())
            });
            *octet = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(|| malformed(text))?;
        }
        if parts.next().is_some() {
            return Err(malformed(text));
        }
        Self::new(octets)
    }
}

/// `02:00:00:00:00:01`.
impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn malformed(text: &str) -> Invalid {
    invalid!("{text:?} is no Ethernet address: write it like 02:00:00:00:00:01")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints_and_refuses_the_rest() {
        for good in ["02:00:00:00:00:01", "fe:ff:ff:ff:ff:ff"] {
            assert_eq!(
                good.parse::<MacAddress>().map(|mac| mac.to_string()),
                Ok(good.to_owned())
            );
        }
        assert!("02-00-00-00-00-0A".parse::<MacAddress>().is_ok());
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02:00:00:00:00:0g",
            "+2:00:00:00:00:01",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "02:00:00-00:00:01",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
