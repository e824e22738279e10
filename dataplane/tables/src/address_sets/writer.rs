//! The writer's half of address sets.

use std::{
    collections::VecDeque,
    io, mem,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
};

use super::{
    AddressSets, Applied, Delta, Member, SetId, SetsError,
    atoms::{Atoms, UNKNOWN},
    classes::Interner,
    view::{Lease, View},
};
use crate::{
    VALUE_LIMIT,
    array::{Array, HugePages},
    error::LpmError,
    lpm4::{Lpm4, Lpm4Writer},
    lpm6::{Lpm6, Lpm6Writer},
    prefix::{Prefix4, Prefix6},
    rib::{Address, Rib},
};

/// How much address sets may hold. What is not used takes address space, not memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressSetLimits {
    /// Set numbers are below this.
    pub sets: u32,
    /// Members of all sets together, a member of two sets counted twice.
    pub members: usize,
    /// Distinct members, those included that are removed and wait for old views to go; less than 2^31 - 1.
    /// Each takes 4 bytes of address space.
    pub prefixes: u32,
    /// Different combinations of sets that an address is in, the empty one included, and those that a delta replaces.
    pub classes: u32,
    /// IPv4 blocks of length 24 that hold longer members: 1 KiB of address space each.
    pub blocks4: u32,
}

impl Default for AddressSetLimits {
    fn default() -> Self {
        Self {
            sets: 1 << 16,
            members: 1 << 24,
            prefixes: 1 << 22,
            classes: 1 << 18,
            blocks4: 1 << 18,
        }
    }
}

/// Writer half of address sets: one owner. A change is in the next view, and never in one that was made before.
#[derive(Debug)]
pub struct AddressSetsWriter {
    ip4: Lpm4Writer,
    ip6: Lpm6Writer,
    /// What is in the match, or will be when the delta at hand is applied: prefix to atom.
    rib4: Rib<u32>,
    rib6: Rib<u128>,
    prefixes: Prefixes,
    numbers: Numbers,
    /// Prefixes that are no members any more, except those of `leaving_nets6`; oldest first.
    leaving: VecDeque<Leaving>,
    /// The same for IPv6 prefixes shorter than /128, whose removal costs a new tree.
    leaving_nets6: VecDeque<Leaving>,
    /// Of the views that may live, oldest first; the last one is that of `latest`.
    leases: VecDeque<Arc<Lease>>,
    latest: AddressSets,
    members: usize,
    limits: AddressSetLimits,
    #[cfg(test)]
    pub(super) watcher: super::tests::Watcher,
}

/// What is known of each atom.
#[derive(Debug)]
struct Prefixes {
    /// By atom.
    entries: Vec<Entry>,
    classes: Interner,
    /// The class of each atom, as the next view will show it.
    atoms: Atoms,
    parents: Arc<Array<AtomicU32>>,
    union: Vec<SetId>,
}

#[derive(Debug)]
struct Entry {
    /// The sets of which this prefix is a member, ascending.
    sets: Vec<SetId>,
    /// The union of these and of the sets around; [`UNKNOWN`] before that is computed.
    class: u32,
    /// The first view of which this prefix is no member any more; 0 while it is one.
    left: u64,
}

/// Numbers of atoms: given out, given back, given out again when nobody knows them any more.
#[derive(Debug)]
struct Numbers {
    free: Vec<u32>,
    /// Numbers from here on were never used.
    fresh: u32,
    /// Atoms that left the match when this view was the latest, oldest first.
    quarantine: VecDeque<(u64, u32)>,
    limit: u32,
}

#[derive(Clone, Copy, Debug)]
struct Leaving {
    /// As [`Entry::left`]; an older number belongs to a prefix that came back meanwhile.
    left: u64,
    member: Member,
    atom: u32,
}

/// A delta on its way, with all that is needed to undo it.
#[derive(Default)]
struct Plan {
    applied: Applied,
    /// Prefixes whose own sets changed, or were changed and changed back.
    touched: Vec<(Member, u32)>,
    /// Prefixes that are not in the match yet.
    new: Vec<(Member, u32)>,
    /// So many of `new` were given to the match.
    inserted: usize,
    /// Changes of own sets: atom, set, whether it was added.
    memberships: Vec<(u32, SetId, bool)>,
    /// Changes of classes: atom, old, new.
    classes: Vec<(u32, u32, u32)>,
    /// Prefixes that left the match together with the insertions.
    unlinked: Vec<Leaving>,
}

