//! Calico's selector language: expressions over labels (`libcalico-go/lib/selector`).

mod parse;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha224};

pub use parse::SelectorError;

use super::{Labels, NAMESPACE_LABEL, SERVICE_ACCOUNT_LABEL};

/// Characters of the longest selector that an object may hold.
pub const MAX_SELECTOR: usize = 1024;

/// Characters of the longest label that a selector may name.
pub const MAX_LABEL: usize = 512;

/// How deep parentheses may be nested.
pub const MAX_NESTING: usize = 256;

/// Something that has labels.
pub trait LabelSource {
    /// A label's value, if the label is there.
    fn label(&self, name: &str) -> Option<&str>;
}

impl LabelSource for Labels {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

/// A selector: a checked expression and its canonical text, by which selectors compare. Cheap to clone.
#[derive(Clone)]
pub struct Selector {
    expression: Arc<Expression>,
    canonical: Arc<str>,
}

/// What a selector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// `all()`: true for everything.
    All,
    /// `global()`: true for everything; where it selects namespaces it is rewritten first.
    Global,
    /// `has(label)`.
    Has(Box<str>),
    /// An operator between a label and a value.
    Compare(Box<str>, Comparison, Box<str>),
    /// `label in {…}`.
    In(Box<str>, BTreeSet<Box<str>>),
    /// `label not in {…}`: true where the label is missing.
    NotIn(Box<str>, BTreeSet<Box<str>>),
    /// `!`.
    Not(Box<Expression>),
    /// `&&`, of two or more.
    And(Vec<Expression>),
    /// `||`, of two or more.
    Or(Vec<Expression>),
}

/// An operator between a label and a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`: true where the label is missing.
    NotEqual,
    /// `contains`: the value is a part of the label's.
    Contains,
    /// `starts with`
    StartsWith,
    /// `ends with`
    EndsWith,
}

impl Comparison {
    fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Contains => "contains",
            Self::StartsWith => "starts with",
            Self::EndsWith => "ends with",
        }
    }
}

/// What a selector implies about one label. Where it says that the label is both present and absent, or allows no value, the selector
/// matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restriction {
    /// Whatever matches has the label.
    pub present: bool,
    /// Whatever matches does not have the label.
    pub absent: bool,
    /// Whatever matches has the label, with one of these values.
    pub one_of: Option<BTreeSet<Box<str>>>,
}

impl Restriction {
    /// Whether a label's value, or its absence, is possible.
    pub fn admits(&self, value: Option<&str>) -> bool {
        match value {
            None => !self.present && self.one_of.is_none(),
            Some(value) => {
                !self.absent && self.one_of.as_ref().is_none_or(|set| set.contains(value))
            }
        }
    }
}

/// What a selector implies, label by label; a label that is not named may be anything.
pub type Restrictions = BTreeMap<Box<str>, Restriction>;

impl Selector {
    /// Reads a selector of at most [`MAX_SELECTOR`] characters. The empty one selects everything.
    ///
    /// # Errors
    ///
    /// Where the text is no selector, and why.
    pub fn new(text: &str) -> Result<Self, SelectorError> {
        if let Some((position, _)) = text.char_indices().nth(MAX_SELECTOR) {
            let message =
                format!("a selector has at most {MAX_SELECTOR} characters; this one is longer");
            return Err(SelectorError { position, message });
        }
        Self::of_any_length(text)
    }

    /// Reads a selector as long as conversion makes them.
    ///
    /// # Errors
    ///
    /// Where the text is no selector, and why.
    pub fn of_any_length(text: &str) -> Result<Self, SelectorError> {
        parse::parse(text).map(Self::from)
    }

    /// Selects everything.
    pub fn all() -> Self {
        Expression::All.into()
    }

    /// `label == "value"`.
    pub fn equal(label: &str, value: &str) -> Self {
        Expression::Compare(label.into(), Comparison::Equal, value.into()).into()
    }

    /// `has(label)`.
    pub fn has(label: &str) -> Self {
        Expression::Has(label.into()).into()
    }

