#[kiln::model(S > 4)]
fn long<S>(x: Tensor<f32, S>) -> Tensor<f32, S> {
    x
}

fn main() {}
