//! The work of `ip4-policy` and `ip6-policy`, written once: parse, look up flows, pass the packets of living ones, decide about
//! the others.

use std::ops::Range;

use dataplane::{BufferView, Context, Descriptor, FRAME_SIZE, Flags, Frame, Verdict, WorkerId};
use tables::acl::{Key, NO_MATCH};
use tables::{FlowHash, FlowKey, FlowTable, FlowTrace, Tick, Tracked};

use super::ahead::{Ahead, Asked, Foreseen, Hearing, lists};
use super::case::{Case, Target, arrival, arrived, expected, is_tcp, redirect};
use super::counters::WorkerRules;
use super::decide::{Answer, Way, answer, is_link_talk};
use super::events::{FlowWatch, tell_guarded};
use super::fragments::Fragments;
use super::owner::Home;
use super::packet::{
    Exit, Head, Version, echo_reply, exit, length, parse, question as question_of,
};
use super::runs::{
    Guard, Known, Plain, pass_living, pass_translating, trace, trace_further, translate,
};
use super::{
    AccessProgram, Drop, EndpointKind, INGRESS, INPUT, InterfacePolicy, Judgement, Policy,
};
use crate::icmp::ErrorWord;
use crate::nat::{Affinities, Redirect, Source};
use crate::snapshot::{NO_INTERFACE, Snapshot};

/// The edges of both nodes, in this order.
pub(super) const LOOKUP: Verdict = Verdict::edge(0);
const LOCAL: Verdict = Verdict::edge(1);
const ERROR: Verdict = Verdict::edge(2);
const RESET: Verdict = Verdict::edge(3);

/// Packets that take a step of the search for their flows together: their lines come while others take theirs.
const GROUP: usize = 32;
/// Packets from the one that is decided about to the ones whose lines in the flow table are asked for, the second and the first.
const NEXT: [usize; 2] = [6, 12];

/// A node's memory: the work on one frame, and fragments.
pub(super) struct Enforcer<V: Version> {
    keys: Box<[V::Key]>,
    hashes: Box<[FlowHash]>,
    traces: Box<[FlowTrace]>,
    heads: Box<[Head]>,
    /// Positions in the frame of packets without a living flow, and what is asked about them.
    new: Box<[u8]>,
    questions: Box<[Key<V::Address>]>,
    exits: Box<[Exit]>,
    /// What is said about their destinations, where anything is translated.
    redirects: Box<[Option<Redirect>]>,
    /// Rules that translate their sources, and the keys that they are expected to leave with, likewise.
    sources: Box<[u32]>,
    leaving: Box<[V::Key]>,
    affinities: Affinities<V::Address>,
    /// All packets of the frame came in by one interface.
    one_interface: bool,
    foreseen: Foreseen,
    hearing: Hearing<V::Address>,
    fragments: Fragments<V::Key>,
    /// What is said about a packet that is denied where denials are answered.
    prohibited: ErrorWord,
    /// And about one to a service that has no backends.
    unreachable: ErrorWord,
}

/// What one frame needs, beside the memory.
pub(super) struct Work<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) policy: &'a Policy,
    pub(super) counters: WorkerRules<'a>,
    pub(super) now: Tick,
    pub(super) now_ns: u64,
    pub(super) view: BufferView<'a>,
    pub(super) worker: WorkerId,
    pub(super) home: Option<Home>,
    /// Somebody is to be told what is decided.
    pub(super) hears: bool,
    /// Something is translated.
    pub(super) translates: bool,
}

impl Work<'_> {
    /// Where pools are counted.
    pub(super) fn counters_of_pools(&self) -> WorkerRules<'_> {
        let counters = self.snapshot.nat.counters.as_ref();
        counters.map_or(WorkerRules::NONE, |counters| counters.of(self.worker))
    }
}

impl<V: Version> Enforcer<V> {
    /// With what is said about packets that are prohibited, and whose port is unreachable.
    pub(super) fn new(prohibited: ErrorWord, unreachable: ErrorWord) -> Self {
        fn array<T: Clone>(value: T) -> Box<[T]> {
            vec![value; FRAME_SIZE].into()
        }
        Self {
            keys: array(V::Key::default()),
            hashes: array(FlowHash::default()),
            traces: array(FlowTrace::ABSENT),
            heads: array(Head::decided()),
            new: array(0),
            questions: array(Key::default()),
            exits: array(Exit::Nowhere),
            redirects: array(None),
            sources: array(NO_MATCH),
            leaving: array(V::Key::default()),
            affinities: Affinities::default(),
            one_interface: false,
            foreseen: Foreseen::default(),
            hearing: Hearing::default(),
            fragments: Fragments::default(),
            prohibited,
            unreachable,
        }
    }

