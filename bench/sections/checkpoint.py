"""Checkpoints: how long training stands still for one, what it loses in all (copy, hash and write
take their share of the cores while it goes on), and how fast it is written.

Ours are the saves of a real run of 2 ranks, which goes on training meanwhile; the peer is
`torch.save` of the same state with nothing else to do, and `dd conv=fsync` of as many bytes. All
write to one file system. The write path alone (one rank, nothing training) is measured by the
example `bandwidth` of the room `checkpoint`, against a plain write and fsync.
"""

import re
import statistics

from .common import (Failed, csv_rows, environment, finish, json_lines, output, run_job, table,
                     temporary_folder)

# 9 MB and 151 MB of fp32 parameters and two moments.
HIDDEN = [256, 1024]
# Every so many steps, long enough for a save to end before the next.
EVERY = {256: 60, 1024: 16}
SAVES = 4
LIMITS = {"stall": 0.10, "write": 0.80}

JOB = """\
[job]
name = "checkpoint"
output-dir = "{out}"
[resources]
world-size = 2
[model]
kind = "lstm"
hidden-size = {hidden}
num-layers = 2
[data]
kind = "sine"
window = 8
[training]
batch-size = 8
max-steps = {steps}
validate-every-epochs = 0
[checkpoint]
every-steps = {every}
keep-last = 1
keep-best = 0
"""

COMMITTED = re.compile(r"committed checkpoint .*?step=(\d+) bytes=(\d+) stall_seconds=(\S+) save_seconds=(\S+)")


def ours(context, folder, hidden):
    """Of each save: bytes, seconds that training stood still, seconds until it was committed."""
    every = EVERY[hidden]
    status = run_job(context, folder,
                     JOB.format(out=folder / "runs", hidden=hidden, every=every, steps=every * (SAVES + 1)))
    log = open(f"{status['output_dir']}/logs/rank-0.log").read()
    saves = [dict(bytes=int(found[2]), stall_s=float(found[3]), save_s=float(found[4]))
             for found in COMMITTED.finditer(log)]
    if len(saves) != SAVES + 1:
        raise Failed(f"{len(saves)} checkpoints in the log of {status['job_id']}, not {SAVES + 1}")
    steps = [float(row["step_seconds"]) for row in csv_rows(status, "steps")]
    for save, slower in zip(saves, slowdowns(steps, every)):
        save["lost_s"] = save["stall_s"] + slower
    return saves


def slowdowns(steps, every):
    """How much longer the steps after each save took, but the last's, than those long after it."""
    windows = [steps[at:at + every] for at in range(every, len(steps), every)]
    half = every // 2
    usual = statistics.median(step for window in windows for step in window[half:])
    return [sum(window[:half]) - half * usual for window in windows]


def torch_save(context, folder, hidden):
    return json_lines(output([context["venv"] / "bin" / "python",
                              context["root"] / "bench/peers/checkpoint_torch.py", folder, hidden, SAVES]))[0]


def dd(folder):
    """Seconds of copies of the peer's file, which is in the page cache, until they are on the disk."""
    seconds = []
    for _ in range(SAVES):
        code, _, said = finish(["dd", f"if={folder}/peer.pt", f"of={folder}/copy", "bs=1M", "conv=fsync"],
                               environment(LC_ALL="C"), 300)
        copied = re.search(r"copied, (\S+) s", said)
        if code != 0 or not copied:
            raise Failed(f"dd ended with {code}: {said}")
        seconds.append(float(copied[1]))
        (folder / "copy").unlink()
    return seconds


def measure(context):
    results, rows, lines = {}, [], []
    for hidden in HIDDEN:
        rounds = []
        for _ in range(context["rounds"]):
            with temporary_folder() as folder:
                found = {"ours": ours(context, folder, hidden), "peer": torch_save(context, folder, hidden)}
                found["dd_s"] = dd(folder)
                rounds.append(found)
        results[hidden] = rounds
        row, line = summarise(context["median"], rounds)
        rows.append(row)
        lines.append(line)
    table(["training stands still", "first save ms", "later ms", "worst ms", "torch.save ms", "later/torch.save",
           "torch.save + fsync ms", "lost in all ms", "in all/(torch.save + fsync)"], rows)
    table(["written while 2 ranks train", "save ms", "MB/s", "dd fsync MB/s", "save/dd"], lines)
    results["alone"] = alone(context)
    return results


def summarise(median, rounds):
    size = rounds[0]["ours"][0]["bytes"]
    name = f"{size / 1e6:.1f} MB"
    later = [save for found in rounds for save in found["ours"][1:]]
    first = median(found["ours"][0]["stall_s"] for found in rounds)
    stall = median(save["stall_s"] for save in later)
    peer = median(seconds for found in rounds for seconds in found["peer"]["save_s"])
    durable = median(a + b for found in rounds for a, b in zip(found["peer"]["save_s"], found["peer"]["fsync_s"]))
    worst = max(save["stall_s"] for save in later)
    lost = median(save["lost_s"] for save in later if "lost_s" in save)
    row = [name, f"{first * 1e3:.2f}", f"{stall * 1e3:.2f}", f"{worst * 1e3:.2f}", f"{peer * 1e3:.1f}",
           f"{stall / peer:.3f} (wanted {LIMITS['stall']})", f"{durable * 1e3:.1f}", f"{lost * 1e3:.0f}",
           f"{lost / durable:.2f}"]
    save = median(save["save_s"] for save in later)
    limit = median(found["peer"]["bytes"] / seconds for found in rounds for seconds in found["dd_s"])
    line = [name, f"{save * 1e3:.0f}", f"{size / save / 1e6:.0f}", f"{limit / 1e6:.0f}",
            f"{size / save / limit:.2f} (wanted {LIMITS['write']})"]
    return row, line


def alone(context):
    rows, found = [], {}
    for mib in (9, 144):
        with temporary_folder() as folder:
            result = json_lines(output([context["bin"] / "examples" / "bandwidth", folder, mib, 3 + 2 * context["rounds"]]))[0]
        found[mib] = result
        rows.append([f"{mib} MiB", f"{result['save_gib_per_second']:.2f}",
                     f"{result['plain_write_fsync_gib_per_second']:.2f}",
                     f"{result['save_over_plain']:.2f} (wanted {LIMITS['write']})"])
    table(["written by one process alone", "save GiB/s", "write + fsync GiB/s", "save/plain"], rows)
    return found
