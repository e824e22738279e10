//! Packet trace and capture: what a worker tells about single packets while someone asks.

use crate::buffer::{Buffers, Descriptor, Flags};
use crate::frame::Verdict;
use crate::port::PortId;

/// Bytes of the packet that a trace record shows, from the frame's current header on.
pub const TRACE_BYTES: usize = 96;

/// Node number of the record that receiving a packet makes.
pub const TRACE_RX: u16 = u16::MAX;

/// One step of a traced packet: what a node left of it, and where it sent it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceRecord {
    /// Which packet: numbers grow by one per traced packet of a worker; the worker is in the top 8 bits.
    pub number: u32,
    /// The node, or [`TRACE_RX`].
    pub node: u16,
    /// What the node decided.
    pub verdict: Verdict,
    /// The interface that received the packet.
    pub interface: u16,
    /// The word that the node left for the next one.
    pub word: u32,
    /// The packet's flags.
    pub flags: u16,
    /// Bytes from the current header to the packet's end.
    pub length: u32,
    /// When: nanoseconds of the worker's clock.
    pub time_ns: u64,
    /// How many of `bytes` are the packet's.
    pub captured: u8,
    /// The packet from its current header on, as the node left it.
    pub bytes: [u8; TRACE_BYTES],
}

impl TraceRecord {
    pub(crate) fn new(
        number: u32,
        node: u16,
        verdict: Verdict,
        packet: &Descriptor,
        buffers: &Buffers,
        time_ns: u64,
    ) -> Self {
        let mut bytes = [0; TRACE_BYTES];
        let captured = buffers.copy_out(packet, 0, &mut bytes) as u8;
        Self {
            number,
            node,
            verdict,
            interface: packet.interface,
            word: packet.word,
            flags: packet.flags().bits(),
            length: buffers.total_length(packet) as u32,
            time_ns,
            captured,
            bytes,
        }
    }
}

/// Which way a captured packet went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From the wire.
    Rx,
    /// To the wire.
    Tx,
}

/// What to capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureFilter {
    /// This port only.
    pub port: Option<PortId>,
    /// Bytes of each packet at the most.
    pub snap_length: u32,
}

/// A captured packet's header; its bytes follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CaptureHeader {
    /// The port.
    pub port: PortId,
    /// Which way.
    pub direction: Direction,
    /// Bytes of the whole packet.
    pub length: u32,
    /// Nanoseconds of the worker's clock.
    pub time_ns: u64,
}

impl CaptureHeader {
    pub(crate) const SIZE: usize = 15;

    pub(crate) fn encode(self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[0..2].copy_from_slice(&self.port.0.to_ne_bytes());
        out[2] = u8::from(self.direction == Direction::Tx);
        out[3..7].copy_from_slice(&self.length.to_ne_bytes());
        out[7..15].copy_from_slice(&self.time_ns.to_ne_bytes());
        out
    }

    pub(crate) fn decode(record: &[u8]) -> Option<(Self, &[u8])> {
        let (fixed, bytes) = record.split_first_chunk::<{ Self::SIZE }>()?;
        let header = Self {
            port: PortId(u16::from_ne_bytes([fixed[0], fixed[1]])),
            direction: if fixed[2] == 0 {
                Direction::Rx
            } else {
                Direction::Tx
            },
            length: u32::from_ne_bytes([fixed[3], fixed[4], fixed[5], fixed[6]]),
            time_ns: u64::from_ne_bytes(fixed[7..15].try_into().unwrap_or_default()),
        };
        Some((header, bytes))
    }
}

/// A worker's tracing and capturing, off at first.
pub(crate) struct Tap {
    pub(crate) trace_left: u32,
    pub(crate) trace_port: Option<PortId>,
    pub(crate) next_number: u32,
    /// Traced packets may still be on their way (or held by a node) while this is set.
    pub(crate) tracing: bool,
    pub(crate) records: rtrb::Producer<TraceRecord>,
    pub(crate) capture: Option<CaptureFilter>,
    pub(crate) captured: crate::record::RecordWriter,
    pub(crate) lost: u64,
    /// Trace records were written since the last look.
    pub(crate) fresh: bool,
}

impl Tap {
    pub(crate) fn record(&mut self, record: TraceRecord) {
        self.fresh = true;
        if self.records.push(record).is_err() {
            self.lost += 1;
        }
    }

    /// Marks the packets just received while some are still to be traced.
    pub(crate) fn mark(
        &mut self,
        port: PortId,
        packets: &mut [Descriptor],
        buffers: &Buffers,
        now_ns: u64,
    ) {
        if self.trace_port.is_some_and(|only| only != port) {
            return;
        }
        for packet in packets {
            if self.trace_left == 0 {
                return;
            }
            self.trace_left -= 1;
            let number = self.next_number;
            self.next_number = (number & 0xff00_0000) | (number.wrapping_add(1) & 0x00ff_ffff);
            buffers.set_trace_number(packet, number);
            self.record(TraceRecord::new(
                number,
                TRACE_RX,
                Verdict::edge(0),
                packet,
                buffers,
                now_ns,
            ));
        }
    }

    /// Copies packets that pass a port to the capture ring.
    pub(crate) fn capture(
        &mut self,
        port: PortId,
        direction: Direction,
        packets: &[Descriptor],
        buffers: &Buffers,
        now_ns: u64,
    ) {
        let Some(filter) = self.capture else { return };
        if filter.port.is_some_and(|only| only != port) {
            return;
        }
        for packet in packets {
            let length = buffers.total_length(packet) as u32;
            let header = CaptureHeader {
                port,
                direction,
                length,
                time_ns: now_ns,
            };
            let mut left = filter.snap_length as usize;
            let parts = buffers.segments(packet).map_while(|segment| {
                let part = &segment[..segment.len().min(left)];
                left -= part.len();
                (!part.is_empty()).then_some(part)
            });
            if !self.captured.write(&header.encode(), parts) {
                self.lost += 1;
            }
        }
    }

    /// True where control has something new to fetch.
    #[inline]
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh) | self.captured.take_fresh()
    }

    pub(crate) fn traced(packet: &Descriptor) -> bool {
        packet.flags().contains(Flags::TRACED)
    }
}
