"""ETS on CPU: clips a second of the beam search, one by one and all at once, and a training step's time.

``python -m benchmark.captioning`` makes up a dictionary and segments of 50 to 150 rows at the recipe's size.
Random weights end no sentence early: every caption has ``--words`` words. Ratios are to clips one by one in
eager, measured in the same run, the paths in turn; every path must write the same captions.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from models import ZOO
from reader.common import ragged
from utils import build, cli, device, engine, optimizer, program
from utils.cli import natural
from utils.config import load_yaml
from utils.registry import find


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=natural, default=50)
    parser.add_argument("--words", type=natural, default=15, help="length of every caption")
    parser.add_argument("--dictionary", type=natural, default=10_000, help="words that the model knows")
    parser.add_argument("--train_batch", type=natural, default=32)
    parser.add_argument("--runs", type=natural, default=3)
    parser.add_argument("--threads", type=natural, default=1)
    args = parser.parse_args(argv)
    if os.environ.get("OMP_NUM_THREADS") != str(args.threads):  # read when Paddle is loaded
        os.environ["OMP_NUM_THREADS"] = str(args.threads)
        os.execv(sys.executable, [sys.executable, "-m", "benchmark.captioning", *argv])
    device.set_device(False, None)
    spec = find("ETS", ZOO)
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "dict.txt"
        words.write_text("\n".join(["<s>", "<e>", "<unk>", *(f"w{i}" for i in range(args.dictionary - 3))]))
        sections = load_yaml(spec.config)
        sections["MODEL"] |= {"dict_file": str(words), "max_length": args.words}
        network = build.network(spec, sections, "INFER", spec.config)
        samples = _samples(args, sections["MODEL"]["feat_size"])
        searching(args, network, spec, samples)
        training(args, network, spec, sections, samples)
    return 0


def _samples(args: argparse.Namespace, size: int) -> list[dict]:
    rng = np.random.default_rng(0)
    return [
        {
            "feat": rng.standard_normal((rng.integers(50, 151), size)).astype(np.float32),
            "word": rng.integers(3, args.dictionary, args.words),
            "word_next": rng.integers(3, args.dictionary, args.words),
        }
        for _ in range(max(args.clips, args.train_batch))
    ]


def _batch(samples: list[dict]) -> dict[str, np.ndarray]:
    return ragged.collate(samples, ["feat", "word", "word_next"])


def searching(args: argparse.Namespace, network, spec, samples: list[dict]) -> None:
    called, row = build.predicting(network, spec)
    alone = [_batch([sample]) for sample in samples[: args.clips]]
    together = [_batch(samples[: args.clips])]
    paths = {
        "eager": program.eager(called, row, row.outputs),
        "oneDNN predictor": program.OneDNN(called, row),
    }
    ways = {
        f"{name}, {title}": (path, batches)
        for name, path in paths.items()
        for title, batches in (("one by one", alone), ("all at once", together))
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    ids = {}
    for run in range(args.runs + 1):  # the first builds and warms up
        for name, (path, batches) in ways.items():
            started = time.perf_counter()
            outputs = [path({key: batch[key] for key in row.inputs}) for batch in batches]
            if run:
                seconds[name].append(time.perf_counter() - started)
            ids[name] = np.concatenate([output["ids"][:, 0] for output in outputs])
    first = next(iter(ways))
    base = statistics.median(seconds[first])
    print(f"{args.clips} clips, captions of {args.words} words, {args.threads} thread(s), {args.runs} runs")
    for name, values in seconds.items():
        median = statistics.median(values)
        same = (ids[name] == ids[first]).all(axis=1).sum()
        print(
            f"  {name:29} {args.clips / median:7.1f} clips/s "
            f"({args.clips / max(values):.1f}-{args.clips / min(values):.1f})  {base / median:5.2f}x  "
            f"{same} of {args.clips} captions the same"
        )


def training(args: argparse.Namespace, network, spec, sections, samples: list[dict]) -> None:
    import paddle

    batch = {k: paddle.to_tensor(v) for k, v in _batch(samples[: args.train_batch]).items()}
    batch["video"] = ["made up"] * args.train_batch
    network.train()
    medians = {}
    for name in ("eager", "compiled Program"):
        called = network if name == "eager" else program.compiled(network, spec)
        with optimizer.fresh_names():
            updates = build.solver(spec, sections, spec.config).build(network.parameters())
        trainer = engine.Trainer(spec, network, called, updates, seed=0, epochs=1, failure_limit=0)
        seconds = []
        for _ in range(args.runs + 1):
            started = time.perf_counter()
            engine._train_step(trainer, [batch])
            seconds.append(time.perf_counter() - started)
        medians[name] = statistics.median(seconds[1:])
        print(
            f"  training step of {args.train_batch}, {name:17} {medians[name] * 1000:8.0f} ms "
            f"({min(seconds[1:]) * 1000:.0f}-{max(seconds[1:]) * 1000:.0f})  "
            f"{medians['eager'] / medians[name]:5.2f}x"
        )


if __name__ == "__main__":
    sys.exit(cli.run(main))
