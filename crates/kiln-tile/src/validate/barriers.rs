//! Phases of mbarriers and rounds of named barriers, as counters that only grow.

use super::Finding;
use super::memory::Stamp;

/// An mbarrier.
pub(super) struct Phases {
    /// Arrivals that end a phase.
    count: u32,
    /// Those of the phase at hand, and its bytes: expected, and copied.
    pub arrived: u32,
    pub expected: i64,
    pub copied: i64,
    gathered: Stamp,
    /// What was known at the end of each phase.
    ended: Vec<Stamp>,
    /// Waits for each phase: the part that counts them, and the number there.
    waits: Vec<Vec<(usize, u32)>>,
    /// The part that counts the phases.
    part: usize,
}

/// What is wrong.
pub(super) type Wrong = (Finding, String);

impl Phases {
    pub fn new(count: u32, part: usize, parts: usize) -> Phases {
        let gathered = Stamp::new(parts);
        Phases { count, arrived: 0, expected: 0, copied: 0, gathered, ended: vec![], waits: vec![], part }
    }

    /// Phases that have ended.
    pub fn ended(&self) -> u32 {
        self.ended.len() as u32
    }

    /// Whether no phase has begun that has not ended.
    pub fn is_idle(&self) -> bool {
        self.arrived == 0 && self.expected == 0 && self.copied == 0
    }

    pub fn bytes_differ(&self) -> bool {
        self.expected != self.copied
    }

    /// What a phase lacks.
    pub fn describe(&self) -> String {
        let mut text = format!("phase {}: {} of {} arrivals", self.ended(), self.arrived, self.count);
        if self.expected != 0 || self.copied != 0 {
            text.push_str(&format!(", {} bytes copied, {} expected", self.copied, self.expected));
        }
        text
    }

    /// Something that counts for the phase at hand; it must know that the one before has ended, else it may count for that.
    fn takes_part(&mut self, stamp: &Stamp, what: &str) -> Result<(), Wrong> {
        let (known, ended) = (stamp.now[self.part], self.ended());
        if known != ended {
            let what = format!("{what} for phase {ended} is not ordered after the end of phase {}", ended - 1);
            return Err((Finding::Phase, what));
        }
        self.gathered.join(stamp);
        Ok(())
    }

    pub fn arrive(&mut self, stamp: &Stamp, times: u32, bytes: i64) -> Result<(), Wrong> {
        self.takes_part(stamp, "the arrival")?;
        self.arrived += times;
        self.expected += bytes;
        if self.arrived > self.count {
            let what = format!("phase {}: {} arrivals, expected {}", self.ended(), self.arrived, self.count);
            return Err((Finding::Arrivals, what));
        }
        self.turn()
    }

    /// A copy that completes on it; gives the step at which it is known to have ended.
    pub fn copy(&mut self, stamp: &Stamp, bytes: i64) -> Result<u32, Wrong> {
        self.takes_part(stamp, "the copy")?;
        self.copied += bytes;
        let step = self.ended() + 1;
        if self.copied > self.expected && self.arrived == self.count {
            let what = format!("phase {}: {} bytes copied, expected {}", self.ended(), self.copied, self.expected);
            return Err((Finding::Bytes, what));
        }
        self.turn()?;
        Ok(step)
    }

    /// Ends the phase if all has come.
    fn turn(&mut self) -> Result<(), Wrong> {
        if self.arrived != self.count || self.expected != self.copied {
            return Ok(());
        }
        let ended = self.ended();
        // A wait tells phases apart by parity: none may end before those who wait for the one before have seen that.
        if let Some(before) = ended.checked_sub(1) {
            let late = |(part, step): &&(usize, u32)| self.gathered.now[*part] < *step;
            if self.waits.get(before as usize).into_iter().flatten().find(late).is_some() {
                let what = format!("phase {ended} may end before all have waited for phase {before}");
                return Err((Finding::Phase, what));
            }
        }
        self.gathered.now[self.part] = ended + 1;
        self.ended.push(self.gathered.clone());
        (self.arrived, self.expected, self.copied) = (0, 0, 0);
        Ok(())
    }

    /// Waits for the first phase of this parity that is not known to lie before the last one that has ended; whether it has ended, and then
    /// `stamp` knows what was known there. `waits` counts the agent's waits.
    pub fn wait(&mut self, stamp: &mut Stamp, parity: i128, waits: usize) -> Result<bool, Wrong> {
        // The phase before the first counts as ended, with parity 1.
        let known = i64::from(stamp.now[self.part]) - 1;
        let phase = if i128::from(known.rem_euclid(2)) == parity { known } else { known + 1 };
        let Ok(index) = usize::try_from(phase) else { return Ok(true) };
        let Some(ended) = self.ended.get(index) else { return Ok(false) };
        if self.ended.len() > index + 1 {
            let what = format!("phase {} may end before this waits for phase {index}", index + 1);
            return Err((Finding::Phase, what));
        }
        stamp.join(ended);
        stamp.now[waits] += 1;
        if self.waits.len() <= index {
            self.waits.resize(index + 1, vec![]);
        }
        self.waits[index].push((waits, stamp.now[waits]));
        Ok(true)
    }

    /// The phase that a wait stands at.
    pub fn phase(&self, stamp: &Stamp, parity: i128) -> i64 {
        let known = i64::from(stamp.now[self.part]) - 1;
        if i128::from(known.rem_euclid(2)) == parity { known } else { known + 1 }
    }
}

/// A named barrier.
pub(super) struct Rounds {
    /// Threads that have come in the round at hand, and how many are to.
    pub arrived: u32,
    pub threads: u32,
    gathered: Stamp,
    ended: Vec<Stamp>,
    part: usize,
}

impl Rounds {
    pub fn new(part: usize, parts: usize) -> Rounds {
        Rounds { arrived: 0, threads: 0, gathered: Stamp::new(parts), ended: vec![], part }
    }

    /// `count` threads come to a round of `threads`; gives its number.
    pub fn arrive(&mut self, stamp: &Stamp, count: u32, threads: u32) -> Result<usize, Wrong> {
        let round = self.ended.len();
        if stamp.now[self.part] as usize != round {
            let what = format!("the arrival for round {round} is not ordered after the end of round {}", round - 1);
            return Err((Finding::NamedBarrier, what));
        }
        if self.arrived > 0 && self.threads != threads {
            let what = format!("it counts {threads} threads, others in the same round {}", self.threads);
            return Err((Finding::NamedBarrier, what));
        }
        self.threads = threads;
        self.arrived += count;
        self.gathered.join(stamp);
        if self.arrived > threads {
            let what = format!("{} threads arrive, expected {threads}", self.arrived);
            return Err((Finding::NamedBarrier, what));
        }
        if self.arrived == threads {
            self.gathered.now[self.part] = round as u32 + 1;
            self.ended.push(self.gathered.clone());
            self.arrived = 0;
        }
        Ok(round)
    }

    /// Whether a round has ended; then `stamp` knows what was known there.
    pub fn wait(&self, stamp: &mut Stamp, round: usize) -> bool {
        let ended = self.ended.get(round);
        ended.into_iter().for_each(|ended| stamp.join(ended));
        ended.is_some()
    }
}
