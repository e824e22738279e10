//! Flows: dumps of the workers' tables, and the log of how flows begin and end, for those who asked.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use control_api::v1;
use dataplane::{DropReason, Engine, WorkerId};
use graph_nodes::policy::events::{
    FlowCommand, FlowCount, FlowEvent, FlowFacts, FlowFilter, FlowNews, FlowWatcher,
};
use graph_nodes::policy::{Drop, RuleId};
use graph_nodes::{NO_INTERFACE, Snapshot};
use ipnet::IpNet;
use model::DesiredState;
use model::policy::Protocol;
use tables::acl::Prefix;
use tables::{FlowEnd, FlowState, Prefix4, Prefix6};
use tokio::sync::mpsc;

use super::observe::wall_clock;
use super::policy::PolicyKeeper;
use super::rules;
use crate::compile::Numbering;
use crate::compile::policy::PolicyInterface;
use crate::dataplane::TelemetryError;

/// Clients that listen at a time, and dumps that run or wait.
const MOST: usize = 8;
/// Records that wait for a slow client before further ones are lost to it.
const QUEUE: usize = 8192;
/// Flows in one part of a dump.
const PART: usize = 500;
/// Parts of a dump that wait for a slow client; then the dump waits.
const PARTS: usize = 4;
/// Nanoseconds that a client may leave a dump waiting: 30 seconds.
const STALLED_NS: u64 = 30_000_000_000;
/// Events of one worker that are passed on at a time.
const AT_ONCE: usize = 4096;
/// Nanoseconds between records of what was lost: a second.
const LOST_NS: u64 = 1_000_000_000;
/// Seconds between updates of a flow where nothing else is said, and at the most.
const INTERVAL: (u32, u32) = (10, 3600);

/// Names of states, and what they stand for.
const STATES: [(&str, &[FlowState]); 7] = [
    ("new", &[FlowState::New]),
    ("established", &[FlowState::Established]),
    ("syn-sent", &[FlowState::SynSent]),
    ("syn-received", &[FlowState::SynReceived]),
    ("fin-wait", &[FlowState::FinForward, FlowState::FinReverse]),
    ("closed", &[FlowState::Closed]),
    ("reset", &[FlowState::Reset]),
];

/// What is needed to name things.
pub(super) struct Names<'a> {
    pub(super) numbering: &'a Numbering,
    pub(super) desired: &'a DesiredState,
    pub(super) generation: u64,
    pub(super) policy: &'a PolicyKeeper,
}

/// Who asked, and the ends of what the workers tell.
pub(super) struct FlowObservers {
    watchers: Vec<FlowWatcher>,
    listeners: Vec<Listener>,
    dumps: VecDeque<Dump>,
    next_id: u32,
    /// What the workers were told to tell.
    listening: Listening,
    live: Live,
    /// What the workers had left untold when that was last looked at.
    untold: u64,
    looked_ns: u64,
}

/// What follows from the live state, until there is another.
#[derive(Default)]
struct Live {
    generation: Option<u64>,
    /// Endpoints by the number of their interface.
    endpoints: BTreeMap<u16, String>,
    /// Some rule logs.
    logs: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Listening {
    /// Interval of updates.
    flows: Option<u64>,
    logs: bool,
}

struct Listener {
    filter: FlowFilter,
    interval_ns: u64,
    left: Option<u32>,
    lost: u64,
    to: mpsc::Sender<v1::FlowLogRecord>,
}

struct Dump {
    id: u32,
    filter: FlowFilter,
    left: Option<u32>,
    /// Workers that have not told all yet; `None` before it begins.
    working: Option<Vec<bool>>,
    part: Vec<v1::Flow>,
    moved_ns: u64,
    to: mpsc::Sender<v1::FlowsResponse>,
}

impl FlowObservers {
    pub(super) fn new(watchers: Vec<FlowWatcher>) -> Self {
        Self {
            watchers,
            listeners: Vec::new(),
            dumps: VecDeque::new(),
            next_id: 0,
            listening: Listening::default(),
            live: Live::default(),
            untold: 0,
            looked_ns: 0,
        }
    }