    /// Decides about every packet of a frame.
    pub(super) fn process(&mut self, frame: &mut Frame, cx: &mut Context<'_, Snapshot>) {
        let (packets, verdicts) = frame.parts_mut();
        let policy = &cx.snapshot.policy;
        let counters = policy.counters.as_ref();
        let work = Work {
            snapshot: cx.snapshot,
            policy,
            counters: counters.map_or(WorkerRules::NONE, |counters| counters.of(cx.worker)),
            now: Tick::from_nanos(cx.now_ns),
            now_ns: cx.now_ns,
            view: cx.view,
            worker: cx.worker,
            home: Home::of::<V>(cx, policy),
            hears: cx.state.watch().hears(),
            translates: V::translation(cx.snapshot).is_on(),
        };
        let flows = cx.state.flows();
        let new = match flows.filter(|flows| !flows.is_empty()) {
            Some(flows) => self.established(packets, verdicts, flows, &work),
            None => {
                self.parse(0..packets.len(), packets, verdicts, &work, None);
                self.all_new(packets.len())
            }
        };
        if work.hears {
            tell_guarded::<V>(packets, verdicts, &mut self.fragments, work.now, cx);
        }
        if new > 0 {
            let (flows, watch) = cx.state.flows_and_watch();
            self.decide(new, packets, verdicts, &work, flows, watch);
        }
        if let Some(home) = work.home {
            home.hand_over::<V>(&self.heads, &self.keys, packets, verdicts, cx);
        }
    }

    /// Reads packets; those that are decided before flows are looked at get their verdict. Of the others the flow is hashed, where
    /// there is any.
    #[inline(always)]
    fn parse(
        &mut self,
        range: Range<usize>,
        packets: &[Descriptor],
        verdicts: &mut [Verdict],
        work: &Work<'_>,
        flows: Option<&FlowTable>,
    ) {
        let mut at = range.start;
        while at < range.end {
            // A run of packets of one interface has one policy.
            let interface = packets[at].interface;
            let vrf = work.snapshot.interfaces.get(usize::from(interface));
            let vrf = vrf.map_or(0, |interface| interface.vrf);
            let guard = work.policy.of(interface).map_or(Guard::Nothing, Guard::of);
            let like_this = Plain {
                interface,
                vrf,
                guard,
                view: work.view,
                flows,
            };
            while at < range.end && packets[at].interface == interface {
                let rest = at..range.end;
                let count = like_this.read::<V>(
                    &packets[rest.clone()],
                    &mut self.keys[rest.clone()],
                    &mut self.heads[rest.clone()],
                    &mut self.hashes[rest],
                );
                if let Some(home) = work.home {
                    let read = at..at + count;
                    let heads = self.heads[read.clone()].iter_mut();
                    let what = self.keys[read.clone()].iter().zip(&packets[read]);
                    for (head, (key, packet)) in heads.zip(what) {
                        home.locate::<V>(key, head, packet.flags(), work.snapshot);
                    }
                }
                at += count;
                if at == range.end || packets[at].interface != interface {
                    break;
                }
                let read = self.read(&packets[at], vrf, guard, work);
                let (key, head) = read.unwrap_or_else(|verdict| {
                    verdicts[at] = verdict;
                    (V::Key::default(), Head::decided())
                });
                (self.keys[at], self.heads[at]) = (key, head);
                if let Some(flows) = flows {
                    self.hashes[at] = flows.hash(&key);
                    flows.prefetch(self.hashes[at]);
                }
                at += 1;
            }
        }
    }

