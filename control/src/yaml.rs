//! Objects as YAML or JSON text: several documents in a file, each an object or a list of objects, and errors that say where.

mod raw;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use control_api::v1::{self, Object, object::Spec};
use model::Kind;
use model::policy::ResourceKind;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

pub use raw::{Raw, load_raw, load_raw_paths, value_of_json};

/// Bytes of the largest file.
const FILE_LIMIT: u64 = 64 * 1024 * 1024;

/// Where an object was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file, or `-` for standard input.
    pub source: String,
    /// Counts documents from 1.
    pub document: usize,
    /// The document's first line with content, counted from 1.
    pub line: usize,
}

/// An object, and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// What was written. It has a specification of its kind; whether it makes sense is for [`crate::convert`] to say.
    pub object: Object,
    /// Where.
    pub origin: Origin,
}

/// Why a text is no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct LoadError {
    /// The file, or `-` for standard input.
    pub source_name: String,
    /// Counts documents from 1; 0 where the file cannot be read.
    pub document: usize,
    /// Counted from 1 in the file, where known.
    pub line: Option<usize>,
    /// `Kind/name`, as far as known.
    pub object: String,
    /// Path of the field, where known.
    pub field: String,
    /// What is wrong.
    pub message: String,
}

/// `file:line: document 2: Kind/name: field: message`.
impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source_name)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        f.write_str(": ")?;
        if self.document > 0 {
            write!(f, "document {}: ", self.document)?;
        }
        for part in [&self.object, &self.field]
            .into_iter()
            .filter(|part| !part.is_empty())
        {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

/// Reads files, directories (their `*.yaml`, `*.yml` and `*.json`, by name) and standard input (`-`).
///
/// # Errors
///
/// Everything that is wrong in all of them.
pub fn load_paths(paths: &[PathBuf]) -> Result<Vec<Document>, Vec<LoadError>> {
    each_file(paths, load)
}

fn each_file<T>(
    paths: &[PathBuf],
    load: impl Fn(&str, &str) -> Result<Vec<T>, Vec<LoadError>>,
) -> Result<Vec<T>, Vec<LoadError>> {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for path in paths {
        match files(path) {
            Ok(files) => {
                for file in files {
                    let text = read(&file).map_err(|error| vec![unreadable(&file, &error)]);
                    match text.and_then(|text| load(&text, &file.display().to_string())) {
                        Ok(loaded) => documents.extend(loaded),
                        Err(wrong) => errors.extend(wrong),
                    }
                }
            }
            Err(error) => errors.push(unreadable(path, &error)),
        }
    }
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

/// Reads a text of documents. `source` names it in errors.
///
/// # Errors
///
/// Everything that is wrong, document by document.
pub fn load(text: &str, source: &str) -> Result<Vec<Document>, Vec<LoadError>> {
    let mut documents = Vec::new();
    let mut errors = Vec::new();
    for (index, part) in split(text).into_iter().enumerate() {
        let origin = Origin {
            source: source.to_owned(),
            document: index + 1,
            line: part.content,
        };
        match parse(&part, &origin) {
            Ok(objects) => documents.extend(objects.into_iter().map(|object| Document {
                object,
                origin: origin.clone(),
            })),
            Err(error) => errors.push(*error),
        }
    }
    if errors.is_empty() {
        Ok(documents)
    } else {
        Err(errors)
    }
}

/// Writes objects as YAML documents that [`load`] reads.
///
/// # Errors
///
/// None that a well-formed object has.
pub fn to_yaml<'a>(
    objects: impl IntoIterator<Item = &'a Object>,
) -> Result<String, serde_saphyr::SerializeError> {
    let mut text = String::new();
    for object in objects {
        if !text.is_empty() {
            text.push_str("---\n");
        }
        text.push_str(&serde_saphyr::to_string(object)?);
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    Ok(text)
}

/// Writes objects as one JSON `List` that [`load`] reads.
///
/// # Errors
///
/// None that a well-formed object has.
pub fn to_json(objects: &[Object]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&serde_json::json!({
        "apiVersion": control_api::API_VERSION,
        "kind": LIST,
        "items": objects,
    }))
}

const LIST: &str = "List";

/// A document's text.
struct Part<'a> {
    text: &'a str,
    /// Of its first line, counted from 1.
    line: usize,
    /// Of its first line that is no marker or comment.
    content: usize,
}

