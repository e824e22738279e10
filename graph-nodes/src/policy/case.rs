//! The first packet of a flow: what is translated, whether it may pass, and what is remembered of it.

use tables::acl::Key;
use tables::{
    Direction, FlowClass, FlowIndex, FlowKey, FlowState, FlowTable, FlowView, Inserted, Leg,
    LegFlags, NewFlow, Tracked,
};

use super::ahead::Ahead;
use super::decide::{Asking as _, Counting, Fate, Seen, Way, decide, decide_by};
use super::enforce::Work;
use super::events::{FlowWatch, Lone};
use super::packet::{Exit, Head, Version, question_of_flow, redirected};
use super::{Drop, Judgement, OUTPUT, RuleId};
use crate::nat::{
    Affinities, Arrival, DestinationRules, Pool, Redirect, Refusal, SERVED, Source,
    Translated as _, has_ports,
};
use crate::snapshot::NO_INTERFACE;

/// What became of a packet: it passes, as one of a flow or of none.
type Outcome = Result<Option<FlowIndex>, Drop>;

/// A packet to be decided about.
pub(super) struct Case<'a, V: Version> {
    pub(super) key: &'a V::Key,
    pub(super) head: Head,
    pub(super) question: &'a Key<V::Address>,
    /// What it becomes, where its destination is translated.
    pub(super) target: Option<Target<'a, V>>,
    /// The rule about the source of the packet as it came.
    pub(super) source: u32,
    /// Why a service that it is sent to does not take it.
    pub(super) refused: Option<Refusal>,
    pub(super) exit: Exit,
    pub(super) interface: u16,
    pub(super) bytes: u32,
    pub(super) ahead: Ahead<'a>,
}

/// A packet whose destination was translated.
pub(super) struct Target<'a, V: Version> {
    key: V::Key,
    question: Key<V::Address>,
    /// What its source becomes, whatever rules about sources say.
    source: Option<&'a Pool<V::Address>>,
    /// A service has chosen it.
    served: bool,
}

/// What is to be remembered about a flow that may pass.
enum Binding<K> {
    /// Nothing on account of translation.
    None,
    /// That it is there: its answers would be translated if they began a flow.
    Untranslated,
    /// What its packets become: the key that they would have as they leave.
    Becomes(K),
}

/// What translates the destinations of packets that come in by an interface.
fn destinations<'a, V: Version>(
    interface: u16,
    work: &Work<'a>,
) -> Option<&'a DestinationRules<V::Address>> {
    let snapshot = work.snapshot;
    let vrf = snapshot.interfaces.get(usize::from(interface))?.vrf;
    V::translation(snapshot).destination_of(vrf)
}

/// What is said about the destination of a packet.
pub(super) fn redirect<V: Version>(
    question: &Key<V::Address>,
    interface: u16,
    affinities: &mut Affinities<V::Address>,
    work: &Work<'_>,
) -> Option<Redirect> {
    destinations::<V>(interface, work)?.find(question, affinities, work.now)
}

/// What the destination of a packet becomes that this was found for.
pub(super) fn arrival<'a, V: Version>(
    key: &V::Key,
    interface: u16,
    found: Redirect,
    work: &Work<'a>,
) -> Option<Arrival<'a, V::Address>> {
    let ((source, destination), (_, port)) = (V::ends(key), V::ports(key));
    destinations::<V>(interface, work)?.arrival(found, source, (destination, port))
}

/// The key of a packet with its destination translated.
pub(super) fn arrived<V: Version>(key: &V::Key, arrival: &Arrival<'_, V::Address>) -> V::Key {
    let ends = (V::ends(key).0, arrival.address);
    let ports = (V::ports(key).0, arrival.port);
    V::key(ends, ports, key.protocol(), key.zone())
}

/// The key that a packet of a new flow is likely to leave with, with its destination translated: good for asking for memory.
pub(super) fn expected<V: Version>(after: &V::Key, pool: &Pool<V::Address>) -> V::Key {
    let ((host, to), ports) = (V::ends(after), V::ports(after));
    match pool.addresses_for(host).next() {
        Some(address) => V::key((address, to), ports, after.protocol(), after.zone()),
        None => *after,
    }
}

impl<'a, V: Version> Target<'a, V> {
    /// What was found for a packet makes of it.
    pub(super) fn new(
        key: &V::Key,
        interface: u16,
        found: Redirect,
        work: &Work<'a>,
    ) -> Option<Self> {
        let arrival = arrival::<V>(key, interface, found, work)?;
        let key = arrived::<V>(key, &arrival);
        Some(Self {
            key,
            question: work.policy.classify(question_of_flow::<V>(&key)),
            source: arrival.source,
            served: arrival.served,
        })
    }
}

