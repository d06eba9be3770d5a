//! Layered drawing of a directed graph, top to bottom (Sugiyama, Tagawa and Toda, 1981): nodes of a rank stand in a row, in an order with few crossings, and edges that pass
//! a row have a place of their own in it.
//!
//! Where this differs from the textbook: all long edges of a node share one line, the *trunk*, with a branch at each reader (a mask that every layer reads is one line, not
//! one a layer); and trunks stay straight and beside, so that what is connected directly stands in a column.

use std::collections::HashMap;

/// A box of the graph.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub width: f64,
    pub height: f64,
    /// Its row. Edges lead from lower ranks to higher ones.
    pub rank: usize,
}

/// A vertical line, then a curve across the gap between two rows.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// The node it comes from, be it over a trunk.
    pub source: usize,
    pub from: (f64, f64),
    /// Bottom of the upper row: here the curve begins.
    pub bend: f64,
    pub to: (f64, f64),
    /// The node that it ends at; none where the trunk goes on.
    pub target: Option<usize>,
}

#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Upper left corner of each node.
    pub places: Vec<(f64, f64)>,
    pub wires: Vec<Wire>,
    /// Top and bottom of each row.
    pub rows: Vec<(f64, f64)>,
    pub width: f64,
    pub height: f64,
}

/// Between nodes of a row.
const ACROSS: f64 = 28.0;
/// Between rows.
const DOWN: f64 = 26.0;
/// A trunk's share of a row.
const TRUNK: f64 = 6.0;
/// Between the ends of wires on one node.
const PORTS: f64 = 14.0;
/// Sweeps over the rows; more no longer change plans of models.
const SWEEPS: usize = 8;

/// The graph with a vertex wherever a trunk passes a row.
struct Graph {
    width: Vec<f64>,
    rank: Vec<usize>,
    /// For a vertex of a trunk, the node that the trunk comes from.
    trunk: Vec<Option<usize>>,
    up: Vec<Vec<usize>>,
    down: Vec<Vec<usize>>,
}

/// Places nodes and wires. Edges are pairs of indices of nodes; those that do not lead downward are left out.
pub fn layout(nodes: &[Node], edges: &[(usize, usize)]) -> Layout {
    layout_in(nodes, edges, &[])
}

/// [`layout`] in rows that are at least so high, as those of a drawing beside it are; there are as many rows or more.
pub fn layout_in(nodes: &[Node], edges: &[(usize, usize)], heights: &[f64]) -> Layout {
    let graph = Graph::new(nodes, edges);
    let rows = graph.order();
    let x = graph.columns(&rows);
    let mut layout = Layout::default();
    let mut y = 0.0;
    for (i, row) in rows.iter().enumerate() {
        let least = heights.get(i).copied().unwrap_or(0.0);
        let height = row.iter().filter_map(|&v| nodes.get(v)).map(|n| n.height).fold(least, f64::max);
        layout.rows.push((y, y + height));
        y += height + DOWN;
    }
    layout.height = layout.rows.last().map_or(0.0, |row| row.1);
    let left = (0..x.len()).map(|v| x[v] - graph.width[v] / 2.0).fold(f64::INFINITY, f64::min);
    let x: Vec<f64> = x.iter().map(|x| x - left).collect();
    layout.width = (0..x.len()).map(|v| x[v] + graph.width[v] / 2.0).fold(0.0, f64::max);
    layout.places = nodes.iter().zip(&x).map(|(n, x)| (x - n.width / 2.0, layout.rows[n.rank].0)).collect();
    graph.wire(nodes, &x, &mut layout);
    layout
}

