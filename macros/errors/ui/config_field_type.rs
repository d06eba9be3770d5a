#[derive(kiln::Config)]
struct Tiles {
    #[one_of(0.5, 1.0)]
    scale: f32,
}

fn main() {}
