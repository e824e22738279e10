//! The work of `ip4-policy` and `ip6-policy`, written once: parse, look up flows, pass the packets of living ones, decide about
//! the others.

use dataplane::{Context, Descriptor, FRAME_SIZE, Flags, Frame, Verdict};
use tables::acl::Key;
use tables::{
    Direction, FlowClass, FlowHash, FlowIndex, FlowKey, FlowState, FlowTable, FlowView, Inserted,
    Leg, NewFlow, Tick, Tracked,
};

use super::counters::WorkerRules;
use super::decide::{Answer, Fate, Way, answer, decide, is_link_talk};
use super::events::{FlowWatch, Lone, tell_guarded};
use super::fragments::Fragments;
use super::owner::Home;
use super::packet::{Exit, Head, Version, echo_reply, exit, parse, question, question_of_flow};
use super::{Drop, EndpointKind, INGRESS, InterfacePolicy, Policy, RuleId};
use crate::icmp::ErrorWord;
use crate::snapshot::{NO_INTERFACE, Snapshot};

/// The edges of both nodes, in this order.
const LOOKUP: Verdict = Verdict::edge(0);
const LOCAL: Verdict = Verdict::edge(1);
const ERROR: Verdict = Verdict::edge(2);
const RESET: Verdict = Verdict::edge(3);

/// A node's memory: the work on one frame, and fragments.
pub(super) struct Enforcer<V: Version> {
    keys: Box<[V::Key]>,
    hashes: Box<[FlowHash]>,
    found: Box<[Option<FlowIndex>]>,
    heads: Box<[Head]>,
    /// Positions in the frame of packets without a living flow, and what is asked about them.
    new: Box<[u8]>,
    questions: Box<[Key<V::Address>]>,
    exits: Box<[Exit]>,
    fragments: Fragments<V::Key>,
    /// What is said about a packet that is denied where denials are answered.
    prohibited: ErrorWord,
}

/// What one frame needs, beside the memory.
struct Work<'a> {
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    counters: WorkerRules<'a>,
    now: Tick,
    home: Option<Home>,
    now_ns: u64,
}

impl<V: Version> Enforcer<V> {
    pub(super) fn new(prohibited: ErrorWord) -> Self {
        fn array<T: Clone>(value: T) -> Box<[T]> {
            vec![value; FRAME_SIZE].into()
        }
        Self {
            keys: array(V::Key::default()),
            hashes: array(FlowHash::default()),
            found: array(None),
            heads: array(Head::decided()),
            new: array(0),
            questions: array(Key::default()),
            exits: array(Exit::Nowhere),
            fragments: Fragments::default(),
            prohibited,
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
            home: Home::of(cx, policy),
            now_ns: cx.now_ns,
        };
        self.parse(packets, verdicts, &work, cx);
        if cx.state.watch().hears() {
            tell_guarded::<V>(packets, verdicts, &mut self.fragments, work.now, cx);
        }
        let new = match cx.state.flows() {
            Some(flows) => self.established(packets, verdicts, flows, &work),
            None => self.all_new(packets.len()),
        };
        if new > 0 {
            self.decide(new, packets, verdicts, &work, cx);
        }
        if let Some(home) = work.home {
            home.hand_over::<V>(&self.heads, &self.keys, packets, verdicts, cx);
        }
    }

