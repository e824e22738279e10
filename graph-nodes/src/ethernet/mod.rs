//! Ethernet.

pub mod input;

pub use input::EthernetInput;
