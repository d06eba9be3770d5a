"""Profiles one launch of Kiln's kernel for a case of each class that is slower than its peer: ncu.py KERNELS_ON_GPU OUT.json [DEVICE]

Nsight Compute reads hardware counters in many passes over one launch, clocks as found. A line a kernel: what limits it. Without Nsight
Compute nothing is profiled, and that is no failure.
"""

import csv
import glob
import json
import re
import shutil
import subprocess
import sys

CASES = [
    "gemm i8 4096x4096x4096xlinear",
    "gemm i8 8192x8192x8192xlinear",
    "gemm f8e4m3 8192x8192x8192xlinear",
    "gemm bf16 8192x8192x8192",
    "gemm bf16 128x8192x8192xlinear",
    "gemm bf16 128x4096x14336xlinear",
    "gemm bf16 16x28672x4096xlinear",
    "gemm bf16 16x4096x4096xlinear",
    "gemm f32 2048x2048x2048",
    "layer_norm bf16 32768x1024",
    "attention bf16 256x1024x64",
    "attention bf16 256x1024x64xcausal",
    "conv bf16 32x128x28x128x3x1",
    "conv bf16 32x2048x7x512x1x1",
]
METRICS = {
    "ns": "gpu__time_duration.sum",
    "dram %": "dram__throughput.avg.pct_of_peak_sustained_elapsed",
    "L2 %": "lts__throughput.avg.pct_of_peak_sustained_elapsed",
    "L1 %": "l1tex__throughput.avg.pct_of_peak_sustained_active",
    "tensor %": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active",
    "fma %": "sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active",
    "issue %": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "occupancy %": "sm__warps_active.avg.pct_of_peak_sustained_active",
    "registers": "launch__registers_per_thread",
}
SECTIONS = ["SpeedOfLight", "ComputeWorkloadAnalysis", "MemoryWorkloadAnalysis", "WarpStateStats", "Occupancy", "LaunchStats"]
STALL = re.compile(r"issue_stalled_(?!selected)(\w+?)(?<!not_issued)_per_issue_active\.ratio")
SECONDS = 60


def find():
    return shutil.which("ncu") or next(iter(glob.glob("/usr/local/cuda/bin/ncu") + glob.glob("/opt/nvidia/nsight-compute/*/ncu")), None)


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def condense(row):
    """What one kernel's raw metrics say."""
    line = {"kernel": row["Kernel Name"]}
    for name, metric in METRICS.items():
        line[name] = number(row.get(metric, ""))
    # Warps that wait for each reason, on average, when an instruction issues.
    reasons = [(number(value) or 0, match[1]) for key, value in row.items() if (match := STALL.search(key))]
    line["stalls"] = [f"{reason} {waiting:.1f}" for waiting, reason in sorted(reasons, reverse=True)[:2] if waiting > 0]
    return line


def profile(ncu, program, case, device):
    command = [ncu, "--clock-control", "none", "--csv", "--page", "raw", "--print-units", "base"]
    command += [part for section in SECTIONS for part in ("--section", section)]
    # A release of Nsight Compute that does not know one of the metrics by this name still has its sections.
    for metrics in (["--metrics", ",".join(METRICS.values())], []):
        done = subprocess.run([*command, *metrics, program, "once", case, device], capture_output=True, text=True, timeout=SECONDS)
        lines = done.stdout.splitlines()
        start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
        if start is not None:
            # The first row holds units.
            return [condense(row) for row in list(csv.DictReader(lines[start:]))[1:]]
    raise RuntimeError((done.stdout + done.stderr)[-400:])


def main(program, out, device="cuda:0"):
    ncu = find()
    if not ncu:
        print("Nsight Compute is not installed: nothing was profiled")
        return 0
    rows, failed = [], 0
    for case in CASES:
        try:
            kernels = profile(ncu, program, case, device)
        except (RuntimeError, subprocess.TimeoutExpired, KeyError) as error:
            failed += 1
            rows.append({"case": case, "error": str(error)[-400:]})
            print(f"{case}: {error}", flush=True)
            continue
        for line in kernels:
            rows.append({"case": case, **line})
            shown = ", ".join(f"{name} {value:.0f}" for name, value in line.items() if isinstance(value, float))
            print(f"{case}: {line['kernel'][:60]}: {shown}; waits: {', '.join(line['stalls'])}", flush=True)
        with open(out, "w") as file:
            json.dump({"rows": rows}, file, indent=1)
    return 1 if failed else 0


sys.exit(main(*sys.argv[1:]))
