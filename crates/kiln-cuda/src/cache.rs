//! Compiled kernels on disk, addressed by the content of everything that determines them.
//!
//! An entry is `magic | BLAKE3 of the rest | header length (u32, little endian) | JSON header | cubin | PTX`. The header repeats the key, so
//! that an entry under another's name is noticed. One that is cut short, altered, of another format or of another kernel is refused with the
//! reason, and is replaced by the next store.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_host::{Cache, DEFAULT_LIMIT, Total};
use serde::{Deserialize, Serialize};

use crate::resources::ResourceLog;
use crate::{CudaError, Home, Result};

/// Changes whenever an entry's bytes or its key's ingredients change meaning.
const FORMAT: &str = "kiln-cubin-2";
const MAGIC: &[u8; 8] = b"KILNCUB2";
/// No cubin comes near this many bytes, and no larger file is read.
const MAX_ENTRY: u64 = 1 << 30;

/// Hash that names one compilation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(blake3::Hash);

impl Key {
    /// The key of a compilation: source, options, architecture, NVRTC release and this format.
    pub fn new(source: &str, options: &[String], arch: &str, release: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            // Lengths keep two fields from running together.
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(FORMAT.as_bytes());
        field(release.as_bytes());
        field(arch.as_bytes());
        field(source.as_bytes());
        for option in options {
            field(option.as_bytes());
        }
        Self(hasher.finalize())
    }
}

/// What is kept of a compilation.
pub(crate) struct Entry {
    pub cubin: Vec<u8>,
    pub ptx: String,
    pub log: ResourceLog,
    pub compile_us: u64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    /// The key in hex.
    key: String,
    /// Name of the kernel that was compiled first; others may share the entry.
    name: String,
    arch: String,
    cubin: usize,
    ptx: usize,
    log: ResourceLog,
    compile_us: u64,
}

/// The cache of compiled kernels in one folder. Several processes may share it.
#[derive(Debug, Clone)]
pub struct CubinCache {
    cache: Cache,
}

impl CubinCache {
    /// The cache in `$KILN_HOME/cubins`.
    pub fn in_home(home: &Home) -> Self {
        Self { cache: home.cubin_cache() }
    }

    /// A cache in a folder, which is made at the first store.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { cache: Cache::new(folder, DEFAULT_LIMIT) }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        self.cache.folder()
    }

    /// How many entries there are and how many bytes they take. A missing folder is an empty cache.
    ///
    /// # Errors
    /// [`CudaError::Io`] if a folder cannot be listed.
    pub fn size(&self) -> Result<Total> {
        let entries = self.cache.entries().map_err(|e| CudaError::io("list", self.folder(), e))?;
        Ok(entries.iter().collect())
    }

    /// The entry under `key`, if there is one; an error says why the one that is there cannot be used.
    pub(crate) fn load(&self, key: &Key) -> Result<Option<Entry>, String> {
        let Some(path) = self.cache.find(&name(key)).map_err(|e| e.to_string())? else { return Ok(None) };
        let bytes = read(&path).map_err(|e| e.to_string())?;
        decode(&bytes, key).map(Some)
    }

    /// Stores an entry in the place of whatever is there.
    pub(crate) fn store(&self, key: &Key, kernel: &str, arch: &str, entry: &Entry) -> Result<()> {
        let bytes = encode(key, kernel, arch, entry);
        let name = name(key);
        self.cache
            .put(&name, |file| file.write_all(&bytes))
            .map(|_| ())
            .map_err(|e| CudaError::io_needing("write", &self.folder().join(&name), e, bytes.len() as u64))
    }
}

/// What the file at `path` says that it is an entry of: the kernel's name and architecture.
pub fn describe_entry(path: &Path) -> std::result::Result<(String, String), String> {
    let bytes = read(path).map_err(|e| e.to_string())?;
    let (header, _) = split(&bytes)?;
    Ok((header.name, header.arch))
}