    /// Reads every packet; those that are decided before flows are looked at get their verdict.
    #[inline(always)]
    fn parse(
        &mut self,
        packets: &[Descriptor],
        verdicts: &mut [Verdict],
        work: &Work<'_>,
        cx: &Context<'_, Snapshot>,
    ) {
        let view = cx.view;
        let mut at = 0;
        while at < packets.len() {
            // A run of packets of one interface has one policy.
            let interface = packets[at].interface;
            let vrf = work.snapshot.interfaces.get(usize::from(interface));
            let vrf = vrf.map_or(0, |interface| interface.vrf);
            let input = work.policy.of(interface);
            let guarded = input.filter(|policy| is_guarded(policy));
            while at < packets.len() && packets[at].interface == interface {
                let packet = &packets[at];
                let bytes = view.bytes(packet);
                let parsed = match V::plain(bytes, vrf) {
                    _ if packet.flags().contains(Flags::LOCAL) => {
                        Err(answered::<V>(packet, bytes, work))
                    }
                    Some(plain) => Ok(plain),
                    None => {
                        // Where they have been handed over to, they have met already.
                        let gather = work
                            .home
                            .filter(|_| !packet.flags().contains(Flags::HANDED_OVER));
                        let fragments = &mut self.fragments;
                        parse::<V>(bytes, vrf, interface, fragments, work.now, gather)
                            .map_err(Verdict::discard)
                    }
                };
                let guard = |(key, mut head): (V::Key, Head)| {
                    if let Some(policy) = guarded
                        && !head.is(Head::ELSEWHERE)
                        && guard::<V>(policy, &key, head, bytes, work).map_err(Verdict::discard)?
                    {
                        head.set(Head::UNTRACKED);
                    }
                    Ok((key, head))
                };
                match parsed.and_then(guard) {
                    Ok((key, mut head)) => {
                        if let Some(home) = work.home {
                            home.locate(&key, &mut head, packet.flags());
                        }
                        (self.keys[at], self.heads[at]) = (key, head);
                    }
                    Err(verdict) => {
                        (self.keys[at], self.heads[at]) = (V::Key::default(), Head::decided());
                        verdicts[at] = verdict;
                    }
                }
                at += 1;
            }
        }
    }

    /// Looks up all flows, and lets the packets of living ones pass. Returns how many are left.
    #[inline(always)]
    fn established(
        &mut self,
        packets: &[Descriptor],
        verdicts: &mut [Verdict],
        flows: &mut FlowTable,
        work: &Work<'_>,
    ) -> usize {
        let count = packets.len();
        if flows.gauges().live == 0 {
            return self.all_new(count);
        }
        for (hash, key) in self.hashes[..count].iter_mut().zip(&self.keys[..count]) {
            *hash = flows.hash(key);
        }
        flows.lookup_batch(
            &self.keys[..count],
            &self.hashes[..count],
            &mut self.found[..count],
        );
        let mut new = 0;
        let generation = work.policy.generation;
        let again = work.policy.settings.reevaluate;
        for at in 0..count {
            let head = self.heads[at];
            if let Some(index) = self.found[at]
                && !head.is(Head::DECIDED | Head::UNTRACKED)
            {
                if head.is(Head::RELATED) {
                    if flows.is_live(index, work.now) {
                        verdicts[at] = on(head);
                        continue;
                    }
                } else if again && flows.leg(index).policy_generation != generation {
                    self.heads[at].set(Head::STALE);
                } else {
                    let bytes = packets[at].length() as u32;
                    match flows.packet(index, head.tcp, bytes, work.now) {
                        Tracked::Live => {
                            verdicts[at] = on(head);
                            continue;
                        }
                        Tracked::Invalid => {
                            verdicts[at] = Verdict::discard(Drop::Invalid);
                            continue;
                        }
                        Tracked::Expired | Tracked::Reopened => {}
                    }
                }
            }
            self.new[new] = at as u8;
            new += usize::from(!head.is(Head::DECIDED));
        }
        new
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
        cx: &mut Context<'_, Snapshot>,
    ) {
        let view = cx.view;
        for (slot, at) in self.new[..new].iter().enumerate() {
            let at = usize::from(*at);
            let (packet, head) = (&packets[at], self.heads[at]);
            let bytes = view.bytes(packet);
            let asked = question::<V>(&self.keys[at], head, bytes);
            self.exits[slot] = exit::<V>(
                work.snapshot,
                packet.interface,
                head,
                asked.destination(),
                bytes,
            );
            self.questions[slot] = work.policy.classify(asked);
        }
        // Once a flow is made or removed, what the look-up found may be another's.
        let mut changed = false;
        for slot in 0..new {
            let at = usize::from(self.new[slot]);
            let (mut flows, watch) = cx.state.flows_and_watch();
            let packet = &mut packets[at];
            let case = Case::<V> {
                key: &self.keys[at],
                head: self.heads[at],
                asked: &self.questions[slot],
                exit: self.exits[slot],
                interface: packet.interface,
                bytes: packet.length() as u32,
            };
            let outcome = match flows.as_deref_mut() {
                Some(flows) if changed || case.head.is(Head::STALE) => {
                    case.known(flows, work, watch, &mut changed)
                }
                _ => None,
            };
            let outcome = outcome.unwrap_or_else(|| case.first(flows, work, watch, &mut changed));
            verdicts[at] = match outcome {
                Ok(()) => on(case.head),
                Err(reason) if work.policy.settings.reject && reason.is_answered() => {
                    if case.is_tcp() {
                        verdicts[at] = RESET;
                        continue;
                    }
                    packet.word = self.prohibited.to_word();
                    ERROR
                }
                Err(reason) => Verdict::discard(reason),
            };
        }
    }
}

