//! One queue of an AF_PACKET port.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use dataplane::{
    Buffers, ChainBuilder, DATA_SIZE, Descriptor, Flags, Frame, MAX_PACKET, Pool, Queue,
    QueueCounters,
};

use super::gro::Gro;
use super::ring::Ring;
use super::sys::{Scratch, Socket};
use super::vnet::VnetHeader;

/// Fruitless polls after which the socket is asked for errors and losses.
const POLLS_TO_CHECK: u32 = 64;
/// Times that the device may be busy before its oldest packet is given up: a packet that it never takes must not hold up the
/// others for ever.
const BUSY_LIMIT: u32 = 4096;
/// Bytes after which a turn's receiving ends: long trains would otherwise push each other out of the cache before they are
/// sent, and make the other ports wait.
const TURN_BYTES: usize = 256 << 10;
/// Bytes of the two Ethernet addresses, behind which tags stand.
const ADDRESSES: usize = 12;
/// Bytes of a VLAN tag.
const TAG: usize = 4;

pub(super) struct AfPacketQueue {
    // Before the socket: the ring is unmapped first.
    ring: Ring,
    socket: Socket,
    scratch: Scratch,
    /// Buffers on their way into a chain; empty between calls.
    parts: Vec<Descriptor>,
    /// Packets taken for sending, oldest first.
    waiting: Vec<Descriptor>,
    capacity: usize,
    /// Times in a row that the device was busy.
    busy: u32,
    idle_polls: u32,
    counters: QueueCounters,
    /// Where packets that still wait go when the queue is dropped.
    pool: Option<Pool>,
    /// Puts the device's setting back when the last queue is dropped.
    _gro: Option<Arc<Gro>>,
}

impl AfPacketQueue {
    pub(super) fn new(
        socket: Socket,
        ring: Ring,
        tx_packets: usize,
        gro: Option<Arc<Gro>>,
    ) -> Self {
        Self {
            ring,
            socket,
            scratch: Scratch::default(),
            parts: Vec::with_capacity(MAX_PACKET / DATA_SIZE + 1),
            waiting: Vec::with_capacity(tx_packets),
            capacity: tx_packets,
            busy: 0,
            idle_polls: 0,
            counters: QueueCounters::default(),
            pool: None,
            _gro: gro,
        }
    }

    /// Nothing came for a while: looks for an error on the socket (device down or gone), which would make poll(2) return at once
    /// for ever, and for losses.
    #[cold]
    fn check(&mut self) {
        self.idle_polls = 0;
        // What it says does not matter: when the device is up again, packets come again.
        let _ = self.socket.take_error();
        self.counters.rx_missed += self.socket.take_missed();
    }

    /// Copies a packet out of the ring, into a chain where it is long.
    fn copy(&mut self, buffers: &mut Buffers) -> Option<Descriptor> {
        let slot = self.ring.peek()?;
        if slot.bytes.len() != slot.length || slot.length < ADDRESSES + 2 {
            return None;
        }
        let mut packet = if slot.length <= DATA_SIZE {
            let mut packet = buffers.alloc()?;
            // An empty buffer has this room.
            let _ = packet.extend(slot.length);
            buffers.bytes_mut(&mut packet).copy_from_slice(slot.bytes);
            packet
        } else if slot.length <= MAX_PACKET {
            if !take_parts(&mut self.parts, slot.length, buffers) {
                return None;
            }
            for (part, bytes) in self.parts.iter_mut().zip(slot.bytes.chunks(DATA_SIZE)) {
                buffers.bytes_mut(part)[..bytes.len()].copy_from_slice(bytes);
            }
            chain(&mut self.parts, slot.length, buffers)?
        } else {
            return None;
        };
        if describe(&mut packet, slot.header, slot.vlan, buffers) {
            return Some(packet);
        }
        buffers.free(packet);
        None
    }

    /// Takes the oldest packet from the socket's queue; `length` is what the ring says of it.
    fn fetch(&mut self, length: usize, buffers: &mut Buffers) -> Option<Descriptor> {
        let wanted = if (ADDRESSES + 2..=MAX_PACKET).contains(&length)
            && take_parts(&mut self.parts, length, buffers)
        {
            length
        } else {
            // Nowhere to put it: it is received into no buffer, so that the next one is on its turn.
            0
        };
        let receive = |queue: &mut Self, buffers: &mut Buffers| {
            queue
                .socket
                .receive(&mut queue.scratch, &mut queue.parts, buffers)
        };
        // An error that waited on the socket (device down) is reported once, in place of the packet.
        let received = receive(self, buffers).or_else(|_| receive(self, buffers));
        match received {
            Ok(received)
                if wanted > 0 && !received.truncated && received.length > ADDRESSES + 1 =>
            {
                let mut packet = chain(&mut self.parts, received.length, buffers)?;
                if describe(&mut packet, received.header, received.vlan, buffers) {
                    return Some(packet);
                }
                buffers.free(packet);
                None
            }
            _ => {
                self.parts.drain(..).for_each(|part| buffers.free(part));
                None
            }
        }
    }

    /// Forgets the first `count` waiting packets.
    fn done(&mut self, count: usize, buffers: &mut Buffers) {
        self.waiting
            .drain(..count)
            .for_each(|packet| buffers.free(packet));
    }
}

