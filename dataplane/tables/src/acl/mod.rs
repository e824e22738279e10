//! The rule classifier: which of an ordered list of rules is the first that a packet matches.
//!
//! A list of [`Rule`]s is compiled for one address family into a [`Classifier`], an immutable value. The
//! compiler chooses the form by size:
//!
//! | tier | rules | structure |
//! |---|---|---|
//! | 0 | up to 16 boxes without sets | every rule compared with the packet, eight at once |
//! | 1 | up to 512, and all with sets | a row of bits per value of each field, ANDed |
//! | 2 | more, without sets | cut trees with leaves of eight boxes |
//!
//! Sets of addresses and of (address, protocol, port) triples are not searched here: a [`Key`] carries
//! the classes that their tables gave, and [`SetClasses`] says which sets a class is in.
//!
//! [`reference::Linear`] is the plain twin that defines the result.

mod bit_vectors;
mod borders;
mod classes;
pub mod generate;
mod growth;
mod key;
mod lanes;
mod live;
mod lowered;
mod overlay;
pub mod reference;
mod rows;
mod rule;
mod simd;
mod spans;
mod tree;

use std::sync::Arc;

pub use classes::{ClassMembership, SetClasses};
pub use key::{Address, Family, Key, Layer4, PORT_PROTOCOLS};
pub use overlay::{
    EditError, LayeredClassifier, OVERLAY_RULES, Rebuild, Rebuilt, Retired, RuleList,
};
pub use rule::{Icmp, PortRange, PortRangeError, Prefix, Protocols, Rule, SetId, Side};

use self::{
    bit_vectors::BitVectors,
    lanes::Brute,
    live::Live,
    lowered::Lowered,
    tree::{Trees, suits},
};

/// The answer where no rule matches.
pub const NO_MATCH: u32 = u32::MAX;

/// Which form rules are compiled to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tier {
    /// Chosen by size and kind.
    #[default]
    Automatic,
    /// Tier 0 if the rules fit, else tier 1.
    Brute,
    /// Tier 1.
    BitVectors,
    /// Tier 2, and tier 1 for the rules that do not suit it.
    Trees,
}

/// Boxes up to which comparing all of them is the fastest form.
const BRUTE_BOXES: usize = 16;
/// Rules up to which bit vectors are the faster form.
const BIT_VECTOR_RULES: usize = 256;

/// A compiled list of rules for one family: an immutable value, cheap to clone.
#[derive(Clone, Debug)]
pub struct Classifier<A: Address> {
    rules: usize,
    form: Form<A>,
}

#[derive(Clone, Debug)]
enum Form<A: Address> {
    Brute(Arc<Brute<A>>),
    BitVectors(Arc<BitVectors<A>>),
    /// A list that changes, as it was; the answers are tags.
    Layered(Arc<LayeredClassifier<A>>),
    /// Each rule is in one of them.
    Trees(Arc<Trees<A>>, Option<Arc<BitVectors<A>>>),
}

impl<A: Address> Classifier<A> {
    /// Compiles `rules` (fewer than 2^31), whose sets `sets` describes.
    pub fn compile(rules: &[Rule], sets: &Arc<SetClasses>) -> Self {
        Self::with_tier(rules, sets, Tier::Automatic)
    }

    /// As [`compile`](Self::compile), in the form `tier`.
    ///
    /// # Panics
    /// There are 2^31 rules or more.
    pub fn with_tier(rules: &[Rule], sets: &Arc<SetClasses>, tier: Tier) -> Self {
        Self::compile_form(rules.iter(), sets, tier)
    }

    fn compile_refs(rules: &[&Rule], sets: &Arc<SetClasses>) -> Self {
        Self::compile_form(rules.iter().copied(), sets, Tier::Automatic)
    }

