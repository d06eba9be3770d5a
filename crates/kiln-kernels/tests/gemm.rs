//! Matrix products with prologues, epilogues, batches and odd sizes, run by the tile interpreter, against the reference interpreter.

mod common;

use common::{Case, case, d, random, spec};
use kiln_fuse::Anchor;
use kiln_graph::{ConvSpec, DType, Dim, QuantAxes};
use kiln_target::arch::Arch;

fn check(case: &Case, family: &str) {
    for arch in [Arch::Sm75, Arch::Sm80] {
        let name = &case.region.name;
        let made = case.lower(arch).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(made.family, family, "{name}");
        case.compare(&case.interpret_tiles(arch), 1.0);
    }
}

/// Every orientation of operands, with one and several labels a group.
#[test]
fn einsums() {
    let specs =
        ["mk,kn->mn", "bmk,bnk->bmn", "km,kn->nm", "bhmk,bhnk->bhmn", "bmk,kn->bmn", "mkj,kjn->mn", "bmk,khd->bhmd"];
    for (number, text) in specs.into_iter().enumerate() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::I32, DType::F64] {
            let spec = spec(text);
            // Odd sizes and sizes of whole vectors.
            for (m, n, k) in [(5, 11, 19), (24, 40, 16)] {
                let extent = |l: &char| match l {
                    'b' => 2,
                    'h' | 'j' => 3,
                    'm' => m,
                    'n' | 'd' => n,
                    _ => k,
                };
                let shapes = [&spec.lhs, &spec.rhs].map(|labels| labels.iter().map(extent).collect::<Vec<usize>>());
                let dims = shapes.clone().map(|s| s.into_iter().map(Dim::from).collect::<Vec<_>>());
                let inputs = vec![random(dtype, &shapes[0], 1), random(dtype, &shapes[1], 2)];
                let case = case(&format!("einsum_{number}_{dtype}_{m}"), Anchor::Contract, 64.0, inputs, |b| {
                    let (x, y) = (b.input("x", dtype, &dims[0])?, b.input("y", dtype, &dims[1])?);
                    Ok(vec![b.contract(spec.clone(), x, y, dtype.accumulator(), dtype)?])
                });
                check(&case, "gemm");
            }
        }
    }
}

#[test]
fn a_linear_layer_ends_in_heads() {
    for dtype in [DType::F32, DType::F16] {
        let inputs = vec![random(dtype, &[2, 7, 32], 1), random(dtype, &[32, 48], 2), random(dtype, &[48], 3)];
        let case = case("query_heads", Anchor::Contract, 64.0, inputs, |b| {
            let x = b.input("x", dtype, &d(&["B", "S", "32"]))?;
            let (w, bias) = (b.input("w", dtype, &d(&["32", "48"]))?, b.input("bias", dtype, &d(&["48"]))?);
            let y = b.contract(spec("bsk,kn->bsn"), x, w, dtype.accumulator(), dtype)?;
            let y = b.plus(y, bias)?;
            let y = b.gelu(y)?;
            let y = b.reshape(y, &d(&["B", "S", "3", "16"]))?;
            Ok(vec![b.transpose(y, &[0, 2, 1, 3])?])
        });
        check(&case, "gemm");
    }
}

#[test]
fn a_residual_is_added() {
    let f = DType::F16;
    let inputs = vec![random(f, &[33, 64], 1), random(f, &[24, 64], 2), random(f, &[33, 24], 3)];
    let case = case("residual", Anchor::Contract, 64.0, inputs, |b| {
        let (x, w) = (b.input("x", f, &d(&["M", "64"]))?, b.input("w", f, &d(&["24", "64"]))?);
        let residual = b.input("residual", f, &d(&["M", "24"]))?;
        let y = b.contract(spec("mk,nk->mn"), x, w, DType::F32, f)?;
        Ok(vec![b.plus(y, residual)?])
    });
    check(&case, "gemm");
}

#[test]
fn a_large_product_goes_in_bands_of_tiles() {
    let f = DType::F64;
    for (m, n) in [(1152, 1216), (1216, 1152)] {
        let inputs = vec![random(f, &[m, 8], 1), random(f, &[8, n], 2)];
        let case = case("bands", Anchor::Contract, 64.0, inputs, |b| {
            let (x, w) =
                (b.input("x", f, &[Dim::from(m), Dim::from(8)])?, b.input("w", f, &[Dim::from(8), Dim::from(n)])?);
            Ok(vec![b.contract(spec("mk,kn->mn"), x, w, f, f)?])
        });
        let made = case.lower(Arch::Sm80).unwrap();
        assert!(made.kernels[0].source.contains("int band_ = "), "{}", made.kernels[0].source);
        check(&case, "gemm");
    }
}

