//! The search for many keys at once, in steps: each asks for the line that the next one reads, so that a caller who
//! takes each step for a group of packets before the next one waits for none.
//!
//! ```text
//! hash ─prefetch─► bucket ─trace─► record, or second bucket ─trace_further─► record ─trace_end─► flow, or none
//! ```

use super::{
    FlowTable,
    index::Candidate,
    key::{FlowHash, FlowKey},
    record::{FlowIndex, LegFlags, Record},
    state::{Direction, TcpFlags},
    timeouts::Tick,
};

/// Packets whose lines are fetched together: as many as the core keeps in flight.
const GROUP: usize = 32;
/// Packets that a batch is cut into: their records fit the first-level cache.
const CHUNK: usize = 256;

/// How far the search for a key has come. Good until a flow is inserted, removed or swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTrace(u32);

impl FlowTrace {
    /// No flow has the key.
    pub const ABSENT: Self = Self(0);
    /// The second bucket has to be looked at. No flow has the slot that this would name.
    const FURTHER: Self = Self(1);

    /// Whether [`FlowTable::trace_further`] is still to be called.
    #[inline(always)]
    pub fn leads_further(self) -> bool {
        self == Self::FURTHER
    }
}

impl FlowTable {
    /// The second step, behind [`prefetch`](Self::prefetch): reads the first bucket.
    #[inline(always)]
    pub fn trace<K: FlowKey>(&self, hash: FlowHash) -> FlowTrace {
        match self.index.candidate(hash) {
            Candidate::Absent => FlowTrace::ABSENT,
            Candidate::Further => FlowTrace::FURTHER,
            Candidate::Record(record) => {
                K::slots(self).prefetch(record);
                FlowTrace(record)
            }
        }
    }

    /// The third step, for what [`leads_further`](FlowTrace::leads_further): reads the second bucket.
    #[inline]
    pub fn trace_further<K: FlowKey>(&self, hash: FlowHash) -> FlowTrace {
        match self.index.further(hash) {
            None => FlowTrace::ABSENT,
            Some(record) => {
                K::slots(self).prefetch(record);
                FlowTrace(record)
            }
        }
    }

    /// The last step: reads the record. What [`lookup`](Self::lookup) says, whatever steps were taken before.
    #[inline(always)]
    pub fn trace_end<K: FlowKey>(
        &self,
        trace: FlowTrace,
        key: &K,
        hash: FlowHash,
    ) -> Option<FlowIndex> {
        if trace == FlowTrace::ABSENT {
            return None;
        }
        if !trace.leads_further() && K::slots(self).holds(trace.0, key) {
            return FlowIndex::from_word(trace.0);
        }
        self.trace_lost(key, hash)
    }

    /// [`trace_end`](Self::trace_end) and [`packet`](Self::packet) in one, for nearly all packets: those of flows that live and
    /// that this packet does not change. False where it is not surely one of these: then nothing was done.
    #[inline(always)]
    pub fn pass<K: FlowKey>(
        &mut self,
        trace: FlowTrace,
        key: &K,
        flags: TcpFlags,
        bytes: u32,
        now: Tick,
    ) -> bool {
        self.pass_record(trace, key, flags, bytes, now).is_some()
    }

    /// As [`pass`](Self::pass), with what the packet becomes; no rewrite where it stays as it is.
    #[inline(always)]
    pub fn pass_rewriting<K: FlowKey>(
        &mut self,
        trace: FlowTrace,
        key: &K,
        flags: TcpFlags,
        bytes: u32,
        now: Tick,
    ) -> Option<Option<&K::Rewrite>> {
        let record = self.pass_record(trace, key, flags, bytes, now)?;
        let rewrites = record.data.leg().flags.has(LegFlags::REWRITE);
        Some(rewrites.then_some(&record.rewrite))
    }

