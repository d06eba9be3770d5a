//! Charts of a report as SVG: rooflines, model against clock, candidates of one search. Colours that depend on light or dark are the page's style.

use super::history::{History, Search, Try};
use super::kernels::{Row, Source};
use super::scale::{Log, mark, roof, si};
use crate::cli::draw::{anchor, round};
use crate::cli::markup::{Attributes, Markup};
use kiln_graph::DType;
use kiln_target::{Gpu, Work};
use std::collections::BTreeMap;

/// Around the field of a chart: left, right, top, bottom.
const ROOM: [f64; 4] = [96.0, 18.0, 14.0, 44.0];

/// A chart with logarithmic axes that is being drawn.
struct Plot {
    svg: Markup,
    size: (f64, f64),
    x: Log,
    y: Log,
}

impl Plot {
    /// Axes with marks over all values; none if there is no value. Names have units: `name (unit)`.
    fn new(size: (f64, f64), xs: Vec<f64>, ys: Vec<f64>, units: [&str; 2], names: [&str; 2]) -> Option<Plot> {
        let [left, right, top, bottom] = ROOM;
        let (right, bottom) = (size.0 - right, size.1 - bottom);
        let x = Log::over(xs, (left, right))?;
        let y = Log::over(ys, (bottom, top))?;
        let mut plot = Plot { svg: Markup::default(), size, x, y };
        for tick in x.ticks() {
            plot.line("grid", (x.at(tick), top), (x.at(tick), bottom));
            plot.svg.text(x.at(tick), bottom + 15.0, "tick middle", &mark(tick, units[0]));
        }
        for tick in y.ticks() {
            plot.line("grid", (left, y.at(tick)), (right, y.at(tick)));
            plot.svg.text(left - 6.0, y.at(tick) + 3.5, "tick end", &mark(tick, units[1]));
        }
        plot.svg.text((left + right) / 2.0, size.1 - 8.0, "axis middle", names[0]);
        let (at, middle) = (13.0, round((top + bottom) / 2.0));
        let turn = format!("rotate(-90 {at} {middle})");
        plot.svg.content(
            "text",
            &[("x", &at), ("y", &middle), ("class", &"axis middle"), ("transform", &turn)],
            names[1],
        );
        Some(plot)
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let [x1, y1, x2, y2] = [from.0, from.1, to.0, to.1].map(round);
        self.svg.element("line", &[("class", &class), ("x1", &x1), ("y1", &y1), ("x2", &x2), ("y2", &y2)]);
    }

    /// A line from value to value.
    fn between(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let [from, to] = [from, to].map(|(x, y)| (self.x.at(x), self.y.at(y)));
        self.line(class, from, to);
    }

    fn dot(&mut self, at: (f64, f64), radius: f64, attributes: Attributes<'_>, hint: &str) {
        let [x, y, r] = [self.x.at(at.0), self.y.at(at.1), radius].map(round);
        let place: [(&str, &dyn std::fmt::Display); 3] = [("cx", &x), ("cy", &y), ("r", &r)];
        self.svg.open("circle", &[&place[..], attributes].concat());
        self.svg.content("title", &[], hint);
        self.svg.close("circle");
    }

    fn finish(self, class: &str, label: &str) -> String {
        framed(self.svg, self.size, class, label)
    }
}

fn framed(body: Markup, (width, height): (f64, f64), class: &str, label: &str) -> String {
    let mut svg = Markup::default();
    let (class, view) = (format!("chart {class}"), format!("0 0 {width} {height}"));
    svg.open(
        "svg",
        &[
            ("xmlns", &"http://www.w3.org/2000/svg"),
            ("class", &class),
            ("viewBox", &view),
            ("role", &"img"),
            ("aria-label", &label),
        ],
    );
    svg.markup(&body.finish());
    svg.close("svg");
    svg.finish()
}

/// Operations a second that bound some work, and what does them.
fn peak(gpu: &Gpu, work: &Work) -> (String, f64) {
    let operands = work.operands;
    match work.matrix_ops > 0.0 {
        true if work.tf32 && operands == DType::F32 && gpu.rates.tf32 > 0.0 => {
            ("tf32 tensor cores".into(), gpu.rates.tf32 * 1e12)
        }
        true if gpu.arch.mma(operands).is_some() => (format!("{operands} tensor cores"), gpu.peak_ops(operands, true)),
        true => (format!("{operands} units"), gpu.peak_ops(operands, false)),
        false => ("f32 units".into(), gpu.peak_ops(DType::F32, false)),
    }
}

/// Dots of the longest kernels have their number beside them.
const NUMBERED: usize = 10;

