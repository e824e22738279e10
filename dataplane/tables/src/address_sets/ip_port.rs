//! Sets of (address, protocol, port): service matches, named ports.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use std::{
    hash::{BuildHasher, RandomState},
    mem,
    sync::Arc,
};

use super::{
    Applied, ClassId, Delta, Operation, SetId, SetsError,
    classes::{ClassTable, Interner},
};

/// Shards are split when they hold more keys than this on average, and joined below a sixteenth of it.
const SHARD_KEYS: usize = 64;
const FIRST_SLOTS: usize = 8;

/// A member of an address-and-port set: an address, an IP protocol number, a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpPort {
    /// The address.
    pub addr: IpAddr,
    /// The IP protocol (TCP is 6).
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// How much address-and-port sets may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPortSetLimits {
    /// Set numbers are below this.
    pub sets: u32,
    /// Members of all sets together, a member of two sets counted twice.
    pub members: usize,
    /// Distinct members.
    pub keys: u32,
    /// Different combinations of sets that a member is in, the empty one included, and those that a delta replaces.
    pub classes: u32,
}

impl Default for IpPortSetLimits {
    fn default() -> Self {
        Self {
            sets: 1 << 16,
            members: 1 << 24,
            keys: 1 << 22,
            classes: 1 << 18,
        }
    }
}

/// An immutable view of address-and-port sets: the reader's half. Cheap to clone, used from any thread.
///
/// A lookup is a hash and, mostly, one line; nothing while no set has a member. Classes are as in
/// [`AddressSets`](super::AddressSets), with numbers of their own.
///
/// ```
/// use tables::address_sets::*;
///
/// let mut writer = IpPortSetsWriter::new(IpPortSetLimits::default());
/// let mut delta = Delta::default();
/// let (tcp, dns) = (6, SetId(7));
/// delta.add(dns, IpPort { addr: "10.96.0.10".parse()?, protocol: tcp, port: 53 });
/// writer.apply(&delta)?;
/// let view = writer.view();
/// let class = view.class4(u32::from_be_bytes([10, 96, 0, 10]), tcp, 53);
/// assert_eq!(view.sets(class), [dns]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct IpPortSets {
    view: Arc<View>,
}

/// Writer half of address-and-port sets.
#[derive(Debug)]
pub struct IpPortSetsWriter {
    table: Table,
    classes: Interner,
    members: usize,
    limits: IpPortSetLimits,
    latest: IpPortSets,
}

#[derive(Debug)]
struct View {
    table: Table,
    classes: ClassTable,
}

/// A hash table in shards. A clone shares them; a change copies those that it touches.
#[derive(Clone, Debug)]
struct Table {
    /// A power of two.
    shards: Vec<Arc<Shard>>,
    /// 64 - log2(shards), at most 63: the upper bits of a hash name the shard.
    shift: u32,
    secret: [u64; 4],
    keys: usize,
}

/// An open-addressing table: a key stands in the slot that the lower bits of its hash name, or in one
/// of the following without a free slot between.
#[derive(Clone, Debug)]
struct Shard {
    /// A power of two, at most three quarters of them taken.
    slots: Box<[Slot]>,
    keys: usize,
}

/// Free where the class is 0.
#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    key: Key,
    class: u32,
}

/// Ordered so that equal keys of a delta come together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    addr: u128,
    /// Family, protocol, port.
    rest: u32,
}

impl IpPortSets {
    /// The class of an IPv4 address (host order), a protocol and a port.
    #[inline]
    pub fn class4(&self, addr: u32, protocol: u8, port: u16) -> ClassId {
        self.class(Key::new4(addr, protocol, port))
    }

    /// The class of an IPv6 address (host order), a protocol and a port.
    #[inline]
    pub fn class6(&self, addr: u128, protocol: u8, port: u16) -> ClassId {
        self.class(Key::new6(addr, protocol, port))
    }

