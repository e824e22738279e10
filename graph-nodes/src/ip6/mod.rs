//! IPv6.

pub mod input;
pub mod lookup;
pub mod rewrite;

pub use input::Ip6Input;
pub use lookup::Ip6Lookup;
pub use rewrite::Ip6Rewrite;