    /// Starts a dump.
    pub(super) fn dump(
        &mut self,
        names: &Names<'_>,
        request: &v1::FlowsRequest,
        now: u64,
    ) -> Result<mpsc::Receiver<v1::FlowsResponse>, TelemetryError> {
        if self.dumps.len() >= MOST {
            return Err(TelemetryError::Busy(format!(
                "{MOST} dumps of flows run or wait already: try again when one has ended"
            )));
        }
        let filter = filter(names, request.filter.as_ref())?;
        let (to, receiver) = mpsc::channel(PARTS);
        self.next_id = self.next_id.wrapping_add(1);
        self.dumps.push_back(Dump {
            id: self.next_id,
            filter,
            left: (request.limit > 0).then_some(request.limit),
            working: None,
            part: Vec::new(),
            moved_ns: now,
            to,
        });
        Ok(receiver)
    }

    /// Begins to tell somebody of flows.
    pub(super) fn listen(
        &mut self,
        engine: &Engine<Snapshot>,
        names: &Names<'_>,
        request: &v1::FlowLogRequest,
    ) -> Result<mpsc::Receiver<v1::FlowLogRecord>, TelemetryError> {
        if self.listeners.len() >= MOST {
            return Err(TelemetryError::Busy(format!(
                "{MOST} clients follow the flow log already: end one first"
            )));
        }
        let filter = filter(names, request.filter.as_ref())?;
        let seconds = match request.interval_seconds {
            0 => INTERVAL.0,
            seconds if seconds <= INTERVAL.1 => seconds,
            seconds => {
                let most = INTERVAL.1;
                return Err(TelemetryError::Invalid(format!(
                    "intervalSeconds: {seconds} is too much: use 1 to {most}, or leave it out for {}",
                    INTERVAL.0
                )));
            }
        };
        let (to, receiver) = mpsc::channel(QUEUE);
        self.listeners.push(Listener {
            filter,
            interval_ns: u64::from(seconds) * 1_000_000_000,
            left: (request.count > 0).then_some(request.count),
            lost: 0,
            to,
        });
        self.arm(engine);
        Ok(receiver)
    }

    /// Whether all workers have taken up what they were told.
    pub(super) fn is_armed(&self) -> bool {
        self.watchers.iter().all(FlowWatcher::is_obeyed)
    }

    /// Has the workers tell what is wanted.
    fn arm(&mut self, engine: &Engine<Snapshot>) {
        let intervals = self.listeners.iter().map(|listener| listener.interval_ns);
        let flows = intervals.min();
        let wanted = Listening {
            flows,
            logs: flows.is_some() || self.live.logs,
        };
        if wanted == self.listening {
            return;
        }
        let command = FlowCommand::Listen {
            flows: wanted.flows,
            logs: wanted.logs,
        };
        // A full ring means that a worker is stuck: the next call tries again, and telling it twice does no harm.
        if self.tell(engine, command) {
            self.listening = wanted;
        }
    }

    fn tell(&mut self, engine: &Engine<Snapshot>, command: FlowCommand) -> bool {
        let told = self
            .watchers
            .iter_mut()
            .map(|watcher| watcher.send(command));
        let all = told.fold(true, |all, told| all & told);
        engine.wake();
        all
    }

    /// Fetches what the workers have told and passes it on. Returns the milliseconds until it wants to be called again.
    pub(super) fn collect(
        &mut self,
        engine: &Engine<Snapshot>,
        names: &Names<'_>,
        now: u64,
    ) -> Option<u64> {
        if self.live.generation != Some(names.generation) {
            self.live = Live::of(names);
        }
        self.listeners.retain(|listener| !listener.to.is_closed());
        let mut busy = false;
        if self.listening != Listening::default() {
            busy = self.events(names, now);
            self.tell_lost(now);
            self.listeners.retain(|listener| listener.left != Some(0));
        }
        self.arm(engine);
        self.advance(engine, names, now);
        if busy || !self.dumps.is_empty() {
            Some(2)
        } else if !self.listeners.is_empty() {
            Some(20)
        } else {
            self.listening.logs.then_some(250)
        }
    }

