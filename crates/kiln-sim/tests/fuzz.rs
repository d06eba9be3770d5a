//! Mutated PTX must give an error, a finding or a result: never a panic, never a hang.

use crate::support::Rng;
use kiln_sim::{Checks, Device, LaunchConfig, Module, Options};

/// Replaces, drops, doubles or swaps pieces of a text.
fn mutate(text: &str, rng: &mut Rng) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let words: Vec<&str> = text.split_whitespace().collect();
    for _ in 0..1 + rng.below(4) {
        let n = bytes.len() as u64;
        let at = rng.below(n) as usize;
        match rng.below(20) {
            // Most mutations keep the grammar: lines removed or moved, one digit replaced.
            8..=15 => {
                let line = |at: usize, bytes: &[u8]| {
                    let from = bytes[..at].iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
                    let to = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |i| at + i + 1);
                    from..to
                };
                let range = line(at, &bytes);
                let copy: Vec<u8> = bytes[range.clone()].to_vec();
                if rng.below(2) == 0 {
                    bytes.drain(range);
                } else {
                    let to = line(rng.below(n) as usize, &bytes).start;
                    bytes.splice(to..to, copy);
                }
            }
            16..=18 => {
                if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    bytes[at + digit] = b'0' + rng.below(10) as u8;
                }
            }

            0 => bytes[at] = b" ;,{}[]()%@!.:|<>+-0123456789abcdefrpx_$\"\n"[rng.below(42) as usize],
            1 => {
                bytes.remove(at);
            }
            2 => {
                let word = words[rng.below(words.len() as u64) as usize];
                bytes.splice(at..at, word.bytes());
            }
            3 => {
                let end = (at + rng.below(40) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                // A whole line moves elsewhere.
                let line: Vec<u8> = bytes[at..].iter().copied().take_while(|b| *b != b'\n').chain([b'\n']).collect();
                let to = rng.below(n) as usize;
                bytes.splice(to..to, line);
            }
            5 => {
                // A number becomes an extreme one.
                if let Some(digit) = bytes[at..].iter().position(u8::is_ascii_digit) {
                    let value = ["4294967295", "18446744073709551615", "0", "-1", "99999999999999999999"]
                        [rng.below(5) as usize];
                    bytes.splice(at + digit..at + digit + 1, value.bytes());
                }
            }
            6 => {
                // One modifier becomes another.
                if let Some(dot) = bytes[at..].iter().position(|b| *b == b'.') {
                    let word = words[rng.below(words.len() as u64) as usize];
                    let part = word.rsplit('.').next().unwrap_or("");
                    let end = bytes[at + dot + 1..].iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(0);
                    bytes.splice(at + dot + 1..at + dot + 1 + end, part.bytes());
                }
            }
            _ => bytes.truncate(at.max(1)),
        }
        if bytes.is_empty() {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Parses, decodes and runs whatever is left of a module, all parameters being one valid address.
fn exercise(text: &str, rng: &mut Rng) -> (usize, usize) {
    let Ok(module) = Module::parse(text) else { return (0, 0) };
    let (mut decoded, mut ran) = (0, 0);
    for entry in module.entries().into_iter().take(3) {
        let Ok(kernel) = module.kernel(&entry.name) else { continue };
        decoded += 1;
        let d = Device::new(1 << 24);
        let Ok(at) = d.alloc(1 << 16) else { continue };
        d.fill(at, 1, 1 << 16).unwrap();
        let bytes = kernel.params().iter().map(|(at, size)| (at + size) as usize).max().unwrap_or(0);
        let params: Vec<u8> = at.to_le_bytes().into_iter().cycle().take(bytes).collect();
        let checks = if rng.below(2) == 0 { Checks::all() } else { Checks::none() };
        let options = Options {
            checks,
            budget: 20_000,
            counters: rng.below(2) == 0,
            seed: Some(rng.next()),
            ..Options::default()
        };
        let block = match entry.max_threads {
            Some([most, ..]) if most > 128 => most.min(512),
            _ if entry.name.contains("gemm") => 128,
            _ => 64,
        };
        let config = LaunchConfig { shared: 4096, ..LaunchConfig::linear(4, block) };
        ran += usize::from(d.launch_block(&kernel, config, &params, &options).is_ok());
    }
    (decoded, ran)
}

/// One kernel of a module with the module's declarations, so that mutations hit code that runs.
fn shrink(text: &str, rng: &mut Rng) -> String {
    let starts: Vec<usize> = text.match_indices(".visible .entry").map(|(i, _)| i).collect();
    let head = &text[..starts[0]];
    let pick = rng.below(starts.len() as u64) as usize;
    let end = starts.get(pick + 1).copied().unwrap_or(text.len());
    let body = &text[starts[pick]..end];
    format!("{head}{}", body.split("\t.section").next().unwrap_or(body))
}

#[test]
fn mutated_modules_never_panic() {
    let rounds: usize = std::env::var("KILN_SIM_FUZZ").ok().and_then(|v| v.parse().ok()).unwrap_or(600);
    let mut rng = Rng::new(std::env::var("KILN_SIM_FUZZ_SEED").ok().and_then(|v| v.parse().ok()).unwrap_or(1));
    let (mut decoded, mut ran) = (0, 0);
    let names = ["basic.sm_80", "gemm.sm_80", "hopper.sm_90a", "broken.sm_90a", "warp_specialized.sm_90a"];
    let texts =
        names.map(|n| std::fs::read_to_string(format!("{}/tests/ptx/{n}.ptx", env!("CARGO_MANIFEST_DIR"))).unwrap());
    for i in 0..rounds {
        let base = shrink(&texts[i % texts.len()], &mut rng);
        let text = mutate(&base, &mut rng);
        let (d, r) = exercise(&text, &mut rng);
        decoded += d;
        ran += r;
    }
    // The mutations must leave enough alive to mean anything.
    assert!(decoded * 5 > rounds && ran * 5 > rounds, "{decoded} decoded, {ran} ran of {rounds}");
}

/// Functions without statements, each called twice by the next: 2^60 calls are refused, not expanded.
#[test]
fn calls_that_double_are_refused() {
    let mut text = String::from(".version 8.0\n.target sm_80\n.address_size 64\n.func f0() { }\n");
    for i in 1..60 {
        let below = i - 1;
        text += &format!(".func f{i}() {{ {{ call.uni f{below}; }} {{ call.uni f{below}; }} }}\n");
    }
    text += ".visible .entry k() { { call.uni f59; } ret; }\n";
    let module = Module::parse(&text).unwrap();
    let error = module.kernel("k").err().map(|e| e.to_string()).unwrap_or_default();
    assert!(error.contains("too long after inlining"), "{error}");
}
