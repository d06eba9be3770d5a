//! A layer of experts in `#[kiln::model]`: rows are sorted by expert, multiplied by the matrices of theirs, and put back.

use kiln::Model;
use kiln::graph::{DType, Tensor};

const EXPERTS: usize = 5;
const WIDTH: usize = 16;
const HIDDEN: usize = 24;

/// Each row goes to its best expert, a gated layer, and counts as much as the router says.
#[kiln::model]
fn experts<T>(
    x: Tensor<f32, T, 16>,
    router: Tensor<f32, 16, 5>,
    gate: Tensor<f32, 5, 16, 24>,
    up: Tensor<f32, 5, 16, 24>,
    down: Tensor<f32, 5, 16, 24>,
) -> Tensor<f32, T, 16> {
    let (share, expert) = x.matmul(router).softmax(-1).topk(-1, 1);
    // Ties by the lower index: rows of an expert stay in order.
    let (_, order) = expert.squeeze([-1]).topk(0, T, largest = false);
    let ends = expert.le(iota(i64, [1, 5], 1)).cast(i32).sum(0);
    let rows = x.gather(order, 0);
    let hidden = rows.grouped_matmul(gate, ends).silu() * rows.grouped_matmul(up, ends);
    let sorted = hidden.grouped_matmul(down, ends, transposed = true);
    x.scatter(order, sorted, 0) * share
}

/// The same, a row at a time.
fn expected(rows: usize, data: &[Tensor]) -> Vec<f64> {
    let [x, router, gate, up, down] = [0, 1, 2, 3, 4].map(|i| data[i].to_f64_vec());
    let row = |r: usize| {
        let x = &x[r * WIDTH..][..WIDTH];
        let logit = |e: usize| (0..WIDTH).map(|k| x[k] * router[k * EXPERTS + e]).sum::<f64>().exp();
        let logits: Vec<f64> = (0..EXPERTS).map(logit).collect();
        let best = (0..EXPERTS).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        let share = logits[best] / logits.iter().sum::<f64>();
        let by = |w: &[f64], h: usize| (0..WIDTH).map(|k| x[k] * w[(best * WIDTH + k) * HIDDEN + h]).sum::<f64>();
        let hidden: Vec<f64> = (0..HIDDEN).map(|h| by(&gate, h) / (1.0 + (-by(&gate, h)).exp()) * by(&up, h)).collect();
        let out =
            |k: usize| (0..HIDDEN).map(|h| hidden[h] * down[(best * WIDTH + k) * HIDDEN + h]).sum::<f64>() * share;
        (0..WIDTH).map(out).collect::<Vec<f64>>()
    };
    (0..rows).flat_map(row).collect()
}

#[test]
fn rows_are_multiplied_by_the_matrices_of_their_experts() {
    let model = Model::from(experts::graph().unwrap());
    let random = |shape: &[usize], seed| Tensor::random(DType::F32, shape, seed).unwrap();
    let (wide, names) = ([EXPERTS, WIDTH, HIDDEN], ["x", "router", "gate", "up", "down"]);
    for device in ["cpu", "sim:sm_80"] {
        let mut session = kiln::jit(&model, device).unwrap();
        for rows in [1, 37] {
            let data = [
                random(&[rows, WIDTH], 1),
                random(&[WIDTH, EXPERTS], 2),
                random(&wide, 3),
                random(&wide, 4),
                random(&wide, 5),
            ];
            let inputs: Vec<(&str, &Tensor)> = names.into_iter().zip(&data).collect();
            let found = session.run(&inputs).unwrap().remove(0).1.to_f64_vec();
            for (i, (found, expected)) in found.iter().zip(expected(rows, &data)).enumerate() {
                let near = (found - expected).abs() <= 1e-4 * expected.abs().max(0.1);
                assert!(near, "{device}, {rows} rows, element {i}: {found}, expected {expected}");
            }
        }
    }
}
