"""BMN's boundary matching: as the paper writes it (2019) against folded, of the same weights.

``python -m benchmark.proposals --threads=1`` takes features ``(B, 128, T)`` to those of every window
``(B, 128, D, T)`` and back, at full size: samples of each window, 3-D convolution, 1 x 1 convolution. Each
form runs in a process of its own, in turns. It prints medians, ranges, the memory that a step adds to what
the process held before it, the ratios of all these, and how far outputs and gradients differ.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from utils import cli
from utils.cli import natural

FORMS = ("dense", "folded")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=natural, default=1)
    parser.add_argument("--batch_size", type=natural, default=2)
    parser.add_argument("--tscale", type=natural, default=100, help="T, and D")
    parser.add_argument("--num_sample", type=natural, default=32)
    parser.add_argument("--runs", type=natural, default=3, help="of each form in a round")
    parser.add_argument("--rounds", type=natural, default=3)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.form:
        _run(args)
        return 0
    print(
        f"batch {args.batch_size}, T = D = {args.tscale}, {args.num_sample} samples, {args.threads} thread(s)"
    )
    with tempfile.TemporaryDirectory() as folder:
        results = {form: [] for form in FORMS}
        for number in range(args.rounds):
            for form in FORMS:
                out = Path(folder) / f"{form}{number}"
                results[form].append(_child(argv, form, out, args.threads))
        report(results, Path(folder))
    return 0


def _child(argv: list[str], form: str, out: Path, threads: int) -> dict:
    command = [sys.executable, "-m", "benchmark.proposals", *argv, f"--form={form}", f"--out={out}"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    return json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))


def _run(args: argparse.Namespace) -> None:
    """Measure one form; writes ``<out>.json`` and, with outputs and gradients, ``<out>.npz``."""
    import numpy as np
    import paddle

    from models.bmn import BMN, WIDTH_1D, BoundaryMatching

    paddle.seed(0)
    size = {"tscale": args.tscale, "dscale": args.tscale, "num_sample": args.num_sample}
    block = BoundaryMatching(BMN.Config(**size))
    call = block if args.form == "folded" else lambda x: dense(block, x)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((args.batch_size, WIDTH_1D, args.tscale)).astype(np.float32)
    x = paddle.to_tensor(x, stop_gradient=False)
    held = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    step(block, call, x)
    added = memory("VmHWM") - held
    seconds: dict[str, list[tuple[float, float]]] = {"forward": [], "forward and backward": []}
    for _ in range(args.runs):
        started = clocks()
        with paddle.no_grad():
            call(x)
        middle = clocks()
        step(block, call, x)
        ended = clocks()
        for way, (before, after) in zip(seconds, ((started, middle), (middle, ended)), strict=True):
            seconds[way].append((after[0] - before[0], after[1] - before[1]))
    y = step(block, call, x, keep=True)
    gradients = {p.name: p.grad.numpy() for p in block.parameters() if p.grad is not None}
    np.savez(args.out.with_suffix(".npz"), y=y.numpy(), x=x.grad.numpy(), **gradients)
    result = {"added_megabytes": added, "held_megabytes": held, "seconds": seconds}
    args.out.with_suffix(".json").write_text(json.dumps(result), encoding="utf-8")


def dense(block, x):
    """The block as it is defined, with its weights: every sample of every window is made."""
    import paddle
    import paddle.nn.functional as F

    samples = paddle.matmul(x, block.mask)
    samples = samples.reshape([-1, x.shape[1], block.num_sample, block.dscale, block.tscale])
    return F.relu(block.conv(F.relu(block.conv3d(samples).squeeze(2))))


def step(block, call, x, keep: bool = False):
    y = call(x)
    (y * y).mean().backward()
    if not keep:
        block.clear_gradients()
        x.clear_gradient()
    return y


def clocks() -> tuple[float, float]:
    """Wall clock, and the CPU time of all threads: what counts where other programs share the cores."""
    return time.perf_counter(), time.process_time()


def memory(name: str) -> float:
    """VmRSS or VmHWM (the peak) of this process in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def report(results: dict[str, list[dict]], folder: Path) -> None:
    import numpy as np

    for way in results["dense"][0]["seconds"]:
        for clock, kind in enumerate(("wall", "CPU")):
            values = {
                form: [v[clock] for one in results[form] for v in one["seconds"][way]] for form in FORMS
            }
            base = statistics.median(values["dense"])
            for form in FORMS:
                median = statistics.median(values[form])
                spread = f"{min(values[form]) * 1000:.0f}-{max(values[form]) * 1000:.0f}"
                times = f"{median * 1000:7.0f} ms {kind} ({spread})"
                print(f"  {way:20} {form:6} {times}  {base / median:.2f}x dense")
    added = {form: statistics.median(one["added_megabytes"] for one in results[form]) for form in FORMS}
    for form in FORMS:
        held = statistics.median(one["held_megabytes"] for one in results[form])
        above = f"{added[form]:7.0f} MB above {held:.0f} MB"
        print(f"  {'memory of a step':20} {form:6} {above}  {added[form] / added['dense']:.2f}x dense")
    first, second = (np.load(folder / f"{form}0.npz") for form in FORMS)
    for name in first.files:
        error = np.abs(first[name] - second[name]).max() / np.abs(first[name]).max()
        what = "output" if name == "y" else f"gradient of {name}"
        print(f"  {what:28} differs by {error:.1e} of its scale")


if __name__ == "__main__":
    sys.exit(cli.run(main))
