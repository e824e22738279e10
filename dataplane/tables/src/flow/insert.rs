//! How flows come and go.

use super::{
    FlowTable,
    index::Crowded,
    key::{FlowHash, FlowKey},
    record::{Data, FlowIndex, Leg, Origin, Record},
    scan::FlowView,
    state::{Direction, FlowClass, FlowState, StateByte},
    timeouts::Tick,
};

/// A flow to be made. Arrays are by [`Direction`]: forward, reverse.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow<K: FlowKey> {
    /// Key of the first packet, as it came in.
    pub key: K,
    /// Key of the answers, as they will come in: differs from [`FlowKey::reversed`] where NAT rewrites.
    pub reply: K,
    /// What was decided.
    pub legs: [Leg; 2],
    /// What the packets become.
    pub rewrites: [K::Rewrite; 2],
    /// From [`FlowState::first`].
    pub state: FlowState,
    /// Interfaces where the packets of each direction come in.
    pub interfaces: [u16; 2],
}

impl<K: FlowKey> NewFlow<K> {
    /// A flow without translation, everything else zero.
    pub fn new(key: K, state: FlowState) -> Self {
        Self {
            key,
            reply: key.reversed(),
            legs: Default::default(),
            rewrites: Default::default(),
            state,
            interfaces: [0; 2],
        }
    }
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Inserted {
    /// The flow is there; this is its forward direction. Its counters are 0: the first packet is still
    /// to be counted by [`FlowTable::packet`].
    New(FlowIndex),
    /// The key has a living flow (an earlier packet of the frame made it): nothing was done.
    Exists(FlowIndex),
    /// The key is free, but the key of the answers belongs to a living flow, this one: NAT chose a port
    /// that is in use. The flow was not made.
    Clash(FlowIndex),
    /// The table is full, and nothing within reach may be evicted. The flow was not made.
    Full,
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowEnd {
    /// No packet within the timeout.
    Expired,
    /// It made room for a new flow in a full table: half open, or ended and waiting.
    Evicted,
    /// A new connection uses the ports of one that had ended.
    Replaced,
    /// By request.
    Removed,
}

impl FlowTable {
    /// Makes both records of a flow. `ended` hears of each flow that has to go for it.
    ///
    /// An old flow under one of the keys is replaced where its time is over, or where it has ended and
    /// the new one begins with SYN. In a full table one of the flows that a search cursor passes makes
    /// room (the best of 16, in a table of 1024 flows or more one of the best 8 of 64): one whose time is
    /// over, else the longest idle of those that are half open or have ended. Flows that are established
    /// never do.
    ///
    /// Constant time; two bucket lines and two record lines are written.
    pub fn insert<K: FlowKey>(
        &mut self,
        flow: &NewFlow<K>,
        now: Tick,
        mut ended: impl FnMut(&FlowView<'_>, FlowEnd),
    ) -> Inserted {
        let hashes = [self.hash(&flow.key), self.hash(&flow.reply)];
        if let Some(at) = self.lookup(&flow.key, hashes[0])
            && !self.displace::<K>(at, flow.state, now, &mut ended)
        {
            return Inserted::Exists(at);
        }
        // A packet from an endpoint to itself: both directions have one key, which finds the forward record.
        let is_mirror = flow.reply == flow.key;
        if !is_mirror
            && let Some(at) = self.lookup(&flow.reply, hashes[1])
            && !self.displace::<K>(at, flow.state, now, &mut ended)
        {
            return Inserted::Clash(at);
        }
        if self.ip4.live() + self.ip6.live() >= self.capacity && !self.evict::<K>(now, &mut ended) {
            self.counts.refused += 1;
            return Inserted::Full;
        }
        let place = |slot| {
            Some([
                FlowIndex::new::<K>(slot, Direction::Forward)?,
                FlowIndex::new::<K>(slot, Direction::Reverse)?,
            ])
        };
        let Some([forward, reverse]) = K::slots_mut(self).take().and_then(place) else {
            self.counts.refused += 1;
            return Inserted::Full;
        };
        let placed = self.index.insert(hashes[0], forward.to_word());
        let placed = placed.and_then(|()| {
            if is_mirror {
                return Ok(());
            }
            self.index
                .insert(hashes[1], reverse.to_word())
                .map_err(|Crowded| {
                    self.index.remove(hashes[0], forward.to_word());
                    Crowded
                })
        });
        if placed == Err(Crowded) {
            K::slots_mut(self).give_back(forward.slot());
            self.counts.refused += 1;
            return Inserted::Full;
        }
        let state = StateByte::new(FlowClass::of(flow.key.protocol()), flow.state);
        let slots = K::slots_mut(self);
        for (at, key, leg) in [(forward, flow.key, 0), (reverse, flow.reply, 1)] {
            slots.records[at.record()] = Record {
                key,
                rewrite: flow.rewrites[leg],
                data: Data::new(flow.legs[leg], state, now),
            };
        }
        slots.origins[forward.slot() as usize] = Origin {
            created: now,
            interfaces: flow.interfaces,
            ..Origin::default()
        };
        self.counts.inserted += 1;
        Inserted::New(forward)
    }

    /// Asks for the second line that an insertion under this hash may read, some packets after
    /// [`prefetch`](Self::prefetch) has asked for the first. Worth it for the hashes of both keys.
    #[inline(always)]
    pub fn prefetch_insert(&self, hash: FlowHash) {
        self.index.prefetch_second(hash);
    }

    /// Removes both directions of a flow; `ended` hears of it. Says whether it was there.
    pub fn remove(&mut self, at: FlowIndex, ended: impl FnMut(&FlowView<'_>, FlowEnd)) -> bool {
        let there = self.state(at).is_some();
        if there {
            self.end_at(at, FlowEnd::Removed, ended);
        }
        there
    }

    /// Removes a flow of either family, which must be there.
    pub(super) fn end_at(
        &mut self,
        at: FlowIndex,
        why: FlowEnd,
        mut ended: impl FnMut(&FlowView<'_>, FlowEnd),
    ) {
        if at.is_ip6() {
            self.end::<super::FlowKey6>(at.slot(), why, &mut ended);
        } else {
            self.end::<super::FlowKey4>(at.slot(), why, &mut ended);
        }
    }

    /// Removes a flow, which must be there.
    pub(super) fn end<K: FlowKey>(
        &mut self,
        slot: u32,
        why: FlowEnd,
        ended: &mut impl FnMut(&FlowView<'_>, FlowEnd),
    ) {
        if let Some(view) = K::slots(self).view(slot) {
            ended(&view, why);
        }
        let keys = [0, 1].map(|leg| K::slots(self).records[slot as usize * 2 + leg].key);
        let mirror = keys[0] == keys[1];
        for (key, direction) in keys.iter().zip([Direction::Forward, Direction::Reverse]) {
            if mirror && direction == Direction::Reverse {
                continue;
            }
            if let Some(at) = FlowIndex::new::<K>(slot, direction) {
                let was_there = self.index.remove(self.hash(key), at.to_word());
                debug_assert!(was_there, "the index knows every live record");
            }
        }
        K::slots_mut(self).give_back(slot);
        match why {
            FlowEnd::Expired => self.counts.expired += 1,
            FlowEnd::Evicted => self.counts.evicted += 1,
            FlowEnd::Replaced => self.counts.replaced += 1,
            FlowEnd::Removed => self.counts.removed += 1,
        }
    }

    /// Ends the flow that stands in the way of a new one, if it may be: says whether the way is free.
    fn displace<K: FlowKey>(
        &mut self,
        at: FlowIndex,
        state: FlowState,
        now: Tick,
        ended: &mut impl FnMut(&FlowView<'_>, FlowEnd),
    ) -> bool {
        let why = if !self.is_live(at, now) {
            FlowEnd::Expired
        } else if state == FlowState::SynSent && self.state(at).is_some_and(FlowState::is_ended) {
            FlowEnd::Replaced
        } else {
            return false;
        };
        self.end::<K>(at.slot(), why, ended);
        true
    }
}
