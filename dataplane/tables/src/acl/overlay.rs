//! A list of rules that changes: a compiled base, and over it the few changes made since.
//!
//! A rule that was taken out of the base has its bit cleared in a map of live rules; one that was put in is
//! compiled with the other new ones into a small classifier of its own. Each new rule remembers in front
//! of which rule of the base it stands, so the better of two hits is known by one comparison. Meanwhile a
//! new base can be compiled elsewhere.

use std::{error::Error, fmt, sync::Arc};

use super::{Address, Classifier, Form, Key, NO_MATCH, Rule, SetClasses, live::Live};

/// Most rules that can be in the list and not in its base.
pub const OVERLAY_RULES: usize = 256;

/// Keys whose two hits are held at once.
const GROUP: usize = 64;

/// The writer's side: the rules in order, each with a tag of the caller's (its number, its action, …),
/// which lookups give.
///
/// A change costs a move of the entries behind it (4 bytes each), [`snapshot`](Self::snapshot) a pass over the list (4 bytes for
/// each rule) and the compilation of the changed rules: together below a millisecond up to 100,000 rules. Changes are folded into
/// the base by [`rebuild`](Self::rebuild), run wherever there is time, and [`adopt`](Self::adopt) or [`exchange`](Self::exchange).
///
/// ```
/// use std::sync::Arc;
/// use tables::acl::{Key, Protocols, Rule, RuleList};
///
/// let udp = Rule { protocols: Protocols::only(17), ..Rule::default() };
/// let mut list = RuleList::<u32>::new(vec![(Rule::default(), 10)], Arc::default());
/// list.insert(0, udp, 20)?;
/// let packet = Key::with_ports(1, 2, 17, 53, 53);
/// assert_eq!(list.snapshot().classify_one(&packet), 20);
///
/// let rebuilt = list.rebuild().run();     // on another thread, say
/// list.remove(0)?;
/// list.adopt(rebuilt);
/// assert_eq!(list.snapshot().classify_one(&packet), 10);
/// # Ok::<(), tables::acl::EditError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RuleList<A: Address> {
    base: Arc<Base<A>>,
    /// Bit per rule of the base.
    live: Vec<u64>,
    dead: usize,
    /// The list: each entry a rule of the base, or of `added` with [`ADDED`] set.
    order: Vec<u32>,
    added: Vec<Option<Tagged>>,
    sets: Arc<SetClasses>,
    /// What was changed since the rebuild that is under way began, and its number.
    since: Vec<Edit>,
    rebuild: Option<u64>,
    rebuilds: u64,
}

/// What lookups use: an immutable value, cheap to clone.
#[derive(Clone, Debug)]
pub struct LayeredClassifier<A: Address> {
    base: Classifier<A>,
    tags: Arc<[u32]>,
    live: Option<Arc<[u64]>>,
    added: Option<Arc<Added<A>>>,
}

/// A new base that waits to be compiled.
#[derive(Clone, Debug)]
pub struct Rebuild<A: Address> {
    number: u64,
    base: Arc<Base<A>>,
    order: Vec<u32>,
    added: Vec<Option<Tagged>>,
    sets: Arc<SetClasses>,
}

/// A new base, compiled.
#[derive(Clone, Debug)]
pub struct Rebuilt<A: Address> {
    number: u64,
    base: Arc<Base<A>>,
    order: Vec<u32>,
    live: Vec<u64>,
}

/// What a new base took the place of. To drop it takes long where the list is long.
#[derive(Debug)]
pub struct Retired<A: Address> {
    _base: Arc<Base<A>>,
    _order: Vec<u32>,
    _added: Vec<Option<Tagged>>,
}

/// Why a change was refused; the list is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EditError {
    /// There is no such place in the list.
    Position {
        /// As given.
        position: usize,
        /// Rules in the list.
        len: usize,
    },
    /// [`OVERLAY_RULES`] rules wait for a rebuild.
    Full,
}

const ADDED: u32 = 1 << 31;

type Tagged = (Arc<Rule>, u32);

#[derive(Clone, Debug)]
struct Base<A: Address> {
    rules: Arc<[Tagged]>,
    classifier: Classifier<A>,
    tags: Arc<[u32]>,
}

