//! Long stages: lists of so many rules that compiling them takes longer than a change may. A change is compiled beside the
//! list, which is compiled anew on a thread of its own when many have come together.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use graph_nodes::policy::{Decision, Stage};
use tables::acl::{EditError, OVERLAY_RULES, Rebuilt, Rule, RuleList, SetClasses};

use super::programs::{Block, Entry};

/// Rules from which a stage is long: fewer are compiled faster than a packet waits for them.
pub(super) const LONG: usize = 256;

/// Rules that change at once; more are a new list.
const MOST_EDITS: usize = 64;

/// Changes after which the list is compiled anew: a quarter of those that fit beside it, so that the others have time.
const FOLD: usize = OVERLAY_RULES / 4;

type Bases = (Rebuilt<u32>, Rebuilt<u128>);

/// The rules of a long stage, compiled for both families.
#[derive(Debug)]
pub(super) struct Long {
    blocks: Vec<Arc<Block>>,
    ip4: RuleList<u32>,
    ip6: RuleList<u128>,
    /// The tag of each rule, by position.
    tags: Vec<u32>,
    /// By tag.
    decisions: Vec<Decision>,
    free: Vec<u32>,
    /// A list that is compiled anew, or was.
    rebuild: Option<Receiver<Bases>>,
    rebuilt: Option<Box<Bases>>,
}

fn rules(blocks: &[Arc<Block>]) -> impl Iterator<Item = (&Rule, Decision)> {
    let entries = blocks.iter().flat_map(|block| &block.entries);
    entries.filter_map(|entry| match entry {
        Entry::Rule(rule, decision) => Some((rule, *decision)),
        // Stages with such rules are never long.
        Entry::Log(..) => None,
    })
}

/// Nobody waits for this thread: whoever has something to do that somebody waits for goes first.
fn in_background() {
    // Without the right to be modest, the thread competes as others do.
    let _ = dataplane::set_nice(19);
}

impl Long {
    /// Compiles all of them.
    pub(super) fn new(blocks: Vec<Arc<Block>>, sets: &Arc<SetClasses>) -> Self {
        let decisions: Vec<Decision> = rules(&blocks).map(|(_, decision)| decision).collect();
        let tagged = || {
            (0..)
                .zip(rules(&blocks))
                .map(|(tag, (rule, _))| (rule.clone(), tag))
        };
        Self {
            ip4: RuleList::new(tagged().collect(), Arc::clone(sets)),
            ip6: RuleList::new(tagged().collect(), Arc::clone(sets)),
            tags: tagged().map(|(_, tag)| tag).collect(),
            decisions,
            free: Vec::new(),
            rebuild: None,
            rebuilt: None,
            blocks,
        }
    }

    /// Makes these the rules. Costs what differs; blocks that are the same ones are not looked into.
    ///
    /// # Errors
    ///
    /// So much differs that a new list is due. This one is of no use then.
    pub(super) fn bring_to(&mut self, blocks: Vec<Arc<Block>>) -> Result<(), EditError> {
        let same = |pair: &(&Arc<Block>, &Arc<Block>)| Arc::ptr_eq(pair.0, pair.1);
        let front = self.blocks.iter().zip(&blocks).take_while(same).count();
        let (old, new) = (&self.blocks[front..], &blocks[front..]);
        let pairs = old.iter().rev().zip(new.iter().rev());
        let back = pairs.take_while(same).count();
        let old: Vec<_> = rules(&old[..old.len() - back]).collect();
        let new: Vec<_> = rules(&new[..new.len() - back]).collect();
        // None of their entries logs.
        let start = self.blocks[..front]
            .iter()
            .map(|block| block.entries.len())
            .sum();

        let equal = |pair: &(&(&Rule, Decision), &(&Rule, Decision))| pair.0.0 == pair.1.0;
        let first = old.iter().zip(&new).take_while(equal).count();
        let rest = old[first..].iter().rev().zip(new[first..].iter().rev());
        let last = rest.take_while(equal).count();
        let (gone, come) = (old.len() - first - last, &new[first..new.len() - last]);
        if gone + come.len() > MOST_EDITS {
            return Err(EditError::Full);
        }
        let at: usize = start + first;
        for _ in 0..gone {
            self.ip4.remove(at)?;
            self.ip6.remove(at)?;
        }
        self.free.extend(self.tags.drain(at..at + gone));
        for (position, (rule, decision)) in (at..).zip(come) {
            let tag = self.free.pop().unwrap_or_else(|| {
                self.decisions.push(*decision);
                // A list has fewer than 2^31 rules.
                u32::try_from(self.decisions.len() - 1).unwrap_or(u32::MAX)
            });
            self.ip4.insert(position, Rule::clone(rule), tag)?;
            self.ip6.insert(position, Rule::clone(rule), tag)?;
            self.tags.insert(position, tag);
        }
        // The same rule in another place has another number.
        for (tag, (_, decision)) in self.tags[start..].iter().zip(&new) {
            self.decisions[*tag as usize] = *decision;
        }
        self.blocks = blocks;
        if self.rebuild.is_none() && self.rebuilt.is_none() && self.ip4.pending() >= FOLD {
            self.begin_rebuild();
        }
        Ok(())
    }

    fn begin_rebuild(&mut self) {
        let (ip4, ip6) = (self.ip4.rebuild(), self.ip6.rebuild());
        let (done, rebuild) = channel();
        let compile = move || {
            in_background();
            // Nobody waits any more where the list is gone.
            let _ = done.send((ip4.run(), ip6.run()));
        };
        let thread = std::thread::Builder::new().name("rule-list".into());
        // Without a thread the list stays as it is, and is compiled whole when nothing more fits beside it.
        if thread.spawn(compile).is_ok() {
            self.rebuild = Some(rebuild);
        }
    }

    /// Whether the list was compiled anew and waits to be [adopted](Self::adopt).
    pub(super) fn is_rebuilt(&mut self) -> bool {
        if let Some(rebuild) = &self.rebuild {
            match rebuild.try_recv() {
                Ok(bases) => self.rebuilt = Some(Box::new(bases)),
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => {}
            }
            self.rebuild = None;
        }
        self.rebuilt.is_some()
    }

    /// Makes the list that was compiled anew the base. Whether there was one.
    pub(super) fn adopt(&mut self) -> bool {
        if !self.is_rebuilt() {
            return false;
        }
        let Some(bases) = self.rebuilt.take() else {
            return false;
        };
        let (ip4, ip6) = *bases;
        let retired = (self.ip4.exchange(ip4), self.ip6.exchange(ip6));
        let adopted = retired.0.is_some() | retired.1.is_some();
        // Freeing ten thousand rules takes longer than a change may. Without a thread they are freed here.
        let thread = std::thread::Builder::new().name("rule-list".into());
        let _ = thread.spawn(move || {
            in_background();
            drop(retired);
        });
        adopted
    }

    /// Learns classes that have appeared.
    pub(super) fn extend(&mut self, sets: &Arc<SetClasses>) {
        self.ip4.extend(sets);
        self.ip6.extend(sets);
    }

    /// The stage as it is now.
    pub(super) fn stage(&self, end: Decision) -> Stage {
        let tags = self.decisions.len();
        Stage::new(
            self.ip4.snapshot().into_classifier(tags),
            self.ip6.snapshot().into_classifier(tags),
            self.decisions.clone(),
            Vec::new(),
            end,
        )
    }
}
