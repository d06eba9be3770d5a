//! Compiled kernels on disk, addressed by the content of everything that determines them.
//!
//! An entry is `magic | BLAKE3 of the rest | header length (u32, little endian) | JSON header | cubin | PTX`. A file that
//! is cut short, altered or of another format is a miss and is overwritten by the next store.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::resources::ResourceLog;
use crate::{CudaError, Home, Result};

/// Changes whenever an entry's bytes or its key's ingredients change meaning.
const FORMAT: &str = "kiln-cubin-1";
const MAGIC: &[u8; 8] = b"KILNCUB1";

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
    arch: String,
    cubin: usize,
    ptx: usize,
    log: ResourceLog,
    compile_us: u64,
}

/// Size of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CacheSize {
    /// Entries.
    pub entries: u64,
    /// Bytes in them.
    pub bytes: u64,
}

/// The cache of compiled kernels in one folder. Several processes may share it.
#[derive(Debug, Clone)]
pub struct CubinCache {
    folder: PathBuf,
}

impl CubinCache {
    /// The cache in `$KILN_HOME/cubins`.
    pub fn in_home(home: &Home) -> Self {
        Self::at(home.cubins())
    }

    /// A cache in a folder, which is made at the first store.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How many entries there are and how many bytes they take. A missing folder is an empty cache.
    ///
    /// # Errors
    /// [`CudaError::Io`] if a folder cannot be listed.
    pub fn size(&self) -> Result<CacheSize> {
        let mut size = CacheSize::default();
        for shard in list(&self.folder)? {
            if !shard.is_dir() {
                continue;
            }
            for file in list(&shard)? {
                // An entry may be replaced or removed by another process between the listing and here.
                if let (true, Ok(meta)) = (is_entry(&file), fs::metadata(&file)) {
                    size.entries += 1;
                    size.bytes += meta.len();
                }
            }
        }
        Ok(size)
    }

    fn path(&self, key: &Key) -> PathBuf {
        let hex = key.0.to_hex();
        self.folder.join(&hex[..2]).join(&hex[2..])
    }

    /// The entry under `key`; anything not whole is a miss.
    pub(crate) fn load(&self, key: &Key) -> Option<Entry> {
        decode(&fs::read(self.path(key)).ok()?)
    }

    /// Writes an entry under a temporary name and renames it into place.
    pub(crate) fn store(&self, key: &Key, arch: &str, entry: &Entry) -> Result<()> {
        let path = self.path(key);
        let shard = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(shard).map_err(|e| CudaError::io("create folder", shard, e))?;
        let bytes = encode(arch, entry);
        let io_error = |e| CudaError::io_needing("write", &path, e, bytes.len() as u64);
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(shard).map_err(io_error)?;
        file.write_all(&bytes).map_err(io_error)?;
        file.persist(&path).map_err(|e| io_error(e.error))?;
        Ok(())
    }
}

fn is_entry(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.len() == 62 && !name.to_string_lossy().starts_with('.'))
}

fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(CudaError::io("list", folder, e)),
    }
}

fn encode(arch: &str, entry: &Entry) -> Vec<u8> {
    let header = Header {
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

fn decode(bytes: &[u8]) -> Option<Entry> {
    let (hash, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if blake3::hash(body) != *hash {
        return None;
    }
    let (length, rest) = body.split_first_chunk::<4>()?;
    let (header, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let (cubin, ptx) = rest.split_at_checked(header.cubin)?;
    if ptx.len() != header.ptx {
        return None;
    }
    Some(Entry {
        cubin: cubin.to_vec(),
        ptx: std::str::from_utf8(ptx).ok()?.to_owned(),
        log: header.log,
        compile_us: header.compile_us,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_damaged_entry_is_a_miss_and_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let cache = CubinCache::at(folder.path().join("cubins"));
        assert_eq!(cache.size().unwrap(), CacheSize::default());
        let key = Key::new("src", &[], "sm_80", "13.0.88");
        assert!(cache.load(&key).is_none());
        cache.store(&key, "sm_80", &entry()).unwrap();
        let found = cache.load(&key).unwrap();
        assert_eq!((found.cubin, found.ptx, found.log, found.compile_us), {
            let e = entry();
            (e.cubin, e.ptx, e.log, e.compile_us)
        });

        let path = cache.path(&key);
        let whole = fs::read(&path).unwrap();
        assert_eq!(cache.size().unwrap(), CacheSize { entries: 1, bytes: whole.len() as u64 });
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 0x10;
            assert!(decode(&altered).is_none(), "byte {at} altered");
            assert!(decode(&whole[..at]).is_none(), "cut at {at}");
        }
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert!(cache.load(&key).is_none());
        cache.store(&key, "sm_80", &entry()).unwrap();
        assert!(cache.load(&key).is_some());
    }
}
