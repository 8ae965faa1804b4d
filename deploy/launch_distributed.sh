#!/bin/bash
set -euo pipefail

script=launch_distributed.sh
deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/launch_words.sh
source "$deploy/launch_words.sh"

usage() {
    cat <<TEXT
Trains on this machine: rsctl run, in the words of a launcher of DeepSpeed.

Usage: $script MODEL STRATEGY GPUS BATCH EPOCHS [flags of rsctl run]

  MODEL     $MODELS: job files in configs/launch
  STRATEGY  $STRATEGIES:
            configs/deepspeed/ds_config_STRATEGY.json
  GPUS      ranks; each takes a slot, which is a core as long as no job computes on GPUs
  BATCH     samples of one rank at once; a step has BATCH x gradient_accumulation_steps x GPUS
  EPOCHS    passes over the data

The configurations train in bf16, which is slow on a CPU without bf16 instructions:
--set deepspeed.bf16.enabled=false. RSCTL=/path/to/rsctl names an rsctl that is not in PATH.

Examples:
  $script lstm ddp 4 16 50
  $script cnn fsdp_stage2 2 32 10 --set deepspeed.bf16.enabled=false
  $script gru fsdp_stage3 2 8 5 --json
TEXT
}

case ${1:-} in -h | --help) usage && exit ;; esac
read_job "$@"
find_rsctl
choose "$4" "$5"
become "$rsctl" run "${chosen[@]}" --gpus "$3" "${@:6}"