    /// Reads any packet.
    #[inline(never)]
    fn read(
        &mut self,
        packet: &Descriptor,
        vrf: u16,
        guard: Guard<'_>,
        work: &Work<'_>,
    ) -> Result<(V::Key, Head), Verdict> {
        let (bytes, interface) = (work.view.bytes(packet), packet.interface);
        if packet.flags().contains(Flags::LOCAL) {
            return Err(answered::<V>(packet, bytes, work));
        }
        let (key, mut head) = match V::plain(bytes, vrf) {
            Some(plain) => plain,
            None => {
                // Where they have been handed over to, they have met already.
                let gather = work
                    .home
                    .filter(|_| !packet.flags().contains(Flags::HANDED_OVER));
                let fragments = &mut self.fragments;
                parse::<V>(bytes, vrf, interface, fragments, work.now, gather)
                    .map_err(Verdict::discard)?
            }
        };
        if let Guard::Sources(policy) | Guard::All(policy) = guard
            && !head.is(Head::ELSEWHERE)
            && self::guard::<V>(policy, &key, head, bytes, work).map_err(Verdict::discard)?
        {
            head.set(Head::UNTRACKED);
        }
        if let Some(home) = work.home {
            home.locate::<V>(&key, &mut head, packet.flags(), work.snapshot);
        }
        Ok((key, head))
    }

    /// Reads all packets and looks up all flows, and lets the packets of living ones pass. Returns how many are left.
    ///
    /// Each step reads lines that the one before has asked for, a group of packets behind it.
    #[inline(never)]
    fn established(
        &mut self,
        packets: &mut [Descriptor],
        verdicts: &mut [Verdict],
        flows: &mut FlowTable,
        work: &Work<'_>,
    ) -> usize {
        let count = packets.len();
        let group = |number: usize| {
            let from = (number * GROUP).min(count);
            from..(from + GROUP).min(count)
        };
        let mut new = 0;
        for number in 0..count.div_ceil(GROUP) + 3 {
            self.parse(group(number), packets, verdicts, work, Some(flows));
            if number >= 1 {
                let group = group(number - 1);
                trace::<V>(flows, &self.hashes[group.clone()], &mut self.traces[group]);
            }
            if number >= 2 {
                let group = group(number - 2);
                trace_further::<V>(flows, &self.hashes[group.clone()], &mut self.traces[group]);
            }
            if number >= 3 {
                new = self.settle(group(number - 3), new, packets, verdicts, flows, work);
            }
        }
        new
    }

    /// The last step of [`established`](Self::established). `new` are left before, and the result after.
    #[inline(always)]
    fn settle(
        &mut self,
        range: Range<usize>,
        mut new: usize,
        packets: &mut [Descriptor],
        verdicts: &mut [Verdict],
        flows: &mut FlowTable,
        work: &Work<'_>,
    ) -> usize {
        let again = work.policy.settings.reevaluate;
        let mut at = range.start;
        while at < range.end {
            if !again {
                let rest = at..range.end;
                let (packets, verdicts) = (&mut packets[rest.clone()], &mut verdicts[rest.clone()]);
                let known = Known {
                    keys: &self.keys[rest.clone()],
                    heads: &self.heads[rest.clone()],
                    traces: &self.traces[rest],
                    view: work.view,
                    now: work.now,
                };
                at += if work.translates {
                    pass_translating::<V>(packets, verdicts, known, flows, work.snapshot)
                } else {
                    pass_living::<V>(packets, verdicts, known, flows)
                };
                if at == range.end {
                    break;
                }
            }
            match self.find(at, &mut packets[at], flows, work) {
                Some(verdict) => verdicts[at] = verdict,
                None => {
                    self.new[new] = at as u8;
                    new += usize::from(!self.heads[at].is(Head::DECIDED));
                }
            }
            at += 1;
        }
        new
    }

    /// The verdict about a packet of a living flow.
    fn find(
        &mut self,
        at: usize,
        packet: &mut Descriptor,
        flows: &mut FlowTable,
        work: &Work<'_>,
    ) -> Option<Verdict> {
        let head = self.heads[at];
        if head.is(Head::DECIDED | Head::UNTRACKED) {
            return None;
        }
        let index = flows.trace_end(self.traces[at], &self.keys[at], self.hashes[at])?;
        if head.is(Head::RELATED) {
            if !flows.is_live(index, work.now) {
                return None;
            }
            translate::<V>(packet, head, index, flows, work);
            return Some(on(head));
        }
        let again = work.policy.settings.reevaluate;
        if again && flows.leg(index).policy_generation != work.policy.generation {
            self.heads[at].set(Head::STALE);
            return None;
        }
        let bytes = length::<V>(packet, work.view);
        match flows.packet(index, head.tcp, bytes, work.now) {
            Tracked::Live => {
                translate::<V>(packet, head, index, flows, work);
                Some(on(head))
            }
            Tracked::Invalid => Some(Verdict::discard(Drop::Invalid)),
            Tracked::Expired | Tracked::Reopened => None,
        }
    }

