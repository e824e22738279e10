//! Flow table: what was decided about a connection, found again by one lookup per packet.
//!
//! A flow is two records, one per direction, made at once; each packet reads and writes the record
//! of its own direction only (64 bytes for IPv4, 128 for IPv6), except when it changes the state.
//! One worker owns the table: every change takes `&mut self`, nothing is shared or atomic.
//!
//! Both families have one index of tag buckets, sized for the whole capacity, and one array of
//! records each. The index is the part that is touched at random, so it is there once and as small
//! as it can be; the arrays are address space, of which as much becomes memory as flows of that
//! family were alive at once. Either family can fill the whole table.
//!
//! Cost on the reference machine: `benches/flow.rs`. Memory: 149 bytes per IPv4 flow in lines at a
//! full table, 3/4 of the index in use, and 20 bytes aside that packets do not touch.

mod batch;
mod evict;
mod index;
mod insert;
mod key;
mod record;
mod scan;
mod state;
mod timeouts;

use std::{
    hash::{BuildHasher, RandomState},
    io,
};

use crate::{array::HugePages, prefetch::prefetch};

use self::{
    index::Index,
    record::{Data, Origin, Record, Slots},
    timeouts::Limits,
};

pub(crate) use self::{key::fold_product, timeouts::ticks};

pub use self::{
    batch::FlowTrace,
    insert::{FlowEnd, Inserted, NewFlow},
    key::{FlowHash, FlowKey, FlowKey4, FlowKey6},
    record::{FlowIndex, Leg, LegFlags, Rewrite4, Rewrite6},
    scan::{AnyFlowKey, FlowScan, FlowView, Swept},
    state::{Direction, FlowClass, FlowState, TcpFlags, Transition},
    timeouts::{FlowTimeouts, Tick},
};

/// Most flows that a record number has room for.
const MOST_FLOWS: u32 = (1 << 30) - 2;

/// Size and behaviour of a [`FlowTable`].
#[derive(Clone, Debug)]
pub struct FlowConfig {
    /// Flows of both families together; a flow is both directions. At most 2^30 - 2.
    pub capacity: u32,
    /// How long flows live.
    pub timeouts: FlowTimeouts,
    /// Which pages to use. [`HugePages::Reserved`] claims the arrays of both families whole, 445 bytes
    /// per flow; [`HugePages::Transparent`] takes memory as flows come.
    pub pages: HugePages,
    /// Secret of the hash, for reproducible runs; drawn at random where `None`. Who sends packets must
    /// not know it.
    pub secret: Option<[u64; 4]>,
}

impl FlowConfig {
    /// Default timeouts, transparent huge pages, a random secret.
    pub fn new(capacity: u32) -> Self {
        Self {
            capacity,
            timeouts: FlowTimeouts::default(),
            pages: HugePages::Transparent,
            secret: None,
        }
    }
}

/// What [`FlowTable::packet`] makes of a packet whose flow was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// It belongs to a living flow, and was counted there.
    Live,
    /// The flow's time was over (the sweep has not come by yet), or it is gone. To be treated as the
    /// first packet of a new flow: [`FlowTable::insert`] replaces the old one.
    Expired,
    /// A SYN on a connection that has ended. As [`Expired`](Self::Expired).
    Reopened,
    /// TCP flags that no stack sends: not counted. The caller drops it or lets it pass.
    Invalid,
}

/// Where a table stands: gauges, and counts since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowGauges {
    /// Flows in the table, of both families.
    pub live: u32,
    /// Those of IPv6.
    pub live_ip6: u32,
    /// Most flows it takes.
    pub capacity: u32,
    /// Flows made.
    pub inserted: u64,
    /// Flows whose timeout ended them.
    pub expired: u64,
    /// Flows that made room for others before their time.
    pub evicted: u64,
    /// Connections that had ended and whose ports a new one uses.
    pub replaced: u64,
    /// Flows removed by request.
    pub removed: u64,
    /// Flows not made because the table was full and nothing in reach could be evicted.
    pub refused: u64,
}

