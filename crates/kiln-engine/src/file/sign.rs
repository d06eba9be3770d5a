//! Signatures of engines: Ed25519 (RFC 8032) over all bytes of the file, behind them.

use super::map;
use crate::{Error, Result};
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;

/// First bytes of a signature's block.
const MAGIC: &[u8; 8] = b"KILNSIG\0";
/// Bytes of a signature's block: magic, the signer's public key, the signature.
const BLOCK: usize = 8 + 32 + 64;
/// What is signed is this and the BLAKE3 of the file before the block, so that no signature of something else is one of an engine.
const CONTEXT: &[u8] = b"kiln engine signature 1\0";
/// No key's file is longer, bytes.
const LONGEST_KEY: u64 = 1 << 14;

/// A key that signs engines.
pub struct PrivateKey(SigningKey);

/// A key that says who signed an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PrivateKey {
    /// Reads a key as `openssl genpkey -algorithm ed25519` writes it: PKCS #8 (RFC 8410) in PEM or DER; or its 32 bytes.
    ///
    /// # Errors
    /// A file that cannot be read or is no such key.
    pub fn load(path: impl AsRef<Path>) -> Result<PrivateKey> {
        let path = path.as_ref();
        let bytes = read(path)?;
        let key = match (<&[u8; 32]>::try_from(bytes.as_slice()), pem(&bytes)) {
            (Ok(raw), _) => Some(SigningKey::from_bytes(raw)),
            (_, Some(pem)) => SigningKey::from_pkcs8_pem(pem).ok(),
            _ => SigningKey::from_pkcs8_der(&bytes).ok(),
        };
        let expected = "expected an Ed25519 private key, as `openssl genpkey -algorithm ed25519` writes it";
        key.map(PrivateKey).ok_or_else(|| Error::Key { path: path.to_owned(), message: expected.into() })
    }

    /// The key that verifies what this one signs.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }
}

impl PublicKey {
    /// Reads a key as `openssl pkey -pubout` writes it: SubjectPublicKeyInfo in PEM or DER; or its 32 bytes.
    ///
    /// # Errors
    /// A file that cannot be read or is no such key.
    pub fn load(path: impl AsRef<Path>) -> Result<PublicKey> {
        let path = path.as_ref();
        let bytes = read(path)?;
        let key = match (<&[u8; 32]>::try_from(bytes.as_slice()), pem(&bytes)) {
            (Ok(raw), _) => VerifyingKey::from_bytes(raw).ok(),
            (_, Some(pem)) => VerifyingKey::from_public_key_pem(pem).ok(),
            _ => VerifyingKey::from_public_key_der(&bytes).ok(),
        };
        let expected = "expected an Ed25519 public key, as `openssl pkey -in PRIVATE.pem -pubout` writes it";
        key.map(PublicKey).ok_or_else(|| Error::Key { path: path.to_owned(), message: expected.into() })
    }

    /// Checks that this key signed a file as it is.
    pub(crate) fn verify(&self, file: &[u8], path: &Path) -> Result<()> {
        let refused = |message: String| Err(Error::Signature { path: path.to_owned(), message });
        let Some((contents, block)) = split(file) else {
            return refused("expected one at the end of the file, found none; sign it with `kiln sign`".into());
        };
        let (signer, signature) = block[MAGIC.len()..].split_at(32);
        if signer != self.0.as_bytes() {
            return refused(format!("expected one by {self}, found one by {}", Hex(signer)));
        }
        let signature = Signature::from_slice(signature);
        match signature.and_then(|signature| self.0.verify_strict(&message(contents), &signature)) {
            Ok(()) => Ok(()),
            Err(_) => refused(format!("{self} did not sign these bytes: the file was changed after it was signed")),
        }
    }
}

/// A file without its signature, and that, if it has one.
fn split(file: &[u8]) -> Option<(&[u8], &[u8])> {
    let (contents, block) = file.split_at(file.len().checked_sub(BLOCK)?);
    block.starts_with(MAGIC).then_some((contents, block))
}

/// What is signed of a file's contents.
fn message(contents: &[u8]) -> Vec<u8> {
    let hash = blake3::Hasher::new().update_rayon(contents).finalize();
    [CONTEXT, hash.as_bytes()].concat()
}

/// Writes an engine with a signature by `key`, in the place of one that it has; to its own path too, whole or not at all.
///
/// # Errors
/// A file that is no engine of this version, or cannot be read or written.
pub fn sign(engine: &Path, key: &PrivateKey, output: &Path) -> Result<()> {
    let file = map::map(engine).map_err(|source| Error::Io { action: "read", path: engine.to_owned(), source })?;
    let contents = split(&file).map_or(&file[..], |(contents, _)| contents);
    // Nobody signs what no one could use.
    super::parse(&file.slice_ref(contents), engine)?;
    let signature = key.0.sign(&message(contents)).to_bytes();
    let public = key.public();
    kiln_host::write(output, |out| {
        for part in [contents, MAGIC, public.0.as_bytes(), &signature] {
            out.write_all(part)?;
        }
        out.sync_all()
    })
    .map_err(|source| Error::Io { action: "write", path: output.to_owned(), source })
}

/// The text of a key in PEM.
fn pem(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = kiln_host::open(path).and_then(|file| file.take(LONGEST_KEY).read_to_end(&mut bytes));
    file.map_err(|source| Error::Io { action: "read", path: path.to_owned(), source })?;
    Ok(bytes)
}

/// Bytes in hexadecimal.
struct Hex<'b>(&'b [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for PublicKey {
    /// Its bytes in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(self.0.as_bytes()).fmt(f)
    }
}
