//! Tile program in, CUDA C out; and what the passes between leave behind. `UPDATE_EXPECT=1 cargo test -p kiln-tile --test tile golden` accepts the present output.

use crate::programs::gemm::{Shape, gemm};
use expect_test::expect_file;
use kiln_target::arch::Arch;
use kiln_tile::pass::Pass;
use kiln_tile::{DType, Program, compile, compile_watched};

fn check(name: &str, program: &Program, arch: Arch) {
    expect_file![format!("golden/{name}.{arch}.cu")].assert_eq(&compile(program, arch).unwrap().source);
}

/// What each pass leaves behind: of a pipelined product, and of a transpose that needs a barrier.
#[test]
fn passes() {
    let shape = Shape { multiple: 8, ..Shape::new(DType::F16, (32, 32, 32), 64) };
    let programs = [
        ("gemm", gemm(shape), [Pass::Verify, Pass::Layout, Pass::Sync].as_slice()),
        ("transpose", crate::programs::transpose_tiled(DType::F32), &[Pass::Sync]),
    ];
    for (name, program, shown) in programs {
        let mut seen = Vec::new();
        compile_watched(&program, Arch::Sm80, &mut |pass, text| {
            seen.push(pass);
            if shown.contains(&pass) {
                expect_file![format!("golden/{name}.{}.txt", pass.name())].assert_eq(&text.to_string());
            }
        })
        .unwrap();
        assert_eq!(seen, Pass::ALL);
    }
}

#[test]
fn maps() {
    check("bias_gelu_f16", &crate::programs::bias_gelu(DType::F16, 768), Arch::Sm80);
    check("bias_gelu_odd", &crate::programs::bias_gelu(DType::F32, 77), Arch::Sm80);
    check("functions", &crate::programs::functions(), Arch::Sm75);
    check("cast_f32_bf16", &crate::programs::cast(DType::F32, DType::BF16), Arch::Sm75);
    check("cast_f16_f8e4m3", &crate::programs::cast(DType::F16, DType::F8E4M3), Arch::Sm80);
    check("cast_i4_f32", &crate::programs::cast(DType::I4, DType::F32), Arch::Sm90a);
}

#[test]
fn rows() {
    check("softmax_block", &crate::programs::softmax_block(DType::BF16, 1000), Arch::Sm90a);
    check("layer_norm_wide", &crate::programs::layer_norm_warp(DType::F16, 8), Arch::Sm86);
    check("layer_norm_odd", &crate::programs::layer_norm_warp(DType::F32, 1), Arch::Sm120);
}

#[test]
fn indexed() {
    check("gather_rows", &crate::programs::gather_rows(DType::F32, 384), Arch::Sm89);
    check("max_pool", &crate::programs::max_pool(), Arch::Sm75);
    check("transpose", &crate::programs::transpose_tiled(DType::F32), Arch::Sm100);
    check("histogram", &crate::programs::histogram(), Arch::Sm80);
}

#[test]
fn products() {
    let f16 = Shape::new(DType::F16, (128, 128, 32), 256);
    check("gemm_f16_aligned", &gemm(Shape { multiple: 8, ..f16 }), Arch::Sm80);
    check("gemm_f16_aligned", &gemm(Shape { multiple: 8, ..f16 }), Arch::Sm75);
    check("gemm_f16_odd", &gemm(Shape { tile: (64, 64, 32), ..f16 }), Arch::Sm89);
    let bf16 = Shape::new(DType::BF16, (128, 128, 64), 256);
    let linear = Shape { transpose_b: true, stages: 4, multiple: 8, ..bf16 };
    check("gemm_bf16_linear", &gemm(linear), Arch::Sm90a);
    let prologue = Shape { transpose_a: true, prologue: true, multiple: 8, ..bf16 };
    check("gemm_bf16_prologue", &gemm(prologue), Arch::Sm120);
    check("gemm_bf16_simt", &gemm(Shape { tile: (64, 64, 16), ..bf16 }), Arch::Sm75);
    let f32 = Shape::new(DType::F32, (64, 64, 16), 256);
    check("gemm_f32_aligned", &gemm(Shape { multiple: 4, ..f32 }), Arch::Sm86);
    check("gemm_f32_linear", &gemm(Shape { transpose_b: true, ..f32 }), Arch::Sm100);
    check("gemm_i32", &gemm(Shape::new(DType::I32, (32, 64, 16), 128)), Arch::Sm75);
    check("gemm_f64", &gemm(Shape::new(DType::F64, (32, 32, 16), 64)), Arch::Sm80);
}

#[test]
fn streams() {
    check("attention_f16", &crate::programs::attention::attention(DType::F16, 64, 32, 64), Arch::Sm90a);
    check("attention_f16", &crate::programs::attention::attention(DType::F16, 32, 16, 64), Arch::Sm75);
}
