//! `$KILN_HOME`: the one folder Kiln writes to outside a project.

use std::path::{Path, PathBuf};

use kiln_host::{Cache, DEFAULT_LIMIT, parse_size};

use crate::{CudaError, Result};

/// Kiln's folder: NVRTC, compiled kernels, Python packages used by tests, and public test cases.
///
/// `$KILN_HOME` when set, `~/.cache/kiln` otherwise. Deleting it loses only time. Its two caches, engines and compiled kernels, take at most
/// `$KILN_CACHE_LIMIT` bytes each (such as `500MiB`; default 4 GiB).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
    limit: u64,
}

impl Home {
    /// The folder named by the environment.
    ///
    /// # Errors
    /// [`CudaError::NoHome`] if neither `KILN_HOME` nor `HOME` is set; [`CudaError::CacheLimit`] if `KILN_CACHE_LIMIT` is no size.
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = match (set("KILN_HOME"), set("HOME")) {
            (Some(kiln), _) => PathBuf::from(kiln),
            (None, Some(home)) => Path::new(&home).join(".cache").join("kiln"),
            (None, None) => return Err(CudaError::NoHome),
        };
        // A relative KILN_HOME would mean another folder after a change of directory.
        let root = std::path::absolute(&root).map_err(|e| CudaError::io("resolve", &root, e))?;
        let limit = match set("KILN_CACHE_LIMIT") {
            Some(text) => parse_size(&text.to_string_lossy()).map_err(CudaError::CacheLimit)?,
            None => DEFAULT_LIMIT,
        };
        Ok(Self { root, limit })
    }

    /// A home at an explicit folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), limit: DEFAULT_LIMIT }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// NVRTC releases, one folder a version.
    pub fn nvrtc(&self) -> PathBuf {
        self.root.join("nvrtc")
    }

    /// The folder of compiled kernels.
    pub fn cubins(&self) -> PathBuf {
        self.root.join("cubins")
    }

    /// The folder of engines that are kept between runs.
    pub fn engines(&self) -> PathBuf {
        self.root.join("engines")
    }

    /// [`Home::cubins`] as a cache.
    pub fn cubin_cache(&self) -> Cache {
        Cache::new(self.cubins(), self.limit)
    }

    /// [`Home::engines`] as a cache.
    pub fn engine_cache(&self) -> Cache {
        Cache::new(self.engines(), self.limit)
    }

    /// Python packages, installed with `pip install --target`.
    pub fn python(&self) -> PathBuf {
        self.root.join("python")
    }

    /// Public models and cases that tests run on.
    pub fn cases(&self) -> PathBuf {
        self.root.join("cases")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_distinct_and_inside_the_root() {
        let home = Home::at("/somewhere/kiln");
        let folders = [home.nvrtc(), home.cubins(), home.engines(), home.python(), home.cases()];
        for (i, folder) in folders.iter().enumerate() {
            assert_eq!(folder.parent(), Some(Path::new("/somewhere/kiln")));
            assert!(!folders[..i].contains(folder));
        }
    }
}
