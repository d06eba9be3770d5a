//! What the pages of `docs/howto` say of the sources is so. A page may say it in four ways:
//!
//! * `` `path/from/the/root` ``: the path exists; `` `path.rs` (`name`, ..) ``: and the file has these words.
//! * A code block ```` ```rust,from=path ````: its lines stand in that file.
//! * `<!-- every file that names A|B; at most N -->` up to `<!-- end -->`: the files at the start of the list's items are all source files, tests aside, that have one of the
//!   words, and they are at most N.

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn pages() -> Vec<(String, String)> {
    let folder = root().join("docs/howto");
    let mut pages: Vec<(String, String)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "md"))
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), read_to_string(&path).unwrap()))
        .collect();
    pages.sort();
    assert!(pages.len() >= 2, "{}", folder.display());
    pages
}

/// Source files by their path from the root, without tests.
fn sources() -> Vec<(String, String)> {
    let mut folders = vec![root().join("src"), root().join("macros/src"), root().join("xtask/src")];
    folders.extend(std::fs::read_dir(root().join("crates")).unwrap().map(|c| c.unwrap().path().join("src")));
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name == "tests" || name == "tests.rs" {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if name.ends_with(".rs") {
                let text = read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
                found.push((from_root(&path), text));
            }
        }
    }
    found
}

fn from_root(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// Whether `text` has `word` with nothing of a word around it.
fn has(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// What stands between backquotes, each with the text behind it.
fn quoted(page: &str) -> Vec<(&str, &str)> {
    let mut rest = page;
    let mut found = Vec::new();
    while let Some((_, after)) = rest.split_once('`') {
        let Some((word, behind)) = after.split_once('`') else { break };
        found.push((word, behind));
        rest = behind;
    }
    found
}

/// The code blocks of a page, and the page without them.
fn blocks(page: &str) -> (Vec<(&str, &str)>, String) {
    let mut parts = page.split("```");
    let mut prose = parts.next().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    while let (Some(code), Some(text)) = (parts.next(), parts.next()) {
        found.push(code.split_once('\n').unwrap());
        prose.push_str(text);
    }
    (found, prose)
}

fn is_path(word: &str) -> bool {
    word.contains('/') && !word.contains(' ') && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
}

#[test]
fn paths_exist_and_have_what_is_named_beside_them() {
    let mut named = 0;
    for (page, text) in pages() {
        let (_, prose) = blocks(&text);
        for (word, behind) in quoted(&prose).into_iter().filter(|(word, _)| is_path(word)) {
            let path: PathBuf = root().join(word);
            assert!(path.exists(), "{page}: `{word}` does not exist");
            let Some(list) = behind.trim_start().strip_prefix("(`") else { continue };
            let source = read_to_string(&path).unwrap();
            for symbol in list.split(')').next().unwrap().split(',').map(|s| s.trim().trim_matches('`')) {
                assert!(has(&source, symbol), "{page}: `{word}` has no `{symbol}`");
                named += 1;
            }
        }
    }
    assert!(named > 20, "{named}");
}

#[test]
fn code_stands_in_the_file_it_is_from() {
    let mut checked = 0;
    for (page, text) in pages() {
        for (info, code) in blocks(&text).0 {
            let Some((_, path)) = info.split_once("from=") else { continue };
            assert!(read_to_string(root().join(path)).unwrap().contains(code), "{page}: {path} does not have\n{code}");
            checked += 1;
        }
    }
    assert!(checked >= 5, "{checked}");
}

#[test]
fn lists_of_files_are_complete_and_short() {
    let sources = sources();
    assert!(sources.len() > 300, "{}", sources.len());
    let mut lists = 0;
    for (page, text) in pages() {
        for part in text.split("<!-- every file that names ").skip(1) {
            let (claim, list) = part.split_once(" -->").unwrap();
            let (list, _) =
                list.split_once("<!-- end -->").unwrap_or_else(|| panic!("{page}: no end behind `{claim}`"));
            let (words, most) = claim.split_once("; at most ").unwrap();
            let words: Vec<&str> = words.split('|').collect();
            let items = list.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit() || c == '*'));
            let listed: BTreeSet<&str> = items.map(|item| quoted(item)[0].0).collect();
            let names = |text: &str| words.iter().any(|word| has(text, word));
            let found: BTreeSet<&str> =
                sources.iter().filter(|(_, t)| names(t)).map(|(path, _)| path.as_str()).collect();
            assert_eq!(listed, found, "{page}: the files that name {words:?}");
            assert!(found.len() <= most.parse().unwrap(), "{page}: {words:?} is in {} files", found.len());
            lists += 1;
        }
    }
    assert!(lists >= 5, "{lists}");
}
