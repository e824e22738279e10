//! The graph as a picture: layers from left to right by the longest way a packet can take, edges back dashed.

use std::fmt::Write;

use dataplane::{NodeInfo, PORT_TX};

const BOX: (f64, f64) = (132.0, 30.0);
const COLUMN: f64 = 216.0;
const ROW: f64 = 46.0;
const MARGIN: f64 = 40.0;

/// A place in a column: a node, or the way of an edge that goes further.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    Node(usize),
    Way(usize),
}

/// The picture of a graph as SVG.
pub fn svg(infos: &[NodeInfo]) -> String {
    let edges = edges(infos);
    let back = back_edges(infos.len(), &edges);
    let layer = layers(infos, &edges, &back);
    let columns = columns(infos.len(), &edges, &back, &layer);
    let tallest = columns.iter().map(Vec::len).max().unwrap_or(0) as f64;
    let place = |item: Item, at: usize| {
        let column = &columns[at];
        let row = column.iter().position(|other| *other == item).unwrap_or(0) as f64;
        let top = MARGIN + (tallest - column.len() as f64) * ROW / 2.0;
        (MARGIN + at as f64 * COLUMN, top + row * ROW + ROW / 2.0)
    };
    let width = MARGIN * 2.0 + (columns.len() as f64 - 1.0) * COLUMN + BOX.0;
    let height = MARGIN * 3.0 + tallest * ROW;
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>The graph: nodes and edges</title>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\">\
         <path d=\"M0 0L8 4L0 8z\" fill=\"#555\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>"
    );
    for (number, (from, to)) in edges.iter().enumerate() {
        let label = format!("{} to {}", infos[*from].name, infos[*to].name);
        let (start, end) = (
            place(Item::Node(*from), layer[*from]),
            place(Item::Node(*to), layer[*to]),
        );
        let (path, style) = if back[number] {
            // Below both boxes, from underneath one to underneath the other.
            let (x1, x2) = (start.0 + BOX.0 * 0.7, end.0 + BOX.0 * 0.5);
            let (y1, y2) = (start.1 + BOX.1 / 2.0, end.1 + BOX.1 / 2.0);
            let low = y1.max(y2) + ROW * 0.9;
            (
                format!("M{x1} {y1}C{x1} {low} {x2} {low} {x2} {y2}"),
                " stroke-dasharray=\"5 4\"",
            )
        } else {
            let mut path = format!("M{} {}", start.0 + BOX.0, start.1);
            let mut last = (start.0 + BOX.0, start.1);
            for at in layer[*from] + 1..=layer[*to] {
                let (x, y) = if at == layer[*to] {
                    end
                } else {
                    place(Item::Way(number), at)
                };
                let half = f64::midpoint(last.0, x);
                let _ = write!(path, "C{half} {} {half} {y} {x} {y}", last.1);
                last = (x, y);
                if at < layer[*to] {
                    last.0 += BOX.0;
                    let _ = write!(path, "H{}", last.0);
                }
            }
            (path, "")
        };
        let color = color(infos[*from].name).1;
        let _ = writeln!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.3\"{style} marker-end=\"url(#tip)\"><title>{label}</title></path>"
        );
    }
    for (node, info) in infos.iter().enumerate() {
        let (x, y) = place(Item::Node(node), layer[node]);
        let (fill, stroke) = color(info.name);
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"5\" fill=\"{fill}\" stroke=\"{stroke}\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            y - BOX.1 / 2.0,
            BOX.0,
            BOX.1,
            x + BOX.0 / 2.0,
            y + 4.5,
            info.name
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"{}\" fill=\"#555\">Packets enter at {} and leave at {PORT_TX}; dashed edges lead back.</text>\n</svg>",
        height - MARGIN / 2.0,
        infos[0].name
    );
    out
}

/// Fill and line by family.
fn color(name: &str) -> (&'static str, &'static str) {
    match name {
        _ if name.ends_with("-glean") || name.starts_with("arp") || name.starts_with("nd-") => {
            ("#fdf0d5", "#b7791f")
        }
        _ if name.starts_with("icmp") => ("#fde2e2", "#b83232"),
        _ if name.starts_with("ip4") => ("#dcebfb", "#2563a8"),
        _ if name.starts_with("ip6") => ("#dff3e3", "#2f7d46"),
        _ => ("#eceff3", "#555f6e"),
    }
}

