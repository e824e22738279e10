//! Descriptors: the handle on a packet, its flags, and the work left undone on it.

use std::fmt;

use super::{NO_BUFFER, REACH};

/// What a packet needs that its descriptor's fields do not say.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub(super) u16);

impl Flags {
    /// The packet goes on in further buffers. Set by the pool alone.
    pub const CHAINED: Self = Self(1 << 0);
    /// The metadata line holds an [`Offload`]: checksum to be filled, or a packet to be segmented.
    pub const OFFLOAD: Self = Self(1 << 1);
    /// The packet is traced; its trace number is in the metadata line.
    pub const TRACED: Self = Self(1 << 2);
    /// The packet was made by this host (punt path or a node's own answer), so it is not counted as received and
    /// never answered by an error.
    pub const LOCAL: Self = Self(1 << 3);
    /// The layer-4 checksum was verified by the port, or never left this machine.
    pub const CHECKSUM_GOOD: Self = Self(1 << 4);
    /// The frame was sent to a link-layer broadcast or multicast address.
    pub const LINK_BROADCAST: Self = Self(1 << 5);
    /// The IPv6 source or destination needs care that the fast path does not give (set by `ip6-input`).
    pub const SLOW: Self = Self(1 << 6);
    /// Another worker has found out that the packet belongs to this one, and handed it over: nobody is asked again. A node that makes
    /// another packet of it clears this.
    pub const HANDED_OVER: Self = Self(1 << 7);

    /// True where every flag of `other` is set.
    #[inline(always)]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
    /// True where some flag of `other` is set.
    #[inline(always)]
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// Both sets.
    #[inline(always)]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
    /// The bits, for telemetry.
    pub const fn bits(self) -> u16 {
        self.0
    }
    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::CHAINED, "chained"),
            (Self::OFFLOAD, "offload"),
            (Self::TRACED, "traced"),
            (Self::LOCAL, "local"),
            (Self::CHECKSUM_GOOD, "checksum-good"),
            (Self::LINK_BROADCAST, "link-broadcast"),
            (Self::SLOW, "slow"),
            (Self::HANDED_OVER, "handed-over"),
        ];
        let set = names
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .map(|(_, name)| *name);
        f.debug_list().entries(set).finish()
    }
}

/// A packet's 16 bytes that travel from node to node: the only handle on its buffers.
#[repr(C, align(16))]
pub struct Descriptor {
    pub(super) buffer: u32,
    /// From the start of the headroom to the current header.
    pub(super) offset: u16,
    /// From the current header to the end of the packet in this buffer.
    pub(super) length: u16,
    /// The port that received the packet; from `ethernet-input` on, the interface.
    pub interface: u16,
    pub(super) flags: Flags,
    /// What the previous node found out for the next one: a route's result, an adjacency, a port.
    pub word: u32,
}

impl Descriptor {
    /// Names no packet: what is left behind where a descriptor was taken.
    pub const NONE: Self = Self {
        buffer: NO_BUFFER,
        offset: 0,
        length: 0,
        interface: 0,
        flags: Flags(0),
        word: 0,
    };

    /// True for [`Descriptor::NONE`].
    #[inline(always)]
    pub fn is_none(&self) -> bool {
        self.buffer == NO_BUFFER
    }

    /// Moves the packet out, leaving [`Descriptor::NONE`].
    #[inline(always)]
    pub fn take(&mut self) -> Self {
        std::mem::replace(self, Self::NONE)
    }

    /// The buffer's number, for telemetry and per-buffer side tables.
    #[inline(always)]
    pub fn buffer_index(&self) -> u32 {
        self.buffer
    }

    /// Bytes from the current header to the end of the first buffer; for a packet that is not chained, of the packet.
    #[inline(always)]
    pub fn length(&self) -> usize {
        usize::from(self.length)
    }

    /// Position of the current header from the start of the headroom, in bytes: the coordinate of [`Offload`] and of
    /// the driver's, which stays true when headers are pushed or popped.
    #[inline(always)]
    pub fn position(&self) -> u16 {
        self.offset
    }

