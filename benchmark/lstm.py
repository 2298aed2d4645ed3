"""The peephole LSTM of AttentionLSTM against its matrix products alone, in one process.

``python -m benchmark.lstm --threads=2`` times forward and backward of one direction and, in turn with it,
the same products without anything between them: the gates' inputs of all steps, a product a step over
the sequences that run, and their gradients. It prints medians, ranges and the ratio.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time

import numpy as np

from utils.cli import natural, run


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch_size", type=natural, default=32)
    parser.add_argument("--steps", type=natural, default=300, help="of the longest sequence")
    parser.add_argument(
        "--shortest", type=natural, default=0, help="lengths are spread from here; 0: all equal"
    )
    parser.add_argument("--input_size", type=natural, default=512)
    parser.add_argument("--hidden_size", type=natural, default=1024)
    parser.add_argument("--threads", type=natural, default=1)
    parser.add_argument("--runs", type=natural, default=5)
    args = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads):  # read when Paddle is loaded
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmark.lstm", *argv])
    return measure(args)


def measure(args: argparse.Namespace) -> int:
    import paddle

    from models.common.lstm import PeepholeLSTM

    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        layer = PeepholeLSTM(args.input_size, args.hidden_size, "fc", "lstm", bias=True, reverse=False)
    lengths = np.linspace(args.shortest or args.steps, args.steps, args.batch_size).astype(np.int64)
    x = paddle.randn([args.batch_size, args.steps, args.input_size])
    x.stop_gradient = False
    length = paddle.to_tensor(lengths)
    products = Products(args.input_size, args.hidden_size, lengths)
    seconds: dict[str, list[float]] = {"products": [], "lstm": []}
    for i in range(args.runs + 1):
        timed = [time.perf_counter()]
        with paddle.no_grad():
            products.forward()
            products.backward()
            wait()
        timed.append(time.perf_counter())
        layer(x, length).sum().backward()
        wait()
        timed.append(time.perf_counter())
        layer.clear_gradients()
        x.clear_gradient()
        if i:  # the first warms up
            seconds["products"].append(timed[1] - timed[0])
            seconds["lstm"].append(timed[2] - timed[1])
    print(
        f"LSTM {args.input_size} -> {args.hidden_size}, batch {args.batch_size}, {lengths.sum()} rows, "
        f"forward and backward, {args.threads} thread(s), median of {args.runs} runs"
    )
    base = statistics.median(seconds["products"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(
            f"  {name:9} {median * 1000:8.1f} ms  ({min(values) * 1000:.1f}-{max(values) * 1000:.1f})"
            f"  {median / base:5.2f}x the products"
        )
    return 0


class Products:
    """What cannot be left out: the matrix products of an LSTM over sequences of these lengths."""

    def __init__(self, input_size: int, hidden_size: int, lengths: np.ndarray) -> None:
        import paddle

        self.running = [int((lengths > t).sum()) for t in range(int(lengths.max()))]
        rows, width = int(lengths.sum()), 4 * hidden_size
        self.x, self.projection = paddle.randn([rows, input_size]), paddle.randn([input_size, width])
        self.hidden, self.weight = paddle.randn([rows, hidden_size]), paddle.randn([hidden_size, width])
        self.gates = paddle.randn([rows, width])
        self.hidden_by_step = paddle.split(self.hidden, self.running)
        self.gates_by_step = paddle.split(self.gates, self.running)

    def forward(self) -> None:
        import paddle

        paddle.matmul(self.x, self.projection)
        for hidden in self.hidden_by_step[1:]:
            paddle.matmul(hidden, self.weight)

    def backward(self) -> None:
        import paddle

        for gates in self.gates_by_step[1:]:
            paddle.matmul(gates, self.weight, transpose_y=True)
        paddle.matmul(self.hidden, self.gates, transpose_x=True)
        paddle.matmul(self.x, self.gates, transpose_x=True)
        paddle.matmul(self.gates, self.projection, transpose_y=True)


def wait() -> None:
    """Until the GPU, if there is one, has done what it was told."""
    import paddle

    if paddle.is_compiled_with_cuda():
        paddle.device.synchronize()


if __name__ == "__main__":
    sys.exit(run(main))
