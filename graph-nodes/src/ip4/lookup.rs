//! `ip4-lookup`: longest-prefix match; finds out how a packet goes on.
//!
//! - Input: packets at their IPv4 header; word = destination address; interface = whose VRF to use.
//! - Output: word = port to `port-tx` (frames that the stage of `ip4-rewrite` made here), adjacency to `ip4-rewrite`, the interface to glean on to `ip4-glean`, the error to `icmp4-error`, adjacency to `icmp4-redirect` (packets that turn around where redirects are on).
//! - Reads: snapshot.vrfs, snapshot.forwarding
//! - State: none
//! - Standard: RFC 1812 section 5.2.4, RFC 2992 (several next hops)
//! - Cost: 5 ticks with few routes (pg-ip4base)

use dataplane::{BufferView, Context, Descriptor, Flags, Frame, InterfaceCounter, Node, Verdict};

use crate::fib::{Adjacency, ForwardingView, Group, RouteAction};
use crate::flow_hash;
use crate::icmp::{ErrorWord, redirect};
use crate::neighbour::GLEAN_INTERFACE;
use crate::output::forward;
use crate::snapshot::Snapshot;

dataplane::next_nodes! {
    /// Where `ip4-lookup` sends packets.
    pub enum Next {
        PortTx => "port-tx",
        Rewrite => "ip4-rewrite",
        Local => "ip4-local",
        Glean => "ip4-glean",
        Error => "icmp4-error",
        Redirect => "icmp4-redirect",
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
pub struct Ip4Lookup {
    /// The turn in which a packet was last left to `ip4-rewrite`.
    left: u64,
}

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
            let table = cx.snapshot.vrf_of(interface).map(|vrf| vrf.ip4.view());
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
                    *verdict = Next::Rewrite.into();
                    packet.word = group.payload();
                    forwarding.prefetch_adjacency(packet.word);
                } else {
                    *verdict = other(packet, group, cx);
                }
            }
            if cx.snapshot.redirects(interface) {
                let (packets, verdicts) = (&packets[begin..at], &mut verdicts[begin..at]);
                redirect::divert(packets, verdicts, Next::Rewrite, Next::Redirect, forwarding);
            }
        }
        if self.left != cx.turn && !rewrite(packets, verdicts, cx) {
            self.left = cx.turn;
        }
    }
}

/// The next node's stage at once, where nothing needs to see the packet in between. A loop of its own: the chain of loads of the
/// look-up and the stores here would otherwise wait for each other.
///
/// It ends, with false, at the first packet that `ip4-rewrite` itself must see: those behind it go there too, in this frame and in
/// the turn's next ones, so that no packet overtakes another of its flow.
fn rewrite(
    packets: &mut [Descriptor],
    verdicts: &mut [Verdict],
    cx: &Context<'_, Snapshot>,
) -> bool {
    let forwarding = cx.snapshot.forwarding.view();
    let second = Adjacency::second(cx.now_ns);
    let mut at = 0;
    while at < packets.len() {
        if verdicts[at] != Verdict::from(Next::Rewrite) {
            at += 1;
            continue;
        }
        // The adjacency of the next packet says which interface the next run leaves by.
        let interface = forwarding.adjacency(packets[at].word).hot().interface();
        if cx.snapshot.interface(interface).is_none() {
            return false;
        }
        let (packets, verdicts) = (&mut packets[at..], &mut verdicts[at..]);
        let (count, bytes) = run(packets, verdicts, interface, forwarding, second, cx.view);
        if count == 0 {
            return false;
        }
        cx.count(interface, InterfaceCounter::Tx, count as u64, bytes);
        at += count;
    }
    true
}

/// Rewrites packets from the front of the slice that leave by one interface, up to the first that does not or needs another look;
/// returns how many there were and their bytes. A function of its own keeps what its loop needs in registers.
#[inline(never)]
fn run(
    packets: &mut [Descriptor],
    verdicts: &mut [Verdict],
    interface: u16,
    forwarding: ForwardingView<'_>,
    second: u64,
    view: BufferView<'_>,
) -> (usize, u64) {
    const SPECIAL: Flags = Flags::TRACED.union(forward::SPECIAL);
    let (mut count, mut sum) = (0, 0);
    // Almost always all, which is cheaper to find out for many at once.
    let other = |verdict: &Verdict| *verdict != Verdict::from(Next::Rewrite);
    let same = match verdicts.iter().filter(|verdict| other(verdict)).count() {
        0 => verdicts.len(),
        _ => verdicts.iter().position(other).unwrap_or(0),
    };
    let same = same.min(packets.len());
    for packet in &mut packets[..same] {
        let adjacency = forwarding.adjacency(packet.word);
        let hot = adjacency.hot();
        if packet.flags().intersects(SPECIAL) {
            break;
        }
        let rewritten = if hot.is_plain_on(interface) {
            forward::ip4_plain(packet, view, adjacency, hot)
        } else if hot.interface() == interface {
            forward::ip4(packet, view, adjacency, hot)
        } else {
            None
        };
        let Some(bytes) = rewritten else {
            break;
        };
        adjacency.touch(second);
        sum += bytes;
        count += 1;
    }
    verdicts[..count].fill(Next::PortTx.into());
    (count, sum)
}

/// Routes that do not lead to one neighbour.
#[cold]
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