impl AddressSetsWriter {
    /// Sets without members.
    ///
    /// # Errors
    /// The system refuses the address space.
    pub fn new(limits: AddressSetLimits, pages: HugePages) -> io::Result<Self> {
        let limit = limits.prefixes.min(VALUE_LIMIT - 2);
        let (ip4, reader4) = Lpm4::new(limits.blocks4, pages)?;
        let (ip6, reader6) = Lpm6::new()?;
        let mut prefixes = Prefixes {
            entries: Vec::new(),
            classes: Interner::new(limits.classes),
            atoms: Atoms::default(),
            parents: Arc::new(Array::new(limit as usize + 1, pages)?),
            union: Vec::new(),
        };
        // Atom 0 is what the match gives where there is no prefix.
        prefixes.entries.push(Entry {
            sets: Vec::new(),
            class: 0,
            left: 0,
        });
        prefixes.atoms.set(0, 0);
        let lease = Arc::new(Lease(1));
        let latest = prefixes.view(reader4, reader6, &lease, true);
        Ok(Self {
            ip4,
            ip6,
            rib4: Rib::default(),
            rib6: Rib::default(),
            prefixes,
            numbers: Numbers {
                free: Vec::new(),
                fresh: 1,
                quarantine: VecDeque::new(),
                limit,
            },
            leaving: VecDeque::new(),
            leaving_nets6: VecDeque::new(),
            leases: VecDeque::from([lease]),
            latest,
            members: 0,
            limits,
            #[cfg(test)]
            watcher: super::tests::Watcher::default(),
        })
    }

    /// The sets as they are now.
    pub fn view(&self) -> AddressSets {
        self.latest.clone()
    }

    /// Applies a delta as a whole: the next [`view`](Self::view) has all of it.
    ///
    /// The cost is that of the prefixes named and of the longer ones below them, and of copying chunks of 2048
    /// atoms that change; it does not depend on how many members the sets have. An IPv4 prefix shorter than
    /// /24 costs a store for each /24 in it. An IPv6 prefix that is new to all sets and shorter than /128 costs
    /// a new search tree, about 0.2 µs for each such prefix there is.
    ///
    /// # Errors
    /// A limit would be exceeded, or the system refuses memory. Nothing is changed then.
    pub fn apply(&mut self, delta: &Delta<Member>) -> Result<Applied, SetsError> {
        delta.check_sets(self.limits.sets)?;
        self.recycle();
        let mut result = self.try_apply(delta);
        if let Err(SetsError::Distinct { .. } | SetsError::Lpm(LpmError::Full { .. })) = result {
            self.reclaim();
            result = self.try_apply(delta);
        }
        if let Err(SetsError::Classes { .. }) = result
            && self.prefixes.classes.has_dead()
        {
            self.prefixes.compact();
            result = self.try_apply(delta);
        }
        result
    }

    /// Takes prefixes out of the match that no living view has as a member, and makes what nobody can meet any
    /// more free for new ones. [`apply`](Self::apply) does most of this; call it when old views have been dropped
    /// and nothing is to be changed for a while. It may make a new [`view`](Self::view) of the same sets: what
    /// was taken out now is free when those before it are dropped.
    pub fn reclaim(&mut self) {
        self.recycle();
        if let Ok(unlinked) = self.commit6() {
            self.forget(&unlinked);
        }
        let latest = self.latest_number();
        let last = self.numbers.quarantine.back();
        if last.is_some_and(|&(view, _)| view == latest) {
            self.make_view(latest + 1);
            self.recycle();
        }
    }

