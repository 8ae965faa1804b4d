#!/bin/bash
set -euo pipefail

script=launch_multi_node.sh
deploy=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=deploy/launch_words.sh
source "$deploy/launch_words.sh"

usage() {
    cat <<TEXT
Trains on several nodes: rsctl submit --watch, in the words of a launcher of DeepSpeed. A coordinator
runs (RUSTSPEED_MASTER=HOST[:PORT], else this machine) and each node has joined it: no ssh is used.

Usage: $script MODEL STRATEGY NODES GPUS_PER_NODE BATCH EPOCHS [flags of rsctl submit]

  MODEL          $MODELS: job files in configs/launch
  STRATEGY       $STRATEGIES:
                 configs/deepspeed/ds_config_STRATEGY.json
  NODES          the first so many of hostfile.txt in this folder, or of HOSTFILE=FILE. Without such a
                 file: at most so many workers, whichever have room
  GPUS_PER_NODE  ranks of each; a rank takes a slot, which is a core as long as no job computes on GPUs
  BATCH          samples of one rank at once
  EPOCHS         passes over the data

Every node reads the data at the same path; --upload ships it. RSCTL=/path/to/rsctl names an rsctl
that is not in PATH.

Examples:
  $script lstm fsdp_stage3 4 8 8 100
  HOSTFILE=hosts.txt $script cnn ddp 2 4 32 10 --upload
  $script gru ddp 2 1 16 5 --master 192.168.1.100
TEXT
}

# choose_nodes NODES GPUS_PER_NODE: sets `where`.
choose_nodes() {
    local hostfile=${HOSTFILE:-hostfile.txt}
    if [[ -n ${HOSTFILE:-} || -e $hostfile ]]; then
        where=(--hostfile "$hostfile" --num-nodes "$1" --num-gpus "$2")
    else
        echo "no hostfile.txt here and no HOSTFILE: at most $1 workers, whichever have room" >&2
        where=(--gpus "$(($1 * $2))" --set "resources.workers=$1")
    fi
}

case ${1:-} in -h | --help) usage && exit ;; esac
expect_words "MODEL STRATEGY NODES GPUS_PER_NODE BATCH EPOCHS" "$@"
read_model "$1"
read_strategy "$2"
read_number NODES "$3"
read_number GPUS_PER_NODE "$4"
read_number BATCH "$5"
read_number EPOCHS "$6"
refuse_mistakes
find_rsctl
choose "$5" "$6"
choose_nodes "$3" "$4"
become "$rsctl" submit "${chosen[@]}" "${where[@]}" --watch "${@:7}"
