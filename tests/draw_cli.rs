//! The pictures of `kiln inspect`, read back: well-formed, complete, and without overlap.

use kiln::engine::{BuildOptions, Engine, build};
use kiln::fuse::{BufferKind, Fused, LaunchReport, Plan, Step, fuse};
use kiln::graph::{Builder, DType, Graph, Tensor};
use kiln_graph::{CompareOp, Dim, Op, ValueId};
use roxmltree::{Document, Node};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};

const LAYERS: u64 = 12;
const HIDDEN: usize = 16;

/// An encoder of twelve layers with two heads, on up to 4 sequences of up to 32.
fn transformer() -> Builder {
    let mut b = Builder::new("encoder <12 layers>");
    let (batch, length) = (b.symbol("B", 1, 4), b.symbol("S", 1, 32));
    let mut x = b.input("x", DType::F32, &[batch.clone(), length.clone(), HIDDEN.into()]).unwrap();
    let mask = b.input("mask", DType::F32, &[batch.clone(), 1.into(), 1.into(), length.clone()]).unwrap();
    for layer in 0..LAYERS {
        b.push_scope(format!("layer{layer}"));
        let mut seed = layer * 100;
        let mut weight = |b: &mut Builder, name: &str, shape: &[usize]| {
            seed += 1;
            b.weight_data(&format!("layer{layer}.{name}"), Tensor::random(DType::F32, shape, seed).unwrap()).unwrap()
        };
        let heads = [batch.clone(), length.clone(), 2.into(), (HIDDEN / 2).into()];
        let [q, k, v] = ["query", "key", "value"].map(|name| {
            let w = weight(&mut b, name, &[HIDDEN, HIDDEN]);
            let y = b.linear(x, w, None, false).unwrap();
            let y = b.reshape(y, &heads).unwrap();
            b.transpose(y, &[0, 2, 1, 3]).unwrap()
        });
        let k = b.swap_axes(k, 2, 3).unwrap();
        let scores = b.matmul(q, k).unwrap();
        let scores = b.plus(scores, mask).unwrap();
        let p = b.softmax(scores, -1).unwrap();
        let y = b.matmul(p, v).unwrap();
        let y = b.transpose(y, &[0, 2, 1, 3]).unwrap();
        let y = b.reshape(y, &[batch.clone(), length.clone(), HIDDEN.into()]).unwrap();
        let norm =
            |b: &mut Builder, y: ValueId, w: [ValueId; 2]| b.layer_norm(y, -1, Some(w[0]), Some(w[1]), 1e-5).unwrap();
        let w = weight(&mut b, "out", &[HIDDEN, HIDDEN]);
        let y = b.linear(y, w, None, false).unwrap();
        let y = b.plus(y, x).unwrap();
        let w = ["scale1", "shift1"].map(|name| weight(&mut b, name, &[HIDDEN]));
        let y = norm(&mut b, y, w);
        let (up, down) = (weight(&mut b, "up", &[HIDDEN, 4 * HIDDEN]), weight(&mut b, "down", &[4 * HIDDEN, HIDDEN]));
        let z = b.linear(y, up, None, false).unwrap();
        let z = b.gelu(z).unwrap();
        let z = b.linear(z, down, None, false).unwrap();
        let z = b.plus(z, y).unwrap();
        let w = ["scale2", "shift2"].map(|name| weight(&mut b, name, &[HIDDEN]));
        x = norm(&mut b, z, w);
        b.pop_scope();
    }
    b.output("y", x);
    b
}

