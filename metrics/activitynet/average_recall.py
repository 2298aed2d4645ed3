"""Recall of temporal proposals as ActivityNet scores it (AR@AN and AUC), of any result JSON:

python -m metrics.activitynet.average_recall RESULT.json ANNOTATIONS.json --subset validation
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metrics.activitynet.average_precision import THRESHOLDS
from metrics.activitynet.records import Action, read_annotations, read_results
from utils import cli, temporal

MOST = 100  # proposals a video, on average
POINTS = np.arange(1, 101) / 100.0  # of the curve, as parts of MOST
SHOWN = (1, 5, 10, 100)  # of the curve, as AR@n


@dataclass(frozen=True)
class AverageRecall:
    """The curve of recall over the number of proposals a video, at the 100 ``POINTS`` of it."""

    recall: np.ndarray  # (10, 100): at each of THRESHOLDS
    num_proposals: np.ndarray  # (100,): a video, on average
    auc: float  # area below the mean recall

    @property
    def average(self) -> np.ndarray:
        """``(100,)``, the mean over the thresholds."""
        return self.recall.mean(axis=0)

    def percentages(self) -> dict[str, float]:
        """``AR@1`` … ``AR@100``, and ``AUC`` as part of the largest possible area, as they are published."""
        average = self.average
        shown = {f"AR@{n}": 100.0 * float(average[n - 1]) for n in SHOWN}
        return {**shown, "AUC": 100.0 * self.auc / float(self.num_proposals[-1])}


def average_recall(
    truth: Mapping[str, np.ndarray], proposals: Mapping[str, np.ndarray], most: float = MOST
) -> AverageRecall:
    """``truth`` is ``(G, 2)`` starts and ends by video, ``proposals`` ``(P, 3)`` starts, ends and scores.

    The scorer is given a number of proposals a video on average, not at most: a video has its share of all
    proposals, best first, that this number is of all that there are. So proposals of videos without truth
    count in that number, though they are not scored. Equal scores keep their order. Without any truth, or
    any proposal of its videos, everything is 0.
    """
    videos = [video for video, segments in truth.items() if len(segments)]
    total = sum(map(len, proposals.values()))
    share = most * len(videos) / max(total, 1)
    kept = {video: _best(proposals[video], share) for video in videos if len(proposals.get(video, ()))}
    num_kept = sum(map(len, kept.values()))
    if not num_kept:
        return AverageRecall(np.zeros((len(THRESHOLDS), 100)), POINTS * most, 0.0)
    # In the scorer's order of operations: the numbers of proposals are cut to integers.
    parts = POINTS * (most * len(videos) / num_kept)  # (100,)
    found, num_actions = np.zeros((len(THRESHOLDS), 100)), 0
    for video in videos:
        num_actions += len(truth[video])
        if video not in kept:
            continue
        segments = kept[video]
        counts = np.minimum((len(segments) * parts).astype(np.int64), len(segments))  # (100,)
        overlap = temporal.iou(truth[video], segments)  # (G, P)
        hit = overlap[None] >= THRESHOLDS[:, None, None]  # (10, G, P)
        first = np.where(hit.any(axis=2), hit.argmax(axis=2), len(segments))  # (10, G)
        found += (first[:, :, None] < counts).sum(axis=1)
    recall = found / num_actions
    num_proposals = parts * (num_kept / len(videos))
    steps, mean = np.diff(num_proposals), recall.mean(axis=0)
    auc = float((steps * (mean[1:] + mean[:-1]) / 2.0).sum())
    return AverageRecall(recall, num_proposals, auc)


def _best(proposals: np.ndarray, share: float) -> np.ndarray:
    """``(P', 2)``: the part ``share`` of the proposals of one video, the highest scores first."""
    proposals = np.asarray(proposals, np.float64)
    order = np.argsort(-proposals[:, 2], kind="stable")
    return proposals[order[: int(len(proposals) * share)], :2]


def by_video(actions: Sequence[Action]) -> dict[str, np.ndarray]:
    """``(P, 3)`` starts, ends and scores by video."""
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for action in actions:
        rows.setdefault(action.video, []).append((action.start, action.end, action.score))
    return {video: np.array(found) for video, found in rows.items()}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Average recall of a result JSON, as ActivityNet scores it.")
    parser.add_argument("results", help='{"results": {video: [{"score", "segment"}]}}')
    parser.add_argument("annotations", help="ActivityNet annotation (JSON)")
    parser.add_argument("--subset", default="validation", help="default: validation")
    args = parser.parse_args(argv)
    annotated = by_video(read_annotations(args.annotations, args.subset))
    truth = {video: rows[:, :2] for video, rows in annotated.items()}
    proposals = by_video(read_results(args.results, set(truth), labelled=False))
    num_proposals, num_actions = (sum(map(len, rows.values())) for rows in (proposals, truth))
    print(f"{num_proposals} proposals; {num_actions} actions of {len(truth)} videos")
    for name, value in average_recall(truth, proposals).percentages().items():
        print(f"{name:<7} {value:.6f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
