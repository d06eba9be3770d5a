//! Proves that the schedule of an asynchronous program is right, before anything is generated from it.
//!
//! Control depends on no data, so for given parameters every role is a known sequence of events (`trace`): waits, arrivals, copies, products,
//! accesses to slots. `launches` picks parameters that make every loop run 0, 1, 2.. up to more often than its stages wrap twice, with several
//! tiles a CTA. `machine` executes the events of all roles once, with a vector clock for each group of threads and for everything that runs on
//! its own (copies, products, bulk stores): two accesses to a slot that no barrier, phase or group orders are a race, whichever came first.
//!
//! One order of execution is enough. Blocking statements wait for counters that only grow (phases of mbarriers, rounds of named barriers,
//! committed groups), never for which of two things came first; which phase a wait or an arrival means follows from what its thread knows, and is
//! refused where that leaves it open. CTAs of a cluster are executed together, with slots and barriers of their own. So roles are a Kahn network: every order reaches the same events with the same order between them, and
//! a deadlock in one is a deadlock in all. (AutoMegaKernel checks counters of task graphs by the same argument.)
//!
//! What is proved, for the launches that are tried: every wait ends; arrivals and bytes of a phase are those that the barrier counts; no slot is
//! read before it is written or written while it is read; ordinary writes pass a proxy fence before asynchronous reads; registers of a product in
//! flight are left alone (`flight`), and fenced before it; named barriers have their threads; turns are passed; nothing that still uses shared
//! memory is left behind; CTAs of a cluster are there as long as others reach into them; registers that change hands exist; counters in global memory are held by one CTA at a time, each of which waits for
//! earlier ones alone, and are left zero (`counters`). What is not: values (that the right tile is in a slot is the interpreter's to
//! show), races in global memory, threads of a warp against each other. Loops and branches that depend on data are refused if they hold anything
//! of the above, for they cannot be followed.

mod barriers;
mod counters;
mod flight;
mod launches;
mod machine;
mod memory;
mod trace;

use crate::error::{Result, TileError};
use crate::interp::State;
use crate::ir::{Level, Program, Stmt, statement, verify};
use std::fmt;

/// What kind of mistake a schedule has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// Roles wait for each other for ever.
    Deadlock,
    /// Bytes that a phase expects and those that are copied differ.
    Bytes,
    /// Arrivals of a phase and the barrier's count differ.
    Arrivals,
    /// A wait or an arrival that may mean another phase.
    Phase,
    /// A slot is read that nothing has been written to.
    Unwritten,
    /// A slot is read while it is written.
    ReadEarly,
    /// A slot is written while it is read or written.
    WrittenEarly,
    /// An asynchronous access of what was written in the ordinary way, without a proxy fence between.
    ProxyFence,
    /// A product on registers that were used since the last fence for products.
    ProductFence,
    /// Registers of a product in flight are used.
    Registers,
    /// Threads that meet at a named barrier are not those that it counts.
    NamedBarrier,
    /// Something still runs, or is half done, at the end.
    Unfinished,
    /// Registers that change hands do not exist.
    RegisterCount,
    /// A slot or a barrier that the ring has not, or buffers that share bytes.
    Place,
    /// CTAs that do not hold a counter in turn.
    Counter,
    /// A CTA of the cluster that may not have begun, or may be gone; CTAs that bring parts of different boxes.
    Cluster,
    /// Control that cannot be followed.
    Control,
}

impl Finding {
    /// What to do about it.
    pub fn help(self) -> &'static str {
        match self {
            Finding::Deadlock => "let an arrival, or a copy, stand before each wait; wait for the phases in turn",
            Finding::Bytes => "expect the bytes of the copies that complete on the barrier, once a phase",
            Finding::Arrivals => "count the threads, warps or warpgroups that arrive in each phase",
            Finding::Phase => {
                "wait for the phase before on the same barrier first; flip the parity when the ring wraps"
            }
            Finding::Unwritten => "copy or store to the slot first, and wait for it",
            Finding::ReadEarly => "wait for the copy's barrier or group, then synchronise the threads that read",
            Finding::WrittenEarly => "wait until its readers have arrived, or synchronise, before it is filled again",
            Finding::ProxyFence => {
                "put `fence proxy_async` after the writes and before the barrier that the reader passes"
            }
            Finding::ProductFence => "put `fence wgmma` between the use of the registers and the product",
            Finding::Registers => "wait for the product's group first: `wait_group wgmma`",
            Finding::NamedBarrier => {
                "let the threads that it counts arrive once a round; give each use a number of its own"
            }
            Finding::Unfinished => "wait for it before the role ends",
            Finding::RegisterCount => "give up in one role what another takes",
            Finding::Place => "keep cursors below the stages; give each buffer bytes of its own",
            Finding::Counter => {
                "let each CTA await a counter before it gives it back, but the first; one CTA for each value"
            }
            Finding::Cluster => {
                "let the cluster meet (`cluster_sync`) before the first and after the last thing done or read in another CTA; \
                 share boxes that are the same in all"
            }
            Finding::Control => {
                "compute it from parameters, the grid and loop variables, or keep it free of shared memory"
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Finding::Deadlock => "deadlock",
            Finding::Bytes => "bytes of a phase",
            Finding::Arrivals => "arrivals of a phase",
            Finding::Phase => "phase of a barrier",
            Finding::Unwritten => "slot read before it is written",
            Finding::ReadEarly => "slot read while it is written",
            Finding::WrittenEarly => "slot written while it is in use",
            Finding::ProxyFence => "missing proxy fence",
            Finding::ProductFence => "missing fence before a product",
            Finding::Registers => "registers in flight",
            Finding::NamedBarrier => "named barrier",
            Finding::Unfinished => "unfinished at the end",
            Finding::RegisterCount => "register counts",
            Finding::Place => "place in shared memory",
            Finding::Counter => "counter held by several CTAs",
            Finding::Cluster => "CTAs of a cluster",
            Finding::Control => "control that cannot be followed",
        })
    }
}

