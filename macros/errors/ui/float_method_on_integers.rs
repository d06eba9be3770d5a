#[kiln::model]
fn root<B>(x: Tensor<i32, B>) -> Tensor<i32, B> {
    x.sqrt()
}

fn main() {}
