//! Counters: written by one worker, read by anyone, at the price of a plain addition.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::handoff::HandoffStats;
use crate::port::PortId;

/// Interfaces that counters are kept for; numbers are below it.
pub const MAX_INTERFACES: u16 = 4096;

/// A counter with one writer.
#[derive(Default, Debug)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; to be called by the owning worker only, or counts are lost.
    #[inline(always)]
    pub fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Replaces the value: for gauges.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What one node did on one worker.
#[derive(Default, Debug)]
pub struct NodeStats {
    /// Frames it was called with.
    pub calls: Counter,
    /// Packets in them.
    pub vectors: Counter,
    /// Ticks of the cycle counter spent in it.
    pub ticks: Counter,
    /// Panics contained.
    pub panics: Counter,
    /// Drops by reason; the last is for packets that the node gave no verdict.
    pub drops: Box<[Counter]>,
}

/// What one interface carried on one worker.
#[derive(Default, Debug)]
pub struct InterfaceStats {
    counters: [Counter; 2 * InterfaceCounter::COUNT],
}

/// The counters of an interface; each counts packets and bytes.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InterfaceCounter {
    /// Received.
    Rx = 0,
    /// Sent.
    Tx = 1,
    /// Received and dropped, for whatever reason.
    Drop = 2,
}

impl InterfaceCounter {
    const COUNT: usize = 3;
}

impl InterfaceStats {
    /// Packets and bytes.
    pub fn value(&self, counter: InterfaceCounter) -> (u64, u64) {
        let at = 2 * counter as usize;
        (self.counters[at].value(), self.counters[at + 1].value())
    }
}

/// Everything that one worker counts.
#[derive(Debug)]
pub struct WorkerStats {
    /// By node index.
    pub nodes: Box<[NodeStats]>,
    interfaces: Box<[InterfaceStats]>,
    /// By worker: what this one has handed to it and taken from it.
    pub handoff: Box<[HandoffStats]>,
    /// Per port: receive queue misses and drops, transmit failures, 1 where quarantined.
    ports: Box<[[Counter; 4]]>,
    /// Turns of the loop.
    pub loops: Counter,
    /// Turns that moved at least one packet.
    pub busy_loops: Counter,
    /// Times the worker went to sleep.
    pub sleeps: Counter,
    /// Ticks spent in turns that moved packets.
    pub busy_ticks: Counter,
    /// Ticks spent in turns that found nothing to do, sleep aside.
    pub idle_ticks: Counter,
    /// Packets handed to the slow path, and those lost because its ring was full.
    pub punts: Counter,
    /// See [`WorkerStats::punts`].
    pub punts_lost: Counter,
    /// Packets that the slow path injected.
    pub injected: Counter,
    /// Packets lost because the engine ran out of frames.
    pub lost: Counter,
    /// Trace or capture records lost because their ring was full.
    pub telemetry_lost: Counter,
    /// Panics contained outside nodes (ports).
    pub port_panics: Counter,
}

/// What a port counts on one worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PortStats {
    /// See [`QueueCounters`](crate::QueueCounters).
    pub queue: crate::QueueCounters,
    /// True where the port fed packets to panicking nodes too often and is no longer polled.
    pub quarantined: bool,
}

impl WorkerStats {
    pub(crate) fn new(drops: impl Iterator<Item = usize>, workers: usize) -> Self {
        let counters = |count| (0..count).map(|_| Counter::default()).collect();
        let nodes = drops.map(|count| NodeStats {
            drops: counters(count + 1),
            ..NodeStats::default()
        });
        Self {
            nodes: nodes.collect(),
            interfaces: (0..MAX_INTERFACES)
                .map(|_| InterfaceStats::default())
                .collect(),
            handoff: (0..workers).map(|_| HandoffStats::default()).collect(),
            ports: (0..PortId::MAX).map(|_| Default::default()).collect(),
            loops: Counter::default(),
            busy_loops: Counter::default(),
            sleeps: Counter::default(),
            busy_ticks: Counter::default(),
            idle_ticks: Counter::default(),
            punts: Counter::default(),
            punts_lost: Counter::default(),
            injected: Counter::default(),
            lost: Counter::default(),
            telemetry_lost: Counter::default(),
            port_panics: Counter::default(),
        }
    }

    /// Counts packets and bytes of an interface.
    #[inline]
    pub(crate) fn count(
        &self,
        interface: u16,
        counter: InterfaceCounter,
        packets: u64,
        bytes: u64,
    ) {
        if let Some(interface) = self.interfaces.get(usize::from(interface)) {
            let at = 2 * counter as usize;
            interface.counters[at].add(packets);
            interface.counters[at + 1].add(bytes);
        }
    }

    /// The counters of an interface.
    pub fn interface(&self, interface: u16) -> Option<&InterfaceStats> {
        self.interfaces.get(usize::from(interface))
    }

    pub(crate) fn set_port(&self, port: PortId, stats: PortStats) {
        if let Some(counters) = self.ports.get(usize::from(port.0)) {
            counters[0].set(stats.queue.rx_missed);
            counters[1].set(stats.queue.rx_dropped);
            counters[2].set(stats.queue.tx_failed);
            counters[3].set(u64::from(stats.quarantined));
        }
    }

    /// The counters of a port's queue.
    pub fn port(&self, port: PortId) -> PortStats {
        self.ports
            .get(usize::from(port.0))
            .map_or_else(PortStats::default, |counters| PortStats {
                queue: crate::QueueCounters {
                    rx_missed: counters[0].value(),
                    rx_dropped: counters[1].value(),
                    tx_failed: counters[2].value(),
                },
                quarantined: counters[3].value() != 0,
            })
    }
}
