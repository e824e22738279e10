//! What a worker tells of its flows: that they begin, live on and end, what is denied, what rules log, and all of them where
//! somebody asks.
//!
//! ```text
//!   control ──commands──► [`FlowWatch`] (the worker's end) ──events, dump──► [`FlowWatcher`] (control's end)
//! ```
//!
//! Three rings of fixed size per worker. The worker never waits: an event that finds the ring full is lost and counted; a dump
//! and the round of updates go on when there is room. Packets of living flows are not seen here at all; where nobody listens, the
//! beginning and the end of a flow and a denied packet cost one test.

mod asking;
mod denials;
mod early;
#[cfg(test)]
mod tests;

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::Counter;
use tables::acl::{Family, Key, Prefix};
use tables::{
    AnyFlowKey, Direction, FlowClass, FlowEnd, FlowIndex, FlowKey as _, FlowScan, FlowState,
    FlowTable, FlowView, LegFlags, Tick, TokenBucket,
};

use super::decide::{Denial, Fate};
use super::packet::{Exit, Ip4, Ip6, Version, question_of_flow};
use super::{Drop, JudgedAddress, Policy, RuleId, SetAddress};
use crate::snapshot::NO_INTERFACE;
use denials::Denials;

pub(super) use early::tell_guarded;

/// Events that wait for control before further ones are lost.
pub const EVENT_RING: usize = 16_384;
/// Flows of a dump that wait for control before the dump pauses.
const DUMP_RING: usize = 1024;
/// Commands that wait for the worker.
const COMMAND_RING: usize = 16;

/// Log lines of one worker per second in the long run, and at once.
const LOGS: (u64, u64) = (100, 100);

/// Places of the table that a busy worker's turn looks at for a dump, and for updates.
const BUDGET: u32 = 128;
/// Likewise, of a worker that has slept since its last turn.
const IDLE_BUDGET: u32 = 4096;
/// Nanoseconds between the turns of a worker that sleeps.
const IDLE_NS: u64 = 1_000_000;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowNews {
    /// A flow was allowed, and is remembered.
    Started,
    /// It lives on.
    Updated,
    /// It is over.
    Ended(FlowEnd),
    /// Packets were denied.
    Denied(Drop),
    /// A rule logs a packet.
    Logged,
}

/// An event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEvent {
    /// What happened.
    pub news: FlowNews,
    /// When: nanoseconds of the worker's clock.
    pub time_ns: u64,
    /// Whether the packets pass.
    pub allow: bool,
    /// To what. The rules of denied and logged packets are one; the counts of denied ones are those since the last event of the
    /// same rule and ends, of the source.
    pub flow: FlowFacts,
    /// What staged policies would do; `None` where none concern the flow, and for logged packets.
    pub staged: Option<Staged>,
}

/// What staged policies would do with a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Staged {
    /// Whether it would pass.
    pub allow: bool,
    /// What would decide: as [`FlowFacts::rules`].
    pub rules: [RuleId; 2],
}

/// What is known about a flow. Arrays are by direction: forward (of who spoke first), reverse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowFacts {
    /// Who spoke first.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Source and destination port, of protocols that have them.
    pub ports: Option<(u16, u16)>,
    /// Type and code, of ICMP.
    pub icmp: Option<(u8, u8)>,
    /// What its packets become, where they are translated.
    pub becomes: Option<FlowEnds>,
    /// Where packets of each direction come in; [`NO_INTERFACE`] for this host.
    pub interfaces: [u16; 2],
    /// What allowed it where it came in and where it goes out; for what is denied, what denied it.
    pub rules: [RuleId; 2],
    /// Packets and bytes.
    pub counts: [FlowCount; 2],
    /// How far it has come.
    pub state: FlowState,
    /// How it is tracked.
    pub class: FlowClass,
    /// Nanoseconds since the first packet.
    pub age_ns: u64,
    /// Nanoseconds since the last packet.
    pub idle_ns: u64,
    /// Nanoseconds that it lives on if no packet comes.
    pub left_ns: u64,
}

/// What packets of a flow say about their ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEnds {
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// Source and destination port, of protocols that have them; of an echo request, its identifier twice.
    pub ports: Option<(u16, u16)>,
}

/// What went one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowCount {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}

/// Which flows. What is absent matches all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowFilter {
    /// Where packets come in, in either direction.
    pub interface: Option<u16>,
    /// What holds either end.
    pub prefix: Option<Prefix>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Either end's port.
    pub port: Option<u16>,
    /// A set of states: bit `state as u8`.
    pub states: Option<u16>,
    /// Only those that are translated, or those that are not.
    pub translated: Option<bool>,
}