#[test]
fn operands_are_converted_as_they_are_loaded() {
    let f = DType::F32;
    let inputs = vec![random(DType::U8, &[9, 32], 1), random(DType::I8, &[32, 12], 2)];
    let products = case("u8_by_i8", Anchor::Contract, 1.0, inputs, |b| {
        let (x, w) = (b.input("x", DType::U8, &d(&["M", "32"]))?, b.input("w", DType::I8, &d(&["32", "12"]))?);
        let (x, w) = (b.cast(x, DType::I32)?, b.cast(w, DType::I32)?);
        Ok(vec![b.contract(spec("mk,kn->mn"), x, w, DType::I32, DType::I32)?])
    });
    check(&products, "gemm");
    let inputs = vec![
        random(f, &[3, 32], 1),
        random(DType::I4, &[32, 12], 2),
        random(f, &[2, 12], 3),
        random(DType::I4, &[2, 12], 4),
    ];
    let weights = case("int4_weights", Anchor::Contract, 64.0, inputs, |b| {
        let (x, w) = (b.input("x", f, &d(&["M", "32"]))?, b.input("w", DType::I4, &d(&["32", "12"]))?);
        let (scale, zero) = (b.input("scale", f, &d(&["2", "12"]))?, b.input("zero", DType::I4, &d(&["2", "12"]))?);
        let w = b.dequantize(w, scale, zero, QuantAxes::Block { axis: 0, block: 16 })?;
        Ok(vec![b.contract(spec("mk,kn->mn"), x, w, f, f)?])
    });
    check(&weights, "gemm");
}

/// Strides, dilations and padding of one to three axes, small images that share a tile and large ones, something behind.
#[test]
fn convolutions_are_products_of_windows() {
    type Axis = (usize, (usize, usize), usize);
    let cases: [(&str, &[usize], &[usize], Axis); 8] = [
        ("same", &[2, 8, 9, 7], &[19, 8, 3, 3], (1, (1, 1), 1)),
        ("valid", &[1, 3, 20, 21], &[16, 3, 5, 4], (1, (0, 0), 1)),
        ("strided", &[3, 5, 11, 8], &[33, 5, 3, 3], (2, (0, 1), 1)),
        ("dilated", &[1, 4, 21, 19], &[8, 4, 3, 3], (1, (2, 2), 2)),
        ("pointwise", &[2, 16, 6, 5], &[24, 16, 1, 1], (2, (0, 0), 1)),
        ("one_position", &[2, 8, 3, 3], &[9, 8, 3, 3], (1, (0, 0), 1)),
        ("line", &[2, 7, 300], &[10, 7, 4], (1, (3, 0), 1)),
        ("cube", &[1, 2, 5, 4, 6], &[8, 2, 2, 2, 3], (1, (1, 0), 1)),
    ];
    for (name, x, w, (stride, pad, dilation)) in cases {
        let axes = x.len() - 2;
        let spec =
            ConvSpec { strides: vec![stride; axes], pads: vec![pad; axes], dilations: vec![dilation; axes], groups: 1 };
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::F64] {
            for symbolic in [false, true] {
                let inputs = vec![random(dtype, x, 1), random(dtype, w, 2), random(dtype, &w[..1], 3)];
                let case = case(&format!("conv_{name}_{dtype}_{symbolic}"), Anchor::Conv, 64.0, inputs, |b| {
                    let mut shape: Vec<Dim> = x.iter().map(|&n| Dim::from(n)).collect();
                    if symbolic {
                        shape[0] = Dim::sym("N");
                        shape[2] = Dim::sym("H");
                        b.symbol("H", x[2] as i64, 4000);
                    }
                    let image = b.input("x", dtype, &shape)?;
                    let filter = b.input("w", dtype, &w.iter().map(|&n| Dim::from(n)).collect::<Vec<_>>())?;
                    let bias = b.input("bias", dtype, &[Dim::from(w[0])])?;
                    let y = b.conv(image, filter, Some(bias), spec.clone())?;
                    let y = b.relu(y)?;
                    let last: Vec<usize> = [0].into_iter().chain(2..x.len()).chain([1]).collect();
                    Ok(vec![b.transpose(y, &last)?])
                });
                check(&case, "conv_gemm");
            }
        }
    }
}

#[test]
fn what_is_no_matrix_product_goes_to_the_loop_nest() {
    for text in ["k,k->", "mk,k->m", "m,n->mn"] {
        let spec = spec(text);
        let shape = |labels: &[char]| vec![9usize; labels.len()];
        let dims = |labels: &[char]| vec![Dim::from(9); labels.len()];
        let inputs = vec![random(DType::F32, &shape(&spec.lhs), 1), random(DType::F32, &shape(&spec.rhs), 2)];
        let case = case("loops", Anchor::Contract, 64.0, inputs, |b| {
            let x = b.input("x", DType::F32, &dims(&spec.lhs))?;
            let y = b.input("y", DType::F32, &dims(&spec.rhs))?;
            Ok(vec![b.contract(spec.clone(), x, y, DType::F32, DType::F32)?])
        });
        check(&case, "contract_loops");
    }
}
