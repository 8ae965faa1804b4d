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
if [ ! -e "$torch/lib/libtorch_cuda.so" ]; then # A PyTorch that is installed here does as well.
    python=python3
    torch=$(python3 -c 'import torch; print(torch.__path__[0])' 2>/dev/null) || true
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
losses() { "$python" tests/gpu/compare.py losses "$work/$1.csv" "$work/$2.csv"; }
noted() { # name, words that its notes must have
    grep -qF "$2" "$work/$1.json" || { echo "FAIL  $1: no note says: $2"; exit 1; }
    echo "ok    $1: $2"
}
offload=deepspeed.zero_optimization.offload_optimizer.device=cpu
# Losses of the CPU are proven against PyTorch's in `make test`. Compared with it fp32 must be fp32: cuDNN
# and cuBLAS would else round what they multiply to TF32, as PyTorch's defaults let them.
export NVIDIA_TF32_OVERRIDE=0
for precision in fp32 bf16 fp16; do
    train "cpu-$precision" cpu --set training.precision="$precision" --set training.cpu-fp16=native
    for stage in 0 1 2 3; do
        all=(--set training.precision="$precision" --set deepspeed.zero_optimization.stage="$stage")
        # All on the GPU, sums by NCCL in a world of one: on a stream of its own, and in line.
        train "cuda-$precision-$stage" cuda "${all[@]}"
        noted "cuda-$precision-$stage" "sums over ranks are NCCL's"
        losses "cpu-$precision" "cuda-$precision-$stage"
        train "inline-$precision-$stage" cuda "${all[@]}" \
            --set deepspeed.zero_optimization.overlap_comm=false
        losses "cpu-$precision" "inline-$precision-$stage"
        # The host keeps masters and optimizer states, and updates.
        train "offload-$precision-$stage" cuda "${all[@]}" --set "$offload"
        noted "offload-$precision-$stage" "updates and sums over ranks are the host's"
        losses "cpu-$precision" "offload-$precision-$stage"
    done
done
train alone cuda --set resources.transport=tcp
noted alone "a rank alone has nothing to sum"
losses cpu-fp32 alone
for rule in SGD Lamb Lion Adagrad; do
    train "cpu-$rule" cpu --set deepspeed.optimizer.type="$rule" --set deepspeed.optimizer.params.lr=1e-3
    train "cuda-$rule" cuda --set deepspeed.optimizer.type="$rule" --set deepspeed.optimizer.params.lr=1e-3
    losses "cpu-$rule" "cuda-$rule"
done
# Half on the GPU, the other half on the CPU from its checkpoint, and the other way around.
for pair in "cuda cpu" "cpu cuda"; do
    read -r first second <<< "$pair"
    train "half-$first" "$first" --set training.max-steps=20 --set checkpoint.dir="$work/root-$first"
    train "from-$first" "$second" --set checkpoint.resume="$work/root-$first/step-00000020"
    losses cpu-fp32 "from-$first"
done
unset NVIDIA_TF32_OVERRIDE # Both have PyTorch's defaults.
for hidden in 128 512; do
    for kind in "" "$offload"; do
        name=speed-$hidden${kind:+-offloaded}
        train "$name" cuda --set model.hidden-size="$hidden" --set training.max-steps=200 \
            ${kind:+--set "$kind"}
        "$python" tests/gpu/compare.py speed "$work/$name.csv" "$hidden" "${kind:+offloaded}"
    done
done