fn edges(infos: &[NodeInfo]) -> Vec<(usize, usize)> {
    let index = |name: &str| infos.iter().position(|info| info.name == name);
    let from = infos.iter().enumerate();
    from.flat_map(|(from, info)| {
        info.nexts
            .iter()
            .filter_map(move |next| Some((from, index(next)?)))
    })
    .collect()
}

/// Which edges lead back to a node that packets may have passed: found by walking the graph from its first node.
fn back_edges(nodes: usize, edges: &[(usize, usize)]) -> Vec<bool> {
    fn walk(node: usize, edges: &[(usize, usize)], seen: &mut [u8], back: &mut [bool]) {
        seen[node] = 1;
        for (number, (_, to)) in edges
            .iter()
            .enumerate()
            .filter(|(_, (from, _))| *from == node)
        {
            match seen[*to] {
                0 => walk(*to, edges, seen, back),
                1 => back[number] = true,
                _ => {}
            }
        }
        seen[node] = 2;
    }
    let (mut seen, mut back) = (vec![0; nodes], vec![false; edges.len()]);
    for node in 0..nodes {
        if seen[node] == 0 {
            walk(node, edges, &mut seen, &mut back);
        }
    }
    back
}

/// Each node as far right as the longest way to it is long; the last node in the last column.
fn layers(infos: &[NodeInfo], edges: &[(usize, usize)], back: &[bool]) -> Vec<usize> {
    let mut layer = vec![0; infos.len()];
    for _ in 0..infos.len() {
        for ((from, to), _) in edges.iter().zip(back).filter(|(_, back)| !**back) {
            layer[*to] = layer[*to].max(layer[*from] + 1);
        }
    }
    let last = layer.iter().copied().max().unwrap_or(0);
    for (layer, info) in layer.iter_mut().zip(infos) {
        if info.name == PORT_TX {
            *layer = last;
        }
    }
    layer
}

/// The columns from top to bottom, so that few edges cross: each place near the middle of what it is connected to.
fn columns(
    nodes: usize,
    edges: &[(usize, usize)],
    back: &[bool],
    layer: &[usize],
) -> Vec<Vec<Item>> {
    let count = layer.iter().copied().max().unwrap_or(0) + 1;
    let mut columns = vec![Vec::new(); count];
    for node in 0..nodes {
        columns[layer[node]].push(Item::Node(node));
    }
    // The links between neighbouring columns.
    let mut links: Vec<(Item, Item)> = Vec::new();
    for (number, (from, to)) in edges
        .iter()
        .enumerate()
        .filter(|(number, _)| !back[*number])
    {
        let mut last = Item::Node(*from);
        for (at, column) in columns
            .iter_mut()
            .enumerate()
            .take(layer[*to])
            .skip(layer[*from] + 1)
        {
            debug_assert!(at > 0);
            column.push(Item::Way(number));
            links.push((last, Item::Way(number)));
            last = Item::Way(number);
        }
        links.push((last, Item::Node(*to)));
    }
    for sweep in 0..24 {
        let order: Vec<usize> = if sweep % 2 == 0 {
            (1..count).collect()
        } else {
            (0..count - 1).rev().collect()
        };
        for at in order {
            let other = &columns[if sweep % 2 == 0 { at - 1 } else { at + 1 }];
            let middle = other.len() as f64 / 2.0;
            let own = columns[at].len() as f64 / 2.0;
            let weigh = |item: Item, row: usize| {
                let connected = links.iter().filter_map(|(a, b)| match item {
                    _ if *a == item => Some(*b),
                    _ if *b == item => Some(*a),
                    _ => None,
                });
                let rows: Vec<f64> = connected
                    .filter_map(|item| other.iter().position(|other| *other == item))
                    .map(|row| row as f64 - middle)
                    .collect();
                if rows.is_empty() {
                    row as f64 - own
                } else {
                    rows.iter().sum::<f64>() / rows.len() as f64
                }
            };
            let mut weighed: Vec<(f64, Item)> = columns[at]
                .iter()
                .enumerate()
                .map(|(row, item)| (weigh(*item, row), *item))
                .collect();
            weighed.sort_by(|(a, _), (b, _)| a.total_cmp(b));
            columns[at] = weighed.into_iter().map(|(_, item)| item).collect();
        }
    }
    columns
}