    /// The members of `set`, exactly as they were added, in order. Looks at every member of every set.
    pub fn members(&self, set: SetId) -> impl Iterator<Item = Member> + '_ {
        let has = move |&(_, atom): &(Member, u32)| {
            let sets = &self.prefixes.entries[atom as usize].sets;
            sets.binary_search(&set).is_ok()
        };
        let of4 = self
            .rib4
            .iter()
            .filter_map(|(addr, len, atom)| Some((Prefix4::new(addr, len).ok()?.into(), atom)));
        let of6 = self
            .rib6
            .iter()
            .filter_map(|(addr, len, atom)| Some((Prefix6::new(addr, len).ok()?.into(), atom)));
        of4.chain(of6).filter(has).map(|(member, _)| member)
    }

    /// Number of members of all sets together, a member of two sets counted twice.
    pub fn member_count(&self) -> usize {
        self.members
    }

    /// Number of distinct members, those included that are removed and wait for old views to go.
    pub fn prefixes_in_use(&self) -> u32 {
        self.numbers.in_use()
    }

    /// How many of [`prefixes_in_use`](Self::prefixes_in_use) are removed and wait for old views to go.
    pub fn prefixes_waiting(&self) -> u32 {
        let left = |queue: &VecDeque<Leaving>| {
            let still = |leaving: &&Leaving| self.prefixes.entry(leaving.atom).left == leaving.left;
            queue.iter().filter(still).count() as u32
        };
        self.numbers.quarantine.len() as u32 + left(&self.leaving) + left(&self.leaving_nets6)
    }

    /// The limits given at creation.
    pub fn limits(&self) -> AddressSetLimits {
        self.limits
    }

    fn try_apply(&mut self, delta: &Delta<Member>) -> Result<Applied, SetsError> {
        let first_class = self.prefixes.classes.len();
        let mut plan = Plan::default();
        let done = self
            .change_members(delta, &mut plan)
            .and_then(|()| self.change_classes(&mut plan))
            .and_then(|()| self.insert_prefixes(&mut plan));
        if let Err(error) = done {
            self.undo(plan);
            self.prefixes.classes.truncate(first_class);
            return Err(error);
        }
        let applied = plan.applied;
        if !plan.touched.is_empty() {
            self.finish(plan);
        }
        Ok(applied)
    }

    /// First step: the own sets of each prefix, and atoms for new prefixes.
    fn change_members(&mut self, delta: &Delta<Member>, plan: &mut Plan) -> Result<(), SetsError> {
        for operation in &delta.operations {
            let member = operation.member;
            let atom = match (self.exact(member), operation.add) {
                (Some(atom), _) => atom,
                (None, true) => self.create(member, plan)?,
                (None, false) => {
                    plan.applied.absent += 1;
                    continue;
                }
            };
            let sets = &mut self.prefixes.entries[atom as usize].sets;
            match (sets.binary_search(&operation.set), operation.add) {
                (Ok(_), true) => plan.applied.duplicates += 1,
                (Err(_), false) => plan.applied.absent += 1,
                (Err(at), true) => {
                    sets.insert(at, operation.set);
                    self.members += 1;
                    plan.applied.added += 1;
                    plan.memberships.push((atom, operation.set, true));
                    plan.touched.push((member, atom));
                }
                (Ok(at), false) => {
                    sets.remove(at);
                    self.members -= 1;
                    plan.applied.removed += 1;
                    plan.memberships.push((atom, operation.set, false));
                    plan.touched.push((member, atom));
                }
            }
        }
        // In the end only: a delta may remove and add in any order.
        if self.members > self.limits.members {
            return Err(SetsError::Members {
                limit: self.limits.members,
            });
        }
        // What was added and removed again needs no place in the match.
        let created = mem::take(&mut plan.new);
        let (new, idle): (Vec<_>, Vec<_>) = created
            .into_iter()
            .partition(|&(_, atom)| !self.prefixes.entry(atom).sets.is_empty());
        plan.new = new;
        if !idle.is_empty() {
            let is_idle = |atom: u32| {
                let entry = self.prefixes.entry(atom);
                entry.sets.is_empty() && entry.class == UNKNOWN
            };
            plan.memberships.retain(|&(atom, ..)| !is_idle(atom));
            plan.touched.retain(|&(_, atom)| !is_idle(atom));
            for (member, atom) in idle {
                self.drop_number(member, atom);
            }
        }
        plan.touched.sort_unstable();
        plan.touched.dedup();
        plan.new.sort_unstable();
        Ok(())
    }

    /// Second step: classes of what changed and of what lies below it. In order, so that what is around a prefix
    /// has its class first.
    fn change_classes(&mut self, plan: &mut Plan) -> Result<(), SetsError> {
        for &(member, atom) in &plan.touched {
            let (prefixes, changes) = (&mut self.prefixes, &mut plan.classes);
            match member {
                Member::V4(p) => prefixes.update(&self.rib4, (p.addr(), p.len()), atom, changes)?,
                Member::V6(p) => prefixes.update(&self.rib6, (p.addr(), p.len()), atom, changes)?,
            }
        }
        Ok(())
    }

    /// Third step: new prefixes go into the match, where older views give them the class of what is around.
    fn insert_prefixes(&mut self, plan: &mut Plan) -> Result<(), SetsError> {
        let mut new_tree = false;
        for &(member, atom) in &plan.new {
            match member {
                Member::V4(prefix) => self.ip4.insert(prefix.addr(), prefix.len(), atom)?,
                Member::V6(prefix) => self.ip6.insert(prefix.addr(), prefix.len(), atom)?,
            }
            plan.inserted += 1;
            new_tree |= is_net6(member);
            self.step();
        }
        if new_tree {
            plan.unlinked = self.commit6()?;
        }
        Ok(())
    }

    /// Last step, which cannot fail: the next view.
    fn finish(&mut self, plan: Plan) {
        for &(atom, old, new) in &plan.classes {
            let old = if old == UNKNOWN { 0 } else { old };
            self.prefixes.classes.exchange(old, new);
            self.prefixes.atoms.set(atom, new);
        }
        let number = self.latest_number() + 1;
        for (member, atom) in plan.touched {
            let entry = &mut self.prefixes.entries[atom as usize];
            if !entry.sets.is_empty() {
                entry.left = 0;
            } else if entry.left == 0 {
                entry.left = number;
                let queue = if is_net6(member) {
                    &mut self.leaving_nets6
                } else {
                    &mut self.leaving
                };
                queue.push_back(Leaving {
                    left: number,
                    member,
                    atom,
                });
            }
        }
        self.forget(&plan.unlinked);
        if self.prefixes.classes.is_sparse() {
            self.prefixes.compact();
        }
        self.make_view(number);
    }

    fn make_view(&mut self, number: u64) {
        let lease = Arc::new(Lease(number));
        let (reader4, reader6) = (self.ip4.reader(), self.ip6.reader());
        let is_empty = self.members == 0;
        self.latest = self.prefixes.view(reader4, reader6, &lease, is_empty);
        self.leases.push_back(lease);
    }

    /// Makes everything as it was before the first step.
    fn undo(&mut self, plan: Plan) {
        for &(member, _) in &plan.new[..plan.inserted] {
            self.remove_from_match(member);
            self.step();
        }
        for &(atom, old, _) in plan.classes.iter().rev() {
            self.prefixes.entries[atom as usize].class = old;
        }
        for &(atom, set, added) in plan.memberships.iter().rev() {
            let sets = &mut self.prefixes.entries[atom as usize].sets;
            match sets.binary_search(&set) {
                Ok(at) if added => {
                    sets.remove(at);
                    self.members -= 1;
                }
                Err(at) if !added => {
                    sets.insert(at, set);
                    self.members += 1;
                }
                _ => debug_assert!(false, "every entry tells of a change"),
            }
        }
        for (place, &(member, atom)) in plan.new.iter().enumerate() {
            if place < plan.inserted {
                // Readers may have met it.
                self.remove_from_rib(member);
                self.numbers
                    .quarantine
                    .push_back((self.latest_number(), atom));
            } else {
                self.drop_number(member, atom);
            }
        }
    }

    /// Frees what only views that are gone have used, and takes out of the match what only they had as members,
    /// except where that costs a new tree.
    fn recycle(&mut self) {
        let oldest = self.oldest_view();
        let latest = self.latest_number();
        self.ip4.reclaim(oldest - 1);
        self.ip4.set_epoch(latest);
        self.ip6.reclaim_unread();
        self.numbers.reclaim(oldest);
        while let Some(leaving) = self.leaving.pop_front_if(|leaving| leaving.left <= oldest) {
            if self.prefixes.entry(leaving.atom).left == leaving.left {
                self.remove_from_match(leaving.member);
                self.step();
                self.forget(&[leaving]);
            }
        }
    }

    /// Takes IPv6 prefixes out of the match that no living view has as members, and shows readers this and what
    /// was inserted before. Gives the prefixes taken out: their atoms are still known.
    fn commit6(&mut self) -> Result<Vec<Leaving>, LpmError> {
        let oldest = self.oldest_view();
        let mut unlinked = Vec::new();
        let due = self
            .leaving_nets6
            .partition_point(|leaving| leaving.left <= oldest);
        let mut kept = Vec::new();
        for leaving in self.leaving_nets6.drain(..due) {
            let entry = self.prefixes.entry(leaving.atom);
            if entry.left != leaving.left {
                continue;
            }
            if entry.sets.is_empty() {
                unlinked.push(leaving);
            } else {
                kept.push(leaving); // comes back with the delta at hand, if that is not undone
            }
        }
        for leaving in &unlinked {
            self.remove_from_match(leaving.member);
        }
        let done = self.ip6.commit();
        if done.is_err() {
            for leaving in unlinked.drain(..) {
                if let Member::V6(prefix) = leaving.member {
                    // Cannot fail: prefix and number were accepted before, and nothing is built.
                    let _ = self.ip6.insert(prefix.addr(), prefix.len(), leaving.atom);
                }
                kept.push(leaving);
            }
            kept.sort_unstable_by_key(|leaving| leaving.left);
        }
        for leaving in kept.into_iter().rev() {
            self.leaving_nets6.push_front(leaving);
        }
        self.step();
        done.map(|()| unlinked)
    }

    /// Forgets prefixes that left the match. Views made so far still know their atoms.
    fn forget(&mut self, unlinked: &[Leaving]) {
        for leaving in unlinked {
            self.remove_from_rib(leaving.member);
            self.prefixes.forget(leaving.atom);
            self.numbers
                .quarantine
                .push_back((self.latest_number(), leaving.atom));
        }
    }

    /// The number of the oldest view that lives; 1 or more.
    fn oldest_view(&mut self) -> u64 {
        // `get_mut` finds no other owner of a lease only behind the last access through its view.
        while self
            .leases
            .pop_front_if(|lease| Arc::get_mut(lease).is_some())
            .is_some()
        {}
        self.leases.front().map_or(1, |lease| lease.0)
    }

    fn latest_number(&self) -> u64 {
        self.leases.back().map_or(1, |lease| lease.0)
    }

    fn exact(&self, member: Member) -> Option<u32> {
        match member {
            Member::V4(prefix) => self.rib4.exact(prefix.addr(), prefix.len()),
            Member::V6(prefix) => self.rib6.exact(prefix.addr(), prefix.len()),
        }
    }

    /// An atom for a new prefix.
    fn create(&mut self, member: Member, plan: &mut Plan) -> Result<u32, SetsError> {
        let Some(atom) = self.numbers.take() else {
            return Err(SetsError::Distinct {
                limit: self.numbers.limit,
                waiting: self.prefixes_waiting(),
            });
        };
        self.prefixes.clear(atom);
        match member {
            Member::V4(prefix) => self.rib4.insert(prefix.addr(), prefix.len(), atom),
            Member::V6(prefix) => self.rib6.insert(prefix.addr(), prefix.len(), atom),
        };
        plan.new.push((member, atom));
        Ok(atom)
    }

    /// Takes back an atom that never was in the match.
    fn drop_number(&mut self, member: Member, atom: u32) {
        self.remove_from_rib(member);
        self.numbers.free.push(atom);
    }

    fn remove_from_rib(&mut self, member: Member) {
        match member {
            Member::V4(prefix) => self.rib4.remove(prefix.addr(), prefix.len()),
            Member::V6(prefix) => self.rib6.remove(prefix.addr(), prefix.len()),
        };
    }

    fn remove_from_match(&mut self, member: Member) {
        match member {
            Member::V4(prefix) => self.ip4.remove(prefix.addr(), prefix.len()),
            Member::V6(prefix) => self.ip6.remove(prefix.addr(), prefix.len()),
        };
    }

    /// Readers may see what was done so far: tests look at it here.
    #[inline(always)]
    fn step(&mut self) {
        #[cfg(test)]
        self.watcher.look();
    }
}

