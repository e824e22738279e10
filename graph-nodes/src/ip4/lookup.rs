//! `ip4-lookup`: longest-prefix match; finds out how a packet goes on.
//!
//! - Input: packets at their IPv4 header; word = destination address; interface = whose VRF to use.
//! - Output: word = adjacency to `ip4-rewrite`, the interface to glean on to `ip4-glean`, the error to `icmp4-error`.
//! - Reads: snapshot.vrfs, snapshot.forwarding
//! - State: none
//! - Standard: RFC 1812 section 5.2.4, RFC 2992 (several next hops)
//! - Cost: 5 ticks with few routes (pg-ip4base)

use dataplane::{Context, Descriptor, Frame, Node, Verdict};

use crate::fib::{Group, RouteAction};
use crate::flow_hash;
use crate::icmp::ErrorWord;
use crate::neighbour::GLEAN_INTERFACE;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip4-lookup` sends packets.
    pub enum Next {
        Rewrite => "ip4-rewrite",
        Local => "ip4-local",
        Glean => "ip4-glean",
        Error => "icmp4-error",
    }
}

dataplane::drop_reasons! {
    /// Why `ip4-lookup` drops packets.
    pub enum Drop {
        Blackhole = "blackhole": "The route says to drop silently",
        NoVrf = "no-vrf": "The interface has no routing table",
    }
}

/// See the module.
#[derive(Default)]
pub struct Ip4Lookup;

impl Node<Snapshot> for Ip4Lookup {
    const NAME: &'static str = "ip4-lookup";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let forwarding = cx.snapshot.forwarding.view();
        let mut at = 0;
        while at < packets.len() {
            // A run of packets of one interface has one table.
            let interface = packets[at].interface;
            let table = cx.snapshot.vrf_of(interface).map(|vrf| &vrf.ip4);
            let begin = at;
            for (packet, verdict) in packets[begin..].iter_mut().zip(&mut verdicts[begin..]) {
                if packet.interface != interface {
                    break;
                }
                at += 1;
                let Some(table) = table else {
                    *verdict = Verdict::discard(Drop::NoVrf);
                    continue;
                };
                let group = forwarding.group(table.lookup(packet.word));
                if group.action() == RouteAction::Forward {
                    packet.word = group.payload();
                    forwarding.prefetch_adjacency(packet.word);
                    *verdict = Next::Rewrite.into();
                } else {
                    *verdict = other(packet, group, cx);
                }
            }
        }
    }
}

/// Routes that do not lead to one neighbour.
#[inline(never)]
fn other(packet: &mut Descriptor, group: Group, cx: &Context<'_, Snapshot>) -> Verdict {
    let unreachable =
        |code| ErrorWord::new(wire::Icmp4Type::DESTINATION_UNREACHABLE.0, code).to_word();
    let (next, word) = match group.action() {
        RouteAction::Forward => (Next::Rewrite, group.payload()),
        RouteAction::Multipath => {
            let hash = flow_hash::ip4(cx.buffers.bytes(packet));
            (Next::Rewrite, cx.snapshot.forwarding.bucket(group, hash))
        }
        RouteAction::Glean => (Next::Glean, GLEAN_INTERFACE | group.payload()),
        RouteAction::Local => (Next::Local, packet.word),
        RouteAction::Blackhole => return Verdict::discard(Drop::Blackhole),
        RouteAction::NoRoute => (Next::Error, unreachable(0)),
        RouteAction::Unreachable => (Next::Error, unreachable(1)),
        RouteAction::Prohibit => (Next::Error, unreachable(13)),
    };
    packet.word = word;
    next.into()
}
