//! Where NVRTC may be: `KILN_NVRTC`, `$KILN_HOME`, `CUDA_PATH` / `CUDA_HOME`, the system's loader path, site-packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::release::{CudaVersion, RELEASES, Release};
use crate::{CudaError, Home, Python, Result, setup};

/// Which rule of the search order found a library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// The `KILN_NVRTC` variable (a library file, or a folder that holds one).
    KilnNvrtc,
    /// A release under `$KILN_HOME/nvrtc`, put there by `kiln setup`.
    KilnHome,
    /// A toolkit named by `CUDA_PATH` or `CUDA_HOME`.
    CudaPath,
    /// The system's loader path.
    LoaderPath,
    /// site-packages of the python3 on `PATH`.
    SitePackages,
}

/// A libnvrtc file that exists; whether it loads is not known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Absolute path of the library.
    pub library: PathBuf,
    /// The rule that found it.
    pub found_by: FoundBy,
}

/// What the search depends on, so that tests need not change the process's environment.
#[derive(Default)]
struct Environment {
    kiln_nvrtc: Option<PathBuf>,
    cuda_roots: Vec<PathBuf>,
    loader_path: Vec<PathBuf>,
    /// The newest CUDA version that the driver supports.
    driver: Option<CudaVersion>,
}

impl Environment {
    fn of_process() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            kiln_nvrtc: set("KILN_NVRTC").map(PathBuf::from),
            cuda_roots: ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(set).map(PathBuf::from).collect(),
            loader_path: set("LD_LIBRARY_PATH")
                .map(|paths| std::env::split_paths(&paths).filter(|path| path.is_absolute()).collect())
                .unwrap_or_default(),
            driver: crate::driver_cuda(),
        }
    }
}

/// Calls `accept` on each candidate in the search order until it returns `Some`.
///
/// Later places are looked at only when all earlier ones fail, since the last ones start processes. `accept` says why
/// it refuses a candidate. `KILN_NVRTC` is an order, not a hint: if it is set, nothing else is tried.
///
/// # Errors
/// [`CudaError::NvrtcNotFound`] listing every place looked at and what was wrong there.
pub fn find_nvrtc<T>(home: &Home, accept: impl FnMut(&Candidate) -> Result<T>) -> Result<T> {
    search(home, &Environment::of_process(), accept)
}

fn search<T>(home: &Home, env: &Environment, mut accept: impl FnMut(&Candidate) -> Result<T>) -> Result<T> {
    let mut looked = Vec::new();
    let mut attempt = |found_by: FoundBy, place: String, libraries: Vec<PathBuf>| {
        if libraries.is_empty() {
            looked.push(format!("{place}: no libnvrtc.so"));
        }
        for library in libraries {
            match accept(&Candidate { library, found_by }) {
                Ok(accepted) => return Some(accepted),
                Err(refused) => looked.push(format!("{place}: {refused}")),
            }
        }
        None
    };

    if let Some(path) = &env.kiln_nvrtc {
        let libraries = if path.is_file() { vec![path.clone()] } else { libraries_at(path) };
        let place = format!("KILN_NVRTC={}", path.display());
        return match attempt(FoundBy::KilnNvrtc, place, libraries) {
            Some(found) => Ok(found),
            None => Err(CudaError::NvrtcNotFound { looked }),
        };
    }

    let place = format!("$KILN_HOME ({})", home.nvrtc().display());
    if let Some(found) = attempt(FoundBy::KilnHome, place, in_home(home, env.driver)) {
        return Ok(found);
    }
    if env.cuda_roots.is_empty() {
        attempt(FoundBy::CudaPath, "CUDA_PATH, CUDA_HOME (not set)".to_owned(), Vec::new());
    }
    for root in &env.cuda_roots {
        let place = format!("CUDA_PATH / CUDA_HOME ({})", root.display());
        if let Some(found) = attempt(FoundBy::CudaPath, place, libraries_at(root)) {
            return Ok(found);
        }
    }
    if let Some(found) = attempt(FoundBy::LoaderPath, "the loader's path".to_owned(), on_loader_path(env)) {
        return Ok(found);
    }
    let (place, libraries) = match Python::find() {
        Ok(python) => (format!("site-packages of {}", python.path().display()), in_site_packages(&python)),
        Err(_) => ("site-packages (no python3 on PATH)".to_owned(), Vec::new()),
    };
    match attempt(FoundBy::SitePackages, place, libraries) {
        Some(found) => Ok(found),
        None => Err(CudaError::NvrtcNotFound { looked }),
    }
}

