"""What the timing scripts share: Kiln at the other end of a pipe, samples of PyTorch made the same way, and their alternation.

A sample of either is one CUDA graph of many runs in a row, over sets of operands that take turns and together exceed the L2 cache several
times. Before each sample 256 MiB are filled, which evicts what the cache holds and wakes the GPU for the process that samples next; then
the device is idle, and the wall clock runs from the graph's launch until the device is idle again.
"""

import json
import math
import subprocess
import time

import torch

ROUND_BYTES = 256 << 20
SAMPLE_SECONDS = 2.5e-3
SAMPLES = 20
DTYPES = {
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "f32": torch.float32,
    "f8e4m3": torch.float8_e4m3fn,
    "i8": torch.int8,
}


def full_precision():
    """Kiln multiplies f32 by f32 with fused multiply-adds of f32 unless it is asked for tf32: PyTorch must too."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True


def versions():
    return {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}


def uniform(dtype, *shape, scale=1.0):
    """Uniform in [-scale, scale)."""
    return torch.rand(shape, device="cuda", dtype=torch.float32).mul_(2 * scale).sub_(scale).to(dtype)


def integers(*shape):
    """Uniform over all values of int8."""
    return torch.randint(-128, 128, shape, device="cuda", dtype=torch.int8)


class Kiln:
    """`kernels_on_gpu serve`."""

    def __init__(self, program, device):
        self.process = subprocess.Popen([program, "serve", device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request):
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"kernels_on_gpu ended with status {self.process.wait()} at `{request}`")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Peer:
    """Samples of `function(*make())`."""

    def __init__(self, function, make):
        first = make()
        result = function(*first)
        tensors = [*first, *(result if isinstance(result, tuple) else (result,))]
        bytes_ = sum(t.numel() * t.element_size() for t in tensors)
        self.sets = [first] + [make() for _ in range(math.ceil(ROUND_BYTES / bytes_) - 1)]
        self.flush = torch.empty(ROUND_BYTES, dtype=torch.uint8, device="cuda")
        self.stream = torch.cuda.Stream()
        # What the default stream has queued must be done before this one uses it.
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            once = min(self.timed(lambda: function(*first)) for _ in range(3))
            self.runs = math.ceil(SAMPLE_SECONDS / once / len(self.sets)) * len(self.sets)
            self.graph = torch.cuda.CUDAGraph()
            self.results = [None] * len(self.sets)
            with torch.cuda.graph(self.graph, stream=self.stream):
                for run in range(self.runs):
                    # Kept until the set's next turn, so that results do not reuse one warm block.
                    self.results[run % len(self.sets)] = function(*self.sets[run % len(self.sets)])
        self.sample()

    def timed(self, work):
        self.stream.synchronize()
        start = time.perf_counter()
        work()
        self.stream.synchronize()
        return time.perf_counter() - start

    def sample(self):
        """Seconds of one run."""
        with torch.cuda.stream(self.stream):
            self.flush.zero_()
            return self.timed(self.graph.replay) / self.runs


def summary(samples):
    """Median, least and greatest microseconds."""
    ordered = sorted(1e6 * s for s in samples)
    return {"us": ordered[len(ordered) // 2], "least_us": ordered[0], "most_us": ordered[-1]}


def interleave(kiln, number, functions, make, tune_seconds=0):
    """Times case `number` of Kiln, tuned for so long at most, and each of PyTorch's functions (by name), a sample of each in turn: a row of the report."""
    row, peers, errors = {}, {}, {}
    with torch.no_grad():
        for name, function in functions.items():
            try:
                peers[name] = Peer(function, make)
            except Exception as error:  # a backend may refuse a shape: the others still count
                errors[name] = str(error)[:200]
        row.update(kiln.ask(f"prepare {number} {tune_seconds}"))
        samples = {name: [] for name in peers}
        kiln_samples = []
        for _ in range(SAMPLES):
            if "error" not in row:
                kiln_samples.append(kiln.ask("sample")["seconds"])
            for name, peer in peers.items():
                samples[name].append(peer.sample())
    kiln.ask("end")
    if kiln_samples:
        row.update(summary(kiln_samples))
    row["peers"] = {name: summary(times) for name, times in samples.items()}
    row["peer_errors"] = errors
    peers.clear()
    torch.cuda.empty_cache()
    return row
