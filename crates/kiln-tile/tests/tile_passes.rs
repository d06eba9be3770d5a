//! The passes on whole programs.

use kiln_target::arch::Arch;
use kiln_tile::ir::{Builder, Place, Program, Schedule, verify};
use kiln_tile::passes::{Machine, PASSES};
use kiln_tile::{DType, Expr};

/// `y[M, N] = x[M, K] w[N, K]^T`
fn gemm(dtype: DType, [bm, bn, bk]: [u32; 3], stages: u32, schedule: Schedule) -> Program {
    let mut k = Builder::new("gemm", "y = x w^T");
    let m = k.dim("m", 1..=8192, 1);
    let n = k.dim("n", 8..=8192, 8);
    let d = k.dim("k", 8..=8192, 8);
    let x = k.input("x", dtype, &[m.clone(), d.clone()]);
    let w = k.input("w", dtype, &[n.clone(), d.clone()]);
    let y = k.output("y", dtype, &[m.clone(), n.clone()]);
    k.schedule(schedule);
    let (tm, tn) = (i64::from(bm), i64::from(bn));
    let at = k.grid(&[("tile_m", m.ceil_div(tm)), ("tile_n", n.ceil_div(tn))]);
    let (row, col) = (&at[0] * tm, &at[1] * tn);
    let zero = k.full("acc", DType::F32, &[bm, bn], Expr::float(DType::F32, 0.0));
    let sum = k.for_range("k0", (Expr::index(0), d.clone(), bk.into()), Some(stages), &[zero], |k, at, acc| {
        let view = k.view(&x, &[row.clone(), at.clone()], &[bm, bk]);
        let a = k.load("a", view);
        let view = k.view(&w, &[col.clone(), at.clone()], &[bn, bk]);
        let b = k.load("b", view);
        let b = k.transpose(&b, &[1, 0]);
        vec![k.dot(&a, &b, &acc[0])]
    });
    let view = k.view(&y, &[row, col], &[bm, bn]);
    k.store(Place::View(view), &sum[0]);
    k.finish().unwrap()
}

/// What a pass leaves is right, and its text reads back.
fn holds(program: &Program, when: &str) {
    verify(program).unwrap_or_else(|e| panic!("{when}: {e}\n{program}"));
    let text = program.to_string();
    let back: Program = text.parse().unwrap_or_else(|e| panic!("{when}: {e}\n{text}"));
    assert_eq!(back.to_string(), text, "{when}");
    verify(&back).unwrap_or_else(|e| panic!("{when}, read back: {e}\n{text}"));
}

#[test]
fn a_product_goes_through_all_passes() {
    let schedule = Schedule {
        warps: 8,
        specialise: true,
        registers: Some((40, 232)),
        persistent: true,
        raster: 8,
        staged_epilogue: true,
        ..Schedule::default()
    };
    for arch in [Arch::Sm90a, Arch::Sm80, Arch::Sm75] {
        let dtype = if arch == Arch::Sm75 { DType::F16 } else { DType::BF16 };
        let mut program = gemm(dtype, [128, 128, 64], 3, schedule.clone());
        let machine = Machine::new(arch);
        for pass in &PASSES {
            pass.run(&mut program, &machine).unwrap_or_else(|e| panic!("{} for {arch}: {e}", pass.name));
            holds(&program, &format!("after {} for {arch}", pass.name));
        }
        kiln_tile::lower::compile_threads(&program, arch).unwrap_or_else(|e| panic!("{arch}: {e}"));
    }
}
