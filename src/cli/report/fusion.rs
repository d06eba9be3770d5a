//! The page of `kiln build --fusion-report`: the graph before and after fusion, why there is each launch, which rules fired.

use super::page::{document, end, links, paragraph, picture, section, tile};
use super::scale::si;
use super::table;
use crate::cli::draw::{self, anchor};
use crate::cli::markup::Markup;
use crate::cli::out::bytes;
use kiln_engine::{Engine, TargetImage};
use kiln_fuse::{KernelReport, LaunchReport, NextBest, Report, rule};
use kiln_graph::Graph;
use miette::Result;
use std::collections::BTreeMap;

/// What the page is made of.
pub struct Fusion<'e> {
    pub graph: &'e Graph,
    pub engine: &'e Engine,
    /// Of the engine, and what fusion did for it.
    pub image: &'e TargetImage,
    pub report: &'e Report,
}

/// The whole page: XHTML that is HTML too.
pub fn page(fusion: &Fusion<'_>) -> Result<String> {
    let mut page = Markup::default();
    head(&mut page, fusion);
    graphs(&mut page, fusion)?;
    launches(&mut page, fusion);
    rules(&mut page, fusion.report);
    Ok(document(&format!("{} fused for {}", fusion.engine.model, fusion.image.label()), page))
}

fn head(page: &mut Markup, fusion: &Fusion<'_>) {
    let Fusion { engine, image, report, .. } = fusion;
    page.open("header", &[]);
    page.content("h1", &[], &engine.model);
    let numerics = engine.settings.numerics.name();
    let about = format!("fused for {}, `--numerics {numerics}`, Kiln {}", image.label(), engine.kiln);
    paragraph(page, "about", &about);
    links(page, &[("graphs", "Before and after"), ("launches", "Launches"), ("rules", "Rules")]);
    page.close("header");
    page.open("dl", &[("class", &"tiles")]);
    let distinct = format!("of {} distinct regions, out of {} ops", report.distinct, report.ops);
    tile(page, "Launches", &report.kernels.to_string(), &distinct);
    let total = |of: fn(&LaunchReport) -> f64| report.launches.iter().map(of).sum::<f64>();
    tile(page, "Modelled run", &si(total(|l| l.seconds), "s"), "by the cost model of fusion, launches included");
    tile(page, "Roofline", &si(total(LaunchReport::roofline), "s"), "the least that the target allows these launches");
    tile(page, "E-nodes", &report.enodes.to_string(), &format!("{} rounds: {}", report.iterations, report.stopped));
    let fusing: f64 = report.stages.iter().map(|(_, seconds)| seconds).sum();
    tile(page, "Fusion took", &si(fusing, "s"), &format!("rules that fired: {}", report.fired.len()));
    page.close("dl");
}

fn graphs(page: &mut Markup, fusion: &Fusion<'_>) -> Result<()> {
    let about = "Before: a box for each node of the model, in the colour of the launch that computes it, with the number of its step; grey is folded, rewritten into something else, or a view of memory. After: a box for each step.";
    section(page, "graphs", "Before and after", about);
    page.open("div", &[("class", &"pair")]);
    let before = draw::graph(fusion.graph, &fusion.report.launches);
    for svg in [before, draw::plan(fusion.engine, fusion.image, None)?] {
        picture(page, &svg, "drawing");
    }
    page.close("div");
    let untold = fusion.report.launches.iter().all(|launch| launch.numbers.is_empty());
    end(page, untold.then_some("Which launch computes which node is not told where code was moved out of loops."));
    Ok(())
}

const COLUMNS: [(&str, bool); 9] = [
    ("step", true),
    ("region", false),
    ("launches", true),
    ("bytes", true),
    ("operations", true),
    ("roofline", true),
    ("modelled", true),
    ("of roofline", true),
    ("why", false),
];

/// Launches of one region that the same rules led to.
struct Row<'r> {
    first: &'r LaunchReport,
    uses: usize,
}

fn rows(report: &Report) -> Vec<Row<'_>> {
    let mut places: BTreeMap<(usize, Vec<&str>), usize> = BTreeMap::new();
    let mut rows: Vec<Row> = Vec::new();
    for launch in &report.launches {
        let rules = launch.rules.iter().map(|rule| rule.name.as_str()).collect();
        let at = *places.entry((launch.region, rules)).or_insert_with(|| {
            rows.push(Row { first: launch, uses: 0 });
            rows.len() - 1
        });
        rows[at].uses += 1;
    }
    rows
}

fn launches(page: &mut Markup, fusion: &Fusion<'_>) {
    let about = "One row a region, at its first step. Roofline: the longer of moving its bytes and doing its operations; modelled: what the cost model of fusion says of a launch, or what the timing cache has measured of it. Next best: what the model would take more without this kernel, by the best cover found near the chosen one. Click a heading to sort.";
    section(page, "launches", "Launches", about);
    if fusion.report.launches.is_empty() {
        return end(page, Some("The plan launches nothing: its outputs are constants."));
    }
    table::open(page, "launches", &COLUMNS);
    for row in rows(fusion.report) {
        launch(page, fusion, &row);
    }
    table::close(page);
    let nested = fusion.image.plan.steps.iter().any(|step| !step.nested().is_empty());
    end(page, nested.then_some("Branches and loops have plans of their own, whose launches are not in this table."));
}

