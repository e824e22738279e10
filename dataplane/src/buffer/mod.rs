//! Packet buffers: one arena in huge pages, a shared free list moved in batches, a cache per worker.
//!
//! A buffer is a fixed number of bytes in the arena, named by its index:
//!
//! ```text
//!  0        128       192          320                                   2368
//!  ├─────────┼─────────┼────────────┼─────────────────────────────────────┤
//!  │ driver  │ metadata│ headroom   │ data                                │
//!  │ 128 B   │ 64 B    │ 128 B      │ 2048 B                              │
//!  └─────────┴─────────┴────────────┴─────────────────────────────────────┘
//! ```
//!
//! The driver's room is where a DPDK port keeps its `rte_mbuf`. The metadata line is cold: it is read only where a
//! descriptor's flags say so. The stride is an odd number of cache lines, so that the header lines of a burst spread
//! over all sets of the L1 cache. A received frame begins at the data, so that Ethernet, IPv4 and ports share a line.
//!
//! **Ownership.** A [`Descriptor`] is the one handle on a packet: it is neither `Copy` nor `Clone`, only the pool makes
//! it and only the pool takes it back, so safe code cannot reach one buffer through two handles, nor free it twice.
//! Packets longer than a buffer are chains: the descriptor names the first segment, the metadata lines link the rest.
#![expect(
    unsafe_code,
    reason = "buffers live in one mapped arena and are reached by index"
)]

mod chain;
mod descriptor;

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use crossbeam_queue::ArrayQueue;

pub use chain::{ChainBuilder, Segments};
use descriptor::Meta;
pub use descriptor::{Descriptor, Flags, Offload, Segmentation};

/// Bytes in front of the data that headers can be pushed into.
pub const HEADROOM: usize = 128;
/// Bytes of packet that one buffer holds behind the headroom.
pub const DATA_SIZE: usize = 2048;
/// Bytes in front of the metadata that belong to a driver.
const DRIVER_ROOM: usize = 128;
const META_SIZE: usize = 64;
/// Distance between two buffers in bytes: 37 cache lines.
pub const STRIDE: usize = DRIVER_ROOM + META_SIZE + HEADROOM + DATA_SIZE;
/// Bytes that a descriptor's offset and length can reach: headroom and data.
const REACH: usize = HEADROOM + DATA_SIZE;
/// Buffers that move between a worker's cache and the shared free list at a time.
const BATCH: usize = 64;
/// Buffers that a worker's cache holds at the most.
const CACHE: usize = 4 * BATCH;
/// The longest packet that a chain can carry, in bytes: above it, a port refuses the packet.
pub const MAX_PACKET: usize = 262_144;

const _: () = assert!(!(STRIDE / 64).is_multiple_of(2) && STRIDE.is_multiple_of(64));
const _: () = assert!(size_of::<Meta>() == META_SIZE);
const _: () = assert!(size_of::<Descriptor>() == 16);

const NO_BUFFER: u32 = u32::MAX;

/// How an arena came by its pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pages {
    /// Reserved 2 MiB pages.
    Reserved,
    /// Transparent huge pages, asked for by advice: the kernel may or may not give them.
    Transparent,
}

struct Mapping {
    memory: memmap2::MmapMut,
    base: NonNull<u8>,
    count: u32,
    first: u32,
    pages: Pages,
    free: ArrayQueue<Batch>,
    /// Caches that exist; the free list has room for each to return its remainder.
    caches: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Batch {
    count: u32,
    buffers: [u32; BATCH],
}

// JUSTIFICATION: `NonNull` is neither Send nor Sync.
// SAFETY: the memory behind `base` belongs to the mapping, which lives as long as this struct, and is reached only through
// descriptors, each of which is the sole handle on its buffer (module documentation).
unsafe impl Send for Mapping {}
// JUSTIFICATION: as above.
// SAFETY: as above; the free list is a concurrent queue.
unsafe impl Sync for Mapping {}

/// The memory of all buffers and their shared free list; a handle, cheap to clone.
#[derive(Clone)]
pub struct Pool(Arc<Mapping>);

/// Numbers of buffers are unique in the process, so that a descriptor of one pool finds nothing in another.
static NEXT_FIRST: AtomicU32 = AtomicU32::new(0);

/// Why a pool could not be made.
#[derive(Debug)]
pub enum PoolError {
    /// The count is zero or does not fit the numbers that are left in this process.
    Count(usize),
    /// The kernel gave no memory.
    Memory(std::io::Error),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(
                f,
                "a pool of {count} buffers is not possible: ask for 1 to 16777216"
            ),
            Self::Memory(error) => write!(
                f,
                "no memory for the packet buffers: {error}; ask for fewer buffers"
            ),
        }
    }
}
impl std::error::Error for PoolError {}

