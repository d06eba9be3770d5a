//! Other weights for an engine that stays as it is: which it takes, and how its constants come of them.

use crate::build::{hash_with_weights, range, structure};
use crate::engine::{Engine, Port};
use crate::validate::{self, weight_names};
use crate::{Error, Result};
use kiln_graph::{Graph, Op, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How an engine's constants come of its model's weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Refit {
    /// BLAKE3 of the model without the data of its weights: [`crate::structure`].
    pub structure: String,
    /// The model's weights.
    pub parameters: Vec<Port>,
    /// For each constant that folding made, the graph over those that makes it; constants of other names are the model's weights, or packed forms
    /// of constants, which kernels say how to make.
    pub recipes: BTreeMap<String, Graph>,
    /// Within what the integers of constants lie by which GPU kernels take elements: what those leave out checks by.
    pub ranges: BTreeMap<String, (i64, i64)>,
}

impl Refit {
    /// Checks what was read from a file: that it can be replayed, and is of the parameters.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let mut names = BTreeMap::new();
        for Port { name, ty } in &self.parameters {
            if ty.const_shape().is_none() {
                return Err(format!("the model's weight `{name}` is {ty}; expected numbers for extents"));
            }
            if names.insert(name, ty).is_some() {
                return Err(format!("the model's weight `{name}` occurs twice"));
            }
        }
        for (name, recipe) in &self.recipes {
            let wrong = |message: String| Err(format!("how the constant `{name}` is made: {message}"));
            if let Err(e) = kiln_graph::verify(recipe) {
                return wrong(e.to_string());
            }
            if recipe.inputs.len() + recipe.outputs.len() != 1 || recipe.outputs.is_empty() {
                return wrong("expected one result, and no inputs".into());
            }
            for node in &recipe.nodes {
                match &node.op {
                    Op::If { .. } | Op::Loop { .. } => return wrong("it has control flow".into()),
                    Op::Weight { name, ty } if names.get(name) != Some(&ty) => {
                        return wrong(format!("it reads {ty} `{name}`, which is no weight of the model"));
                    }
                    _ => {}
                }
            }
            if let Some(value) = recipe.values.iter().find(|value| value.ty.const_shape().is_none()) {
                return wrong(format!("it has a value {}, whose shape is not known", value.ty));
            }
        }
        Ok(())
    }

    /// An error unless the weights are the parameters, all of them; others are left alone.
    pub(crate) fn expect(&self, weights: &BTreeMap<String, Tensor>) -> Result<()> {
        for Port { name, ty } in &self.parameters {
            let found = match weights.get(name) {
                Some(t) if t.dtype() == ty.dtype && ty.const_shape().as_deref() == Some(t.shape()) => continue,
                Some(tensor) => format!("{}{:?}", tensor.dtype(), tensor.shape()),
                None => {
                    let others: Vec<String> = weights.keys().take(3).map(|name| format!("`{name}`")).collect();
                    let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
                    format!("none of that name among {}, such as {others}", weights.len())
                }
            };
            return Err(Error::Weight { name: name.clone(), expected: ty.to_string(), found });
        }
        Ok(())
    }

    /// A constant of a plan.
    fn constant(&self, name: &str, weights: &BTreeMap<String, Tensor>) -> Result<Tensor> {
        let Some(recipe) = self.recipes.get(name) else {
            let own = self.parameters.iter().any(|parameter| parameter.name == name);
            return weights.get(name).filter(|_| own).cloned().ok_or_else(|| Error::Weight {
                name: name.to_owned(),
                expected: "a constant that is made of the model's weights".into(),
                found: "one of a branch or a loop's body with weights of its own, which cannot be replayed".into(),
            });
        };
        // The interpreter computes in f64; a file may say anything of the values on the way.
        for value in &recipe.values {
            let elements =
                value.ty.const_shape().and_then(|shape| shape.iter().try_fold(8usize, |n, &d| n.checked_mul(d)));
            let bytes = elements.and_then(|n| n.checked_mul(3)).unwrap_or(usize::MAX);
            kiln_host::check_memory(bytes)
                .map_err(|_| Error::OutOfMemory { device: format!("making the constant `{name}`"), bytes })?;
        }
        Ok(kiln_fuse::replay(recipe, weights)?)
    }
}