/// A packet to be decided about.
struct Case<'a, V: Version> {
    key: &'a V::Key,
    head: Head,
    asked: &'a Key<V::Address>,
    exit: Exit,
    interface: u16,
    bytes: u32,
}

impl<V: Version> Case<'_, V> {
    /// Whether the packet itself is TCP, rather than one that an ICMP error quotes.
    fn is_tcp(&self) -> bool {
        let class = FlowClass::of(self.key.protocol());
        class == FlowClass::Tcp && !self.head.is(Head::RELATED)
    }

    /// The packet's flow may have been made by one in front of it in the frame, or is to be decided again. `None` where it is a
    /// new flow's first.
    fn known(
        &self,
        flows: &mut FlowTable,
        work: &Work<'_>,
        watch: &mut FlowWatch,
        changed: &mut bool,
    ) -> Option<Result<(), Drop>> {
        if self.head.is(Head::UNTRACKED) {
            return None;
        }
        let index = flows.lookup(self.key, flows.hash(self.key))?;
        if !flows.is_live(index, work.now) {
            return None;
        }
        if self.head.is(Head::RELATED) {
            return Some(Ok(()));
        }
        let stale = flows.leg(index).policy_generation != work.policy.generation;
        if stale && work.policy.settings.reevaluate && !self.is_still_allowed(flows, index, work) {
            // Decided as a packet of its own from here on.
            flows.remove(index, |flow, end| {
                watch.ended(flow, end, work.policy, work.now_ns);
            });
            *changed = true;
            return None;
        }
        match flows.packet(index, self.head.tcp, self.bytes, work.now) {
            Tracked::Live => Some(Ok(())),
            Tracked::Invalid => Some(Err(Drop::Invalid)),
            Tracked::Expired | Tracked::Reopened => None,
        }
    }

    /// Decides again about a flow as its first packet would be, and notes the result where it stays.
    fn is_still_allowed(&self, flows: &mut FlowTable, index: FlowIndex, work: &Work<'_>) -> bool {
        let Some(view) = flows.view(index) else {
            return false;
        };
        let (input, output) = (
            view.interface(Direction::Forward),
            view.interface(Direction::Reverse),
        );
        let fate = if index.direction() == Direction::Forward {
            self.judge(work)
        } else {
            let asked = work
                .policy
                .classify(question_of_flow::<V>(&self.key.reversed()));
            // Answers come in where the flow's own packets go out.
            let way = match output {
                NO_INTERFACE => Way::Host,
                _ => Way::Out(work.policy.of(self.interface)),
            };
            let input = work.policy.of(input);
            decide(
                &asked,
                input,
                way,
                false,
                &work.policy.settings,
                work.counters,
            )
        };
        let Fate::Pass {
            track: true, rules, ..
        } = fate
        else {
            return false;
        };
        let forward = match index.direction() {
            Direction::Forward => index,
            Direction::Reverse => index.peer(),
        };
        for (index, rule) in [(forward, rules[0]), (forward.peer(), rules[1])] {
            let leg = Leg {
                policy_generation: work.policy.generation,
                rule: rule.0,
                ..flows.leg(index)
            };
            flows.set_leg(index, leg);
        }
        true
    }

    /// A packet of no flow: may it pass, and is its flow to be remembered?
    fn first(
        &self,
        flows: Option<&mut FlowTable>,
        work: &Work<'_>,
        watch: &mut FlowWatch,
        changed: &mut bool,
    ) -> Result<(), Drop> {
        let class = FlowClass::of(self.key.protocol());
        let fate = self.judge(work);
        if watch.hears() {
            watch.decided(&self.lone(), fate, work.policy, work.now_ns);
        }
        let (rules, by_policy) = match fate {
            Fate::Deny { by, .. } => return Err(by.into()),
            Fate::Pass { track: false, .. } => return Ok(()),
            Fate::Pass {
                track: true,
                rules,
                by_policy,
            } => (rules, by_policy),
        };
        if self.is_tcp() && !self.head.tcp.is_valid() {
            return Err(Drop::Invalid);
        }
        if self.head.is(Head::LONE) {
            // An ICMP error without a flow: invalid where connections are tracked, none of an access list's business.
            return if by_policy {
                Err(Drop::Invalid)
            } else {
                Ok(())
            };
        }
        let Some(state) = FlowState::first(class, self.head.tcp, true) else {
            return Ok(());
        };
        let flows = flows.ok_or(Drop::FlowTableFull)?;
        let leg = |rule: RuleId| Leg {
            policy_generation: work.policy.generation,
            rule: rule.0,
            ..Leg::default()
        };
        let mut flow = NewFlow::new(*self.key, state);
        flow.legs = [leg(rules[0]), leg(rules[1])];
        flow.interfaces = [self.interface, self.exit.interface()];
        let ended = |flow: &FlowView<'_>, end| watch.ended(flow, end, work.policy, work.now_ns);
        let (index, is_new) = match flows.insert(&flow, work.now, ended) {
            Inserted::New(index) => {
                *changed = true;
                (index, true)
            }
            Inserted::Exists(index) => (index, false),
            Inserted::Clash(_) | Inserted::Full => return Err(Drop::FlowTableFull),
        };
        let tracked = flows.packet(index, self.head.tcp, self.bytes, work.now);
        if is_new & watch.is_listening() {
            watch.started(flows, index, work.policy, work.now_ns);
        }
        match tracked {
            Tracked::Invalid => Err(Drop::Invalid),
            Tracked::Live | Tracked::Expired | Tracked::Reopened => Ok(()),
        }
    }

    /// As events tell of it.
    fn lone(&self) -> Lone<'_, V::Address> {
        Lone {
            asked: self.asked,
            input: self.interface,
            exit: self.exit,
            bytes: self.bytes,
        }
    }

    fn judge(&self, work: &Work<'_>) -> Fate {
        let way = match self.exit {
            Exit::Host => Way::Host,
            Exit::Interface(number) => Way::Out(work.policy.of(number)),
            Exit::Nowhere => Way::Nowhere,
        };
        let untracked = self.head.is(Head::UNTRACKED);
        let input = work.policy.of(self.interface);
        let settings = &work.policy.settings;
        decide(self.asked, input, way, untracked, settings, work.counters)
    }
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
    let Some((reply, request)) = echo_reply::<V>(bytes) else {
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

/// Whether packets that an interface receives are looked at before flows are.
fn is_guarded(policy: &InterfacePolicy) -> bool {
    match policy.kind {
        EndpointKind::None => false,
        EndpointKind::Workload => {
            policy.closed || !policy.sources4.is_empty() || !policy.sources6.is_empty()
        }
        EndpointKind::Host => policy.untracked_input().is_some(),
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
        let talk = || on_link && is_link_talk(&question::<V>(key, head, packet));
        return if V::may_send(policy, source) || talk() {
            Ok(false)
        } else {
            Err(Drop::Spoofed)
        };
    }
    let Some(list) = &policy.lists.untracked[INGRESS] else {
        return Ok(false);
    };
    let asked = work.policy.classify(question::<V>(key, head, packet));
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
