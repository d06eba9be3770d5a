//! The table of atoms against the PTX ISA's formulas, written out here, and against NVRTC (fetched if none is found; no GPU is needed).

use kiln_cuda::{CompileRequest, Compiler, Home, Nvrtc, setup};
use kiln_layout::{Conversion, RegisterLayout, SharedLayout, SwizzleMode, conversion};
use kiln_num::DType;
use kiln_target::arch::{Arch, has_mma};
use kiln_target::atoms::{
    AtomTable, Completion, CopyAtom, CopyKind, Issuer, MatrixType, MmaAtom, MmaKind, Role, Source, Space,
};
use std::collections::BTreeSet;

const K_MAJOR: Source = Source::Shared { mn_major: false };

fn row(name: &str) -> MmaAtom {
    *MmaAtom::ALL.iter().find(|row| row.name() == name).unwrap_or_else(|| panic!("{name}"))
}

/// Whether a layout is a formula of (register, groupID, threadID_in_group, warp).
fn is(layout: &RegisterLayout, registers: u32, formula: impl Fn(u32, u32, u32, u32) -> [u32; 2]) {
    assert_eq!(layout.registers(), registers, "{layout}");
    for thread in 0..layout.threads() {
        let lane = thread % 32;
        for i in 0..registers {
            assert_eq!(
                layout.coordinate(i, thread),
                formula(i, lane >> 2, lane % 4, thread / 32),
                "{layout}: {i}, {thread}"
            );
        }
    }
}

/// Of registers: 8 rows further where bit `bit` of the index is set.
fn eight(i: u32, bit: u32) -> u32 {
    8 * (i >> bit & 1)
}

#[test]
fn fragments_are_those_of_the_isa() {
    // "Matrix Fragments for mma.m16n8k8", .f16.
    let k8 = row("mma.m16n8k8.f32.f16.f16");
    is(&k8.a_layout(), 4, |i, group, id, _| [group + eight(i, 1), id * 2 + (i & 1)]);
    is(&k8.b_layout().unwrap(), 2, |i, group, id, _| [id * 2 + (i & 1), group]);
    is(&k8.acc_layout(8).unwrap(), 4, |i, group, id, _| [group + eight(i, 1), id * 2 + (i & 1)]);
    // "mma.m16n8k16 with floating point type".
    for name in ["mma.m16n8k16.f32.f16.f16", "mma.m16n8k16.f32.bf16.bf16"] {
        let k16 = row(name);
        let lower = |i| i < 2 || (4..6).contains(&i);
        is(&k16.a_layout(), 8, |i, group, id, _| {
            [if lower(i) { group } else { group + 8 }, if i < 4 { id * 2 + (i & 1) } else { id * 2 + (i & 1) + 8 }]
        });
        is(&k16.b_layout().unwrap(), 4, |i, group, id, _| {
            [if i < 2 { id * 2 + (i & 1) } else { id * 2 + (i & 1) + 8 }, group]
        });
        is(&k16.acc_layout(8).unwrap(), 4, |i, group, id, _| [if i < 2 { group } else { group + 8 }, id * 2 + (i & 1)]);
    }
    // "mma.m16n8k8", .tf32.
    let tf32 = row("mma.m16n8k8.f32.tf32.tf32");
    is(&tf32.a_layout(), 4, |i, group, id, _| {
        [if i == 0 || i == 2 { group } else { group + 8 }, if i < 2 { id } else { id + 4 }]
    });
    is(&tf32.b_layout().unwrap(), 2, |i, group, id, _| [if i == 0 { id } else { id + 4 }, group]);
    is(&tf32.acc_layout(8).unwrap(), 4, |i, group, id, _| [if i < 2 { group } else { group + 8 }, id * 2 + (i & 1)]);
    // "mma.m16n8k32", 8 bits.
    for name in ["mma.m16n8k32.s32.s8.u8", "mma.m16n8k32.f32.e4m3.e5m2"] {
        let k32 = row(name);
        let lower = |i| i < 4 || (8..12).contains(&i);
        is(&k32.a_layout(), 16, |i, group, id, _| {
            [if lower(i) { group } else { group + 8 }, if i < 8 { id * 4 + (i & 3) } else { id * 4 + (i & 3) + 16 }]
        });
        is(&k32.b_layout().unwrap(), 8, |i, group, id, _| {
            [if i < 4 { id * 4 + (i & 3) } else { id * 4 + (i & 3) + 16 }, group]
        });
        is(&k32.acc_layout(8).unwrap(), 4, |i, group, id, _| [if i < 2 { group } else { group + 8 }, id * 2 + (i & 1)]);
    }
    // "mma.m8n8k16", 8 bits, and "mma.m8n8k4", .f64.
    let old = row("mma.m8n8k16.s32.u8.s8");
    is(&old.a_layout(), 4, |i, group, id, _| [group, id * 4 + i]);
    is(&old.b_layout().unwrap(), 4, |i, group, id, _| [id * 4 + i, group]);
    is(&old.acc_layout(8).unwrap(), 2, |i, group, id, _| [group, id * 2 + i]);
    let double = row("mma.m8n8k4.f64.f64.f64");
    is(&double.a_layout(), 1, |_, group, id, _| [group, id]);
    is(&double.b_layout().unwrap(), 1, |_, group, id, _| [id, group]);
    is(&double.acc_layout(8).unwrap(), 2, |i, group, id, _| [group, id * 2 + i]);
    // wgmma, "Register Fragments": the warps of a warpgroup follow each other along m, and sums go on along n.
    for atom in MmaAtom::ALL.iter().filter(|row| row.kind == MmaKind::Wgmma) {
        for n in atom.widths {
            is(&atom.acc_layout(*n).unwrap(), n / 2, |i, group, id, warp| {
                [16 * warp + group + eight(i, 1), 8 * (i / 4) + id * 2 + (i & 1)]
            });
        }
        let [word, last] = [4 / atom.a.bytes(), atom.k / 2];
        is(&atom.a_layout(), atom.k / 2, |i, group, id, warp| {
            [16 * warp + group + 8 * (i / word % 2), id * word + i % word + last * (i / (2 * word))]
        });
        assert!(atom.acc_layout(12).is_none() && atom.acc_layout(264).is_none() && atom.b_layout().is_none());
    }
}

