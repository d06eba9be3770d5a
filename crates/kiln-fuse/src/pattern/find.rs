//! Every place of every function in a model, as cuts.
