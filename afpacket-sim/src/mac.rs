//! Ethernet addresses.

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address (IEEE 802 MAC address).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether this is a group address, which no interface may have as its own.
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = String;

    /// Parses six pairs of hexadecimal digits separated by colons.
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || {
            format!("`{text}` is no Ethernet address; expected six bytes like 02:00:00:00:00:01")
        };
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(expected)?;
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(expected());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| expected())?;
        }
        if parts.next().is_some() {
            Err(expected())
        } else {
            Ok(Self(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::MacAddress;

    #[test]
    fn text_round_trip() {
        let address = MacAddress([0x02, 0, 0, 0xab, 0xcd, 0xef]);
        assert_eq!(address.to_string(), "02:00:00:ab:cd:ef");
        assert_eq!(address.to_string().parse(), Ok(address));
        for bad in [
            "",
            "02:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "+2:00:00:00:00:01",
            "zz:00:00:00:00:00",
        ] {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }
}