    #[inline(always)]
    fn pass_record<K: FlowKey>(
        &mut self,
        trace: FlowTrace,
        key: &K,
        flags: TcpFlags,
        bytes: u32,
        now: Tick,
    ) -> Option<&Record<K>> {
        let (slots, limits) = K::parts(self);
        // What is no record's is slot 0 here, which is free.
        let (ip6, at) = (trace.0 >> 31 != 0, trace.0 & 0x7fff_ffff);
        let record = slots.records.get_mut(at as usize)?;
        let data = &mut record.data;
        let direction = if at & 1 == 0 {
            Direction::Forward
        } else {
            Direction::Reverse
        };
        let is_over = limits.is_over(data.state, now.since(data.last_seen));
        let (packets, packets_carry) = data.packets.overflowing_add(1);
        let (bytes, bytes_carry) = data.bytes.overflowing_add(bytes);
        let stays =
            data.state.is_settled(direction, flags) & !is_over & !packets_carry & !bytes_carry;
        if !stays | (ip6 != K::IP6) || record.key != *key {
            return None;
        }
        data.last_seen = now;
        (data.packets, data.bytes) = (packets, bytes);
        Some(record)
    }

    /// Two keys with one tag in one bucket, or a step that was not taken.
    #[cold]
    #[inline(never)]
    fn trace_lost<K: FlowKey>(&self, key: &K, hash: FlowHash) -> Option<FlowIndex> {
        self.lookup(key, hash)
    }

    /// Looks up a frame's keys, whose hashes are given: `found`, as long as both, gets what
    /// [`lookup`](Self::lookup) would say. All steps, for 32 keys at a time.
    pub fn lookup_batch<K: FlowKey>(
        &self,
        keys: &[K],
        hashes: &[FlowHash],
        found: &mut [Option<FlowIndex>],
    ) {
        let chunks = keys.chunks(CHUNK).zip(hashes.chunks(CHUNK));
        for ((keys, hashes), found) in chunks.zip(found.chunks_mut(CHUNK)) {
            self.lookup_chunk(keys, hashes, found);
        }
    }