/// A loop, and a branch on what it gives.
fn control() -> Builder {
    let mut body = Builder::new("body");
    let _ = body.input("i", DType::I64, &[]).unwrap();
    let cond = body.input("cond", DType::Bool, &[]).unwrap();
    let state = body.input("state", DType::F32, &[7.into(), 7.into()]).unwrap();
    let w = body.input("w", DType::F32, &[7.into(), 7.into()]).unwrap();
    let next = body.matmul(state, w).unwrap();
    let next = body.softmax(next, 1).unwrap();
    body.output("cond", cond);
    body.output("state", next);
    let mut b = Builder::new("control");
    let x = b.input("x", DType::F32, &[7.into(), 7.into()]).unwrap();
    let w = b.weight_data("w", Tensor::random(DType::F32, &[7, 7], 3).unwrap()).unwrap();
    let trip = b.scalar_int(DType::I64, 5).unwrap();
    let go = b.scalar_int(DType::Bool, 1).unwrap();
    let op = Op::Loop { body: Box::new(body.finish()), carried: 1, trip: Some(Dim::from(5)) };
    let out = b.add1(op, &[trip, go, x, w]).unwrap();
    let total = b.sum(out, &[0, 1], false).unwrap();
    let positive = b.compare_scalar(CompareOp::Gt, total, 0.0).unwrap();
    let branch = |scale: f64| {
        let mut b = Builder::new("branch");
        let v = b.input("v", DType::F32, &[7.into(), 7.into()]).unwrap();
        let y = b.mul_scalar(v, scale).unwrap();
        b.output("y", y);
        Box::new(b.finish())
    };
    let y = b.add1(Op::If { then_graph: branch(2.0), else_graph: branch(-3.0) }, &[positive, out]).unwrap();
    b.output("y", y);
    b
}

fn engine(dir: &Path, b: Builder) -> Engine {
    let home = kiln_cuda::Home::at(dir.join("home"));
    let options = BuildOptions::new(home);
    let engine = build(&b.finish(), &options, &|_| {}).unwrap().0;
    engine.save(dir.join("m.kiln")).unwrap();
    engine
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

fn fails(dir: &Path, args: &str, why: &str) {
    let out = kiln(dir, args);
    let error = String::from_utf8_lossy(&out.stderr).replace(['\n', '│'], " ");
    let error = error.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(out.status.code() == Some(2) && error.contains(why), "{args}: {error}");
}

/// Left, top, right, bottom.
type Rect = [f64; 4];

fn rect(node: Node) -> Rect {
    let [x, y, w, h] = ["x", "y", "width", "height"].map(|name| node.attribute(name).unwrap().parse::<f64>().unwrap());
    [x, y, x + w, y + h]
}

fn inside(a: Rect, b: Rect) -> bool {
    a[0] >= b[0] - 0.2 && a[1] >= b[1] - 0.2 && a[2] <= b[2] + 0.2 && a[3] <= b[3] + 0.2
}

fn apart(a: Rect, b: Rect) -> bool {
    a[2] <= b[0] + 0.2 || b[2] <= a[0] + 0.2 || a[3] <= b[1] + 0.2 || b[3] <= a[1] + 0.2
}

fn child<'a>(node: Node<'a, 'a>, tag: &str) -> Node<'a, 'a> {
    node.children().find(|n| n.has_tag_name(tag)).unwrap()
}

/// What a box says, its hint first.
fn text(node: Node) -> String {
    let own = node.children().filter(|n| n.has_tag_name("title") || n.has_tag_name("text"));
    own.filter_map(|n| n.text()).collect::<Vec<_>>().join("\n")
}

fn groups<'a>(doc: &'a Document<'a>) -> BTreeMap<&'a str, Node<'a, 'a>> {
    let ids: Vec<_> = doc.descendants().filter_map(|n| Some((n.attribute("data-id")?, n))).collect();
    let map: BTreeMap<_, _> = ids.iter().copied().collect();
    assert_eq!(ids.len(), map.len(), "an id is there twice");
    map
}

