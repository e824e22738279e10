//! A document as it was written: what YAML and JSON have in common.

use std::fmt;

/// A value of a document. Readers of YAML, JSON and Kubernetes' API turn into it what they read; the kinds of this module read from it, so
/// that unknown fields and wrong types are found, with their paths, in one place.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing: as if the field were not there.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Another number.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// Fields, or a map.
    Map(Entries),
}

/// Fields by name, sorted. They are few, mostly, and stand side by side: documents of many rules are read several times as fast as from
/// trees.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries(Vec<(String, Value)>);

impl Entries {
    /// Of fields in any order. `O(n log n)`.
    ///
    /// # Errors
    ///
    /// A name that is there twice.
    pub fn new(mut entries: Vec<(String, Value)>) -> Result<Self, String> {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let twice = entries.windows(2).find(|pair| pair[0].0 == pair[1].0);
        match twice {
            Some(pair) => Err(pair[0].0.clone()),
            None => Ok(Self(entries)),
        }
    }

    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0
            .binary_search_by(|(other, _)| other.as_str().cmp(name))
    }

    /// The value of a field.
    pub fn get(&self, name: &str) -> Option<&Value> {
        let at = self.find(name).ok()?;
        Some(&self.0[at].1)
    }

    /// Sets a field. Gives what it was. Linear where it is new.
    pub fn insert(&mut self, name: String, value: Value) -> Option<Value> {
        match self.find(&name) {
            Ok(at) => Some(std::mem::replace(&mut self.0[at].1, value)),
            Err(at) => {
                self.0.insert(at, (name, value));
                None
            }
        }
    }

    /// Takes a field out. Linear.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.find(name).ok()?;
        Some(self.0.remove(at).1)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// Names, in their order.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.iter().map(|(name, _)| name)
    }
}

/// Of fields with the same name, the last one counts.
impl FromIterator<(String, Value)> for Entries {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.reverse();
        // Stable: the last one is the first of its name now.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries.dedup_by(|later, kept| later.0 == kept.0);
        Self(entries)
    }
}

impl Value {
    /// A map of these entries.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Self)>) -> Self {
        Self::Map(
            entries
                .into_iter()
                .map(|(key, value)| (key.into(), value))
                .collect(),
        )
    }

    /// A list of strings.
    pub fn texts<T: Into<String>>(texts: impl IntoIterator<Item = T>) -> Self {
        Self::List(
            texts
                .into_iter()
                .map(|text| Self::Text(text.into()))
                .collect(),
        )
    }

    /// What it is, for messages.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Bool(_) | Self::Integer(_) | Self::Float(_) => self.to_string(),
            Self::Text(text) => {
                const SHOWN: usize = 120;
                match text.char_indices().nth(SHOWN) {
                    Some((end, _)) => format!("{:?}…", &text[..end]),
                    None => format!("{text:?}"),
                }
            }
            Self::List(_) => "a list".into(),
            Self::Map(_) => "a map".into(),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Vec<Value>> for Value {
    fn from(list: Vec<Value>) -> Self {
        Self::List(list)
    }
}

/// As JSON (RFC 8259), on one line, with sorted fields. Numbers that JSON cannot express are written as `null`.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Integer(value) => write!(f, "{value}"),
            Self::Float(value) if value.is_finite() => write!(f, "{value:?}"),
            Self::Float(_) => f.write_str("null"),
            Self::Text(text) => quote(f, text),
            Self::List(list) => {
                f.write_str("[")?;
                for (index, value) in list.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    value.fmt(f)?;
                }
                f.write_str("]")
            }
            Self::Map(map) => {
                f.write_str("{")?;
                for (index, (key, value)) in map.iter().enumerate() {
                    if index > 0 {
                        f.write_str(",")?;
                    }
                    quote(f, key)?;
                    f.write_str(":")?;
                    value.fmt(f)?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            c if c.is_control() => {
                let mut units = [0u16; 2];
                for unit in c.encode_utf16(&mut units) {
                    write!(f, "\\u{unit:04x}")?;
                }
            }
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_sorted_and_have_names_of_their_own() {
        let entry = |name: &str, number: i64| (name.to_owned(), Value::Integer(number));
        let given = vec![entry("c", 1), entry("a", 2), entry("b", 3)];
        let mut entries = Entries::new(given.clone()).expect("no name is there twice");
        let names = |entries: &Entries| entries.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&entries), ["a", "b", "c"]);
        assert_eq!(entries, given.iter().cloned().collect());
        assert_eq!(entries.get("b"), Some(&3.into()));
        assert_eq!(entries.get("d"), None);
        assert_eq!(entries.insert("b".into(), 4.into()), Some(3.into()));
        assert_eq!(entries.insert("aa".into(), 5.into()), None);
        assert_eq!(entries.remove("c"), Some(1.into()));
        assert_eq!(entries.remove("c"), None);
        assert_eq!(names(&entries), ["a", "aa", "b"]);

        let twice = vec![entry("x", 1), entry("y", 2), entry("x", 3)];
        assert_eq!(Entries::new(twice.clone()), Err("x".into()));
        let last: Entries = twice.into_iter().collect();
        let last: Vec<_> = last.iter().map(|(name, value)| (&**name, value)).collect();
        assert_eq!(last, [("x", &3.into()), ("y", &2.into())]);
    }

    #[test]
    fn is_written_as_json() {
        let value = Value::map([
            ("b", Value::texts(["x\"\\\n", "é"])),
            ("a", Value::Float(1.0)),
            (
                "c",
                Value::List(vec![Value::Null, true.into(), (-3).into()]),
            ),
        ]);
        let text = value.to_string();
        assert_eq!(
            text,
            r#"{"a":1.0,"b":["x\"\\\u000a","é"],"c":[null,true,-3]}"#
        );
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
    }
}
