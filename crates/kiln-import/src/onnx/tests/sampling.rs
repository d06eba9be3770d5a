//! Resizing, sampling and transposed convolutions: constant extents against those known only when the graph runs.

use super::*;
use kiln_graph::{DType, Rng, interpret};

/// `Resize` of `x[1, 2, h, w]` with extents as numbers or names.
fn resize(
    extents: Option<[i64; 2]>,
    version: i64,
    inputs: &[&str],
    attributes: Vec<AttributeProto>,
    given: &[TensorProto],
) -> Graph {
    let [h, w] = match extents {
        Some([h, w]) => [D::Size(h), D::Size(w)],
        None => [D::Name("H"), D::Name("W")],
    };
    let g = graph(
        vec![f32_input("x", &[D::Size(1), D::Size(2), h, w])],
        given.to_vec(),
        vec![node("Resize", inputs, &["y"], attributes)],
        &["y"],
    );
    let m = ModelProto { opset_import: vec![opset("", version)], ..model(g) };
    import(&m).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn extents_known_when_the_graph_runs_resize_as_constant_ones_in_every_mode() {
    let mut rng = Rng::new(77);
    let mut pick = |list: &[&'static str]| list[rng.range(0, list.len() as i64 - 1) as usize];
    let mut numbers = Rng::new(78);
    for round in 0..120 {
        let mode = pick(&["nearest", "linear", "cubic"]);
        let coordinates = pick(&[
            "half_pixel",
            "pytorch_half_pixel",
            "align_corners",
            "asymmetric",
            "half_pixel_symmetric",
            "tf_half_pixel_for_nn",
            "tf_crop_and_resize",
        ]);
        let rounding = pick(&["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]);
        let mut attributes = vec![
            text("mode", mode),
            text("coordinate_transformation_mode", coordinates),
            text("nearest_mode", rounding),
            float("extrapolation_value", 9.5),
            int("exclude_outside", numbers.range(0, 1)),
            float("cubic_coeff_a", -0.5),
            int("antialias", i64::from(mode != "nearest") * numbers.range(0, 1)),
        ];
        let extents = [numbers.range(1, 9), numbers.range(1, 9)];
        let roi = floats("roi", &[8], &[0.0, 0.0, -0.2, 0.1, 1.0, 1.0, 0.9, 1.3]);
        let (inputs, given) = if numbers.range(0, 1) == 0 {
            let scale = |n: i64| [0.3, 0.5, 0.6, 0.75, 1.0, 1.4, 2.0, 3.0][n as usize];
            // No axis may vanish.
            let mut scales = [1.0, 1.0, scale(numbers.range(0, 7)), scale(numbers.range(0, 7))];
            for (s, n) in scales[2..].iter_mut().zip(extents) {
                *s = f32::max(*s, 1.0 / n as f32);
            }
            if coordinates == "tf_crop_and_resize" {
                scales[2..].fill(2.0);
            }
            (["x", "roi", "scales", ""], floats("scales", &[4], &scales))
        } else {
            let sizes = [1, 2, numbers.range(1, 11), numbers.range(1, 11)];
            let policy = pick(&["stretch", "not_larger", "not_smaller"]);
            if policy != "stretch" && coordinates != "tf_crop_and_resize" {
                attributes.push(text("keep_aspect_ratio_policy", policy));
            }
            (["x", "roi", "", "sizes"], longs("sizes", &[4], &sizes))
        };
        let given = [roi, given];
        let fixed = resize(Some(extents), 19, &inputs, attributes.clone(), &given);
        let open = resize(None, 19, &inputs, attributes, &given);
        let x = Tensor::random(DType::F32, &[1, 2, extents[0] as usize, extents[1] as usize], round).unwrap();
        let (a, b) = (interpret(&fixed, std::slice::from_ref(&x)).unwrap(), interpret(&open, &[x]).unwrap());
        assert_eq!(a[0].shape(), b[0].shape(), "{mode} {coordinates}");
        for (a, b) in a[0].to_f64_vec().iter().zip(b[0].to_f64_vec()) {
            assert!((a - b).abs() < 2e-5, "{mode} {coordinates} {rounding} {extents:?}: {a} {b}");
        }
    }
}

#[test]
fn nearest_neighbours_of_operator_set_10_round_up_to_shrink_and_down_to_enlarge() {
    let x = tensor(&[1, 2, 5, 1], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    for (scale, rows) in [(0.6, vec![0.0, 2.0, 4.0]), (1.5, vec![0.0, 0.0, 1.0, 2.0, 2.0, 3.0, 4.0])] {
        for extents in [Some([5, 1]), None] {
            let scales = floats("scales", &[4], &[1.0, 1.0, scale, 1.0]);
            let g = resize(extents, 10, &["x", "scales"], vec![], &[scales]);
            let y = interpret(&g, std::slice::from_ref(&x)).unwrap();
            assert_eq!(y[0].shape(), [1, 2, rows.len(), 1]);
            assert_eq!(y[0].to_f64_vec()[..rows.len()], rows);
        }
    }
}

#[test]
fn a_scaled_extent_is_the_product_in_f32_whether_it_is_open_or_not() {
    let inputs = ["x", "", "scales"];
    // 90 * 1.3 is 116.99999 in f32, and 10 * 1.3 is 13: no fraction gives both.
    for scale in [1.3f32, 2.1, 0.7, 0.123, 1.0 / 3.0, 5.7, 33.3, 1.0001] {
        let scales = [floats("scales", &[4], &[1.0, 1.0, scale, 1.0])];
        let open = model(graph(
            vec![f32_input("x", &[D::Size(1), D::Size(2), D::Name("H"), D::Size(2)])],
            scales.to_vec(),
            vec![node("Resize", &inputs, &["y"], vec![])],
            &["y"],
        ));
        let g = import(&open).unwrap();
        let extent = &g.ty(g.outputs[0].1).shape[2];
        for h in (1..400).chain([1000, 1023, 1024, 4090, 40_000, 65_530]) {
            let expected = (h as f32 * scale).floor() as i64;
            assert_eq!(extent.eval(&[("H".to_owned(), h)].into()).unwrap(), expected, "{h} * {scale}");
        }
    }
    let scales = [floats("scales", &[4], &[1.0, 1.0, 1.3, 1.0])];
    let x = Tensor::random(DType::F32, &[1, 2, 90, 2], 4).unwrap();
    let (fixed, open) =
        (resize(Some([90, 2]), 19, &inputs, vec![], &scales), resize(None, 19, &inputs, vec![], &scales));
    let (a, b) = (interpret(&fixed, std::slice::from_ref(&x)).unwrap(), interpret(&open, &[x]).unwrap());
    assert_eq!(a[0].shape(), [1, 2, 116, 2]);
    assert_eq!(a[0], b[0]);
}

#[test]
fn a_grid_of_one_place_is_finite() {
    let m = model(graph(
        vec![f32_input("t", &[D::Size(1), D::Size(2), D::Size(3)])],
        vec![longs("size", &[4], &[1, 1, 1, 2])],
        vec![node("AffineGrid", &["t", "size"], &["y"], vec![int("align_corners", 1)])],
        &["y"],
    ));
    let y = run(&import(&m).unwrap(), &[("t", tensor(&[1, 2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))]);
    assert_eq!(y[0], tensor(&[1, 1, 2, 2], &[4.0, 7.0, 6.0, 15.0]));
}

/// `ConvTranspose` of `x[1, 1, n]`.
fn transposed(extent: Option<i64>, bias: bool, attributes: Vec<AttributeProto>) -> Graph {
    let n = extent.map_or(D::Name("N"), D::Size);
    let inputs: &[&str] = if bias { &["x", "w", "b"] } else { &["x", "w"] };
    let weights = vec![floats("w", &[1, 1, 3], &[1.0, 10.0, 100.0]), floats("b", &[1], &[0.5])];
    let nodes = vec![node("ConvTranspose", inputs, &["y"], attributes)];
    import(&model(graph(vec![f32_input("x", &[D::Size(1), D::Size(1), n])], weights, nodes, &["y"]))).unwrap()
}

#[test]
fn a_transposed_convolution_is_cut_or_extended_to_its_output_shape() {
    // Whole, with stride 2: 1 10 102 20 203 30 300.
    let x = tensor(&[1, 1, 3], &[1.0, 2.0, 3.0]);
    let cases: [(&str, i64, &[f32]); 6] = [
        ("NOTSET", 7, &[1.0, 10.0, 102.0, 20.0, 203.0, 30.0, 300.0]),
        ("NOTSET", 8, &[1.0, 10.0, 102.0, 20.0, 203.0, 30.0, 300.0, 0.0]),
        ("SAME_UPPER", 9, &[1.0, 10.0, 102.0, 20.0, 203.0, 30.0, 300.0, 0.0, 0.0]),
        ("NOTSET", 6, &[10.0, 102.0, 20.0, 203.0, 30.0, 300.0]),
        ("SAME_LOWER", 4, &[102.0, 20.0, 203.0, 30.0]),
        ("SAME_UPPER", 4, &[10.0, 102.0, 20.0, 203.0]),
    ];
    for (auto_pad, size, expected) in cases {
        for extent in [Some(3), None] {
            for bias in [false, true] {
                let attributes = vec![ints("strides", &[2]), ints("output_shape", &[size]), text("auto_pad", auto_pad)];
                let y = run(&transposed(extent, bias, attributes), &[("x", x.clone())]);
                let expected: Vec<f32> = expected.iter().map(|v| v + if bias { 0.5 } else { 0.0 }).collect();
                assert_eq!(y[0], tensor(&[1, 1, size as usize], &expected), "{auto_pad} {size} {extent:?} {bias}");
            }
        }
    }
    // Without it, `SAME` is the extent times the stride.
    let y = run(&transposed(Some(3), false, vec![ints("strides", &[4]), text("auto_pad", "SAME_UPPER")]), &[("x", x)]);
    let expected = [1.0, 10.0, 100.0, 0.0, 2.0, 20.0, 200.0, 0.0, 3.0, 30.0, 300.0, 0.0];
    assert_eq!(y[0], tensor(&[1, 1, 12], &expected));
}
