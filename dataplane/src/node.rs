//! What a node is, and what it is called with.

use crate::buffer::{BufferView, Buffers, Descriptor};
use crate::frame::{DropReason, Frame, NextNode};
use crate::graph::Outbox;
use crate::handoff::Handoff;
use crate::port::PortId;
use crate::record::RecordWriter;
use crate::rng::Rng;
use crate::stats::{InterfaceCounter, WorkerStats};

/// Number of a worker, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WorkerId(pub u16);

/// Configuration as the nodes read it, compiled by control, together with the state that the nodes of one worker
/// share.
pub trait Snapshot: Send + Sync + 'static {
    /// What the nodes of one worker share and nobody else sees.
    type WorkerState: Send + 'static;

    /// The port that the packets of an interface come from, to find out who feeds packets that make nodes panic.
    /// Physical interfaces have their ports' numbers.
    fn port_of(&self, interface: u16) -> Option<PortId> {
        Some(PortId(interface))
    }
}

/// A node of the graph: one function over frames.
///
/// A node decides for each packet by a verdict: an edge or a drop reason. It may make packets
/// ([`Context::emit`]) and take packets out of the frame to keep them ([`Frame::take`]). It never blocks, allocates,
/// logs or reads a clock; what changes from call to call comes through the context.
pub trait Node<S: Snapshot>: Send + 'static {
    /// The operator's name for it: `ip4-lookup`.
    const NAME: &'static str;
    /// Its edges.
    type Next: NextNode;
    /// Its reasons to drop.
    type Drop: DropReason;
    /// True where [`Node::poll`] is to be called once per loop.
    const POLLED: bool = false;

    /// Decides about every packet of the frame.
    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, S>);

    /// Work that no packet triggers: packets held back whose time has come.
    fn poll(&mut self, cx: &mut Context<'_, S>) {
        let _ = cx;
    }

    /// Gives back the packets that it holds: the worker ends. A node that takes packets out of frames must do this.
    fn drain(&mut self, buffers: &mut Buffers) {
        let _ = buffers;
    }
}

/// What a node sees besides its frame.
pub struct Context<'a, S: Snapshot> {
    /// The configuration: the same for the whole loop.
    pub snapshot: &'a S,
    /// What the nodes of this worker share.
    pub state: &'a mut S::WorkerState,
    /// Allocates, frees, and turns descriptors into bytes.
    pub buffers: &'a mut Buffers,
    /// Where the buffers are: turns descriptors into bytes as `buffers` does, from registers.
    pub view: BufferView<'a>,
    /// Nanoseconds since the worker's clock began, read once per loop.
    pub now_ns: u64,
    /// Number of the worker's turn: frames with the same number were received together.
    pub turn: u64,
    /// This worker's randomness.
    pub rng: &'a mut Rng,
    /// Which worker this is.
    pub worker: WorkerId,
    pub(crate) edges: &'a [u16],
    pub(crate) out: &'a mut Outbox,
    pub(crate) stats: &'a WorkerStats,
    pub(crate) punts: &'a mut RecordWriter,
    pub(crate) handoff: &'a mut Handoff,
    pub(crate) node: u16,
}

/// A packet or event for the control plane's slow path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PuntHeader {
    /// What it is about: numbers are given by the nodes' package.
    pub kind: u16,
    /// The interface it concerns.
    pub interface: u16,
    /// A word whose meaning the kind decides.
    pub word: u32,
}

impl<S: Snapshot> Context<'_, S> {
    /// Sends a packet that the node made, or held back, along an edge.
    #[inline]
    pub fn emit(&mut self, edge: impl NextNode, packet: Descriptor) {
        let lost = match self.edges.get(usize::from(edge.index())) {
            Some(target) => self.out.append(*target, packet).err(),
            None => Some(packet),
        };
        if let Some(packet) = lost {
            self.stats.lost.add(1);
            self.buffers.free(packet);
        }
    }

    /// Workers of the engine, this one included.
    #[inline(always)]
    pub fn workers(&self) -> u16 {
        self.handoff.workers()
    }

    /// Hands a packet to this node of another worker, where it arrives in the next turn, behind those handed over before it. The
    /// node takes it out of its frame first. What the other worker has no room for is a counted drop of [`HANDOFF`](crate::HANDOFF).
    #[inline]
    pub fn hand_over(&mut self, worker: WorkerId, packet: Descriptor) {
        let (stats, buffers) = (self.stats, &mut *self.buffers);
        if let Err(packet) = self.handoff.give(worker, self.node, packet, stats, buffers) {
            stats.lost.add(1);
            buffers.free(packet);
        }
    }

    /// Counts packets and bytes of an interface.
    #[inline]
    pub fn count(&self, interface: u16, counter: InterfaceCounter, packets: u64, bytes: u64) {
        self.stats.count(interface, counter, packets, bytes);
    }

    /// Hands bytes to the control plane's slow path; false, and a count, when its ring is full.
    pub fn punt<'b>(
        &mut self,
        header: PuntHeader,
        parts: impl IntoIterator<Item = &'b [u8]>,
    ) -> bool {
        self.stats.punts.add(1);
        let mut fixed = [0; PuntHeader::SIZE];
        header.encode(self.node, &mut fixed);
        let done = self.punts.write(&fixed, parts);
        if !done {
            self.stats.punts_lost.add(1);
        }
        done
    }

    /// Hands a packet of this pool to the control plane's slow path, from its current header on.
    pub fn punt_packet(&mut self, header: PuntHeader, packet: &Descriptor) -> bool {
        self.stats.punts.add(1);
        let mut fixed = [0; PuntHeader::SIZE];
        header.encode(self.node, &mut fixed);
        let done = self.punts.write(&fixed, self.buffers.segments(packet));
        if !done {
            self.stats.punts_lost.add(1);
        }
        done
    }

    /// The number of a port as a transmit node's word.
    #[inline(always)]
    pub fn port_word(port: PortId) -> u32 {
        u32::from(port.0)
    }
}

impl PuntHeader {
    pub(crate) const SIZE: usize = 10;

    fn encode(self, node: u16, out: &mut [u8; Self::SIZE]) {
        out[0..2].copy_from_slice(&self.kind.to_ne_bytes());
        out[2..4].copy_from_slice(&self.interface.to_ne_bytes());
        out[4..6].copy_from_slice(&node.to_ne_bytes());
        out[6..10].copy_from_slice(&self.word.to_ne_bytes());
    }

    /// The header and the index of the node that punted.
    pub(crate) fn decode(record: &[u8]) -> Option<(Self, u16, &[u8])> {
        let (fixed, bytes) = record.split_first_chunk::<{ Self::SIZE }>()?;
        let half = |at: usize| u16::from_ne_bytes([fixed[at], fixed[at + 1]]);
        let word = u32::from_ne_bytes([fixed[6], fixed[7], fixed[8], fixed[9]]);
        Some((
            Self {
                kind: half(0),
                interface: half(2),
                word,
            },
            half(4),
            bytes,
        ))
    }
}
