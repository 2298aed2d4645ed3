"""Inference on CPU: the oneDNN predictor and the compiled Program against eager, in one process.

``python -m benchmark.inference --model_name=TSN --threads=1`` times each path on one batch of made-up
frames at the recipe's size, several runs of each in turn, and prints medians, ranges and ratios. Each
path's numbers are compared with eager's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

from models import ZOO
from utils import build, cli, program
from utils.cli import natural
from utils.config import load_yaml, merge_overrides
from utils.registry import find


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_name", default="TSN")
    parser.add_argument("--mode", default="INFER", help="section whose sizes are used")
    parser.add_argument("--batch_size", type=natural, default=1)
    parser.add_argument("--threads", type=natural, default=1)
    parser.add_argument("--runs", type=natural, default=5)
    parser.add_argument("-o", dest="override", action="append", default=[])
    args = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads):  # read when Paddle is loaded
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmark.inference", *argv])
    return measure(args)


def measure(args: argparse.Namespace) -> int:
    import numpy as np

    spec = find(args.model_name, ZOO)
    sections = load_yaml(spec.config)
    merge_overrides(sections, args.override)
    network = build.network(spec, sections, args.mode, spec.config)
    example = build.example_inputs(spec, sections, args.mode, spec.config)
    rng = np.random.default_rng(0)
    batch = {
        name: rng.standard_normal((args.batch_size, *value.shape[1:])).astype(value.dtype)
        for name, value in example.items()
    }
    paths = {
        "eager": program.eager(network, spec, spec.evaluated),
        "oneDNN predictor": program.OneDNN(network, spec),
        "compiled Program": None,
    }
    expected = paths["eager"](batch)
    paths["oneDNN predictor"](batch)  # built while the network is still the eager one
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for name in ("eager", "oneDNN predictor"):
        paths[name](batch)
    for _ in range(args.runs):
        for name in ("eager", "oneDNN predictor"):
            seconds[name].append(timed(paths[name], batch))
    paths["compiled Program"] = program.eager(program.compiled(network, spec), spec, spec.evaluated)
    paths["compiled Program"](batch)
    for _ in range(args.runs):
        seconds["compiled Program"].append(timed(paths["compiled Program"], batch))
    shape = "x".join(map(str, next(iter(batch.values())).shape))
    print(f"{spec.name}, input {shape}, {args.threads} thread(s), median of {args.runs} runs")
    base = statistics.median(seconds["eager"])
    for name, values in seconds.items():
        median = statistics.median(values)
        got = paths[name](batch)
        error = max(program.difference(got[key], expected[key]) for key in spec.evaluated)
        print(
            f"  {name:17} {median * 1000:8.1f} ms  ({min(values) * 1000:.1f}-{max(values) * 1000:.1f})"
            f"  {base / median:5.2f}x eager  differs by {error:.1e}"
        )
    return 0


def timed(path, batch) -> float:
    started = time.perf_counter()
    path(batch)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(cli.run(main))