impl Prefixes {
    fn entry(&self, atom: u32) -> &Entry {
        &self.entries[atom as usize]
    }

    /// Makes the entry of an atom that is used for a new prefix.
    fn clear(&mut self, atom: u32) {
        let entry = Entry {
            sets: Vec::new(),
            class: UNKNOWN,
            left: 0,
        };
        if let Some(place) = self.entries.get_mut(atom as usize) {
            *place = entry;
        } else {
            debug_assert_eq!(self.entries.len(), atom as usize);
            self.entries.push(entry);
        }
    }

    /// Gives a prefix whose own sets changed its class, and those below it theirs.
    fn update<A: Address>(
        &mut self,
        rib: &Rib<A>,
        (prefix, len): (A, u8),
        atom: u32,
        changes: &mut Vec<(u32, u32, u32)>,
    ) -> Result<(), SetsError> {
        if !self.assign(atom, rib.covering(prefix, len), changes)? || len == A::WIDTH {
            return Ok(());
        }
        let end = prefix.last(len);
        // Last address and atom of the prefixes around the place, innermost last; the first stays.
        let mut around = vec![(end, atom)];
        let mut after = (prefix, len);
        'below: loop {
            for (prefix, len, atom) in rib.between(after, end) {
                while around.pop_if(|(last, _)| *last < prefix).is_some() {}
                let parent = around.last().map_or(atom, |&(_, parent)| parent);
                let changed = self.assign(atom, parent, changes)?;
                if len == A::WIDTH {
                    continue;
                }
                let last = prefix.last(len);
                if changed {
                    around.push((last, atom));
                } else {
                    // Nothing below changes either, except what has own changes: its turn comes.
                    after = (last, A::WIDTH);
                    continue 'below;
                }
            }
            return Ok(());
        }
    }

    /// Gives an atom the union of its own sets and those of its parent; says whether that is a change.
    fn assign(
        &mut self,
        atom: u32,
        parent: u32,
        changes: &mut Vec<(u32, u32, u32)>,
    ) -> Result<bool, SetsError> {
        let around = self.entries[parent as usize].class;
        debug_assert_ne!(around, UNKNOWN);
        let entry = &mut self.entries[atom as usize];
        let class = if entry.sets.is_empty() {
            around
        } else if around == 0 {
            self.classes.intern(&entry.sets)?
        } else {
            unite(&entry.sets, self.classes.sets(around), &mut self.union);
            self.classes.intern(&self.union)?
        };
        let old = mem::replace(&mut entry.class, class);
        if old == UNKNOWN {
            // Before the match names the atom; nobody reads this place until then.
            self.parents[atom as usize].store(parent, Relaxed);
        }
        if old != class {
            changes.push((atom, old, class));
        }
        Ok(old != class)
    }

    fn forget(&mut self, atom: u32) {
        let class = mem::replace(&mut self.entries[atom as usize].class, UNKNOWN);
        self.classes.exchange(class, 0);
        self.atoms.set(atom, UNKNOWN);
    }

    /// Numbers the classes in use anew.
    fn compact(&mut self) {
        let renumbered = self.classes.compact();
        for (atom, entry) in self.entries.iter_mut().enumerate() {
            if entry.class != UNKNOWN {
                entry.class = renumbered[entry.class as usize];
                self.atoms.set(atom as u32, entry.class);
            }
        }
    }

    fn view(&self, ip4: Lpm4, ip6: Lpm6, lease: &Arc<Lease>, is_empty: bool) -> AddressSets {
        AddressSets {
            view: Arc::new(View {
                ip4,
                ip6,
                atoms: self.atoms.view(),
                parents: Arc::clone(&self.parents),
                classes: self.classes.view(),
                is_empty,
                _lease: Arc::clone(lease),
            }),
        }
    }
}

impl Numbers {
    fn take(&mut self) -> Option<u32> {
        if let Some(number) = self.free.pop() {
            return Some(number);
        }
        let number = self.fresh;
        if number > self.limit {
            return None;
        }
        self.fresh += 1;
        Some(number)
    }

    /// Frees the numbers that no view from `oldest` on can meet.
    fn reclaim(&mut self, oldest: u64) {
        while let Some((_, number)) = self.quarantine.pop_front_if(|(view, _)| *view < oldest) {
            self.free.push(number);
        }
    }

    fn in_use(&self) -> u32 {
        self.fresh - 1 - self.free.len() as u32
    }
}

/// The union of two ascending lists.
fn unite(a: &[SetId], b: &[SetId], union: &mut Vec<SetId>) {
    union.clear();
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let next = match (a.peek(), b.peek()) {
            (Some(x), Some(y)) => *x.min(y),
            (Some(x), None) | (None, Some(x)) => *x,
            (None, None) => return,
        };
        a.next_if(|&x| x == next);
        b.next_if(|&x| x == next);
        union.push(*next);
    }
}

fn is_net6(member: Member) -> bool {
    matches!(member, Member::V6(prefix) if prefix.len() < 128)
}
