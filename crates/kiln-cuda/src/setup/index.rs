//! The package index that pip is configured with, and finding a file in one.
//!
//! Formats: PEP 503 (HTML) and PEP 691 (JSON) of the simple repository API; pip's configuration as its documentation has it, as far as
//! one file from one index needs it.

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;

/// A package index, and how to reach it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Index {
    /// Root of the simple API, without a slash at its end.
    pub url: String,
    /// Certificates to trust instead of the system's, as a PEM file.
    pub cert: Option<PathBuf>,
    /// Proxy to use instead of the environment's.
    pub proxy: Option<String>,
}

/// The sections of pip's files that `pip download` reads, the latter over the former.
const SECTIONS: [&str; 2] = ["global", "download"];

impl Index {
    /// The index that pip's variables and files name; `None` if they name none or forbid it.
    pub fn of_process() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let texts: Vec<String> = files(&variable).iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        Self::configured(&variable, &texts)
    }

    /// From variables and the texts of configuration files, later ones over earlier ones.
    fn configured(variable: &impl Fn(&str) -> Option<String>, files: &[String]) -> Option<Self> {
        let setting = |key: &str| {
            let name = format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
            variable(&name).or_else(|| files.iter().rev().find_map(|text| value_in(text, key)))
        };
        let forbidden = setting("no-index").is_some_and(|v| matches!(v.as_str(), "1" | "true" | "yes" | "on"));
        let url = setting("index-url").filter(|_| !forbidden)?;
        Some(Self {
            url: url.trim_end_matches('/').to_owned(),
            cert: setting("cert").map(PathBuf::from),
            proxy: setting("proxy"),
        })
    }

    /// The URL for messages: it may hold a password.
    pub fn shown(&self) -> String {
        match self.url.split_once("://") {
            Some((scheme, rest)) => {
                let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
                let host = authority.rsplit('@').next().unwrap_or(authority);
                format!("{scheme}://{host}{path}")
            }
            None => self.url.clone(),
        }
    }
}

/// Where pip's settings may be, from the machine's to the most particular.
fn files(variable: &impl Fn(&str) -> Option<String>) -> Vec<PathBuf> {
    let named = variable("PIP_CONFIG_FILE");
    if named.as_deref() == Some("/dev/null") {
        return Vec::new();
    }
    let home = variable("HOME").map(PathBuf::from);
    let system = variable("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".to_owned());
    let own = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".config")));
    let mut files: Vec<PathBuf> = std::env::split_paths(&system).map(|folder| folder.join("pip/pip.conf")).collect();
    files.push(PathBuf::from("/etc/pip.conf"));
    files.extend(home.map(|home| home.join(".pip/pip.conf")));
    files.extend(own.map(|folder| folder.join("pip/pip.conf")));
    files.extend(variable("VIRTUAL_ENV").map(|folder| PathBuf::from(folder).join("pip.conf")));
    files.extend(named.map(PathBuf::from));
    files
}

/// A setting in the text of a `pip.conf`.
fn value_in(text: &str, key: &str) -> Option<String> {
    let (mut section, mut found) = ("", None);
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim();
        } else if let Some((name, value)) = line.split_once(['=', ':'])
            && let Some(rank) = SECTIONS.iter().position(|known| *known == section)
            && name.trim().replace('_', "-").eq_ignore_ascii_case(key)
            && found.as_ref().is_none_or(|(before, _)| rank >= *before)
        {
            found = Some((rank, value.trim().to_owned()));
        }
    }
    found.map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// The address of `file` on a project's page, which was read from `page`.