/// Everything of a plan is in the picture, and of its nested plans; each nested box lies in its step's.
fn check(plan: &Plan, path: &str, around: Rect, doc: &Document, seen: &mut usize) {
    let all = groups(doc);
    let wires: Vec<_> = doc.descendants().filter(|n| n.attribute("class") == Some("wire")).collect();
    let wired = |from: &str, to: &str| {
        wires.iter().any(|w| w.attribute("data-from") == Some(from) && w.attribute("data-to") == Some(to))
    };
    let mut rects = Vec::new();
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let id = format!("b{path}{i}");
        let weight = matches!(buffer.kind, BufferKind::Weight(_));
        match buffer.alias_of {
            _ if weight => assert!(!all.contains_key(id.as_str()), "a weight is no label"),
            Some(of) => {
                let text = text(all[format!("b{path}{}", of.0).as_str()]);
                assert!(text.contains(&format!("as %{i} ")) && text.contains(&buffer.ty.to_string()), "{text}");
            }
            None => {
                let node = all[id.as_str()];
                let text = text(node);
                assert!(text.contains(&format!("%{i} ")) && text.contains(&buffer.name), "{text}");
                assert!(text.contains(&buffer.ty.to_string()), "{text}");
                rects.push((id, rect(child(node, "rect"))));
                *seen += 1;
            }
        }
    }
    for (name, id) in &plan.outputs {
        let text = text(all[format!("b{path}{}", plan.root(*id).0).as_str()]);
        assert!(text.contains(&format!("output {name}")), "{text}");
    }
    for (i, step) in plan.steps.iter().enumerate() {
        let id = format!("s{path}{i}");
        let node = all[id.as_str()];
        let own = rect(child(node, "rect"));
        let text = text(node);
        assert!(text.contains(&format!("#{i} ")), "{text}");
        if let Step::Run { region, nodes, .. } = step {
            let region = &plan.regions[*region];
            for wanted in [&region.name, &region.summary].into_iter().chain(nodes) {
                assert!(text.contains(wanted.as_str()), "{wanted}: {text}");
            }
            assert!(text.contains(&format!("{:?}", region.anchor).to_lowercase()), "{text}");
            // Only a copy has no op.
            let computes = region.graph.nodes.iter().any(|n| !matches!(n.op, Op::Input { .. } | Op::Const { .. }));
            assert_eq!(text.contains("\nops: "), computes, "{text}");
        }
        let weights =
            step.operands().into_iter().filter(|id| matches!(plan.buffers[id.index()].kind, BufferKind::Weight(_)));
        assert_eq!(text.lines().filter(|line| line.starts_with("weight ")).count(), weights.count(), "{text}");
        for operand in step.operands().into_iter().map(|id| plan.root(id)) {
            let weight = matches!(plan.buffers[operand.index()].kind, BufferKind::Weight(_));
            assert!(weight || wired(&format!("b{path}{}", operand.0), &id), "nothing leads from {operand:?} to {id}");
        }
        for result in step.results() {
            assert!(wired(&id, &format!("b{path}{}", plan.root(*result).0)), "nothing leads from {id} to {result:?}");
        }
        for (word, inner) in step.nested() {
            check(inner, &format!("{path}{i}.{word}."), own, doc, seen);
        }
        // Lines stay in their box, in a font of one width.
        for line in node.children().filter(|n| n.has_tag_name("text") && n.attribute("class") != Some("share")) {
            let size = if line.attribute("class") == Some("title") { 12.5 } else { 10.5 };
            let end = line.attribute("x").unwrap().parse::<f64>().unwrap()
                + line.text().unwrap_or_default().chars().count() as f64 * size * 0.602;
            let y = line.attribute("y").unwrap().parse::<f64>().unwrap();
            assert!(end <= own[2] && y <= own[3], "{:?} leaves its box", line.text());
        }
        rects.push((id, own));
        *seen += 1;
    }
    for (i, (a, at)) in rects.iter().enumerate() {
        assert!(inside(*at, around), "{a} is outside");
        for (b, other) in &rects[..i] {
            assert!(apart(*at, *other), "{a} and {b} overlap");
        }
    }
}

fn canvas(doc: &Document) -> Rect {
    let [w, h] = ["width", "height"].map(|name| doc.root_element().attribute(name).unwrap().parse::<f64>().unwrap());
    [0.0, 0.0, w, h]
}

/// The plan alone is checked: every box and label that is drawn belongs to it.
fn check_all(plan: &Plan, svg: &str) {
    let doc = Document::parse(svg).unwrap();
    let mut seen = 0;
    check(plan, "", canvas(&doc), &doc, &mut seen);
    assert_eq!(groups(&doc).len(), seen, "something is drawn that is not in the plan");
}