    fn compile_form<'a>(
        rules: impl ExactSizeIterator<Item = &'a Rule>,
        sets: &Arc<SetClasses>,
        tier: Tier,
    ) -> Self {
        let len = rules.len();
        assert!(len < 1 << 31, "a rule number has 31 bits");
        let lowered: Vec<Option<Lowered<A>>> = rules.map(Lowered::new).collect();
        let with_sets = lowered.iter().flatten().any(Lowered::uses_sets);
        let brute = match tier {
            Tier::Automatic if with_sets => 0,
            Tier::Automatic => BRUTE_BOXES,
            Tier::Brute => Brute::<A>::LANES,
            Tier::BitVectors | Tier::Trees => 0,
        };
        let form = |form| Self { rules: len, form };
        if brute != 0
            && let Some(brute) = Brute::new(&lowered, sets, brute)
        {
            return form(Form::Brute(Arc::new(brute)));
        }
        let possible = |number: &u32| lowered[*number as usize].is_some();
        let numbers: Vec<u32> = (0..len as u32).filter(possible).collect();
        let suited = |number: &u32| lowered[*number as usize].as_ref().is_some_and(suits);
        let (for_trees, mut for_rows): (Vec<u32>, Vec<u32>) = match tier {
            Tier::BitVectors | Tier::Brute => (Vec::new(), numbers),
            Tier::Automatic if numbers.len() <= BIT_VECTOR_RULES => (Vec::new(), numbers),
            Tier::Automatic | Tier::Trees => numbers.into_iter().partition(suited),
        };
        let rows = |numbers| Arc::new(BitVectors::new(&lowered, numbers, sets));
        if for_trees.is_empty() {
            return form(Form::BitVectors(rows(for_rows)));
        }
        let (trees, left_over) = Trees::new(&lowered, sets, &for_trees);
        for_rows.extend(left_over);
        for_rows.sort_unstable();
        let rows = (!for_rows.is_empty()).then(|| rows(for_rows));
        form(Form::Trees(Arc::new(trees), rows))
    }

    /// Index of the first rule that each key matches, or [`NO_MATCH`]. The shorter slice decides how many.
    #[inline]
    pub fn classify(&self, keys: &[Key<A>], out: &mut [u32]) {
        let n = keys.len().min(out.len());
        self.classify_live(&keys[..n], &mut out[..n], Live::ALL);
    }

    /// Index of the first rule that `key` matches, or [`NO_MATCH`].
    #[inline]
    pub fn classify_one(&self, key: &Key<A>) -> u32 {
        let mut out = [NO_MATCH];
        self.classify(std::slice::from_ref(key), &mut out);
        out[0]
    }

    #[inline(always)]
    fn classify_live(&self, keys: &[Key<A>], out: &mut [u32], live: Live<'_>) {
        match &self.form {
            Form::Brute(brute) => brute.classify(keys, out, live),
            Form::BitVectors(rows) => {
                out.fill(NO_MATCH);
                rows.classify(keys, out, live);
            }
            Form::Layered(list) => list.classify_apart(keys, out),
            Form::Trees(trees, rows) => {
                out.fill(NO_MATCH);
                trees.classify(keys, out, live);
                if let Some(rows) = rows {
                    rows.classify(keys, out, live);
                }
            }
        }
    }

    /// Learns the classes that `sets` has got since this was compiled; `sets` must be the same table, grown.
    /// Costs a copy of the rows of class fields where another clone still uses them, and the new rows.
    /// Until then a new class counts as in no set.
    pub fn extend(&mut self, sets: &Arc<SetClasses>) {
        match &mut self.form {
            Form::Brute(brute) => {
                let mut now = Brute::clone(brute);
                now.checks.sets = Arc::clone(sets);
                *brute = Arc::new(now);
            }
            Form::BitVectors(rows) | Form::Trees(_, Some(rows)) => {
                if let Some(extended) = rows.extended(sets) {
                    *rows = Arc::new(extended);
                }
            }
            Form::Layered(list) => *list = Arc::new(list.extended(sets)),
            // No rule in trees refers to a set.
            Form::Trees(_, None) => {}
        }
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.rules
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.rules == 0
    }

    /// The form in a few words, for people.
    pub fn describe(&self) -> String {
        match &self.form {
            Form::Brute(brute) => format!("tier 0, {} blocks", brute.blocks()),
            Form::BitVectors(_) => "tier 1".to_owned(),
            Form::Layered(list) => list.describe(),
            Form::Trees(trees, rows) => {
                let rows = rows.as_ref().map_or(0, |rows| rows.len());
                format!("tier 2, {}, {rows} rules in tier 1", trees.describe())
            }
        }
    }

    /// For each tree of tier 2, what `keys` meet in it on average: nodes on the way, and blocks of eight boxes in the leaf.
    pub fn lengths(&self, keys: &[Key<A>]) -> Vec<(f64, f64)> {
        match &self.form {
            Form::Trees(trees, _) => trees.lengths(keys),
            Form::Brute(_) | Form::BitVectors(_) | Form::Layered(_) => Vec::new(),
        }
    }

    /// Bytes that lookups read: what the rules take in the compiled form.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::Brute(brute) => brute.bytes(),
            Form::BitVectors(rows) => rows.bytes(),
            Form::Layered(list) => list.bytes(),
            Form::Trees(trees, rows) => {
                trees.bytes() + rows.as_ref().map_or(0, |rows| rows.bytes())
            }
        }
    }
}
