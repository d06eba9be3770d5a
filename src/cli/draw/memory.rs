//! The activation arena over time as SVG: steps to the right, addresses upward, a rectangle for each buffer.

use super::svg::{document, fit, round, width};
use super::{FONT, card, colour, step_name};
use crate::cli::markup::Markup;
use crate::cli::out::bytes;
use crate::cli::tensors::{self, Shapes};
use kiln_engine::{Activation, Engine, TargetImage, activations};
use kiln_fuse::{BufferKind, Plan};
use kiln_graph::Bindings;
use miette::{IntoDiagnostic, Result, miette};

const STYLE: &str = "\
.heading { font-size: 19px; font-weight: bold; fill: #0f172a; }
.note { font-size: 11.5px; fill: #475569; }
.tick { font-size: 10.5px; fill: #64748b; text-anchor: end; }
.step { font-size: 10px; fill: #334155; text-anchor: end; }
.name { font-size: 10.5px; fill: #0f172a; }
.input rect { fill: #dcfce7; stroke: #22c55e; }
.output rect { fill: #dbeafe; stroke: #3b82f6; }
.temp rect { fill: #ffedd5; stroke: #fb923c; }
.alive { fill: #e2e8f0; stroke: #64748b; stroke-width: 1.2; }
.peak { stroke: #dc2626; stroke-width: 1.5; }
.bound { stroke: #2563eb; stroke-width: 1.5; stroke-dasharray: 7 4; }
.peaktext { font-size: 11.5px; font-weight: bold; fill: #dc2626; }
.boundtext { font-size: 11.5px; font-weight: bold; fill: #2563eb; text-anchor: end; }
.grid { stroke: #e2e8f0; stroke-width: 1; }
";

const LEFT: f64 = 96.0;
const TOP: f64 = 250.0;
/// The strip of what is alive: its top and height.
const STRIP: (f64, f64) = (112.0, 90.0);
const RIGHT: f64 = 40.0;
/// Height of the arena.
const HEIGHT: f64 = 640.0;
/// Width of all steps, if they are few; and of one, at least and at most.
const WIDTH: f64 = 1200.0;
const STEP: (f64, f64) = (30.0, 110.0);
/// Most of a step's name below the axis.
const NAMES: f64 = 230.0;
const TEXT: f64 = 10.5;

/// Draws the arena of a target's plan. Extents are those of `shapes` (inputs by name), else the largest of the profile.
pub fn memory(engine: &Engine, image: &TargetImage, shapes: &Shapes) -> Result<String> {
    let plan = &image.plan;
    let bindings = bindings(plan, shapes)?;
    let (placed, arena, bound) = activations(plan, &bindings).into_diagnostic()?;
    let columns = plan.steps.len() + 1;
    let step = (WIDTH / columns as f64).clamp(STEP.0, STEP.1);
    let (right, bottom) = (LEFT + step * columns as f64, TOP + HEIGHT);
    let x = |step_: usize| LEFT + step * step_ as f64;
    let y = |address: usize| bottom - HEIGHT * address as f64 / arena.max(1) as f64;
    let full = (right + RIGHT).max(900.0);
    let mut svg = Markup::default();
    head(&mut svg, engine, image, &said(plan, &bindings, shapes), full);
    for tick in ticks(arena) {
        svg.element(
            "line",
            &[
                ("class", &"grid"),
                ("x1", &LEFT),
                ("x2", &round(right)),
                ("y1", &round(y(tick))),
                ("y2", &round(y(tick))),
            ],
        );
        svg.text(LEFT - 8.0, y(tick) + 4.0, "tick", &bytes(tick));
    }
    for a in &placed {
        let (left, top) = (x(a.first), y(a.offset + a.bytes));
        draw(&mut svg, plan, a, (left, top), (x(a.last + 1) - left, y(a.offset) - top));
    }
    alive(&mut svg, &placed, columns, arena, x);
    for (i, step) in plan.steps.iter().enumerate() {
        let middle = (x(i) + x(i + 1)) / 2.0;
        svg.element(
            "rect",
            &[
                ("x", &round(x(i) + 1.0)),
                ("y", &round(bottom + 4.0)),
                ("width", &round(x(i + 1) - x(i) - 2.0)),
                ("height", &5),
                ("fill", &colour(plan, step)),
            ],
        );
        upward(
            &mut svg,
            "step",
            middle + 3.5,
            bottom + 16.0,
            &fit(&format!("{} {i}", step_name(plan, step)), 10.0, NAMES),
        );
    }
    upward(&mut svg, "step", (x(plan.steps.len()) + right) / 2.0 + 3.5, bottom + 16.0, "outputs are read");
    for (class, address) in [("bound", bound), ("peak", arena)] {
        let y = round(y(address));
        svg.element("line", &[("class", &class), ("x1", &LEFT), ("x2", &round(right)), ("y1", &y), ("y2", &y)]);
    }
    svg.text(LEFT, y(arena) - 7.0, "peaktext", &format!("arena {}", bytes(arena)));
    let lower = format!("lower bound {}: the most that is alive at one step", bytes(bound));
    svg.text(right.max(LEFT + width(&lower, 11.5) + 200.0), y(arena) - 7.0, "boundtext", &lower);
    Ok(document(svg, (full, bottom + NAMES + 40.0), "memory", &[FONT, STYLE].concat()))
}

fn head(svg: &mut Markup, engine: &Engine, image: &TargetImage, shapes: &str, full: f64) {
    let room = full - 80.0;
    svg.text(
        40.0,
        40.0,
        "heading",
        &fit(&format!("Activations of {} for {}", engine.model, image.target), 19.0, room - 320.0),
    );
    svg.text(40.0, 62.0, "note", &fit(shapes, 11.5, room));
    let note = "without weights, kernels' scratch and what is inside branches and loops; above: bytes alive at each step, below: where they lie";
    svg.text(40.0, 80.0, "note", &fit(note, 11.5, room));
    for (i, class) in ["input", "temp", "output"].into_iter().enumerate() {
        let x = full - 320.0 + 95.0 * i as f64;
        svg.open("g", &[("class", &class)]);
        svg.element("rect", &[("x", &x), ("y", &30), ("width", &12), ("height", &12), ("rx", &2)]);
        svg.close("g");
        svg.text(x + 18.0, 40.0, "note", if class == "temp" { "between" } else { class });
    }
}

fn draw(svg: &mut Markup, plan: &Plan, a: &Activation, at: (f64, f64), size: (f64, f64)) {
    let id = a.buffer.index();
    let output = plan.outputs.iter().find(|(_, id)| plan.root(*id) == a.buffer);
    let (class, name) = match (&plan.buffers[id].kind, output) {
        (BufferKind::Input(name), _) => ("input", name.as_str()),
        (_, Some((name, _))) => ("output", name.as_str()),
        _ => ("temp", card::name(plan, id)),
    };
    let (w, h) = ((size.0 - 1.5).max(1.0), (size.1 - 1.0).max(1.0));
    let (x, y) = (at.0 + 0.75, at.1 + 0.5);
    let text = format!("%{id} {name}").trim_end().to_owned();
    let (size, ty) = (bytes(a.bytes), &plan.buffers[id].ty);
    svg.open("g", &[("class", &format!("buffer {class}")), ("data-buffer", &id)]);
    let hint = format!("{text}: {ty}, {size} at {}, steps {} to {}", a.offset, a.first, a.last);
    svg.content("title", &[], &hint);
    svg.element("rect", &[("x", &round(x)), ("y", &round(y)), ("width", &round(w)), ("height", &round(h)), ("rx", &2)]);
    // In one line if that is enough, else in two, else upward, else as much as there is room for.
    let (one, number) = (format!("{text} {size}"), format!("%{id}"));
    let fits = |text: &str, length: f64| width(text, TEXT) <= length - 8.0;
    let two = [&text, &number].into_iter().find(|text| h >= 30.0 && fits(text, w) && fits(&size, w));
    if h >= 13.0 && fits(&one, w) {
        svg.text(x + 4.0, y + h / 2.0 + 4.0, "name", &one);
    } else if let Some(text) = two.filter(|_| w > h || !fits(&one, h)) {
        svg.text(x + 4.0, y + h / 2.0 - 3.0, "name", text);
        svg.text(x + 4.0, y + h / 2.0 + 11.0, "name", &size);
    } else if w >= 13.0 && h > w {
        upward(svg, "name", x + w / 2.0 + 4.0, y + h - 4.0, &most(id, &text, &size, h - 8.0));
    } else if h >= 13.0 {
        svg.text(x + 4.0, y + h / 2.0 + 4.0, "name", &most(id, &text, &size, w - 8.0));
    }
    svg.close("g");
}

/// The most of a buffer's number, name and size that there is room for.
fn most(id: usize, text: &str, size: &str, room: f64) -> String {
    let all = [format!("{text} {size}"), text.to_owned(), format!("%{id} {size}"), format!("%{id}")];
    all.into_iter().find(|text| width(text, TEXT) <= room).unwrap_or_default()
}

/// Text that is read from below.
fn upward(svg: &mut Markup, class: &str, x: f64, y: f64, text: &str) {
    let (x, y) = (round(x), round(y));
    let turn = format!("rotate(-90 {x} {y})");
    svg.content("text", &[("x", &x), ("y", &y), ("class", &class), ("transform", &turn)], text);
}

/// What is alive at each step, in a strip of its own.
fn alive(svg: &mut Markup, placed: &[Activation], columns: usize, arena: usize, x: impl Fn(usize) -> f64) {
    let bottom = STRIP.0 + STRIP.1;
    let mut d = format!("M{},{bottom}", round(x(0)));
    for step in 0..columns {
        let sum: usize = placed.iter().filter(|a| (a.first..=a.last).contains(&step)).map(|a| a.bytes).sum();
        let y = round(bottom - STRIP.1 * sum as f64 / arena.max(1) as f64);
        d += &format!(" L{},{y} L{},{y}", round(x(step)), round(x(step + 1)));
    }
    d += &format!(" L{},{bottom} z", round(x(columns)));
    svg.element("path", &[("class", &"alive"), ("d", &d)]);
    svg.text(LEFT - 8.0, STRIP.0 + 10.0, "tick", &bytes(arena));
    svg.text(LEFT - 8.0, bottom, "tick", "alive");
}

/// About eight round addresses.
fn ticks(arena: usize) -> impl Iterator<Item = usize> {
    let step = (arena / 8).max(1).next_power_of_two();
    (0..=arena).step_by(step)
}

/// Bounds above this are an importer's stand-in for "unknown", not a profile.
const LARGEST: i64 = 1 << 20;

/// The symbols of the inputs given; those that they leave open at their largest.
fn bindings(plan: &Plan, shapes: &Shapes) -> Result<Bindings> {
    let mut bindings = tensors::bind(plan, shapes)?;
    let help = "give the shapes of all inputs with `--shape`";
    for (name, (_, high)) in plan.symbols.iter() {
        if !bindings.contains_key(name) && high > LARGEST {
            return Err(miette!(help = help, "the extent `{name}` has no largest value"));
        }
        bindings.entry(name.to_owned()).or_insert(high);
    }
    match plan.constraints.iter().find_map(|c| c.check(&bindings).err()) {
        Some(e) => Err(miette!(help = help, "the largest extents of the profile do not go together: {e}")),
        None => Ok(bindings),
    }
}

/// Which shapes were taken.
fn said(plan: &Plan, bindings: &Bindings, shapes: &Shapes) -> String {
    let extents: Vec<String> = bindings.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let taken = match (plan.symbols.iter().next(), shapes.is_empty()) {
        (None, _) => "all shapes are fixed",
        (_, true) => "shapes: the largest of the profile",
        (_, false) => "shapes: those given, else the largest of the profile",
    };
    if extents.is_empty() { taken.to_owned() } else { format!("{taken}: {}", extents.join(", ")) }
}
