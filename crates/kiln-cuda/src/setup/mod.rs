//! Fetching NVRTC for a user: one pinned wheel, checked by hash, unpacked under `$KILN_HOME`.
//!
//! The file comes from the package index that pip is configured with (`PIP_INDEX_URL`, `pip.conf`), over HTTP and without Python (cargo feature
//! `setup`). Where none is configured, or it does not serve the file, pip fetches it.

#[cfg(feature = "setup")]
mod http;
#[cfg(feature = "setup")]
mod index;
mod wheel;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::python::{Python, WheelRequest};
use crate::release::Release;
use crate::{CudaError, Home, Result};

/// What [`setup`] is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupStep {
    /// This release is already installed there; nothing to do.
    AlreadyInstalled(PathBuf),
    /// Another process is setting up the same folder.
    WaitingForOther,
    /// A download: bytes so far, bytes in all.
    Downloading {
        /// Bytes that have arrived.
        bytes: u64,
        /// Size of the wheel.
        total: u64,
    },
    /// One way to fetch the wheel failed for this reason; the next is tried.
    FallingBack(String),
    /// The wheel's hash is being checked.
    Verifying,
    /// A library is being unpacked.
    Unpacking(String),
    /// Installed in this folder.
    Installed(PathBuf),
}

/// The one file to fetch.
struct Pin<'a> {
    version: &'a str,
    project: &'a str,
    platforms: &'a [&'a str],
    sha256: &'a str,
    bytes: u64,
}

impl Pin<'_> {
    fn of(release: &Release) -> Result<Pin<'_>> {
        let wheel = release.wheel()?;
        let Release { version, project, .. } = release;
        Ok(Pin { version, project, platforms: &wheel.platforms, sha256: wheel.sha256, bytes: wheel.bytes })
    }

    /// As pip takes it.
    fn requirement(&self) -> String {
        format!("{}=={}", self.project, self.version)
    }

    /// The wheel's name in a package index.
    #[cfg(feature = "setup")]
    fn file(&self) -> String {
        format!("{}-{}-py3-none-{}.whl", self.project.replace('-', "_"), self.version, self.platforms.join("."))
    }
}

/// A way to get the pinned file into an empty folder; it is told of bytes that arrive.
type Way<'a> = Box<dyn Fn(&Pin<'_>, &Path, &mut dyn FnMut(u64)) -> Result<PathBuf> + 'a>;

/// The ways to fetch, the preferred first.
fn ways() -> Vec<Way<'static>> {
    #[cfg(feature = "setup")]
    let index = index::Index::of_process().map(|index| -> Way<'static> {
        Box::new(move |pin, into, on_bytes| http::download(&index, pin, into, on_bytes))
    });
    #[cfg(not(feature = "setup"))]
    let index = None;
    index.into_iter().chain([with_pip(Python::find)]).collect()
}

fn with_pip<'a>(python: impl Fn() -> Result<Python> + 'a) -> Way<'a> {
    Box::new(move |pin, into, on_bytes| {
        let [wheel, scratch] = ["wheel", "work"].map(|name| into.join(name));
        for folder in [&wheel, &scratch] {
            fs::create_dir(folder).map_err(|e| CudaError::io("create folder", folder, e))?;
        }
        let disk = pin.bytes * 2 + UNPACKED_LIMIT / 2;
        let request = WheelRequest { requirement: &pin.requirement(), platforms: pin.platforms, disk };
        python()?.download_wheel(&request, &wheel, &scratch, on_bytes)
    })
}

/// Bound on what is unpacked: the libraries are about 114 MB on either host.
const UNPACKED_LIMIT: u64 = 400 << 20;

/// What was installed, kept beside the libraries so that a damaged folder is noticed.
#[derive(Serialize, Deserialize)]
struct Manifest {
    wheel_sha256: String,
    files: Vec<(String, u64)>,
}

const MANIFEST: &str = "installed.json";
const SCRATCH_PREFIX: &str = ".setup-";

/// Installs the NVRTC that fits the driver here ([`Release::fitting`]) under `home` unless it is there, and returns the folder that holds
/// `libnvrtc.so`.
///
/// # Errors
/// As [`setup_release`].
pub fn setup(home: &Home, progress: impl FnMut(SetupStep)) -> Result<PathBuf> {
    setup_release(home, Release::fitting(crate::driver_cuda()), progress)
}