impl Pool {
    /// A pool of `count` buffers: in reserved huge pages where `pages` asks for them and the kernel has them, in
    /// transparent huge pages otherwise ([`Pool::pages`] tells).
    pub fn new(count: usize, pages: Pages) -> Result<Self, PoolError> {
        const MAX: usize = 1 << 24;
        if count == 0 || count > MAX {
            return Err(PoolError::Count(count));
        }
        let first = NEXT_FIRST
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| {
                first
                    .checked_add(count as u32)
                    .filter(|next| *next < NO_BUFFER)
            })
            .map_err(|_| PoolError::Count(count))?;
        const HUGE: usize = 2 << 20;
        let bytes = (count * STRIDE).next_multiple_of(HUGE);
        let reserved = (pages == Pages::Reserved)
            .then(|| {
                memmap2::MmapOptions::new()
                    .len(bytes)
                    .huge(Some(21))
                    .populate()
                    .map_anon()
                    .ok()
            })
            .flatten();
        let (mut memory, pages) = match reserved {
            Some(memory) => (memory, Pages::Reserved),
            None => {
                // One huge page more, so that the base can be aligned to one.
                let memory = memmap2::MmapOptions::new()
                    .len(bytes + HUGE)
                    .map_anon()
                    .map_err(PoolError::Memory)?;
                // Advice: without huge pages everything works, slower.
                let _ = memory.advise(memmap2::Advice::HugePage);
                (memory, Pages::Transparent)
            }
        };
        let skip = memory.as_ptr().align_offset(HUGE);
        let base = NonNull::from(&mut memory[skip..]).cast::<u8>();
        // Room for every batch plus one remainder for each of as many caches as a machine can have workers.
        let free = ArrayQueue::new(count / BATCH + 1 + 1024);
        for start in (0..count).step_by(BATCH) {
            let size = BATCH.min(count - start);
            let buffers = std::array::from_fn(|i| first + (start + i.min(size - 1)) as u32);
            let batch = Batch {
                count: size as u32,
                buffers,
            };
            assert!(
                free.push(batch).is_ok(),
                "the free list has room for every batch"
            );
        }
        let mapping = Mapping {
            memory,
            base,
            count: count as u32,
            first,
            pages,
            free,
            caches: AtomicUsize::new(0),
        };
        Ok(Self(Arc::new(mapping)))
    }

    /// A cache for one thread.
    pub fn cache(&self) -> Buffers {
        let before = self.0.caches.fetch_add(1, Ordering::Relaxed);
        assert!(before < 1024, "a pool serves at most 1024 caches at a time");
        Buffers {
            pool: self.clone(),
            held: [NO_BUFFER; CACHE],
            len: 0,
        }
    }

    /// Where the buffers are, for loops over frames.
    #[inline(always)]
    pub fn view(&self) -> BufferView<'_> {
        let mapping = &*self.0;
        BufferView {
            headrooms: mapping.base.as_ptr().wrapping_add(DRIVER_ROOM + META_SIZE),
            first: mapping.first,
            count: mapping.count,
            pool: std::marker::PhantomData,
        }
    }

    /// Buffers in the arena.
    pub fn capacity(&self) -> usize {
        self.0.count as usize
    }

    /// How the memory is mapped.
    pub fn pages(&self) -> Pages {
        self.0.pages
    }

    /// Buffers on the shared free list now; those in caches do not count. A snapshot while others work, exact when
    /// all caches are dropped: then a balanced pool has [`Pool::capacity`] of them.
    pub fn shared_free(&self) -> usize {
        let batches: Vec<Batch> = std::iter::from_fn(|| self.0.free.pop()).collect();
        let count = batches.iter().map(|batch| batch.count as usize).sum();
        for batch in batches {
            assert!(
                self.0.free.push(batch).is_ok(),
                "the batch was on this list before"
            );
        }
        count
    }

    /// Checks that the pool is whole: every buffer exactly once on the free list. Call it when all caches are dropped.
    pub fn audit(&self) -> Result<(), String> {
        let mut seen = vec![false; self.capacity()];
        let batches: Vec<Batch> = std::iter::from_fn(|| self.0.free.pop()).collect();
        let mut twice = Vec::new();
        for batch in &batches {
            for index in &batch.buffers[..batch.count as usize] {
                let slot = index.wrapping_sub(self.0.first) as usize;
                match seen.get_mut(slot) {
                    Some(seen) if !*seen => *seen = true,
                    _ => twice.push(*index),
                }
            }
        }
        for batch in batches {
            assert!(
                self.0.free.push(batch).is_ok(),
                "the batch was on this list before"
            );
        }
        let lost = seen.iter().filter(|seen| !**seen).count();
        if lost == 0 && twice.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{lost} of {} buffers are lost, {} were freed twice or are foreign (first: {:?})",
            self.capacity(),
            twice.len(),
            twice.first()
        ))
    }

    /// The whole arena as address and length in bytes, for ports that register memory with a driver.
    pub fn memory(&self) -> (*const u8, usize) {
        (self.0.memory.as_ptr(), self.0.memory.len())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("count", &self.0.count)
            .field("pages", &self.0.pages)
            .finish()
    }
}