/// What was tried, without a finding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Assignments of parameters; none where nothing has to be ordered.
    pub launches: usize,
    /// Events of all roles in all launches.
    pub events: usize,
}

/// Checks the schedule of a program of level [`Level::Async`].
///
/// # Errors
/// The first rule of [`verify`](verify()) that it breaks, or the first [`TileError::Schedule`].
pub fn validate(program: &Program) -> Result<Verdict> {
    verify(program)?;
    let scene = Scene { program };
    if program.level != Level::Async {
        let (kernel, place) = (program.name.clone(), "schedule".to_owned());
        let what = format!("level {}, expected {}", program.level.name(), Level::Async.name());
        return Err(TileError::Invalid { kernel, what, place, help: "run the passes first".to_owned() });
    }
    let mut verdict = Verdict::default();
    if trace::is_inert(&program.body) {
        return Ok(verdict);
    }
    scene.apart()?;
    let plan = trace::Plan::of(program)?;
    let mut undecided = None;
    for launch in launches::launches(program)? {
        let roles = match trace::roles(scene, &plan, &launch) {
            Ok(roles) => roles,
            // A launch without CTAs, whose coordinates would be divided by zero; if all are like that, control cannot be followed.
            Err(e @ TileError::Schedule { finding: Finding::Control, .. }) => {
                undecided = Some(e);
                continue;
            }
            Err(e) => return Err(e),
        };
        verdict.launches += 1;
        counters::check(scene, &launch).map_err(|e| launch.noted(program, e))?;
        verdict.events += roles.iter().map(|role| role.events.len()).sum::<usize>();
        machine::run(scene, &plan, &roles).map_err(|e| launch.noted(program, e))?;
    }
    match undecided {
        Some(e) if verdict.launches == 0 => Err(e),
        _ => Ok(verdict),
    }
}

/// The program that is looked at.
#[derive(Clone, Copy)]
struct Scene<'a> {
    program: &'a Program,
}

impl<'a> Scene<'a> {
    fn fail<T>(&self, finding: Finding, role: &str, stmt: Option<&Stmt>, what: String) -> Result<T> {
        Err(self.finding(finding, role, stmt, what))
    }

    fn finding(&self, finding: Finding, role: &str, stmt: Option<&Stmt>, what: String) -> TileError {
        let text = stmt.map(|stmt| statement(self.program, stmt));
        let place = match text {
            Some(text) if role.is_empty() => format!("`{text}`"),
            Some(text) => format!("role `{role}`, `{text}`"),
            None if role.is_empty() => "the whole kernel".to_owned(),
            None => format!("role `{role}`"),
        };
        TileError::Schedule { kernel: self.program.name.clone(), finding, what, place }
    }

    /// What a statement says, for a message about another.
    fn text(&self, stmt: &Stmt) -> String {
        statement(self.program, stmt)
    }

    fn state(&self) -> State {
        State::new(&self.program.name)
    }

    /// Buffers have bytes of their own: what shares them could not be told apart by slot.
    fn apart(&self) -> Result<()> {
        let mut places: Vec<(u32, u32, &'a str)> = vec![];
        for shared in &self.program.shared {
            let (Some(layout), Some(offset)) = (&shared.layout, shared.offset) else { continue };
            places.push((offset, offset.saturating_add(layout.total_bytes()), &shared.name));
        }
        places.sort_unstable();
        for pair in places.windows(2) {
            if let [(_, end, first), (start, _, second)] = pair
                && start < end
            {
                let what = format!("`{second}` begins at byte {start}, `{first}` ends at {end}");
                return self.fail(Finding::Place, "", None, what);
            }
        }
        Ok(())
    }
}