    fn events(&mut self, names: &Names<'_>, now: u64) -> bool {
        let mut any = false;
        for (worker, watcher) in self.watchers.iter_mut().enumerate() {
            let worker = WorkerId(worker as u16);
            for _ in 0..AT_ONCE {
                let Some(event) = watcher.event() else { break };
                any = true;
                let tell = || record(names, &self.live, worker, &event, now);
                if event.news == FlowNews::Logged {
                    write_log(&tell());
                }
                for listener in &mut self.listeners {
                    if listener.left != Some(0) && listener.filter.matches(&event.flow) {
                        listener.offer(tell());
                    }
                }
            }
        }
        any
    }

    /// Tells everyone once in a while what they did not hear of.
    fn tell_lost(&mut self, now: u64) {
        if now.saturating_sub(self.looked_ns) < LOST_NS {
            return;
        }
        self.looked_ns = now;
        let untold = self.watchers.iter().map(|watcher| {
            let untold = watcher.untold();
            untold.events.value() + untold.denied.value() + untold.logs.value()
        });
        let untold: u64 = untold.sum();
        let more = untold - std::mem::replace(&mut self.untold, untold);
        for listener in &mut self.listeners {
            listener.lost += more;
            if listener.lost == 0 {
                continue;
            }
            let record = v1::FlowLogRecord {
                event: "lost".into(),
                timestamp_ns: wall_clock(now, now),
                lost: listener.lost,
                ..v1::FlowLogRecord::default()
            };
            if listener.to.try_send(record).is_ok() {
                listener.lost = 0;
            }
        }
    }

