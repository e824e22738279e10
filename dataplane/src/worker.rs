//! Workers: the loop that takes packets from ports through the graph, and sleeps when there are none.

use std::os::fd::{AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::buffer::{Buffers, Descriptor, Flags, Pool};
use crate::event::Event;
use crate::graph::{Graph, Run1};
use crate::handoff::{Handoff, Sleeper};
use crate::node::{Snapshot, WorkerId};
use crate::port::{PortId, Queue};
use crate::publish::Reader;
use crate::record::{RecordReader, RecordWriter};
use crate::rng::Rng;
use crate::stats::{PortStats, WorkerStats};
use crate::time::{Clock, ticks};
use crate::trace::{CaptureFilter, Direction, Tap};

/// Frames that panicked and that a port fed, before it is polled no more.
const PANICS_TO_QUARANTINE: u32 = 16;

/// What a worker does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Idle {
    /// Polls for `spin_ns` nanoseconds after the last packet, then sleeps until a port or control wakes it.
    Adaptive {
        /// Nanoseconds of polling.
        spin_ns: u64,
    },
    /// Polls for ever.
    Busy,
}

/// What control asks of a worker.
pub(crate) enum Command {
    AddQueue(PortId, Box<dyn Queue>),
    RemoveQueue(PortId),
    Trace {
        count: u32,
        port: Option<PortId>,
        number: u32,
    },
    TraceEnd,
    Capture(Option<CaptureFilter>),
}

/// What a worker gives back.
pub(crate) enum Reply {
    Queue(PortId, Box<dyn Queue>),
}

/// What a worker and control share.
pub(crate) struct Shared {
    pub(crate) stats: WorkerStats,
    pub(crate) sleeper: Arc<Sleeper>,
    pub(crate) stop: AtomicBool,
    pub(crate) commands_done: AtomicU64,
}

pub(crate) struct Slot {
    port: PortId,
    queue: Box<dyn Queue>,
    panics: u32,
    /// As control was told.
    quarantined: bool,
    used: bool,
}

/// A worker's queues.
pub(crate) struct Queues {
    slots: Vec<Slot>,
    by_port: Vec<u16>,
    blamed: Blamed,
}

/// By port: frames that panicked and that the port fed, at whichever worker, since a packet may panic where another worker handed
/// it over to.
pub(crate) type Blamed = Arc<[AtomicU32]>;

pub(crate) fn nobody_blamed() -> Blamed {
    (0..PortId::MAX).map(|_| AtomicU32::new(0)).collect()
}

impl Queues {
    const NONE: u16 = u16::MAX;

    fn new(blamed: Blamed) -> Self {
        Self {
            slots: Vec::with_capacity(64),
            by_port: vec![Self::NONE; usize::from(PortId::MAX)],
            blamed,
        }
    }

    /// Whether the port has fed too much that panicked.
    #[inline]
    fn is_quarantined(&self, slot: &Slot) -> bool {
        let blamed = self.blamed[usize::from(slot.port.0)].load(Ordering::Relaxed);
        slot.panics + blamed >= PANICS_TO_QUARANTINE
    }

    /// The queue of a port, to be flushed at the end of this turn.
    #[inline]
    pub(crate) fn queue(&mut self, port: PortId) -> Option<&mut Box<dyn Queue>> {
        let at = *self.by_port.get(usize::from(port.0))?;
        let slot = self.slots.get_mut(usize::from(at))?;
        slot.used = true;
        Some(&mut slot.queue)
    }

