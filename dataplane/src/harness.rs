//! One node under test: packets in, and where each went with what in it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::buffer::{Buffers, Flags, Offload, Pages};
use crate::engine::{Engine, EngineConfig, EngineError};
use crate::frame::{Frame, NextNode, Verdict};
use crate::graph::{GraphSpec, PORT_TX, Run};
use crate::node::{Context, Node, PuntHeader, Snapshot, WorkerId};
use crate::stats::InterfaceCounter;
use crate::time::Clock;
use crate::worker::{Idle, Worker};

/// A packet for a node under test. Positions in `offload` count from the packet's first byte.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TestPacket {
    /// From the header that the node expects on.
    pub bytes: Vec<u8>,
    /// Bytes in front of it that are still there: the link-layer header, for most nodes.
    pub before: Vec<u8>,
    /// The interface that received it.
    pub interface: u16,
    /// What the previous node left.
    pub word: u32,
    /// The flags, [`Flags::CHAINED`] and [`Flags::OFFLOAD`] aside, which follow from the rest.
    pub flags: Flags,
    /// Work left undone on it.
    pub offload: Option<Offload>,
}

/// A packet that a node under test sent along an edge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Collected {
    /// The node that the edge leads to.
    pub node: &'static str,
    /// The packet, in the form in which it could be sent in again; `before` is empty.
    pub packet: TestPacket,
}

/// Collects packets from all stand-in nodes of a harness.
#[derive(Clone, Default)]
pub(crate) struct Sink(Arc<Mutex<Vec<Collected>>>);

pub(crate) struct Collector {
    name: &'static str,
    sink: Sink,
}

impl Sink {
    pub(crate) fn collector(&self, name: &'static str) -> Collector {
        Collector {
            name,
            sink: self.clone(),
        }
    }

    fn take(&self) -> Vec<Collected> {
        self.0
            .lock()
            .map(|mut list| std::mem::take(&mut *list))
            .unwrap_or_default()
    }
}

impl<S: Snapshot> Run<S> for Collector {
    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, S>) {
        let Ok(mut list) = self.sink.0.lock() else {
            return;
        };
        for at in 0..frame.len() {
            let packet = frame.take(at);
            list.push(Collected {
                node: self.name,
                packet: read_back(&packet, cx.buffers),
            });
            cx.buffers.free(packet);
        }
        frame.set_all(Verdict::TAKEN);
    }

    fn poll(&mut self, _: &mut Context<'_, S>) {}

    fn drain(&mut self, _: &mut Buffers) {}
}

fn read_back(packet: &crate::Descriptor, buffers: &Buffers) -> TestPacket {
    let base = packet.position();
    TestPacket {
        bytes: buffers.segments(packet).flatten().copied().collect(),
        before: Vec::new(),
        interface: packet.interface,
        word: packet.word,
        flags: packet.flags(),
        offload: buffers.offload(packet).map(|offload| Offload {
            checksum_start: offload.checksum_start.wrapping_sub(base),
            checksum_field: offload.checksum_field.wrapping_sub(base),
            ..offload
        }),
    }
}

/// Runs one node with a stand-in at the end of each of its edges.
pub struct NodeHarness<S: Snapshot> {
    engine: Engine<S>,
    worker: Worker<S>,
    sink: Sink,
    time: Arc<AtomicU64>,
}

impl<S: Snapshot> NodeHarness<S> {
    /// The node with this snapshot and shared state; 4096 buffers.
    pub fn new<N: Node<S>>(
        make: impl Fn() -> N + Send + Sync + 'static,
        snapshot: S,
        state: impl Fn() -> S::WorkerState,
    ) -> Result<Self, EngineError> {
        let sink = Sink::default();
        let mut graph = GraphSpec::new().node(move |_| make());
        let mut named = vec![N::NAME, PORT_TX];
        for name in N::Next::NAMES {
            if !named.contains(name) {
                named.push(name);
                graph = graph.collector(name, &sink);
            }
        }
        let (clock, time) = Clock::manual();
        let config = EngineConfig {
            buffers: 4096,
            pages: Pages::Transparent,
            idle: Idle::Busy,
            clock,
            seed: Some(1),
            ..EngineConfig::default()
        };
        let (engine, mut workers) = Engine::new(&config, &graph, snapshot, |_| state())?;
        let worker = workers
            .pop()
            .ok_or_else(|| EngineError::Config("no worker was made".into()))?;
        let mut harness = Self {
            engine,
            worker,
            sink,
            time,
        };
        // `port-tx` is the engine's own node; a memory of what reaches it stands behind every port number.
        harness.listen_at_ports()?;
        Ok(harness)
    }

    /// Sends packets through the node in one frame (or several, above 256) and returns what came out, in order per edge.
    pub fn run(&mut self, packets: Vec<TestPacket>) -> Vec<Collected> {
        for test in packets {
            let mut bytes = test.before.clone();
            bytes.extend_from_slice(&test.bytes);
            let Some(mut packet) = self.worker.buffers.copy_from(&bytes) else {
                continue;
            };
            let advanced = packet.advance(test.before.len());
            debug_assert!(advanced, "the header in front lies in the first buffer");
            packet.interface = test.interface;
            packet.word = test.word;
            packet.set_flags(test.flags);
            packet.clear_flags(Flags::OFFLOAD);
            let base = packet.position();
            let offload = test.offload.map(|offload| Offload {
                checksum_start: offload.checksum_start.wrapping_add(base),
                checksum_field: offload.checksum_field.wrapping_add(base),
                ..offload
            });
            self.worker.buffers.set_offload(&mut packet, offload);
            if let Err(packet) = self.worker.graph.inject(0, packet) {
                self.worker.buffers.free(packet);
            }
        }
        self.turn()
    }

