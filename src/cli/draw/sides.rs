//! A model's graph and the plan that became of it, side by side: at the left a frame for each step with the ops that it computes, at the right its box, in the same row and colour.

use super::CONTROL;
use super::FONT;
use super::card::{BAR, Kernels, PAD, TEXT, TITLE};
use super::graph::{self, NOT_LAUNCHED, shown};
use super::layered::{Layout, Node, Wire, layout, layout_in};
use super::picture::{Item, Picture, picture_in, rows};
use super::plan::{BAND, EDGE, STYLE, draw, strips};
use super::svg::{curve, document, fit, marker, round, width};
use crate::cli::markup::Markup;
use crate::cli::profile::Profile;
use kiln_fuse::{LaunchReport, Plan, Step, node_name};
use kiln_graph::{Graph, NodeId, Op};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Display;

/// Size of an op's box.
const OP: (f64, f64) = (216.0, 22.0);
/// Around the ops of a frame.
const INSIDE: f64 = 14.0;
/// Ops of a frame that are higher than this go on in a further column.
const TALL: f64 = 460.0;
/// Between columns, and between the two sides.
const BESIDE: f64 = 34.0;
const BETWEEN: f64 = 120.0;
/// Length of a wire that goes on in the next column.
const STUB: f64 = 16.0;
/// Height of what stands above.
const HEAD: f64 = 76.0;
/// Colours of regions, which take turns.
const COLOURS: [&str; 12] = [
    "#2563eb", "#c2410c", "#0f766e", "#a21caf", "#4d7c0f", "#be123c", "#0369a1", "#b45309", "#7c3aed", "#15803d",
    "#db2777", "#0e7490",
];

/// Draws the nodes that the outputs depend on, without literals and weights, beside the plan. `launches` tell which step computes which node; `kernels` and `profile` are of the plan.
pub fn sides(
    graph: &Graph,
    plan: &Plan,
    launches: &[LaunchReport],
    kernels: &Kernels,
    profile: Option<&Profile>,
) -> String {
    let groups = Groups::new(graph, plan, launches);
    let right = picture_in(plan, "", kernels, profile, &groups.heights());
    let heights: Vec<f64> = right.layout.rows.iter().map(|(top, bottom)| bottom - top).collect();
    let right = coloured(right, plan);
    let left = layout_in(&groups.nodes(), &groups.edges, &heights);

    let mut svg = Markup::default();
    let x = EDGE + if right.bands.is_empty() { 0.0 } else { BAND };
    let beside = x + left.width + BETWEEN;
    let (y, full) = (EDGE + HEAD, (beside + right.width + EDGE).max(980.0));
    head(&mut svg, graph, plan, [x, beside]);
    marker(&mut svg, "tip");
    strips(&mut svg, &right, y, full);
    groups.link(&mut svg, &left, &right, [(x, y), (beside, y)]);
    groups.draw(&mut svg, graph, &left, (x, y));
    draw(&mut svg, plan, &right, beside, y);
    let height = y + left.height.max(right.height) + EDGE;
    document(svg, (full, height), "sides", &[FONT, STYLE, OWN].concat())
}

