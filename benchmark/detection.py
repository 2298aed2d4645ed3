"""C-TCN at the size of ActivityNet: ``python -m benchmark.detection --threads 1 --batch_size 1``.

- The machine's GEMM throughput in Paddle: 2048 x 2048 x 2048, float32.
- Inference of the plain port (every convolution as in 2019, the heads level by level, image resizing) and of
  ``models/ctcn.py``, with the same parameters. The outputs are compared: equal to 1e-4 of their scale, or it
  stops. "of GEMM" is the throughput of the plain port's multiplications as a share of the machine's.
- With ``--train``: forward, loss and backward of both.
- Reading and matching of a sample, and the loss, as shares of a step.

Both run under the zoo's settings for CPUs (``utils/cpu.py``). What Paddle does without them:
``MKL_DEBUG_CPU_TYPE=0 MALLOC_MMAP_MAX_=65536 python -m benchmark.detection``. Times are CPU seconds of all
threads, and by the clock: the least of ``--runs``, the two networks in turn.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from models import ZOO, ctcn
from reader.ctcn_reader import CTCNReader
from utils import build, cli, device, program
from utils.errors import ZooError
from utils.registry import find

GEMM = 2048
POSITIVES = 0.02  # of the anchors, in the training step


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--threads", type=cli.natural, default=1, help="default: 1")
    parser.add_argument("--batch_size", type=cli.natural, default=1, help="default: 1")
    parser.add_argument("--runs", type=cli.natural, default=2, help="timed runs, after one that is not (2)")
    parser.add_argument("--train", action="store_true", help="training steps too (10 GB)")
    parser.add_argument("--img_size", type=cli.natural, default=512, help="time steps (default: 512)")
    parser.add_argument("--concept_size", type=cli.natural, default=402, help="concepts (default: 402)")
    args = parser.parse_args(argv)
    device.set_device(False, None)
    paddle.base.core.set_num_threads(args.threads)
    rate = gemm_rate()
    print(f"{args.threads} thread(s), batch {args.batch_size}; GEMM {rate / 1e9:.0f} GFLOP/s of CPU time")

    keys = {"img_size": args.img_size, "concept_size": args.concept_size}
    keys["total_num_anchors"] = 7 * sum(ctcn.level_sizes(args.img_size))
    network = build.network(find("CTCN", ZOO), {"MODEL": keys}, "TRAIN", "benchmark")
    rng = np.random.default_rng(0)
    shape = (args.batch_size, 1, args.img_size, args.concept_size)
    image = paddle.to_tensor(rng.standard_normal(shape).astype(np.float32))
    classes = (rng.uniform(size=(args.batch_size, keys["total_num_anchors"])) < POSITIVES).astype(np.int64)
    targets = {"loc_targets": paddle.zeros([*classes.shape, 2]), "cls_targets": paddle.to_tensor(classes)}
    operations = 2 * count_products(network, image)
    print(f"{operations / 2e9:.0f} GMAC in the plain port")

    network.eval()
    with paddle.no_grad():
        compare(lambda: plain(network, image), lambda: network(image))
        times = in_turn(lambda: plain(network, image), lambda: network(image), args.runs)
    report("inference", times, operations, rate)
    if args.train:
        network.train()
        times = in_turn(
            lambda: step(network, plain, image, targets),
            lambda: step(network, None, image, targets),
            args.runs,
        )
        report("forward, loss, backward", times, 3 * operations, rate)
    beside(network, image, targets, times[1][0], keys)
    return 0


def gemm_rate() -> float:
    """Floating-point operations a second of CPU time."""
    a, b = paddle.randn([GEMM, GEMM]), paddle.randn([GEMM, GEMM])
    seconds = min(timed(lambda: paddle.matmul(a, b))[0] for _ in range(4))
    return 2 * GEMM**3 / seconds


def plain(network: ctcn.CTCN, image: Tensor) -> dict[str, Tensor]:
    """What 2019 computed, with the parameters of ``network``."""
    loc, logits = [], []
    stretch, ctcn.stretch = ctcn.stretch, resized
    try:
        levels = network.pyramid(image)
    finally:
        ctcn.stretch = stretch
    for level in levels:
        place = network.loc_conv2(network.loc_conv1(network._drop(level)))  # (N, 14, T_l, 1)
        loc.append(place.squeeze(3).transpose([0, 2, 1]).reshape([len(image), -1, 2]))
        classes = network.cls_conv2(network.cls_conv1(network._drop(level)))
        classes = classes.squeeze(3).transpose([0, 2, 1])
        logits.append(classes.reshape([len(image), -1, network.config.num_classes]))
    logits = paddle.concat(logits, axis=1)
    loc = 10.0 * F.sigmoid(paddle.concat(loc, axis=1)) - 5.0
    return {"loc": loc, "probability": F.softmax(logits), "logits": logits}


def resized(x: Tensor, length: int) -> Tensor:
    size = [length, x.shape[3]]
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True, align_mode=1)


def count_products(network: ctcn.CTCN, image: Tensor) -> int:
    """Multiplications of all convolutions of the plain port."""
    total = 0

    def note(layer: nn.Conv2D, inputs: tuple, output: Tensor) -> None:
        nonlocal total
        total += output.size * int(np.prod(layer.weight.shape[1:]))

    layers = [layer for layer in network.sublayers() if isinstance(layer, nn.Conv2D)]
    handles = [layer.register_forward_post_hook(note) for layer in layers]
    network.eval()
    with paddle.no_grad():
        plain(network, image)
    for handle in handles:
        handle.remove()
    return total


def compare(theirs: Callable[[], dict], ours: Callable[[], dict]) -> None:
    expected, got = theirs(), ours()
    for name, value in expected.items():
        error = program.difference(got[name].numpy(), value.numpy())
        print(f"{name}: differs by {error:.1e} of its scale")
        if error > 1e-4:
            raise ZooError(f"{name} differs by {error:.1e} between the plain port and the network")


def step(network: ctcn.CTCN, forward: Callable | None, image: Tensor, targets: dict[str, Tensor]) -> None:
    outputs = forward(network, image) if forward else network(image)
    network.loss(outputs, targets)["loss"].backward()
    for parameter in network.parameters():
        parameter.clear_gradient(False)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of CPU and by the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - clock


def in_turn(a: Callable, b: Callable, runs: int) -> list[tuple[float, float]]:
    """The least seconds of each, run in turn after one run that does not count."""
    a(), b()
    found: list[list[tuple[float, float]]] = [[], []]
    for _ in range(max(1, runs)):
        for i, run in enumerate((a, b)):
            found[i].append(timed(run))
    return [(min(cpu for cpu, _ in times), min(clock for _, clock in times)) for times in found]


def report(title: str, times: list[tuple[float, float]], operations: float, rate: float) -> None:
    print(f"\n{title:28} CPU s   clock s   of GEMM   times as fast")
    for name, (cpu, clock) in zip(("plain port", "network"), times, strict=True):
        share, ratio = operations / cpu / rate, times[0][0] / cpu
        print(f"{name:26} {cpu:7.2f}   {clock:7.2f}   {share:6.0%}   {ratio:6.2f}")
    print(f"peak memory so far: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


def beside(network: ctcn.CTCN, image: Tensor, targets: dict, seconds: float, keys: dict) -> None:
    """Reading and matching, and the loss, as shares of ``seconds``."""
    samples = len(image)
    width = keys["concept_size"]
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "rgb").mkdir()
        np.save(base / "rgb" / "v.npy", np.random.default_rng(0).random((400, width), np.float32))
        (base / "one.listformat").write_text("v 400 3 5 20 90 7 120 160 9 250 390\n", encoding="utf-8")
        config = CTCNReader.Config(
            img_size=keys["img_size"],
            concept_size=width,
            root=folder,
            rgb="rgb",
            filelist=str(base / "one.listformat"),
        )
        reader = CTCNReader(config, "TRAIN")
        reading = min(timed(lambda: [reader[0] for _ in range(samples)])[0] for _ in range(3))
    with paddle.no_grad():
        outputs = network.eval()(image)
    for value in outputs.values():
        value.stop_gradient = False
    loss = min(timed(lambda: network.loss(outputs, targets)["loss"].backward())[0] for _ in range(3))
    print(f"\nreading and matching {reading / seconds:.2%}, loss {loss / seconds:.2%} of the last step above")


if __name__ == "__main__":
    sys.exit(cli.run(main))
