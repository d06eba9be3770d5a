//! The page: its sections, in order.

use super::history::{History, Search};
use super::kernels::{Gpus, Row, Source};
use super::scale::si;
use super::{chart, stamp, table};
use crate::cli::draw::anchor;
use crate::cli::markup::{Markup, escaped};
use crate::cli::out::bytes;
use crate::cli::profile::Profile;
use kiln_engine::{Engine, Header, Resources, TargetImage};
use std::path::Path;

const TEMPLATE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// What a page is made of.
pub struct Facts<'e> {
    pub path: &'e Path,
    pub header: &'e Header,
    pub engine: &'e Engine,
    pub image: &'e TargetImage,
    /// None for the CPU.
    pub gpus: Option<Gpus>,
    pub profile: Option<&'e Profile>,
    /// What the sizes of the report are, in words.
    pub sizes: String,
    pub rows: Vec<Row>,
    pub history: Option<History>,
    /// Where the timing cache is, and how many of its lines are damaged; none where there is no such file.
    pub timings: (String, Option<usize>),
    /// Pictures, the second where shapes are known.
    pub plan: String,
    pub memory: Result<String, String>,
}

/// The whole page: XHTML that is HTML too.
pub fn page(facts: &Facts<'_>) -> String {
    let mut body = Markup::default();
    head(&mut body, facts);
    kernels(&mut body, facts);
    roofline(&mut body, facts);
    plan(&mut body, facts);
    memory(&mut body, facts);
    searches(&mut body, facts);
    model(&mut body, facts);
    stamp::stamp(&mut body, facts);
    document(&format!("{} for {}", facts.engine.model, facts.image.label()), body)
}

/// A page around its body: one file that asks nobody for anything.
pub fn document(title: &str, body: Markup) -> String {
    let title = escaped(title);
    let fill = [("title", title), ("style", STYLE.to_owned()), ("body", body.finish()), ("script", SCRIPT.to_owned())];
    let mut parts = TEMPLATE.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or_default();
        page += fill.iter().find(|(of, _)| *of == name).map_or("", |(_, text)| text);
        page += rest;
    }
    page
}

/// Begins a section with a heading, and a line under it.
pub fn section(page: &mut Markup, id: &str, title: &str, about: &str) {
    page.open("section", &[("id", &id)]);
    page.content("h2", &[], title);
    if !about.is_empty() {
        paragraph(page, "about", about);
    }
}

/// A paragraph; what stands between backticks is code.
pub fn paragraph(page: &mut Markup, class: &str, text: &str) {
    page.open("p", &[("class", &class)]);
    for (i, part) in text.split('`').enumerate() {
        // No space but what is in the text.
        match i % 2 {
            0 => page.markup(&escaped(part)),
            _ => page.markup(&format!("<code>{}</code>", escaped(part))),
        }
    }
    page.close("p");
}

fn head(page: &mut Markup, facts: &Facts<'_>) {
    let Facts { engine, image, .. } = facts;
    page.open("header", &[]);
    page.content("h1", &[], &engine.model);
    let hash: String = engine.graph_hash.chars().take(16).collect();
    let about = format!("engine for {}, Kiln {}, graph {hash}; {}", image.label(), engine.kiln, facts.sizes);
    paragraph(page, "about", &about);
    let sections = [
        ("kernels", "Kernels"),
        ("roofline", "Roofline"),
        ("plan", "Fused graph"),
        ("memory", "Memory"),
        ("tuning", "Tuning"),
        ("model", "Cost model"),
        ("stamp", "Stamp"),
    ];
    links(page, &sections);
    page.close("header");
    tiles(page, facts);
}

/// Links to sections.
pub fn links(page: &mut Markup, sections: &[(&str, &str)]) {
    page.open("nav", &[]);
    for (id, text) in sections {
        page.content("a", &[("href", &format!("#{id}"))], text);
    }
    page.close("nav");
}