/// Where buffers are, in registers: for loops over frames, which would otherwise look it up for every packet.
#[derive(Clone, Copy)]
pub struct BufferView<'a> {
    /// Start of the first buffer's headroom.
    headrooms: *mut u8,
    first: u32,
    count: u32,
    pool: std::marker::PhantomData<&'a Pool>,
}

impl<'a> BufferView<'a> {
    /// Start of the headroom of one of the pool's buffers.
    #[inline(always)]
    fn data(self, buffer: u32) -> Option<*mut u8> {
        let slot = buffer.wrapping_sub(self.first);
        if slot >= self.count {
            return None;
        }
        // JUSTIFICATION: the arena is raw memory.
        // SAFETY: slot < count, so the whole buffer lies inside the mapping that `headrooms` points into.
        Some(unsafe { self.headrooms.add(slot as usize * STRIDE) })
    }

    fn meta(self, buffer: u32) -> &'a Meta {
        let start = self
            .data(buffer)
            .expect("chains and flags name buffers of this pool");
        // JUSTIFICATION: the arena is raw memory.
        // SAFETY: the metadata line lies META_SIZE bytes in front of the headroom, inside the same buffer, aligned to 64 like
        // the stride and the base; any bytes are a valid Meta except `offload`'s enum and bools, which are zero at first and
        // written only through `set_offload`. Only the owner of the packet's descriptor reaches this line.
        unsafe { &*start.sub(META_SIZE).cast::<Meta>() }
    }

    /// As [`Buffers::offload`].
    #[inline]
    pub fn offload(self, packet: &Descriptor) -> Option<Offload> {
        let is_set = packet.flags.contains(Flags::OFFLOAD);
        is_set.then(|| self.meta(packet.buffer).offload)
    }

    /// As [`Buffers::bytes`].
    #[inline(always)]
    pub fn bytes<'p>(self, packet: &'p Descriptor) -> &'p [u8]
    where
        'a: 'p,
    {
        let Some(start) = self.data(packet.buffer) else {
            return &[];
        };
        // JUSTIFICATION: the arena is raw memory; a slice table per buffer would cost a line per packet.
        // SAFETY: `start` points to REACH bytes of this buffer inside the arena, and offset + length <= REACH is an invariant
        // of Descriptor (private fields). The bytes are initialised: the kernel zeroes anonymous memory. The borrow of the
        // only descriptor that names the buffer excludes writers for as long as the slice lives.
        unsafe {
            core::slice::from_raw_parts(
                start.add(usize::from(packet.offset)),
                usize::from(packet.length),
            )
        }
    }

    /// As [`Buffers::bytes_mut`].
    #[inline(always)]
    pub fn bytes_mut<'p>(self, packet: &'p mut Descriptor) -> &'p mut [u8]
    where
        'a: 'p,
    {
        let Some(start) = self.data(packet.buffer) else {
            return &mut [];
        };
        // JUSTIFICATION: as in `bytes`.
        // SAFETY: as in `bytes`; the descriptor is borrowed mutably, so this is the only slice over the buffer's data.
        unsafe {
            core::slice::from_raw_parts_mut(
                start.add(usize::from(packet.offset)),
                usize::from(packet.length),
            )
        }
    }

    /// As [`Buffers::head`].
    #[inline(always)]
    pub fn head<'p, const N: usize>(self, packet: &'p Descriptor) -> Option<&'p [u8; N]>
    where
        'a: 'p,
    {
        self.bytes(packet).first_chunk()
    }

    /// As [`Buffers::head_mut`].
    #[inline(always)]
    pub fn head_mut<'p, const N: usize>(self, packet: &'p mut Descriptor) -> Option<&'p mut [u8; N]>
    where
        'a: 'p,
    {
        self.bytes_mut(packet).first_chunk_mut()
    }

    /// `N` bytes around the current header: the first `BEFORE` of them lie in front of it, in the room for headers to come.
    /// `None` where there is less room in front, or the first buffer holds fewer bytes behind.
    #[inline(always)]
    pub fn window_mut<'p, const BEFORE: usize, const N: usize>(
        self,
        packet: &'p mut Descriptor,
    ) -> Option<&'p mut [u8; N]>
    where
        'a: 'p,
    {
        let offset = usize::from(packet.offset);
        if offset < BEFORE || usize::from(packet.length) + BEFORE < N {
            return None;
        }
        let start = self.data(packet.buffer)?;
        // JUSTIFICATION: as in `bytes`.
        // SAFETY: as in `bytes_mut`; the window begins at offset - BEFORE >= 0 and ends at most at offset + length <= REACH. Nothing
        // in a mapping lies at address 0.
        Some(unsafe {
            let window = NonNull::new_unchecked(start.add(offset - BEFORE));
            &mut *window.cast::<[u8; N]>().as_ptr()
        })
    }

    /// As [`Buffers::prefetch`].
    #[inline(always)]
    pub fn prefetch(self, packet: &Descriptor) {
        // A wrong number prefetches something else, which does no harm.
        let slot = packet.buffer.wrapping_sub(self.first) as usize;
        let start = self.headrooms.wrapping_add(slot * STRIDE);
        crate::prefetch(start.wrapping_add(usize::from(packet.offset)));
    }
}

