use crate::models::{block, engine};
use bytes::Bytes;
use kiln_engine::{Compiled, Engine, Image, OnMismatch, Resources, Session, SimDevice, Toolchain, open_device, parse};
use kiln_graph::{DType, Rng, Tensor};
use kiln_kernels::families::Subject;
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use serde_json::Value;
use std::sync::Arc;

/// An engine's bytes with the header rewritten by `edit` and its hash made right again, as an attacker would.
fn rehashed(bytes: &[u8], edit: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let header = edit(bytes[56..56 + length].to_vec());
    let mut out = bytes[..16].to_vec();
    out.extend((header.len() as u64).to_le_bytes());
    out.extend(blake3::hash(&header).as_bytes());
    out.extend(&header);
    out.extend(&bytes[(56 + length).min(bytes.len())..]);
    out
}

#[test]
fn damage_is_always_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine(&block(), &["cpu"], dir.path()).save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut rng = Rng::new(11);
    let mut pick = |n: usize| (rng.next_u64() % n as u64) as usize;
    let used: Vec<bool> = {
        // Padding between sections carries no information: a flip there changes nothing.
        let header = kiln_engine::read_header(&path).unwrap();
        let mut used = vec![false; good.len()];
        let length = u64::from_le_bytes(good[16..24].try_into().unwrap()) as usize;
        used[..12].fill(true);
        used[16..56 + length].fill(true);
        for s in &header.sections {
            used[s.offset..s.offset + s.length].fill(true);
        }
        used
    };
    for round in 0..3000 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(pick(good.len())),
            1 => {
                let at = loop {
                    let at = pick(good.len());
                    if used[at] {
                        break at;
                    }
                };
                bytes[at] ^= 1 << pick(8);
            }
            _ => {
                bytes = rehashed(&bytes, |mut header| {
                    for _ in 0..=pick(3) {
                        let at = pick(header.len());
                        let digit = header[at].is_ascii_digit();
                        header[at] = if digit { b'0' + pick(10) as u8 } else { pick(256) as u8 };
                    }
                    header
                });
            }
        }
        let result = parse(&bytes.into(), &path);
        // A rewritten header may still say something true (a changed name); the first two kinds never do.
        assert!(result.is_err() || round % 3 == 2, "round {round} was accepted");
    }
    for junk in [&b""[..], b"KILN", b"KILNENG\0", &[0xff; 4096]] {
        std::fs::write(&path, junk).unwrap();
        assert!(Engine::load(&path).is_err());
    }
}

#[test]
fn lengths_that_lie_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine(&block(), &["cpu"], dir.path()).save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut bytes = good.clone();
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert!(Engine::load(&path).unwrap_err().to_string().contains("truncated"));
    let lying = rehashed(&good, |h| {
        String::from_utf8(h).unwrap().replacen("\"length\":", "\"length\":18446744073709", 1).into_bytes()
    });
    std::fs::write(&path, lying).unwrap();
    assert!(Engine::load(&path).is_err());
}

/// An engine's bytes with the header edited as JSON, its hash right and all sections where they were.
fn edited_header(bytes: &[u8], edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let end = 56 + u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let sections = end.next_multiple_of(4096);
    let mut header: Value = serde_json::from_slice(&bytes[56..end]).unwrap();
    edit(&mut header);
    let header = serde_json::to_vec(&header).unwrap();
    let mut out = bytes[..16].to_vec();
    out.extend((header.len() as u64).to_le_bytes());
    out.extend(blake3::hash(&header).as_bytes());
    out.extend(&header);
    assert!(out.len() <= sections, "the header has outgrown its place");
    out.resize(sections, 0);
    out.extend(&bytes[sections..]);
    out
}

/// An engine's bytes with a section edited as JSON, and all hashes right. The section goes to the end, where it has room.
fn resectioned(bytes: &[u8], name: &str, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let at = bytes.len().next_multiple_of(4096);
    let mut changed = Vec::new();
    let mut out = edited_header(bytes, |header| {
        let sections = header["sections"].as_array_mut().unwrap();
        let section = sections.iter_mut().find(|s| s["name"] == name).unwrap();
        let [from, length] = ["offset", "length"].map(|f| section[f].as_u64().unwrap() as usize);
        let mut json: Value = serde_json::from_slice(&bytes[from..from + length]).unwrap();
        edit(&mut json);
        changed = serde_json::to_vec(&json).unwrap();
        section["offset"] = at.into();
        section["length"] = changed.len().into();
        section["blake3"] = blake3::hash(&changed).to_hex().as_str().into();
    });
    out.resize(at, 0);
    out.extend(changed);
    out
}