    /// `label in {…}`.
    pub fn one_of<'a>(label: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        Expression::In(label.into(), values.into_iter().map(Box::from).collect()).into()
    }

    /// What all of them select; of none, everything; one alone stays as it is.
    pub fn and(selectors: impl IntoIterator<Item = Self>) -> Self {
        let mut all: Vec<_> = selectors
            .into_iter()
            .map(|selector| Expression::clone(&selector.expression))
            .collect();
        match all.len() {
            0 => Self::all(),
            1 => all.remove(0).into(),
            _ => Expression::And(all).into(),
        }
    }

    /// What it does not select.
    pub fn negated(&self) -> Self {
        Expression::Not(Box::new(Expression::clone(&self.expression))).into()
    }

    /// A selector of namespaces as one of what is in them: labels carry `pcns.`, `all()` means any namespace and `global()` none.
    pub fn of_namespaces(&self) -> Self {
        let rewrite = Rewrite {
            prefix: "pcns.",
            all: Some(Expression::Has(NAMESPACE_LABEL.into())),
            global: Some(Expression::Not(Box::new(Expression::Has(
                NAMESPACE_LABEL.into(),
            )))),
        };
        rewrite.apply(&self.expression).into()
    }

    /// A selector of service accounts as one of what runs under them: labels carry `pcsa.`.
    pub fn of_service_accounts(&self) -> Self {
        let rewrite = Rewrite {
            prefix: "pcsa.",
            all: None,
            global: None,
        };
        rewrite.apply(&self.expression).into()
    }

    /// As [`Selector::of_service_accounts`], and `all()` means any service account: how a policy's own selector is read.
    pub fn of_any_service_account(&self) -> Self {
        let rewrite = Rewrite {
            prefix: "pcsa.",
            all: Some(Expression::Has(SERVICE_ACCOUNT_LABEL.into())),
            global: None,
        };
        rewrite.apply(&self.expression).into()
    }

    /// What it says.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }

    /// The canonical text: sets sorted, spacing normal, every `&&` and `||` in parentheses.
    pub fn as_str(&self) -> &str {
        &self.canonical
    }

    /// The id of the set of what it selects: `s:` and base64url (RFC 4648 section 5, no padding) of the SHA-224 of `s:` and the canonical text.
    pub fn id(&self) -> String {
        set_id("s", &self.canonical)
    }

    /// Whether it selects something with these labels.
    pub fn matches(&self, labels: &(impl LabelSource + ?Sized)) -> bool {
        self.expression.matches(labels)
    }

    /// Whether `global()` occurs in it.
    pub fn mentions_global(&self) -> bool {
        self.expression
            .any(&|expression| *expression == Expression::Global)
    }

    /// What it implies, label by label.
    pub fn restrictions(&self) -> Restrictions {
        restrict(&self.expression, false)
    }
}

/// The id of a set: its type's prefix and base64url of the SHA-224 of prefix and text. `s` names selectors, `n` named ports
/// (`<selector id>,<protocol>,<port name>`), `svc` and `svcnoport` services (`<namespace>/<name>`).
pub fn set_id(prefix: &str, text: &str) -> String {
    let mut hash = Sha224::new();
    hash.update(prefix.as_bytes());
    hash.update(b":");
    hash.update(text.as_bytes());
    format!("{prefix}:{}", base64url(&hash.finalize()))
}

/// RFC 4648 section 5, without padding.
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..=chunk.len() {
            let index = word >> (18 - 6 * digit) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

impl Expression {
    fn matches(&self, labels: &(impl LabelSource + ?Sized)) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => labels.label(label).is_some(),
            Self::Compare(label, comparison, value) => match (labels.label(label), comparison) {
                (None, comparison) => *comparison == Comparison::NotEqual,
                (Some(found), Comparison::Equal) => found == &**value,
                (Some(found), Comparison::NotEqual) => found != &**value,
                (Some(found), Comparison::Contains) => found.contains(&**value),
                (Some(found), Comparison::StartsWith) => found.starts_with(&**value),
                (Some(found), Comparison::EndsWith) => found.ends_with(&**value),
            },
            Self::In(label, values) => labels
                .label(label)
                .is_some_and(|found| values.contains(found)),
            Self::NotIn(label, values) => labels
                .label(label)
                .is_none_or(|found| !values.contains(found)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(all) => all.iter().all(|inner| inner.matches(labels)),
            Self::Or(any) => any.iter().any(|inner| inner.matches(labels)),
        }
    }

    fn any(&self, test: &impl Fn(&Self) -> bool) -> bool {
        test(self)
            || match self {
                Self::Not(inner) => inner.any(test),
                Self::And(list) | Self::Or(list) => list.iter().any(|inner| inner.any(test)),
                _ => false,
            }
    }
}

impl From<Expression> for Selector {
    fn from(expression: Expression) -> Self {
        Self {
            canonical: expression.to_string().into(),
            expression: expression.into(),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        Self::new(text)
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.canonical.cmp(&other.canonical)
    }
}

impl std::hash::Hash for Selector {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.canonical.hash(state);
    }
}

/// The canonical text.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.canonical)
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.canonical)
    }
}