    /// Each pass over a group is a group behind the one before.
    #[inline(always)]
    fn lookup_chunk<K: FlowKey>(
        &self,
        keys: &[K],
        hashes: &[FlowHash],
        found: &mut [Option<FlowIndex>],
    ) {
        let count = keys.len().min(hashes.len()).min(found.len()).min(CHUNK);
        let (keys, hashes, found) = (&keys[..count], &hashes[..count], &mut found[..count]);
        let group = |number: usize| {
            let from = (number * GROUP).min(count);
            from..(from + GROUP).min(count)
        };
        let mut traces = [FlowTrace::ABSENT; CHUNK];
        let traces = &mut traces[..count];
        for number in 0..count.div_ceil(GROUP) + 3 {
            for &hash in &hashes[group(number)] {
                self.prefetch(hash);
            }
            if number >= 1 {
                let group = group(number - 1);
                for (trace, &hash) in traces[group.clone()].iter_mut().zip(&hashes[group]) {
                    *trace = self.trace::<K>(hash);
                }
            }
            if number >= 2 {
                let group = group(number - 2);
                for (trace, &hash) in traces[group.clone()].iter_mut().zip(&hashes[group]) {
                    if trace.leads_further() {
                        *trace = self.trace_further::<K>(hash);
                    }
                }
            }
            if number >= 3 {
                for i in group(number - 3) {
                    found[i] = self.trace_end(traces[i], &keys[i], hashes[i]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{FlowConfig, FlowKey4, FlowKey6, FlowState, Inserted, NewFlow, Tracked},
        *,
    };

    fn insert<K: FlowKey>(table: &mut FlowTable, key: K, state: FlowState) -> FlowIndex {
        match table.insert(&NewFlow::new(key, state), Tick::default(), |_, _| {}) {
            Inserted::New(index) => index,
            other => panic!("{other:?}"),
        }
    }

    fn traced<K: FlowKey>(table: &FlowTable, key: &K) -> (FlowTrace, FlowHash) {
        let hash = table.hash(key);
        let trace = table.trace::<K>(hash);
        if trace.leads_further() {
            return (table.trace_further::<K>(hash), hash);
        }
        (trace, hash)
    }

    /// `pass` does what the two steps do, or nothing.
    #[test]
    fn passing_is_finding_and_counting() {
        let times = [0, 30, 61, 3700].map(|second| Tick::from_nanos(second * 1_000_000_000));
        let config = FlowConfig {
            secret: Some([1, 2, 3, 4]),
            ..FlowConfig::new(64)
        };
        for (protocol, state) in [6, 17, 1]
            .into_iter()
            .flat_map(|protocol| FlowState::ALL.map(|state| (protocol, state)))
        {
            for flags in [0x10, 0x18, 0x11, 0x02, 0x00, 0x3f].map(TcpFlags::from_bits) {
                for now in times {
                    let key = FlowKey4::new(1, 2, 3, 4, protocol, 5);
                    let tables = [(); 2].map(|()| {
                        let mut table = FlowTable::new(&config).unwrap();
                        let at = insert(&mut table, key, state);
                        (table, at)
                    });
                    let [(mut once, at), (mut steps, _)] = tables;
                    let (trace, hash) = traced(&once, &key);
                    let passed = once.pass(trace, &key, flags, 100, now);
                    let found = steps.trace_end(trace, &key, hash);
                    assert_eq!(found, Some(at));
                    let tracked = steps.packet(at, flags, 100, now);
                    if passed {
                        assert_eq!(tracked, Tracked::Live);
                        assert_eq!(once.state(at), steps.state(at));
                    } else {
                        // Nothing was done: the steps do the same now.
                        assert_eq!(once.packet(at, flags, 100, now), tracked);
                    }
                    let seen = [&once, &steps].map(|table| {
                        let flow = table.view(at).unwrap();
                        let forward = Direction::Forward;
                        (flow.packets(forward), flow.bytes(forward), flow.last_seen())
                    });
                    assert_eq!(seen[0], seen[1]);
                    let settled = state == FlowState::Established && now == times[1];
                    let plain = flags.to_bits() & 0x37 == 0x10 || protocol == 17;
                    assert!(passed || !settled || !plain || protocol == 1);
                }
            }
        }
    }

    #[test]
    fn nothing_passes_without_its_flow() {
        let mut table = FlowTable::new(&FlowConfig::new(64)).unwrap();
        let now = Tick::default();
        let ack = TcpFlags::from_bits(0x10);
        let (key, other) = (
            FlowKey4::new(1, 2, 3, 4, 6, 0),
            FlowKey4::new(1, 2, 3, 5, 6, 0),
        );
        let at = insert(&mut table, key, FlowState::Established);
        let six = FlowKey6::new(1, 2, 3, 4, 6, 0);
        let at6 = insert(&mut table, six, FlowState::Established);
        let trace = FlowTrace(at.to_word());
        assert!(table.pass(trace, &key, ack, 1, now));
        assert!(!table.pass(trace, &other, ack, 1, now));
        let none = FlowKey4::default();
        for trace in [
            FlowTrace::ABSENT,
            FlowTrace::FURTHER,
            FlowTrace(u32::MAX),
            FlowTrace(77),
        ] {
            assert!(!table.pass(trace, &none, ack, 1, now));
            assert!(!table.pass(trace, &key, ack, 1, now));
            assert!(!table.pass(trace, &FlowKey6::default(), ack, 1, now));
        }
        assert_eq!(
            table.trace_end(FlowTrace::FURTHER, &none, table.hash(&none)),
            None
        );
        assert_eq!(
            table.trace_end(FlowTrace::FURTHER, &key, table.hash(&key)),
            Some(at)
        );
        // The other family's record of the same number.
        assert!(!table.pass(trace, &six, ack, 1, now));
        assert!(!table.pass(FlowTrace(at6.to_word()), &key, ack, 1, now));
        assert!(table.pass(FlowTrace(at6.to_word()), &six, ack, 1, now));
        assert!(table.remove(at, |_, _| {}));
        assert!(!table.pass(trace, &key, ack, 1, now));
    }
}
