//! Hand-over of packets between workers: what one worker owns (a flow) concerns packets that arrive at another.
//!
//! A node hands packets over with [`Context::hand_over`](crate::Context::hand_over); they go on at the same node of the other
//! worker. For each ordered pair of workers there is a single-producer single-consumer ring of descriptors, four to a cache line.
//! Packets are collected during a turn and published at its end as one batch per pair, behind a header that says which node they
//! are for and how many there are; the receiving worker takes them at the beginning of its turn, as from a port. Nobody ever waits:
//! what a full ring does not take is a counted drop of the node [`HANDOFF`]. With one worker there are no rings.

use std::sync::{Arc, Mutex, PoisonError};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::buffer::{Buffers, Descriptor};
use crate::event::Event;
use crate::frame::FRAME_SIZE;
use crate::graph::Outbox;
use crate::node::WorkerId;
use crate::stats::WorkerStats;
use crate::sync::{AtomicBool, Ordering, fence};

/// Name of the engine's own node that stands for the rings between workers: packets taken from them count as its vectors, those
/// that a full ring did not take as its drops.
pub const HANDOFF: &str = "handoff";

/// The drop reasons of [`HANDOFF`].
pub const HANDOFF_DROPS: &[(&str, &str)] = &[(
    "congestion",
    "The worker that the packet belongs to does not keep up: the ring between both was full",
)];

/// Descriptors and headers that wait between two workers at the most: four whole frames, 16 KiB.
const RING: usize = 1024;

/// What [`owner_of`] multiplies with, for ports that compute the same elsewhere.
pub const OWNER_FACTORS: [u32; 4] = [0x9e37_79b1, 0x85eb_ca77, 0xc2b2_ae3d, 0x27d4_eb2f];

/// The worker that owns what three words say, each of which must be the same for both directions of a flow. Nodes that hand packets
/// over and ports that spread packets agree by this function, which a port's filter program can compute as well: 32-bit arithmetic,
/// no tables, no secret.
#[inline(always)]
pub const fn owner_of(digest: [u32; 3], workers: u16) -> WorkerId {
    let [a, b, c] = digest;
    let mut hash = a.wrapping_mul(OWNER_FACTORS[0])
        ^ b.wrapping_mul(OWNER_FACTORS[1])
        ^ c.wrapping_mul(OWNER_FACTORS[2]);
    hash = (hash ^ hash >> 15).wrapping_mul(OWNER_FACTORS[3]);
    // The upper half is mixed best.
    WorkerId((((hash >> 16) * workers as u32) >> 16) as u16)
}

/// A worker's sleep as others see it, and what to wake it with.
pub(crate) struct Sleeper {
    wake: Event,
    asleep: Asleep,
}

impl Sleeper {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            wake: Event::new()?,
            asleep: Asleep::new(),
        })
    }

    /// What wakes the worker, whatever it does.
    pub(crate) fn wake(&self) -> &Event {
        &self.wake
    }

    /// The worker is about to sleep: it has to look for work once more after this call, since who published before did not see it.
    pub(crate) fn lie_down(&self) {
        self.asleep.begin();
    }

    /// The worker is awake again.
    pub(crate) fn get_up(&self) {
        self.asleep.end();
    }

    /// Wakes the worker if it sleeps: to be called after something was published for it.
    fn rouse(&self) {
        if self.asleep.after_publishing() {
            self.wake.signal();
        }
    }
}

/// Whether somebody sleeps who has to be told of what is published. Both sides write, then read what the other wrote, with a full
/// fence in between: at least one of them sees the other's.
struct Asleep(AtomicBool);

