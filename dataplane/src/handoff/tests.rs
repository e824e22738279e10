//! Two and three workers by hand and on threads: what is handed over arrives in order, or is a counted drop, and no buffer is lost.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::{
    Context, Engine, EngineConfig, Frame, GraphSpec, Idle, MemoryPort, MemoryWire, NoDrop, Node,
    PortId, Queue, Snapshot, Verdict, Worker, memory_pair,
};

struct Config;
impl Snapshot for Config {
    type WorkerState = ();
}

crate::next_nodes! {
    enum Next { Out => "port-tx" }
}

/// A packet's first byte is its owner, the second what is to happen there.
struct Owner;
const PANICS: u8 = 13;

impl Node<Config> for Owner {
    const NAME: &'static str = "owner";
    type Next = Next;
    type Drop = NoDrop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Config>) {
        for at in 0..frame.len() {
            let bytes = cx.view.bytes(&frame.packets()[at]);
            let (owner, action) = (u16::from(bytes[0]), bytes[1]);
            if owner != cx.worker.0 {
                let packet = frame.take(at);
                cx.hand_over(WorkerId(owner), packet);
                continue;
            }
            assert!(action != PANICS, "thirteen");
            let (packets, verdicts) = frame.parts_mut();
            packets[at].word = Context::<Config>::port_word(PortId(0));
            verdicts[at] = Verdict::next(Next::Out);
        }
    }
}

struct Rig {
    engine: Engine<Config>,
    workers: Vec<Option<Worker<Config>>>,
    ends: Vec<MemoryPort>,
}

fn config(workers: usize) -> EngineConfig {
    EngineConfig {
        workers,
        buffers: 8192,
        idle: Idle::Adaptive { spin_ns: 0 },
        ..EngineConfig::default()
    }
}

fn ports(workers: usize) -> (Vec<MemoryPort>, Vec<Option<Box<dyn Queue>>>) {
    let pairs = (0..workers).map(|_| memory_pair(1 << 16).expect("event descriptors"));
    pairs
        .map(|(ours, theirs)| (ours, Some(Box::new(theirs) as Box<dyn Queue>)))
        .unzip()
}

impl Rig {
    fn new(count: usize) -> Self {
        let graph = GraphSpec::new().node(|_| Owner);
        let (mut engine, workers) =
            Engine::new(&config(count), &graph, Config, |_| ()).expect("workers");
        let (ends, queues) = ports(count);
        engine.send_queues(PortId(0), queues).expect("room");
        let mut rig = Self {
            engine,
            workers: workers.into_iter().map(Some).collect(),
            ends,
        };
        (0..count).for_each(|worker| _ = rig.turn(worker));
        rig
    }

    fn send(&mut self, at: usize, bytes: &[u8]) {
        assert!(self.ends[at].send(wire(bytes)));
    }

    fn turn(&mut self, worker: usize) -> usize {
        self.workers[worker].as_mut().map_or(0, Worker::turn)
    }

    fn received(&mut self, at: usize) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| self.ends[at].receive().map(|wire| wire.bytes)).collect()
    }

    fn stats(&self, worker: u16) -> &WorkerStats {
        self.engine.stats(WorkerId(worker)).expect("a worker")
    }

    /// Sent, received, congested.
    fn counted(&self, worker: u16, other: usize) -> (u64, u64, u64) {
        let stats = &self.stats(worker).handoff[other];
        (
            stats.sent.value(),
            stats.received.value(),
            stats.congested.value(),
        )
    }

    fn finish(mut self, first: usize) {
        self.workers[first] = None;
        // One of those that are left still hands over to who is gone.
        for worker in 0..self.workers.len() {
            self.send(worker, &[first as u8, 0]);
            self.turn(worker);
        }
        self.workers.clear();
        self.engine.pool().audit().expect("every buffer is back");
    }
}

fn wire(bytes: &[u8]) -> MemoryWire {
    MemoryWire {
        bytes: bytes.to_vec(),
        offload: None,
    }
}