    /// All packets that are not decided, where no flow lives.
    fn all_new(&mut self, count: usize) -> usize {
        let mut new = 0;
        for (at, head) in self.heads[..count].iter().enumerate() {
            self.new[new] = at as u8;
            new += usize::from(!head.is(Head::DECIDED));
        }
        new
    }

    /// Decides about the first `new` positions of the list.
    #[inline(never)]
    fn decide(
        &mut self,
        new: usize,
        packets: &mut [Descriptor],
        verdicts: &mut [Verdict],
        work: &Work<'_>,
        mut flows: Option<&mut FlowTable>,
        watch: &mut FlowWatch,
    ) {
        let first = packets
            .first()
            .map_or(NO_INTERFACE, |packet| packet.interface);
        let others = packets.iter().map(|packet| packet.interface ^ first);
        self.one_interface = others.fold(0, |all, other| all | other) == 0;
        self.ask(new, packets, work);
        let asked = self.foresee(new, packets, work);
        let mut slot = 0;
        // Once a flow is made or removed, what the look-up found may be another's.
        let mut changed = false;
        while slot < new {
            let direct = direct(work, self.packet(slot, packets).interface);
            let end = self.run(slot, new, packets);
            while slot < end {
                if let Some(list) = direct.filter(|_| !changed) {
                    slot = self.pass(slot..end, list, packets, verdicts, work);
                    if slot == end {
                        break;
                    }
                }
                let at = usize::from(self.new[slot]);
                let packet = &mut packets[at];
                if direct.is_some() {
                    self.find_exit(slot, packet, work);
                }
                if let Some(flows) = &flows {
                    self.prefetch(slot, new, flows, work);
                }
                let redirect = self.redirects[slot].filter(|_| work.translates);
                let target = redirect
                    .and_then(|found| Target::new(&self.keys[at], packet.interface, found, work));
                let refused = match redirect {
                    Some(Redirect::Refused(why)) => Some(why),
                    _ => None,
                };
                let case = Case::<V> {
                    key: &self.keys[at],
                    head: self.heads[at],
                    question: &self.questions[slot],
                    target,
                    source: self.sources[slot],
                    refused,
                    exit: self.exits[slot],
                    interface: packet.interface,
                    bytes: length::<V>(packet, work.view),
                    ahead: Ahead {
                        foreseen: &self.foreseen,
                        asked: &asked,
                        slot,
                        counters: work.counters,
                    },
                };
                let outcome = case.decide(flows.as_deref_mut(), work, watch, &mut changed);
                let head = case.head;
                verdicts[at] = match outcome {
                    Ok(flow) => {
                        if let (Some(index), Some(flows)) = (flow, &flows) {
                            translate::<V>(packet, head, index, flows, work);
                        }
                        on(head)
                    }
                    Err(reason) => self.denied(reason, at, packet, work),
                };
                slot += 1;
            }
        }
    }

