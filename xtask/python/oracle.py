"""Records what onnxruntime makes of a model on seeded random inputs.

oracle.py MODEL INPUTS.npz OUTPUTS.npz NAME=DTYPE:EXTENTS:LOW:HIGH ..

EXTENTS is like 1x3x48x96, empty for a scalar. Values are uniform in LOW..HIGH; integers include both ends.
"""

import os
import sys

import numpy
import onnxruntime

DTYPES = {"f32": numpy.float32, "i64": numpy.int64, "i32": numpy.int32}


def tensor(rng, spec):
    name, rest = spec.rsplit("=", 1)
    dtype, extents, low, high = rest.split(":")
    dtype = DTYPES[dtype]
    shape = [int(e) for e in extents.split("x")] if extents else []
    if numpy.issubdtype(dtype, numpy.integer):
        value = rng.integers(int(low), int(high), size=shape, endpoint=True)
    else:
        value = rng.uniform(float(low), float(high), size=shape)
    return name, numpy.asarray(value, dtype=dtype)


def main(model, inputs_path, outputs_path, *specs):
    rng = numpy.random.default_rng(20_260_101)
    inputs = dict(tensor(rng, spec) for spec in specs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, inputs)))
    # A recording appears under its name only when it is complete, outputs last.
    for path, arrays in ((inputs_path, inputs), (outputs_path, outputs)):
        with open(path + ".part", "wb") as part:
            numpy.savez(part, **arrays)
        os.replace(path + ".part", path)


main(*sys.argv[1:])
