#!/usr/bin/env python3
"""Side by side with what a user would pick instead, on this machine, in one run.

    make bench                                  # everything, 3 rounds
    make bench BENCH_ARGS="--only lstm --rounds 5"

Rounds are interleaved (ours, peer, ours, peer, ...), medians are compared, ratios are what counts:
absolute times move with the machine. The peers live in a venv in the cache (3 GB the first time).
A section that fails is reported and the others go on; the exit code is 1 then.
The results go to stdout as tables and, with every single measurement, to bench/results/*.json.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from sections.common import adopt_orphans  # noqa: E402
from sections import (  # noqa: E402
    checkpoint, collectives, control, daemons, launch, lengths, lstm, restart, slurm, submit, zero,
)

ROOT = Path(__file__).resolve().parent.parent
SECTIONS = {
    "lstm": lstm.measure,
    "zero": zero.measure,
    "checkpoint": checkpoint.measure,
    "collectives": collectives.measure,
    "submit": submit.measure,
    "restart": restart.measure,
    "launch": launch.measure,
    "slurm": slurm.measure,
    "daemons": daemons.measure,
    "control": control.measure,
    "lengths": lengths.measure,
}


def say(text):
    print(text, file=sys.stderr, flush=True)


def peers_venv():
    cache = os.environ.get("RUSTSPEED_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "rustspeed"
    )
    venv = Path(cache) / "peers-venv"
    if not (venv / "bin" / "deepspeed").exists():
        say(f"bench: installing the peers into {venv} (3 GB, some minutes)")
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        requirements = ROOT / "bench" / "peers" / "requirements.txt"
        subprocess.run(
            [str(venv / "bin" / "pip"), "install", "-q", "-r", str(requirements), "setuptools"],
            check=True,
        )
    return venv


def describe_machine():
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "load_before": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bin-dir", type=Path, default=ROOT / "target" / "release")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=SECTIONS, help="repeatable")
    parser.add_argument("--peers", action="store_true",
                        help="install the peers if they are not there, print their folder and stop")
    arguments = parser.parse_args()
    if arguments.peers:
        print(peers_venv())
        return
    adopt_orphans()
    context = {
        "root": ROOT,
        "bin": arguments.bin_dir.resolve(),
        "rounds": arguments.rounds,
        "median": statistics.median,
        "say": say,
    }
    sections = arguments.only or list(SECTIONS)
    if {"lstm", "checkpoint", "collectives", "launch"} & set(sections):
        context["venv"] = peers_venv()
    machine = describe_machine()
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
          f"load {machine['load_before']:.2f}, commit {machine['commit']}, {machine['date']}")
    if machine["load_before"] > 0.5:
        say("bench: the machine is not idle; trust the ratios less")
    results, failed, durations = {"machine": machine}, [], []
    for name in sections:
        say(f"bench: {name}")
        print(f"\n## {name}", flush=True)
        started = time.monotonic()
        try:
            results[name] = SECTIONS[name](context)
        except Exception as error:  # the other sections are worth their own numbers
            traceback.print_exc()
            failed.append(name)
            print(f"FAILED: {error}", flush=True)
            results[name] = {"failed": str(error)}
        durations.append((name, time.monotonic() - started))
        print(f"({name} took {durations[-1][1]:.0f} s)", flush=True)
    results["durations"] = dict(durations)
    folder = ROOT / "bench" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps(results, indent=1))
    total = sum(seconds for _, seconds in durations)
    print(f"\n{len(sections)} sections in {total / 60:.1f} minutes: "
          + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in durations), flush=True)
    say(f"bench: every measurement is in {path}")
    if failed:
        say(f"bench: not measured: {', '.join(failed)}")
        sys.exit(1)


if __name__ == "__main__":
    main()