/// What control asks of a worker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowCommand {
    /// What to tell of from now on.
    Listen {
        /// Flows and denials, with updates of flows that live on at this interval in nanoseconds.
        flows: Option<u64>,
        /// What rules log.
        logs: bool,
    },
    /// Dump the flows that match. Takes the place of a dump that runs.
    Dump {
        /// Comes back with every flow.
        id: u32,
        /// Which.
        filter: FlowFilter,
    },
    /// End the dump that runs.
    Cancel,
}

/// A part of a dump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dumped {
    /// Of which dump.
    pub id: u32,
    /// A flow; `None` at the end.
    pub flow: Option<FlowFacts>,
}

/// What a worker had to leave untold.
#[derive(Default, Debug)]
pub struct Untold {
    /// Events that the ring had no room for.
    pub events: Counter,
    /// Denied packets of too many different kinds.
    pub denied: Counter,
    /// Log lines above the limit.
    pub logs: Counter,
}

/// Control's end.
pub struct FlowWatcher {
    commands: rtrb::Producer<FlowCommand>,
    events: rtrb::Consumer<FlowEvent>,
    dump: rtrb::Consumer<Dumped>,
    untold: Arc<Untold>,
}

/// The worker's end; the default one leads nowhere and tells nothing.
#[derive(Default)]
pub struct FlowWatch {
    link: Option<Link>,
    /// Interval of updates, while somebody listens to flows.
    listening: Option<u64>,
    logging: bool,
    denials: Denials,
    logs: Option<TokenBucket>,
    round: Round,
    dump: Option<Dump>,
    /// When the last turn was.
    turned_ns: u64,
}

struct Link {
    commands: rtrb::Consumer<FlowCommand>,
    events: rtrb::Producer<FlowEvent>,
    dump: rtrb::Producer<Dumped>,
    untold: Arc<Untold>,
}

/// A walk through the table for updates.
#[derive(Default)]
struct Round {
    scan: FlowScan,
    /// When this round and the one before it began.
    began: Tick,
    before: Tick,
    running: bool,
    next_ns: u64,
}

struct Dump {
    id: u32,
    filter: FlowFilter,
    scan: FlowScan,
}

/// A packet of no flow, as events tell of it.
pub(super) struct Lone<'a, A> {
    pub(super) asked: &'a Key<A>,
    /// With its destination translated.
    pub(super) after: &'a Key<A>,
    pub(super) input: u16,
    pub(super) exit: Exit,
    /// From the IP header on.
    pub(super) bytes: u32,
}

/// Both ends of what leads from a worker to control and back.
pub fn flow_watch() -> (FlowWatch, FlowWatcher) {
    with_rings(EVENT_RING, DUMP_RING)
}

pub(super) fn with_rings(events: usize, flows: usize) -> (FlowWatch, FlowWatcher) {
    let (commands, obeyed) = rtrb::RingBuffer::new(COMMAND_RING);
    let (told, events) = rtrb::RingBuffer::new(events);
    let (dumped, dump) = rtrb::RingBuffer::new(flows);
    let untold = Arc::new(Untold::default());
    let link = Link {
        commands: obeyed,
        events: told,
        dump: dumped,
        untold: Arc::clone(&untold),
    };
    let watch = FlowWatch {
        link: Some(link),
        ..FlowWatch::default()
    };
    let watcher = FlowWatcher {
        commands,
        events,
        dump,
        untold,
    };
    (watch, watcher)
}

impl FlowWatcher {
    /// Asks the worker, which obeys at its next turn; false where too many commands wait for it.
    pub fn send(&mut self, command: FlowCommand) -> bool {
        self.commands.push(command).is_ok()
    }

    /// Whether the worker has taken up all that it was asked.
    pub fn is_obeyed(&self) -> bool {
        self.commands.slots() == self.commands.buffer().capacity()
    }

    /// The next event.
    pub fn event(&mut self) -> Option<FlowEvent> {
        self.events.pop().ok()
    }

    /// The next part of a dump.
    pub fn dumped(&mut self) -> Option<Dumped> {
        self.dump.pop().ok()
    }

    /// What was left untold so far.
    pub fn untold(&self) -> &Untold {
        &self.untold
    }
}

impl FlowWatch {
    /// Whether somebody wants to hear of flows and denials.
    #[inline(always)]
    pub fn is_listening(&self) -> bool {
        self.listening.is_some()
    }

    /// Whether somebody wants to hear of anything.
    #[inline(always)]
    pub fn hears(&self) -> bool {
        self.listening.is_some() | self.logging
    }

