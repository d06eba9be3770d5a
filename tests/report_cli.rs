//! `kiln report` from outside: the page is read back as XML, and its figures are those of `kiln inspect`. NVRTC is fetched into `$KILN_HOME` if no other is found.

use kiln::engine::{BuildOptions, Engine, build};
use kiln::graph::{Builder, DType, Tensor};
use kiln_cuda::{Home, setup};
use kiln_graph::{Dim, Op};
use kiln_kernels::{Condition, Guard, candidates};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use kiln_tune::{Bucket, Measurements, Outcome, Problem, Record, append, quality_of};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

const HOSTILE: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" {{body}}";

/// Two layers that share a kernel, and a softmax, on up to 64 rows; everything that has a name has a hostile one.
fn layers(bounded: bool) -> Builder {
    let mut b = Builder::new(HOSTILE);
    let rows = b.symbol("rows", 1, if bounded { 64 } else { i64::MAX });
    let x = b.input(&format!("x{HOSTILE}"), DType::F16, &[rows, 96.into()]).unwrap();
    let mut y = x;
    for (i, seed) in [(0, 1), (1, 2)] {
        let w = b.weight_data(&format!("w{i}{HOSTILE}"), Tensor::random(DType::F16, &[96, 96], seed).unwrap()).unwrap();
        y = b.linear(y, w, None, false).unwrap();
    }
    let y = b.softmax(y, -1).unwrap();
    b.output(format!("y{HOSTILE}"), y);
    b
}

fn engine(dir: &Path, b: Builder, targets: &[&str]) -> Engine {
    let home = Home::from_env().unwrap();
    if targets.iter().any(|target| target.starts_with("sm")) {
        setup::setup(&home, |_| {}).unwrap();
    }
    let targets = targets.iter().map(|target| target.parse().unwrap()).collect();
    let options = BuildOptions { targets, ..BuildOptions::new(home) };
    build(&b.finish(), &options, &|_| {}).unwrap().0.save(dir.join("m.kiln")).unwrap();
    Engine::load(dir.join("m.kiln")).unwrap()
}

/// `kiln` where there is no timing cache but those that are named.
fn kiln(dir: &Path, args: &[&str]) -> Output {
    let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
    kiln.args(args).current_dir(dir).env("KILN_HOME", dir.join("home")).output().unwrap()
}

fn ok(dir: &Path, args: &[&str]) -> String {
    let out = kiln(dir, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    serde_json::from_str(&ok(dir, args)).unwrap()
}

fn fails(dir: &Path, args: &[&str], why: &str) {
    let out = kiln(dir, args);
    let error = String::from_utf8_lossy(&out.stderr).replace(['\n', '│'], " ");
    let error = error.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(out.status.code() == Some(2) && error.contains(why), "{args:?}: {error}");
}

fn report(dir: &Path, args: &[&str]) -> String {
    let said = ok(dir, &[&["report", "m.kiln", "-o", "r.html"], args].concat());
    assert_eq!(said, "-> r.html\n");
    fs::read_to_string(dir.join("r.html")).unwrap()
}

/// A page that is well-formed, asks nobody for anything, and has nothing that its names could have brought.
fn parsed(page: &str) -> Document<'_> {
    let doc = Document::parse_with_options(page, ParsingOptions { allow_dtd: true, ..Default::default() }).unwrap();
    let all = || doc.descendants().filter(|node| node.is_element());
    assert_eq!(all().filter(|node| node.has_tag_name("script")).count(), 1);
    let elements = ["img", "iframe", "object", "embed", "image", "use", "form", "foreignObject"];
    assert!(!all().any(|node| elements.iter().any(|tag| node.has_tag_name(*tag))), "{page}");
    for attribute in all().flat_map(|node| node.attributes()) {
        let (name, value) = (attribute.name(), attribute.value());
        assert!(!name.starts_with("on"), "{name}");
        assert!(!["src", "href"].contains(&name) || value.starts_with('#') || value == "data:,", "{name}={value}");
    }
    let style: String = all().filter(|node| node.has_tag_name("style")).filter_map(|node| node.text()).collect();
    assert!(!style.contains("@import") && !style.contains("url("), "{style}");
    // Rules of the page are no rules of the pictures in it.
    let svgs = all().filter(|node| matches!(node.attribute("class"), Some("plan" | "memory")));
    let classes: Vec<&str> = svgs
        .flat_map(|svg| svg.descendants())
        .filter_map(|node| node.attribute("class"))
        .flat_map(|all| all.split(' '))
        .collect();
    let own = all().find(|node| node.has_tag_name("style")).and_then(|node| node.text()).unwrap();
    for selector in own.lines().filter_map(|line| line.split_once('{')).flat_map(|(selectors, _)| selectors.split(','))
    {
        let first: &str = selector.trim().split([' ', ':']).next().unwrap();
        assert!(!classes.iter().any(|class| first == format!(".{class}")), "{selector}");
    }
    // As HTML reads it too: no element but these may close itself.
    for (at, _) in page.match_indices("/>") {
        let tag = &page[page[..at].rfind('<').unwrap() + 1..at];
        let tag = tag.split_whitespace().next().unwrap();
        assert!(["meta", "link", "rect", "line", "path", "circle"].contains(&tag), "<{tag}/>");
    }
    doc
}