/// Installs a release under `home` unless it is there, and returns the folder that holds `libnvrtc.so`.
///
/// Safe to call from several processes at once: one installs, the others wait and find it done. An interrupted run leaves nothing behind that
/// a later one would take for an installation.
///
/// # Errors
/// No index and no python, no network, another file than the pinned one, disk full: each says what to do.
pub fn setup_release(home: &Home, release: &Release, progress: impl FnMut(SetupStep)) -> Result<PathBuf> {
    install(home, &Pin::of(release)?, &ways(), progress)
}

/// The folder with a release's libraries, if `home` has them whole.
pub fn installed(home: &Home, release: &Release) -> Option<PathBuf> {
    let folder = home.nvrtc().join(release.version);
    is_whole(&folder, release.wheel().ok()?.sha256).then_some(folder)
}

fn is_whole(folder: &Path, wheel_sha256: &str) -> bool {
    let Ok(text) = fs::read(folder.join(MANIFEST)) else { return false };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&text) else { return false };
    manifest.wheel_sha256 == wheel_sha256
        && manifest
            .files
            .iter()
            .all(|(name, size)| fs::metadata(folder.join(name)).is_ok_and(|meta| meta.is_file() && meta.len() == *size))
}

/// Fetches the file in the first way that works. What fails for want of disk would fail in every way.
fn fetch(pin: &Pin<'_>, ways: &[Way<'_>], into: &Path, progress: &mut impl FnMut(SetupStep)) -> Result<PathBuf> {
    let mut tried = Vec::new();
    for (index, way) in ways.iter().enumerate() {
        let folder = into.join(index.to_string());
        fs::create_dir(&folder).map_err(|e| CudaError::io("create folder", &folder, e))?;
        progress(SetupStep::Downloading { bytes: 0, total: pin.bytes });
        let on_bytes = &mut |bytes: u64| {
            progress(SetupStep::Downloading { bytes: bytes.min(pin.bytes), total: pin.bytes });
        };
        match way(pin, &folder, on_bytes) {
            Ok(file) => return Ok(file),
            Err(error @ (CudaError::DiskFull { .. } | CudaError::Io { .. })) => return Err(error),
            Err(error) if ways.len() == 1 => return Err(error),
            Err(error) => {
                if index + 1 < ways.len() {
                    progress(SetupStep::FallingBack(error.to_string()));
                }
                tried.push(error.to_string());
            }
        }
    }
    Err(CudaError::NotFetched { package: pin.requirement(), tried })
}

fn install(home: &Home, pin: &Pin<'_>, ways: &[Way<'_>], mut progress: impl FnMut(SetupStep)) -> Result<PathBuf> {
    let releases = home.nvrtc();
    let target = releases.join(pin.version);
    if is_whole(&target, pin.sha256) {
        progress(SetupStep::AlreadyInstalled(target.clone()));
        return Ok(target);
    }
    fs::create_dir_all(&releases).map_err(|e| CudaError::io("create folder", &releases, e))?;
    let _lock = lock(&releases, &mut progress)?;
    if is_whole(&target, pin.sha256) {
        progress(SetupStep::AlreadyInstalled(target.clone()));
        return Ok(target);
    }

    remove_leftovers(&releases);

    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH_PREFIX)
        .tempdir_in(&releases)
        .map_err(|e| CudaError::io("create folder", &releases, e))?;
    let folder = |name: &str| {
        let path = scratch.path().join(name);
        fs::create_dir(&path).map_err(|e| CudaError::io("create folder", &path, e)).map(|()| path)
    };
    let (download, unpacked) = (folder("download")?, folder("unpacked")?);
    let wheel_path = fetch(pin, ways, &download, &mut progress)?;

    progress(SetupStep::Verifying);
    let found = wheel::sha256_hex(&wheel_path)?;
    if found != pin.sha256 {
        let file = wheel_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(CudaError::HashMismatch { file, expected: pin.sha256.to_owned(), found });
    }

    let files = wheel::unpack(&wheel_path, &unpacked, UNPACKED_LIMIT, wanted_member, |name| {
        progress(SetupStep::Unpacking(name.to_owned()));
    })?;
    if !files.iter().any(|(name, _)| name.starts_with("libnvrtc.so")) {
        let file = wheel_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Err(CudaError::BadWheel { file, reason: "it holds no libnvrtc.so".to_owned() });
    }
    let manifest = Manifest { wheel_sha256: found, files };
    let manifest_path = unpacked.join(MANIFEST);
    let text = serde_json::to_vec_pretty(&manifest).unwrap_or_default();
    fs::write(&manifest_path, text).map_err(|e| CudaError::io("write", &manifest_path, e))?;

    if target.exists() {
        fs::remove_dir_all(&target).map_err(|e| CudaError::io("remove the damaged folder", &target, e))?;
    }
    fs::rename(&unpacked, &target).map_err(|e| CudaError::io("install into", &target, e))?;
    progress(SetupStep::Installed(target.clone()));
    Ok(target)
}