/// One thread's access to the pool: allocates, frees, and turns descriptors into bytes.
pub struct Buffers {
    pool: Pool,
    held: [u32; CACHE],
    len: usize,
}

impl Buffers {
    /// The pool behind this cache.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// An empty packet whose current header is at the data, with [`HEADROOM`] in front; `None` when the pool is
    /// exhausted.
    #[inline]
    pub fn alloc(&mut self) -> Option<Descriptor> {
        if self.len == 0 && !self.refill() {
            return None;
        }
        self.len -= 1;
        Some(Descriptor {
            buffer: self.held[self.len],
            offset: HEADROOM as u16,
            length: 0,
            interface: 0,
            flags: Flags(0),
            word: 0,
        })
    }

    /// Gives a packet back, with all its segments. [`Descriptor::NONE`] is ignored.
    #[inline]
    pub fn free(&mut self, packet: Descriptor) {
        if packet.flags.contains(Flags::CHAINED) && self.data(packet.buffer).is_some() {
            self.free_tail(&packet);
        }
        self.put(packet.buffer);
    }

    /// Gives back every packet in the slice, leaving [`Descriptor::NONE`].
    #[inline]
    pub fn free_all(&mut self, packets: &mut [Descriptor]) {
        for packet in packets {
            self.free(packet.take());
        }
    }

