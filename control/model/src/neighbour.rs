//! Static neighbours.

use std::net::IpAddr;

use crate::address::check_host;
use crate::{InterfaceName, Invalid, MacAddress};

/// Which link-layer address an IP address on a link has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface on the link.
    pub interface: InterfaceName,
    /// A host's address: see [`Neighbour::check_address`].
    pub address: IpAddr,
    /// Its link-layer address.
    pub mac_address: MacAddress,
}

impl Neighbour {
    /// Checks that an address can be a neighbour's, or a next hop's: unicast, not unspecified, not loopback.
    ///
    /// # Errors
    ///
    /// What kind of address it is instead.
    pub fn check_address(address: IpAddr) -> Result<IpAddr, Invalid> {
        check_host(address)?;
        Ok(address)
    }
}
