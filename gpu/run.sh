#!/usr/bin/env bash
# Checks and times Kiln on a machine with an NVIDIA GPU, NVRTC and PyTorch, from what `cargo xtask gpu-pack` collected.
#
#   gpu/run.sh [STEP..]     steps, all of them unless named: doctor tests models kernels peers table sanitize
#
# Results are written to $OUT (default: gpu-out/). Each step takes a minute or two; the exit status says whether all passed.
set -u
here=$(cd "$(dirname "$0")" && pwd)
pack=$here/../gpu-pack
out=${OUT:-$here/../gpu-out}
work=${TMPDIR:-/tmp}/kiln-gpu-$(id -u)
device=${KILN_DEVICE:-cuda:0}
export KILN_HOME=${KILN_HOME:-$work/home}
mkdir -p "$out" "$work" "$KILN_HOME"
: >"$out/run.log"
tar -C "$work" -xJf "$pack/bin.tar.xz" || exit 2
for model in "$pack"/models/*.onnx.xz; do
    xz -dc "$model" >"$work/$(basename "$model" .xz)" || exit 2
done
kiln=$work/kiln
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
    local tool
    tool=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null) || {
        echo "compute-sanitizer is not installed: nothing was checked"
        return 0
    }
    # Not errors of the API: the list of a kernel's parameters is read until the driver says that there is no next one.
    timeout 180 "$tool" --tool memcheck --report-api-errors no --error-exitcode 9 "$kiln" compare "$work/magika.onnx" \
        --input "$pack/models/magika-0.in.npz" --expect "$pack/models/magika-0.out.npz" --device "$device"
}

for name in "${@:-doctor tests models kernels peers table sanitize}"; do
    for name in $name; do
        case $name in
        doctor) lines=40 step doctor doctor ;;
        tests) step tests timeout 120 "$work/on_device" ;;
        models) lines=60 step models models ;;
        kernels) lines=4 step kernels timeout 300 "$work/kernels_on_gpu" "$out/kernels.json" "$device" ;;
        peers) lines=4 step peers timeout 240 python3 "$here/peers/torch_bench.py" "$out/kernels.json" "$out/torch.json" ;;
        table) lines=90 step table python3 "$here/peers/table.py" "$out/kernels.json" "$out/torch.json" "$out/ratios" ;;
        sanitize) step sanitize sanitize ;;
        *) echo "no step is called $name"; exit 2 ;;
        esac
    done
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "failed: ${failed[*]}"
    exit 1
fi