    /// A packet that holds a copy of `bytes` (a chain where they are more than one buffer's); `None` when the pool is
    /// exhausted or the bytes are more than [`MAX_PACKET`].
    pub fn copy_from(&mut self, bytes: &[u8]) -> Option<Descriptor> {
        let mut packet = self.alloc()?;
        let (first, rest) = bytes.split_at(bytes.len().min(DATA_SIZE));
        let extended = packet.extend(first.len());
        debug_assert!(extended, "an empty buffer holds DATA_SIZE bytes");
        self.bytes_mut(&mut packet).copy_from_slice(first);
        if !rest.is_empty() && !self.append(&mut packet, rest) {
            self.free(packet);
            return None;
        }
        Some(packet)
    }

    /// Appends bytes in new segments; false, with the packet as it was, when the pool is exhausted or the packet would
    /// be longer than [`MAX_PACKET`].
    pub fn append(&mut self, packet: &mut Descriptor, bytes: &[u8]) -> bool {
        if packet.is_none() || self.total_length(packet) + bytes.len() > MAX_PACKET {
            return false;
        }
        let mut tail: Vec<Descriptor> = Vec::new();
        for chunk in bytes.chunks(DATA_SIZE) {
            let Some(mut segment) = self.alloc() else {
                tail.into_iter().for_each(|segment| self.free(segment));
                return false;
            };
            let extended = segment.extend(chunk.len());
            debug_assert!(extended, "a chunk fits a buffer");
            self.bytes_mut(&mut segment).copy_from_slice(chunk);
            tail.push(segment);
        }
        for segment in tail {
            self.link(packet, segment);
        }
        true
    }

    /// Appends a packet without segments of its own as the last segment of `packet`. Ports build chains with it; for
    /// a long chain use [`ChainBuilder`].
    pub fn link(&mut self, packet: &mut Descriptor, segment: Descriptor) {
        let mut builder = ChainBuilder::resume(self, packet.take());
        builder.push(self, segment);
        *packet = builder.finish();
    }

    /// Bytes of the whole packet from the current header on.
    #[inline]
    pub fn total_length(&self, packet: &Descriptor) -> usize {
        let tail = if packet.flags.contains(Flags::CHAINED) {
            self.meta(packet.buffer).tail_length
        } else {
            0
        };
        packet.length() + tail as usize
    }