/// A dot a kernel under the GPU's roofline, as large as its part of a run; none where no kernel has both operations and a time.
pub fn roofline(rows: &[Row], gpu: &Gpu) -> Option<String> {
    let point = |(i, row): (usize, &'_ Row)| {
        let (work, operations, (seconds, _)) = (row.work?, row.operations()?, row.seconds()?);
        let at = (operations / work.bytes, operations / seconds);
        (at.0.is_normal() && at.1.is_normal()).then_some((i, at))
    };
    let points: Vec<(usize, (f64, f64))> = rows.iter().enumerate().filter_map(point).collect();
    let works = points.iter().filter_map(|(i, _)| rows[*i].work);
    let peaks: BTreeMap<String, f64> = works.map(|work| peak(gpu, &work)).collect();
    let highest = peaks.values().copied().fold(0.0, f64::max);
    let bandwidth = gpu.bandwidth_gbs * 1e9;
    let ridges = peaks.values().map(|peak| 2.0 * peak / bandwidth);
    let xs: Vec<f64> = points.iter().map(|(_, at)| at.0).chain(ridges).collect();
    let least = xs.iter().copied().fold(f64::MAX, f64::min);
    let above = [highest * 1.3, roof(least / 2.0, bandwidth, highest)];
    let ys = points.iter().map(|(_, at)| at.1).chain(above).collect();
    let names = ["operations a byte of device memory", "operations a second"];
    let mut plot = Plot::new((860.0, 440.0), xs, ys, ["", "FLOP/s"], names)?;
    let (low, high) = (plot.x.low, plot.x.high);
    let ridge = (highest / bandwidth).clamp(low, high);
    plot.between("roof", (low, roof(low, bandwidth, highest)), (ridge, roof(ridge, bandwidth, highest)));
    for (name, peak) in &peaks {
        plot.between("roof", ((peak / bandwidth).clamp(low, high), *peak), (high, *peak));
        let (x, y) = (plot.x.at(high) - 4.0, plot.y.at(*peak) - 5.0);
        plot.svg.text(x, y, "ceiling end", &format!("{name} {}", si(*peak, "FLOP/s")));
    }
    slope(&mut plot, ridge, bandwidth, highest);
    let longest = rows.iter().filter_map(Row::run_seconds).fold(f64::MIN_POSITIVE, f64::max);
    let mut numbers: Vec<(f64, f64)> = vec![];
    // Small dots over large ones.
    for (n, (i, at)) in points.iter().enumerate() {
        let row = &rows[*i];
        let radius = 4.0 + 8.0 * (row.run_seconds().unwrap_or(0.0) / longest).sqrt();
        let (colour, link) = (anchor(row.anchor).1, format!("#k{}", i + 1));
        let class = if row.measured().is_some() { "dot measured" } else { "dot modelled" };
        plot.svg.open("a", &[("href", &link)]);
        let attributes: Attributes<'_> =
            &[("class", &class), ("fill", &colour), ("stroke", &colour), ("data-kernel", &(i + 1))];
        plot.dot(*at, radius, attributes, &hint(*i, row, *at));
        plot.svg.close("a");
        let place = (plot.x.at(at.0) + radius + 2.0, plot.y.at(at.1) + 4.0);
        let free = |other: &(f64, f64)| (place.0 - other.0).abs() > 18.0 || (place.1 - other.1).abs() > 12.0;
        if n < NUMBERED && numbers.iter().all(free) {
            plot.svg.text(place.0, place.1, "number", &(i + 1).to_string());
            numbers.push(place);
        }
    }
    Some(plot.finish("roofline", "Roofline: operations a byte against operations a second, one dot a kernel"))
}

fn hint(i: usize, row: &Row, (intensity, rate): (f64, f64)) -> String {
    let share = row.reached().map_or(String::new(), |(share, _)| format!(", {:.0} % of the roofline", 100.0 * share));
    let time = row.seconds().map_or(String::new(), |(seconds, source)| {
        format!(", {} {}", si(seconds, "s"), if source == Source::Model { "modelled" } else { "measured" })
    });
    format!("{} {}: {intensity:.3} op/B, {}{share}{time}", i + 1, row.name, si(rate, "FLOP/s"))
}

/// What the slope of a roofline is, written along it.
fn slope(plot: &mut Plot, ridge: f64, bandwidth: f64, highest: f64) {
    let low = plot.x.low;
    if ridge <= low * 1.5 {
        return;
    }
    let at = |x: f64| (plot.x.at(x), plot.y.at(roof(x, bandwidth, highest)));
    let (from, to) = (at(low), at(ridge));
    let middle = at((low * ridge).sqrt());
    let angle = round((to.1 - from.1).atan2(to.0 - from.0).to_degrees());
    let (x, y) = (round(middle.0), round(middle.1 - 6.0));
    let turn = format!("rotate({angle} {x} {y})");
    let class = "ceiling middle";
    let text = format!("memory {}", si(bandwidth, "B/s"));
    plot.svg.content("text", &[("x", &x), ("y", &y), ("class", &class), ("transform", &turn)], &text);
}