    /// Whether no set has a member, so that everything has the class [`ClassId::NONE`].
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.view.table.keys == 0
    }

    /// The sets that have the members of `class`, ascending. None for a number that this view does not know.
    #[inline]
    pub fn sets(&self, class: ClassId) -> &[SetId] {
        self.view.classes.sets(class)
    }

    /// Whether the members of `class` are in `set`. `O(log sets of the class)`.
    #[inline]
    pub fn contains(&self, class: ClassId, set: SetId) -> bool {
        self.sets(class).binary_search(&set).is_ok()
    }

    /// Every class number of this view is below this one.
    pub fn class_count(&self) -> u32 {
        self.view.classes.count()
    }

    /// Class numbers have the same meaning in all views of one epoch.
    pub fn class_epoch(&self) -> u64 {
        self.view.classes.epoch()
    }

    #[inline]
    fn class(&self, key: Key) -> ClassId {
        if self.is_empty() {
            ClassId::NONE
        } else {
            ClassId(self.view.table.class(key))
        }
    }
}

impl IpPortSetsWriter {
    /// Sets without members; the hash has a random key.
    pub fn new(limits: IpPortSetLimits) -> Self {
        let table = Table::new(1, [(); 4].map(|()| RandomState::new().hash_one(0)));
        let classes = Interner::new(limits.classes);
        let latest = IpPortSets::new(&table, &classes);
        Self {
            table,
            classes,
            members: 0,
            limits,
            latest,
        }
    }

    /// The sets as they are now.
    pub fn view(&self) -> IpPortSets {
        self.latest.clone()
    }

    /// Applies a delta as a whole: the next [`view`](Self::view) has all of it. The cost is that of the members
    /// named, of copying about a hundred neighbours of each, and of sharing the rest (`O(members / 64)`, a few
    /// bytes each).
    ///
    /// # Errors
    /// A limit would be exceeded. Nothing is changed then.
    pub fn apply(&mut self, delta: &Delta<IpPort>) -> Result<Applied, SetsError> {
        delta.check_sets(self.limits.sets)?;
        match self.try_apply(delta) {
            Err(SetsError::Classes { .. }) if self.classes.has_dead() => {
                self.compact();
                self.try_apply(delta)
            }
            result => result,
        }
    }

    /// The members of `set`, ordered. Looks at every member of every set.
    pub fn members(&self, set: SetId) -> Vec<IpPort> {
        let all = self.table.shards.iter().flat_map(|shard| shard.taken());
        let has = |slot: &&Slot| self.classes.sets(slot.class).binary_search(&set).is_ok();
        let mut members: Vec<_> = all.filter(has).map(|slot| slot.key.member()).collect();
        members.sort_unstable();
        members
    }

    /// Number of members of all sets together, a member of two sets counted twice.
    pub fn member_count(&self) -> usize {
        self.members
    }

    /// Number of distinct members.
    pub fn keys_in_use(&self) -> usize {
        self.table.keys
    }

    /// The limits given at creation.
    pub fn limits(&self) -> IpPortSetLimits {
        self.limits
    }

    fn try_apply(&mut self, delta: &Delta<IpPort>) -> Result<Applied, SetsError> {
        let first_class = self.classes.len();
        // A copy that shares every shard: dropping it undoes all.
        let mut table = self.table.clone();
        let mut changes = Vec::new();
        let mut applied = Applied::default();
        let done = self.change(delta, &mut table, &mut changes, &mut applied);
        if let Err(error) = done {
            self.classes.truncate(first_class);
            return Err(error);
        }
        if changes.is_empty() {
            return Ok(applied);
        }
        self.members = self.members + applied.added - applied.removed;
        for (old, new) in changes {
            self.classes.exchange(old, new);
        }
        self.table = table.with_fitting_shards();
        if self.classes.is_sparse() {
            self.compact();
        }
        self.latest = IpPortSets::new(&self.table, &self.classes);
        Ok(applied)
    }