impl Graph {
    fn new(nodes: &[Node], edges: &[(usize, usize)]) -> Graph {
        let mut g = Graph {
            width: nodes.iter().map(|n| n.width).collect(),
            rank: nodes.iter().map(|n| n.rank).collect(),
            trunk: vec![None; nodes.len()],
            up: vec![Vec::new(); nodes.len()],
            down: vec![Vec::new(); nodes.len()],
        };
        let mut trunks: HashMap<(usize, usize), usize> = HashMap::new();
        for &(from, to) in edges.iter().filter(|(from, to)| nodes[*from].rank < nodes[*to].rank) {
            let mut at = from;
            for rank in nodes[from].rank + 1..nodes[to].rank {
                let next = *trunks.entry((from, rank)).or_insert_with(|| {
                    g.width.push(TRUNK);
                    g.rank.push(rank);
                    g.trunk.push(Some(from));
                    g.up.push(Vec::new());
                    g.down.push(Vec::new());
                    g.width.len() - 1
                });
                g.connect(at, next);
                at = next;
            }
            g.connect(at, to);
        }
        g
    }

    fn connect(&mut self, from: usize, to: usize) {
        if !self.down[from].contains(&to) {
            self.down[from].push(to);
            self.up[to].push(from);
        }
    }

    /// The rows, each in the best order that sweeping down and up by barycenters finds.
    fn order(&self) -> Vec<Vec<usize>> {
        let ranks = self.rank.iter().max().map_or(0, |r| r + 1);
        let mut rows = vec![Vec::new(); ranks];
        // Beside each other in the order of the plan, trunks where they come from.
        let mut vertices: Vec<usize> = (0..self.rank.len()).collect();
        vertices.sort_by_key(|&v| (self.trunk[v].unwrap_or(v), v));
        vertices.into_iter().for_each(|v| rows[self.rank[v]].push(v));
        let mut position = vec![0.0; self.rank.len()];
        let number = |row: &[usize], position: &mut Vec<f64>| {
            row.iter().enumerate().for_each(|(i, &v)| position[v] = i as f64);
        };
        rows.iter().for_each(|row| number(row, &mut position));
        let mut best = (self.crossings(&rows, &position), rows.clone());
        for sweep in 0..SWEEPS {
            let downward = sweep % 2 == 0;
            for i in 0..ranks {
                let row = &mut rows[if downward { i } else { ranks - 1 - i }];
                let near = if downward { &self.up } else { &self.down };
                let key = |v: usize| match near[v].len() {
                    0 => position[v],
                    n => near[v].iter().map(|&u| position[u]).sum::<f64>() / n as f64,
                };
                let mut keyed: Vec<(f64, usize)> = row.iter().map(|&v| (key(v), v)).collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                *row = keyed.into_iter().map(|(_, v)| v).collect();
                number(row, &mut position);
            }
            let crossings = self.crossings(&rows, &position);
            if crossings < best.0 {
                best = (crossings, rows.clone());
            }
        }
        best.1
    }

    fn crossings(&self, rows: &[Vec<usize>], position: &[f64]) -> usize {
        let mut total = 0;
        for row in rows {
            // Ends of the edges so far, sorted: those beyond a new edge's end cross it.
            let mut ends: Vec<f64> = Vec::new();
            for &v in row {
                let mut own: Vec<f64> = self.down[v].iter().map(|&w| position[w]).collect();
                own.sort_by(f64::total_cmp);
                total += own.iter().map(|e| ends.len() - ends.partition_point(|other| other <= e)).sum::<usize>();
                for end in own {
                    ends.insert(ends.partition_point(|other| *other <= end), end);
                }
            }
        }
        total
    }