/// Modelled against measured seconds of all candidates; none where none has both.
pub fn scatter(history: &History) -> Option<String> {
    let pairs = history.searches.iter().flat_map(|search| {
        let both = search.tries.iter().filter_map(|one| Some((one, one.modelled?, *one.measured.as_ref().ok()?)));
        both.map(move |(one, modelled, measured)| (search, one, modelled, measured))
    });
    let pairs: Vec<_> = pairs.collect();
    let all: Vec<f64> = pairs.iter().flat_map(|(_, _, modelled, measured)| [*modelled, *measured]).collect();
    let mut plot = Plot::new((560.0, 540.0), all.clone(), all, ["s", "s"], ["modelled", "measured"])?;
    let (low, high) = (plot.x.low, plot.x.high);
    plot.between("diagonal", (low, low), (high, high));
    for (from, to) in [((low, 2.0 * low), (high / 2.0, high)), ((2.0 * low, low), (high, high / 2.0))] {
        plot.between("factor", from, to);
    }
    for (search, one, modelled, measured) in pairs {
        let (modelled_text, measured_text) = (si(modelled, "s"), si(measured, "s"));
        let hint =
            format!("{}: {} {}: {modelled_text} modelled, {measured_text} measured", search.name, one.family, one.text);
        let (colour, class) = (anchor(search.anchor).1, if one.chosen { "dot chosen" } else { "dot candidate" });
        let attributes: Attributes<'_> = &[("class", &class), ("fill", &colour), ("stroke", &colour)];
        plot.dot((modelled, measured), if one.chosen { 5.0 } else { 3.0 }, attributes, &hint);
    }
    Some(plot.finish("scatter", "Modelled against measured time, one dot a candidate"))
}

/// Size of the chart of a search.
const SEARCH: (f64, f64) = (360.0, 120.0);

/// Times of the candidates of a search in the cost model's order, and the best so far.
pub fn search(search: &Search) -> String {
    let (left, right, top, bottom) = (52.0, SEARCH.0 - 8.0, 18.0, SEARCH.1 - 8.0);
    let mut svg = Markup::default();
    let step = (right - left) / search.tries.len() as f64;
    let x = |i: usize| round(left + step * (i as f64 + 0.5));
    let times = search.tries.iter().filter_map(|one| one.measured.as_ref().ok().copied());
    let axis = Log::over(times, (bottom, top));
    let y = |seconds: f64| axis.map_or(bottom, |axis| round(axis.at(seconds)));
    for end in axis.iter().flat_map(|axis| [axis.low, axis.high]) {
        svg.element("line", &[("class", &"grid"), ("x1", &left), ("x2", &right), ("y1", &y(end)), ("y2", &y(end))]);
        svg.text(left - 4.0, y(end) + 3.5, "tick end", &mark(end, "s"));
    }
    let (mut path, mut best) = (String::new(), None);
    for (i, one) in search.tries.iter().enumerate() {
        let Ok(seconds) = one.measured else { continue };
        let now = best.map_or(seconds, |best: f64| best.min(seconds));
        match best {
            None => path = format!("M{},{}", x(i), y(now)),
            Some(_) => path += &format!(" H{} V{}", x(i), y(now)),
        }
        best = Some(now);
    }
    if best.is_some() {
        svg.element("path", &[("class", &"best"), ("d", &format!("{path} H{right}"))]);
    }
    for (i, one) in search.tries.iter().enumerate() {
        tried(&mut svg, one, anchor(search.anchor).1, x(i), y);
    }
    framed(svg, SEARCH, "search", "Times of candidates in the cost model's order, and the best so far")
}

/// A candidate: a dot at its time, or a cross above all times.
fn tried(svg: &mut Markup, one: &Try, colour: &str, x: f64, y: impl Fn(f64) -> f64) {
    let (tag, outcome) = match &one.measured {
        Ok(seconds) => {
            let (class, radius) = if one.chosen { ("dot chosen", 4.0) } else { ("dot candidate", 2.5) };
            let place: Attributes<'_> = &[("cx", &x), ("cy", &y(*seconds)), ("r", &radius)];
            svg.open("circle", &[place, &[("class", &class), ("fill", &colour), ("stroke", &colour)]].concat());
            ("circle", si(*seconds, "s"))
        }
        Err(why) => {
            svg.open("path", &[("class", &"unusable"), ("d", &format!("M{},4 l6,6 m0,-6 l-6,6", round(x - 3.0)))]);
            ("path", why.clone())
        }
    };
    svg.content("title", &[], &format!("{} {}: {outcome}", one.family, one.text));
    svg.close(tag);
}
