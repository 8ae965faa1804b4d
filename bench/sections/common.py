"""What the sections share: running a command, one clean environment, tables."""

import json
import os
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

# glibc gives an LSTM's workspaces back to the system after every step and faults them in again;
# with these the peers keep them too. `worker` sets the same for its trainers.
TUNED_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4000000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000000",
    "MALLOC_TOP_PAD_": "268435456",
}


def environment(**extra):
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "RUSTSPEED_", "OMP_"))}
    return keep | {"OMP_NUM_THREADS": "1"} | extra


def output(command, env=None, timeout=600, cwd=None):
    """The command's stdout; its stderr is shown only when it fails."""
    done = subprocess.run(
        [str(part) for part in command], env=env or environment(), cwd=cwd,
        capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise SystemExit(f"bench: {' '.join(map(str, command))} ended with {done.returncode}\n{done.stderr[-3000:]}")
    return done.stdout


def peer_line(command, env):
    """A peer's first JSON line. DeepSpeed now and then crashes on its way out (`terminate called
    without an active exception`): what it had measured counts, and nothing measured is tried again."""
    for _ in range(3):
        done = subprocess.run([str(part) for part in command], env=env, capture_output=True, text=True,
                              timeout=600, stdin=subprocess.DEVNULL)
        lines = json_lines(done.stdout)
        if lines:
            return lines[0]
    raise SystemExit(f"bench: {' '.join(map(str, command))} ended with {done.returncode}\n{done.stderr[-3000:]}")


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def table(header, rows):
    widths = [max(len(str(row[i])) for row in [header, *rows]) for i in range(len(header))]
    for number, row in enumerate([header, *rows]):
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    print(flush=True)


@contextmanager
def temporary_folder():
    with tempfile.TemporaryDirectory(prefix="rustspeed-bench-") as folder:
        yield Path(folder)


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def cluster(context, folder, workers=2, slots=1):
    """A coordinator and idle workers on loopback; gives (master address, processes by name)."""
    processes = {}
    try:
        coordinator = subprocess.Popen(
            [context["bin"] / "coordinator", "serve", "--listen", "127.0.0.1:0", "--data-dir", folder / "coordinator"],
            stdout=subprocess.PIPE, stderr=(folder / "coordinator.log").open("w"), text=True,
            env=environment(), stdin=subprocess.DEVNULL,
        )
        processes["coordinator"] = coordinator
        line = coordinator.stdout.readline()
        if not line.startswith("listening "):
            raise SystemExit(f"bench: the coordinator said {line!r}: {(folder / 'coordinator.log').read_text()}")
        master = line.split()[1]
        for number in range(workers):
            processes[f"worker-{number}"] = subprocess.Popen(
                [context["bin"] / "worker", "join", "--master", master, "--name", f"worker-{number}",
                 "--slots", str(slots), "--state-dir", folder / f"worker-{number}"],
                stdout=subprocess.DEVNULL, stderr=(folder / f"worker-{number}.log").open("w"),
                env=environment(), stdin=subprocess.DEVNULL,
            )
        wait_for_workers(context, master, workers)
        yield master, processes
    finally:
        for process in reversed(list(processes.values())):
            stop(process)


def wait_for_workers(context, master, count, deadline=20):
    until = time.monotonic() + deadline
    while time.monotonic() < until:
        rows = json.loads(output([context["bin"] / "rsctl", "workers", "--json", "--master", master]))
        if sum(row["state"] == "ready" for row in rows) >= count:
            return
        time.sleep(0.05)
    raise SystemExit(f"bench: {count} workers were not ready within {deadline} s")