/// A figure of the whole.
pub fn tile(page: &mut Markup, name: &str, value: &str, note: &str) {
    page.open("div", &[]);
    page.content("dt", &[], name);
    page.content("dd", &[], value);
    page.content("dd", &[("class", &"note")], note);
    page.close("div");
}

/// Figures of the whole.
fn tiles(page: &mut Markup, facts: &Facts<'_>) {
    let Facts { engine, image, rows, .. } = facts;
    page.open("dl", &[("class", &"tiles")]);
    let mut tile = |name: &str, value: String, note: String| tile(page, name, &value, &note);
    let launches: usize = rows.iter().filter(|row| row.work.is_some()).map(|row| row.uses).sum();
    tile("Launches", launches.to_string(), format!("of {} distinct regions", image.regions().len()));
    let total = |seconds: fn(&Row) -> Option<f64>| {
        rows.iter().filter_map(|row| Some(seconds(row)? * row.uses as f64)).sum::<f64>()
    };
    if let Some(profile) = facts.profile {
        tile("Profiled run", si(profile.ms() * 1e-3, "s"), format!("on {}, each step waited for", profile.device));
    }
    let alone = total(|row| row.alone);
    if alone > 0.0 {
        let missing = rows.iter().filter(|row| row.work.is_some() && row.alone.is_none()).count();
        let note = if missing > 0 {
            format!("without {missing} kernels that were not")
        } else {
            "kernels alone, all launches".into()
        };
        tile("Timed alone", si(alone, "s"), note);
    }
    if let Some(gpus) = &facts.gpus {
        let modelled = total(|row| row.modelled);
        if modelled > 0.0 {
            tile("Modelled run", si(modelled, "s"), format!("by the cost model of {}", gpus.modelled.name));
        }
        tile("Roofline", si(total(|row| row.floor), "s"), format!("the least that {} allows", gpus.roof.name));
        let spilled = rows.iter().flat_map(|row| &row.kernels).filter(|(_, used)| used.spill_bytes > 0).count();
        let kernels = rows.iter().map(|row| row.kernels.len()).sum::<usize>();
        let note = if spilled > 0 { format!("{spilled} spill registers") } else { "none spills registers".into() };
        tile("Kernels", kernels.to_string(), note);
    }
    let weights = if engine.stripped { "stripped".to_owned() } else { bytes(engine.weight_bytes()) };
    tile("Weights", weights, format!("in {} tensors", engine.weights.len()));
    page.close("dl");
}

const COLUMNS: [(&str, bool); 14] = [
    ("#", true),
    ("region", false),
    ("family", false),
    ("launches", true),
    ("registers", true),
    ("spilled", true),
    ("shared", true),
    ("bytes", true),
    ("operations", true),
    ("floor", true),
    ("modelled", true),
    ("measured", true),
    ("roofline", true),
    ("of run", true),
];

fn kernels(page: &mut Markup, facts: &Facts<'_>) {
    let times = match &facts.gpus {
        Some(_) => {
            "Floor: the least time that the hardware allows, were operands and results moved once and each operation done once. Roofline: floor over time."
        }
        None => "The CPU runs regions without code of their own: there are no registers, and no roofline.",
    };
    let about = format!("One row a kernel that the engine has, times of one launch. {times} Click a heading to sort.");
    section(page, "kernels", "Kernels", &about);
    if facts.rows.is_empty() {
        return end(page, Some("The plan launches nothing: its outputs are constants."));
    }
    table::open(page, "kernels", &COLUMNS);
    let launches = facts.rows.iter().filter_map(Row::run_seconds).sum::<f64>();
    let run = facts.profile.map_or(launches, |profile| profile.ms() * 1e-3);
    for (i, row) in facts.rows.iter().enumerate() {
        kernel(page, i + 1, row, run);
    }
    table::close(page);
    if facts.profile.is_some() && launches < 0.995 * run {
        let share = 100.0 * (1.0 - launches / run);
        paragraph(page, "about", &format!("{share:.0} % of the profile is inside branches and loops."));
    }
    sources(page, facts);
}

