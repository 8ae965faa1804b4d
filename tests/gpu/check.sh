#!/usr/bin/env bash
# The checks that need a GPU, run by hand on a machine that has one. Prints a table for the lab log.
#   make setup DEVICE=cuda && tests/gpu/check.sh
# Exit codes: 0 all checked, 1 something is wrong, 77 there is no GPU: nothing was checked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cache=${RUSTSPEED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rustspeed}
torch=$(echo "$cache"/torch-2.11.0-cuda/lib/python3*/site-packages/torch)
python=$cache/torch-2.11.0-cuda/bin/python
if ! ls /proc/driver/nvidia/gpus/* /dev/nvidia[0-9]* >/dev/null 2>&1; then
    printf '\n*** no GPU: NOTHING WAS CHECKED ***\n' >&2
    exit 77
fi
[ -e "$torch/lib/libtorch_cuda.so" ] || { echo "run: make setup DEVICE=cuda" >&2; exit 1; }

cargo build --release -q -p engine --example check_gpu
cargo build --release -q -p coordinator -p worker -p trainer -p rsctl \
    --bin coordinator --bin worker --bin trainer --bin rsctl
target=${CARGO_TARGET_DIR:-target}/release
LD_LIBRARY_PATH="$torch/lib" "$target/examples/check_gpu"

work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
train() { # name, device, settings...
    local name=$1 device=$2; shift 2
    "$target/rsctl" run tests/gpu/lstm.toml --json \
        --set resources.device="$device" --set job.output-dir="$work/$name" "$@" > "$work/$name.json"
    cp "$work/$name"/*/metrics/steps.csv "$work/$name.csv"
}
# Losses of the CPU are proven against PyTorch's in `make test`.
for precision in fp32 bf16; do
    train "cpu-$precision" cpu --set training.precision="$precision"
    for stage in 0 1 2 3; do
        train "cuda-$precision-$stage" cuda --set training.precision="$precision" \
            --set deepspeed.zero_optimization.stage="$stage"
        "$python" tests/gpu/compare.py losses "$work/cpu-$precision.csv" "$work/cuda-$precision-$stage.csv"
    done
done
for hidden in 128 512; do
    train "speed-$hidden" cuda --set model.hidden-size="$hidden" --set training.max-steps=200
    "$python" tests/gpu/compare.py speed "$work/speed-$hidden.csv" "$hidden"
done
