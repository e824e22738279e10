//! Ports: where packets come from and go to. The engine knows them only by this trait.

use std::os::fd::RawFd;

use crate::buffer::{Buffers, Descriptor};
use crate::frame::Frame;

/// Number of a port, given by control; also the interface number that its packets carry until `ethernet-input`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

impl PortId {
    /// Ports that an engine can have at the most; numbers are below it.
    pub const MAX: u16 = 1024;
}

/// What a port carries without help.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortCapabilities {
    /// It takes packets whose layer-4 checksum is still to be filled in.
    pub checksum: bool,
    /// It takes trains of TCP over IPv4 segments.
    pub tcp4_segmentation: bool,
    /// It takes trains of TCP over IPv6 segments.
    pub tcp6_segmentation: bool,
    /// It takes trains of UDP datagrams.
    pub udp_segmentation: bool,
    /// The longest Ethernet frame that it sends, in bytes, segment trains aside.
    pub max_frame: u32,
}

/// Counters that a queue keeps about itself. They grow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueCounters {
    /// Packets that arrived but were lost before we saw them: the kernel's or the card's ring was full.
    pub rx_missed: u64,
    /// Packets given up on receive: damaged, too long, or no buffer was free.
    pub rx_dropped: u64,
    /// Packets that the device refused to send after we had accepted them.
    pub tx_failed: u64,
}

/// One worker's share of a port: a receive queue and a transmit queue. Used by that worker's thread alone.
pub trait Queue: Send {
    /// Receives up to `max` packets into the frame (fewer where the frame has less room). Each packet's current header
    /// is its Ethernet header. Returns how many.
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize;

    /// Takes packets for sending from the front of the slice, leaving [`Descriptor::NONE`] for each; returns how many.
    /// What it does not take stays with the caller. Packets may leave only at [`Queue::flush`].
    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize;

    /// Sends what was taken, and gives back the buffers of what was sent.
    fn flush(&mut self, buffers: &mut Buffers);

    /// A descriptor that becomes readable when packets arrive, for workers that sleep. A queue without one is polled
    /// every millisecond while its worker is idle.
    fn readable(&self) -> Option<RawFd> {
        None
    }

    /// True where `flush` must be called again though nothing was sent since: the device was busy.
    fn pending(&self) -> bool {
        false
    }

    /// The queue's own counters.
    fn counters(&self) -> QueueCounters {
        QueueCounters::default()
    }
}
