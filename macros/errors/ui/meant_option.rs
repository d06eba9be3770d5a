#[kiln::model]
fn spread<B>(x: Tensor<f32, B, 2>) -> (Tensor<f32, B, 1>, Tensor<f32, B>) {
    let a = x.sum(1, keepdim = true);
    let b = x.var(1, unbiased = true);
    (a, b)
}

fn main() {}
