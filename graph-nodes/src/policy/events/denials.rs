//! Denied packets, put together by rule and ends: a flood of them makes few events, and their counts still add up.

use std::hash::{DefaultHasher, Hash, Hasher};

use tables::TokenBucket;

use super::super::{Drop, RuleId};
use super::{FlowEvent, FlowFacts};

/// Kinds of denials that are counted apart at a time.
const SLOTS: usize = 512;
/// Nanoseconds for which packets are put together: a second.
const INTERVAL_NS: u64 = 1_000_000_000;
/// Nanoseconds between looks at what is to be told: a tenth of a second.
const LOOK_NS: u64 = 100_000_000;
/// Kinds of denials that may push others out per second, and at once.
const PUSHED: (u64, u64) = (1000, 1000);

/// Denied packets that were not told of yet.
#[derive(Default)]
pub(super) struct Denials {
    /// Empty until the first one.
    slots: Vec<Option<FlowEvent>>,
    used: usize,
    limit: Option<TokenBucket>,
    looked_ns: u64,
}

/// What is put together: rule, reason, interfaces, ends, and the destination's port, not the source's.
fn is_same(a: &FlowEvent, (rule, reason, facts): &(RuleId, Drop, FlowFacts)) -> bool {
    let known = &a.flow;
    a.news == super::FlowNews::Denied(*reason)
        && known.rules[0] == *rule
        && (known.source, known.destination) == (facts.source, facts.destination)
        && (known.protocol, known.icmp) == (facts.protocol, facts.icmp)
        && known.ports.map(|(_, to)| to) == facts.ports.map(|(_, to)| to)
        && known.interfaces == facts.interfaces
}

fn slot((rule, reason, facts): &(RuleId, Drop, FlowFacts)) -> usize {
    let mut hasher = DefaultHasher::new();
    (rule, *reason as u8, facts.source, facts.destination).hash(&mut hasher);
    (facts.protocol, facts.icmp, facts.ports.map(|(_, to)| to)).hash(&mut hasher);
    facts.interfaces.hash(&mut hasher);
    hasher.finish() as usize % SLOTS
}

impl Denials {
    /// Counts a packet. False where it is of a kind that there is no room for.
    pub(super) fn add(
        &mut self,
        id: (RuleId, Drop, FlowFacts),
        first: impl FnOnce() -> FlowEvent,
        now_ns: u64,
        mut tell: impl FnMut(FlowEvent),
    ) -> bool {
        if self.slots.is_empty() {
            self.slots.resize(SLOTS, None);
        }
        let known = &mut self.slots[slot(&id)];
        match known {
            Some(known) if is_same(known, &id) => {
                let (sum, more) = (&mut known.flow.counts[0], id.2.counts[0]);
                sum.packets += more.packets;
                sum.bytes += more.bytes;
                return true;
            }
            Some(other) => {
                let new = || TokenBucket::new(PUSHED.0, PUSHED.1, now_ns);
                if !self.limit.get_or_insert_with(new).take(now_ns, 1) {
                    return false;
                }
                tell(*other);
            }
            None => self.used += 1,
        }
        *known = Some(first());
        true
    }

    /// Tells of those that have waited long enough.
    pub(super) fn tell(&mut self, now_ns: u64, mut tell: impl FnMut(FlowEvent)) {
        if self.used == 0 || now_ns.saturating_sub(self.looked_ns) < LOOK_NS {
            return;
        }
        self.looked_ns = now_ns;
        for slot in &mut self.slots {
            let is_over =
                |event: &mut FlowEvent| now_ns.saturating_sub(event.time_ns) >= INTERVAL_NS;
            if let Some(event) = slot.take_if(is_over) {
                tell(event);
                self.used -= 1;
            }
        }
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
