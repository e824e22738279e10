//! Reads documents field by field and collects everything that is wrong, each with its path.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use super::Labels;
use super::value::{Entries, Value};
use crate::Invalid;

/// One thing that is wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// Path of the field, such as `spec.ingress[1].source.nets[0]`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Where errors are collected.
#[derive(Debug, Default)]
pub(crate) struct Errors(RefCell<Vec<FieldError>>);

impl Errors {
    pub(crate) fn push(&self, field: impl Into<String>, message: impl Into<String>) {
        self.0.borrow_mut().push(FieldError {
            field: field.into(),
            message: message.into(),
        });
    }

    pub(crate) fn into_inner(self) -> Vec<FieldError> {
        let mut errors = self.0.into_inner();
        errors.sort();
        errors.dedup();
        errors
    }
}

/// Where a value is in its document. Written out only where something is wrong: most documents have nothing wrong with them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path(Option<Rc<Step>>);

#[derive(Debug)]
struct Step {
    parent: Path,
    part: Part,
}

#[derive(Debug)]
enum Part {
    Field(&'static str),
    Key(Box<str>),
    Entry(usize),
}

impl Path {
    fn then(&self, part: Part) -> Self {
        let parent = self.clone();
        Self(Some(Rc::new(Step { parent, part })))
    }

    /// A field of what is here.
    pub(crate) fn field(&self, name: &'static str) -> Self {
        self.then(Part::Field(name))
    }

    /// The path of a field, written out.
    fn text_of(&self, name: &str) -> String {
        match self.0 {
            None => name.to_owned(),
            Some(_) => format!("{self}.{name}"),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = &self.0 else {
            return Ok(());
        };
        let name = match &step.part {
            Part::Field(name) => name,
            Part::Key(name) => &**name,
            Part::Entry(index) => return write!(f, "{}[{index}]", step.parent),
        };
        if step.parent.0.is_some() {
            write!(f, "{}.", step.parent)?;
        }
        f.write_str(name)
    }
}

/// A value at its path.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    pub(crate) value: &'a Value,
    pub(crate) path: Path,
    pub(crate) errors: &'a Errors,
}

impl<'a> Node<'a> {
    /// Notes what is wrong with the value: `value is …; it must …`.
    pub(crate) fn must(&self, rule: impl AsRef<str>) {
        self.fail(format!(
            "value is {}; it must {}",
            self.value.describe(),
            rule.as_ref()
        ));
    }

    /// Notes an error at this path.
    pub(crate) fn fail(&self, message: impl Into<String>) {
        self.errors.push(self.path.to_string(), message);
    }

    /// Unwraps a checked value, or notes what is wrong with it.
    pub(crate) fn check<T>(&self, value: Result<T, Invalid>) -> Option<T> {
        value.map_err(|error| self.fail(error.0)).ok()
    }

    pub(crate) fn text(&self) -> Option<&'a str> {
        match self.value {
            Value::Text(text) => Some(text),
            _ => {
                self.must("be a string");
                None
            }
        }
    }

