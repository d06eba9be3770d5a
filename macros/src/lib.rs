//! `#[kiln::model]`.