    /// Remembers which ports fed packets to a node that panicked.
    #[cold]
    pub(crate) fn blame(
        &mut self,
        packets: &[Descriptor],
        port_of: impl Fn(u16) -> Option<PortId>,
    ) {
        // In a frame of several ports nobody knows whose packet it was: blaming all would let one take the others down.
        let port = packets.first().and_then(|packet| port_of(packet.interface));
        let mut ports = packets.iter().map(|packet| port_of(packet.interface));
        if port.is_none() || !ports.all(|other| other == port) {
            return;
        }
        if let Some(blamed) = port.and_then(|port| self.blamed.get(usize::from(port.0))) {
            blamed.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn add(&mut self, port: PortId, queue: Box<dyn Queue>) -> Option<Box<dyn Queue>> {
        let replaced = self.remove(port);
        self.blamed[usize::from(port.0)].store(0, Ordering::Relaxed);
        self.by_port[usize::from(port.0)] = self.slots.len() as u16;
        self.slots.push(Slot {
            port,
            queue,
            panics: 0,
            quarantined: false,
            used: true,
        });
        replaced
    }

    fn remove(&mut self, port: PortId) -> Option<Box<dyn Queue>> {
        let at = std::mem::replace(&mut self.by_port[usize::from(port.0)], Self::NONE);
        if at == Self::NONE {
            return None;
        }
        let slot = self.slots.swap_remove(usize::from(at));
        if let Some(moved) = self.slots.get(usize::from(at)) {
            self.by_port[usize::from(moved.port.0)] = at;
        }
        Some(slot.queue)
    }
}

/// One worker. [`Worker::run`] is its thread; tests and benches call [`Worker::turn`] themselves.
pub struct Worker<S: Snapshot> {
    pub(crate) id: WorkerId,
    pub(crate) graph: Graph<S>,
    pub(crate) queues: Queues,
    pub(crate) buffers: Buffers,
    pub(crate) pool: Pool,
    pub(crate) reader: Reader<S>,
    pub(crate) state: S::WorkerState,
    pub(crate) clock: Clock,
    pub(crate) rng: Rng,
    pub(crate) shared: Arc<Shared>,
    pub(crate) commands: rtrb::Consumer<Command>,
    pub(crate) replies: rtrb::Producer<Reply>,
    pub(crate) injected: RecordReader,
    pub(crate) inject_buffer: Vec<u8>,
    pub(crate) punts: RecordWriter,
    pub(crate) tap: Tap,
    pub(crate) handoff: Handoff,
    /// Tells control that punts, trace records, captures or replies wait.
    pub(crate) notify: Arc<Event>,
    pub(crate) burst: usize,
    pub(crate) idle: Idle,
    pub(crate) poll_fds: Vec<libc::pollfd>,
}

impl<S: Snapshot> Worker<S> {
    pub(crate) fn queues(blamed: &Blamed) -> Queues {
        Queues::new(Arc::clone(blamed))
    }

    /// Runs until the engine stops it. All packets on their way go back to the pool.
    pub fn run(mut self) {
        let mut last_work = self.clock.now_ns();
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.turn() > 0 {
                last_work = self.clock.now_ns();
                continue;
            }
            match self.idle {
                Idle::Adaptive { spin_ns }
                    if self.clock.now_ns().saturating_sub(last_work) >= spin_ns =>
                {
                    self.sleep();
                }
                _ => std::hint::spin_loop(),
            }
        }
    }

    /// One turn of the loop: commands, snapshot, ports, graph, transmission. Returns the packets that came in.
    pub fn turn(&mut self) -> usize {
        let begin = ticks();
        if !self.commands.is_empty() {
            self.obey();
        }
        let now_ns = self.clock.now_ns();
        let shared = &*self.shared;
        let stats = &shared.stats;
        let mut work = 0;
        let mut run = Run1 {
            snapshot: self.reader.observe(),
            state: &mut self.state,
            buffers: &mut self.buffers,
            view: self.pool.view(),
            queues: &mut self.queues,
            now_ns,
            // From 1 on, so that 0 can mean none.
            turn: stats.loops.value() + 1,
            rng: &mut self.rng,
            worker: self.id,
            stats,
            punts: &mut self.punts,
            tap: &mut self.tap,
            handoff: &mut self.handoff,
        };
        if run.handoff.is_waiting() {
            work += receive(&mut self.graph, &mut run);
        }
        // A slot is "used" in a turn when it received or sent: it is flushed at the end.
        for at in 0..run.queues.slots.len() {
            let quarantined = run.queues.is_quarantined(&run.queues.slots[at]);
            let slot = &mut run.queues.slots[at];
            // Another worker may have found out: then this one has it to tell.
            slot.used = slot.queue.pending() || slot.quarantined != quarantined;
            slot.quarantined = quarantined;
            if quarantined {
                continue;
            }
            let Some(mut frame) = self.graph.out.frame() else {
                break;
            };
            let received = {
                let (frame, buffers) = (&mut *frame, &mut *run.buffers);
                catch_unwind(AssertUnwindSafe(|| {
                    slot.queue.rx(frame, self.burst, buffers)
                }))
            };
            if received.is_err() {
                stats.port_panics.add(1);
                slot.panics += 1;
                run.buffers.free_all(frame.packets_mut());
                self.graph.out.give_back(frame);
                continue;
            }
            if frame.is_empty() {
                self.graph.out.give_back(frame);
                continue;
            }
            work += frame.len();
            slot.used = true;
            let port = slot.port;
            for packet in frame.packets_mut() {
                packet.interface = port.0;
            }
            if run.tap.trace_left > 0 {
                run.tap.mark(port, frame.packets_mut(), run.buffers, now_ns);
            }
            run.tap
                .capture(port, Direction::Rx, frame.packets(), run.buffers, now_ns);
            self.graph.out.input(frame);
        }
        if !self.injected.is_empty() {
            work += inject(
                &mut self.graph,
                &mut self.injected,
                &mut self.inject_buffer,
                &mut run,
            );
        }
        self.graph.poll(&mut run);
        let tick = ticks();
        let mut end = self.graph.run(&mut run, tick);
        if run.handoff.is_dirty() {
            run.handoff.flush(stats, run.buffers);
            let now = ticks();
            if let Some(node) = stats.nodes.last() {
                node.ticks.add(now.wrapping_sub(end));
            }
            end = now;
        }
        for at in 0..self.queues.slots.len() {
            let quarantined = self.queues.is_quarantined(&self.queues.slots[at]);
            let slot = &mut self.queues.slots[at];
            if !slot.used {
                continue;
            }
            let (queue, buffers) = (&mut slot.queue, &mut self.buffers);
            if catch_unwind(AssertUnwindSafe(|| queue.flush(buffers))).is_err() {
                stats.port_panics.add(1);
            }
            stats.set_port(
                slot.port,
                PortStats {
                    queue: slot.queue.counters(),
                    quarantined,
                },
            );
        }
        stats.loops.add(1);
        if work > 0 || end != tick {
            stats.busy_loops.add(1);
            stats.busy_ticks.add(end.wrapping_sub(begin));
            work = work.max(1);
        } else {
            stats.idle_ticks.add(tick.wrapping_sub(begin));
        }
        if self.tap.lost > 0 {
            stats.telemetry_lost.add(std::mem::take(&mut self.tap.lost));
        }
        if self.punts.take_fresh() | self.tap.take_fresh() {
            self.notify.signal();
        }
        work
    }

    #[cold]
    fn obey(&mut self) {
        while let Ok(command) = self.commands.pop() {
            let mut returned = None;
            match command {
                Command::AddQueue(port, queue) => {
                    returned = self.queues.add(port, queue).map(|queue| (port, queue));
                }
                Command::RemoveQueue(port) => {
                    returned = self.queues.remove(port).map(|queue| (port, queue));
                    self.shared.stats.set_port(port, PortStats::default());
                }
                Command::Trace {
                    count,
                    port,
                    number,
                } => {
                    self.tap.tracing = true;
                    self.tap.trace_left = count;
                    self.tap.trace_port = port;
                    self.tap.next_number = (u32::from(self.id.0) << 24) | (number & 0x00ff_ffff);
                }
                Command::TraceEnd => {
                    self.tap.tracing = false;
                    self.tap.trace_left = 0;
                }
                Command::Capture(filter) => self.tap.capture = filter,
            }
            if let Some((port, mut queue)) = returned {
                queue.flush(&mut self.buffers);
                // Control keeps room for every queue it handed out; the queue is closed here if it did not.
                let _ = self.replies.push(Reply::Queue(port, queue));
            }
            self.shared.commands_done.fetch_add(1, Ordering::Release);
        }
        self.poll_fds.clear();
        self.notify.signal();
    }

    /// Waits for a port, for control, or for the time of the next housekeeping.
    #[cold]
    fn sleep(&mut self) {
        let mut timeout_ms = 100;
        if self.poll_fds.is_empty() {
            let wake = self.shared.sleeper.wake();
            self.poll_fds.push(poll_fd(wake.as_raw_fd()));
            self.poll_fds.extend(
                self.queues
                    .slots
                    .iter()
                    .filter_map(|slot| slot.queue.readable())
                    .map(poll_fd),
            );
        }
        if self.queues.slots.iter().any(|slot| {
            !self.queues.is_quarantined(slot)
                && (slot.queue.readable().is_none() || slot.queue.pending())
        }) {
            timeout_ms = 1;
        }
        let sleeper = &self.shared.sleeper;
        sleeper.lie_down();
        if !self.handoff.is_waiting() {
            self.shared.stats.sleeps.add(1);
            crate::event::poll(&mut self.poll_fds, timeout_ms);
            if self.poll_fds[0].revents != 0 {
                sleeper.wake().clear();
            }
        }
        sleeper.get_up();
    }
}

impl<S: Snapshot> Drop for Worker<S> {
    /// Every packet on its way goes back to the pool.
    fn drop(&mut self) {
        for slot in &mut self.queues.slots {
            slot.queue.flush(&mut self.buffers);
        }
        self.graph.drain(&mut self.buffers);
        self.handoff.close(&mut self.buffers);
    }
}

fn poll_fd(fd: RawFd) -> libc::pollfd {
    libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    }
}