/// All text, with single spaces.
fn text(node: Node) -> String {
    let all = node.descendants().filter(Node::is_text).filter_map(|node| node.text());
    all.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

fn by_id<'a>(doc: &'a Document<'a>, id: &str) -> Node<'a, 'a> {
    doc.descendants().find(|node| node.attribute("id") == Some(id)).unwrap()
}

/// The hint of a section: what is missing, and how to get it.
fn hint(doc: &Document, id: &str) -> Option<String> {
    by_id(doc, id).children().find(|node| node.attribute("class") == Some("hint")).map(text)
}

/// Rows of the table of kernels.
fn rows<'a>(doc: &'a Document<'a>) -> Vec<Node<'a, 'a>> {
    let body = by_id(doc, "kernels").descendants().find(|node| node.has_tag_name("tbody")).unwrap();
    body.children().filter(Node::is_element).collect()
}

fn cell<'a>(row: Node<'a, 'a>, label: &str) -> Node<'a, 'a> {
    row.children().find(|node| node.attribute("data-label") == Some(label)).unwrap()
}

fn value(row: Node, label: &str) -> Option<f64> {
    cell(row, label).attribute("data-v").map(|value| value.parse().unwrap())
}

fn classed<'a>(node: Node<'a, 'a>, class: &'a str) -> impl Iterator<Item = Node<'a, 'a>> {
    let has = move |node: &Node| node.attribute("class").is_some_and(|all| all.split(' ').any(|one| one == class));
    node.descendants().filter(has)
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs()
}

