"""Collectives of fp32 between 2 ranks against Gloo, over shared memory and TCP loopback."""

from .common import json_lines, output, table

OPERATIONS = ["all_reduce_us", "reduce_scatter_us", "all_gather_us"]


def gloo(context):
    return json_lines(output([context["venv"] / "bin" / "torchrun", "--standalone", "--nproc-per-node", "2",
                              context["root"] / "bench/peers/collectives_gloo.py"]))


def ours(context, transport):
    return json_lines(output([context["bin"] / "examples" / "bench_collectives", "--world", "2",
                              "--transport", transport]))


def measure(context):
    runs = {
        "shared memory": lambda: ours(context, "shared-memory"),
        "gloo": lambda: gloo(context),
        "tcp": lambda: ours(context, "tcp"),
    }
    samples = {name: [] for name in runs}
    for _ in range(context["rounds"]):
        for name, run in runs.items():
            samples[name].append(run())
    medians = {}
    for name, rounds in samples.items():
        for line in rounds[0]:
            size = line["bytes"]
            same = [entry for lines in rounds for entry in lines if entry["bytes"] == size]
            medians[name, size] = {op: context["median"](e[op] for e in same) for op in OPERATIONS}
    sizes = sorted({size for name, size in medians if name == "gloo"})
    rows = []
    for operation in OPERATIONS:
        for size in sizes:
            base = medians["gloo", size][operation]
            cells = [operation.removesuffix("_us"), f"{size}", f"{base:.0f}"]
            for name in ("shared memory", "tcp"):
                value = medians[name, size][operation]
                cells += [f"{value:.1f}", f"{base / value:.2f}x"]
            rows.append(cells)
    table(["2 ranks, fp32", "bytes", "Gloo us", "shm us", "Gloo/shm", "tcp us", "Gloo/tcp"], rows)
    return samples
