//! Documents of kinds that are read from a [`Value`]: policies and what they speak of, in Calico's, Kubernetes' and our own shapes.

use std::fmt;
use std::path::PathBuf;

use control_api::v1::Object;
use model::policy::{ResourceId, ResourceKind, Value};
use model::{Kind, ObjectKey};
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Head, Json, LoadError, Origin, Part, Problem, each_file, from_yaml, split, typed};

/// A document as it was written, or an item of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Raw {
    /// What was written.
    pub value: Value,
    /// Its position, where the document is a list.
    pub item: Option<usize>,
    /// Where.
    pub origin: Origin,
}

/// Reads files, directories and standard input, as [`super::load_paths`] does.
///
/// # Errors
///
/// Everything that is no YAML or JSON in all of them.
pub fn load_raw_paths(paths: &[PathBuf]) -> Result<Vec<Raw>, Vec<LoadError>> {
    each_file(paths, load_raw)
}

/// Reads a text of documents. Items of lists (`kind: List`, or any kind that ends so and has items) stand for themselves.
///
/// # Errors
///
/// Everything that is no YAML or JSON, document by document.
pub fn load_raw(text: &str, source: &str) -> Result<Vec<Raw>, Vec<LoadError>> {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for (index, part) in split(text).into_iter().enumerate() {
        let origin = Origin {
            source: source.to_owned(),
            document: index + 1,
            line: part.content,
        };
        match parse(&part, &origin) {
            Ok(items) => documents.extend(items),
            Err(error) => errors.push(*error),
        }
    }
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

pub(super) fn parse(part: &Part<'_>, origin: &Origin) -> Result<Vec<Raw>, Box<LoadError>> {
    let Written(value) = from_yaml(part.text).map_err(|problem| {
        Box::new(LoadError {
            source_name: origin.source.clone(),
            document: origin.document,
            line: problem.line.map(|line| part.line + line.saturating_sub(1)),
            object: String::new(),
            field: problem.field,
            message: problem.message,
        })
    })?;
    let raw = |value, item| Raw {
        value,
        item,
        origin: origin.clone(),
    };
    let is_list = text_of(&value, &["kind"]).is_some_and(is_list);
    let Value::Map(mut map) = value else {
        return Ok(vec![raw(value, None)]);
    };
    match map.remove("items") {
        Some(Value::List(items)) if is_list => Ok(items
            .into_iter()
            .enumerate()
            .map(|(index, item)| raw(item, Some(index)))
            .collect()),
        Some(other) => {
            map.insert("items".into(), other);
            Ok(vec![raw(Value::Map(map), None)])
        }
        None => Ok(vec![raw(Value::Map(map), None)]),
    }
}

/// Whether a kind is that of lists of objects: `List`, or Kubernetes' `NetworkPolicyList` and the like.
pub(super) fn is_list(kind: &str) -> bool {
    kind.ends_with("List") && kind != ResourceKind::AccessList.as_str()
}

/// Reads JSON as documents are read.
///
/// # Errors
///
/// It is none.
pub fn value_of_json(json: &str) -> Result<Value, serde_json::Error> {
    serde_json::from_str(json).map(|Written(value)| value)
}

/// An object of policy, where the value is of one of its kinds.
pub(super) fn document(value: &Value) -> Option<Object> {
    let api_version = text_of(value, &["apiVersion"])?;
    let kind = ResourceKind::of(api_version, text_of(value, &["kind"])?)?;
    let metadata = |field| text_of(value, &["metadata", field]).map(Box::from);
    let id = ResourceId {
        kind,
        namespace: metadata("namespace"),
        name: metadata("name").unwrap_or_default(),
    };
    let key = crate::convert::from_key(&ObjectKey::from(&id));
    // No text has numbers that JSON has not: they are refused where it is read.
    Some(Object::document(key, api_version, value.to_string()))
}

impl Raw {
    /// An error about it. `object` names it as far as known.
    pub fn error(&self, object: &str, field: &str, message: impl Into<String>) -> LoadError {
        let field = match self.item {
            None => field.to_owned(),
            Some(item) if field.is_empty() => format!("items[{item}]"),
            Some(item) => format!("items[{item}].{field}"),
        };
        LoadError {
            source_name: self.origin.source.clone(),
            document: self.origin.document,
            line: Some(self.origin.line),
            object: object.to_owned(),
            field,
            message: message.into(),
        }
    }

    /// The object, where it is of one of the kinds that are not read from a [`Value`]; `None` for all others.
    pub fn plain(&self) -> Option<Result<Object, LoadError>> {
        let kind = text_of(&self.value, &["kind"])?;
        let own = text_of(&self.value, &["apiVersion"]) == Some(control_api::API_VERSION);
        let plain = Kind::PLAIN.iter().any(|plain| plain.as_str() == kind);
        if !own || !plain {
            return None;
        }
        let head = Head {
            kind: kind.into(),
            ..Head::default()
        };
        let name = text_of(&self.value, &["metadata", "name"]).unwrap_or_default();
        let object = serde_json::from_str(&self.value.to_string())
            .map_err(|error| Problem::at("", error.to_string()))
            .and_then(|json| typed(&head, &Json(json)));
        Some(object.map_err(|problem| {
            self.error(&format!("{kind}/{name}"), &problem.field, problem.message)
        }))
    }
}

/// The string at a path of fields.
fn text_of<'a>(value: &'a Value, path: &[&str]) -> Option<&'a str> {
    match (value, path) {
        (Value::Text(text), []) => Some(text),
        (Value::Map(map), [first, rest @ ..]) => text_of(map.get(first)?, rest),
        _ => None,
    }
}

