//! Ports without a device: a pair of memory ports, and a sink. For tests, benches, and whoever wants to see the engine
//! work without a network card.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex};

use crate::buffer::{Buffers, Descriptor, Offload};
use crate::event::Event;
use crate::frame::Frame;
use crate::port::Queue;

/// A frame as it lies on a memory wire: its bytes, and the work left undone on it (positions from the frame's first byte).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemoryWire {
    /// The Ethernet frame.
    pub bytes: Vec<u8>,
    /// What is still to be done on it.
    pub offload: Option<Offload>,
}

#[derive(Default)]
struct Lane {
    frames: Mutex<VecDeque<MemoryWire>>,
}

/// One end of a memory pair: a [`Queue`], and by [`MemoryPort::send`] and [`MemoryPort::receive`] also a test's own end.
pub struct MemoryPort {
    rx: Arc<Lane>,
    tx: Arc<Lane>,
    limit: usize,
    wake_me: Arc<Event>,
    wake_peer: Arc<Event>,
}

/// Two ports connected to each other, each holding up to `limit` frames for the other.
///
/// # Errors
/// Where the operating system has no event descriptors left.
pub fn memory_pair(limit: usize) -> std::io::Result<(MemoryPort, MemoryPort)> {
    let (ab, ba) = (Arc::new(Lane::default()), Arc::new(Lane::default()));
    let (a, b) = (Arc::new(Event::new()?), Arc::new(Event::new()?));
    let end = |rx: &Arc<Lane>, tx: &Arc<Lane>, me: &Arc<Event>, peer: &Arc<Event>| MemoryPort {
        rx: Arc::clone(rx),
        tx: Arc::clone(tx),
        limit,
        wake_me: Arc::clone(me),
        wake_peer: Arc::clone(peer),
    };
    Ok((end(&ba, &ab, &a, &b), end(&ab, &ba, &b, &a)))
}

impl MemoryPort {
    /// Sends a frame to the other end; false when that end is full.
    pub fn send(&mut self, frame: MemoryWire) -> bool {
        let Ok(mut frames) = self.tx.frames.lock() else {
            return false;
        };
        if frames.len() >= self.limit {
            return false;
        }
        frames.push_back(frame);
        self.wake_peer.signal();
        true
    }

    /// The next frame from the other end.
    pub fn receive(&mut self) -> Option<MemoryWire> {
        self.rx.frames.lock().ok()?.pop_front()
    }
}

impl Queue for MemoryPort {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        if self.wake_me.is_pending() {
            self.wake_me.clear();
        }
        let mut count = 0;
        while count < max.min(frame.room() + count) {
            let Some(wire) = self.receive() else { break };
            let Some(mut packet) = buffers.copy_from(&wire.bytes) else {
                continue;
            };
            let base = packet.position();
            let offload = wire.offload.map(|offload| Offload {
                checksum_start: offload.checksum_start.saturating_add(base),
                checksum_field: offload.checksum_field.saturating_add(base),
                ..offload
            });
            buffers.set_offload(&mut packet, offload);
            match frame.push(packet) {
                Ok(()) => count += 1,
                Err(packet) => {
                    buffers.free(packet);
                    break;
                }
            }
        }
        count
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        for (index, slot) in packets.iter_mut().enumerate() {
            let base = slot.position();
            let offload = buffers.offload(slot).map(|offload| Offload {
                checksum_start: offload.checksum_start.saturating_sub(base),
                checksum_field: offload.checksum_field.saturating_sub(base),
                ..offload
            });
            let bytes = buffers.segments(slot).flatten().copied().collect();
            if !self.send(MemoryWire { bytes, offload }) {
                return index;
            }
            buffers.free(slot.take());
        }
        packets.len()
    }

    fn flush(&mut self, _: &mut Buffers) {}

    fn readable(&self) -> Option<RawFd> {
        Some(self.wake_me.as_raw_fd())
    }
}

/// A port that receives nothing and swallows everything.
#[derive(Default)]
pub struct NullQueue;

impl Queue for NullQueue {
    fn rx(&mut self, _: &mut Frame, _: usize, _: &mut Buffers) -> usize {
        0
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        buffers.free_all(packets);
        packets.len()
    }

    fn flush(&mut self, _: &mut Buffers) {}
}