    /// The middle of each vertex. Each wants to stand under what it is connected to directly; what stands in its way moves by its weight.
    fn columns(&self, rows: &[Vec<usize>]) -> Vec<f64> {
        let mut x = vec![0.0; self.rank.len()];
        for _ in 0..SWEEPS {
            for row in rows {
                let alone = row.iter().filter(|&&v| self.trunk[v].is_none()).count() == 1;
                let wanted: Vec<(f64, f64)> = row
                    .iter()
                    .map(|&v| {
                        let mean = |of: &[usize]| of.iter().map(|&u| x[u]).sum::<f64>() / of.len() as f64;
                        let direct: Vec<usize> =
                            self.up[v].iter().copied().filter(|&u| self.trunk[u].is_none()).collect();
                        let along = self.up[v].iter().any(|&u| self.trunk[u].is_some());
                        match (self.trunk[v], direct.as_slice()) {
                            // A trunk goes on straight, beside what it meets; where it leaves its node, it gives way to other trunks.
                            (Some(_), []) => (mean(&self.up[v]), 1e-6),
                            (Some(_), direct) => (mean(direct), 1e-7),
                            // What all the rest passes through is the spine of the drawing.
                            (None, _) if alone => (0.0, 1.0),
                            (None, direct @ [_, ..]) => (mean(direct), 1.0),
                            (None, []) if along => (mean(&self.up[v]), 0.1),
                            (None, []) if self.down[v].is_empty() => (x[v], 1e-7),
                            (None, []) => (mean(&self.down[v]), 1e-7),
                        }
                    })
                    .collect();
                let apart = |i: usize| (self.width[row[i - 1]] + self.width[row[i]]) / 2.0 + ACROSS;
                for (&v, at) in row.iter().zip(separated(&wanted, apart)) {
                    x[v] = at;
                }
            }
        }
        x
    }

    fn wire(&self, nodes: &[Node], x: &[f64], layout: &mut Layout) {
        let range = |v: usize| match nodes.get(v) {
            Some(n) => {
                let half = (n.width / 2.0 - PORTS).max(0.0);
                (x[v] - half, x[v] + half)
            }
            None => (x[v], x[v]),
        };
        for to in 0..self.up.len() {
            let (low, high) = range(to);
            let mut from = self.up[to].clone();
            from.sort_by(|&a, &b| x[a].total_cmp(&x[b]));
            let wanted: Vec<(f64, f64)> = from.iter().map(|&u| (x[u].clamp(low, high), 1.0)).collect();
            let room = if from.len() > 1 { (high - low) / (from.len() - 1) as f64 } else { 0.0 };
            let mut ports = separated(&wanted, |_| PORTS.min(room));
            // At an edge they move inward together.
            let over = ports.last().map_or(0.0, |last| last - high).max(0.0);
            let under = ports.first().map_or(0.0, |first| low - first).max(0.0);
            ports.iter_mut().for_each(|p| *p += under - over);
            for (&u, port) in from.iter().zip(ports) {
                let (low, high) = range(u);
                let (top, bend) = layout.rows[self.rank[u]];
                let start = nodes.get(u).map_or(top, |n| top + n.height);
                let source = self.trunk[u].unwrap_or(u);
                let target = self.trunk[to].is_none().then_some(to);
                let to = (port, layout.rows[self.rank[to]].0);
                layout.wires.push(Wire { source, from: (port.clamp(low, high), start), bend, to, target });
            }
        }
    }
}

