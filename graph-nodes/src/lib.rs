//! The network functions: one folder per family, one file per node, and the [`Snapshot`] they read.
#![forbid(unsafe_code)]

pub mod fib;
mod snapshot;

pub use snapshot::*;
