//! Frames: what nodes are called with. Up to [`FRAME_SIZE`] packets and, for each, the verdict that the node gives.

use crate::buffer::Descriptor;

/// Packets in a frame at the most.
pub const FRAME_SIZE: usize = 256;

/// Where a packet goes from here: along an edge, or into a counted drop.
///
/// Made from a node's [`NextNode`] or [`DropReason`] enum. The engine gives every packet of a frame [`Verdict::UNSET`]
/// before it calls the node, so a packet that the node forgot is a counted drop and never a leak.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict(u8);

impl Verdict {
    const DROP: u8 = 0x80;
    /// The node has not decided.
    pub const UNSET: Self = Self(0xff);
    /// The node took the packet out of the frame.
    pub const TAKEN: Self = Self(0xfe);
    /// The most edges, and the most drop reasons, that a node can have.
    pub const MAX: usize = 0x70;

    /// Along an edge.
    #[inline(always)]
    pub fn next(edge: impl NextNode) -> Self {
        Self(edge.index())
    }

    /// Into a drop.
    #[inline(always)]
    pub fn discard(reason: impl DropReason) -> Self {
        Self(Self::DROP | reason.index())
    }

    /// Along the edge with this index: for feature arcs, whose edges are computed.
    #[inline(always)]
    pub const fn edge(index: u8) -> Self {
        Self(index & 0x7f)
    }

    /// What it says.
    #[inline]
    pub fn decode(self) -> Decision {
        match self {
            Self::TAKEN => Decision::Taken,
            Self(value) if value < Self::DROP => Decision::Next(value),
            Self(value) => Decision::Drop(value & 0x7f),
        }
    }

    /// The byte, for trace records.
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// From the byte of a trace record.
    pub const fn from_raw(raw: u8) -> Self {
        Self(raw)
    }
}

/// A verdict taken apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Along the edge with this index.
    Next(u8),
    /// Into the drop with this index; out of range where the node gave none.
    Drop(u8),
    /// The node owns the packet.
    Taken,
}

/// A node's outgoing edges: an enum made with [`next_nodes!`](crate::next_nodes).
pub trait NextNode: Copy + 'static {
    /// Names of the nodes that the edges lead to, by index.
    const NAMES: &'static [&'static str];
    /// The edge's index.
    fn index(self) -> u8;
}

/// A node's reasons to drop: an enum made with [`drop_reasons!`](crate::drop_reasons).
pub trait DropReason: Copy + 'static {
    /// Counter name and the text that an operator reads, by index.
    const ENTRIES: &'static [(&'static str, &'static str)];
    /// The reason's index.
    fn index(self) -> u8;
}

impl<T: NextNode> From<T> for Verdict {
    #[inline(always)]
    fn from(edge: T) -> Self {
        Self::next(edge)
    }
}

/// Declares a node's edges: `next_nodes! { /// Doc. pub enum Next { Lookup => "ip4-lookup", … } }`.
#[macro_export]
macro_rules! next_nodes {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($(#[$vmeta:meta])* $variant:ident => $target:expr),* $(,)? }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $vis enum $name { $($(#[$vmeta])* #[doc = concat!("To `", $target, "`.")] $variant),* }
        impl $crate::NextNode for $name {
            const NAMES: &'static [&'static str] = &[$($target),*];
            #[inline(always)]
            fn index(self) -> u8 { self as u8 }
        }
    };
}

/// Declares a node's drop reasons: `drop_reasons! { /// Doc. pub enum Drop { BadChecksum = "bad-checksum": "The header's
/// checksum is wrong", … } }`. The name becomes the counter, the text is what an operator reads.
#[macro_export]
macro_rules! drop_reasons {
    ($(#[$meta:meta])* $vis:vis enum $name:ident { $($variant:ident = $counter:literal : $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $vis enum $name { $(#[doc = $text] $variant),* }
        impl $crate::DropReason for $name {
            const ENTRIES: &'static [(&'static str, &'static str)] = &[$(($counter, $text)),*];
            #[inline(always)]
            fn index(self) -> u8 { self as u8 }
        }
    };
}

/// No edges: for nodes that end every packet's way.
#[derive(Clone, Copy, Debug)]
pub enum NoNext {}
impl NextNode for NoNext {
    const NAMES: &'static [&'static str] = &[];
    fn index(self) -> u8 {
        match self {}
    }
}

