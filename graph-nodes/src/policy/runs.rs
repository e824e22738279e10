//! The loops that almost all packets of known flows take: reading, the steps of the search, passing. Each is a function of its
//! own, which keeps what it needs in registers.

use dataplane::{BufferView, Descriptor, Flags, Verdict};
use tables::acl::Address as _;
use tables::{FlowHash, FlowIndex, FlowKey as _, FlowTable, FlowTrace, LegFlags, Tick};

use super::enforce::{LOOKUP, Work};
use super::packet::{Head, Version, length};
use super::{EndpointKind, InterfacePolicy};
use crate::nat::Translated as _;
use crate::snapshot::Snapshot;

/// What the packets of an interface meet before flows are looked at.
#[derive(Clone, Copy)]
pub(super) enum Guard<'a> {
    Nothing,
    /// The workload's own addresses.
    Sources(&'a InterfacePolicy),
    /// More.
    All(&'a InterfacePolicy),
}

impl<'a> Guard<'a> {
    pub(super) fn of(policy: &'a InterfacePolicy) -> Self {
        let own_sources = !policy.sources4.is_empty() || !policy.sources6.is_empty();
        match policy.kind {
            EndpointKind::None => Self::Nothing,
            EndpointKind::Workload if policy.closed => Self::All(policy),
            EndpointKind::Workload if own_sources => Self::Sources(policy),
            EndpointKind::Workload => Self::Nothing,
            EndpointKind::Host if policy.untracked_input().is_some() => Self::All(policy),
            EndpointKind::Host => Self::Nothing,
        }
    }
}

/// How the plain packets of an interface are read.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    pub(super) interface: u16,
    pub(super) vrf: u16,
    pub(super) guard: Guard<'a>,
    pub(super) view: BufferView<'a>,
    pub(super) flows: Option<&'a FlowTable>,
}

impl Plain<'_> {
    /// Reads packets from the front up to the first that is not plain, or not the interface's, or that its guard has to look at;
    /// returns how many. A function of its own keeps what its loop needs in registers.
    #[inline(never)]
    pub(super) fn read<V: Version>(
        self,
        packets: &[Descriptor],
        keys: &mut [V::Key],
        heads: &mut [Head],
        hashes: &mut [FlowHash],
    ) -> usize {
        let places = keys.iter_mut().zip(heads).zip(hashes);
        let mut count = 0;
        for (packet, ((key, head), hash)) in packets.iter().zip(places) {
            if packet.interface != self.interface || packet.flags().contains(Flags::LOCAL) {
                break;
            }
            let Some(plain) = V::plain(self.view.bytes(packet), self.vrf) else {
                break;
            };
            let is_let_in = match self.guard {
                Guard::Nothing => true,
                Guard::Sources(policy) => V::may_send(policy, V::ends(&plain.0).0),
                Guard::All(_) => false,
            };
            if !is_let_in {
                break;
            }
            (*key, *head) = plain;
            if let Some(flows) = self.flows {
                *hash = flows.hash(key);
                flows.prefetch(*hash);
            }
            count += 1;
        }
        count
    }
}

/// Packets that were read and whose flows were searched.
#[derive(Clone, Copy)]
pub(super) struct Known<'a, K> {
    pub(super) keys: &'a [K],
    pub(super) heads: &'a [Head],
    pub(super) traces: &'a [FlowTrace],
    pub(super) view: BufferView<'a>,
    pub(super) now: Tick,
}

/// Passes packets from the front up to the first that is not plain or not surely one of a living flow; returns how many.
#[inline(never)]
pub(super) fn pass_living<V: Version>(
    packets: &[Descriptor],
    verdicts: &mut [Verdict],
    known: Known<'_, V::Key>,
    flows: &mut FlowTable,
) -> usize {
    let what = known.keys.iter().zip(known.heads).zip(known.traces);
    let mut count = 0;
    for (packet, ((key, head), trace)) in packets.iter().zip(what) {
        let bytes = length::<V>(packet, known.view);
        if !head.is_plain() || !flows.pass(*trace, key, head.tcp, bytes, known.now) {
            break;
        }
        count += 1;
    }
    verdicts[..count].fill(LOOKUP);
    count
}

/// As [`pass_living`], where flows may be translated.
#[inline(never)]
pub(super) fn pass_translating<V: Version>(
    packets: &mut [Descriptor],
    verdicts: &mut [Verdict],
    known: Known<'_, V::Key>,
    flows: &mut FlowTable,
    snapshot: &Snapshot,
) -> usize {
    let what = known.keys.iter().zip(known.heads).zip(known.traces);
    let mut count = 0;
    for (packet, ((key, head), trace)) in packets.iter_mut().zip(what) {
        let bytes = length::<V>(packet, known.view);
        if !head.is_plain() || packet.flags().contains(Flags::OFFLOAD) {
            break;
        }
        let passed = flows.pass_rewriting(*trace, key, head.tcp, bytes, known.now);
        let Some(rewrite) = passed else { break };
        if let Some(rewrite) = rewrite {
            V::Key::apply_plain(known.view.bytes_mut(packet), rewrite);
            let destination = V::Key::destination(rewrite);
            if destination != V::ends(key).1.widen() {
                V::redirect(packet, snapshot, destination);
            }
        }
        count += 1;
    }
    verdicts[..count].fill(LOOKUP);
    count
}

/// Makes any packet of a flow what the flow says.
#[inline]
pub(super) fn translate<V: Version>(
    packet: &mut Descriptor,
    head: Head,
    index: FlowIndex,
    flows: &FlowTable,
    work: &Work<'_>,
) {
    if work.translates && flows.leg(index).flags.has(LegFlags::REWRITE) {
        translate_any::<V>(packet, head, index, flows, work);
    }
}

#[inline(never)]
fn translate_any<V: Version>(
    packet: &mut Descriptor,
    head: Head,
    index: FlowIndex,
    flows: &FlowTable,
    work: &Work<'_>,
) {
    let rewrite = flows.rewrite::<V::Key>(index);
    let partial = work
        .view
        .offload(packet)
        .is_some_and(|offload| offload.checksum);
    let bytes = work.view.bytes_mut(packet);
    if !head.is(Head::RELATED) {
        V::Key::apply(bytes, &rewrite, partial);
    } else if let (Some(own), Some(quoted)) = (
        flows.key::<V::Key>(index),
        flows.key::<V::Key>(index.peer()),
    ) {
        // What is quoted went the other way, and becomes what it was when it came in.
        let back = own.reversed().rewrite_to(&quoted);
        V::Key::apply_error(bytes, &own, &rewrite, &back);
    }
    let (_, destination) = V::addresses(work.view.bytes(packet));
    V::redirect(packet, work.snapshot, destination.widen());
}

/// The second step of the search for flows.
#[inline(never)]
pub(super) fn trace<V: Version>(flows: &FlowTable, hashes: &[FlowHash], traces: &mut [FlowTrace]) {
    for (trace, hash) in traces.iter_mut().zip(hashes) {
        *trace = flows.trace::<V::Key>(*hash);
    }
}

/// The third step of the search for flows.
#[inline(never)]
pub(super) fn trace_further<V: Version>(
    flows: &FlowTable,
    hashes: &[FlowHash],
    traces: &mut [FlowTrace],
) {
    for (trace, hash) in traces.iter_mut().zip(hashes) {
        if trace.leads_further() {
            *trace = flows.trace_further::<V::Key>(*hash);
        }
    }
}
