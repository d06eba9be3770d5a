//! The models of `tests/cases` through the command line, on the CPU and on two simulated architectures; hostile files end in an error.
//! NVRTC is fetched into `$KILN_HOME` if no other is found.

use kiln_cuda::{Home, setup};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const DEVICES: [&str; 3] = ["cpu", "sim:sm_80", "sim:sm_90a"];

/// What is refused, and what the message says.
const REFUSED: [(&str, &str); 5] = [
    ("attention_mask_symbol", "needs `0` <= `"),
    ("extents_overflow_gpu_silent", "2147483648"),
    ("gather_out_of_range_gpu_silent", "outside"),
    ("if_matmul_mismatch", "needs `K` = `2`"),
    ("loop_state_mismatch", "needs `"),
];

/// Options that a case is about.
const OPTIONS: [(&str, &[&str]); 1] = [("exact_numerics_fma", &["--numerics", "exact", "--rtol", "0", "--atol", "0"])];

/// Kernels that are right but too slow for the simulator.
const SLOW: [&str; 1] = ["topk_quadratic"];

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn kiln(args: &[&str]) -> Command {
    let mut kiln = Command::new(env!("CARGO_BIN_EXE_kiln"));
    kiln.args(args).current_dir(cases()).stdin(Stdio::null());
    kiln
}

fn every_case_on(device: &str) {
    setup::setup(&Home::from_env().unwrap(), |_| {}).unwrap();
    let mut seen = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(cases()).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        if !folder.join("model.onnx").is_file() || device != "cpu" && SLOW.contains(&name.as_str()) {
            continue;
        }
        seen += 1;
        let file = |end: &str| folder.join(end).display().to_string();
        let mut args = vec!["compare".to_owned(), file("model.onnx"), "--input".into(), file("in.npz")];
        let refused = REFUSED.iter().find(|r| r.0 == name);
        if refused.is_none() {
            args.extend(["--expect".to_owned(), file("out.npz")]);
        }
        args.extend(["--device".to_owned(), device.to_owned()]);
        let options = OPTIONS.iter().find(|o| o.0 == name).map_or(&[][..], |o| o.1);
        args.extend(options.iter().map(|o| (*o).to_owned()));
        let out = kiln(&args.iter().map(String::as_str).collect::<Vec<_>>()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = format!("{}{}", text(&out.stdout), text(&out.stderr));
        let right = match refused {
            Some((_, says)) => matches!(out.status.code(), Some(1 | 2)) && unwrapped(&said).contains(says),
            None => out.status.success(),
        };
        if !right {
            wrong.push(format!("{name}: {}\n{said}", out.status));
        }
    }
    assert!(wrong.is_empty(), "{} of {seen} on {device}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(seen > 20, "{seen} cases");
}

/// A message without the line breaks and the frame that a terminal gives it.
fn unwrapped(text: &str) -> String {
    text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_case_is_right_on_the_cpu() {
    every_case_on(DEVICES[0]);
}

#[test]
fn every_case_is_right_on_ampere() {
    every_case_on(DEVICES[1]);
}

#[test]
fn every_case_is_right_on_hopper() {
    every_case_on(DEVICES[2]);
}

/// Files, how they are used (`OUT` is a folder to write to), and what the error says.
const HOSTILE: [(&str, &str); 9] = [
    ("run hostile/mb.onnx --input x=hostile/npy-nested-list-hang.npy", "npy-nested-list-hang.npy"),
    ("run hostile/mb.onnx --input x=hostile/npy-header-4GiB-alloc.npy", "npy-header-4GiB-alloc.npy"),
    ("bench hostile/onnxsem-bench-SIG6-0.onnx", "34359738368 bytes of memory are needed"),
    ("build hostile/h_dup_output.onnx -o OUT/none.kiln", "writes `a`, and node `a` (Relu) writes it too"),
    ("inspect hostile/eng-dimproduct300-14s.kiln", "eng-dimproduct300-14s.kiln"),
    (
        "sim hostile/ptx-arg_16G.ptx --entry k --grid 1 --block 32 --arg out:u8:17179869184:OUT/a --timeout 1",
        "allocation of 17179869184 bytes exceeds",
    ),
    (
        "sim hostile/ptx-const_4G.ptx --entry k --grid 1 --block 32 --arg out:u8:8:OUT/a --timeout 1",
        "`c` of 4294967295 bytes: constant memory has 65536 bytes",
    ),
    (
        "sim hostile/ptx-inf_loop.ptx --entry k --grid 1 --block 64 --arg out:u8:8:OUT/a --timeout 1",
        "the launch takes more than 1s: CTA 0 warps 0, 1 are at",
    ),
    (
        "sim hostile/ptx-grid_max.ptx --entry k --grid 2147483647,65535 --block 32 --arg out:u8:8:OUT/a --timeout 1",
        "the launch takes more than 1s",
    ),
];

/// Resident at most, in KiB.
const MEMORY: u64 = 200 << 10;

#[test]
fn hostile_files_end_in_an_error_soon_and_in_little_memory() {
    let out = tempfile::tempdir().unwrap();
    for (line, says) in HOSTILE {
        let line = line.replace("OUT", &out.path().display().to_string());
        let args: Vec<&str> = line.split(' ').collect();
        let errors = tempfile::tempfile().unwrap();
        let mut child =
            kiln(&args).stdout(errors.try_clone().unwrap()).stderr(errors.try_clone().unwrap()).spawn().unwrap();
        let start = Instant::now();
        let mut peak = 0;
        let status = loop {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
            peak = peak.max(line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0));
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            // Not a measurement: what hangs has to end, on a busy machine too.
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            sleep(Duration::from_millis(2));
        };
        let mut said = String::new();
        std::io::Seek::rewind(&mut &errors).unwrap();
        std::io::Read::read_to_string(&mut &errors, &mut said).unwrap();
        assert!(matches!(status.and_then(|s| s.code()), Some(1 | 2)), "{args:?}: {status:?}\n{said}");
        assert!(unwrapped(&said).contains(says), "{args:?} says no `{says}`:\n{said}");
        assert!(peak < MEMORY, "{args:?} takes {peak} KiB");
    }
}
