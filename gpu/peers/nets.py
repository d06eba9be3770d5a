"""Whole models: Kiln and PyTorch on one GPU, f32, tf32 off in both.

nets.py KILN KERNELS_ON_GPU MODELS WORK OUT.json [DEVICE]

Latency is the median over at least a second, inputs and outputs on the device: for Kiln the `compute` of `kiln bench`, which replays a
CUDA graph; for PyTorch from the call until the device is idle. MODELS holds the public models and what onnxruntime makes of them; weights
of the others are seeded random numbers of the scale of trained ones. OUT.json is written as it goes.

A model's parts run in processes of their own (nets.py part NAME PART WORK MODELS RESULT.json), so that one which fails or takes too long
costs only itself: `eager` makes the model, its inputs and PyTorch's outputs, which Kiln's are compared with; `compiled` times
torch.compile(max-autotune), the first call included.
"""

import json
import os
import subprocess
import sys
import time

import numpy
import torch
from harness import full_precision, versions

# Kiln's outputs agree with PyTorch's within these.
RTOL, ATOL = 1e-3, 5e-5
# Seconds that a part may take, and all of them together.
PART_SECONDS, ALL_SECONDS = 120, 440


def bert(folder, hidden, layers, heads, inner, length):
    """A folder as Hugging Face has them, and its module."""
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    os.makedirs(folder, exist_ok=True)
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner}
    model = BertModel(BertConfig(**sizes), add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, 0.02, generator=generator)
    save_file(model.state_dict(), os.path.join(folder, "model.safetensors"))
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump({**model.config.to_dict(), "model_type": "bert"}, file, default=str)
    shape, rng = (1, length), numpy.random.default_rng(20)
    inputs = {"input_ids": rng.integers(0, 30522, shape), "attention_mask": numpy.ones(shape, int), "token_type_ids": numpy.zeros(shape, int)}

    def run(input_ids, attention_mask, token_type_ids):
        return (model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state,)

    model.to("cuda")
    return folder, run, inputs, ["last_hidden_state"]


