//! The flow table's upkeep: flows whose time is over, and those of endpoints and of services' backends that are gone. A slice per turn of a worker that is
//! busy anyway; none of it counts as work, so an idle worker sleeps, and finds expired flows by itself when a packet comes.

use dataplane::{Context, MAX_INTERFACES};
use tables::{AnyFlowKey, Direction, FlowEnd, FlowKey as _, FlowScan, FlowTable, FlowView, Tick};

use super::events::FlowWatch;
use super::packet::{Ip4, Ip6, Version};
use super::{EndpointKind, Policy};
use crate::nat::{Nat, SERVED, Translation};
use crate::snapshot::Snapshot;

/// Places of the table that one turn looks at.
const BUDGET: u32 = 64;
/// Ticks from one round of the sweep to the next: a second.
const ROUND: u32 = (1_000_000_000 / Tick::NANOS) as u32;
/// The protocol whose flows have no end of their own, so that a client could go on sending to nobody for ever.
const UDP: u8 = 17;

/// Where the upkeep stands.
pub(super) struct Housekeeper {
    /// When the round of the sweep began, and whether it has come to its end.
    round: (Tick, bool),
    /// Generation of the policy that the endpoints are from.
    generation: u32,
    endpoints: Set,
    /// Endpoints whose flows are to go, and how far the walk through the table has come, which began then.
    gone: Set,
    walk: Option<(FlowScan, Tick)>,
    /// Generation of translation that the flows' backends have been compared with, and how far that has come.
    served: (u32, Option<FlowScan>),
}

/// Who is told of flows that end.
struct Told<'a> {
    policy: &'a Policy,
    nat: &'a Nat,
    watch: &'a mut FlowWatch,
    now_ns: u64,
}

impl Told<'_> {
    fn ended(&mut self, flow: &FlowView<'_>, end: FlowEnd) {
        self.watch.ended(flow, end, self.policy, self.now_ns);
    }
}

/// A set of interface numbers.
type Set = Box<[u64; MAX_INTERFACES as usize / 64]>;

impl Default for Housekeeper {
    fn default() -> Self {
        let empty = || Box::new([0; MAX_INTERFACES as usize / 64]);
        Self {
            round: (Tick::default(), true),
            generation: 0,
            endpoints: empty(),
            gone: empty(),
            walk: None,
            served: (0, None),
        }
    }
}

impl Housekeeper {
    /// One turn's share.
    pub(super) fn turn(&mut self, cx: &mut Context<'_, Snapshot>) {
        let policy = &cx.snapshot.policy;
        let (flows, watch) = cx.state.flows_and_watch();
        let mut told = Told {
            policy,
            nat: &cx.snapshot.nat,
            watch,
            now_ns: cx.now_ns,
        };
        match flows {
            Some(flows) => {
                self.keep(flows, &mut told);
                told.watch.turn(Some(flows), policy, cx.now_ns);
            }
            None => told.watch.turn(None, policy, cx.now_ns),
        }
    }

    fn keep(&mut self, flows: &mut FlowTable, told: &mut Told<'_>) {
        let (policy, now) = (told.policy, Tick::from_nanos(told.now_ns));
        if policy.generation != self.generation {
            flows.set_timeouts(&policy.settings.timeouts);
            self.compare(policy, now);
        }
        if flows.gauges().live == 0 {
            self.walk = None;
            self.served = (told.nat.generation, None);
            return;
        }
        self.sweep(flows, told, now);
        self.end_gone(flows, told);
        if told.nat.generation != self.served.0 {
            self.served = (told.nat.generation, Some(FlowScan::default()));
        }
        self.end_unserved(flows, told);
    }

    fn sweep(&mut self, flows: &mut FlowTable, told: &mut Told<'_>, now: Tick) {
        let (began, finished) = self.round;
        if finished && now.since(began) < ROUND {
            return;
        }
        let began = if finished { now } else { began };
        let swept = flows.sweep(now, BUDGET, |flow, end| told.ended(flow, end));
        self.round = (began, swept.finished);
    }

