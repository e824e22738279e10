//! Ethernet.
