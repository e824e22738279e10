//! Lookup tables of the packet path: longest-prefix match, address sets, rule classifier, flow table, exact match, consistent hashing,
//! NAT ports, token bucket.
//!
//! | table | structure | updates |
//! |---|---|---|
//! | [`Lpm4`] | DIR-24-8, `u32` entries | in place, one writer, readers never wait |
//! | [`Lpm6`] | host-route hash, then a nine-way interval tree | `/128` in place, all others at [`Lpm6Writer::commit`] |
//! | [`AddressSets`](address_sets::AddressSets) | the two above, then a shared array of classes | one writer; readers hold immutable views |
//! | [`IpPortSets`](address_sets::IpPortSets) | hash in shared shards | as above |
//! | [`FlowTable`] | tag buckets, one line per direction of a flow | owned by one worker |
//! | [`acl::Classifier`] | brute force, bit vectors or cut trees, by size | compiled anew; a small overlay for single changes |
//! | [`ExactMap`] | two-choice buckets, one line nearly always | built anew |
//! | [`Maglev`] | consistent hashing over a prime number of slots | built anew |
//! | [`DetNat`] | arithmetic | configuration only |
//! | [`PortBlocks`], [`HostBlocks`] | bitmaps; records of blocks and hosts in lists | owned by one worker |
//! | [`TokenBucket`] | integer credit | owned by its user |
//!
//! A route table is a pair: one writer (owned by the control plane, `&mut self`) and any number of reader
//! handles (`Clone + Send + Sync`, `&self`). Readers take no lock and write no shared memory.
//! Addresses are integers in host order: `u32::from(Ipv4Addr)`, `u128::from(Ipv6Addr)`. A value is
//! a number below 2^31 that the caller gives a meaning (an adjacency index, say); 0 means "no route".
//!
//! ```
//! use tables::{HugePages, Lpm4};
//!
//! let (mut routes, reader) = Lpm4::new(1024, HugePages::Transparent)?;
//! routes.insert(u32::from_be_bytes([10, 0, 0, 0]), 8, 7)?;
//! routes.insert(u32::from_be_bytes([10, 1, 2, 128]), 25, 9)?;
//! assert_eq!(reader.lookup(u32::from_be_bytes([10, 9, 9, 9])), 7);
//! assert_eq!(reader.lookup(u32::from_be_bytes([10, 1, 2, 200])), 9);
//! assert_eq!(reader.lookup(u32::from_be_bytes([11, 0, 0, 1])), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![deny(unsafe_code)]

pub mod acl;
pub mod address_sets;
mod array;
mod cpu;
mod det_nat;
mod error;
mod exact;
mod flow;
mod hosts;
mod interval_tree;
mod lpm4;
mod lpm6;
mod maglev;
mod port_blocks;
mod prefetch;
mod prefix;
mod published;
mod rib;
mod token_bucket;

pub use array::HugePages;
pub use det_nat::{AddressRange, DetBinding, DetNat, DetNatConfig, DetNatError, Share};
pub use error::LpmError;
pub use exact::{ExactMap, ExactMapError};
pub use flow::{
    AnyFlowKey, Direction, FlowClass, FlowConfig, FlowEnd, FlowGauges, FlowHash, FlowIndex,
    FlowKey, FlowKey4, FlowKey6, FlowScan, FlowState, FlowTable, FlowTimeouts, FlowTrace, FlowView,
    Inserted, Leg, LegFlags, NewFlow, Rewrite4, Rewrite6, Swept, TcpFlags, Tick, Tracked,
    Transition,
};
pub use lpm4::{Lpm4, Lpm4View, Lpm4Writer};
pub use lpm6::{Lpm6, Lpm6Writer};
pub use maglev::{Maglev, MaglevError};
pub use port_blocks::{
    Allocated, Block, GivenBack, HostBlocks, HostBlocksConfig, HostUsage, Parity, PortBlocks,
    PortBlocksError, PortGauges, PortLayout, PortRefusal, PortWish, Released,
};
pub use prefix::{Prefix4, Prefix6, PrefixError};
pub use token_bucket::TokenBucket;

/// Values of a longest-prefix-match table are below this bound (2^31); the top bit of an entry is
/// the table's own.
pub const VALUE_LIMIT: u32 = 1 << 31;