/// No reasons: for nodes that drop nothing.
#[derive(Clone, Copy, Debug)]
pub enum NoDrop {}
impl DropReason for NoDrop {
    const ENTRIES: &'static [(&'static str, &'static str)] = &[];
    fn index(self) -> u8 {
        match self {}
    }
}

/// Packets on their way through one node.
#[repr(C, align(64))]
pub struct Frame {
    packets: [Descriptor; FRAME_SIZE],
    verdicts: [Verdict; FRAME_SIZE],
    len: usize,
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl Frame {
    /// An empty frame.
    pub const fn new() -> Self {
        Self {
            packets: [const { Descriptor::NONE }; FRAME_SIZE],
            verdicts: [Verdict::UNSET; FRAME_SIZE],
            len: 0,
        }
    }

    /// Packets in it.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True where there is none.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Packets that still fit.
    #[inline(always)]
    pub fn room(&self) -> usize {
        FRAME_SIZE - self.len
    }

    /// Adds a packet at the end; a full frame gives it back.
    #[inline(always)]
    pub fn push(&mut self, packet: Descriptor) -> Result<(), Descriptor> {
        match self.packets.get_mut(self.len) {
            Some(slot) => {
                *slot = packet;
                self.len += 1;
                Ok(())
            }
            None => Err(packet),
        }
    }

    /// The packets.
    #[inline(always)]
    pub fn packets(&self) -> &[Descriptor] {
        &self.packets[..self.len]
    }

    /// The packets, writable.
    #[inline(always)]
    pub fn packets_mut(&mut self) -> &mut [Descriptor] {
        &mut self.packets[..self.len]
    }

    /// The packets and their verdicts, both of the frame's length.
    #[inline(always)]
    pub fn parts_mut(&mut self) -> (&mut [Descriptor], &mut [Verdict]) {
        (
            &mut self.packets[..self.len],
            &mut self.verdicts[..self.len],
        )
    }

    /// The verdicts.
    #[inline(always)]
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts[..self.len]
    }

    /// Gives every packet the same verdict.
    #[inline]
    pub fn set_all(&mut self, verdict: impl Into<Verdict>) {
        self.verdicts[..self.len].fill(verdict.into());
    }

    /// Takes the packet at `index` out of the frame: the caller owns it, its verdict is [`Verdict::TAKEN`].
    #[inline]
    pub fn take(&mut self, index: usize) -> Descriptor {
        self.verdicts[index] = Verdict::TAKEN;
        self.packets[index].take()
    }

    /// Forgets the (already moved) packets.
    #[inline(always)]
    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Moves all packets of `from` behind those of this frame; false, with nothing done, where they do not fit.
    #[inline]
    pub(crate) fn append(&mut self, from: &mut Self) -> bool {
        if from.len > self.room() {
            return false;
        }
        let target = &mut self.packets[self.len..self.len + from.len];
        target.swap_with_slice(&mut from.packets[..from.len]);
        self.len += from.len;
        from.len = 0;
        true
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.packets().iter().zip(self.verdicts()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    next_nodes! {
        enum Next { A => "a", B => "b" }
    }
    drop_reasons! {
        enum Reason { X = "x": "Why x", Y = "y": "Why y" }
    }

    #[test]
    fn verdicts_say_what_was_put_in() {
        assert_eq!(Verdict::from(Next::B).decode(), Decision::Next(1));
        assert_eq!(Verdict::discard(Reason::Y).decode(), Decision::Drop(1));
        assert_eq!(Verdict::TAKEN.decode(), Decision::Taken);
        assert!(
            matches!(Verdict::UNSET.decode(), Decision::Drop(index) if index as usize >= Verdict::MAX)
        );
        assert_eq!(Next::NAMES, ["a", "b"]);
        assert_eq!(Reason::ENTRIES[0], ("x", "Why x"));
        assert_eq!((Next::A as u8, Reason::X as u8), (0, 0));
    }

    #[test]
    fn a_full_frame_gives_the_packet_back() {
        let mut frame = Frame::new();
        for _ in 0..FRAME_SIZE {
            assert!(frame.push(Descriptor::NONE).is_ok());
        }
        assert!(frame.push(Descriptor::NONE).is_err());
        let mut other = Frame::new();
        assert!(other.push(Descriptor::NONE).is_ok());
        assert!(!frame.append(&mut other));
        assert_eq!((frame.len(), other.len()), (FRAME_SIZE, 1));
    }
}
