//! The fused plan as SVG.

use super::card::{BAR, Card, LINE, Label, PAD, TEXT, WIDTH};
use super::picture::{HEADING, Item, MARGIN, Picture, picture};
use super::svg::{curve, document, fit, marker, round, width};
use super::{CONTROL, FONT, anchor};
use crate::cli::markup::Markup;
use crate::cli::out::bytes;
use crate::cli::profile::Profile;
use kiln_engine::{Engine, TargetImage};
use kiln_fuse::{Anchor, Plan};
use kiln_graph::Symbols;

/// What pictures of plans and graphs share.
pub const STYLE: &str = "\
.heading { font-size: 19px; font-weight: bold; fill: #0f172a; }
.note { font-size: 11.5px; fill: #475569; }
.title { font-size: 12.5px; font-weight: bold; fill: #0f172a; }
.share { font-size: 12.5px; font-weight: bold; fill: #0f172a; text-anchor: end; }
.summary { font-size: 10.5px; fill: #0f172a; }
.ops { font-size: 10.5px; fill: #334155; }
.implementation { font-size: 10.5px; fill: #334155; font-style: italic; }
.weight { font-size: 10.5px; fill: #64748b; }
.label { font-size: 10.5px; fill: #0f172a; text-anchor: middle; }
.band { font-size: 13px; font-weight: bold; fill: #64748b; }
.inner { font-size: 12px; font-weight: bold; fill: #334155; }
.box { fill: #ffffff; stroke-width: 1.2; }
.wire { fill: none; stroke: #64748b; stroke-width: 1.3; }
.buffer rect { stroke-width: 1; }
.temp rect { fill: #f8fafc; stroke: #cbd5e1; }
.input rect { fill: #dcfce7; stroke: #22c55e; }
.output rect { fill: #dbeafe; stroke: #3b82f6; }
";

/// Around the whole, with room for the titles of bands at the left.
pub const EDGE: f64 = 40.0;
/// Room at the left of the plan for the titles of bands.
pub const BAND: f64 = 190.0;
/// Height of what stands above the plan.
const HEAD: f64 = 108.0;

/// Draws the plan of a target of an engine; with a profile of it, the time of each step too.
pub fn plan(engine: &Engine, image: &TargetImage, profile: Option<&Profile>) -> miette::Result<String> {
    profile.map_or(Ok(()), |profile| profile.check(&image.plan))?;
    let picture = picture(&image.plan, "", &image.kernels, profile);
    let mut svg = Markup::default();
    let left = EDGE + if picture.bands.is_empty() { 0.0 } else { BAND };
    let full = (left + picture.width + EDGE).max(980.0);
    head(&mut svg, engine, image, profile);
    marker(&mut svg, "tip");
    strips(&mut svg, &picture, EDGE + HEAD, full);
    // In the middle of what is left beside the bands' titles.
    let x = left + (full - left - EDGE - picture.width) / 2.0;
    draw(&mut svg, &image.plan, &picture, x, EDGE + HEAD);
    Ok(document(svg, (full, EDGE + HEAD + picture.height + EDGE), "plan", &[FONT, STYLE].concat()))
}

/// The bands of a picture that begins at `y`, across the whole width.
pub fn strips(svg: &mut Markup, picture: &Picture, y: f64, full: f64) {
    for band in &picture.bands {
        let (y, height) = (y + band.top - 12.0, band.bottom - band.top + 24.0);
        svg.element(
            "rect",
            &[
                ("class", &"strip"),
                ("x", &(EDGE / 2.0)),
                ("y", &round(y)),
                ("width", &round(full - EDGE)),
                ("height", &round(height)),
                ("rx", &10),
                ("fill", &"#eef2f7"),
            ],
        );
        svg.text(EDGE, y + 22.0, "band", &band.title);
    }
}

/// What engine and plan this is, and what colours mean.
fn head(svg: &mut Markup, engine: &Engine, image: &TargetImage, profile: Option<&Profile>) {
    let plan = &image.plan;
    let y = EDGE;
    svg.text(EDGE, y, "heading", &fit(&format!("{} for {}", engine.model, image.target), 19.0, 900.0));
    let weights = plan.buffers.iter().filter(|b| matches!(b.kind, kiln_fuse::BufferKind::Weight(_))).count();
    let count = format!(
        "{} steps launch {} distinct regions; {} buffers, {} weights ({} in the engine); Kiln {}",
        plan.steps.len(),
        plan.regions.len(),
        plan.buffers.len() - weights,
        weights,
        bytes(engine.weight_bytes()),
        engine.kiln
    );
    svg.text(EDGE, y + 22.0, "note", &count);
    let timed = match profile {
        None => "not profiled: no times (`kiln bench --profile-kernels --json`, then `--profile`)".to_owned(),
        Some(profile) => {
            let ms = profile.ms();
            format!(
                "profiled on {}: {ms:.3} ms, each step waited for; bars are parts of the longest step",
                profile.device
            )
        }
    };
    svg.text(EDGE, y + 40.0, "note", &fit(&format!("{}; {timed}", symbols(&plan.symbols)), 11.5, 2000.0));
    let mut x = EDGE;
    let all = [
        Anchor::Map,
        Anchor::Reduce,
        Anchor::Contract,
        Anchor::Attention,
        Anchor::Conv,
        Anchor::Window,
        Anchor::Index,
        Anchor::Sink,
        Anchor::Alone,
        Anchor::Kernel,
    ];
    let key = all.map(anchor).into_iter().chain([("control", CONTROL), ("input", "#22c55e"), ("output", "#3b82f6")]);
    for (word, colour) in key {
        svg.element(
            "rect",
            &[("x", &x), ("y", &(y + 55.0)), ("width", &11), ("height", &11), ("rx", &2), ("fill", &colour)],
        );
        svg.text(x + 16.0, y + 64.5, "note", word);
        x = round(x + 34.0 + width(word, 11.5));
    }
}

fn symbols(symbols: &Symbols) -> String {
    let one = |(name, (low, high)): (&str, (i64, i64))| match high {
        i64::MAX => format!("{name} from {low}"),
        _ => format!("{name} {low}..={high}"),
    };
    let all: Vec<String> = symbols.iter().map(one).collect();
    if all.is_empty() { "all shapes are fixed".to_owned() } else { all.join(", ") }
}

/// Puts a picture at a place.
pub fn draw(svg: &mut Markup, plan: &Plan, picture: &Picture, x: f64, y: f64) {
    for wire in &picture.layout.wires {
        let d = curve(wire, (x, y));
        // Into a box with a tip; onto a label or along a trunk without.
        let tip = matches!(wire.target.map(|t| &picture.items[t]), Some(Item::Step(..)));
        let id = |node: usize| picture.items[node].id(&picture.path);
        let (source, target) = (id(wire.source), wire.target.map(id).unwrap_or_default());
        let mut attributes: Vec<(&str, &dyn std::fmt::Display)> =
            vec![("class", &"wire"), ("d", &d), ("data-from", &source)];
        if wire.target.is_some() {
            attributes.push(("data-to", &target));
        }
        if tip {
            attributes.push(("marker-end", &"url(#tip)"));
        }
        svg.element("path", &attributes);
    }
    for (item, place) in picture.items.iter().zip(&picture.layout.places) {
        let (x, y) = (x + place.0, y + place.1);
        match item {
            Item::Buffer(label) => draw_label(svg, &item.id(&picture.path), label, x, y),
            Item::Step(card, inner) => {
                let height = inner.iter().map(|i| i.at.1 + i.picture.height + MARGIN).fold(card.height(), f64::max);
                let right = inner.iter().map(|i| i.at.0 + i.picture.width + MARGIN).fold(WIDTH, f64::max);
                draw_card(svg, &item.id(&picture.path), card, (x, y), (right, height));
                for (part, (_, plan)) in inner.iter().zip(plan.steps[card.step].nested()) {
                    let (x, y) = (x + part.at.0, y + part.at.1);
                    svg.text(x, y - HEADING / 2.0 + 2.0, "inner", part.heading);
                    draw(svg, plan, &part.picture, x, y);
                }
                svg.close("g");
            }
        }
    }
}

fn draw_label(svg: &mut Markup, id: &str, label: &Label, x: f64, y: f64) {
    let (w, h) = (label.width(), label.height());
    let class = format!("buffer {}", label.class);
    svg.open("g", &[("class", &class), ("data-id", &id)]);
    svg.content("title", &[], &label.hint);
    svg.element("rect", &[("x", &round(x)), ("y", &round(y)), ("width", &round(w)), ("height", &round(h)), ("rx", &9)]);
    for (i, line) in label.lines.iter().enumerate() {
        svg.text(x + w / 2.0, y + 13.5 + i as f64 * LINE, "label", line);
    }
    svg.close("g");
}

/// The box of a step; its group stays open for what is nested in it.
fn draw_card(svg: &mut Markup, id: &str, card: &Card, at: (f64, f64), size: (f64, f64)) {
    let (x, y) = at;
    let (w, h) = (round(size.0), round(size.1));
    let (rx, ry) = (round(x), round(y));
    svg.open("g", &[("class", &"step"), ("data-id", &id)]);
    svg.content("title", &[], &card.hint);
    let place: [(&str, &dyn std::fmt::Display); 5] =
        [("x", &rx), ("y", &ry), ("width", &w), ("height", &h), ("rx", &6)];
    svg.element("rect", &[&place[..], &[("class", &"box"), ("stroke", &card.colour)]].concat());
    let bar =
        format!("M{rx},{} v{} a6,6 0 0 1 6,-6 h{} a6,6 0 0 1 6,6 v{} z", ry + BAR, 6.0 - BAR, w - 12.0, BAR - 6.0);
    svg.element("path", &[("d", &bar), ("fill", &card.colour), ("fill-opacity", &0.18)]);
    svg.element(
        "rect",
        &[("x", &rx), ("y", &round(y + 6.0)), ("width", &4), ("height", &(h - 12.0)), ("fill", &card.colour)],
    );
    svg.text(x + PAD, y + 16.5, "title", &card.title);
    if let Some((ms, share, of_longest)) = card.time {
        svg.text(x + w - 8.0, y + 16.5, "share", &format!("{:.1} % · {ms:.3} ms", 100.0 * share));
        svg.element(
            "rect",
            &[
                ("class", &"bar"),
                ("x", &round(x + 4.0)),
                ("y", &round(y + BAR - 3.0)),
                ("width", &round((w - 8.0) * of_longest)),
                ("height", &3),
                ("fill", &card.colour),
            ],
        );
    }
    for (i, (class, line)) in card.lines.iter().enumerate() {
        svg.text(x + PAD, y + BAR + TEXT + 3.0 + i as f64 * LINE, class, line);
    }
}
