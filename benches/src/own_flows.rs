//! A generator that makes only packets whose flows belong to its worker, as a port would that spreads packets by the same hash.

use dataplane::{Buffers, Descriptor, FRAME_SIZE, Frame, Queue, WorkerId};
use graph_nodes::policy::owner::Owned;
use ports::GeneratorQueue;
use tables::FlowKey4;

/// Of a generator's packets those whose flows one of several workers owns; the others go back to where their buffers came from. Packets
/// that are not plain TCP or UDP over IPv4 are nobody's and stay.
pub(crate) struct OwnFlows {
    generator: GeneratorQueue,
    worker: WorkerId,
    workers: u16,
    made: Box<Frame>,
    others: Vec<Descriptor>,
}

impl OwnFlows {
    pub(crate) fn new(generator: GeneratorQueue, worker: WorkerId, workers: u16) -> Self {
        Self {
            generator,
            worker,
            workers,
            made: Box::new(Frame::new()),
            others: Vec::with_capacity(FRAME_SIZE),
        }
    }
}

impl Queue for OwnFlows {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        let begin = frame.len();
        let wanted = max.min(frame.room());
        // Until the burst is almost full: so that bursts of all workers and of other generators are alike.
        for _ in 0..4 * self.workers {
            let missing = wanted - (frame.len() - begin);
            if missing <= wanted / 8 {
                break;
            }
            *self.made = Frame::new();
            self.generator.rx(&mut self.made, missing, buffers);
            for packet in self.made.packets_mut() {
                let owner = owner(buffers.bytes(packet), self.workers);
                let packet = packet.take();
                if owner.is_none_or(|owner| owner == self.worker) {
                    if let Err(packet) = frame.push(packet) {
                        buffers.free(packet);
                    }
                } else {
                    self.others.push(packet);
                }
            }
            self.generator.tx(&mut self.others, buffers);
            self.others.clear();
        }
        frame.len() - begin
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        self.generator.tx(packets, buffers)
    }

    fn flush(&mut self, buffers: &mut Buffers) {
        self.generator.flush(buffers);
    }
}

/// The worker that a frame's flow belongs to.
fn owner(frame: &[u8], workers: u16) -> Option<WorkerId> {
    let header: &[u8; 38] = frame.first_chunk()?;
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    let protocol = header[23];
    let plain = header[12..15] == [8, 0, 0x45] && matches!(protocol, 6 | 17);
    let ports = word(34);
    let key = FlowKey4::new(
        word(26),
        word(30),
        (ports >> 16) as u16,
        ports as u16,
        protocol,
        0,
    );
    plain.then(|| key.owner(workers))
}