/// Cuts a text at the lines that begin or end a document (YAML 1.2 section 9.1): wherever such a line stands, even inside a quoted or block scalar,
/// it cannot be anything else. Documents of nothing but comments are left out.
fn split(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut begin, mut begin_line, mut offset) = (0, 1, 0);
    let mut cut = |from: usize, to: usize, line: usize| {
        let text = &text[from..to];
        let content = |line: &str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && line != "---" && line != "..."
        };
        if let Some(before) = text.lines().position(content) {
            parts.push(Part {
                text,
                line,
                content: line + before,
            });
        }
    };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let marker = |marker: &str| {
            line.strip_prefix(marker)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        };
        if marker("---") {
            // Directives belong to the document that follows.
            let directives = text[begin..offset]
                .lines()
                .any(|line| line.starts_with('%'));
            if !directives {
                cut(begin, offset, begin_line);
                (begin, begin_line) = (offset, index + 1);
            }
        } else if marker("...") {
            cut(begin, offset, begin_line);
            (begin, begin_line) = (offset + line.len(), index + 2);
        }
        offset += line.len();
    }
    cut(begin, text.len(), begin_line);
    parts
}

/// What says how to read the rest.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Head {
    #[serde(rename = "apiVersion")]
    api_version: serde_json::Value,
    kind: serde_json::Value,
    metadata: serde_json::Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Manifest<S> {
    #[serde(default)]
    api_version: String,
    kind: String,
    #[serde(default)]
    metadata: v1::Metadata,
    #[serde(default)]
    spec: S,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct List {
    #[serde(default, rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    items: Vec<serde_json::Value>,
}

fn parse(part: &Part<'_>, origin: &Origin) -> Result<Vec<Object>, Box<LoadError>> {
    let wrong = |object: &str, problem: Problem| {
        Box::new(LoadError {
            source_name: origin.source.clone(),
            document: origin.document,
            line: problem.line.map(|line| part.line + line.saturating_sub(1)),
            object: object.to_owned(),
            field: problem.field,
            message: problem.message,
        })
    };
    let head: Head = from_yaml(part.text).map_err(|problem| wrong("", problem))?;
    let object = head.describe();
    if head.kind.as_str().is_some_and(raw::is_list) {
        // What is of policy's kinds is read from its value.
        let values = raw::parse(part, origin)?;
        let list: List = from_yaml(part.text).map_err(|problem| wrong(&object, problem))?;
        return list
            .items
            .into_iter()
            .zip(values)
            .enumerate()
            .map(|(index, (item, raw))| {
                if let Some(document) = raw::document(&raw.value) {
                    return Ok(document);
                }
                let part = |name| item.get(name).cloned().unwrap_or_default();
                let inner = Head {
                    api_version: part("apiVersion"),
                    kind: part("kind"),
                    metadata: part("metadata"),
                };
                typed(&inner, &Json(item)).map_err(|problem| {
                    let separator = if problem.field.is_empty() { "" } else { "." };
                    let field = format!("items[{index}]{separator}{}", problem.field);
                    wrong(&inner.describe(), Problem { field, ..problem })
                })
            })
            .collect();
    }
    if head.is_document() {
        let values = raw::parse(part, origin)?;
        return Ok(values
            .iter()
            .filter_map(|raw| raw::document(&raw.value))
            .collect());
    }
    typed(&head, &Yaml(part.text))
        .map(|object| vec![object])
        .map_err(|problem| wrong(&object, problem))
}

impl Head {
    /// Whether it is of one of policy's kinds.
    fn is_document(&self) -> bool {
        match (self.api_version.as_str(), self.kind.as_str()) {
            (Some(version), Some(kind)) => ResourceKind::of(version, kind).is_some(),
            _ => false,
        }
    }

    fn describe(&self) -> String {
        let name = self
            .metadata
            .get("name")
            .and_then(serde_json::Value::as_str);
        match (self.kind.as_str(), name) {
            (Some(kind), Some(name)) => format!("{kind}/{name}"),
            (Some(kind), None) => kind.to_owned(),
            (None, Some(name)) => name.to_owned(),
            (None, None) => String::new(),
        }
    }
}

struct Problem {
    line: Option<usize>,
    field: String,
    message: String,
}

impl Problem {
    fn at(field: &str, message: impl Into<String>) -> Self {
        Self {
            line: None,
            field: field.to_owned(),
            message: message.into(),
        }
    }
}

/// A text or value that a manifest can be read from.
trait Source {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem>;
}

struct Yaml<'a>(&'a str);
struct Json(serde_json::Value);

impl Source for Yaml<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        from_yaml(self.0)
    }
}

impl Source for Json {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        serde_path_to_error::deserialize(&self.0).map_err(|error| Problem {
            line: None,
            field: path(error.path()),
            message: error.inner().to_string(),
        })
    }
}

