//! The graph: nodes, their edges by name, and the dispatch of frames.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::buffer::{BufferView, Buffers, Descriptor};
use crate::frame::{Decision, DropReason, Frame, NextNode, Verdict};
use crate::handoff::{HANDOFF, HANDOFF_DROPS, Handoff};
use crate::node::{Context, Node, Snapshot, WorkerId};
use crate::port::PortId;
use crate::record::RecordWriter;
use crate::rng::Rng;
use crate::stats::{InterfaceCounter, WorkerStats};
use crate::time::ticks;
use crate::trace::{Direction, Tap, TraceRecord};
use crate::worker::Queues;

/// Name of the node that all packets leave by: it hands packets to the port whose number is in their word.
pub const PORT_TX: &str = "port-tx";

/// The drop reasons of [`PORT_TX`].
pub const PORT_TX_DROPS: &[(&str, &str)] = &[
    ("no-port", "The port is gone, or was never there"),
    (
        "tx-full",
        "The port's transmit queue did not take the packet",
    ),
];

/// The drop that counts packets for which a node gave no verdict; the last of every node.
pub const UNDECIDED: (&str, &str) = (
    "undecided",
    "The node panicked over the frame, or gave no verdict: a defect, please report it",
);

/// Frames that a worker's graph can have in use at a time.
const FRAMES: usize = 256;

pub(crate) trait Run<S: Snapshot>: Send {
    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, S>);
    fn poll(&mut self, cx: &mut Context<'_, S>);
    fn drain(&mut self, buffers: &mut Buffers);
}

/// A node without its associated types.
struct Erased<N>(N);

impl<S: Snapshot, N: Node<S>> Run<S> for Erased<N> {
    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, S>) {
        self.0.process(frame, cx);
    }
    fn poll(&mut self, cx: &mut Context<'_, S>) {
        self.0.poll(cx);
    }
    fn drain(&mut self, buffers: &mut Buffers) {
        self.0.drain(buffers);
    }
}

type Make<S> = Box<dyn Fn(WorkerId) -> Box<dyn Run<S>> + Send + Sync>;

/// What the engine knows of a node besides its function.
#[derive(Clone, Copy, Debug)]
pub struct NodeInfo {
    /// The operator's name for it.
    pub name: &'static str,
    /// Names of the nodes that its edges lead to.
    pub nexts: &'static [&'static str],
    /// Its drop reasons: counter name and text.
    pub drops: &'static [(&'static str, &'static str)],
    polled: bool,
}

/// The declaration of a graph: which nodes there are, in the order in which pending frames are run.
///
/// Put nodes in the order that packets take, so that a node runs when everything in front of it has run.
pub struct GraphSpec<S: Snapshot> {
    nodes: Vec<(NodeInfo, Make<S>)>,
}

/// Why a graph could not be built.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GraphError {
    /// Two nodes have this name.
    Duplicate(&'static str),
    /// An edge of the first node leads to the second, which is not there.
    UnknownNext(&'static str, &'static str),
    /// The node has more edges or drop reasons than [`Verdict::MAX`].
    TooMany(&'static str),
    /// There are no nodes, or more than 65534.
    Size(usize),
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(name) => write!(f, "two nodes are named {name}: give one another name"),
            Self::UnknownNext(node, next) => {
                write!(
                    f,
                    "{node} has an edge to {next}, which is not in the graph: add the node or remove the edge"
                )
            }
            Self::TooMany(node) => {
                write!(
                    f,
                    "{node} has more than {} edges or drop reasons: split the node",
                    Verdict::MAX
                )
            }
            Self::Size(count) => write!(f, "a graph of {count} nodes cannot be built"),
        }
    }
}
impl std::error::Error for GraphError {}

impl<S: Snapshot> Default for GraphSpec<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Snapshot> GraphSpec<S> {
    /// No nodes yet. The first one added is where received packets go.
    pub fn new() -> Self {
        Self { nodes: Vec::new() }
    }