    /// The dump whose turn it is.
    fn advance(&mut self, engine: &Engine<Snapshot>, names: &Names<'_>, now: u64) {
        while let Some(dump) = self.dumps.front_mut() {
            if dump.working.is_none() && !dump.to.is_closed() {
                let command = FlowCommand::Dump {
                    id: dump.id,
                    filter: dump.filter,
                };
                dump.working = Some(vec![true; self.watchers.len()]);
                dump.moved_ns = now;
                let sent = self
                    .watchers
                    .iter_mut()
                    .map(|watcher| watcher.send(command));
                if !sent.fold(true, |all, sent| all & sent) {
                    // A worker is stuck: what the others say of this attempt is passed over by its number.
                    dump.working = None;
                    self.next_id = self.next_id.wrapping_add(1);
                    dump.id = self.next_id;
                    return;
                }
            }
            let over = dump.advance(&mut self.watchers, names, &self.live, now);
            if !over {
                // A worker that sleeps does its share when it is woken.
                engine.wake();
                return;
            }
            self.dumps.pop_front();
            self.tell(engine, FlowCommand::Cancel);
        }
    }
}

impl Listener {
    fn offer(&mut self, record: v1::FlowLogRecord) {
        // A reader that is too slow loses records, never delays them.
        if self.to.try_send(record).is_ok() {
            self.left = self.left.map(|left| left - 1);
        } else {
            self.lost += 1;
        }
    }
}

impl Dump {
    /// Passes on what there is, as far as the client takes it. True when the dump is over.
    fn advance(
        &mut self,
        watchers: &mut [FlowWatcher],
        names: &Names<'_>,
        live: &Live,
        now: u64,
    ) -> bool {
        let Some(working) = &mut self.working else {
            return true;
        };
        loop {
            let place = match self.to.try_reserve() {
                Ok(place) => place,
                Err(mpsc::error::TrySendError::Closed(())) => return true,
                // Without a last part, the client knows that it has not got all.
                Err(mpsc::error::TrySendError::Full(())) => {
                    return now.saturating_sub(self.moved_ns) > STALLED_NS;
                }
            };
            self.moved_ns = now;
            for (worker, watcher) in watchers.iter_mut().enumerate() {
                while self.part.len() < PART && self.left != Some(0) {
                    let Some(dumped) = watcher.dumped() else {
                        break;
                    };
                    if dumped.id != self.id {
                        continue;
                    }
                    let Some(facts) = dumped.flow else {
                        working[worker] = false;
                        break;
                    };
                    let worker = WorkerId(worker as u16);
                    self.part.push(flow(names, live, worker, &facts));
                    self.left = self.left.map(|left| left - 1);
                }
            }
            let complete = self.left == Some(0) || !working.contains(&true);
            if !complete && self.part.len() < PART {
                return false;
            }
            place.send(v1::FlowsResponse {
                flows: std::mem::take(&mut self.part),
                complete,
            });
            if complete {
                return true;
            }
        }
    }
}

impl Live {
    fn of(names: &Names<'_>) -> Self {
        let logs = names.policy.live.interfaces.iter().flatten();
        let interfaces = super::policy::interfaces(names.desired, names.numbering);
        let named = |interface: &PolicyInterface| {
            let name = endpoint_of(names, interface)?;
            Some((interface.number, name))
        };
        Self {
            generation: Some(names.generation),
            endpoints: interfaces.iter().filter_map(named).collect(),
            logs: logs.into_iter().any(|interface| interface.has_logs()),
        }
    }
}

/// The endpoint behind an interface: the workload, or the host endpoint.
fn endpoint_of(names: &Names<'_>, interface: &PolicyInterface) -> Option<String> {
    let (policy, node) = (&names.desired.policy, &*names.policy.node);
    let mut workloads = policy.workload_endpoints.iter();
    let workload = workloads
        .find(|(_, workload)| &*workload.node == node && workload.interface == interface.name);
    if let Some((id, _)) = workload {
        return Some(id.to_string());
    }
    let host = policy.host_endpoint_of(node, &interface.name, &interface.addresses);
    host.map(|(name, _)| name.to_owned())
}

/// What a filter means here.
fn filter(
    names: &Names<'_>,
    filter: Option<&v1::FlowFilter>,
) -> Result<FlowFilter, TelemetryError> {
    let Some(filter) = filter else {
        return Ok(FlowFilter::default());
    };
    let invalid =
        |field: &str, text: String| Err(TelemetryError::Invalid(format!("filter.{field}: {text}")));
    let mut wanted = FlowFilter {
        translated: filter.translated,
        ..FlowFilter::default()
    };
    match (&filter.interface, &filter.endpoint) {
        (Some(_), Some(_)) => {
            let text = "an endpoint is an interface already: leave one of the two out";
            return invalid("endpoint", text.into());
        }
        (Some(interface), None) => wanted.interface = Some(interface_number(names, interface)?),
        (None, Some(endpoint)) => wanted.interface = Some(endpoint_number(names, endpoint)?),
        (None, None) => {}
    }
    if let Some(text) = &filter.address {
        let Some(prefix) = prefix(text) else {
            let text = format!(
                "{text:?} is no address or prefix: write 10.0.0.1, 10.0.0.0/8 or 2001:db8::/32"
            );
            return invalid("address", text);
        };
        wanted.prefix = Some(prefix);
    }
    if let Some(text) = &filter.protocol {
        match text.parse::<Protocol>() {
            Ok(protocol) => wanted.protocol = Some(protocol.number()),
            Err(_) => {
                let text = format!(
                    "{text:?} is no protocol: write tcp, udp, icmp, icmpv6, sctp, udplite, or a number from 1 to 255"
                );
                return invalid("protocol", text);
            }
        }
    }
    if let Some(port) = filter.port {
        match u16::try_from(port) {
            Ok(port) if port > 0 => wanted.port = Some(port),
            _ => return invalid("port", format!("{port} is no port: use 1 to 65535")),
        }
    }
    if let Some(text) = &filter.state {
        let Some((_, states)) = STATES.iter().find(|(name, _)| name == text) else {
            let known: Vec<_> = STATES.iter().map(|(name, _)| *name).collect();
            let text = format!("{text:?} is no state; there are {}", known.join(", "));
            return invalid("state", text);
        };
        let bits = states
            .iter()
            .fold(0, |bits, state| bits | 1 << *state as u8);
        wanted.states = Some(bits);
    }
    Ok(wanted)
}

fn interface_number(names: &Names<'_>, name: &str) -> Result<u16, TelemetryError> {
    let mut interfaces = names.numbering.interfaces.iter();
    let found = interfaces.find(|(interface, _)| interface.as_str() == name);
    found.map(|(_, number)| *number).ok_or_else(|| {
        TelemetryError::NotFound(format!(
            "there is no interface {name}: 'oncilla show interfaces' lists them"
        ))
    })
}

/// The one interface of an endpoint.
fn endpoint_number(names: &Names<'_>, name: &str) -> Result<u16, TelemetryError> {
    let live = Live::of(names);
    let of: Vec<u16> = live
        .endpoints
        .iter()
        .filter(|(_, endpoint)| *endpoint == name)
        .map(|(number, _)| *number)
        .collect();
    match of[..] {
        [number] => Ok(number),
        [] => Err(TelemetryError::NotFound(format!(
            "no interface of this node has an endpoint {name}: 'oncilla get workloadendpoints' and 'oncilla get hostendpoints' list them"
        ))),
        _ => {
            let names: Vec<_> = of
                .iter()
                .map(|number| interface_name(names, *number))
                .collect();
            Err(TelemetryError::Invalid(format!(
                "filter.endpoint: {name} has several interfaces ({}): name one of them as interface",
                names.join(", ")
            )))
        }
    }
}

fn prefix(text: &str) -> Option<Prefix> {
    let net: IpNet = match text.parse() {
        Ok(net) => net,
        Err(_) => text.parse::<IpAddr>().ok()?.into(),
    };
    match net.addr() {
        IpAddr::V4(address) => Prefix4::around(address.into(), net.prefix_len()).map(Prefix::V4),
        IpAddr::V6(address) => Prefix6::around(address.into(), net.prefix_len()).map(Prefix::V6),
    }
    .ok()
}

fn interface_name(names: &Names<'_>, number: u16) -> String {
    if number == NO_INTERFACE {
        return String::new();
    }
    names
        .numbering
        .interface_name(number)
        .map_or_else(|| format!("#{number}"), |name| name.as_str().into())
}

fn flow(names: &Names<'_>, live: &Live, worker: WorkerId, facts: &FlowFacts) -> v1::Flow {
    let ports = facts.ports.unwrap_or_default();
    let counters = |count: FlowCount| v1::FlowCounters {
        packets: count.packets,
        bytes: count.bytes,
    };
    let [input, output] = facts.interfaces;
    let endpoint = |number: u16| live.endpoints.get(&number).cloned().unwrap_or_default();
    v1::Flow {
        source: facts.source.to_string(),
        destination: facts.destination.to_string(),
        protocol: protocol(facts.protocol),
        source_port: ports.0.into(),
        destination_port: ports.1.into(),
        icmp_type: facts.icmp.map(|(kind, _)| kind.into()),
        icmp_code: facts.icmp.map(|(_, code)| code.into()),
        input: interface_name(names, input),
        output: interface_name(names, output),
        state: state(facts.state).into(),
        forward: Some(counters(facts.counts[0])),
        reverse: Some(counters(facts.counts[1])),
        age_ms: facts.age_ns / 1_000_000,
        idle_ms: facts.idle_ns / 1_000_000,
        timeout_ms: facts.left_ns / 1_000_000,
        rules: named(names, facts.rules),
        worker: worker.0.into(),
        input_endpoint: endpoint(input),
        output_endpoint: endpoint(output),
        becomes: facts.becomes.map(|ends| {
            let ports = ends.ports.unwrap_or_default();
            v1::FlowEnds {
                source: ends.source.to_string(),
                destination: ends.destination.to_string(),
                source_port: ports.0.into(),
                destination_port: ports.1.into(),
            }
        }),
    }
}

fn named(names: &Names<'_>, rules: [RuleId; 2]) -> Vec<v1::RuleReason> {
    let reasons = names.policy.reasons();
    let name = |rule| reasons.and_then(|reasons| rules::name(reasons, rule));
    rules.into_iter().filter_map(name).collect()
}

fn protocol(number: u8) -> String {
    match Protocol::new(number) {
        Ok(protocol) => protocol.to_string().to_lowercase(),
        Err(_) => number.to_string(),
    }
}

fn state(state: FlowState) -> &'static str {
    let known = STATES.iter().find(|(_, states)| states.contains(&state));
    known.map_or("new", |(name, _)| *name)
}

