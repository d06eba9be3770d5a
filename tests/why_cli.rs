//! `kiln inspect --why` and `kiln build --fusion-report` from outside.

use kiln::engine::{BuildOptions, PLANS, build, build_plans};
use kiln::fuse::{Fused, Numerics, fuse};
use kiln::graph::{Builder, DType, Graph, Tensor};
use kiln::tune::{Outcome, Problem, Record, code};
use kiln_graph::{CompareOp, Op};
use kiln_target::{Gpu, Target};
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// `a = silu(x w)`, `softmax(a / sqrt(v))` and `a w2`, where `v` is one number a row: a rule makes one product of the quotient.
fn model(dir: &Path) -> Graph {
    let ports: &[(&str, &[&str])] =
        &[("x", &["96", "64"]), ("w", &["64", "128"]), ("v", &["96", "1"]), ("w2", &["128", "64"])];
    let nodes: &[(&str, &[&str], &str)] = &[
        ("MatMul", &["x", "w"], "p"),
        ("Sigmoid", &["p"], "g"),
        ("Mul", &["p", "g"], "a"),
        ("Sqrt", &["v"], "r"),
        ("Div", &["a", "r"], "q"),
        ("Softmax", &["q"], "s"),
        ("MatMul", &["a", "w2"], "<y>"),
    ];
    let file = dir.join("m.onnx");
    fs::write(
        &file,
        crate::files_cli::onnx::model(ports, &[], nodes, &[("<y>", &["96", "64"]), ("s", &["96", "128"])]),
    )
    .unwrap();
    kiln::import::onnx::load(&file, &Default::default()).unwrap()
}

fn kiln(dir: &Path, args: &str) -> Output {
    let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
    kiln.args(args.split_whitespace()).current_dir(dir).env("KILN_HOME", dir.join("home")).output().unwrap()
}

