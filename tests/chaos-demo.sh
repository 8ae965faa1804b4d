#!/usr/bin/env bash
# Kills a trainer, a worker and the coordinator of a running job with SIGKILL, one after the other,
# and shows that the job ends with exactly the numbers of a run that was left alone. Takes half a
# minute. Uses the binaries of RUSTSPEED_BIN_DIR (default: target/debug, see `make build`), a
# temporary folder and free ports; kills nothing that it did not start.
set -euo pipefail
export LC_ALL=C

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${RUSTSPEED_BIN_DIR:-${CARGO_TARGET_DIR:-$root/target}/debug}
readonly steps=3000 every=100
# No wait of this script is longer.
readonly patience_ms=120000

folder=$(mktemp -d "${TMPDIR:-/tmp}/rustspeed-chaos-XXXXXX")
declare -A daemons=()

milliseconds() {
    local now=$EPOCHREALTIME
    echo $((${now/./} / 1000))
}
started=$(milliseconds)

seconds() {
    printf '%d.%d' $(($1 / 1000)) $(($1 % 1000 / 100))
}

say() {
    printf '[%5s s] %s\n' "$(seconds $(($(milliseconds) - started)))" "$*"
}

fail() {
    echo "chaos-demo: FAILED: $*" >&2
    local log
    for log in "$folder"/*.log; do
        [ -e "$log" ] || continue
        echo "--- the end of $(basename "$log")" >&2
        tail -n 15 "$log" >&2
    done
    exit 1
}

clean_up() {
    local pid
    for pid in "${daemons[@]}"; do
        kill -9 "$pid" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    # The trainers die with their workers, and may still be writing.
    for _ in {1..50}; do
        rm -rf "$folder" 2>/dev/null && return
        sleep 0.1
    done
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME PROGRAM ARGUMENTS...: a daemon that ends when this script does, however that ends: its
# standard input is a pipe that only we hold open.
mkfifo "$folder/life"
exec 9<>"$folder/life"
start() {
    local name=$1
    shift
    "$@" --exit-with-stdin <"$folder/life" >>"$folder/$name.out" 2>>"$folder/$name.log" 9>&- &
    daemons[$name]=$!
}

# kill_9 NAME: and its trainers die with it.
kill_9() {
    local pid=${daemons[$1]}
    unset "daemons[$1]"
    kill -9 "$pid"
    { wait "$pid" || true; } 2>/dev/null
}

start_coordinator() {
    : >"$folder/coordinator.out"
    start coordinator "$bin/coordinator" serve --listen "$1" --data-dir "$folder/coordinator"
    wait_until "the coordinator listens" listens
}

listens() {
    master=$(sed -n 's/^listening //p' "$folder/coordinator.out")
    [ -n "$master" ]
}

start_worker() {
    start "$1" "$bin/worker" join --master "$master" --name "$1" --slots 1 \
        --state-dir "$folder/$1" --trainer "$bin/trainer"
}

rsctl() {
    "$bin/rsctl" "$@" --master "$master" 2>>"$folder/rsctl.log"
}

# wait_until WHAT COMMAND...: a state is waited for, never a time.
wait_until() {
    local what=$1 until=$(($(milliseconds) + patience_ms))
    shift
    until "$@"; do
        [ "$(milliseconds)" -lt "$until" ] || fail "waited $(seconds $patience_ms) s until $what"
        sleep 0.03
    done
}

# look: what `rsctl status` says of the job now; no answer is no news.
look() {
    rsctl status --json "$job" >"$folder/new" && mv "$folder/new" "$folder/status" || return 1
    state=$(field state)
    attempt=$(field attempt)
    step=$(field step)
    case $state in
    failed | cancelled) fail "the job has $state: $(field reason)" ;;
    esac
}

# field KEY: of the job itself, which JSON shows at the first level.
field() {
    sed -n "s/^  \"$1\": \"\{0,1\}\([^\"]*[^\",]\)\"\{0,1\},\{0,1\}\$/\1/p" "$folder/status"
}

pid_of_rank() {
    sed -n 's/^      "pid": \([0-9]*\).*/\1/p' "$folder/status" | sed -n "$(($1 + 1))p"
}

worker_of_rank() {
    sed -n 's/^      "worker": "\([^"]*\)".*/\1/p' "$folder/status" | sed -n "$(($1 + 1))p"
}

# The step of the checkpoint that the newest attempt began with; null before its first step.
resumed_at() {
    sed -n 's/^      "resumed_at_step": \([0-9a-z]*\).*/\1/p' "$folder/status" | tail -n 1
}

submit() {
    job=$(rsctl submit "$folder/job.toml") || fail "submit: $(tail -n 3 "$folder/rsctl.log")"
}

succeeded() {
    look && [ "$state" = succeeded ]
}

running_at() {
    look || return 1
    [ "$state" != succeeded ] || fail "the job ended before it could be disturbed"
    [ "$state" = running ] && [ "$step" -ge "$1" ]
}

