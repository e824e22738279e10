//! `gso-segment`: cuts trains of TCP segments and UDP datagrams into the packets that they stand for.
//!
//! - Input: frames at their link-layer header; word = port. What is not a train passes by, in its place in the order.
//! - Output: frames at their link-layer header, at most one segment long; word = port.
//! - Reads: snapshot.ports
//! - State: room for the segments of one train
//! - Standard: RFC 9293 section 3.7, RFC 3168 section 6.1.2 (CWR), RFC 6864 (identification), RFC 768, RFC 8200 section 8.1
//! - Cost: 163 ticks per segment of 1448 bytes, 280 where its checksum is computed here (trains of 45 segments)

use dataplane::{
    Buffers, ChainBuilder, Context, DATA_SIZE, Descriptor, Flags, Frame, Node, Offload,
    Segmentation, Segments, Verdict,
};
use wire::checksum::{Delta, Sum};
use wire::{Header, Ip4Header, Ip6Header, IpProtocol, TcpFlags, TcpHeader, UdpHeader};

use super::checksum::stored;
use super::train::{Network, Train};
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `gso-segment` sends packets.
    pub enum Next { PortTx => "port-tx" }
}

dataplane::drop_reasons! {
    /// Why `gso-segment` drops packets.
    pub enum Drop {
        Malformed = "malformed": "The train's headers contradict its segmentation, or do not lie in its first buffer",
        TooManySegments = "too-many-segments": "The train would become more than 1024 buffers",
        NoBuffers = "no-buffers": "The packet buffers are exhausted",
    }
}

/// Buffers that one train may become.
const MAX_BUFFERS: usize = 1024;

/// See the module.
pub struct GsoSegment {
    /// The buffers of the train at hand, in order: several in a row make up a segment that is longer than one.
    parts: Vec<Descriptor>,
}

impl Default for GsoSegment {
    fn default() -> Self {
        Self {
            parts: Vec::with_capacity(MAX_BUFFERS),
        }
    }
}

impl Node<Snapshot> for GsoSegment {
    const NAME: &'static str = "gso-segment";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        for at in 0..frame.len() {
            let offload = cx.buffers.offload(&frame.packets()[at]);
            match offload.filter(|offload| offload.segmentation != Segmentation::None) {
                // Sent from here as the segments are, so that nothing overtakes them.
                None => {
                    let packet = frame.take(at);
                    cx.emit(Next::PortTx, packet);
                }
                Some(offload) => match self.segment(&frame.packets()[at], &offload, cx) {
                    Ok(()) => {
                        let train = frame.take(at);
                        cx.buffers.free(train);
                    }
                    Err(reason) => frame.parts_mut().1[at] = Verdict::discard(reason),
                },
            }
        }
    }
}

impl GsoSegment {
    /// Emits the segments of a train, which stays as it is.
    fn segment(
        &mut self,
        packet: &Descriptor,
        offload: &Offload,
        cx: &mut Context<'_, Snapshot>,
    ) -> Result<(), Drop> {
        let train = Train::of(packet, cx.buffers, offload).ok_or(Drop::Malformed)?;
        let port = cx.snapshot.ports.get(packet.word as usize);
        let plan = Plan {
            // A port that sums takes the pseudo-header's sum alone.
            partial: port.is_some_and(|port| port.capabilities.checksum),
            ..Plan::new(train, offload, cx.buffers.bytes(packet)).ok_or(Drop::Malformed)?
        };
        self.allocate(&plan, cx.buffers)?;
        plan.fill(packet, cx.buffers, &mut self.parts);
        self.emit(packet, &plan, cx);
        Ok(())
    }

    /// Takes all buffers that the segments need; none where there are not enough.
    fn allocate(&mut self, plan: &Plan, buffers: &mut Buffers) -> Result<(), Drop> {
        debug_assert!(self.parts.is_empty());
        let train = &plan.train;
        let full = (train.headers + train.segment).div_ceil(DATA_SIZE);
        let last = (train.headers + plan.length(plan.count - 1)).div_ceil(DATA_SIZE);
        let needed = (plan.count - 1).saturating_mul(full) + last;
        if needed > MAX_BUFFERS {
            return Err(Drop::TooManySegments);
        }
        for _ in 0..needed {
            match buffers.alloc() {
                Some(part) => self.parts.push(part),
                None => {
                    for part in self.parts.drain(..) {
                        buffers.free(part);
                    }
                    return Err(Drop::NoBuffers);
                }
            }
        }
        Ok(())
    }