#[test]
fn a_page_has_the_figures_of_inspect_and_names_that_stay_names() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let engine = engine(dir, layers(true), &["cpu", "sm_80"]);
    let page = report(dir, &[]);
    let doc = parsed(&page);
    assert!(text(by_id(&doc, "stamp")).contains(HOSTILE));
    assert_eq!(doc.descendants().find(|node| node.has_tag_name("h1")).unwrap().text(), Some(HOSTILE));

    // The stamp.
    let header = json(dir, &["inspect", "m.kiln", "--json"]);
    let stamp = text(by_id(&doc, "stamp"));
    let string = |value: &Value| value.as_str().unwrap().to_owned();
    let toolchain = &header["targets"][1]["toolchain"];
    for said in [
        &header["stamp"]["graph_hash"],
        &header["stamp"]["kiln"],
        &toolchain["nvrtc"],
        &header["targets"][1]["config_hash"],
    ] {
        assert!(stamp.contains(&string(said)), "{said}: {stamp}");
    }
    let sections = header["sections"].as_array().unwrap();
    let listed: Vec<Node> = classed(by_id(&doc, "stamp"), "sections")
        .next()
        .unwrap()
        .descendants()
        .filter(|node| node.has_tag_name("tr"))
        .skip(1)
        .collect();
    assert_eq!(listed.len(), sections.len());
    for (row, section) in listed.iter().zip(sections) {
        for (label, field) in [("size", "length"), ("offset", "offset")] {
            assert_eq!(value(*row, label), section[field].as_f64());
        }
        assert!(text(*row).contains(&string(&section["blake3"])) && text(*row).contains(&string(&section["name"])));
    }

    // The kernels.
    let diff = json(dir, &["inspect", "--diff", "m.kiln", "m.kiln", "--json"]);
    let regions = diff["targets"]["sm_80"]["regions"].as_array().unwrap();
    let rows = rows(&doc);
    assert_eq!(rows.len(), regions.len());
    for region in regions {
        let (name, side) = (string(&region["name"]), &region["sides"]["a"]);
        let row = *rows.iter().find(|row| text(**row).contains(&name)).unwrap();
        let kernel = &side["kernels"][0];
        for (label, expected) in [
            ("launches", &side["uses"]),
            ("registers", &kernel["registers"]),
            ("spilled", &kernel["spill_bytes"]),
            ("shared", &kernel["shared_bytes"]),
            ("modelled", &side["modelled_us"]),
        ] {
            assert!(near(value(row, label).unwrap(), expected.as_f64().unwrap()), "{label} of {name}");
        }
        assert_eq!(text(cell(row, "family")), string(&kernel["family"]));
        assert_eq!(value(row, "measured"), None);
        assert!(near(value(row, "roofline").unwrap(), value(row, "floor").unwrap() / value(row, "modelled").unwrap()));
    }
    let product = *rows.iter().find(|row| text(**row).contains("gemm_")).unwrap();
    // At 64 rows, as nobody said otherwise: operands and results once, two operations an element of the depth.
    let (m, n) = (64.0, 96.0);
    assert_eq!(value(product, "bytes"), Some(2.0 * (2.0 * m * n + n * n)));
    assert_eq!(value(product, "operations"), Some(2.0 * m * n * n));
    let gpu = Gpu::typical(Arch::Sm80).unwrap();
    let floor = 2.0 * (2.0 * m * n + n * n) / (gpu.bandwidth_gbs * 1e9);
    assert!(near(value(product, "floor").unwrap(), 1e6 * floor));

    // A dot a kernel, with the share that its row has; bars as wide.
    for row in &rows {
        let number = row.attribute("id").unwrap().strip_prefix('k').unwrap();
        let dots = by_id(&doc, "roofline").descendants().filter(|node| node.attribute("data-kernel") == Some(number));
        let dots: Vec<Node> = dots.collect();
        let share = format!("{:.0} % of the roofline", 100.0 * value(*row, "roofline").unwrap());
        assert!(dots.len() == 1 && text(dots[0]).contains(&share) && text(dots[0]).contains("modelled"), "{share}");
    }

    // The pictures are those of inspect.
    let graph: &[&str] = &["inspect", "m.kiln", "--target", "sm_80", "--graph", "p.svg", "--memory", "m.svg"];
    ok(dir, graph);
    for (file, id) in [("p.svg", "plan"), ("m.svg", "memory")] {
        let svg = fs::read_to_string(dir.join(file)).unwrap();
        assert!(page.contains(&svg), "{file}");
        // Their rules are of themselves alone.
        let style = svg.split("<style>\n").nth(1).unwrap().split("</style>").next().unwrap();
        assert!(style.lines().all(|rule| rule.starts_with(&format!("svg.{id} "))), "{style}");
    }
    assert_eq!((hint(&doc, "plan"), hint(&doc, "memory")), (None, None));

    // What is missing says how to get it.
    assert!(hint(&doc, "kernels").unwrap().contains("kiln bench ENGINE --device cuda:0 --profile-kernels --json"));
    for id in ["tuning", "model"] {
        let hint = hint(&doc, id).unwrap();
        assert!(hint.contains("There is no timing cache") && hint.contains("kiln tune ENGINE"), "{hint}");
    }
    // Same bytes, and the default name.
    ok(dir, &["report", "m.kiln"]);
    assert_eq!(fs::read_to_string(dir.join("m.html")).unwrap(), page);
    assert_eq!(engine.targets.len(), 2);
}

