"""TALL at the size of TACoS: ``python -m benchmark.grounding``.

- Making the training set from ``--windows`` windows and ``--sentences`` sentences of ``--movies`` movies:
  empty files of such names, indexed by movie. 2019 held every window against every sentence; its time is
  measured on some windows and scaled up.
- Scoring: all windows and sentences of a movie at once against one pair a run, as in 2019, both through the
  same path, at the sizes of 2019's recipe. The pairs of one run are compared: same numbers, or it stops.
- Suppression and recall of that movie, all sentences at once against a loop in Python.
- A training step of 2019's recipe (batch 56) and the peak memory.
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

from metrics import grounding
from models import ZOO
from reader.common import moments
from reader.tall_reader import covers
from utils import build, cli, device, program
from utils.config import load_yaml
from utils.errors import ZooError
from utils.registry import find

SIZES = (64, 128, 256, 512)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--windows", type=cli.natural, default=160_000, help="default: 160000")
    parser.add_argument("--sentences", type=cli.natural, default=10_000, help="default: 10000")
    parser.add_argument("--movies", type=cli.natural, default=75, help="default: 75")
    parser.add_argument("--movie_windows", type=cli.natural, default=490, help="of the scored movie (490)")
    parser.add_argument("--movie_sentences", type=cli.natural, default=160, help="of the scored movie (160)")
    parser.add_argument("--pairs", type=cli.natural, default=60, help="scored one by one (default: 60)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        _set_construction(Path(folder), args)
    spec = find("TALL", ZOO)
    sections = load_yaml(spec.config)
    network = build.network(spec, sections, "TEST", spec.config)
    print(f"{device.num_threads()} thread(s)")
    for name, infer in {
        "eager": program.eager(network, spec, spec.evaluated),
        "predictor": program.inference(network, spec, False, False),
    }.items():
        _scoring(name, infer, args)
    _recall(args)
    _training_step(spec, sections, network)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return 0


def _set_construction(folder: Path, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    each = args.windows // args.movies
    started = time.perf_counter()
    for movie in range(args.movies):
        for i in range(each):
            start, size = 1 + 13 * i, SIZES[i % 4]
            (folder / f"s{movie:02d}.avi_{start}_{start + size}.npy").touch()
    print(f"{each * args.movies} empty window files written in {time.perf_counter() - started:.1f} s")
    starts = rng.integers(1, 13 * each, args.sentences)
    truth = np.stack([starts, starts + rng.integers(60, 500, args.sentences)], axis=1).astype(float)
    of = rng.integers(0, args.movies, args.sentences)

    started = time.perf_counter()
    movies = moments.list_windows(str(folder))
    pairs = 0
    for number, movie in enumerate(sorted(movies)):
        pairs += int(covers(np.array(movies[movie].spans, float), truth[of == number]).sum())
    ours = time.perf_counter() - started

    some = [(m, s) for m in sorted(movies)[:1] for s in movies[m].spans[:20]]
    started = time.perf_counter()
    for _, (start, end) in some:
        for k in range(len(truth)):
            if of[k] == 0:
                first, last = truth[k]
                iou = (min(end, last) - max(start, first)) / (max(end, last) - min(start, first))
                if iou > 0.5:
                    (end - start - min(end, last) + max(start, first)) / (end - start)
    theirs = (time.perf_counter() - started) / len(some) * each * args.movies
    print(
        f"training set: {pairs} pairs of {each * args.movies} windows and {args.sentences} sentences in "
        f"{ours:.1f} s; all against all, scaled up from {len(some)} windows: {theirs:.0f} s "
        f"({theirs / ours:.0f} x)"
    )


def _scoring(name: str, infer: Callable, args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    visual = rng.standard_normal((args.movie_windows, 12288)).astype(np.float32)
    sentences = rng.standard_normal((args.movie_sentences, 4800)).astype(np.float32)
    infer({"visual": visual[:2], "sentences": sentences[:2]})  # builds the predictor
    started = time.perf_counter()
    together = infer({"visual": visual, "sentences": sentences})["scores"]
    at_once = visual.shape[0] * sentences.shape[0] / (time.perf_counter() - started)
    places = [(i % len(sentences), i % len(visual)) for i in range(args.pairs)]
    infer({"visual": visual[:1], "sentences": sentences[:1]})
    started = time.perf_counter()
    one_by_one = [infer({"visual": visual[w : w + 1], "sentences": sentences[s : s + 1]}) for s, w in places]
    alone = args.pairs / (time.perf_counter() - started)
    alike = np.stack([each["scores"][:, 0, 0] for each in one_by_one])
    error = program.difference(np.stack([together[:, s, w] for s, w in places]), alike)
    if error > 1e-4:
        raise ZooError(f"{name}: at once and one by one differ by {error:.1e}")
    print(
        f"{name}: {at_once:.0f} pairs/s at once ({len(visual)} windows x {len(sentences)} sentences), "
        f"{alone:.0f} pairs/s one by one: {at_once / alone:.0f} x; they agree to {error:.0e}"
    )


def _recall(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 8000, (args.movie_sentences, args.movie_windows))
    spans = np.stack([start, start + rng.uniform(64, 256, start.shape)], axis=-1)
    scores = rng.standard_normal(start.shape)
    started = time.perf_counter()
    grounding.recalled(spans, scores, spans[:, 0])
    at_once = time.perf_counter() - started
    started = time.perf_counter()
    for m in grounding.IOUS:
        _suppress_in_python(spans[0], scores[0], m - 0.05)
    loop = (time.perf_counter() - started) * args.movie_sentences
    print(
        f"suppression and recall: {at_once:.2f} s for {len(spans)} sentences; a loop in Python, scaled up "
        f"from one: {loop:.1f} s ({loop / at_once:.0f} x)"
    )


def _suppress_in_python(spans: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    order, kept = sorted(range(len(scores)), key=lambda i: scores[i]), []
    segments = spans.tolist()
    while order:
        best = order.pop()
        kept.append(best)
        a, b = segments[best]
        left = []
        for i in order:
            common = max(0.0, min(b, segments[i][1]) - max(a, segments[i][0]))
            if common / (b - a + segments[i][1] - segments[i][0] - common) <= threshold:
                left.append(i)
        order = left
    return kept


def _training_step(spec, sections: dict, network: paddle.nn.Layer) -> None:
    size = sections["TRAIN"]["batch_size"]
    rng = np.random.default_rng(0)
    shapes = {"visual": (size, 12288), "sentences": (size, 4800), "offsets": (size, 2)}
    batch = {n: paddle.to_tensor(rng.standard_normal(s).astype(np.float32)) for n, s in shapes.items()}
    updates = build.solver(spec, sections, spec.config).build(network.parameters())
    network.train()
    times = []
    for _ in range(4):
        started = time.perf_counter()
        outputs = network(batch["visual"], batch["sentences"])
        network.loss(outputs, batch)["loss"].backward()
        updates.step()
        updates.clear_grad()
        times.append(time.perf_counter() - started)
    print(f"training step, batch {size}: {1000 * min(times[1:]):.0f} ms")


if __name__ == "__main__":
    sys.exit(cli.run(main))