fn name(key: &Key) -> String {
    let hex = key.0.to_hex();
    format!("{}/{}", &hex[..2], &hex[2..])
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    kiln_host::open(path)?.take(MAX_ENTRY).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn encode(key: &Key, kernel: &str, arch: &str, entry: &Entry) -> Vec<u8> {
    let header = Header {
        key: key.0.to_hex().to_string(),
        name: kernel.to_owned(),
        arch: arch.to_owned(),
        cubin: entry.cubin.len(),
        ptx: entry.ptx.len(),
        log: entry.log.clone(),
        compile_us: entry.compile_us,
    };
    // A struct of strings and numbers always serializes; an empty header would only be a miss.
    let header = serde_json::to_vec(&header).unwrap_or_default();
    let mut body = Vec::with_capacity(4 + header.len() + entry.cubin.len() + entry.ptx.len());
    body.extend_from_slice(&(header.len() as u32).to_le_bytes());
    body.extend_from_slice(&header);
    body.extend_from_slice(&entry.cubin);
    body.extend_from_slice(entry.ptx.as_bytes());
    let mut bytes = Vec::with_capacity(40 + body.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(blake3::hash(&body).as_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The header of an entry and what follows it, once the hash agrees.
fn split(bytes: &[u8]) -> Result<(Header, &[u8]), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it is no cubin entry of this version of Kiln")?;
    let body = rest.split_first_chunk::<32>().filter(|(hash, body)| blake3::hash(body) == **hash).map(|(_, body)| body);
    let body = body.ok_or("it does not match its hash")?;
    let parts =
        body.split_first_chunk::<4>().and_then(|(n, rest)| rest.split_at_checked(u32::from_le_bytes(*n) as usize));
    let (header, rest) = parts.ok_or("its header is cut short")?;
    let header = serde_json::from_slice(header).map_err(|e| format!("its header: {e}"))?;
    Ok((header, rest))
}

fn decode(bytes: &[u8], key: &Key) -> Result<Entry, String> {
    let (header, rest) = split(bytes)?;
    let expected = key.0.to_hex();
    if header.key != expected.as_str() {
        return Err(format!(
            "it is of kernel `{}` for {}, key {:.16}; expected {expected:.16}",
            header.name, header.arch, header.key
        ));
    }
    let parts = rest.split_at_checked(header.cubin).filter(|(_, ptx)| ptx.len() == header.ptx);
    let (cubin, ptx) = parts.ok_or("its lengths do not add up")?;
    let ptx = std::str::from_utf8(ptx).map_err(|e| format!("its PTX: {e}"))?.to_owned();
    Ok(Entry { cubin: cubin.to_vec(), ptx, log: header.log, compile_us: header.compile_us })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn entry() -> Entry {
        Entry {
            cubin: (0..=255).cycle().take(1000).collect(),
            ptx: ".version 9.0\n".to_owned(),
            log: ResourceLog::parse(
                "ptxas info : Compiling entry function 'k' for 'sm_80'\nptxas info : Used 9 registers",
            ),
            compile_us: 21_000,
        }
    }

    fn options(list: &[&str]) -> Vec<String> {
        list.iter().map(|&option| option.to_owned()).collect()
    }

    #[test]
    fn every_ingredient_changes_the_key() {
        let keys = [
            Key::new("src", &options(&["-a", "-b"]), "sm_80", "13.0.88"),
            Key::new("src ", &options(&["-a", "-b"]), "sm_80", "13.0.88"),
            Key::new("src", &options(&["-a"]), "sm_80", "13.0.88"),
            Key::new("src", &options(&["-a-b"]), "sm_80", "13.0.88"),
            Key::new("src", &options(&["-b", "-a"]), "sm_80", "13.0.88"),
            Key::new("src", &options(&["-a", "-b"]), "sm_90", "13.0.88"),
            Key::new("src", &options(&["-a", "-b"]), "sm_80", "13.0.48"),
        ];
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "key {i} repeats");
        }
        assert_eq!(keys[0], Key::new("src", &options(&["-a", "-b"]), "sm_80", "13.0.88"));
    }

    #[test]
    fn entries_survive_the_round_trip_and_damage_is_refused_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path().join("cubins"));
        assert_eq!(cache.size().unwrap(), Total::default());
        let key = Key::new("src", &[], "sm_80", "13.0.88");
        assert!(cache.load(&key).unwrap().is_none());
        cache.store(&key, "k", "sm_80", &entry()).unwrap();
        let found = cache.load(&key).unwrap().unwrap();
        assert_eq!((found.cubin, found.ptx, found.log, found.compile_us), {
            let e = entry();
            (e.cubin, e.ptx, e.log, e.compile_us)
        });

        let path = cache.folder().join(name(&key));
        assert_eq!(describe_entry(&path), Ok(("k".into(), "sm_80".into())));
        let whole = fs::read(&path).unwrap();
        assert_eq!(cache.size().unwrap(), Total { entries: 1, bytes: whole.len() as u64 });
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 0x10;
            assert!(decode(&altered, &key).is_err(), "byte {at} altered");
            assert!(decode(&whole[..at], &key).is_err(), "cut at {at}");
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(cache.load(&key).is_err());
        cache.store(&key, "k", "sm_80", &entry()).unwrap();
        assert!(cache.load(&key).unwrap().is_some());
    }

    #[test]
    fn an_entry_under_anothers_name_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path());
        let [a, b] = ["a", "b"].map(|source| Key::new(source, &[], "sm_80", "13.0.88"));
        cache.store(&a, "kernel_a", "sm_80", &entry()).unwrap();
        cache.store(&b, "kernel_b", "sm_80", &entry()).unwrap();
        fs::copy(folder.path().join(name(&b)), folder.path().join(name(&a))).unwrap();
        let text = cache.load(&a).map(|_| ()).unwrap_err();
        assert!(text.contains("kernel_b"), "{text}");
        assert!(cache.load(&b).unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused_without_reading_it() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path());
        let key = Key::new("src", &[], "sm_80", "13.0.88");
        cache.store(&key, "k", "sm_80", &entry()).unwrap();
        let path = folder.path().join(name(&key));
        for (target, why) in [("/dev/zero", "a link"), ("fifo", "a FIFO")] {
            fs::remove_file(&path).unwrap();
            if target == "fifo" {
                assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            } else {
                std::os::unix::fs::symlink(target, &path).unwrap();
            }
            let text = cache.load(&key).map(|_| ()).unwrap_err();
            assert!(text.contains(why), "{text}");
            cache.store(&key, "k", "sm_80", &entry()).unwrap();
            assert!(cache.load(&key).unwrap().is_some());
        }
    }
}
