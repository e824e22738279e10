//! Events of packets that are dropped before flows are looked at.

use dataplane::{Context, Decision, Descriptor, DropReason, Verdict};

use super::super::fragments::Fragments;
use super::super::packet::{Version, exit, length, parse, question};
use super::super::{Drop, RuleId};
use super::{Lone, asking};
use crate::snapshot::Snapshot;

/// Tells of what was dropped before flows were looked at: by an untracked list, for a forged source, for want of policy. Reads
/// these packets a second time, so that the usual way need not keep anything for it.
#[cold]
pub(in super::super) fn tell_guarded<V: Version>(
    packets: &[Descriptor],
    verdicts: &[Verdict],
    fragments: &mut Fragments<V::Key>,
    now: tables::Tick,
    cx: &mut Context<'_, Snapshot>,
) {
    let (snapshot, view) = (cx.snapshot, cx.view);
    let policy = &snapshot.policy;
    for (packet, verdict) in packets.iter().zip(verdicts) {
        let Decision::Drop(index) = verdict.decode() else {
            continue;
        };
        let reasons = [Drop::PolicyDenied, Drop::Spoofed, Drop::Closed];
        let Some(reason) = reasons.into_iter().find(|reason| reason.index() == index) else {
            continue;
        };
        let (bytes, interface) = (view.bytes(packet), packet.interface);
        let vrf = snapshot.interfaces.get(usize::from(interface));
        let vrf = vrf.map_or(0, |interface| interface.vrf);
        let parsed = match V::plain(bytes, vrf) {
            Some(plain) => Ok(plain),
            None => parse::<V>(bytes, vrf, interface, fragments, now, None),
        };
        let Ok((key, head)) = parsed else { continue };
        let asked = policy.classify(question::<V>(&key, head, bytes));
        let lone = Lone {
            asked: &asked,
            after: &asked,
            input: interface,
            exit: exit::<V>(snapshot, interface, head, asked.destination(), bytes),
            bytes: length::<V>(packet, view),
        };
        let watch = cx.state.watch();
        let mut rule = RuleId::NONE;
        if reason == Drop::PolicyDenied {
            rule = asking::denier(policy, &lone);
            watch.log_all(&lone, false, policy, cx.now_ns);
        }
        watch.denied(&lone, reason, rule, policy, cx.now_ns);
    }
}
