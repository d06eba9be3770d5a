//! The text in an image, by PP-OCR: a detector finds lines, a recognizer reads them.
//!
//! ```text
//! cargo run --release --example ocr -- photo.png
//! ```

mod boxes;
mod lines;
mod picture;
#[path = "../shared/mod.rs"]
mod shared;

use boxes::Map;
use kiln::{Model, Session};
use picture::Picture;
use shared::{Outcome, case, floats, run};

const PACKAGE: &str = "rapidocr-3.10.0";

fn main() -> Outcome<()> {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        return Err("usage: ocr IMAGE..".into());
    }
    let reader = case(PACKAGE, "rapidocr/models/PP-OCRv6_rec_small.onnx")?;
    let metadata = kiln::import::onnx::metadata(&reader)?;
    let dictionary = metadata.get("character").ok_or("the recognizer has no dictionary")?;
    let alphabet = lines::alphabet(dictionary);
    let detector = Model::load(case(PACKAGE, "rapidocr/models/PP-OCRv6_det_small.onnx")?)?;
    let mut detector = kiln::jit(&detector, "cpu")?;
    let mut reader = kiln::jit(&Model::load(&reader)?, "cpu")?;
    for file in &files {
        let image = image::open(file).map_err(|e| format!("{file}: {e}"))?.to_rgba8();
        let picture = Picture::from_rgba(image.width() as usize, &image);
        for rect in detect(&mut detector, &picture)? {
            let line = lines::fitted(&lines::crop(&picture, &rect));
            let scores = run(&mut reader, &[("x", &line.tensor(line.width.max(lines::WIDTH))?)])?;
            if scores.shape().last() != Some(&alphabet.len()) {
                let (classes, names) = (scores.shape(), alphabet.len());
                return Err(format!("the recognizer gives {classes:?} for an alphabet of {names}").into());
            }
            let (text, score) = lines::decode(&floats(&scores)?, &alphabet);
            if score >= 0.5 {
                println!("{text}");
            }
        }
    }
    Ok(())
}

/// Boxes around the lines of text. The detector wants multiples of 32 and a shorter side of at least 736; the longer side is kept to what
/// memory allows.
fn detect(detector: &mut Session, picture: &Picture) -> Outcome<Vec<boxes::Rect>> {
    const STEP: f32 = 32.0;
    const SHORTER: f32 = 736.0;
    const LONGER: f32 = 2000.0;
    let (short, long) = (picture.height.min(picture.width), picture.height.max(picture.width));
    let ratio = (SHORTER / short as f32).max(1.0).min(LONGER / long as f32);
    let fit = |n: usize| ((n as f32 * ratio / STEP).round() * STEP).max(STEP) as usize;
    let resized = picture.resized(fit(picture.height), fit(picture.width));
    let found = run(detector, &[("x", &resized.tensor(resized.width)?)])?;
    let &[_, _, height, width] = found.shape() else {
        return Err(format!("the detector gives {:?}, not a map", found.shape()).into());
    };
    let data = floats(&found)?;
    Ok(boxes::boxes(&Map { height, width, data: &data[..height * width] }, picture.height, picture.width))
}
