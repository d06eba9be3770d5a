//! How alike two Configs are.

use serde_json::Value;

/// A leaf of a Config's JSON.
#[derive(Clone, Debug, PartialEq)]
enum Leaf {
    Number(f64),
    Word(String),
}

/// Configs as lists of leaves, field by field.
#[derive(Clone, Debug)]
pub struct Features {
    configs: Vec<Vec<Option<Leaf>>>,
}

/// Beyond this many doublings numbers are no more unlike.
const FARTHEST: f64 = 2.0;

impl Features {
    /// Of Configs of one family or several.
    pub fn new<'c>(configs: impl IntoIterator<Item = &'c Value>) -> Features {
        let mut fields: Vec<String> = vec![];
        let mut rows: Vec<Vec<Option<Leaf>>> = vec![];
        for config in configs {
            let mut row = vec![None; fields.len()];
            leaves(config, &mut String::new(), &mut |path, leaf| {
                let at = fields.iter().position(|field| field == path).unwrap_or_else(|| {
                    fields.push(path.to_owned());
                    fields.len() - 1
                });
                row.resize(row.len().max(at + 1), None);
                row[at] = Some(leaf);
            });
            rows.push(row);
        }
        rows.iter_mut().for_each(|row| row.resize(fields.len(), None));
        Features { configs: rows }
    }

    /// How far apart two Configs are in each field: 0 where they are equal, in doublings where both are numbers, else 1.
    pub fn apart(&self, a: usize, b: usize) -> impl Iterator<Item = f64> + '_ {
        self.configs[a].iter().zip(&self.configs[b]).map(|pair| match pair {
            (Some(Leaf::Number(a)), Some(Leaf::Number(b))) => ((1.0 + a) / (1.0 + b)).log2().abs().min(FARTHEST),
            (a, b) => f64::from(a != b),
        })
    }
}

/// Every leaf with the path to it.
fn leaves(value: &Value, path: &mut String, each: &mut impl FnMut(&str, Leaf)) {
    let length = path.len();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                path.push('.');
                path.push_str(name);
                leaves(value, path, each);
                path.truncate(length);
            }
        }
        Value::Array(values) => {
            for (i, value) in values.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                leaves(value, path, each);
                path.truncate(length);
            }
        }
        Value::Number(number) => each(path, Leaf::Number(number.as_f64().unwrap_or(0.0).abs())),
        word => each(path, Leaf::Word(word.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_compared_by_name() {
        let configs = [
            json!({"bm": 63, "swap": false, "depth": "whole"}),
            json!({"depth": {"parts": 3}, "bm": 127, "swap": false}),
            json!({"bm": 63, "swap": true, "depth": {"parts": 7}}),
        ];
        let features = Features::new(&configs);
        let apart = |a, b| features.apart(a, b).collect::<Vec<_>>();
        // bm, swap, depth, depth.parts
        assert_eq!(apart(0, 1), [1.0, 0.0, 1.0, 1.0]);
        assert_eq!(apart(1, 2), [1.0, 1.0, 0.0, 1.0]);
        assert_eq!(apart(2, 2), [0.0; 4]);
    }
}
