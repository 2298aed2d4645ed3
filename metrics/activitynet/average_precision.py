"""Detection mAP as ActivityNet scores it, of any result JSON:

python -m metrics.activitynet.average_precision RESULT.json ANNOTATIONS.json --subset validation
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils import cli, temporal
from utils.errors import DataError

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of temporal IoU


@dataclass(frozen=True)
class Action:
    """One action in time; ``score`` is that of a detection."""

    video: str
    label: str
    start: float
    end: float
    score: float = 1.0


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


def read_annotations(file: str, subset: str) -> list[Action]:
    """Actions of one subset of an ActivityNet annotation, in seconds; raises DataError.

    ``{"database": {video: {"subset", "annotations": [{"label", "segment"}]}}}``, or its inner part alone.
    """
    content = _read(file)
    database = content.get("database", content)
    found = []
    try:
        for video, about in database.items():
            if about["subset"] == subset:
                found += [
                    Action(video, str(one["label"]), *map(float, one["segment"]))
                    for one in about["annotations"]
                ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: not an ActivityNet annotation ({error!r})") from error
    if not found:
        known = sorted({about["subset"] for about in database.values()})
        raise DataError(f"{file}: no annotated action in the subset {subset!r}; subsets: {', '.join(known)}")
    return found


def read_detections(file: str, known: set[str]) -> list[Action]:
    """``{"results": {video: [{"label", "score", "segment"}]}}``, in seconds; raises DataError.

    A video may be called with or without the ``v_`` of its file, whichever ``known`` does not have.
    """
    results = _read(file).get("results")
    found = []
    try:
        for video, rows in results.items():
            name = next((n for n in (video, video.removeprefix("v_"), f"v_{video}") if n in known), video)
            found += [
                Action(name, str(one["label"]), *map(float, one["segment"]), float(one["score"]))
                for one in rows
            ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{file}: not a result of detection ({error!r})") from error
    return found


def _read(file: str) -> dict:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot read it: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: expected a JSON object, got {type(content).__name__}")
    return content


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Detection mAP of a result JSON, as ActivityNet scores it.")
    parser.add_argument("results", help='{"results": {video: [{"label", "score", "segment"}]}}')
    parser.add_argument("annotations", help="ActivityNet annotation (JSON)")
    parser.add_argument("--subset", default="validation", help="default: validation")
    args = parser.parse_args(argv)
    truth = read_annotations(args.annotations, args.subset)
    detections = read_detections(args.results, {action.video for action in truth})
    scores = mean_average_precision(truth, detections)
    videos, classes = len({action.video for action in truth}), len(scores["classes"])
    print(f"{len(detections)} detections; {len(truth)} actions of {videos} videos, {classes} classes")
    for threshold, value in zip(THRESHOLDS, scores["mAP"], strict=True):
        print(f"mAP@{threshold:.2f}  {value:.6f}")
    print(f"average   {scores['average_mAP']:.6f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(cli.run(main))
