#[kiln::model]
fn any<T, B>(x: Tensor<T, B, 2>) -> Tensor<T, B, 2> {
    x
}

fn main() {}
