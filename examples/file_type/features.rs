//! What magika looks at: the first and the last bytes of a file, and what its answer means.

use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::{Read, Result, Seek, SeekFrom};

/// `config.min.json` beside the model.
#[derive(Debug, Deserialize)]
pub struct Config {
    /// Bytes from the beginning.
    pub beg_size: usize,
    /// Bytes from the middle: none in this generation of models.
    pub mid_size: usize,
    /// Bytes from the end.
    pub end_size: usize,
    /// Stands for a byte that is not there.
    pub padding_token: i32,
    /// Most bytes that are read from either end before white space is removed.
    pub block_size: usize,
    /// Fewest bytes that are worth asking the model about.
    pub min_file_size_for_dl: usize,
    /// Names of the classes.
    pub target_labels_space: Vec<String>,
    /// Score that an answer needs.
    pub medium_confidence_threshold: f32,
    /// Score that an answer needs, for some classes.
    pub thresholds: BTreeMap<String, f32>,
    /// Classes that are reported under another name.
    pub overwrite_map: BTreeMap<String, String>,
}

/// What is known of a file before the model is asked.
#[derive(Debug, PartialEq)]
pub enum Features {
    /// The model's input.
    Model(Vec<i32>),
    /// The file is too short for the model: its kind.
    Known(&'static str),
}

/// Reads what the model needs of a file.
pub fn features(file: &mut (impl Read + Seek), cfg: &Config) -> Result<Features> {
    let size = file.seek(SeekFrom::End(0))?;
    let block = (cfg.block_size as u64).min(size);
    let first = block_at(file, 0, block)?;
    if first.is_empty() {
        return Ok(Features::Known("empty"));
    }
    let last = block_at(file, size - block, block)?;
    let (beg, end) = (first.trim_start(), last.trim_end());
    if first.len() < cfg.min_file_size_for_dl || beg.len() < cfg.min_file_size_for_dl {
        let text = std::str::from_utf8(&first).is_ok();
        return Ok(Features::Known(if text { "txt" } else { "unknown" }));
    }
    let beg = &beg[..beg.len().min(cfg.beg_size)];
    let end = &end[end.len() - end.len().min(cfg.end_size)..];
    let padding = |n: usize| std::iter::repeat_n(cfg.padding_token, n);
    let bytes = |part: &[u8]| part.iter().map(|&b| i32::from(b)).collect::<Vec<_>>();
    let mut input = bytes(beg);
    input.extend(padding(cfg.beg_size - beg.len() + cfg.end_size - end.len()));
    input.extend(bytes(end));
    Ok(Features::Model(input))
}

fn block_at(file: &mut (impl Read + Seek), at: u64, length: u64) -> Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut block = Vec::new();
    file.take(length).read_to_end(&mut block)?;
    Ok(block)
}

/// White space as Python's `bytes.strip` sees it, which counts the vertical tab.
trait Trim {
    fn trim_start(&self) -> &[u8];
    fn trim_end(&self) -> &[u8];
}

impl Trim for Vec<u8> {
    fn trim_start(&self) -> &[u8] {
        let kept = self.iter().position(|b| !is_space(*b)).unwrap_or(self.len());
        &self[kept..]
    }

    fn trim_end(&self) -> &[u8] {
        let kept = self.iter().rposition(|b| !is_space(*b)).map_or(0, |i| i + 1);
        &self[..kept]
    }
}

fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// The class with the highest score, or `None` if the score is too low to be believed.
pub fn label<'a>(scores: &[f32], cfg: &'a Config) -> Option<(&'a str, f32, bool)> {
    let (best, &score) = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    let label = cfg.target_labels_space.get(best)?;
    let needed = cfg.thresholds.get(label).copied().unwrap_or(cfg.medium_confidence_threshold);
    let reported = cfg.overwrite_map.get(label).unwrap_or(label);
    Some((reported, score, score >= needed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn config() -> Config {
        Config {
            beg_size: 6,
            mid_size: 0,
            end_size: 4,
            padding_token: 256,
            block_size: 12,
            min_file_size_for_dl: 3,
            target_labels_space: vec!["a".into(), "b".into()],
            medium_confidence_threshold: 0.5,
            thresholds: BTreeMap::from([("b".into(), 0.9)]),
            overwrite_map: BTreeMap::from([("a".into(), "other".into())]),
        }
    }

    fn of(bytes: &[u8]) -> Features {
        features(&mut Cursor::new(bytes), &config()).unwrap()
    }

    #[test]
    fn long_files_give_both_ends_without_outer_space() {
        let found = of(b"  \x0babcdefghijklmnopqrstuvwxyz\n ");
        assert_eq!(found, Features::Model(b"abcdefwxyz".iter().map(|&b| i32::from(b)).collect()));
    }

    #[test]
    fn short_files_are_padded_between_the_ends() {
        let found = of(b"abc\n");
        assert_eq!(found, Features::Model(vec![97, 98, 99, 10, 256, 256, 256, 97, 98, 99]));
    }

    #[test]
    fn files_too_short_for_the_model_are_text_or_not() {
        assert_eq!(of(b""), Features::Known("empty"));
        assert_eq!(of(b"ab"), Features::Known("txt"));
        assert_eq!(of(b" \n \n ab"), Features::Known("txt"));
        assert_eq!(of(b"\xff\xfe"), Features::Known("unknown"));
    }

    #[test]
    fn scores_below_the_threshold_are_not_believed() {
        let cfg = config();
        assert_eq!(label(&[0.6, 0.4], &cfg), Some(("other", 0.6, true)));
        assert_eq!(label(&[0.2, 0.8], &cfg), Some(("b", 0.8, false)));
        assert_eq!(label(&[], &cfg), None);
    }
}
