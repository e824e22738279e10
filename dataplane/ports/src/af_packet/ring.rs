//! Receive rings that the kernel shares with us: fixed frames (`TPACKET_V2`) and blocks (`TPACKET_V3`).
//!
//! The kernel owns a frame (or block) until it stores `TP_STATUS_USER` in its status word, then we own it until we store
//! `TP_STATUS_KERNEL`. What it wrote is checked against the frame's bounds before it is used. Source: the kernel's
//! `Documentation/networking/packet_mmap.rst` and `<linux/if_packet.h>`.
#![expect(
    unsafe_code,
    reason = "the kernel writes to this memory; only raw pointers and atomics describe that"
)]

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::sys::Socket;
use super::vnet::VnetHeader;

const STATUS_KERNEL: u32 = 0;
const STATUS_USER: u32 = 1;
const STATUS_COPY: u32 = 2;
const STATUS_LOSING: u32 = 4;
const STATUS_VLAN_VALID: u32 = 16;
const STATUS_VLAN_TPID_VALID: u32 = 64;
const TPID_8021Q: u16 = 0x8100;

/// What the ring holds of one packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<'a> {
    /// The frame's bytes, as many as fitted; empty where the kernel's numbers make no sense.
    pub(super) bytes: &'a [u8],
    /// Length of the packet.
    pub(super) length: usize,
    pub(super) header: VnetHeader,
    /// The tag that the kernel took out of the frame: protocol identifier and control information.
    pub(super) vlan: Option<(u16, u16)>,
    /// The whole packet waits on the socket's queue.
    pub(super) queued: bool,
    /// Packets were lost for want of room.
    pub(super) losing: bool,
}

/// The tag that a status word and the two fields beside it describe.
pub(super) fn vlan(status: u32, control: u16, protocol: u16) -> Option<(u16, u16)> {
    if status & STATUS_VLAN_VALID == 0 {
        return None;
    }
    let known = status & STATUS_VLAN_TPID_VALID != 0 && protocol != 0;
    Some((if known { protocol } else { TPID_8021Q }, control))
}

/// A receive ring of either version.
pub(super) enum Ring {
    Frames(FrameRing),
    Blocks(BlockRing),
}

impl Ring {
    /// The next packet, which stays in the ring until [`Ring::release`].
    #[inline]
    pub(super) fn peek(&mut self) -> Option<Slot<'_>> {
        match self {
            Self::Frames(ring) => ring.peek(),
            Self::Blocks(ring) => ring.peek(),
        }
    }

    /// Gives the packet that [`Ring::peek`] showed back to the kernel.
    #[inline]
    pub(super) fn release(&mut self) {
        match self {
            Self::Frames(ring) => ring.release(),
            Self::Blocks(ring) => ring.release(),
        }
    }
}

/// Ring of fixed frames, one packet in each.
pub(super) struct FrameRing {
    memory: Memory,
    frame_bytes: usize,
    frames_per_block: usize,
    block_bytes: usize,
    frames: usize,
    /// The frame to be filled next, and where it lies.
    at: usize,
    offset: usize,
}

impl FrameRing {
    /// Sets up and maps a ring of at least `frames` frames of `frame_bytes` (a multiple of 16).
    pub(super) fn new(socket: &Socket, frames: usize, frame_bytes: usize) -> io::Result<Self> {
        const PAGE: usize = 4096;
        // Blocks are physically contiguous: short ones are easy to get.
        let block_bytes = if frame_bytes <= 4096 {
            16 * PAGE
        } else {
            (1 << 20) - PAGE
        };
        let frames_per_block = block_bytes / frame_bytes;
        let blocks = frames.div_ceil(frames_per_block);
        socket.set_ring(&libc::tpacket_req {
            tp_block_size: block_bytes as u32,
            tp_block_nr: blocks as u32,
            tp_frame_size: frame_bytes as u32,
            tp_frame_nr: (blocks * frames_per_block) as u32,
        })?;
        Ok(Self {
            memory: Memory::new(socket, blocks * block_bytes)?,
            frame_bytes,
            frames_per_block,
            block_bytes,
            frames: blocks * frames_per_block,
            at: 0,
            offset: 0,
        })
    }

