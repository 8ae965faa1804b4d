"""What a launcher costs: time to the first line of a script on two ranks, over that of the script by itself.
Ours beside torchrun, in turns, with the same Python."""

import subprocess
import time

from .common import Failed, deadline, environment, table, temporary_folder

ROUNDS = 7


def first_line(command, env):
    started = time.monotonic()
    process = subprocess.Popen([str(part) for part in command], env=env, stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    with deadline(process), process.stdout as lines:
        line = lines.readline()
        passed = time.monotonic() - started
        lines.read()
        code = process.wait()
    if line != "here\n" or code != 0:
        raise Failed(f"{' '.join(map(str, command))} said {line!r} and ended with {code}")
    return passed


def measure(context):
    bin_dir = context["venv"] / "bin"
    env = environment(PATH=f"{bin_dir}:{environment()['PATH']}")
    with temporary_folder() as folder:
        script = folder / "here.py"
        # One write a line: torchrun's ranks share a pipe, and `print` writes the text and its end apart.
        script.write_text("import os\nos.write(1, b'here\\n')\n")
        commands = {
            "python": [bin_dir / "python", script],
            "rsctl launch": [context["bin"] / "rsctl", "launch", "--nproc", "2", script],
            "torchrun": [bin_dir / "torchrun", "--standalone", "--nproc-per-node", "2", script],
        }
        results = {name: [] for name in commands}
        for number in range(ROUNDS + 1):
            for name, command in commands.items():
                passed = first_line(command, env)
                # The first warms the page cache.
                results[name] += [passed] if number else []
    alone, ours, peer = (context["median"](found) for found in results.values())
    table([f"first line of a script, median of {ROUNDS}", "seconds", "over the script's own", "limit, s", ""], [
        ["python here.py", f"{alone:.2f}", "", "", ""],
        ["rsctl launch --nproc 2 here.py", f"{ours:.2f}", f"{ours - alone:.2f}", f"torchrun's {peer - alone:.2f}",
         "" if ours <= peer else "MISSED"],
        ["torchrun --standalone --nproc-per-node 2 here.py", f"{peer:.2f}", f"{peer - alone:.2f}", "", ""],
    ])
    return results