/// Ends the table of kernels with where its times come from.
fn sources(page: &mut Markup, facts: &Facts<'_>) {
    let from = |wanted: Source| facts.rows.iter().any(|row| row.measured().is_some_and(|(_, source)| source == wanted));
    if from(Source::Profile) {
        let simulated = facts.profile.is_some_and(|profile| profile.device.starts_with("sim:"));
        let note = match simulated {
            true => "the simulator's time, which says nothing of a GPU's",
            false => "waiting for the device is part of it",
        };
        paragraph(page, "about", &format!("* as profiled: {note}."));
    }
    if from(Source::Profile) || from(Source::TimingCache) {
        return end(page, None);
    }
    let profile = |device: &str| {
        format!(
            "`kiln bench ENGINE --device {device} --profile-kernels --json > profile.json`, then `kiln report ENGINE --profile profile.json`"
        )
    };
    let missing = match &facts.gpus {
        Some(_) => format!(
            "No time was measured; roofline and share of a run are by the cost model. {}; or `kiln tune ENGINE`, whose timing cache is read.",
            profile("cuda:0")
        ),
        None => format!("No time was measured: {}.", profile("cpu")),
    };
    end(page, Some(&missing));
}

/// Ends a section, with a hint if something is missing.
pub fn end(page: &mut Markup, missing: Option<&str>) {
    if let Some(missing) = missing {
        paragraph(page, "hint", missing);
    }
    page.close("section");
}

fn kernel(page: &mut Markup, i: usize, row: &Row, run: f64) {
    page.open("tr", &[("id", &format!("k{i}")), ("class", if row.work.is_some() { &"" } else { &"elsewhere" })]);
    table::number(page, "#", Some(i as f64), i);
    page.open("td", &[("class", &"region"), ("data-label", &"region")]);
    page.content("span", &[("class", &"key"), ("style", &format!("background:{}", anchor(row.anchor).1))], "");
    page.content("code", &[("class", &"name")], &row.name);
    page.content("span", &[("class", &"summary")], &row.summary);
    if let Some(guard) = &row.guard {
        page.content("span", &[("class", &"guard")], &format!("if {guard}"));
    }
    if !row.config.is_empty() {
        page.content("span", &[("class", &"config")], &row.config);
    }
    page.close("td");
    let family = if row.family.is_empty() { anchor(row.anchor).0 } else { &row.family };
    page.content("td", &[("data-label", &"family")], family);
    table::number(page, "launches", Some(row.uses as f64), row.uses);
    resource(page, "registers", row, |used| used.registers, |n| n.to_string());
    resource(page, "spilled", row, |used| used.spill_bytes, |n| n.to_string());
    resource(page, "shared", row, |used| used.shared_bytes, |n| bytes(n as usize));
    let moved = row.work.map(|work| work.bytes);
    table::number(page, "bytes", moved, bytes(moved.unwrap_or(0.0) as usize));
    table::number(page, "operations", row.operations(), si(row.operations().unwrap_or(0.0), ""));
    let time = |seconds: Option<f64>| (seconds.map(|seconds| seconds * 1e6), si(seconds.unwrap_or(0.0), "s"));
    for (label, seconds) in [("floor", row.floor), ("modelled", row.modelled)] {
        let (value, text) = time(seconds);
        table::number(page, label, value, text);
    }
    let (value, text) = time(row.measured().map(|(seconds, _)| seconds));
    let mark = if row.measured().is_some_and(|(_, source)| source == Source::Profile) { " *" } else { "" };
    table::number(page, "measured", value, format!("{text}{mark}"));
    let by = |source: Source| match source {
        Source::TimingCache => "measured, alone",
        Source::Profile => "measured, in the profile: waiting is part of it",
        Source::Model => "by the cost model",
    };
    let (share, source) = row.reached().unzip();
    let class = if source == Some(Source::Model) { "modelled" } else { "measured" };
    table::bar(page, "roofline", share, class, source.map(by).unwrap_or_default());
    table::bar(page, "of run", row.run_seconds().filter(|_| run > 0.0).map(|seconds| seconds / run), "share", "");
    page.close("tr");
}

