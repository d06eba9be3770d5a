//! `docs/kernels.md` says which family makes what, for which types, on which architectures. `UPDATE_EXPECT=1` writes it.

use crate::common::{d, spec};
use kiln_fuse::{Anchor, Region};
use kiln_graph::{Builder, ConvSpec, DType, Dim, ReduceOp, Result, ScanOp, ScatterOp, ValueId, WindowSpec};
use kiln_kernels::families::Subject;
use kiln_kernels::{Kernel, lower};
use kiln_target::Gpu;
use kiln_target::arch::Arch;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

const DTYPES: [DType; 14] = [
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::F8E4M3,
    DType::F8E5M2,
    DType::I64,
    DType::U64,
    DType::I32,
    DType::U32,
    DType::I16,
    DType::I8,
    DType::U8,
    DType::Bool,
];

type Build = fn(&mut Builder, DType) -> Result<ValueId>;

/// One region of each kind.
const PROBES: [(Anchor, Build); 11] = [
    (Anchor::Map, |b, dtype| {
        let x = b.input("x", dtype, &d(&["8", "64"]))?;
        b.transpose(x, &[1, 0])
    }),
    (Anchor::Index, |b, dtype| {
        let (x, at) = (b.input("x", dtype, &d(&["8", "64"]))?, b.input("at", DType::I64, &d(&["5"]))?);
        b.gather(x, at, 0)
    }),
    (Anchor::Index, |b, dtype| {
        let (x, at) = (b.input("x", dtype, &d(&["8", "64"]))?, b.input("at", DType::I64, &d(&["5", "1"]))?);
        let updates = b.input("updates", dtype, &d(&["5", "64"]))?;
        b.scatter_nd(x, at, updates, ScatterOp::Set)
    }),
    (Anchor::Reduce, |b, dtype| {
        let x = b.input("x", dtype, &d(&["8", "64"]))?;
        b.reduce(if dtype == DType::Bool { ReduceOp::Any } else { ReduceOp::Max }, x, &[1], false)
    }),
    (Anchor::Contract, |b, dtype| {
        let (x, w) = (b.input("x", dtype, &d(&["64", "64"]))?, b.input("w", dtype, &d(&["64", "64"]))?);
        let sum = dtype.accumulator();
        b.contract(spec("mk,kn->mn"), x, w, sum, sum)
    }),
    (Anchor::Attention, |b, dtype| {
        let [q, k, v] = ["q", "k", "v"].map(|name| b.input(name, dtype, &d(&["2", "64", "64"])));
        let scores = b.contract(spec("hqd,hkd->hqk"), q?, k?, DType::F32, DType::F32)?;
        let weights = b.softmax(scores, -1)?;
        let weights = b.cast(weights, dtype)?;
        b.contract(spec("hqk,hkd->hqd"), weights, v?, DType::F32, dtype)
    }),
    (Anchor::Conv, |b, dtype| {
        let x = b.input("x", dtype, &d(&["8", "56", "56", "64"]))?;
        let (x, w) = (b.transpose(x, &[0, 3, 1, 2])?, b.input("w", dtype, &d(&["64", "3", "3", "64"]))?);
        let w = b.transpose(w, &[0, 3, 1, 2])?;
        let spec = ConvSpec { strides: vec![1; 2], pads: vec![(1, 1); 2], dilations: vec![1; 2], groups: 1 };
        let y = b.conv(x, w, None, spec)?;
        b.transpose(y, &[0, 2, 3, 1])
    }),
    (Anchor::Conv, |b, dtype| {
        let x = b.input("x", dtype, &d(&["1", "8", "8", "64"]))?;
        let (x, w) = (b.transpose(x, &[0, 3, 1, 2])?, b.input("w", dtype, &d(&["64", "1", "3", "3"]))?);
        let spec = ConvSpec { strides: vec![1; 2], pads: vec![(1, 1); 2], dilations: vec![1; 2], groups: 64 };
        let y = b.conv(x, w, None, spec)?;
        b.transpose(y, &[0, 2, 3, 1])
    }),
    (Anchor::Window, |b, dtype| {
        let x = b.input("x", dtype, &d(&["4", "8"]))?;
        b.window(
            ReduceOp::Max,
            x,
            WindowSpec { window: vec![3], strides: vec![1], pads: vec![(1, 1)], dilations: vec![1] },
        )
    }),
    (Anchor::Sink, |b, dtype| {
        let x = b.input("x", dtype, &d(&["8", "64"]))?;
        b.scan(ScanOp::Sum, x, 1, false, false)
    }),
    (Anchor::Alone, |b, dtype| {
        let x = b.input("x", dtype, &d(&["8", "64"]))?;
        Ok(b.topk(x, 1, &Dim::from(4), true)?.0)
    }),
];

/// f32 whose products may round their operands: what takes part in that.
const TF32: &str = "tf32";

