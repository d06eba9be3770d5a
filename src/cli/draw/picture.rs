//! A plan as a picture that has sizes and places but no ink yet: boxes of steps, labels of buffers between them, bands of repeated layers, nested plans in their steps' boxes.

use super::card::{Card, Kernels, Label, WIDTH, card};
use super::layered::{self, Layout, Node};
use crate::cli::profile::Profile;
use kiln_fuse::{BufferId, BufferKind, Plan, Step};
use std::collections::HashMap;
use std::ops::Range;

/// Around and between nested plans.
pub const MARGIN: f64 = 16.0;
/// Height of a nested plan's heading.
pub const HEADING: f64 = 20.0;

pub struct Picture {
    /// Empty, or for a nested plan the steps and words that lead to it: `3.body.`.
    pub path: String,
    pub items: Vec<Item>,
    pub layout: Layout,
    pub bands: Vec<Band>,
    pub width: f64,
    pub height: f64,
}

/// A node of the layout.
pub enum Item {
    Step(Card, Vec<Inner>),
    Buffer(Label),
}

impl Item {
    /// What it is called in the attributes of the picture: `s3` is step 3, `b7` buffer 7; in a nested plan with the path before the number.
    pub fn id(&self, path: &str) -> String {
        match self {
            Item::Step(card, _) => format!("s{path}{}", card.step),
            Item::Buffer(label) => format!("b{path}{}", label.buffer),
        }
    }
}

/// A nested plan, at an offset from the upper left corner of its step's box.
pub struct Inner {
    pub heading: &'static str,
    pub at: (f64, f64),
    pub picture: Picture,
}

/// One of several runs of steps that launch the same regions.
pub struct Band {
    pub title: String,
    pub top: f64,
    pub bottom: f64,
}

/// The row of each step of a plan; buffers are in those between.
pub fn rows(plan: &Plan) -> Vec<usize> {
    levels(plan, &repeats(plan)).into_iter().map(row).collect()
}

fn row(level: usize) -> usize {
    2 * level + 1
}

/// Lays out a plan. `kernels` are those of its regions and of its nested plans'.
pub fn picture(plan: &Plan, path: &str, kernels: &Kernels, profile: Option<&Profile>) -> Picture {
    picture_in(plan, path, kernels, profile, &[])
}

/// [`picture`] in rows that are at least so high.
pub fn picture_in(plan: &Plan, path: &str, kernels: &Kernels, profile: Option<&Profile>, heights: &[f64]) -> Picture {
    let mut items = Vec::new();
    let mut nodes = Vec::new();
    let repeats = repeats(plan);
    let levels = levels(plan, &repeats);
    for (i, step) in plan.steps.iter().enumerate() {
        let card = card(plan, i, kernels, profile);
        let mut inner = Vec::new();
        let (mut x, mut width, mut height) = (MARGIN, WIDTH, card.height());
        let mut below = height;
        for (heading, plan) in step.nested() {
            let picture = picture(plan, &format!("{path}{i}.{heading}."), kernels, None);
            let at = (x, height + HEADING);
            x += picture.width + MARGIN;
            below = below.max(at.1 + picture.height + MARGIN);
            inner.push(Inner { heading, at, picture });
        }
        width = width.max(if inner.is_empty() { 0.0 } else { x });
        height = below;
        nodes.push(Node { width, height, rank: row(levels[i]) });
        items.push(Item::Step(card, inner));
    }
    let mut edges = Vec::new();
    let mut labels: HashMap<BufferId, usize> = HashMap::new();
    let (mut written, mut read) = (HashMap::new(), HashMap::new());
    for (i, step) in plan.steps.iter().enumerate() {
        for &id in step.results() {
            written.entry(plan.root(id)).or_insert(i);
        }
        for id in step.operands() {
            read.entry(plan.root(id)).or_insert(i);
        }
    }
    for (i, buffer) in plan.buffers.iter().enumerate() {
        if buffer.alias_of.is_some() || matches!(buffer.kind, BufferKind::Weight(_)) {
            continue;
        }
        // Under the step that writes it; an input right above its first reader.
        let id = BufferId(i as u32);
        let rank = match (written.get(&id), read.get(&id)) {
            (Some(&step), _) => row(levels[step]) + 1,
            (None, Some(&step)) => row(levels[step]) - 1,
            (None, None) => 0,
        };
        let label = Label::of(plan, i);
        labels.insert(id, nodes.len());
        nodes.push(Node { width: label.width(), height: label.height(), rank });
        items.push(Item::Buffer(label));
    }
    for (i, step) in plan.steps.iter().enumerate() {
        let label = |id: &BufferId| labels.get(&plan.root(*id)).copied();
        edges.extend(step.results().iter().filter_map(label).map(|label| (i, label)));
        edges.extend(step.operands().iter().filter_map(label).map(|label| (label, i)));
    }
    let layout = layered::layout_in(&nodes, &edges, heights);
    let bands = bands(&repeats, &levels, &layout, profile);
    let (width, height) = (layout.width, layout.height);
    Picture { path: path.to_owned(), items, layout, bands, width, height }
}

fn bands(repeats: &[Repeat], levels: &[usize], layout: &Layout, profile: Option<&Profile>) -> Vec<Band> {
    let total = profile.map_or(0.0, Profile::ms);
    let mut bands = Vec::new();
    for repeat in repeats {
        for (n, steps) in repeat.each().enumerate() {
            let rows = steps.clone().map(|i| layout.rows[row(levels[i])]);
            let top = rows.clone().map(|row| row.0).fold(f64::INFINITY, f64::min);
            let bottom = rows.map(|row| row.1).fold(0.0, f64::max);
            let mut title = format!("repeat {} of {}", n + 1, repeat.count);
            if let Some(profile) = profile {
                let ms: f64 = profile.kernels[steps].iter().map(|k| k.ms).sum();
                title += &format!(" · {:.1} %", 100.0 * ms / total.max(1e-12));
            }
            bands.push(Band { title, top, bottom });
        }
    }
    bands
}

