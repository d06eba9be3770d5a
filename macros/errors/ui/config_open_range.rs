#[derive(kiln::Config)]
struct Tiles {
    #[range(2..)]
    stages: u32,
}

fn main() {}
