"""For tests/gpu/check.sh: losses of two runs, or our speed beside eager PyTorch's on the same GPU."""

import csv
import statistics
import sys
import time

# Sums have another order on a GPU; bf16 has 8 bits, fp16 11. Relative, over 40 steps.
TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 1e-2}


def column(path, name):
    with open(path) as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file)}


def losses(cpu, cuda):
    """Of the steps that both have: a run that was resumed has the last ones."""
    limit = next((limit for kind, limit in TOLERANCE.items() if kind in cuda), TOLERANCE["fp32"])
    ours, theirs = column(cuda, "train_loss"), column(cpu, "train_loss")
    assert ours and max(ours) == max(theirs), (max(ours, default=0), max(theirs))
    worst = max(abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in ours)
    print(f"{'ok  ' if worst <= limit else 'FAIL'}  {cuda}: losses within {worst:.1e} of the CPU's")
    return worst <= limit


def eager(hidden, steps=200, batch=64, window=50):
    import torch

    device = torch.device("cuda")
    lstm = torch.nn.LSTM(1, hidden, 2, batch_first=True).to(device)
    head = torch.nn.Linear(hidden, 1).to(device)
    parameters = [*lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    x, y = torch.randn(batch, window, 1), torch.randn(batch, 1)
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = torch.nn.functional.mse_loss(head(lstm(x.to(device))[0][:, -1]), y.to(device))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        loss.item()
        times.append(time.perf_counter() - start)
    return statistics.median(times[20:])


def speed(ours, hidden, kind):
    seconds = statistics.median(list(column(ours, "step_seconds").values())[20:])
    theirs = eager(int(hidden))
    print(f"H={hidden} {kind}: ours {seconds * 1e3:.2f} ms, eager PyTorch {theirs * 1e3:.2f} ms a step: "
          f"{theirs / seconds:.2f}x")
    return True


if __name__ == "__main__":
    kind, *arguments = sys.argv[1:]
    sys.exit(0 if {"losses": losses, "speed": speed}[kind](*arguments) else 1)
