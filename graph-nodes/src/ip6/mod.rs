//! IPv6.

pub mod arc;
pub mod input;
pub mod local;
pub mod lookup;
pub mod rewrite;

pub use input::Ip6Input;
pub use local::Ip6Local;
pub use lookup::Ip6Lookup;
pub use rewrite::Ip6Rewrite;
