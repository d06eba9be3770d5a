"""Writes the files of this folder: what numpy 2.4 with ml_dtypes 0.6, and safetensors 0.8, make of dtypes that NumPy does not have."""
import ml_dtypes
import numpy as np
import safetensors.numpy

FLOATS = [[1.0, -2.5, 0.15625], [-448.0, 0.0078125, 3.0]]
INTS = [[-8, 7, -1], [0, 3, -5]]
ARRAYS = {
    "b": np.array(FLOATS).astype(ml_dtypes.bfloat16),
    "e4": np.array(FLOATS).astype(ml_dtypes.float8_e4m3fn),
    "e5": np.array(FLOATS).astype(ml_dtypes.float8_e5m2),
    "i": np.array(INTS).astype(ml_dtypes.int4),
    "u": (np.array(INTS) + 8).astype(ml_dtypes.uint4),
}
for name, array in ARRAYS.items():
    np.save(f"{name}.npy", array)
np.savez("in.npz", **ARRAYS)
# safetensors has no int4: int8 and uint8 are accepted for it.
ARRAYS["i"] = np.array(INTS).astype(np.int8)
ARRAYS["u"] = (np.array(INTS) + 8).astype(np.uint8)
safetensors.numpy.save_file(ARRAYS, "in.safetensors")
