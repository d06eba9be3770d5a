"""Times Kiln and PyTorch in turn on networks in half precision: networks.py KERNELS_ON_GPU OUT.json OPS [DEVICE]

Kiln's kernels are tuned for up to 30 s, from nothing. OPS are some of `decode`, `bert` and `vit`, with commas between. `decode` is the step of `benches/gpu/decode.rs`: bf16, one token through the layers of a
LLaMA, one sequence, a cache of fixed length, no embedding table and no head. The others are the encoders of `benches/common/nets.rs`, f16, over embedded
tokens or patches. PyTorch's layers run eagerly and through torch.compile, in its default mode and (for `decode`, whose layer is small) max-autotune; all
are captured in one CUDA graph, as Kiln's kernels are. Layers are alike: one compilation serves them.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from harness import DTYPES, Kiln, full_precision, interleave, uniform, versions


TUNE_SECONDS = 30


def rotate(x, cos, sin):
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


def decode_layer_of(s):
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


def encoder_layer_of(s, vision):
    batch, length, heads, hidden = s["batch"], s["length"], s["heads"], s["hidden"]

    def norm(x, weight, bias):
        return F.layer_norm(x, (hidden,), weight, bias, 1e-5)

    def split(x):
        return x.view(batch, length, heads, hidden // heads).transpose(1, 2)

    def attend(x, q, qb, k, kb, v, vb, o, ob):
        q, k, v = (split(F.linear(x, w, bias)) for w, bias in ((q, qb), (k, kb), (v, vb)))
        context = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch * length, hidden)
        return F.linear(context, o, ob)

    def layer(x, n1, n1b, n2, n2b, up, upb, down, downb, *projections):
        if vision:
            x = x + attend(norm(x, n1, n1b), *projections)
            return x + F.linear(F.gelu(F.linear(norm(x, n2, n2b), up, upb)), down, downb)
        x = norm(x + attend(x, *projections), n1, n1b)
        return norm(x + F.linear(F.gelu(F.linear(x, up, upb)), down, downb), n2, n2b)

    return layer


def encoder_step(layer, layers):
    """All layers as a function of x and each layer's tensors in a row."""

    def run(x, *tensors):
        each = len(tensors) // layers
        for i in range(layers):
            x = layer(x, *tensors[i * each : (i + 1) * each])
        return x

    return run


def encoder_operands(s, dtype):
    hidden, inner = s["hidden"], s["inner"]

    def linear(outputs, inputs):
        return [uniform(dtype, outputs, inputs, scale=(3 / inputs) ** 0.5), uniform(dtype, outputs)]

    def make():
        tensors = [uniform(dtype, s["batch"] * s["length"], hidden)]
        for _ in range(s["layers"]):
            tensors += [uniform(dtype, hidden) for _ in range(4)]
            tensors += linear(inner, hidden) + linear(hidden, inner)
            for _ in range(4):
                tensors += linear(hidden, hidden)
        return tuple(tensors)

    return make


def decode_step(layer, layers):
    """The whole step as a function of x, cos, sin and each layer's tensors in a row."""

    def run(x, cos, sin, *tensors):
        each, new = len(tensors) // layers, []
        for i in range(layers):
            x, key, value = layer(x, cos, sin, *tensors[i * each : (i + 1) * each])
            new += [key, value]
        return (x, *new)

    return run


def decode_operands(s, dtype):
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


def network(op):
    """How a layer, a whole run and operands of a network are made."""
    if op == "decode":
        return decode_layer_of, decode_step, decode_operands
    return lambda s: encoder_layer_of(s, op == "vit"), encoder_step, encoder_operands


def timed(kiln, number, case):
    shape, dtype, row = case["shape"], DTYPES[case["dtype"]], dict(case)
    layer_of, step, operands = network(case["op"])
    eager = layer_of(shape)
    functions = {"eager": step(eager, shape["layers"])}
    modes = ["default"] + (["max-autotune-no-cudagraphs"] if case["op"] == "decode" else [])
    for mode in modes:
        torch.compiler.reset()
        compiled = torch.compile(eager, dynamic=False, mode=mode)
        start = time.time()
        with torch.no_grad():
            step(compiled, 1)(*operands({**shape, "layers": 1}, dtype)())
            torch.cuda.synchronize()
        name = mode.removesuffix("-no-cudagraphs")
        row[f"{name}_compile_s"] = time.time() - start
        functions[name] = step(compiled, shape["layers"])
    return {**row, **interleave(kiln, number, functions, operands(shape, dtype), TUNE_SECONDS)}


def main(program, out, ops, device="cuda:0"):
    full_precision()
    kiln = Kiln(program, device)
    listed = kiln.ask("cases")
    report, wrong = {"device": listed["device"], **versions(), "rows": []}, 0
    for number, case in enumerate(listed["cases"]):
        if case["op"] not in ops.split(","):
            continue
        row = timed(kiln, number, case)
        report["rows"].append(row)
        wrong += "error" in row or not row["peers"] or not row.get("agrees", True)
        with open(out, "w") as file:
            json.dump(report, file, indent=1)
        print(json.dumps({key: value for key, value in row.items() if key != "kernels"}), flush=True)
    kiln.close()
    return 1 if wrong else 0


sys.exit(main(*sys.argv[1:]))
