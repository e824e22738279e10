//! Going through all flows a slice at a time: expiry, removal of many, dumps.

use std::time::Duration;

use super::{
    FlowTable,
    insert::FlowEnd,
    key::{FlowKey, FlowKey4, FlowKey6},
    record::{Data, FlowIndex, Leg, Origin, Record, Slots},
    state::{Direction, FlowClass, FlowState, StateByte},
    timeouts::Tick,
};

/// Where a walk through the table stands: IPv4 first, then IPv6. The default is the beginning.
///
/// A flow that lives throughout the walk is met exactly once; one that comes or goes meanwhile, at most once
/// per place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowScan {
    ip6: bool,
    /// Slots of the family that are done.
    done: u32,
}

/// What a slice of the sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Places looked at.
    pub examined: u32,
    /// Flows ended.
    pub expired: u32,
    /// Whether the sweep came to the end of the table; the next slice begins anew.
    pub finished: bool,
}

/// A flow, read only: both directions.
#[derive(Clone, Copy, Debug)]
pub struct FlowView<'a> {
    index: FlowIndex,
    pair: Pair<'a>,
    origin: &'a Origin,
}

/// A key of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnyFlowKey {
    /// Of IPv4.
    Ip4(FlowKey4),
    /// Of IPv6.
    Ip6(FlowKey6),
}

/// Both records of a flow.
#[derive(Clone, Copy, Debug)]
pub enum Pair<'a> {
    /// Of IPv4.
    Ip4(&'a [Record<FlowKey4>; 2]),
    /// Of IPv6.
    Ip6(&'a [Record<FlowKey6>; 2]),
}

impl FlowView<'_> {
    /// The forward direction.
    pub fn index(&self) -> FlowIndex {
        self.index
    }

    /// The key under which packets of this direction are found.
    pub fn key(&self, direction: Direction) -> AnyFlowKey {
        match self.pair {
            Pair::Ip4(pair) => AnyFlowKey::Ip4(pair[direction as usize].key),
            Pair::Ip6(pair) => AnyFlowKey::Ip6(pair[direction as usize].key),
        }
    }

    /// What was decided.
    pub fn leg(&self, direction: Direction) -> Leg {
        self.data(direction).leg()
    }

    /// What IPv4 packets become; no rewrite for a flow of IPv6.
    pub fn rewrite4(&self, direction: Direction) -> super::Rewrite4 {
        match self.pair {
            Pair::Ip4(pair) => pair[direction as usize].rewrite,
            Pair::Ip6(_) => super::Rewrite4::default(),
        }
    }

    /// What IPv6 packets become; no rewrite for a flow of IPv4.
    pub fn rewrite6(&self, direction: Direction) -> super::Rewrite6 {
        match self.pair {
            Pair::Ip4(_) => super::Rewrite6::default(),
            Pair::Ip6(pair) => pair[direction as usize].rewrite,
        }
    }

    /// How far it has come.
    pub fn state(&self) -> FlowState {
        // A view is made of a record in use.
        self.data(Direction::Forward)
            .state
            .state()
            .unwrap_or(FlowState::New)
    }

    /// How it is tracked.
    pub fn class(&self) -> FlowClass {
        self.data(Direction::Forward).state.class()
    }

    /// Address space of the forward direction.
    pub fn zone(&self) -> u16 {
        match self.key(Direction::Forward) {
            AnyFlowKey::Ip4(key) => key.zone(),
            AnyFlowKey::Ip6(key) => key.zone(),
        }
    }

    /// IP protocol number.
    pub fn protocol(&self) -> u8 {
        match self.key(Direction::Forward) {
            AnyFlowKey::Ip4(key) => key.protocol(),
            AnyFlowKey::Ip6(key) => key.protocol(),
        }
    }

    /// Interface where this direction's packets come in.
    pub fn interface(&self, direction: Direction) -> u16 {
        self.origin.interfaces[direction as usize]
    }

    /// When the flow was made.
    pub fn created(&self) -> Tick {
        self.origin.created
    }

    /// The last packet, of either direction.
    pub fn last_seen(&self) -> Tick {
        let [forward, reverse] = [Direction::Forward, Direction::Reverse];
        self.data(forward)
            .last_seen
            .later(self.data(reverse).last_seen)
    }

    /// Packets counted; exact up to 2^48.
    pub fn packets(&self, direction: Direction) -> u64 {
        let high = u64::from(self.origin.packets_high[direction as usize]);
        high << 32 | u64::from(self.data(direction).packets)
    }

    /// Bytes counted.
    pub fn bytes(&self, direction: Direction) -> u64 {
        let high = u64::from(self.origin.bytes_high[direction as usize]);
        high << 32 | u64::from(self.data(direction).bytes)
    }

    fn data(&self, direction: Direction) -> &Data {
        match self.pair {
            Pair::Ip4(pair) => &pair[direction as usize].data,
            Pair::Ip6(pair) => &pair[direction as usize].data,
        }
    }
}