    fn packet<'p>(&self, slot: usize, packets: &'p [Descriptor]) -> &'p Descriptor {
        &packets[usize::from(self.new[slot])]
    }

    /// One past the last slot of those from `slot` on whose packets came in by the same interface.
    fn run(&self, slot: usize, new: usize, packets: &[Descriptor]) -> usize {
        if self.one_interface {
            return new;
        }
        let interface = self.packet(slot, packets).interface;
        let mut rest = slot..new;
        let other = rest.find(|slot| self.packet(*slot, packets).interface != interface);
        other.unwrap_or(new)
    }

    /// Where the packet of a slot goes, with its destination translated where it is.
    #[inline]
    fn find_exit(&mut self, slot: usize, packet: &Descriptor, work: &Work<'_>) {
        let at = usize::from(self.new[slot]);
        let mut after = self.keys[at];
        let mut destination = self.questions[slot].destination();
        if work.translates {
            let interface = packet.interface;
            let redirect =
                redirect::<V>(&self.questions[slot], interface, &mut self.affinities, work);
            self.redirects[slot] = redirect;
            if let Some(found) = redirect
                && let Some(arrival) = arrival::<V>(&after, interface, found, work)
            {
                after = arrived::<V>(&after, &arrival);
                destination = arrival.address;
                if let Some(pool) = arrival.source {
                    after = expected::<V>(&after, pool);
                }
            }
        }
        let bytes = work.view.bytes(packet);
        let head = self.heads[at];
        self.leaving[slot] = after;
        self.exits[slot] = exit::<V>(work.snapshot, packet.interface, head, destination, bytes);
    }

    /// Asks the rules about sources, and what packets will probably become.
    fn foresee_sources(&mut self, new: usize, work: &Work<'_>) {
        let translation = V::translation(work.snapshot);
        let mut slot = 0;
        while slot < new {
            let exit = self.exits[slot];
            let other = (slot..new).find(|slot| self.exits[*slot] != exit);
            let run = slot..other.unwrap_or(new);
            slot = run.end;
            let found = &mut self.sources[run.clone()];
            let Some(rules) = translation.source_of(exit.interface()) else {
                found.fill(NO_MATCH);
                continue;
            };
            rules.find_all(&self.questions[run.clone()], found);
            for (leaving, found) in self.leaving[run].iter_mut().zip(found) {
                if let Some(Source::Pool(pool)) = rules.rule(*found) {
                    *leaving = expected::<V>(leaving, pool);
                }
            }
        }
    }

    /// What rules are asked about the packets, and where these would go.
    fn ask(&mut self, new: usize, packets: &[Descriptor], work: &Work<'_>) {
        for (question, at) in self.questions.iter_mut().zip(&self.new[..new]) {
            let at = usize::from(*at);
            let bytes = work.view.bytes(&packets[at]);
            *question = question_of::<V>(&self.keys[at], self.heads[at], bytes);
        }
        let mut slot = 0;
        while slot < new {
            let end = self.run(slot, new, packets);
            if direct(work, self.packet(slot, packets).interface).is_none() {
                for slot in slot..end {
                    self.find_exit(slot, self.packet(slot, packets), work);
                }
            }
            slot = end;
        }
        if work.translates {
            self.foresee_sources(new, work);
        }
        work.policy.classify_all(&mut self.questions[..new]);
    }

    /// Asks the lists that the packets will meet.
    fn foresee<'a>(&mut self, new: usize, packets: &[Descriptor], work: &Work<'a>) -> Asked<'a> {
        let Self {
            new: positions,
            heads,
            exits,
            questions,
            foreseen,
            hearing,
            one_interface,
            ..
        } = self;
        let what = |slot: usize| {
            let at = usize::from(positions[slot]);
            (
                packets[at].interface,
                exits[slot],
                heads[at].is(Head::UNTRACKED),
            )
        };
        let next = |slot: usize| {
            let (interface, exit, untracked) = what(slot);
            let input = work.policy.of(interface);
            let mut rest = slot..new;
            if direct(work, interface).is_some() {
                let other = |slot: &usize| what(*slot).0 != interface;
                let end = if *one_interface {
                    None
                } else {
                    rest.find(other)
                };
                return (lists(input, Way::Nowhere, false), end.unwrap_or(new));
            }
            let end = rest.find(|slot| what(*slot) != (interface, exit, untracked));
            let way = exit.way(work.policy);
            (lists(input, way, untracked), end.unwrap_or(new))
        };
        foreseen.foresee(&questions[..new], next, hearing)
    }

    /// Passes and drops from the front of a run, whose interface [`direct`] says this list of, up to the first packet that is to be
    /// remembered or decided again. Returns the slot behind.
    fn pass(
        &self,
        run: Range<usize>,
        list: Option<&AccessProgram>,
        packets: &mut [Descriptor],
        verdicts: &mut [Verdict],
        work: &Work<'_>,
    ) -> usize {
        let end = run.end;
        let tracks = list.is_some_and(|list| !list.reflects.is_empty());
        for slot in run {
            let at = usize::from(self.new[slot]);
            let head = self.heads[at];
            if head.is(Head::STALE) {
                return slot;
            }
            verdicts[at] = on(head);
            let Some(list) = list else {
                continue;
            };
            let Some(judgement) = self.foreseen.access(slot) else {
                return slot;
            };
            let Judgement { allow, rule } = judgement;
            if tracks && allow && list.reflects.binary_search(&rule).is_ok() {
                return slot;
            }
            work.counters.count(judgement);
            if !allow {
                verdicts[at] = self.denied(Drop::AccessList, at, &mut packets[at], work);
            }
        }
        end
    }

    /// The verdict about a packet that may not pass, at a position of the frame.
    fn denied(&self, reason: Drop, at: usize, packet: &mut Descriptor, work: &Work<'_>) -> Verdict {
        if reason == Drop::NatExhausted {
            // RFC 5508 section 6 (REQ-8): the sender is told.
            packet.word = self.prohibited.to_word();
            return ERROR;
        }
        if reason == Drop::ServiceNoBackends {
            // As kube-proxy does, of TCP, too.
            packet.word = self.unreachable.to_word();
            return ERROR;
        }
        if !(work.policy.settings.reject && reason.is_answered()) {
            return Verdict::discard(reason);
        }
        if is_tcp(&self.keys[at], self.heads[at]) {
            return RESET;
        }
        packet.word = self.prohibited.to_word();
        ERROR
    }

    /// Asks for lines that the flows of the next packets will need.
    #[inline]
    fn prefetch(&self, slot: usize, new: usize, flows: &FlowTable, work: &Work<'_>) {
        let [second, first] = NEXT;
        let keys = |slot: usize| {
            let key = self.keys[usize::from(self.new[slot])];
            let leaves = if work.translates {
                self.leaving[slot]
            } else {
                key
            };
            [key, leaves.reversed()]
        };
        let begin = if slot == 0 { 0 } else { slot + first };
        for slot in begin..(slot + first + 1).min(new) {
            if !self.foreseen.is_denied(slot) {
                for key in keys(slot) {
                    flows.prefetch(flows.hash(&key));
                }
            }
        }
        if slot + second < new && !self.foreseen.is_denied(slot + second) {
            for key in keys(slot + second) {
                flows.prefetch_insert(flows.hash(&key));
            }
        }
    }
}

