#!/usr/bin/env python3
"""Kiln's kernels beside Triton's and TileLang's of the same tiles, compiled for sm_90a on a machine without a GPU.

    gpu/side_by_side/run.py KILN OUT [CELL..]     tables to OUT.md, all that is known to OUT.json; only cells whose name has one of the words
    gpu/side_by_side/run.py KILN OUT configs      CPU seconds of each Config of some products, cold

KILN is the program. `$PYTHON` has triton and tilelang (`pip install triton tilelang`; what is missing is left out), `$CUDA_HOME` an nvcc for
TileLang, `$KILN_NVRTC` or `$KILN_HOME` NVRTC; nvdisasm is on the PATH. Times are CPU seconds, the least of three, of programs that were
loaded before: Triton's and TileLang's without their import, Kiln's with all of `kiln kernel`, its caches empty.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import sass

HERE = Path(__file__).parent
GEMM = {"m": 4096, "n": 4096, "k": 4096}
ATTENTION = {"heads": 32, "queries": 4096, "dim": 128}
WIDE = {"bm": 128, "bn": 256, "bk": 64, "warps": 8, "stages": 3}
# The tile is the peers', and as much of Kiln's Config.
CELLS = {
    "GEMM bf16, 128x256x64": ("gemm", "matmul", "bf16", GEMM, WIDE),
    "GEMM bf16, 128x128x64": ("gemm", "matmul", "bf16", GEMM, {**WIDE, "bn": 128, "stages": 6}),
    "GEMM f16, 128x256x64": ("gemm", "matmul", "f16", GEMM, WIDE),
    "GEMM e4m3, w[n, k], 128x256x128": ("gemm", "linear", "f8e4m3", GEMM, {**WIDE, "bk": 128}),
    "GEMM int8, w[n, k], 128x256x128": ("gemm", "linear", "i8", GEMM, {**WIDE, "bk": 128, "stages": 2}),
    "attention bf16 d128, 128x128": ("attention", "attention", "bf16", ATTENTION, {"bm": 128, "bn": 128, "warps": 8, "stages": 2}),
    "attention bf16 d128 causal, 128x128": (
        "attention", "attention", "bf16", {**ATTENTION, "causal": 1}, {"bm": 128, "bn": 128, "warps": 8, "stages": 2},
    ),
    "softmax bf16, 4 rows of 1024": ("rows", "softmax", "bf16", {"rows": 32768, "cols": 1024}, {"rows": 4, "warps": 4}),
    "layer norm bf16, a row of 4096": ("rows", "layer_norm", "bf16", {"rows": 32768, "cols": 4096}, {"rows": 1, "warps": 4}),
}  # fmt: skip
# Products whose Configs are all timed: large, few rows, a single row, f32 without tensor cores.
TIMED = [
    ("matmul", "bf16", GEMM),
    ("linear", "bf16", {"m": 128, "n": 4096, "k": 14336}),
    ("linear", "bf16", {"m": 1, "n": 4096, "k": 4096}),
    ("linear", "f8e4m3", GEMM),
    ("linear", "i8", GEMM),
    ("matmul", "f32", {"m": 1024, "n": 1024, "k": 1024}),
]


def nvrtc():
    if "KILN_NVRTC" in os.environ:
        return os.environ["KILN_NVRTC"]
    home = Path(os.environ.get("KILN_HOME", Path.home() / ".cache/kiln"))
    return str(sorted(home.glob("nvrtc/*/libnvrtc.so.*"))[-1])


class Kiln:
    def __init__(self, program):
        self.program, self.nvrtc = program, nvrtc()

    def kernel(self, family, op, dtype, sizes, *more):
        """What `kiln kernel` prints with empty caches, and CPU seconds."""
        flags = [part for name, size in sizes.items() for part in ([f"--{name}"] if name == "causal" else [f"--{name}", str(size)])]
        command = [self.program, "kernel", family, "--op", op, "--dtype", dtype, "--target", "sm_90a", *flags, *more]
        with tempfile.TemporaryDirectory() as home:
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, env={**os.environ, "KILN_HOME": home, "KILN_NVRTC": self.nvrtc}, capture_output=True, text=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    def cell(self, cell):
        problem = cell["family"], cell["op"], cell["dtype"], cell["sizes"]
        # What the tile leaves open is as the cost model's first Config has it.
        first = json.loads(self.kernel(*problem)[0])["config"]
        config = json.dumps({**first, **cell["tile"]})
        runs = [self.kernel(*problem, "--config", config) for _ in range(3)]
        report = json.loads(runs[0][0])
        (kernel,) = report["kernels"]
        found = {
            "config": report["config"],
            "registers": kernel["registers"],
            "threads": kernel["threads"],
            "shared": kernel["static_shared_bytes"] + kernel["dynamic_shared_bytes"],
            "seconds": min(seconds for _, seconds in runs),
        }
        return {**found, **sass.facts(self.kernel(*problem, "--config", config, "--emit", "sass")[0])}


def peer(script, cell, folder):
    """What the peer's script compiled, each way it can be written."""
    path = folder / "cell.json"
    path.write_text(json.dumps(cell))
    cache = {"TRITON_CACHE_DIR": str(folder / "cache"), "TRITON_ALWAYS_COMPILE": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
    python = os.environ.get("PYTHON", sys.executable)
    done = subprocess.run([python, HERE / script, path], env={**os.environ, **cache}, capture_output=True, text=True)
    if done.returncode:
        return {"none": {"error": done.stderr.strip().splitlines()[-1][:200]}}
    reply = json.loads(done.stdout.strip().splitlines()[-1])
    for made in reply["made"].values():
        if "cubin" in made:
            cubin = made.pop("cubin")
            made["registers"] = sass.registers(Path(cubin).read_bytes())
            text = subprocess.run(["nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
            made.update(sass.facts(text), version=reply["version"])
    return reply["made"]


def main_loop(made):
    """Of the loop that most steps take: instructions, matrix instructions among them, and the first for each 64 x 256 columns of the second."""
    loops = made["loops"]
    if not loops:
        return None
    best = min(loops, key=lambda loop: loop["instructions"] / matrix(loop["products"]))
    return best["instructions"], best["products"], best["instructions"] / matrix(best["products"])


def matrix(products):
    """How many instructions of 64 x 256 columns these amount to."""
    return sum(count * int(shape.split("x")[1]) / 256 for shape, count in products.items())


def row(name, who, made):
    if "error" in made:
        return f"| {name} | {who} | {made['error']} | | | | | |"
    loop = main_loop(made)
    if loop:
        loop = f"{loop[0]} with {', '.join(f'{n} of {shape}' for shape, n in loop[1].items())}: {loop[2]:.1f}"
    return (
        f"| {name} | {who} | {made['registers']} x {made['threads']} | {made['local']} | {made['shared'] / 1024:.0f} | "
        f"{loop or '-'} | {made['instructions']} | {made['seconds']:.2f} |"
    )


def cells(kiln, out, words):
    found, rows = {}, []
    for name, (family, op, dtype, sizes, tile) in CELLS.items():
        if words and not any(word in name for word in words):
            continue
        cell = {"family": family, "op": op, "dtype": dtype, "sizes": sizes, "tile": tile}
        ways = {"Kiln": kiln.cell(cell)}
        with tempfile.TemporaryDirectory() as folder:
            for who, script in {"Triton": "with_triton.py", "TileLang": "with_tilelang.py"}.items():
                several = peer(script, cell, Path(folder))
                ways |= {who if len(several) == 1 else f"{who}, {way}": made for way, made in several.items()}
        found[name] = ways
        rows += [row(name, who, made) for who, made in ways.items()]
        print("\n".join(rows[-len(ways) :]), flush=True)
        Path(f"{out}.json").write_text(json.dumps(found, indent=1))
    head = "| cell | by | registers x threads | local | shared KiB | main loop: instructions, for each 64x256 | in all | CPU s |\n"
    Path(f"{out}.md").write_text(head + "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n" + "\n".join(rows) + "\n")


def configs(kiln, out):
    found = []
    for op, dtype, sizes in TIMED:
        listed, together = kiln.kernel("gemm", op, dtype, sizes, "--all-configs")
        listed = json.loads(listed)
        times = sorted(min(kiln.kernel("gemm", op, dtype, sizes, "--config", json.dumps(each["config"]))[1] for _ in range(2)) for each in listed)
        name = f"{dtype} {'x'.join(str(size) for size in sizes.values())} {op}"
        found.append({"problem": name, "configs": len(times), "together": together, "times": times})
        middle = times[len(times) // 2]
        print(f"| {name} | {len(times)} | {together / len(times):.2f} | {middle:.2f} | {times[-1]:.2f} |", flush=True)
        Path(f"{out}.json").write_text(json.dumps(found, indent=1))


def main(program, out, *words):
    kiln = Kiln(program)
    if words == ("configs",):
        configs(kiln, out)
    else:
        cells(kiln, out, words)


if __name__ == "__main__":
    main(*sys.argv[1:])