    /// Where the buffers are: see [`Pool::view`].
    #[inline(always)]
    pub fn view(&self) -> BufferView<'_> {
        self.pool.view()
    }

    /// The first buffer's bytes from the current header on: the whole packet where it is not chained.
    #[inline(always)]
    pub fn bytes<'a>(&'a self, packet: &'a Descriptor) -> &'a [u8] {
        self.view().bytes(packet)
    }

    /// As [`Buffers::bytes`], writable.
    #[inline(always)]
    pub fn bytes_mut<'a>(&'a self, packet: &'a mut Descriptor) -> &'a mut [u8] {
        self.view().bytes_mut(packet)
    }

    /// The first `N` bytes from the current header on, `None` where the first buffer holds fewer.
    #[inline(always)]
    pub fn head<'a, const N: usize>(&'a self, packet: &'a Descriptor) -> Option<&'a [u8; N]> {
        self.bytes(packet).first_chunk()
    }

    /// As [`Buffers::head`], writable.
    #[inline(always)]
    pub fn head_mut<'a, const N: usize>(
        &'a self,
        packet: &'a mut Descriptor,
    ) -> Option<&'a mut [u8; N]> {
        self.bytes_mut(packet).first_chunk_mut()
    }

    /// Begins to load the line of the current header.
    #[inline(always)]
    pub fn prefetch(&self, packet: &Descriptor) {
        self.view().prefetch(packet);
    }

    /// All segments' bytes in order, from the current header on.
    pub fn segments<'a>(&'a self, packet: &'a Descriptor) -> Segments<'a> {
        let next = if packet.flags.contains(Flags::CHAINED) {
            self.meta(packet.buffer).next
        } else {
            NO_BUFFER
        };
        Segments {
            buffers: self,
            first: Some(self.bytes(packet)),
            next,
        }
    }

    /// Calls `f` with each segment's bytes in order, writable, until it returns false.
    pub fn for_each_segment_mut(
        &self,
        packet: &mut Descriptor,
        mut f: impl FnMut(&mut [u8]) -> bool,
    ) {
        let mut next = if packet.flags.contains(Flags::CHAINED) {
            self.meta(packet.buffer).next
        } else {
            NO_BUFFER
        };
        if !f(self.bytes_mut(packet)) {
            return;
        }
        while next != NO_BUFFER {
            let meta = self.meta(next);
            let Some(start) = self.data(next) else { return };
            // JUSTIFICATION: as in `bytes`.
            // SAFETY: as in `bytes`: the segment belongs to the chain whose descriptor is borrowed mutably; its offset and
            // length were copied from a valid descriptor by `ChainBuilder`.
            let bytes = unsafe {
                core::slice::from_raw_parts_mut(
                    start.add(usize::from(meta.segment_offset)),
                    usize::from(meta.segment_length),
                )
            };
            if !f(bytes) {
                return;
            }
            next = meta.next;
        }
    }

    /// Copies up to `out.len()` bytes of the packet, `skip` bytes from the current header on; returns how many.
    pub fn copy_out(&self, packet: &Descriptor, mut skip: usize, out: &mut [u8]) -> usize {
        let mut done = 0;
        for segment in self.segments(packet) {
            if skip >= segment.len() {
                skip -= segment.len();
                continue;
            }
            let part = &segment[skip..];
            skip = 0;
            let count = part.len().min(out.len() - done);
            out[done..done + count].copy_from_slice(&part[..count]);
            done += count;
            if done == out.len() {
                break;
            }
        }
        done
    }

    /// Cuts the whole packet, segments included, to `length` bytes from the current header on.
    pub fn truncate_total(&mut self, packet: &mut Descriptor, length: usize) {
        if !packet.flags.contains(Flags::CHAINED) {
            packet.truncate(length);
            return;
        }
        if length >= self.total_length(packet) {
            return;
        }
        let mut builder: Option<ChainBuilder> = None;
        let mut left = length;
        for mut segment in self.split(packet.take()) {
            if left == 0 && builder.is_some() {
                self.free(segment);
                continue;
            }
            segment.truncate(left);
            left -= segment.length().min(left);
            match &mut builder {
                None => builder = Some(ChainBuilder::new(segment)),
                Some(builder) => builder.push(self, segment),
            }
        }
        if let Some(builder) = builder {
            *packet = builder.finish();
        }
    }

    /// The work left undone on the packet, where [`Flags::OFFLOAD`] is set.
    #[inline]
    pub fn offload(&self, packet: &Descriptor) -> Option<Offload> {
        self.view().offload(packet)
    }

    /// Says what work is left undone on the packet; `None` for nothing.
    #[inline]
    pub fn set_offload(&self, packet: &mut Descriptor, offload: Option<Offload>) {
        match offload {
            Some(offload) if !packet.is_none() => {
                self.meta_mut(packet).offload = offload;
                packet.flags = packet.flags.union(Flags::OFFLOAD);
            }
            _ => packet.flags = packet.flags.without(Flags::OFFLOAD),
        }
    }

    /// Number of the packet's trace, where it is traced.
    pub fn trace_number(&self, packet: &Descriptor) -> Option<u32> {
        packet
            .flags
            .contains(Flags::TRACED)
            .then(|| self.meta(packet.buffer).trace)
    }

    /// Marks the packet as traced under a number.
    pub fn set_trace_number(&self, packet: &mut Descriptor, number: u32) {
        if !packet.is_none() {
            self.meta_mut(packet).trace = number;
            packet.flags = packet.flags.union(Flags::TRACED);
        }
    }

    /// Takes a chain apart into packets without segments, in order.
    fn split(&mut self, packet: Descriptor) -> Vec<Descriptor> {
        let mut parts = Vec::new();
        let mut next = if packet.flags.contains(Flags::CHAINED) {
            self.meta(packet.buffer).next
        } else {
            NO_BUFFER
        };
        let mut first = packet;
        let (interface, flags, word) = (first.interface, first.flags, first.word);
        first.flags = flags.without(Flags::CHAINED);
        parts.push(first);
        while next != NO_BUFFER {
            let meta = self.meta(next);
            let part = Descriptor {
                buffer: next,
                offset: meta.segment_offset,
                length: meta.segment_length,
                interface,
                flags: Flags(0),
                word,
            };
            next = meta.next;
            parts.push(part);
        }
        parts
    }

    #[cold]
    fn free_tail(&mut self, packet: &Descriptor) {
        let mut next = self.meta(packet.buffer).next;
        while next != NO_BUFFER {
            let after = self.meta(next).next;
            self.put(next);
            next = after;
        }
    }

    #[inline(always)]
    fn put(&mut self, buffer: u32) {
        // No packet at all, or one of another pool, which ends here rather than on our list.
        if buffer.wrapping_sub(self.pool.0.first) >= self.pool.0.count {
            return;
        }
        if self.len == CACHE {
            self.spill();
        }
        self.held[self.len] = buffer;
        self.len += 1;
    }

    #[cold]
    fn refill(&mut self) -> bool {
        let Some(batch) = self.pool.0.free.pop() else {
            return false;
        };
        let count = batch.count as usize;
        self.held[..count].copy_from_slice(&batch.buffers[..count]);
        self.len = count;
        count > 0
    }

    /// Moves the batch that was freed longest ago to the shared list: what stays is warm.
    #[cold]
    fn spill(&mut self) {
        let mut buffers = [NO_BUFFER; BATCH];
        buffers.copy_from_slice(&self.held[..BATCH]);
        let pushed = self.pool.0.free.push(Batch {
            count: BATCH as u32,
            buffers,
        });
        assert!(pushed.is_ok(), "the free list has room for every batch");
        self.held.copy_within(BATCH.., 0);
        self.len -= BATCH;
    }

    /// Start of the headroom of one of our buffers.
    #[inline(always)]
    fn data(&self, buffer: u32) -> Option<*mut u8> {
        self.view().data(buffer)
    }

    fn meta(&self, buffer: u32) -> &Meta {
        self.view().meta(buffer)
    }

    fn meta_mut<'a>(&'a self, packet: &'a mut Descriptor) -> &'a mut Meta {
        let start = self
            .data(packet.buffer)
            .expect("a packet names a buffer of this pool");
        // JUSTIFICATION: as in `meta`.
        // SAFETY: as in `meta`; the descriptor is borrowed mutably and is the only way to the line.
        unsafe { &mut *start.sub(META_SIZE).cast::<Meta>() }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        for chunk in self.held[..self.len].chunks(BATCH) {
            let mut buffers = [NO_BUFFER; BATCH];
            buffers[..chunk.len()].copy_from_slice(chunk);
            let batch = Batch {
                count: chunk.len() as u32,
                buffers,
            };
            // Without room (a panic elsewhere lost the count) the buffers leak, which the audit shows.
            let _ = self.pool.0.free.push(batch);
        }
        self.pool.0.caches.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
