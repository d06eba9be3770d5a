//! A simulator that executes PTX, checks it for races and counts what it does.
