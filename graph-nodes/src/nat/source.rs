//! What becomes of a flow's source.

use std::sync::Arc;

use tables::acl::{Address, Classifier, Key, NO_MATCH, Rule, SetClasses};

use super::Pool;
use super::destination::spliced;

/// What becomes of the source of packets that a rule matches.
#[derive(Clone, Debug)]
pub enum Source<A> {
    /// It stays.
    Exempt,
    /// An address and a port of this pool.
    Pool(Arc<Pool<A>>),
    /// One to one: the bits behind the prefix and the port stay.
    Prefix {
        /// The prefix that it has.
        internal: A,
        /// The prefix that it gets.
        external: A,
        /// Length of both, in bits.
        prefix_len: u8,
    },
}

/// Rules about sources, in order: the first that matches decides, and what none matches stays as it is.
#[derive(Clone, Debug)]
pub struct SourceRules<A: Address> {
    rules: Classifier<A>,
    actions: Box<[Source<A>]>,
}

impl<A: Address> SourceRules<A> {
    /// Compiles rules.
    pub fn new(rules: &[(Rule, Source<A>)]) -> Self {
        let matches: Vec<Rule> = rules.iter().map(|(rule, _)| rule.clone()).collect();
        Self {
            rules: Classifier::compile(&matches, &Arc::new(SetClasses::default())),
            actions: rules.iter().map(|(_, action)| action.clone()).collect(),
        }
    }

    /// The numbers of the rules about many packets, [`NO_MATCH`] for none. The shorter slice decides how many.
    pub(crate) fn find_all(&self, keys: &[Key<A>], found: &mut [u32]) {
        self.rules.classify(keys, found);
    }

    /// The rule with a number.
    pub(crate) fn rule(&self, number: u32) -> Option<&Source<A>> {
        self.actions.get(number as usize)
    }

    /// What becomes of the source of a packet.
    pub fn find(&self, key: &Key<A>) -> Option<&Source<A>> {
        match self.rules.classify_one(key) {
            NO_MATCH => None,
            found => self.actions.get(found as usize),
        }
    }
}

impl<A: Address> Source<A> {
    /// What a source becomes one to one; of other rules, itself.
    pub(crate) fn apply(&self, source: A) -> A {
        match self {
            Self::Prefix {
                external,
                prefix_len,
                ..
            } => spliced(*external, source, *prefix_len),
            Self::Exempt | Self::Pool(_) => source,
        }
    }
}
