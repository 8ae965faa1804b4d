"""Jobs on a real SLURM with two nodes on this machine: from the moment at which it grants the nodes to the
first finished training step (limit: 3 s), and from the job's end until SLURM has its nodes back (limit:
10 s). Once as `sbatch deploy/slurm/rustspeed.sbatch`, once as `rsctl submit --slurm`, in turns. Needs root and
Debian's SLURM packages (`make setup` installs them)."""

import os
import re
import struct
import subprocess
import time
from contextlib import contextmanager
from datetime import datetime

from .common import Failed, cluster, environment, output, short_job, table, temporary_folder

ROUNDS = 5
FIRST_STEP_LIMIT = 3
RELEASE_LIMIT = 10
DEADLINE = 60


@contextmanager
def slurm(context, folder):
    """A cluster of two nodes, whose clients find it by SLURM_CONF; gives the controller's log."""
    tool, home = context["root"] / "tests/tools/slurm-cluster.sh", folder / "c"
    # Not by `finish`, which leaves nothing running: here that is the point.
    up = subprocess.run([tool, "up", home], env=environment(SC_NODES="2", SC_GPUS="0"), timeout=DEADLINE,
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if up.returncode != 0:
        raise Failed(f"no SLURM could be started: {up.stderr[-3000:]}")
    os.environ["SLURM_CONF"] = str(home / "slurm.conf")
    try:
        yield home / "log" / "slurmctld.log"
    finally:
        del os.environ["SLURM_CONF"]
        subprocess.run([tool, "down", home], check=False)


def sbatch(context, job):
    script = context["root"] / "deploy/slurm/rustspeed.sbatch"
    path = f"{context['bin']}:{environment()['PATH']}"
    output(["sbatch", "--nodes=2", "--cpus-per-task=1", script, job], environment(PATH=path), cwd=job.parent)


def submit(context, job, master):
    output([context["bin"] / "rsctl", "submit", "--slurm", "--nodes", "2", "--master", master, job])


def queue():
    """SLURM's numbers of the jobs that hold nodes, or wait for some."""
    return output(["squeue", "--noheader", "--format=%i"]).split()


def wait_for(what, found, every):
    until = time.monotonic() + DEADLINE
    while time.monotonic() < until:
        value = found()
        if value:
            return value
        time.sleep(every)
    raise Failed(f"waited {DEADLINE} s for {what}")


def granted(log, number):
    """When the controller gave the job its nodes: StartTime in the job's record has whole seconds only."""
    line = re.search(rf"^\[(\S+)\] .*(?:Started|Allocate) JobId={number} ", log.read_text(), re.MULTILINE)
    if not line:
        raise Failed(f"{log} does not tell the start of job {number}")
    return datetime.fromisoformat(line[1]).timestamp()


def first_step(run):
    """The wall time of the first record of TensorBoard's file after that of its version: rank 0 writes
    it when the first step is done. A record is its length, a checksum, an Event, a checksum; an Event
    begins with its time."""
    (events,) = run.glob("tensorboard/events.*")
    data = events.read_bytes()
    (version,) = struct.unpack_from("<Q", data)
    return struct.unpack_from("<d", data, 8 + 4 + version + 4 + 8 + 4 + 1)[0]


def seconds(log, runs, start):
    """Of one job: from its nodes to its first step, and from its end to its nodes' return."""
    before = set(runs.glob("*"))
    start()
    (number,) = wait_for("the job in SLURM's queue", queue, 0.05)
    ends = lambda: [path for path in runs.glob("*/summary.json") if path.parent not in before]
    # Rarely: this machine's cores are the nodes'.
    (summary,) = wait_for("the end of the job", ends, 0.1)
    wait_for("the nodes' return", lambda: not queue(), 0.01)
    returned = time.time()
    return {
        "first_step": first_step(summary.parent) - granted(log, number),
        "release": returned - summary.stat().st_mtime,
    }


def measure(context):
    with temporary_folder() as folder, slurm(context, folder) as log:
        runs = folder / "runs"
        runs.mkdir()
        job = folder / "job.toml"
        job.write_text(short_job("slurm", runs))
        with cluster(context, folder, workers=0) as (master, _):
            modes = {
                "sbatch rustspeed.sbatch": lambda: sbatch(context, job),
                "submit --slurm": lambda: submit(context, job, master),
            }
            results = {name: [] for name in modes}
            for number in range(ROUNDS + 1):
                for name, start in modes.items():
                    one = seconds(log, runs, start)
                    # The first warms the page cache.
                    results[name] += [one] if number else []
                    context["say"](f"bench: {name}: first step {one['first_step']:.2f} s, "
                                   f"release {one['release']:.2f} s")
    table([f"two nodes of SLURM, median of {ROUNDS}", "seconds", "slowest", "limit", ""], [
        row(context, f"{name}: {what}", [one[key] for one in rounds], limit)
        for name, rounds in results.items()
        for what, key, limit in [("nodes granted to the first step", "first_step", FIRST_STEP_LIMIT),
                                 ("the job's end to its nodes' return", "release", RELEASE_LIMIT)]
    ])
    return results


def row(context, what, found, limit):
    median = context["median"](found)
    return [what, f"{median:.2f}", f"{max(found):.2f}", limit, "" if median <= limit else "MISSED"]
