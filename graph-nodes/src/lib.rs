//! The network functions: one folder per family, one file per node, and the [`Snapshot`] they read.
#![forbid(unsafe_code)]

pub mod ethernet;
pub mod fib;
pub mod flow_hash;
mod graph;
pub mod icmp;
pub mod ip4;
pub mod ip6;
pub mod nat;
pub mod neighbour;
pub mod output;
pub mod policy;
pub mod punt;
mod snapshot;
pub mod tcp;

pub use graph::graph;
pub use snapshot::*;
