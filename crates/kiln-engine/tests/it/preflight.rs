//! What keeps an engine from running, found before it is loaded.

use crate::models::{block, engine_at, home};
use bytes::Bytes;
use kiln_cuda::CudaVersion;
use kiln_engine::{
    Arguments, Code, Device, Engine, Error, GpuInfo, KernelId, MemId, Module, Place, Prepared, Result, open_device,
    preflight, read_header,
};
use kiln_graph::Bindings;
use kiln_target::Target;
use std::path::Path;

/// A GPU as far as a preflight asks: it does nothing.
struct Absent {
    capability: u32,
    cuda: (u32, u32),
    memory: u64,
    /// Its short name.
    name: &'static str,
}

fn nothing<T>() -> Result<T> {
    Err(Error::Unsupported { device: "absent".into(), what: "anything".into() })
}

impl Device for Absent {
    fn name(&self) -> String {
        "absent".into()
    }
    fn target(&self) -> String {
        "sm_80".into()
    }
    fn processor(&self) -> Result<Target> {
        Ok(self.name.parse()?)
    }
    fn gpu(&self) -> Option<GpuInfo> {
        let cuda = CudaVersion::new(self.cuda.0, self.cuda.1);
        Some(GpuInfo { capability: self.capability, shared_bytes: 101_376, cuda })
    }
    fn memory_bytes(&self) -> Option<u64> {
        Some(self.memory)
    }
    fn alloc(&mut self, _: usize) -> Result<MemId> {
        nothing()
    }
    fn map(&mut self, _: Bytes) -> Result<MemId> {
        nothing()
    }
    fn free(&mut self, _: MemId) -> Result<()> {
        nothing()
    }
    fn upload(&mut self, _: Place, _: &[u8]) -> Result<()> {
        nothing()
    }
    fn download(&mut self, _: Place, _: &mut [u8]) -> Result<()> {
        nothing()
    }
    fn copy(&mut self, _: Place, _: Place) -> Result<()> {
        nothing()
    }
    fn fill(&mut self, _: Place, _: u8) -> Result<()> {
        nothing()
    }
    fn load(&mut self, _: &Module<'_>) -> Result<KernelId> {
        nothing()
    }
    fn prepare(&mut self, _: KernelId, _: &Bindings) -> Result<Prepared> {
        nothing()
    }
    fn release(&mut self, _: usize) {}
    fn launch(&mut self, _: usize, _: Arguments<'_>) -> Result<()> {
        nothing()
    }
    fn synchronize(&mut self) -> Result<()> {
        nothing()
    }
    fn implementation(&self, _: usize) -> String {
        String::new()
    }
}

/// Fields and messages of what is found on a device.
fn found(path: &Path, device: &dyn Device) -> Vec<(String, String)> {
    let found = preflight(path, Some(device), None).unwrap();
    assert!(!found.findings.is_empty() || found.code.is_some());
    found.findings.into_iter().map(|f| (f.field, f.message)).collect()
}

fn fields(path: &Path, device: &dyn Device) -> Vec<String> {
    found(path, device).into_iter().map(|f| f.0).collect()
}

#[test]
fn damage_is_found_section_by_section() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine_at(&block(), &["cpu", "sm_80"], home()).save(&path).unwrap();
    let cpu = open_device("cpu:1").unwrap();
    assert!(fields(&path, &*cpu).is_empty());
    let good = std::fs::read(&path).unwrap();
    let header = read_header(&path).unwrap();
    let names: Vec<&str> = header.sections.iter().map(|s| s.name.as_str()).collect();
    for name in ["graph", "plan.cpu", "plan.sm_80", "kernels.sm_80", "code.sm_80", "refit", "weights"] {
        assert!(names.contains(&name), "{name} of {names:?}");
    }
    let bad = dir.path().join("bad.kiln");
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        std::fs::write(&bad, bytes).unwrap();
        found(&bad, &*cpu)
    };
    for section in &header.sections {
        let at = section.offset + section.length / 2;
        let found = with(&|bytes| bytes[at] ^= 4);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, format!("section {}", section.name));
        assert!(found[0].1.contains("does not match its hash: expected"), "{found:?}");
    }
    // Two are both named.
    let [a, b] = [&header.sections[0], &header.sections[2]];
    let both = with(&|bytes| [a, b].iter().for_each(|s| bytes[s.offset] ^= 1));
    assert_eq!(
        both.iter().map(|f| &f.0).collect::<Vec<_>>(),
        [&format!("section {}", a.name), &format!("section {}", b.name)]
    );
    // Cut at each boundary, and one byte before: all sections that it takes something of.
    for section in &header.sections {
        for end in [section.offset, section.offset + section.length - 1] {
            let found = with(&|bytes| bytes.truncate(end));
            let cut = header.sections.iter().filter(|s| s.offset + s.length > end);
            let expected: Vec<String> = cut.map(|s| format!("section {}", s.name)).collect();
            assert_eq!(found.iter().map(|f| f.0.clone()).collect::<Vec<_>>(), expected, "cut at {end}");
            assert!(found.iter().all(|f| f.1.contains("truncated")), "{found:?}");
        }
    }
    let length = u64::from_le_bytes(good[16..24].try_into().unwrap()) as usize;
    for (end, field, why) in [
        (56 + length - 1, "header", "truncated"),
        (56, "header", "truncated"),
        (55, "file", "55 bytes"),
        (0, "file", "0 bytes"),
    ] {
        let found = with(&|bytes| bytes.truncate(end));
        assert!(found.len() == 1 && found[0].0 == field && found[0].1.contains(why), "{end}: {found:?}");
    }
    let found = with(&|bytes| bytes[60] ^= 1);
    assert_eq!(found, [("header".to_owned(), "the header does not match its hash".to_owned())]);
    let found = with(&|bytes| bytes[8] = 99);
    assert!(found[0].0 == "format version" && found[0].1.contains("found 99"), "{found:?}");
}