    /// Removes flows of endpoints that are gone. A flow that is younger than the change belongs to who came after.
    fn end_gone(&mut self, flows: &mut FlowTable, told: &mut Told<'_>) {
        let Some((scan, since)) = &mut self.walk else {
            return;
        };
        let (gone, since) = (&self.gone, *since);
        let is_gone = |number: u16| {
            let word = gone.get(usize::from(number) / 64);
            word.is_some_and(|word| word >> (number % 64) & 1 != 0)
        };
        let done = flows.remove_matching(
            scan,
            BUDGET,
            |flow| {
                let ends = [Direction::Forward, Direction::Reverse];
                since.since(flow.created()) > 0
                    && ends.iter().any(|end| is_gone(flow.interface(*end)))
            },
            |flow, end| told.ended(flow, end),
        );
        if done {
            self.walk = None;
            self.gone.fill(0);
        }
    }

    /// Removes UDP flows whose backend has gone from its service, or whose service has. Those that begin meanwhile have backends that
    /// are there.
    fn end_unserved(&mut self, flows: &mut FlowTable, told: &mut Told<'_>) {
        let Some(scan) = &mut self.served.1 else {
            return;
        };
        let nat = told.nat;
        let done = flows.remove_matching(
            scan,
            BUDGET,
            |flow| flow.protocol() == UDP && !is_served(flow, nat),
            |flow, end| told.ended(flow, end),
        );
        if done {
            self.served.1 = None;
        }
    }

    /// Finds out which workloads there were that are no more, or closed.
    #[cold]
    fn compare(&mut self, policy: &Policy, now: Tick) {
        self.generation = policy.generation;
        let mut any = false;
        for (index, (endpoints, gone)) in self
            .endpoints
            .iter_mut()
            .zip(self.gone.iter_mut())
            .enumerate()
        {
            let is_open = |bit: &usize| {
                let policy = policy.of((index * 64 + bit) as u16);
                policy.is_some_and(|policy| policy.kind == EndpointKind::Workload && !policy.closed)
            };
            let open = (0..64).filter(is_open).fold(0, |word, bit| word | 1 << bit);
            *gone |= *endpoints & !open;
            *endpoints = open;
            any |= *gone != 0;
        }
        if any {
            self.walk = Some((FlowScan::default(), now));
        }
    }
}

/// Whether a flow may stay as far as services are concerned.
fn is_served(flow: &FlowView<'_>, nat: &Nat) -> bool {
    let served = flow.leg(Direction::Forward).flags.has(SERVED);
    let keys = [Direction::Forward, Direction::Reverse].map(|direction| flow.key(direction));
    match keys {
        [AnyFlowKey::Ip4(there), AnyFlowKey::Ip4(back)] => {
            stays::<Ip4>(&nat.ip4, &there, &back, served)
        }
        [AnyFlowKey::Ip6(there), AnyFlowKey::Ip6(back)] => {
            stays::<Ip6>(&nat.ip6, &there, &back, served)
        }
        _ => true,
    }
}