    /// Adds a node; `make` is called once for each worker.
    #[must_use]
    pub fn node<N: Node<S>>(
        mut self,
        make: impl Fn(WorkerId) -> N + Send + Sync + 'static,
    ) -> Self {
        let info = NodeInfo {
            name: N::NAME,
            nexts: N::Next::NAMES,
            drops: N::Drop::ENTRIES,
            polled: N::POLLED,
        };
        self.nodes
            .push((info, Box::new(move |worker| Box::new(Erased(make(worker))))));
        self
    }

    /// Adds a node whose name is known only at run time and that collects what it is given; for [`NodeHarness`].
    ///
    /// [`NodeHarness`]: crate::NodeHarness
    pub(crate) fn collector(mut self, name: &'static str, sink: &crate::harness::Sink) -> Self {
        let info = NodeInfo {
            name,
            nexts: &[],
            drops: &[],
            polled: false,
        };
        let sink = sink.clone();
        let make = move |_| -> Box<dyn Run<S>> { Box::new(sink.collector(name)) };
        self.nodes.push((info, Box::new(make)));
        self
    }

    /// The nodes in order, the engine's own last: [`PORT_TX`] and [`HANDOFF`].
    pub fn infos(&self) -> Vec<NodeInfo> {
        let tx = NodeInfo {
            name: PORT_TX,
            nexts: &[],
            drops: PORT_TX_DROPS,
            polled: false,
        };
        let handoff = NodeInfo {
            name: HANDOFF,
            nexts: &[],
            drops: HANDOFF_DROPS,
            polled: false,
        };
        self.nodes
            .iter()
            .map(|(info, _)| *info)
            .chain([tx, handoff])
            .collect()
    }

    /// Checks that every edge leads somewhere.
    pub fn check(&self) -> Result<(), GraphError> {
        self.edges().map(|_| ())
    }

    fn edges(&self) -> Result<Vec<Box<[u16]>>, GraphError> {
        let infos = self.infos();
        if self.nodes.is_empty() || infos.len() >= usize::from(u16::MAX) {
            return Err(GraphError::Size(self.nodes.len()));
        }
        let mut edges = Vec::new();
        for (index, info) in infos.iter().enumerate() {
            if infos[..index].iter().any(|other| other.name == info.name) {
                return Err(GraphError::Duplicate(info.name));
            }
            if info.nexts.len() > Verdict::MAX || info.drops.len() > Verdict::MAX {
                return Err(GraphError::TooMany(info.name));
            }
            let targets: Result<Box<[u16]>, _> = info
                .nexts
                .iter()
                .map(
                    |next| match infos.iter().position(|other| other.name == *next) {
                        Some(target) => Ok(target as u16),
                        None => Err(GraphError::UnknownNext(info.name, next)),
                    },
                )
                .collect();
            edges.push(targets?);
        }
        Ok(edges)
    }

    pub(crate) fn build(&self, worker: WorkerId) -> Result<Graph<S>, GraphError> {
        let edges = self.edges()?;
        let nodes: Vec<_> = self.nodes.iter().map(|(_, make)| make(worker)).collect();
        let polled = self
            .nodes
            .iter()
            .enumerate()
            .filter(|(_, (info, _))| info.polled);
        Ok(Graph {
            polled: polled.map(|(index, _)| index as u16).collect(),
            out: Outbox::new(edges.len()),
            edges,
            nodes,
        })
    }
}

/// Frames waiting for their nodes.
pub(crate) struct Outbox {
    inboxes: Vec<Vec<Box<Frame>>>,
    free: Vec<Box<Frame>>,
    pending: Vec<u64>,
}

impl Outbox {
    fn new(nodes: usize) -> Self {
        Self {
            inboxes: (0..nodes).map(|_| Vec::with_capacity(FRAMES)).collect(),
            free: (0..FRAMES).map(|_| Box::new(Frame::new())).collect(),
            pending: vec![0; nodes.div_ceil(64)],
        }
    }