    /// Links the filled buffers to packets and sends them.
    fn emit(&mut self, packet: &Descriptor, plan: &Plan, cx: &mut Context<'_, Snapshot>) {
        let trace = cx.buffers.trace_number(packet);
        let train = &plan.train;
        let mut parts = self.parts.drain(..);
        for number in 0..plan.count {
            let Some(mut segment) = parts.next() else {
                return;
            };
            let buffers = (train.headers + plan.length(number)).div_ceil(DATA_SIZE);
            if buffers > 1 {
                let mut chain = ChainBuilder::new(segment);
                for part in parts.by_ref().take(buffers - 1) {
                    chain.push(cx.buffers, part);
                }
                segment = chain.finish();
            }
            segment.interface = packet.interface;
            segment.word = packet.word;
            segment.set_flags(packet.flags());
            segment.clear_flags(Flags::OFFLOAD.union(Flags::TRACED));
            if plan.is_partial() {
                let position = segment.position();
                let offload = Offload {
                    checksum: true,
                    checksum_start: position + train.layer4 as u16,
                    checksum_field: position + train.checksum_field() as u16,
                    ..Offload::default()
                };
                cx.buffers.set_offload(&mut segment, Some(offload));
            }
            if let Some(trace) = trace.filter(|_| number == 0) {
                cx.buffers.set_trace_number(&mut segment, trace);
            }
            cx.emit(Next::PortTx, segment);
        }
    }
}

/// How a train is cut, and the header fields that are the same, or grow, from segment to segment.
struct Plan {
    train: Train,
    /// Segments, at least 1.
    count: usize,
    /// The port fills in the rest of the checksum.
    partial: bool,
    /// A UDP datagram without checksum: its segments have none either.
    unsummed: bool,
    /// Only the first segment keeps CWR.
    ecn: bool,
    /// The pseudo-header without its length.
    pseudo: Sum,
    /// Fields of the train's own headers.
    ip4_length: u16,
    ip4_id: u16,
    ip4_checksum: u16,
    tcp_seq: u32,
    tcp_flags: u8,
}

impl Plan {
    fn new(train: Train, offload: &Offload, bytes: &[u8]) -> Option<Self> {
        let ip = bytes.get(train.ip..)?;
        let layer4 = bytes.get(train.layer4..)?;
        let protocol = if train.udp {
            IpProtocol::UDP
        } else {
            IpProtocol::TCP
        };
        let mut plan = Self {
            train,
            count: train.payload.div_ceil(train.segment).max(1),
            partial: false,
            unsummed: false,
            ecn: offload.ecn,
            pseudo: Sum::new(),
            ip4_length: 0,
            ip4_id: 0,
            ip4_checksum: 0,
            tcp_seq: 0,
            tcp_flags: 0,
        };
        match train.network {
            Network::Ip4 => {
                let header = Ip4Header::view(ip).ok()?;
                plan.pseudo =
                    Sum::pseudo_header4(header.source(), header.destination(), protocol, 0);
                plan.ip4_length = header.total_length.get();
                plan.ip4_id = header.id.get();
                plan.ip4_checksum = header.checksum.get();
            }
            Network::Ip6 => {
                let header = Ip6Header::view(ip).ok()?;
                plan.pseudo =
                    Sum::pseudo_header6(&header.source(), &header.destination(), protocol, 0);
            }
        }
        if train.udp {
            let none = UdpHeader::view(layer4).ok()?.checksum.get() == 0;
            plan.unsummed = none && !offload.checksum && train.network == Network::Ip4;
        } else {
            let header = TcpHeader::view(layer4).ok()?;
            plan.tcp_seq = header.seq.get();
            plan.tcp_flags = header.flags.0;
        }
        Some(plan)
    }

    /// Bytes of payload in a segment.
    fn length(&self, number: usize) -> usize {
        let before = number * self.train.segment;
        self.train
            .payload
            .saturating_sub(before)
            .min(self.train.segment)
    }

    fn is_partial(&self) -> bool {
        self.partial && !self.unsummed
    }

