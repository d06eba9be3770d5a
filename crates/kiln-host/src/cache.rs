//! A cache: a folder of entries, each of which may be lost at any time.

use crate::file::{TEMPORARY, regular, replace};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Bytes that a cache may take unless told otherwise.
pub const DEFAULT_LIMIT: u64 = 4 << 30;

/// Age from which a temporary file is one that a killed process left.
const ABANDONED: Duration = Duration::from_secs(24 * 60 * 60);

/// Entries in one folder and the folders in it, kept under a number of bytes: those used least recently go first.
///
/// Several processes may share it. An entry is put by renaming, so it is there whole or not at all, and one that is removed stays readable for who has it
/// open. A process looks at the whole folder when it first stores something and then after every sixteenth of the limit, so that much more may lie there for
/// each further process that stores at the same time.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
    limit: u64,
    /// Bytes stored since the folder was last looked at.
    unseen: Arc<AtomicU64>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// When it was last stored or found.
    pub used: SystemTime,
}

/// A number of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Total {
    /// How many.
    pub entries: u64,
    /// Bytes in them.
    pub bytes: u64,
}

impl<'a> FromIterator<&'a Entry> for Total {
    fn from_iter<I: IntoIterator<Item = &'a Entry>>(entries: I) -> Total {
        entries.into_iter().fold(Total::default(), |t, e| Total { entries: t.entries + 1, bytes: t.bytes + e.bytes })
    }
}

impl Cache {
    /// The cache in `folder`, which is made at the first entry.
    pub fn new(folder: impl Into<PathBuf>, limit: u64) -> Cache {
        // As if a whole cache had been stored unseen: the first entry makes it look.
        Cache { folder: folder.into(), limit, unseen: Arc::new(AtomicU64::new(limit)) }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes it may take.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The entry of that name, and marks it as used. What has its place and is no regular file (links too: the cache makes none) is an error.
    pub fn find(&self, name: &str) -> io::Result<Option<PathBuf>> {
        let path = self.folder.join(name);
        match fs::symlink_metadata(&path) {
            Ok(meta) => regular(&meta)?,
            // A folder on the way that is missing, or is a file: there is no entry.
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(e),
        }
        // On a read-only disk the entry is as good, only its age is not known.
        let _ = File::open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(path))
    }

    /// Stores an entry in the place of whatever has its name; a folder there is an error. Then keeps the cache under its limit.
    pub fn put(&self, name: &str, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<PathBuf> {
        let path = self.folder.join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        replace(&path, fill)?;
        let bytes = fs::metadata(&path).map_or(0, |meta| meta.len());
        let unseen = self.unseen.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if unseen >= self.limit / 16 {
            self.unseen.store(0, Ordering::Relaxed);
            // The entry is stored all the same, and the next one tries again.
            let _ = self.make_room();
        }
        Ok(path)
    }

    /// Removes more than needed, so that not every entry has to look.
    fn make_room(&self) -> io::Result<()> {
        let total: Total = self.entries()?.iter().collect();
        if total.bytes > self.limit - self.limit / 16 {
            self.prune(self.limit - self.limit / 8)?;
        }
        Ok(())
    }

    /// All entries, the most recently used first. A missing folder is an empty cache.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (path, meta) in self.files()? {
            let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
            if !hidden {
                entries.push(Entry { path, bytes: meta.len(), used: meta.modified()? });
            }
        }
        entries.sort_by(|a, b| (b.used, &a.path).cmp(&(a.used, &b.path)));
        Ok(entries)
    }

    /// Removes entries, the least recently used first, until those left take at most `limit` bytes; says what went.
    pub fn prune(&self, limit: u64) -> io::Result<Total> {
        let mut kept = 0u64;
        let mut gone = Total::default();
        for entry in self.entries()? {
            kept = kept.saturating_add(entry.bytes);
            // Once one does not fit, older ones do not stay either.
            if kept > limit && remove(&entry.path)? {
                gone = Total { entries: gone.entries + 1, bytes: gone.bytes + entry.bytes };
            }
        }
        self.sweep()?;
        Ok(gone)
    }

    /// Removes temporary files that killed processes left.
    fn sweep(&self) -> io::Result<()> {
        for (path, meta) in self.files()? {
            let temporary = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(TEMPORARY));
            let age = meta.modified()?.elapsed().unwrap_or_default();
            if temporary && age > ABANDONED {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Everything in the folder and the folders in it that is no folder.
    fn files(&self) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
        let mut files = Vec::new();
        for (path, meta) in list(&self.folder)? {
            if meta.is_dir() {
                files.extend(list(&path)?.into_iter().filter(|(_, meta)| !meta.is_dir()));
            } else {
                files.push((path, meta));
            }
        }
        Ok(files)
    }
}

/// What is in a folder. Another process may remove any of it meanwhile.
fn list(folder: &Path) -> io::Result<Vec<(PathBuf, fs::Metadata)>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let known = entries.flatten().filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)));
    Ok(known.collect())
}

