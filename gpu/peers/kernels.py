"""Times PyTorch on the shapes that `kernels_on_gpu` timed: torch_bench.py KERNELS.json OUT.json

Each case is captured many times in a row in one CUDA graph, over sets of operands that take turns and together exceed the L2 cache several
times. The time of a run is the median over 25 replays. Where several implementations exist (eager, torch.compile; flash, cuDNN), all are
timed and the fastest counts.
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

ROUND_BYTES = 256 << 20
SAMPLE_SECONDS = 4e-3
SAMPLES = 25
DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}

torch.backends.cudnn.benchmark = True


def random(dtype, *shape):
    return torch.rand(shape, device="cuda", dtype=torch.float32).mul_(2).sub_(1).to(dtype)


def measure(function, make):
    """Median seconds of `function(*make())`."""
    first = make()
    bytes_ = sum(t.numel() * t.element_size() for t in first)
    result = function(*first)
    bytes_ += result.numel() * result.element_size()
    sets = [first] + [make() for _ in range(min(256, math.ceil(ROUND_BYTES / bytes_)) - 1)]
    outputs = [torch.empty_like(result) for _ in sets]
    stream = torch.cuda.Stream()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    with torch.cuda.stream(stream):
        for _ in range(3):
            function(*first)
        stream.synchronize()
        begin.record()
        function(*first)
        end.record()
        stream.synchronize()
        once = max(begin.elapsed_time(end) * 1e-3, 1e-6)
        runs = max(1, math.ceil(SAMPLE_SECONDS / once / len(sets))) * len(sets)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for run in range(runs):
                # Kept until the set's next turn, so that results do not reuse one warm block.
                outputs[run % len(sets)] = function(*sets[run % len(sets)])
        graph.replay()
        samples = []
        for _ in range(SAMPLES):
            begin.record()
            graph.replay()
            end.record()
            stream.synchronize()
            samples.append(begin.elapsed_time(end) * 1e-3 / runs)
    del graph, outputs, sets
    return sorted(samples)[SAMPLES // 2]


def attention(backend, causal):
    def run(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return run


def compiled(function):
    return torch.compile(function, dynamic=False)


def silu_times(gate, up):
    return F.silu(gate) * up


def candidates(op, dtype, s):
    """Functions by name, and what makes their operands."""
    if op == "gemm":
        m, n, k = s["m"], s["n"], s["k"]
        if s["linear"]:
            return {"matmul": F.linear}, lambda: (random(dtype, m, k), random(dtype, n, k))
        return {"matmul": torch.matmul}, lambda: (random(dtype, m, k), random(dtype, k, n))
    if op == "attention":
        shape = (1, s["heads"], s["seq"], s["head"])
        backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
        functions = {name: attention(backend, s["causal"]) for name, backend in backends.items()}
        return functions, lambda: tuple(random(dtype, *shape) for _ in range(3))
    if op == "conv":

        def run(x, w):
            return F.conv2d(x, w, stride=s["stride"], padding=s["kernel"] // 2)

        def make():
            x = random(dtype, s["n"], s["c"], s["size"], s["size"])
            w = random(dtype, s["out"], s["c"], s["kernel"], s["kernel"])
            return tuple(t.to(memory_format=torch.channels_last) for t in (x, w))

        return {"cudnn": run}, make
    rows, cols = s["rows"], s["cols"]

    def x():
        return random(dtype, rows, cols)

    def w():
        return random(dtype, cols)

    if op == "softmax":
        run, make = (lambda x: F.softmax(x, -1)), lambda: (x(),)
    elif op == "layer_norm":
        run, make = (lambda x, w, b: F.layer_norm(x, (cols,), w, b, 1e-5)), lambda: (x(), w(), w())
    elif op == "rms_norm":
        run, make = (lambda x, w: F.rms_norm(x, (cols,), w, 1e-5)), lambda: (x(), w())
    elif op == "swiglu":
        run, make = silu_times, lambda: (x(), x())
    else:
        raise ValueError(f"no peer for {op}")
    return {"eager": run, "compile": compiled(run)}, make


def copy_ceiling():
    """GB/s of a large copy, counting bytes read and written."""
    source = random(torch.float32, 1 << 30)
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


def main():
    with open(sys.argv[1]) as file:
        rows = json.load(file)["rows"]
    start = time.time()
    report = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "gpu": torch.cuda.get_device_name(),
        "copy_gb_s": copy_ceiling(),
        "rows": [],
    }
    torch.cuda.empty_cache()
    for row in rows:
        times, errors = {}, {}
        functions, make = candidates(row["op"], DTYPES[row["dtype"]], row["shape"])
        for name, function in functions.items():
            try:
                with torch.no_grad():
                    times[name] = measure(function, make) * 1e6
            except Exception as error:  # a backend may refuse a shape: the others still count
                errors[name] = str(error)[:200]
        torch.cuda.empty_cache()
        report["rows"].append({"name": row["name"], "us": times, "errors": errors})
        print(row["name"], {k: round(v, 1) for k, v in times.items()}, errors or "", flush=True)
        # Written as it goes: what was measured is kept if a later case fails.
        with open(sys.argv[2], "w") as file:
            json.dump(report, file, indent=1)
    print(f"{len(rows)} cases, {time.time() - start:.0f} s; copy {report['copy_gb_s']:.0f} GB/s")


main()