impl Asleep {
    fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    fn after_publishing(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's ends of the rings.
pub(crate) struct Handoff {
    /// By worker; the worker's own is none.
    lanes: Vec<Option<Lane>>,
    sources: Vec<Source>,
    /// True where packets are collected that are not published yet.
    dirty: bool,
    remains: Remains,
}

/// Reading ends whose workers are gone while others may still write: whoever goes last finds all packets in here.
type Remains = Arc<Mutex<Vec<Consumer<Descriptor>>>>;

/// To one other worker.
struct Lane {
    ring: Producer<Descriptor>,
    /// A header, and the packets behind it. Empty where there are none.
    batch: Vec<Descriptor>,
    target: Arc<Sleeper>,
}

/// From one other worker.
struct Source {
    worker: WorkerId,
    ring: Consumer<Descriptor>,
}

/// What one worker and another have handed over, as the first of them counts.
#[derive(Default, Debug)]
pub struct HandoffStats {
    /// Packets published for the other worker.
    pub sent: crate::stats::Counter,
    /// Packets taken from the other worker.
    pub received: crate::stats::Counter,
    /// Packets for the other worker that its ring did not take.
    pub congested: crate::stats::Counter,
}

/// The header of a batch: no packet, but of a packet's size.
fn header(node: u16) -> Descriptor {
    let mut header = Descriptor::NONE;
    header.word = node.into();
    header
}

/// The ends of the rings between workers, by worker.
pub(crate) fn rings(sleepers: &[Arc<Sleeper>]) -> Vec<Handoff> {
    let remains = Remains::default();
    let mut ends: Vec<Handoff> = sleepers
        .iter()
        .map(|_| Handoff {
            lanes: Vec::with_capacity(sleepers.len()),
            sources: Vec::with_capacity(sleepers.len() - 1),
            dirty: false,
            remains: Arc::clone(&remains),
        })
        .collect();
    for from in 0..sleepers.len() {
        for (to, target) in sleepers.iter().enumerate() {
            if from == to {
                ends[from].lanes.push(None);
                continue;
            }
            let (producer, consumer) = RingBuffer::new(RING);
            ends[from].lanes.push(Some(Lane {
                ring: producer,
                batch: Vec::with_capacity(1 + FRAME_SIZE),
                target: Arc::clone(target),
            }));
            ends[to].sources.push(Source {
                worker: WorkerId(from as u16),
                ring: consumer,
            });
        }
    }
    ends
}

impl Handoff {
    /// Workers of the engine.
    #[inline(always)]
    pub(crate) fn workers(&self) -> u16 {
        self.lanes.len() as u16
    }

    /// Collects a packet for a node of another worker; gives it back where there is no such worker, or it is this one.
    #[inline]
    pub(crate) fn give(
        &mut self,
        worker: WorkerId,
        node: u16,
        packet: Descriptor,
        stats: &WorkerStats,
        buffers: &mut Buffers,
    ) -> Result<(), Descriptor> {
        let Some(Some(lane)) = self.lanes.get_mut(usize::from(worker.0)) else {
            return Err(packet);
        };
        let goes_on = lane.batch.len() <= FRAME_SIZE
            && lane
                .batch
                .first()
                .is_some_and(|header| header.word == u32::from(node));
        if !goes_on {
            lane.publish(worker, stats, buffers);
            lane.batch.push(header(node));
            self.dirty = true;
        }
        lane.batch.push(packet);
        Ok(())
    }

    /// True where [`Handoff::flush`] has something to do.
    #[inline(always)]
    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// Publishes what was collected, and wakes workers that sleep.
    pub(crate) fn flush(&mut self, stats: &WorkerStats, buffers: &mut Buffers) {
        self.dirty = false;
        for (worker, lane) in self.lanes.iter_mut().enumerate() {
            if let Some(lane) = lane
                && !lane.batch.is_empty()
            {
                lane.publish(WorkerId(worker as u16), stats, buffers);
                lane.target.rouse();
            }
        }
    }

    /// True where another worker has published something for this one.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        self.sources.iter().any(|source| !source.ring.is_empty())
    }

    /// Puts packets of other workers on their nodes' inputs: up to a frame of each worker, and no more than the graph has frames
    /// for. Returns batches and packets.
    pub(crate) fn receive(
        &mut self,
        out: &mut Outbox,
        stats: &WorkerStats,
        buffers: &mut Buffers,
    ) -> (u64, u64) {
        let (mut batches, mut packets) = (0, 0);
        for source in &mut self.sources {
            let mut left = FRAME_SIZE;
            while let Ok(header) = source.ring.peek() {
                let (node, count) = (header.word as u16, usize::from(header.interface));
                if count > left || !out.is_half_free() {
                    break;
                }
                // A batch is published as a whole.
                let (Ok(chunk), Some(mut frame)) = (source.ring.read_chunk(1 + count), out.frame())
                else {
                    break;
                };
                for packet in chunk.into_iter().skip(1) {
                    // Its lines are in the other worker's cache.
                    buffers.prefetch(&packet);
                    if let Err(packet) = frame.push(packet) {
                        buffers.free(packet);
                    }
                }
                out.push(node, frame);
                left -= count;
                batches += 1;
            }
            let count = (FRAME_SIZE - left) as u64;
            if count > 0 {
                stats.handoff[usize::from(source.worker.0)]
                    .received
                    .add(count);
                packets += count;
            }
        }
        (batches, packets)
    }

    /// Frees what has not been taken: the worker ends. What others still publish for it is freed by the last of them.
    pub(crate) fn close(&mut self, buffers: &mut Buffers) {
        for lane in self.lanes.drain(..).flatten() {
            lane.batch
                .into_iter()
                .for_each(|packet| free(packet, buffers));
        }
        // A worker that panicked while it held this has at worst freed less than all.
        let mut remains = self.remains.lock().unwrap_or_else(PoisonError::into_inner);
        remains.extend(self.sources.drain(..).map(|source| source.ring));
        for ring in remains.iter_mut() {
            while let Ok(packet) = ring.pop() {
                free(packet, buffers);
            }
        }
    }
}

impl Lane {
    /// Moves the batch into the ring, all at once; what does not fit is dropped and counted.
    fn publish(&mut self, worker: WorkerId, stats: &WorkerStats, buffers: &mut Buffers) {
        let Some(count) = self.batch.len().checked_sub(1) else {
            return;
        };
        let fits = match self.ring.write_chunk_uninit(1 + count) {
            Ok(_) => count,
            Err(_) => self.ring.slots().saturating_sub(1).min(count),
        };
        let counters = &stats.handoff[usize::from(worker.0)];
        if fits > 0
            && let Ok(chunk) = self.ring.write_chunk_uninit(1 + fits)
        {
            self.batch[0].interface = fits as u16;
            chunk.fill_from_iter(self.batch.drain(..1 + fits));
            counters.sent.add(fits as u64);
        }
        if self.batch.is_empty() {
            return;
        }
        // Newcomers give way to those that wait already.
        let node = stats.nodes.last();
        for packet in self.batch.drain(..).filter(|packet| !packet.is_none()) {
            counters.congested.add(1);
            if let Some(node) = node {
                crate::graph::discard(stats, buffers, &node.drops, 0, packet);
            }
        }
    }
}

fn free(packet: Descriptor, buffers: &mut Buffers) {
    if !packet.is_none() {
        buffers.free(packet);
    }
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod model {
    use loom::sync::atomic::{AtomicU64, Ordering};
    use loom::sync::{Arc, Condvar, Mutex};

    use super::Asleep;
    use crate::event::Pending;

    /// A ring of which only the count matters, a sleeper, and a descriptor to wait for.
    struct World {
        published: AtomicU64,
        asleep: Asleep,
        pending: Pending,
        readable: Mutex<bool>,
        changed: Condvar,
    }

    impl World {
        fn new() -> Arc<Self> {
            Arc::new(Self {
                published: AtomicU64::new(0),
                asleep: Asleep::new(),
                pending: Pending::new(),
                readable: Mutex::new(false),
                changed: Condvar::new(),
            })
        }

        /// What [`crate::Event::signal`] does.
        fn signal(&self) {
            if self.pending.raise() {
                *self.readable.lock().unwrap() = true;
                self.changed.notify_one();
            }
        }

        /// What [`crate::Event::clear`] does.
        fn clear(&self) {
            *self.readable.lock().unwrap() = false;
            self.pending.lower();
        }

        fn publish(&self, count: u64) {
            self.published.store(count, Ordering::Release);
            if self.asleep.after_publishing() {
                self.signal();
            }
        }

        /// A worker that sleeps whenever it finds nothing, until it has seen `count`. Loom reports a sleep without end.
        fn take(&self, count: u64) {
            while self.published.load(Ordering::Acquire) < count {
                self.asleep.begin();
                if self.published.load(Ordering::Acquire) < count {
                    let mut readable = self.readable.lock().unwrap();
                    while !*readable {
                        readable = self.changed.wait(readable).unwrap();
                    }
                    drop(readable);
                    self.clear();
                }
                self.asleep.end();
            }
        }
    }

    /// Every interleaving in which threads are interrupted up to three times: errors of this kind show with one or two.
    fn bounded(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    /// Every interleaving of two publications with a worker that goes to sleep in between: it never sleeps for good.
    #[test]
    fn no_wake_up_is_lost() {
        bounded(|| {
            let world = World::new();
            let sender = Arc::clone(&world);
            let thread = loom::thread::spawn(move || {
                sender.publish(1);
                sender.publish(2);
            });
            world.take(1);
            world.take(2);
            thread.join().unwrap();
        });
    }

    /// The same with a second thread that signals at any time, as control does, and that must be heard as well.
    #[test]
    fn wake_ups_by_others_do_not_hide_one() {
        bounded(|| {
            let world = World::new();
            let (sender, control) = (Arc::clone(&world), Arc::clone(&world));
            let one = loom::thread::spawn(move || sender.publish(1));
            let other = loom::thread::spawn(move || control.signal());
            world.take(1);
            one.join().unwrap();
            other.join().unwrap();
            // Nothing is on its way any more: whoever signals now is heard.
            let up = *world.readable.lock().unwrap();
            world.signal();
            assert!(up || *world.readable.lock().unwrap());
        });
    }
}
