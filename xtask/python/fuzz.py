"""Random ONNX models and what onnxruntime makes of them.

fuzz.py FOLDER FIRST COUNT

Writes SEED.onnx, SEED.in.npz and SEED.out.npz for seeds FIRST to FIRST + COUNT - 1; without SEED.out.npz, onnxruntime refuses the model or its
inputs. Extents of inputs are symbols as often as not, and 1 as often as not. A model depends on its seed alone.
"""

import os
import sys

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FLOATS = [np.float32, np.float32, np.float32, np.float16, np.float64]
INTS = [np.int64, np.int32]


def code(dtype):
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class Model:
    """A graph that grows; `pool` has the name, shape here and dtype of every value."""

    def __init__(self, seed, outer=None):
        self.rng = outer.rng if outer else np.random.default_rng(seed)
        self.prefix = f"{outer.prefix}b{outer.count()}_" if outer else "v"
        self.pool = list(outer.pool) if outer else []
        self.nodes, self.inputs, self.constants, self.feeds = [], [], [], {}
        self.symbols, self.counter = {}, 0

    def count(self):
        self.counter += 1
        return self.counter

    def choose(self, items):
        return items[int(self.rng.integers(len(items)))]

    def flip(self):
        return bool(self.rng.integers(2))

    def data(self, shape, dtype):
        if dtype == np.bool_:
            return self.rng.integers(0, 2, size=shape).astype(dtype)
        if np.issubdtype(dtype, np.integer):
            return np.asarray(self.rng.integers(-5, 6, size=shape), dtype=dtype)
        return np.asarray(self.rng.uniform(-2, 2, size=shape), dtype=dtype)

    def constant(self, array, dtype=None):
        name = f"{self.prefix}c{self.count()}"
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype=dtype), name))
        return name

    def input(self, dtype, shape):
        name = f"{self.prefix}x{self.count()}"
        dims = []
        for n in shape:
            # A symbol of its own, or one that has this value already.
            known = [s for s, v in self.symbols.items() if v == n]
            symbol = self.choose(known) if known and self.flip() else f"S{self.count()}"
            if self.flip():
                self.symbols[symbol] = n
                dims.append(symbol)
            else:
                dims.append(int(n))
        self.inputs.append(helper.make_tensor_value_info(name, code(dtype), dims))
        self.feeds[name] = self.data(shape, dtype)
        self.pool.append((name, tuple(shape), np.dtype(dtype)))

    def emit(self, op, inputs, shape, dtype, **attributes):
        name = f"{self.prefix}{self.count()}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.pool.append((name, tuple(int(n) for n in shape), np.dtype(dtype)))
        return self.pool[-1]

    def pick(self, accept=lambda v: True):
        # Newer values more often, or graphs stay shallow.
        fit = [v for v in self.pool if accept(v)]
        if not fit:
            raise LookupError
        return self.choose(fit[-5:] if self.flip() else fit)

    def meet(self, a):
        """A value that broadcasts with `a`."""

        def fits(v):
            try:
                np.broadcast_shapes(a[1], v[1])
            except ValueError:
                return False
            return v[2] == a[2]

        return self.pick(fits)


def is_float(v):
    return np.issubdtype(v[2], np.floating)


def is_number(v):
    return v[2] != np.bool_


def has_axes(n):
    return lambda v: len(v[1]) >= n and is_float(v)


def axis_of(m, v):
    return int(m.rng.integers(len(v[1])))


def unary(m):
    x = m.pick(is_float)
    op = m.choose(["Neg", "Abs", "Tanh", "Sigmoid", "Relu", "Exp", "Erf", "Floor", "Sign", "Softplus", "Sin", "HardSwish", "Identity"])
    m.emit(op, [x[0]], x[1], x[2])


def binary(m):
    a = m.pick(is_number)
    b = m.meet(a)
    op = m.choose(["Add", "Sub", "Mul", "Min", "Max"] + (["Div"] if is_float(a) else []))
    m.emit(op, [a[0], b[0]], np.broadcast_shapes(a[1], b[1]), a[2])


def where(m):
    a = m.pick(is_number)
    b = m.meet(a)
    shape = np.broadcast_shapes(a[1], b[1])
    c = m.emit(m.choose(["Less", "Greater", "Equal"]), [a[0], b[0]], shape, np.bool_)
    m.emit("Where", [c[0], a[0], b[0]], shape, a[2])