/// Reads a [`Value`] from any format.
struct Written(Value);

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Writing).map(Self)
    }
}

struct Writing;

impl<'de> Visitor<'de> for Writing {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
        inner.deserialize_any(self)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        // No field takes numbers beyond; as another number it is refused where a whole one is wanted.
        #[expect(clippy::cast_precision_loss, reason = "no field takes such a number")]
        let float = value as f64;
        Ok(i64::try_from(value).map_or(Value::Float(float), Value::Integer))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Written(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some((key, Written(value))) = entries.next_entry::<String, _>()? {
            map.push((key, value));
        }
        let map = model::policy::Entries::new(map);
        map.map(Value::Map)
            .map_err(|key| de::Error::custom(format!("{key} is there twice")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_items_of_lists_are_read_as_they_are_written() {
        let text = "
# a comment
a: {b: [1, -2, 1.5, true, null, '7', 1e3], c: text}
---
kind: FrameList
items: [{x: 1}, y]
---
{\"kind\": \"List\", \"items\": []}
---
kind: Mesh
items: [1]
---
kind: AccessList
items: [1]
";
        let raw = load_raw(text, "f.yaml").unwrap();
        let values: Vec<String> = raw.iter().map(|raw| raw.value.to_string()).collect();
        assert_eq!(
            values,
            [
                r#"{"a":{"b":[1,-2,1.5,true,null,"7",1000.0],"c":"text"}}"#,
                r#"{"x":1}"#,
                r#""y""#,
                r#"{"items":[1],"kind":"Mesh"}"#,
                r#"{"items":[1],"kind":"AccessList"}"#,
            ]
        );
        let places: Vec<_> = raw
            .iter()
            .map(|raw| (raw.origin.document, raw.origin.line, raw.item))
            .collect();
        assert_eq!(
            places,
            [
                (1, 3, None),
                (2, 5, Some(0)),
                (2, 5, Some(1)),
                (4, 10, None),
                (5, 13, None)
            ]
        );
        assert_eq!(
            raw[1].error("A/b", "spec.x", "wrong").to_string(),
            "f.yaml:5: document 2: A/b: items[0].spec.x: wrong"
        );
    }

    #[test]
    fn what_is_no_yaml_is_refused_with_its_place() {
        for (text, wanted) in [
            ("a: [1", "f:1: document 1: "),
            (
                "a: 1\n---\nb: {c: 1, c: 2}",
                "f:3: document 2: b: c is there twice",
            ),
            ("a: 1\n---\nb: *nowhere", "f:3: document 2: "),
        ] {
            let errors = load_raw(text, "f").unwrap_err();
            let text = errors[0].to_string();
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn numbers_that_json_has_not_are_refused_rather_than_left_out() {
        for text in ["order: .nan", "order: .inf", "order: -.inf"] {
            let errors = load_raw(text, "f").unwrap_err();
            assert_eq!((errors.len(), &*errors[0].field), (1, "order"));
        }
    }
}
