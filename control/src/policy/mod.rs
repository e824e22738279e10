//! Policy as a question: states from files or from a daemon's objects, packets from words, and what the compiled tables say about them.

mod explain;
mod load;
mod packet;

pub use model::policy::PolicyState;

pub use explain::{AllInterfaces, Answer, Explainer, Explanation};
pub use load::{load, state_of};
pub use packet::{PacketError, Question, direction, endpoint, read_line, read_packet};
