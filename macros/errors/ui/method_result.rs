struct Config {
    width: usize,
}

impl Config {
    #[kiln::model]
    fn block<B>(&self, x: Tensor<f32, B, { self.width }>) -> Tensor<f32, B, { self.width }> {
        x.sofmax(-1)
    }
}

fn main() {}
