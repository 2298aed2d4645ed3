"""Convolutions over clips: 3-D ones (2019) against 2-D ones with the frames along the batch axis (Non-local).

``python -m benchmark.convolutions --threads=1`` runs one residual block of Non-local's res3, as C2D and as
I3D, in both forms with the same weights: eager forward, forward and backward, and the oneDNN predictor.
The forms take turns; it prints medians, ranges and ratios, and how far the numbers differ.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from utils import cli
from utils.cli import natural

FRAMES, CHANNELS, SIDE = 8, 512, 28


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=natural, default=1)
    parser.add_argument("--runs", type=natural, default=7)
    args = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads):  # read when Paddle is loaded
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmark.convolutions", *argv])
    print(f"a block of res3, {FRAMES} frames, {args.threads} thread(s), median of {args.runs} runs")
    for name, kernel_t in (("C2D", 1), ("I3D", 3)):
        measure(name, kernel_t, args.runs)
    return 0


def measure(name: str, kernel_t: int, runs: int) -> None:
    import numpy as np
    import paddle
    import paddle.nn.functional as F
    from paddle.static import InputSpec

    from models.nonlocal_net import Bottleneck, NonLocalConfig
    from utils import program
    from utils.registry import ModelSpec

    class Frames(paddle.nn.Layer):
        """As Non-local does it; clips as (N*T, C, H, W)."""

        def __init__(self) -> None:
            super().__init__()
            self.block = Bottleneck(NonLocalConfig(bn_init_gamma=0.5), CHANNELS, 1, 1, kernel_t, "res3b")

        def forward(self, x):
            return self.block(x, FRAMES)

    class Clips(Frames):
        """The same weights in 3-D convolutions; clips as (N, C, T, H, W)."""

        def forward(self, x):
            y = x
            for part in (self.block.a, self.block.b, self.block.c):
                padding = [kernel // 2 for kernel in part.conv.weight.shape[2:]]
                y = part.norm(F.conv3d(y, part.conv.weight, padding=padding))
                y = F.relu(y) if part.relu else y
            return F.relu(x + y)

    clips = np.random.default_rng(0).standard_normal((1, CHANNELS, FRAMES, SIDE, SIDE)).astype(np.float32)
    frames = np.ascontiguousarray(clips[0].transpose(1, 0, 2, 3))  # (T, C, H, W)
    forms = {}
    for form, network, x in (("3-D", Clips, clips), ("2-D", Frames, frames)):
        with paddle.utils.unique_name.guard():
            paddle.seed(0)
            forms[form] = network(), x
    ways: dict[str, dict[str, Callable[[], object]]] = {"forward": {}, "step": {}, "predictor": {}}
    with tempfile.TemporaryDirectory() as folder:
        for form, (network, x) in forms.items():
            ways["forward"][form] = lambda network=network, x=x: forward(paddle, network, x)
            ways["step"][form] = lambda network=network, x=x: step(paddle, network, x)
            network.eval()
            prefix = os.path.join(folder, form)
            paddle.jit.save(network, prefix, input_spec=[InputSpec([None, *x.shape[1:]], "float32", "x")])
            spec = ModelSpec("", "", "", "", "", "", inputs=("x",), outputs=("y",), targets=())
            run = program.predictor(prefix, spec, ("y",))
            ways["predictor"][form] = lambda run=run, x=x: run({"x": x})["y"]
        for way, of_form in ways.items():
            show(f"{name} {way}", of_form, runs)
    first, second = (np.asarray(ways["forward"][form]()) for form in forms)
    error = np.abs(first[0].transpose(1, 0, 2, 3) - second).max() / np.abs(second).max()
    print(f"  {name} forward differs by {error:.1e} of the output's scale")


def forward(paddle, network, x):
    network.eval()
    with paddle.no_grad():
        return network(paddle.to_tensor(x)).numpy()


def step(paddle, network, x):
    network.train()
    loss = network(paddle.to_tensor(x, stop_gradient=False)).square().mean()
    loss.backward()
    network.clear_gradients()
    return float(loss)


def show(title: str, of_form: dict[str, Callable[[], object]], runs: int) -> None:
    seconds: dict[str, list[float]] = {form: [] for form in of_form}
    for run in range(runs + 1):  # the first of each is not counted
        for form, way in of_form.items():
            started = time.perf_counter()
            way()
            if run:
                seconds[form].append(time.perf_counter() - started)
    base = statistics.median(seconds["3-D"])
    for form, values in seconds.items():
        median = statistics.median(values)
        print(
            f"  {title:13} {form}  {median * 1000:7.1f} ms  ({min(values) * 1000:.1f}-"
            f"{max(values) * 1000:.1f})  {base / median:.2f}x 3-D"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