fn ok(dir: &Path, args: &str) -> String {
    let out = kiln(dir, args);
    assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn json(dir: &Path, args: &str) -> Value {
    serde_json::from_str(&ok(dir, args)).unwrap()
}

fn fails(dir: &Path, args: &str, why: &str) {
    let out = kiln(dir, args);
    let error = String::from_utf8_lossy(&out.stderr).replace(['\n', '│'], " ");
    let error = error.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(out.status.code() == Some(2) && error.contains(why), "{args}: {error}");
}

fn fused(graph: &Graph, target: &str) -> Fused {
    let options = BuildOptions::new(kiln_cuda::Home::from_env().unwrap());
    fuse(graph, &options.fusion(&target.parse().unwrap(), &[])).unwrap()
}

#[test]
fn a_region_is_explained_by_step_name_or_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let graph = model(dir);
    let Fused { plan, report } = fused(&graph, "sm_90a");
    assert!(report.launches.len() > 1, "{plan}");
    let why = |region: &str, more: &str| json(dir, &format!("inspect m.onnx --why {region} --json {more}"));
    let mut others = 0;
    for launch in &report.launches {
        let all = why(&launch.step.to_string(), "--target sm_90a");
        assert_eq!((&all["target"], &all["numerics"]), (&"sm_90a".into(), &"reassoc".into()));
        let [one] = &all["regions"].as_array().unwrap()[..] else { panic!("{all}") };
        let told = &one["launch"];
        assert_eq!(told["name"], launch.name.as_str());
        assert_eq!(told["rules"], serde_json::to_value(&launch.rules).unwrap());
        for (field, expected) in [("bytes", launch.bytes), ("ops", launch.ops), ("seconds", launch.seconds)] {
            assert!((told[field].as_f64().unwrap() / expected - 1.0).abs() < 1e-9, "{field}");
        }
        assert!((one["roofline"].as_f64().unwrap() / launch.roofline() - 1.0).abs() < 1e-9);
        assert_eq!(why(&launch.name, "--target sm_90a"), all);
        // For people: names, rules and reasons, the next best.
        let text = ok(dir, &format!("inspect m.onnx --target sm_90a --why {}", launch.name));
        assert!(
            text.starts_with(&format!("#{} {} for sm_90a, numerics reassoc\n", launch.step, launch.name)),
            "{text}"
        );
        let words = launch.rules.iter().flat_map(|rule| [&rule.name, &rule.reason]).chain(&launch.nodes);
        assert!(words.into_iter().all(|word| text.contains(word)), "{text}");
        match report.next(launch.region) {
            Some(next) => {
                others += 1;
                let summary = &next.instead[0].summary;
                assert!(next.seconds > 0.0 && text.contains("next best  +") && text.contains(summary), "{text}");
            }
            // A product whose operands and result are in memory anyway.
            None => assert!(text.contains("nothing else was among the candidates"), "{text}"),
        }
    }
    assert!(others > 1, "{plan}");
    let products: Vec<&str> =
        report.launches.iter().map(|l| l.name.as_str()).filter(|name| name.starts_with("gemm")).collect();
    let all = why("gemm", "--target sm_90a");
    assert_eq!(all["regions"].as_array().unwrap().len(), products.len());

    // What is asked for decides which rules there are: the quotient stays one.
    let rules = |more: &str| -> Vec<String> {
        let all = why("0", more);
        let rules = (0..report.launches.len()).flat_map(|i| {
            let all = if i == 0 { all.clone() } else { why(&i.to_string(), more) };
            all["regions"][0]["launch"]["rules"].as_array().unwrap().clone()
        });
        rules.map(|rule| rule["name"].as_str().unwrap().to_owned()).collect()
    };
    assert!(rules("--target sm_90a").iter().any(|name| name.starts_with("div-sqrt")));
    assert!(!rules("--target sm_90a --numerics exact").iter().any(|name| name.starts_with("div-sqrt")));
    assert_eq!(why("0", "--numerics exact --target sm_90a")["numerics"], "exact");
    assert_eq!(why("0", "")["target"], "cpu");

    for (args, said) in [
        ("m.onnx --why nothing", "no region is named like `nothing`; there are:"),
        ("m.onnx --why 99", "step 99 is not in the plan, which has steps 0 to"),
        ("m.onnx --why 0 --target sm_12", "sm_12"),
        ("m.onnx --why 0 --plan", "cannot be used with"),
        ("m.onnx --numerics exact", "--why"),
        ("m.onnx --why 0 --shape x=3", "x"),
    ] {
        fails(dir, &format!("inspect {args}"), said);
    }
}

#[test]
fn prices_are_said_to_be_measured_where_a_timing_cache_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let graph = model(dir);
    let gpu = Gpu::named("h100").unwrap();
    let home = kiln_cuda::Home::from_env().unwrap();
    let options = BuildOptions { targets: vec![Target::Gpu(gpu.clone())], ..BuildOptions::new(home.clone()) };
    let engine = build(&graph, &options, &|_| {}).unwrap().0;
    let toolchain = engine.targets[0].toolchain.clone().unwrap();
    // On such a GPU with a higher clock the first kernel takes a little longer than modelled.
    let gpu = Gpu { name: "NVIDIA H100 80GB HBM3".into(), clock_ghz: 1.995, ..gpu };
    let used = engine.subjects("sm_90a").unwrap().remove(0);
    let way = kiln_kernels::candidates(&used.subject, &gpu).unwrap().remove(0);
    let ns = (1.1e9 * way.estimate.unwrap().seconds) as u64;
    let record = Record {
        problem: Problem::of(used.id, &used.subject, &gpu, &toolchain),
        sizes: Default::default(),
        family: way.family.to_string(),
        config: way.config.clone(),
        code: code(&way.make().unwrap().1),
        outcome: Outcome::Ns(vec![ns]),
    };
    kiln::tune::append(&dir.join("t.jsonl"), &[record]).unwrap();
    let name = &used.subject.region.name;
    let inspect = |more: &str| -> String {
        let args = format!("inspect m.onnx --why {name} --target h100 {more}");
        let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
        let out = kiln.args(args.split_whitespace()).current_dir(dir).env("KILN_HOME", home.root()).output().unwrap();
        assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let said = inspect("--timings t.jsonl");
    assert!(said.contains("\n  measured   ") && !said.contains("modelled "), "{said}");
    assert!(inspect("").contains("\n  modelled   "), "{}", inspect(""));
    let told: Value = serde_json::from_str(&inspect("--timings t.jsonl --json")).unwrap();
    let launch = &told["regions"][0]["launch"];
    assert_eq!(launch["measured"], true);
    assert!((launch["seconds"].as_f64().unwrap() / (ns as f64 * 1e-9) - 1.0).abs() < 1e-4, "{launch}");
    fails(dir, "inspect m.onnx --why 0 --timings t.jsonl", "nothing is measured for cpu");
    fails(dir, "inspect m.onnx --why 0 --target h100 --timings none.jsonl", "there is no timing cache none.jsonl");
}

