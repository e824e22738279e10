//! Flow table against a map, and the promises of its documentation one by one.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;
use tables::{
    AnyFlowKey, Direction, FlowClass, FlowConfig, FlowEnd, FlowIndex, FlowKey, FlowKey4, FlowKey6,
    FlowScan, FlowState, FlowTable, FlowTimeouts, FlowView, Inserted, Leg, LegFlags, NewFlow,
    Rewrite4, Rewrite6, TcpFlags, Tick, Tracked, Transition,
};

const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Reverse];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// What differs between the families in these tests.
trait TestKey: FlowKey {
    fn make(src: u8, dst: u8, src_port: u16, dst_port: u16, protocol: u8, zone: u16) -> Self;
    fn any(self) -> AnyFlowKey;
}

impl TestKey for FlowKey4 {
    fn make(src: u8, dst: u8, src_port: u16, dst_port: u16, protocol: u8, zone: u16) -> Self {
        let net = 0x0a00_0000;
        Self::new(
            net | u32::from(src),
            net | u32::from(dst),
            src_port,
            dst_port,
            protocol,
            zone,
        )
    }

    fn any(self) -> AnyFlowKey {
        AnyFlowKey::Ip4(self)
    }
}

impl TestKey for FlowKey6 {
    fn make(src: u8, dst: u8, src_port: u16, dst_port: u16, protocol: u8, zone: u16) -> Self {
        let net = 0xfd00 << 112;
        Self::new(
            net | u128::from(src),
            net | u128::from(dst),
            src_port,
            dst_port,
            protocol,
            zone,
        )
    }

    fn any(self) -> AnyFlowKey {
        AnyFlowKey::Ip6(self)
    }
}

fn table(capacity: u32) -> FlowTable {
    FlowTable::new(&FlowConfig::new(capacity)).unwrap()
}

fn seconds(s: u64) -> Tick {
    Tick::from_nanos(s * 1_000_000_000)
}

fn nobody(flow: &FlowView<'_>, why: FlowEnd) {
    panic!("{flow:?} ended: {why:?}");
}

#[track_caller]
fn insert<K: FlowKey>(table: &mut FlowTable, key: K, state: FlowState, now: Tick) -> FlowIndex {
    match table.insert(&NewFlow::new(key, state), now, nobody) {
        Inserted::New(at) => at,
        other => panic!("{other:?}"),
    }
}

fn lookup<K: FlowKey>(table: &FlowTable, key: K) -> Option<FlowIndex> {
    table.lookup(&key, table.hash(&key))
}

/// The slow twin: flows in a map, found by walking through it.
#[derive(Default)]
struct Twin {
    flows: HashMap<u32, TwinFlow>,
    limits: FlowTimeouts,
}

#[derive(Clone, Debug)]
struct TwinFlow {
    keys: [AnyFlowKey; 2],
    class: FlowClass,
    state: FlowState,
    created: Tick,
    last_seen: [Tick; 2],
    packets: [u64; 2],
    bytes: [u64; 2],
    legs: [Leg; 2],
    interfaces: [u16; 2],
}

impl TwinFlow {
    fn idle(&self, now: Tick) -> u32 {
        now.since(self.last_seen[0])
            .min(now.since(self.last_seen[1]))
    }

    fn is_over(&self, limits: &FlowTimeouts, now: Tick) -> bool {
        let ticks = |limit: Duration| limit.as_nanos().div_ceil(u128::from(Tick::NANOS));
        u128::from(self.idle(now)) > ticks(limits.of(self.class, self.state))
            && u128::from(now.since(self.created)) > ticks(limits.creation_grace)
    }

    fn may_go(&self, limits: &FlowTimeouts, now: Tick) -> bool {
        self.is_over(limits, now) || self.state.is_half_open() || self.state.is_ended()
    }
}

impl Twin {
    /// Forward index (as word) and direction.
    fn find(&self, key: AnyFlowKey) -> Option<(u32, Direction)> {
        let with = |direction: Direction| {
            let mut flows = self.flows.iter();
            flows
                .find(move |(_, flow)| flow.keys[direction as usize] == key)
                .map(|flow| *flow.0)
        };
        let forward = with(Direction::Forward).map(|at| (at, Direction::Forward));
        forward.or_else(|| with(Direction::Reverse).map(|at| (at, Direction::Reverse)))
    }

    fn expect(&self, key: AnyFlowKey) -> Option<u32> {
        self.find(key).map(|(at, direction)| at | direction as u32)
    }

    /// A flow ends: what the view says must be what the twin has.
    fn end(&mut self, view: &FlowView<'_>) -> TwinFlow {
        let flow = self
            .flows
            .remove(&view.index().to_word())
            .expect("it was there");
        check_view(view, &flow);
        flow
    }
}

