//! Tile programs: IR, passes, interpreter and CUDA C printer.
