use kiln::graph::Float;

#[kiln::model]
fn squashed<T: Float, B>(x: Tensor<T, B, 2>) -> Tensor<T, B, 2> {
    x.tanh()
}

#[kiln::model]
fn caller<B>(ids: Tensor<i64, B, 2>) -> Tensor<i64, B, 2> {
    squashed(ids)
}

fn main() {}
