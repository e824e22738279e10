//! The node catalogue `docs/nodes.md` and the picture `docs/graph.svg` are what the graph and its files say. `BLESS=1` writes them.

mod header;
mod picture;

use std::fmt::Write;
use std::path::Path;

use dataplane::{HANDOFF, NodeInfo, PORT_TX};
use header::Header;

#[test]
fn the_catalogue_is_up_to_date() {
    compare("docs/nodes.md", &catalogue());
}

#[test]
fn the_picture_is_up_to_date() {
    let mut infos = graph_nodes::graph().infos();
    // Between workers, not between nodes.
    infos.retain(|info| info.name != HANDOFF);
    compare("docs/graph.svg", &picture::svg(&infos));
}

#[test]
fn every_node_has_a_file_and_every_file_a_node() {
    let headers = header::all().unwrap_or_else(|why| panic!("{why}"));
    let infos = graph_nodes::graph().infos();
    let engines = [PORT_TX, HANDOFF];
    for info in infos.iter().filter(|info| !engines.contains(&info.name)) {
        let files = headers
            .iter()
            .filter(|header| header.names.iter().any(|name| name == info.name));
        assert_eq!(
            files.count(),
            1,
            "one file's header block is about {}",
            info.name
        );
    }
    for header in &headers {
        for name in &header.names {
            let file = header.file.display();
            assert!(
                infos.iter().any(|info| info.name == name),
                "{name} of {file} is not in the graph"
            );
        }
    }
}

#[track_caller]
fn compare(path: &str, made: &str) {
    if std::env::var_os("BLESS").is_some() {
        let file = header::root().join(path);
        std::fs::write(&file, made).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        return;
    }
    let there = header::read(Path::new(path));
    let differs = there
        .lines()
        .zip(made.lines())
        .position(|(there, made)| there != made);
    assert!(
        there == made,
        "{path} is out of date (first at line {}): run BLESS=1 cargo test -p tests --test catalogue",
        differs.unwrap_or_else(|| there.lines().count().min(made.lines().count())) + 1
    );
}

fn catalogue() -> String {
    let headers = header::all().unwrap_or_else(|why| panic!("{why}"));
    let infos = graph_nodes::graph().infos();
    let mut out = String::from(
        "# Nodes\n\nEvery node of the graph, in the order in which pending frames are run. Generated from the nodes' own files: \
         `BLESS=1 cargo test -p tests --test catalogue`\nwrites it anew.\n\n![The graph](graph.svg)\n\n",
    );
    for info in &infos {
        let from: Vec<_> = infos
            .iter()
            .filter(|other| other.nexts.contains(&info.name))
            .map(|other| other.name)
            .collect();
        let header = headers
            .iter()
            .find(|header| header.names.iter().any(|name| name == info.name));
        // Writing to a string does not fail.
        let _ = section(&mut out, info, &from, header);
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn section(
    out: &mut String,
    info: &NodeInfo,
    from: &[&str],
    header: Option<&Header>,
) -> std::fmt::Result {
    writeln!(out, "## {}\n", info.name)?;
    if info.name == HANDOFF {
        writeln!(
            out,
            "The engine's own: takes packets from the rings of other workers \
             ([source](../dataplane/src/handoff.rs)).\n\n\
             - Comes from: nodes of other workers that hand packets over\n- Goes to: the same nodes of this worker\n"
        )?;
        return drops(out, info);
    }
    match header {
        Some(header) => {
            let mut purpose = header.purpose.clone();
            if let Some(first) = purpose.get_mut(..1) {
                first.make_ascii_uppercase();
            }
            writeln!(out, "{purpose} ([source](../{}))\n", header.file.display())?;
            if !header.text.is_empty() {
                writeln!(out, "{}\n", header.text)?;
            }
            for (name, value) in &header.fields {
                writeln!(out, "- {name}: {value}")?;
            }
        }
        None => writeln!(
            out,
            "The engine's own last node: hands packets to the queue of the port whose number is in their word \
             ([source](../dataplane/src/graph.rs)).\n"
        )?,
    }
    let list = |names: &[&str]| {
        let links: Vec<_> = names
            .iter()
            .map(|name| format!("[{name}](#{name})"))
            .collect();
        if links.is_empty() {
            "none".to_owned()
        } else {
            links.join(", ")
        }
    };
    let from = if from.is_empty() {
        "ports".to_owned()
    } else {
        list(from)
    };
    writeln!(out, "- Comes from: {from}")?;
    writeln!(
        out,
        "- Goes to: {}\n",
        if header.is_some() {
            list(info.nexts)
        } else {
            "ports".to_owned()
        }
    )?;
    drops(out, info)
}

fn drops(out: &mut String, info: &NodeInfo) -> std::fmt::Result {
    if !info.drops.is_empty() {
        writeln!(out, "| drop counter | meaning |\n|---|---|")?;
        for (name, text) in info.drops {
            writeln!(out, "| `{}/{name}` | {text} |", info.name)?;
        }
        writeln!(out)?;
    }
    Ok(())
}
