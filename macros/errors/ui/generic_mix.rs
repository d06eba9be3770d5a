use kiln::graph::Float;

#[kiln::model]
fn mixed<T: Float, B>(x: Tensor<T, B, 2>, y: Tensor<f16, B, 2>) -> Tensor<T, B, 2> {
    x + y
}

fn main() {}
