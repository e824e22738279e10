//! Server, desired state, compilers, stores, slow path.
#![forbid(unsafe_code)]

pub mod client;
pub mod compile;
pub mod convert;
pub mod daemon;
pub mod dataplane;
pub mod desired;
pub mod engine;
pub mod policy;
pub mod server;
pub mod slowpath;
pub mod store;
pub mod watch;
pub mod yaml;
