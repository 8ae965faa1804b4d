"""How long the example jobs take from `rsctl run` to its end, on this machine's cores."""

import json
import time

from .common import output, table, temporary_folder

LIMITS = {"co2-lstm": 30, "timeseries-lstm": 120, "sine-lstm": 180}


def measure(context):
    rows, result = [], {}
    for name, limit in LIMITS.items():
        with temporary_folder() as folder:
            started = time.monotonic()
            status = json.loads(output([
                context["bin"] / "rsctl", "run", "--json", context["root"] / f"configs/jobs/{name}.toml",
                "--set", f'job.output-dir="{folder}"',
            ]))
            seconds = time.monotonic() - started
        summary = status["summary"]
        result[name] = {"seconds": seconds, "summary": summary}
        rows.append([name, f"{seconds:.1f}", limit, f"{summary['best_val_loss']:.5f}", summary["steps"]])
    table(["job", "seconds", "limit", "best val loss", "steps"], rows)
    return result
