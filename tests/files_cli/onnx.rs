//! ONNX models, written byte by byte: tests and benches need files, and no more of the format than this.

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

pub fn number(field: u64, n: u64) -> Vec<u8> {
    [varint(field << 3), varint(n)].concat()
}

pub fn bytes(field: u64, data: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(data.len() as u64), data.to_vec()].concat()
}

pub fn text(field: u64, text: &str) -> Vec<u8> {
    bytes(field, text.as_bytes())
}

/// An f32 input or output. A dimension is a number or a name.
fn port(field: u64, name: &str, shape: &[&str]) -> Vec<u8> {
    let dims: Vec<u8> = shape
        .iter()
        .flat_map(|d| bytes(1, &d.parse().map_or_else(|_| text(2, d), |extent| number(1, extent))))
        .collect();
    let tensor = [number(1, 1), bytes(2, &dims)].concat();
    bytes(field, &[text(1, name), bytes(2, &bytes(1, &tensor))].concat())
}

/// A model of nodes `(op, inputs, output)` with scalar f32 constants; all in f32.
pub fn model(
    inputs: &[(&str, &[&str])],
    constants: &[(&str, f32)],
    nodes: &[(&str, &[&str], &str)],
    outputs: &[(&str, &[&str])],
) -> Vec<u8> {
    let mut graph = text(2, "g");
    for (op, from, to) in nodes {
        let from: Vec<u8> = from.iter().flat_map(|name| text(1, name)).collect();
        graph.extend(bytes(1, &[from, text(2, to), text(4, op)].concat()));
    }
    for (name, value) in constants {
        graph.extend(bytes(5, &[number(2, 1), text(8, name), bytes(9, &value.to_le_bytes())].concat()));
    }
    inputs.iter().for_each(|(name, shape)| graph.extend(port(11, name, shape)));
    outputs.iter().for_each(|(name, shape)| graph.extend(port(12, name, shape)));
    [number(1, 8), bytes(7, &graph), bytes(8, &number(2, 17))].concat()
}