#[test]
fn twelve_layers_are_drawn_whole_with_their_times() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let engine = engine(dir, transformer());
    let plan = &engine.targets[0].plan;
    let args = "--shape x=2x8x16 --shape mask=2x1x1x8 --iterations 1 --duration 0 --warm-up 0";
    let profile = ok(dir, &format!("bench m.kiln {args} --profile-kernels --json"));
    std::fs::write(dir.join("profile.json"), &profile).unwrap();
    ok(dir, "inspect m.kiln --graph plain.svg");
    ok(dir, "inspect m.kiln --graph timed.svg --profile profile.json");
    let [plain, timed] = ["plain.svg", "timed.svg"].map(|file| std::fs::read_to_string(dir.join(file)).unwrap());
    check_all(plan, &plain);
    check_all(plan, &timed);

    // A band a layer (the first and the last differ), in order, and none over another.
    let doc = Document::parse(&timed).unwrap();
    let titles = doc.descendants().filter(|n| n.attribute("class") == Some("band"));
    let titles: Vec<&str> = titles.filter_map(|n| n.text()).collect();
    assert!(titles.len() as u64 >= LAYERS - 2, "{titles:?}");
    for (i, title) in titles.iter().enumerate() {
        assert!(title.starts_with(&format!("repeat {} of {} · ", i + 1, titles.len())), "{title}");
    }
    let bands: Vec<Rect> = doc.descendants().filter(|n| n.attribute("fill") == Some("#eef2f7")).map(rect).collect();
    assert!(bands.len() == titles.len() && bands.windows(2).all(|pair| pair[0][3] <= pair[1][1]), "{bands:?}");

    // Every step's share of the time of all.
    let profile: serde_json::Value = serde_json::from_str(&profile).unwrap();
    let times: Vec<f64> = profile["kernels"].as_array().unwrap().iter().map(|k| k["ms"].as_f64().unwrap()).collect();
    let all = groups(&doc);
    for (i, ms) in times.iter().enumerate() {
        let text = text(all[format!("s{i}").as_str()]);
        let share = format!("{:.1} % · {ms:.3} ms", 100.0 * ms / times.iter().sum::<f64>());
        assert!(text.contains(&share), "{share}: {text}");
        let how = profile["kernels"][i]["implementation"].as_str().unwrap();
        assert!(text.contains(&format!(" by {how}")), "{how}: {text}");
    }
    let longest = doc.descendants().filter(|n| n.attribute("class") == Some("bar")).map(|n| rect(n)[2] - rect(n)[0]);
    assert_eq!(longest.fold(0.0, f64::max), 392.0);

    // A profile of something else is no profile of this.
    let other = profile.to_string().replacen(plan.regions[0].name.as_str(), "other", 1);
    std::fs::write(dir.join("other.json"), other).unwrap();
    fails(dir, "inspect m.kiln --graph no.svg --profile other.json", "`other` in the profile");
    std::fs::write(dir.join("other.json"), "{}").unwrap();
    fails(dir, "inspect m.kiln --graph no.svg --profile other.json", "cannot read the profile other.json");
    fails(dir, "inspect m.kiln --graph no.png", "expected a file .svg or .dot");
    fails(dir, "inspect m.kiln --graph profile.json --profile profile.json", "it is the input profile.json");
    assert!(!dir.join("no.svg").exists());
    ok(dir, "inspect m.kiln --graph model.dot");
    assert!(std::fs::read_to_string(dir.join("model.dot")).unwrap().starts_with("digraph"));
}

/// The ops that the outputs depend on, and the inputs; literals and weights are not drawn.
fn drawn(graph: &Graph) -> BTreeSet<u32> {
    let mut live: BTreeSet<u32> = graph.inputs.iter().map(|v| graph.value(*v).node.0).collect();
    let mut stack: Vec<u32> = graph.outputs.iter().map(|(_, v)| graph.value(*v).node.0).collect();
    while let Some(id) = stack.pop() {
        if live.insert(id) {
            stack.extend(graph.nodes[id as usize].inputs.iter().map(|v| graph.value(*v).node.0));
        }
    }
    live.retain(|id| !matches!(graph.nodes[*id as usize].op, Op::Const { .. } | Op::Weight { .. }));
    live
}

