//! IPv4.

pub(crate) mod address;
pub mod arc;
pub mod fragment;
pub mod input;
pub mod local;
pub mod lookup;
pub(crate) mod payload;
pub mod rewrite;
pub mod rpf_check;

pub use fragment::Ip4Fragment;
pub use input::Ip4Input;
pub use local::Ip4Local;
pub use lookup::Ip4Lookup;
pub use rewrite::Ip4Rewrite;
pub use rpf_check::Ip4RpfCheck;
