"""Compiles the Triton kernels of tests/triton.rs ahead of time, into the current folder; no GPU is needed (triton 3.9).

Comments and debugging sections, most of a file, are left out; line numbers stay.
"""
import re
import triton, triton.language as tl
from triton.compiler import ASTSource
from triton.backends.compiler import GPUTarget
@triton.jit
def softmax(x, y, cols, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    o = tl.arange(0, BLOCK)
    v = tl.load(x + r*cols + o, mask=o < cols, other=-float('inf'))
    e = tl.exp(v - tl.max(v, axis=0))
    tl.store(y + r*cols + o, e / tl.sum(e, axis=0), mask=o < cols)
@triton.jit
def matmul(a, b, c, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    pm = tl.program_id(0); pn = tl.program_id(1)
    rm = pm*BM + tl.arange(0, BM); rn = pn*BN + tl.arange(0, BN); rk = tl.arange(0, BK)
    acc = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        va = tl.load(a + rm[:, None]*K + (k + rk)[None, :], mask=(rm[:, None] < M) & ((k + rk)[None, :] < K), other=0.0)
        vb = tl.load(b + (k + rk)[:, None]*N + rn[None, :], mask=((k + rk)[:, None] < K) & (rn[None, :] < N), other=0.0)
        acc = tl.dot(va, vb, acc)
    tl.store(c + rm[:, None]*N + rn[None, :], acc, mask=(rm[:, None] < M) & (rn[None, :] < N))
@triton.jit
def layer_norm(x, w, b, y, cols, eps, BLOCK: tl.constexpr):
    r = tl.program_id(0)
    o = tl.arange(0, BLOCK)
    m = o < cols
    v = tl.load(x + r*cols + o, mask=m, other=0.0)
    mean = tl.sum(v, axis=0) / cols
    d = tl.where(m, v - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(d*d, axis=0) / cols + eps)
    tl.store(y + r*cols + o, d*rstd*tl.load(w + o, mask=m) + tl.load(b + o, mask=m), mask=m)
@triton.jit
def attention(q, k, v, o, N, scale, CAUSAL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):
    start = tl.program_id(0)*BM
    base = tl.program_id(1)*N*D
    rm = start + tl.arange(0, BM); rd = tl.arange(0, D)
    at = base + rm[:, None]*D + rd[None, :]
    vq = tl.load(q + at, mask=rm[:, None] < N, other=0.0)
    top = tl.full((BM,), -float('inf'), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    end = tl.minimum(start + BM, N) if CAUSAL else N
    for n in range(0, end, BN):
        rn = n + tl.arange(0, BN)
        to = base + rn[:, None]*D + rd[None, :]
        vk = tl.load(k + to, mask=rn[:, None] < N, other=0.0)
        vv = tl.load(v + to, mask=rn[:, None] < N, other=0.0)
        s = tl.dot(vq, tl.trans(vk)) * (scale*1.44269504)
        keep = rn[None, :] < N
        if CAUSAL:
            keep = keep & (rn[None, :] <= rm[:, None])
        s = tl.where(keep, s, -float('inf'))
        m = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - m[:, None])
        a = tl.exp2(top - m)
        total = total*a + tl.sum(p, 1)
        acc = tl.dot(p.to(tl.float16), vv, acc*a[:, None])
        top = m
    tl.store(o + at, acc / total[:, None], mask=rm[:, None] < N)
def build(name, fn, signature, aligned=(), num_stages=3, **constants):
    types = dict(part.split(":") for part in signature.split()) | dict.fromkeys(constants, "constexpr")
    attrs = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=fn, signature=types, constexprs=constants, attrs=attrs)
    for cap in (80, 90):
        k = triton.compile(source, target=GPUTarget("cuda", cap, 32), options={"num_stages": num_stages})
        text = re.sub(r"[ \t]*//.*", "", k.asm["ptx"].split("\t.section\t.debug")[0])
        text = re.sub(r'(\.file\s+\d+ )".*/', r'\1"', re.sub(r"\n\n+", "\n", text))
        open(f"triton_{name}.sm_{cap}.ptx", "w").write(text.lstrip())
        print(f"{name}.sm_{cap}: {k.metadata.shared} bytes of shared memory, {k.metadata.num_warps} warps")
build("softmax", softmax, "x:*fp32 y:*fp32 cols:i32", BLOCK=1024)
build("matmul", matmul, "a:*fp16 b:*fp16 c:*fp32 M:i32 N:i32 K:i32", aligned=range(6), BM=64, BN=64, BK=32)
build("layer_norm", layer_norm, "x:*fp32 w:*fp32 b:*fp32 y:*fp32 cols:i32 eps:fp32", BLOCK=1024)
for name, causal in (("attention", False), ("attention_causal", True)):
    build(name, attention, "q:*fp16 k:*fp16 v:*fp16 o:*fp32 N:i32 scale:fp32", aligned=range(4), CAUSAL=causal, BM=64, BN=64, D=64)