    /// Adds one packet to a node's input; gives it back when there is no frame left.
    #[inline]
    pub(crate) fn append(&mut self, node: u16, packet: Descriptor) -> Result<(), Descriptor> {
        let node = usize::from(node);
        let inbox = &mut self.inboxes[node];
        let packet = match inbox.last_mut() {
            Some(frame) => match frame.push(packet) {
                Ok(()) => return Ok(()),
                Err(packet) => packet,
            },
            None => packet,
        };
        let Some(mut frame) = self.free.pop() else {
            return Err(packet);
        };
        self.pending[node / 64] |= 1 << (node % 64);
        let pushed = frame.push(packet);
        inbox.push(frame);
        pushed
    }

    /// Adds a whole frame to a node's input: by pointer, or to the last frame where it fits.
    #[inline]
    pub(crate) fn push(&mut self, node: u16, mut frame: Box<Frame>) {
        let node = usize::from(node);
        let inbox = &mut self.inboxes[node];
        if let Some(last) = inbox.last_mut()
            && last.append(&mut frame)
        {
            self.free.push(frame);
            return;
        }
        self.pending[node / 64] |= 1 << (node % 64);
        inbox.push(frame);
    }

    /// True where at least half of the frames are free.
    #[inline]
    pub(crate) fn is_half_free(&self) -> bool {
        self.free.len() >= FRAMES / 2
    }

    /// An empty frame, where one is left.
    #[inline]
    pub(crate) fn frame(&mut self) -> Option<Box<Frame>> {
        self.free.pop()
    }

    /// Takes an empty frame back.
    #[inline]
    pub(crate) fn give_back(&mut self, mut frame: Box<Frame>) {
        frame.clear();
        self.free.push(frame);
    }

    /// A filled frame to the graph's first node. Never joined with another port's, so that a packet that makes a node panic costs
    /// its own port's frame.
    #[inline]
    pub(crate) fn input(&mut self, frame: Box<Frame>) {
        self.pending[0] |= 1;
        self.inboxes[0].push(frame);
    }

    #[inline]
    fn lowest(&self) -> Option<u16> {
        let word = self.pending.iter().position(|word| *word != 0)?;
        Some((word * 64) as u16 + self.pending[word].trailing_zeros() as u16)
    }

    #[inline]
    fn pop(&mut self, node: u16) -> Option<Box<Frame>> {
        let node = usize::from(node);
        // First in, first out, so that packets of a flow stay in order.
        let inbox = &mut self.inboxes[node];
        let frame = if inbox.len() == 1 {
            inbox.pop()
        } else {
            Some(inbox.remove(0))
        };
        if inbox.is_empty() {
            self.pending[node / 64] &= !(1 << (node % 64));
        }
        frame
    }
}

/// One worker's instance of a graph.
pub(crate) struct Graph<S: Snapshot> {
    nodes: Vec<Box<dyn Run<S>>>,
    edges: Vec<Box<[u16]>>,
    polled: Vec<u16>,
    pub(crate) out: Outbox,
}

/// What a run of the graph works with, besides the graph.
pub(crate) struct Run1<'a, S: Snapshot> {
    pub(crate) snapshot: &'a S,
    pub(crate) state: &'a mut S::WorkerState,
    pub(crate) buffers: &'a mut Buffers,
    pub(crate) view: BufferView<'a>,
    pub(crate) queues: &'a mut Queues,
    pub(crate) now_ns: u64,
    pub(crate) turn: u64,
    pub(crate) rng: &'a mut Rng,
    pub(crate) worker: WorkerId,
    pub(crate) stats: &'a WorkerStats,
    pub(crate) punts: &'a mut RecordWriter,
    pub(crate) tap: &'a mut Tap,
    pub(crate) handoff: &'a mut Handoff,
}