#[test]
fn an_engine_is_explained_if_it_keeps_its_model() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut b = Builder::new("kept");
    let x = b.input("x", DType::F32, &[24.into(), 32.into()]).unwrap();
    let w = b.weight_data("w", Tensor::random(DType::F32, &[48, 32], 3).unwrap()).unwrap();
    let y = b.linear(x, w, None, true).unwrap();
    let square = b.mul(y, y).unwrap();
    let root = b.sqrt(square).unwrap();
    let y = b.softmax(y, -1).unwrap();
    let y = b.div(y, root).unwrap();
    b.output("y", y);
    b.output("x", x);
    let graph = b.finish();
    let options = BuildOptions::new(kiln_cuda::Home::at(dir.join("home")));
    let mut engine = build(&graph, &options, &|_| {}).unwrap().0;
    engine.save(dir.join("bare.kiln")).unwrap();
    engine.keep_model(&graph).unwrap();
    engine.save(dir.join("kept.kiln")).unwrap();
    let report = fused(&graph, "cpu").report;
    for launch in &report.launches {
        let all = json(dir, &format!("inspect kept.kiln --why {} --json", launch.step));
        assert_eq!(all["regions"][0]["launch"]["name"], launch.name.as_str());
    }
    let copy = report.launches.len();
    fails(dir, &format!("inspect kept.kiln --why {copy}"), "copies a value, for outputs are memory of their own");
    fails(dir, "inspect bare.kiln --why 0", "bare.kiln does not keep its model's weights");
    fails(dir, "inspect kept.kiln --why 0 --numerics exact", "which says itself how it was built");
    fails(dir, "inspect kept.kiln --why 0 --target sm_80", "expected sm_80, found cpu");
    assert!(ok(dir, "inspect bare.kiln").contains("\nnumerics reassoc\n"));

    // Tuning may have kept a plan that is not the first.
    let plans = build_plans(&model(dir), &options, PLANS, &|_| {}).unwrap();
    assert!(plans.len() > 1);
    for (mut plan, report) in plans {
        plan.keep_model(&model(dir)).unwrap();
        plan.save(dir.join("plan.kiln")).unwrap();
        for launch in &report.targets[0].fusion.launches {
            let all = json(dir, &format!("inspect plan.kiln --why {} --json", launch.step));
            assert_eq!(all["regions"][0]["launch"]["name"], launch.name.as_str());
        }
    }

    // One whose plan is not what its settings give.
    engine.settings.numerics = Numerics::Exact;
    engine.save(dir.join("other.kiln")).unwrap();
    fails(dir, "inspect other.kiln --why 0", "fuses the model otherwise than Kiln");
}

/// A page that is well-formed and asks nobody for anything.
fn parsed(page: &str) -> Document<'_> {
    let doc = Document::parse_with_options(page, ParsingOptions { allow_dtd: true, ..Default::default() }).unwrap();
    for node in doc.descendants().filter(|node| node.is_element()) {
        assert!(!["img", "iframe", "image", "use"].contains(&node.tag_name().name()), "{:?}", node.tag_name());
        let outside = |a: &roxmltree::Attribute| {
            ["src", "href"].contains(&a.name()) && !a.value().starts_with('#') && a.value() != "data:,"
        };
        assert!(!node.attributes().any(|a| outside(&a) || a.name().starts_with("on")));
    }
    let ids: Vec<&str> = doc.descendants().filter_map(|node| node.attribute("id")).collect();
    let mut distinct = ids.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(ids.len(), distinct.len(), "an id is there twice: {ids:?}");
    // As HTML reads it too: no element but these may close itself.
    for (at, _) in page.match_indices("/>") {
        let tag = &page[page[..at].rfind('<').unwrap() + 1..at];
        let tag = tag.split_whitespace().next().unwrap();
        assert!(["meta", "link", "rect", "line", "path", "circle"].contains(&tag), "<{tag}/>");
    }
    doc
}