    /// One turn's share: commands, and slices of what goes through the table.
    pub(super) fn turn(&mut self, flows: Option<&FlowTable>, policy: &Policy, now_ns: u64) {
        let Some(link) = &mut self.link else { return };
        if !link.commands.is_empty() {
            self.obey(now_ns);
        }
        if self.listening.is_none() & self.dump.is_none() {
            return;
        }
        self.work(flows, policy, now_ns);
    }

    #[cold]
    pub(super) fn obey(&mut self, now_ns: u64) {
        let Some(link) = &mut self.link else { return };
        while let Ok(command) = link.commands.pop() {
            match command {
                FlowCommand::Listen { flows, logs } => {
                    if flows.is_none() {
                        self.denials.clear();
                    }
                    if self.listening != flows {
                        let began = Tick::from_nanos(now_ns);
                        self.round = Round {
                            began,
                            next_ns: now_ns.saturating_add(flows.unwrap_or_default()),
                            ..Round::default()
                        };
                    }
                    (self.listening, self.logging) = (flows, logs);
                }
                FlowCommand::Dump { id, filter } => {
                    let scan = FlowScan::default();
                    self.dump = Some(Dump { id, filter, scan });
                }
                FlowCommand::Cancel => self.dump = None,
            }
        }
    }

    #[inline(never)]
    fn work(&mut self, flows: Option<&FlowTable>, policy: &Policy, now_ns: u64) {
        let idle = now_ns.saturating_sub(self.turned_ns) >= IDLE_NS;
        self.turned_ns = now_ns;
        let budget = if idle { IDLE_BUDGET } else { BUDGET };
        self.dump(flows, budget, now_ns);
        let Some(interval) = self.listening else {
            return;
        };
        if let Some(link) = &mut self.link {
            self.denials.tell(now_ns, |event| link.tell(event));
        }
        if let Some(flows) = flows {
            self.update(flows, budget, interval, policy, now_ns);
        }
    }

    /// A slice of the dump, as far as its ring has room.
    fn dump(&mut self, flows: Option<&FlowTable>, budget: u32, now_ns: u64) {
        let (Some(dump), Some(link)) = (&mut self.dump, &mut self.link) else {
            return;
        };
        let Some(room) = link.dump.slots().checked_sub(1).filter(|room| *room > 0) else {
            return;
        };
        let (id, now) = (dump.id, Tick::from_nanos(now_ns));
        let budget = budget.min(u32::try_from(room).unwrap_or(u32::MAX));
        // Nothing is lost: a place has one flow at most, and there is room for the end.
        let mut put = |flow| {
            let _ = link.dump.push(Dumped { id, flow });
        };
        let done = flows.is_none_or(|flows| {
            flows.visit(&mut dump.scan, budget, |flow| {
                let facts = FlowFacts::of(flow, flows.time_left(flow, now), now);
                if dump.filter.matches(&facts) {
                    put(Some(facts));
                }
            })
        });
        if done {
            put(None);
            self.dump = None;
        }
    }

    /// A slice of the round in which flows are told of that have had packets since the last one.
    fn update(
        &mut self,
        flows: &FlowTable,
        budget: u32,
        interval: u64,
        policy: &Policy,
        now_ns: u64,
    ) {
        let (round, Some(link)) = (&mut self.round, &mut self.link) else {
            return;
        };
        let now = Tick::from_nanos(now_ns);
        if !round.running {
            if now_ns < round.next_ns {
                return;
            }
            *round = Round {
                scan: FlowScan::default(),
                began: now,
                before: round.began,
                running: true,
                next_ns: now_ns.saturating_add(interval),
            };
        }
        // Half the ring is left to what cannot wait.
        let half = link.events.buffer().capacity() / 2;
        let room = link.events.slots().saturating_sub(half);
        let budget = budget.min(u32::try_from(room).unwrap_or(u32::MAX));
        if budget == 0 {
            return;
        }
        let (began, before) = (round.began, round.before);
        let done = flows.visit(&mut round.scan, budget, |flow| {
            let is_old = began.since(flow.created()) > 0;
            let is_used = before.since(flow.last_seen()) == 0;
            if is_old && is_used {
                let facts = FlowFacts::of(flow, flows.time_left(flow, now), now);
                link.tell(FlowEvent {
                    news: FlowNews::Updated,
                    time_ns: now_ns,
                    allow: true,
                    flow: facts,
                    staged: asking::staged_of(flow, policy),
                });
            }
        });
        round.running = !done;
    }