/// A run of steps that follows itself: the layers of a model.
#[derive(Debug, PartialEq)]
struct Repeat {
    start: usize,
    period: usize,
    count: usize,
}

impl Repeat {
    fn each(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        (0..self.count).map(|n| self.start + n * self.period..self.start + (n + 1) * self.period)
    }

    fn end(&self) -> usize {
        self.start + self.count * self.period
    }
}

/// Steps fewer than these are no layer.
const SHORTEST: usize = 2;

/// The repeats of a plan, in order. Layers launch the same regions in the same order.
fn repeats(plan: &Plan) -> Vec<Repeat> {
    let key = |(i, step): (usize, &Step)| match step {
        Step::Run { region, .. } => *region,
        // Nothing else is the same as another step.
        _ => plan.regions.len() + i,
    };
    let keys: Vec<usize> = plan.steps.iter().enumerate().map(key).collect();
    let mut found = Vec::new();
    repeats_within(&keys, &crossing(plan), 0, &mut found);
    found
}

/// How many buffers are handed over each boundary between steps, the first before step 0.
fn crossing(plan: &Plan) -> Vec<usize> {
    let mut span: HashMap<BufferId, (usize, usize)> = HashMap::new();
    for (i, step) in plan.steps.iter().enumerate() {
        for &id in step.results() {
            span.entry(plan.root(id)).or_insert((i, i));
        }
        for id in step.operands() {
            span.entry(plan.root(id)).and_modify(|span| span.1 = i);
        }
    }
    (0..=plan.steps.len()).map(|at| span.values().filter(|(from, to)| (from + 1..=*to).contains(&at)).count()).collect()
}

/// The repeats among `keys`, the first of which is that of step `offset`. Where a layer could begin at several steps, it begins where the fewest buffers are handed over.
fn repeats_within(keys: &[usize], crossing: &[usize], offset: usize, found: &mut Vec<Repeat>) {
    let mut best: Option<Repeat> = None;
    for period in SHORTEST..=keys.len() / 2 {
        let mut start = 0;
        while start + 2 * period <= keys.len() {
            let same = (start..keys.len() - period).take_while(|&i| keys[i] == keys[i + period]).count();
            let (count, spare) = (same / period + 1, same % period);
            let covers = best.as_ref().map_or(0, |b| b.count * b.period);
            // One kernel many times over is no layer either.
            if count > 1 && count * period > covers && keys[start..start + period].iter().any(|k| *k != keys[start]) {
                let handed = |start: &usize| (0..=count).map(|n| crossing[start + n * period]).sum::<usize>();
                let start = (start..=start + spare).min_by_key(handed).unwrap_or(start);
                best = Some(Repeat { start, period, count });
            }
            start += same + 1;
        }
    }
    let Some(best) = best else { return };
    repeats_within(&keys[..best.start], crossing, offset, found);
    let end = best.end();
    found.push(Repeat { start: offset + best.start, ..best });
    repeats_within(&keys[end..], &crossing[end..], offset + end, found);
}

/// The level of each step: below what it reads, and each repeat below what is before it, so that bands do not overlap.
fn levels(plan: &Plan, repeats: &[Repeat]) -> Vec<usize> {
    let mut cuts: Vec<usize> =
        repeats.iter().flat_map(|r| r.each().map(|steps| steps.start).chain([r.end()])).collect();
    cuts.dedup();
    let mut written: HashMap<BufferId, usize> = HashMap::new();
    let (mut floor, mut deepest) = (0, 0);
    let mut levels = Vec::new();
    for (i, step) in plan.steps.iter().enumerate() {
        if cuts.contains(&i) && i > 0 {
            floor = deepest + 1;
        }
        let above = step.operands().iter().filter_map(|&id| written.get(&plan.root(id))).max().copied();
        let level = above.map_or(0, |above| above + 1).max(floor);
        for &id in step.results() {
            written.insert(plan.root(id), level);
        }
        deepest = deepest.max(level);
        levels.push(level);
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_found_between_what_is_before_and_after() {
        let flat = [1; 100];
        let find = |keys: &[usize], crossing: &[usize]| {
            let mut found = Vec::new();
            repeats_within(keys, crossing, 0, &mut found);
            found
        };
        let layers = [&[90, 91][..], &[0, 1, 2, 3].repeat(12), &[92]].concat();
        assert_eq!(find(&layers, &flat), [Repeat { start: 2, period: 4, count: 12 }]);
        // One more step at the end lets the layer begin a step later, if less is handed over there.
        let more = [&layers[..50], &[0, 92]].concat();
        let handed: Vec<usize> = (0..=more.len()).map(|i| if i % 4 == 3 { 1 } else { 2 }).collect();
        assert_eq!(find(&more, &flat), [Repeat { start: 2, period: 4, count: 12 }]);
        assert_eq!(find(&more, &handed), [Repeat { start: 3, period: 4, count: 12 }]);
        let two = [&[0, 1].repeat(3)[..], &[7], &[2, 3, 4].repeat(4)].concat();
        assert_eq!(
            find(&two, &flat),
            [Repeat { start: 0, period: 2, count: 3 }, Repeat { start: 7, period: 3, count: 4 }]
        );
        assert_eq!(find(&[5; 8], &flat), []);
        assert_eq!(find(&[1, 2, 3, 4], &flat), []);
    }
}