def resnet50(path):
    """ResNet-50 with batch normalization folded into its convolutions, as it is deployed."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng, nodes, weights = numpy.random.default_rng(50), [], []

    def conv(x, inputs, outputs, kernel, stride=1, relu=True, scale=1.0):
        name = f"conv{len(weights)}"
        w = rng.normal(0, scale * (2 / (inputs * kernel * kernel)) ** 0.5, (outputs, inputs, kernel, kernel)).astype(numpy.float32)
        b = rng.normal(0, 0.05, outputs).astype(numpy.float32)
        weights.extend([numpy_helper.from_array(w, name + ".w"), numpy_helper.from_array(b, name + ".b")])
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        nodes.append(helper.make_node("Conv", [x, name + ".w", name + ".b"], [name], **sizes))
        return activate(name) if relu else name

    def activate(x):
        nodes.append(helper.make_node("Relu", [x], [x + ".relu"]))
        return x + ".relu"

    x = conv("x", 3, 64, 7, 2)
    nodes.append(helper.make_node("MaxPool", [x], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
    x, channels = "pool", 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            y = conv(x, channels, width, 1)
            y = conv(y, width, width, 3, step)
            y = conv(y, width, 4 * width, 1, relu=False, scale=0.3)
            if block == 0:
                x = conv(x, channels, 4 * width, 1, step, relu=False)
            channels = 4 * width
            nodes.append(helper.make_node("Add", [x, y], [y + ".sum"]))
            x = activate(y + ".sum")
    nodes.append(helper.make_node("GlobalAveragePool", [x], ["mean"]))
    nodes.append(helper.make_node("Flatten", ["mean"], ["features"]))
    w = rng.normal(0, channels**-0.5, (1000, channels)).astype(numpy.float32)
    weights.extend([numpy_helper.from_array(w, "fc.w"), numpy_helper.from_array(numpy.zeros(1000, numpy.float32), "fc.b")])
    nodes.append(helper.make_node("Gemm", ["features", "fc.w", "fc.b"], ["y"], transB=1))
    tensor = helper.make_tensor_value_info
    ends = [tensor("x", TensorProto.FLOAT, [1, 3, 224, 224])], [tensor("y", TensorProto.FLOAT, [1, 1000])]
    graph = helper.make_graph(nodes, "resnet50", *ends, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def picture(path, shape, recording=None):
    """An ONNX model of one input `x` through its PyTorch counterpart, checked against a recording of onnxruntime first."""
    import onnx
    from onnx_torch import convert

    names = [output.name for output in onnx.load(path).graph.output]
    if recording:
        given, expected = numpy.load(recording + ".in.npz"), numpy.load(recording + ".out.npz")
        given = {"x": torch.tensor(given["x"], device="cuda")}
        for name, found in zip(names, convert(path, given, "cuda")(given["x"])):
            numpy.testing.assert_allclose(found.detach().cpu().numpy(), expected[name], RTOL, ATOL)
    x = numpy.random.default_rng(30).uniform(-1, 1, shape).astype(numpy.float32)
    return path, convert(path, {"x": torch.tensor(x, device="cuda")}, "cuda"), {"x": x}, names


def models(work, public):
    """Name to a function that makes the model: what Kiln reads, a PyTorch function, inputs by name, names of the outputs."""
    at = lambda name: os.path.join(work, name)
    recorded = lambda name: os.path.join(public, f"{name}-0")
    return {
        "MiniLM shape, 1x128": lambda: bert(at("minilm-shape"), 384, 6, 12, 1536, 128),
        "BERT-large shape, 1x384": lambda: bert(at("bert-large-shape"), 1024, 24, 16, 4096, 384),
        "ResNet-50 shape, 1x3x224x224": lambda: picture(resnet50(at("resnet50-shape.onnx")), (1, 3, 224, 224)),
        "PP-OCRv6 rec, 1x3x48x320": lambda: picture(at("rec.onnx"), (1, 3, 48, 320), recorded("rec")),
        "PP-OCRv6 det, 1x3x640x640": lambda: picture(at("det.onnx"), (1, 3, 640, 640), recorded("det")),
    }


def latency(function, inputs):
    """Median milliseconds from the call until the device is idle."""
    for _ in range(5):
        function(*inputs)
    torch.cuda.synchronize()
    times, end = [], time.perf_counter() + 1
    while len(times) < 20 or time.perf_counter() < end:
        start = time.perf_counter()
        function(*inputs)
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def part(name, what, work, public, out):
    full_precision()
    source, function, inputs, outputs = models(work, public)[name]()
    on_device = [torch.tensor(value, device="cuda") for value in inputs.values()]
    report = {}
    with torch.no_grad():
        if what == "eager":
            results = function(*on_device)
            paths = {"source": source, "inputs": source + ".in.npz", "outputs": source + ".out.npz"}
            numpy.savez(paths["inputs"], **inputs)
            numpy.savez(paths["outputs"], **{key: value.cpu().numpy() for key, value in zip(outputs, results)})
            report = {**paths, "eager_ms": latency(function, on_device)}
            if "x" in inputs:
                # PyTorch may prefer the other layout for convolutions.
                function.to(memory_format=torch.channels_last)
                last = [x.to(memory_format=torch.channels_last) for x in on_device]
                report["eager_channels_last_ms"] = latency(function, last)
        else:
            compiled = torch.compile(function, dynamic=False, mode="max-autotune")
            start = time.time()
            compiled(*on_device)
            torch.cuda.synchronize()
            report = {"compile_s": time.time() - start, "max_autotune_ms": latency(compiled, on_device)}
    with open(out, "w") as file:
        json.dump(report, file)


def within(seconds, command, **options):
    """Runs a command; its standard output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(seconds, 1), **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])}: {(done.stdout + done.stderr)[-600:]}")
    return done.stdout