fn saved(engine: &Engine) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine.save(&path).unwrap();
    std::fs::read(path).unwrap()
}

fn refusal(bytes: Vec<u8>) -> String {
    match parse(&bytes.into(), "e.kiln".as_ref()) {
        Ok(_) => "accepted".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn contents_that_contradict_each_other_are_refused_though_every_hash_is_right() {
    let dir = tempfile::tempdir().unwrap();
    let good = saved(&engine(&block(), &["cpu"], dir.path()));
    let header = |edit: &dyn Fn(&mut Value)| refusal(edited_header(&good, edit));
    let plan = |edit: &dyn Fn(&mut Value)| refusal(resectioned(&good, "plan.cpu", edit));
    assert_eq!((header(&|_| {}), plan(&|_| {})), ("accepted".into(), "accepted".into()));
    for (text, why) in [
        (header(&|h| h["weights"][1]["offset"] = 260.into()), "a multiple of 256"),
        (header(&|h| h["weights"][1] = h["weights"][0].clone()), "occurs twice"),
        (header(&|h| h["sections"][0]["offset"] = 4100.into()), "a multiple of 4096"),
        (header(&|h| h["symbols"]["B"] = [9, 8].into_iter().collect()), "`B` has the range 9..=8"),
        (header(&|h| h["symbols"]["S"] = [-3, 8].into_iter().collect()), "`S` has the range -3..=8"),
        (header(&|h| h["inputs"][0]["name"] = "z".into()), "`z`"),
        (header(&|h| h["outputs"][0]["dtype"] = "f64".into()), "`y`"),
        (header(&|h| h["inputs"] = Value::Array(Vec::new())), "inputs: expected 0, found 1"),
        (plan(&|p| p["symbols"]["B"] = [9, 8].into_iter().collect()), "`B` has the range 9..=8"),
        (plan(&|p| p["inputs"][0] = p["steps"][0]["run"]["outputs"][0].clone()), "is an input"),
        (plan(&|p| p["buffers"][0]["ty"]["dtype"] = "f16".into()), "f16"),
    ] {
        assert!(text.contains(why), "expected `{why}`: {text}");
    }
}

#[test]
fn a_buffer_smaller_than_its_kernel_expects_is_found_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let good = saved(&engine(&block(), &["cpu"], dir.path()));
    // The rank is right, and what the extents are is known once shapes are bound.
    let bad = resectioned(&good, "plan.cpu", |p| {
        let id = p["steps"][0]["run"]["outputs"][0].as_u64().unwrap() as usize;
        p["buffers"][id]["ty"]["shape"][1] = 1.into();
    });
    let engine = parse(&bad.into(), "e.kiln".as_ref()).unwrap();
    let mut session = Session::new(&engine, open_device("cpu:1").unwrap()).unwrap();
    let x = Tensor::random(DType::F32, &[2, 7, 24], 4).unwrap();
    let text = session.run(&[("x", &x)]).unwrap_err().to_string();
    assert!(text.contains("bytes here, and buffer"), "{text}");
}

#[test]
fn kernels_name_the_region_they_serve() {
    let dir = tempfile::tempdir().unwrap();
    let mut engine = engine(&block(), &["cpu"], dir.path());
    let image = &mut engine.targets[0];
    let gpu = Gpu::typical(Arch::Sm80).unwrap();
    let code =
        || Image { cubin: Bytes::from_static(b"c"), ptx: Bytes::from_static(b"p"), resources: Resources::default() };
    for region in &image.plan.regions {
        let (_, implementation) = kiln_kernels::lower(&Arc::new(Subject::of(region)), &gpu).unwrap().remove(0);
        let images = implementation.kernels.iter().map(|_| code()).collect();
        image.kernels.insert(region.identity(), Compiled::single(implementation, images));
    }
    image.target = "sm_80".into();
    image.toolchain = Some(Toolchain::default());
    let good = saved(&engine);
    let swapped = |edit: &dyn Fn(&mut Vec<Value>)| {
        refusal(resectioned(&good, "kernels.sm_80", |records| edit(records.as_array_mut().unwrap())))
    };
    assert_eq!(swapped(&|_| {}), "accepted");
    // Kernels are found by the region's identity, wherever they stand.
    assert_eq!(swapped(&|records| records.reverse()), "accepted");
    let text = swapped(&|records| drop(records.pop()));
    assert!(text.contains("lacks the kernels of region"), "{text}");
    let text = swapped(&|records| records[0]["region"] = records[1]["region"].clone());
    assert!(text.contains("occur twice"), "{text}");
    let text = swapped(&|records| records[0]["region"] = "0".repeat(64).into());
    assert!(text.contains("which the plan lacks"), "{text}");
    let text = swapped(&|records| records[0]["region"] = "0f".into());
    assert!(text.contains("no region's identity"), "{text}");
    // A region that computes something else is another: these kernels are not its own.
    let text = refusal(resectioned(&good, "plan.sm_80", |plan| {
        let regions = plan["regions"].as_array_mut().unwrap().iter_mut();
        let mut nodes = regions.flat_map(|r| r["graph"]["nodes"].as_array_mut().unwrap());
        let add = nodes.find(|node| node["op"]["Binary"] == "Add").unwrap();
        add["op"]["Binary"] = "Sub".into();
    }));
    assert!(text.contains("which the plan lacks"), "{text}");
}

#[test]
fn regions_rely_on_nothing_that_the_plan_does_not_check() {
    let dir = tempfile::tempdir().unwrap();
    let good = saved(&engine(&block(), &["cpu"], dir.path()));
    let with = |edit: &dyn Fn(&mut Value)| refusal(resectioned(&good, "plan.cpu", edit));
    let run = |p: &Value| p["steps"].as_array().unwrap().iter().position(|s| s["run"]["symbols"].is_object()).unwrap();
    let text = with(&|p| {
        let step = run(p);
        drop(p["steps"][step]["run"]["symbols"].take());
    });
    assert!(text.contains("invalid type: null"), "{text}");
    let text = with(&|p| {
        let step = run(p);
        p["steps"][step]["run"]["symbols"] = serde_json::json!({});
    });
    assert!(text.contains("no symbol of the plan stands for `s0`"), "{text}");
    let region = |p: &Value| p["steps"][run(p)]["run"]["region"].as_u64().unwrap() as usize;
    let text = with(&|p| {
        let at = region(p);
        p["regions"][at]["graph"]["symbols"]["s0"] = serde_json::json!([3, 4]);
    });
    assert!(text.contains("which stands for it"), "{text}");
    let text = with(&|p| {
        let at = region(p);
        let multiple = serde_json::json!({ "left": "s0", "relation": "Multiple", "right": "64", "why": "" });
        p["regions"][at]["graph"]["constraints"] = vec![multiple].into();
    });
    assert!(text.contains("which the plan does not check"), "{text}");
}

#[test]
fn dimensions_that_multiply_are_refused_before_they_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let good = saved(&engine(&block(), &["cpu"], dir.path()));
    let product = vec!["(B+1)"; 300].join("*");
    let text = refusal(resectioned(&good, "plan.cpu", |p| p["buffers"][0]["ty"]["shape"][0] = product.clone().into()));
    assert!(text.contains("multiplied out"), "{text}");
    let text = refusal(edited_header(&good, |h| h["inputs"][0]["shape"][0] = product.clone().into()));
    assert!(text.contains("multiplied out"), "{text}");
}

