//! A model's graph before fusion as SVG: a box for each node, in the colour of the launch that computes it.

use super::card::{BAR, LINE, PAD, TEXT, TITLE};
use super::layered::{self, Node};
use super::plan::STYLE;
use super::svg::{curve, document, fit, marker, round, width};
use super::{CONTROL, FONT, anchor};
use crate::cli::markup::Markup;
use kiln_fuse::{LaunchReport, node_name};
use kiln_graph::{Graph, NodeId, Op};
use std::collections::{BTreeSet, HashMap};

/// Width of a node's box.
const WIDTH: f64 = 220.0;
/// Around the whole, and height of what stands above it.
const EDGE: f64 = 30.0;
const HEAD: f64 = 44.0;
/// Colour of what no launch computes: control flow has its own.
pub const NOT_LAUNCHED: &str = "#94a3b8";

/// Draws the nodes that the outputs depend on, without literals and weights, which boxes name as lines.
pub fn graph(graph: &Graph, launches: &[LaunchReport]) -> String {
    let shown = shown(graph);
    let place: HashMap<NodeId, usize> = shown.iter().enumerate().map(|(i, id)| (*id, i)).collect();
    let operands = |id: NodeId| graph.node(id).inputs.iter().filter_map(|v| place.get(&graph.value(*v).node).copied());
    let edges: Vec<(usize, usize)> =
        shown.iter().enumerate().flat_map(|(i, id)| operands(*id).map(move |from| (from, i))).collect();
    let boxes: Vec<Drawn> = shown.iter().map(|id| Drawn::of(graph, *id, launches)).collect();
    let ranks = ranks(shown.len(), &edges);
    let node = |(drawn, rank): (&Drawn, &usize)| Node { width: WIDTH, height: drawn.height(), rank: *rank };
    let nodes: Vec<Node> = boxes.iter().zip(&ranks).map(node).collect();
    let layout = layered::layout(&nodes, &edges);

    let mut svg = Markup::default();
    marker(&mut svg, "end");
    let (x, y) = (EDGE, EDGE + HEAD);
    svg.text(EDGE, EDGE, "heading", &fit(&graph.name, 19.0, layout.width.max(400.0)));
    svg.text(EDGE, EDGE + 20.0, "note", "a box for each node, with the step that computes it");
    for wire in &layout.wires {
        let d = curve(wire, (x, y));
        let from = format!("n{}", shown[wire.source].0);
        let to = wire.target.map(|target| format!("n{}", shown[target].0));
        let mut attributes: Vec<(&str, &dyn std::fmt::Display)> =
            vec![("class", &"wire"), ("d", &d), ("data-from", &from)];
        if let Some(to) = &to {
            attributes.extend([("data-to", to as &dyn std::fmt::Display), ("marker-end", &"url(#end)")]);
        }
        svg.element("path", &attributes);
    }
    for ((drawn, id), at) in boxes.iter().zip(&shown).zip(&layout.places) {
        drawn.draw(&mut svg, &format!("n{}", id.0), (x + at.0, y + at.1));
    }
    let size = (layout.width.max(400.0) + 2.0 * EDGE, y + layout.height + EDGE);
    document(svg, size, "graph", &[FONT, STYLE].concat())
}

/// The nodes to draw, in the graph's order.
pub fn shown(graph: &Graph) -> Vec<NodeId> {
    let mut live: BTreeSet<NodeId> = graph.inputs.iter().map(|v| graph.value(*v).node).collect();
    let mut stack: Vec<NodeId> = graph.outputs.iter().map(|(_, v)| graph.value(*v).node).collect();
    while let Some(id) = stack.pop() {
        if live.insert(id) {
            stack.extend(graph.node(id).inputs.iter().map(|v| graph.value(*v).node));
        }
    }
    live.retain(|id| !matches!(graph.node(*id).op, Op::Const { .. } | Op::Weight { .. }));
    live.into_iter().collect()
}