fn record(
    names: &Names<'_>,
    live: &Live,
    worker: WorkerId,
    event: &FlowEvent,
    now: u64,
) -> v1::FlowLogRecord {
    let word = |allow: bool| if allow { "allow" } else { "deny" };
    let mut record = v1::FlowLogRecord {
        timestamp_ns: wall_clock(now, event.time_ns),
        worker: worker.0.into(),
        verdict: word(event.allow).into(),
        flow: Some(flow(names, live, worker, &event.flow)),
        ..v1::FlowLogRecord::default()
    };
    if event.news != FlowNews::Logged {
        let staged = event.staged.map_or(event.allow, |staged| staged.allow);
        record.staged_verdict = word(staged).into();
        let rules = event.staged.map(|staged| named(names, staged.rules));
        record.staged_rules = rules.unwrap_or_default();
    }
    record.event = match event.news {
        FlowNews::Started => "start",
        FlowNews::Updated => "update",
        FlowNews::Ended(end) => {
            record.end_reason = end_reason(end, event.flow.state).into();
            "end"
        }
        FlowNews::Denied(reason) => {
            let entry = Drop::ENTRIES.get(usize::from(reason.index()));
            record.drop_reason = entry.map_or("", |(name, _)| *name).into();
            "denied"
        }
        FlowNews::Logged => "log",
    }
    .into();
    if matches!(event.news, FlowNews::Denied(_) | FlowNews::Logged)
        && let Some(flow) = &mut record.flow
    {
        // There is no flow that could be in a state.
        flow.state.clear();
    }
    record
}

