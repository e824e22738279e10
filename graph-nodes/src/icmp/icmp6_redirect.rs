//! `icmp6-redirect`: tells hosts on a link of a better first hop on the same link, and lets their packets go on.
//!
//! Only interfaces with `redirects` send packets here, and only those that leave by the interface that they came in by. The
//! target is the destination where that is on the link, else the link-local address of the next router: a next hop with another
//! address is never named, because hosts would not believe it (RFC 4861 section 8.1).
//!
//! - Input: packets at their IPv6 header; word = adjacency; interface = the one that received the packet, and sends it.
//! - Output: packets as they came; redirects at their IPv6 header, flag LOCAL, word unused.
//! - Reads: snapshot.interfaces, snapshot.forwarding
//! - State: the worker's bucket of ICMP errors, shared with `icmp6-error`
//! - Standard: RFC 4861 sections 4.5, 4.6.3 and 8.2
//! - Cost: exception path

use core::net::{IpAddr, Ipv6Addr};

use dataplane::{Context, Descriptor, Flags, Frame, NoDrop, Node};
use wire::checksum::Sum;
use wire::nd::{self, HOP_LIMIT, Redirect, option};
use wire::{Header, Icmp6Type, Ip6Header, IpProtocol, MacAddr};

use super::icmp6_error::write_header;
use super::{errors_left, take_error};
use crate::snapshot::{Interface, Snapshot};

dataplane::next_nodes! {
    /// Where `icmp6-redirect` sends packets.
    pub enum Next {
        Rewrite => "ip6-rewrite",
        Lookup => "ip6-lookup",
    }
}

/// See the module.
#[derive(Default)]
pub struct Icmp6Redirect;

/// The longest message: what every link carries (RFC 4861 section 4.6.3).
const MAX_LEN: usize = 1280;
/// Bytes of a link-layer address option, and of the head of a redirected header option.
const OPTION: usize = 8;

impl Node<Snapshot> for Icmp6Redirect {
    const NAME: &'static str = "icmp6-redirect";
    type Next = Next;
    type Drop = NoDrop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter().zip(verdicts) {
            // What is not worth a message, or found no room for one, is forwarded all the same.
            if let Some(say) = better_hop(packet, cx)
                && let Some(message) = build(packet, &say, cx)
            {
                cx.emit(Next::Lookup, message);
            }
            *verdict = Next::Rewrite.into();
        }
    }
}

/// What a redirect says besides its quote.
struct Message {
    from: Ipv6Addr,
    to: Ipv6Addr,
    target: Ipv6Addr,
    /// The target's Ethernet address, where it is known.
    mac: Option<MacAddr>,
    destination: Ipv6Addr,
    /// Bytes of the packet.
    length: usize,
}

/// RFC 4861 section 8.2: what is said to the sender of a packet that is forwarded to a neighbour of its own.
fn better_hop(packet: &Descriptor, cx: &Context<'_, Snapshot>) -> Option<Message> {
    let interface = cx.snapshot.interface(packet.interface)?;
    let adjacency = cx.snapshot.forwarding.adjacency(packet.word);
    let IpAddr::V6(next_hop) = adjacency.address() else {
        return None;
    };
    let header = Ip6Header::view(cx.buffers.bytes(packet)).ok()?;
    let (source, destination) = (header.source(), header.destination());
    let length = Ip6Header::LEN + usize::from(header.payload_length.get());
    // An expired packet, or one that the next hop cannot take, is not forwarded: an error is said about it.
    let too_long =
        length > usize::from(adjacency.hot().mtu()) && !packet.flags().contains(Flags::OFFLOAD);
    if header.hop_limit <= 1 || too_long || packet.flags().contains(Flags::LINK_BROADCAST) {
        return None;
    }
    let to_host = next_hop == destination && !destination.is_multicast();
    if source == next_hop
        || !is_neighbour(interface, source)
        || !to_host && !next_hop.is_unicast_link_local()
    {
        return None;
    }
    Some(Message {
        from: interface.link_local?,
        to: source,
        target: next_hop,
        mac: adjacency.hot().is_complete().then(|| adjacency.mac()),
        destination,
        length: length.min(cx.buffers.total_length(packet)),
    })
}

/// True for addresses of other nodes on the interface's link.
fn is_neighbour(interface: &Interface, address: Ipv6Addr) -> bool {
    let on_link = |prefix: Ipv6Addr, len: u8| {
        let host = u128::MAX.checked_shr(len.into()).unwrap_or(0);
        (prefix.to_bits() ^ address.to_bits()) & !host == 0
    };
    let known = address.is_unicast_link_local()
        || interface
            .ip6
            .iter()
            .any(|own| on_link(own.address, own.prefix_len));
    let own = interface.link_local == Some(address)
        || interface.ip6.iter().any(|own| own.address == address);
    known && !own && !address.is_multicast() && !address.is_unspecified()
}

/// The message, in a buffer of its own; `None` where this worker has sent as many as it may, or has no buffer.
fn build(packet: &Descriptor, say: &Message, cx: &mut Context<'_, Snapshot>) -> Option<Descriptor> {
    if errors_left(cx) == 0 {
        return None;
    }
    let mac = say
        .mac
        .map(|mac| nd::link_layer_option(option::TARGET_LINK_LAYER, mac));
    let before = Ip6Header::LEN + Redirect::LEN + mac.map_or(0, |_| OPTION);
    // Room and head are whole units of eight bytes, so that padding up to a unit (section 4.6) always fits.
    let quote = say.length.min(MAX_LEN - before - OPTION);
    let quoted = OPTION + quote.next_multiple_of(8);
    let mut message = cx.buffers.alloc()?;
    if !message.extend(before + quoted) || !take_error(cx) {
        cx.buffers.free(message);
        return None;
    }
    let out = cx.buffers.bytes_mut(&mut message);
    out.fill(0);
    let (head, option) = out.split_at_mut(before);
    option[0] = option::REDIRECTED_HEADER;
    option[1] = (quoted / 8) as u8;
    cx.buffers
        .copy_out(packet, 0, &mut option[OPTION..OPTION + quote]);
    if let Some(mac) = mac {
        head[before - OPTION..].copy_from_slice(&mac);
    }
    let length = Redirect::LEN + (before - Ip6Header::LEN - Redirect::LEN) + quoted;
    let header = wire::ip6::header(say.from, say.to, IpProtocol::ICMP6, HOP_LIMIT, length);
    write_header(&header, head);
    if let Ok(redirect) = Redirect::view_mut(&mut head[Ip6Header::LEN..]) {
        redirect.icmp_type = Icmp6Type::REDIRECT;
        redirect.target = say.target.octets();
        redirect.destination = say.destination.octets();
    }
    let icmp = &mut out[Ip6Header::LEN..];
    let pseudo = Sum::pseudo_header6(&say.from, &say.to, IpProtocol::ICMP6, length as u32);
    let sum = pseudo.bytes(icmp).checksum();
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    message.interface = packet.interface;
    message.set_flags(Flags::LOCAL);
    if let Some(trace) = cx.buffers.trace_number(packet) {
        cx.buffers.set_trace_number(&mut message, trace);
    }
    Some(message)
}
