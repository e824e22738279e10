//! Where generated packets end: counted, on demand checked, and their buffers kept for the generator.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dataplane::{Buffers, DATA_SIZE, Descriptor, Flags, Frame, HEADROOM, Pool, Queue};

/// Called with each packet's bytes; false for one that is wrong.
pub type Check = Box<dyn FnMut(&[u8]) -> bool + Send>;

/// What a sink has seen. Read from any thread.
#[derive(Default, Debug)]
pub struct SinkCounters {
    packets: AtomicU64,
    bytes: AtomicU64,
    wrong: AtomicU64,
}

impl SinkCounters {
    /// Packets that arrived.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }
    /// Their bytes, from the Ethernet header on.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
    /// Packets that the check called wrong.
    pub fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Relaxed)
    }
}

/// Buffers that go round between a generator and the sinks of its worker, first in, first out, like the ring of a network
/// card: that decides how much of the cache the packets' headers take.
///
/// A handle; clones share the buffers. They go back to the pool when the last handle is dropped.
#[derive(Clone)]
pub struct Recycler(Arc<Mutex<Ring>>);

pub(crate) struct Ring {
    slots: Box<[Descriptor]>,
    head: usize,
    len: usize,
    pool: Option<Pool>,
}

impl Recycler {
    /// Room for `buffers` of them, rounded up to a power of two.
    pub fn new(buffers: usize) -> Self {
        let size = buffers.clamp(1, 1 << 20).next_power_of_two();
        Self(Arc::new(Mutex::new(Ring {
            slots: std::iter::repeat_with(|| Descriptor::NONE)
                .take(size)
                .collect(),
            head: 0,
            len: 0,
            pool: None,
        })))
    }

    /// Taken once per burst, and by one worker, so nobody waits.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Ring> {
        // The ring is consistent between any two of its methods' statements that can panic: none can.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    /// Moves up to `wanted` descriptors into the frame; returns how many. A ring that was never used fills itself from the pool
    /// first.
    #[inline]
    pub(crate) fn give_out(
        &mut self,
        frame: &mut Frame,
        wanted: usize,
        buffers: &mut Buffers,
    ) -> usize {
        if self.pool.is_none() {
            self.fill(buffers);
        }
        let count = wanted.min(self.len).min(frame.room());
        for _ in 0..count {
            let at = self.head & (self.slots.len() - 1);
            if let Err(packet) = frame.push(self.slots[at].take()) {
                self.slots[at] = packet;
                break;
            }
            self.head = self.head.wrapping_add(1);
            self.len -= 1;
        }
        count
    }

    #[cold]
    fn fill(&mut self, buffers: &mut Buffers) {
        self.pool = Some(buffers.pool().clone());
        while self.len < self.slots.len() {
            let Some(packet) = buffers.alloc() else { break };
            self.push(packet);
        }
    }

    /// Adds a descriptor; there must be room.
    #[inline(always)]
    fn push(&mut self, packet: Descriptor) {
        let at = self.head.wrapping_add(self.len) & (self.slots.len() - 1);
        self.slots[at] = packet;
        self.len += 1;
    }

    /// Keeps the packets' buffers, as many as there is room for; frees the others, also chains and packets of this host.
    /// Returns the packets' bytes.
    #[inline]
    pub(crate) fn take_in(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> u64 {
        if self.pool.is_none() {
            self.pool = Some(buffers.pool().clone());
        }
        let room = self.slots.len() - self.len;
        if packets.len() <= room && packets.iter().all(is_plain) {
            let bytes = packets.iter().map(|packet| packet.length() as u64).sum();
            let at = self.head.wrapping_add(self.len) & (self.slots.len() - 1);
            self.len += packets.len();
            let straight = packets.len().min(self.slots.len() - at);
            let (straight, wrapped) = packets.split_at_mut(straight);
            // Slots that hold nothing are `NONE`, which is what the packets' places get.
            self.slots[at..at + straight.len()].swap_with_slice(straight);
            self.slots[..wrapped.len()].swap_with_slice(wrapped);
            return bytes;
        }
        let mut bytes = 0;
        for slot in packets {
            let packet = slot.take();
            if is_plain(&packet) && self.len < self.slots.len() {
                bytes += packet.length();
                self.push(packet);
            } else {
                bytes += buffers.total_length(&packet);
                buffers.free(packet);
            }
        }
        bytes as u64
    }
}

/// A packet in one buffer that a generator made. The buffer of another may hold anything where a generator expects its payload.
#[inline(always)]
fn is_plain(packet: &Descriptor) -> bool {
    const OTHER: Flags = Flags::CHAINED.union(Flags::LOCAL);
    !packet.is_none() & !packet.flags().intersects(OTHER)
}

impl Drop for Ring {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            let mut buffers = pool.cache();
            buffers.free_all(&mut self.slots);
        }
    }
}

/// Makes a used buffer's descriptor a fresh one: at the data, no flags, `length` bytes, at most a buffer's.
#[inline(always)]
pub(crate) fn renew(packet: &mut Descriptor, length: usize) {
    let same = usize::from(packet.position()) == HEADROOM && packet.length() == length;
    if !same || packet.flags().bits() != 0 {
        renew_all(packet, length);
    }
}

