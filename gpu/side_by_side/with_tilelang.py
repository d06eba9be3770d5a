"""Kernels in TileLang, compiled ahead of time for sm_90a: with_tilelang.py CELL.json prints what became of it.

Written as TileLang's examples are; its compiler finds the roles of warps and the boxes of TMA. Seconds are those of lowering and of nvcc, as TileLang calls it.
"""

import json
import resource
import sys

import tilelang
import tilelang.language as T
from tilelang import tvm
from tilelang.cuda.backend import tilelang_callback_cuda_compile
from tilelang.engine.lower import lower
from tilelang.transform import PassConfigKey

tilelang.disable_cache()
TYPES = {"bf16": "bfloat16", "f16": "float16", "f8e4m3": "float8_e4m3fn", "i8": "int8", "i32": "int32"}
FULL_ROW = T.GemmWarpPolicy.FullRow


def gemm(m, n, k, bm, bn, bk, stages, threads, linear, dtype, total, out):
    across = (lambda n, k: (n, k)) if linear else (lambda n, k: (k, n))

    @T.prim_func
    def kernel(x: T.Tensor((m, k), dtype), w: T.Tensor(across(n, k), dtype), y: T.Tensor((m, n), out)):
        with T.Kernel(n // bn, m // bm, threads=threads) as (bx, by):
            xs = T.alloc_shared((bm, bk), dtype)
            ws = T.alloc_shared(across(bn, bk), dtype)
            ys = T.alloc_shared((bm, bn), out)
            acc = T.alloc_fragment((bm, bn), total)
            T.use_swizzle(16)
            T.clear(acc)
            for step in T.Pipelined(k // bk, num_stages=stages):
                T.copy(x[by * bm, step * bk], xs)
                if linear:
                    T.copy(w[bx * bn, step * bk], ws)
                else:
                    T.copy(w[step * bk, bx * bn], ws)
                T.gemm(xs, ws, acc, transpose_B=linear)
            T.copy(acc, ys)
            T.copy(ys, y[by * bm, bx * bn])

    return kernel


def attention(heads, length, dim, bm, bn, stages, threads, causal, dtype):
    scale = 1.44269504 / dim**0.5
    shape = (heads, length, dim)

    @T.prim_func
    def kernel(q: T.Tensor(shape, dtype), k: T.Tensor(shape, dtype), v: T.Tensor(shape, dtype), y: T.Tensor(shape, dtype)):
        with T.Kernel(length // bm, heads, threads=threads) as (bx, by):
            qs = T.alloc_shared((bm, dim), dtype)
            ks = T.alloc_shared((bn, dim), dtype)
            vs = T.alloc_shared((bn, dim), dtype)
            ys = T.alloc_shared((bm, dim), dtype)
            scores = T.alloc_fragment((bm, bn), "float32")
            weights = T.alloc_fragment((bm, bn), dtype)
            acc = T.alloc_fragment((bm, dim), "float32")
            highest = T.alloc_fragment((bm,), "float32")
            before = T.alloc_fragment((bm,), "float32")
            shrink = T.alloc_fragment((bm,), "float32")
            added = T.alloc_fragment((bm,), "float32")
            total = T.alloc_fragment((bm,), "float32")
            T.copy(q[by, bx * bm : (bx + 1) * bm, :], qs)
            T.fill(acc, 0)
            T.fill(total, 0)
            T.fill(highest, -T.infinity("float32"))
            for step in T.Pipelined(T.ceildiv((bx + 1) * bm, bn) if causal else length // bn, num_stages=stages):
                T.copy(k[by, step * bn : (step + 1) * bn, :], ks)
                if causal:
                    for i, j in T.Parallel(bm, bn):
                        scores[i, j] = T.if_then_else(bx * bm + i >= step * bn + j, 0, -T.infinity("float32"))
                else:
                    T.clear(scores)
                T.gemm(qs, ks, scores, transpose_B=True, policy=FULL_ROW)
                T.copy(highest, before)
                T.fill(highest, -T.infinity("float32"))
                T.reduce_max(scores, highest, dim=1, clear=False)
                for i in T.Parallel(bm):
                    highest[i] = T.max(highest[i], before[i])
                for i in T.Parallel(bm):
                    shrink[i] = T.exp2(before[i] * scale - highest[i] * scale)
                for i, j in T.Parallel(bm, bn):
                    scores[i, j] = T.exp2(scores[i, j] * scale - highest[i] * scale)
                T.reduce_sum(scores, added, dim=1)
                for i in T.Parallel(bm):
                    total[i] = total[i] * shrink[i] + added[i]
                T.copy(scores, weights)
                for i, j in T.Parallel(bm, dim):
                    acc[i, j] *= shrink[i]
                T.copy(v[by, step * bn : (step + 1) * bn, :], vs)
                T.gemm(weights, vs, acc, policy=FULL_ROW)
            for i, j in T.Parallel(bm, dim):
                acc[i, j] /= total[i]
            T.copy(acc, ys)
            T.copy(ys, y[by, bx * bm : (bx + 1) * bm, :])

    return kernel


def softmax(count, cols, rows, threads, dtype):
    @T.prim_func
    def kernel(x: T.Tensor((count, cols), dtype), y: T.Tensor((count, cols), dtype)):
        with T.Kernel(count // rows, threads=threads) as at:
            taken = T.alloc_fragment((rows, cols), dtype)
            v = T.alloc_fragment((rows, cols), "float32")
            highest = T.alloc_fragment((rows,), "float32")
            total = T.alloc_fragment((rows,), "float32")
            T.copy(x[at * rows, 0], taken)
            T.copy(taken, v)
            T.reduce_max(v, highest, dim=1)
            for i, j in T.Parallel(rows, cols):
                v[i, j] = T.exp(v[i, j] - highest[i])
            T.reduce_sum(v, total, dim=1)
            for i, j in T.Parallel(rows, cols):
                v[i, j] /= total[i]
            T.copy(v, taken)
            T.copy(taken, y[at * rows, 0])

    return kernel


def layer_norm(count, cols, rows, threads, dtype):
    @T.prim_func
    def kernel(
        x: T.Tensor((count, cols), dtype), w: T.Tensor((cols,), dtype), b: T.Tensor((cols,), dtype),
        y: T.Tensor((count, cols), dtype),
    ):  # fmt: skip
        with T.Kernel(count // rows, threads=threads) as at:
            taken = T.alloc_fragment((rows, cols), dtype)
            v = T.alloc_fragment((rows, cols), "float32")
            square = T.alloc_fragment((rows, cols), "float32")
            mean = T.alloc_fragment((rows,), "float32")
            spread = T.alloc_fragment((rows,), "float32")
            T.copy(x[at * rows, 0], taken)
            T.copy(taken, v)
            T.reduce_sum(v, mean, dim=1)
            for i, j in T.Parallel(rows, cols):
                v[i, j] -= mean[i] / cols
                square[i, j] = v[i, j] * v[i, j]
            T.reduce_sum(square, spread, dim=1)
            for i in T.Parallel(rows):
                spread[i] = T.rsqrt(spread[i] / cols + 1e-5)
            for i, j in T.Parallel(rows, cols):
                v[i, j] = v[i, j] * spread[i] * w[j] + b[j]
            T.copy(v, taken)
            T.copy(taken, y[at * rows, 0])

    return kernel


def program(cell):
    tile, size, dtype = cell["tile"], cell["sizes"], TYPES[cell["dtype"]]
    threads = 32 * tile["warps"]
    if cell["family"] == "gemm":
        out = {"f8e4m3": "bfloat16", "i8": "int32"}.get(cell["dtype"], dtype)
        total = "int32" if cell["dtype"] == "i8" else "float32"
        return gemm(*(size[x] for x in "mnk"), tile["bm"], tile["bn"], tile["bk"], tile["stages"], threads, cell["op"] == "linear", dtype, total, out)
    if cell["family"] == "attention":
        return attention(size["heads"], size["queries"], size["dim"], tile["bm"], tile["bn"], tile["stages"], threads, bool(size.get("causal")), dtype)
    return {"softmax": softmax, "layer_norm": layer_norm}[cell["op"]](size["rows"], size["cols"], tile["rows"], threads, dtype)


def seconds():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def main(path):
    cell = json.load(open(path))
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_90a"})
    times = []
    try:
        for _ in range(2):
            began = seconds()
            with target:
                made = lower(program(cell), target=target, enable_device_compile=False)
            # Of its examples, those of attention ask for fast functions.
            options = {PassConfigKey.TL_ENABLE_FAST_MATH: cell["family"] == "attention"}
            cubin = tilelang_callback_cuda_compile(made.kernel_source, target, options)
            times.append(seconds() - began)
    except Exception as e:  # noqa: BLE001
        print(json.dumps({"version": tilelang.__version__, "made": {"tiles": {"error": (str(e).strip() or repr(e)).splitlines()[-1][:200]}}}))
        return
    with open(f"{path}.tiles.cubin", "wb") as file:
        file.write(bytes(cubin))
    (kernel,) = made.device_mod.functions.values()
    found = {
        "cubin": f"{path}.tiles.cubin",
        "shared": int(kernel.attrs.get("dyn_shared_memory_buf", 0)),
        "threads": int(kernel.attrs["thread_extent"]["threadIdx.x"]),
        "seconds": min(times),
    }
    print(json.dumps({"version": tilelang.__version__, "made": {"tiles": found}}))


if __name__ == "__main__":
    main(*sys.argv[1:])