# goes_on ATTEMPT: it has made steps of its own.
goes_on() {
    look && [ "$attempt" -ge "$1" ] && [ "$(resumed_at)" != null ] && [ "$step" -gt "$(resumed_at)" ]
}

workers_ready() {
    [ "$(rsctl workers --json | grep -c '"state": "ready"')" = "$1" ]
}

# With what the workers told of their trainers, while there are any.
answers_with_workers() {
    workers_ready 2 && look && { [ "$state" != running ] || [ -n "$(pid_of_rank 1)" ]; }
}

final_loss() {
    sed -n 's/^    "final_loss": \(.*[^,]\),\{0,1\}$/\1/p' "$folder/status"
}

# Without the columns that are times.
timeless_steps() {
    cut -d, -f1-6 "$(field output_dir)/metrics/steps.csv"
}

for program in coordinator worker trainer rsctl; do
    [ -x "$bin/$program" ] || fail "$bin/$program is missing: run \`make build\` first"
done
cat >"$folder/job.toml" <<JOB
[job]
name = "chaos"
seed = 7
output-dir = "$folder/runs"
[resources]
world-size = 2
[model]
kind = "lstm"
hidden-size = 16
num-layers = 2
dropout = 0.1
[data]
kind = "sine"
samples = 640
validation-samples = 64
window = 20
[training]
epochs = 1000
early-stopping = 0
batch-size = 32
max-steps = $steps
[deepspeed.zero_optimization]
stage = 2
[checkpoint]
every-steps = $every
JOB

start_coordinator 127.0.0.1:0
start_worker anna
start_worker bert
wait_until "both workers are ready" workers_ready 2
say "a coordinator at $master and the workers anna and bert, one slot each"

submit
say "job $job: 2 ranks, $steps steps, a checkpoint every $every; it is left alone"
wait_until "the undisturbed job has succeeded" succeeded
expected_loss=$(final_loss)
timeless_steps >"$folder/expected.csv"
say "it has succeeded; its final loss is $expected_loss"

submit
say "job $job: the same again"

wait_until "a tenth is done" running_at $((steps / 10))
victim=$(pid_of_rank 1)
worker=$(worker_of_rank 1)
parent=$(awk '{ print $4 }' "/proc/$victim/stat") || fail "process $victim is gone"
[ "$parent" = "${daemons[$worker]}" ] || fail "process $victim is no trainer of $worker"
say "step $step: kill -9 of rank 1's trainer (process $victim on $worker)"
at=$(milliseconds)
kill -9 "$victim"
wait_until "the job goes on after the trainer's death" goes_on 2
trainer_took=$(($(milliseconds) - at))
say "attempt $attempt trains again, from the checkpoint of step $(resumed_at)"

wait_until "four tenths are done" running_at $((steps * 4 / 10))
worker=$(worker_of_rank 0)
say "step $step: kill -9 of worker $worker, which runs rank 0; it is started again at once"
at=$(milliseconds)
kill_9 "$worker"
start_worker "$worker"
wait_until "the job goes on after the worker's death" goes_on 3
worker_took=$(($(milliseconds) - at))
say "attempt $attempt trains again, from the checkpoint of step $(resumed_at)"

wait_until "seven tenths are done" running_at $((steps * 7 / 10))
trainers="$(pid_of_rank 0) $(pid_of_rank 1)"
say "step $step: kill -9 of the coordinator; it is started again on its store"
at=$(milliseconds)
kill_9 coordinator
start_coordinator "$master"
wait_until "the coordinator is in charge again" answers_with_workers
coordinator_took=$(($(milliseconds) - at))
[ "$attempt" = 3 ] || fail "the coordinator's death broke an attempt off: attempt $attempt"
if [ "$state" = running ]; then
    now="$(pid_of_rank 0) $(pid_of_rank 1)"
    [ "$now" = "$trainers" ] || fail "trainers $trainers became $now"
fi
say "both workers are back, and the trainers never stopped: attempt $attempt is at step $step"

wait_until "the disturbed job has succeeded" succeeded
loss=$(final_loss)
timeless_steps >"$folder/found.csv"
[ "$attempt" = 3 ] || fail "$attempt attempts, expected 3"
[ "$loss" = "$expected_loss" ] || fail "the final loss is $loss, undisturbed $expected_loss"
cmp -s "$folder/expected.csv" "$folder/found.csv" ||
    fail "steps.csv differs: $(diff "$folder/expected.csv" "$folder/found.csv" | head -n 6)"
say "it has succeeded; its final loss is $loss"
cat <<END

killed       until                                  seconds
trainer      the next attempt trained                $(seconds $trainer_took)
worker       the next attempt trained                $(seconds $worker_took)
coordinator  it answered and both workers were back  $(seconds $coordinator_took) (training never stopped)

The same final loss as undisturbed, $loss; $((steps + 1)) equal lines of steps.csv.
END