/// Every op is in the frame of the first step that computes it, joined to what it reads; each frame is beside the box of its step, in its colour.
fn check_sides(graph: &Graph, plan: &Plan, launches: &[LaunchReport], svg: &str) {
    let doc = Document::parse(svg).unwrap();
    let (all, canvas, mut seen) = (groups(&doc), canvas(&doc), 0);
    check(plan, "", canvas, &doc, &mut seen);
    let ops = drawn(graph);
    let frames: Vec<Node> = all.values().copied().filter(|n| n.attribute("class") == Some("group")).collect();
    assert_eq!(all.len(), seen + ops.len() + frames.len(), "something else is drawn");
    let mut of: BTreeMap<u32, &str> = BTreeMap::new();
    for frame in &frames {
        let inner: Vec<(u32, Rect)> = frame
            .children()
            .filter(|n| n.attribute("class") == Some("op"))
            .map(|op| (op.attribute("data-id").unwrap()[1..].parse().unwrap(), rect(child(op, "rect"))))
            .collect();
        let around = frame.children().find(|n| n.attribute("class") == Some("frame")).map_or(canvas, rect);
        for (i, (op, at)) in inner.iter().enumerate() {
            assert!(inside(*at, around), "op {op} leaves its frame");
            assert!(inner[..i].iter().all(|(_, other)| apart(*at, *other)), "op {op} lies on another");
            assert!(of.insert(*op, frame.attribute("data-id").unwrap()).is_none(), "op {op} is there twice");
        }
    }
    assert!(of.keys().copied().eq(ops.iter().copied()));
    // Frames and boxes.
    let framed = |n: &Node| n.children().any(|n| n.attribute("class") == Some("frame"));
    let mut places: Vec<(&str, Rect)> = vec![];
    for (id, node) in all.iter().filter(|(id, node)| framed(node) || id.starts_with(['s', 'b'])) {
        let own = rect(node.children().find(|n| n.has_tag_name("rect")).unwrap());
        assert!(inside(own, canvas), "{id}");
        for (other, at) in places.iter().filter(|(other, _)| id.starts_with('g') || other.starts_with('g')) {
            assert!(apart(own, *at), "{id} and {other} overlap");
        }
        places.push((id, own));
    }
    let place = |id: &str| places.iter().find(|(other, _)| *other == id).unwrap().1;
    let wired = |from: &str, to: &str| {
        let is = |n: &Node| n.attribute("data-from") == Some(from) && n.attribute("data-to") == Some(to);
        doc.descendants().any(|n| is(&n))
    };
    for launch in launches {
        let title = format!("#{} {}", launch.step, launch.name);
        let of_step = |id: &&u32| child(all[of[*id]], "title").text() == Some(title.as_str());
        let ids = launch.numbers.iter().filter(|id| ops.contains(id));
        let Some(id) = ids.clone().find(of_step) else { continue };
        let (frame, own, card) = (all[of[id]], place(of[id]), place(&format!("s{}", launch.step)));
        assert!((own[1] - card[1]).abs() < 0.2 && own[2] < card[0], "{title} is not beside its ops");
        let step = format!("s{}", launch.step);
        let link = doc.descendants().find(|n| n.attribute("data-step") == Some(&step)).unwrap();
        let stroke = |n: Node| n.attribute("stroke").unwrap().to_owned();
        let colours = [link, child(frame, "rect"), child(all[step.as_str()], "rect")].map(stroke);
        assert!(colours[0] == colours[1] && colours[1] == colours[2], "{colours:?}");
        let d = link.attribute("d").unwrap()[1..].split([' ', ',', 'L']);
        let ends: Vec<f64> = d.filter_map(|n| n.parse().ok()).collect();
        assert!((ends[0] - own[2]).abs() < 0.2 && (ends[2] - card[0]).abs() < 0.2 && ends[1] == ends[3], "{ends:?}");
    }
    // What some step computes is in the frame of such a step, with its reader if one computes both.
    let steps = |id: &u32| -> BTreeSet<usize> {
        launches.iter().filter(|launch| launch.numbers.contains(id)).map(|launch| launch.step).collect()
    };
    let frame = |id: &u32| -> Option<usize> {
        let title = all[of[id]].children().find(|n| n.has_tag_name("title"))?.text()?;
        title[1..].split(' ').next()?.parse().ok()
    };
    for id in &ops {
        let own = steps(id);
        assert_eq!(frame(id).is_some(), !own.is_empty(), "op {id}");
        let Some(at) = frame(id) else { continue };
        let read = |reader: &&u32| graph.nodes[**reader as usize].inputs.iter().any(|v| graph.value(*v).node.0 == *id);
        let with: Vec<usize> = ops.iter().filter(read).filter_map(frame).filter(|step| own.contains(step)).collect();
        assert!(own.contains(&at) && (with.is_empty() || with.contains(&at)), "op {id} is in step {at}, not {own:?}");
    }
    for id in &ops {
        for from in graph.nodes[*id as usize].inputs.iter().map(|v| graph.value(*v).node.0) {
            let same = of.get(&from) == of.get(id);
            assert!(!same || wired(&format!("n{from}"), &format!("n{id}")), "nothing leads from {from} to {id}");
        }
    }
}

