//! Which of a family's Configs.

use kiln_graph::Bindings;
use kiln_kernels::families::{Built, Offer};
use miette::{IntoDiagnostic, Result, miette};
use serde_json::Value;

/// How many Configs are named where one is refused.
const NEAREST: usize = 3;

/// The first `most` whose guard holds, in their order.
pub fn all(offers: Vec<Offer>, most: usize) -> Result<Vec<(Offer, Built)>> {
    let built = offers.into_iter().map(|offer| {
        let built = offer.build().into_diagnostic()?;
        let holds = built.guard.holds(&Bindings::new()).into_diagnostic()?;
        Ok(holds.then_some((offer, built)))
    });
    built.filter_map(Result::transpose).take(most).collect()
}

/// The Config that is given.
///
/// # Errors
/// It is not in the space: the nearest that are.
pub fn given(offers: Vec<Offer>, config: &Value) -> Result<(Offer, Built)> {
    match offers.iter().position(|offer| offer.config == *config) {
        Some(i) => {
            let offer = offers.into_iter().nth(i).into_iter().collect();
            all(offer, 1)?.pop().ok_or_else(|| miette!("the Config {config} is not for these sizes"))
        }
        None => {
            let mut near: Vec<&Value> = offers.iter().map(|offer| &offer.config).collect();
            near.sort_by(|a, b| distance(a, config).total_cmp(&distance(b, config)));
            let near: Vec<String> = near.iter().take(NEAREST).map(ToString::to_string).collect();
            Err(miette!(
                help = "`--all-configs --emit json` lists all",
                "{config} is none of the {} Configs of this problem; the nearest are\n{}",
                offers.len(),
                near.join("\n")
            ))
        }
    }
}

/// How far two Configs are from each other: numbers by their ratio, since they double from one to the next.
fn distance(a: &Value, b: &Value) -> f64 {
    /// More than most numbers differ by: a field that is not there, or says something else.
    const OTHER: f64 = 4.0;
    match (a, b) {
        _ if a == b => 0.0,
        (Value::Number(a), Value::Number(b)) => {
            let size = |n: &serde_json::Number| n.as_f64().unwrap_or(0.0).abs() + 1.0;
            (size(a) / size(b)).log2().abs()
        }
        (Value::Object(a), Value::Object(b)) => {
            let fields = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            fields.map(|key| distance(a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null))).sum()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => a.iter().zip(b).map(|(a, b)| distance(a, b)).sum(),
        _ => OTHER,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn near_configs_differ_by_little_in_few_fields() {
        let wanted = json!({ "warps": 6, "tile": [64, 128], "kind": "a" });
        let all = [
            json!({ "warps": 6, "tile": [64, 128], "kind": "a" }),
            json!({ "warps": 8, "tile": [64, 128], "kind": "a" }),
            json!({ "warps": 8, "tile": [64, 256], "kind": "a" }),
            json!({ "warps": 8, "tile": [64, 128], "kind": "b" }),
            json!({ "warps": 8, "tile": [64], "kind": "b" }),
        ];
        let found: Vec<f64> = all.iter().map(|config| distance(config, &wanted)).collect();
        assert!(found[0] == 0.0 && found.is_sorted_by(|a, b| a < b), "{found:?}");
        assert_eq!(distance(&wanted, &json!({})), 12.0);
    }
}
