//! `$KILN_HOME`: the one folder Kiln writes to outside a project.

use std::path::{Path, PathBuf};

use crate::{CudaError, Result};

/// Kiln's folder: NVRTC, compiled kernels, Python packages used by tests, and public test cases.
///
/// `$KILN_HOME` when set, `~/.cache/kiln` otherwise. Deleting it loses only time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    root: PathBuf,
}

impl Home {
    /// The folder named by the environment.
    ///
    /// # Errors
    /// [`CudaError::NoHome`] if neither `KILN_HOME` nor `HOME` is set.
    pub fn from_env() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let root = match (set("KILN_HOME"), set("HOME")) {
            (Some(kiln), _) => PathBuf::from(kiln),
            (None, Some(home)) => Path::new(&home).join(".cache").join("kiln"),
            (None, None) => return Err(CudaError::NoHome),
        };
        // A relative KILN_HOME would mean another folder after a change of directory.
        let root = std::path::absolute(&root).map_err(|e| CudaError::io("resolve", &root, e))?;
        Ok(Self { root })
    }

    /// A home at an explicit folder.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// NVRTC releases, one folder a version.
    pub fn nvrtc(&self) -> PathBuf {
        self.root.join("nvrtc")
    }

    /// The cache of compiled kernels.
    pub fn cubins(&self) -> PathBuf {
        self.root.join("cubins")
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
        let folders = [home.nvrtc(), home.cubins(), home.python(), home.cases()];
        for (i, folder) in folders.iter().enumerate() {
            assert_eq!(folder.parent(), Some(Path::new("/somewhere/kiln")));
            assert!(!folders[..i].contains(folder));
        }
    }
}