///
/// # Errors
/// In words: the page is not of either format, or does not list the file.
pub(super) fn address_of(file: &str, body: &str, page: &str) -> Result<String, String> {
    let listed: Vec<String> = if body.trim_start().starts_with('{') {
        let page: Page = serde_json::from_str(body).map_err(|e| format!("its page is no list of files: {e}"))?;
        page.files.into_iter().map(|listed| listed.url).collect()
    } else {
        links(body).collect()
    };
    let name = |url: &str| {
        let path = url.split(['#', '?']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().replace("%2B", "+").replace("%2b", "+")
    };
    match listed.iter().find(|url| name(url) == file) {
        Some(url) => Ok(resolved(url.split('#').next().unwrap_or_default(), page)),
        None => Err(format!("its page lists {} files, and not {file}", listed.len())),
    }
}

/// The part of a PEP 691 page that is needed.
#[derive(Deserialize)]
struct Page {
    files: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    url: String,
}

/// The targets of the anchors of an HTML page.
fn links(html: &str) -> impl Iterator<Item = String> {
    html.split("<a ").skip(1).filter_map(|anchor| {
        let tag = anchor.split('>').next()?;
        let value = tag.split_once("href=")?.1;
        let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        Some(value[1..].split(quote).next()?.replace("&amp;", "&"))
    })
}

/// A reference on the page `base` as an absolute URL (RFC 3986, section 5.2, without queries of the base).
fn resolved(reference: &str, base: &str) -> String {
    let Some((scheme, rest)) = base.split_once("://").filter(|_| !reference.contains("://")) else {
        return reference.to_owned();
    };
    if reference.starts_with("//") {
        return format!("{scheme}:{reference}");
    }
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let folder = if reference.starts_with('/') { "" } else { path.split('?').next().unwrap_or_default() };
    let mut parts: Vec<&str> = folder.split('/').skip(1).collect();
    parts.pop();
    for part in reference.trim_start_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("{scheme}://{authority}/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_from_variables_then_the_most_particular_file() {
        let none = |_: &str| None;
        let machine =
            "[global]\nindex-url = https://user:word@machine.example/simple/\ncert = /machine.pem\n".to_owned();
        let own = "# mine\n[install]\nindex-url = https://not.this\n[download]\nindex_url: https://own.example/a\n\
                   [global]\nindex-url = https://under.download\nproxy = http://p:1\n"
            .to_owned();
        assert_eq!(Index::configured(&none, &[]), None);
        let index = Index::configured(&none, std::slice::from_ref(&machine)).unwrap();
        assert_eq!(index.url, "https://user:word@machine.example/simple");
        assert_eq!(index.shown(), "https://machine.example/simple");
        let index = Index::configured(&none, &[machine.clone(), own.clone()]).unwrap();
        let expected = Index {
            url: "https://own.example/a".to_owned(),
            cert: Some("/machine.pem".into()),
            proxy: Some("http://p:1".to_owned()),
        };
        assert_eq!(index, expected);
        let variable = |name: &str| (name == "PIP_INDEX_URL").then(|| "http://variable.example".to_owned());
        assert_eq!(Index::configured(&variable, &[machine.clone(), own]).unwrap().url, "http://variable.example");
        let offline = |name: &str| (name == "PIP_NO_INDEX").then(|| "1".to_owned());
        assert_eq!(Index::configured(&offline, &[machine]), None);
    }

    #[test]
    fn files_are_looked_for_where_pip_does() {
        let variable = |name: &str| {
            let value = match name {
                "HOME" => "/h",
                "VIRTUAL_ENV" => "/v",
                "PIP_CONFIG_FILE" => "/c.conf",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let found = files(&variable);
        let expected = [
            "/etc/xdg/pip/pip.conf",
            "/etc/pip.conf",
            "/h/.pip/pip.conf",
            "/h/.config/pip/pip.conf",
            "/v/pip.conf",
            "/c.conf",
        ];
        assert_eq!(found, expected.map(PathBuf::from));
        assert!(files(&|name: &str| (name == "PIP_CONFIG_FILE").then(|| "/dev/null".to_owned())).is_empty());
    }

    #[test]
    fn both_kinds_of_page_are_read() {
        let page = "https://host.example/simple/x/";
        let json = r#"{"meta": {"api-version": "1.0"}, "files": [
            {"filename": "x-1.whl", "url": "https://files.example/a/x-1.whl", "hashes": {}},
            {"filename": "x-2.whl", "url": "../../packages/b/x-2.whl#sha256=00", "hashes": {}}]}"#;
        let html = "<!DOCTYPE html><body><a href=\"https://files.example/a/x-1.whl#sha256=00\">x-1.whl</a>\n\
                    <a data-requires-python='&gt;=3' href='../../packages/b/x-2.whl?a=1&amp;b=2#sha256=00'>x-2.whl</a>";
        for body in [json, html] {
            assert_eq!(address_of("x-1.whl", body, page).unwrap(), "https://files.example/a/x-1.whl");
        }
        assert_eq!(address_of("x-2.whl", json, page).unwrap(), "https://host.example/packages/b/x-2.whl");
        assert_eq!(address_of("x-2.whl", html, page).unwrap(), "https://host.example/packages/b/x-2.whl?a=1&b=2");
        assert!(address_of("x-3.whl", html, page).unwrap_err().contains("2 files, and not x-3.whl"));
        assert!(address_of("x-3.whl", "{\"files\": 3}", page).unwrap_err().contains("no list of files"));
    }

    #[test]
    fn references_resolve() {
        let base = "http://host:80/a/b/c";
        for (reference, expected) in [
            ("https://other/x", "https://other/x"),
            ("//other/x", "http://other/x"),
            ("/x/y", "http://host:80/x/y"),
            ("x", "http://host:80/a/b/x"),
            ("./x", "http://host:80/a/b/x"),
            ("../../../x", "http://host:80/x"),
        ] {
            assert_eq!(resolved(reference, base), expected, "{reference}");
        }
        assert_eq!(resolved("x", "http://host"), "http://host/x");
    }
}
