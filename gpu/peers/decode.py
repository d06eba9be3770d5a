"""Times Kiln and PyTorch in turn on one token through the layers of a LLaMA: decode.py KERNELS_ON_GPU OUT.json [DEVICE]

The step is the one of `benches/gpu/decode.rs`: bf16, one sequence, a cache of fixed length, no embedding table and no head. PyTorch's
layers run eagerly and through torch.compile(max-autotune), both captured in one CUDA graph, as Kiln's kernels are.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from harness import DTYPES, Kiln, full_precision, interleave, uniform, versions


def rotate(x, cos, sin):
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def layer_of(s):
    heads, kv_heads, head = s["heads"], s["kv_heads"], s["head"]
    hidden = heads * head

    def layer(x, cos, sin, keys, values, input_norm, q, k, v, o, post_norm, gate, up, down):
        normed = F.rms_norm(x, (hidden,), input_norm, 1e-5)
        queries = rotate(F.linear(normed, q).view(1, heads, 1, head), cos, sin)
        key = rotate(F.linear(normed, k).view(1, kv_heads, 1, head), cos, sin)
        value = F.linear(normed, v).view(1, kv_heads, 1, head)
        keys, values = torch.cat((keys, key), 2), torch.cat((values, value), 2)
        attended = F.scaled_dot_product_attention(queries, keys, values, enable_gqa=True)
        x = x + F.linear(attended.view(1, hidden), o)
        normed = F.rms_norm(x, (hidden,), post_norm, 1e-5)
        return x + F.linear(F.silu(F.linear(normed, gate)) * F.linear(normed, up), down), key, value

    return layer


def step(layer, layers):
    """The whole step as a function of x, cos, sin and each layer's tensors in a row."""

    def run(x, cos, sin, *tensors):
        each, new = len(tensors) // layers, []
        for i in range(layers):
            x, key, value = layer(x, cos, sin, *tensors[i * each : (i + 1) * each])
            new += [key, value]
        return (x, *new)

    return run


def operands(s, dtype):
    heads, kv_heads, head, inner = s["heads"], s["kv_heads"], s["head"], s["inner"]
    hidden = heads * head

    def linear(outputs, inputs):
        return uniform(dtype, outputs, inputs, scale=(3 / inputs) ** 0.5)

    def make():
        tensors = [uniform(dtype, 1, hidden), uniform(dtype, 1, 1, head // 2), uniform(dtype, 1, 1, head // 2)]
        for _ in range(s["layers"]):
            tensors += [uniform(dtype, 1, kv_heads, s["context"], head) for _ in range(2)]
            tensors += [uniform(dtype, hidden), linear(hidden, hidden), linear(kv_heads * head, hidden), linear(kv_heads * head, hidden)]
            tensors += [linear(hidden, hidden), uniform(dtype, hidden)]
            tensors += [linear(inner, hidden), linear(inner, hidden), linear(hidden, inner)]
        return tuple(tensors)

    return make


def main(program, out, device="cuda:0"):
    full_precision()
    kiln = Kiln(program, device)
    listed = kiln.ask("cases")
    number, case = next((i, c) for i, c in enumerate(listed["cases"]) if c["op"] == "decode")
    shape, dtype = case["shape"], DTYPES[case["dtype"]]
    make, layers = operands(shape, dtype), shape["layers"]
    eager = layer_of(shape)
    compiled = torch.compile(eager, dynamic=False, mode="max-autotune-no-cudagraphs")
    # All layers are alike: one compilation serves them.
    start = time.time()
    with torch.no_grad():
        step(compiled, 1)(*operands({**shape, "layers": 1}, dtype)())
        torch.cuda.synchronize()
    compile_s = time.time() - start
    functions = {"eager": step(eager, layers), "max-autotune": step(compiled, layers)}
    row = {**case, **interleave(kiln, number, functions, make), "compile_s": compile_s}
    kiln.close()
    with open(out, "w") as file:
        json.dump({"device": listed["device"], **versions(), "rows": [row]}, file, indent=1)
    print(json.dumps({key: value for key, value in row.items() if key != "kernels"}))
    return 1 if "error" in row or not row["peers"] else 0


sys.exit(main(*sys.argv[1:]))
