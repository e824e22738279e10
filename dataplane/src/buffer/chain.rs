//! Chains: packets longer than a buffer.

use super::{Buffers, Descriptor, Flags, NO_BUFFER};

/// Iterator over a packet's segments; made by [`Buffers::segments`].
pub struct Segments<'a> {
    pub(super) buffers: &'a Buffers,
    pub(super) first: Option<&'a [u8]>,
    pub(super) next: u32,
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        if self.next == NO_BUFFER {
            return None;
        }
        let meta = self.buffers.meta(self.next);
        let start = self.buffers.data(self.next)?;
        self.next = meta.next;
        // JUSTIFICATION: as in `Buffers::bytes`.
        // SAFETY: as in `Buffers::bytes`: the chain's only descriptor is borrowed for 'a; the segment's offset and length were
        // copied from a valid descriptor by `ChainBuilder`.
        Some(unsafe {
            core::slice::from_raw_parts(
                start.add(usize::from(meta.segment_offset)),
                usize::from(meta.segment_length),
            )
        })
    }
}

/// Builds a chain in time proportional to its segments.
pub struct ChainBuilder {
    packet: Descriptor,
    /// The last segment, where there is one behind the first.
    last: u32,
}

impl ChainBuilder {
    /// A chain that begins with `first`, which has no segments of its own.
    pub fn new(first: Descriptor) -> Self {
        debug_assert!(!first.flags.contains(Flags::CHAINED));
        Self {
            packet: first,
            last: NO_BUFFER,
        }
    }

    /// Goes on at the end of a chain.
    pub(super) fn resume(buffers: &Buffers, packet: Descriptor) -> Self {
        let mut last = NO_BUFFER;
        if packet.flags.contains(Flags::CHAINED) {
            last = buffers.meta(packet.buffer).next;
            while buffers.meta(last).next != NO_BUFFER {
                last = buffers.meta(last).next;
            }
        }
        Self { packet, last }
    }

    /// Appends a packet without segments of its own.
    pub fn push(&mut self, buffers: &mut Buffers, mut segment: Descriptor) {
        debug_assert!(!segment.flags.contains(Flags::CHAINED));
        let (offset, length) = (segment.offset, segment.length);
        let meta = buffers.meta_mut(&mut segment);
        meta.next = NO_BUFFER;
        meta.segment_offset = offset;
        meta.segment_length = length;
        let first = buffers.meta_mut(&mut self.packet);
        if self.last == NO_BUFFER {
            first.next = segment.buffer;
            first.tail_length = u32::from(length);
            self.packet.flags = self.packet.flags.union(Flags::CHAINED);
        } else {
            first.tail_length += u32::from(length);
            let mut last = Descriptor {
                buffer: self.last,
                ..Descriptor::NONE
            };
            buffers.meta_mut(&mut last).next = segment.buffer;
        }
        self.last = segment.buffer;
    }

    /// Bytes so far.
    pub fn total_length(&self, buffers: &Buffers) -> usize {
        buffers.total_length(&self.packet)
    }

    /// The chain.
    pub fn finish(self) -> Descriptor {
        self.packet
    }
}