/// Flows of one worker: two linked records each, one per direction.
///
/// The way of a frame through it, in a node:
///
/// 1. parse: for each packet a key and its [`hash`](Self::hash), and [`prefetch`](Self::prefetch);
/// 2. [`lookup_batch`](Self::lookup_batch) over the whole frame, or its steps one by one for groups of packets, from
///    [`trace`](Self::trace) to [`trace_end`](Self::trace_end);
/// 3. for each packet found: [`packet`](Self::packet) (time, state, counters), then what
///    [`leg`](Self::leg) says, if its generations are still current;
/// 4. for the others, and what `packet` calls expired or reopened: decide, then [`insert`](Self::insert), whose lines
///    [`prefetch_insert`](Self::prefetch_insert) asks for.
///
/// An ICMP error belongs to the flow that [`lookup`](Self::lookup) finds under the key of the
/// packet it quotes.
///
/// ```
/// use tables::{
///     Direction, FlowConfig, FlowKey as _, FlowKey4, FlowState, FlowTable, Inserted, Leg, NewFlow, TcpFlags,
///     Tick, Tracked,
/// };
///
/// let mut flows = FlowTable::new(&FlowConfig::new(1000))?;
/// let now = Tick::from_nanos(0);
/// let key = FlowKey4::new(0x0a00_0001, 0x0a00_0002, 40000, 443, 6, 0);
/// let mut flow = NewFlow::new(key, FlowState::SynSent);
/// flow.legs = [Leg { rule: 7, next: 3, ..Leg::default() }, Leg { rule: 7, next: 9, ..Leg::default() }];
/// let Inserted::New(index) = flows.insert(&flow, now, |_, _| {}) else { panic!("there is room") };
/// assert_eq!(flows.packet(index, TcpFlags::SYN, 60, now), Tracked::Live);
///
/// let answer = key.reversed();
/// let index = flows.lookup(&answer, flows.hash(&answer)).ok_or("the answer is known")?;
/// assert_eq!(index.direction(), Direction::Reverse);
/// assert_eq!(flows.packet(index, TcpFlags::SYN.and(TcpFlags::ACK), 60, now), Tracked::Live);
/// assert_eq!(flows.state(index), Some(FlowState::SynReceived));
/// assert_eq!(flows.leg(index).next, 9);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct FlowTable {
    index: Index,
    ip4: Slots<FlowKey4>,
    ip6: Slots<FlowKey6>,
    limits: Limits,
    capacity: u32,
    secret: [u64; 4],
    sweeper: FlowScan,
    /// Its `live` fields are not kept current.
    counts: FlowGauges,
}