/// The release that fits the driver first, then others, newest first.
fn in_home(home: &Home, driver: Option<CudaVersion>) -> Vec<PathBuf> {
    let name = |folder: &PathBuf| folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    // A release that `kiln setup` installs and that is not whole is damaged; `kiln setup` repairs it.
    let whole = |name: &str| {
        RELEASES.iter().find(|release| release.version == name).is_none_or(|r| setup::installed(home, r).is_some())
    };
    let mut folders = subfolders(&home.nvrtc());
    folders.retain(|folder| !name(folder).starts_with('.') && whole(&name(folder)));
    folders.sort_by_key(|folder| std::cmp::Reverse(version_key(folder)));
    folders.sort_by_key(|folder| name(folder) != Release::fitting(driver).version);
    folders.iter().flat_map(|folder| libraries_in(folder)).collect()
}

/// Libraries in `root` itself or where toolkits and wheels keep them below it.
fn libraries_at(root: &Path) -> Vec<PathBuf> {
    ["", "lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"]
        .iter()
        .flat_map(|sub| libraries_in(&root.join(sub)))
        .collect()
}

fn on_loader_path(env: &Environment) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = env.loader_path.iter().flat_map(|folder| libraries_in(folder)).collect();
    // The loader's own index; /sbin is often missing from a user's PATH.
    let index = ["ldconfig", "/sbin/ldconfig"].iter().find_map(|program| {
        let output = Command::new(program).arg("-p").stdin(Stdio::null()).output().ok()?;
        output.status.success().then_some(output.stdout)
    });
    let mut indexed: Vec<PathBuf> = index
        .iter()
        .flat_map(|text| String::from_utf8_lossy(text).lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.rsplit_once("=> ").map(|(_, path)| PathBuf::from(path.trim())))
        .filter(|path| is_nvrtc(path) && path.is_file())
        .collect();
    newest_first(&mut indexed);
    found.append(&mut indexed);
    found
}

/// `nvidia/*/lib` below each import folder, as the wheels `nvidia-cuda-nvrtc` lay it out.
fn in_site_packages(python: &Python) -> Vec<PathBuf> {
    python
        .import_folders()
        .iter()
        .flat_map(|folder| subfolders(&folder.join("nvidia")))
        .flat_map(|package| libraries_in(&package.join("lib")))
        .collect()
}

/// The folders in `folder`, sorted; none if it cannot be read.
pub(crate) fn subfolders(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_nvrtc(path) && path.is_file()).collect();
    newest_first(&mut found);
    // `libnvrtc.so`, `.so.13` and `.so.13.0.88` are commonly one file under three names.
    let mut seen = Vec::new();
    found.retain(|path| match fs::canonicalize(path) {
        Ok(real) if seen.contains(&real) => false,
        Ok(real) => {
            seen.push(real);
            true
        }
        Err(_) => false,
    });
    found
}

