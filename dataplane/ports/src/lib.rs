//! Ports of the packet engine that need nothing but Linux: network devices through AF_PACKET, capture files, a packet
//! generator and its sink.
//!
//! Each is a [`dataplane::Queue`]: one worker's share of a port.
#![deny(unsafe_code)]

pub mod af_packet;

pub use af_packet::{
    AfPacketConfig, AfPacketPort, Fanout, FanoutMode, PortError, PortInfo, RingKind,
};