impl FlowTable {
    /// An empty table.
    ///
    /// # Errors
    /// The system refuses the memory, or the capacity exceeds 2^30 - 2.
    pub fn new(config: &FlowConfig) -> io::Result<Self> {
        let capacity = config.capacity;
        if capacity > MOST_FLOWS {
            let problem = format!("{capacity} flows exceed what a table can number, {MOST_FLOWS}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        let random = || [(); 4].map(|()| RandomState::new().hash_one(0));
        Ok(Self {
            index: Index::new(u64::from(capacity) * 2, config.pages)?,
            ip4: Slots::new(capacity, config.pages)?,
            ip6: Slots::new(capacity, config.pages)?,
            limits: Limits::new(&config.timeouts),
            capacity,
            secret: config.secret.unwrap_or_else(random),
            sweeper: FlowScan::default(),
            counts: FlowGauges::default(),
        })
    }

    /// Changes the timeouts, for the flows that are there too.
    pub fn set_timeouts(&mut self, timeouts: &FlowTimeouts) {
        self.limits = Limits::new(timeouts);
    }

    /// Whether no flow is there.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ip4.live() + self.ip6.live() == 0
    }

    /// Where the table stands.
    pub fn gauges(&self) -> FlowGauges {
        FlowGauges {
            live: self.ip4.live() + self.ip6.live(),
            live_ip6: self.ip6.live(),
            capacity: self.capacity,
            ..self.counts
        }
    }

    /// Bytes that the table occupies at most: the index, and the records of as many flows of each family
    /// as were alive at once.
    pub fn memory_bytes(&self) -> u64 {
        let index = self.index.buckets() * Index::BUCKET_BYTES;
        let flow4 = 2 * size_of::<Record<FlowKey4>>() + size_of::<Origin>();
        let flow6 = 2 * size_of::<Record<FlowKey6>>() + size_of::<Origin>();
        index as u64
            + u64::from(self.ip4.used() - 1) * flow4 as u64
            + u64::from(self.ip6.used() - 1) * flow6 as u64
    }

    /// Hash of a key under the table's secret.
    #[inline(always)]
    pub fn hash<K: FlowKey>(&self, key: &K) -> FlowHash {
        FlowHash(key.mix(&self.secret))
    }

    /// Asks for the line where the search for this hash begins: worth calling as soon as the hash is
    /// known, 16 or more packets before the lookup or insertion.
    #[inline(always)]
    pub fn prefetch(&self, hash: FlowHash) {
        self.index.prefetch(hash);
    }

    /// The record of `key`, whose hash is given. Finds expired flows too: [`packet`](Self::packet)
    /// tells, or [`is_live`](Self::is_live).
    #[inline]
    pub fn lookup<K: FlowKey>(&self, key: &K, hash: FlowHash) -> Option<FlowIndex> {
        let records = K::slots(self);
        let found = self.index.find(hash, |record| records.holds(record, key));
        found.and_then(FlowIndex::from_word)
    }

    /// Counts a packet of `bytes` bytes for the flow and direction `at`, after what the time and its
    /// TCP flags ([`TcpFlags::NONE`] for other protocols) do to the flow. Reads and writes one line,
    /// but both records where the state changes.
    #[inline(always)]
    pub fn packet(&mut self, at: FlowIndex, flags: TcpFlags, bytes: u32, now: Tick) -> Tracked {
        let data = data_mut(&mut self.ip4, &mut self.ip6, at);
        let age = now.since(data.last_seen);
        if self.limits.is_over(data.state, age) || !data.state.is_settled(at.direction(), flags) {
            return self.packet_with_change(at, flags, bytes, now);
        }
        data.last_seen = now;
        let (packets, packets_carry) = data.packets.overflowing_add(1);
        let (bytes, bytes_carry) = data.bytes.overflowing_add(bytes);
        (data.packets, data.bytes) = (packets, bytes);
        if packets_carry | bytes_carry {
            self.carry(at, packets_carry, bytes_carry);
        }
        Tracked::Live
    }

    /// Whether the flow's time is not over at `now`.
    pub fn is_live(&self, at: FlowIndex, now: Tick) -> bool {
        if at.is_ip6() {
            !self.ip6.is_over(at.slot(), &self.limits, now)
        } else {
            !self.ip4.is_over(at.slot(), &self.limits, now)
        }
    }

    /// Whether `at` is (still) the record of `key`: for indices that were kept while flows were
    /// inserted or removed.
    #[inline]
    pub fn holds<K: FlowKey>(&self, at: FlowIndex, key: &K) -> bool {
        let slots = K::slots(self);
        slots.holds(at.to_word(), key) && self.state(at).is_some()
    }

    /// The key under which the packets of this direction are found; `None` for an index of the other family.
    #[inline]
    pub fn key<K: FlowKey>(&self, at: FlowIndex) -> Option<K> {
        (at.is_ip6() == K::IP6).then(|| K::slots(self).records[at.record()].key)
    }

    /// What was decided about this direction.
    #[inline(always)]
    pub fn leg(&self, at: FlowIndex) -> Leg {
        self.data(at).leg()
    }

    /// Replaces what was decided about this direction: a policy, route or NAT domain has a new
    /// generation. State, time and counters stay.
    #[inline]
    pub fn set_leg(&mut self, at: FlowIndex, leg: Leg) {
        data_mut(&mut self.ip4, &mut self.ip6, at).set_leg(leg);
    }

    /// What this direction's packets become; of an index of the other family, no rewrite.
    #[inline(always)]
    pub fn rewrite<K: FlowKey>(&self, at: FlowIndex) -> K::Rewrite {
        if at.is_ip6() == K::IP6 {
            K::slots(self).records[at.record()].rewrite
        } else {
            K::Rewrite::default()
        }
    }

    /// Replaces what this direction's packets become. An index of the other family changes nothing.
    pub fn set_rewrite<K: FlowKey>(&mut self, at: FlowIndex, rewrite: K::Rewrite) {
        if at.is_ip6() == K::IP6 {
            K::slots_mut(self).records[at.record()].rewrite = rewrite;
        }
    }

    /// How far the flow has come; `None` if it is gone.
    #[inline]
    pub fn state(&self, at: FlowIndex) -> Option<FlowState> {
        self.data(at).state.state()
    }

    /// [`packet`](Self::packet) where the flow is old or its state may change.
    #[inline(never)]
    fn packet_with_change(
        &mut self,
        at: FlowIndex,
        flags: TcpFlags,
        bytes: u32,
        now: Tick,
    ) -> Tracked {
        let state = self.data(at).state;
        let Some(current) = state.state() else {
            return Tracked::Expired;
        };
        if !self.is_live(at, now) {
            return Tracked::Expired;
        }
        match current.after(state.class(), at.direction(), flags) {
            Transition::Stay => {}
            Transition::To(next) => {
                let next = state::StateByte::new(state.class(), next);
                for at in [at, at.peer()] {
                    data_mut(&mut self.ip4, &mut self.ip6, at).state = next;
                }
            }
            Transition::Reopen => return Tracked::Reopened,
            Transition::Invalid => return Tracked::Invalid,
        }
        let data = data_mut(&mut self.ip4, &mut self.ip6, at);
        data.last_seen = now;
        let (packets, packets_carry) = data.packets.overflowing_add(1);
        let (bytes, bytes_carry) = data.bytes.overflowing_add(bytes);
        (data.packets, data.bytes) = (packets, bytes);
        if packets_carry | bytes_carry {
            self.carry(at, packets_carry, bytes_carry);
        }
        Tracked::Live
    }

    /// A counter of 32 bits has come around: once in 2^32 packets or 4 GiB.
    #[cold]
    #[inline(never)]
    fn carry(&mut self, at: FlowIndex, packets: bool, bytes: bool) {
        let slot = at.slot() as usize;
        let origin = if at.is_ip6() {
            &mut self.ip6.origins[slot]
        } else {
            &mut self.ip4.origins[slot]
        };
        let direction = at.direction() as usize;
        let (high_packets, high_bytes) = (
            &mut origin.packets_high[direction],
            &mut origin.bytes_high[direction],
        );
        *high_packets = high_packets.wrapping_add(packets.into());
        *high_bytes = high_bytes.wrapping_add(bytes.into());
    }

    #[inline(always)]
    fn data(&self, at: FlowIndex) -> &Data {
        if at.is_ip6() {
            &self.ip6.records[at.record()].data
        } else {
            &self.ip4.records[at.record()].data
        }
    }
}

impl<K: FlowKey> Slots<K> {
    /// Whether the record that a bucket names has this key.
    #[inline(always)]
    fn holds(&self, record: u32, key: &K) -> bool {
        let Some(at) = FlowIndex::from_word(record) else {
            return false;
        };
        at.is_ip6() == K::IP6 && self.records[at.record()].key == *key
    }