fn end_reason(end: FlowEnd, state: FlowState) -> &'static str {
    match (end, state) {
        (FlowEnd::Expired, FlowState::Closed) => "closed",
        (FlowEnd::Expired, FlowState::Reset) => "reset",
        (FlowEnd::Expired, _) => "timeout",
        (FlowEnd::Evicted, _) => "evicted",
        (FlowEnd::Replaced, _) => "replaced",
        (FlowEnd::Removed, _) => "removed",
    }
}

/// A rule's log line goes to the daemon's log, whoever follows the flow log.
fn write_log(record: &v1::FlowLogRecord) {
    let Some(flow) = &record.flow else { return };
    let rule = flow.rules.first().cloned().unwrap_or_default();
    tracing::info!(
        target: "policy",
        tier = rule.tier,
        policy = rule.policy,
        rule = rule.rule,
        direction = rule.direction,
        verdict = record.verdict,
        protocol = flow.protocol,
        input = flow.input,
        output = flow.output,
        "a rule logs {}:{} > {}:{}",
        flow.source,
        flow.source_port,
        flow.destination,
        flow.destination_port,
    );
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use graph_nodes::policy::events::Staged;
    use tables::FlowClass;

    use super::*;
    use crate::compile::policy::{FAILSAFE, NO_MATCH};
    use model::policy::PolicyState;

    fn event(news: FlowNews, allow: bool) -> FlowEvent {
        let counts = [(3, 84), (0, 0)].map(|(packets, bytes)| FlowCount { packets, bytes });
        FlowEvent {
            news,
            time_ns: 5_000_000_000,
            allow,
            flow: FlowFacts {
                source: Ipv4Addr::new(10, 0, 0, 1).into(),
                destination: Ipv4Addr::new(10, 0, 0, 2).into(),
                protocol: 17,
                ports: Some((1000, 53)),
                icmp: None,
                becomes: None,
                interfaces: [7, NO_INTERFACE],
                rules: [NO_MATCH, RuleId::NONE],
                counts,
                state: FlowState::Closed,
                class: FlowClass::Udp,
                age_ns: 2_000_000_000,
                idle_ns: 1_000_000_000,
                left_ns: 59_000_000_000,
            },
            staged: None,
        }
    }

    fn with_names<T>(test: impl FnOnce(&Names<'_>) -> T) -> T {
        let mut policy = PolicyKeeper::new("here".into(), 1);
        // From the first compilation on, numbers have names.
        policy
            .compile(&PolicyState::default(), &std::sync::Arc::default())
            .expect("compiles");
        test(&Names {
            numbering: &Numbering::default(),
            desired: &DesiredState::default(),
            generation: 1,
            policy: &policy,
        })
    }

    #[test]
    fn events_are_told_with_names() {
        with_names(|names| {
            let tell = |event: &FlowEvent| {
                let live = Live::of(names);
                record(names, &live, WorkerId(3), event, 6_000_000_000)
            };
            let denied = tell(&event(FlowNews::Denied(Drop::AccessList), false));
            assert_eq!((&*denied.event, &*denied.verdict), ("denied", "deny"));
            assert_eq!((&*denied.drop_reason, denied.worker), ("access-list", 3));
            assert_eq!(denied.staged_verdict, "deny", "as there is nothing staged");
            let flow = denied.flow.expect("a flow");
            assert_eq!((&*flow.input, &*flow.output), ("#7", ""));
            assert_eq!((&*flow.protocol, &*flow.state), ("udp", ""));
            assert_eq!((flow.source_port, flow.destination_port), (1000, 53));
            assert_eq!((flow.rules.len(), flow.timeout_ms), (1, 59_000));
            assert_eq!(flow.rules[0].reason, "no policy or profile matches");

            let mut ended = event(FlowNews::Ended(FlowEnd::Expired), true);
            ended.staged = Some(Staged {
                allow: false,
                rules: [FAILSAFE, RuleId::NONE],
            });
            let ended = tell(&ended);
            assert_eq!((&*ended.event, &*ended.end_reason), ("end", "closed"));
            assert_eq!((&*ended.verdict, &*ended.staged_verdict), ("allow", "deny"));
            assert_eq!(ended.staged_rules[0].reason, "failsafe port");
            assert_eq!(ended.flow.expect("a flow").state, "closed");
            let logged = tell(&event(FlowNews::Logged, true));
            assert_eq!((&*logged.event, &*logged.staged_verdict), ("log", ""));
        });
    }

    #[test]
    fn every_state_and_end_has_a_name() {
        use FlowEnd::{Evicted, Expired, Removed, Replaced};
        let states = STATES.iter().flat_map(|(_, states)| *states);
        let mut numbers: Vec<_> = states.map(|state| *state as u8).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
        assert_eq!(state(FlowState::FinReverse), "fin-wait");
        for (end, last, expected) in [
            (Expired, FlowState::Established, "timeout"),
            (Expired, FlowState::Reset, "reset"),
            (Evicted, FlowState::Closed, "evicted"),
            (Replaced, FlowState::Reset, "replaced"),
            (Removed, FlowState::New, "removed"),
        ] {
            assert_eq!(end_reason(end, last), expected);
        }
        assert_eq!([6, 58, 253].map(protocol), ["tcp", "icmpv6", "253"]);
    }

    #[test]
    fn prefixes_are_addresses_too() {
        for (text, host) in [
            ("10.0.0.1", "10.0.0.1"),
            ("10.9.9.9/8", "10.1.2.3"),
            ("0.0.0.0/0", "192.0.2.1"),
            ("2001:db8::/32", "2001:db8::1"),
            ("::1", "::1"),
        ] {
            let holds = match (prefix(text), host.parse::<IpAddr>()) {
                (Some(Prefix::V4(prefix)), Ok(IpAddr::V4(host))) => prefix.contains(host.to_bits()),
                (Some(Prefix::V6(prefix)), Ok(IpAddr::V6(host))) => prefix.contains(host.to_bits()),
                other => panic!("{text}: {other:?}"),
            };
            assert!(holds, "{text}");
        }
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/-1", "host", "::/129"] {
            assert_eq!(prefix(text), None, "{text}");
        }
    }
}
