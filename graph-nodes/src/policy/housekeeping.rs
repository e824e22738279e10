//! The flow table's upkeep: flows whose time is over, and those of endpoints that are gone. A slice per turn of a worker that is
//! busy anyway; none of it counts as work, so an idle worker sleeps, and finds expired flows by itself when a packet comes.

use dataplane::{Context, MAX_INTERFACES};
use tables::{Direction, FlowEnd, FlowScan, FlowTable, FlowView, Tick};

use super::events::FlowWatch;
use super::{EndpointKind, Policy};
use crate::snapshot::Snapshot;

/// Places of the table that one turn looks at.
const BUDGET: u32 = 64;
/// Ticks from one round of the sweep to the next: a second.
const ROUND: u32 = (1_000_000_000 / Tick::NANOS) as u32;

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
}

/// Who is told of flows that end.
struct Told<'a> {
    policy: &'a Policy,
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
            return;
        }
        self.sweep(flows, told, now);
        self.end_gone(flows, told);
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
            let mut told = Told {
                policy,
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
}
