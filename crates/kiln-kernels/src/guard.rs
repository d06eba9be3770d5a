//! When an implementation may run: conditions on the symbols of its region.

use kiln_graph::{Bindings, Dim};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// All conditions hold; without any it is `true`. Of a region's implementations the first runs whose guard holds, and the last one's is `true`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Guard(pub Vec<Condition>);

/// One condition. That a pointer or stride is aligned is one of its dimensions being a multiple.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// `dim <= bound`.
    AtMost(Dim, i64),
    /// `dim % factor == 0`, `factor > 0`.
    MultipleOf(Dim, i64),
    /// `dim == value`.
    Equal(Dim, i64),
}

impl Condition {
    /// What it is about.
    pub fn dim(&self) -> &Dim {
        match self {
            Condition::AtMost(dim, _) | Condition::MultipleOf(dim, _) | Condition::Equal(dim, _) => dim,
        }
    }

    /// The condition with other symbols: see [`Dim::substitute`].
    pub fn substitute(&self, by: &BTreeMap<String, Dim>) -> Condition {
        let dim = self.dim().substitute(by);
        match *self {
            Condition::AtMost(_, bound) => Condition::AtMost(dim, bound),
            Condition::MultipleOf(_, factor) => Condition::MultipleOf(dim, factor),
            Condition::Equal(_, value) => Condition::Equal(dim, value),
        }
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// A symbol without a value, overflow.
    pub fn holds(&self, bindings: &Bindings) -> kiln_graph::Result<bool> {
        let value = self.dim().eval(bindings)?;
        Ok(match self {
            Condition::AtMost(_, bound) => value <= *bound,
            Condition::MultipleOf(_, factor) => value.checked_rem(*factor) == Some(0),
            Condition::Equal(_, expected) => value == *expected,
        })
    }
}

impl Guard {
    /// The guard that always holds.
    pub fn always() -> Guard {
        Guard::default()
    }

    /// Whether it holds whatever the symbols are.
    pub fn is_always(&self) -> bool {
        self.0.is_empty()
    }

    /// The guard with other symbols: see [`Dim::substitute`].
    pub fn substitute(&self, by: &BTreeMap<String, Dim>) -> Guard {
        Guard(self.0.iter().map(|condition| condition.substitute(by)).collect())
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// A symbol without a value, overflow.
    pub fn holds(&self, bindings: &Bindings) -> kiln_graph::Result<bool> {
        for condition in &self.0 {
            if !condition.holds(bindings)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dim = self.dim();
        match self {
            Condition::AtMost(_, bound) => write!(f, "{dim} <= {bound}"),
            Condition::MultipleOf(_, factor) if dim.terms().count() > 1 => write!(f, "({dim}) % {factor} == 0"),
            Condition::MultipleOf(_, factor) => write!(f, "{dim} % {factor} == 0"),
            Condition::Equal(_, value) => write!(f, "{dim} == {value}"),
        }
    }
}

/// `M <= 16 and K % 8 == 0`, or `true`.
impl fmt::Display for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_always() {
            return f.write_str("true");
        }
        for (i, condition) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(" and ")?;
            }
            condition.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_say_what_they_hold_for_and_survive_the_file() {
        let (m, k) = (Dim::from("M"), Dim::from("K"));
        let guard = Guard(vec![
            Condition::AtMost(m.clone(), 16),
            Condition::MultipleOf(k.clone() + 1.into(), 8),
            Condition::Equal(m.clone() * k.clone(), 30),
        ]);
        assert_eq!(guard.to_string(), "M <= 16 and (K + 1) % 8 == 0 and K*M == 30");
        let holds = |m, k| guard.holds(&Bindings::from([("M".to_owned(), m), ("K".to_owned(), k)])).unwrap();
        assert!(holds(2, 15) && holds(-30, -1));
        assert!(!holds(30, 1) && !holds(3, 10) && !holds(1, 15));
        let here = guard.substitute(&[("M".to_owned(), Dim::from("B") * 2.into()), ("K".to_owned(), m.clone())].into());
        assert_eq!(here.to_string(), "2*B <= 16 and (M + 1) % 8 == 0 and 2*B*M == 30");
        let json = serde_json::to_string(&guard).unwrap();
        assert_eq!(serde_json::from_str::<Guard>(&json).unwrap(), guard);
        assert!(guard.holds(&Bindings::new()).is_err());
        assert!(!Condition::MultipleOf(m, 0).holds(&Bindings::from([("M".to_owned(), 0)])).unwrap());
        let always = Guard::always();
        assert!(always.is_always() && always.holds(&Bindings::new()).unwrap());
        assert_eq!((always.to_string(), serde_json::to_string(&always).unwrap()), ("true".into(), "[]".into()));
    }
}