    /// Asks for the lines of a record.
    #[inline(always)]
    fn prefetch(&self, record: u32) {
        let at = (record & 0x7fff_ffff) as usize;
        let line = self.records.as_ptr().wrapping_add(at).cast::<[u8; 64]>();
        prefetch(line);
        if K::IP6 {
            prefetch(line.wrapping_add(1));
        }
    }

    /// Whether neither direction was used within the timeout, and the grace of the beginning is over.
    fn is_over(&self, slot: u32, limits: &Limits, now: Tick) -> bool {
        let [forward, reverse] = [0, 1].map(|leg| &self.records[slot as usize * 2 + leg].data);
        limits.is_over(forward.state, now.since(forward.last_seen))
            && limits.is_over(forward.state, now.since(reverse.last_seen))
            && !limits.is_young(now.since(self.origins[slot as usize].created))
    }
}

#[inline(always)]
fn data_mut<'a>(
    ip4: &'a mut Slots<FlowKey4>,
    ip6: &'a mut Slots<FlowKey6>,
    at: FlowIndex,
) -> &'a mut Data {
    if at.is_ip6() {
        &mut ip6.records[at.record()].data
    } else {
        &mut ip4.records[at.record()].data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The promise of the design: 200 bytes for both directions, everything counted, at 3/4 load.
    #[test]
    fn memory_per_ip4_flow() {
        for flows in [1_000u32, 1 << 16, 300_000] {
            let mut table = FlowTable::new(&FlowConfig::new(flows)).unwrap();
            let load = f64::from(flows) * 2.0 / (table.index.buckets() * 8) as f64;
            assert!((0.745..=0.75).contains(&load), "{load}");
            for i in 0..flows {
                let flow = NewFlow::new(FlowKey4::new(i, 1, 2, 3, 17, 0), FlowState::New);
                let made = table.insert(&flow, Tick::default(), |_, _| {});
                assert!(matches!(made, Inserted::New(_)), "flow {i}: {made:?}");
            }
            let bytes = table.memory_bytes() as f64 / f64::from(flows);
            assert!((160.0..=170.0).contains(&bytes), "{bytes}");
        }
        // The arithmetic at the size that the design names.
        let index = Index::new(2 << 22, HugePages::Transparent).unwrap();
        let buckets = (index.buckets() * Index::BUCKET_BYTES).div_ceil(1 << 22);
        assert!(buckets + 2 * size_of::<Record<FlowKey4>>() + size_of::<Origin>() <= 170);
    }

    #[test]
    fn counters_carry() {
        let mut table = FlowTable::new(&FlowConfig::new(2)).unwrap();
        let now = Tick::default();
        for ip6 in [false, true] {
            let at = if ip6 {
                let key = FlowKey6::new(1, 2, 3, 4, 17, 5);
                table.insert(&NewFlow::new(key, FlowState::New), now, |_, _| {})
            } else {
                let key = FlowKey4::new(1, 2, 3, 4, 17, 5);
                table.insert(&NewFlow::new(key, FlowState::New), now, |_, _| {})
            };
            let Inserted::New(at) = at else {
                panic!("{at:?}")
            };
            let mut expected = [(0u64, 0u64); 2];
            for (at, packets) in [(at, 5u64), (at.peer(), 3)] {
                data_mut(&mut table.ip4, &mut table.ip6, at).packets = u32::MAX - 1;
                for _ in 0..packets {
                    assert_eq!(
                        table.packet(at, TcpFlags::NONE, u32::MAX, now),
                        Tracked::Live
                    );
                }
                expected[at.direction() as usize] = (
                    u64::from(u32::MAX - 1) + packets,
                    u64::from(u32::MAX) * packets,
                );
            }
            let view = table.view(at).unwrap();
            for direction in [Direction::Forward, Direction::Reverse] {
                let counted = (view.packets(direction), view.bytes(direction));
                assert_eq!(counted, expected[direction as usize]);
            }
        }
    }

    #[test]
    fn impossible_capacities_are_errors() {
        let error = FlowTable::new(&FlowConfig::new(u32::MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