/// By family and type the architectures that it is the first choice on.
fn found() -> BTreeMap<String, BTreeMap<String, Vec<Arch>>> {
    let mut found: BTreeMap<String, BTreeMap<String, Vec<Arch>>> = BTreeMap::new();
    for (anchor, build) in PROBES {
        for dtype in DTYPES {
            let mut b = Builder::new("probe");
            let Ok(result) = build(&mut b, dtype) else { continue };
            b.output("y", result);
            let region = Region { name: "probe".into(), summary: "a probe".into(), anchor, graph: b.finish() };
            if region.verify().is_err() {
                continue;
            }
            let mut note = |element: &str, arch, family: &str| {
                let archs = found.entry(family.to_owned()).or_default().entry(element.to_owned()).or_default();
                if !archs.contains(&arch) {
                    archs.push(arch);
                }
            };
            let subject = Subject::of(&region);
            let rounded = Arc::new(subject.clone().with_tf32(true));
            let subject = Arc::new(subject);
            for arch in Arch::ALL {
                let gpu = Gpu::typical(arch).unwrap();
                if let Ok(made) = lower(&subject, &gpu) {
                    note(dtype.name(), arch, &made[0].1.family);
                }
                let rounds = |kernel: &Kernel| kernel.source.contains(".f32.tf32.tf32");
                if dtype == DType::F32
                    && let Ok(made) = lower(&rounded, &gpu)
                    && made[0].1.kernels.iter().any(rounds)
                {
                    note(TF32, arch, &made[0].1.family);
                }
            }
        }
    }
    found
}

fn page() -> String {
    let mut page = String::from(
        "# Kernel families\n\nWhich family is the first choice for a plain region of its kind, by element type and architecture; `tf32` is \
         f32 whose products may round their operands (`--tf32`): what does. `crates/kiln-kernels/tests/table.rs` writes this page.\n\n| family |",
    );
    let elements: Vec<&str> = DTYPES.iter().map(|dtype| dtype.name()).chain([TF32]).collect();
    elements.iter().for_each(|element| _ = write!(page, " {element} |"));
    page += "\n| --- |";
    elements.iter().for_each(|_| page += " --- |");
    for (family, types) in found() {
        let _ = write!(page, "\n| `{family}` |");
        for element in &elements {
            let cell = match types.get(*element) {
                None => "-".to_owned(),
                Some(archs) if archs.len() == Arch::ALL.len() => "all".to_owned(),
                // What an architecture has, later ones have too, or it is said one by one.
                Some(archs) => {
                    let later = Arch::ALL.iter().filter(|arch| arch.capability() >= archs[0].capability()).count();
                    if later == archs.len() {
                        format!("{} on", archs[0])
                    } else {
                        archs.iter().map(Arch::to_string).collect::<Vec<_>>().join(", ")
                    }
                }
            };
            let _ = write!(page, " {cell} |");
        }
    }
    page + "\n" + SHOWN
}

/// What tests hold kernels to.
const SHOWN: &str = "
## What is shown, and where

Of `map`, `rows`, `gemm`, `conv`, `conv_direct` and `attention`, without a GPU; files are of `crates/kiln-kernels/tests`.

* `cells.rs`: every cell above in the simulator with all checks, outputs poisoned, equal to the reference interpreter and as near to float64 as it is (`tf32`: equal to the tile
  program, and as near to float64 as operands of TF32 are): random regions, Configs, shapes (odd, unaligned, 1, symbols that are 1, edges of tiles) and data with infinities and NaN.
  `KILN_SHAPES=30` runs so many shapes of each cell, and 20 schedules of each asynchronous kernel.
* `grouped.rs`: rows in groups, on splits of every kind (empty groups, one with all, ends within tiles, rows behind the last), in 20 schedules of asynchronous kernels; ends that are wrong.
* `compiled.rs`, `attentions_in_parts`: attention whose keys CTAs share, in the fewest and the most parts, with roles and without; 20 schedules where there are roles.
* `in_place.rs`, and draws of `cells.rs`: products and attention of views of parts of memory; what is beside the parts is NaN, so that a mask that is missing shows.
* `made.rs`, and draws of `cells.rs`: products of which elementwise ops make one operand, in every kind of Config: interpreted, simulated; random ones with what is not 0 outside, infinities and NaN.
* `conv.rs`: convolutions of one to three axes of space, strided, dilated, padded past tiles, in groups, channels last and first: interpreted, and simulated; 20 schedules of asynchronous windows.
* `twins.rs`: two products that share an operand, in every kind of Config: interpreted, in up to 20 schedules; what they share is brought once; values side by side and parts of them are stored at their places.
* `without_atoms.rs`, `tiles.rs`: without wgmma, then TMA, `cp.async`, `ldmatrix`, `mma.sync` in the table of atoms, the same programs become others that are right.
* `mutants.rs`: what the validator accepts of changed schedules runs clean and right (`KILN_MUTANTS=2000`); `crates/kiln-tile/tests/validate.rs` has broken ones that it must name.
* `sass.rs`: machine code by nvdisasm: HGMMA, QGMMA, IGMMA fed by UTMALDG with USETMAXREG on sm_90a, HMMA.16816, IMMA and HMMA.1688 of TF32 by LDSM and LDGSTS on sm_80; 16-byte accesses of aligned maps and rows, and of images whose channels lie side by side (UTMALDG of im2col tensor maps on sm_90a);
  no spill, no local memory, no product that waits (C7510) in Configs drawn from the spaces, or in all (`KILN_CONFIGS=all`, by all cores).
* `clusters.rs`, and `shared_rows` of `cells.rs`: which rows of more than 16k elements the CTAs of a cluster share, by the cost model; that they go through memory once; shapes, Configs and
  20 schedules of them, as above.
* `counters.rs`: aligned maps and rows move their bytes once, in whole sectors; products take exactly the matrix instructions that their extents need, load whole sectors, and meet no bank of shared
  memory twice, as layouts predict.
* `crates/kiln-tile/tests/confined.rs`: nothing but the printer and the table of atoms writes CUDA C or PTX; the compiler of the first tile IR is the exception until what it makes has moved.
";

#[test]
fn the_page_says_what_families_take() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/kernels.md");
    let page = page();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), page, "run this with UPDATE_EXPECT=1");
}
