//! Taking chosen members out of a wheel.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};
use zip::ZipArchive;

use crate::{CudaError, Result};

/// SHA-256 of a file, in lower-case hex.
pub(super) fn sha256_hex(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(|e| CudaError::io("open", path, e))?;
    let mut hasher = Sha256::new();
    let mut block = vec![0u8; 1 << 16];
    loop {
        match file.read(&mut block) {
            Ok(0) => break,
            Ok(n) => hasher.update(&block[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(CudaError::io("read", path, e)),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Unpacks members of `wheel` into the folder `into` under the names `choose` gives them (`None`: not taken).
///
/// `choose` sees the member's path and returns one plain file name, so nothing can land outside `into`. The total is
/// bounded by `limit` bytes. Returns the names and sizes written.
pub(super) fn unpack(
    wheel: &Path,
    into: &Path,
    limit: u64,
    choose: impl Fn(&str) -> Option<String>,
    mut on_file: impl FnMut(&str),
) -> Result<Vec<(String, u64)>> {
    let label = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let bad = |reason: String| CudaError::BadWheel { file: label.clone(), reason };
    let file = File::open(wheel).map_err(|e| CudaError::io("open", wheel, e))?;
    let mut archive = ZipArchive::new(io::BufReader::new(file)).map_err(|e| bad(e.to_string()))?;
    let mut written = Vec::new();
    let mut left = limit;
    for index in 0..archive.len() {
        let member = archive.by_index(index).map_err(|e| bad(e.to_string()))?;
        let member_name = member.name().map_err(|e| bad(e.to_string()))?.into_owned();
        if member.enclosed_name().is_none() {
            return Err(bad(format!("member `{member_name}` points outside the archive")));
        }
        let Some(name) = choose(&member_name) else { continue };
        if Path::new(&name).components().count() != 1 || Path::new(&name).file_name().is_none() {
            return Err(bad(format!("member `{member_name}` has no plain file name")));
        }
        on_file(&name);
        let target = into.join(&name);
        let mut out = File::create_new(&target).map_err(|e| CudaError::io_needing("create", &target, e, limit))?;
        // One byte past the allowance tells a member that fits exactly from one that is too long.
        let copied = copy(
            member.take(left + 1),
            &mut out,
            |e| bad(format!("member `{member_name}`: {e}")),
            |e| CudaError::io_needing("write", &target, e, limit),
        )?;
        if copied > left {
            return Err(bad(format!("it unpacks to more than {limit} bytes")));
        }
        left -= copied;
        out.sync_all().map_err(|e| CudaError::io_needing("write", &target, e, limit))?;
        written.push((name, copied));
    }
    Ok(written)
}

/// `io::copy` that keeps apart what failed: reading the archive or writing the disk.
fn copy(
    mut from: impl Read,
    to: &mut impl Write,
    read_error: impl Fn(io::Error) -> CudaError,
    write_error: impl Fn(io::Error) -> CudaError,
) -> Result<u64> {
    let mut block = vec![0u8; 1 << 16];
    let mut copied = 0;
    loop {
        match from.read(&mut block) {
            Ok(0) => return Ok(copied),
            Ok(n) => {
                to.write_all(&block[..n]).map_err(&write_error)?;
                copied += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(read_error(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zip::write::{SimpleFileOptions, ZipWriter};

    fn archive(members: &[(&str, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = ZipWriter::new(file.reopen().unwrap());
        for (name, bytes) in members {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        file
    }

    fn base_name(member: &str) -> Option<String> {
        member.rsplit('/').next().filter(|name| name.ends_with(".so")).map(str::to_owned)
    }

    #[test]
    fn takes_chosen_members_only() {
        let wheel = archive(&[("a/b/one.so", b"first"), ("a/two.txt", b"not this"), ("c/three.so", b"third one")]);
        let into = tempfile::tempdir().unwrap();
        let written = unpack(wheel.path(), into.path(), 100, base_name, |_| {}).unwrap();
        assert_eq!(written, [("one.so".to_owned(), 5), ("three.so".to_owned(), 9)]);
        assert_eq!(std::fs::read(into.path().join("three.so")).unwrap(), b"third one");
        assert_eq!(std::fs::read_dir(into.path()).unwrap().count(), 2);
    }

    #[test]
    fn refuses_traversal_and_oversize() {
        let into = tempfile::tempdir().unwrap();
        let evil = archive(&[("../../evil.so", b"x")]);
        let error = unpack(evil.path(), into.path(), 100, base_name, |_| {}).unwrap_err().to_string();
        assert!(error.contains("outside the archive"), "{error}");
        let bomb = archive(&[("a.so", &[7; 60]), ("b.so", &[7; 60])]);
        let error = unpack(bomb.path(), into.path(), 100, base_name, |_| {}).unwrap_err().to_string();
        assert!(error.contains("more than 100 bytes"), "{error}");
    }

    #[test]
    fn refuses_what_is_not_a_zip() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"<html>not found</html>").unwrap();
        let into = tempfile::tempdir().unwrap();
        let error = unpack(file.path(), into.path(), 100, base_name, |_| {}).unwrap_err();
        assert!(matches!(error, CudaError::BadWheel { .. }), "{error}");
    }

    #[test]
    fn sha256_of_a_known_message() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"abc").unwrap();
        assert_eq!(
            sha256_hex(file.path()).unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
