//! Ports of the packet engine that need nothing but Linux: network devices through AF_PACKET, capture files, a packet
//! generator and its sink.
//!
//! Each is a [`dataplane::Queue`]: one worker's share of a port.
#![deny(unsafe_code)]

pub mod af_packet;
pub mod generator;
pub mod pcap;
pub mod sink;

pub use af_packet::{
    AfPacketConfig, AfPacketPort, Fanout, FanoutMode, PortError, PortInfo, RingKind, link_up,
};
pub use generator::{Field, GeneratorConfig, GeneratorError, GeneratorQueue, Template, Values};
pub use pcap::{PcapError, PcapFile, PcapReader, PcapRecord, PcapRecords, PcapWriter, read_pcap};
pub use sink::{Recycler, SinkCounters, SinkQueue};
