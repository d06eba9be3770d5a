"""Joins the times of Kiln and of PyTorch: table.py KERNELS.json TORCH.json OUT writes OUT.md and OUT.json, and prints the table."""

import json
import sys

kernels_path, torch_path, out = sys.argv[1:]
with open(kernels_path) as file:
    kernels = json.load(file)
with open(torch_path) as file:
    peers = json.load(file)
by_name = {row["name"]: row for row in peers["rows"]}

rows = []
for row in kernels["rows"]:
    times = by_name.get(row["name"], {}).get("us", {})
    peer, peer_us = min(times.items(), key=lambda item: item[1], default=(None, None))
    us = row.get("us")
    # Speed over speed: 1 is as fast as the peer, 0.5 takes twice as long.
    ratio = peer_us / us if us and peer_us else None
    arithmetic = row.get("rate", "").endswith("TF/s")
    work, unit = (row.get("flops", 0) / 1e6, "TF/s") if arithmetic else (row.get("bytes", 0) / 1e3, "GB/s")
    rows.append({**row, "peer": peer, "peer_us": peer_us, "peer_times": times, "ratio": ratio, "work": work, "unit": unit})

lines = ["| case | Kiln us | Kiln | peer us | peer | by | Kiln/peer | launches | rel. error |", "| --- " * 9 + "|"]
for r in rows:
    if "us" not in r:
        lines.append(f"| {r['name']} | {r.get('error', 'failed')[:80]} | | | | | | | |")
        continue

    def rate(us):
        return "" if us is None else f"{r['work'] / us:.{1 if r['unit'] == 'TF/s' else 0}f} {r['unit']}"

    def number(value, digits):
        return "" if value is None else f"{value:.{digits}f}"

    rel = r.get("rel_error")
    lines.append(
        f"| {r['name']} | {r['us']:.1f} | {rate(r['us'])} | {number(r['peer_us'], 1)} | {rate(r['peer_us'])} | {r['peer'] or ''} "
        f"| {number(r['ratio'], 2)} | {r['launches']} | {'' if rel is None else format(rel, '.1e')} |"
    )
wrong = [c["name"] for c in kernels["checks"] + kernels["rows"] if not c.get("agrees", "error" not in c)]
head = [
    f"{kernels['device']}; torch {peers['torch']}, CUDA {peers['cuda']}, cuDNN {peers['cudnn']}; large copy {peers['copy_gb_s']:.0f} GB/s",
    f"{len(kernels['checks'])} small cases checked, {len(rows)} timed; wrong: {', '.join(wrong) or 'none'}",
    "",
]
text = "\n".join(head + lines) + "\n"
with open(out + ".md", "w") as file:
    file.write(text)
with open(out + ".json", "w") as file:
    json.dump({"kernels": {k: v for k, v in kernels.items() if k != "rows"}, "torch": {k: v for k, v in peers.items() if k != "rows"}, "rows": rows}, file, indent=1)
print(text)