fn renew_all(packet: &mut Descriptor, length: usize) {
    let position = usize::from(packet.position());
    packet.clear_flags(ALL);
    // None of these can fail: a buffer has room for `length` bytes behind the headroom.
    let moved = if position > HEADROOM {
        packet.retreat(position - HEADROOM)
    } else {
        let behind = HEADROOM - position;
        let short = behind.saturating_sub(packet.length());
        packet.extend(short) && packet.advance(behind)
    };
    packet.truncate(length);
    let long = packet.extend(length - packet.length());
    debug_assert!(moved && long && length <= DATA_SIZE);
}

/// Every flag that the pool does not keep for itself.
const ALL: Flags = Flags::OFFLOAD
    .union(Flags::TRACED)
    .union(Flags::LOCAL)
    .union(Flags::CHECKSUM_GOOD)
    .union(Flags::LINK_BROADCAST)
    .union(Flags::SLOW)
    .union(Flags::HANDED_OVER);

/// A queue that receives nothing and swallows, counts and checks what is sent.
#[derive(Default)]
pub struct SinkQueue {
    counters: Arc<SinkCounters>,
    check: Option<Check>,
    recycler: Option<Recycler>,
    whole: Vec<u8>,
}

impl SinkQueue {
    /// A sink that gives buffers back to the pool.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands buffers to a generator instead.
    #[must_use]
    pub fn recycling(mut self, recycler: &Recycler) -> Self {
        self.recycler = Some(recycler.clone());
        self
    }

    /// Calls `check` with each packet's bytes.
    #[must_use]
    pub fn checking(mut self, check: Check) -> Self {
        self.check = Some(check);
        self
    }

    /// The counters, to be kept while the queue is with its worker.
    pub fn sink_counters(&self) -> Arc<SinkCounters> {
        Arc::clone(&self.counters)
    }

    #[cold]
    fn verify(&mut self, packets: &[Descriptor], buffers: &Buffers) {
        let Some(check) = &mut self.check else { return };
        for packet in packets {
            let good = if packet.flags().contains(Flags::CHAINED) {
                self.whole.clear();
                buffers
                    .segments(packet)
                    .for_each(|segment| self.whole.extend_from_slice(segment));
                check(&self.whole)
            } else {
                check(buffers.bytes(packet))
            };
            if !good {
                self.counters.wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Queue for SinkQueue {
    fn rx(&mut self, _: &mut Frame, _: usize, _: &mut Buffers) -> usize {
        0
    }

    #[inline]
    fn tx(&mut self, packets: &mut [Descriptor], buffers: &mut Buffers) -> usize {
        if self.check.is_some() {
            self.verify(packets, buffers);
        }
        let count = packets.len() as u64;
        let bytes = match &self.recycler {
            Some(recycler) => recycler.lock().take_in(packets, buffers),
            None => {
                let bytes = packets.iter().map(|packet| buffers.total_length(packet));
                let bytes = bytes.sum::<usize>() as u64;
                buffers.free_all(packets);
                bytes
            }
        };
        // This queue is the only writer.
        let add = |counter: &AtomicU64, count: u64| {
            counter.store(counter.load(Ordering::Relaxed) + count, Ordering::Relaxed);
        };
        add(&self.counters.packets, count);
        add(&self.counters.bytes, bytes);
        packets.len()
    }

    fn flush(&mut self, _: &mut Buffers) {}
}

#[cfg(test)]
mod tests {
    use dataplane::Pages;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn packets_are_counted_checked_and_freed() {
        let pool = Pool::new(64, Pages::Transparent).expect("memory");
        let mut buffers = pool.cache();
        let recycler = Recycler::new(2);
        let check: Check = Box::new(|bytes| bytes.iter().all(|byte| *byte == 1));
        let mut sink = SinkQueue::new().checking(check).recycling(&recycler);
        let counters = sink.sink_counters();
        let mut packets: Vec<_> = [(1, 60), (2, 60), (1, 5000), (1, 70)]
            .map(|(byte, length)| buffers.copy_from(&vec![byte; length]).expect("buffers"))
            .into();
        assert_eq!(sink.tx(&mut packets, &mut buffers), 4);
        assert!(packets.iter().all(Descriptor::is_none));
        assert_eq!(
            (counters.packets(), counters.bytes(), counters.wrong()),
            (4, 5190, 1)
        );
        assert_eq!(
            recycler.lock().len,
            2,
            "two single buffers fit, the chain and the fourth do not"
        );
        drop((sink, recycler, buffers));
        pool.audit().expect("balanced");
    }

    proptest! {
        #[test]
        fn used_buffers_become_fresh(back in 0usize..=HEADROOM, forward in 0usize..3000, cut in 0usize..3000, length in 0usize..=DATA_SIZE) {
            let pool = Pool::new(1, Pages::Transparent).expect("memory");
            let mut buffers = pool.cache();
            let mut packet = buffers.copy_from(&[0; 1000]).expect("buffer");
            prop_assert!(packet.retreat(back));
            let _ = packet.advance(forward);
            packet.truncate(cut);
            packet.set_flags(Flags::LOCAL.union(Flags::SLOW));
            renew(&mut packet, length);
            prop_assert_eq!((usize::from(packet.position()), packet.length(), packet.flags().bits()), (HEADROOM, length, 0));
            buffers.free(packet);
        }
    }
}
