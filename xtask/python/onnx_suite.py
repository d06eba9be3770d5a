"""Packs the ONNX backend node tests into OUT/index.json and OUT/data.bin.

Each case has its model and, for each tensor, the dtype by Kiln's name, the shape and the little-endian bytes. A value that is
not a tensor Kiln has a dtype for (strings, sequences, optionals) gets the dtype null.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests

DTYPES = {
    TensorProto.DOUBLE: "f64",
    TensorProto.FLOAT: "f32",
    TensorProto.FLOAT16: "f16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT8E4M3FN: "f8e4m3",
    TensorProto.FLOAT8E5M2: "f8e5m2",
    TensorProto.INT64: "i64",
    TensorProto.INT32: "i32",
    TensorProto.INT16: "i16",
    TensorProto.INT8: "i8",
    TensorProto.UINT64: "u64",
    TensorProto.UINT32: "u32",
    TensorProto.UINT16: "u16",
    TensorProto.UINT8: "u8",
    TensorProto.INT4: "i4",
    TensorProto.UINT4: "u4",
    TensorProto.BOOL: "bool",
}


def main(out):
    warnings.simplefilter("ignore")
    out.mkdir(parents=True, exist_ok=True)
    index = []
    with open(out / "data.bin", "wb") as data:

        def put(content):
            at = data.tell()
            data.write(content)
            return [at, len(content)]

        def tensor(info, value):
            packed = {"name": info.name, "dtype": None}
            if value is None or isinstance(value, (list, tuple, dict)):
                return packed
            if not isinstance(value, TensorProto):
                value = numpy.asarray(value)
                if value.dtype == object or value.dtype.kind in "US":
                    return packed
                value = numpy_helper.from_array(value)
            dtype = DTYPES.get(value.data_type)
            if dtype is None:
                return packed
            if not value.raw_data:
                value = numpy_helper.from_array(numpy_helper.to_array(value))
            packed.update(dtype=dtype, shape=list(value.dims), data=put(value.raw_data))
            return packed

        for case in load_model_tests(kind="node"):
            graph = case.model.graph
            ops = [f"{n.domain}.{n.op_type}" if n.domain else n.op_type for n in graph.node]
            for inputs, outputs in case.data_sets:
                index.append(
                    {
                        "name": case.name,
                        "ops": ops,
                        "rtol": case.rtol,
                        "atol": case.atol,
                        "model": put(case.model.SerializeToString()),
                        "inputs": [tensor(i, v) for i, v in zip(graph.input, inputs)],
                        "outputs": [tensor(o, v) for o, v in zip(graph.output, outputs)],
                    }
                )
    (out / "index.json").write_text(json.dumps({"onnx": onnx.__version__, "cases": index}))


main(Path(sys.argv[1]))