#[derive(Clone, Debug)]
struct Added<A: Address> {
    classifier: Classifier<A>,
    /// For each rule: in front of which rule of the base it stands, and its tag.
    places: Vec<(u32, u32)>,
}

#[derive(Clone, Debug)]
enum Edit {
    Insert(usize, Tagged),
    Remove(usize),
}

impl<A: Address> RuleList<A> {
    /// Compiles `rules`, each with its tag.
    ///
    /// # Panics
    /// There are 2^31 rules or more.
    pub fn new(rules: Vec<(Rule, u32)>, sets: Arc<SetClasses>) -> Self {
        let rules = rules
            .into_iter()
            .map(|(rule, tag)| (Arc::new(rule), tag))
            .collect();
        let base = Base::new(rules, &sets);
        Self {
            live: base.all_live(),
            order: base.in_order(),
            base: Arc::new(base),
            dead: 0,
            added: Vec::new(),
            sets,
            since: Vec::new(),
            rebuild: None,
            rebuilds: 0,
        }
    }

    /// Puts `rule` in front of the one at `position`, or at the end.
    ///
    /// # Errors
    /// `position` is beyond the end, or [`OVERLAY_RULES`] rules wait for a rebuild.
    pub fn insert(&mut self, position: usize, rule: Rule, tag: u32) -> Result<(), EditError> {
        self.edit(Edit::Insert(position, (Arc::new(rule), tag)))
    }

    /// Takes out the rule at `position`.
    ///
    /// # Errors
    /// There is none.
    pub fn remove(&mut self, position: usize) -> Result<(), EditError> {
        self.edit(Edit::Remove(position))
    }

    /// Puts `rule` in the place of the one at `position`.
    ///
    /// # Errors
    /// There is none, or [`OVERLAY_RULES`] rules wait for a rebuild.
    pub fn replace(&mut self, position: usize, rule: Rule, tag: u32) -> Result<(), EditError> {
        let len = self.len();
        let Some(&entry) = self.order.get(position) else {
            return Err(EditError::Position { position, len });
        };
        if entry & ADDED == 0 && self.added() == OVERLAY_RULES {
            return Err(EditError::Full);
        }
        self.remove(position)?;
        self.insert(position, rule, tag)
    }

    /// The list as it is now, for lookups.
    pub fn snapshot(&self) -> LayeredClassifier<A> {
        let mut rules = Vec::new();
        let mut places: Vec<(u32, u32)> = Vec::new();
        // Rules at the end stand in front of what would come next in the base.
        let mut open = 0;
        if self.added() != 0 {
            for &entry in &self.order {
                if let Some((rule, tag)) = self.added_rule(entry) {
                    rules.push(&**rule);
                    places.push((self.base.rules.len() as u32, *tag));
                } else {
                    for place in &mut places[open..] {
                        place.0 = entry;
                    }
                    open = places.len();
                }
            }
        }
        let added = (!rules.is_empty()).then(|| {
            Arc::new(Added {
                classifier: Classifier::compile_refs(&rules, &self.sets),
                places,
            })
        });
        LayeredClassifier {
            base: self.base.classifier.clone(),
            tags: Arc::clone(&self.base.tags),
            live: (self.dead != 0).then(|| self.live.as_slice().into()),
            added,
        }
    }

    /// Takes note that `sets`, the same table as before, has new classes. Lookups know them from the next
    /// [`snapshot`](Self::snapshot) on.
    pub fn extend(&mut self, sets: &Arc<SetClasses>) {
        self.sets = Arc::clone(sets);
        let mut classifier = self.base.classifier.clone();
        classifier.extend(sets);
        self.base = Arc::new(Base {
            rules: Arc::clone(&self.base.rules),
            classifier,
            tags: Arc::clone(&self.base.tags),
        });
    }

    /// Begins a new base from the list as it is now; a rebuild begun earlier will not be adopted any more.
    pub fn rebuild(&mut self) -> Rebuild<A> {
        self.rebuilds += 1;
        self.rebuild = Some(self.rebuilds);
        self.since.clear();
        Rebuild {
            number: self.rebuilds,
            base: Arc::clone(&self.base),
            order: self.order.clone(),
            added: self.added.clone(),
            sets: Arc::clone(&self.sets),
        }
    }