    /// Applies `delta` to `table`; notes the old and the new class of every key that changed.
    fn change(
        &mut self,
        delta: &Delta<IpPort>,
        table: &mut Table,
        changes: &mut Vec<(u32, u32)>,
        applied: &mut Applied,
    ) -> Result<(), SetsError> {
        let mut operations: Vec<_> = delta
            .operations
            .iter()
            .map(|operation| (Key::new(operation.member), operation))
            .collect();
        // Stable: what concerns one key stays in order, and its new class is looked for once.
        operations.sort_by_key(|&(key, _)| key);
        let mut sets = Vec::new();
        for of_key in operations.chunk_by(|(a, _), (b, _)| a == b) {
            let key = of_key[0].0;
            let old = table.class(key);
            sets.clear();
            sets.extend_from_slice(self.classes.sets(old));
            for (_, operation) in of_key {
                change_sets(&mut sets, operation, applied);
            }
            let new = self.classes.intern(&sets)?;
            if new != old {
                table.set(key, new);
                changes.push((old, new));
            }
        }
        if table.keys > self.limits.keys as usize {
            return Err(SetsError::Distinct {
                limit: self.limits.keys,
                waiting: 0,
            });
        }
        if self.members + applied.added - applied.removed > self.limits.members {
            return Err(SetsError::Members {
                limit: self.limits.members,
            });
        }
        Ok(())
    }

    fn compact(&mut self) {
        let renumbered = self.classes.compact();
        for shard in &mut self.table.shards {
            for slot in &mut Arc::make_mut(shard).slots {
                slot.class = renumbered[slot.class as usize];
            }
        }
    }
}

fn change_sets(sets: &mut Vec<SetId>, operation: &Operation<IpPort>, applied: &mut Applied) {
    match (sets.binary_search(&operation.set), operation.add) {
        (Ok(_), true) => applied.duplicates += 1,
        (Err(_), false) => applied.absent += 1,
        (Err(at), true) => {
            sets.insert(at, operation.set);
            applied.added += 1;
        }
        (Ok(at), false) => {
            sets.remove(at);
            applied.removed += 1;
        }
    }
}

impl IpPortSets {
    fn new(table: &Table, classes: &Interner) -> Self {
        Self {
            view: Arc::new(View {
                table: table.clone(),
                classes: classes.view(),
            }),
        }
    }
}

impl Table {
    fn new(shards: usize, secret: [u64; 4]) -> Self {
        debug_assert!(shards.is_power_of_two());
        Self {
            shards: vec![Arc::default(); shards],
            shift: (u64::BITS - shards.trailing_zeros()).min(63),
            secret,
            keys: 0,
        }
    }

    /// The class of `key`; 0 if it is not there.
    #[inline]
    fn class(&self, key: Key) -> u32 {
        let hash = self.hash(key);
        let shard = &self.shards[self.shard(hash)];
        shard.slots[shard.find(key, hash)].class
    }

    /// Gives `key` a class; 0 takes it out.
    fn set(&mut self, key: Key, class: u32) {
        let hash = self.hash(key);
        let shard = self.shard(hash);
        let shard = Arc::make_mut(&mut self.shards[shard]);
        let at = shard.find(key, hash);
        let old = mem::replace(&mut shard.slots[at], Slot { key, class }).class;
        match (old, class) {
            (0, 0) | (1.., 1..) => {}
            (0, _) => {
                self.keys += 1;
                shard.keys += 1;
                if shard.keys * 4 > shard.slots.len() * 3 {
                    shard.resize(shard.slots.len() * 2, |key| hash_of(&self.secret, key));
                }
            }
            (_, 0) => {
                self.keys -= 1;
                shard.keys -= 1;
                shard.close_gap(at, |key| hash_of(&self.secret, key));
            }
        }
    }