/// Nodes of the model that a row names.
const NAMED: usize = 12;

fn launch(page: &mut Markup, fusion: &Fusion<'_>, row: &Row<'_>) {
    let launch = row.first;
    let region = &fusion.image.plan.regions[launch.region];
    page.open("tr", &[]);
    table::number(page, "step", Some(launch.step as f64), launch.step);
    page.open("td", &[("class", &"region"), ("data-label", &"region")]);
    page.content("span", &[("class", &"key"), ("style", &format!("background:{}", anchor(launch.anchor).1))], "");
    page.content("code", &[("class", &"name")], &launch.name);
    page.content("span", &[("class", &"summary")], &region.summary);
    if let Some(function) = &launch.function {
        page.content("span", &[], &format!("for the kernel {function}"));
    }
    page.content("span", &[("class", &"nodes")], &named(&launch.nodes));
    page.close("td");
    table::number(page, "launches", Some(row.uses as f64), row.uses);
    table::number(page, "bytes", Some(launch.bytes), bytes(launch.bytes as usize));
    table::number(page, "operations", Some(launch.ops), si(launch.ops, ""));
    table::number(page, "roofline", Some(launch.roofline() * 1e6), si(launch.roofline(), "s"));
    let how = if launch.measured { " measured" } else { "" };
    table::number(page, "modelled", Some(launch.seconds * 1e6), si(launch.seconds, "s") + how);
    let bound = if launch.memory >= launch.arithmetic { "memory is the bound" } else { "arithmetic is the bound" };
    let class = if launch.measured { "measured" } else { "modelled" };
    table::bar(page, "of roofline", Some(launch.roofline() / launch.seconds), class, bound);
    page.open("td", &[("class", &"why"), ("data-label", &"why")]);
    why(page, launch, fusion.report.next(launch.region));
    page.close("td");
    page.close("tr");
}

/// Names of nodes, the first of many.
pub fn named(nodes: &[String]) -> String {
    let shown = nodes.len().min(NAMED);
    let rest = if shown < nodes.len() { format!(" and {} more", nodes.len() - shown) } else { String::new() };
    nodes[..shown].join(", ") + &rest
}

fn why(page: &mut Markup, launch: &LaunchReport, next: Option<&NextBest>) {
    if launch.rules.is_empty() {
        page.content("p", &[], "computed as the model has it");
    } else {
        page.open("ul", &[]);
        for rule in &launch.rules {
            page.open("li", &[]);
            page.content("code", &[], &rule.name);
            page.content("span", &[], &format!("{}: {}", rule.numerics.name(), rule.reason));
            page.close("li");
        }
        page.close("ul");
    }
    let text = match next {
        None => "nothing else was among the candidates".to_owned(),
        Some(next) => format!("next best: {}", next_best(next)),
    };
    page.content("p", &[("class", &"next")], &text);
}

/// What the next best takes more, and what it is.
pub fn next_best(next: &NextBest) -> String {
    let sign = if next.seconds < 0.0 { "-" } else { "+" };
    let list = |kernels: &[KernelReport]| {
        let one = |kernel: &KernelReport| format!("{} ({})", kernel.summary, si(kernel.seconds, "s"));
        kernels.iter().map(one).collect::<Vec<_>>().join("; ")
    };
    let more = next.without.len().saturating_sub(1);
    let gone = match more {
        0 => String::new(),
        1 => " of it and another kernel".to_owned(),
        _ => format!(" of it and {more} other kernels"),
    };
    format!("{sign}{}, instead{gone}: {}", si(next.seconds.abs(), "s"), list(&next.instead))
}

fn rules(page: &mut Markup, report: &Report) {
    let about = "How often each rewrite rule found something new, be it that no launch came of it.";
    section(page, "rules", "Rules", about);
    if report.fired.is_empty() {
        return end(page, Some("No rule found anything new."));
    }
    table::open(
        page,
        "rules",
        &[("rule", false), ("class", false), ("fired", true), ("launches", true), ("reason", false)],
    );
    for (name, fired) in &report.fired {
        let known = rule(name);
        let led = report.launches.iter().filter(|l| l.rules.iter().any(|rule| rule.name == *name)).count();
        page.open("tr", &[]);
        page.open("td", &[("data-label", &"rule")]);
        page.content("code", &[], name);
        page.close("td");
        let class = known.as_ref().map_or("", |rule| rule.numerics.name());
        page.content("td", &[("data-label", &"class")], class);
        table::number(page, "fired", Some(*fired as f64), fired);
        table::number(page, "launches", Some(led as f64), led);
        page.content("td", &[("class", &"why"), ("data-label", &"reason")], known.as_ref().map_or("", |r| &r.reason));
        page.close("tr");
    }
    table::close(page);
    end(page, None);
}
