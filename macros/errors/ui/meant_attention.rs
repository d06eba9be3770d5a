#[kiln::model]
fn attend<B, S>(x: Tensor<f32, B, S, 8>) -> Tensor<f32, B, S, 8> {
    let y = x.scaled_dot_product_attention(x, x);
    y.attention(x, x, is_causal = true)
}

fn main() {}