    pub(crate) fn bool(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(*value),
            _ => {
                self.must("be true or false");
                None
            }
        }
    }

    /// A whole number within bounds.
    pub(crate) fn integer(&self, low: i64, high: i64) -> Option<i64> {
        match self.value {
            Value::Integer(number) if (low..=high).contains(number) => Some(*number),
            _ => {
                self.must(format!("be a whole number from {low} to {high}"));
                None
            }
        }
    }

    /// A finite number.
    pub(crate) fn number(&self) -> Option<f64> {
        match self.value {
            // Orders are floating point numbers in Calico too; beyond 2^53 neighbouring whole numbers are one.
            #[expect(clippy::cast_precision_loss, reason = "as Calico reads it")]
            Value::Integer(number) => Some(*number as f64),
            Value::Float(number) if number.is_finite() => Some(*number),
            _ => {
                self.must("be a finite number");
                None
            }
        }
    }

    /// One of a few words, exactly.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        if let Value::Text(text) = self.value
            && let Some((_, word)) = words.iter().find(|(word, _)| word == text)
        {
            return Some(*word);
        }
        self.must_be_one_of(words);
        None
    }

    /// One of a few words, in any case of letters.
    pub(crate) fn any_case<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        if let Value::Text(text) = self.value
            && let Some((_, word)) = words
                .iter()
                .find(|(word, _)| word.eq_ignore_ascii_case(text))
        {
            return Some(*word);
        }
        self.must_be_one_of(words);
        None
    }

    fn must_be_one_of<T>(&self, words: &[(&str, T)]) {
        let words: Vec<_> = words.iter().map(|(word, _)| *word).collect();
        let last = words.len().saturating_sub(1);
        let listed = match words.split_at(last) {
            ([], rest) => rest.join(""),
            (first, rest) => format!("{} or {}", first.join(", "), rest.join("")),
        };
        self.must(format!("be {listed}"));
    }

    pub(crate) fn list(&self, most: usize) -> Vec<Node<'a>> {
        match self.value {
            Value::List(list) if list.len() > most => {
                self.fail(format!(
                    "has {} entries; it must have at most {most}",
                    list.len()
                ));
                Vec::new()
            }
            Value::List(list) => list
                .iter()
                .enumerate()
                .map(|(index, value)| Node {
                    value,
                    path: self.path.then(Part::Entry(index)),
                    errors: self.errors,
                })
                .collect(),
            _ => {
                self.must("be a list");
                Vec::new()
            }
        }
    }

    pub(crate) fn fields(&self) -> Option<Fields<'a>> {
        match self.value {
            Value::Map(map) => Some(Fields {
                path: self.path.clone(),
                map,
                seen: Vec::with_capacity(8),
                errors: self.errors,
            }),
            _ => {
                self.must("be a map of fields");
                None
            }
        }
    }

    /// A map of labels or annotations.
    pub(crate) fn string_map(&self) -> Labels {
        let Value::Map(map) = self.value else {
            self.must("be a map of strings");
            return Labels::new();
        };
        let mut strings = Labels::new();
        for (key, value) in map.iter() {
            let node = Node {
                value,
                path: self.path.then(Part::Key(key.as_str().into())),
                errors: self.errors,
            };
            if let Some(text) = node.text() {
                strings.insert(key.clone(), text.to_owned());
            }
        }
        strings
    }
}

/// The fields of an object. Those that nobody asked for are errors.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    path: Path,
    map: &'a Entries,
    seen: Vec<&'static str>,
    pub(crate) errors: &'a Errors,
}

impl<'a> Fields<'a> {
    /// A field, unless it is not there or null.
    pub(crate) fn take(&mut self, name: &'static str) -> Option<Node<'a>> {
        self.seen.push(name);
        match self.map.get(name) {
            None | Some(Value::Null) => None,
            Some(value) => Some(Node {
                value,
                path: self.path.field(name),
                errors: self.errors,
            }),
        }
    }

    pub(crate) fn required(&mut self, name: &'static str) -> Option<Node<'a>> {
        let node = self.take(name);
        if node.is_none() {
            self.fail(name, "required");
        }
        node
    }

    pub(crate) fn fail(&self, name: &str, message: impl Into<String>) {
        self.errors.push(self.path.text_of(name), message);
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.take(name)?.text().filter(|text| !text.is_empty())
    }

    pub(crate) fn required_text(&mut self, name: &'static str) -> Option<&'a str> {
        let text = self.required(name)?.text()?;
        if text.is_empty() {
            self.fail(name, "required");
            return None;
        }
        Some(text)
    }

    pub(crate) fn bool(&mut self, name: &'static str) -> Option<bool> {
        self.take(name)?.bool()
    }

    pub(crate) fn list<T>(
        &mut self,
        name: &'static str,
        most: usize,
        mut read: impl FnMut(Node<'a>) -> Option<T>,
    ) -> Vec<T> {
        match self.take(name) {
            Some(node) => node.list(most).into_iter().filter_map(&mut read).collect(),
            None => Vec::new(),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        !matches!(self.map.get(name), None | Some(Value::Null))
    }

    /// Accepts fields without looking at them.
    pub(crate) fn skip(&mut self, names: &[&'static str]) {
        self.seen.extend(names);
    }

    /// Refuses a field by name where it says anything.
    pub(crate) fn refuse(&mut self, name: &'static str, message: &str) {
        if self.take(name).is_some() {
            self.fail(name, message);
        }
    }

    /// Refuses the fields that nobody asked for.
    pub(crate) fn finish(self) {
        for name in self.map.keys() {
            if !self.seen.contains(&name.as_str()) {
                let mut known = self.seen.clone();
                known.sort_unstable();
                known.dedup();
                self.fail(
                    name,
                    format!("unknown field; the fields are {}", known.join(", ")),
                );
            }
        }
    }
}