    /// One turn of the loop without new packets: polls the node.
    pub fn turn(&mut self) -> Vec<Collected> {
        self.worker.turn();
        self.sink.take()
    }

    /// Sets the worker's clock, in nanoseconds.
    pub fn set_time(&mut self, now_ns: u64) {
        self.time.store(now_ns, Ordering::Relaxed);
    }

    /// Replaces the snapshot.
    pub fn publish(&mut self, snapshot: S) {
        self.engine.publish(snapshot);
    }

    /// The node's drops: counter name and count, those that are not zero. `undecided` counts packets without a verdict.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let Some(stats) = self.engine.stats(WorkerId(0)) else {
            return Vec::new();
        };
        let names = self.engine.nodes()[0]
            .drops
            .iter()
            .map(|(name, _)| *name)
            .chain([crate::UNDECIDED.0]);
        let counts = names.zip(stats.nodes[0].drops.iter().map(crate::Counter::value));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Packets and bytes counted for an interface.
    pub fn interface(&self, number: u16, counter: InterfaceCounter) -> (u64, u64) {
        let stats = self
            .engine
            .stats(WorkerId(0))
            .and_then(|stats| stats.interface(number));
        stats.map_or((0, 0), |stats| stats.value(counter))
    }

    /// What the node handed to the slow path.
    pub fn punts(&mut self) -> Vec<(PuntHeader, Vec<u8>)> {
        let mut list = Vec::new();
        self.engine
            .punts(|_, _, header, bytes| list.push((header, bytes.to_vec())));
        list
    }

    /// Ends the test: every buffer must be back in the pool, also those that the node held.
    ///
    /// # Errors
    /// What is lost or was freed twice.
    pub fn audit(self) -> Result<(), String> {
        let pool = self.engine.pool().clone();
        drop(self.worker);
        pool.audit()
    }

    fn listen_at_ports(&mut self) -> Result<(), EngineError> {
        for port in 0..16 {
            let queue = Box::new(PortCollector(self.sink.collector(PORT_TX)));
            self.engine
                .send_queues(crate::PortId(port), vec![Some(queue)])?;
        }
        self.worker.turn();
        Ok(())
    }
}

/// Stands behind the first 16 ports of a harness.
struct PortCollector(Collector);

impl crate::Queue for PortCollector {
    fn rx(&mut self, _: &mut Frame, _: usize, _: &mut Buffers) -> usize {
        0
    }

    fn tx(&mut self, packets: &mut [crate::Descriptor], buffers: &mut Buffers) -> usize {
        if let Ok(mut list) = self.0.sink.0.lock() {
            list.extend(packets.iter().map(|packet| Collected {
                node: self.0.name,
                packet: read_back(packet, buffers),
            }));
        }
        buffers.free_all(packets);
        packets.len()
    }

    fn flush(&mut self, _: &mut Buffers) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Config;
    impl Snapshot for Config {
        type WorkerState = ();
    }

    crate::next_nodes! {
        enum Next { Even => "even", Odd => "odd", Out => "port-tx" }
    }
    crate::drop_reasons! {
        enum Reason { Empty = "empty": "There is nothing in the packet" }
    }

    struct Sorter;
    impl Node<Config> for Sorter {
        const NAME: &'static str = "sorter";
        type Next = Next;
        type Drop = Reason;
        const POLLED: bool = true;

        fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Config>) {
            let (packets, verdicts) = frame.parts_mut();
            for (packet, verdict) in packets.iter_mut().zip(verdicts) {
                *verdict = match cx.buffers.bytes(packet).first() {
                    None => Verdict::discard(Reason::Empty),
                    Some(13) => panic!("thirteen"),
                    Some(14) => continue,
                    Some(byte) if byte % 2 == 0 => Next::Even.into(),
                    Some(_) => Next::Odd.into(),
                };
            }
        }

        fn poll(&mut self, cx: &mut Context<'_, Config>) {
            if cx.now_ns == 7
                && let Some(packet) = cx.buffers.copy_from(b"seven")
            {
                cx.emit(Next::Out, packet);
            }
        }
    }

    fn packet(bytes: &[u8]) -> TestPacket {
        TestPacket {
            bytes: bytes.to_vec(),
            ..TestPacket::default()
        }
    }

    #[test]
    fn every_packet_is_accounted_for() {
        let mut harness = NodeHarness::new(|| Sorter, Config, || ()).expect("a harness");
        let out = harness.run(vec![
            packet(&[1]),
            packet(&[]),
            packet(&[2]),
            packet(&[3]),
            packet(&[14]),
        ]);
        let at = |node| {
            out.iter()
                .filter(|out| out.node == node)
                .map(|out| out.packet.bytes[0])
                .collect::<Vec<_>>()
        };
        assert_eq!((at("even"), at("odd")), (vec![2], vec![1, 3]));
        assert_eq!(harness.drops(), [("empty", 1), ("undecided", 1)]);
        harness.set_time(7);
        let out = harness.turn();
        assert_eq!(
            (out[0].node, &out[0].packet.bytes[..]),
            ("port-tx", &b"seven"[..])
        );
        harness.audit().expect("balanced");
    }

    #[test]
    fn a_panic_costs_one_frame() {
        let mut harness = NodeHarness::new(|| Sorter, Config, || ()).expect("a harness");
        assert!(harness.run(vec![packet(&[1]), packet(&[13])]).is_empty());
        assert_eq!(harness.drops(), [("undecided", 2)]);
        let stats = harness.engine.stats(WorkerId(0)).expect("the worker");
        assert_eq!(stats.nodes[0].panics.value(), 1);
        assert_eq!(
            harness.run(vec![packet(&[1])]).len(),
            1,
            "the next frame goes through"
        );
        harness.audit().expect("balanced");
    }
}