    #[inline]
    fn peek(&self) -> Option<Slot<'_>> {
        let (memory, frame) = (&self.memory, self.offset);
        let status = memory.status(frame).load(Ordering::Acquire);
        if status & STATUS_USER == 0 {
            return None;
        }
        memory.prefetch(self.offset_of(self.next()));
        let (length, stored) = (memory.word(frame + 4), memory.word(frame + 8));
        let mac = usize::from(memory.half(frame + 12));
        let (header, bytes) = memory.packet(frame, self.frame_bytes, mac, stored as usize);
        Some(Slot {
            bytes,
            length: length as usize,
            header,
            vlan: vlan(status, memory.half(frame + 24), memory.half(frame + 26)),
            queued: status & STATUS_COPY != 0,
            losing: status & STATUS_LOSING != 0,
        })
    }

    #[inline]
    fn release(&mut self) {
        self.memory
            .status(self.offset)
            .store(STATUS_KERNEL, Ordering::Release);
        self.at = self.next();
        self.offset = self.offset_of(self.at);
    }

    #[inline(always)]
    fn next(&self) -> usize {
        if self.at + 1 == self.frames {
            0
        } else {
            self.at + 1
        }
    }

    #[inline(always)]
    fn offset_of(&self, frame: usize) -> usize {
        (frame / self.frames_per_block) * self.block_bytes
            + (frame % self.frames_per_block) * self.frame_bytes
    }
}

/// Ring of blocks, each handed over with several packets when it is full or its time is over.
pub(super) struct BlockRing {
    memory: Memory,
    block_bytes: usize,
    blocks: usize,
    /// The block to be read next.
    at: usize,
    /// Packets of it that are still to be read, once we have looked; the next one's offset in the block.
    left: Option<u32>,
    packet: usize,
}

impl BlockRing {
    /// Sets up and maps a ring; a block is handed over at the latest `retire_ms` after its first packet.
    pub(super) fn new(
        socket: &Socket,
        blocks: usize,
        block_bytes: usize,
        retire_ms: u32,
    ) -> io::Result<Self> {
        const FRAME: usize = 2048;
        socket.set_block_ring(&libc::tpacket_req3 {
            tp_block_size: block_bytes as u32,
            tp_block_nr: blocks as u32,
            // The kernel packs packets as they come and only checks that these numbers agree.
            tp_frame_size: FRAME as u32,
            tp_frame_nr: (blocks * (block_bytes / FRAME)) as u32,
            tp_retire_blk_tov: retire_ms,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        })?;
        Ok(Self {
            memory: Memory::new(socket, blocks * block_bytes)?,
            block_bytes,
            blocks,
            at: 0,
            left: None,
            packet: 0,
        })
    }

    #[inline]
    fn peek(&mut self) -> Option<Slot<'_>> {
        let block = self.at * self.block_bytes;
        let mut block_status = 0;
        loop {
            match self.left {
                Some(0) => {
                    self.give_back();
                    return self.peek();
                }
                Some(_) => break,
                None => {
                    block_status = self.memory.status(block + 8).load(Ordering::Acquire);
                    if block_status & STATUS_USER == 0 {
                        return None;
                    }
                    self.left = Some(self.memory.word(block + 12));
                    self.packet = self.memory.word(block + 16) as usize;
                }
            }
        }
        if self.packet + 48 > self.block_bytes || !self.packet.is_multiple_of(8) {
            // The kernel's numbers make no sense: the rest of the block is lost.
            self.left = Some(1);
            return Some(Slot {
                bytes: &[],
                length: 0,
                header: VnetHeader::default(),
                vlan: None,
                queued: false,
                losing: false,
            });
        }
        let (memory, packet) = (&self.memory, block + self.packet);
        let (stored, length) = (memory.word(packet + 12), memory.word(packet + 16));
        let status = memory.word(packet + 20);
        let mac = usize::from(memory.half(packet + 24));
        let room = self.block_bytes - self.packet;
        let (header, bytes) = memory.packet(packet, room, mac, stored as usize);
        Some(Slot {
            bytes,
            length: length as usize,
            header,
            vlan: vlan(
                status,
                memory.word(packet + 32) as u16,
                memory.half(packet + 36),
            ),
            queued: false,
            losing: (status | block_status) & STATUS_LOSING != 0,
        })
    }

    #[inline]
    fn release(&mut self) {
        let Some(left) = self.left.as_mut() else {
            return;
        };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.give_back();
        } else {
            let next = self.memory.word(self.at * self.block_bytes + self.packet) as usize;
            // An offset of 0 would read the same packet again for ever.
            self.packet = self.packet.saturating_add(next.max(8));
        }
    }

    fn give_back(&mut self) {
        self.memory
            .status(self.at * self.block_bytes + 8)
            .store(STATUS_KERNEL, Ordering::Release);
        self.left = None;
        self.at = if self.at + 1 == self.blocks {
            0
        } else {
            self.at + 1
        };
    }
}

