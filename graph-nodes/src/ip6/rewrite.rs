//! `ip6-rewrite`: hop limit, MTU, and the link-layer header of the next hop.
//!
//! - Input: packets at their IPv6 header; word = adjacency.
//! - Output: frames at their link-layer header; word = port. To `ip6-glean` packets as they came.
//! - Reads: snapshot.forwarding, snapshot.interfaces
//! - State: none
//! - Standard: RFC 8200 sections 3 and 5, RFC 8201
//! - Cost: 6 ticks (pg-ip6base)

use dataplane::{Context, Descriptor, Flags, Frame, Node, Segmentation, Verdict};

use crate::fib::{Adjacency, Hot};
use crate::icmp::ErrorWord;
use crate::output::Sent;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip6-rewrite` sends packets.
    pub enum Next {
        PortTx => "port-tx",
        InterfaceOutput => "interface-output",
        Glean => "ip6-glean",
        Error => "icmp6-error",
    }
}

dataplane::drop_reasons! {
    /// Why `ip6-rewrite` drops packets.
    pub enum Drop {
        Truncated = "truncated": "The packet has no whole IPv6 header: a defect in the node before",
        InterfaceDown = "interface-down": "The interface that the route leads to is not up",
        NoRoom = "no-room": "There is no room in front of the packet for its link-layer header",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip6Rewrite;

/// How far ahead headers are prefetched: frames of many packets have pushed the first ones out of the nearest cache.
const AHEAD: usize = 6;

impl Node<Snapshot> for Ip6Rewrite {
    const NAME: &'static str = "ip6-rewrite";
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
                if let Some(frame) = view.head_mut::<54>(packet) {
                    let length = u32::from(u16::from_be_bytes([frame[18], frame[19]])) + 40;
                    if frame[21] > 1 && length <= u32::from(hot.mtu()) {
                        frame[21] -= 1;
                        let (link, _) = frame
                            .split_first_chunk_mut::<14>()
                            .unwrap_or_else(|| unreachable!("54 bytes"));
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
    let header = cx.buffers.head::<40>(packet).ok_or(Drop::Truncated)?;
    let length = u32::from(u16::from_be_bytes([header[4], header[5]])) + 40;
    if !packet.retreat(hot.header_len()) {
        return Err(Drop::NoRoom);
    }
    adjacency.write(&mut cx.buffers.bytes_mut(packet)[..hot.header_len()]);
    adjacency.touch(second);
    sent.count(u64::from(length) + hot.header_len() as u64);
    packet.word = u32::from(hot.port().0);
    Ok(next)
}

/// Packets that need more than a look: unresolved neighbours, expired packets, long packets, our own, trains.
#[inline(never)]
fn other(packet: &mut Descriptor, cx: &Context<'_, Snapshot>, hot: Hot) -> Result<Next, Drop> {
    if !hot.is_complete() {
        return Ok(Next::Glean);
    }
    let header = cx.buffers.head::<40>(packet).ok_or(Drop::Truncated)?;
    let hop_limit = header[7];
    let total_length = usize::from(u16::from_be_bytes([header[4], header[5]])) + 40;
    let local = packet.flags().contains(Flags::LOCAL);
    if !local && hop_limit <= 1 {
        packet.word = ErrorWord::new(wire::Icmp6Type::TIME_EXCEEDED.0, 0).to_word();
        return Ok(Next::Error);
    }
    let offload = cx.buffers.offload(packet);
    // A train is as long as each of its segments.
    let length = match offload {
        Some(offload) if offload.segmentation != Segmentation::None => {
            let headers = usize::from(offload.checksum_start.saturating_sub(packet.position()));
            let headers = if headers >= 40 { headers } else { 40 };
            let l4 = match offload.segmentation {
                Segmentation::Udp => 8,
                _ => {
                    let offset = cx
                        .buffers
                        .bytes(packet)
                        .get(headers + 12)
                        .map_or(0x50, |byte| *byte);
                    usize::from(offset >> 4) * 4
                }
            };
            headers + l4 + usize::from(offload.segment_size)
        }
        _ => total_length,
    };
    if length > usize::from(hot.mtu()) {
        let error = ErrorWord::new(wire::Icmp6Type::PACKET_TOO_BIG.0, 0).with_parameter(hot.mtu());
        packet.word = error.to_word();
        return Ok(Next::Error);
    }
    if !local && let Some(header) = cx.buffers.head_mut::<40>(packet) {
        header[7] = hop_limit - 1;
    }
    Ok(if offload.is_some() {
        Next::InterfaceOutput
    } else {
        Next::PortTx
    })
}