    /// Makes `rebuilt` the base; changes made since its rebuild began stay, as changes to the new base. Says
    /// whether it did: not if another rebuild was begun later.
    pub fn adopt(&mut self, rebuilt: Rebuilt<A>) -> bool {
        self.exchange(rebuilt).is_some()
    }

    /// As [`adopt`](Self::adopt), but leaves it to the caller to drop the old base, on another thread, say: then this costs
    /// no more than the changes made since. `None` if another rebuild was begun later.
    pub fn exchange(&mut self, rebuilt: Rebuilt<A>) -> Option<Retired<A>> {
        if self.rebuild != Some(rebuilt.number) {
            return None;
        }
        self.rebuild = None;
        let mut base = rebuilt.base;
        Arc::make_mut(&mut base).classifier.extend(&self.sets);
        let retired = Retired {
            _base: std::mem::replace(&mut self.base, base),
            _order: std::mem::replace(&mut self.order, rebuilt.order),
            _added: std::mem::take(&mut self.added),
        };
        self.live = rebuilt.live;
        self.dead = 0;
        for edit in std::mem::take(&mut self.since) {
            let repeated = self.edit(edit);
            debug_assert!(repeated.is_ok(), "what was possible once is possible again");
        }
        Some(retired)
    }

    /// The base: the classifier without the changes made since.
    pub fn base(&self) -> &Classifier<A> {
        &self.base.classifier
    }

    /// Changes that are not in the base: rules put in and rules taken out.
    pub fn pending(&self) -> usize {
        self.added() + self.dead
    }

    /// Number of rules.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The rules in order, each with its tag.
    pub fn iter(&self) -> impl Iterator<Item = (&Rule, u32)> {
        self.order.iter().map(|&entry| {
            let (rule, tag) = self
                .added_rule(entry)
                .unwrap_or_else(|| &self.base.rules[entry as usize]);
            (&**rule, *tag)
        })
    }

    fn edit(&mut self, edit: Edit) -> Result<(), EditError> {
        let len = self.len();
        match &edit {
            Edit::Insert(position, tagged) => {
                if *position > len {
                    let position = *position;
                    return Err(EditError::Position { position, len });
                }
                let free = self.added.iter().position(Option::is_none);
                let slot = match free {
                    Some(slot) => slot,
                    None if self.added.len() == OVERLAY_RULES => return Err(EditError::Full),
                    None => {
                        self.added.push(None);
                        self.added.len() - 1
                    }
                };
                self.added[slot] = Some(tagged.clone());
                self.order.insert(*position, ADDED | slot as u32);
            }
            Edit::Remove(position) => {
                let position = *position;
                if position >= len {
                    return Err(EditError::Position { position, len });
                }
                let entry = self.order.remove(position);
                if entry & ADDED == 0 {
                    self.live[entry as usize / 64] &= !(1 << (entry % 64));
                    self.dead += 1;
                } else {
                    self.added[(entry & !ADDED) as usize] = None;
                }
            }
        }
        if self.rebuild.is_some() {
            self.since.push(edit);
        }
        Ok(())
    }

    fn added(&self) -> usize {
        self.added.iter().flatten().count()
    }

    fn added_rule(&self, entry: u32) -> Option<&Tagged> {
        if entry & ADDED == 0 {
            return None;
        }
        self.added[(entry & !ADDED) as usize].as_ref()
    }
}

impl<A: Address> LayeredClassifier<A> {
    /// The tag of the first rule that each key matches, or [`NO_MATCH`]. The shorter slice decides how many.
    #[inline]
    pub fn classify(&self, keys: &[Key<A>], out: &mut [u32]) {
        for (keys, out) in keys.chunks(GROUP).zip(out.chunks_mut(GROUP)) {
            let n = keys.len().min(out.len());
            self.classify_group(&keys[..n], &mut out[..n]);
        }
    }

    /// The tag of the first rule that `key` matches, or [`NO_MATCH`].
    #[inline]
    pub fn classify_one(&self, key: &Key<A>) -> u32 {
        let mut out = [NO_MATCH];
        self.classify(std::slice::from_ref(key), &mut out);
        out[0]
    }