/// The mapping, and checked access to it. Offsets are in bytes from its start.
struct Memory {
    map: MmapRaw,
}

impl Memory {
    fn new(socket: &Socket, length: usize) -> io::Result<Self> {
        let map = MmapOptions::new().len(length).map_raw(socket.as_raw_fd())?;
        Ok(Self { map })
    }

    /// Panics where `count` bytes at `offset` are not all inside, which would be a mistake in this file.
    #[inline(always)]
    fn address(&self, offset: usize, count: usize) -> *mut u8 {
        assert!(
            offset <= self.map.len() && count <= self.map.len() - offset,
            "ring offsets lie in the ring"
        );
        self.map.as_mut_ptr().wrapping_add(offset)
    }

    #[inline(always)]
    fn status(&self, offset: usize) -> &AtomicU32 {
        let address = self.address(offset, 4).cast::<u32>();
        debug_assert!(address.is_aligned());
        // JUSTIFICATION: the kernel reads and writes this word at the same time.
        // SAFETY: the word lies in the mapping (checked), which lives as long as `self`; frames and blocks are aligned to 8
        // bytes and more; both sides access the word atomically only.
        unsafe { AtomicU32::from_ptr(address) }
    }

    #[inline(always)]
    fn word(&self, offset: usize) -> u32 {
        let address = self.address(offset, 4).cast::<u32>();
        // JUSTIFICATION: the kernel wrote these bytes behind the compiler's back.
        // SAFETY: they lie in the mapping (checked), and the frame is ours since its status was read with Acquire.
        unsafe { address.read_unaligned() }
    }

    #[inline(always)]
    fn half(&self, offset: usize) -> u16 {
        let address = self.address(offset, 2).cast::<u16>();
        // JUSTIFICATION: as in `word`.
        // SAFETY: as in `word`.
        unsafe { address.read_unaligned() }
    }

    /// The virtio-net header and the stored bytes of a packet whose frame begins at `frame` and has `room` bytes; no bytes where
    /// they would not lie in it.
    #[inline(always)]
    fn packet(&self, frame: usize, room: usize, mac: usize, stored: usize) -> (VnetHeader, &[u8]) {
        let begin = mac.wrapping_sub(VnetHeader::SIZE);
        if mac < VnetHeader::SIZE || mac > room || stored > room - mac {
            return (VnetHeader::default(), &[]);
        }
        let address = self.address(frame + begin, VnetHeader::SIZE + stored);
        // JUSTIFICATION: as in `word`; a copy of the bytes here would be the second one.
        // SAFETY: they lie in the mapping (checked) and inside this frame; the kernel does not write to it until we give it
        // back, which needs the ring borrowed mutably, so not while the slice lives.
        let bytes = unsafe { std::slice::from_raw_parts(address, VnetHeader::SIZE + stored) };
        match bytes.split_first_chunk() {
            Some((header, bytes)) => (VnetHeader::parse(header), bytes),
            None => (VnetHeader::default(), &[]),
        }
    }

    #[inline(always)]
    fn prefetch(&self, offset: usize) {
        dataplane::prefetch(self.map.as_ptr().wrapping_add(offset));
        dataplane::prefetch(self.map.as_ptr().wrapping_add(offset + 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_from_the_status() {
        assert_eq!(vlan(STATUS_USER, 5, 0x88a8), None);
        assert_eq!(vlan(STATUS_VLAN_VALID, 5, 0x88a8), Some((0x8100, 5)));
        let both = STATUS_VLAN_VALID | STATUS_VLAN_TPID_VALID;
        assert_eq!(vlan(both, 0xe005, 0x88a8), Some((0x88a8, 0xe005)));
    }
}
