//! The header blocks that node files open with.

use std::path::{Path, PathBuf};

/// What a node's file says about it.
#[derive(Clone, Debug)]
pub struct Header {
    /// The nodes that it is about: one, or two that share a file.
    pub names: Vec<String>,
    /// What they do, in one sentence.
    pub purpose: String,
    /// Paragraphs and lists between the purpose and the fields, as Markdown.
    pub text: String,
    /// `Input`, `Output` and so on, in order.
    pub fields: Vec<(String, String)>,
    /// The file, from the repository's root.
    pub file: PathBuf,
}

/// Fields that every node has, in this order; others may stand among them.
pub const FIELDS: [&str; 6] = ["Input", "Output", "Reads", "State", "Standard", "Cost"];

/// The repository's root.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .map_or_else(|| tests.to_owned(), Path::to_owned)
}

/// All Rust files below a folder of the repository, in order, as paths from its root.
pub fn rust_files(folder: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, root: &Path, out: &mut Vec<PathBuf>) {
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, root, out);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                out.push(path.strip_prefix(root).unwrap_or(&path).to_owned());
            }
        }
    }
    let (root, mut out) = (root(), Vec::new());
    walk(&root.join(folder), &root, &mut out);
    out.sort();
    out
}

/// A file of the repository.
pub fn read(path: &Path) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The header block of a file that implements a node; the reason where it has none.
pub fn parse(file: &Path, source: &str) -> Result<Header, String> {
    let lines: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let first = lines.first().copied().unwrap_or_default();
    let (names, purpose) = first
        .split_once("`: ")
        .filter(|(names, _)| names.starts_with('`'))
        .ok_or("the first line is not \"//! `node-name`: what it does.\"")?;
    let names = names
        .split(',')
        .map(|name| name.trim().trim_matches('`').to_owned());
    let (mut text, mut fields) = (Vec::new(), Vec::<(String, String)>::new());
    for line in &lines[1..] {
        let field = line
            .strip_prefix("- ")
            .and_then(|line| line.split_once(": "));
        let known = |name: &str| FIELDS.contains(&name) || name == "Punts";
        match field.filter(|(name, _)| known(name)) {
            Some((name, value)) => fields.push((name.to_owned(), plain(value))),
            None => match fields.last_mut() {
                Some((_, value)) if line.starts_with("  ") => {
                    value.push(' ');
                    value.push_str(&plain(line.trim()));
                }
                Some(_) if !line.trim().is_empty() => {
                    return Err(format!(
                        "\"{line}\" stands behind the fields: put text in front of them"
                    ));
                }
                Some(_) => {}
                None => text.push(plain(line)),
            },
        }
    }
    let mut rest = fields.iter();
    for want in FIELDS {
        if !rest.any(|(name, _)| name == want) {
            let order = FIELDS.join(", ");
            return Err(format!(
                "the line \"//! - {want}: ...\" is missing, or out of the order {order}"
            ));
        }
    }
    Ok(Header {
        names: names.collect(),
        purpose: plain(purpose),
        text: text.join("\n").trim().to_owned(),
        fields,
        file: file.to_owned(),
    })
}

/// Every header block of the nodes' package. Files that implement no node have none.
pub fn all() -> Result<Vec<Header>, String> {
    let mut headers = Vec::new();
    for file in rust_files("graph-nodes/src") {
        let source = read(&file);
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        if code.contains("impl Node<Snapshot> for ") {
            let header = parse(&file, &source);
            headers.push(header.map_err(|why| format!("{}: {why}", file.display()))?);
        }
    }
    Ok(headers)
}

/// Without the brackets of links that only rustdoc can follow.
fn plain(text: &str) -> String {
    text.replace("[`", "`").replace("`]", "`")
}
