"""Joins what the steps measured: table.py OUT writes OUT/results.json and OUT/results.md, from whichever of their files are there."""

import json
import os
import sys

PARTS = ["fixtures", "checks", "kernels", "nets", "profile", "configs"]
CLOSING = "4-bit-weight matrix products are not built yet: a W4A16 product was not timed against its byte floor."


def table(header, rows):
    cells = ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(header) + " |", "| --- " + "| ---: " * (len(header) - 1) + "|", *cells]) + "\n"


def number(value, digits=1):
    return "" if value is None else f"{value:.{digits}f}"


def rate(row, us):
    if not us:
        return ""
    return f"{row['flops'] / us / 1e6:.1f} TF/s" if row["arithmetic"] else f"{row['bytes'] / us / 1e3:.0f} GB/s"


def title(row):
    """`gemm bf16 1x6144x4096xlinear` for readers."""
    s, dtype = row["shape"], row["dtype"]
    if row["op"] == "gemm":
        return f"GEMM {dtype} {s['m']}x{s['n']}x{s['k']}" + (", w[n, k]" if s["linear"] else "")
    if row["op"] == "attention":
        return f"attention {dtype} {s['heads']} heads, {s['seq']}, d{s['head']}" + (", causal" if s["causal"] else "")
    if row["op"] == "cached_attention":
        return f"attention {dtype}, {s['batch']} queries, {s['heads']} heads over {s['kv_heads']}, cache of {s['keys']}, d{s['head']}"
    if row["op"] == "conv":
        lies = ", channels last" if s.get("channels_last") else ""
        images = f", {s['n']} images" if s["n"] != 32 else ""
        return f"conv {dtype} {s['kernel']}x{s['kernel']}/{s['stride']}, {s['c']} to {s['out']}, {s['size']}x{s['size']}{images}{lies}"
    return f"{row['op'].replace('_', ' ')} {dtype} {s['rows']}x{s['cols']}" if "rows" in s else row["name"]


def ratio(row):
    """Adds the fastest peer and speed over speed: 1 is as fast as the peer, 0.5 takes twice as long."""
    times = {name: peer["us"] for name, peer in row.get("peers", {}).items()}
    row["peer"], row["peer_us"] = min(times.items(), key=lambda item: item[1], default=(None, None))
    row["ratio"] = row["peer_us"] / row["us"] if row.get("us") and row["peer_us"] else None


def kernels(part):
    lines = []
    for row in part["rows"]:
        ratio(row)
        rel, spread = row.get("rel_error"), ""
        if row.get("us"):
            spread = f"{100 * (row['most_us'] - row['least_us']) / row['us']:.0f} %"
        us = number(row.get("us")) or row.get("error", "")[:80]
        shown = [title(row), us, spread, rate(row, row.get("us")), number(row["peer_us"]), rate(row, row["peer_us"]), row["peer"] or ""]
        lines.append([*shown, number(row["ratio"], 2), len(row.get("kernels", [])) or "", "" if rel is None else f"{rel:.0e}"])
    head = f"{part['device']}; torch {part['torch']}, CUDA {part['cuda']}, cuDNN {part['cudnn']}; a large copy: {part['copy_gb_s']:.0f} GB/s"
    header = ["case", "Kiln us", "spread", "Kiln", "peer us", "peer", "by", "Kiln/peer", "launches", "rel. error"]
    return head + "\n\n" + table(header, lines)