/// Removes the working folders of runs that were killed. Only called under the lock, so no live run owns one. What cannot
/// be removed is only in the way of disk space.
fn remove_leftovers(releases: &Path) {
    for entry in fs::read_dir(releases).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(SCRATCH_PREFIX) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The libraries and their licence; the `.alt` builds are the same compilers with another allocator.
fn wanted_member(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    let library = path.contains("/lib/") && name.starts_with("libnvrtc") && !name.contains(".alt.");
    (library || path.ends_with("/licenses/License.txt")).then(|| name.to_owned())
}

/// An exclusive lock that lasts as long as the returned file, or the process.
fn lock(folder: &Path, progress: &mut impl FnMut(SetupStep)) -> Result<File> {
    let path = folder.join(".lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| CudaError::io("open", &path, e))?;
    if file.try_lock().is_err() {
        progress(SetupStep::WaitingForOther);
        file.lock().map_err(|e| CudaError::io("lock", &path, e))?;
    }
    Ok(file)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Makes `installed` find a release, whose library stands for itself.
    pub(crate) fn mark_whole(home: &Home, release: &Release) {
        let folder = home.nvrtc().join(release.version);
        let manifest = Manifest { wheel_sha256: release.wheel().unwrap().sha256.to_owned(), files: Vec::new() };
        fs::write(folder.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
    }

    pub(super) fn pin(sha256: &str, bytes: u64) -> Pin<'_> {
        Pin { version: "13.0.88", project: "nvidia-cuda-nvrtc", platforms: &["any"], sha256, bytes }
    }

    /// A stand-in for python3: answers the version question, then runs `pip` (shell text; `$dest` is where wheels go).
    pub(super) fn fake_python(folder: &Path, pip: &str) -> Python {
        let path = folder.join("python3");
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = -c ]; then echo 3.11.0; exit 0; fi\n\
             while [ $# -gt 0 ]; do if [ \"$1\" = --dest ]; then dest=$2; fi; shift; done\n{pip}\n"
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        // Another test's fork may briefly hold the script open for writing.
        for _ in 0..50 {
            match Python::at(&path) {
                Ok(python) => return python,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
        Python::at(&path).unwrap()
    }

    pub(super) fn wheel_with(members: &[(&str, &[u8])]) -> (tempfile::NamedTempFile, String) {
        use std::io::Write;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = zip::ZipWriter::new(file.reopen().unwrap());
        for (name, bytes) in members {
            zip.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        let hash = wheel::sha256_hex(file.path()).unwrap();
        (file, hash)
    }

    fn no_python() -> Result<Python> {
        Err(CudaError::NoPython { detail: "no python3".to_owned() })
    }

    fn run(pip: &str, sha256: &str) -> (Result<PathBuf>, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        let python = fake_python(root.path(), pip);
        let home = Home::at(root.path().join("home"));
        (install(&home, &pin(sha256, 10), &[with_pip(|| Ok(python.clone()))], |_| {}), root)
    }

    #[test]
    fn each_way_to_fail_says_what_to_do() {
        let cases = [
            ("echo 'python3: No module named pip' >&2; exit 1", "python3-pip"),
            ("echo 'NewConnectionError: refused' >&2; exit 1", "check the network"),
            ("echo 'OSError: No space left on device' >&2; exit 1", "set KILN_HOME"),
            ("echo 'ERROR: No matching distribution found' >&2; exit 1", "No matching distribution"),
            ("echo junk > $dest/x.whl", "expected sha256 00ff"),
            ("true", "expected one wheel, found 0"),
        ];
        for (pip, expected) in cases {
            let (result, root) = run(pip, "00ff");
            let error = result.unwrap_err().to_string();
            assert!(error.contains(expected), "{pip}: {error}");
            let left: Vec<_> = fs::read_dir(root.path().join("home/nvrtc")).unwrap().flatten().collect();
            assert!(left.iter().all(|entry| entry.file_name() == ".lock"), "{pip} left {left:?}");
        }
        let home = Home::at(tempfile::tempdir().unwrap().path());
        let error = install(&home, &pin("", 0), &[with_pip(no_python)], |_| {}).unwrap_err();
        assert!(error.to_string().contains("install python3"), "{error}");
    }

    #[test]
    fn installs_once_and_repairs_a_damaged_folder() {
        let (wheel, hash) = wheel_with(&[
            ("nvidia/cu13/lib/libnvrtc.so.13", b"library"),
            ("nvidia/cu13/lib/libnvrtc.alt.so.13", b"other build"),
            ("nvidia/cu13/lib/libnvrtc-builtins.so.13.0", b"builtins"),
            ("x.dist-info/METADATA", b"meta"),
        ]);
        let root = tempfile::tempdir().unwrap();
        let python = fake_python(root.path(), &format!("cp '{}' $dest/x.whl", wheel.path().display()));
        let pin = pin(&hash, 10);
        let home = Home::at(root.path().join("home"));
        let mut steps = Vec::new();
        let folder = install(&home, &pin, &[with_pip(|| Ok(python.clone()))], |step| steps.push(step)).unwrap();
        assert_eq!(fs::read(folder.join("libnvrtc.so.13")).unwrap(), b"library");
        assert!(!folder.join("libnvrtc.alt.so.13").exists());
        assert_eq!(steps.last(), Some(&SetupStep::Installed(folder.clone())));

        let nothing = [with_pip(no_python)];
        install(&home, &pin, &nothing, |step| assert_eq!(step, SetupStep::AlreadyInstalled(folder.clone()))).unwrap();

        fs::write(folder.join("libnvrtc.so.13"), b"trunc").unwrap();
        assert!(matches!(install(&home, &pin, &nothing, |_| {}), Err(CudaError::NoPython { .. })));
        install(&home, &pin, &[with_pip(|| Ok(python.clone()))], |_| {}).unwrap();
        assert_eq!(fs::read(folder.join("libnvrtc.so.13")).unwrap(), b"library");
    }

    #[test]
    fn several_at_once_install_once_and_clear_what_a_killed_run_left() {
        let (wheel, hash) = wheel_with(&[("nvidia/cu13/lib/libnvrtc.so.13", b"library")]);
        let root = tempfile::tempdir().unwrap();
        let log = root.path().join("downloads");
        let pip = format!("echo one >> '{}'; cp '{}' $dest/x.whl", log.display(), wheel.path().display());
        let python = fake_python(root.path(), &pip);
        let home = Home::at(root.path().join("home"));
        let leftover = home.nvrtc().join(".setup-abc/work");
        fs::create_dir_all(&leftover).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    install(&home, &pin(&hash, 10), &[with_pip(|| Ok(python.clone()))], |_| {}).unwrap();
                });
            }
        });
        assert_eq!(fs::read_to_string(log).unwrap().lines().count(), 1);
        assert!(!leftover.exists());
    }

    #[test]
    fn a_wheel_without_the_library_is_refused() {
        let (wheel, hash) = wheel_with(&[("nvidia/cu13/include/nvrtc.h", b"header")]);
        let (result, _root) = run(&format!("cp '{}' $dest/x.whl", wheel.path().display()), &hash);
        assert!(result.unwrap_err().to_string().contains("no libnvrtc.so"));
    }
}
