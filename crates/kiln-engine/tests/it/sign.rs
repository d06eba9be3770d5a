//! Signed engines.

use crate::models::{block, engine};
use kiln_engine::{Engine, Error, PrivateKey, PublicKey, preflight, sign};
use std::path::{Path, PathBuf};

/// The example keys of RFC 8410, section 10.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
";
const SEED: &str = "d4ee72dbf913584ad5b6d8f1f769f8ad3afe7c28cbf1d4fbe097a88f44755842";
const POINT: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn put(folder: &Path, name: &str, contents: &[u8]) -> PathBuf {
    std::fs::write(folder.join(name), contents).unwrap();
    folder.join(name)
}

#[test]
fn keys_are_read_as_openssl_writes_them() {
    let dir = tempfile::tempdir().unwrap();
    let der = |prefix: &str, key: &str| bytes(&format!("{prefix}{key}"));
    let private = [PRIVATE.as_bytes().to_vec(), der("302e020100300506032b657004220420", SEED), bytes(SEED)];
    let public = [PUBLIC.as_bytes().to_vec(), der("302a300506032b6570032100", POINT), bytes(POINT)];
    for (i, (private, public)) in private.iter().zip(&public).enumerate() {
        let private = PrivateKey::load(put(dir.path(), &format!("{i}.key"), private)).unwrap();
        let public = PublicKey::load(put(dir.path(), &format!("{i}.pub"), public)).unwrap();
        assert_eq!((private.public(), public.to_string().as_str()), (public, POINT));
    }
    for (name, contents) in [("private", PRIVATE.as_bytes()), ("empty", b""), ("junk", &[0xff; 40_000])] {
        let error = PublicKey::load(put(dir.path(), name, contents)).unwrap_err();
        assert!(matches!(error, Error::Key { .. }) && error.to_string().contains("-pubout"), "{name}: {error}");
    }
    assert!(PrivateKey::load(put(dir.path(), "public", PUBLIC.as_bytes())).is_err());
    assert!(matches!(PublicKey::load(dir.path().join("none")), Err(Error::Io { .. })));
}

#[test]
fn a_signed_engine_is_taken_only_as_it_was_signed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("e.kiln");
    let built = engine(&block(), &["cpu"], dir.path());
    built.save(&path).unwrap();
    let plain = std::fs::read(&path).unwrap();
    let private = PrivateKey::load(put(dir.path(), "key", PRIVATE.as_bytes())).unwrap();
    let key = private.public();
    let refused = |why: &str| {
        let error = Engine::load_signed(&path, &key).unwrap_err();
        assert!(matches!(error, Error::Signature { .. }) && error.to_string().contains(why), "{error}");
        let found = preflight(&path, None, Some(&key)).unwrap().findings;
        assert!(found.len() == 1 && found[0].field == "signature" && found[0].message.contains(why), "{found:?}");
    };
    refused("found none; sign it with `kiln sign`");
    sign(&path, &private, &path).unwrap();
    let signed = std::fs::read(&path).unwrap();
    assert!(signed.len() == plain.len() + 104 && signed.starts_with(&plain));
    assert_eq!(Engine::load_signed(&path, &key).unwrap().weights, built.weights);
    assert!(preflight(&path, None, Some(&key)).unwrap().findings.is_empty());
    // Whoever asks for none need not know of it.
    assert_eq!(Engine::load(&path).unwrap().weights, built.weights);
    // Signed again, it is the same: signatures are no matter of chance, and stand once.
    sign(&path, &private, &path).unwrap();
    assert!(std::fs::read(&path).unwrap() == signed);
    // Each byte counts, padding too, and none may be added or left out.
    let with = |edit: &dyn Fn(&mut Vec<u8>), why: &str| {
        let mut bytes = signed.clone();
        edit(&mut bytes);
        std::fs::write(&path, bytes).unwrap();
        refused(why);
    };
    let end = plain.len();
    let header = 56 + u64::from_le_bytes(plain[16..24].try_into().unwrap()) as usize;
    for at in [0, 9, 13, 60, header + 1, end / 2, end - 1, end + 40, end + 103] {
        with(&|bytes| bytes[at] ^= 0x10, "changed after it was signed");
    }
    with(&|bytes| bytes[end + 20] ^= 1, "expected one by 19bf44");
    with(&|bytes| bytes[end] ^= 1, "found none");
    with(&|bytes| bytes.push(0), "found none");
    with(&|bytes| bytes.truncate(end), "found none");
    with(&|bytes| assert!(bytes.remove(end - 1) < u8::MAX), "changed after it was signed");
    with(&|bytes| bytes.truncate(50), "found none");
    // By somebody else.
    let other = PrivateKey::load(put(dir.path(), "other", &bytes(POINT))).unwrap();
    std::fs::write(&path, &plain).unwrap();
    sign(&path, &other, &path).unwrap();
    refused(&format!("expected one by {key}, found one by {}", other.public()));
    // What is no engine is not signed.
    let junk = put(dir.path(), "junk", b"not an engine");
    assert!(matches!(sign(&junk, &private, &junk), Err(Error::Corrupt { .. })));
    assert_eq!(std::fs::read(&junk).unwrap(), b"not an engine");
}