    /// The flags.
    #[inline(always)]
    pub fn flags(&self) -> Flags {
        self.flags
    }

    /// Sets flags. [`Flags::CHAINED`] belongs to the pool and stays as it is.
    #[inline(always)]
    pub fn set_flags(&mut self, flags: Flags) {
        self.flags = self.flags.union(flags.without(Flags::CHAINED));
    }

    /// Clears flags. [`Flags::CHAINED`] belongs to the pool and stays as it is.
    #[inline(always)]
    pub fn clear_flags(&mut self, flags: Flags) {
        self.flags = self.flags.without(flags.without(Flags::CHAINED));
    }

    /// Moves the current header forward by `count` bytes; false, and nothing done, where the buffer has fewer.
    #[inline(always)]
    #[must_use]
    pub fn advance(&mut self, count: usize) -> bool {
        if count > self.length() {
            return false;
        }
        self.offset += count as u16;
        self.length -= count as u16;
        true
    }

    /// Moves the current header back by `count` bytes into the room in front of it; false, and nothing done, where
    /// there is less room.
    #[inline(always)]
    #[must_use]
    pub fn retreat(&mut self, count: usize) -> bool {
        if count > usize::from(self.offset) {
            return false;
        }
        self.offset -= count as u16;
        self.length += count as u16;
        true
    }

    /// Cuts this buffer's part of the packet to `length` bytes where it is longer: removes padding, or makes room for
    /// a shorter answer. A chain keeps its other segments.
    #[inline(always)]
    pub fn truncate(&mut self, length: usize) {
        if length < self.length() {
            self.length = length as u16;
        }
    }

    /// Lengthens this buffer's part of the packet by `count` bytes (whatever the buffer holds there); false where the
    /// buffer has less room behind the packet.
    #[must_use]
    pub fn extend(&mut self, count: usize) -> bool {
        if usize::from(self.offset) + self.length() + count > REACH {
            return false;
        }
        self.length += count as u16;
        true
    }

    /// Bytes of room behind the packet in this buffer.
    pub fn tailroom(&self) -> usize {
        REACH - usize::from(self.offset) - self.length()
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_none() {
            return f.write_str("Descriptor(none)");
        }
        f.debug_struct("Descriptor")
            .field("buffer", &self.buffer)
            .field("offset", &self.offset)
            .field("length", &self.length)
            .field("interface", &self.interface)
            .field("flags", &self.flags)
            .field("word", &self.word)
            .finish()
    }
}

/// How a packet is to be cut into segments before a wire that needs them.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Segmentation {
    /// It is one packet.
    #[default]
    None = 0,
    /// TCP over IPv4.
    Tcp4 = 1,
    /// TCP over IPv6.
    Tcp6 = 2,
    /// UDP datagrams of equal size (over either version), as `UDP_SEGMENT` makes them.
    Udp = 3,
}

/// Work left undone on a packet by whoever made it. Positions count from the start of the headroom, like
/// [`Descriptor::position`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offload {
    /// What to cut it into.
    pub segmentation: Segmentation,
    /// True where a ones-complement sum over `checksum_start..` is to be stored at `checksum_field`.
    pub checksum: bool,
    /// True where a TCP segment train carries ECN's CWR, which only the first segment keeps.
    pub ecn: bool,
    /// Payload bytes in each segment.
    pub segment_size: u16,
    /// Where the sum begins: the layer-4 header.
    pub checksum_start: u16,
    /// Where the sum goes; it holds the pseudo-header's sum already.
    pub checksum_field: u16,
}

/// The cold line in front of the headroom.
#[repr(C, align(64))]
pub(super) struct Meta {
    /// The chain's next segment.
    pub(super) next: u32,
    /// Bytes in the segments behind the first (first segment only).
    pub(super) tail_length: u32,
    /// Offset and length of this segment (segments behind the first only).
    pub(super) segment_offset: u16,
    pub(super) segment_length: u16,
    pub(super) offload: Offload,
    /// Number of the trace, where [`Flags::TRACED`] is set.
    pub(super) trace: u32,
    spare: [u8; 28],
    reserved: [u8; 6],
}