#[test]
fn the_cpu_s_page_has_the_times_of_its_profile() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    engine(dir, layers(false), &["cpu"]);
    let page = report(dir, &[]);
    let doc = parsed(&page);
    assert!(hint(&doc, "roofline").unwrap().contains("are known of GPUs alone"));
    assert!(hint(&doc, "memory").unwrap().contains("has no largest value"));
    assert!(hint(&doc, "tuning").unwrap().contains("tuned for GPUs"));
    assert!(hint(&doc, "kernels").unwrap().contains("kiln bench ENGINE --device cpu --profile-kernels --json"));
    assert!(rows(&doc).iter().all(|row| value(*row, "measured").is_none() && value(*row, "floor").is_none()));

    let shape = format!("x{HOSTILE}=37x96");
    let profile = json(
        dir,
        &[
            "bench",
            "m.kiln",
            "--shape",
            &shape,
            "--iterations",
            "1",
            "--duration",
            "0",
            "--warm-up",
            "0",
            "--profile-kernels",
            "--json",
        ],
    );
    fs::write(dir.join("p.json"), profile.to_string()).unwrap();
    let page = report(dir, &["--profile", "p.json", "--shape", &shape]);
    let doc = parsed(&page);
    assert_eq!(hint(&doc, "memory"), None);
    assert!(report(dir, &["--shape", &shape]).contains("at the sizes of the shapes given: rows = 37"));
    let page = report(dir, &["--profile", "p.json"]);
    let doc = parsed(&page);
    assert!(page.contains("at the sizes of the profile: rows = 37"));
    let steps = profile["kernels"].as_array().unwrap();
    let mut run = 0.0;
    for row in rows(&doc) {
        let own = |step: &&Value| text(cell(row, "region")).contains(step["kernel"].as_str().unwrap());
        let own: Vec<&Value> = steps.iter().filter(own).collect();
        let ms: f64 = own.iter().map(|step| step["ms"].as_f64().unwrap()).sum();
        assert_eq!(value(row, "launches"), Some(own.len() as f64));
        let mean = 1e3 * ms / own.len() as f64;
        assert!((value(row, "measured").unwrap() / mean - 1.0).abs() < 1e-6);
        assert_eq!(text(cell(row, "family")), own[0]["implementation"].as_str().unwrap());
        run += value(row, "of run").unwrap();
    }
    assert!(near(run, 1.0) && hint(&doc, "kernels").is_none());
    let product = rows(&doc).into_iter().find(|row| value(*row, "launches") == Some(2.0)).unwrap();
    assert_eq!(value(product, "operations"), Some(2.0 * 37.0 * 96.0 * 96.0));

    // Files that are something else.
    fs::write(dir.join("cut.json"), &profile.to_string()[..100]).unwrap();
    fails(dir, &["report", "m.kiln", "--profile", "cut.json"], "cannot read the profile cut.json");
    let with = |field: &str, value: Value| {
        let mut changed = profile.clone();
        *changed.pointer_mut(field).unwrap() = value;
        fs::write(dir.join("other.json"), changed.to_string()).unwrap();
    };
    for (field, changed, why) in [
        ("/kernels/0/kernel", "<b>".into(), "step 0 is `<b>` in the profile"),
        ("/kernels/1/ms", (-1.0).into(), "step 1 takes -1 ms in the profile"),
        ("/kernels", Value::Array(vec![]), "the profile has 0 steps"),
        ("/target", "sm_80".into(), "expected sm_80, found cpu"),
        ("/shapes", serde_json::json!({ "z": [1] }), "the model has no such input"),
    ] {
        with(field, changed);
        fails(dir, &["report", "m.kiln", "-o", "no.html", "--profile", "other.json"], why);
    }
    fails(dir, &["report", "m.kiln", "-o", "no.html", "--shape", "z=3"], "the model has no such input");
    fails(dir, &["report", "m.kiln", "-o", "m.kiln"], "it is the input m.kiln");
    fails(dir, &["report", "m.kiln", "-o", "p.json", "--profile", "p.json"], "it is the input p.json");
    fails(dir, &["report", "m.kiln", "-o", "no.html", "--target", "sm_90a"], "expected sm_90a, found cpu");
    assert!(!dir.join("no.html").exists());
}

