#[derive(kiln::Config)]
struct Tiles {
    #[one_of(0, 1)]
    persistent: u32,
}

fn main() {}
