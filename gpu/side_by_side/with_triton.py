"""Kernels in Triton, compiled ahead of time for sm_90: with_triton.py CELL.json prints what became of it.

Written as Triton's tutorials are: boxes through tensor descriptors (TMA), loops pipelined by the compiler; sizes are known to it, as they are to Kiln.
"""

import json
import resource
import sys

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {"bf16": "bf16", "f16": "fp16", "f8e4m3": "fp8e4nv", "i8": "i8", "i32": "i32"}
TL = {"bf16": tl.bfloat16, "f16": tl.float16, "i32": tl.int32}


@triton.jit
def gemm_boxes(
    x, w, y, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    LINEAR: tl.constexpr, SUM: tl.constexpr, OUT: tl.constexpr, BAND: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    rows: tl.constexpr = M // BM
    cols: tl.constexpr = N // BN
    at = tl.program_id(0)
    first = at // (BAND * cols) * BAND
    band = min(rows - first, BAND)
    m = (first + at % (BAND * cols) % band) * BM
    n = at % (BAND * cols) // band * BN
    acc = tl.zeros((BM, BN), SUM)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        a = x.load([m, k])
        b = w.load([n, k]).T if LINEAR else w.load([k, n])
        acc = tl.dot(a, b, acc, out_dtype=SUM)
    y.store([m, n], acc.to(OUT))


@triton.jit
def gemm_pointers(
    x, w, y, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    LINEAR: tl.constexpr, SUM: tl.constexpr, OUT: tl.constexpr, BAND: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    rows: tl.constexpr = M // BM
    cols: tl.constexpr = N // BN
    at = tl.program_id(0)
    first = at // (BAND * cols) * BAND
    band = min(rows - first, BAND)
    i = (first + at % (BAND * cols) % band) * BM + tl.arange(0, BM)
    j = at % (BAND * cols) // band * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    xs = x + i[:, None] * K + k[None, :]
    ws = w + j[None, :] * K + k[:, None] if LINEAR else w + k[:, None] * N + j[None, :]
    acc = tl.zeros((BM, BN), SUM)
    for _ in tl.range(0, K, BK, num_stages=STAGES):
        acc = tl.dot(tl.load(xs), tl.load(ws), acc, out_dtype=SUM)
        xs += BK
        ws += BK if LINEAR else BK * N
    tl.store(y + i[:, None] * N + j[None, :], acc.to(OUT))


@triton.jit
def attention_tiles(
    acc, q, k, v, total, highest, head, m, start, end, scale,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, MASKED: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    for n in tl.range(start, end, BN, num_stages=STAGES):
        scores = tl.dot(q, k.load([head + n, 0]).T)
        if MASKED:
            seen = m + tl.arange(0, BM)[:, None] >= n + tl.arange(0, BN)[None, :]
            scores = tl.where(seen, scores * scale, -1.0e6)
            now = tl.maximum(highest, tl.max(scores, 1))
            scores -= now[:, None]
        else:
            now = tl.maximum(highest, tl.max(scores, 1) * scale)
            scores = scores * scale - now[:, None]
        p = tl.exp2(scores)
        shrink = tl.exp2(highest - now)
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(q.dtype), v.load([head + n, 0]), acc * shrink[:, None])
        highest = now
    return acc, total, highest


@triton.jit
def attention(
    q, k, v, y, LENGTH: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr,
    CAUSAL: tl.constexpr, OUT: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    m = tl.program_id(0) * BM
    head = tl.program_id(1) * LENGTH
    scale = 1.44269504 / D**0.5
    mine = q.load([head + m, 0])
    acc = tl.zeros((BM, D), tl.float32)
    total = tl.zeros((BM,), tl.float32) + 1.0
    highest = tl.zeros((BM,), tl.float32) - float("inf")
    whole = m if CAUSAL else LENGTH
    acc, total, highest = attention_tiles(acc, mine, k, v, total, highest, head, m, 0, whole, scale, BM, BN, D, False, STAGES)
    if CAUSAL:
        acc, total, highest = attention_tiles(acc, mine, k, v, total, highest, head, m, m, m + BM, scale, BM, BN, D, True, STAGES)
    y.store([head + m, 0], (acc / total[:, None]).to(OUT))


@triton.jit
def softmax(x, y, COLS: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    at = row * COLS + tl.arange(0, COLS)[None, :]
    v = tl.load(x + at).to(tl.float32)
    e = tl.exp(v - tl.max(v, 1)[:, None])
    tl.store(y + at, (e / tl.sum(e, 1)[:, None]).to(OUT))


@triton.jit
def layer_norm(x, w, b, y, COLS: tl.constexpr, ROWS: tl.constexpr, OUT: tl.constexpr):
    col = tl.arange(0, COLS)[None, :]
    at = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]) * COLS + col
    v = tl.load(x + at).to(tl.float32)
    d = v - (tl.sum(v, 1) / COLS)[:, None]
    scale = tl.rsqrt(tl.sum(d * d, 1) / COLS + 1e-5)[:, None]
    out = d * scale * tl.load(w + col).to(tl.float32) + tl.load(b + col).to(tl.float32)
    tl.store(y + at, out.to(OUT))


def boxes(dtype, *shape):
    return f"tensordesc<{TYPES[dtype]}[{','.join(map(str, shape))}]>"


def sources(cell):
    """The ways to write it: function, parameters, constants."""
    tile, size, t = cell["tile"], cell["sizes"], cell["dtype"]
    if cell["family"] == "gemm":
        bm, bn, bk, linear = tile["bm"], tile["bn"], tile["bk"], cell["op"] == "linear"
        out = {"f8e4m3": "bf16", "i8": "i32"}.get(t, t)
        constants = {
            "M": size["m"], "N": size["n"], "K": size["k"], "BM": bm, "BN": bn, "BK": bk, "LINEAR": linear, "BAND": 16,
            "SUM": tl.int32 if t == "i8" else tl.float32, "OUT": TL[out], "STAGES": tile["stages"],
        }  # fmt: skip
        by_box = {"x": boxes(t, bm, bk), "w": boxes(t, bn, bk) if linear else boxes(t, bk, bn), "y": boxes(out, bm, bn)}
        pointers = {"x": "*" + TYPES[t], "w": "*" + TYPES[t], "y": "*" + TYPES[out]}
        return {"boxes": (gemm_boxes, by_box, constants), "pointers": (gemm_pointers, pointers, constants)}
    if cell["family"] == "attention":
        bm, bn, d = tile["bm"], tile["bn"], size["dim"]
        constants = {
            "LENGTH": size["queries"], "BM": bm, "BN": bn, "D": d,
            "CAUSAL": bool(size.get("causal")), "OUT": TL[t], "STAGES": tile["stages"],
        }  # fmt: skip
        by_box = {"q": boxes(t, bm, d), "k": boxes(t, bn, d), "v": boxes(t, bn, d), "y": boxes(t, bm, d)}
        return {"boxes": (attention, by_box, constants)}
    constants = {"COLS": size["cols"], "ROWS": tile["rows"], "OUT": TL[t]}
    function, names = (softmax, "xy") if cell["op"] == "softmax" else (layer_norm, "xwby")
    return {"pointers": (function, {name: "*" + TYPES[t] for name in names}, constants)}


def seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main(path):
    cell = json.load(open(path))
    out = {}
    for name, (function, parameters, constants) in sources(cell).items():
        signature = {**parameters, **dict.fromkeys(constants, "constexpr")}
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(parameters.values()) if kind.startswith("*")}
        source = ASTSource(function, signature, constants, aligned)
        options = {"num_warps": cell["tile"]["warps"], "num_stages": cell["tile"].get("stages", 1)}
        try:
            times = []
            # The first pays for what is loaded once.
            for _ in range(3):
                began = seconds()
                made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
                times.append(seconds() - began)
        except Exception as e:  # noqa: BLE001
            out[name] = {"error": (str(e).strip() or repr(e)).splitlines()[-1][:200]}
            continue
        with open(f"{path}.{name}.cubin", "wb") as file:
            file.write(made.asm["cubin"])
        out[name] = {"cubin": f"{path}.{name}.cubin", "shared": made.metadata.shared, "threads": 32 * made.metadata.num_warps, "seconds": min(times[1:]), "first_seconds": times[0]}
    print(json.dumps({"version": triton.__version__, "made": out}))


if __name__ == "__main__":
    main(*sys.argv[1:])