fn text(node: Node) -> String {
    let all = node.descendants().filter(Node::is_text).filter_map(|node| node.text());
    all.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

fn by_id<'a>(doc: &'a Document<'a>, id: &str) -> Node<'a, 'a> {
    doc.descendants().find(|node| node.attribute("id") == Some(id)).unwrap()
}

fn rows<'a>(doc: &'a Document<'a>, id: &str) -> Vec<Node<'a, 'a>> {
    let body = by_id(doc, id).descendants().find(|node| node.has_tag_name("tbody")).unwrap();
    body.children().filter(Node::is_element).collect()
}

fn cell<'a>(row: Node<'a, 'a>, label: &str) -> Node<'a, 'a> {
    row.children().find(|node| node.attribute("data-label") == Some(label)).unwrap()
}

fn value(row: Node, label: &str) -> f64 {
    cell(row, label).attribute("data-v").unwrap().parse().unwrap()
}

#[test]
fn a_page_has_both_graphs_and_the_figures_of_the_report() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let graph = model(dir);
    let said = ok(dir, "build m.onnx -o m.kiln --fusion-report f.html");
    assert!(said.ends_with("-> f.html\n"), "{said}");
    let page = fs::read_to_string(dir.join("f.html")).unwrap();
    let doc = parsed(&page);
    let Fused { plan, report } = fused(&graph, "cpu");

    // A box for each node before, joined as the nodes are, with the step that computes it; after, what inspect draws.
    let svgs: Vec<Node> = by_id(&doc, "graphs").descendants().filter(|node| node.has_tag_name("svg")).collect();
    let [before, _] = svgs[..] else { panic!("{} pictures", svgs.len()) };
    let drawn = |id: &str| before.descendants().find(|node| node.attribute("data-id") == Some(id));
    let wired = |from: &str, to: &str| {
        let is = |node: &Node, end: &str, id: &str| node.attribute(end) == Some(id);
        before.descendants().any(|node| is(&node, "data-from", from) && is(&node, "data-to", to))
    };
    let literal = |op: &Op| matches!(op, Op::Const { .. } | Op::Weight { .. });
    let mut coloured = 0;
    for (i, node) in graph.nodes.iter().enumerate() {
        let id = format!("n{i}");
        assert_eq!(drawn(&id).is_some(), !literal(&node.op), "{id} {}", node.op.name());
        let Some(found) = drawn(&id) else { continue };
        assert!(text(found).contains(node.op.name()));
        for launch in report.launches.iter().filter(|launch| launch.numbers.contains(&(i as u32))) {
            coloured += 1;
            assert!(text(found).contains(&format!("#{}", launch.step)) && text(found).contains(&launch.name));
        }
        for from in node.inputs.iter().map(|v| graph.value(*v).node.0) {
            let direct = wired(&format!("n{from}"), &id);
            assert!(direct || literal(&graph.nodes[from as usize].op), "n{from} {id}");
        }
    }
    assert!(coloured >= 7, "{coloured}");
    ok(dir, "inspect m.kiln --graph p.svg");
    assert!(page.contains(&fs::read_to_string(dir.join("p.svg")).unwrap()));

    // Launches.
    let launches = rows(&doc, "launches");
    assert_eq!(launches.len(), report.launches.len());
    for (row, launch) in launches.iter().zip(&report.launches) {
        for (label, expected) in [
            ("step", launch.step as f64),
            ("launches", 1.0),
            ("bytes", launch.bytes),
            ("operations", launch.ops),
            ("roofline", launch.roofline() * 1e6),
            ("modelled", launch.seconds * 1e6),
            ("of roofline", launch.roofline() / launch.seconds),
        ] {
            let found = value(*row, label);
            assert!((found - expected).abs() <= 1e-9 * expected.abs(), "{label}: {found} {expected}");
        }
        let (said, summary) = (text(*row), &plan.regions[launch.region].summary);
        assert!(
            said.contains(&launch.name) && said.contains(&summary.split_whitespace().collect::<Vec<_>>().join(" "))
        );
        let why = text(cell(*row, "why"));
        assert!(launch.rules.iter().all(|rule| why.contains(&rule.name) && why.contains(&rule.reason)), "{why}");
        assert_eq!(why.contains("next best: +"), report.next(launch.region).is_some_and(|next| next.seconds >= 0.0));
    }
    // Rules.
    let fired = rows(&doc, "rules");
    assert_eq!(fired.len(), report.fired.len());
    for (row, (name, times)) in fired.iter().zip(&report.fired) {
        let rule = kiln::fuse::rule(name).unwrap();
        assert_eq!((text(cell(*row, "rule")), value(*row, "fired")), (name.clone(), *times as f64));
        assert_eq!(text(cell(*row, "reason")), rule.reason);
        assert_eq!(text(cell(*row, "class")), rule.numerics.name());
    }
    // Names stay names; equal builds have equal pages but for what time was taken.
    assert!(page.contains("&lt;y&gt;"));
    let made = json(dir, "build m.onnx -o m.kiln --fusion-report g.html --json");
    assert_eq!(made["fusion_report"], "g.html");
    let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["f.html", "g.html", "m.kiln", "m.onnx", "p.svg"]);
    for (args, why) in [
        ("--fusion-report m.onnx", "it is the input m.onnx"),
        ("-o n.kiln --fusion-report n.kiln", "this is where the engine is written"),
        ("-o o.kiln --fusion-report none/f.html", "cannot write none/f.html"),
    ] {
        fails(dir, &format!("build m.onnx {args}"), why);
    }
    assert!(!dir.join("n.kiln").exists());
}

