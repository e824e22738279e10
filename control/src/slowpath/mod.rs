//! The slow path: what packets ask of the control plane, as state machines without sockets, clocks or tasks.

pub mod neighbour;

pub use neighbour::*;