/// Records of the first `count` candidates of each region of an engine for an A100, of which one cannot be used.
fn records(engine: &Engine, count: usize) -> Vec<Record> {
    let image = engine.target("sm_80").unwrap();
    let toolchain = image.toolchain.clone().unwrap();
    let gpu = Gpu::typical(Arch::Sm80).unwrap();
    let mut rng = kiln_graph::Rng::new(5);
    let mut all = vec![];
    for used in engine.subjects("sm_80").unwrap() {
        let sizes = &used.subject.sizes;
        let problem = Problem {
            region: used.id.to_string(),
            shape: sizes.iter().map(|(symbol, size)| (symbol.clone(), Bucket::of(*size))).collect(),
            gpu: "NVIDIA A100-SXM4-80GB".into(),
            clock_mhz: (gpu.clock_ghz * 1e3).round() as u32,
            memory_gbs: gpu.bandwidth_gbs as u32,
            arch: "sm_80".into(),
            nvrtc: toolchain.nvrtc.clone(),
            options: toolchain.options.clone(),
            tf32: false,
            kiln: engine.kiln.clone(),
        };
        for (i, way) in candidates(&used.subject, &gpu).unwrap().into_iter().take(count).enumerate() {
            let ns = way.estimate.unwrap().seconds * 1e9 * (0.7 + 0.9 * rng.unit());
            let outcome =
                if i == 1 { Outcome::Invalid("it spills <b>".into()) } else { Outcome::Ns(vec![ns as u64; 3]) };
            let (family, config) = (way.family.to_string(), way.config);
            all.push(Record {
                problem: problem.clone(),
                sizes: sizes.clone(),
                family,
                config,
                code: "c0de".into(),
                outcome,
            });
        }
    }
    all
}

