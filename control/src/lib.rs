//! Server, desired state, compilers, stores, slow path.
#![forbid(unsafe_code)]

pub mod client;
pub mod convert;
pub mod daemon;
pub mod dataplane;
pub mod desired;
pub mod server;
pub mod store;
pub mod watch;
pub mod yaml;