/// The leaf of a JSON value that a walk of random turns ends in.
fn leaf<'v>(at: &'v mut Value, pick: &mut dyn FnMut(usize) -> usize) -> &'v mut Value {
    let children = match at {
        Value::Array(a) => a.len(),
        Value::Object(o) => o.len(),
        _ => 0,
    };
    if children == 0 {
        return at;
    }
    let i = pick(children);
    match at {
        Value::Array(a) => leaf(&mut a[i], pick),
        Value::Object(o) => leaf(o.values_mut().nth(i).unwrap(), pick),
        _ => unreachable!("leaves have no children"),
    }
}

#[test]
fn mutated_launches_never_panic() {
    let good = crate::launch::mapped();
    let (good, values) = (saved(&good), ["0", "16", "s0", "s0*s1", "-s0", "floor(s0, s1 - s1)", "9223372036854775807"]);
    let x = Tensor::random(DType::F32, &[3, 8], 4).unwrap();
    let mut rng = Rng::new(32);
    let mut pick = |n: usize| (rng.next_u64() % n as u64) as usize;
    let (mut refused, mut failed, mut accepted) = (0, 0, 0);
    for _ in 0..500 {
        let bytes = resectioned(&good, "kernels.sm_90a", |json| {
            let variant = &mut json[0]["variants"][pick(2)];
            let at = match pick(4) {
                0 => leaf(&mut variant["guard"], &mut pick),
                1 => leaf(variant, &mut pick),
                _ => leaf(&mut variant["implementation"]["kernels"][0]["launch"], &mut pick),
            };
            *at = match at {
                Value::String(_) => values[pick(values.len())].into(),
                Value::Number(_) => [0u64, 1, 2, 4, 9, 300, u32::MAX.into(), u64::MAX][pick(8)].into(),
                _ => Value::Null,
            };
        });
        let Ok(engine) = parse(&bytes.into(), "e.kiln".as_ref()) else {
            refused += 1;
            continue;
        };
        let options = kiln_sim::Options { budget: 1 << 16, ..Default::default() };
        let Ok(mut session) = Session::new(&engine, Box::new(SimDevice::new("sm_90a", options))) else { continue };
        match session.run(&[("x", &x)]) {
            Ok(_) => accepted += 1,
            Err(_) => failed += 1,
        }
    }
    assert!(refused > 100 && failed > 10 && accepted > 20, "{refused} refused, {failed} failed, {accepted} accepted");
}

