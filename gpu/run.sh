#!/usr/bin/env bash
# Checks and times Kiln on a machine with an NVIDIA GPU, NVRTC and PyTorch. `cargo xtask gpu-pack` puts it beside all that it needs.
#
#   gpu-pack/run.sh [STEP..]     all steps unless some are named:
#
#   doctor    what the machine has
#   tests     the driver layer's own tests
#   fixtures  records the simulator's fixtures again; every bit must be as committed
#   checks    small and odd shapes of every kernel family, in every float type, against the reference interpreter
#   models    public models against what onnxruntime makes of them
#   sanitize  compute-sanitizer: memcheck on a model, memcheck and racecheck on a slice of the kernels
#   kernels   kernels at the sizes of real models, Kiln and PyTorch in turn
#   nets      whole models, Kiln and PyTorch
#   networks  encoders made in code, in f16, Kiln and PyTorch in turn
#   profile   what limits kernels of each class, by Nsight Compute
#   configs   every Config of some matrix products
#   timings   tunes networks from nothing, twice each; what was measured goes to timings.jsonl, which `gzip -9n` makes a file of crates/kiln-tune/data of
#   table     all of it as one JSON and one Markdown file
#
# Results go to $OUT (default: gpu-out/ beside the pack) as they come. A step that fails does not stop the others; the exit status says
# whether all passed. No step takes more than eight minutes.
set -u
pack=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-$pack/../gpu-out}
work=${TMPDIR:-/tmp}/kiln-gpu-$(id -u)
device=${KILN_DEVICE:-cuda:0}
export KILN_HOME=${KILN_HOME:-$work/home}
mkdir -p "$out" "$work" "$KILN_HOME"
: >"$out/run.log"
mkdir -p "$work/fixtures"
tar -C "$work" -xJf "$pack/bin.tar.xz" && tar -C "$work/fixtures" -xJf "$pack/fixtures.tar.xz" || exit 2
for model in "$pack"/models/*.onnx.xz; do
    xz -dc "$model" >"$work/$(basename "$model" .xz)" || exit 2
done
kiln=$work/kiln
kernels=$work/kernels_on_gpu
peers=$pack/peers
failed=()

step() { # NAME COMMAND..: runs a step, shows its last lines, adds all of them to run.log
    local name=$1 start=$SECONDS verdict=ok
    shift
    "$@" >"$work/step.log" 2>&1 || { verdict=FAILED; failed+=("$name"); }
    echo "== $name" | tee -a "$out/run.log"
    cat "$work/step.log" >>"$out/run.log"
    tail -n "${lines:-12}" "$work/step.log" | cut -c1-220
    echo "-- $name: $verdict, $((SECONDS - start)) s" | tee -a "$out/run.log"
}

doctor() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.max.sm --format=csv,noheader
    "$kiln" doctor
}

fixtures() {
    local at=$work/fixtures
    python3 "$at/record.py" "$at" "$out/recorded.txt" &&
        python3 "$peers/fixtures.py" "$out/recorded.txt" "$at/recorded.txt" "$at/simulated.txt" "$out/fixtures.json"
}

models() {
    local status=0 name recording
    for recording in "$pack"/models/*.in.npz; do
        name=$(basename "$recording" .in.npz)
        echo "$name"
        timeout 90 "$kiln" compare "$work/${name%-*}.onnx" --input "$recording" \
            --expect "$pack/models/$name.out.npz" --device "$device" || status=1
    done
    return $status
}

sanitize() {
    local tool status=0
    tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) || {
        echo "compute-sanitizer is not installed: nothing was checked"
        return 0
    }
    checked() { # TOOL'S OPTIONS AND COMMAND..
        echo "$*"
        timeout 120 "$tool" --error-exitcode 9 --tool "$@" || status=1
    }
    # Not errors of the API: the list of a kernel's parameters is read until the driver says that there is no next one.
    checked memcheck --report-api-errors no "$kiln" compare "$work/magika.onnx" \
        --input "$pack/models/magika-0.in.npz" --expect "$pack/models/magika-0.out.npz" --device "$device"
    checked memcheck --report-api-errors no "$kernels" slice "$device"
    checked racecheck "$kernels" slice "$device"
    return $status
}

for name in "${@:-doctor tests fixtures checks models sanitize kernels nets networks profile configs timings table}"; do
    for name in $name; do
        case $name in
        doctor) lines=40 step doctor doctor ;;
        tests) step tests timeout 120 "$work/on_device" ;;
        fixtures) lines=40 step fixtures fixtures ;;
        checks) lines=4 step checks timeout 120 "$kernels" check "$out/checks.json" "$device" ;;
        models) lines=60 step models models ;;
        sanitize) lines=30 step sanitize sanitize ;;
        kernels) lines=6 step kernels timeout 470 python3 "$peers/kernels.py" "$kernels" "$out/kernels.json" "$device" ;;
        nets) lines=14 step nets timeout 470 python3 "$peers/nets.py" "$kiln" "$kernels" "$pack/models" "$work" "$out/nets.json" "$device" ;;
        networks) lines=14 step networks timeout 300 python3 "$peers/networks.py" "$kernels" "$out/networks.json" bert,vit "$device" ;;
        profile) lines=20 step profile timeout 300 python3 "$peers/ncu.py" "$kernels" "$out/profile.json" "$device" ;;
        configs) lines=40 step configs timeout 240 "$kernels" configs "$out/configs.json" "$device" ;;
        timings) lines=40 step timings timeout 470 "$kernels" tune "$out/timings.json" "$device" 60 resnet50 bert_large llama_layer llama_small ;;
        table) lines=400 step table python3 "$peers/table.py" "$out" ;;
        *) echo "no step is called $name"; exit 2 ;;
        esac
    done
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