const OWN: &str = "\
.frame { fill: #ffffff; stroke-width: 1.6; }
.link { fill: none; stroke-width: 5; stroke-opacity: 0.45; }
.on { fill: none; stroke: #64748b; stroke-width: 1.3; stroke-dasharray: 3 3; }
.type { font-size: 10.5px; fill: #475569; text-anchor: end; }
";

fn head(svg: &mut Markup, graph: &Graph, plan: &Plan, x: [f64; 2]) {
    let ops = shown(graph).len() - graph.inputs.len();
    svg.text(EDGE, EDGE, "heading", &fit(&graph.name, 19.0, 900.0));
    let about = [
        format!("before: {ops} ops, framed by the step that computes them; a dashed wire goes on in the next column"),
        format!("after: {} steps of {} distinct regions", plan.steps.len(), plan.regions.len()),
    ];
    for (about, x) in about.iter().zip(x) {
        svg.text(x, EDGE + 26.0, "note", about);
    }
    let nested = match plan.steps.iter().any(|step| !step.nested().is_empty()) {
        true => "; what is inside branches and loops is drawn at the right alone",
        false => "",
    };
    let grey = format!("grey ops are no step's: views of memory, folded, or rewritten into something else{nested}");
    svg.text(x[0], EDGE + 42.0, "note", &grey);
}

/// The colour of a step: equal regions have the same.
fn colour(step: &Step) -> &'static str {
    match step {
        Step::Run { region, .. } => COLOURS[region % COLOURS.len()],
        _ => CONTROL,
    }
}

fn coloured(mut picture: Picture, plan: &Plan) -> Picture {
    for item in &mut picture.items {
        if let Item::Step(card, _) = item {
            card.colour = colour(&plan.steps[card.step]);
        }
    }
    picture
}

/// Ops that are drawn in one frame: a step's, or some that are no step's and hang together.
struct Group {
    step: Option<usize>,
    title: String,
    colour: &'static str,
    rank: usize,
    ops: Vec<NodeId>,
    inner: Columns,
}

struct Groups {
    all: Vec<Group>,
    edges: Vec<(usize, usize)>,
}

impl Groups {
    fn new(graph: &Graph, plan: &Plan, launches: &[LaunchReport]) -> Groups {
        let nodes = shown(graph);
        let steps = steps(graph, &nodes, launches);
        let ranks = ranks(graph, &nodes, &steps, &rows(plan));
        let mut group: HashMap<NodeId, usize> = HashMap::new();
        let mut members: Vec<(Option<usize>, Vec<NodeId>)> = vec![];
        let mut of_step: HashMap<usize, usize> = HashMap::new();
        for &id in &nodes {
            let step = steps.get(&id).copied();
            let alike = |from: &NodeId| !steps.contains_key(from) && ranks.get(from) == ranks.get(&id);
            let near: Vec<usize> = match step {
                Some(step) => of_step.get(&step).copied().into_iter().collect(),
                None => operands(graph, id).filter(alike).filter_map(|from| group.get(&from).copied()).collect(),
            };
            let at = near.first().copied().unwrap_or(members.len());
            if at == members.len() {
                members.push((step, vec![]));
                of_step.extend(step.map(|step| (step, at)));
            }
            // What this joins is one from here on.
            for other in near.into_iter().filter(|other| *other != at) {
                let joined = std::mem::take(&mut members[other].1);
                group.extend(joined.iter().map(|id| (*id, at)));
                members[at].1.extend(joined);
            }
            members[at].1.push(id);
            group.insert(id, at);
        }
        // In the order of the graph, without those that were joined.
        members.iter_mut().for_each(|(_, ops)| ops.sort_unstable());
        members.retain(|(_, ops)| !ops.is_empty());
        for (at, (_, ops)) in members.iter().enumerate() {
            group.extend(ops.iter().map(|id| (*id, at)));
        }
        let edges: BTreeSet<(usize, usize)> = nodes
            .iter()
            .flat_map(|id| operands(graph, *id).filter_map(|from| Some((*group.get(&from)?, group[id]))))
            .filter(|(from, to)| from != to)
            .collect();
        let made = members.into_iter().map(|(step, ops)| {
            let rank = ranks[&ops[0]];
            let (title, colour) = match step {
                Some(at) => (format!("#{at} {}", super::step_name(plan, &plan.steps[at])), colour(&plan.steps[at])),
                None => (String::new(), NOT_LAUNCHED),
            };
            Group { step, title, colour, rank, inner: Columns::new(graph, &ops), ops }
        });
        Groups { all: made.collect(), edges: edges.into_iter().collect() }
    }

    fn nodes(&self) -> Vec<Node> {
        let node = |group: &Group| {
            let (width, height) = group.size();
            Node { width, height, rank: group.rank }
        };
        self.all.iter().map(node).collect()
    }

    /// The least height of each row.
    fn heights(&self) -> Vec<f64> {
        let mut heights = vec![];
        for node in self.nodes() {
            if heights.len() <= node.rank {
                heights.resize(node.rank + 1, 0.0);
            }
            heights[node.rank] = node.height.max(heights[node.rank]);
        }
        heights
    }

    /// Joins each frame to the box of its step, behind everything.
    fn link(&self, svg: &mut Markup, left: &Layout, right: &Picture, [a, b]: [(f64, f64); 2]) {
        let boxes = right.items.iter().zip(&right.layout.places).filter_map(|(item, at)| match item {
            Item::Step(card, _) => Some((card.step, *at)),
            Item::Buffer(_) => None,
        });
        let boxes: BTreeMap<usize, (f64, f64)> = boxes.collect();
        let mut beside: BTreeMap<usize, f64> = BTreeMap::new();
        for (group, place) in self.all.iter().zip(&left.places) {
            let Some((step, to)) = group.step.and_then(|step| Some((step, boxes.get(&step)?))) else { continue };
            // Those of one row do not hide each other.
            let lower = beside.entry(group.rank).or_insert(4.0);
            let (from, to) =
                ((a.0 + place.0 + group.size().0, a.1 + place.1 + *lower), (b.0 + to.0, b.1 + to.1 + *lower));
            *lower = if *lower > BAR - 10.0 { 4.0 } else { *lower + 7.0 };
            let d = format!("M{},{} L{},{}", round(from.0), round(from.1), round(to.0), round(to.1));
            svg.element(
                "path",
                &[("class", &"link"), ("d", &d), ("stroke", &group.colour), ("data-step", &format!("s{step}"))],
            );
        }
    }

    fn draw(&self, svg: &mut Markup, graph: &Graph, layout: &Layout, (x, y): (f64, f64)) {
        let id = |group: usize| format!("g{}", self.all[group].ops[0].0);
        for wire in &layout.wires {
            wired(svg, "wire", &curve(wire, (x, y)), [Some(id(wire.source)), wire.target.map(id)]);
        }
        for (at, (group, place)) in self.all.iter().zip(&layout.places).enumerate() {
            group.draw(svg, graph, &id(at), (x + place.0, y + place.1));
        }
    }
}

impl Group {
    /// Where its ops begin.
    fn inside(&self) -> (f64, f64) {
        if self.step.is_some() { (INSIDE, BAR + INSIDE) } else { (0.0, 0.0) }
    }

    fn size(&self) -> (f64, f64) {
        let (left, top) = self.inside();
        (self.inner.width + 2.0 * left, self.inner.height + top + left)
    }

    fn draw(&self, svg: &mut Markup, graph: &Graph, id: &str, (x, y): (f64, f64)) {
        let (w, h) = self.size();
        svg.open("g", &[("class", &"group"), ("data-id", &id)]);
        let [rx, ry, rw, rh] = [x, y, w, h].map(round);
        let place: [(&str, &dyn Display); 5] = [("x", &rx), ("y", &ry), ("width", &rw), ("height", &rh), ("rx", &8)];
        if self.step.is_some() {
            svg.content("title", &[], &self.title);
            svg.element("rect", &[&place[..], &[("class", &"frame"), ("stroke", &self.colour)]].concat());
            svg.element("rect", &[&place[..], &[("fill", &self.colour), ("fill-opacity", &0.10)]].concat());
            svg.text(x + PAD, y + 16.5, "title", &fit(&self.title, TITLE, w - 2.0 * PAD));
        }
        let (x, y) = (x + self.inside().0, y + self.inside().1);
        let name = |at: usize| format!("n{}", self.ops[at].0);
        for wire in &self.inner.wires {
            wired(svg, "wire", &curve(wire, (x, y)), [Some(name(wire.source)), wire.target.map(name)]);
        }
        for (wire, to) in &self.inner.on {
            wired(svg, "on", &curve(wire, (x, y)), [Some(name(wire.source)), to.map(name)]);
        }
        for (op, place) in self.ops.iter().zip(&self.inner.places) {
            draw_op(svg, graph, *op, self.colour, (x + place.0, y + place.1));
        }
        svg.close("g");
    }
}

fn wired(svg: &mut Markup, class: &str, d: &str, [from, to]: [Option<String>; 2]) {
    let mut attributes: Vec<(&str, &dyn Display)> = vec![("class", &class), ("d", &d)];
    if let Some(from) = &from {
        attributes.push(("data-from", from));
    }
    if let Some(to) = &to {
        attributes.extend([("data-to", to as &dyn Display), ("marker-end", &"url(#tip)")]);
    }
    svg.element("path", &attributes);
}

fn draw_op(svg: &mut Markup, graph: &Graph, id: NodeId, colour: &str, (x, y): (f64, f64)) {
    let node = graph.node(id);
    let (name, colour) = match &node.op {
        Op::Input { name, .. } => (format!("input {name}"), "#22c55e"),
        Op::If { .. } | Op::Loop { .. } => (node.op.name().to_owned(), CONTROL),
        op => (op.name().to_owned(), colour),
    };
    let outputs = graph.outputs.iter().filter(|(_, v)| node.outputs.contains(v));
    let title = outputs.fold(name, |title, (output, _)| format!("{title} = {output}"));
    let types: Vec<String> = node.outputs.iter().map(|v| graph.ty(*v).to_string()).collect();
    let weights = node.inputs.iter().filter_map(|v| match &graph.producer(*v).op {
        Op::Weight { name, ty } => Some(format!("weight {name} {ty}")),
        _ => None,
    });
    let hint: Vec<String> =
        [format!("{}: {}", node_name(graph, id), types.join(", "))].into_iter().chain(weights).collect();
    svg.open("g", &[("class", &"op"), ("data-id", &format!("n{}", id.0))]);
    svg.content("title", &[], &hint.join("\n"));
    let (rx, ry) = (round(x), round(y));
    svg.element(
        "rect",
        &[
            ("x", &rx),
            ("y", &ry),
            ("width", &OP.0),
            ("height", &OP.1),
            ("rx", &5),
            ("class", &"box"),
            ("stroke", &colour),
        ],
    );
    let room = OP.0 - PAD;
    let title = fit(&title, TEXT, room * 0.6);
    svg.text(x + PAD / 2.0, y + 15.0, "summary", &title);
    let types = fit(&types.join(", "), TEXT, room - width(&title, TEXT) - PAD / 2.0);
    svg.text(x + OP.0 - PAD / 2.0, y + 15.0, "type", &types);
    svg.close("g");
}

/// The ops of a frame as a layered graph, which goes on in a further column where it is tall.
struct Columns {
    places: Vec<(f64, f64)>,
    wires: Vec<Wire>,
    /// Parts of wires between columns: at the end of one, or at the start of the next, which leads to the op.
    on: Vec<(Wire, Option<usize>)>,
    width: f64,
    height: f64,
}

impl Columns {
    fn new(graph: &Graph, ops: &[NodeId]) -> Columns {
        let place: HashMap<NodeId, usize> = ops.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let inner = |(to, id): (usize, &NodeId)| {
            operands(graph, *id).filter_map(|from| Some((*place.get(&from)?, to))).collect::<Vec<_>>()
        };
        let edges: Vec<(usize, usize)> = ops.iter().enumerate().flat_map(inner).collect();
        let ranks = graph::ranks(ops.len(), &edges);
        let nodes: Vec<Node> = ranks.into_iter().map(|rank| Node { width: OP.0, height: OP.1, rank }).collect();
        Columns::of(&nodes, layout(&nodes, &edges))
    }

    fn of(nodes: &[Node], layout: Layout) -> Columns {
        let count = (layout.height / TALL).ceil().max(1.0);
        let column =
            |row: usize| ((layout.rows[row].0 * count / layout.height.max(1.0)) as usize).min(count as usize - 1);
        let row_of = |bend: f64| layout.rows.partition_point(|(_, bottom)| *bottom < bend - 0.01);
        let mut spans = vec![(f64::INFINITY, f64::NEG_INFINITY); count as usize];
        let mut reach = |column: usize, from: f64, to: f64| {
            spans[column] = (spans[column].0.min(from), spans[column].1.max(to));
        };
        for (node, (x, _)) in nodes.iter().zip(&layout.places) {
            reach(column(node.rank), *x, x + node.width);
        }
        for wire in &layout.wires {
            let row = row_of(wire.bend);
            reach(column(row), wire.from.0, wire.from.0);
            reach(column(row + 1), wire.to.0, wire.to.0);
        }
        let tops: Vec<f64> = (0..count as usize)
            .map(|at| (0..layout.rows.len()).find(|row| column(*row) == at).map_or(0.0, |row| layout.rows[row].0))
            .collect();
        let several = if count > 1.0 { STUB } else { 0.0 };
        let mut starts = vec![];
        let mut right = 0.0;
        for (left, end) in &spans {
            starts.push(right - left);
            right += end - left + BESIDE;
        }
        let moved = |column: usize, (x, y): (f64, f64)| (x + starts[column], y - tops[column] + several);
        let mut columns = Columns { places: vec![], wires: vec![], on: vec![], width: right - BESIDE, height: 0.0 };
        for (node, at) in nodes.iter().zip(&layout.places) {
            columns.places.push(moved(column(node.rank), *at));
        }
        for wire in &layout.wires {
            let row = row_of(wire.bend);
            let (here, next) = (column(row), column(row + 1));
            let (from, to) = (moved(here, wire.from), moved(next, wire.to));
            let bend = moved(here, (0.0, wire.bend)).1;
            if here == next {
                columns.wires.push(Wire { from, to, bend, ..*wire });
                continue;
            }
            let end = (from.0, bend + several);
            columns.on.push((Wire { from, bend, to: end, ..*wire }, None));
            let start = (to.0, to.1 - several);
            columns.on.push((Wire { from: start, bend: start.1, to, ..*wire }, wire.target));
        }
        for (row, (_, bottom)) in layout.rows.iter().enumerate() {
            columns.height = columns.height.max(moved(column(row), (0.0, *bottom)).1 + several);
        }
        columns
    }
}

fn operands(graph: &Graph, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
    graph.node(id).inputs.iter().map(|v| graph.value(*v).node)
}

/// The step of each node that one computes. Of several, as of what equal layers have in common, the first that computes a reader too, else the first.
fn steps(graph: &Graph, nodes: &[NodeId], launches: &[LaunchReport]) -> HashMap<NodeId, usize> {
    let mut names: HashMap<String, Vec<NodeId>> = HashMap::new();
    nodes.iter().for_each(|id| names.entry(node_name(graph, *id)).or_default().push(*id));
    let mut all: HashMap<NodeId, Vec<usize>> = HashMap::new();
    for launch in launches {
        let ids: Vec<NodeId> = match &launch.numbers[..] {
            // Nodes were numbered anew; their names are left.
            [] => launch.nodes.iter().filter_map(|name| names.get(name)).flatten().copied().collect(),
            numbers => numbers.iter().map(|id| NodeId(*id)).collect(),
        };
        ids.into_iter().for_each(|id| all.entry(id).or_default().push(launch.step));
    }
    let mut steps = HashMap::new();
    let mut readers: HashMap<NodeId, BTreeSet<usize>> = HashMap::new();
    for id in nodes.iter().rev() {
        let Some(own) = all.get(id) else { continue };
        let reads = |step: &&usize| readers.get(id).is_some_and(|steps| steps.contains(step));
        let Some(step) = own.iter().find(reads).or(own.first()).copied() else { continue };
        steps.insert(*id, step);
        for from in operands(graph, *id) {
            readers.entry(from).or_default().insert(step);
        }
    }
    steps
}

/// The row of each node: its step's, or of no step's the one below what it reads, or above who reads it.
fn ranks(graph: &Graph, nodes: &[NodeId], steps: &HashMap<NodeId, usize>, rows: &[usize]) -> HashMap<NodeId, usize> {
    let mut ranks: HashMap<NodeId, usize> = HashMap::new();
    for id in nodes {
        let below = |from: NodeId| Some(ranks.get(&from)? + usize::from(steps.contains_key(&from)));
        let rank = match steps.get(id) {
            Some(step) => Some(rows[*step]),
            None => operands(graph, *id).filter_map(below).max(),
        };
        ranks.extend(rank.map(|rank| (*id, rank)));
    }
    // What reads nothing that has a row, from the last on.
    let mut above: HashMap<NodeId, usize> = HashMap::new();
    for id in nodes.iter().rev() {
        let own = match (steps.contains_key(id), ranks.get(id)) {
            (true, Some(rank)) => rank.saturating_sub(1),
            (false, Some(rank)) => *rank,
            (_, None) => *ranks.entry(*id).or_insert(above.get(id).copied().unwrap_or(0)),
        };
        for from in operands(graph, *id) {
            above.entry(from).and_modify(|rank| *rank = own.min(*rank)).or_insert(own);
        }
    }
    ranks
}