/// The access list that alone is asked about packets of an interface, or none where nothing is, if no more has to be known about a
/// packet than what it says: not where they go, and nothing is to be logged or reported.
fn direct<'a>(work: &Work<'a>, interface: u16) -> Option<Option<&'a AccessProgram>> {
    if work.hears || !work.policy.exits_are_free {
        return None;
    }
    let Some(of) = work.policy.of(interface) else {
        return Some(None);
    };
    let list = of.access[INPUT].as_deref();
    let quiet = of.staged.is_none() && list.is_none_or(|list| !list.program.has_logs());
    (of.kind == EndpointKind::None && quiet).then_some(list)
}

/// Where a packet goes that may.
#[inline(always)]
fn on(head: Head) -> Verdict {
    if head.is(Head::TO_HOST) {
        LOCAL
    } else {
        LOOKUP
    }
}

/// Where a packet goes that this host sends: an answer to what came in by the packet's interface.
#[cold]
fn answered<V: Version>(packet: &Descriptor, bytes: &[u8], work: &Work<'_>) -> Verdict {
    let Some([reply, request]) = echo_reply::<V>(bytes) else {
        return LOOKUP;
    };
    let exit = exit::<V>(
        work.snapshot,
        packet.interface,
        Head::default(),
        reply.destination(),
        bytes,
    );
    let answer = answer(
        &work.policy.classify(request),
        &work.policy.classify(reply),
        work.policy.of(packet.interface),
        work.policy.of(exit.interface()),
        work.counters,
    );
    match answer {
        Answer::Passes => LOOKUP,
        Answer::Denied(_) => Verdict::discard(Drop::PolicyDenied),
        Answer::Untracked => Verdict::discard(Drop::Invalid),
    }
}

/// What comes before flows: closed workloads, forged sources, untracked lists. True where an untracked list allows the packet.
#[inline(never)]
fn guard<V: Version>(
    policy: &InterfacePolicy,
    key: &V::Key,
    head: Head,
    packet: &[u8],
    work: &Work<'_>,
) -> Result<bool, Drop> {
    if policy.kind == EndpointKind::Workload {
        if policy.closed {
            return Err(Drop::Closed);
        }
        let (source, _) = V::addresses(packet);
        let on_link = head.is(Head::TO_HOST) || V::is_to_host(source);
        let talk = || on_link && is_link_talk(&question_of::<V>(key, head, packet));
        return if V::may_send(policy, source) || talk() {
            Ok(false)
        } else {
            Err(Drop::Spoofed)
        };
    }
    let Some(list) = &policy.lists.untracked[INGRESS] else {
        return Ok(false);
    };
    let asked = work.policy.classify(question_of::<V>(key, head, packet));
    let judgement = list.judge(&asked);
    if !judgement.is_decided() {
        return Ok(false);
    }
    work.counters.count(judgement);
    if judgement.allow {
        Ok(true)
    } else {
        Err(Drop::PolicyDenied)
    }
}
