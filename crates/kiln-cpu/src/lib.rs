//! CPU device: runs a Plan's Regions on rayon and a GEMM library.
