"""What the daemons cost when idle: resident memory and share of a core (limits: 50 MiB, 1 %)."""

import os
import time

from .common import Failed, cluster, table, temporary_folder

SECONDS = 10


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise Failed(f"process {pid} is gone")


def measure(context):
    with temporary_folder() as folder, cluster(context, folder) as (_, processes):
        before = {name: cpu_seconds(process.pid) for name, process in processes.items()}
        time.sleep(SECONDS)
        result = {
            name: {
                "rss_mib": resident_mib(process.pid),
                "core_percent": 100 * (cpu_seconds(process.pid) - before[name]) / SECONDS,
            }
            for name, process in processes.items()
        }
    table(["idle daemon", "RSS MiB", "% of a core"],
          [[name, f"{v['rss_mib']:.1f}", f"{v['core_percent']:.2f}"] for name, v in result.items()])
    return result
