//! Traffic tools: each works in the network namespace of the calling thread, or takes the namespaces it needs.
//!
//! Everything ends by itself: each wait has a limit, and each tool reports what it saw instead of waiting on.

mod error_queue;
pub mod frames;
mod icmp;
mod path_mtu;
mod pattern;
mod ping;
mod statistics;
mod tcp;
mod traceroute;
mod udp;

pub use frames::{CapturedFrame, Sniffer, inject, sniff};
pub use path_mtu::{PathMtuOptions, PathMtuReport, TooBig, path_mtu};
pub use ping::{PingOptions, PingReport, ping};
pub use statistics::RttSummary;
pub use tcp::{Integrity, TcpOptions, TcpReport, tcp_transfer};
pub use traceroute::{Hop, HopAnswer, TracerouteOptions, traceroute};
pub use udp::{UdpOptions, UdpReport, udp_transfer};
