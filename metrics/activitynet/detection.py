"""Actions detected in time, their mAP, and the result file of 2019 (C-TCN)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from metrics.activitynet.average_precision import THRESHOLDS, mean_average_precision
from metrics.activitynet.records import Action
from metrics.losses import MeanLosses
from utils import anchors, files, temporal
from utils.config import Config, key
from utils.errors import ConfigError, DataError
from utils.timeline import Segment, timeline

LOSSES = ("loss", "loc_loss", "cls_loss")


class Detection:
    """``outputs["loc"]`` (N, A, 2) and ``outputs["probability"]`` (N, A, K), class 0 the background;
    ``batch["video"]`` the names. Losses are sums over a batch, divided by its positive anchors; with
    ``batch["cls_targets"]`` their result is that of all batches together, whatever their size, else the mean
    over batches.

    With ``batch["actions"]`` (``[class, start, end]`` as fractions of the video) detections are scored:
    ``average_mAP`` over ``THRESHOLDS`` and ``mAP@0.50``, ``mAP@0.75``, ``mAP@0.95``, as ActivityNet does.

    In test and prediction labels and durations come from the files of TEST, read by ``prepare``; training
    and validation need neither. ConfigError for a file that is missing or malformed, DataError for a video
    without a duration.
    """

    class Config(Config):
        num_classes: int = key(201, gt=1)  # with the background
        img_size: int = key(512, gt=0)  # time steps
        num_anchors: int = key(7, ge=1, le=7)
        score_thresh: float = key(0.001, "TEST", ge=0)  # of what is considered at all
        nms_thresh: float = key(0.8, "TEST", ge=0)  # overlap of what goes
        sigma_thresh: float = key(0.9, "TEST", gt=0)  # of soft-NMS
        soft_thresh: float = key(0.004, "TEST", ge=0)  # score of what stays after it
        class_label_file: str | None = key(None, "TEST")  # a name a line, from class 1
        video_duration_file: str | None = key(None, "TEST")  # "video … seconds" a line

    def __init__(self, config: Detection.Config) -> None:
        self.config = config
        self.anchors = anchors.anchors(config.img_size, config.num_anchors)
        self.labels = [str(number) for number in range(config.num_classes - 1)]
        self.durations: dict[str, float] | None = None
        self.mean = MeanLosses(*LOSSES)
        self.reset()

    def prepare(self) -> None:
        """Read what only test and prediction need."""
        config = self.config
        if config.class_label_file:
            self.labels = read_labels(config.class_label_file, config.num_classes - 1)
        if not config.video_duration_file:
            raise ConfigError("TEST.video_duration_file is not given: detections are written in seconds")
        self.durations = read_durations(config.video_duration_file)

    def reset(self) -> None:
        self.mean.reset()
        self.detections: dict[str, list[tuple[int, float, float, float]]] = {}
        self.truth: dict[str, list[list[float]]] = {}

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        weight = 1.0
        if "cls_targets" in batch:
            weight = float((np.asarray(batch["cls_targets"]) > 0).sum())
        self.mean.update(outputs, weight)
        if "actions" not in batch:
            return
        for i, video in enumerate(batch["video"]):
            if self.durations is not None:
                self._duration(video)
            self.detections[video] = self._detect(outputs["loc"][i], outputs["probability"][i])
            self.truth[video] = batch["actions"][i]

    def running(self) -> dict[str, float]:
        """The mean losses so far."""
        return self.mean.result()

    def result(self) -> dict[str, float]:
        """Mean losses, and the mAP of what was scored; empty before the first batch."""
        if not self.truth:
            return self.running()
        truth = [
            Action(video, str(int(kind) - 1), start, end)
            for video, rows in self.truth.items()
            for kind, start, end in rows
        ]
        found = [
            Action(video, str(label), start, end, score)
            for video, rows in self.detections.items()
            for label, score, start, end in rows
        ]
        scores = mean_average_precision(truth, found)
        by_threshold = {
            f"mAP@{t:.2f}": float(value) for t, value in zip(THRESHOLDS, scores["mAP"], strict=True)
        }
        shown = {name: by_threshold[name] for name in ("mAP@0.50", "mAP@0.75", "mAP@0.95")}
        return {**self.running(), **shown, "average_mAP": scores["average_mAP"]}

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """Nothing: the actions of a video that cannot be read are not known here."""
        del num_failed
        return {}

    def state(self) -> tuple:
        """What ``merge`` adds up; plain values, so that ranks can exchange it."""
        return self.mean.state(), self.detections, self.truth

    def merge(self, states: list[tuple]) -> None:
        """Become the sum of ``states``, one a rank."""
        self.mean.merge([state[0] for state in states])
        self.detections = {video: rows for state in states for video, rows in state[1].items()}
        self.truth = {video: rows for state in states for video, rows in state[2].items()}

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a video: ``{"video", "duration_second", "detections"}``; each of these is ``{"score",
        "label", "segment"}``, by class and falling score, in seconds. There may be none."""
        return [
            {
                "video": video,
                "duration_second": self._duration(video),
                "detections": self._in_seconds(
                    video, self._detect(outputs["loc"][i], outputs["probability"][i])
                ),
            }
            for i, video in enumerate(batch["video"])
        ]

    def describe(self, record: dict[str, Any]) -> str:
        """A record as the lines that predict prints."""
        lines = [f"name: {record['video']}"]
        lines += [
            f"score: {one['score']}, \tlabel: {one['label']}, \tsegment: {one['segment']}"
            for one in record["detections"]
        ]
        return "\n".join(lines)

    def draw(self, figure: Any, record: dict[str, Any], sample: dict[str, Any], most: int = 12) -> None:
        """The best detections of a record over the seconds of its video, on an empty matplotlib Figure."""
        del sample
        best = sorted(record["detections"], key=lambda one: -one["score"])[:most]
        segments = [Segment(one["label"], *one["segment"], one["score"]) for one in best]
        total = len(record["detections"])
        note = f"{total} detections" + (f", the best {most}" if total > most else "")
        timeline(figure, record["video"], record["duration_second"], segments, note=note)

    def write_results(self, save_dir: str | None, records: list[dict] | None = None) -> list[Path]:
        """2019's ``CTCN_test_res_decode_*.json`` or, with the ``records`` of predict, ``CTCN_infer_…``."""
        config = self.config
        thresholds = (config.score_thresh, config.nms_thresh, config.sigma_thresh, config.soft_thresh)
        if records is None:
            mode, folder = "test", save_dir or "data/evaluate_results"
            results = {video: self._in_seconds(video, rows) for video, rows in self.detections.items()}
        else:
            mode, folder = "infer", save_dir or "data/predict_results"
            results = {r["video"]: r["detections"] for r in records if "error" not in r}
        path = Path(folder) / f"CTCN_{mode}_res_decode_{'_'.join(map(str, thresholds))}.json"
        details = {"used": False, "details": "none"}  # 2019 wrote "uesd"
        content = {"version": "VERSION 1.3", "external_data": details, "results": results}
        files.write_atomic(path, json.dumps(content).encode())
        return [path]

    def _detect(self, loc: np.ndarray, probability: np.ndarray) -> list[tuple[int, float, float, float]]:
        """``(label from 0, score, start, end)`` of one video, by class and falling score; fractions of it.

        For each class: the anchors above ``score_thresh``, suppression, then soft suppression.
        """
        config = self.config
        segments = anchors.decode(self.anchors, loc)
        likely = np.asarray(probability)[:, 1:] > config.score_thresh  # (A, K - 1)
        used = np.flatnonzero(likely.any(axis=1))
        overlap = temporal.iou(segments[used], segments[used])  # shared by all classes
        bounds = np.stack(
            [np.maximum(segments[used, 0], 0.0), np.minimum(segments[used, 1], config.img_size)]
        )
        fractions = (bounds / config.img_size).T.tolist()
        found = []
        for label in np.flatnonzero(likely.any(axis=0)):
            here = np.flatnonzero(likely[used, label])
            scores = np.asarray(probability)[used[here], label + 1]
            here_overlap = overlap[np.ix_(here, here)]
            kept = temporal.nms(here_overlap, scores, config.nms_thresh)
            soft, values = temporal.gaussian_soft_nms(
                here_overlap[np.ix_(kept, kept)], scores[kept], config.sigma_thresh, config.soft_thresh
            )
            for i, score in zip(here[kept[soft]], values, strict=True):
                start, end = fractions[i]
                if end > start:
                    found.append((int(label), float(score), start, end))
        return found

    def _duration(self, video: str) -> float:
        try:
            return self.durations[video]
        except KeyError:
            file = self.config.video_duration_file
            raise DataError(
                f"{file}: no duration of the video {video!r} (TEST.video_duration_file)"
            ) from None

    def _in_seconds(self, video: str, rows: list[tuple[int, float, float, float]]) -> list[dict[str, Any]]:
        seconds = self._duration(video)
        return [
            {"score": score, "label": self.labels[label], "segment": [start * seconds, end * seconds]}
            for label, score, start, end in rows
        ]


def read_labels(file: str, num_labels: int) -> list[str]:
    """A name a line. Raises ConfigError: no such file, or fewer names than classes."""
    names = [line.strip() for line in _lines(file) if line.strip()]
    if len(names) < num_labels:
        raise ConfigError(
            f"{file}: {len(names)} class names, but {num_labels} are needed (MODEL.num_classes, without the "
            "background)"
        )
    return names


def read_durations(file: str) -> dict[str, float]:
    """``video … seconds`` a line, what is between is not read. Raises ConfigError with file and line."""
    durations = {}
    for number, line in enumerate(_lines(file), 1):
        parts = line.split()
        if not parts:
            continue
        try:
            seconds = float(parts[-1]) if len(parts) > 1 else 0.0
        except ValueError:
            seconds = 0.0
        if not 0.0 < seconds < float("inf"):
            raise ConfigError(f"{file}:{number}: expected 'video frames seconds', got {line.strip()!r}")
        durations[parts[0]] = seconds
    return durations


def _lines(file: str) -> list[str]:
    try:
        return Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text"
        raise ConfigError(f"{file}: cannot read it: {reason}") from error
