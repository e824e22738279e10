//! A packet as it came in, for those who tell its sender about it.

use dataplane::{Context, Descriptor, Flags};
use tables::{FlowKey as _, LegFlags};

use super::Translated as _;
use crate::policy::packet::{Version, key_of};
use crate::snapshot::Snapshot;

/// Undoes the translation of a packet that an ICMP error is about: the error goes to who has sent the packet, and quotes what was sent
/// (RFC 5508 section 4.2).
pub(crate) fn restore<V: Version>(packet: &mut Descriptor, cx: &mut Context<'_, Snapshot>) {
    let snapshot = cx.snapshot;
    if !V::translation(snapshot).is_on() || packet.flags().contains(Flags::LOCAL) {
        return;
    }
    let interface = snapshot.interfaces.get(usize::from(packet.interface));
    let vrf = interface.map_or(0, |interface| interface.vrf);
    let Some(flows) = cx.state.flows() else {
        return;
    };
    let Some(key) = key_of::<V>(cx.view.bytes(packet), vrf) else {
        return;
    };
    // The answers to what has left.
    let back = key.reversed();
    let Some(answers) = flows.lookup(&back, flows.hash(&back)) else {
        return;
    };
    let own = answers.peer();
    if !flows.leg(own).flags.has(LegFlags::REWRITE) {
        return;
    }
    if let Some(original) = flows.key::<V::Key>(own) {
        V::Key::apply(cx.view.bytes_mut(packet), &key.rewrite_to(&original), false);
    }
}