    /// A flow was made, and its first packet counted.
    #[cold]
    pub(super) fn started(
        &mut self,
        flows: &FlowTable,
        at: FlowIndex,
        policy: &Policy,
        now_ns: u64,
    ) {
        let Some(flow) = flows.view(at) else { return };
        let now = Tick::from_nanos(now_ns);
        let left = flows.time_left(&flow, now);
        self.tell(FlowEvent {
            news: FlowNews::Started,
            time_ns: now_ns,
            allow: true,
            flow: FlowFacts::of(&flow, left, now),
            staged: asking::staged_of(&flow, policy),
        });
    }

    /// A flow is over.
    #[inline]
    pub(super) fn ended(
        &mut self,
        flow: &FlowView<'_>,
        end: FlowEnd,
        policy: &Policy,
        now_ns: u64,
    ) {
        if self.is_listening() {
            self.tell_end(flow, end, policy, now_ns);
        }
    }

    #[cold]
    fn tell_end(&mut self, flow: &FlowView<'_>, end: FlowEnd, policy: &Policy, now_ns: u64) {
        self.tell(FlowEvent {
            news: FlowNews::Ended(end),
            time_ns: now_ns,
            allow: true,
            flow: FlowFacts::of(flow, Duration::ZERO, Tick::from_nanos(now_ns)),
            staged: asking::staged_of(flow, policy),
        });
    }

    /// It was decided about a packet of no flow: tells what logs it, and that it is denied.
    #[cold]
    pub(super) fn decided<A: JudgedAddress + SetAddress>(
        &mut self,
        packet: &Lone<'_, A>,
        fate: Fate,
        policy: &Policy,
        now_ns: u64,
    ) {
        let allow = matches!(fate, Fate::Pass { .. });
        self.log_all(packet, allow, policy, now_ns);
        if let Fate::Deny { by, rule } = fate {
            self.denied(packet, by.into(), rule, policy, now_ns);
        }
    }

    /// A packet was denied, if not by what [`FlowWatch::decided`] knows.
    pub(super) fn denied<A: JudgedAddress + SetAddress>(
        &mut self,
        packet: &Lone<'_, A>,
        reason: Drop,
        rule: RuleId,
        policy: &Policy,
        now_ns: u64,
    ) {
        let (true, Some(link)) = (self.listening.is_some(), &mut self.link) else {
            return;
        };
        let first = || FlowEvent {
            news: FlowNews::Denied(reason),
            time_ns: now_ns,
            allow: false,
            flow: packet.facts(rule),
            staged: asking::staged(policy, packet),
        };
        let id = (rule, reason, packet.facts(rule));
        let told = self
            .denials
            .add(id, first, now_ns, |event| link.tell(event));
        if !told {
            link.untold.denied.add(1);
        }
    }

    /// Tells of every rule that logs a packet.
    fn log_all<A: JudgedAddress + SetAddress>(
        &mut self,
        packet: &Lone<'_, A>,
        allow: bool,
        policy: &Policy,
        now_ns: u64,
    ) {
        if self.logging {
            asking::logs(policy, packet, |rule| {
                self.log(packet, rule, allow, now_ns);
            });
        }
    }

    fn log<A: JudgedAddress + SetAddress>(
        &mut self,
        packet: &Lone<'_, A>,
        rule: RuleId,
        allow: bool,
        now_ns: u64,
    ) {
        let limit = self
            .logs
            .get_or_insert_with(|| TokenBucket::new(LOGS.0, LOGS.1, now_ns));
        if !limit.take(now_ns, 1) {
            if let Some(link) = &self.link {
                link.untold.logs.add(1);
            }
            return;
        }
        self.tell(FlowEvent {
            news: FlowNews::Logged,
            time_ns: now_ns,
            allow,
            flow: packet.facts(rule),
            staged: None,
        });
    }

    fn tell(&mut self, event: FlowEvent) {
        if let Some(link) = &mut self.link {
            link.tell(event);
        }
    }
}

impl Link {
    fn tell(&mut self, event: FlowEvent) {
        if self.events.push(event).is_err() {
            self.untold.events.add(1);
        }
    }
}

impl<A: JudgedAddress> Lone<'_, A> {
    fn facts(&self, rule: RuleId) -> FlowFacts {
        let count = FlowCount {
            packets: 1,
            bytes: self.bytes.into(),
        };
        FlowFacts {
            interfaces: [self.input, self.exit.interface()],
            rules: [rule, RuleId::NONE],
            counts: [count, FlowCount::default()],
            ..FlowFacts::asked(self.asked)
        }
    }
}