#[test]
fn a_timing_cache_gives_history_measured_times_and_the_model_s_quality() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let engine = engine(dir, layers(true), &["sm_80"]);
    let mut all = records(&engine, 9);
    let own = all.clone();
    // What does not count: another compiler, nothing measured, another region, sizes that are none; and another GPU, which is named.
    let other = |change: fn(&mut Record)| {
        let mut record = own[0].clone();
        change(&mut record);
        record
    };
    all.push(other(|record| record.problem.nvrtc = "1.0".into()));
    all.push(other(|record| (record.config, record.outcome) = (serde_json::json!({ "bm": 1 }), Outcome::Ns(vec![]))));
    all.push(other(|record| record.problem.region = "00".into()));
    all.push(other(|record| record.problem.gpu = "NVIDIA <i>A10</i>".into()));
    append(&dir.join("t.jsonl"), &all).unwrap();
    let page = report(dir, &["--timings", "t.jsonl"]);
    let doc = parsed(&page);
    assert!([hint(&doc, "kernels"), hint(&doc, "tuning"), hint(&doc, "model")].iter().all(Option::is_none));
    assert!(text(by_id(&doc, "tuning")).contains("times of NVIDIA <i>A10</i> too"));

    let subjects = engine.subjects("sm_80").unwrap();
    let cards: Vec<Node> = by_id(&doc, "tuning").descendants().filter(|node| node.has_tag_name("article")).collect();
    assert_eq!(cards.len(), subjects.len());
    let gpu = Gpu::typical(Arch::Sm80).unwrap();
    let mut ways = vec![];
    for used in &subjects {
        let of: Vec<&Record> = own.iter().filter(|record| record.problem.region == used.id.to_string()).collect();
        let found = candidates(&used.subject, &gpu).unwrap();
        let card = *cards.iter().find(|card| text(**card).contains(&used.subject.region.name)).unwrap();
        let (timed, said) = (of.len() - 1, text(card));
        assert!(said.contains(&format!("{} of {} tried", of.len(), found.len())), "{said}");
        assert!(said.contains(&format!("{timed} timed, 1 unusable")) && said.contains("1x it spills <b>"), "{said}");
        assert_eq!((classed(card, "dot").count(), classed(card, "unusable").count()), (timed, 1));
        // The engine has what the model ranks first, and its row the time of that.
        let row = rows(&doc).into_iter().find(|row| text(*row).contains(&used.subject.region.name)).unwrap();
        let Outcome::Ns(times) = &of[0].outcome else { panic!("the first was timed") };
        assert!(near(value(row, "measured").unwrap(), times[0] as f64 * 1e-3));
        assert!(near(value(row, "roofline").unwrap(), value(row, "floor").unwrap() / value(row, "measured").unwrap()));
        assert_eq!(classed(card, "chosen").count(), 1);
        ways.push((of, found));
    }
    let timed: Vec<Measurements> = ways
        .iter()
        .map(|(of, found)| {
            let seconds = |record: &Record| record.outcome.median().map(|ns| ns as f64 * 1e-9);
            of.iter().zip(found).filter_map(|(record, way)| Some((way.model.as_ref()?, seconds(record)?))).collect()
        })
        .collect();
    let quality = quality_of(&timed, &Gpu { name: "NVIDIA A100-SXM4-80GB".into(), ..gpu });
    let said = text(by_id(&doc, "model"));
    assert!(quality.spearman < 0.999 && said.contains(&format!("Spearman {:.3}:", quality.spearman)), "{said}");
    let dots: Vec<Node> = classed(by_id(&doc, "model"), "dot").collect();
    assert_eq!(dots.len(), quality.candidates);
    // On one side of the diagonal where the model is too fast, on the other where it is too slow.
    let diagonal = classed(by_id(&doc, "model"), "diagonal").next().unwrap();
    let number = |node: Node, name: &str| node.attribute(name).unwrap().parse::<f64>().unwrap();
    let [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map(|name| number(diagonal, name));
    let above = |dot: &Node| number(*dot, "cy") < y1 + (number(*dot, "cx") - x1) * (y2 - y1) / (x2 - x1) - 1.0;
    let slower = timed
        .iter()
        .flatten()
        .filter(|(model, seconds)| *seconds > 1.02 * model(&Gpu::typical(Arch::Sm80).unwrap()).seconds)
        .count();
    let found = dots.iter().filter(|dot| above(dot)).count();
    assert!(slower > 0 && found.abs_diff(slower) <= 2, "{found} {slower}");

    // Damage is said; a file that is something else is refused.
    let mut bytes = fs::read(dir.join("t.jsonl")).unwrap();
    bytes.extend(b"{\"format\": 2, \"region\"\n");
    fs::write(dir.join("cut.jsonl"), bytes).unwrap();
    let doc = report(dir, &["--timings", "cut.jsonl"]);
    assert!(hint(&parsed(&doc), "tuning").unwrap().starts_with("1 lines of the timing cache are damaged"));
    fs::write(dir.join("no.jsonl"), "nothing\nof the kind\n").unwrap();
    fails(dir, &["report", "m.kiln", "-o", "no.html", "--timings", "no.jsonl"], "none of its 2 lines can be read");
    fails(
        dir,
        &["report", "m.kiln", "-o", "no.html", "--timings", "missing.jsonl"],
        "there is no timing cache missing.jsonl",
    );
    fails(dir, &["report", "m.kiln", "-o", "t.jsonl", "--timings", "t.jsonl"], "it is the input t.jsonl");
    // One in $KILN_HOME is found.
    fs::create_dir_all(dir.join("home")).unwrap();
    fs::copy(dir.join("t.jsonl"), dir.join("home/timings.jsonl")).unwrap();
    let page = report(dir, &[]);
    assert_eq!(hint(&parsed(&page), "tuning"), None);
    // Sizes that the region cannot have.
    let mut far = own;
    far.iter_mut().for_each(|record| record.sizes.values_mut().for_each(|size| *size = 1 << 40));
    append(&dir.join("far.jsonl"), &far).unwrap();
    let page = report(dir, &["--timings", "far.jsonl"]);
    assert!(parsed(&page).descendants().all(|node| !node.has_tag_name("article")));
}

