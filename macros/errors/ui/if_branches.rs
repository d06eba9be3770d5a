#[kiln::model]
fn pick<B>(x: Tensor<f32, B, 4>, transposed: bool) -> Tensor<f32, B, 4> {
    let y = if transposed { x.transpose(0, 1) } else { x.sum(1) };
    y
}

fn main() {}
