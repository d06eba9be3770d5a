use crate::models::{block, engine};
use kiln_engine::{load, parse, save};
use kiln_graph::Rng;

/// An engine's bytes with the header rewritten by `edit` and its hash made right again, as an attacker would.
fn rehashed(bytes: &[u8], edit: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[16..24].try_into().unwrap()) as usize;
    let header = edit(bytes[56..56 + length].to_vec());
    let mut out = bytes[..16].to_vec();
    out.extend((header.len() as u64).to_le_bytes());
    out.extend(blake3::hash(&header).as_bytes());
    out.extend(&header);
    out.extend(&bytes[(56 + length).min(bytes.len())..]);
    out
}

#[test]
fn damage_is_always_an_error_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    save(&engine(&block(), &["cpu"], dir.path()), &path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut rng = Rng::new(11);
    let mut pick = |n: usize| (rng.next_u64() % n as u64) as usize;
    let used: Vec<bool> = {
        // Padding between sections carries no information: a flip there changes nothing.
        let header = kiln_engine::read_header(&path).unwrap();
        let mut used = vec![false; good.len()];
        let length = u64::from_le_bytes(good[16..24].try_into().unwrap()) as usize;
        used[..12].fill(true);
        used[16..56 + length].fill(true);
        for s in &header.sections {
            used[s.offset..s.offset + s.length].fill(true);
        }
        used
    };
    for round in 0..3000 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(pick(good.len())),
            1 => {
                let at = loop {
                    let at = pick(good.len());
                    if used[at] {
                        break at;
                    }
                };
                bytes[at] ^= 1 << pick(8);
            }
            _ => {
                bytes = rehashed(&bytes, |mut header| {
                    for _ in 0..=pick(3) {
                        let at = pick(header.len());
                        let digit = header[at].is_ascii_digit();
                        header[at] = if digit { b'0' + pick(10) as u8 } else { pick(256) as u8 };
                    }
                    header
                });
            }
        }
        let result = parse(&bytes.into(), &path);
        // A rewritten header may still say something true (a changed name); the first two kinds never do.
        assert!(result.is_err() || round % 3 == 2, "round {round} was accepted");
    }
    for junk in [&b""[..], b"KILN", b"KILNENG\0", &[0xff; 4096]] {
        std::fs::write(&path, junk).unwrap();
        assert!(load(&path).is_err());
    }
}

#[test]
fn lengths_that_lie_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    save(&engine(&block(), &["cpu"], dir.path()), &path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let mut bytes = good.clone();
    bytes[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("truncated"));
    let lying = rehashed(&good, |h| {
        String::from_utf8(h).unwrap().replacen("\"length\":", "\"length\":18446744073709", 1).into_bytes()
    });
    std::fs::write(&path, lying).unwrap();
    assert!(load(&path).is_err());
}
