//! Addresses of ours on interfaces.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::error::invalid;
use crate::{InterfaceName, Invalid};

/// An address of ours on an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub interface: InterfaceName,
    /// Address and prefix length; the prefix becomes a connected route.
    pub address: InterfaceAddress,
}

/// A host's address with the length of its subnet's prefix: a unicast address, neither unspecified nor loopback, and in IPv4
/// neither the first nor the last of its subnet (unless the prefix is longer than 30 bits, RFC 3021).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceAddress(IpNet);

impl InterfaceAddress {
    /// Checks and takes an address.
    ///
    /// # Errors
    ///
    /// No host's address.
    pub fn new(net: IpNet) -> Result<Self, Invalid> {
        let address = net.addr();
        check_host(address)?;
        if let IpNet::V4(v4) = net
            && v4.prefix_len() <= 30
        {
            if v4.addr() == v4.network() {
                return Err(invalid!("{net} is the subnet's own address, no host's"));
            }
            if v4.addr() == v4.broadcast() {
                return Err(invalid!(
                    "{net} is the subnet's broadcast address, no host's"
                ));
            }
        }
        Ok(Self(net))
    }

    /// The address.
    pub fn ip(self) -> IpAddr {
        self.0.addr()
    }

    /// The subnet: without host bits.
    pub fn subnet(self) -> IpNet {
        self.0.trunc()
    }

    /// Whether it is valid on its link only (IPv6 fe80::/10).
    pub fn is_link_local(self) -> bool {
        is_link_local(self.ip())
    }
}

impl FromStr for InterfaceAddress {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match parse_net(text) {
            Some(net) => Self::new(net),
            None if text.parse::<IpAddr>().is_ok() => Err(invalid!(
                "{text:?} has no prefix length: write it like 10.0.0.1/24 or 2001:db8::1/64"
            )),
            None => Err(invalid!(
                "{text:?} is no address with prefix length: write it like 10.0.0.1/24 or 2001:db8::1/64"
            )),
        }
    }
}

/// `10.0.0.1/24`.
impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address and a prefix length, strictly: no leading zeros, which some programs read as octal.
pub(crate) fn parse_net(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain = length == "0" || !length.starts_with(['0', '+']);
    IpNet::new(
        address.parse().ok()?,
        length.parse().ok().filter(|_| plain)?,
    )
    .ok()
}

/// Refuses what cannot be a host's address on a link.
pub(crate) fn check_host(address: IpAddr) -> Result<(), Invalid> {
    let wrong = match address {
        _ if address.is_unspecified() => "the unspecified address",
        _ if address.is_multicast() => "a multicast address",
        _ if address.is_loopback() => "a loopback address",
        IpAddr::V4(v4) if v4.is_broadcast() => "the broadcast address",
        IpAddr::V4(v4) if v4.octets()[0] == 0 => "of \"this network\" (RFC 1122 section 3.2.1.3)",
        IpAddr::V4(v4) if v4.octets()[0] >= 240 => "reserved (RFC 1112 section 4)",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => "an IPv4-mapped address",
        _ => return Ok(()),
    };
    Err(invalid!("{address} is {wrong}, no host's on a link"))
}

/// Whether an address is valid on its link only. IPv4 link-local addresses (RFC 3927) count as ordinary ones.
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_hosts_addresses_are_taken() {
        for good in [
            "10.0.0.1/24",
            "10.0.0.0/31",
            "10.0.0.0/32",
            "2001:db8::1/64",
            "fe80::1/10",
            "2001:db8::/64",
        ] {
            assert_eq!(
                good.parse::<InterfaceAddress>().map(|a| a.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/33",
            "10.0.0.0/24",
            "10.0.0.255/24",
            "0.0.0.0/0",
            "224.0.0.1/24",
            "127.0.0.1/8",
            "255.255.255.255/32",
            "0.1.2.3/8",
            "240.0.0.1/8",
            "::/0",
            "::1/128",
            "ff02::1/64",
            "::ffff:10.0.0.1/120",
            "x/24",
            "10.0.0.1/24 ",
            "10.0.0.01/24",
            "10.0.0.1/024",
            "10.0.0.1/+24",
        ] {
            assert!(bad.parse::<InterfaceAddress>().is_err(), "{bad}");
        }
    }
}
