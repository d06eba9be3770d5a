//! Which NVRTC file serves a process. A process has one, so each case is a process of its own: this test program again, with the case's name
//! in a variable.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_cuda::{CompileRequest, Compiler, Home, Nvrtc, RELEASES, setup};

const CASE: &str = "KILN_LOADING_CASE";
const A: &str = "KILN_LOADING_A";
const B: &str = "KILN_LOADING_B";

/// The library of the NVRTC that is installed here.
fn library() -> PathBuf {
    let home = Home::from_env().unwrap();
    let folder = setup::setup(&home, |_| {}).unwrap();
    let mut found = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("libnvrtc.so.")).unwrap()
}

fn builtins(library: &Path) -> PathBuf {
    let mut found = fs::read_dir(library.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("libnvrtc-builtins.so")).unwrap()
}

/// Runs a case in a process whose loader path is `loader`, and returns what it printed.
fn child(case: &str, loader: Option<&Path>, a: &Path, b: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_case_of_a_child", "--nocapture"]).env(CASE, case).env(A, a).env(B, b);
    command.env_remove("LD_LIBRARY_PATH").env_remove("KILN_NVRTC");
    if let Some(loader) = loader {
        command.env("LD_LIBRARY_PATH", loader);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("panicked"), "{case}: {text}");
    text
}

fn compiles(nvrtc: &Nvrtc) -> String {
    let requests: Vec<CompileRequest> = ["sm_80", "sm_90a", "sm_100", "sm_120"]
        .into_iter()
        .flat_map(|arch| {
            (0..4).map(move |i| CompileRequest {
                name: "k".to_owned(),
                source: format!("extern \"C\" __global__ void k(float* x) {{ x[{i}] = 1.5f * x[0]; }}"),
                arch: arch.to_owned(),
                options: Vec::new(),
                line_info: false,
            })
        })
        .collect();
    let results = Compiler::new(nvrtc).compile_all(&requests, |_| {});
    let good = results.iter().flatten().filter(|compiled| compiled.cubin.starts_with(b"\x7fELF")).count();
    format!("release {} compiled {good} of {}", nvrtc.release(), requests.len())
}

/// What a child does; nothing in the process that starts them.
#[test]
fn the_case_of_a_child() {
    let Ok(case) = std::env::var(CASE) else { return };
    let path = |name: &str| PathBuf::from(std::env::var_os(name).unwrap());
    let say = |opened: kiln_cuda::Result<Nvrtc>| match opened {
        Ok(nvrtc) => println!("opened {}: {}", nvrtc.path().display(), compiles(&nvrtc)),
        Err(error) => println!("refused: {error}"),
    };
    match case.as_str() {
        "open" => say(Nvrtc::open(&path(A))),
        "both" => {
            say(Nvrtc::open(&path(A)));
            say(Nvrtc::open(&path(B)));
        }
        "discover" => say(Nvrtc::discover(&Home::at(path(A)))),
        other => panic!("no case {other}"),
    }
}

#[test]
fn a_file_outside_the_loaders_path_serves() {
    let library = library();
    let text = child("open", None, &library, &library);
    assert!(text.contains(&format!("opened {}", library.display())) && text.contains("compiled 16 of 16"), "{text}");
}

#[test]
fn another_library_first_on_the_loaders_path_is_named_not_called() {
    let library = library();
    let folder = tempfile::tempdir().unwrap();
    // A library that loads and is no NVRTC, under the name that cudarc tries first.
    symlink(builtins(&library), folder.path().join("libnvrtc.so")).unwrap();
    let text = child("open", Some(folder.path()), &library, &library);
    for part in ["refused", "another `libnvrtc.so`", "LD_LIBRARY_PATH", &library.display().to_string()] {
        assert!(text.contains(part), "`{part}` missing from: {text}");
    }
    // The very file that is wanted may lie there too.
    let same = tempfile::tempdir().unwrap();
    symlink(&library, same.path().join("libnvrtc.so")).unwrap();
    let text = child("open", Some(same.path()), &library, &library);
    assert!(text.contains("compiled 16 of 16"), "{text}");
}

#[test]
fn where_another_nvrtc_would_be_called_discovery_takes_that_one() {
    let library = library();
    let root = tempfile::tempdir().unwrap();
    let copy_to = |folder: PathBuf, name: &str| {
        fs::create_dir_all(&folder).unwrap();
        let builtins = builtins(&library);
        symlink(&builtins, folder.join(builtins.file_name().unwrap())).unwrap();
        fs::copy(&library, folder.join(name)).unwrap();
        folder.join(name)
    };
    // In $KILN_HOME, so it would be first; but calls would go to the other.
    copy_to(root.path().join("home/nvrtc/99.0.0"), "libnvrtc.so.13");
    let unversioned = copy_to(root.path().join("loader"), "libnvrtc.so");
    let text = child("discover", unversioned.parent(), &root.path().join("home"), Path::new("unused"));
    assert!(
        text.contains(&format!("opened {}", unversioned.display())) && text.contains("compiled 16 of 16"),
        "{text}"
    );
}

#[test]
fn a_second_nvrtc_is_refused_by_the_name_of_the_first() {
    let library = library();
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join(library.file_name().unwrap());
    fs::copy(&library, &copy).unwrap();
    symlink(builtins(&library), folder.path().join(builtins(&library).file_name().unwrap())).unwrap();
    let text = child("both", None, &library, &copy);
    assert!(text.contains("compiled 16 of 16"), "{text}");
    for part in ["refused", "serves this process already", "KILN_NVRTC"] {
        assert!(text.contains(part), "`{part}` missing from: {text}");
    }
    // The same file by another path is no second one.
    let link = folder.path().join("link.so");
    symlink(&library, &link).unwrap();
    assert!(!child("both", None, &library, &link).contains("refused"));
}

#[test]
fn what_is_no_nvrtc_is_refused() {
    let library = library();
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("libnvrtc.so.13");
    fs::write(&text, b"not a library").unwrap();
    assert!(child("open", None, &text, &library).contains("cannot be used as NVRTC"));
    // After a refusal another may still be opened.
    let other = folder.path().join("libnvrtc.so.12");
    symlink(builtins(&library), &other).unwrap();
    let text = child("both", None, &other, &library);
    assert!(text.contains("it has no function nvrtcVersion") && text.contains("compiled 16 of 16"), "{text}");
}

/// Every release that `kiln setup` fetches and that is installed here serves: NVRTC 12 through the same binding as 13.
#[test]
fn each_installed_release_serves() {
    let home = Home::from_env().unwrap();
    setup::setup(&home, |_| {}).unwrap();
    let installed: Vec<_> = RELEASES.iter().filter_map(|r| Some((r, setup::installed(&home, r)?))).collect();
    assert!(!installed.is_empty());
    for (release, folder) in installed {
        let library = folder.join(format!("libnvrtc.so.{}", release.cuda().major));
        let text = child("open", None, &library, &library);
        assert!(text.contains(&format!("release {} compiled 16 of 16", release.version)), "{text}");
    }
}
