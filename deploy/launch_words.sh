# What the launch scripts of this folder share: what MODEL, STRATEGY and the numbers mean, and mistakes
# that are told together. Sourced by them, with `deploy` (this folder) and `script` (its name) set.
# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034

# Exit codes are rsctl's.
readonly USAGE=2
readonly BAD_CONFIGURATION=78

readonly MODELS="lstm gru cnn"
readonly STRATEGIES="ddp (ZeRO stage 1), fsdp_stage2 (ZeRO stage 2), fsdp_stage3 (ZeRO stage 3)"
readonly LAUNCH_FILES=$deploy/../configs

mistakes=()

# fail CODE MESSAGE HINT
fail() {
    printf 'error: %s\n\nhint: %s\n' "$2" "$3" >&2
    exit "$1"
}

mistake() { mistakes+=("$1"); }

# What was wrong with the arguments, all of it.
refuse_mistakes() {
    ((${#mistakes[@]})) || return 0
    local list
    list=$(printf '\n  %s' "${mistakes[@]}")
    fail "$USAGE" "the arguments of $script cannot be:$list" "$script --help tells what each means"
}

# expect_words "NAME NAME ..." ARGUMENT...: one argument for each name, then flags of rsctl.
expect_words() {
    local names
    read -ra names <<<"$1"
    shift
    local missing=("${names[@]:$#}") after=("${@:${#names[@]}+1}")
    if ((${#missing[@]})); then
        fail "$USAGE" "no ${missing[*]}: $script takes ${names[*]}" "$script --help has examples"
    fi
    if ((${#after[@]})) && [[ ${after[0]} != -* ]]; then
        mistake "\`${after[0]}\` is one too many after ${names[-1]}; only flags of rsctl may follow"
    fi
}

# read_model WORD: sets `job`.
read_model() {
    case $1 in
        lstm | gru | cnn) job=$LAUNCH_FILES/launch/$1.toml ;;
        basic_cnn) job=$LAUNCH_FILES/launch/cnn.toml ;;
        mobilenet* | efficientnet* | vgg* | resnet* | cnn_lstm | cnn-lstm | ensemble)
            mistake "MODEL \`$1\` does not exist here yet; there are: $MODELS" ;;
        *) mistake "MODEL \`$1\` is unknown; there are: $MODELS" ;;
    esac
}

# read_strategy WORD: sets `strategy`, a DeepSpeed configuration.
read_strategy() {
    case $1 in
        ddp | fsdp_stage2 | fsdp_stage3) strategy=$LAUNCH_FILES/deepspeed/ds_config_$1.json ;;
        *) mistake "STRATEGY \`$1\` is unknown; there are: $STRATEGIES" ;;
    esac
}

# read_number NAME WORD. Upper bounds are rsctl's.
read_number() {
    [[ $2 =~ ^[1-9][0-9]{0,5}$ ]] || mistake "$1 \`$2\` is no number from 1 to 999999"
}

# read_job MODEL STRATEGY GPUS BATCH EPOCHS ...: what the launchers of one machine and of SLURM take.
read_job() {
    expect_words "MODEL STRATEGY GPUS BATCH EPOCHS" "$@"
    read_model "$1"
    read_strategy "$2"
    read_number GPUS "$3"
    read_number BATCH "$4"
    read_number EPOCHS "$5"
    refuse_mistakes
}

# choose BATCH EPOCHS: sets `chosen`, the job as rsctl takes it. The strategy's file says the accumulation.
choose() {
    chosen=(
        "$(realpath "$job")"
        --set "deepspeed-config=$(realpath "$strategy")"
        --set "deepspeed.train_micro_batch_size_per_gpu=$1"
        --set "training.epochs=$2"
    )
}

# find_rsctl: sets `rsctl`.
find_rsctl() {
    rsctl=${RSCTL:-rsctl}
    command -v "$rsctl" >/dev/null ||
        fail "$BAD_CONFIGURATION" "$rsctl is not in PATH on $(hostname)" \
            "make install, or RSCTL=\$HOME/.local/bin/rsctl $script ..."
}

# become PROGRAM ARGUMENT...: tells the command that it becomes.
become() {
    printf '+' >&2
    printf ' %q' "$@" >&2
    printf '\n' >&2
    exec "$@"
}