/// The row of each node: below what it reads; what reads nothing stands right above its first reader.
pub fn ranks(count: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut ranks = vec![0usize; count];
    let mut reads = vec![false; count];
    // In the order of the nodes, which operands come first in.
    for &(from, to) in edges {
        ranks[to] = ranks[to].max(ranks[from] + 1);
        reads[to] = true;
    }
    for node in (0..count).filter(|node| !reads[*node]) {
        let readers = edges.iter().filter(|(from, _)| *from == node).map(|(_, to)| ranks[*to]);
        ranks[node] = readers.min().map_or(0, |rank| rank.saturating_sub(1));
    }
    ranks
}

/// The box of a node.
struct Drawn {
    title: String,
    /// The steps that compute it.
    steps: String,
    hint: String,
    colour: &'static str,
    lines: Vec<(&'static str, String)>,
}

impl Drawn {
    fn of(graph: &Graph, id: NodeId, launches: &[LaunchReport]) -> Drawn {
        let (node, name) = (graph.node(id), node_name(graph, id));
        let own: Vec<&LaunchReport> =
            launches.iter().filter(|launch| launch.numbers.binary_search(&id.0).is_ok()).collect();
        let (colour, steps) = match (&node.op, &own[..]) {
            (Op::Input { .. }, _) => ("#22c55e", String::new()),
            (Op::If { .. } | Op::Loop { .. }, _) => (CONTROL, String::new()),
            // Folded, a view of memory, or gone.
            (_, []) => (NOT_LAUNCHED, String::new()),
            (_, [first, ..]) => {
                let steps: Vec<String> = own.iter().map(|launch| format!("#{}", launch.step)).collect();
                (anchor(first.anchor).1, steps.join(" "))
            }
        };
        let room = WIDTH - 2.0 * PAD;
        let name = match &node.op {
            Op::Input { name, .. } => name.clone(),
            _ => name,
        };
        let types: Vec<String> = node.outputs.iter().map(|v| graph.ty(*v).to_string()).collect();
        let mut lines = vec![("summary", fit(&name, TEXT, room)), ("ops", fit(&types.join(", "), TEXT, room))];
        for op in node.inputs.iter().map(|v| &graph.producer(*v).op) {
            if let Op::Weight { name, ty } = op {
                lines.push(("weight", fit(&format!("weight {name} {ty}"), TEXT, room)));
            }
        }
        let outputs = graph.outputs.iter().filter(|(_, v)| node.outputs.contains(v));
        lines.extend(outputs.map(|(name, _)| ("ops", fit(&format!("output {name}"), TEXT, room))));
        let steps = fit(&steps, TITLE, room / 2.0);
        let title = fit(node.op.name(), TITLE, room - width(&steps, TITLE) - 8.0);
        let kernels: Vec<&str> = own.iter().map(|launch| launch.name.as_str()).collect();
        let hint = if kernels.is_empty() { name } else { format!("{name}: {}", kernels.join(", ")) };
        Drawn { title, steps, hint, colour, lines }
    }

    fn height(&self) -> f64 {
        BAR + self.lines.len() as f64 * LINE + 8.0
    }

    fn draw(&self, svg: &mut Markup, id: &str, (x, y): (f64, f64)) {
        svg.open("g", &[("class", &"node"), ("data-id", &id)]);
        svg.content("title", &[], &self.hint);
        let (rx, ry, h) = (round(x), round(y), round(self.height()));
        let place: [(&str, &dyn std::fmt::Display); 5] =
            [("x", &rx), ("y", &ry), ("width", &WIDTH), ("height", &h), ("rx", &6)];
        svg.element("rect", &[&place[..], &[("class", &"box"), ("stroke", &self.colour)]].concat());
        let band = [("x", &rx as &dyn std::fmt::Display), ("y", &ry), ("width", &WIDTH), ("height", &BAR), ("rx", &6)];
        svg.element("rect", &[&band[..], &[("fill", &self.colour), ("fill-opacity", &0.18)]].concat());
        svg.text(x + PAD, y + 16.5, "title", &self.title);
        svg.text(x + WIDTH - 8.0, y + 16.5, "share", &self.steps);
        for (i, (class, line)) in self.lines.iter().enumerate() {
            svg.text(x + PAD, y + BAR + TEXT + 3.0 + i as f64 * LINE, class, line);
        }
        svg.close("g");
    }
}
