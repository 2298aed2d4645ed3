"""Soft-NMS and average recall at the size of ActivityNet: ``python -m benchmark.soft_nms``.

- Soft-NMS of ``--proposals`` proposals a video, all overlaps of a pick at once, against plain loops, one
  overlap at a time. The picks and scores of both are compared: same numbers, or it stops. The time of
  ``--videos`` videos is scaled up from ``--measured``.
- AR@AN and AUC of ``--videos`` videos with 100 proposals each.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

from metrics.activitynet import average_recall
from utils import cli, temporal
from utils.errors import ZooError

ALPHA, LOW, HIGH, MOST = 0.4, 0.55, 0.9, 101


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--videos", type=cli.natural, default=4700, help="default: 4700")
    parser.add_argument("--proposals", type=cli.natural, default=1000, help="a video (default: 1000)")
    parser.add_argument("--measured", type=cli.natural, default=20, help="videos (default: 20)")
    args = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    _suppression(rng, args)
    _recall(rng, args.videos)
    return 0


def _segments(rng: np.random.Generator, count: int) -> np.ndarray:
    start = rng.integers(0, 100, count)
    return np.stack([start, start + 1 + rng.integers(0, 100, count) % (100 - start)], axis=1) / 100.0


def _suppression(rng: np.random.Generator, args: argparse.Namespace) -> None:
    seconds = {"vectorised": 0.0, "loops": 0.0}
    for _ in range(args.measured):
        segments, scores = _segments(rng, args.proposals), rng.random(args.proposals)
        started = time.perf_counter()
        indices, values = temporal.soft_nms(segments, scores, ALPHA, LOW, HIGH, MOST)
        between = time.perf_counter()
        expected = _loops(segments.tolist(), scores.tolist())
        seconds["vectorised"] += between - started
        seconds["loops"] += time.perf_counter() - between
        if not np.allclose(np.column_stack([segments[indices], values]), expected, rtol=1e-9, atol=0.0):
            raise ZooError("soft-NMS differs from the loops")
    for name, total in seconds.items():
        each = total / args.measured
        print(f"soft-NMS, {name}: {1000 * each:.1f} ms a video, {each * args.videos:.0f} s for {args.videos}")
    print(f"ratio: {seconds['loops'] / seconds['vectorised']:.1f}")


def _loops(segments: list[list[float]], scores: list[float]) -> list[tuple[float, float, float]]:
    """Each overlap on its own."""
    left = [(start, end, score) for (start, end), score in zip(segments, scores, strict=True)]
    taken = []
    while len(left) > 1 and len(taken) < MOST:
        best = max(range(len(left)), key=lambda i: left[i][2])
        start, end, score = left.pop(best)
        taken.append((start, end, score))
        for i, (a, b, value) in enumerate(left):
            common = max(min(b, end) - max(a, start), 0.0)
            overlap = common / ((b - a) - common + end - start)
            if overlap > LOW + (HIGH - LOW) * (end - start):
                left[i] = (a, b, value * np.exp(-(overlap**2) / ALPHA))
    return taken


def _recall(rng: np.random.Generator, num_videos: int) -> None:
    truth = {str(i): _segments(rng, int(rng.integers(1, 4))) for i in range(num_videos)}
    proposals = {video: np.column_stack([_segments(rng, 100), rng.random(100)]) for video in truth}
    started = time.perf_counter()
    shown = average_recall.average_recall(truth, proposals).percentages()
    print(f"recall of {num_videos} videos: {time.perf_counter() - started:.2f} s (AUC {shown['AUC']:.2f})")


if __name__ == "__main__":
    sys.exit(cli.run(main))
