#[kiln::model]
fn half<B>(x: Tensor<i64, B>) -> Tensor<i64, B> {
    x * 0.5
}

fn main() {}