#[test]
fn packets_go_on_where_they_belong() {
    let mut rig = Rig::new(2);
    for number in 0..100 {
        rig.send(0, &[number % 2, 0, number]);
    }
    // A burst is 64: two turns, two batches.
    assert_eq!((rig.turn(0), rig.turn(0)), (64, 36));
    assert_eq!(rig.counted(0, 1), (50, 0, 0));
    assert!(rig.received(1).is_empty());
    assert_eq!(rig.turn(1), 50);
    let numbers = |list: Vec<Vec<u8>>| list.into_iter().map(|bytes| bytes[2]).collect::<Vec<_>>();
    let every_other = |first| (first..100).step_by(2).collect::<Vec<u8>>();
    assert_eq!(numbers(rig.received(0)), every_other(0));
    assert_eq!(numbers(rig.received(1)), every_other(1));
    assert_eq!(rig.counted(1, 0), (0, 50, 0));
    let handoff = rig.stats(1).nodes.last().expect("the engine's own node");
    assert_eq!((handoff.calls.value(), handoff.vectors.value()), (2, 50));
    assert_eq!(rig.turn(1), 0);
    rig.finish(0);
}

#[test]
fn a_full_ring_is_a_counted_drop_and_nobody_waits() {
    let mut rig = Rig::new(2);
    let total = 3000;
    for number in 0..total as u16 {
        let [high, low] = number.to_be_bytes();
        rig.send(0, &[1, 0, high, low]);
    }
    while rig.turn(0) > 0 {}
    let (sent, _, congested) = rig.counted(0, 1);
    assert_eq!(sent + congested, total);
    // Each batch of 64 has a header.
    assert_eq!(sent, (RING - RING.div_ceil(65)) as u64);
    let node = rig.stats(0).nodes.last().expect("the engine's own node");
    assert_eq!(node.drops[0].value(), congested);
    while rig.turn(1) > 0 {}
    let received = rig.received(1);
    assert_eq!(received.len() as u64, sent);
    for (number, bytes) in received.iter().enumerate() {
        assert_eq!(bytes[2..], (number as u16).to_be_bytes());
    }
    // The ring has room again.
    rig.send(0, &[1, 0]);
    assert_eq!((rig.turn(0), rig.turn(1)), (1, 1));
    rig.finish(1);
}

#[test]
fn who_is_not_there_gets_nothing() {
    for workers in [1, 2] {
        let mut rig = Rig::new(workers);
        rig.send(0, &[7, 0]);
        rig.turn(0);
        assert_eq!(rig.stats(0).lost.value(), 1);
        rig.finish(0);
    }
}

#[test]
fn a_panic_loses_no_packet_that_was_handed_over() {
    let mut rig = Rig::new(2);
    for byte in [1, 1, 0] {
        rig.send(0, &[byte, if byte == 0 { PANICS } else { 0 }]);
    }
    rig.send(0, &[1, 0]);
    rig.turn(0);
    assert_eq!(rig.stats(0).nodes[0].panics.value(), 1);
    // Two were on their way already, two were left.
    assert_eq!(rig.stats(0).nodes[0].drops[0].value(), 2);
    assert_eq!(rig.turn(1), 2);
    rig.send(0, &[1, PANICS]);
    rig.send(0, &[1, 0]);
    rig.turn(0);
    rig.turn(1);
    assert_eq!(rig.stats(1).nodes[0].drops[0].value(), 2);
    rig.finish(0);
}

/// Packets that panic where they were handed over to are the port's that received them, on whatever worker.
#[test]
fn who_feeds_another_worker_panics_is_quarantined() {
    let mut rig = Rig::new(2);
    for _ in 0..100 {
        rig.send(0, &[1, PANICS]);
        rig.turn(0);
        rig.turn(1);
    }
    assert_eq!(rig.stats(1).nodes[0].panics.value(), 16);
    rig.send(1, &[1, 0]);
    assert_eq!(rig.turn(0) + rig.turn(1), 0);
    assert!(rig.received(1).is_empty());
    assert!((0..2).all(|worker| rig.stats(worker).port(PortId(0)).quarantined));
    rig.finish(0);
}

