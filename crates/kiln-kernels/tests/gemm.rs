//! Convolutions as products of windows, and contractions that are no products of `families`, run by the tile interpreter, against the reference
//! interpreter.

use crate::common::{Case, case, random, spec};
use kiln_fuse::Anchor;
use kiln_graph::{ConvSpec, DType, Dim};
use kiln_target::arch::Arch;

fn check(case: &Case, family: &str) {
    for arch in [Arch::Sm75, Arch::Sm80] {
        let name = &case.region.name;
        let made = case.lower(arch).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(made.family, family, "{name}");
        case.compare(&case.interpret_tiles(arch), 1.0);
    }
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
fn sums_that_no_product_has_go_to_the_loop_nest() {
    let spec = spec("mk,kn->mn");
    let inputs = vec![random(DType::I64, &[9, 9], 1), random(DType::I64, &[9, 9], 2)];
    let case = case("loops", Anchor::Contract, 64.0, inputs, |b| {
        let x = b.input("x", DType::I64, &[Dim::from(9), Dim::from(9)])?;
        let y = b.input("y", DType::I64, &[Dim::from(9), Dim::from(9)])?;
        Ok(vec![b.contract(spec.clone(), x, y, DType::I64, DType::I64)?])
    });
    check(&case, "contract_loops");
}
