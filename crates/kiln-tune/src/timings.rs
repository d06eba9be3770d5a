//! Where a timing cache is: in a file, or in a folder or object store that several machines share.
//!
//! A store has an object for each run that wrote to it, of lines as in a file. Objects are called after their contents and never change: a run that goes
//! on writes one of everything that it measured, and then removes the one before. So nobody needs a lock, and nothing that anybody wrote is lost:
//! who reads takes the lines of all objects, in the order in which they were written, and who puts several together removes what it has read.

use crate::times::{MOST_BYTES, rewrite};
use crate::{Error, Record, Result, Times, append};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use std::fmt;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use tokio::runtime::{Builder, Runtime};
use url::Url;

/// What else may be named, for messages.
#[cfg(feature = "cloud")]
pub(crate) const CLOUDS: &str = ", `s3://BUCKET/FOLDER`, `gs://..` or `az://..`";
#[cfg(not(feature = "cloud"))]
pub(crate) const CLOUDS: &str = "; `s3://`, `gs://` and `az://` need a Kiln that is built with the feature `cloud`";

/// The end of the name of an object.
const EXTENSION: &str = "jsonl";
/// Objects that are fetched at once.
const AT_ONCE: usize = 32;
/// How often a store is listed anew, if an object is gone before it is read.
const LISTINGS: usize = 5;

/// The place of a timing cache: parsed from a path (of a file, or of a folder: one that exists or whose name ends with `/`) or a URL.
#[derive(Clone)]
pub struct Timings {
    /// As it was named.
    name: String,
    place: Place,
}

#[derive(Clone)]
enum Place {
    File(PathBuf),
    /// Which is made when something is written.
    Folder(PathBuf),
    Store(Folder),
}

/// A folder of a store.
#[derive(Clone)]
struct Folder {
    store: Arc<dyn ObjectStore>,
    key: Key,
}

impl FromStr for Timings {
    type Err = Error;

    fn from_str(text: &str) -> Result<Timings> {
        let wrong = |message: String| Error::Place { place: text.to_owned(), message };
        if !text.contains("://") {
            let path = Path::new(text);
            return Ok(if text.ends_with('/') || path.is_dir() { Timings::folder(path) } else { Timings::file(path) });
        }
        let url = Url::parse(text).map_err(|e| wrong(e.to_string()))?;
        if url.scheme() == "file" {
            let path = url.to_file_path().map_err(|()| wrong("it has no path on this machine".into()))?;
            return Ok(Timings::folder(path));
        }
        let (store, folder) = object_store::parse_url_opts(&url, std::env::vars()).map_err(|e| wrong(e.to_string()))?;
        Ok(Timings::store(text, Arc::from(store), folder.as_ref()))
    }
}

impl fmt::Display for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Timings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Timings({})", self.name)
    }
}

impl Timings {
    /// A file, which need not exist.
    pub fn file(path: impl Into<PathBuf>) -> Timings {
        let path = path.into();
        Timings { name: path.display().to_string(), place: Place::File(path) }
    }

    /// The one of a machine, in Kiln's own folder there.
    pub fn in_home(home: &Path) -> Timings {
        Timings::file(home.join("timings.jsonl"))
    }

    /// A folder, which need not exist.
    pub fn folder(path: impl Into<PathBuf>) -> Timings {
        let path = path.into();
        Timings { name: path.display().to_string(), place: Place::Folder(path) }
    }

    /// A folder of an object store; `name` is for messages.
    pub fn store(name: &str, store: Arc<dyn ObjectStore>, folder: &str) -> Timings {
        Timings { name: name.to_owned(), place: Place::Store(Folder { store, key: Key::from(folder) }) }
    }