    /// Writes headers and payload of all segments into the allocated buffers.
    fn fill(&self, packet: &Descriptor, buffers: &Buffers, parts: &mut [Descriptor]) {
        let headers = &buffers.bytes(packet)[..self.train.headers];
        let mut source = Source::new(buffers.segments(packet), self.train.headers);
        let mut parts = parts.iter_mut();
        for number in 0..self.count {
            let mut left = self.length(number);
            let Some(first) = parts.next() else { return };
            let count = left.min(DATA_SIZE - headers.len());
            left -= count;
            let extended = first.extend(headers.len() + count);
            debug_assert!(extended, "a fresh buffer holds DATA_SIZE bytes");
            let bytes = buffers.bytes_mut(first);
            let (head, body) = bytes.split_at_mut(headers.len());
            head.copy_from_slice(headers);
            source.copy_to(body);
            let pseudo = self.write_headers(head, number);
            let complete = !self.is_partial() && !self.unsummed;
            let mut sum = pseudo;
            if complete {
                sum = sum.bytes(&bytes[self.train.layer4..]);
            }
            while left > 0 {
                let Some(part) = parts.next() else { break };
                let count = left.min(DATA_SIZE);
                left -= count;
                let extended = part.extend(count);
                debug_assert!(extended, "a fresh buffer holds DATA_SIZE bytes");
                let bytes = buffers.bytes_mut(part);
                source.copy_to(bytes);
                if complete {
                    sum = sum.bytes(bytes);
                }
            }
            let value = match (self.unsummed, complete) {
                (true, _) => 0,
                (_, true) => stored(sum, self.train.udp),
                _ => pseudo.folded(),
            };
            let field = self.train.checksum_field();
            buffers.bytes_mut(first)[field..field + 2].copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Writes what differs from segment to segment into a copy of the train's headers, with no checksum in the layer-4 header.
    /// Returns the pseudo-header's sum.
    fn write_headers(&self, headers: &mut [u8], number: usize) -> Sum {
        let train = &self.train;
        let payload = self.length(number);
        let ip_length = headers.len() - train.ip + payload;
        let layer4_length = headers.len() - train.layer4 + payload;
        match train.network {
            Network::Ip4 => {
                if let Ok(header) = Ip4Header::view_mut(&mut headers[train.ip..]) {
                    let (length, id) = (ip_length as u16, self.ip4_id.wrapping_add(number as u16));
                    let delta =
                        Delta::of16(self.ip4_length, length).and(Delta::of16(self.ip4_id, id));
                    header.total_length.set(length);
                    header.id.set(id);
                    header.checksum.set(delta.apply(self.ip4_checksum));
                }
            }
            Network::Ip6 => {
                if let Ok(header) = Ip6Header::view_mut(&mut headers[train.ip..]) {
                    header
                        .payload_length
                        .set((ip_length - Ip6Header::LEN) as u16);
                }
            }
        }
        if train.udp {
            if let Ok(header) = UdpHeader::view_mut(&mut headers[train.layer4..]) {
                header.length.set(layer4_length as u16);
                header.checksum.set(0);
            }
        } else if let Ok(header) = TcpHeader::view_mut(&mut headers[train.layer4..]) {
            let before = (number * train.segment) as u32;
            header.seq.set(self.tcp_seq.wrapping_add(before));
            let mut flags = self.tcp_flags;
            if number + 1 < self.count {
                flags &= !(TcpFlags::FIN.0 | TcpFlags::PSH.0);
            }
            // RFC 3168 section 6.1.2: one packet says that the window was reduced.
            if number > 0 && self.ecn {
                flags &= !TcpFlags::CWR.0;
            }
            header.flags = TcpFlags(flags);
            header.checksum.set(0);
        }
        self.pseudo.word32(layer4_length as u32)
    }
}

/// Reads the payload of a train from segment to segment.
struct Source<'a> {
    segments: Segments<'a>,
    current: &'a [u8],
}

impl<'a> Source<'a> {
    /// From `skip` bytes on, which lie in the first segment.
    fn new(mut segments: Segments<'a>, skip: usize) -> Self {
        let first = segments.next().unwrap_or_default();
        Self {
            segments,
            current: first.get(skip..).unwrap_or_default(),
        }
    }

    /// Copies the next bytes; leaves the rest of `out` as it is where there are no more.
    fn copy_to(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            if self.current.is_empty() {
                match self.segments.next() {
                    Some(segment) => self.current = segment,
                    None => return,
                }
                continue;
            }
            let count = self.current.len().min(out.len());
            let (now, later) = self.current.split_at(count);
            let (target, rest) = out.split_at_mut(count);
            target.copy_from_slice(now);
            self.current = later;
            out = rest;
        }
    }
}

#[cfg(test)]
mod tests;