impl Queue for AfPacketQueue {
    fn rx(&mut self, frame: &mut Frame, max: usize, buffers: &mut Buffers) -> usize {
        let (room, mut count) = (max.min(frame.room()), 0);
        let mut bytes = 0;
        while count < room && bytes < TURN_BYTES {
            let Some(slot) = self.ring.peek() else { break };
            let (queued, losing, length) = (slot.queued, slot.losing, slot.length);
            let packet = if queued {
                self.fetch(length, buffers)
            } else {
                self.copy(buffers)
            };
            self.ring.release();
            bytes += length;
            if losing {
                self.counters.rx_missed += self.socket.take_missed();
            }
            match packet.map(|packet| frame.push(packet)) {
                Some(Ok(())) => count += 1,
                Some(Err(packet)) => {
                    buffers.free(packet);
                    self.counters.rx_dropped += 1;
                }
                None => self.counters.rx_dropped += 1,
            }
        }
        if count > 0 {
            self.idle_polls = 0;
        } else {
            self.idle_polls += 1;
            if self.idle_polls >= POLLS_TO_CHECK {
                self.check();
            }
        }
        count
    }

    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        if self.pool.is_none() {
            self.pool = Some(buffers.pool().clone());
        }
        if packets.len() > self.capacity - self.waiting.len() {
            self.flush(buffers);
        }
        let count = packets.len().min(self.capacity - self.waiting.len());
        self.waiting
            .extend(packets[..count].iter_mut().map(Descriptor::take));
        count
    }

    fn flush(&mut self, buffers: &mut Buffers) {
        while !self.waiting.is_empty() {
            let result =
                self.socket.send(
                    &mut self.scratch,
                    &self.waiting,
                    buffers,
                    |packet| match buffers.offload(packet) {
                        Some(offload) => {
                            VnetHeader::of(&offload, packet.position(), buffers.bytes(packet))
                        }
                        None => VnetHeader::default(),
                    },
                );
            match result {
                Ok(sent) => {
                    self.busy = 0;
                    self.done(sent, buffers);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS))
                        && self.busy < BUSY_LIMIT =>
                {
                    self.busy += 1;
                    return;
                }
                Err(_) => {
                    self.busy = 0;
                    self.counters.tx_failed += 1;
                    self.done(1, buffers);
                }
            }
        }
    }

    fn readable(&self) -> Option<RawFd> {
        Some(self.socket.as_raw_fd())
    }

    fn pending(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }
}

impl Drop for AfPacketQueue {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take().filter(|_| !self.waiting.is_empty()) {
            let mut buffers = pool.cache();
            buffers.free_all(&mut self.waiting);
        }
    }
}

/// Fills `parts` with full-length buffers for `length` bytes; false, with `parts` empty, when the pool is exhausted.
fn take_parts(parts: &mut Vec<Descriptor>, length: usize, buffers: &mut Buffers) -> bool {
    for _ in 0..length.div_ceil(DATA_SIZE) {
        let Some(mut part) = buffers.alloc() else {
            parts.drain(..).for_each(|part| buffers.free(part));
            return false;
        };
        // An empty buffer has this room.
        let _ = part.extend(DATA_SIZE);
        parts.push(part);
    }
    true
}

/// Makes one packet of `length` bytes out of the parts, which hold at least one byte more than their predecessors' room; what
/// is not needed is freed.
fn chain(parts: &mut Vec<Descriptor>, length: usize, buffers: &mut Buffers) -> Option<Descriptor> {
    let mut left = length;
    let mut builder: Option<ChainBuilder> = None;
    for mut part in parts.drain(..) {
        part.truncate(left);
        left -= part.length();
        match &mut builder {
            None => builder = Some(ChainBuilder::new(part)),
            Some(_) if part.length() == 0 => buffers.free(part),
            Some(builder) => builder.push(buffers, part),
        }
    }
    builder.map(ChainBuilder::finish)
}

/// Writes down what came beside a packet: the work left undone, and the tag that the kernel took out. False where the header
/// makes no sense.
#[inline]
fn describe(
    packet: &mut Descriptor,
    header: VnetHeader,
    vlan: Option<(u16, u16)>,
    buffers: &Buffers,
) -> bool {
    if header != VnetHeader::default() {
        let Some(meaning) = header.meaning(packet.position(), buffers.total_length(packet)) else {
            return false;
        };
        if meaning.offload.is_some() {
            buffers.set_offload(packet, meaning.offload);
        }
        if meaning.checksum_good {
            packet.set_flags(Flags::CHECKSUM_GOOD);
        }
    }
    let Some((protocol, control)) = vlan else {
        return true;
    };
    // The addresses move forward into the headroom, so that all else, and the positions above, stay where they are.
    if !packet.retreat(TAG) {
        return false;
    }
    let bytes = buffers.bytes_mut(packet);
    bytes.copy_within(TAG..TAG + ADDRESSES, 0);
    bytes[ADDRESSES..ADDRESSES + 2].copy_from_slice(&protocol.to_be_bytes());
    bytes[ADDRESSES + 2..ADDRESSES + TAG].copy_from_slice(&control.to_be_bytes());
    true
}
