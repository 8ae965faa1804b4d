"""The control plane under load: 1,000 simulated workers that speak the real protocol over real
sockets to one real coordinator (`coordinator/examples/load_control`), beside what is published about
others. Their figures are their own, on their machines: they say what is usual, no more."""

import json

from .common import output, table

WORKERS = 1000
JOBS = 100_000

# Published figures and where they stand.
TORCHELASTIC = "torchelastic: 10 s for 4,000"  # pytorch PR#124982: 373 s before it
NOMAD_BEATS = "Nomad: 50 beats/s in all"  # nomad/config.go: 1,000 nodes have a TTL of 20 s
RAY_MEMORY = "Ray's GCS: 1900 MiB"  # ray release/perf_metrics/benchmarks: 1.9 to 2.1 GiB
SLURM_LAUNCH = "Slurm: 30 s, 15,000 nodes"  # slurm big_sys.shtml: 30,000 tasks
SLURM_SUBMITS = "Slurm: 500/s, Ray: 551/s"  # slurm high_throughput.shtml; ray release/perf_metrics, actors
HYPERQUEUE = "HyperQueue: < 0.1 ms a task"  # hyperqueue README
MONARCH = "Monarch: 44,000 messages/s"  # monarch's telemetry benchmark README
FAILOVER = "Slurm: 120 s, Nomad: 300 s"  # slurm.conf(5) SlurmctldTimeout; nomad/heartbeat.go, new leader


def measure(context):
    program = context["bin"] / "examples" / "load_control"
    m = json.loads(output([program, context["bin"] / "coordinator", WORKERS, JOBS], timeout=400))
    rows = [*steady(m), *deep(m), *decisions(m["decide"])]
    table(["what", "measured", "promised", "", "others"], rows)
    return m


def row(what, measured, unit, promised=None, others="", at_least=False):
    """One line; says so where the promise is not kept."""
    kept = promised is None or (measured >= promised if at_least else measured <= promised)
    bound = "" if promised is None else f"{'>=' if at_least else '<='} {promised:g} {unit}"
    digits = 0 if measured >= 100 else 1 if measured >= 10 else 3 if measured < 0.1 else 2
    return [what, f"{measured:.{digits}f} {unit}", bound, "" if kept else "MISSED", others]


def steady(m):
    """What 1,000 workers cost, and a job across them."""
    join, metrics, restart = m["join"], m["metrics"], m["restart"]
    return [
        row(f"join of {join['count']} workers at once, p99", join["p99_ms"] / 1e3, "s", 3, TORCHELASTIC),
        row("their heartbeats: the coordinator's CPU", m["heartbeats"]["core_percent"], "% of a core", 30, NOMAD_BEATS),
        row("and its memory", m["heartbeats"]["rss_mib"], "MiB", 300, RAY_MEMORY),
        row("submit to running, 8 ranks, p99", m["start"]["p99_ms"], "ms", 200),
        row(f"submit to running, {m['gang']['ranks']} ranks", m["gang"]["ms"] / 1e3, "s", None, SLURM_LAUNCH),
        row(f"{metrics['ranks']} ranks x 10 metrics at 1 Hz: CPU", metrics["core_percent"], "% of a core", 100, MONARCH),
        row("and memory", metrics["rss_mib"], "MiB"),
        row("and the slowest acknowledgement", metrics["slowest_ack_ms"], "ms"),
        row("kill -9 to listening again", restart["listening_ms"] / 1e3, "s"),
        row(f"kill -9 to in charge: all workers back, job {restart['job']}", restart["all_back_ms"] / 1e3, "s", 3, FAILOVER),
    ]


def deep(m):
    """The same coordinator with a deep queue."""
    submits, loop, restart = m["submits"], m["deep_decisions"], m["deep_restart"]
    queued = f"with {submits['count']} queued"
    return [
        row(f"durable submits by 64 clients until {submits['count']} wait", submits["per_second"], "/s", 1000,
            SLURM_SUBMITS, at_least=True),
        row("and the answer's p99", submits["p99_ms"], "ms"),
        row(f"{queued}: decisions of the loop, p99 below", loop["p99_below_ms"], "ms", 51.2, HYPERQUEUE),
        row(f"{queued}: submit to running, p99", m["deep_start"]["p99_ms"], "ms", 200),
        row(f"{queued}: join of {m['deep_join']['count']} workers, p99", m["deep_join"]["p99_ms"] / 1e3, "s", 3),
        row(f"{queued}: the coordinator's memory", m["deep_rss_mib"], "MiB"),
        row(f"{queued}: kill -9 to in charge", restart["all_back_ms"] / 1e3, "s", 3, FAILOVER),
    ]


def decisions(decide):
    """The pure machine, without sockets and store."""
    names = {"equal_wishes": "equal wishes", "different_wishes": "4,000 wishes", "awkward_wishes": "ranks of 3 slots"}
    return [
        row(f"one decision, {case['queued']} queued, {names[name]}, worst",
            max(case["submit_max_ms"], case["urgent_ms"], case["join_ms"]), "ms", 50, HYPERQUEUE)
        for name, case in decide.items()
    ]