/// Puts other workers' packets on their nodes' inputs.
fn receive<S: Snapshot>(graph: &mut Graph<S>, run: &mut Run1<'_, S>) -> usize {
    let begin = ticks();
    let (batches, packets) = run.handoff.receive(&mut graph.out, run.stats, run.buffers);
    if let Some(node) = run.stats.nodes.last() {
        node.calls.add(batches);
        node.vectors.add(packets);
        node.ticks.add(ticks().wrapping_sub(begin));
    }
    packets as usize
}

/// Puts the slow path's packets on their nodes' inputs.
#[cold]
fn inject<S: Snapshot>(
    graph: &mut Graph<S>,
    ring: &mut RecordReader,
    record: &mut Vec<u8>,
    run: &mut Run1<'_, S>,
) -> usize {
    let mut count = 0;
    while count < 64 && ring.read(record) {
        let Some((header, bytes)) = InjectHeader::decode(record) else {
            continue;
        };
        count += 1;
        let Some(mut packet) = run.buffers.copy_from(bytes) else {
            run.stats.lost.add(1);
            continue;
        };
        packet.interface = header.interface;
        packet.word = header.word;
        packet.set_flags(Flags::LOCAL);
        run.stats.injected.add(1);
        if let Err(packet) = graph.inject(header.node, packet) {
            run.stats.lost.add(1);
            run.buffers.free(packet);
        }
    }
    count
}

/// Where an injected packet enters the graph.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InjectHeader {
    pub(crate) node: u16,
    pub(crate) interface: u16,
    pub(crate) word: u32,
}

impl InjectHeader {
    pub(crate) fn encode(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[0..2].copy_from_slice(&self.node.to_ne_bytes());
        out[2..4].copy_from_slice(&self.interface.to_ne_bytes());
        out[4..8].copy_from_slice(&self.word.to_ne_bytes());
        out
    }

    fn decode(record: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, bytes) = record.split_first_chunk::<8>()?;
        let half = |at: usize| u16::from_ne_bytes([fixed[at], fixed[at + 1]]);
        let word = u32::from_ne_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        Some((
            Self {
                node: half(0),
                interface: half(2),
                word,
            },
            bytes,
        ))
    }
}