fn fused(graph: &Graph, target: &str) -> Fused {
    let options = BuildOptions::new(kiln_cuda::Home::from_env().unwrap());
    fuse(graph, &options.fusion(&target.parse().unwrap(), &[])).unwrap()
}

#[test]
fn a_graph_is_drawn_beside_its_plan() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    // Engines that keep their model; of the second nothing is told of which launch computes what was in the loop.
    for (graph, steps) in [(transformer().finish(), 80), (control().finish(), 1)] {
        let mut engine = build(&graph, &BuildOptions::new(kiln_cuda::Home::at(dir.join("home"))), &|_| {}).unwrap().0;
        engine.keep_model(&graph).unwrap();
        engine.save(dir.join("kept.kiln")).unwrap();
        ok(dir, "inspect kept.kiln --graph kept.svg");
        let report = fused(&graph, "cpu").report;
        assert!(report.launches.len() >= steps, "{}", report.launches.len());
        check_sides(&graph, &engine.targets[0].plan, &report.launches, &read("kept.svg"));
        let nested = engine.targets[0].plan.steps.iter().any(|step| !step.nested().is_empty());
        assert_eq!(read("kept.svg").contains("what is inside branches and loops"), nested);
    }
    // A model whose one kernel is taller than a column, and reads its input at both ends.
    let names: Vec<String> = (0..60).map(|i| format!("v{i}")).collect();
    let mut nodes: Vec<(&str, [&str; 2], &str)> = vec![];
    for (i, name) in names.iter().enumerate() {
        let from = if i == 0 { "x" } else { names[i - 1].as_str() };
        nodes.push(if i % 2 == 0 { ("Add", [from, "c"], name) } else { ("Sin", [from, ""], name) });
    }
    nodes.push(("Mul", ["v59", "x"], "y"));
    let nodes: Vec<(&str, &[&str], &str)> =
        nodes.iter().map(|(op, from, to)| (*op, &from[..if from[1].is_empty() { 1 } else { 2 }], *to)).collect();
    let shape: &[&str] = &["7", "9"];
    let file = crate::files_cli::onnx::model(&[("x", shape)], &[("c", 0.3)], &nodes, &[("y", shape)]);
    std::fs::write(dir.join("tall.onnx"), file).unwrap();
    let graph = kiln::import::onnx::load(&dir.join("tall.onnx"), &Default::default()).unwrap();
    let Fused { plan, report } = fused(&graph, "sm_90a");
    assert!(report.launches.len() < 4, "{plan}");
    ok(dir, "inspect tall.onnx --graph tall.svg --target sm_90a");
    let svg = read("tall.svg");
    check_sides(&graph, &plan, &report.launches, &svg);
    let on = svg.matches("class=\"on\"").count();
    assert!(on > 4 && on % 2 == 0, "{on} wires go on in further columns");
    assert!(canvas(&Document::parse(&svg).unwrap())[3] < 900.0, "61 ops stand in one column");

    ok(dir, "inspect tall.onnx --graph tall.dot --numerics exact");
    assert!(read("tall.dot").starts_with("digraph"));
    fails(dir, "inspect tall.onnx --graph no.png", "expected a file .svg or .dot");
    fails(dir, "inspect tall.onnx --graph tall.onnx", "it is the input tall.onnx");
    fails(dir, "inspect tall.onnx --graph no.svg --target sm_12", "sm_12");
    fails(dir, "inspect tall.onnx --graph no.svg --profile tall.dot", "profiles are of engines");
    fails(dir, "inspect kept.kiln --graph no.svg --target sm_80", "expected sm_80, found cpu");
    for said in ["--numerics exact", "--shape x=7x9"] {
        fails(dir, &format!("inspect kept.kiln --graph no.svg {said}"), "which says itself how it was built");
    }
    fails(dir, "inspect kept.kiln --graph no.svg --timings t.jsonl", "nothing is measured for cpu");
    assert!(!dir.join("no.svg").exists() && !dir.join("no.png").exists());
}

