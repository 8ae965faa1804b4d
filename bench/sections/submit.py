"""Time from `rsctl submit` until the job runs (all ranks are connected; limit: 0.2 s) and until its first
finished step (limit: 1.5 s), on idle workers. Both hold the start of rsctl and the ranks' load of libtorch."""

import json
import subprocess
import time

from .common import Failed, cluster, deadline, environment, output, short_job, table, temporary_folder


def starts(context, master, job):
    """Seconds from starting rsctl until `watch` shows that the job runs, and a finished step."""
    started = time.monotonic()
    submitted = json.loads(output([context["bin"] / "rsctl", "submit", "--json", "--master", master, job]))
    watch = subprocess.Popen(
        [context["bin"] / "rsctl", "watch", "--json", "--master", master, submitted["job_id"]],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(), stdin=subprocess.DEVNULL,
    )
    running = step = None
    with deadline(watch):
        for line in watch.stdout:
            status = json.loads(line)
            passed = time.monotonic() - started
            if running is None and status["state"] == "running":
                running = passed
            if step is None and status["step"] >= 1:
                step = passed
    if watch.wait() != 0 or step is None:
        raise Failed(f"{submitted['job_id']} did not succeed")
    return running or step, step


def measure(context):
    with temporary_folder() as folder, cluster(context, folder) as (master, _):
        job = folder / "job.toml"
        job.write_text(short_job("first-step", folder / "runs"))
        starts(context, master, job)  # warms the page cache
        rounds = [starts(context, master, job) for _ in range(5)]
    running, step = ([one[part] for one in rounds] for part in (0, 1))
    table(["submit to", "median of 5, s", "slowest, s", "limit, s"],
          [["running", f"{context['median'](running):.2f}", f"{max(running):.2f}", "0.2"],
           ["the first finished step", f"{context['median'](step):.2f}", f"{max(step):.2f}", "1.5"]])
    return {"running": running, "first_step": step}
