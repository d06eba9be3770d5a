use super::*;
use kiln_graph::Rng;
use std::cell::Cell;
use std::io::Cursor;
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

fn npy(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn floats(n: u32) -> Vec<u8> {
    (0..n).flat_map(|i| (i as f32 * 0.37 - 3.0).to_le_bytes()).collect()
}

fn npz(arrays: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in arrays {
        archive.start_file(format!("{name}.npy"), SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

fn message(bytes: &[u8]) -> String {
    from_bytes(bytes, "file").unwrap_err().to_string()
}

#[test]
fn arrays_survive_the_round_trip_and_damage_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    for shape in [vec![24], vec![2, 3, 4], vec![24, 1]] {
        let tensor = Tensor::new(DType::F32, shape, Bytes::from(floats(24))).unwrap();
        save(&path, &tensor).unwrap();
        assert_eq!(load(&path).unwrap(), tensor);
    }
    let mut all = Vec::new();
    for dtype in DType::ALL {
        let tensor = Tensor::random(dtype, &[3, 5], 2).unwrap();
        save(&path, &tensor).unwrap();
        assert_eq!(load_as(&path, Some(dtype)).unwrap(), tensor);
        all.push((format!("a/{dtype}"), tensor));
    }
    let archive = dir.path().join("a.npz");
    save_npz(&archive, &all).unwrap();
    let mut archive = Npz::open(&archive).unwrap();
    assert!(archive.names().iter().eq(all.iter().map(|(name, _)| name)));
    for (name, tensor) in &all {
        assert_eq!(archive.array_as(name, Some(tensor.dtype())).unwrap(), *tensor);
    }
    save(&path, &Tensor::new(DType::F32, vec![24], Bytes::from(floats(24))).unwrap()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    for cut in 0..bytes.len() {
        assert!(from_bytes(&bytes[..cut], "cut").is_err(), "{cut}");
    }
    bytes.push(0);
    assert!(message(&bytes).contains("more follow"));
}

#[test]
fn headers_are_read_as_numpy_writes_them_and_as_others_do() {
    let data = floats(6);
    for header in [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
        "{\"shape\":(2,3),\"fortran_order\":False,\"descr\":\"<f4\"}   \n",
        " { 'descr':'<f4' , 'fortran_order' :False, 'shape': ( 2 , 3 ,) } ",
    ] {
        assert_eq!(from_bytes(&npy(header, &data), "").unwrap().shape(), [2, 3], "{header}");
    }
    let column = "{'descr': '<f4', 'fortran_order': True, 'shape': (6,)}";
    assert_eq!(from_bytes(&npy(column, &data), "").unwrap().shape(), [6]);
    let scalar = "{'descr': '>i1', 'fortran_order': False, 'shape': ()}";
    assert_eq!(from_bytes(&npy(scalar, &[5]), "").unwrap().to_i64_vec(), Some(vec![5]));
    let mut wide = b"\x93NUMPY\x02\x00".to_vec();
    wide.extend(59u32.to_le_bytes());
    wide.extend(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
    wide.extend(&data);
    assert_eq!(from_bytes(&wide, "").unwrap().shape(), [2, 3]);
}

#[test]
fn dtypes_that_numpy_does_not_name_are_what_is_expected() {
    let with =
        |descr: &str, data: &[u8]| npy(&format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (3,)}}"), data);
    let read = |bytes: &[u8], expected| read(bytes, bytes.len() as u64, "file", expected);
    let bf16 = [0x80, 0x3f, 0x20, 0xc0, 0, 0x3e];
    for descr in ["<V2", "|V2"] {
        // Whatever is expected: no other dtype of two bytes is without a name.
        for expected in [None, Some(DType::BF16), Some(DType::F16)] {
            let tensor = read(&with(descr, &bf16), expected).unwrap();
            assert_eq!((tensor.dtype(), tensor.to_f64_vec()), (DType::BF16, vec![1.0, -2.5, 0.125]));
        }
    }
    let bytes = with("|V1", &[0x38, 0x0f, 0xc2]);
    for (dtype, values) in [
        (DType::F8E4M3, [1.0, 15.0 / 512.0, -2.5]),
        (DType::F8E5M2, [0.5, 1.75 / 4096.0, -3.0]),
        // The low halves.
        (DType::I4, [-8.0, -1.0, 2.0]),
        (DType::U4, [8.0, 15.0, 2.0]),
    ] {
        let tensor = read(&bytes, Some(dtype)).unwrap();
        assert_eq!((tensor.dtype(), tensor.to_f64_vec()), (dtype, values.to_vec()));
    }
    assert_eq!(read(&with("<f1", &[0x38, 0x0f, 0xc2]), None).unwrap().dtype(), DType::F8E5M2);
    for expected in [None, Some(DType::F32), Some(DType::I8)] {
        assert!(read(&bytes, expected).unwrap_err().to_string().contains("V1"));
    }
    // Arrays of bytes that have a name are 4-bit integers where those are expected, and only there.
    let bytes = with("|i1", &[0xf8, 7, 0xff]);
    assert_eq!(read(&bytes, Some(DType::I4)).unwrap(), Tensor::from_i128(DType::I4, &[3], &[-8, 7, -1]).unwrap());
    assert_eq!(read(&bytes, Some(DType::F8E4M3)).unwrap().dtype(), DType::I8);
    let text = read(&bytes, Some(DType::U4)).unwrap_err().to_string();
    assert!(text.contains("holds -8, which is no u4: 0 to 15"), "{text}");
}

#[test]
fn hostile_headers_end_in_an_error_that_says_what_is_wrong() {
    let with = |descr: &str, order: &str, shape: &str| {
        npy(&format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}}}"), &[0; 16])
    };
    let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let axes = format!("({})", "1,".repeat(20_000));
    for (bytes, why) in [
        (with(&nested(50), "False", "(3, 8)"), "structured"),
        (with("'<f4'", "False", &nested(50)), "expected `(`"),
        (with("'<f4'", &nested(20_000), "(4,)"), "True or False"),
        (with("[('a', '<f4')]", "False", "(4,)"), "structured"),
        (with("'<c8'", "False", "(2,)"), "<c8"),
        (with("'|V3'", "False", "(5,)"), "|V3"),
        (with("'>V2'", "False", "(8,)"), ">V2"),
        (with("'<V2'", "False", "(9223372036854775807, 9)"), "address"),
        (with("'>f4'", "False", "(4,)"), "big-endian"),
        (with("'<f4'", "True", "(2, 2)"), "column-major"),
        (with("'<f4'", "False", "(4, -1)"), "an extent"),
        (with("'<f4'", "False", "(99999999999999999999999,)"), "64 bits"),
        (with("'<f4'", "False", "(9223372036854775807, 9)"), "address"),
        (with("'<f4'", "False", "(1099511627776,)"), "at most"),
        (with("'<f4'", "False", "(3,)"), "more follow"),
        (with("'<f4'", "False", &axes), "axes"),
        (npy("{'descr': '<f4', 'descr': '<f8', 'fortran_order': False, 'shape': (4,)}", &[0; 16]), "descr"),
        (npy("{'descr': '<f4', 'shape': (4,)}", &[0; 16]), "lacks"),
        (npy("{'descr': '<f4", &[0; 16]), "does not end"),
        (npy("{}{}", &[]), "the end"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}".to_vec(), "at most 65536"),
        (b"\x93NUMPY\x09\x00".to_vec(), "version 9"),
        (b"PK\x03\x04 and more".to_vec(), "NUMPY"),
    ] {
        let text = message(&bytes);
        assert!(text.contains(why), "{why}: {text}");
    }
}

/// Counts what is read.
struct Counted<'a>(Cursor<&'a [u8]>, &'a Cell<usize>);

impl Read for Counted<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(to)?;
        self.1.set(self.1.get() + n);
        Ok(n)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.0.seek(to)
    }
}