#[test]
fn plans_in_loops_and_branches_are_drawn_inside() {
    let dir = tempfile::tempdir().unwrap();
    let engine = engine(dir.path(), control());
    ok(dir.path(), "inspect m.kiln --graph plan.svg");
    let svg = std::fs::read_to_string(dir.path().join("plan.svg")).unwrap();
    let plan = &engine.targets[0].plan;
    let nested: Vec<&str> = plan.steps.iter().flat_map(Step::nested).map(|(word, _)| word).collect();
    assert_eq!(nested, ["body", "then", "else"]);
    check_all(plan, &svg);
    for word in nested {
        assert!(svg.contains(&format!("class=\"inner\">{word}<")), "{word}");
    }
}

#[test]
fn the_arena_is_drawn_as_it_is_laid_out() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let engine = engine(dir, transformer());
    let plan = &engine.targets[0].plan;
    for (args, said, batch, length) in [
        ("", "the largest of the profile: B = 4, S = 32", 4, 32),
        ("--shape mask=2x1x1x8", "those given, else the largest of the profile: B = 2, S = 8", 2, 8),
    ] {
        ok(dir, &format!("inspect m.kiln --memory mem.svg {args}"));
        let svg = std::fs::read_to_string(dir.join("mem.svg")).unwrap();
        assert!(svg.contains(said), "{svg}");
        let doc = Document::parse(&svg).unwrap();
        let bindings = [("B".to_owned(), batch), ("S".to_owned(), length)].into();
        let (placed, arena, bound) = kiln::engine::activations(plan, &bindings).unwrap();
        let buffers: Vec<_> = doc.descendants().filter(|n| n.has_attribute("data-buffer")).collect();
        assert!(placed.len() == buffers.len() && placed.len() > 60);
        let (mut drawn, mut scale): (Vec<Rect>, Option<(f64, f64)>) = (Vec::new(), None);
        for (a, node) in placed.iter().zip(&buffers) {
            let id = a.buffer.0.to_string();
            assert_eq!(node.attribute("data-buffer"), Some(id.as_str()));
            let r = rect(child(*node, "rect"));
            // One scale for all bytes and one for all steps, within the lines around the boxes.
            let steps = (a.last + 1 - a.first) as f64;
            let (down, across) = ((r[3] - r[1] + 1.0) / a.bytes as f64, (r[2] - r[0] + 1.5) / steps);
            let (y, x) = *scale.get_or_insert((down, across));
            assert!((down / y - 1.0).abs() < 0.05 && (across / x - 1.0).abs() < 0.02, "{a:?}: {r:?}");
            let hint = child(*node, "title").text().unwrap();
            let when = format!(" at {}, steps {} to {}", a.offset, a.first, a.last);
            let output = plan.outputs.iter().find(|(_, id)| plan.root(*id) == a.buffer).map(|(name, _)| name);
            let name = output.unwrap_or(&plan.buffers[a.buffer.index()].name);
            assert!(hint.contains(name) && hint.ends_with(&when), "{hint}");
            assert!(drawn.iter().all(|other| apart(r, *other)) && inside(r, canvas(&doc)), "{a:?} overlaps another");
            drawn.push(r);
        }
        // Lines at the arena's size and at the lower bound.
        let line = |class: &str| {
            let node = doc.descendants().find(|n| n.attribute("class") == Some(class)).unwrap();
            node.attribute("y1").unwrap().parse::<f64>().unwrap()
        };
        let top = drawn.iter().map(|r| r[1]).fold(f64::INFINITY, f64::min);
        let floor = drawn.iter().map(|r| r[3]).fold(0.0, f64::max);
        // The last buffer ends where its bytes do, the arena at an aligned address.
        let end = placed.iter().map(|a| a.offset + a.bytes).max().unwrap();
        for (class, bytes) in [("peak", arena), ("bound", bound)] {
            let expected = floor - (floor - top) * bytes as f64 / end as f64;
            assert!((line(class) - expected).abs() < 2.0, "{class}: {} {expected}", line(class));
        }
        assert!(svg.contains(&format!("arena {}", kib(arena))) && svg.contains(&format!("lower bound {}", kib(bound))));
    }
    fails(dir, "inspect m.kiln --memory mem.svg --shape z=1", "no such input");
    fails(dir, "inspect m.kiln --memory mem.svg --shape x=9x8x16", "expected 1..=4, found 9");
    fails(dir, "inspect m.kiln --memory mem.txt", "expected a file .svg");
}

fn kib(bytes: usize) -> String {
    let kib = bytes as f64 / 1024.0;
    if kib >= 100.0 { format!("{kib:.0} KiB") } else { format!("{kib:.1} KiB") }
}
