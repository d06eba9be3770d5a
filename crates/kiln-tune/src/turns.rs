//! Whose turn it is: how one budget is spread over several searches.

use crate::Search;

/// Candidates of a first turn: the cost model's choice and a few alternatives.
pub const TURN: usize = 4;

/// Who has the device stays there until another may gain so many times more: to set a region up takes time.
const STAYS: f64 = 2.0;

/// One search as far as its turns go.
struct Standing {
    launches: f64,
    /// By the cost model, in seconds.
    modelled: f64,
    /// Whether it had a whole first turn, or needs none.
    opened: bool,
    attempts: usize,
    /// Seconds of a run that its next step may save.
    worth: f64,
}

/// Turns of searches: first a short one each, in the order in which they were added, then to the one from which most is expected: its time, as often
/// as it is launched, times the share of it that may be saved ([`Search::gain`]).
#[derive(Default)]
pub struct Turns {
    standings: Vec<Standing>,
    current: Option<usize>,
}

/// Somebody's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Place of the search.
    pub search: usize,
    /// Whether it is a first turn, of [`TURN`] candidates in all.
    pub first: bool,
    /// Among how many the time that is left is to be divided: those that wait for a first turn, this one among them, or else this one alone.
    pub sharers: usize,
}

impl Turns {
    /// Adds a search whose kernel is launched so many times, and takes so many seconds by the cost model.
    pub fn add(&mut self, launches: usize, modelled: f64, search: &Search) {
        let launches = launches as f64;
        self.standings.push(Standing { launches, modelled, opened: false, attempts: 0, worth: 0.0 });
        self.note(self.standings.len() - 1, search);
    }

    /// Notes where a search stands now.
    pub fn note(&mut self, at: usize, search: &Search) {
        let Some(standing) = self.standings.get_mut(at) else { return };
        let seconds = search.best().map_or(standing.modelled, |(_, best)| best);
        standing.worth = standing.launches * seconds * search.gain();
        standing.opened = standing.worth == 0.0 || search.measured().count() >= TURN;
    }

    /// Nothing more can be done for a search.
    pub fn over(&mut self, at: usize) {
        if let Some(standing) = self.standings.get_mut(at) {
            (standing.opened, standing.worth) = (true, 0.0);
        }
    }

    /// A search begins anew.
    pub fn again(&mut self, at: usize, search: &Search) {
        if let Some(standing) = self.standings.get_mut(at) {
            standing.attempts = 0;
        }
        self.note(at, search);
    }
}

impl Iterator for Turns {
    type Item = Turn;

    /// Whose turn it is; nobody's once nothing is left to be gained.
    fn next(&mut self) -> Option<Turn> {
        let waiting = || self.standings.iter().enumerate().filter(|(_, standing)| !standing.opened);
        // Who was not ready in its turn waits for the others'.
        if let Some((search, _)) = waiting().min_by_key(|(at, standing)| (standing.attempts, *at)) {
            let sharers = waiting().count();
            self.standings[search].attempts += 1;
            self.current = Some(search);
            return Some(Turn { search, first: true, sharers });
        }
        let worth = |at: usize| self.standings[at].worth;
        let most = (0..self.standings.len()).reduce(|a, b| if worth(b) > worth(a) { b } else { a })?;
        let stays = self.current.filter(|&at| worth(at) * STAYS >= worth(most));
        let search = stays.unwrap_or(most);
        self.current = Some(search);
        (worth(search) > 0.0).then_some(Turn { search, first: false, sharers: 1 })
    }
}
