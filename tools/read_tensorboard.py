"""Reads a folder of event files with TensorBoard's own reader and prints the scalars as JSON.

    python3 tools/read_tensorboard.py FOLDER [--expect TAG=COUNT ...]

{"Train/Samples/train_loss": [[wall_time, step, value], ...], ...}. With --expect, exits with 1
unless each tag has that many points whose steps grow. Needs the PyPI package `tensorboard`.
"""

import argparse
import json
import pathlib
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def read(folder):
    # 0: keep every point instead of a sample of them.
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [[event.wall_time, event.step, event.value] for event in accumulator.Scalars(tag)]
        for tag in accumulator.Tags()["scalars"]
    }


def complaints(scalars, expected):
    for tag, count in expected:
        points = scalars.get(tag, [])
        steps = [step for _, step, _ in points]
        if len(points) != count:
            yield f"{tag}: {len(points)} points, expected {count}"
        if steps != sorted(set(steps)):
            yield f"{tag}: steps do not grow: {steps}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--expect", nargs="*", default=[], metavar="TAG=COUNT")
    args = parser.parse_args()
    scalars = read(args.folder)
    json.dump(scalars, sys.stdout)
    print()
    expected = [(tag, int(count)) for tag, _, count in (e.rpartition("=") for e in args.expect)]
    found = list(complaints(scalars, expected))
    for complaint in found:
        print(complaint, file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