/// `libnvrtc.so`, `libnvrtc.so.13`...: not the builtins, nor the `.alt` build.
fn is_nvrtc(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.strip_prefix("libnvrtc.so").is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

fn newest_first(libraries: &mut [PathBuf]) {
    libraries.sort_by_key(|path| std::cmp::Reverse(version_key(path)));
}

/// The numbers in a file or folder name, for ordering by version.
fn version_key(path: &Path) -> Vec<u32> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    name.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refuse(candidate: &Candidate) -> Result<()> {
        Err(CudaError::NvrtcUnusable { path: candidate.library.clone(), reason: "refused".to_owned() })
    }

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, path.display().to_string()).unwrap();
    }

    #[test]
    fn order_is_home_toolkit_loader() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        let in_home = home.nvrtc().join("12.8.93/libnvrtc.so.12");
        let newer = home.nvrtc().join("13.4.0/libnvrtc.so.13");
        let toolkit = root.path().join("cuda/lib64/libnvrtc.so.13");
        let loader = root.path().join("ld/libnvrtc.so.12");
        for path in [&in_home, &newer, &toolkit, &loader] {
            touch(path);
            touch(&path.with_file_name("libnvrtc-builtins.so.13.0"));
            touch(&path.with_file_name("libnvrtc.alt.so.13"));
        }
        let env = Environment {
            cuda_roots: vec![root.path().join("cuda")],
            loader_path: vec![root.path().join("ld")],
            ..Environment::default()
        };
        let mut seen = Vec::new();
        let _ = search(&home, &env, |candidate| {
            seen.push((candidate.found_by, candidate.library.clone()));
            refuse(candidate)
        });
        let expected = [
            (FoundBy::KilnHome, newer),
            (FoundBy::KilnHome, in_home),
            (FoundBy::CudaPath, toolkit),
            (FoundBy::LoaderPath, loader),
        ];
        assert_eq!(seen[..4], expected);
    }

    #[test]
    fn the_release_that_fits_the_driver_comes_first_and_damaged_ones_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path());
        let path = |version: &str, major: u32| home.nvrtc().join(version).join(format!("libnvrtc.so.{major}"));
        let other = path("13.9.1", 13);
        touch(&other);
        for release in &RELEASES {
            touch(&path(release.version, release.cuda().major));
        }
        assert_eq!(in_home(&home, None), std::slice::from_ref(&other), "neither release is whole");
        for release in &RELEASES {
            setup::tests::mark_whole(&home, release);
        }
        let [newest, older] = [path("13.0.88", 13), path("12.9.86", 12)];
        for driver in [None, Some(CudaVersion::new(13, 1))] {
            assert_eq!(in_home(&home, driver), [newest.clone(), other.clone(), older.clone()], "{driver:?}");
        }
        assert_eq!(in_home(&home, Some(CudaVersion::new(12, 2))), [older, other, newest]);
    }

    #[test]
    fn the_variable_is_an_order() {
        let root = tempfile::tempdir().unwrap();
        let home = Home::at(root.path().join("home"));
        touch(&home.nvrtc().join("13.9.0/libnvrtc.so.13"));
        let named = root.path().join("elsewhere/libnvrtc.so.12");
        touch(&named);
        let mut env = Environment { kiln_nvrtc: Some(named.clone()), ..Environment::default() };
        let take = |candidate: &Candidate| Ok(candidate.clone());
        assert_eq!(search(&home, &env, take).unwrap().library, named);
        env.kiln_nvrtc = named.parent().map(Path::to_owned);
        assert_eq!(search(&home, &env, take).unwrap(), Candidate { library: named, found_by: FoundBy::KilnNvrtc });
        env.kiln_nvrtc = Some(root.path().join("nowhere"));
        let error = search(&home, &env, take).unwrap_err().to_string();
        assert!(error.contains("KILN_NVRTC=") && error.contains("kiln setup") && !error.contains("13.9.0"), "{error}");
    }

    #[test]
    fn not_found_lists_every_place() {
        let root = tempfile::tempdir().unwrap();
        let env = Environment { cuda_roots: vec![root.path().join("cuda")], ..Environment::default() };
        let error = search(&Home::at(root.path()), &env, refuse).unwrap_err().to_string();
        for place in ["kiln setup", "$KILN_HOME", "CUDA_PATH", "loader", "site-packages"] {
            assert!(error.contains(place), "{place} missing from: {error}");
        }
    }
}
