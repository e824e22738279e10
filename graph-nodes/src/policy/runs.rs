//! The loops that almost all packets of known flows take: reading, the steps of the search, passing. Each is a function of its
//! own, which keeps what it needs in registers.

use dataplane::{BufferView, Descriptor, Flags, Verdict};
use tables::{FlowHash, FlowTable, FlowTrace, Tick};

use super::enforce::LOOKUP;
use super::packet::{Head, Version, length};
use super::{EndpointKind, InterfacePolicy};

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

/// Passes packets from the front up to the first that is not plain or not surely one of a living flow; returns how many.
#[inline(never)]
pub(super) fn pass_living<V: Version>(
    packets: &[Descriptor],
    verdicts: &mut [Verdict],
    (keys, heads, traces): (&[V::Key], &[Head], &[FlowTrace]),
    flows: &mut FlowTable,
    (view, now): (BufferView<'_>, Tick),
) -> usize {
    let what = keys.iter().zip(heads).zip(traces);
    let mut count = 0;
    for (packet, ((key, head), trace)) in packets.iter().zip(what) {
        let bytes = length::<V>(packet, view);
        if !head.is_plain() || !flows.pass(*trace, key, head.tcp, bytes, now) {
            break;
        }
        count += 1;
    }
    verdicts[..count].fill(LOOKUP);
    count
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