/// The canonical text.
impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = |f: &mut fmt::Formatter<'_>, values: &BTreeSet<Box<str>>| {
            f.write_str("{")?;
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    f.write_str(", ")?;
                }
                quote(f, value)?;
            }
            f.write_str("}")
        };
        let joined = |f: &mut fmt::Formatter<'_>, list: &[Self], operator: &str| {
            f.write_str("(")?;
            for (index, inner) in list.iter().enumerate() {
                if index > 0 {
                    f.write_str(operator)?;
                }
                inner.fmt(f)?;
            }
            f.write_str(")")
        };
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(label) => write!(f, "has({label})"),
            Self::Compare(label, comparison, value) => {
                write!(f, "{label} {} ", comparison.as_str())?;
                quote(f, value)
            }
            Self::In(label, values) => {
                write!(f, "{label} in ")?;
                set(f, values)
            }
            Self::NotIn(label, values) => {
                write!(f, "{label} not in ")?;
                set(f, values)
            }
            // Repeated `!` would be read as one or none.
            Self::Not(inner) if matches!(**inner, Self::Not(_)) => write!(f, "!({inner})"),
            Self::Not(inner) => write!(f, "!{inner}"),
            Self::And(all) => joined(f, all, " && "),
            Self::Or(any) => joined(f, any, " || "),
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    if value.contains('"') {
        write!(f, "'{value}'")
    } else {
        write!(f, "\"{value}\"")
    }
}

/// Puts a prefix before labels, and others in place of `all()` and `global()`.
struct Rewrite {
    prefix: &'static str,
    all: Option<Expression>,
    global: Option<Expression>,
}

impl Rewrite {
    fn apply(&self, expression: &Expression) -> Expression {
        let label = |label: &str| format!("{}{label}", self.prefix).into_boxed_str();
        let list = |list: &[Expression]| list.iter().map(|inner| self.apply(inner)).collect();
        match expression {
            Expression::All => self.all.clone().unwrap_or(Expression::All),
            Expression::Global => self.global.clone().unwrap_or(Expression::Global),
            Expression::Has(name) => Expression::Has(label(name)),
            Expression::Compare(name, comparison, value) => {
                Expression::Compare(label(name), *comparison, value.clone())
            }
            Expression::In(name, values) => Expression::In(label(name), values.clone()),
            Expression::NotIn(name, values) => Expression::NotIn(label(name), values.clone()),
            Expression::Not(inner) => Expression::Not(Box::new(self.apply(inner))),
            Expression::And(all) => Expression::And(list(all)),
            Expression::Or(any) => Expression::Or(list(any)),
        }
    }
}

/// What an expression, or its negation, implies.
fn restrict(expression: &Expression, negated: bool) -> Restrictions {
    let one = |label: &str, restriction| Restrictions::from([(label.into(), restriction)]);
    let present = || Restriction {
        present: true,
        ..Restriction::default()
    };
    let absent = || Restriction {
        absent: true,
        ..Restriction::default()
    };
    let one_of = |values: &BTreeSet<Box<str>>| Restriction {
        present: true,
        one_of: Some(values.clone()),
        ..Restriction::default()
    };
    let single = |value: &str| one_of(&BTreeSet::from([Box::from(value)]));
    match (expression, negated) {
        (Expression::Has(label), false) => one(label, present()),
        (Expression::Has(label), true) => one(label, absent()),
        (Expression::Compare(label, Comparison::Equal, value), false)
        | (Expression::Compare(label, Comparison::NotEqual, value), true) => {
            one(label, single(value))
        }
        (
            Expression::Compare(
                label,
                Comparison::Contains | Comparison::StartsWith | Comparison::EndsWith,
                _,
            ),
            false,
        ) => one(label, present()),
        (Expression::In(label, values), false) | (Expression::NotIn(label, values), true) => {
            one(label, one_of(values))
        }
        (Expression::Not(inner), negated) => restrict(inner, !negated),
        (Expression::And(list), false) | (Expression::Or(list), true) => list
            .iter()
            .map(|inner| restrict(inner, negated))
            .reduce(both)
            .unwrap_or_default(),
        (Expression::Or(list), false) | (Expression::And(list), true) => list
            .iter()
            .map(|inner| restrict(inner, negated))
            .reduce(either)
            .unwrap_or_default(),
        _ => Restrictions::new(),
    }
}

fn both(mut left: Restrictions, right: Restrictions) -> Restrictions {
    for (label, other) in right {
        let mine = left.entry(label).or_default();
        mine.present |= other.present;
        mine.absent |= other.absent;
        mine.one_of = match (mine.one_of.take(), other.one_of) {
            (Some(mine), Some(other)) => Some(mine.intersection(&other).cloned().collect()),
            (mine, other) => mine.or(other),
        };
    }
    left
}

fn either(left: Restrictions, mut right: Restrictions) -> Restrictions {
    left.into_iter()
        .filter_map(|(label, mine)| {
            let other = right.remove(&label)?;
            let joined = Restriction {
                present: mine.present && other.present,
                absent: mine.absent && other.absent,
                one_of: match (mine.one_of, other.one_of) {
                    (Some(mine), Some(other)) => Some(mine.union(&other).cloned().collect()),
                    _ => None,
                },
            };
            (joined != Restriction::default()).then_some((label, joined))
        })
        .collect()
}