/// Whether there was something to remove.
fn remove(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// A number of bytes as people write it: `500MiB`, `4GiB`, `0`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "KiB" => 1u64 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        unit => return Err(format!("`{unit}` is no unit of `{text}`; expected B, KiB, MiB, GiB or TiB")),
    };
    let number: u64 = digits.trim().parse().map_err(|_| format!("`{text}` is no size; write for instance 4GiB"))?;
    number.checked_mul(unit).ok_or_else(|| format!("`{text}` is more than 64 bits can count"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn put(cache: &Cache, name: &str, bytes: usize) {
        cache.put(name, |f| f.write_all(&vec![7; bytes])).unwrap();
    }

    /// Makes an entry look as if last used `seconds` ago.
    fn age(cache: &Cache, name: &str, seconds: u64) {
        let file = File::open(cache.folder().join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    }

    fn names(cache: &Cache) -> Vec<String> {
        let name = |e: &Entry| e.path.strip_prefix(cache.folder()).unwrap().to_string_lossy().into_owned();
        cache.entries().unwrap().iter().map(name).collect()
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"), 1 << 20);
        assert_eq!((cache.find("a").unwrap(), names(&cache).len()), (None, 0));
        for (i, name) in ["a", "b/1", "b/2", "d"].into_iter().enumerate() {
            put(&cache, name, 1000);
            age(&cache, name, 1000 - i as u64);
        }
        assert_eq!(names(&cache), ["d", "b/2", "b/1", "a"]);
        // Found is used.
        assert!(cache.find("a").unwrap().is_some());
        assert_eq!(cache.prune(2999).unwrap(), Total { entries: 2, bytes: 2000 });
        assert_eq!(names(&cache), ["a", "d"]);
        assert_eq!(cache.prune(0).unwrap().entries, 2);
        assert!(names(&cache).is_empty());
    }

    #[test]
    fn storing_keeps_the_limit_whatever_is_there_already() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("c");
        // Left by an earlier release, which had no limit.
        let unlimited = Cache::new(&folder, u64::MAX);
        (0..100).for_each(|i| put(&unlimited, &format!("old{i}"), 1000));
        let cache = Cache::new(&folder, 20_000);
        for i in 0..200 {
            put(&cache, &format!("new{i}"), 700);
            let total: Total = cache.entries().unwrap().iter().collect();
            assert!(total.bytes <= 20_000, "{total:?} after {i}");
        }
        assert!(names(&cache).len() > 20, "more went than had to");
        assert!(cache.find("new199").unwrap().is_some());
    }

    #[test]
    fn processes_may_store_find_and_prune_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let handles: Vec<_> = (0..4)
            .map(|t| {
                let cache = Cache::new(dir.path(), 10_000);
                std::thread::spawn(move || {
                    for i in 0..100 {
                        let name = format!("{}/{}", i % 3, (i * 7 + t) % 40);
                        put(&cache, &name, 900);
                        if let Some(path) = cache.find(&name).unwrap()
                            && let Ok(data) = fs::read(path)
                        {
                            assert!(data.len() == 900 && data.iter().all(|&b| b == 7));
                        }
                    }
                })
            })
            .collect();
        handles.into_iter().for_each(|h| h.join().unwrap());
        let total: Total = Cache::new(dir.path(), 0).entries().unwrap().iter().collect();
        // A sixteenth of the limit a process, and the entry that each was about to look at.
        assert!(total.bytes <= 10_000 + 4 * (625 + 900), "{total:?}");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_found_and_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("c"), 1 << 20);
        put(&cache, "first", 1);
        let secret = dir.path().join("secret");
        fs::write(&secret, "mine").unwrap();
        std::os::unix::fs::symlink(&secret, cache.folder().join("link")).unwrap();
        assert!(cache.find("link").unwrap_err().to_string().contains("a link"));
        put(&cache, "link", 5);
        assert!(cache.find("link").unwrap().is_some());
        assert_eq!(fs::read_to_string(&secret).unwrap(), "mine");
        assert!(std::process::Command::new("mkfifo").arg(cache.folder().join("fifo")).status().unwrap().success());
        assert!(cache.find("fifo").unwrap_err().to_string().contains("a FIFO"));
        put(&cache, "fifo", 5);
        assert!(cache.find("fifo").unwrap().is_some());
        fs::create_dir(cache.folder().join("folder")).unwrap();
        assert!(cache.find("folder").unwrap_err().to_string().contains("a folder"));
        assert!(cache.put("folder", |_| Ok(())).is_err());
    }

    #[test]
    fn temporary_files_are_no_entries_and_go_once_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), 1 << 20);
        put(&cache, "entry", 10);
        for (name, seconds) in [(".new-young", 60), (".new-old", 2 * 24 * 60 * 60)] {
            fs::write(dir.path().join(name), "x").unwrap();
            age(&cache, name, seconds);
        }
        assert_eq!(names(&cache), ["entry"]);
        assert_eq!(cache.prune(100).unwrap(), Total::default());
        assert!(dir.path().join(".new-young").exists() && !dir.path().join(".new-old").exists());
    }

    #[test]
    fn sizes_are_read_as_written() {
        assert_eq!(parse_size("4GiB"), Ok(DEFAULT_LIMIT));
        assert_eq!((parse_size("0"), parse_size("12 MiB"), parse_size("7B")), (Ok(0), Ok(12 << 20), Ok(7)));
        for wrong in ["", "GiB", "-1", "4GB", "1.5GiB", "99999999999TiB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }
}