#[test]
fn many_batches_take_several_turns_and_leave_frames_for_ports() {
    let mut rig = Rig::new(3);
    for at in [0, 1] {
        for number in 0..900u16 {
            let [high, low] = number.to_be_bytes();
            rig.send(at, &[2, at as u8, high, low]);
        }
    }
    while rig.turn(0) + rig.turn(1) > 0 {}
    assert_eq!(rig.turn(2), 2 * 256 / 64 * 64);
    while rig.turn(2) > 0 {}
    let received = rig.received(2);
    assert_eq!(received.len(), 1800);
    for at in 0..2 {
        let of = received.iter().filter(|bytes| bytes[1] == at);
        let numbers = of.map(|bytes| u16::from_be_bytes([bytes[2], bytes[3]]));
        assert!(numbers.eq(0..900), "in order");
    }
    assert_eq!(rig.stats(2).lost.value(), 0);
    rig.finish(2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Packets that arrive anywhere, turns in any order: everything arrives where it belongs, in order of each arrival, or is counted;
    /// whoever ends first, the pool is whole.
    #[test]
    fn whatever_the_order(
        steps in proptest::collection::vec((0..3usize, 0..3u8, 1..400usize, any::<bool>()), 1..40),
        first in 0..3usize,
        settle in any::<bool>(),
    ) {
        let mut rig = Rig::new(3);
        let mut number = 0u32;
        let mut offered = 0;
        for (at, owner, count, turn) in steps {
            for _ in 0..count {
                let mut bytes = vec![owner, at as u8];
                bytes.extend_from_slice(&number.to_be_bytes());
                number += 1;
                // Not 13, which panics: 0 to 2.
                rig.send(at, &bytes);
                offered += 1;
            }
            if turn {
                rig.turn(usize::from(owner));
                rig.turn(at);
            }
        }
        if settle {
            while (0..3).map(|worker| rig.turn(worker)).sum::<usize>() > 0 {}
            let mut arrived = 0;
            for owner in 0..3 {
                let mut last = [None; 3];
                for bytes in rig.received(owner) {
                    prop_assert_eq!(usize::from(bytes[0]), owner);
                    let number = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
                    let last = &mut last[usize::from(bytes[1])];
                    prop_assert!(last.is_none_or(|last| last < number));
                    *last = Some(number);
                    arrived += 1;
                }
            }
            let congested: u64 = (0..3u16).flat_map(|worker| (0..3).map(move |other| (worker, other)))
                .map(|(worker, other)| rig.counted(worker, other).2)
                .sum();
            let lost: u64 = (0..3).map(|worker| rig.stats(worker).lost.value()).sum();
            prop_assert_eq!(arrived + congested + lost, offered);
            prop_assert_eq!(lost, 0);
        }
        rig.finish(first);
    }
}

/// Workers on threads that sleep as soon as they have nothing to do: packets for the other one still arrive, all of them in order,
/// and stopping in the middle of it loses no buffer.
#[test]
fn sleeping_workers_are_woken_and_stop_whole() {
    const WAIT: Duration = Duration::from_secs(60);
    let graph = GraphSpec::new().node(|_| Owner);
    let mut engine = Engine::start(&config(2), &graph, Config, |_| ()).expect("two workers");
    let (mut ends, queues) = ports(2);
    engine.add_port(PortId(0), queues, WAIT).expect("an answer");
    let patience = Instant::now() + WAIT;
    let mut number = 0u32;
    // One at a time, so that both sleep in between.
    for round in 0..300u32 {
        let (at, owner) = ((round % 2) as usize, 1 - (round % 2) as u8);
        let mut sent = Vec::new();
        for _ in 0..1 + round % 3 {
            let mut bytes = vec![owner, 0];
            bytes.extend_from_slice(&number.to_be_bytes());
            number += 1;
            assert!(ends[at].send(wire(&bytes)));
            sent.push(bytes);
        }
        for expected in sent {
            let arrived = loop {
                if let Some(wire) = ends[usize::from(owner)].receive() {
                    break wire.bytes;
                }
                assert!(
                    Instant::now() < patience,
                    "packet {expected:?} has not come"
                );
                std::thread::yield_now();
            };
            assert_eq!(arrived, expected);
        }
    }
    assert!(engine.all_stats().all(|stats| stats.sleeps.value() > 0));
    // Both ways at full speed, and stopped in the middle of it.
    for _ in 0..5000 {
        assert!(ends[0].send(wire(&[1, 0])) && ends[1].send(wire(&[0, 0])));
    }
    let pool = engine.stop().expect("both end");
    drop(ends);
    pool.audit().expect("every buffer is back");
}
