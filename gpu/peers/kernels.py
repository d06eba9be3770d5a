"""Times Kiln's kernels and PyTorch's in turn: kernels.py KERNELS_ON_GPU OUT.json [DEVICE]

Where PyTorch has several implementations (eager, torch.compile; flash, cuDNN), all are timed and the fastest counts. OUT.json is written
as it goes: what was measured is kept if a later case fails.
"""

import json
import sys
import time

import torch
import torch.nn.functional as F
from harness import DTYPES, Kiln, full_precision, integers, interleave, uniform, versions
from torch.nn.attention import SDPBackend, sdpa_kernel

BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}


def attention(backend, causal):
    def run(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return run


def cached(backend):
    def run(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q.flatten(1, 2).unsqueeze(2), k, v, enable_gqa=True).view(q.shape)

    return run


def candidates(op, dtype, s):
    """Functions by name, and what makes their operands."""
    if op == "gemm":
        m, n, k = s["m"], s["n"], s["k"]
        if dtype == torch.float8_e4m3fn:

            def scaled(x, w, of_row, of_column):
                return torch._scaled_mm(x, w.t(), of_row, of_column, out_dtype=torch.bfloat16)

            def operands():
                return (*(uniform(dtype, rows, k) for rows in (m, n)), uniform(torch.float32, m, 1), uniform(torch.float32, 1, n))

            return {"_scaled_mm": scaled}, operands
        if dtype == torch.int8:
            return {"_int_mm": lambda x, w: torch._int_mm(x, w.t())}, lambda: tuple(integers(rows, k) for rows in (m, n))
        if s["linear"]:
            return {"cuBLAS": F.linear}, lambda: (uniform(dtype, m, k), uniform(dtype, n, k))
        return {"cuBLAS": torch.matmul}, lambda: (uniform(dtype, m, k), uniform(dtype, k, n))
    if op == "attention":
        shape = (1, s["heads"], s["seq"], s["head"])
        functions = {name: attention(backend, s["causal"]) for name, backend in BACKENDS.items()}
        return functions, lambda: tuple(uniform(dtype, *shape) for _ in range(3))
    if op == "cached_attention":
        heads, group = s["kv_heads"], s["heads"] // s["kv_heads"]
        shapes = [(s["batch"], heads, rows, s["head"]) for rows in (group, s["keys"], s["keys"])]
        return {name: cached(backend) for name, backend in BACKENDS.items()}, lambda: tuple(uniform(dtype, *shape) for shape in shapes)
    if op == "conv":

        def run(x, w):
            return F.conv2d(x, w, stride=s["stride"], padding=s["kernel"] // 2)

        def make():
            x = uniform(dtype, s["n"], s["c"], s["size"], s["size"])
            w = uniform(dtype, s["out"], s["c"], s["kernel"], s["kernel"])
            return tuple(t.to(memory_format=torch.channels_last) for t in (x, w))

        return {"cuDNN": run}, make
    rows, cols = s["rows"], s["cols"]

    def x():
        return uniform(dtype, rows, cols)

    def w():
        return uniform(dtype, cols)

    if op == "softmax":
        run, make = (lambda x: F.softmax(x, -1)), lambda: (x(),)
    elif op == "layer_norm":
        run, make = (lambda x, w, b: F.layer_norm(x, (cols,), w, b, 1e-5)), lambda: (x(), w(), w())
    elif op == "rms_norm":
        run, make = (lambda x, w: F.rms_norm(x, (cols,), w, 1e-5)), lambda: (x(), w())
    elif op == "swiglu":
        run, make = (lambda gate, up: F.silu(gate) * up), lambda: (x(), x())
    else:
        raise ValueError(f"no peer for {op}")
    return {"eager": run, "compile": torch.compile(run, dynamic=False)}, make


def copy_ceiling():
    """GB/s of a large copy, counting bytes read and written."""
    source = uniform(torch.float32, 1 << 30)
    target = torch.empty_like(source)
    times = []
    for _ in range(23):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        target.copy_(source)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return 2 * source.numel() * 4 / sorted(times[3:])[10] / 1e9


def main(program, out, device="cuda:0"):
    full_precision()
    start = time.time()
    kiln = Kiln(program, device)
    listed = kiln.ask("cases")
    report = {"device": listed["device"], **versions(), "copy_gb_s": copy_ceiling(), "rows": []}
    torch.cuda.empty_cache()
    wrong = 0
    for number, case in enumerate(listed["cases"]):
        if case["op"] in ("decode", "bert", "vit"):
            continue
        began = time.time()
        functions, make = candidates(case["op"], DTYPES[case["dtype"]], case["shape"])
        row = {**case, **interleave(kiln, number, functions, make), "seconds": time.time() - began}
        wrong += "error" in row or not row.get("agrees", True)
        report["rows"].append(row)
        peers = {name: round(times["us"], 1) for name, times in row["peers"].items()}
        print(case["name"], row.get("error") or round(row["us"], 1), row.get("rel_error", "not compared"), peers, row["peer_errors"] or "", flush=True)
        with open(out, "w") as file:
            json.dump(report, file, indent=1)
    kiln.close()
    print(f"{len(report['rows'])} cases, {wrong} wrong, {time.time() - start:.0f} s; copy {report['copy_gb_s']:.0f} GB/s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
