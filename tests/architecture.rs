//! The laws of ARCHITECTURE.md that the compiler does not hold: who imports whom, what the packet path may depend on, where
//! unsafe code is, and what node files open with.

#[path = "catalogue/header.rs"]
#[expect(dead_code, reason = "the catalogue reads more of the header blocks")]
mod header;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use header::{read, root, rust_files};
use serde_json::Value;

/// Who may import which of our packages, for normal and build dependencies. Dev-dependencies are free: they are not in what ships.
const LAW: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("tables", &[]),
    ("model", &[]),
    ("control-api", &[]),
    ("dataplane", &[]),
    ("ports", &["dataplane"]),
    ("afpacket-sim", &["ports", "dataplane", "wire"]),
    ("graph-nodes", &["dataplane", "wire", "tables"]),
    (
        "control",
        &[
            "model",
            "control-api",
            "graph-nodes",
            "ports",
            "dataplane",
            "wire",
            "tables",
        ],
    ),
    (
        "oncilla",
        &["control", "control-api", "afpacket-sim", "benches"],
    ),
];

/// Packages that may import anything but these.
const FREE: &[(&str, &[&str])] = &[("benches", &["oncilla", "tests"]), ("tests", &[])];

/// Packages on the packet path, and what they never depend on, near or far.
const HOT: &[&str] = &["dataplane", "wire", "tables", "ports", "graph-nodes"];
const NEVER_HOT: &[&str] = &["tokio", "tonic", "serde", "serde_core"];

/// Packages without unsafe code.
const SAFE: &[&str] = &[
    "dataplane/wire/src/lib.rs",
    "graph-nodes/src/lib.rs",
    "control/src/lib.rs",
    "control/model/src/lib.rs",
    "control/api/src/lib.rs",
    "control/oncilla/src/main.rs",
    "benches/src/lib.rs",
];

/// The files that contain unsafe code.
const UNSAFE: &[&str] = &[
    "afpacket-sim/src/sys/bpf.rs",
    "afpacket-sim/src/sys/ethtool.rs",
    "afpacket-sim/src/sys/packet.rs",
    "afpacket-sim/src/sys/process.rs",
    "afpacket-sim/src/sys/socket_option.rs",
    "dataplane/ports/examples/forward.rs",
    "dataplane/ports/src/af_packet/ring.rs",
    "dataplane/ports/src/af_packet/sys.rs",
    "dataplane/ports/tests/af_packet.rs",
    "dataplane/src/buffer/chain.rs",
    "dataplane/src/buffer/mod.rs",
    "dataplane/src/event.rs",
    "dataplane/src/lib.rs",
    "dataplane/src/publish.rs",
    "dataplane/src/time.rs",
    "dataplane/tables/src/acl/simd.rs",
    "dataplane/tables/src/array.rs",
    "dataplane/tables/src/flow/index.rs",
    "dataplane/tables/src/flow/record.rs",
    "dataplane/tables/src/hosts.rs",
    "dataplane/tables/src/interval_tree.rs",
    "dataplane/tables/src/lpm4.rs",
    "dataplane/tables/src/lpm6.rs",
    "dataplane/tables/src/prefetch.rs",
    "dataplane/tables/src/published.rs",
    "dataplane/tables/tests/lpm6.rs",
];

/// A package's dependencies: package and whether it is needed beyond tests.
type Graph = BTreeMap<String, Vec<(String, bool)>>;

/// What Cargo knows: the names of our packages, and who depends on whom.
fn metadata() -> (BTreeSet<String>, Graph) {
    let host = Command::new("rustc")
        .arg("-vV")
        .output()
        .expect("rustc runs");
    let host = String::from_utf8_lossy(&host.stdout).into_owned();
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .expect("rustc names its host");
    // For this machine alone, because packages of others need not be there.
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--offline",
            "--format-version",
            "1",
            "--filter-platform",
            host,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata failed: {problem}");
    let all: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names: BTreeMap<String, String> = list(&all["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let ours = list(&all["workspace_members"])
        .iter()
        .map(|id| names[&text(id)].clone())
        .collect();
    let mut graph = Graph::new();
    for node in list(&all["resolve"]["nodes"]) {
        let dependencies = list(&node["deps"]).into_iter().map(|dependency| {
            let ships = list(&dependency["dep_kinds"])
                .iter()
                .any(|kind| kind["kind"] != "dev");
            (names[&text(&dependency["pkg"])].clone(), ships)
        });
        graph
            .entry(names[&text(&node["id"])].clone())
            .or_default()
            .extend(dependencies);
    }
    (ours, graph)
}

fn shipped<'a>(graph: &'a Graph, package: &str) -> impl Iterator<Item = &'a str> {
    let dependencies = graph.get(package).into_iter().flatten();
    dependencies
        .filter(|(_, ships)| *ships)
        .map(|(name, _)| name.as_str())
}

