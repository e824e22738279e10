//! Policy without a daemon: states from files, packets from words, and what the compiled tables say about them.

mod explain;
mod load;
mod packet;

pub use explain::{Answer, Explainer, Explanation};
pub use load::load;
pub use packet::{PacketError, Question, direction, endpoint, read_line, read_packet};
