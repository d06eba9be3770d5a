//! The passes of the tile compiler, in order: [`PASSES`].

mod alternate;
mod asynchronous;
mod bounds;
mod canonicalise;
mod cluster;
mod epilogue;
mod exchange;
mod feeds;
mod layouts;
mod loads;
pub mod machine;
mod multicast;
mod overlap;
mod pipeline;
mod raster;
mod select;
mod specialise;

pub use machine::Machine;

use crate::error::{Result, TileError};
use crate::ir::{Level, Program};

/// A pass.
pub struct Pass {
    /// Its name, one word.
    pub name: &'static str,
    /// What it does, in a line.
    pub does: &'static str,
    /// The level of what it leaves.
    pub level: Level,
    run: fn(&mut Program, &Machine) -> Result<()>,
}

impl Pass {
    /// Runs it.
    ///
    /// # Errors
    /// What the target cannot do, or the Config asks of a program that has not the shape for it.
    pub fn run(&self, program: &mut Program, machine: &Machine) -> Result<()> {
        tracing::trace_span!("pass", name = self.name).in_scope(|| (self.run)(program, machine))?;
        program.level = self.level;
        Ok(())
    }
}

/// A pass that cannot fail.
macro_rules! pass {
    ($name:literal, $level:ident, $does:literal, $run:expr) => {
        Pass { name: $name, does: $does, level: Level::$level, run: $run }
    };
}

/// All of them, in order.
pub const PASSES: [Pass; 15] = [
    pass!("canonicalise", Tile, "transposes of loads become loads, what is unused goes", |p, _| {
        canonicalise::canonicalise(p);
        Ok(())
    }),
    pass!("cluster", Tile, "the domain becomes whole clusters", |p, m| {
        cluster::cluster(p, m);
        Ok(())
    }),
    pass!("loads", Tile, "loads inside of maps whose place is known without data become loads of tiles", |p, _| {
        loads::loads(p);
        Ok(())
    }),
    pass!("bounds", Tile, "boxes that stay inside of their tensors lose their masks", |p, _| {
        bounds::bounds(p);
        Ok(())
    }),
    pass!("overlap", Tile, "a loop's last dot is delayed by an iteration", |p, _| {
        overlap::overlap(p);
        Ok(())
    }),
    pass!("raster", Scheduled, "which CTA takes which tile, in which order", |p, _| {
        raster::raster(p);
        Ok(())
    }),
    pass!("specialise", Scheduled, "a role copies, one computes, channels between them", |p, m| {
        specialise::specialise(p, m);
        Ok(())
    }),
    pass!("alternate", Scheduled, "two groups of warps compute, and take tiles in turn", |p, _| {
        alternate::alternate(p);
        Ok(())
    }),
    pass!("pipeline", Scheduled, "operands that no role copies are brought ahead", |p, m| {
        pipeline::pipeline(p, m);
        Ok(())
    }),
    pass!("select", Selected, "every dot gets an instruction", select::select),
    pass!("epilogue", Selected, "results leave through shared memory in whole boxes", |p, m| {
        epilogue::epilogue(p, m);
        Ok(())
    }),
    pass!(
        "layouts",
        LaidOut,
        "every tile and shared buffer gets a layout, conversions where they differ",
        layouts::layouts
    ),
    pass!("multicast", LaidOut, "what a cluster's CTAs load alike each brings a part of, to all", |p, m| {
        multicast::multicast(p, m);
        Ok(())
    }),
    pass!(
        "async",
        Async,
        "channels become barriers and groups, products are waited for where they are used, clusters exchange through shared memory",
        |p, _| {
            exchange::exchange(p)?;
            asynchronous::asynchronous(p);
            Ok(())
        }
    ),
    pass!("plan", Async, "shared buffers get their places", plan),
];

/// Gives every shared buffer its place.
fn plan(program: &mut Program, machine: &Machine) -> Result<()> {
    let mut end = 0u32;
    for shared in &mut program.shared {
        let Some(layout) = &shared.layout else { continue };
        let start = end.next_multiple_of(layout.alignment());
        shared.offset = Some(start);
        end = start.saturating_add(layout.total_bytes());
    }
    let limit = machine.arch().max_shared_per_block();
    if end <= limit {
        return Ok(());
    }
    Err(TileError::Unsupported {
        kernel: program.name.clone(),
        arch: machine.arch(),
        what: format!("it needs {end} bytes of shared memory a block, {limit} exist"),
        help: "use fewer stages or smaller tiles".to_owned(),
    })
}
