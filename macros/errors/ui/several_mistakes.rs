#[kiln::model]
fn many<B>(x: Tensor<f32, B, 8>) -> Tensor<f32, B, 8> {
    let a = x.reshape([B, 9]);
    let b = x.softmax(7);
    let c = a + b;
    c.reluu()
}

fn main() {}
