#!/bin/bash
# In a queue of SLURM; sbatch's own flags, before the script, win over these lines.
#SBATCH --job-name=rustspeed
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
# As in slurm/rustspeed.sbatch, which this becomes.
#SBATCH --signal=B:USR1@60
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm_distributed_%j.out
set -euo pipefail

script=slurm_distributed.sh
deploy=${RUSTSPEED_DEPLOY:-$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)}
if [[ ! -e $deploy/launch_words.sh && -n ${SLURM_JOB_ID:-} ]]; then
    # A node runs a copy of this file, in a folder of slurmd's. SLURM knows where it was.
    told=$(scontrol show job -o "$SLURM_JOB_ID" | sed -n 's/.* Command=\([^ ]*\).*/\1/p')
    deploy=$(dirname "$told")
fi
if [[ ! -e $deploy/launch_words.sh ]]; then
    printf 'error: no launch_words.sh in %s on %s\n\nhint: %s\n' "$deploy" "$(hostname)" \
        "sbatch --export=ALL,RUSTSPEED_DEPLOY=/path/to/deploy $script ..." >&2
    exit 78
fi
# shellcheck source=deploy/launch_words.sh
source "$deploy/launch_words.sh"

usage() {
    cat <<TEXT
Trains in an allocation of SLURM: rsctl slurm run, in the words of a launcher of DeepSpeed.

Usage: sbatch [flags of sbatch] $script MODEL STRATEGY GPUS BATCH EPOCHS [flags of rsctl slurm run]

  MODEL     $MODELS: job files in configs/launch
  STRATEGY  $STRATEGIES:
            configs/deepspeed/ds_config_STRATEGY.json
  GPUS      ranks over all nodes; each takes a CPU as long as no job computes on GPUs, so
            --nodes times --cpus-per-task must reach it (1 x 8 unless sbatch is told otherwise)
  BATCH     samples of one rank at once
  EPOCHS    passes over the data

Progress, the summary and errors go to slurm_distributed_<job>.out. rsctl must be in PATH, or named:
RSCTL=/path/to/rsctl. A job that must leave its nodes saves, and is queued again.

Examples:
  sbatch $script lstm ddp 8 16 100
  sbatch --nodes=4 --cpus-per-task=16 $script cnn fsdp_stage2 64 8 50
TEXT
}

case ${1:-} in -h | --help) usage && exit ;; esac
read_job "$@"
[[ -n ${SLURM_JOB_ID:-} ]] ||
    fail "$USAGE" "not inside a SLURM allocation" "sbatch $script $*"
choose "$4" "$5"
become bash "$deploy/slurm/rustspeed.sbatch" "${chosen[@]}" --gpus "$3" "${@:6}"