    /// The same content in as many shards as it deserves.
    fn with_fitting_shards(self) -> Self {
        let count = self.shards.len();
        let is_fitting = self.keys <= count * SHARD_KEYS
            && (count == 1 || self.keys >= count * (SHARD_KEYS / 16));
        if is_fitting {
            return self;
        }
        let shards = (self.keys.div_ceil(SHARD_KEYS / 2)).next_power_of_two();
        let mut table = Self::new(shards, self.secret);
        for slot in self.shards.iter().flat_map(|shard| shard.taken()) {
            table.set(slot.key, slot.class);
        }
        table
    }

    #[inline(always)]
    fn shard(&self, hash: u64) -> usize {
        (hash >> self.shift) as usize & (self.shards.len() - 1)
    }

    #[inline(always)]
    fn hash(&self, key: Key) -> u64 {
        hash_of(&self.secret, key)
    }
}

/// Two multiplications of the key with a secret, each folded: who does not know the secret cannot aim at a slot.
#[inline(always)]
fn hash_of(secret: &[u64; 4], key: Key) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        (product >> 64) as u64 ^ product as u64
    };
    let [a, b, c, d] = *secret;
    let addr = fold((key.addr >> 64) as u64 ^ a, key.addr as u64 ^ b);
    fold(addr ^ c, u64::from(key.rest) ^ d)
}

impl Default for Shard {
    fn default() -> Self {
        Self {
            slots: Box::new([Slot::default(); FIRST_SLOTS]),
            keys: 0,
        }
    }
}

impl Shard {
    /// The slot that holds `key`, or the free one where it belongs.
    #[inline]
    fn find(&self, key: Key, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        // Ends: a quarter of the slots is free.
        loop {
            let slot = &self.slots[at];
            if slot.class == 0 || slot.key == key {
                return at;
            }
            at = (at + 1) & mask;
        }
    }

    /// The slots in use.
    fn taken(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.class != 0)
    }

    fn resize(&mut self, slots: usize, hash: impl Fn(Key) -> u64) {
        let mut larger = Self {
            slots: vec![Slot::default(); slots].into_boxed_slice(),
            keys: self.keys,
        };
        for slot in self.taken() {
            let at = larger.find(slot.key, hash(slot.key));
            larger.slots[at] = *slot;
        }
        *self = larger;
    }

    /// Slot `gap` has become free: what stands behind it, up to the next free slot, moves up where it may.
    fn close_gap(&mut self, mut gap: usize, hash: impl Fn(Key) -> u64) {
        let mask = self.slots.len() - 1;
        self.slots[gap] = Slot::default();
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.class == 0 {
                return;
            }
            let home = hash(slot.key) as usize & mask;
            // How far it is from its home: as far as the gap or further, then the gap is on its way.
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.slots[gap] = slot;
                self.slots[at] = Slot::default();
                gap = at;
            }
        }
    }
}

impl Key {
    const V6: u32 = 1 << 24;

    fn new(member: IpPort) -> Self {
        match member.addr {
            IpAddr::V4(addr) => Self::new4(addr.into(), member.protocol, member.port),
            IpAddr::V6(addr) => Self::new6(addr.into(), member.protocol, member.port),
        }
    }

    #[inline(always)]
    fn new4(addr: u32, protocol: u8, port: u16) -> Self {
        Self {
            addr: u128::from(addr),
            rest: u32::from(protocol) << 16 | u32::from(port),
        }
    }

    #[inline(always)]
    fn new6(addr: u128, protocol: u8, port: u16) -> Self {
        Self {
            addr,
            rest: Self::V6 | u32::from(protocol) << 16 | u32::from(port),
        }
    }

    fn member(self) -> IpPort {
        let addr = if self.rest & Self::V6 == 0 {
            Ipv4Addr::from(self.addr as u32).into()
        } else {
            Ipv6Addr::from(self.addr).into()
        };
        IpPort {
            addr,
            protocol: (self.rest >> 16) as u8,
            port: self.rest as u16,
        }
    }
}

impl fmt::Display for IpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}:{}", self.addr, self.protocol, self.port)
    }
}