impl FlowFacts {
    fn of(flow: &FlowView<'_>, left: Duration, now: Tick) -> Self {
        let asked = match flow.key(Direction::Forward) {
            AnyFlowKey::Ip4(key) => Self::asked(&question_of_flow::<Ip4>(&key)),
            AnyFlowKey::Ip6(key) => Self::asked(&question_of_flow::<Ip6>(&key)),
        };
        let leaving = match flow.key(Direction::Reverse) {
            AnyFlowKey::Ip4(key) => FlowEnds::of::<Ip4>(&key.reversed()),
            AnyFlowKey::Ip6(key) => FlowEnds::of::<Ip6>(&key.reversed()),
        };
        let is_translated = flow.leg(Direction::Forward).flags.has(LegFlags::REWRITE);
        let both = [Direction::Forward, Direction::Reverse];
        let nanos = |since: Tick| u64::from(now.since(since)) * Tick::NANOS;
        Self {
            becomes: is_translated.then_some(leaving),
            interfaces: both.map(|direction| flow.interface(direction)),
            rules: both.map(|direction| RuleId(flow.leg(direction).rule)),
            counts: both.map(|direction| FlowCount {
                packets: flow.packets(direction),
                bytes: flow.bytes(direction),
            }),
            state: flow.state(),
            class: flow.class(),
            age_ns: nanos(flow.created()),
            idle_ns: nanos(flow.last_seen()),
            left_ns: u64::try_from(left.as_nanos()).unwrap_or(u64::MAX),
            ..asked
        }
    }

    /// What a question to rules says.
    fn asked<A: JudgedAddress>(key: &Key<A>) -> Self {
        Self {
            source: ip(key.source()),
            destination: ip(key.destination()),
            protocol: key.protocol(),
            ports: key.ports(),
            icmp: key.icmp_type_code(),
            becomes: None,
            interfaces: [NO_INTERFACE; 2],
            rules: [RuleId::NONE; 2],
            counts: [FlowCount::default(); 2],
            state: FlowState::New,
            class: FlowClass::of(key.protocol()),
            age_ns: 0,
            idle_ns: 0,
            left_ns: 0,
        }
    }
}

impl FlowEnds {
    fn of<V: Version>(key: &V::Key) -> Self {
        let ((source, destination), (from, to)) = (V::ends(key), V::ports(key));
        let asked = question_of_flow::<V>(key);
        let echo = (asked.icmp_type_code() == Some((V::ECHO, 0))).then_some((from, from));
        Self {
            source: ip(source),
            destination: ip(destination),
            ports: asked.ports().map(|_| (from, to)).or(echo),
        }
    }
}

fn ip<A: JudgedAddress>(address: A) -> IpAddr {
    let wide = address.widen();
    match A::FAMILY {
        Family::V4 => Ipv4Addr::from_bits(wide as u32).into(),
        Family::V6 => Ipv6Addr::from_bits(wide).into(),
    }
}

impl FlowFilter {
    /// Whether a flow is among them, as it comes in or as it leaves.
    pub fn matches(&self, flow: &FlowFacts) -> bool {
        let of = |interface: u16| flow.interfaces.contains(&interface);
        let own = FlowEnds {
            source: flow.source,
            destination: flow.destination,
            ports: flow.ports,
        };
        let sides = || [Some(own), flow.becomes].into_iter().flatten();
        let contains = |prefix: Prefix, address: IpAddr| match (prefix, address) {
            (Prefix::V4(prefix), IpAddr::V4(address)) => prefix.contains(address.to_bits()),
            (Prefix::V6(prefix), IpAddr::V6(address)) => prefix.contains(address.to_bits()),
            _ => false,
        };
        let holds = |prefix: Prefix| {
            sides().any(|ends| contains(prefix, ends.source) || contains(prefix, ends.destination))
        };
        let has = |port: u16| {
            let is = |ends: FlowEnds| ends.ports.is_some_and(|(a, b)| a == port || b == port);
            sides().any(is)
        };
        self.interface.is_none_or(of)
            && self.prefix.is_none_or(holds)
            && self.protocol.is_none_or(|only| only == flow.protocol)
            && self.port.is_none_or(has)
            && self
                .translated
                .is_none_or(|wanted| wanted == flow.becomes.is_some())
            && self
                .states
                .is_none_or(|states| states >> flow.state as u8 & 1 != 0)
    }
}

impl From<Denial> for Drop {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Policy => Self::PolicyDenied,
            Denial::AccessList => Self::AccessList,
            Denial::Closed => Self::Closed,
            Denial::WorkloadToHost => Self::WorkloadToHost,
        }
    }
}