impl<S: Snapshot> Graph<S> {
    /// Calls the polled nodes.
    pub(crate) fn poll(&mut self, run: &mut Run1<'_, S>) {
        for at in 0..self.polled.len() {
            let index = self.polled[at];
            let mut cx = context(run, &self.edges, &mut self.out, index);
            let node = &mut self.nodes[usize::from(index)];
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| node.poll(&mut cx))) {
                note_panic(run.stats, index, &panic);
            }
        }
    }

    /// Runs pending frames until none is left. `tick` is the time at which the caller stopped counting its own work;
    /// returns the time up to which work is accounted for.
    pub(crate) fn run(&mut self, run: &mut Run1<'_, S>, mut tick: u64) -> u64 {
        while let Some(index) = self.out.lowest() {
            let Some(mut frame) = self.out.pop(index) else {
                break;
            };
            let vectors = frame.len() as u64;
            if usize::from(index) == self.nodes.len() {
                transmit(&mut frame, run, index);
                self.out.give_back(frame);
            } else {
                frame.set_all(Verdict::UNSET);
                let traced = run
                    .tap
                    .tracing
                    .then(|| traced(&frame, run.buffers))
                    .filter(|list| !list.is_empty());
                let node = &mut self.nodes[usize::from(index)];
                let mut cx = context(run, &self.edges, &mut self.out, index);
                let outcome = catch_unwind(AssertUnwindSafe(|| node.process(&mut frame, &mut cx)));
                if let Err(panic) = outcome {
                    note_panic(run.stats, index, &panic);
                    run.queues
                        .blame(frame.packets(), |interface| run.snapshot.port_of(interface));
                    frame.set_all(Verdict::UNSET);
                }
                if let Some(traced) = traced {
                    record(&traced, &frame, run, index);
                }
                self.scatter(frame, run, index);
            }
            let now = ticks();
            let stats = &run.stats.nodes[usize::from(index)];
            stats.calls.add(1);
            stats.vectors.add(vectors);
            stats.ticks.add(now.wrapping_sub(tick));
            tick = now;
        }
        tick
    }

    /// Sends each packet where its verdict says.
    #[inline]
    fn scatter(&mut self, mut frame: Box<Frame>, run: &mut Run1<'_, S>, index: u16) {
        let edges = &self.edges[usize::from(index)];
        let verdicts = frame.verdicts();
        let Some(first) = verdicts.first().copied() else {
            self.out.give_back(frame);
            return;
        };
        let differ = verdicts
            .iter()
            .fold(0, |differ, verdict| differ | (verdict.raw() ^ first.raw()));
        if differ == 0
            && let Decision::Next(edge) = first.decode()
            && let Some(target) = edges.get(usize::from(edge))
        {
            self.out.push(*target, frame);
            return;
        }
        let stats = &run.stats.nodes[usize::from(index)];
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            let packet = packet.take();
            let reason = match verdict.decode() {
                Decision::Taken => continue,
                Decision::Next(edge) => match edges.get(usize::from(edge)) {
                    Some(target) => {
                        if let Err(packet) = self.out.append(*target, packet) {
                            run.stats.lost.add(1);
                            run.buffers.free(packet);
                        }
                        continue;
                    }
                    None => usize::MAX,
                },
                Decision::Drop(reason) => usize::from(reason),
            };
            if !packet.is_none() {
                discard(run.stats, run.buffers, &stats.drops, reason, packet);
            }
        }
        self.out.give_back(frame);
    }

    /// Gives back every packet that nodes hold or that waits for one: the worker ends.
    pub(crate) fn drain(&mut self, buffers: &mut Buffers) {
        self.nodes.iter_mut().for_each(|node| node.drain(buffers));
        for frame in self.out.inboxes.iter_mut().flatten() {
            buffers.free_all(frame.packets_mut());
            frame.clear();
        }
    }

    /// Puts a packet on a node's input.
    pub(crate) fn inject(&mut self, node: u16, packet: Descriptor) -> Result<(), Descriptor> {
        if usize::from(node) > self.nodes.len() {
            return Err(packet);
        }
        self.out.append(node, packet)
    }
}

