#[kiln::model]
fn turn<B>(x: Tensor<f32, B, 3, 4>) -> Tensor<f32, 3, 4, B> {
    x.permute([1, 1, 0])
}

fn main() {}
