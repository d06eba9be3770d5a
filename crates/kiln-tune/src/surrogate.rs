//! What measured Configs say about the others: a Gaussian process (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006,
//! algorithm 2.1) over the logarithm of measured over modelled time.

use crate::Features;

/// The correction of a cost model.
pub struct Surrogate<'f> {
    features: &'f Features,
    measured: Vec<usize>,
    /// Mean of the logarithms, their variance about it.
    mean: f64,
    variance: f64,
    /// The lower triangle of the covariance's Cholesky factor, row by row.
    factor: Vec<Vec<f64>>,
    /// The covariance's inverse times what was measured.
    weights: Vec<f64>,
}

/// Variance of a measurement.
const NOISE: f64 = 0.01 * 0.01;
/// Least variance of the cost model's error.
const LEAST: f64 = 0.05 * 0.05;

impl<'f> Surrogate<'f> {
    /// After measuring some Configs, each given by its place in `features` and the logarithm of its measured over its modelled time.
    pub fn new(features: &'f Features, measured: &[(usize, f64)]) -> Surrogate<'f> {
        let n = measured.len().max(1) as f64;
        let mean = measured.iter().map(|(_, error)| error).sum::<f64>() / n;
        let spread = measured.iter().map(|(_, error)| (error - mean).powi(2)).sum::<f64>() / n;
        let mut found = Surrogate {
            features,
            measured: measured.iter().map(|(at, _)| *at).collect(),
            mean,
            variance: spread.max(LEAST),
            factor: vec![],
            weights: vec![],
        };
        for (i, &at) in found.measured.iter().enumerate() {
            let mut row: Vec<f64> = found.measured[..=i].iter().map(|other| found.covariance(at, *other)).collect();
            row[i] += NOISE;
            for j in 0..=i {
                let known: f64 = (0..j).map(|k| row[k] * found.factor.get(j).map_or(row[k], |other| other[k])).sum();
                row[j] = match found.factor.get(j) {
                    Some(other) => (row[j] - known) / other[j],
                    None => (row[j] - known).max(NOISE).sqrt(),
                };
            }
            found.factor.push(row);
        }
        let centred: Vec<f64> = measured.iter().map(|(_, error)| error - mean).collect();
        let mut weights = found.forward(centred);
        for i in (0..weights.len()).rev() {
            let later: f64 = (i + 1..weights.len()).map(|j| found.factor[j][i] * weights[j]).sum();
            weights[i] = (weights[i] - later) / found.factor[i][i];
        }
        found.weights = weights;
        found
    }

    /// Half of what Configs have in common is field by field, the other half of all fields together: fields mostly act alone, but not always.
    fn covariance(&self, a: usize, b: usize) -> f64 {
        let (mut alone, mut sum, mut fields) = (0.0, 0.0, 0.0);
        for apart in self.features.apart(a, b) {
            alone += (-apart).exp();
            sum += apart;
            fields += 1.0;
        }
        let alone = if fields > 0.0 { alone / fields } else { 1.0 };
        self.variance * 0.5 * (alone + (-0.5 * sum).exp())
    }

    /// Solves for the factor.
    fn forward(&self, mut values: Vec<f64>) -> Vec<f64> {
        for (i, row) in self.factor.iter().enumerate() {
            let before: f64 = row[..i].iter().zip(&values).map(|(l, v)| l * v).sum();
            values[i] = (values[i] - before) / row[i];
        }
        values
    }

    /// Mean and standard deviation of the logarithm of measured over modelled time of a Config that was not measured.
    pub fn predict(&self, config: usize) -> (f64, f64) {
        let common: Vec<f64> = self.measured.iter().map(|at| self.covariance(config, *at)).collect();
        let mean = self.mean + common.iter().zip(&self.weights).map(|(c, w)| c * w).sum::<f64>();
        let told: f64 = self.forward(common).iter().map(|v| v * v).sum();
        (mean, (self.variance - told).max(0.0).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_measured_is_predicted_and_what_is_alike_is_near() {
        let configs: Vec<_> = (0..64).map(|i| json!({"a": 1 << (i % 8), "b": i / 8, "c": i % 2 == 0})).collect();
        let features = Features::new(&configs);
        let error = |i: usize| 0.1 * (i % 8) as f64 - 0.02 * (i / 8) as f64;
        let measured: Vec<(usize, f64)> = (0..64).filter(|i| i % 3 != 1).map(|i| (i, error(i))).collect();
        let surrogate = Surrogate::new(&features, &measured);
        for (i, expected) in &measured {
            let (mean, deviation) = surrogate.predict(*i);
            assert!((mean - expected).abs() < 0.02 && deviation < 0.02, "{i}: {mean} {deviation} {expected}");
        }
        for i in (0..64).filter(|i| i % 3 == 1) {
            let (mean, deviation) = surrogate.predict(i);
            assert!((mean - error(i)).abs() < 0.08, "{i}: {mean} {deviation}");
            assert!(deviation > 0.0 && deviation < 0.25, "{i}: {deviation}");
        }
    }

    #[test]
    fn one_measurement_moves_all_and_leaves_them_unsure() {
        let configs = [json!({"a": 1}), json!({"a": 200})];
        let features = Features::new(&configs);
        let surrogate = Surrogate::new(&features, &[(0, 0.7)]);
        let (mean, deviation) = surrogate.predict(1);
        assert!((mean - 0.7).abs() < 1e-9 && deviation > 0.03, "{mean} {deviation}");
    }
}
