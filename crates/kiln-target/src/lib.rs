//! What a GPU or CPU is: capacities, rates and the roofline cost model.

pub mod arch;
