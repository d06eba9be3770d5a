#[derive(kiln::Config)]
struct Tiles {
    bm: u32,
}

fn main() {}
