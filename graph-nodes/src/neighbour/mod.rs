//! Neighbours: ARP, neighbour discovery, and packets that wait for them.

pub mod arp_input;
pub mod glean;
pub mod nd_input;

pub use arp_input::ArpInput;
pub use glean::{Ip4Glean, Ip6Glean};
pub use nd_input::NdInput;

/// Set in the word that `ip4-lookup` and `ip6-lookup` leave for `ip4-glean` and `ip6-glean`: the rest is an interface, on
/// whose link the packet's destination itself is to be found. Without it, the word is an incomplete adjacency.
pub const GLEAN_INTERFACE: u32 = 0x8000_0000;
