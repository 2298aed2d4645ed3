"""Recall of moments that sentences speak of, and the ranked moments of each sentence."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils import files
from utils.config import Config, key
from utils.timeline import Segment, timeline

log = logging.getLogger(__name__)

TOP, IOUS = (1, 5, 10), (0.1, 0.3, 0.5, 0.7)
RESULTS = {"test": "data/evaluate_results", "infer": "data/predict_results"}  # where 2019 wrote


class Grounding:
    """``outputs["scores"]`` is (3, S, W): alignment, and what to add to start and end of a window, in frames.

    ``batch`` says which rows and columns belong together: ``num_sentences`` and ``num_windows`` (B,) of each
    movie, whose ``windows`` (W, 2) and ``moments`` (S, 2), in frames, are behind one another.

    R@n at IoU m is the share of sentences of which one of the n best moments overlaps the true one by at
    least m. Moments are ranked by alignment; of those that overlap by more than m - 0.05 the better one is
    kept, as in the paper's own evaluation. Among equal scores the later window comes first, as in 2019.
    In training there is only the loss, a mean weighted by sample.
    """

    class Config(Config):
        topk: int = key(5, gt=0)  # moments of a prediction
        nms_thresh: float = key(0.45, ge=0, le=1)  # of a prediction: most overlap between two moments

    def __init__(self, config: Grounding.Config) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        self.loss_sum, self.num_samples = 0.0, 0
        self.hits = np.zeros((len(IOUS), len(TOP)), np.int64)
        self.num_sentences = self.num_movies = 0

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        if "loss" in outputs:
            count = len(batch["video"])
            self.loss_sum += float(np.mean(outputs["loss"])) * count
            self.num_samples += count
        if "windows" not in batch:
            return
        for _, scores, windows, truth in blocks(outputs["scores"], batch):
            self.hits += recalled(moved(scores, windows), scores[0], truth)
            self.num_sentences += len(truth)
            self.num_movies += 1

    def result(self) -> dict[str, float]:
        """``loss`` of pairs, ``R@n_IoU=m`` between 0 and 1 of movies; empty before the first."""
        values = {"loss": self.loss_sum / self.num_samples} if self.num_samples else {}
        if self.num_sentences:
            for i, m in enumerate(IOUS):
                for j, n in enumerate(TOP):
                    values[f"R@{n}_IoU={m}"] = float(self.hits[i, j] / self.num_sentences)
        return values

    def running(self) -> dict[str, float]:
        """What 2019's result file has."""
        shown = ("loss", "R@1_IoU=0.5", "R@5_IoU=0.5")
        return {name: value for name, value in self.result().items() if name in shown}

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """The recalls if nothing were found in movies that could not be read, each taken for a mean one."""
        scored = self.num_movies / max(1, self.num_movies + num_failed)
        return {name: value * scored for name, value in self.result().items() if name != "loss"}

    def state(self) -> tuple:
        """What ``merge`` adds up; plain values, so that ranks can exchange it."""
        return self.loss_sum, self.num_samples, self.hits, self.num_sentences, self.num_movies

    def merge(self, states: list[tuple]) -> None:
        """Become the sum of ``states``, one a rank."""
        sums = [sum(values) for values in zip(*states, strict=True)]
        self.loss_sum, self.num_samples, self.hits, self.num_sentences, self.num_movies = sums

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a movie: ``{"video", "fps", "num_frames", "sentences": [{"sentence", "text",
        "annotated", "moments": [moment]}]}``, each moment ``{"start_frame", "end_frame", "start_second",
        "end_second", "score", "window"}``, the best first.

        Frames are as the network gives them, and may lie outside of the movie; seconds are cut to it. What
        is not known is null.
        """
        records = []
        for b, scores, windows, truth in blocks(outputs["scores"], batch):
            spans = moved(scores, windows)  # (S, W, 2)
            picks = suppress(spans, scores[0], self.config.nms_thresh, self.config.topk)
            fps, num_frames = float(batch["fps"][b]), float(batch["num_frames"][b])
            sentences = []
            for s, chosen in enumerate(picks):
                moments = [
                    {
                        "start_frame": float(spans[s, w, 0]),
                        "end_frame": float(spans[s, w, 1]),
                        "start_second": second(spans[s, w, 0], fps, num_frames),
                        "end_second": second(spans[s, w, 1], fps, num_frames),
                        "score": float(scores[0, s, w]),
                        "window": windows[w].tolist(),
                    }
                    for w in chosen[chosen >= 0]
                ]
                sentences.append(
                    {
                        "sentence": int(batch["first"][b]) + s,
                        "text": batch["texts"][b][s] or None,
                        "annotated": None if np.isnan(truth[s]).any() else truth[s].tolist(),
                        "moments": moments,
                    }
                )
            length = max(num_frames, 0.0) if not math.isnan(num_frames) else float(windows[:, 1].max())
            records.append(
                {
                    "video": batch["video"][b],
                    "fps": None if math.isnan(fps) else fps,
                    "num_frames": length,
                    "sentences": sentences,
                }
            )
        return records

    def combine(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One record a movie; the sentences of a long one may come in several."""
        movies: dict[str, dict[str, Any]] = {}
        for record in records:
            before = movies.setdefault(record["video"], record)
            if before is record or "error" in before:
                continue
            if "error" in record:
                movies[record["video"]] = record
            else:
                before["sentences"] = before["sentences"] + record["sentences"]
        return list(movies.values())

    def describe(self, record: dict[str, Any]) -> str:
        """The line of 2019 for each sentence, its best moment, and the ranked moments below it."""
        lines = []
        for sentence in record["sentences"]:
            best = sentence["moments"][0]
            truth = sentence["annotated"] or ["unknown", "unknown"]
            text = f", {sentence['text']!r}" if sentence["text"] else ""
            lines.append(
                f"movie_name: {record['video']}, sentence_id: {sentence['sentence']}, "
                f"pred_start_time: {best['start_frame']}, pred_end_time: {best['end_frame']}, "
                f"gt_start_time: {truth[0]}, gt_end_time: {truth[1]}{text}"
            )
            for rank, moment in enumerate(sentence["moments"], 1):
                line = f"\t{rank}. frames {moment['start_frame']:.1f} to {moment['end_frame']:.1f}"
                if moment["start_second"] is not None:
                    line += f", {moment['start_second']:.2f} s to {moment['end_second']:.2f} s"
                lines.append(f"{line}, score {moment['score']:.4f}")
        return "\n".join(lines)

    def write_results(self, save_dir: str | None, records: list[dict[str, Any]] | None = None) -> list[Path]:
        """``TALL_test_res_.json``: R@1 and R@5 at IoU 0.5. ``TALL_infer_res_.json``: the best moment of each
        sentence, ``{movie: [[sentence, start, end]]}`` in frames."""
        mode = "test" if records is None else "infer"
        if records is None:
            result = self.result()
            if "R@1_IoU=0.5" not in result:
                return []
            values = {"best_R1_IOU5": result["R@1_IoU=0.5"], "best_R5_IOU5": result["R@5_IoU=0.5"]}
        else:
            values = {}
            for record in records:
                if "error" not in record:
                    best = [(s["sentence"], s["moments"][0]) for s in record["sentences"]]
                    values[record["video"]] = [[k, m["start_frame"], m["end_frame"]] for k, m in best]
        path = Path(save_dir or RESULTS[mode]) / f"TALL_{mode}_res_.json"
        files.write_json(path, {"version": "VERSION 1.0", "results": values, "external_data": {}})
        return [path]

    def parts(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """What is drawn on its own: each sentence."""
        return record["sentences"]

    def draw(self, figure: Any, record: dict[str, Any], sample: dict[str, Any]) -> None:
        """The moments of a sentence below the annotated one; in frames where the fps is not known."""
        fps, unit = (record["fps"], "s") if record["fps"] else (1.0, "frames")
        segments = [
            Segment(f"rank {rank}", moment["start_frame"] / fps, moment["end_frame"] / fps, moment["score"])
            for rank, moment in enumerate(record["moments"], 1)
        ]
        truth = []
        if record["annotated"]:
            truth = [Segment("annotated", *(frame / fps for frame in record["annotated"]))]
        note = record["text"] or f"sentence {record['sentence']}"
        timeline(figure, record["video"], record["num_frames"] / fps, segments, truth, note, unit)


def blocks(scores: np.ndarray, batch: dict[str, Any]) -> Iterator[tuple]:
    """Of each movie of a batch: its number, scores (3, S, W), windows (W, 2) and moments (S, 2)."""
    row = column = 0
    for b, (rows, columns) in enumerate(zip(batch["num_sentences"], batch["num_windows"], strict=True)):
        s, w = slice(row, row + int(rows)), slice(column, column + int(columns))
        yield b, np.asarray(scores)[:, s, w], np.asarray(batch["windows"])[w], np.asarray(batch["moments"])[s]
        row, column = s.stop, w.stop


def moved(scores: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """Windows (W, 2) moved by the offsets of (3, S, W): ``(S, W, 2)`` float64 frames."""
    return windows + scores[1:].transpose(1, 2, 0).astype(np.float64)


def suppress(spans: np.ndarray, scores: np.ndarray, threshold: float, most: int) -> np.ndarray:
    """Non-maximum suppression of each sentence's moments: ``(S, W, 2)`` and ``(S, W)`` to ``(S, most)``.

    Places of the best moments, the best first, -1 behind the last one left. All sentences at once: ``most``
    steps, whatever their number.
    """
    rows, width = np.arange(len(spans)), spans.shape[1]
    start, end = spans[..., 0], spans[..., 1]
    left = np.ones(scores.shape, bool)
    picks = np.full((len(spans), most), -1)
    for step in range(min(most, width)):
        best = width - 1 - np.where(left, scores, -np.inf)[:, ::-1].argmax(axis=1)  # the last of equal ones
        found = left[rows, best]
        picks[found, step] = best[found]
        left &= overlap(start, end, start[rows, best][:, None], end[rows, best][:, None]) <= threshold
        left[rows, best] = False
    return picks


def recalled(spans: np.ndarray, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Sentences found, ``(IOUS, TOP)``, of moments (S, W, 2), their scores (S, W) and true moments (S, 2)."""
    counts = np.zeros((len(IOUS), len(TOP)), np.int64)
    start, end = truth[:, :1], truth[:, 1:]
    good = overlap(spans[..., 0], spans[..., 1], start, end, clipped=False)  # (S, W)
    for i, m in enumerate(IOUS):
        picks = suppress(spans, scores, m - 0.05, max(TOP))  # (S, 10)
        right = (np.take_along_axis(good, np.maximum(picks, 0), axis=1) >= m) & (picks >= 0)
        counts[i] = [right[:, :n].any(axis=1).sum() for n in TOP]
    return counts


def overlap(start_a, end_a, start_b, end_b, clipped: bool = True) -> np.ndarray:
    """Intersection over union of segments, broadcast.

    ``clipped``: the union is what both are long less what they share, which is 0 at least. Otherwise as the
    paper's evaluation has it: from the first start to the last end, and segments apart are negative. They
    differ only for segments whose end is before their start.
    """
    common = np.minimum(end_a, end_b) - np.maximum(start_a, start_b)
    if clipped:
        common = np.maximum(common, 0.0)
        union = (end_a - start_a) + (end_b - start_b) - common
    else:
        union = np.maximum(end_a, end_b) - np.minimum(start_a, start_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        return common / union


def second(frame: float, fps: float, num_frames: float) -> float | None:
    """A frame's time, cut to the movie where its length is known; None where the fps is not."""
    if math.isnan(fps):
        return None
    last = math.inf if math.isnan(num_frames) else num_frames
    return float(min(max(frame, 0.0), last) / fps)
