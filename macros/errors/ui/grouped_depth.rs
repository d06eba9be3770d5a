#[kiln::model]
fn experts<T>(x: Tensor<f32, T, 16>, w: Tensor<f32, 4, 8, 32>, ends: Tensor<i32, 4>) -> Tensor<f32, T, 32> {
    let hidden = x.grouped_matmul(w, ends);
    hidden.silu()
}

fn main() {}
