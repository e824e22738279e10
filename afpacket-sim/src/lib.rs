//! Labs of network namespaces and veth pairs with Linux's own stacks as hosts, and traffic tools.
//!
//! A [`Lab`] is built from a [`Topology`] of ten lines: hosts with addresses and default routes, one
//! router with ports, and the links between them. Namespaces have no name and are bound to no path:
//! they live as long as this process, so that nothing is left behind however it ends. Nothing here
//! starts another program; links, addresses and routes are made over netlink.
//!
//! ```no_run
//! use afpacket_sim::{Lab, Topology, traffic::{PingOptions, ping}};
//!
//! # fn main() -> Result<(), afpacket_sim::SimError> {
//! let topology: Topology = "
//!     router gw
//!     port p0 198.18.1.1/24
//!     port p1 198.18.2.1/24
//!     host a to p0 198.18.1.2/24 via 198.18.1.1
//!     host b to p1 198.18.2.2/24 via 198.18.2.1
//! "
//! .parse()?;
//! let mut lab = Lab::build(&topology)?;
//! lab.enable_kernel_forwarding()?;
//! let b = "198.18.2.2".parse().expect("a valid address");
//! let report = lab.namespace("a")?.run(|| ping(b, &PingOptions::default()))??;
//! assert_eq!(report.received, report.sent);
//! # Ok(())
//! # }
//! ```
//!
//! Making namespaces needs `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`; [`enter_user_namespace_if_needed`]
//! gets them for a plain user where the system allows user namespaces.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`topology`] | the description of a lab: types, text format, validation |
//! | [`lab`] | builds it; kernel forwarding as comparison |
//! | [`namespace`] | a network namespace: run code, threads and programs in it |
//! | [`rtnl`] | links, addresses, routes, neighbours |
//! | [`offload`] | checksum and segmentation offloads of a device |
//! | [`shim`] | the tagged end of a host behind a VLAN, for kernels without 802.1Q |
//! | [`traffic`] | ping, traceroute, path MTU, TCP and UDP transfer, raw frames |
//! | [`user_namespace`] | root inside a user namespace |
#![deny(unsafe_code)]

pub mod error;
mod inet6;
pub mod lab;
pub mod mac;
pub mod namespace;
pub mod offload;
pub mod rtnl;
pub mod shim;
mod sys;
pub mod topology;
pub mod traffic;
pub mod user_namespace;

pub use error::SimError;
pub use lab::Lab;
pub use mac::MacAddress;
pub use namespace::Namespace;
pub use offload::Offloads;
pub use topology::Topology;
pub use user_namespace::{Privilege, enter_user_namespace_if_needed};

/// Result of this package's functions.
pub type Result<T, E = SimError> = std::result::Result<T, E>;
