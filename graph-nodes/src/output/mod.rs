//! Output: what stands between a rewritten packet and its port.

pub mod checksum;
pub(crate) mod forward;
pub mod gso_segment;
pub mod interface_output;
mod sent;
mod train;

pub use gso_segment::GsoSegment;
pub use interface_output::InterfaceOutput;
pub(crate) use sent::Sent;
