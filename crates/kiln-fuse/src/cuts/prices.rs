//! What those who make kernels say of cones. They are asked of regions in canonical form, of each once: equal layers cost what one of them does.

use super::cut::Inner;
use crate::egraph::{ClassIx, Dag};
use crate::emit::{Folder, region_graph};
use crate::{Anchor, Canonical, Kernels, Options, Price, Region, RegionId};
use kiln_graph::{Bindings, Graph};
use kiln_target::{Gpu, Target};
use std::cell::RefCell;
use std::collections::HashMap;

/// What a cone computes, and which of it are results.
type Cone = (Vec<Inner>, Vec<ClassIx>);

/// The prices of a model's cones.
pub(super) struct Prices<'a> {
    model: &'a Graph,
    maker: Option<(&'a dyn Kernels, &'a Gpu)>,
    /// Typical values of the model's symbols.
    sizes: Bindings,
    cones: RefCell<HashMap<Cone, Price>>,
    regions: RefCell<HashMap<(RegionId, Bindings), Price>>,
}

impl<'a> Prices<'a> {
    pub fn new(model: &'a Graph, options: &'a Options, sizes: Bindings) -> Prices<'a> {
        let maker = match (&options.kernels, &options.target) {
            (Some(kernels), Target::Gpu(gpu)) => Some((kernels.as_ref(), gpu)),
            _ => None,
        };
        Prices { model, maker, sizes, cones: RefCell::default(), regions: RefCell::default() }
    }

    /// Whether anybody makes kernels and says what they cost.
    pub fn asks(&self) -> bool {
        self.maker.is_some()
    }

    /// What is known of a cone as one kernel with these results.
    pub fn of(&self, dag: &Dag, inner: &[Inner], outputs: &[ClassIx], anchor: Anchor) -> Price {
        let Some((maker, gpu)) = self.maker else { return Price::Unmodelled };
        let key = (inner.to_vec(), outputs.to_vec());
        if let Some(known) = self.cones.borrow().get(&key) {
            return *known;
        }
        let price = self.region(dag, inner, outputs, anchor).map_or(Price::Unmodelled, |found| {
            let Canonical { region, symbols, .. } = found;
            let sizes = symbols.into_iter().filter_map(|(own, model)| Some((own, *self.sizes.get(&model)?))).collect();
            let ask = |sizes: &Bindings| maker.price(&region, gpu, &region.graph.symbols, sizes);
            let key = (region.identity(), sizes);
            *self.regions.borrow_mut().entry(key).or_insert_with_key(|(_, sizes)| ask(sizes))
        });
        self.cones.borrow_mut().insert(key, price);
        price
    }

    /// The region of a cone.
    pub fn region(&self, dag: &Dag, inner: &[Inner], outputs: &[ClassIx], anchor: Anchor) -> Option<Canonical> {
        let cone = region_graph(dag, inner, outputs, &[], self.model, &mut Folder::new(&self.model.weights)).ok()?;
        Some(Region::canonical(&cone.graph, anchor))
    }
}