/// A resource of each of a row's kernels; the most is sorted by.
fn resource(page: &mut Markup, label: &str, row: &Row, of: fn(&Resources) -> u32, text: fn(u32) -> String) {
    let all: Vec<u32> = row.kernels.iter().map(|(_, used)| of(used)).collect();
    let texts: Vec<String> = all.iter().map(|n| text(*n)).collect();
    table::number(page, label, all.iter().max().map(|most| f64::from(*most)), texts.join(" + "));
}

fn roofline(page: &mut Markup, facts: &Facts<'_>) {
    let about = "Filled dots are measured, hollow ones modelled; their size is their part of a run, their number that of the table.";
    section(page, "roofline", "Roofline", about);
    let Some(gpus) = &facts.gpus else {
        let text = "A roofline needs a processor's rates, which are known of GPUs alone: build the engine with `--target sm_90a` or another, or name one that it has with `--target`.";
        return end(page, Some(text));
    };
    let none = "No kernel does arithmetic and has a time.";
    match chart::roofline(&facts.rows, &gpus.roof) {
        Some(chart) => picture(page, &chart, "fitted"),
        None => return end(page, Some(none)),
    }
    let roof = &gpus.roof;
    let rates = (roof.sms, roof.clock_ghz, si(roof.bandwidth_gbs * 1e9, "B/s"));
    paragraph(page, "about", &format!("{}: {} SMs at {:.2} GHz, {} to memory.", roof.name, rates.0, rates.1, rates.2));
    let without = facts.rows.iter().filter(|row| row.operations() == Some(0.0)).count();
    end(
        page,
        (without > 0).then_some(&format!("{without} kernels copy and compute nothing: they have no place here.")),
    );
}

pub fn picture(page: &mut Markup, svg: &str, class: &str) {
    page.open("div", &[("class", &format!("picture {class}"))]);
    page.markup(svg);
    page.close("div");
}

fn plan(page: &mut Markup, facts: &Facts<'_>) {
    section(
        page,
        "plan",
        "Fused graph",
        "A box for each step: what is fused in it, and how it is implemented. `kiln inspect --graph plan.svg` draws it alone.",
    );
    picture(page, &facts.plan, "drawing");
    end(page, None);
}

fn memory(page: &mut Markup, facts: &Facts<'_>) {
    section(
        page,
        "memory",
        "Memory",
        "The activation arena over the steps of a run. `kiln inspect --memory mem.svg` draws it alone.",
    );
    match &facts.memory {
        Ok(svg) => {
            picture(page, svg, "drawing");
            end(page, None);
        }
        Err(why) => end(page, Some(&format!("Not drawn: {why}; `kiln report --shape INPUT=SHAPE` says which."))),
    }
}

/// Searches that are shown before one asks for more.
const SHOWN: usize = 12;

fn searches(page: &mut Markup, facts: &Facts<'_>) {
    section(
        page,
        "tuning",
        "Tuning history",
        "Candidates of each kernel that the timing cache has times of, in the cost model's order; the line is the best so far, crosses cannot be used.",
    );
    let Some(history) = &facts.history else { return end(page, Some(&untuned(facts))) };
    let tried: usize = history.searches.iter().map(|search| search.tries.len()).sum();
    let mut about = format!(
        "{}: {tried} candidates of {} kernels and sizes, from {}.",
        history.gpu.name,
        history.searches.len(),
        facts.timings.0
    );
    if !history.others.is_empty() {
        let others: Vec<&str> = history.others.iter().map(String::as_str).collect();
        about += &format!(" It has times of {} too.", others.join(", "));
    }
    paragraph(page, "about", &about);
    let (shown, more) = history.searches.split_at(history.searches.len().min(SHOWN));
    cards(page, shown);
    if !more.is_empty() {
        page.open("details", &[]);
        page.content("summary", &[], &format!("{} more", more.len()));
        cards(page, more);
        page.close("details");
    }
    let damaged = facts.timings.1.unwrap_or(0);
    end(page, (damaged > 0).then_some(&format!("{damaged} lines of the timing cache are damaged and do not count.")));
}

