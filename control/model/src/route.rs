//! Routes.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::str::FromStr;

use ipnet::IpNet;
use smallvec::SmallVec;

use crate::error::invalid;
use crate::{InterfaceName, Invalid, VrfName};

/// Most next hops of one route.
pub const MAX_NEXT_HOPS: usize = 64;

/// Where packets to a destination go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The VRF that holds it.
    pub vrf: VrfName,
    /// Which packets.
    pub destination: Prefix,
    /// What happens to them.
    pub route_type: RouteType,
    /// Where to: at least one for [`RouteType::Unicast`], else none; at most [`MAX_NEXT_HOPS`].
    pub next_hops: SmallVec<[NextHop; 1]>,
}

/// What happens to packets of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteType {
    /// To the next hops.
    #[default]
    Unicast,
    /// Dropped silently.
    Blackhole,
    /// Dropped; the sender is told that the destination is unreachable.
    Unreachable,
    /// Dropped; the sender is told that it is administratively prohibited.
    Prohibit,
}

impl RouteType {
    /// As objects write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unicast => "unicast",
            Self::Blackhole => "blackhole",
            Self::Unreachable => "unreachable",
            Self::Prohibit => "prohibit",
        }
    }
}

impl FromStr for RouteType {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        [
            Self::Unicast,
            Self::Blackhole,
            Self::Unreachable,
            Self::Prohibit,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == text)
        .ok_or_else(|| {
            invalid!(
                "{text:?} is no route type; there are unicast, blackhole, unreachable and prohibit"
            )
        })
    }
}

/// One way to a destination; at least one of `via` and `interface` is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The next router's address. Without it, the destination is on the link.
    pub via: Option<IpAddr>,
    /// The interface. Without it, the one whose subnet holds `via`.
    pub interface: Option<InterfaceName>,
    /// Share of the flows.
    pub weight: Weight,
}

/// Share of the flows that a next hop gets: 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(NonZeroU8);

impl Weight {
    /// Checks and takes a weight.
    ///
    /// # Errors
    ///
    /// Outside 1 to 255.
    pub fn new(weight: u32) -> Result<Self, Invalid> {
        u8::try_from(weight)
            .ok()
            .and_then(NonZeroU8::new)
            .map(Self)
            .ok_or_else(|| invalid!("{weight} is no weight; it is 1 to 255"))
    }

    /// The weight.
    pub fn value(self) -> u8 {
        self.0.get()
    }
}

/// 1.
impl Default for Weight {
    fn default() -> Self {
        Self(NonZeroU8::MIN)
    }
}

/// A destination: an IP prefix without host bits that unicast packets can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

impl Prefix {
    /// Checks and takes a prefix.
    ///
    /// # Errors
    ///
    /// Host bits, or multicast addresses.
    pub fn new(net: IpNet) -> Result<Self, Invalid> {
        if net.addr() != net.network() {
            return Err(invalid!(
                "{net} has host bits; the prefix is {}",
                net.trunc()
            ));
        }
        if net.addr().is_multicast() {
            return Err(invalid!(
                "{net} is multicast; routes are for unicast destinations"
            ));
        }
        Ok(Self(net))
    }

    /// The prefix.
    pub fn net(self) -> IpNet {
        self.0
    }
}

impl FromStr for Prefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let net = crate::address::parse_net(text).ok_or_else(|| {
            invalid!("{text:?} is no prefix: write it like 192.0.2.0/24 or 2001:db8::/32")
        })?;
        Self::new(net)
    }
}

/// `192.0.2.0/24`.
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_have_no_host_bits() {
        for good in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "10.0.0.1/32",
            "::/0",
            "2001:db8::/33",
        ] {
            assert_eq!(
                good.parse::<Prefix>().map(|p| p.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "10.0.0.1",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "2001:db8::1/64",
            "224.0.0.0/4",
            "ff00::/8",
            "/0",
        ] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        assert!(Weight::new(0).is_err() && Weight::new(256).is_err() && Weight::new(255).is_ok());
    }
}
