//! Every call into the CUDA driver and NVRTC.
