//! Which packets may be worth a redirect: decided by the lookups, for interfaces that send them.

use dataplane::{Descriptor, Flags, NextNode, Verdict};

use crate::fib::ForwardingView;

/// Sends packets that a lookup would forward by the interface that they came in by to the redirect node first. For a run of packets
/// of one interface; a flow goes there whole or not at all, so that none of its packets overtakes another.
#[cold]
#[inline(never)]
pub(crate) fn divert<E: NextNode>(
    packets: &[Descriptor],
    verdicts: &mut [Verdict],
    forward: E,
    redirect: E,
    forwarding: ForwardingView<'_>,
) {
    let (forward, redirect) = (Verdict::next(forward), Verdict::next(redirect));
    for (packet, verdict) in packets.iter().zip(verdicts) {
        let turns_around =
            || forwarding.adjacency(packet.word).hot().interface() == packet.interface;
        if *verdict == forward && !packet.flags().contains(Flags::LOCAL) && turns_around() {
            *verdict = redirect;
        }
    }
}