#[test]
fn imports_follow_the_law() {
    let (ours, graph) = metadata();
    for package in &ours {
        let allowed = LAW
            .iter()
            .find(|(name, _)| name == package)
            .map(|(_, allowed)| *allowed);
        let refused = FREE
            .iter()
            .find(|(name, _)| name == package)
            .map(|(_, refused)| *refused);
        assert!(
            allowed.is_some() || refused.is_some(),
            "the law does not name the package {package}: say in tests/architecture.rs and ARCHITECTURE.md what it may import"
        );
        for dependency in shipped(&graph, package).filter(|name| ours.contains(*name)) {
            let fine = allowed.is_some_and(|allowed| allowed.contains(&dependency))
                || refused.is_some_and(|refused| !refused.contains(&dependency));
            assert!(
                fine,
                "{package} must not import {dependency}: see \"The tree, and what may import what\" in ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn the_packet_path_knows_no_runtime_and_no_serialization() {
    let (_, graph) = metadata();
    for package in HOT {
        // Each dependency with the one that brought it in.
        let mut came = BTreeMap::from([((*package).to_owned(), String::new())]);
        let mut open = vec![(*package).to_owned()];
        while let Some(name) = open.pop() {
            for dependency in shipped(&graph, &name) {
                assert!(
                    !NEVER_HOT.contains(&dependency),
                    "{package} depends on {dependency} through {name}: packages of the packet path never do"
                );
                if !came.contains_key(dependency) {
                    came.insert(dependency.to_owned(), name.clone());
                    open.push(dependency.to_owned());
                }
            }
        }
        assert!(
            graph.contains_key(*package),
            "there is no package {package}"
        );
    }
}

#[test]
fn unsafe_code_is_where_it_is_expected() {
    let is_unsafe = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        [
            "unsafe {",
            "unsafe impl",
            "unsafe fn",
            "unsafe extern",
            "unsafe trait",
        ]
        .iter()
        .any(|form| code.contains(form))
    };
    let this = Path::new("tests/architecture.rs");
    let found: BTreeSet<String> = rust_files("")
        .into_iter()
        .filter(|file| file != this && read(file).lines().any(is_unsafe))
        .map(|file| file.to_string_lossy().into_owned())
        .collect();
    let expected: BTreeSet<String> = UNSAFE.iter().map(|file| (*file).to_owned()).collect();
    let new: Vec<_> = found.difference(&expected).collect();
    assert!(
        new.is_empty(),
        "unsafe code in {new:?}: use safe code, or add the file to UNSAFE in tests/architecture.rs"
    );
    let gone: Vec<_> = expected.difference(&found).collect();
    assert!(
        gone.is_empty(),
        "no unsafe code any longer in {gone:?}: remove the file from UNSAFE in tests/architecture.rs"
    );
    for file in found.iter().filter(|file| file.contains("/src/")) {
        let source = read(Path::new(file));
        for comment in ["// JUSTIFICATION:", "// SAFETY:"] {
            assert!(
                source.contains(comment),
                "{file} has unsafe code and no comment \"{comment}\""
            );
        }
    }
}

#[test]
fn safe_packages_forbid_unsafe_code() {
    for file in SAFE {
        let source = read(Path::new(file));
        assert!(
            source.contains("#![forbid(unsafe_code)]"),
            "{file} lacks #![forbid(unsafe_code)]: this package is a safe one"
        );
    }
}

#[test]
fn node_files_open_with_their_header_block() {
    let headers = header::all().unwrap_or_else(|why| panic!("{why}"));
    assert!(
        headers.len() >= 20,
        "only {} node files were found",
        headers.len()
    );
    for header in headers {
        // The name of a file is that of its node without the family, or the whole name; or it holds several nodes.
        let stem = header
            .file
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .replace('_', "-");
        let fits = |name: &String| *name == stem || name.ends_with(&format!("-{stem}"));
        assert!(
            header.names.iter().all(fits),
            "{} says it is about {:?}: a node's name, file and type derive from each other",
            header.file.display(),
            header.names
        );
        assert!(
            header.purpose.ends_with('.'),
            "{}: the purpose is a sentence",
            header.file.display()
        );
    }
}
