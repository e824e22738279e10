//! Names: of objects, interfaces, VRFs and Linux devices.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use crate::Invalid;
use crate::error::invalid;

/// A name as Kubernetes gives them (a DNS subdomain, RFC 1123): 1 to 253 of `a-z`, `0-9`, `-` and `.`, beginning and ending with
/// a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectName(Box<str>);

/// The name of an interface: 1 to 63 ASCII letters, digits, `.`, `_`, `-`, `@`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(Box<str>);

/// The name of a VRF: as an object's name, at most 63 characters. `default` always exists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VrfName(Box<str>);

/// The name of a Linux network device: 1 to 15 bytes without `/`, `:`, white space and control characters, not `.` or `..` (dev_valid_name in
/// net/core/dev.c).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName(Box<str>);

impl VrfName {
    /// The name of the VRF that always exists.
    pub const DEFAULT: &str = "default";

    /// Whether it names the VRF that always exists.
    pub fn is_default(&self) -> bool {
        &*self.0 == Self::DEFAULT
    }
}

/// The VRF that always exists.
impl Default for VrfName {
    fn default() -> Self {
        Self(Self::DEFAULT.into())
    }
}

fn check_dns(text: &str, longest: usize) -> Result<(), Invalid> {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        match (bytes.first(), bytes.last()) {
            (Some(first), Some(last)) => {
                alphanumeric(*first)
                    && alphanumeric(*last)
                    && bytes.iter().all(|c| alphanumeric(*c) || *c == b'-')
            }
            _ => false,
        }
    };
    if text.is_empty() {
        return Err(invalid!("a name is required"));
    }
    if text.len() > longest {
        return Err(invalid!(
            "{} characters, but a name has at most {longest}",
            text.len()
        ));
    }
    if !text.split('.').all(label) {
        return Err(invalid!(
            "{text:?} is no name: use a-z, 0-9, '-' and '.', beginning and ending with a letter or digit"
        ));
    }
    Ok(())
}

fn check_object(text: &str) -> Result<(), Invalid> {
    check_dns(text, 253)
}

fn check_vrf(text: &str) -> Result<(), Invalid> {
    check_dns(text, 63)
}

fn check_interface(text: &str) -> Result<(), Invalid> {
    let Some(first) = text.bytes().next() else {
        return Err(invalid!("a name is required"));
    };
    if text.len() > 63 {
        return Err(invalid!(
            "{} characters, but an interface's name has at most 63",
            text.len()
        ));
    }
    let inside = |c: u8| c.is_ascii_alphanumeric() || b"._-@".contains(&c);
    if !first.is_ascii_alphanumeric() || !text.bytes().all(inside) {
        return Err(invalid!(
            "{text:?} is no interface name: use letters, digits, '.', '_', '-' and '@', beginning with a letter or digit"
        ));
    }
    Ok(())
}

fn check_device(text: &str) -> Result<(), Invalid> {
    if text.is_empty() {
        return Err(invalid!("a device name is required"));
    }
    if text.len() > 15 {
        return Err(invalid!(
            "{text:?} is no device name: Linux allows at most 15 bytes"
        ));
    }
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text == "." || text == ".." || text.contains(forbidden) {
        return Err(invalid!(
            "{text:?} is no device name: Linux allows no '/', ':' or white space"
        ));
    }
    Ok(())
}

macro_rules! name {
    ($name:ident, $check:ident) => {
        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            ///
            /// What the name may look like.
            pub fn new(text: &str) -> Result<Self, Invalid> {
                $check(text)?;
                Ok(Self(text.into()))
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(ObjectName, check_object);
name!(InterfaceName, check_interface);
name!(VrfName, check_vrf);
name!(DeviceName, check_device);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_their_rules() {
        for good in ["a", "lan-4", "default.v4", "0"] {
            assert_eq!(
                ObjectName::new(good).map(|name| name.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "A",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a_b",
            "ä",
            "a/b",
            &"a".repeat(254),
        ] {
            assert!(ObjectName::new(bad).is_err(), "{bad}");
        }
        for good in [
            "eth0",
            "eth0.100",
            "GigabitEthernet0_8",
            "veth1@if2",
            &"x".repeat(63),
        ] {
            assert!(InterfaceName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "-x", "a b", "a/b", "é", &"x".repeat(64)] {
            assert!(InterfaceName::new(bad).is_err(), "{bad}");
        }
        for good in ["eth0", "br-lan", "wg.1", "äö"] {
            assert!(DeviceName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "a:1",
            "0123456789abcdef",
            "a\n",
        ] {
            assert!(DeviceName::new(bad).is_err(), "{bad:?}");
        }
        assert!(VrfName::default().is_default());
        assert!(VrfName::new(&"v".repeat(64)).is_err());
    }
}
