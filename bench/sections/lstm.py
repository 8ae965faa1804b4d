"""Training throughput of the ZeRO stages: 2-layer LSTM, T=50, micro-batch 32, 2 ranks x 1 thread, fp32.

Every stage of ours against the same stage of DeepSpeed and, at stage 0, PyTorch DDP; each peer as
shipped and with the allocator settings that `worker` gives its trainers.
"""

import json
from pathlib import Path

from .common import (TUNED_MALLOC, csv_rows, environment, free_port, peer_line, run_job, table,
                     temporary_folder)

HIDDEN = [64, 256]
STAGES = [0, 1, 2, 3]
# Measured after the warm-up. A step at H=256 takes about eight times as long.
STEPS = {64: 200, 256: 60}
WARM_UP = 5

JOB = """\
deepspeed-config = "ds.json"
[job]
name = "bench"
output-dir = "{out}"
[resources]
world-size = 2
[model]
kind = "lstm"
hidden-size = {hidden}
num-layers = 2
dropout = 0.2
head-dropout = 0.0
[data]
kind = "sine"
[training]
epochs = 1000
max-steps = {steps}
validate-every-epochs = 0
[checkpoint]
every-steps = 1000000
"""


def config(stage, accumulation, persist):
    zero = {"stage": stage, "contiguous_gradients": True, "overlap_comm": True}
    if persist is not None:
        zero["stage3_param_persistence_threshold"] = persist
    return {
        "train_batch_size": 64 * accumulation,
        "train_micro_batch_size_per_gpu": 32,
        "gradient_accumulation_steps": accumulation,
        "optimizer": {"type": "Adam", "params": {"lr": 5e-4, "weight_decay": 1e-5}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": 0, "warmup_max_lr": 5e-4, "warmup_num_steps": 100}},
        "zero_optimization": zero,
        "gradient_clipping": 1.0,
    }


def ours(context, hidden, stage, accumulation=1, persist=None):
    """Samples per second over the steps after the warm-up, from the run's own steps.csv."""
    steps = STEPS[hidden]
    with temporary_folder() as folder:
        (folder / "ds.json").write_text(json.dumps(config(stage, accumulation, persist)))
        status = run_job(context, folder, JOB.format(out=folder / "runs", hidden=hidden, steps=steps + WARM_UP))
        seconds = [float(row["step_seconds"]) for row in csv_rows(status, "steps")][WARM_UP:]
        assert len(seconds) == steps, f"{len(seconds)} steps"
        return 64 * accumulation * steps / sum(seconds)


def ddp(context, hidden, malloc):
    command = [context["venv"] / "bin" / "torchrun", "--standalone", "--nproc-per-node", "2",
               context["root"] / "bench/peers/lstm_ddp.py", str(hidden), "32", "1"]
    return peer_line(command, environment(**malloc))["samples_s"]


def deepspeed(context, hidden, stage, malloc, accumulation=1, persist=None):
    path, port = f"{context['venv'] / 'bin'}:" + environment()["PATH"], free_port()
    command = [context["venv"] / "bin" / "deepspeed", "--num_gpus", "2", "--master_port", port,
               context["root"] / "bench/peers/lstm_deepspeed.py",
               "--stage", str(stage), "--hid", str(hidden), "--micro", "32",
               "--ga", str(accumulation), "--steps", str(STEPS[hidden] // 2)]
    command += [] if persist is None else ["--persist", str(persist)]
    try:
        return peer_line(command, environment(PATH=path, **malloc))["samples_s"]
    finally:
        # It leaves 66 MiB of shared memory for each rank; after a hundred runs nothing has room.
        for buffer in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_{port}_*"):
            buffer.unlink()


def plan(context):
    """Rows in order: (what, ours, peer as shipped, peer with tuned malloc)."""
    rows = []
    for hidden in HIDDEN:
        rows.append((f"H={hidden} ZeRO 0 / PyTorch DDP", lambda h=hidden: ours(context, h, 0),
                     lambda malloc, h=hidden: ddp(context, h, malloc)))
        for stage in STAGES:
            # Stage 0 of ours is measured once, in the row above.
            run = None if stage == 0 else lambda h=hidden, s=stage: ours(context, h, s)
            rows.append((f"H={hidden} ZeRO {stage} / DeepSpeed", run,
                         lambda malloc, h=hidden, s=stage: deepspeed(context, h, s, malloc)))
    rows.append(("H=64 ZeRO 2, accumulation 2 / DeepSpeed", lambda: ours(context, 64, 2, 2),
                 lambda malloc: deepspeed(context, 64, 2, malloc, 2)))
    # At H=64 no parameter is above the threshold, and stage 3 shards none of them.
    rows.append(("H=64 ZeRO 3, all sharded / DeepSpeed", lambda: ours(context, 64, 3, persist=0),
                 lambda malloc: deepspeed(context, 64, 3, malloc, persist=0)))
    return rows


def measure(context):
    context["say"]("bench: DeepSpeed compiles an op on its first run; that run is discarded")
    deepspeed(context, 64, 2, {})
    rows = plan(context)
    samples = {name: {"ours": [], "peer": [], "peer, tuned malloc": []} for name, _, _ in rows}
    for number in range(context["rounds"]):
        for name, run, peer in rows:
            values = samples[name]
            if run:
                values["ours"].append(run())
            values["peer"].append(peer({}))
            values["peer, tuned malloc"].append(peer(TUNED_MALLOC))
            last = ", ".join(f"{who} {found[-1]:.0f}" for who, found in values.items() if found)
            context["say"](f"bench: round {number + 1}: {name}: {last} samples/s")
    for hidden in HIDDEN:
        samples[f"H={hidden} ZeRO 0 / DeepSpeed"]["ours"] = samples[f"H={hidden} ZeRO 0 / PyTorch DDP"]["ours"]
    lines = []
    for name, values in samples.items():
        mine, peer, tuned = (context["median"](found) for found in values.values())
        lines.append([name, f"{mine:.0f}", f"{peer:.0f}", f"{mine / peer:.2f}x", f"{tuned:.0f}", f"{mine / tuned:.2f}x"])
    table(["LSTM, 2 layers, T=50, micro 32, 2 ranks; samples/s", "ours", "peer", "ratio", "peer, tuned malloc", "ratio"], lines)
    for hidden in HIDDEN:
        zero, three = (context["median"](samples[f"H={hidden} ZeRO {stage} / DeepSpeed"]["ours"]) for stage in (0, 3))
        print(f"H={hidden}: our ZeRO 3 runs at {three / zero:.2f}x our ZeRO 0")
    return samples
