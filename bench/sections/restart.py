"""Time from kill -9 of a rank until all ranks train again, on 2 real workers (limit: 5 s)."""

import json
import os
import signal
import subprocess
import time

from .common import Failed, cluster, deadline, environment, output, table, temporary_folder

ROUNDS = 7
LIMIT = 5
# Ray Train with torchft, a prototype (ray PR#59989), replaces one worker; AWS's checkpointless
# recovery on HyperPod (2025-12) takes less than 2 minutes.
OTHERS = "Ray Train + torchft: about 5 s, HyperPod: < 120 s"

JOB = """\
[job]
name = "restart"
seed = 7
output-dir = "{out}"
[resources]
world-size = 2
[model]
kind = "lstm"
hidden-size = 16
num-layers = 2
[data]
kind = "sine"
samples = 640
validation-samples = 64
window = 20
[training]
epochs = 100000
early-stopping = 0
batch-size = 32
max-steps = 1000000
[checkpoint]
every-steps = 20
[restart]
infrastructure = 300
"""


def measure(context):
    with temporary_folder() as folder, cluster(context, folder) as (master, _):
        job = folder / "job.toml"
        job.write_text(JOB.format(out=folder / "runs"))
        rsctl = [context["bin"] / "rsctl"]
        submitted = json.loads(output([*rsctl, "submit", "--json", "--master", master, job]))
        job_id = submitted["job_id"]
        watch = subprocess.Popen(
            [*rsctl, "watch", "--json", "--master", master, job_id],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(), stdin=subprocess.DEVNULL,
        )
        try:
            with deadline(watch, 20 + 20 * ROUNDS):
                seconds = kills(watch.stdout)
        finally:
            output([*rsctl, "cancel", "--now", "--master", master, job_id])
            watch.wait(20)
    table(["kill -9 of a rank until all ranks are at a new step", "seconds", "limit", "others"],
          [[f"median of {len(seconds)}", f"{context['median'](seconds):.2f}", LIMIT, OTHERS],
           ["slowest", f"{max(seconds):.2f}", LIMIT, ""]])
    return seconds


def kills(updates):
    """Kills a rank of each attempt once it has made steps beyond its checkpoint. A step is reported
    when every rank has taken part in it."""
    seconds, killed = [], None
    for line in updates:
        status = json.loads(line)
        attempt, steps = status["attempt"], new_steps(status)
        if killed and attempt == killed[0] + 1 and steps > 0:
            seconds.append(time.monotonic() - killed[1])
            killed = None
            if len(seconds) == ROUNDS:
                return seconds
        if not killed and attempt == len(seconds) + 1 and steps > 60:
            victim = status["ranks"][attempt % 2]["pid"]
            killed = (attempt, time.monotonic())
            os.kill(victim, signal.SIGKILL)
    raise Failed(f"the job ended after {len(seconds)} of {ROUNDS} kills")


def new_steps(status):
    """Steps of the attempt that runs, beyond those that it continued from."""
    resumed = status["attempts"][-1]["resumed_at_step"] if status["attempts"] else None
    if status["state"] != "running" or not status.get("live") or resumed is None:
        return 0
    return status["live"]["step"] - resumed
