//! How an execution ends: all have ended and nothing is left, or none can go on; and what things are called then.

use super::super::Finding;
use super::super::barriers::Rounds;
use super::super::memory::Stamp;
use super::super::trace::{Act, NAMED};
use super::Machine;
use crate::error::Result;

impl Machine<'_, '_> {
    /// What an mbarrier is called.
    pub(super) fn barrier_name(&self, barrier: usize) -> String {
        let each = self.plan.barrier_count();
        self.within(self.plan.barrier_name(self.scene.program, barrier % each), barrier / each)
    }

    /// What a named barrier is called.
    pub(super) fn named_name(&self, id: usize) -> String {
        if id == self.meeting() {
            "of the cluster".to_owned()
        } else {
            self.within((id % NAMED).to_string(), id / NAMED)
        }
    }

    /// What the slot is called that this is a part of.
    pub(super) fn slot_name(&self, part: usize) -> String {
        let (slot, each) = (part / self.ctas, self.plan.slot_count());
        self.within(self.plan.slot_name(self.scene.program, slot % each), slot / each)
    }

    /// What is called so, of a CTA where there are several.
    fn within(&self, name: String, cta: usize) -> String {
        if self.ctas == 1 { name } else { format!("{name} of CTA {cta}") }
    }

    /// All stand, and some have not ended.
    pub(super) fn deadlock(&self) -> Result<()> {
        let mut waits: Vec<String> = vec![];
        let mut at = None;
        let (mut bytes, mut registers) = (false, false);
        for agent in &self.agents {
            let Some(event) = agent.event(self.roles) else { continue };
            at = at.or(Some((agent.role, event.stmt)));
            let found = match &event.act {
                Act::Wait { barrier, parity } => {
                    let barrier = self.barrier(agent.cta, *barrier);
                    let state = &self.barriers[barrier];
                    bytes |= state.bytes_differ();
                    let name = self.barrier_name(barrier);
                    format!("phase {} of {name} ({})", state.phase(&agent.stamp, *parity), state.describe())
                }
                Act::SetRegisters { count, .. } => {
                    registers = true;
                    format!("{count} registers a thread ({} are free in all)", self.free[agent.cta])
                }
                Act::WaitGroup { .. } => "products that other warps of its warpgroup have not started".to_owned(),
                _ => agent.stands.map_or(String::new(), |(id, round)| {
                    let Rounds { arrived, threads, .. } = &self.named[id];
                    let name = self.named_name(id);
                    format!("round {round} of named barrier {name} ({arrived} of {threads} threads)")
                }),
            };
            let role = self.roles[agent.role].name;
            let text = format!("{} waits for {found}", if role.is_empty() { "the kernel" } else { role });
            if !waits.contains(&text) {
                waits.push(text);
            }
        }
        let finding = match (registers, bytes) {
            (true, _) => Finding::RegisterCount,
            (_, true) => Finding::Bytes,
            _ => Finding::Deadlock,
        };
        let (role, stmt) = at.map_or(("", None), |(role, stmt)| (self.roles[role].name, Some(stmt)));
        self.scene.fail(finding, role, stmt, waits.join(", "))
    }

    /// All have ended: nothing may be left.
    pub(super) fn ended(&self) -> Result<()> {
        let fail = |what: String| self.scene.fail(Finding::Unfinished, "", None, what);
        for (id, rounds) in self.named.iter().enumerate() {
            if rounds.arrived > 0 {
                let (arrived, threads, name) = (rounds.arrived, rounds.threads, self.named_name(id));
                return fail(format!("{arrived} of {threads} threads have arrived at named barrier {name}"));
            }
        }
        for (i, phases) in self.barriers.iter().enumerate() {
            if !phases.is_idle() {
                return fail(format!("barrier {}, {}", self.barrier_name(i), phases.describe()));
            }
        }
        let known = |cta: usize| -> Vec<&Stamp> {
            self.agents.iter().filter(|agent| agent.cta == cta).map(|agent| &agent.stamp).collect()
        };
        let known: Vec<Vec<&Stamp>> = (0..self.ctas).map(known).collect();
        for (i, slot) in self.slots.iter().enumerate() {
            if let Some(write) = slot.unfinished(&known[i / (self.slots.len() / self.ctas)]) {
                let (name, text) = (self.slot_name(i), self.scene.text(write.stmt));
                return fail(format!("nobody waits for `{text}` to {name}"));
            }
        }
        for (i, agent) in self.agents.iter().enumerate() {
            let part = self.parts.elsewhere(i);
            let gone = |known: &Vec<&Stamp>| known.iter().all(|stamp| stamp.now[part] < agent.elsewhere);
            if known.iter().any(gone) {
                let role = self.roles[agent.role].name;
                let what = "another CTA may be gone before this is done there".to_owned();
                return self.scene.fail(Finding::Cluster, role, agent.last, what);
            }
        }
        for (i, agent) in self.agents.iter().enumerate() {
            if agent.stamp.now[self.parts.products(agent.group)] < agent.issued {
                return fail(format!(
                    "a product of group {} that role `{}` does not wait for",
                    agent.issued, self.roles[agent.role].name
                ));
            }
            if agent.stamp.now[self.parts.bulk(i)] < agent.stored {
                return fail(format!(
                    "a bulk store of group {} that role `{}` does not wait for",
                    agent.stored, self.roles[agent.role].name
                ));
            }
        }
        Ok(())
    }
}
