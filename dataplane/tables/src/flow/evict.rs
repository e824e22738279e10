//! Who makes room in a full table.
//!
//! In a small one, the best of the flows that the cursor points at. In a large one that would be 32 lines from memory for each
//! new flow, and four more that wait for each other once the victim is known. So victims are chosen ahead there: each call looks
//! at eight flows, keeps the eight best of 64, and asks for the lines that their end touches; it takes one of those that were
//! chosen before, if that one has not been used since.

use super::{
    FlowTable,
    insert::FlowEnd,
    key::FlowKey,
    record::Slots,
    scan::FlowView,
    state::{FlowState, StateByte},
    timeouts::{Limits, Tick},
};
use crate::prefetch::prefetch;

/// Flows that a call looks at, to find one that may go.
const SAMPLE: u32 = 16;
/// Slots in use from which on victims are chosen ahead.
const LARGE: u32 = 1024;
/// Flows that a call looks at where victims are chosen ahead.
const STEP: u32 = 8;
/// Flows that are compared with each other there.
const WINDOW: u32 = 64;
/// Victims chosen of them: as many as calls look at them.
const CHOSEN: usize = (WINDOW / STEP) as usize;

/// A flow that is to make room, as it was when it was chosen.
#[derive(Clone, Copy, Debug, Default)]
struct Victim {
    slot: u32,
    /// Of the forward record.
    last_seen: Tick,
    /// Ticks without a packet; the largest number where the flow's time was over.
    idle: u32,
}

/// Victims of one family.
#[derive(Clone, Debug, Default)]
pub(super) struct Victims {
    /// Where the search goes on.
    cursor: u32,
    ready: [Victim; CHOSEN],
    ready_count: usize,
    /// The best of the window so far, the longest idle first.
    best: [Victim; CHOSEN],
    best_count: usize,
    /// Flows of the window that were looked at.
    seen: u32,
}

impl Victims {
    /// Keeps a flow if it is one of the window's best.
    fn offer(&mut self, victim: Victim) {
        if self.best_count == CHOSEN && self.best[CHOSEN - 1].idle >= victim.idle {
            return;
        }
        let worse = |other: &Victim| other.idle < victim.idle;
        let best = &self.best[..self.best_count];
        let at = best.iter().position(worse).unwrap_or(best.len());
        if at < CHOSEN {
            self.best_count = (self.best_count + 1).min(CHOSEN);
            self.best[at..self.best_count].rotate_right(1);
            self.best[at] = victim;
        }
    }

    /// Ends the window: its best are ready, behind nothing that was ready before.
    fn close(&mut self) -> &[Victim] {
        (self.ready, self.ready_count) = (self.best, self.best_count);
        // Taken from the end.
        self.ready[..self.ready_count].reverse();
        (self.best_count, self.seen) = (0, 0);
        &self.ready[..self.ready_count]
    }
}