fn check_view(view: &FlowView<'_>, flow: &TwinFlow) {
    for direction in DIRECTIONS {
        let at = direction as usize;
        assert_eq!(view.key(direction), flow.keys[at]);
        assert_eq!(view.packets(direction), flow.packets[at]);
        assert_eq!(view.bytes(direction), flow.bytes[at]);
        assert_eq!(view.leg(direction), flow.legs[at]);
        assert_eq!(view.interface(direction), flow.interfaces[at]);
    }
    assert_eq!((view.class(), view.state()), (flow.class, flow.state));
    assert_eq!(view.created(), flow.created);
    assert_eq!(view.last_seen(), flow.last_seen[0].later(flow.last_seen[1]));
    assert!(view.index().direction() == Direction::Forward);
}

#[derive(Clone, Copy, Debug)]
struct Pick {
    ip6: bool,
    src: u8,
    dst: u8,
    port: u16,
    protocol: u8,
}

impl Pick {
    fn key<K: TestKey>(self) -> K {
        K::make(self.src, self.dst, self.port, 80, self.protocol, 1)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert {
        pick: Pick,
        /// Where the answers come from, if not from the destination: NAT.
        backend: Option<u8>,
        state: FlowState,
    },
    Packet {
        pick: Pick,
        reply: bool,
        flags: u8,
        bytes: u32,
    },
    Remove(Pick),
    Redecide(Pick, u32),
    Sweep(u32),
    RemoveInterface(u16),
    Wait {
        ms: u64,
    },
}

fn pick() -> impl Strategy<Value = Pick> {
    let protocol = prop_oneof![4 => Just(TCP), 2 => Just(UDP), 1 => Just(1u8), 1 => Just(47)];
    (any::<bool>(), 0u8..3, 0u8..3, 80u16..83, protocol).prop_map(
        |(ip6, src, dst, port, protocol)| Pick {
            ip6,
            src,
            dst,
            port,
            protocol,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Mostly what real stacks send, sometimes anything.
    let flags = prop_oneof![
        6 => prop::sample::select(vec![0x02u8, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14]),
        1 => any::<u8>(),
    ];
    let state = prop::sample::select(FlowState::ALL.to_vec());
    let bytes = prop_oneof![40u32..1500, any::<u32>()];
    let step = prop_oneof![
        6 => (pick(), prop::option::weighted(0.2, 0u8..3), state)
            .prop_map(|(pick, backend, state)| Step::Insert { pick, backend, state }),
        8 => (pick(), any::<bool>(), flags, bytes)
            .prop_map(|(pick, reply, flags, bytes)| Step::Packet { pick, reply, flags, bytes }),
        1 => pick().prop_map(Step::Remove),
        1 => (pick(), any::<u32>()).prop_map(|(pick, policy)| Step::Redecide(pick, policy)),
        2 => (0u32..20).prop_map(Step::Sweep),
        1 => (0u16..3).prop_map(Step::RemoveInterface),
        3 => prop_oneof![Just(0u64), 1u64..10_000, 1u64..4_000_000].prop_map(|ms| Step::Wait { ms }),
    ];
    prop::collection::vec(step, 1..120)
}

struct Run {
    table: FlowTable,
    twin: Twin,
    now_ns: u64,
    capacity: u32,
    inserted: u64,
    ends: HashMap<FlowEnd, u64>,
    refused: u64,
}

impl Run {
    fn now(&self) -> Tick {
        Tick::from_nanos(self.now_ns)
    }

    /// Whether the twin would have to give up the flow under `key` for a new one in `state`, and how.
    fn displaced(&self, at: u32, state: FlowState) -> Option<FlowEnd> {
        let old = &self.twin.flows[&at];
        if old.is_over(&self.twin.limits, self.now()) {
            Some(FlowEnd::Expired)
        } else if state == FlowState::SynSent && old.state.is_ended() {
            Some(FlowEnd::Replaced)
        } else {
            None
        }
    }

    fn insert<K: TestKey>(&mut self, pick: Pick, backend: Option<u8>, state: FlowState) {
        let now = self.now();
        let mut flow = NewFlow::<K>::new(pick.key(), state);
        if let Some(backend) = backend {
            flow.reply = Pick {
                dst: backend,
                ..pick
            }
            .key::<K>()
            .reversed();
        }
        flow.interfaces = [pick.src.into(), pick.dst.into()];
        flow.legs[0].rule = pick.port.into();
        flow.legs[1].next = 99;
        // What the twin expects to be in the way.
        let mut expected_ends = Vec::new();
        let mut verdict = None;
        if let Some((at, direction)) = self.twin.find(flow.key.any()) {
            match self.displaced(at, state) {
                Some(why) => expected_ends.push((at, why)),
                None => verdict = Some(("exists", at | direction as u32)),
            }
        }
        if verdict.is_none()
            && flow.reply != flow.key
            && let Some((at, direction)) = self.twin.find(flow.reply.any())
            && !expected_ends.iter().any(|end| end.0 == at)
        {
            match self.displaced(at, state) {
                Some(why) => expected_ends.push((at, why)),
                None => verdict = Some(("clash", at | direction as u32)),
            }
        }
        let mut ends = Vec::new();
        let before = self.twin.flows.clone();
        let twin = &mut self.twin;
        let made = self.table.insert(&flow, now, |view, why| {
            twin.end(view);
            ends.push((view.index().to_word(), why));
        });
        for (_, why) in &ends {
            *self.ends.entry(*why).or_default() += 1;
        }
        assert_eq!(ends[..expected_ends.len()], expected_ends);
        let extra = &ends[expected_ends.len()..];
        let left = before.len() - expected_ends.len();
        let gone = |at: &u32| expected_ends.iter().any(|end| end.0 == *at);
        let candidates = || before.iter().filter(|(at, _)| !gone(at));
        match made {
            Inserted::Exists(at) => assert_eq!(verdict, Some(("exists", at.to_word()))),
            Inserted::Clash(at) => assert_eq!(verdict, Some(("clash", at.to_word()))),
            Inserted::Full => {
                assert_eq!(
                    (verdict, left, extra),
                    (None, self.capacity as usize, &[][..])
                );
                // So small a table is searched whole.
                let limits = &self.twin.limits;
                assert!(candidates().all(|(_, flow)| !flow.may_go(limits, now)));
                self.refused += 1;
            }
            Inserted::New(at) => {
                assert_eq!(verdict, None);
                assert!(
                    !before.contains_key(&at.to_word()) || ends.iter().any(|e| e.0 == at.to_word())
                );
                if left < self.capacity as usize {
                    assert_eq!(extra, []);
                } else {
                    self.check_eviction::<K>(extra, candidates(), now);
                }
                self.inserted += 1;
                let flow = TwinFlow {
                    keys: [flow.key.any(), flow.reply.any()],
                    class: FlowClass::of(pick.protocol),
                    state,
                    created: now,
                    last_seen: [now; 2],
                    packets: [0; 2],
                    bytes: [0; 2],
                    legs: flow.legs,
                    interfaces: flow.interfaces,
                };
                self.twin.flows.insert(at.to_word(), flow);
            }
        }
    }

    /// Exactly one flow went: one whose time was over, or the longest idle of those that may go, of
    /// the new flow's family if it has any.
    fn check_eviction<'a, K: TestKey>(
        &self,
        ends: &[(u32, FlowEnd)],
        candidates: impl Iterator<Item = (&'a u32, &'a TwinFlow)>,
        now: Tick,
    ) {
        let [(victim, why)] = ends else {
            panic!("{ends:?}")
        };
        let ip6 = |flow: &TwinFlow| matches!(flow.keys[0], AnyFlowKey::Ip6(_));
        let own = matches!(K::default().any(), AnyFlowKey::Ip6(_));
        let limits = &self.twin.limits;
        let mut candidates: Vec<_> = candidates.filter(|c| c.1.may_go(limits, now)).collect();
        if candidates.iter().any(|(_, flow)| ip6(flow) == own) {
            candidates.retain(|(_, flow)| ip6(flow) == own);
        }
        let flow = candidates
            .iter()
            .find(|c| c.0 == victim)
            .expect("it may go")
            .1;
        let over = candidates.iter().any(|(_, flow)| flow.is_over(limits, now));
        assert_eq!(
            *why,
            if over {
                FlowEnd::Expired
            } else {
                FlowEnd::Evicted
            }
        );
        if over {
            assert!(flow.is_over(limits, now));
        } else {
            let most = candidates.iter().map(|(_, flow)| flow.idle(now)).max();
            assert_eq!(Some(flow.idle(now)), most);
        }
    }

    fn packet<K: TestKey>(&mut self, pick: Pick, reply: bool, flags: TcpFlags, bytes: u32) {
        let now = self.now();
        let key = pick.key::<K>();
        let key = if reply { key.reversed() } else { key };
        let found = lookup(&self.table, key);
        assert_eq!(found.map(FlowIndex::to_word), self.twin.expect(key.any()));
        let Some(at) = found else {
            return;
        };
        assert!(self.table.holds(at, &key));
        let direction = at.direction();
        let flow = self
            .twin
            .flows
            .get_mut(&(at.to_word() & !1))
            .expect("found");
        let expected = if flow.is_over(&self.twin.limits, now) {
            Tracked::Expired
        } else {
            match flow.state.after(flow.class, direction, flags) {
                Transition::Invalid => Tracked::Invalid,
                Transition::Reopen => Tracked::Reopened,
                change => {
                    if let Transition::To(state) = change {
                        flow.state = state;
                    }
                    flow.last_seen[direction as usize] = now;
                    flow.packets[direction as usize] += 1;
                    flow.bytes[direction as usize] += u64::from(bytes);
                    Tracked::Live
                }
            }
        };
        assert_eq!(self.table.is_live(at, now), expected != Tracked::Expired);
        assert_eq!(self.table.packet(at, flags, bytes, now), expected);
        assert_eq!(self.table.leg(at), flow.legs[direction as usize]);
    }

    fn step(&mut self, step: &Step) {
        let now = self.now();
        match *step {
            Step::Insert {
                pick,
                backend,
                state,
            } => {
                // Other protocols have two states only.
                let state = match pick.protocol {
                    TCP => state,
                    _ if state.is_half_open() => FlowState::New,
                    _ => FlowState::Established,
                };
                if pick.ip6 {
                    self.insert::<FlowKey6>(pick, backend, state);
                } else {
                    self.insert::<FlowKey4>(pick, backend, state);
                }
            }
            Step::Packet {
                pick,
                reply,
                flags,
                bytes,
            } => {
                let flags = TcpFlags::from_bits(flags);
                if pick.ip6 {
                    self.packet::<FlowKey6>(pick, reply, flags, bytes);
                } else {
                    self.packet::<FlowKey4>(pick, reply, flags, bytes);
                }
            }
            Step::Remove(pick) => {
                let at = if pick.ip6 {
                    lookup(&self.table, pick.key::<FlowKey6>())
                } else {
                    lookup(&self.table, pick.key::<FlowKey4>())
                };
                if let Some(at) = at {
                    let twin = &mut self.twin;
                    assert!(self.table.remove(at, |view, why| {
                        assert_eq!(why, FlowEnd::Removed);
                        twin.end(view);
                    }));
                    *self.ends.entry(FlowEnd::Removed).or_default() += 1;
                    assert!(
                        !self.table.remove(at, nobody) && !self.table.remove(at.peer(), nobody)
                    );
                    assert_eq!(
                        self.table.packet(at, TcpFlags::ACK, 1, now),
                        Tracked::Expired
                    );
                }
            }
            Step::Redecide(pick, policy_generation) => {
                let key = pick.key::<FlowKey4>();
                if let Some(at) = lookup(&self.table, key) {
                    let leg = Leg {
                        policy_generation,
                        flags: LegFlags::DENY,
                        ..self.table.leg(at)
                    };
                    self.table.set_leg(at, leg);
                    let flow = self
                        .twin
                        .flows
                        .get_mut(&(at.to_word() & !1))
                        .expect("found");
                    flow.legs[at.direction() as usize] = leg;
                }
            }
            Step::Sweep(budget) => {
                let twin = &mut self.twin;
                let mut expired = 0;
                let swept = self.table.sweep(now, budget, |view, why| {
                    assert_eq!(why, FlowEnd::Expired);
                    assert!(twin.end(view).is_over(&twin.limits, now));
                    expired += 1;
                });
                assert!(swept.expired == expired && swept.examined <= budget);
                *self.ends.entry(FlowEnd::Expired).or_default() += u64::from(expired);
            }
            Step::RemoveInterface(interface) => {
                let of = |view: &FlowView<'_>| {
                    DIRECTIONS
                        .iter()
                        .any(|direction| view.interface(*direction) == interface)
                };
                let twin = &mut self.twin;
                let (mut scan, mut removed) = (FlowScan::default(), 0);
                while !self.table.remove_matching(&mut scan, 5, of, |view, why| {
                    assert_eq!(why, FlowEnd::Removed);
                    assert!(twin.end(view).interfaces.contains(&interface));
                    removed += 1;
                }) {}
                *self.ends.entry(FlowEnd::Removed).or_default() += removed;
                let mut left = self.twin.flows.values();
                assert!(left.all(|flow| !flow.interfaces.contains(&interface)));
            }
            Step::Wait { ms } => self.now_ns += ms * 1_000_000,
        }
    }

    fn audit(&self) {
        let gauges = self.table.gauges();
        let ip6 = |flow: &&TwinFlow| matches!(flow.keys[0], AnyFlowKey::Ip6(_));
        assert_eq!(gauges.live as usize, self.twin.flows.len());
        assert_eq!(
            gauges.live_ip6 as usize,
            self.twin.flows.values().filter(ip6).count()
        );
        assert_eq!(
            (gauges.capacity, gauges.inserted),
            (self.capacity, self.inserted)
        );
        let ended = |why| self.ends.get(&why).copied().unwrap_or(0);
        assert_eq!(gauges.expired, ended(FlowEnd::Expired));
        assert_eq!(gauges.evicted, ended(FlowEnd::Evicted));
        assert_eq!(gauges.replaced, ended(FlowEnd::Replaced));
        assert_eq!(gauges.removed, ended(FlowEnd::Removed));
        assert_eq!(gauges.refused, self.refused);
        let mut seen = 0;
        for view in self.table.iter() {
            check_view(&view, &self.twin.flows[&view.index().to_word()]);
            seen += 1;
        }
        assert_eq!(seen, self.twin.flows.len());
        self.audit_lookups::<FlowKey4>();
        self.audit_lookups::<FlowKey6>();
    }

    /// Every key there can be, one by one and as a batch.
    fn audit_lookups<K: TestKey>(&self) {
        let mut keys = Vec::new();
        for (src, dst, port) in (0..27).map(|i| (i % 3, i / 3 % 3, 80 + u16::from(i / 9))) {
            for protocol in [TCP, UDP, 1, 47] {
                let key = K::make(src, dst, port, 80, protocol, 1);
                keys.extend([key, key.reversed()]);
            }
        }
        let hashes: Vec<_> = keys.iter().map(|key| self.table.hash(key)).collect();
        let mut found = vec![FlowIndex::from_word(2); keys.len()];
        self.table.lookup_batch(&keys, &hashes, &mut found);
        for ((&key, &hash), found) in keys.iter().zip(&hashes).zip(found) {
            assert_eq!(found, self.table.lookup(&key, hash));
            assert_eq!(
                found.map(FlowIndex::to_word),
                self.twin.expect(key.any()),
                "{key:?}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_a_map(steps in steps(), capacity in 0u32..16, secret: [u64; 4], start_ns: u64) {
        let config = FlowConfig { secret: Some(secret), ..FlowConfig::new(capacity) };
        let mut run = Run {
            table: FlowTable::new(&config).unwrap(),
            twin: Twin::default(),
            now_ns: start_ns >> 1,
            capacity,
            inserted: 0,
            ends: HashMap::new(),
            refused: 0,
        };
        for step in &steps {
            run.step(step);
            run.audit();
        }
        // A whole round long after: the table ends empty.
        run.now_ns += 7200 * 1_000_000_000;
        while { run.step(&Step::Sweep(3)); !run.twin.flows.is_empty() } {}
        run.audit();
    }
}

/// More flows than fit one chunk, a full table, some removed: every length of batch, known and unknown
/// keys mixed.
fn batches_agree<K: FlowKey>(numbered: impl Fn(u32) -> K) {
    let mut table = table(20_000);
    for i in 0..20_000 {
        insert(&mut table, numbered(i), FlowState::New, Tick::default());
    }
    for i in (0..20_000).step_by(5) {
        let at = lookup(&table, numbered(i)).unwrap();
        assert!(table.remove(at, |_, _| {}));
    }
    let keys: Vec<K> = (0..25_000)
        .map(|i| {
            if i % 3 == 0 {
                numbered(i).reversed()
            } else {
                numbered(i)
            }
        })
        .collect();
    let hashes: Vec<_> = keys.iter().map(|key| table.hash(key)).collect();
    let expected: Vec<_> = keys
        .iter()
        .zip(&hashes)
        .map(|(key, hash)| table.lookup(key, *hash))
        .collect();
    for (i, found) in expected.iter().enumerate() {
        assert_eq!(found.is_some(), i < 20_000 && i % 5 != 0);
        if let Some(at) = found {
            assert!(table.holds(*at, &keys[i]) && !table.holds(at.peer(), &keys[i]));
        }
    }
    let wrong = FlowIndex::from_word(2);
    for len in [0, 1, 31, 32, 33, 63, 64, 65, 255, 256, 257, 700, 25_000] {
        let from = (len * 7) % (25_001 - len);
        let (keys, hashes) = (&keys[from..][..len], &hashes[from..][..len]);
        keys.iter()
            .zip(hashes)
            .for_each(|(_, hash)| table.prefetch(*hash));
        let mut found = vec![wrong; len + 1];
        table.lookup_batch(keys, hashes, &mut found);
        assert_eq!(found[..len], expected[from..][..len], "length {len}");
        assert_eq!(found[len], wrong, "behind the end");
    }
}

#[test]
fn batches_agree_with_single_lookups() {
    batches_agree(|i| FlowKey4::new(i, i ^ 0x5555, i as u16, 80, TCP, 0));
    batches_agree(|i| FlowKey6::new(i.into(), (i ^ 0x5555).into(), i as u16, 80, TCP, 0));
}

/// To the tick: alive when the timeout has just passed by, over one tick later, in both directions.
#[test]
fn every_timeout_ends_its_flow_to_the_tick() {
    use FlowState::*;
    let timeouts = FlowTimeouts {
        creation_grace: Duration::ZERO,
        ..FlowTimeouts::default()
    };
    let config = FlowConfig {
        timeouts,
        ..FlowConfig::new(10)
    };
    for (protocol, states) in [
        (TCP, &FlowState::ALL[..]),
        (UDP, &[New, Established]),
        (1, &[New, Established]),
        (132, &[New, Established]),
    ] {
        for &state in states {
            let limit = timeouts.of(FlowClass::of(protocol), state).as_nanos() as u64;
            let ticks = limit.div_ceil(Tick::NANOS);
            let mut table = FlowTable::new(&config).unwrap();
            let key = FlowKey4::new(1, 2, 3, 4, protocol, 0);
            let made = table.insert(&NewFlow::new(key, state), Tick::default(), nobody);
            let Inserted::New(at) = made else {
                panic!("{made:?}")
            };
            let (last, over) = (ticks * Tick::NANOS, (ticks + 1) * Tick::NANOS);
            assert_eq!(table.sweep(Tick::from_nanos(last), 10, nobody).expired, 0);
            assert!(table.is_live(at, Tick::from_nanos(last)));
            for at in [at, at.peer()] {
                assert!(!table.is_live(at, Tick::from_nanos(over)));
                let tracked = table.packet(at, TcpFlags::ACK, 1, Tick::from_nanos(over));
                assert_eq!(tracked, Tracked::Expired, "{protocol} {state:?}");
            }
            let swept = table.sweep(Tick::from_nanos(over), 10, |_, why| {
                assert_eq!(why, FlowEnd::Expired);
            });
            assert_eq!((swept.expired, swept.finished), (1, true));
            assert_eq!(lookup(&table, key), None);
        }
    }
}

#[test]
fn a_young_flow_is_not_ended() {
    let mut table = table(10);
    let ping = FlowKey4::icmp_echo(1, 2, 3, true, 0);
    let at = insert(&mut table, ping, FlowState::New, seconds(100));
    // ICMP: 5 s of silence, but the first 10 s are granted.
    assert!(table.is_live(at, seconds(109)));
    assert_eq!(table.sweep(seconds(109), 10, nobody).expired, 0);
    assert_eq!(
        table.packet(at, TcpFlags::NONE, 84, seconds(109)),
        Tracked::Live
    );
    assert!(table.is_live(at, seconds(113)));
    assert_eq!(table.sweep(seconds(115), 10, |_, _| {}).expired, 1);
}

/// Packets one way keep both records alive.
#[test]
fn one_direction_keeps_the_flow() {
    let mut table = table(10);
    let key = FlowKey6::new(1, 2, 3, 4, UDP, 0);
    let at = insert(&mut table, key, FlowState::New, seconds(0));
    for s in (0..1000).step_by(50) {
        assert_eq!(
            table.packet(at.peer(), TcpFlags::NONE, 100, seconds(s)),
            Tracked::Live
        );
        assert_eq!(table.sweep(seconds(s), 10, nobody).expired, 0);
    }
    assert!(table.is_live(at, seconds(1000)));
    assert_eq!(
        table.packet(at, TcpFlags::NONE, 100, seconds(1000)),
        Tracked::Live
    );
    assert_eq!(table.state(at), Some(FlowState::Established));
}

#[test]
fn timeouts_change_under_living_flows() {
    let mut table = table(10);
    let key = FlowKey4::new(1, 2, 3, 4, UDP, 0);
    insert(&mut table, key, FlowState::New, seconds(0));
    let timeouts = FlowTimeouts {
        udp: Duration::from_secs(600),
        ..FlowTimeouts::default()
    };
    table.set_timeouts(&timeouts);
    assert_eq!(table.sweep(seconds(300), 10, nobody).expired, 0);
    table.set_timeouts(&FlowTimeouts::default());
    assert_eq!(table.sweep(seconds(300), 10, |_, _| {}).expired, 1);
}

#[test]
fn no_capacity_takes_nothing() {
    let mut table = table(0);
    let key = FlowKey4::new(1, 2, 3, 4, TCP, 0);
    for _ in 0..3 {
        let made = table.insert(&NewFlow::new(key, FlowState::SynSent), seconds(0), nobody);
        assert_eq!(made, Inserted::Full);
    }
    assert_eq!(lookup(&table, key), None);
    let swept = table.sweep(seconds(1), 100, nobody);
    assert_eq!((swept.examined, swept.finished), (0, true));
    assert!(table.visit(&mut FlowScan::default(), 1, |_| panic!()));
    assert_eq!((table.gauges().refused, table.gauges().live), (3, 0));
}

#[test]
fn established_flows_survive_a_flood_and_half_open_ones_make_room() {
    const FLOWS: u32 = 2000;
    let mut table = table(FLOWS);
    let key = |i: u32| FlowKey4::new(i, 9, 1000, 80, TCP, 0);
    for i in 0..FLOWS {
        let state = if i % 2 == 0 {
            FlowState::Established
        } else {
            FlowState::SynSent
        };
        insert(&mut table, key(i), state, seconds(0));
    }
    let mut refused = 0;
    for i in FLOWS..20 * FLOWS {
        let now = Tick::from_nanos(u64::from(i) << 20);
        let made = table.insert(
            &NewFlow::new(key(i), FlowState::SynSent),
            now,
            |view, why| {
                assert_eq!((view.state(), why), (FlowState::SynSent, FlowEnd::Evicted));
            },
        );
        refused += u64::from(made == Inserted::Full);
        assert_eq!(table.gauges().live, FLOWS);
    }
    assert_eq!(refused, 0, "half of the flows may go: every sample has one");
    assert!(
        (0..FLOWS)
            .step_by(2)
            .all(|i| lookup(&table, key(i)).is_some())
    );
    // The last come stand where the oldest stood.
    let newest = (19 * FLOWS + FLOWS / 2..20 * FLOWS).filter(|i| lookup(&table, key(*i)).is_some());
    assert!(newest.count() > FLOWS as usize * 2 / 5);
}

#[test]
fn a_table_of_established_flows_refuses() {
    let mut table = table(100);
    for i in 0..100 {
        let key = FlowKey4::new(i, 9, 1000, 80, TCP, 0);
        insert(&mut table, key, FlowState::Established, seconds(0));
    }
    let new = NewFlow::new(FlowKey6::new(1, 9, 1000, 80, TCP, 0), FlowState::SynSent);
    for _ in 0..50 {
        assert_eq!(table.insert(&new, seconds(1), nobody), Inserted::Full);
    }
    assert_eq!(table.gauges().refused, 50);
    // One closes: its place goes to the next, of the other family too.
    let at = lookup(&table, FlowKey4::new(77, 9, 1000, 80, TCP, 0)).unwrap();
    assert_eq!(
        table.packet(at, TcpFlags::RST, 40, seconds(2)),
        Tracked::Live
    );
    let made = (0..100 / 16 + 1)
        .map(|_| table.insert(&new, seconds(3), |view, _| assert_eq!(view.index(), at)))
        .find(|made| *made != Inserted::Full);
    assert!(matches!(made, Some(Inserted::New(_))), "{made:?}");
}

/// Under a known secret these keys all have hash 0: sixteen fill the two buckets. Under an unknown one
/// they are keys like any other.
#[test]
fn keys_chosen_for_one_bucket_need_the_secret() {
    let keys = || (0..60_000u16).map(|port| FlowKey4::new(0, 0, port, 60_001, UDP, 0));
    let fill = |secret| {
        let mut table = FlowTable::new(&FlowConfig {
            secret,
            ..FlowConfig::new(60_000)
        })
        .unwrap();
        let made =
            keys().map(|key| table.insert(&NewFlow::new(key, FlowState::New), seconds(0), nobody));
        made.filter(|made| matches!(made, Inserted::New(_))).count()
    };
    assert_eq!(fill(Some([0; 4])), 8);
    assert_eq!(fill(None), 60_000);
}

#[test]
fn a_flow_to_itself_is_one_key() {
    let mut table = table(10);
    let key = FlowKey4::new(7, 7, 5, 5, UDP, 0);
    for _ in 0..30 {
        let at = insert(&mut table, key, FlowState::New, seconds(0));
        assert_eq!(lookup(&table, key), Some(at));
        let again = table.insert(&NewFlow::new(key, FlowState::New), seconds(0), nobody);
        assert_eq!(again, Inserted::Exists(at));
        assert!(table.remove(at, |_, _| {}));
        assert_eq!(lookup(&table, key), None);
    }
}

#[test]
fn ports_are_used_again_after_the_end() {
    let mut table = table(10);
    let key = FlowKey4::new(1, 2, 40_000, 443, TCP, 0);
    let at = insert(&mut table, key, FlowState::Closed, seconds(0));
    assert_eq!(
        table.packet(at, TcpFlags::SYN, 60, seconds(1)),
        Tracked::Reopened
    );
    let mut ends = Vec::new();
    let flow = NewFlow::new(key, FlowState::SynSent);
    let made = table.insert(&flow, seconds(1), |view, why| {
        ends.push((view.state(), why))
    });
    assert!(matches!(made, Inserted::New(_)));
    assert_eq!(ends, [(FlowState::Closed, FlowEnd::Replaced)]);
    assert_eq!(
        table.state(lookup(&table, key).unwrap()),
        Some(FlowState::SynSent)
    );
}

#[test]
fn reverse_keys_follow_translation_and_must_be_free() {
    let mut table = table(10);
    // 10.0.0.1:40000 > service 9.9.9.9:80, answered by 10.0.0.5:8080.
    let key = FlowKey4::new(0x0a00_0001, 0x0909_0909, 40_000, 80, TCP, 0);
    let reply = FlowKey4::new(0x0a00_0005, 0x0a00_0001, 8080, 40_000, TCP, 0);
    let rewrite = Rewrite4 {
        dst: 0x0a00_0005,
        dst_port: 8080,
        l3_delta: 1,
        l4_delta: 2,
        ..Rewrite4::default()
    };
    let back = Rewrite4 {
        src: 0x0909_0909,
        src_port: 80,
        ..Rewrite4::default()
    };
    let flow = NewFlow {
        reply,
        rewrites: [rewrite, back],
        ..NewFlow::new(key, FlowState::SynSent)
    };
    let Inserted::New(at) = table.insert(&flow, seconds(0), nobody) else {
        panic!()
    };
    assert_eq!(lookup(&table, key), Some(at));
    assert_eq!(lookup(&table, reply), Some(at.peer()));
    assert_eq!(lookup(&table, key.reversed()), None);
    assert_eq!(table.rewrite::<FlowKey4>(at), rewrite);
    assert_eq!(table.rewrite::<FlowKey4>(at.peer()), back);
    assert_eq!(table.rewrite::<FlowKey6>(at), Rewrite6::default());
    table.set_rewrite::<FlowKey4>(at, back);
    assert_eq!(table.rewrite::<FlowKey4>(at), back);
    // Another client whose answers would be taken for this one's.
    let other = NewFlow {
        key: FlowKey4::new(9, 9, 9, 9, TCP, 0),
        ..flow
    };
    assert_eq!(
        table.insert(&other, seconds(0), nobody),
        Inserted::Clash(at.peer())
    );
    assert_eq!(lookup(&table, other.key), None);
}

#[test]
fn a_decision_is_replaced_alone() {
    let mut table = table(10);
    let key = FlowKey4::new(1, 2, 3, 4, TCP, 0);
    let at = insert(&mut table, key, FlowState::Established, seconds(0));
    assert_eq!(
        table.packet(at, TcpFlags::ACK, 1000, seconds(1)),
        Tracked::Live
    );
    let leg = Leg {
        policy_generation: 2,
        route_generation: 3,
        nat_generation: 4,
        next: 5,
        rule: 6,
        flags: LegFlags::DENY,
    };
    table.set_leg(at, leg);
    assert_eq!((table.leg(at), table.leg(at.peer())), (leg, Leg::default()));
    let view = table.view(at.peer()).unwrap();
    assert_eq!(view.index(), at);
    assert_eq!(
        (
            view.packets(Direction::Forward),
            view.bytes(Direction::Forward)
        ),
        (1, 1000)
    );
    assert_eq!(
        (view.packets(Direction::Reverse), view.last_seen()),
        (0, seconds(1))
    );
    assert_eq!(view.state(), FlowState::Established);
}

/// Slices of any size see every flow once, in both families.
#[test]
fn walks_meet_every_flow_once() {
    let mut table = table(500);
    for i in 0..200 {
        insert(
            &mut table,
            FlowKey4::new(i, 1, 1, 1, UDP, 0),
            FlowState::New,
            seconds(0),
        );
        insert(
            &mut table,
            FlowKey6::new(i.into(), 1, 1, 1, UDP, 5),
            FlowState::New,
            seconds(0),
        );
    }
    for budget in [1, 7, 199, 200, 201, 400, 1000, u32::MAX] {
        let (mut scan, mut seen) = (FlowScan::default(), HashSet::new());
        while !table.visit(&mut scan, budget, |view| assert!(seen.insert(view.index()))) {}
        assert_eq!(seen.len(), 400, "budget {budget}");
        let mut rounds = 0;
        while !table.sweep(seconds(1), budget, nobody).finished {
            rounds += 1;
            assert!(rounds <= 400);
        }
    }
    assert!(!table.visit(&mut FlowScan::default(), 0, |_| panic!()));
    let mut scan = FlowScan::default();
    while !table.remove_matching(&mut scan, 30, |view| view.zone() == 5, |_, _| {}) {}
    assert_eq!((table.gauges().live, table.gauges().live_ip6), (200, 0));
    assert!(
        table
            .iter()
            .all(|view| view.zone() == 0 && view.protocol() == UDP)
    );
}

/// An index that outlived its flow names no flow, or is told by the key.
#[test]
fn stale_indices_are_noticed() {
    let mut table = table(10);
    let (old, new) = (
        FlowKey4::new(1, 2, 3, 4, UDP, 0),
        FlowKey4::new(5, 6, 7, 8, UDP, 0),
    );
    let at = insert(&mut table, old, FlowState::New, seconds(0));
    assert!(table.holds(at, &old) && !table.holds(at, &new));
    assert!(table.remove(at.peer(), |_, _| {}));
    assert!(!table.holds(at, &old));
    assert_eq!(
        table.packet(at, TcpFlags::NONE, 1, seconds(0)),
        Tracked::Expired
    );
    assert_eq!((table.state(at), table.view(at).is_none()), (None, true));
    let again = insert(&mut table, new, FlowState::New, seconds(0));
    assert_eq!(again, at, "the place is used again");
    assert!(!table.holds(at, &old) && table.holds(at, &new));
}
