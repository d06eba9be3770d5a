//! Kernel families: a Region becomes tile programs with Config spaces.