fn stays<V: Version>(
    translation: &Translation<V::Address>,
    there: &V::Key,
    back: &V::Key,
    served: bool,
) -> bool {
    let to = (V::ends(there).1, V::ports(there).1);
    let by = (V::ends(back).0, V::ports(back).0);
    translation.still_serves(there.zone(), there.protocol(), to, by, served)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tables::{FlowConfig, FlowKey4, FlowState, FlowTimeouts, Inserted, NewFlow};

    use super::*;
    use crate::policy::Settings;
    use crate::policy::testing::workload;

    fn flows(count: u16, at: Tick) -> FlowTable {
        let mut flows = FlowTable::new(&FlowConfig::new(1000)).expect("memory");
        for number in 0..count {
            let key = FlowKey4::new(1, 2, number, 53, 17, 0);
            let mut flow = NewFlow::new(key, FlowState::New);
            flow.interfaces = [number % 4, 9];
            let made = flows.insert(&flow, at, |_, _| ());
            assert!(matches!(made, Inserted::New(_)));
        }
        flows
    }

    fn second(number: u64) -> Tick {
        Tick::from_nanos(number * 1_000_000_000)
    }

    impl Housekeeper {
        /// Keeps a table at a second, with nobody to tell.
        fn keep_at(&mut self, policy: &Policy, flows: &mut FlowTable, number: u64) {
            self.keep_translated(policy, &Nat::default(), flows, number);
        }

        fn keep_translated(
            &mut self,
            policy: &Policy,
            nat: &Nat,
            flows: &mut FlowTable,
            number: u64,
        ) {
            let mut told = Told {
                policy,
                nat,
                watch: &mut FlowWatch::default(),
                now_ns: number * 1_000_000_000,
            };
            self.keep(flows, &mut told);
        }
    }

    #[test]
    fn a_round_of_the_sweep_takes_several_turns_and_begins_once_a_second() {
        let (mut keeper, policy) = (Housekeeper::default(), Policy::default());
        let mut flows = flows(200, second(1));
        // A first round at a time when all live, to its end and no further before a second has gone by.
        for _ in 0..10 {
            keeper.keep_at(&policy, &mut flows, 2);
        }
        assert_eq!(
            (flows.gauges().live, keeper.round),
            (200, (second(2), true))
        );
        for left in [136, 72, 8, 0, 0] {
            keeper.keep_at(&policy, &mut flows, 100);
            assert_eq!(flows.gauges().live, left);
        }
        assert_eq!(flows.gauges().expired, 200);
    }

    #[test]
    fn timeouts_change_for_the_flows_that_are_there() {
        let of = |generation, udp| Policy {
            generation,
            settings: Settings {
                timeouts: FlowTimeouts {
                    creation_grace: Duration::ZERO,
                    udp,
                    ..FlowTimeouts::default()
                },
                ..Settings::default()
            },
            ..Policy::default()
        };
        let (mut keeper, mut table) = (Housekeeper::default(), flows(1, second(1)));
        let key = FlowKey4::new(1, 2, 0, 53, 17, 0);
        let index = table.lookup(&key, table.hash(&key)).expect("a flow");
        keeper.keep_at(&of(1, Duration::from_secs(500)), &mut table, 2);
        keeper.keep_at(&of(1, Duration::from_secs(500)), &mut table, 400);
        assert!(table.is_live(index, second(500)) && !table.is_live(index, second(502)));
        // The state stays, the end comes earlier: at the next look, and by the sweep.
        let short = of(2, Duration::from_secs(450));
        keeper.keep_at(&short, &mut table, 401);
        assert_eq!(table.state(index), Some(FlowState::New));
        assert!(table.is_live(index, second(451)) && !table.is_live(index, second(452)));
        keeper.keep_at(&short, &mut table, 451);
        assert_eq!(table.gauges().live, 1);
        keeper.keep_at(&short, &mut table, 453);
        assert_eq!((table.gauges().live, table.gauges().expired), (0, 1));
        // Without policy the defaults hold.
        let mut keeper = Housekeeper::default();
        let mut table = flows(1, second(1));
        keeper.keep_at(&Policy::default(), &mut table, 2);
        assert!(table.is_live(index, second(61)) && !table.is_live(index, second(62)));
    }

    #[test]
    fn flows_of_endpoints_that_are_gone_or_closed_end() {
        let mut keeper = Housekeeper::default();
        let of = |generation, open: [bool; 4]| Policy {
            generation,
            interfaces: open
                .iter()
                .map(|open| {
                    let mut policy = workload(None, None);
                    policy.closed = !open;
                    Some(Arc::new(policy))
                })
                .collect(),
            ..Policy::default()
        };
        let mut table = flows(200, second(1));
        keeper.keep_at(&of(1, [true; 4]), &mut table, 2);
        keeper.keep_at(&of(1, [true; 4]), &mut table, 3);
        assert_eq!(table.gauges().removed, 0);
        let mut changed = of(2, [true, false, true, true]);
        changed.interfaces.truncate(3);
        for _ in 0..4 {
            keeper.keep_at(&changed, &mut table, 3);
        }
        assert_eq!((table.gauges().removed, table.gauges().live), (100, 100));
        let interfaces = table.iter().map(|flow| flow.interface(Direction::Forward));
        assert!(interfaces.into_iter().all(|number| number % 2 == 0));
        // Nothing is left to do, and younger flows are another endpoint's.
        assert!(keeper.walk.is_none());
        let mut table = flows(200, second(5));
        keeper.keep_at(&of(3, [true; 4]), &mut table, 5);
        for _ in 0..4 {
            keeper.keep_at(&of(4, [false; 4]), &mut table, 5);
        }
        assert_eq!(table.gauges().removed, 0);
    }

    /// Flows of both versions to a service that has lost one of its two backends, or to nobody's.
    #[test]
    fn udp_flows_end_with_their_backend() {
        use crate::nat::{
            Affinity, Backend, Backends, ClientSource, DestinationRules, Secret, Service, Services,
        };
        use tables::acl::Address;
        use tables::{FlowKey6, Leg, LegFlags};

        fn rules<A: Address>(address: A, backends: &[A]) -> Vec<Option<Arc<DestinationRules<A>>>> {
            let backend = |address: &A| Backend {
                address: *address,
                port: 5353,
                identity: address.widen() as u64,
                weight: 1,
                local: true,
            };
            let list: Vec<_> = backends.iter().map(backend).collect();
            let service = |protocol| Service {
                address,
                protocol,
                port: 53,
                identity: 0,
                backends: Arc::new(Backends::new(&list).expect("a table")),
                affinity: Affinity::None,
                allowed: None,
                source: ClientSource::Kept,
            };
            let services = vec![service(6), service(17)];
            let services = Services::new(services, Secret::of_process()).expect("services");
            vec![Some(Arc::new(
                DestinationRules::new(&[], &[]).with_services(services),
            ))]
        }
        let nat = |generation, backends: &[u8]| {
            let four: Vec<u32> = backends.iter().copied().map(u32::from).collect();
            let six: Vec<u128> = backends.iter().copied().map(u128::from).collect();
            let mut nat = Nat {
                generation,
                ..Nat::default()
            };
            (nat.ip4.destination, nat.ip6.destination) = (rules(2, &four), rules(2, &six));
            nat
        };
        let mut table = FlowTable::new(&FlowConfig::new(1000)).expect("memory");
        let served = Leg {
            flags: LegFlags::REWRITE.and(SERVED),
            ..Leg::default()
        };
        for number in 0..200 {
            let (backend, protocol) = (7 + number % 2, if number % 4 < 2 { 17 } else { 6 });
            let mut four =
                NewFlow::new(FlowKey4::new(1, 2, number, 53, protocol, 0), FlowState::New);
            four.reply = FlowKey4::new(backend.into(), 1, 5353, number, protocol, 0);
            let mut six = NewFlow::new(FlowKey6::new(1, 2, number, 53, protocol, 0), four.state);
            six.reply = FlowKey6::new(backend.into(), 1, 5353, number, protocol, 0);
            (four.legs, six.legs) = ([served; 2], [served; 2]);
            let made = [
                table.insert(&four, second(1), |_, _| ()),
                table.insert(&six, second(1), |_, _| ()),
            ];
            assert!(made.iter().all(|made| matches!(made, Inserted::New(_))));
            // Others, to another address and port.
            let other = FlowKey4::new(1, 9, number, 53, 17, 0);
            let made = table.insert(&NewFlow::new(other, FlowState::New), second(1), |_, _| ());
            assert!(matches!(made, Inserted::New(_)));
        }
        let (mut keeper, policy) = (Housekeeper::default(), Policy::default());
        let mut turns = |table: &mut FlowTable, nat: &Nat, most: usize| {
            (0..most)
                .find(|_| {
                    keeper.keep_translated(&policy, nat, table, 2);
                    keeper.served.1.is_none()
                })
                .map(|turns| turns + 1)
        };
        let count = turns(&mut table, &nat(1, &[7, 8]), 100).expect("an end");
        assert!(count >= 600 / BUDGET as usize, "{count}");
        assert_eq!(table.gauges().removed, 0);
        assert!(turns(&mut table, &nat(1, &[7]), 100).is_some());
        assert_eq!(table.gauges().removed, 0, "the same generation");
        // A change in the middle begins anew.
        assert_eq!(turns(&mut table, &nat(2, &[7, 8]), 2), None);
        assert!(turns(&mut table, &nat(3, &[7]), 100).is_some());
        assert_eq!(table.gauges().removed, 100);
        assert!(turns(&mut table, &nat(4, &[]), 100).is_some());
        assert_eq!(table.gauges().removed, 200);
        // Those of TCP, and of no service.
        assert_eq!(table.gauges().live, 400);
    }
}