#[test]
fn what_a_machine_lacks_is_found_by_field() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    let mut built = engine_at(&block(), &["sm_80"], home());
    let toolchain = built.targets[0].toolchain.as_mut().unwrap();
    toolchain.nvrtc = "13.0.88".into();
    built.save(&path).unwrap();
    let gpu = |capability, cuda, memory| Absent { capability, cuda, memory, name: "a100" };
    let plenty = 80 << 30;
    assert!(fields(&path, &gpu(80, (13, 0), plenty)).is_empty());
    assert_eq!(preflight(&path, Some(&gpu(80, (13, 0), plenty)), None).unwrap().code, Some(Code::Own("sm_80".into())));
    let [(field, message)] = &found(&path, &gpu(75, (13, 0), plenty))[..] else { panic!("one finding") };
    assert!(field == "target" && message.contains("7.5") && message.contains("newer GPUs"), "{message}");
    assert_eq!(fields(&path, &*open_device("cpu:1").unwrap()), ["target"]);
    assert_eq!(fields(&path, &*open_device("sim:sm_90a").unwrap()), ["target"]);
    // Machine code of NVRTC 13 under a driver for CUDA 12.
    let [(field, message)] = &found(&path, &gpu(80, (12, 9), plenty))[..] else { panic!("one finding") };
    assert!(field == "driver" && message.contains("NVRTC 13.0.88") && message.contains("r580"), "{message}");
    let weights = built.weight_bytes() as u64;
    let [(field, message)] = &found(&path, &gpu(80, (13, 0), weights))[..] else { panic!("one finding") };
    assert!(field == "device memory" && message.contains(&weights.to_string()), "{message}");
    // All of it at once.
    built.strip_weights(&block().weights).unwrap();
    built.kiln = env!("CARGO_PKG_VERSION").into();
    built.save(&path).unwrap();
    assert_eq!(fields(&path, &gpu(80, (12, 9), 16)), ["weights", "driver"]);
    assert_eq!(fields(&path, &gpu(80, (13, 0), weights)), ["weights", "device memory"]);
    assert_eq!(fields(&path, &gpu(80, (13, 0), plenty)), ["weights"]);
    // Of another version, what damage there is is still told.
    built.kiln = "9.9.9".into();
    built.save(&path).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    assert!(Engine::load(&path).unwrap_err().to_string().contains("9.9.9"));
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(fields(&path, &gpu(80, (13, 0), 16)), ["Kiln version", "section refit"]);
    assert!(preflight(&dir.path().join("none.kiln"), None, None).is_err());
}

#[test]
fn gpus_of_one_architecture_have_an_image_each() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    engine_at(&block(), &["h200", "cpu", "h100", "sm_90a"], home()).save(&path).unwrap();
    let loaded = Engine::load(&path).unwrap();
    let labels: Vec<String> = loaded.targets.iter().map(|image| image.label()).collect();
    assert_eq!(labels, ["sm_90a:h200", "cpu", "sm_90a"], "sm_90a is the H100's");
    for label in &labels {
        assert_eq!(loaded.target(label).unwrap().label(), *label);
    }
    let ran = |name, capability| {
        let device = Absent { capability, cuda: (13, 0), memory: 80 << 30, name };
        preflight(&path, Some(&device), None).unwrap().code
    };
    assert_eq!(ran("h200", 90), Some(Code::Own("sm_90a:h200".into())));
    assert_eq!(ran("h100", 90), Some(Code::Own("sm_90a".into())));
    // Of a GPU that none was built for, by the architecture.
    assert_eq!(ran("a100", 90), Some(Code::Own("sm_90a".into())));
    let of = |name: &str| match name.parse().unwrap() {
        Target::Gpu(gpu) => loaded.target_of(&gpu).unwrap().label(),
        Target::Cpu(_) => String::new(),
    };
    assert_eq!([of("h200"), of("h100")], ["sm_90a:h200", "sm_90a"]);
    assert!(loaded.target("sm_80").unwrap_err().to_string().contains("found sm_90a:h200, cpu, sm_90a"));
    // The simulator knows the architecture alone, and takes what there is.
    let alone = dir.path().join("alone.kiln");
    engine_at(&block(), &["h200"], home()).save(&alone).unwrap();
    let code = preflight(&alone, Some(&*open_device("sim:sm_90a").unwrap()), None).unwrap().code;
    assert_eq!(code, Some(Code::Own("sm_90a:h200".into())));
}
