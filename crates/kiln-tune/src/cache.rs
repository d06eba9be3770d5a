//! The timing cache while an engine is tuned: asked first, and told everything.

use crate::timings::Writer;
use crate::{Measured, Outcome, Record, Result, Search, Task, Times, Timings};

/// Times as the cache keeps them.
pub fn rounded(measured: Measured) -> Measured {
    match measured {
        Measured::Times(times) => Measured::Times(times.into_iter().map(|t| nanoseconds(t) as f64 * 1e-9).collect()),
        invalid => invalid,
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9).round().max(1.0) as u64
}

/// All that a timing cache knows; what was known `before` gives way to it.
pub fn known(timings: Option<&Timings>, before: Times) -> Result<Times> {
    let mut times = before;
    if let Some(own) = timings.map(Timings::load).transpose()? {
        times.damaged += own.damaged;
        own.records().for_each(|record| times.add(record.clone()));
    }
    Ok(times)
}

/// The timing cache where it is kept, and in memory.
pub struct Cache {
    writer: Option<Writer>,
    times: Times,
}

/// Winners at other shapes that are measured first.
const GUESSES: usize = 3;

impl Cache {
    /// Reads all that is known; what was known `before` gives way to it.
    pub fn open(timings: Option<&Timings>, before: Times) -> Result<Cache> {
        Ok(Cache { writer: timings.map(Timings::writer), times: known(timings, before)? })
    }

    /// What did not go as it should.
    pub fn warnings(&self) -> Vec<String> {
        match (self.times.damaged, &self.writer) {
            (0, _) | (_, None) => vec![],
            (lines, Some(writer)) => vec![format!("{}: {lines} lines are damaged and were not used", writer.timings())],
        }
    }

    fn record<'c>(&'c self, task: &Task, at: usize) -> Option<&'c Record> {
        let way = task.ways.get(at)?;
        self.times.of(&task.problem).find(|record| record.family == way.family && record.config == way.config)
    }

    /// What a candidate's code was when it was measured.
    pub fn code(&self, task: &Task, at: usize) -> Option<&str> {
        self.record(task, at).map(|record| record.code.as_str())
    }

    /// Tells a search what is known, and what won at other shapes.
    pub fn tell(&self, task: &Task, search: &mut Search) {
        for at in 0..task.ways.len() {
            match self.record(task, at).map(|record| &record.outcome) {
                Some(Outcome::Ns(times)) if !times.is_empty() => {
                    search.tell(at, Measured::Times(times.iter().map(|ns| *ns as f64 * 1e-9).collect()));
                }
                Some(Outcome::Invalid(why)) => search.tell(at, Measured::Invalid(why.clone())),
                _ => {}
            }
        }
        let place = |record: &Record| {
            task.ways.iter().position(|way| record.family == way.family && record.config == way.config)
        };
        let mut guesses: Vec<usize> = vec![];
        for guess in self.times.near(&task.problem).into_iter().filter_map(place) {
            if guesses.len() < GUESSES && !guesses.contains(&guess) {
                guesses.push(guess);
            }
        }
        search.prefer(guesses);
    }

    /// Keeps all that a search knows of some candidates, each with its code.
    pub fn keep(&mut self, task: &Task, search: &Search, candidates: &[(usize, String)]) -> Result<()> {
        let mut records = vec![];
        for (at, measured) in search.measured() {
            let Some((_, code)) = candidates.iter().find(|(other, _)| *other == at) else { continue };
            let way = &task.ways[at];
            let outcome = match measured {
                Measured::Times(times) => Outcome::Ns(times.iter().map(|t| nanoseconds(*t)).collect()),
                Measured::Invalid(why) => Outcome::Invalid(why.clone()),
            };
            let (problem, sizes, family) = (task.problem.clone(), task.subject.sizes.clone(), way.family.to_string());
            records.push(Record { problem, sizes, family, config: way.config.clone(), code: code.clone(), outcome });
        }
        self.add(records)
    }

    fn add(&mut self, records: Vec<Record>) -> Result<()> {
        if let Some(writer) = &mut self.writer {
            writer.add(&records)?;
        }
        records.into_iter().for_each(|record| self.times.add(record));
        Ok(())
    }

    /// What is known of a task's problem is of other code: nothing of it counts any more.
    pub fn forget(&mut self, task: &Task) -> Result<()> {
        let nothing = |record: &Record| Record { outcome: Outcome::Ns(vec![]), ..record.clone() };
        let records: Vec<Record> = self.times.of(&task.problem).map(nothing).collect();
        self.add(records)
    }
}