impl FlowTable {
    /// Ends the flows whose time is over, among the next `budget` places; `ended` hears of each. Goes
    /// round the table: called often enough that a round takes a small part of the shortest timeout,
    /// and at least once in a year. Reads memory in order.
    pub fn sweep(
        &mut self,
        now: Tick,
        budget: u32,
        mut ended: impl FnMut(&FlowView<'_>, FlowEnd),
    ) -> Swept {
        let mut swept = Swept::default();
        let mut scan = self.sweeper;
        while let Some((ip6, slots)) = self.next_slots(&mut scan, budget - swept.examined) {
            swept.examined += slots.len() as u32;
            swept.expired += if ip6 {
                self.sweep_slots::<FlowKey6>(slots, now, &mut ended)
            } else {
                self.sweep_slots::<FlowKey4>(slots, now, &mut ended)
            };
        }
        if self.is_at_end(&scan) {
            swept.finished = true;
            scan = FlowScan::default();
        }
        self.sweeper = scan;
        swept
    }

    /// Removes the flows that `doomed` picks (those of an endpoint that is gone, by interface or zone)
    /// among the next `budget` places; `ended` hears of each. True when the walk is done.
    pub fn remove_matching(
        &mut self,
        scan: &mut FlowScan,
        budget: u32,
        mut doomed: impl FnMut(&FlowView<'_>) -> bool,
        mut ended: impl FnMut(&FlowView<'_>, FlowEnd),
    ) -> bool {
        let mut left = budget;
        while let Some((ip6, slots)) = self.next_slots(scan, left) {
            left -= slots.len() as u32;
            for slot in slots {
                let view = self.view_slot(ip6, slot);
                if let Some(at) = view.filter(&mut doomed).map(|view| view.index) {
                    self.end_at(at, FlowEnd::Removed, &mut ended);
                }
            }
        }
        self.is_at_end(scan)
    }

    /// Shows the flows among the next `budget` places to `visit`, which picks what it wants: a dump
    /// without a long pause. True when the walk is done.
    pub fn visit(
        &self,
        scan: &mut FlowScan,
        budget: u32,
        mut visit: impl FnMut(&FlowView<'_>),
    ) -> bool {
        let mut left = budget;
        while let Some((ip6, slots)) = self.next_slots(scan, left) {
            left -= slots.len() as u32;
            slots
                .filter_map(|slot| self.view_slot(ip6, slot))
                .for_each(|view| visit(&view));
        }
        self.is_at_end(scan)
    }

    /// How long a flow lives on if no packet comes; zero where its time is over.
    pub fn time_left(&self, flow: &FlowView<'_>, now: Tick) -> Duration {
        let state = flow.data(Direction::Forward).state;
        let idle = now.since(flow.last_seen());
        let age = now.since(flow.created());
        let ticks = self.limits.left(state, idle, age);
        Duration::from_nanos(u64::from(ticks) * Tick::NANOS)
    }

    /// All flows, in one walk.
    pub fn iter(&self) -> impl Iterator<Item = FlowView<'_>> {
        let ip4 = (1..self.ip4.used()).filter_map(|slot| self.ip4.view(slot));
        ip4.chain((1..self.ip6.used()).filter_map(|slot| self.ip6.view(slot)))
    }

    /// One flow, by either direction; `None` if it is gone.
    pub fn view(&self, at: FlowIndex) -> Option<FlowView<'_>> {
        self.view_slot(at.is_ip6(), at.slot())
    }

    fn view_slot(&self, ip6: bool, slot: u32) -> Option<FlowView<'_>> {
        if ip6 {
            self.ip6.view(slot)
        } else {
            self.ip4.view(slot)
        }
    }

    /// Ends what is over in these slots, and says how many flows that were.
    fn sweep_slots<K: FlowKey>(
        &mut self,
        slots: std::ops::Range<u32>,
        now: Tick,
        ended: &mut impl FnMut(&FlowView<'_>, FlowEnd),
    ) -> u32 {
        let mut expired = 0;
        for slot in slots {
            let all = K::slots(self);
            let forward = &all.records[slot as usize * 2].data;
            if forward.state == StateByte::FREE
                || !self
                    .limits
                    .is_over(forward.state, now.since(forward.last_seen))
                || !all.is_over(slot, &self.limits, now)
            {
                continue;
            }
            self.end::<K>(slot, FlowEnd::Expired, ended);
            expired += 1;
        }
        expired
    }

    /// The next slots of a walk, of one family, at most `most`; `None` at the end or if `most` is 0.
    fn next_slots(&self, scan: &mut FlowScan, most: u32) -> Option<(bool, std::ops::Range<u32>)> {
        if !scan.ip6 && scan.done + 1 >= self.ip4.used() {
            *scan = FlowScan { ip6: true, done: 0 };
        }
        let used = if scan.ip6 {
            self.ip6.used()
        } else {
            self.ip4.used()
        };
        let from = scan.done + 1;
        let to = from.saturating_add(most).min(used);
        if from >= to {
            return None;
        }
        scan.done = to - 1;
        Some((scan.ip6, from..to))
    }

    fn is_at_end(&self, scan: &FlowScan) -> bool {
        let rest6 = self.ip6.used() - 1;
        if scan.ip6 {
            scan.done >= rest6
        } else {
            scan.done + 1 >= self.ip4.used() && rest6 == 0
        }
    }
}

impl<K: FlowKey> Slots<K> {
    /// The flow in a slot, unless it is free.
    pub(super) fn view(&self, slot: u32) -> Option<FlowView<'_>> {
        let at = slot as usize * 2;
        let pair = self.records.get(at..at + 2)?.first_chunk()?;
        pair[0].data.state.state()?;
        Some(FlowView {
            index: FlowIndex::new::<K>(slot, Direction::Forward)?,
            pair: K::pair(pair),
            origin: self.origins.get(slot as usize)?,
        })
    }
}
