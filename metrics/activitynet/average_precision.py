"""Detection mAP as ActivityNet scores it, of any result JSON:

python -m metrics.activitynet.average_precision RESULT.json ANNOTATIONS.json --subset validation
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from metrics.activitynet.records import Action, read_annotations, read_results
from utils import cli, temporal

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of temporal IoU


def mean_average_precision(truth: Sequence[Action], detections: Sequence[Action]) -> dict[str, Any]:
    """``mAP`` at each of ``THRESHOLDS``, their mean ``average_mAP``, and ``ap`` by class, ``(10, classes)``.

    The classes are those of ``truth``, sorted; detections of others do not count. Times of a video are in
    any unit. Without any truth the values are 0.
    """
    classes = sorted({action.label for action in truth})
    ap = np.zeros((len(THRESHOLDS), len(classes)))
    for i, label in enumerate(classes):
        ap[:, i] = average_precision(
            [action for action in truth if action.label == label],
            [action for action in detections if action.label == label],
        )
    by_threshold = ap.mean(axis=1) if classes else np.zeros(len(THRESHOLDS))
    return {"mAP": by_threshold, "average_mAP": float(by_threshold.mean()), "ap": ap, "classes": classes}


def average_precision(truth: Sequence[Action], detections: Sequence[Action]) -> np.ndarray:
    """AP of one class at each of ``THRESHOLDS``, ``(10,)``: the area below precision over recall.

    In the order of their scores, each detection takes the action that it overlaps most of those not yet
    taken, if by the threshold or more; else it is wrong. Equal scores keep their order.
    """
    if not detections:
        return np.zeros(len(THRESHOLDS))
    segments: dict[str, list[list[float]]] = {}
    for action in truth:
        segments.setdefault(action.video, []).append([action.start, action.end])
    taken = {video: np.zeros((len(THRESHOLDS), len(rows)), bool) for video, rows in segments.items()}
    order = np.argsort([-action.score for action in detections], kind="stable")
    right = np.zeros((len(THRESHOLDS), len(order)), bool)
    for rank, i in enumerate(order):
        action = detections[i]
        if action.video not in segments:
            continue
        overlap = temporal.iou([[action.start, action.end]], segments[action.video])[0]
        for best in np.argsort(-overlap, kind="stable"):
            takes = (overlap[best] >= THRESHOLDS) & ~right[:, rank] & ~taken[action.video][:, best]
            if overlap[best] < THRESHOLDS[0]:
                break
            right[takes, rank] = True
            taken[action.video][takes, best] = True
    correct = np.cumsum(right, axis=1)
    recall = correct / len(truth)
    precision = correct / np.arange(1, len(order) + 1)
    return np.array([interpolated_area(p, r) for p, r in zip(precision, recall, strict=True)])


def interpolated_area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area below the curve, each precision replaced by the highest at that recall or beyond (VOC 2011)."""
    precision = np.concatenate([[0.0], precision, [0.0]])
    recall = np.concatenate([[0.0], recall, [1.0]])
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    steps = np.flatnonzero(recall[1:] != recall[:-1]) + 1
    return float(((recall[steps] - recall[steps - 1]) * precision[steps]).sum())


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Detection mAP of a result JSON, as ActivityNet scores it.")
    parser.add_argument("results", help='{"results": {video: [{"label", "score", "segment"}]}}')
    parser.add_argument("annotations", help="ActivityNet annotation (JSON)")
    parser.add_argument("--subset", default="validation", help="default: validation")
    args = parser.parse_args(argv)
    truth = read_annotations(args.annotations, args.subset)
    detections = read_results(args.results, {action.video for action in truth}, labelled=True)
    scores = mean_average_precision(truth, detections)
    videos, classes = len({action.video for action in truth}), len(scores["classes"])
    print(f"{len(detections)} detections; {len(truth)} actions of {videos} videos, {classes} classes")
    for threshold, value in zip(THRESHOLDS, scores["mAP"], strict=True):
        print(f"mAP@{threshold:.2f}  {value:.6f}")
    print(f"average   {scores['average_mAP']:.6f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
