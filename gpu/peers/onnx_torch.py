"""An ONNX model as a PyTorch module with the same operators: the peer of models that exist as ONNX only.

`convert` evaluates the model on example inputs and writes down the PyTorch calls, so shapes are those of the example and what depends on
shapes alone is a constant.
"""

import math
import operator

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import fx


class Value:
    """A tensor of the example and, if it depends on the inputs, the node that computes it."""

    def __init__(self, data, node=None):
        self.data, self.node = data, node

    def integers(self):
        assert self.node is None, "a shape depends on the values of an input"
        return [int(v) for v in self.data.flatten().tolist()]


class Converter:
    def __init__(self, device):
        self.device, self.graph, self.root, self.values = device, fx.Graph(), torch.nn.Module(), {}

    def constant(self, array):
        data = torch.tensor(array)
        # Integers are shapes and indices: they stay with the host.
        return Value(data.to(self.device) if data.is_floating_point() else data)

    def node(self, argument):
        """What stands for an argument in the graph."""
        if isinstance(argument, (list, tuple)):
            return type(argument)(self.node(a) for a in argument)
        if not isinstance(argument, Value):
            return argument
        if argument.node is None:
            name = f"constant{len(list(self.root.buffers()))}"
            self.root.register_buffer(name, argument.data)
            argument.node = self.graph.get_attr(name)
        return argument.node

    def call(self, function, *arguments, **options):
        """A PyTorch call on values: evaluated now, and written down if it depends on the inputs."""
        flat = [a for argument in arguments for a in (argument if isinstance(argument, (list, tuple)) else [argument])]
        flat += list(options.values())
        live = any(isinstance(a, Value) and a.node is not None and a.node.op != "get_attr" for a in flat)

        def data(argument):
            if isinstance(argument, (list, tuple)):
                return type(argument)(data(a) for a in argument)
            return argument.data if isinstance(argument, Value) else argument

        found = function(*map(data, arguments), **{key: data(value) for key, value in options.items()})
        if not live:
            return Value(found)
        named = {key: self.node(value) for key, value in options.items()}
        return Value(found, self.graph.call_function(function, tuple(map(self.node, arguments)), named))

    def padded(self, x, a, value):
        """The input after the explicit padding of a window, and the padding left for the window itself."""
        rank = x.data.dim() - 2
        kernel, stride = a["kernel_shape"], a.get("strides", [1] * rank)
        pads = a.get("pads", [0] * 2 * rank)
        if a.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
            total = [
                max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
                for n, s, k, d in zip(x.data.shape[2:], stride, kernel, a.get("dilations", [1] * rank))
            ]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = small + large if a["auto_pad"] == b"SAME_UPPER" else large + small
        low, high = pads[:rank], pads[rank:]
        if low == high:
            return x, low
        sides = [p for pair in reversed(list(zip(low, high))) for p in pair]
        return self.call(F.pad, x, sides, value=value), [0] * rank


ELEMENTWISE = {
    "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Div": operator.truediv, "Pow": torch.pow, "Sqrt": torch.sqrt,
    "Erf": torch.erf, "Relu": F.relu, "Sigmoid": torch.sigmoid, "MatMul": torch.matmul,
}  # fmt: skip


