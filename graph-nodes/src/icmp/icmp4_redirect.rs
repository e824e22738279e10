//! `icmp4-redirect`: tells hosts on a link of a better first hop on the same link, and lets their packets go on.
//!
//! Only interfaces with `redirects` send packets here, and only those that leave by the interface that they came in by. The
//! message comes from the interface's address in the subnet that the host and the next hop share: a host obeys only the router that
//! it asked (RFC 1122 section 3.2.2.2). It says "for the host", never "for the network" (RFC 1812 section 5.2.7.2). Packets
//! with a source route do not come here: `ip4-input` drops them.
//!
//! - Input: packets at their IPv4 header; word = adjacency; interface = the one that received the packet, and sends it.
//! - Output: packets as they came; redirects at their IPv4 header, flag LOCAL, word = destination address.
//! - Reads: snapshot.interfaces, snapshot.forwarding
//! - State: the worker's bucket of ICMP errors, shared with `icmp4-error`
//! - Standard: RFC 792, RFC 1812 sections 5.2.7.2 and 4.3.3.2, RFC 1122 section 3.2.2
//! - Cost: exception path

use core::net::{IpAddr, Ipv4Addr};

use dataplane::{Context, Descriptor, Flags, Frame, NoDrop, Node};
use wire::icmp4::redirect;
use wire::{Header, Icmp4Type, Ip4Header};

use super::icmp4_error::{Message, build, may_answer};
use crate::ip4::address;
use crate::snapshot::{Interface, Snapshot};

dataplane::next_nodes! {
    /// Where `icmp4-redirect` sends packets.
    pub enum Next {
        Rewrite => "ip4-rewrite",
        Lookup => "ip4-lookup",
    }
}

/// See the module.
#[derive(Default)]
pub struct Icmp4Redirect;

impl Node<Snapshot> for Icmp4Redirect {
    const NAME: &'static str = "icmp4-redirect";
    type Next = Next;
    type Drop = NoDrop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        for (packet, verdict) in packets.iter().zip(verdicts) {
            // What is not worth a message, or found no room for one, is forwarded all the same.
            if let Some(say) = better_hop(packet, cx)
                && may_answer(packet, cx).is_ok()
                && let Ok(message) = build(packet, say, cx)
            {
                cx.emit(Next::Lookup, message);
            }
            *verdict = Next::Rewrite.into();
        }
    }
}

/// RFC 1812 section 5.2.7.2: what is said to the sender of a packet that is forwarded to a neighbour of its own.
fn better_hop(packet: &Descriptor, cx: &Context<'_, Snapshot>) -> Option<Message> {
    let interface = cx.snapshot.interface(packet.interface)?;
    let adjacency = cx.snapshot.forwarding.adjacency(packet.word);
    let IpAddr::V4(next_hop) = adjacency.address() else {
        return None;
    };
    let header = Ip4Header::view(cx.buffers.bytes(packet)).ok()?;
    // An expired packet, or one that the next hop cannot take, is not forwarded: an error is said about it.
    let too_long = header.dont_fragment()
        && header.total_length.get() > adjacency.hot().mtu()
        && !packet.flags().contains(Flags::OFFLOAD);
    if header.ttl <= 1 || too_long {
        return None;
    }
    Some(Message {
        from: common_subnet(interface, header.src.get(), next_hop)?,
        kind: Icmp4Type::REDIRECT,
        code: redirect::HOST,
        rest: next_hop.octets(),
    })
}

/// The interface's address in the subnet in which both a packet's source and its next hop are, as two different hosts, neither of
/// them this node.
fn common_subnet(interface: &Interface, source: u32, next_hop: Ipv4Addr) -> Option<Ipv4Addr> {
    let next_hop = next_hop.to_bits();
    let hosts = source != next_hop
        && address::is_neighbour(interface, source)
        && !address::is_own(interface, source);
    let both = |own: &&_| address::is_on_link(own, source) && address::is_on_link(own, next_hop);
    let own = interface.ip4.iter().find(both).filter(|_| hosts)?;
    Some(own.address)
}
