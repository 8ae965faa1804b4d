"""What the sections share: running a command, one clean environment, tables."""

import csv
import ctypes
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
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


class Failed(Exception):
    """A measurement that could not be made; the other sections go on."""


def children():
    """Processes by their parent."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it has ended meanwhile
            found.setdefault(parent, []).append(int(entry.name))
    return found


def descendants(pid):
    """Every process below one of ours: launchers put theirs into sessions of their own."""
    by_parent, found, todo = children(), [], [pid]
    while todo:
        below = by_parent.get(todo.pop(), [])
        found += below
        todo += below
    return found


def adopt_orphans():
    """From now on a process below us whose parent ends becomes our child."""
    PR_SET_CHILD_SUBREAPER = 36
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def kill_tree(process):
    kill([process.pid, *descendants(process.pid)])


def own_children():
    return set(children().get(os.getpid(), []))


def end_leftovers(before):
    """What a command left running became our child; it must not disturb the next one. What a
    daemon of `cluster` starts meanwhile is the daemon's child, not ours."""
    for pid in own_children() - before:
        kill([*descendants(pid), pid])
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            pass


@contextmanager
def deadline(process, seconds=60):
    """Ends a process that we read from, should it say nothing more."""
    timer = threading.Timer(seconds, kill_tree, [process])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def finish(command, env, timeout, cwd=None):
    """Runs a command to its end: (exit code, stdout, stderr). One that takes too long, or that is
    interrupted, leaves nothing behind."""
    command = [str(part) for part in command]
    before = own_children()
    process = subprocess.Popen(command, env=env, cwd=cwd, text=True, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill_tree(process)
        stderr = process.communicate()[1]
        raise Failed(f"{' '.join(command)} did not end within {timeout} s\n{stderr[-3000:]}") from None
    except BaseException:
        kill_tree(process)
        process.wait()
        raise
    finally:
        end_leftovers(before)
    return process.returncode, stdout, stderr


def output(command, env=None, timeout=300, cwd=None):
    """The command's stdout; its stderr is shown only when it fails."""
    code, stdout, stderr = finish(command, env or environment(), timeout, cwd)
    if code != 0:
        raise Failed(f"{' '.join(map(str, command))} ended with {code}\n{stderr[-3000:]}")
    return stdout


def peer_line(command, env):
    """A peer's first JSON line. DeepSpeed now and then crashes on its way out (`terminate called
    without an active exception`): what it had measured counts, and nothing measured is tried again."""
    for _ in range(3):
        code, stdout, stderr = finish(command, env, 300)
        lines = json_lines(stdout)
        if lines:
            return lines[0]
    raise Failed(f"{' '.join(map(str, command))} ended with {code}\n{stderr[-3000:]}")


def json_lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def short_job(name, out):
    """The text of a job that is over soon: what is measured is around its 20 steps."""
    return f"""\
[job]
name = "{name}"
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


def run_job(context, folder, text, *flags):
    """The final status of the job that `text` describes, run on this machine."""
    job = folder / "job.toml"
    job.write_text(text)
    return json.loads(output([context["bin"] / "rsctl", "run", "--json", *flags, job]))


def csv_rows(status, name):
    with open(f"{status['output_dir']}/metrics/{name}.csv") as file:
        return list(csv.DictReader(file))


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
            kill_tree(process)
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
        with deadline(coordinator):
            line = coordinator.stdout.readline()
        if not line.startswith("listening "):
            raise Failed(f"the coordinator said {line!r}: {(folder / 'coordinator.log').read_text()}")
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
    raise Failed(f"{count} workers were not ready within {deadline} s")