    /// Whether there is such a file or folder.
    pub fn exists(&self) -> bool {
        match &self.place {
            Place::File(path) | Place::Folder(path) => path.exists(),
            Place::Store(_) => true,
        }
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> Error {
        move |source| Error::Timings { action, place: self.name.clone(), source }
    }

    /// All that is there; nothing if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, or is larger than a gigabyte.
    pub fn load(&self) -> Result<Times> {
        let loaded = match &self.place {
            Place::File(path) => Times::load(path),
            Place::Folder(path) if !path.exists() => Ok(Times::default()),
            Place::Folder(path) => local(path).and_then(|folder| folder.read()).map(|(times, _)| times),
            Place::Store(folder) => folder.read().map(|(times, _)| times),
        };
        loaded.map_err(self.failed("read"))
    }

    /// What adds to it.
    pub fn writer(&self) -> Writer {
        Writer { timings: self.clone(), object: None, written: Times::default() }
    }

    /// Puts something else in the place of all that is there: `change` is given that. What others write to a store meanwhile stays beside it.
    ///
    /// # Errors
    /// It cannot be read or written; what was there stays.
    pub fn rewrite(&self, change: impl FnOnce(&mut Times)) -> Result<()> {
        let folder = match &self.place {
            Place::File(path) => return rewrite(path, change).map_err(self.failed("write")),
            Place::Folder(path) => local(path).map_err(self.failed("open"))?,
            Place::Store(folder) => folder.clone(),
        };
        let (mut times, before) = folder.read().map_err(self.failed("read"))?;
        change(&mut times);
        block_on(folder.replace(&times, &before)).map(|_| ()).map_err(self.failed("write"))
    }
}

/// A folder of this machine, made if need be.
fn local(path: &Path) -> io::Result<Folder> {
    std::fs::create_dir_all(path)?;
    let store = LocalFileSystem::new_with_prefix(path)?;
    Ok(Folder { store: Arc::new(store), key: Key::default() })
}

/// Adds what one run measures to a timing cache.
pub struct Writer {
    timings: Timings,
    /// The object of the run, and what it holds.
    object: Option<Key>,
    written: Times,
}

impl Writer {
    /// Where to.
    pub fn timings(&self) -> &Timings {
        &self.timings
    }

    /// Adds records, whole or not at all.
    ///
    /// # Errors
    /// They cannot be written; what was there stays.
    pub fn add(&mut self, records: &[Record]) -> Result<()> {
        let failed = self.timings.failed("write");
        let folder = match &self.timings.place {
            Place::File(path) => return append(path, records).map_err(failed),
            Place::Folder(path) => local(path).map_err(&failed)?,
            Place::Store(folder) => folder.clone(),
        };
        records.iter().for_each(|record| self.written.add(record.clone()));
        let replaced = block_on(folder.replace(&self.written, self.object.as_slice()));
        self.object = replaced.map_err(failed)?;
        Ok(())
    }
}

/// Runs what a store does to its end.
fn block_on<T>(future: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
    let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(future)?)
}

impl Folder {
    /// An object of these records, if there are any, in the place of others.
    async fn replace(&self, times: &Times, before: &[Key]) -> object_store::Result<Option<Key>> {
        let bytes = times.to_bytes();
        let mut new = None;
        if !bytes.is_empty() {
            let hash = blake3::hash(&bytes).to_hex();
            let key = self.key.clone().join(format!("{}.{EXTENSION}", &hash[..32]));
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.store.put_opts(&key, bytes.into(), options).await {
                // It holds the same.
                Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => new = Some(key),
                Err(e) => return Err(e),
            }
        }
        for old in before.iter().filter(|old| Some(*old) != new.as_ref()) {
            match self.store.delete(old).await {
                // Somebody else put it together with others.
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(new)
    }

    /// What all objects hold, and which those are.
    fn read(&self) -> io::Result<(Times, Vec<Key>)> {
        block_on(async {
            for _ in 0..LISTINGS {
                match self.listed(false).await {
                    // Somebody put it together with others.
                    Err(object_store::Error::NotFound { .. }) => {}
                    done => return done,
                }
            }
            // Somebody goes on and on: without what is gone by then.
            self.listed(true).await
        })
    }

    async fn listed(&self, gone: bool) -> object_store::Result<(Times, Vec<Key>)> {
        let mut objects = self.store.list_with_delimiter(Some(&self.key)).await?.objects;
        objects.retain(|object| object.location.extension() == Some(EXTENSION));
        objects.sort_by(|a, b| (a.last_modified, &a.location).cmp(&(b.last_modified, &b.location)));
        if objects.iter().map(|object| object.size).sum::<u64>() > MOST_BYTES {
            let source = "a timing cache has at most a gigabyte; prune it".into();
            return Err(object_store::Error::Generic { store: "timing cache", source });
        }
        let (mut times, mut read) = (Times::default(), vec![]);
        for some in objects.chunks(AT_ONCE) {
            let fetch = |object: &ObjectMeta| {
                let (store, key) = (self.store.clone(), object.location.clone());
                tokio::spawn(async move { store.get(&key).await?.bytes().await })
            };
            let fetches: Vec<_> = some.iter().map(fetch).collect();
            for (object, fetch) in some.iter().zip(fetches) {
                match fetch.await? {
                    Ok(bytes) => {
                        times.read(&bytes);
                        read.push(object.location.clone());
                    }
                    Err(object_store::Error::NotFound { .. }) if gone => {}
                    Err(e) => return Err(e),
                }
            }
        }
        Ok((times, read))
    }
}
