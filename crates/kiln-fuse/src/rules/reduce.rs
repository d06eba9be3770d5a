//! TODO

use super::Rule;
use crate::Result;

pub(super) fn rules() -> Result<Vec<Rule>> {
    Ok(vec![])
}
