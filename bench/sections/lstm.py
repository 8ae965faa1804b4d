"""Training throughput: 2-layer LSTM, H=64, T=50, micro-batch 32, 2 ranks x 1 thread, fp32."""

import csv
import json

from .common import TUNED_MALLOC, environment, output, peer_line, table, temporary_folder

STEPS = 200
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
hidden-size = 64
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


def config(stage, accumulation):
    return {
        "train_batch_size": 64 * accumulation,
        "train_micro_batch_size_per_gpu": 32,
        "gradient_accumulation_steps": accumulation,
        "optimizer": {"type": "AdamW" if accumulation == 1 else "Adam",
                      "params": {"lr": 5e-4, "weight_decay": 1e-5}},
        "scheduler": {"type": "WarmupLR", "params": {"warmup_min_lr": 0, "warmup_max_lr": 5e-4, "warmup_num_steps": 100}},
        "zero_optimization": {"stage": stage, "contiguous_gradients": True, "overlap_comm": True},
        "gradient_clipping": 1.0,
    }


def ours(context, stage, accumulation):
    """Samples per second over the steps after the warm-up, from the run's own steps.csv."""
    with temporary_folder() as folder:
        (folder / "ds.json").write_text(json.dumps(config(stage, accumulation)))
        (folder / "job.toml").write_text(JOB.format(out=folder / "runs", steps=STEPS + WARM_UP))
        status = json.loads(output([context["bin"] / "rsctl", "run", "--json", folder / "job.toml"]))
        with open(f"{status['output_dir']}/metrics/steps.csv") as file:
            seconds = [float(row["step_seconds"]) for row in csv.DictReader(file)][WARM_UP:]
        assert len(seconds) == STEPS, f"{len(seconds)} steps"
        return 64 * accumulation * STEPS / sum(seconds)


def ddp(context, malloc):
    command = [context["venv"] / "bin" / "torchrun", "--nproc-per-node", "2",
               context["root"] / "bench/peers/lstm_ddp.py", "64", "32", "1"]
    return peer_line(command, environment(**malloc))["samples_s"]


def deepspeed(context, malloc):
    path = f"{context['venv'] / 'bin'}:" + environment()["PATH"]
    command = [context["venv"] / "bin" / "deepspeed", "--num_gpus", "2",
               context["root"] / "bench/peers/lstm_deepspeed.py",
               "--stage", "2", "--hid", "64", "--micro", "32", "--ga", "2", "--steps", "100"]
    return peer_line(command, environment(PATH=path, **malloc))["samples_s"]


def measure(context):
    runs = {
        "ours, ZeRO 0": lambda: ours(context, 0, 1),
        "PyTorch DDP": lambda: ddp(context, {}),
        "PyTorch DDP, tuned malloc": lambda: ddp(context, TUNED_MALLOC),
        "ours, ZeRO 2, accumulation 2": lambda: ours(context, 2, 2),
        "DeepSpeed ZeRO 2, accumulation 2": lambda: deepspeed(context, {}),
        "DeepSpeed ZeRO 2, accumulation 2, tuned malloc": lambda: deepspeed(context, TUNED_MALLOC),
    }
    context["say"]("bench: DeepSpeed compiles an op on its first run; that run is discarded")
    deepspeed(context, {})
    samples = {name: [] for name in runs}
    for number in range(context["rounds"]):
        for name, run in runs.items():
            samples[name].append(run())
            context["say"](f"bench: round {number + 1}: {name}: {samples[name][-1]:.0f} samples/s")
    medians = {name: context["median"](values) for name, values in samples.items()}
    rows = []
    for name, median in medians.items():
        base = "ours, ZeRO 2, accumulation 2" if "accumulation" in name else "ours, ZeRO 0"
        ratio = "" if name.startswith("ours") else f"{medians[base] / median:.2f}x"
        rows.append([name, f"{median:.0f}", ratio])
    table(["LSTM H=64, 2 layers, T=50, micro 32, 2 ranks", "samples/s", "ours is"], rows)
    return samples