/// Why there is no tuning history, and how to get one.
fn untuned(facts: &Facts<'_>) -> String {
    let (place, lines) = &facts.timings;
    let what = match lines {
        _ if facts.gpus.is_none() => return "Kernels are tuned for GPUs: this target is none.".into(),
        None => format!("There is no timing cache {place}"),
        Some(0) => format!("The timing cache {place} has no time of these kernels as this compiler makes them"),
        Some(n) => format!(
            "The timing cache {place} has no time of these kernels as this compiler makes them ({n} lines are damaged)"
        ),
    };
    format!(
        "{what}: `kiln tune ENGINE --device cuda:0` measures candidates; `kiln report --timings PLACE` names another cache."
    )
}

fn cards(page: &mut Markup, searches: &[Search]) {
    page.open("div", &[("class", &"cards")]);
    for search in searches {
        card(page, search);
    }
    page.close("div");
}

/// Reasons that are spelled out.
const REASONS: usize = 4;

fn card(page: &mut Markup, search: &Search) {
    page.open("article", &[]);
    page.open("h3", &[]);
    page.content("code", &[("class", &"name")], &search.name);
    page.close("h3");
    page.content("p", &[("class", &"summary")], &search.summary);
    page.markup(&chart::search(search));
    let reasons = search.reasons();
    let unusable: usize = reasons.iter().map(|(_, count)| count).sum();
    let sizes: String = search.sizes.iter().map(|(symbol, size)| format!(" {symbol}={size}")).collect();
    let at = if sizes.is_empty() { String::new() } else { format!(" at{sizes}") };
    let tried = search.tries.len();
    page.content(
        "p",
        &[],
        &format!("{tried} of {} tried{at}: {} timed, {unusable} unusable", search.candidates, tried - unusable),
    );
    if let Some((best, seconds)) = search.best().and_then(|best| Some((best, *best.measured.as_ref().ok()?))) {
        let own = if best.chosen { ", which the engine has" } else { "" };
        page.content(
            "p",
            &[("class", &"config")],
            &format!("{}: {} {}{own}", si(seconds, "s"), best.family, best.text),
        );
    }
    if !reasons.is_empty() {
        page.open("ul", &[("class", &"reasons")]);
        for (why, count) in reasons.iter().take(REASONS) {
            page.content("li", &[], &format!("{count}x {why}"));
        }
        let rest = reasons.len().saturating_sub(REASONS);
        if rest > 0 {
            page.content("li", &[], &format!("and {rest} other reasons"));
        }
        page.close("ul");
    }
    page.close("article");
}

fn model(page: &mut Markup, facts: &Facts<'_>) {
    section(
        page,
        "model",
        "Cost model beside the clock",
        "A dot for each candidate of the timing cache; on the line the model is right, between the dashed ones within a factor of two. Ringed: what the engine has.",
    );
    let chart = facts.history.as_ref().and_then(|history| Some((chart::scatter(history)?, history)));
    let Some((chart, history)) = chart else {
        let text = match facts.history {
            Some(_) => "The families of these kernels have no cost model.".to_owned(),
            None => untuned(facts),
        };
        return end(page, Some(&text));
    };
    picture(page, &chart, "fitted");
    let quality = &history.quality;
    let said = match quality.regions {
        0 => "No kernel has several times to rank.".to_owned(),
        n => format!(
            "Spearman {:.3}: the mean over {n} kernels and sizes of the rank correlation of modelled and measured times, {} candidates in all. Times are off by a factor of {:.2}; what the model ranks first takes {:.3}x the fastest, the best of its first eight {:.3}x.",
            quality.spearman, quality.candidates, quality.error, quality.first, quality.of_eight
        ),
    };
    paragraph(page, "about", &said);
    end(page, None);
}