#[test]
fn every_row_is_whole() {
    let names: BTreeSet<String> = MmaAtom::ALL.iter().map(MmaAtom::name).collect();
    assert_eq!(names.len(), MmaAtom::ALL.len());
    let copies: BTreeSet<&str> = CopyAtom::ALL.iter().map(|row| row.name).collect();
    assert_eq!(copies.len(), CopyAtom::ALL.len());
    for atom in MmaAtom::ALL {
        let threads = atom.issuer().threads();
        assert!(atom.widths.is_sorted() && !atom.widths.is_empty());
        assert_eq!(
            (atom.a_layout().shape(), atom.a_layout().threads()),
            (&[atom.m, atom.k][..], threads),
            "{}",
            atom.name()
        );
        for n in atom.widths {
            let sums = atom.acc_layout(*n).unwrap();
            assert_eq!(
                (sums.shape(), sums.threads(), sums.replication()),
                (&[atom.m, *n][..], threads, 1),
                "{}",
                atom.name()
            );
        }
        match atom.b_layout() {
            Some(layout) => assert_eq!((layout.shape(), layout.threads()), (&[atom.k, atom.widths[0]][..], threads)),
            None => assert!(!atom.takes_b(Source::Registers) && atom.takes_b(K_MAJOR)),
        }
        assert_eq!(atom.completes().is_async(), atom.kind == MmaKind::Wgmma);
        assert_eq!(atom.takes_b(Source::Shared { mn_major: true }), atom.kind == MmaKind::Wgmma && atom.a.bytes() == 2);
    }
    let integers = row("wgmma.m64nNk32.s32.s8.s8");
    assert_eq!(
        [24, 32, 40, 48, 56, 64, 72, 248, 256].map(|n| integers.widths.contains(&n)),
        [true, true, false, true, false, true, false, false, true]
    );
    assert_eq!(row("wgmma.m64nNk16.f32.bf16.bf16").widths.len(), 32);
}