#[test]
fn a_profile_s_times_are_those_of_the_variants_that_ran() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut engine = engine(dir, layers(true), &["cpu", "sm_80"]);
    // Products of up to 16 rows by a kernel of their own.
    let mut regions = engine.targets[1].kernels.values_mut().map(|compiled| &mut compiled.variants);
    let variants = regions.find(|variants| variants[0].implementation.family == "gemm").unwrap();
    let mut small = variants[0].clone();
    small.guard = Guard(vec![Condition::AtMost("s0".into(), 16)]);
    variants.insert(0, small);
    engine.save(dir.join("m.kiln")).unwrap();
    let rows_of = |page: &str| -> Vec<(bool, bool, bool)> {
        let doc = parsed(page);
        let products = rows(&doc).into_iter().filter(|row| text(cell(*row, "family")) == "gemm");
        let mut found: Vec<_> = products
            .map(|row| {
                (text(row).contains("if s0 <= 16"), value(row, "floor").is_some(), value(row, "measured").is_some())
            })
            .collect();
        found.sort();
        found
    };
    assert_eq!(rows_of(&report(dir, &[])), [(false, true, false), (true, false, false)]);
    let shape = format!("x{HOSTILE}=9x96");
    assert_eq!(rows_of(&report(dir, &["--shape", &shape])), [(false, false, false), (true, true, false)]);

    // At the profile's shapes the other one runs.
    let args =
        ["--shape", &shape, "--iterations", "1", "--duration", "0", "--warm-up", "0", "--profile-kernels", "--json"];
    let profile = json(dir, &[&["bench", "m.kiln", "--device", "sim:sm_80:fast"], &args[..]].concat());
    fs::write(dir.join("p.json"), profile.to_string()).unwrap();
    let page = report(dir, &["--profile", "p.json"]);
    assert!(page.contains("at the sizes of the profile: rows = 9") && page.contains("on sim:sm_80"));
    assert_eq!(rows_of(&page), [(false, false, false), (true, true, true)]);
    let doc = parsed(&page);
    assert_eq!(hint(&doc, "kernels"), None);
    let steps = profile["kernels"].as_array().unwrap();
    for row in rows(&doc).into_iter().filter(|row| value(*row, "floor").is_some()) {
        let own = |step: &&Value| text(cell(row, "region")).contains(step["kernel"].as_str().unwrap());
        let times: Vec<f64> = steps.iter().filter(own).map(|step| step["ms"].as_f64().unwrap()).collect();
        let mean = 1e3 * times.iter().sum::<f64>() / times.len() as f64;
        assert!(
            (value(row, "measured").unwrap() / mean - 1.0).abs() < 1e-6 && text(cell(row, "measured")).ends_with('*')
        );
    }
    fails(
        dir,
        &["report", "m.kiln", "--profile", "p.json", "--target", "cpu"],
        "the profile is of target sm_80, expected cpu",
    );
}

#[test]
fn plans_with_branches_and_loops_have_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut body = Builder::new("body");
    let _ = body.input("i", DType::I64, &[]).unwrap();
    let go = body.input("go", DType::Bool, &[]).unwrap();
    let state = body.input("state", DType::F32, &[5.into(), 5.into()]).unwrap();
    let next = body.softmax(state, 1).unwrap();
    body.output("go", go);
    body.output("state", next);
    let mut b = Builder::new("loop");
    let x = b.input("x", DType::F32, &[5.into(), 5.into()]).unwrap();
    let trip = b.scalar_int(DType::I64, 3).unwrap();
    let go = b.scalar_int(DType::Bool, 1).unwrap();
    let op = Op::Loop { body: Box::new(body.finish()), carried: 1, trip: Some(Dim::from(3)) };
    let y = b.add1(op, &[trip, go, x]).unwrap();
    let y = b.exp(y).unwrap();
    b.output("y", y);
    engine(dir, b, &["cpu"]);
    let profile = json(
        dir,
        &["bench", "m.kiln", "--iterations", "1", "--duration", "0", "--warm-up", "0", "--profile-kernels", "--json"],
    );
    fs::write(dir.join("p.json"), profile.to_string()).unwrap();
    let page = report(dir, &["--profile", "p.json"]);
    let doc = parsed(&page);
    // The softmax is one of the loop's, whose time is the loop's.
    let inside = rows(&doc).into_iter().find(|row| text(*row).contains("softmax")).unwrap();
    assert!(value(inside, "measured").is_none() && page.contains("is inside branches and loops"));
}