    /// As a classifier whose answers are tags; all of them are below `tags`, which is given as the number of rules.
    pub fn into_classifier(self, tags: usize) -> Classifier<A> {
        Classifier {
            rules: tags,
            form: Form::Layered(Arc::new(self)),
        }
    }

    /// As [`classify`](Self::classify), not to be inlined where one classifier may hold another.
    #[inline(never)]
    pub(super) fn classify_apart(&self, keys: &[Key<A>], out: &mut [u32]) {
        self.classify(keys, out);
    }

    /// The same with the classes that `sets` has got since.
    pub(super) fn extended(&self, sets: &Arc<SetClasses>) -> Self {
        let mut extended = self.clone();
        extended.base.extend(sets);
        if let Some(added) = &mut extended.added {
            let mut now = Added::clone(added);
            now.classifier.extend(sets);
            *added = Arc::new(now);
        }
        extended
    }

    /// In a few words, for people.
    pub(super) fn describe(&self) -> String {
        let added = self.added.as_ref().map_or(0, |added| added.places.len());
        format!("{}, {added} rules beside it", self.base.describe())
    }

    /// Bytes that lookups read.
    pub fn bytes(&self) -> usize {
        self.base.bytes()
            + size_of_val(&self.tags[..])
            + self.live.as_ref().map_or(0, |live| size_of_val(&live[..]))
            + self.added.as_ref().map_or(0, |added| {
                added.classifier.bytes() + size_of_val(&added.places[..])
            })
    }

    fn classify_group(&self, keys: &[Key<A>], out: &mut [u32]) {
        match &self.live {
            None => self.base.classify_live(keys, out, Live::ALL),
            Some(live) => self.base.classify_live(keys, out, Live(Some(live))),
        }
        let Some(added) = &self.added else {
            for out in out {
                *out = self.tag(*out);
            }
            return;
        };
        let mut hits = [NO_MATCH; GROUP];
        let hits = &mut hits[..keys.len()];
        added.classifier.classify(keys, hits);
        for (out, &hit) in out.iter_mut().zip(&*hits) {
            *out = match added.places.get(hit as usize) {
                Some(&(place, tag)) if place <= *out => tag,
                _ => self.tag(*out),
            };
        }
    }

    #[inline(always)]
    fn tag(&self, rule: u32) -> u32 {
        self.tags.get(rule as usize).copied().unwrap_or(NO_MATCH)
    }
}

impl<A: Address> Rebuild<A> {
    /// Compiles the new base: as long as [`Classifier::compile`] takes.
    pub fn run(self) -> Rebuilt<A> {
        let rules = self.order.iter().filter_map(|&entry| {
            if entry & ADDED == 0 {
                return Some(self.base.rules[entry as usize].clone());
            }
            self.added[(entry & !ADDED) as usize].clone()
        });
        let base = Base::new(rules.collect(), &self.sets);
        Rebuilt {
            number: self.number,
            order: base.in_order(),
            live: base.all_live(),
            base: Arc::new(base),
        }
    }
}

impl<A: Address> Base<A> {
    fn new(rules: Vec<Tagged>, sets: &Arc<SetClasses>) -> Self {
        let plain: Vec<&Rule> = rules.iter().map(|(rule, _)| &**rule).collect();
        Self {
            classifier: Classifier::compile_refs(&plain, sets),
            tags: rules.iter().map(|(_, tag)| *tag).collect(),
            rules: rules.into(),
        }
    }

    /// The list that is nothing but the base.
    fn in_order(&self) -> Vec<u32> {
        (0..self.rules.len() as u32).collect()
    }

    fn all_live(&self) -> Vec<u64> {
        vec![u64::MAX; self.rules.len().div_ceil(64)]
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Position { position, len } => {
                write!(
                    f,
                    "no rule at position {position}: the list has {len} rules"
                )
            }
            Self::Full => write!(
                f,
                "{OVERLAY_RULES} rules wait to be compiled into the list: rebuild it first"
            ),
        }
    }
}

impl Error for EditError {}
