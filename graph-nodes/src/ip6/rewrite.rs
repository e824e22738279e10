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
use crate::output::{Sent, forward};
use crate::snapshot::{NO_INTERFACE, Snapshot};

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
pub struct Ip6Rewrite {
    /// The turn in which a packet last went by `interface-output`: those behind it follow, so that none overtakes another of its
    /// flow.
    output: u64,
}

impl Node<Snapshot> for Ip6Rewrite {
    const NAME: &'static str = "ip6-rewrite";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let (forwarding, view) = (cx.snapshot.forwarding.view(), cx.view);
        let second = Adjacency::second(cx.now_ns);
        let mut sent = Sent::NONE;
        for (packet, verdict) in packets.iter_mut().zip(verdicts) {
            let adjacency = forwarding.adjacency(packet.word);
            let hot = adjacency.hot();
            if !sent.is_for(hot.interface()) {
                sent = sent.next(hot.interface(), cx);
            }
            let up = sent.is_for(hot.interface());
            if up
                && self.output != cx.turn
                && !packet.flags().intersects(forward::SPECIAL)
                && let Some(bytes) = forward::ip6(packet, view, adjacency, hot)
            {
                adjacency.touch(second);
                sent = sent.plus(bytes);
                *verdict = Next::PortTx.into();
                continue;
            }
            *verdict = match slow(packet, cx, adjacency, hot, up) {
                Ok((Next::PortTx | Next::InterfaceOutput, bytes)) => {
                    adjacency.touch(second);
                    sent = sent.plus(bytes);
                    self.output = cx.turn;
                    Next::InterfaceOutput.into()
                }
                Ok((next, _)) => next.into(),
                Err(reason) => Verdict::discard(reason),
            };
        }
        sent.next(NO_INTERFACE, cx);
    }
}

/// Packets that need more than a look, up to their link-layer header; with the bytes sent.
#[cold]
#[inline(never)]
fn slow(
    packet: &mut Descriptor,
    cx: &Context<'_, Snapshot>,
    adjacency: &Adjacency,
    hot: Hot,
    up: bool,
) -> Result<(Next, u64), Drop> {
    let next = other(packet, cx, hot)?;
    if !matches!(next, Next::PortTx | Next::InterfaceOutput) {
        return Ok((next, 0));
    }
    if !up {
        return Err(Drop::InterfaceDown);
    }
    let header = cx.view.head::<40>(packet).ok_or(Drop::Truncated)?;
    let length = u64::from(u16::from_be_bytes([header[4], header[5]])) + 40;
    let link = forward::link_header(packet, cx.view, adjacency, hot).ok_or(Drop::NoRoom)?;
    Ok((next, length + link))
}

/// Packets that need more than a look: unresolved neighbours, expired packets, long packets, our own, trains.
#[cold]
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
