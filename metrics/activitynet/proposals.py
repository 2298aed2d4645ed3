"""Proposals of BMN and BSN: soft-NMS, average recall, and the result files of 2019."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metrics.activitynet.average_recall import average_recall
from metrics.losses import MeanLosses
from utils import files, tables, temporal
from utils.config import MODE, Config, key
from utils.timeline import Segment, timeline

KEPT = 100  # proposals a video
PRINTED = 10  # of them


class Proposals:
    """What the two models have in common; each has its own ``candidates``, before soft-NMS.

    Of the batch: ``video``, the names; ``duration_second``, a number a video or None, where times are then
    fractions of the video; ``annotations``, ActivityNet's of each video, ``[{"segment": [start, end]}]`` in
    seconds, empty where they are not known. Training gives no ``annotations``: only losses are counted, the
    mean over batches. With them proposals are made, and scored as ActivityNet does: ``AR@1``, ``AR@5``,
    ``AR@10``, ``AR@100`` and ``AUC`` in percent, of the videos that have an annotated action.
    """

    losses: tuple[str, ...] = ("loss",)
    file_start = ""  # of the result file

    class Config(Config):
        subset: str = key("validation", MODE)  # in the name of the result file
        snms_alpha: float = key(0.4, gt=0)  # width of the Gaussian decay
        snms_t1: float = key(0.55, ge=0)  # overlap that decays the score, for a proposal without length
        snms_t2: float = key(0.9, ge=0)  # and for one as long as the video
        output_path: str | None = key(None)  # folder of the candidates
        result_path: str | None = key(None)  # folder of the result file

    def __init__(self, config: Proposals.Config) -> None:
        self.config = config
        self.mean = MeanLosses(*self.losses)
        self.reset()

    def reset(self) -> None:
        self.mean.reset()
        self.candidates_of: dict[str, dict[str, np.ndarray]] = {}
        self.proposals: dict[str, list[dict[str, Any]]] = {}
        self.truth: dict[str, list[list[float]]] = {}

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        self.mean.update(outputs)
        if "annotations" not in batch:
            return
        for record in self.decode(outputs, batch):
            self.candidates_of[record["video"]] = record["candidates"]
            self.proposals[record["video"]] = record["proposals"]
        for video, known in zip(batch["video"], batch["annotations"], strict=True):
            self.truth[video] = [list(one["segment"]) for one in known]

    def running(self) -> dict[str, float]:
        """The mean losses so far."""
        return self.mean.result()

    def result(self) -> dict[str, float]:
        """Mean losses, and the recall of what was scored; empty before the first batch."""
        truth = {video: np.array(rows) for video, rows in self.truth.items() if rows}
        if not truth:
            return self.mean.result()
        found = {
            video: np.array([[*one["segment"], one["score"]] for one in rows]).reshape(-1, 3)
            for video, rows in self.proposals.items()
        }
        return {**self.mean.result(), **average_recall(truth, found).percentages()}

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """Nothing: the actions of a video that cannot be read are not known here."""
        del num_failed
        return {}

    def state(self) -> tuple:
        """What ``merge`` adds up; plain values, so that ranks can exchange it."""
        return self.mean.state(), self.candidates_of, self.proposals, self.truth

    def merge(self, states: list[tuple]) -> None:
        """Become the sum of ``states``, one a rank."""
        self.mean.merge([state[0] for state in states])
        self.candidates_of, self.proposals, self.truth = (
            {video: value for state in states for video, value in state[part].items()} for part in (1, 2, 3)
        )

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a video: ``{"video", "duration_second", "proposals", "candidates"}``.

        The proposals are ``{"score", "segment"}``, at most 100, by falling score, in seconds. ``candidates``
        is the table before soft-NMS, for 2019's csv; ``combine`` takes it out of the records again.
        """
        records = []
        for i, video in enumerate(batch["video"]):
            table, scores = self.candidates(outputs, batch, i)
            seconds = batch["duration_second"][i]
            found = self._suppressed(table, scores, 1.0 if seconds is None else float(seconds))
            records.append(
                {
                    "video": video,
                    "duration_second": None if seconds is None else float(seconds),
                    "proposals": found,
                    "candidates": table,
                }
            )
        return records

    def candidates(
        self, outputs: dict[str, np.ndarray], batch: dict[str, Any], i: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Of sample ``i`` the columns of 2019's csv, ``xmin`` and ``xmax`` among them, and the scores."""
        raise NotImplementedError

    def _suppressed(
        self, table: dict[str, np.ndarray], scores: np.ndarray, seconds: float
    ) -> list[dict[str, Any]]:
        config = self.config
        segments = np.stack([table["xmin"], table["xmax"]], axis=1).astype(np.float64)  # (P, 2)
        chosen, scores = temporal.soft_nms(
            segments, scores, config.snms_alpha, config.snms_t1, config.snms_t2
        )
        in_seconds = np.clip(segments[chosen[:KEPT]], 0.0, 1.0) * seconds
        return [
            {"score": score, "segment": segment}
            for score, segment in zip(scores[:KEPT].tolist(), in_seconds.tolist(), strict=True)
        ]

    def combine(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records of prediction without their candidates, which ``write_results`` writes."""
        self.candidates_of = {r["video"]: r["candidates"] for r in records if "error" not in r}
        return [{name: value for name, value in r.items() if name != "candidates"} for r in records]

    def describe(self, record: dict[str, Any]) -> str:
        """A record as the lines that predict prints: its best proposals."""
        proposals = record["proposals"]
        lines = [f"name: {record['video']}, {len(proposals)} proposals"]
        lines += [f"score: {one['score']}, \tsegment: {one['segment']}" for one in proposals[:PRINTED]]
        return "\n".join(lines)

    def draw(self, figure: Any, record: dict[str, Any], sample: dict[str, Any]) -> None:
        """The best proposals of a record, and what is annotated, on an empty matplotlib Figure."""
        draw_proposals(figure, record, sample.get("annotations", ()))

    def write_results(self, save_dir: str | None, records: list[dict] | None = None) -> list[Path]:
        """2019's ``<output_path>/<video>.csv`` and ``<result_path>/…_results_<subset>.json``.

        The JSON calls a video without the ``v_`` of its file. With ``save_dir`` both are there, the csv
        files in a folder of the same name. Only the path of the JSON is returned.
        """
        config = self.config
        table_folder, result_folder = self._folders(save_dir, "EVAL" if records is None else "INFER")
        for video, table in self.candidates_of.items():
            tables.write_csv(table_folder / f"{video}.csv", table)
        found = self.proposals
        if records is not None:
            found = {r["video"]: r["proposals"] for r in records if "error" not in r}
        results = {video.removeprefix("v_"): rows for video, rows in found.items()}
        content = {"version": "VERSION 1.3", "results": results, "external_data": {}}
        path = result_folder / f"{self.file_start}_results_{config.subset}.json"
        files.write_atomic(path, json.dumps(content).encode())
        return [path]

    def _folders(self, save_dir: str | None, run: str) -> tuple[Path, Path]:
        folder = Path(self.config.output_path or f"data/output/{run}/{self.table_folder}")
        if save_dir:
            return Path(save_dir) / folder.name, Path(save_dir)
        result = "data/evaluate_results" if run == "EVAL" else "data/predict_results"
        return folder, Path(self.config.result_path or result)


class BoundaryMatching(Proposals):
    """BMN: ``outputs["pred_bm"]`` (N, 2, D, T), the two confidences of each length and start, float32;
    ``pred_start`` and ``pred_end`` (N, T), the probabilities that an action starts or ends.

    A candidate starts and ends where these probabilities peak or are high. Its score is the product of the
    four values.
    """

    losses = ("loss", "tem_loss", "pem_reg_loss", "pem_cls_loss")
    file_start, table_folder = "bmn", "BMN_results"

    def candidates(
        self, outputs: dict[str, np.ndarray], batch: dict[str, Any], i: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        del batch
        start, end = outputs["pred_start"][i], outputs["pred_end"][i]  # (T,)
        confidence = outputs["pred_bm"][i, 0] * outputs["pred_bm"][i, 1]  # (D, T)
        num_steps = len(start)
        may_start, may_end = boundaries(start), boundaries(end)
        may_start[0] = may_end[-1] = True
        length, first = np.indices(confidence.shape).reshape(2, -1)  # (D * T,), length - 1
        last = first + length
        inside = last < num_steps
        inside[inside] = may_start[first[inside]] & may_end[last[inside]]
        length, first, last = length[inside], first[inside], last[inside]
        scores = start[first] * end[last] * confidence[length, first]
        step = 1.0 / num_steps  # multiplied by: other roundings than a division's, and 2019's
        table = {"xmin": first * step, "xmax": (last + 1) * step, "score": scores.astype(np.float64)}
        return table, table["score"]


class ProposalEvaluation(Proposals):
    """BSN, stage 2: ``outputs["pred_iou"]`` (N * K, 1), the overlap that each of K proposals a video should
    have with an action; ``batch["props_info"]`` (N, K, 4), their start and end as fractions of the video and
    the probabilities of both.

    The score of a proposal is the product of the three.
    """

    file_start, table_folder = "bsn", "PEM_results"

    class Config(Proposals.Config):
        snms_alpha: float = key(0.75, gt=0)
        snms_t1: float = key(0.65, ge=0)
        output_path: str | None = key(None, called="output_path_pem")
        result_path: str | None = key(None, called="result_path_pem")

    def candidates(
        self, outputs: dict[str, np.ndarray], batch: dict[str, Any], i: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        proposals = np.asarray(batch["props_info"][i])  # (K, 4)
        overlap = np.asarray(outputs["pred_iou"]).reshape(len(batch["video"]), -1)[i, : len(proposals)]
        names = ("xmin", "xmax", "xmin_score", "xmax_score")
        columns = {**dict(zip(names, proposals.T, strict=True)), "iou_score": overlap}
        # 2019 read its csv again: float32 0.7 is 0.7 there, which decides at which side of a threshold it is.
        table = {name: tables.as_written(column) for name, column in columns.items()}
        scores = table["xmin_score"] * table["xmax_score"] * table["iou_score"]
        return table, scores


def boundaries(probability: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """``(T,)`` bool: where a probability is higher than both neighbours, or than a part of the highest."""
    padded = np.concatenate([[0.0], probability, [0.0]])
    peak = (probability > padded[:-2]) & (probability > padded[2:])
    return peak | (probability > threshold * probability.max())


def draw_proposals(
    figure: Any, record: dict[str, Any], annotations: Sequence[dict[str, Any]], most: int = PRINTED
) -> None:
    """The best of ``record["proposals"]`` on an empty matplotlib Figure, below what is annotated.

    Times are percent of the video where its duration is not known.
    """
    seconds, found = record["duration_second"], record["proposals"]
    unit, length, scale, digits = ("s", seconds, 1.0, 1) if seconds is not None else ("%", 100.0, 100.0, 0)
    segments = []
    for one in found[:most]:
        start, end = (scale * time for time in one["segment"])
        segments.append(Segment(f"{start:.{digits}f} – {end:.{digits}f}", start, end, one["score"]))
    truth = [
        Segment(str(one.get("label", "annotated")), *map(float, one["segment"]))
        for one in (annotations if seconds is not None else ())
    ]
    note = f"{len(found)} proposals" + (f", the best {most}" if len(found) > most else "")
    note += f"; green: {len(truth)} annotated" if truth else ""
    timeline(figure, record["video"], length, segments, truth, note, unit)
