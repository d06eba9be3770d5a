//! SASS: what machine code says, by NVIDIA's disassembler where this machine has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::discover::subfolders;
use crate::{CudaError, Python, Result};

/// The programs that disassemble a cubin, and the option that makes them print its code.
const PROGRAMS: [(&str, &str); 2] = [("nvdisasm", "--print-code"), ("cuobjdump", "--dump-sass")];

/// A program that disassembles cubins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disassembler {
    path: PathBuf,
    option: &'static str,
}

impl Disassembler {
    /// `nvdisasm` or `cuobjdump` on `PATH`, else of a toolkit that `CUDA_PATH` or `CUDA_HOME` names, else of the wheel
    /// `nvidia-cuda-nvdisasm` of the python3 on `PATH`.
    ///
    /// # Errors
    /// [`CudaError::NoDisassembler`] naming the places looked at.
    pub fn find() -> Result<Self> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let path: Vec<PathBuf> = std::env::split_paths(&set("PATH").unwrap_or_default()).collect();
        let toolkits = ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(set);
        let toolkits: Vec<PathBuf> = toolkits.map(|root| Path::new(&root).join("bin")).collect();
        let mut looked = vec![];
        for (place, folders) in [("PATH", &path), ("CUDA_PATH, CUDA_HOME", &toolkits)] {
            match Self::in_folders(folders) {
                Some(found) => return Ok(found),
                None => looked.push(place.to_owned()),
            }
        }
        // Last, since it starts a process.
        let imported = Python::find().map(|python| python.import_folders()).unwrap_or_default();
        let packages = imported.iter().flat_map(|folder| subfolders(&folder.join("nvidia")));
        let folders: Vec<PathBuf> = packages.map(|package| package.join("bin")).collect();
        looked.push("site-packages of the python3 on PATH".to_owned());
        Self::in_folders(&folders).ok_or(CudaError::NoDisassembler { looked })
    }

    /// The first program of the first folder that has one.
    fn in_folders(folders: &[PathBuf]) -> Option<Self> {
        let all = folders.iter().flat_map(|folder| PROGRAMS.map(|(name, option)| (folder.join(name), option)));
        all.into_iter().find(|(path, _)| path.is_file()).map(|(path, option)| Self { path, option })
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The code of a cubin as text.
    ///
    /// # Errors
    /// [`CudaError::Disassembly`] where the program does not run or refuses the cubin (one older than the architecture does).
    pub fn sass(&self, cubin: &[u8]) -> Result<String> {
        let failed = |detail: String| CudaError::Disassembly { path: self.path.clone(), detail };
        let folder = tempfile::tempdir().map_err(|e| failed(e.to_string()))?;
        let file = folder.path().join("kernel.cubin");
        fs::write(&file, cubin).map_err(|e| CudaError::io("write", &file, e))?;
        let output = Command::new(&self.path).arg(self.option).arg(&file).stdin(Stdio::null()).output();
        let output = output.map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            let printed = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, printed.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_folder_that_has_a_program_wins_and_nvdisasm_goes_first() {
        let root = tempfile::tempdir().unwrap();
        let folders: Vec<PathBuf> = ["none", "dump", "both"].iter().map(|name| root.path().join(name)).collect();
        assert_eq!(Disassembler::in_folders(&folders), None);
        for (folder, program) in [("dump", "cuobjdump"), ("both", "cuobjdump"), ("both", "nvdisasm")] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
            fs::write(root.path().join(folder).join(program), "").unwrap();
        }
        let found = Disassembler::in_folders(&folders).unwrap();
        assert_eq!((found.path(), found.option), (folders[1].join("cuobjdump").as_path(), "--dump-sass"));
        let found = Disassembler::in_folders(&folders[2..]).unwrap();
        assert_eq!((found.path(), found.option), (folders[2].join("nvdisasm").as_path(), "--print-code"));
        // It is there, and does not run.
        assert!(matches!(found.sass(b"x"), Err(CudaError::Disassembly { .. })));
    }
}