def child(arguments, out, seconds, environment):
    within(seconds, [sys.executable, *arguments], env={**os.environ, **environment})
    with open(out) as file:
        return json.load(file)


def kiln_times(kiln, row, device, home):
    """Builds with an empty kernel cache, compares with PyTorch's outputs, measures."""
    major, minor = torch.cuda.get_device_capability()
    target = f"sm_{major}{minor}" + ("a" if major == 9 else "")
    engine, environment = row["source"] + ".kiln", {**os.environ, "KILN_HOME": home}
    inputs = numpy.load(row["inputs"])
    profile = []
    if row["source"].endswith(".onnx"):
        for name in inputs:
            shape = "x".join(map(str, inputs[name].shape))
            profile += ["--profile", f"{name}={shape}:{shape}"]
    build = json.loads(within(PART_SECONDS, [kiln, "build", row["source"], "-o", engine, "--target", target, *profile, "--json"], env=environment))
    row["build_s"] = build["total_ms"] / 1e3
    bench = json.loads(within(PART_SECONDS, [kiln, "bench", engine, "-i", row["inputs"], "--device", device, "--duration", "1", "--json"], env=environment))
    row.update({"kiln_ms": bench["compute"]["median"], "enqueue_ms": bench["enqueue"]["median"], "warnings": bench["warnings"]})
    tolerances = ["--rtol", str(RTOL), "--atol", str(ATOL)]
    within(PART_SECONDS, [kiln, "compare", engine, "-i", row["inputs"], "-e", row["outputs"], *tolerances, "--device", device], env=environment)
    row["agrees"] = True


def main(kiln, kernels_on_gpu, public, work, out, device="cuda:0"):
    started = time.time()
    os.makedirs(work, exist_ok=True)
    # Compilation counts: both sides start with empty caches.
    environment = {"TORCHINDUCTOR_CACHE_DIR": os.path.join(work, f"inductor-{os.getpid()}")}
    report = {"device": device, **versions(), "rtol": RTOL, "atol": ATOL, "rows": [], "decode": None}

    def attempt(row, what, work_):
        try:
            work_()
        except (RuntimeError, subprocess.TimeoutExpired, OSError, KeyError) as error:
            late = isinstance(error, subprocess.TimeoutExpired)
            row.setdefault("errors", {})[what] = f"not done after {error.timeout:.0f} s" if late else str(error)[-600:]
        shown = {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}
        print(row["name"], what, shown, row.get("errors", {}).get(what, ""), flush=True)
        with open(out, "w") as file:
            json.dump(report, file, indent=1)

    def left():
        return min(PART_SECONDS, ALL_SECONDS - (time.time() - started))

    result = os.path.join(work, "part.json")
    here = os.path.abspath(__file__)
    for name in models(work, public):
        row = {"name": name}
        report["rows"].append(row)
        eager = [here, "part", name, "eager", work, public, result]
        attempt(row, "eager", lambda: row.update(child(eager, result, left(), environment)))
        if "source" in row:
            attempt(row, "kiln", lambda: kiln_times(kiln, row, device, f"{row['source']}.home-{os.getpid()}"))
    row = {"name": "decode"}
    report["decode"] = row
    decode = [os.path.join(os.path.dirname(here), "networks.py"), kernels_on_gpu, result, "decode", device]
    attempt(row, "decode", lambda: row.update(child(decode, result, left(), environment)["rows"][0]))
    for row in report["rows"]:
        compiled = [here, "part", row["name"], "compiled", work, public, result]
        attempt(row, "max-autotune", lambda: row.update(child(compiled, result, left(), environment)))
    # That a peer's compilation takes too long says nothing of Kiln.
    failed = [row["name"] for row in [*report["rows"], report["decode"]] if row.get("errors", {}).keys() - {"max-autotune"}]
    print(f"{len(report['rows'])} models and a decoding step, {time.time() - started:.0f} s; failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(part(*sys.argv[2:]) if sys.argv[1] == "part" else main(*sys.argv[1:]))