/// Positions nearest to the wanted ones (in the sum of weighted squares) in this order with `apart(i)` or more between `i - 1` and `i`: isotonic regression by pooling
/// adjacent violators. `wanted` has positions and weights.
fn separated(wanted: &[(f64, f64)], apart: impl Fn(usize) -> f64) -> Vec<f64> {
    // Distance from the first if all stood as close as they may.
    let mut offsets = vec![0.0; wanted.len()];
    for i in 1..wanted.len() {
        offsets[i] = offsets[i - 1] + apart(i);
    }
    // Pools: mean of position less offset, weight, members.
    let mut pools: Vec<(f64, f64, usize)> = Vec::new();
    for (&(at, weight), offset) in wanted.iter().zip(&offsets) {
        let mut pool = (at - offset, weight, 1);
        while let Some(&(mean, other, members)) = pools.last()
            && mean > pool.0
        {
            pools.pop();
            let sum = other + pool.1;
            pool = ((mean * other + pool.0 * pool.1) / sum, sum, members + pool.2);
        }
        pools.push(pool);
    }
    let places = pools.iter().flat_map(|&(mean, _, members)| std::iter::repeat_n(mean, members));
    places.zip(&offsets).map(|(mean, offset)| mean + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_graph::Rng;

    /// Boxes of random graphs never overlap, wires go from the bottom of one to the top of another, and no trunk runs through a box.
    #[test]
    fn random_graphs_are_laid_out_without_overlap() {
        let mut rng = Rng::new(21);
        for _ in 0..60 {
            let ranks = rng.range(2, 12) as usize;
            let nodes: Vec<Node> = (0..rng.range(2, 40))
                .map(|_| Node {
                    width: rng.range(20, 300) as f64,
                    height: rng.range(10, 90) as f64,
                    rank: rng.range(0, ranks as i64 - 1) as usize,
                })
                .collect();
            let edges: Vec<(usize, usize)> = (0..60)
                .map(|_| [0; 2].map(|_| rng.range(0, nodes.len() as i64 - 1) as usize).into())
                .filter(|&(a, b): &(usize, usize)| nodes[a].rank < nodes[b].rank)
                .collect();
            let layout = layout(&nodes, &edges);
            let rect = |i: usize| {
                let (x, y) = layout.places[i];
                (x, y, x + nodes[i].width, y + nodes[i].height)
            };
            for a in 0..nodes.len() {
                let (l, t, r, b) = rect(a);
                assert!(l > -1e-6 && t >= 0.0 && r < layout.width + 1e-6 && b < layout.height + 1e-6);
                for c in 0..a {
                    let o = rect(c);
                    assert!(r <= o.0 + 1e-6 || o.2 <= l + 1e-6 || b <= o.1 || o.3 <= t, "{a} and {c} overlap");
                }
                for wire in &layout.wires {
                    let passes = wire.from.1 < b - 1e-6 && wire.bend > t + 1e-6 && (l..r).contains(&wire.from.0);
                    assert!(!passes || wire.source == a, "a wire of {} runs through {a}", wire.source);
                }
            }
            for &(from, to) in &edges {
                assert!(layout.wires.iter().any(|w| w.source == from && w.target == Some(to)), "{from} to {to}");
            }
        }
    }

    /// A chain with a line around each link: the chain is a column, the lines are straight.
    #[test]
    fn chains_stand_in_columns_and_long_edges_are_straight() {
        let nodes: Vec<Node> = (0..20).map(|rank| Node { width: 100.0, height: 30.0, rank }).collect();
        let mut edges: Vec<(usize, usize)> = (1..20).map(|i| (i - 1, i)).collect();
        edges.extend([(0, 5), (5, 10), (0, 19)]);
        let layout = layout(&nodes, &edges);
        let column: Vec<f64> = layout.places.iter().map(|p| p.0).collect();
        assert!(column.iter().all(|x| (x - column[0]).abs() < 0.01), "{column:?}");
        // The trunk of 0 serves both readers: one line a row, which bends where it leaves 0 and where it makes room for that of 5.
        let passing = layout.wires.iter().filter(|w| w.source == 0 && w.target.is_none());
        let straight = passing.clone().filter(|w| (w.from.0 - w.to.0).abs() < 0.01).count();
        assert_eq!((passing.count(), straight), (18, 16));
    }

    #[test]
    fn separation_moves_the_lighter() {
        assert_eq!(separated(&[(0.0, 1.0), (0.0, 1.0)], |_| 10.0), [-5.0, 5.0]);
        let moved = separated(&[(0.0, 1000.0), (0.0, 1.0)], |_| 10.0);
        assert!(moved[0].abs() < 0.02 && (moved[1] - moved[0] - 10.0).abs() < 1e-9);
        assert_eq!(separated(&[(0.0, 1.0), (50.0, 1.0)], |_| 10.0), [0.0, 50.0]);
    }
}
