//! The BERT model of `examples/text_embedding` against a plain f64 implementation.

use crate::bert::Config;
use kiln::graph::{DType, Op, Rng, Tensor, interpret};
use std::collections::BTreeMap;

fn config() -> Config {
    Config { hidden: 12, inner: 20, heads: 3, layers: 2, vocabulary: 31, positions: 9, segments: 2, eps: 1e-12 }
}

/// A matrix of rows.
type Rows = Vec<Vec<f64>>;

struct Reference<'a> {
    weights: &'a BTreeMap<String, Tensor>,
    cfg: Config,
}

impl Reference<'_> {
    fn vector(&self, name: &str) -> Vec<f64> {
        self.weights[name].to_f64_vec()
    }

    fn row(&self, name: &str, i: i64) -> Vec<f64> {
        let (i, n) = (i as usize, self.cfg.hidden);
        self.vector(name)[i * n..(i + 1) * n].to_vec()
    }

    fn dense(&self, x: &Rows, name: &str) -> Rows {
        let (w, b) = (self.vector(&format!("{name}.weight")), self.vector(&format!("{name}.bias")));
        let dot = |r: &[f64], o: usize| r.iter().zip(&w[o * r.len()..]).map(|(a, b)| a * b).sum::<f64>() + b[o];
        x.iter().map(|r| (0..b.len()).map(|o| dot(r, o)).collect()).collect()
    }

    fn norm(&self, x: Rows, name: &str) -> Rows {
        let (w, b) = (self.vector(&format!("{name}.weight")), self.vector(&format!("{name}.bias")));
        let one = |r: Vec<f64>| {
            let n = r.len() as f64;
            let mean = r.iter().sum::<f64>() / n;
            let var = r.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
            r.iter().zip(w.iter().zip(&b)).map(|(v, (w, b))| (v - mean) / (var + self.cfg.eps).sqrt() * w + b).collect()
        };
        x.into_iter().map(one).collect()
    }

    fn attention(&self, x: &Rows, mask: &[i64], name: &str) -> Rows {
        let [q, k, v] = ["query", "key", "value"].map(|p| self.dense(x, &format!("{name}.{p}")));
        let size = self.cfg.hidden / self.cfg.heads;
        let mut out = vec![vec![0.0; self.cfg.hidden]; x.len()];
        for head in 0..self.cfg.heads {
            let part = head * size..(head + 1) * size;
            for (i, out) in out.iter_mut().enumerate() {
                let score = |j: usize| {
                    let dot: f64 = q[i][part.clone()].iter().zip(&k[j][part.clone()]).map(|(a, b)| a * b).sum();
                    dot / (size as f64).sqrt()
                };
                let kept: Vec<usize> = (0..x.len()).filter(|&j| mask[j] == 1).collect();
                let weights: Vec<f64> = kept.iter().map(|&j| score(j).exp()).collect();
                let total: f64 = weights.iter().sum();
                for (d, out) in out[part.clone()].iter_mut().enumerate() {
                    *out = kept.iter().zip(&weights).map(|(&j, w)| w / total * v[j][part.start + d]).sum();
                }
            }
        }
        out
    }

    fn sentence(&self, ids: &[i64], mask: &[i64], segments: &[i64]) -> Vec<f64> {
        let embed = |(place, (&id, &segment)): (usize, (&i64, &i64))| {
            let words = self.row("embeddings.word_embeddings.weight", id);
            let places = self.row("embeddings.position_embeddings.weight", place as i64);
            let types = self.row("embeddings.token_type_embeddings.weight", segment);
            (0..words.len()).map(|i| words[i] + places[i] + types[i]).collect()
        };
        let mut h: Rows = self.norm(ids.iter().zip(segments).enumerate().map(embed).collect(), "embeddings.LayerNorm");
        let add = |a: Rows, b: Rows| -> Rows {
            a.into_iter().zip(b).map(|(a, b)| a.into_iter().zip(b).map(|(a, b)| a + b).collect()).collect()
        };
        for i in 0..self.cfg.layers {
            let name = format!("encoder.layer.{i}");
            let context = self.attention(&h, mask, &format!("{name}.attention.self"));
            let attended = self.dense(&context, &format!("{name}.attention.output.dense"));
            let x = self.norm(add(h, attended), &format!("{name}.attention.output.LayerNorm"));
            let mut inner = self.dense(&x, &format!("{name}.intermediate.dense"));
            inner.iter_mut().flatten().for_each(|v| *v = gelu(*v));
            let outer = self.dense(&inner, &format!("{name}.output.dense"));
            h = self.norm(add(x, outer), &format!("{name}.output.LayerNorm"));
        }
        let kept = mask.iter().sum::<i64>() as f64;
        let mean = |d: usize| h.iter().zip(mask).map(|(r, &m)| r[d] * m as f64).sum::<f64>() / kept;
        let mean: Vec<f64> = (0..self.cfg.hidden).map(mean).collect();
        let length = mean.iter().map(|v| v * v).sum::<f64>().sqrt();
        mean.iter().map(|v| v / length).collect()
    }
}

/// By the Taylor series of the error function, whose terms alternate: accurate for the moderate arguments of this test.
fn gelu(x: f64) -> f64 {
    let z = x / 2f64.sqrt();
    assert!(z.abs() < 4.0);
    let (mut term, mut sum) = (z, z);
    for n in 1..100 {
        term *= -z * z / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    0.5 * x * (1.0 + sum * 2.0 / std::f64::consts::PI.sqrt())
}

#[test]
fn the_model_agrees_with_a_plain_implementation() {
    let cfg = config();
    let mut graph = crate::bert::sentence::graph(&cfg).unwrap();
    for (i, node) in graph.nodes.clone().iter().enumerate() {
        if let Op::Weight { name, ty } = &node.op {
            let shape = ty.const_shape().unwrap();
            graph.weights.insert(name.clone(), Tensor::random(DType::F32, &shape, i as u64).unwrap());
        }
    }
    let mut rng = Rng::new(17);
    for (batch, length) in [(1usize, 5usize), (3, 9)] {
        let n = batch * length;
        let ids: Vec<i64> = (0..n).map(|_| rng.range(0, 30)).collect();
        let segments: Vec<i64> = (0..n).map(|_| rng.range(0, 1)).collect();
        // Rows keep a different number of tokens each.
        let mask: Vec<i64> = (0..n).map(|i| i64::from(i % length < length - i / length)).collect();
        let inputs = [&ids, &mask, &segments].map(|v| Tensor::from_slice(&[batch, length], v).unwrap());
        let found = interpret(&graph, &inputs).unwrap().swap_remove(0);
        assert_eq!(found.shape(), [batch, cfg.hidden]);
        let reference = Reference { weights: &graph.weights, cfg: cfg.clone() };
        let rows = (0..batch).map(|b| b * length..(b + 1) * length);
        let expected = rows.flat_map(|r| reference.sentence(&ids[r.clone()], &mask[r.clone()], &segments[r]));
        for (i, (f, e)) in found.to_f64_vec().into_iter().zip(expected).enumerate() {
            assert!((f - e).abs() < 1e-4, "element {i}: expected {e}, found {f}");
        }
    }
}

#[test]
fn heads_that_do_not_divide_the_width_are_an_error_of_the_build() {
    let error = crate::bert::sentence::graph(&Config { heads: 5, ..config() }).unwrap_err().to_string();
    assert!(error.contains("attention") && error.contains("element counts"), "{error}");
}
