//! Typed SSA tensor graph: dtypes, symbolic dims, primitive ops, inference, text form, reference interpreter.