fn typed(head: &Head, source: &impl Source) -> Result<Object, Problem> {
    let kind = match &head.kind {
        serde_json::Value::String(kind) => kind
            .parse::<Kind>()
            .map_err(|error| Problem::at("kind", error.to_string()))?,
        serde_json::Value::Null => {
            let known: Vec<_> = Kind::all().map(Kind::as_str).collect();
            let known = known.join(", ");
            return Err(Problem::at("kind", format!("required: one of {known}")));
        }
        other => return Err(Problem::at("kind", format!("{other} is no kind"))),
    };
    match kind {
        Kind::Vrf => manifest(source, Spec::Vrf),
        Kind::Interface => manifest(source, Spec::Interface),
        Kind::Address => manifest(source, Spec::Address),
        Kind::Route => manifest(source, Spec::Route),
        Kind::Neighbour => manifest(source, Spec::Neighbour),
        Kind::NatPool => manifest(source, Spec::NatPool),
        Kind::NatRule => manifest(source, Spec::NatRule),
        Kind::PortForward => manifest(source, Spec::PortForward),
        Kind::StaticNat => manifest(source, Spec::StaticNat),
        Kind::Policy(kind) => Err(Problem::at(
            "apiVersion",
            format!("for kind {kind} it must be {}", kind.api_version()),
        )),
    }
}

fn manifest<S: DeserializeOwned + Default>(
    source: &impl Source,
    spec: fn(S) -> Spec,
) -> Result<Object, Problem> {
    let manifest: Manifest<S> = source.read()?;
    Ok(Object {
        api_version: manifest.api_version,
        kind: manifest.kind,
        metadata: Some(manifest.metadata),
        spec: Some(spec(manifest.spec)),
    })
}

fn from_yaml<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let mut place = None;
    let result = with_yaml(text, |yaml| {
        let mut track = serde_path_to_error::Track::new();
        T::deserialize(serde_path_to_error::Deserializer::new(yaml, &mut track))
            .inspect_err(|_| place = Some(track.path()))
    });
    result.map_err(|error| {
        let line = error
            .location()
            .and_then(|location| usize::try_from(location.line()).ok());
        let mut message = plain(&error.to_string());
        // A value of the wrong type: the library says what was wanted, not what is there.
        if message.starts_with("invalid ")
            && let Some(value) = place.as_ref().and_then(|place| scalar_at(text, place))
        {
            message = format!("{value}: {message}");
        }
        Problem {
            line: line.filter(|line| *line > 0),
            field: place.as_ref().map(path).unwrap_or_default(),
            message,
        }
    })
}

fn with_yaml<'t, T>(
    text: &'t str,
    read: impl for<'e> FnOnce(serde_saphyr::Deserializer<'t, 'e>) -> Result<T, serde_saphyr::Error>,
) -> Result<T, serde_saphyr::Error> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::with_deserializer_from_str_with_options(text, options, read)
}

/// The text, number or truth value at a place in a document, as JSON; `None` where something else or nothing is there.
fn scalar_at(text: &str, place: &serde_path_to_error::Path) -> Option<String> {
    let document = with_yaml(text, |yaml| serde_json::Value::deserialize(yaml)).ok()?;
    let mut value = &document;
    for segment in place.iter() {
        value = match segment {
            Segment::Seq { index } => value.get(*index)?,
            Segment::Map { key } => value.get(key)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    let scalar = !(value.is_null() || value.is_array() || value.is_object());
    scalar.then(|| value.to_string())
}

/// The library's message in an operator's terms: the place is said elsewhere, and its options are none of theirs.
fn plain(message: &str) -> String {
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(message, _)| message);
    let repeated = message
        .strip_prefix("duplicate mapping key: ")
        .and_then(|rest| rest.split(", set ").next());
    match repeated {
        Some(key) => format!("{key} is there twice"),
        None => message.to_owned(),
    }
}

/// A field's path, as far as it is known.
fn path(path: &serde_path_to_error::Path) -> String {
    let known = path
        .iter()
        .take_while(|segment| !matches!(segment, Segment::Unknown));
    let mut text = String::new();
    for segment in known {
        let separator = if text.is_empty() || matches!(segment, Segment::Seq { .. }) {
            ""
        } else {
            "."
        };
        text.push_str(separator);
        text.push_str(&segment.to_string());
    }
    text
}

fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.as_os_str() == "-" || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let known = file.extension().is_some_and(|extension| {
            ["yaml", "yml", "json"]
                .iter()
                .any(|known| extension == *known)
        });
        if known && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .take(FILE_LIMIT + 1)
            .read_to_string(&mut text)?
    } else {
        std::fs::File::open(path)?
            .take(FILE_LIMIT + 1)
            .read_to_string(&mut text)?
    };
    if read as u64 > FILE_LIMIT {
        return Err(std::io::Error::other(format!(
            "more than {FILE_LIMIT} bytes"
        )));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &std::io::Error) -> LoadError {
    LoadError {
        source_name: path.display().to_string(),
        document: 0,
        line: None,
        object: String::new(),
        field: String::new(),
        message: format!("cannot be read: {error}"),
    }
}
