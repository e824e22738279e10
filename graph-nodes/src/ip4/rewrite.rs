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
use crate::output::{Sent, forward};
use crate::snapshot::{NO_INTERFACE, Snapshot};

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
pub struct Ip4Rewrite {
    /// The turn in which a packet last went by `interface-output`: those behind it follow, so that none overtakes another of its
    /// flow.
    output: u64,
}

/// Bit "don't fragment" in bytes 6 and 7 of the header.
const DONT_FRAGMENT: u8 = 0x40;

impl Node<Snapshot> for Ip4Rewrite {
    const NAME: &'static str = "ip4-rewrite";
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
                && let Some(bytes) = forward::ip4(packet, view, adjacency, hot)
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
    let header = cx.view.head::<20>(packet).ok_or(Drop::Truncated)?;
    let length = u64::from(u16::from_be_bytes([header[2], header[3]]));
    let link = forward::link_header(packet, cx.view, adjacency, hot).ok_or(Drop::NoRoom)?;
    Ok((next, length + link))
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
#[cold]
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