impl FlowTable {
    /// Makes room for one flow, of its own family if possible.
    #[cold]
    #[inline(never)]
    pub(super) fn evict<K: FlowKey>(
        &mut self,
        now: Tick,
        ended: &mut impl FnMut(&FlowView<'_>, FlowEnd),
    ) -> bool {
        if self.evict_from::<K>(now, ended) {
            return true;
        }
        if K::IP6 {
            self.evict_from::<super::FlowKey4>(now, ended)
        } else {
            self.evict_from::<super::FlowKey6>(now, ended)
        }
    }

    fn evict_from<K: FlowKey>(
        &mut self,
        now: Tick,
        ended: &mut impl FnMut(&FlowView<'_>, FlowEnd),
    ) -> bool {
        let victim = if K::slots(self).used() < LARGE {
            self.sample::<K>(now)
        } else {
            self.chosen::<K>(now)
        };
        let Some((slot, why)) = victim else {
            return false;
        };
        self.end::<K>(slot, why, ended);
        true
    }

    /// The best of the next flows.
    fn sample<K: FlowKey>(&mut self, now: Tick) -> Option<(u32, FlowEnd)> {
        let slots = K::slots(self);
        let mut slot = slots.victims.cursor;
        let mut victim = None;
        for _ in 0..SAMPLE.min(slots.used() - 1) {
            slot = slots.wrapped(slot);
            if slots.is_used(slot) && slots.is_over(slot, &self.limits, now) {
                victim = Some((u32::MAX, slot, FlowEnd::Expired));
            } else if slots.may_go(slot) {
                let idle = slots.idle(slot, now);
                if victim.is_none_or(|(most, ..)| idle > most) {
                    victim = Some((idle, slot, FlowEnd::Evicted));
                }
            }
            slot += 1;
            if let Some((.., FlowEnd::Expired)) = victim {
                break;
            }
        }
        K::slots_mut(self).victims.cursor = slot;
        victim.map(|(_, slot, why)| (slot, why))
    }

    /// One that was chosen before and was not used since.
    fn chosen<K: FlowKey>(&mut self, now: Tick) -> Option<(u32, FlowEnd)> {
        self.look_ahead::<K>(now);
        if let Some(victim) = self.ready::<K>(now) {
            return Some(victim);
        }
        // Few may go: the best of an unfinished window.
        self.look_ahead::<K>(now);
        self.close_window::<K>();
        self.ready::<K>(now)
    }

    fn ready<K: FlowKey>(&mut self, now: Tick) -> Option<(u32, FlowEnd)> {
        loop {
            let victims = &mut K::slots_mut(self).victims;
            victims.ready_count = victims.ready_count.checked_sub(1)?;
            let victim = victims.ready[victims.ready_count % CHOSEN];
            if let Some(why) = K::slots(self).why(victim, &self.limits, now) {
                self.prefetch_next::<K>();
                return Some((victim.slot, why));
            }
        }
    }

    /// Asks for the secondary buckets of the next victim, where it is in them. The primary ones have come by now.
    fn prefetch_next<K: FlowKey>(&self) {
        let slots = K::slots(self);
        let victims = &slots.victims;
        let Some(next) = victims.ready[..victims.ready_count].last() else {
            return;
        };
        let record = &slots.records[next.slot as usize * 2];
        for (key, direction) in [(record.key, 0), (record.reply(), 1)] {
            let family = if K::IP6 { 1 << 31 } else { 0 };
            let record = next.slot << 1 | direction | family;
            self.index.prefetch_removal(self.hash(&key), record);
        }
    }

    /// Looks at the next flows, and asks for those after them.
    fn look_ahead<K: FlowKey>(&mut self, now: Tick) {
        let slots = K::slots(self);
        let mut slot = slots.victims.cursor;
        let mut found = [Victim::default(); STEP as usize];
        for victim in &mut found {
            slot = slots.wrapped(slot);
            if let Some(idle) = slots.rate(slot, &self.limits, now) {
                *victim = Victim {
                    slot,
                    last_seen: slots.records[slot as usize * 2].data.last_seen,
                    idle,
                };
            }
            slot += 1;
        }
        for next in slot..slot + STEP {
            slots.prefetch(next << 1);
        }
        let victims = &mut K::slots_mut(self).victims;
        victims.cursor = slot;
        victims.seen += STEP;
        // Slot 0 is no flow's.
        for victim in found.into_iter().filter(|victim| victim.slot != 0) {
            victims.offer(victim);
        }
        if victims.seen >= WINDOW && victims.ready_count == 0 {
            self.close_window::<K>();
        }
    }

    /// The window's best are the next to go: asks for the lines that their ends touch.
    fn close_window<K: FlowKey>(&mut self) {
        let mut chosen = [Victim::default(); CHOSEN];
        let closed = K::slots_mut(self).victims.close();
        let count = closed.len();
        chosen[..count].copy_from_slice(closed);
        let slots = K::slots(self);
        for victim in &chosen[..count] {
            slots.prefetch(victim.slot << 1 | 1);
            prefetch(slots.origins.as_ptr().wrapping_add(victim.slot as usize));
            let record = &slots.records[victim.slot as usize * 2];
            self.prefetch(self.hash(&record.key));
            self.prefetch(self.hash(&record.reply()));
        }
    }
}

impl<K: FlowKey> Slots<K> {
    /// The first slot where `slot` is behind the last.
    #[inline(always)]
    fn wrapped(&self, slot: u32) -> u32 {
        if slot == 0 || slot >= self.used() {
            1
        } else {
            slot
        }
    }

    fn is_used(&self, slot: u32) -> bool {
        self.records[slot as usize * 2].data.state != StateByte::FREE
    }

    /// Whether a flow may make room for another.
    fn may_go(&self, slot: u32) -> bool {
        let state = self.records[slot as usize * 2].data.state.state();
        state.is_some_and(|state| state.is_half_open() || state.is_ended())
    }

    /// Ticks since the last packet of either direction.
    fn idle(&self, slot: u32, now: Tick) -> u32 {
        let [forward, reverse] = [0, 1].map(|leg| &self.records[slot as usize * 2 + leg].data);
        now.since(forward.last_seen.later(reverse.last_seen))
    }

    /// As [`idle`](Self::idle) for a flow that may go, the largest number where its time is over; `None` where it has to stay.
    /// Reads one line for a flow whose other side has not spoken.
    #[inline(always)]
    fn rate(&self, slot: u32, limits: &Limits, now: Tick) -> Option<u32> {
        let forward = &self.records[slot as usize * 2].data;
        let state = forward.state.state()?;
        let age = now.since(forward.last_seen);
        if limits.is_over(forward.state, age) && self.is_over(slot, limits, now) {
            return Some(u32::MAX);
        }
        match state {
            FlowState::New | FlowState::SynSent => Some(age),
            state if state.is_half_open() || state.is_ended() => Some(self.idle(slot, now)),
            _ => None,
        }
    }

    /// Why a flow that was chosen may go now, if it still may.
    fn why(&self, victim: Victim, limits: &Limits, now: Tick) -> Option<FlowEnd> {
        let slot = victim.slot;
        if !self.is_used(slot) {
            return None;
        }
        if self.is_over(slot, limits, now) {
            return Some(FlowEnd::Expired);
        }
        let unused = self.records[slot as usize * 2].data.last_seen == victim.last_seen;
        (unused && self.may_go(slot)).then_some(FlowEnd::Evicted)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Direction, FlowConfig, FlowKey4, FlowKey6, Inserted, NewFlow, TcpFlags},
        *,
    };

    /// More than small tables have.
    const FLOWS: u32 = 5000;

    fn at(seconds: u64) -> Tick {
        Tick::from_nanos(seconds * 1_000_000_000)
    }

    fn flow(number: u32, state: FlowState) -> NewFlow<FlowKey4> {
        NewFlow::new(FlowKey4::new(number, 1, 2, 3, 6, 0), state)
    }

    /// What goes for a new flow: numbers and reasons.
    fn ends(table: &mut FlowTable, flow: &NewFlow<FlowKey4>, now: Tick) -> Vec<(u32, FlowEnd)> {
        let mut ends = Vec::new();
        let _ = table.insert(flow, now, |flow, why| {
            let super::super::AnyFlowKey::Ip4(key) = flow.key(Direction::Forward) else {
                panic!("IPv4 only")
            };
            ends.push((key.src(), why));
        });
        ends
    }

    fn full(state: impl Fn(u32) -> (FlowState, Tick)) -> FlowTable {
        let mut table = FlowTable::new(&FlowConfig::new(FLOWS)).unwrap();
        for number in 0..FLOWS {
            let (state, now) = state(number);
            let made = table.insert(&flow(number, state), now, |_, _| panic!("there is room"));
            assert!(matches!(made, Inserted::New(_)));
        }
        table
    }

    #[test]
    fn established_flows_stay_and_half_open_ones_go_whatever_the_order() {
        for half_open in [1, 2, 9, 63, 100] {
            let mut table = full(|number| match number % half_open {
                0 => (FlowState::SynSent, at(1)),
                _ => (FlowState::Established, at(1)),
            });
            let may_go = FLOWS.div_ceil(half_open);
            let (mut gone, mut refused) = (std::collections::HashSet::new(), 0);
            let mut number = FLOWS;
            while (gone.len() as u32) < may_go {
                let new = flow(number, FlowState::Established);
                match ends(&mut table, &new, at(2))[..] {
                    [(number, FlowEnd::Evicted)] => {
                        assert!(number < FLOWS && number % half_open == 0, "{number}");
                        assert!(gone.insert(number));
                    }
                    [] => refused += 1,
                    ref other => panic!("{other:?}"),
                }
                number += 1;
                assert!(refused < 4 * FLOWS, "all that may go are found");
            }
            assert_eq!(table.gauges().refused, u64::from(refused));
            assert_eq!(table.gauges().live, FLOWS);
            assert_eq!(ends(&mut table, &flow(number, FlowState::New), at(2)), []);
        }
    }

    /// Random ages: those that go are among the oldest part of what the search passes.
    #[test]
    fn the_longest_idle_go() {
        let age = |number: u32| u64::from(number.wrapping_mul(0x9e37_79b9) >> 16) % 15;
        let mut table = full(|number| (FlowState::SynSent, at(age(number))));
        let mut sum = 0;
        for number in 0..300 {
            match ends(
                &mut table,
                &flow(FLOWS + number, FlowState::SynSent),
                at(15),
            )[..]
            {
                [(number, FlowEnd::Evicted)] => sum += age(number),
                ref other => panic!("{other:?}"),
            }
        }
        // A random choice would be 7 on average; the eighth part that is the oldest, below 1.
        assert!(sum < 300 * 2, "{sum}");
    }

    #[test]
    fn flows_that_were_used_since_they_were_chosen_stay() {
        let mut table = full(|_| (FlowState::SynSent, at(1)));
        for number in 0..9 {
            let ends = ends(&mut table, &flow(FLOWS + number, FlowState::SynSent), at(2));
            assert_eq!(ends.len(), 1);
        }
        let victims = &table.ip4.victims;
        let chosen: Vec<_> = victims.ready[..victims.ready_count]
            .iter()
            .map(|victim| table.ip4.records[victim.slot as usize * 2].key)
            .collect();
        assert_eq!(chosen.len(), CHOSEN - 1);
        for key in &chosen[1..] {
            let index = table.lookup(key, table.hash(key)).unwrap();
            let _ = table.packet(index, TcpFlags::SYN, 60, at(3));
        }
        for number in 0..2 {
            let ends = ends(
                &mut table,
                &flow(2 * FLOWS + number, FlowState::SynSent),
                at(3),
            );
            assert_eq!(ends.len(), 1);
        }
        let there = |key: &FlowKey4| table.lookup(key, table.hash(key)).is_some();
        assert!(!there(&chosen[0]), "nobody has used it");
        assert!(chosen[1..].iter().all(there));
    }

    #[test]
    fn whose_time_is_over_goes_as_expired_and_the_other_family_makes_room() {
        let mut table = full(|_| (FlowState::SynSent, at(1)));
        for number in 0..20 {
            let ends = ends(
                &mut table,
                &flow(FLOWS + number, FlowState::SynSent),
                at(60),
            );
            assert!(matches!(ends[..], [(_, FlowEnd::Expired)]), "{ends:?}");
        }
        let six = NewFlow::new(FlowKey6::new(1, 2, 3, 4, 6, 0), FlowState::SynSent);
        let mut count = 0;
        let made = table.insert(&six, at(60), |_, _| count += 1);
        assert!(matches!(made, Inserted::New(_)) && count == 1);
        assert_eq!((table.gauges().live, table.gauges().live_ip6), (FLOWS, 1));
    }
}
