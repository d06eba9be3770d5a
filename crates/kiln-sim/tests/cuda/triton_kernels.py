"""Compiles the Triton kernels of tests/triton.rs ahead of time; no GPU is needed (triton 3.9)."""
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
for cap in (80, 90):
    t = GPUTarget("cuda", cap, 32)
    k = triton.compile(ASTSource(fn=softmax, signature={"x":"*fp32","y":"*fp32","cols":"i32","BLOCK":"constexpr"}, constexprs={"BLOCK":1024}), target=t)
    open(f"triton_softmax.sm_{cap}.ptx", "w").write(k.asm["ptx"]); print(cap, "softmax", k.metadata.shared, k.metadata.num_warps)
    k = triton.compile(ASTSource(fn=matmul, signature={"a":"*fp16","b":"*fp16","c":"*fp32","M":"i32","N":"i32","K":"i32","BM":"constexpr","BN":"constexpr","BK":"constexpr"}, constexprs={"BM":64,"BN":64,"BK":32}, attrs={(i,):[["tt.divisibility",16]] for i in range(6)}), target=t)
    open(f"triton_matmul.sm_{cap}.ptx", "w").write(k.asm["ptx"]); print(cap, "matmul", k.metadata.shared, k.metadata.num_warps)