def nets(part):
    lines = []
    for row in part["rows"]:
        eager = min((row[key] for key in ("eager_ms", "eager_channels_last_ms") if key in row), default=None)
        tuned, ours, errors = row.get("max_autotune_ms"), row["kiln_ms"] if row.get("agrees") else None, row.get("errors", {})
        peers = [ms for ms in (eager, tuned) if ms]
        row["ratio"] = min(peers) / ours if peers and ours else None
        times = [number(ours, 3) or errors.get("kiln", "")[:80], number(eager, 3), number(tuned, 3) or errors.get("max-autotune", "")[:80]]
        lines.append([row["name"], *times, number(row["ratio"], 2), number(row.get("build_s")), number(row.get("compile_s"))])
    row = part["decode"] or {}
    if row.get("us"):
        ratio(row)
        s, peers = row["shape"], {name: peer["us"] / 1e3 for name, peer in row["peers"].items()}
        name = f"LLaMA-3.1-8B shape, decoding, bf16: {s['layers']} layers, cache of {s['context']}"
        times = [number(row["us"] / 1e3, 3), number(peers.get("eager"), 3), number(peers.get("max-autotune"), 3)]
        lines.append([name, *times, number(row["ratio"], 2), number(row["build_ms"] / 1e3), number(row["compile_s"])])
    header = ["model", "Kiln ms", "eager ms", "max-autotune ms", "Kiln/peer", "Kiln build s", "PyTorch compile s"]
    notes = f"f32 unless named otherwise, tf32 off in both; Kiln's outputs agree with PyTorch's within rtol {part['rtol']}, atol {part['atol']}"
    notes += " where a time is given. The decoding step is timed as the kernels are, both sides in a CUDA graph; PyTorch compiles one layer of it."
    return table(header, lines) + "\n" + notes + "\n"


def profile(part):
    columns = ["dram %", "L2 %", "L1 %", "tensor %", "fma %", "issue %", "occupancy %", "registers"]
    lines = []
    for row in part["rows"]:
        if "error" in row:
            lines.append([row["case"], row["error"][-80:]] + [""] * (len(columns) + 1))
            continue
        us = number(row["ns"] / 1e3 if row["ns"] else None)
        lines.append([f"{row['case']}: `{row['kernel'][:40]}`", us, *(number(row[c], 0) for c in columns), ", ".join(row["stalls"])])
    return table(["kernel", "us", *columns, "warps waiting for"], lines)


def ranks(values):
    """Ranks from 0, the mean of them where values are equal."""
    ordered = sorted(values)
    return [ordered.index(v) + (ordered.count(v) - 1) / 2 for v in values]


def spearman(times):
    """Correlation of the order given with the order of the times; none where all times are equal or there is one."""
    x, y = ranks(list(range(len(times)))), ranks(times)
    mean = (len(times) - 1) / 2
    products = [sum((a - mean) * (b - mean) for a, b in zip(u, v)) for u, v in ((x, y), (x, x), (y, y))]
    return products[0] / (products[1] * products[2]) ** 0.5 if products[1] * products[2] else None


def configs(part):
    lines = []
    for row in part["rows"]:
        times = [config["us"] for config in row["configs"]]
        best = times.index(min(times))
        row.update({"spearman": spearman(times), "regret": times[0] / times[best], "best": row["configs"][best]["text"]})
        numbers = [len(times), number(row["spearman"], 2), number(times[0]), number(times[best]), number(row["regret"], 2)]
        lines.append([row["name"], *numbers, row["best"], number(row["seconds"])])
    header = ["kernel", "Configs", "Spearman", "formula's first us", "best us", "regret", "best", "s to time all"]
    return table(header, lines)


def checks(part):
    wrong = [row["name"] for row in part["rows"] if not row.get("agrees")]
    return f"{len(part['rows'])} small cases checked; wrong: {', '.join(wrong) or 'none'}\n"


def fixtures(part):
    return (
        f"{part['fixtures']} fixtures recorded again: {len(part['differing'])} differ from the recording that is committed; "
        f"the simulator gives other bits, within its bounds, in {len(part['simulator_other_bits'])}\n"
    )


def main(out):
    results, text = {}, []
    for name in PARTS:
        path = os.path.join(out, f"{name}.json")
        if not os.path.exists(path):
            text.append(f"## {name}\n\nnot run\n")
            continue
        with open(path) as file:
            results[name] = json.load(file)
        text.append(f"## {name}\n\n{globals()[name](results[name])}")
    text = "\n".join([*text, CLOSING]) + "\n"
    with open(os.path.join(out, "results.md"), "w") as file:
        file.write(text)
    with open(os.path.join(out, "results.json"), "w") as file:
        json.dump(results, file, indent=1)
    print(text)


main(*sys.argv[1:])
