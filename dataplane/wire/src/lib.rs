//! Bytes to headers and back: checked views, checksums, packet builder.
//!
//! - **Headers** ([`EthernetHeader`], [`Ip4Header`], [`TcpHeader`], …) are fixed layouts that are read
//!   and written where they lie in a packet ([`Header::view`], [`Header::view_mut`]): one bounds check
//!   each, no copy, no allocation. `parse` also checks the fields that later code relies on.
//! - **Validation** by the clauses of the RFCs: [`ip4::validate`], [`ip6::validate`], and the
//!   neighbour discovery checks in [`nd`].
//! - **[`checksum`]**: whole, pseudo-headers, and incremental updates for routing and NAT.
//! - **Between IPv4 and IPv6**: [`translate`] turns packets of one into packets of the other, [`pref64`] puts IPv4 addresses
//!   into IPv6 addresses, [`nptv6`] exchanges IPv6 prefixes.
//! - **[`builder`]**: packets for tests, tools and the slow path, with lengths and checksums filled in.
//! - **[`describe`](mod@describe)**: packets in words for people, and differences between packets.
//!
//! A malformed packet is a value, [`ParseError`], and never a panic.
//!
//! ```
//! use wire::{builder::eth, describe::describe, ip4, udp::UdpHeader, vlan, MacAddr};
//!
//! let frame = eth(MacAddr::local(1), MacAddr::local(2))
//!     .vlan(10)
//!     .ip4([10, 0, 0, 1], [10, 0, 0, 2])
//!     .udp(1000, 53)
//!     .payload(b"hello")
//!     .build();
//!
//! let tagged = vlan::parse_vlans(&frame)?;
//! ip4::validate(tagged.rest).unwrap();
//! let packet = ip4::Ip4Packet::parse(tagged.rest)?;
//! let (udp, payload) = UdpHeader::parse(packet.payload)?;
//! assert_eq!((udp.dst_port.get(), payload), (53, &b"hello"[..]));
//! assert_eq!(
//!     describe(&frame),
//!     "02:00:00:00:00:01 > 02:00:00:00:00:02 vlan 10 IPv4 10.0.0.1 > 10.0.0.2 ttl 64 UDP 1000 > 53 len 33"
//! );
//! # Ok::<(), wire::ParseError>(())
//! ```
#![forbid(unsafe_code)]

pub mod arp;
pub mod builder;
pub mod checksum;
pub mod describe;
mod error;
pub mod ethernet;
#[doc(hidden)]
pub mod fuzzing;
mod header;
pub mod icmp4;
pub mod icmp6;
pub mod ip;
pub mod ip4;
pub mod ip6;
pub mod mac;
pub mod nd;
pub mod nptv6;
pub mod pref64;
pub mod tcp;
pub mod translate;
pub mod udp;
pub mod vlan;

pub use arp::{ArpOperation, ArpPacket};
pub use error::ParseError;
pub use ethernet::{EtherType, EthernetHeader};
pub use header::Header;
pub use icmp4::{Icmp4Header, Icmp4Type};
pub use icmp6::{Icmp6Header, Icmp6Type};
pub use ip::{Ecn, IpProtocol};
pub use ip4::{Ip4Error, Ip4Header};
pub use ip6::{Ip6Error, Ip6Header};
pub use mac::MacAddr;
pub use nptv6::{Nptv6, Nptv6Error};
pub use pref64::{Pref64, Pref64Error};
pub use tcp::{TcpFlags, TcpHeader};
pub use udp::UdpHeader;
pub use vlan::VlanTag;