#[test]
fn branches_and_loops_are_said_to_have_reports_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut b = Builder::new("branches");
    let x = b.input("x", DType::F32, &[7.into(), 9.into()]).unwrap();
    let total = b.sum(x, &[0, 1], false).unwrap();
    let positive = b.compare_scalar(CompareOp::Gt, total, 0.0).unwrap();
    let branch = |scale: f64| {
        let mut b = Builder::new("branch");
        let v = b.input("v", DType::F32, &[7.into(), 9.into()]).unwrap();
        let y = b.mul_scalar(v, scale).unwrap();
        b.output("y", y);
        Box::new(b.finish())
    };
    let op = Op::If { then_graph: branch(2.0), else_graph: branch(-3.0) };
    let y = b.add1(op, &[positive, x]).unwrap();
    b.output("y", y);
    let options = BuildOptions::new(kiln_cuda::Home::at(dir.join("home")));
    build(&b.finish(), &options, &|_| {}).unwrap().0.save(dir.join("m.kiln")).unwrap();
    // It has no weights, so that there is nothing to keep.
    let plan = kiln::Engine::load(dir.join("m.kiln")).unwrap().targets.remove(0).plan;
    let step = plan.steps.iter().position(|step| !step.nested().is_empty()).unwrap();
    fails(dir, &format!("inspect m.kiln --why {step}"), "is `if`, whose plan of its own has no report");
    assert!(ok(dir, "inspect m.kiln --why reduce").contains("reduce"));
}

#[test]
fn less_fusion_is_more_kernels_and_the_engine_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    model(dir);
    let counts = ["full", "chains", "single"].map(|extent| {
        let built = json(dir, &format!("build m.onnx -o {extent}.kiln --fusion {extent} --json"));
        let said = json(dir, &format!("inspect {extent}.kiln --json"))["stamp"]["settings"]["extent"].clone();
        assert_eq!(said, if extent == "full" { Value::Null } else { extent.into() });
        built["build"]["targets"][0]["regions"].as_array().unwrap().len()
    });
    assert!(counts.is_sorted_by(|a, b| a < b), "{counts:?}");
    fails(dir, "build m.onnx -o m.kiln --fusion none", "--fusion");
}
