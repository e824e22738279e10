//! The desired state's validated types: what the operator wants, in types that cannot hold nonsense.
//!
//! Every type has a checked constructor. What one object can say about itself is checked there; what objects say about each
//! other is checked by [`DesiredState::validate`]. No I/O, no serialization: the API's conversion lives in `control`.
#![forbid(unsafe_code)]

mod address;
mod connected;
mod error;
mod interface;
mod mac;
mod name;
mod nat;
mod neighbour;
mod object;
pub mod policy;
mod route;
mod shared_map;
mod state;
mod validate;
mod vrf;

pub use address::{Address, InterfaceAddress};
pub use connected::Connected;
pub use error::{Invalid, SpecError};
pub use interface::{
    AfPacket, Interface, InterfaceKind, Mtu, RingVersion, TagProtocol, Vlan, VlanId,
};
pub use mac::MacAddress;
pub use name::{DeviceName, InterfaceName, ObjectName, VrfName};
pub use nat::{
    AddressRange, ForwardAddress, MAX_NAT_INTERFACES, MAX_NAT_PREFIXES, MAX_POOL_RANGES, NatAction,
    NatPool, NatRule, NatState, Pairing, PoolAddresses, PortForward, PortSpan, StaticNat, nat_host,
    nat_prefix,
};
pub use neighbour::Neighbour;
pub use object::{Kind, ObjectKey, ObjectSpec};
pub use route::{MAX_NEXT_HOPS, NextHop, Prefix, Route, RouteType, Weight};
pub use shared_map::{Iter as SharedMapIter, SharedMap};
pub use state::{Changes, DesiredState};
pub use vrf::Vrf;
