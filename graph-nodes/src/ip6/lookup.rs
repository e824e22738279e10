//! `ip6-lookup`: longest-prefix match; finds out how a packet goes on.
//!
//! - Input: packets at their IPv6 header; interface = whose VRF to use, and the link of link-local destinations.
//! - Output: word = adjacency to `ip6-rewrite`, the interface to glean on to `ip6-glean`, the error to `icmp6-error`.
//! - Reads: snapshot.vrfs, snapshot.forwarding
//! - State: none
//! - Standard: RFC 8200, RFC 4443 section 3.1, RFC 2992 (several next hops)
//! - Cost: 12 ticks with few routes (pg-ip6base)

use dataplane::{Context, Descriptor, FRAME_SIZE, Frame, Node, Verdict};

use super::input::destination;
use crate::fib::{Group, RouteAction, scoped};
use crate::flow_hash;
use crate::icmp::ErrorWord;
use crate::neighbour::GLEAN_INTERFACE;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip6-lookup` sends packets.
    pub enum Next {
        Rewrite => "ip6-rewrite",
        Local => "ip6-local",
        Glean => "ip6-glean",
        Error => "icmp6-error",
    }
}

dataplane::drop_reasons! {
    /// Why `ip6-lookup` drops packets.
    pub enum Drop {
        Blackhole = "blackhole": "The route says to drop silently",
        NoVrf = "no-vrf": "The interface has no routing table",
    }
}

/// See the module.
pub struct Ip6Lookup {
    addresses: Box<[u128; FRAME_SIZE]>,
    groups: Box<[u32; FRAME_SIZE]>,
}

impl Default for Ip6Lookup {
    fn default() -> Self {
        Self {
            addresses: Box::new([0; FRAME_SIZE]),
            groups: Box::new([0; FRAME_SIZE]),
        }
    }
}

impl Node<Snapshot> for Ip6Lookup {
    const NAME: &'static str = "ip6-lookup";
    type Next = Next;
    type Drop = Drop;

    fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let forwarding = cx.snapshot.forwarding.view();
        let mut from = 0;
        while from < packets.len() {
            // A run of packets of one interface is looked up as a batch.
            let interface = packets[from].interface;
            let run = packets[from..]
                .iter()
                .take_while(|packet| packet.interface == interface)
                .count();
            let range = from..from + run;
            from += run;
            let Some(vrf) = cx.snapshot.vrf_of(interface) else {
                verdicts[range].fill(Verdict::discard(Drop::NoVrf));
                continue;
            };
            for (packet, address) in packets[range.clone()]
                .iter()
                .zip(&mut self.addresses[..run])
            {
                // A packet without a header has no route either: `::` is never one's destination.
                let destination = cx.view.head::<40>(packet).map_or(0, destination);
                *address = scoped(destination, interface);
            }
            vrf.ip6
                .lookup_batch(&self.addresses[..run], &mut self.groups[..run]);
            let decided = packets[range.clone()].iter_mut().zip(&mut verdicts[range]);
            for ((packet, verdict), number) in decided.zip(&self.groups[..run]) {
                let group = forwarding.group(*number);
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
        |code| ErrorWord::new(wire::Icmp6Type::DESTINATION_UNREACHABLE.0, code).to_word();
    let (next, word) = match group.action() {
        RouteAction::Forward => (Next::Rewrite, group.payload()),
        RouteAction::Multipath => {
            let hash = flow_hash::ip6(cx.buffers.bytes(packet));
            (Next::Rewrite, cx.snapshot.forwarding.bucket(group, hash))
        }
        RouteAction::Glean => (Next::Glean, GLEAN_INTERFACE | group.payload()),
        RouteAction::Local => (Next::Local, 0),
        RouteAction::Blackhole => return Verdict::discard(Drop::Blackhole),
        RouteAction::NoRoute => (Next::Error, unreachable(0)),
        // Address unreachable, and administratively prohibited (RFC 4443 section 3.1).
        RouteAction::Unreachable => (Next::Error, unreachable(3)),
        RouteAction::Prohibit => (Next::Error, unreachable(1)),
    };
    packet.word = word;
    next.into()
}
