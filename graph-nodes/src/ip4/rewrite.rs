//! `ip4-rewrite`: time to live, MTU, and the link-layer header of the next hop.
//!
//! - Input: packets at their IPv4 header; word = adjacency.
//! - Output: frames at their link-layer header; word = port. To `ip4-glean` and `ip4-fragment` packets as they came.
//! - Reads: snapshot.forwarding, snapshot.interfaces
//! - State: none
//! - Standard: RFC 1812 sections 5.3.1 and 4.2.2.7, RFC 1624, RFC 1191
//! - Cost: 7 ticks (pg-ip4base)

use dataplane::{Context, Descriptor, Flags, Frame, Node, Segmentation, Verdict};
use wire::checksum;

use crate::fib::{Adjacency, Hot};
use crate::icmp::ErrorWord;
use crate::output::Sent;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip4-rewrite` sends packets.
    pub enum Next {
        PortTx => "port-tx",
        InterfaceOutput => "interface-output",
        Fragment => "ip4-fragment",
        Glean => "ip4-glean",
        Error => "icmp4-error",
    }
}

dataplane::drop_reasons! {
    /// Why `ip4-rewrite` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet has no whole IPv4 header: a defect in the node before",
        InterfaceDown = "interface-down": "The interface that the route leads to is not up",
        NoRoom = "no-room": "There is no room in front of the packet for its link-layer header",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip4Rewrite;

/// Bit "don't fragment" in bytes 6 and 7 of the header.
const DONT_FRAGMENT: u8 = 0x40;

/// How far ahead headers are prefetched: frames of many packets have pushed the first ones out of the nearest cache.
const AHEAD: usize = 6;

impl Node<Snapshot> for Ip4Rewrite {
    const NAME: &'static str = "ip4-rewrite";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let forwarding = cx.snapshot.forwarding.view();
        // Zero means never.
        let second = (cx.now_ns >> 30) + 1;
        let view = cx.view;
        let mut sent = Sent::default();
        for at in 0..packets.len() {
            if let Some(ahead) = packets.get(at + AHEAD) {
                view.prefetch(ahead);
            }
            let (packet, verdict) = (&mut packets[at], &mut verdicts[at]);
            let adjacency = forwarding.adjacency(packet.word);
            let hot = adjacency.hot();
            if hot.interface() != sent.interface {
                sent.flush(cx);
                sent = Sent::on(hot.interface(), cx.snapshot);
            }
            // Almost all packets get a header of 14 bytes: header and packet are looked at as one.
            let plain = hot.is_plain()
                & sent.up
                & !packet
                    .flags()
                    .intersects(Flags::OFFLOAD.union(Flags::LOCAL));
            if plain && packet.retreat(14) {
                if let Some(frame) = view.head_mut::<34>(packet) {
                    let length = u32::from(u16::from_be_bytes([frame[16], frame[17]]));
                    if frame[22] > 1 && length <= u32::from(hot.mtu()) {
                        frame[22] -= 1;
                        let sum =
                            checksum::decrement_ttl(u16::from_be_bytes([frame[24], frame[25]]));
                        frame[24..26].copy_from_slice(&sum.to_be_bytes());
                        let (link, _) = frame
                            .split_first_chunk_mut::<14>()
                            .unwrap_or_else(|| unreachable!("34 bytes"));
                        adjacency.write_ethernet(link);
                        adjacency.touch(second);
                        sent.count(u64::from(length) + 14);
                        packet.word = u32::from(hot.port().0);
                        *verdict = Next::PortTx.into();
                        continue;
                    }
                }
                // It was moved back by as much just now.
                let advanced = packet.advance(14);
                debug_assert!(advanced);
            }
            *verdict = match slow(packet, cx, adjacency, hot, &mut sent, second) {
                Ok(next) => next.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
        sent.flush(cx);
    }
}

/// Packets that need more than a look, up to their link-layer header.
#[inline(never)]
fn slow(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    adjacency: &Adjacency,
    hot: Hot,
    sent: &mut Sent,
    second: u64,
) -> Result<Next, Drop> {
    let next = other(packet, cx, hot)?;
    if !matches!(next, Next::PortTx | Next::InterfaceOutput) {
        return Ok(next);
    }
    if !sent.up {
        return Err(Drop::InterfaceDown);
    }
    let header = cx.buffers.head::<20>(packet).ok_or(Drop::Truncated)?;
    let length = u32::from(u16::from_be_bytes([header[2], header[3]]));
    if !packet.retreat(hot.header_len()) {
        return Err(Drop::NoRoom);
    }
    adjacency.write(&mut cx.buffers.bytes_mut(packet)[..hot.header_len()]);
    adjacency.touch(second);
    sent.count(u64::from(length) + hot.header_len() as u64);
    packet.word = u32::from(hot.port().0);
    Ok(next)
}

#[inline(always)]
fn decrement_ttl(cx: &Context<'_, Snapshot>, packet: &mut Descriptor) {
    if let Some(header) = cx.buffers.head_mut::<20>(packet) {
        header[8] -= 1;
        let sum = checksum::decrement_ttl(u16::from_be_bytes([header[10], header[11]]));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Packets that need more than a look: unresolved neighbours, expired packets, long packets, our own, trains.
#[inline(never)]
fn other(packet: &mut Descriptor, cx: &Context<'_, Snapshot>, hot: Hot) -> Result<Next, Drop> {
    if !hot.is_complete() {
        return Ok(Next::Glean);
    }
    let header = cx.buffers.head::<20>(packet).ok_or(Drop::Truncated)?;
    let (ttl, dont_fragment) = (header[8], header[6] & DONT_FRAGMENT != 0);
    let total_length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let header_len = usize::from(header[0] & 15) * 4;
    let local = packet.flags().contains(Flags::LOCAL);
    // RFC 1812 section 5.3.1: what a router forwards loses one; what it says itself does not.
    if !local && ttl <= 1 {
        packet.word = ErrorWord::new(wire::Icmp4Type::TIME_EXCEEDED.0, 0).to_word();
        return Ok(Next::Error);
    }
    let offload = cx.buffers.offload(packet);
    // A train is as long as each of its segments.
    let length = match offload {
        Some(offload) if offload.segmentation != Segmentation::None => {
            let l4_header = segment_header(cx, packet, header_len, offload.segmentation);
            header_len + l4_header + usize::from(offload.segment_size)
        }
        _ => total_length,
    };
    if length > usize::from(hot.mtu()) {
        let train = offload.is_some_and(|offload| offload.segmentation != Segmentation::None);
        if dont_fragment || train {
            let code = wire::icmp4::unreachable::FRAGMENTATION_NEEDED;
            let error = ErrorWord::new(wire::Icmp4Type::DESTINATION_UNREACHABLE.0, code);
            packet.word = error.with_parameter(hot.mtu()).to_word();
            return Ok(Next::Error);
        }
        return Ok(Next::Fragment);
    }
    if !local {
        decrement_ttl(cx, packet);
    }
    Ok(if offload.is_some() {
        Next::InterfaceOutput
    } else {
        Next::PortTx
    })
}

/// Length of the layer-4 header that each segment of a train carries.
fn segment_header(
    cx: &Context<'_, Snapshot>,
    packet: &Descriptor,
    l4: usize,
    segmentation: Segmentation,
) -> usize {
    match segmentation {
        Segmentation::Udp => 8,
        _ => {
            let offset = cx
                .buffers
                .bytes(packet)
                .get(l4 + 12)
                .map_or(0x50, |byte| *byte);
            usize::from(offset >> 4) * 4
        }
    }
}
