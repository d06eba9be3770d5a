"""Median latency of a model under onnxruntime: ort_bench.py MODEL INPUTS.npz THREADS SECONDS, one JSON object on standard output."""

import json
import resource
import sys
import time

import numpy as np
import onnxruntime as ort

model, inputs, threads, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
options = ort.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
arrays = dict(np.load(inputs))
feeds = {i.name: arrays[i.name] for i in session.get_inputs()}
end = time.perf_counter() + 0.5
while time.perf_counter() < end:
    session.run(None, feeds)
times = []
end = time.perf_counter() + seconds
while time.perf_counter() < end or len(times) < 10:
    start = time.perf_counter()
    session.run(None, feeds)
    times.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"median_ms": float(np.median(times)) * 1e3, "peak_rss_bytes": peak, "version": ort.__version__}))