impl<V: Version> Case<'_, V> {
    pub(super) fn decide(
        &self,
        mut flows: Option<&mut FlowTable>,
        work: &Work<'_>,
        watch: &mut FlowWatch,
        changed: &mut bool,
    ) -> Outcome {
        let known = match flows.as_deref_mut() {
            Some(flows) if *changed || self.head.is(Head::STALE) => {
                self.known(flows, work, watch, changed)
            }
            _ => None,
        };
        known.unwrap_or_else(|| self.first(flows, work, watch, changed))
    }

    /// The packet's flow may have been made by one in front of it in the frame, or is to be decided again. `None` where it is a
    /// new flow's first.
    fn known(
        &self,
        flows: &mut FlowTable,
        work: &Work<'_>,
        watch: &mut FlowWatch,
        changed: &mut bool,
    ) -> Option<Outcome> {
        if self.head.is(Head::UNTRACKED) {
            return None;
        }
        let index = flows.lookup(self.key, flows.hash(self.key))?;
        if !flows.is_live(index, work.now) {
            return None;
        }
        if self.head.is(Head::RELATED) {
            return Some(Ok(Some(index)));
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
            Tracked::Live => Some(Ok(Some(index))),
            Tracked::Invalid => Some(Err(Drop::Invalid)),
            Tracked::Expired | Tracked::Reopened => None,
        }
    }

    /// Decides again about a flow as its first packet would be, and notes the result where it stays. What it is translated to stays.
    fn is_still_allowed(&self, flows: &mut FlowTable, index: FlowIndex, work: &Work<'_>) -> bool {
        let Some(view) = flows.view(index) else {
            return false;
        };
        let (input, output) = (
            view.interface(Direction::Forward),
            view.interface(Direction::Reverse),
        );
        let is_forward = index.direction() == Direction::Forward;
        let is_translated = flows.leg(index).flags.has(LegFlags::REWRITE);
        let fate = if is_forward && !is_translated {
            self.judge(work)
        } else {
            let peer = flows.key::<V::Key>(index.peer());
            let Some(peer) = peer else { return false };
            let (forward, reverse) = if is_forward {
                (*self.key, peer)
            } else {
                (peer, *self.key)
            };
            let classified = |key: &V::Key| work.policy.classify(question_of_flow::<V>(key));
            let before = classified(&forward);
            let after = classified(&redirected::<V>(&forward, &reverse));
            let leaving = classified(&reverse.reversed());
            // Answers come in where the flow's own packets go out.
            let way = match (output, is_forward) {
                (NO_INTERFACE, _) => Way::Host,
                (output, true) => Way::Out(work.policy.of(output)),
                (_, false) => Way::Out(work.policy.of(self.interface)),
            };
            let seen = Seen {
                before: &before,
                after: &after,
                leaving: Some(&leaving),
            };
            decide(
                seen,
                work.policy.of(input),
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

    /// A packet of no flow: may it pass, what does it become, and is its flow to be remembered?
    fn first(
        &self,
        flows: Option<&mut FlowTable>,
        work: &Work<'_>,
        watch: &mut FlowWatch,
        changed: &mut bool,
    ) -> Outcome {
        let class = FlowClass::of(self.key.protocol());
        let fate = self.judge(work);
        if work.hears {
            watch.decided(&self.lone(), fate, work.policy, work.now_ns);
        }
        let (mut track, rules, by_policy) = match fate {
            Fate::Deny { by, .. } => return Err(by.into()),
            Fate::Pass {
                track,
                rules,
                by_policy,
            } => (track, rules, by_policy),
        };
        let mut binding = Binding::None;
        if work.translates && !self.head.is(Head::UNTRACKED) {
            let flows = flows.as_deref().ok_or(Drop::FlowTableFull)?;
            binding = self.bind(flows, work)?;
            if self.skips_output_list(work)
                && let Binding::Becomes(leaving) = &binding
            {
                track |= self.may_leave(leaving, work)?;
            }
            track |= !matches!(binding, Binding::None);
        }
        if !track {
            return Ok(None);
        }
        if is_tcp(self.key, self.head) && !self.head.tcp.is_valid() {
            return Err(Drop::Invalid);
        }
        if self.head.is(Head::LONE) {
            // An ICMP error without a flow: invalid where connections are tracked, none of an access list's business.
            return if by_policy {
                Err(Drop::Invalid)
            } else {
                Ok(None)
            };
        }
        let Some(state) = FlowState::first(class, self.head.tcp, true) else {
            return Ok(None);
        };
        let flows = flows.ok_or(Drop::FlowTableFull)?;
        let mut flow = NewFlow::new(*self.key, state);
        let mut flags = LegFlags::default();
        if let Binding::Becomes(leaving) = binding {
            flow.reply = leaving.reversed();
            flow.rewrites = [
                self.key.rewrite_to(&leaving),
                flow.reply.rewrite_to(&self.key.reversed()),
            ];
            flags = LegFlags::REWRITE;
            if self.is_served() {
                flags = flags.and(SERVED);
            }
        }
        let leg = |rule: RuleId| Leg {
            policy_generation: work.policy.generation,
            rule: rule.0,
            flags,
            ..Leg::default()
        };
        flow.legs = [leg(rules[0]), leg(rules[1])];
        flow.interfaces = [self.interface, self.exit.interface()];
        let ended = |flow: &FlowView<'_>, end| watch.ended(flow, end, work.policy, work.now_ns);
        let (index, is_new) = match flows.insert(&flow, work.now, ended) {
            Inserted::New(index) => {
                *changed = true;
                (index, true)
            }
            Inserted::Exists(index) => (index, false),
            Inserted::Clash(_) if flags.has(LegFlags::REWRITE) => return Err(Drop::NatExhausted),
            Inserted::Clash(_) | Inserted::Full => return Err(Drop::FlowTableFull),
        };
        let tracked = flows.packet(index, self.head.tcp, self.bytes, work.now);
        if is_new & watch.is_listening() {
            watch.started(flows, index, work.policy, work.now_ns);
        }
        match tracked {
            Tracked::Invalid => Err(Drop::Invalid),
            Tracked::Live | Tracked::Expired | Tracked::Reopened => Ok(Some(index)),
        }
    }

    /// A service has chosen where it goes.
    fn is_served(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.served)
    }

    /// What the packet becomes.
    fn bind(&self, flows: &FlowTable, work: &Work<'_>) -> Result<Binding<V::Key>, Drop> {
        match self.refused {
            Some(Refusal::Source) => return Err(Drop::ServiceSource),
            Some(Refusal::NoBackends) => return Err(Drop::ServiceNoBackends),
            None => {}
        }
        let translation = V::translation(work.snapshot);
        let vrf = work.snapshot.interfaces.get(usize::from(self.interface));
        let vrf = vrf.map_or(0, |interface| interface.vrf);
        let (after, asked) = match &self.target {
            Some(target) => (&target.key, &target.question),
            None => (self.key, self.question),
        };
        let destination = translation.destination_of(vrf);
        if self.target.is_none()
            && destination.is_some_and(|rules| rules.is_external(asked.destination()))
        {
            return Err(Drop::NatNoSession);
        }
        let out = self.exit.interface();
        let rules = translation.source_of(out);
        let of_source = self.target.as_ref().and_then(|target| target.source);
        let mut by_rule = rules.and_then(|rules| match &self.target {
            Some(_) => rules.find(asked),
            None => rules.rule(self.source),
        });
        // Back inside, as if the packet had gone out to where it was sent: the answers have to come by here (a service says itself whose do). What comes from outside
        // goes on with the source that it has.
        let is_inside = translation.source_of(self.interface).is_none();
        let is_forwarded = self.target.as_ref().is_some_and(|target| !target.served);
        if by_rule.is_none() && is_forwarded && (is_inside || out == self.interface) {
            let hairpin = translation.hairpin_of(vrf);
            by_rule = hairpin.and_then(|rules| rules.find(self.question));
        }
        let leaving = match (of_source, by_rule) {
            (Some(pool), _) => Some(self.choose(pool, after, flows, work)),
            (None, Some(Source::Pool(pool))) => Some(self.choose(pool, after, flows, work)),
            (None, Some(source @ Source::Prefix { .. })) => {
                let ((from, to), ports) = (V::ends(after), V::ports(after));
                let ends = (source.apply(from), to);
                Some(Ok(V::key(ends, ports, after.protocol(), after.zone())))
            }
            (None, Some(Source::Exempt) | None) => None,
        };
        if self.head.is(Head::LONE) {
            // What belongs to no flow is not translated, and may not leave as it is.
            return match leaving.is_some() || self.target.is_some() {
                true => Err(Drop::NatNoSession),
                false => Ok(Binding::None),
            };
        }
        let leaving = match leaving {
            Some(leaving) => leaving?,
            None if self.is_served() => self.keep_source(after, flows, work),
            None => *after,
        };
        Ok(if leaving != *self.key {
            Binding::Becomes(leaving)
        } else if rules.is_some() || translation.source_of(self.interface).is_some() {
            Binding::Untranslated
        } else {
            Binding::None
        })
    }

    /// An address and a port of a pool that no flow to the same endpoint has: the key that the packet leaves with.
    fn choose(
        &self,
        pool: &Pool<V::Address>,
        after: &V::Key,
        flows: &FlowTable,
        work: &Work<'_>,
    ) -> Result<V::Key, Drop> {
        let counted = |allow| {
            work.counters_of_pools().count(Judgement {
                allow,
                rule: RuleId(u32::from(pool.number) + 1),
            });
        };
        for address in pool.addresses_for(V::ends(after).0) {
            if let Some(key) = self.free(pool, address, after, flows, work) {
                counted(true);
                return Ok(key);
            }
        }
        counted(false);
        Err(Drop::NatExhausted)
    }

    /// The key that a packet leaves with whose source stays: with another port, where a flow to the same backend has its own (one to
    /// another address of the service, or to the backend itself), or answers would come to another worker.
    fn keep_source(&self, after: &V::Key, flows: &FlowTable, work: &Work<'_>) -> V::Key {
        let any = Pool {
            number: 0,
            addresses: Box::default(),
            ports: (1, u16::MAX),
            paired: true,
        };
        let own = V::ends(after).0;
        let free = self.free(&any, own, after, flows, work);
        free.unwrap_or(*after)
    }

    /// The key with this source address and a port of the pool that no flow to the same endpoint has.
    fn free(
        &self,
        pool: &Pool<V::Address>,
        address: V::Address,
        after: &V::Key,
        flows: &FlowTable,
        work: &Work<'_>,
    ) -> Option<V::Key> {
        let ((_, to), ports, protocol) = (V::ends(after), V::ports(after), after.protocol());
        let is_query =
            protocol == <V::Address as tables::acl::Address>::ICMP && ports.1 == u16::from(V::ECHO);
        let seed = flows.hash(after).to_bits();
        let is_free = |key: &V::Key| {
            let reply = key.reversed();
            if work
                .home
                .is_some_and(|home| !home.owns::<V>(&reply, work.snapshot))
            {
                return false;
            }
            let taken = flows.lookup(&reply, flows.hash(&reply));
            taken.is_none_or(|at| !flows.is_live(at, work.now))
        };
        let with = |port| V::key((address, to), (port, ports.1), protocol, after.zone());
        if has_ports(protocol) || is_query {
            let mut candidates = pool.ports_for(ports.0, seed).map(with);
            candidates.find(is_free)
        } else {
            Some(with(ports.0)).filter(is_free)
        }
    }

    /// Whether the access list on output is still to be asked when it is known what the packet becomes.
    fn skips_output_list(&self, work: &Work<'_>) -> bool {
        let out = self.exit.interface();
        let translates = V::translation(work.snapshot).source_of(out).is_some();
        work.translates
            && (translates || self.target.is_some())
            && work
                .policy
                .of(out)
                .is_some_and(|policy| policy.access[OUTPUT].is_some())
    }

    /// What the access list on output says about a packet as it leaves; whether it tracks.
    fn may_leave(&self, leaving: &V::Key, work: &Work<'_>) -> Result<bool, Drop> {
        let policy = work.policy.of(self.exit.interface());
        let Some(list) = policy.and_then(|policy| policy.access[OUTPUT].as_deref()) else {
            return Ok(false);
        };
        let asked = work.policy.classify(question_of_flow::<V>(leaving));
        let judged = Counting(work.counters).judge(&list.program, &asked);
        match judged.allow {
            true => Ok(list.reflects.binary_search(&judged.rule).is_ok()),
            false => Err(Drop::AccessList),
        }
    }

    /// As events tell of it.
    fn lone(&self) -> Lone<'_, V::Address> {
        let Seen { before, after, .. } = self.seen();
        Lone {
            asked: before,
            after,
            input: self.interface,
            exit: self.exit,
            bytes: self.bytes,
        }
    }

    fn seen(&self) -> Seen<'_, V::Address> {
        match &self.target {
            Some(target) => Seen {
                before: self.question,
                after: &target.question,
                leaving: Some(&target.question),
            },
            None => Seen::untranslated(self.question),
        }
    }

    fn judge(&self, work: &Work<'_>) -> Fate {
        let untracked = self.head.is(Head::UNTRACKED);
        let input = work.policy.of(self.interface);
        let way = self.exit.way(work.policy);
        let settings = &work.policy.settings;
        let mut seen = self.seen();
        if self.skips_output_list(work) {
            seen.leaving = None;
        }
        if self.target.is_some() {
            // What was foreseen is about the packet as it came.
            return decide(seen, input, way, untracked, settings, work.counters);
        }
        decide_by(seen, input, way, untracked, settings, self.ahead)
    }
}

/// Whether a packet itself is TCP, rather than one that an ICMP error quotes.
pub(super) fn is_tcp(key: &impl FlowKey, head: Head) -> bool {
    FlowClass::of(key.protocol()) == FlowClass::Tcp && !head.is(Head::RELATED)
}
