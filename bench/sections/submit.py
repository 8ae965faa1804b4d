"""Time from `rsctl submit` to the first finished step, on idle workers (limit: 1.5 s)."""

import json
import subprocess
import time

from .common import Failed, cluster, deadline, environment, output, table, temporary_folder

JOB = """\
[job]
name = "first-step"
output-dir = "{out}"
[resources]
world-size = 2
[model]
kind = "lstm"
[data]
kind = "sine"
[training]
batch-size = 128
max-steps = 20
validate-every-epochs = 0
[checkpoint]
every-steps = 1000000
"""


def first_step(context, master, job):
    """Seconds from starting rsctl until `watch` shows a finished step."""
    started = time.monotonic()
    submitted = json.loads(output([context["bin"] / "rsctl", "submit", "--json", "--master", master, job]))
    watch = subprocess.Popen(
        [context["bin"] / "rsctl", "watch", "--json", "--master", master, submitted["job_id"]],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(), stdin=subprocess.DEVNULL,
    )
    seconds = None
    with deadline(watch):
        for line in watch.stdout:
            status = json.loads(line)
            if seconds is None and status["step"] >= 1:
                seconds = time.monotonic() - started
    if watch.wait() != 0 or seconds is None:
        raise Failed(f"{submitted['job_id']} did not succeed")
    return seconds


def measure(context):
    with temporary_folder() as folder, cluster(context, folder) as (master, _):
        job = folder / "job.toml"
        job.write_text(JOB.format(out=folder / "runs"))
        first_step(context, master, job)  # warms the page cache
        seconds = [first_step(context, master, job) for _ in range(5)]
    table(["submit to the first finished step", "seconds"],
          [["median of 5", f"{context['median'](seconds):.2f}"], ["slowest", f"{max(seconds):.2f}"]])
    return seconds