def lower(c, op, x, a):
    """The result of one operator with inputs `x` (None where absent) and attributes `a`."""
    if op == "Identity":
        return x[0]
    if op in ELEMENTWISE:
        return c.call(ELEMENTWISE[op], *x)
    if op == "Shape":
        return Value(torch.tensor(x[0].data.shape))
    if op == "Conv":
        source, padding = c.padded(x[0], {"kernel_shape": list(x[1].data.shape[2:]), **a}, 0.0)
        function = {3: F.conv1d, 4: F.conv2d}[source.data.dim()]
        bias = x[2] if len(x) > 2 else None
        rank = source.data.dim() - 2
        steps = {"stride": tuple(a.get("strides", [1] * rank)), "dilation": tuple(a.get("dilations", [1] * rank))}
        return c.call(function, source, x[1], bias, padding=tuple(padding), groups=a.get("group", 1), **steps)
    if op == "ConvTranspose":
        pads = a.get("pads", [0, 0, 0, 0])
        assert pads[:2] == pads[2:] and "output_shape" not in a, "an uneven transposed convolution"
        bias = x[2] if len(x) > 2 else None
        options = {"stride": tuple(a["strides"]), "padding": tuple(pads[:2]), "groups": a.get("group", 1)}
        return c.call(F.conv_transpose2d, x[0], x[1], bias, **options)
    if op == "MaxPool":
        source, padding = c.padded(x[0], a, float("-inf"))
        return c.call(F.max_pool2d, source, tuple(a["kernel_shape"]), tuple(a["strides"]), tuple(padding))
    if op == "AveragePool":
        assert not any(a.get("pads", [])), "a padded average"
        return c.call(F.avg_pool2d, x[0], tuple(a["kernel_shape"]), tuple(a["strides"]))
    if op == "GlobalAveragePool":
        return c.call(torch.mean, x[0], tuple(range(2, x[0].data.dim())), True)
    if op == "ReduceMean":
        return c.call(torch.mean, x[0], tuple(a["axes"]), bool(a.get("keepdims", 1)))
    if op == "BatchNormalization":
        scale, bias, mean, variance = x[1:5]
        return c.call(F.batch_norm, x[0], mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))
    if op == "HardSigmoid":
        scaled = c.call(operator.add, c.call(operator.mul, x[0], a.get("alpha", 0.2)), a.get("beta", 0.5))
        return c.call(torch.clamp, scaled, 0.0, 1.0)
    if op == "Softmax":
        assert a["axis"] in (-1, x[0].data.dim() - 1), "a softmax over flattened axes"
        return c.call(F.softmax, x[0], -1)
    if op == "Resize":
        scales = [float(s) for s in x[2].data.flatten()]
        assert a["mode"] == b"nearest" and scales[:2] == [1, 1] and all(s == int(s) for s in scales)
        return c.call(F.interpolate, x[0], scale_factor=tuple(scales[2:]), mode="nearest")
    if op == "Transpose":
        return c.call(torch.permute, x[0], tuple(a["perm"]))
    if op == "Reshape":
        shape = [x[0].data.shape[i] if n == 0 else n for i, n in enumerate(x[1].integers())]
        return c.call(torch.reshape, x[0], tuple(shape))
    if op == "Flatten":
        return c.call(torch.flatten, x[0], a.get("axis", 1))
    if op in ("Squeeze", "Unsqueeze"):
        axes = a["axes"] if "axes" in a else x[1].integers()
        result = x[0]
        for axis in sorted(axes, reverse=op == "Squeeze"):
            result = c.call(torch.squeeze if op == "Squeeze" else torch.unsqueeze, result, axis)
        return result
    if op == "Concat":
        return c.call(torch.cat, x, a["axis"])
    if op == "Slice":
        starts, ends = x[1].integers(), x[2].integers()
        axes = x[3].integers() if len(x) > 3 and x[3] else list(range(len(starts)))
        index = [slice(None)] * x[0].data.dim()
        for axis, start, end in zip(axes, starts, ends):
            index[axis] = slice(start, end)
        assert len(x) < 5 or set(x[4].integers()) == {1}, "a slice with steps"
        return c.call(operator.getitem, x[0], tuple(index))
    if op == "Gemm":
        assert a.get("transB", 0) == 1 and not a.get("transA", 0), "a product in another layout"
        return c.call(F.linear, *x)
    raise ValueError(f"operator {op} has no counterpart here")


def convert(path, inputs, device):
    """The module of a model for inputs (name to tensor on `device`) of these shapes. It takes them in the order given."""
    model = onnx.load(path).graph
    c = Converter(device)
    for tensor in model.initializer:
        c.values[tensor.name] = c.constant(numpy_helper.to_array(tensor).copy())
    for name, data in inputs.items():
        c.values[name] = Value(data, c.graph.placeholder("".join(ch if ch.isalnum() else "_" for ch in name)))
    with torch.no_grad():
        for node in model.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                c.values[node.output[0]] = c.constant(numpy_helper.to_array(attributes["value"]).copy())
                continue
            operands = [c.values[name] if name else None for name in node.input]
            c.values[node.output[0]] = lower(c, node.op_type, operands, attributes)
    c.graph.output(tuple(c.node(c.values[output.name]) for output in model.output))
    return fx.GraphModule(c.root, c.graph).eval()