fn context<'a, S: Snapshot>(
    run: &'a mut Run1<'_, S>,
    edges: &'a [Box<[u16]>],
    out: &'a mut Outbox,
    index: u16,
) -> Context<'a, S> {
    Context {
        snapshot: run.snapshot,
        state: run.state,
        buffers: run.buffers,
        view: run.view,
        now_ns: run.now_ns,
        turn: run.turn,
        rng: run.rng,
        worker: run.worker,
        edges: &edges[usize::from(index)],
        out,
        stats: run.stats,
        punts: run.punts,
        handoff: run.handoff,
        node: index,
    }
}

/// Counts a drop, against the reason and against the interface that received the packet, and frees the packet.
pub(crate) fn discard(
    stats: &WorkerStats,
    buffers: &mut Buffers,
    drops: &[crate::stats::Counter],
    reason: usize,
    packet: Descriptor,
) {
    drops[reason.min(drops.len() - 1)].add(1);
    stats.count(
        packet.interface,
        InterfaceCounter::Drop,
        1,
        buffers.total_length(&packet) as u64,
    );
    buffers.free(packet);
}

#[cold]
fn note_panic(stats: &WorkerStats, index: u16, panic: &Box<dyn Any + Send>) {
    // The panic hook has printed the message by now; the payload tells nothing more.
    let _ = panic;
    stats.nodes[usize::from(index)].panics.add(1);
}

#[cold]
fn traced(frame: &Frame, buffers: &Buffers) -> Vec<(usize, u32)> {
    let packets = frame.packets().iter().enumerate();
    packets
        .filter_map(|(at, packet)| Some((at, buffers.trace_number(packet)?)))
        .collect()
}

#[cold]
fn record<S: Snapshot>(traced: &[(usize, u32)], frame: &Frame, run: &mut Run1<'_, S>, index: u16) {
    for (at, number) in traced {
        let (packet, verdict) = (&frame.packets()[*at], frame.verdicts()[*at]);
        let record = TraceRecord::new(*number, index, verdict, packet, run.buffers, run.now_ns);
        run.tap.record(record);
    }
}

/// The last node: hands packets to their ports.
fn transmit<S: Snapshot>(frame: &mut Frame, run: &mut Run1<'_, S>, index: u16) {
    let packets = frame.packets_mut();
    let drops = &run.stats.nodes[usize::from(index)].drops;
    let mut at = 0;
    while at < packets.len() {
        let word = packets[at].word;
        let same = packets[at..].iter().position(|packet| packet.word != word);
        let end = same.map_or(packets.len(), |count| at + count);
        let batch = &mut packets[at..end];
        at = end;
        let port = u16::try_from(word)
            .ok()
            .filter(|port| *port < PortId::MAX)
            .map(PortId);
        if run.tap.tracing {
            for packet in batch.iter().filter(|packet| Tap::traced(packet)) {
                if let Some(number) = run.buffers.trace_number(packet) {
                    let verdict = Verdict::TAKEN;
                    let record =
                        TraceRecord::new(number, index, verdict, packet, run.buffers, run.now_ns);
                    run.tap.record(record);
                }
            }
        }
        let queue = port.and_then(|port| Some((port, run.queues.queue(port)?)));
        let (sent, reason) = match queue {
            Some((port, queue)) => {
                run.tap
                    .capture(port, Direction::Tx, batch, run.buffers, run.now_ns);
                let sent = catch_unwind(AssertUnwindSafe(|| queue.tx(batch, run.buffers)));
                (
                    sent.unwrap_or_else(|_| {
                        run.stats.port_panics.add(1);
                        0
                    }),
                    1,
                )
            }
            None => (0, 0),
        };
        for packet in batch.iter_mut().skip(sent) {
            let packet = packet.take();
            if !packet.is_none() {
                discard(run.stats, run.buffers, drops, reason, packet);
            }
        }
    }
}