#[test]
fn arrays_are_inflated_when_asked_for_and_no_further_than_their_shape() {
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (6,)}";
    let good = npy(header, &floats(6));
    // 64 MiB of zeros behind a header that says 24 bytes.
    let bomb = npy(header, &vec![0; 64 << 20]);
    let bytes = npz(&[("bomb", &bomb), ("good", &good)], CompressionMethod::Deflated);
    let read = Cell::new(0);
    let mut archive = Npz::new(Counted(Cursor::new(&bytes), &read), "a.npz".into()).unwrap();
    assert_eq!(archive.names(), ["bomb", "good"]);
    let directory = read.replace(0);
    assert_eq!(archive.array("good").unwrap().data().as_ref(), floats(6));
    assert!(read.replace(0) < 2000 && directory < 2000, "reading `good` read `bomb` too");
    let text = archive.array("bomb").unwrap_err().to_string();
    assert!(text.contains("more follow") && text.contains("a.npz, array `bomb`"), "{text}");
    // One buffer of the inflater, not the whole stream.
    assert!(read.get() < bytes.len() * 3 / 4, "{} of {} bytes", read.get(), bytes.len());
    assert!(archive.array("other").is_err());
}

#[test]
fn mutated_arrays_and_archives_never_panic() {
    let array = npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", &floats(6));
    let other = npy("{'descr': '|b1', 'fortran_order': False, 'shape': (), }", &[1]);
    let pair: [(&str, &[u8]); 2] = [("x", &array), ("y", &other)];
    let seeds =
        [array.clone(), npz(&pair, CompressionMethod::Stored), npz(&pair, CompressionMethod::Deflated), other.clone()];
    let mut rng = Rng::new(14);
    let mut pick = |n: usize| (rng.next_u64() % n as u64) as usize;
    let (mut good, mut bad) = (0, 0);
    for round in 0..20_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=pick(3) {
            let at = pick(bytes.len());
            match pick(5) {
                0 => bytes[at] ^= 1 << pick(8),
                1 => bytes[at] = *b"0123456789()[]{},:'\" TF<>|"[..].get(pick(26)).unwrap_or(&0),
                2 => bytes.insert(at, pick(256) as u8),
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let end = (at + 1 + pick(8)).min(bytes.len());
                    bytes[at..end].fill([0, 0xff][pick(2)]);
                }
            }
        }
        let arrays = if (round % seeds.len()).is_multiple_of(3) {
            from_bytes(&bytes, "mutated").map(|t| vec![t])
        } else {
            Npz::new(Cursor::new(&bytes), "mutated".into()).and_then(|mut archive| {
                let names = archive.names().to_vec();
                names.iter().map(|name| archive.array(name)).collect()
            })
        };
        match arrays {
            // What is accepted is no larger than what was there: nothing here compresses well.
            Ok(arrays) => {
                good += 1;
                assert!(arrays.iter().map(|t| t.data().len()).sum::<usize>() <= bytes.len());
            }
            Err(_) => bad += 1,
        }
    }
    assert!(good > 100 && bad > 10_000, "{good} {bad}");
}
