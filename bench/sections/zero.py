"""What each ZeRO stage sends and keeps, as counted in real runs, against the formulas.

Elements that rank 0 sends for one update: the difference of two runs that differ in their number of
steps, so that what is sent once at the start is not in it. Psi is the number of parameters; flat
buffers are padded to 16 numbers a rank, which the counts include.
"""

from .common import csv_rows, run_job, table, temporary_folder

HIDDEN = 256
STEPS = (3, 9)
# A step agrees on loss, norm and whether to stop with three numbers, whatever the stage.
AGREEMENT_BYTES = 64

JOB = """\
[job]
name = "zero"
output-dir = "{out}"
[resources]
world-size = {world}
[model]
kind = "lstm"
hidden-size = {hidden}
num-layers = 2
[data]
kind = "sine"
window = 8
[training]
max-steps = {steps}
validate-every-epochs = 0
[monitor]
diagnostics.comms-log = true
[checkpoint]
every-steps = 1000000
[deepspeed]
train_batch_size = {batch}
gradient_accumulation_steps = {g}
optimizer = {{ type = "Adam", params = {{ lr = 1e-3 }} }}
zero_optimization = {{ stage = {stage}, stage3_param_persistence_threshold = 0, stage3_max_reuse_distance = 0 }}
"""

# (stage, micro-steps, Psi sent per update as a multiple of (W-1)/W)
PLANS = [(0, 1, 2), (1, 1, 2), (2, 1, 2), (2, 2, 3), (3, 1, 3)]


def parameters(hidden, inputs=1, outputs=1):
    layer = lambda width: 4 * hidden * (width + hidden + 2)  # noqa: E731
    return layer(inputs) + layer(hidden) + outputs * (hidden + 1)


def run(context, stage, g, world, steps):
    """(bytes sent by rank 0 in collectives, the ranks' memory)"""
    with temporary_folder() as folder:
        text = JOB.format(out=folder / "runs", hidden=HIDDEN, steps=steps, stage=stage, g=g, world=world,
                          batch=8 * g * world)
        status = run_job(context, folder, text, "--slots", world)
        sent = sum(int(row["sent_bytes"]) for row in csv_rows(status, "comms") if int(row["bytes"]) > AGREEMENT_BYTES)
    return sent, status["summary"]["memory"]


def measure(context):
    psi = parameters(HIDDEN)
    rows, results = [], []
    for world in (2, 4):
        for stage, g, factor in PLANS:
            (few, _), (many, memory) = (run(context, stage, g, world, steps) for steps in STEPS)
            sent = (many - few) / (STEPS[1] - STEPS[0]) / 4
            formula = factor * psi * (world - 1) / world
            optimizer = 8 * psi / (1 if stage == 0 else world)
            most = max(rank["optimizer"] for rank in memory)
            results.append(dict(stage=stage, world=world, accumulation=g, psi=psi, sent_elements=sent,
                                formula_elements=formula, memory=memory))
            kib = [f"{max(rank[kind] for rank in memory) / 1024:.0f}" for kind in ("parameters", "gradients", "optimizer")]
            rows.append([f"W={world} ZeRO {stage}" + (f", {g} micro-steps" if g > 1 else ""), f"{sent:.0f}",
                         f"{formula:.0f}", f"{sent / formula:.3f}", *kib, f"{most / optimizer:.3f}"])
    print(f"LSTM H={HIDDEN}, 2 layers: Psi = {psi} parameters; stage 3 keeps none whole and gathers for every pass")
    table(["elements sent per rank and update", "counted", "formula", "ratio", "parameters KiB", "gradients KiB",
           "optimizer KiB", "of 8 Psi (/W from stage 1)"], rows)
    return results