impl Engine {
    /// This engine with other weights: the plans and kernels that it has, constants and packed forms made of the weights as its build made them. With
    /// the weights that it was built from it is what it was before. Tensors of other names are left alone.
    ///
    /// # Errors
    /// [`Error::Weight`], which names a weight that is missing, of another type or shape, or of integers that kernels are not made for; a constant that
    /// cannot be made again.
    pub fn refit(&self, weights: &BTreeMap<String, Tensor>) -> Result<Engine> {
        let _span = tracing::info_span!("refit", model = self.model).entered();
        self.refit.expect(weights)?;
        let own = |port: &Port| Some((port.name.clone(), weights.get(&port.name)?.clone()));
        let weights: BTreeMap<String, Tensor> = self.refit.parameters.iter().filter_map(own).collect();
        let mut made = BTreeMap::new();
        let wanted: BTreeSet<&str> = self.targets.iter().flat_map(|target| weight_names(&target.plan)).collect();
        for name in wanted {
            let constant = self.refit.constant(name, &weights)?;
            self.within(name, &constant)?;
            made.insert(name.to_owned(), constant);
        }
        for target in &self.targets {
            validate::weights(&target.plan, &made)
                .map_err(|message| Error::Corrupt { path: self.path.clone(), message })?;
        }
        let graph_hash = hash_with_weights(&self.refit.structure, &weights);
        let sources = if self.sources.is_empty() { BTreeMap::new() } else { weights };
        let mut engine = Engine { weights: made, sources, stripped: false, graph_hash, ..self.clone() };
        engine.pack_weights()?;
        Ok(engine)
    }

    /// [`Engine::refit`] with the weights of a model that is the engine's but for those.
    ///
    /// # Errors
    /// As for `refit`; [`Error::Mismatch`] for another model: literals are part of kernels.
    pub fn refit_from(&self, model: &Graph) -> Result<Engine> {
        self.refit.expect(&model.weights)?;
        let found = structure(model);
        if found != self.refit.structure {
            return Err(Error::Mismatch {
                path: self.path.clone(),
                field: "model",
                expected: self.refit.structure.clone(),
                found,
                fix: "its weights fit, but its ops, attributes or literals are others: build it".into(),
            });
        }
        self.refit(&model.weights)
    }

    /// Takes the weights out, for [`Engine::refit`] to give back: such an engine is small, and runs nothing. `model` are the weights that it was built from.
    ///
    /// # Errors
    /// A constant that cannot be made again of them, bit by bit.
    pub fn strip_weights(&mut self, model: &BTreeMap<String, Tensor>) -> Result<()> {
        let again = self.refit(model)?;
        let differs = self.weights.iter().find(|(name, tensor)| again.weights.get(*name) != Some(tensor));
        if let Some((name, tensor)) = differs {
            let expected = format!("{}{:?} as it was built", tensor.dtype(), tensor.shape());
            let found = "other bytes when it is made again".to_owned();
            return Err(Error::Weight { name: name.clone(), expected, found });
        }
        self.weights.clear();
        self.sources.clear();
        self.stripped = true;
        Ok(())
    }

    /// An error for an engine without its weights.
    pub(crate) fn expect_weights(&self) -> Result<()> {
        if !self.stripped {
            return Ok(());
        }
        let count = self.refit.parameters.len();
        Err(Error::Mismatch {
            path: self.path.clone(),
            field: "weights",
            expected: format!("{count} tensors"),
            found: "none: they were stripped".into(),
            fix: "give it its weights with `kiln refit ENGINE WEIGHTS -o OUT`".into(),
        })
    }

    fn within(&self, name: &str, constant: &Tensor) -> Result<()> {
        let Some(&(low, high)) = self.refit.ranges.get(name) else { return Ok(()) };
        let found = match range(constant) {
            Some((least, most)) if low <= least && most <= high => return Ok(()),
            Some((least, most)) => format!("{least}..={most}; build the model again"),
            None if constant.is_empty() => return Ok(()),
            None => "others; build the model again".to_owned(),
        };
        let expected = format!("indices within {low}..={high}, for which kernels leave out checks");
        Err(Error::Weight { name: name.to_owned(), expected, found })
    }
}