/// Best first, by the letters of the kinds and their depth.
fn answers(table: &AtomTable, a: MatrixType, b: MatrixType, acc: MatrixType) -> String {
    let found = table.mma_atoms(a, b, acc);
    let letter = |row: &&MmaAtom| match row.kind {
        MmaKind::Fma => "f".to_owned(),
        MmaKind::Sync => format!("m{}", row.k),
        MmaKind::Wgmma => format!("w{}", row.k),
    };
    found.iter().map(letter).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_architecture_has_what_the_isa_says() {
    use MatrixType::*;
    let ampere = [Arch::Sm80, Arch::Sm86, Arch::Sm87];
    let later = [Arch::Sm100, Arch::Sm103, Arch::Sm120];
    for arch in Arch::ALL {
        let table = arch.atoms();
        let get = |a, b, acc| answers(&table, a, b, acc);
        let of = |turing: &'static str, ampere_: &'static str, ada: &'static str, hopper: &'static str| match arch {
            Arch::Sm75 => turing,
            Arch::Sm89 => ada,
            Arch::Sm90a => hopper,
            _ if ampere.contains(&arch) => ampere_,
            _ => {
                assert!(later.contains(&arch));
                ada
            }
        };
        assert_eq!(get(F16, F16, F32), of("m8 f", "m16 m8 f", "m16 m8 f", "w16 m16 m8 f"), "{arch}");
        assert_eq!(get(BF16, BF16, F32), of("f", "m16 f", "m16 f", "w16 m16 f"), "{arch}");
        assert_eq!(get(Tf32, Tf32, F32), of("f", "m8 f", "m8 f", "w8 m8 f"), "{arch}");
        assert_eq!(get(F32, F32, F32), "f", "{arch}");
        assert_eq!(get(F64, F64, F64), of("f", "m4 f", "m4 f", "m4 f"), "{arch}");
        for (a, b) in [(S8, S8), (S8, U8), (U8, S8), (U8, U8)] {
            assert_eq!(get(a, b, S32), of("m16 f", "m32 m16 f", "m32 m16 f", "w32 m32 m16 f"), "{arch}");
        }
        for (a, b) in [(E4m3, E4m3), (E4m3, E5m2), (E5m2, E4m3), (E5m2, E5m2)] {
            assert_eq!(get(a, b, F32), of("f", "f", "m32 f", "w32 m32 f"), "{arch}");
        }
        // Mixed operands convert to f32; what would not be exact has nothing.
        assert_eq!(get(F16, BF16, F32), "f");
        for (a, b, acc) in [(F64, F64, F32), (S8, F32, F32), (S32, S32, F32), (F16, F16, F16), (F16, F16, S32)] {
            assert_eq!(get(a, b, acc), "", "{arch}");
        }
    }
    let types: Vec<DType> = DType::ALL.into_iter().filter(|dtype| MatrixType::of(*dtype).is_some()).collect();
    assert_eq!(types.len(), 9);
    assert!(has_mma(DType::F16) && has_mma(DType::BF16) && !has_mma(DType::I8) && !has_mma(DType::F32));
}

#[test]
fn copies_are_those_of_the_architecture_best_first() {
    let names = |arch: Arch, from, to| {
        arch.atoms().copy_atoms(from, to).iter().map(|row| row.name).collect::<Vec<_>>().join(" ")
    };
    let async_copies = "cp.async.16 cp.async.8 cp.async.4";
    for (arch, expected) in [
        (Arch::Sm75, String::new()),
        (Arch::Sm80, async_copies.to_owned()),
        (Arch::Sm89, async_copies.to_owned()),
        (Arch::Sm90a, format!("tma.load tma.load.im2col tma.load.multicast {async_copies}")),
        (Arch::Sm100, format!("tma.load tma.load.im2col {async_copies}")),
        (Arch::Sm120, format!("tma.load tma.load.im2col {async_copies}")),
    ] {
        assert_eq!(names(arch, Space::Global, Space::Shared), expected, "{arch}");
        assert_eq!(
            names(arch, Space::Global, Space::Registers),
            "ld.global.16 ld.global.8 ld.global.4 ld.global.2 ld.global.1"
        );
        assert!(arch.atoms().has_copy(CopyKind::Matrix { count: 4, trans: true }));
        assert_eq!(names(arch, Space::Registers, Space::Shared).contains("stmatrix.x4.trans"), arch.capability() >= 90);
        assert_eq!(names(arch, Space::Shared, Space::Global), if arch.capability() >= 90 { "tma.store" } else { "" });
    }
    for atom in CopyAtom::ALL {
        let expected = match atom.kind {
            CopyKind::Vector | CopyKind::Matrix { .. } => Completion::Immediate,
            CopyKind::Async => Completion::CopyGroup,
            _ if atom.to == Space::Shared => Completion::Mbarrier,
            _ => Completion::BulkGroup,
        };
        assert_eq!(atom.completes(), expected, "{}", atom.name);
        assert_eq!(atom.issuer() == Issuer::Warp, atom.name.contains("matrix"), "{}", atom.name);
        assert_eq!(atom.shared_alignment(), if atom.is_tensor() { 128 } else { atom.bytes });
        assert_eq!(atom.swizzles().len(), if atom.is_tensor() { 4 } else { 1 });
        assert!(atom.asm(2).is_some() != (atom.kind == CopyKind::TensorWindows));
        assert!(atom.asm(4).is_some() && (atom.asm(6).is_none() == atom.is_tensor()));
    }
}

#[test]
fn rows_can_be_taken_away() {
    use MatrixType::{BF16, F32};
    let mut table = Arch::Sm90a.atoms();
    assert_eq!(answers(&table, BF16, BF16, F32), "w16 m16 f");
    table = table.keep_mma(|row| row.kind != MmaKind::Wgmma);
    assert_eq!(answers(&table, BF16, BF16, F32), "m16 f");
    assert_eq!(table, table.clone().keep_mma(|row| row.kind != MmaKind::Wgmma));
    table = table.keep_copies(|row| !row.is_tensor());
    let best = |table: &AtomTable| table.copy_atoms(Space::Global, Space::Shared).first().map(|row| row.name);
    assert_eq!(best(&table), Some("cp.async.16"));
    table = table.keep_copies(|row| row.kind != CopyKind::Async).keep_mma(|row| row.kind == MmaKind::Fma);
    assert_eq!((best(&table), answers(&table, BF16, BF16, F32)), (None, "f".to_owned()));
    assert_eq!(table.arch(), Arch::Sm90a);
}

#[test]
fn sums_become_the_next_left_operand_where_types_allow() {
    for (name, free) in [
        ("wgmma.m64nNk16.f32.bf16.bf16", true),
        ("wgmma.m64nNk8.f32.tf32.tf32", false),
        ("wgmma.m64nNk32.f32.e4m3.e4m3", false),
        ("mma.m16n8k16.f32.f16.f16", true),
        ("mma.m16n8k8.f32.f16.f16", true),
        ("mma.m16n8k32.f32.e4m3.e4m3", false),
    ] {
        let atom = row(name);
        let shape = [2 * atom.m, 96];
        let n = *atom.widths.iter().rfind(|n| 96 % **n == 0).unwrap();
        let sums = atom.acc_layout(n).unwrap().tile(&shape, &[]).unwrap();
        let operand = atom.a_layout().tile(&shape, &[]).unwrap();
        let found = conversion(&sums, &operand).unwrap();
        assert_eq!(matches!(found, Conversion::None | Conversion::Registers(_)), free, "{name}: {found:?}");
        assert!(free || matches!(found, Conversion::Shuffle(_)), "{name}: {found:?}");
    }
}

#[test]
fn operands_come_from_shared_memory_by_ldmatrix_and_descriptors() {
    for atom in MmaAtom::ALL.iter().filter(|row| row.kind == MmaKind::Sync && row.a.bytes() <= 4) {
        let tile = [64, 128 / atom.a.bytes()];
        let shared = SharedLayout::slabs(&tile, &[1, 0], SwizzleMode::B128, atom.a.bytes()).unwrap();
        let access = shared.matrix_access(&atom.a_layout().tile(&tile, &[]).unwrap(), 4).unwrap();
        assert!(!access.trans && access.bank_conflicts(&shared).is_free(), "{}", atom.name());
        // The right operand as (k, n): n-major only by transposing 16-bit elements.
        let right = atom.b_layout().unwrap().tile(&[tile[1], 64], &[]).unwrap();
        let k_major = SharedLayout::slabs(&[tile[1], 64], &[0, 1], SwizzleMode::B128, atom.b.bytes()).unwrap();
        let access = k_major.matrix_access(&right, 2).unwrap();
        assert!(!access.trans && access.bank_conflicts(&k_major).is_free(), "{}", atom.name());
        let n_major = SharedLayout::slabs(&[tile[1], 64], &[1, 0], SwizzleMode::B64, atom.b.bytes()).unwrap();
        assert_eq!(n_major.matrix_access(&right, 2).map(|access| access.trans), (atom.b.bytes() == 2).then_some(true));
    }
    for atom in MmaAtom::ALL.iter().filter(|row| row.kind == MmaKind::Wgmma) {
        let (bytes, columns) = (atom.a.bytes(), 128 / atom.a.bytes());
        let k_major = SharedLayout::slabs(&[128, columns], &[1, 0], SwizzleMode::B128, bytes).unwrap();
        let found = k_major.wgmma_descriptor(0, 1, 64).unwrap();
        assert_eq!(found.k_offsets.len() as u32, columns / atom.k);
        let mn_major = SharedLayout::slabs(&[columns, 64], &[0, 1], SwizzleMode::B128, bytes).unwrap();
        let taken = mn_major.wgmma_descriptor(0, 1, columns.min(64)).is_some();
        assert_eq!(taken, atom.takes_a(Source::Shared { mn_major: true }), "{}", atom.name());
    }
}

/// A kernel that holds one statement, its operands elements of arrays of their constraints' types.
fn kernel(name: &str, asm: &kiln_target::atoms::Asm) -> String {
    let slots = || asm.outputs.iter().chain(&asm.inputs);
    let statement = asm.statement(|role, index| {
        let slot = slots().find(|slot| (slot.role, slot.index) == (role, index)).expect("an operand of the statement");
        let array = match slot.constraint.trim_start_matches(['+', '=']) {
            "f" => "f",
            "d" => "d",
            "l" => "l",
            "h" => "h",
            _ => "r",
        };
        let base = if role == Role::Accumulator { 0 } else { 128 + 8 * role as u32 };
        format!("{array}[{}]", base + index)
    });
    let name = name.replace(['.', '-'], "_");
    format!(
        "extern \"C\" __global__ void {name}(float* f, double* d, unsigned* r, unsigned long long* l, unsigned short* h) {{\n    {statement}\n}}\n"
    )
}

/// One kernel a row (of wgmma for each source and some columns, all of them for two types).
fn kernels(arch: Arch) -> Vec<String> {
    let mut all = Vec::new();
    for atom in MmaAtom::ALL.iter().filter(|row| row.available.on(arch)) {
        let every = ["wgmma.m64nNk16.f32.bf16.bf16", "wgmma.m64nNk32.s32.s8.s8"].contains(&atom.name().as_str());
        let sources = [Source::Registers, K_MAJOR, Source::Shared { mn_major: true }];
        for n in atom.widths.iter().filter(|n| every || [1, 8, 64, 256].contains(*n)) {
            for (i, a) in sources.into_iter().enumerate().filter(|a| atom.takes_a(a.1)) {
                for (j, b) in sources.into_iter().enumerate().filter(|b| atom.takes_b(b.1)) {
                    let asm = atom.asm(*n, a, b).unwrap();
                    assert!(!asm.text.contains('$'), "{}", asm.text);
                    all.push(kernel(&format!("{}_{n}_{i}{j}", atom.name()), &asm));
                }
            }
        }
        assert_eq!(atom.asm(7, Source::Registers, K_MAJOR), None);
    }
    for atom in CopyAtom::ALL.iter().filter(|row| row.available.on(arch)) {
        for rank in if atom.is_tensor() { 1..=5 } else { 1..=1 } {
            let Some(asm) = atom.asm(rank) else {
                // Windows move along an axis or more between images and channels.
                assert!(atom.kind == CopyKind::TensorWindows && rank < 3, "{} of {rank}", atom.name);
                continue;
            };
            assert!(!asm.text.contains('$') && asm.memory, "{}", asm.text);
            all.push(kernel(&format!("{}_{rank}", atom.name), &asm));
        }
    }
    all
}

#[test]
fn nvrtc_takes_every_row_on_every_architecture_that_has_it() {
    let home = Home::from_env().expect("a home folder");
    let nvrtc = Nvrtc::discover(&home).unwrap_or_else(|_| {
        setup::setup(&home, |_| {}).expect("kiln setup");
        Nvrtc::discover(&home).expect("NVRTC")
    });
    let request = |arch: Arch| CompileRequest {
        name: format!("atoms_{arch}"),
        source: kernels(arch).concat(),
        arch: arch.name().to_owned(),
        options: Vec::new(),
        line_info: false,
    };
    let requests: Vec<CompileRequest> = Arch::ALL.into_iter().map(request).collect();
    for (arch, result) in Arch::ALL.iter().zip(Compiler::new(&nvrtc).compile_all(&requests, |_| {})) {
        let compiled = result.unwrap_or_else(|error| panic!("{arch}: {error}"));
        // Nothing was dropped on the way.
        let ptx = compiled.ptx;
        let count = |what: &str| ptx.matches(what).count();
        assert_eq!(count("wgmma.mma_async") > 0, *arch == Arch::Sm90a, "{arch}");
        assert_eq!(
            count("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e5m2.f32"),
            usize::from(arch.capability() >= 89),
            "{arch}"
        );
        assert_eq!(
            count("cp.async.bulk.tensor.5d"),
            [0, 3, 4][usize::from(arch.capability() >= 90) + usize::from(*arch == Arch::Sm90a)]
        );
    }
}