#[test]
fn mutated_headers_and_plans_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let graph = crate::refit::folds();
    let good = saved(&engine(&graph, &["cpu"], dir.path()));
    let mut rng = Rng::new(31);
    let mut pick = |n: usize| (rng.next_u64() % n as u64) as usize;
    let dims = ["B*(S+1)", "floor(B, 0)", "-9223372036854775808", "min(B, S)*S", "", "Q", "(B+S)*(B+S)*(B+S)"];
    let (mut refused, mut accepted, mut refitted) = (0, 0, 0);
    for round in 0..3000 {
        let mut edit = |json: &mut Value| {
            let kind = pick(6);
            let value = match kind {
                0 => Value::from(pick(5)),
                1 => Value::from([-1i64, i64::MIN, i64::MAX][pick(3)]),
                2 => Value::from(dims[pick(dims.len())]),
                3 => Value::Null,
                4 => Value::Array(Vec::new()),
                _ => Value::from(["f64", "i4", "bool", "x"][pick(4)]),
            };
            *leaf(json, &mut pick) = value;
        };
        let bytes = match round % 3 {
            0 => edited_header(&good, &mut edit),
            1 => resectioned(&good, "refit", &mut edit),
            _ => resectioned(&good, "plan.cpu", &mut edit),
        };
        match parse(&bytes.into(), "e.kiln".as_ref()) {
            Err(_) => refused += 1,
            Ok(engine) => {
                accepted += 1;
                refitted += usize::from(engine.refit(&graph.weights).is_ok());
                // What is accepted runs or fails, and says why.
                let Ok(mut session) = Session::new(&engine, open_device("cpu:1").unwrap()) else { continue };
                let x = Tensor::random(DType::F32, &[3, 24], 4).unwrap();
                let _ = session.run(&[("x", &x)]);
            }
        }
    }
    assert!(
        refused > 1000 && accepted > 20 && refitted > 10,
        "{refused} refused, {accepted} accepted, {refitted} refitted"
    );
}

#[test]
fn a_mutated_model_in_an_engine_is_built_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let graph = crate::refit::folds();
    let mut kept = engine(&graph, &["cpu"], dir.path());
    kept.keep_model(&graph).unwrap();
    let mut good = saved(&kept);
    good[8] = 200;
    let length = u64::from_le_bytes(good[16..24].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&good[56..56 + length]).unwrap();
    let section = header["sections"].as_array().unwrap().iter().find(|s| s["name"] == "graph").unwrap();
    let [at, size] = ["offset", "length"].map(|field| section[field].as_u64().unwrap() as usize);
    let path = dir.path().join("e.kiln");
    let on = OnMismatch::Rebuild(kiln_cuda::Home::at(dir.path()));
    let cpu = open_device("cpu:1").unwrap();
    let mut rng = Rng::new(33);
    let mut pick = |n: usize| (rng.next_u64() % n as u64) as usize;
    let (mut refused, mut built) = (0, 0);
    for _ in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=pick(2) {
            let at = at + pick(size);
            bytes[at] = if bytes[at].is_ascii_digit() { b'0' + pick(10) as u8 } else { b' ' + pick(95) as u8 };
        }
        let hash = blake3::hash(&bytes[at..at + size]).to_hex();
        let bytes = edited_header(&bytes, |header| {
            let sections = header["sections"].as_array_mut().unwrap();
            sections.iter_mut().find(|s| s["name"] == "graph").unwrap()["blake3"] = hash.as_str().into();
        });
        std::fs::write(&path, bytes).unwrap();
        match Engine::open(&path, &*cpu, None, &on) {
            Ok(_) => built += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 200 && built > 10, "{refused} refused, {built} built");
}