def expand(m):
    x, like = m.pick(), m.pick()
    shape = np.broadcast_shapes(x[1], like[1])
    s = m.emit("Shape", [like[0]], [len(like[1])], np.int64)
    m.emit("Expand", [x[0], s[0]], shape, x[2])


def matmul(m):
    x = m.pick(has_axes(1))
    n = int(m.rng.integers(1, 7))
    batch = [1] if m.flip() and len(x[1]) > 2 else []
    w = m.data(batch + [x[1][-1], n], x[2])
    m.emit("MatMul", [x[0], m.constant(w)], list(x[1][:-1]) + [n], x[2])


def batched(m):
    a = m.pick(has_axes(2))
    b = m.pick(lambda v: v[2] == a[2] and len(v[1]) >= 2 and v[1][-1] == a[1][-1])
    perm = list(range(len(b[1])))
    perm[-2:] = perm[:-3:-1]
    t = m.emit("Transpose", [b[0]], [b[1][i] for i in perm], b[2], perm=perm)
    shape = list(np.broadcast_shapes(a[1][:-2], b[1][:-2])) + [a[1][-2], b[1][-2]]
    m.emit("MatMul", [a[0], t[0]], shape, a[2])


def reduce(m):
    x = m.pick(has_axes(1))
    axis, keep = axis_of(m, x), m.flip()
    shape = [1 if i == axis else n for i, n in enumerate(x[1]) if keep or i != axis]
    op = m.choose(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp", "ReduceSumSquare"])
    m.emit(op, [x[0], m.constant([axis], np.int64)], shape, x[2], keepdims=int(keep))


def arg(m):
    x = m.pick(has_axes(1))
    axis = axis_of(m, x)
    m.emit(m.choose(["ArgMax", "ArgMin"]), [x[0]], [n for i, n in enumerate(x[1]) if i != axis], np.int64, axis=axis, keepdims=0)


def along(m):
    x = m.pick(has_axes(1))
    m.emit(m.choose(["Softmax", "LogSoftmax"]), [x[0]], x[1], x[2], axis=axis_of(m, x))


def norm(m):
    x = m.pick(has_axes(1))
    scale = m.constant(m.data([x[1][-1]], x[2]))
    m.emit("LayerNormalization", [x[0], scale], x[1], x[2], axis=-1)


def transpose(m):
    x = m.pick()
    perm = [int(i) for i in m.rng.permutation(len(x[1]))]
    m.emit("Transpose", [x[0]], [x[1][i] for i in perm], x[2], perm=perm)


def reshape(m):
    x = m.pick()
    flat, one = [int(np.prod(x[1]))], [1] + list(x[1])
    shape, target = (flat, [-1]) if m.flip() or not x[1] else (one, [1, -1] + list(x[1][1:]))
    m.emit("Reshape", [x[0], m.constant(target, np.int64)], shape, x[2])


def squeeze(m):
    x = m.pick(lambda v: 1 in v[1])
    axis = list(x[1]).index(1)
    m.emit("Squeeze", [x[0], m.constant([axis], np.int64)], [n for i, n in enumerate(x[1]) if i != axis], x[2])


def unsqueeze(m):
    x = m.pick()
    axis = int(m.rng.integers(len(x[1]) + 1))
    m.emit("Unsqueeze", [x[0], m.constant([axis], np.int64)], list(x[1][:axis]) + [1] + list(x[1][axis:]), x[2])


def concat(m):
    x = m.pick(lambda v: len(v[1]) >= 1)
    axis = axis_of(m, x)
    rest = lambda v: [n for i, n in enumerate(v[1]) if i != axis]
    y = m.pick(lambda v: v[2] == x[2] and len(v[1]) == len(x[1]) and rest(v) == rest(x))
    shape = list(x[1])
    shape[axis] += y[1][axis]
    m.emit("Concat", [x[0], y[0]], shape, x[2], axis=axis)


def cut(m):
    x = m.pick(lambda v: len(v[1]) >= 1)
    axis = axis_of(m, x)
    n = x[1][axis]
    start, end = int(m.rng.integers(-n, n)), int(m.rng.integers(-n, 2 * n + 1))
    step = int(m.choose([1, 1, 2, -1]))
    taken = len(range(n)[start:end:step])
    if taken == 0:
        raise LookupError
    bounds = [m.constant([i], np.int64) for i in (start, end, axis, step)]
    m.emit("Slice", [x[0]] + bounds, [taken if i == axis else d for i, d in enumerate(x[1])], x[2])


def pad(m):
    x = m.pick(has_axes(1))
    mode = m.choose(["constant", "edge", "reflect"])
    most = min(x[1]) - 1 if mode == "reflect" else 3
    if most < 1:
        raise LookupError
    low, high = (m.rng.integers(0, most + 1, size=len(x[1])) for _ in range(2))
    pads = m.constant(np.concatenate([low, high]), np.int64)
    fill = [m.constant(m.data([], x[2]))] if mode == "constant" else []
    m.emit("Pad", [x[0], pads] + fill, np.asarray(x[1]) + low + high, x[2], mode=mode)


def gather(m):
    x = m.pick(lambda v: len(v[1]) >= 1)
    axis = axis_of(m, x)
    n = x[1][axis]
    index = m.rng.integers(-n, n, size=[int(d) for d in m.rng.integers(1, 4, size=int(m.rng.integers(0, 3)))])
    shape = list(x[1][:axis]) + list(np.shape(index)) + list(x[1][axis + 1 :])
    m.emit("Gather", [x[0], m.constant(index, np.int64)], shape, x[2], axis=axis)


def scan_sum(m):
    x = m.pick(has_axes(1))
    axis = m.constant(axis_of(m, x), np.int64)
    m.emit("CumSum", [x[0], axis], x[1], x[2], exclusive=int(m.flip()), reverse=int(m.flip()))


def top(m):
    x = m.pick(has_axes(1))
    k = int(m.rng.integers(1, x[1][-1] + 1))
    names = [f"{m.prefix}{m.count()}" for _ in range(2)]
    m.nodes.append(helper.make_node("TopK", [x[0], m.constant([k], np.int64)], names, axis=-1, largest=int(m.flip())))
    m.pool.append((names[0], x[1][:-1] + (k,), x[2]))


def cast(m):
    x = m.pick(is_float)
    m.emit("Cast", [x[0]], x[1], np.float32, to=TensorProto.FLOAT)


def conv(m):
    x = m.pick(lambda v: len(v[1]) == 3 and v[2] == np.float32)
    kernel, stride, dilation = (int(m.rng.integers(1, 4)) for _ in range(3))
    before, after = (int(m.rng.integers(0, 3)) for _ in range(2))
    span = (kernel - 1) * dilation + 1
    length = (x[1][2] + before + after - span) // stride + 1
    if length < 1:
        raise LookupError
    out = int(m.rng.integers(1, 6))
    w = m.constant(m.data([out, x[1][1], kernel], x[2]))
    m.emit("Conv", [x[0], w], [x[1][0], out, length], x[2], strides=[stride], dilations=[dilation], pads=[before, after])


def pool(m):
    x = m.pick(lambda v: len(v[1]) == 3 and v[2] == np.float32)
    kernel, stride = (int(m.rng.integers(1, 4)) for _ in range(2))
    length = (x[1][2] - kernel) // stride + 1
    if length < 1:
        raise LookupError
    op = m.choose(["MaxPool", "AveragePool"])
    m.emit(op, [x[0]], [x[1][0], x[1][1], length], x[2], kernel_shape=[kernel], strides=[stride])


def resize(m):
    x = m.pick(lambda v: len(v[1]) == 3 and v[2] == np.float32)
    scale = m.choose([0.5, 0.7, 1.5, 2.0, 2.6])
    length = int(np.floor(np.float32(x[1][2]) * np.float32(scale)))
    if length < 1:
        raise LookupError
    mode = m.choose(["nearest", "linear"])
    scales = m.constant([1, 1, scale], np.float32)
    place = m.choose(["half_pixel", "asymmetric", "pytorch_half_pixel"])
    m.emit("Resize", [x[0], "", scales], [x[1][0], x[1][1], length], x[2], mode=mode, coordinate_transformation_mode=place)


def body(m, grow, extra, results):
    """A subgraph of a few ops that ends in `results(inner)`."""
    inner = Model(0, m)
    inputs = [helper.make_tensor_value_info(n, code(d), s) for n, d, s in extra]
    for _ in range(2):
        attempt(inner, grow)
    outputs = [helper.make_tensor_value_info(name, code(dtype), None) for name, _, dtype in results(inner)]
    return helper.make_graph(inner.nodes, f"{inner.prefix}g", inputs, outputs, inner.constants)


def branch(m):
    x = m.pick(is_float)
    y = m.meet(x)
    shape = np.broadcast_shapes(x[1], y[1])
    most = m.emit("ReduceMax", [x[0]], [], x[2], keepdims=0)
    limit = m.constant(m.data([], x[2]))
    cond = m.emit("Greater", [most[0], limit], [], np.bool_)
    sides = [body(m, SIMPLE, [], lambda inner, op=op: [inner.emit(op, [x[0], y[0]], shape, x[2])]) for op in ("Add", "Mul")]
    m.emit("If", [cond[0]], shape, x[2], then_branch=sides[0], else_branch=sides[1])


def loop(m):
    x = m.pick(is_float)
    y = m.pick(lambda v: v[2] == x[2] and broadcasts(v[1], x[1]))
    i, go, state = (f"{m.prefix}{n}{m.count()}" for n in ("i", "go", "s"))

    def results(inner):
        kept = inner.emit("Identity", [go], [], np.bool_)
        scaled = inner.emit("Tanh", [state], x[1], x[2])
        new = inner.emit("Add", [scaled[0], y[0]], x[1], x[2])
        return [kept, new]

    extra = [(i, np.int64, []), (go, np.bool_, []), (state, x[2], [None] * len(x[1]))]
    trips, on = m.constant(int(m.rng.integers(0, 4)), np.int64), m.constant(True, np.bool_)
    m.emit("Loop", [trips, on, x[0]], x[1], x[2], body=body(m, SIMPLE, extra, results))


def broadcasts(small, large):
    try:
        return np.broadcast_shapes(small, large) == tuple(large)
    except ValueError:
        return False


SIMPLE = [unary, binary, binary, reduce, transpose, unsqueeze]
ALL = [
    *[unary, binary, binary, binary, where, expand, matmul, batched, reduce, arg, along, norm, transpose, reshape, squeeze],
    *[unsqueeze, concat, cut, pad, gather, scan_sum, top, cast, conv, pool, resize, branch, loop],
]


def attempt(m, kinds):
    try:
        m.choose(kinds)(m)
    except (LookupError, ValueError):
        return  # What it would need is not there.


def make(seed):
    m = Model(seed)
    dtype = m.choose(FLOATS)
    extents = [1, 1, int(m.rng.integers(2, 6)), int(m.rng.integers(2, 9))]
    for i in range(int(m.rng.integers(2, 5))):
        shape = [m.choose(extents) for _ in range(int(m.rng.integers(0, 5)) if i else 3)]
        m.input(m.choose(INTS) if i == 3 else dtype, shape)
    first = len(m.pool)
    for _ in range(40):
        if len(m.pool) >= first + 8 or any(np.prod(v[1]) > 20000 for v in m.pool):
            break
        attempt(m, ALL)
    ends = m.pool[first:][-3:] or m.pool
    outputs = [m.emit("Identity", [v[0]], v[1], v[2]) for v in ends]
    outputs = [helper.make_tensor_value_info(n, code(d), None) for n, _, d in outputs]
    graph = helper.make_graph(m.nodes, f"fuzz_{seed}", m.inputs, outputs, m.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model, m.feeds


def main(folder, first, count):
    os.makedirs(folder, exist_ok=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for seed in range(int(first), int(first) + int(count)):
        model, feeds = make(seed)
        at = os.path.join(folder, str(seed))
        with open(at + ".onnx", "wb") as f:
            f.write(model.SerializeToString())
        np.savez(at + ".in.npz", **feeds)
        try:
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            names = [o.name for o in session.get_outputs()]
            np.savez(at + ".out.npz", **dict(zip(names, session.run(names, feeds))))
        except Exception as refusal:
            print(f"{seed}: onnxruntime: {str(refusal).splitlines()[0]}", file=sys.stderr)


main(*sys.argv[1:])
