"""Where actions start, end and last: BSN's stage 1, its proposals, and the files of 2019."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metrics.activitynet import generation
from metrics.activitynet.generation import CURVES
from metrics.activitynet.proposals import draw_proposals
from metrics.losses import MeanLosses
from utils import tables, temporal
from utils.config import key
from utils.errors import DataError

SHOWN_OVERLAP = 0.5


class Boundaries:
    """``outputs["pred_tem"]`` (N, 3, T) float32, the probability that an action starts, ends and lasts at
    each time step; ``batch["video"]`` the names. Losses are batch means, their result the mean over batches.

    ``batch["annotations"]``, which training does not give, asks for the files of the videos; then there are
    their ``duration_second`` and ``subset``, too.
    """

    losses = ("loss", "start_loss", "end_loss", "action_loss")

    class Config(generation.Config):
        pgm_thread: int = key(12, gt=0)  # processes that make proposals, at most one a core
        output_path_tem: str | None = key(None)  # folder of the curves
        output_path_pgm_proposal: str | None = key(None)  # of the proposals
        output_path_pgm_feature: str | None = key(None)  # and of their features

    def __init__(self, config: Boundaries.Config) -> None:
        self.config = config
        self.mean = MeanLosses(*self.losses)
        self.reset()

    def reset(self) -> None:
        self.mean.reset()
        self.videos: dict[str, dict[str, Any]] = {}

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        self.mean.update(outputs)
        if "annotations" in batch:
            self.combine(self.decode(outputs, batch))

    def running(self) -> dict[str, float]:
        """The mean losses so far."""
        return self.mean.result()

    def result(self) -> dict[str, float]:
        """Mean losses; empty before the first batch."""
        return self.mean.result()

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """Nothing: there is no loss of a video that cannot be read."""
        del num_failed
        return {}

    def state(self) -> tuple:
        """What ``merge`` adds up; plain values, so that ranks can exchange it."""
        return self.mean.state(), self.videos

    def merge(self, states: list[tuple]) -> None:
        """Become the sum of ``states``, one a rank."""
        self.mean.merge([state[0] for state in states])
        self.videos = {video: about for state in states for video, about in state[1].items()}

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a video: ``{"video", "duration_second"}``, and for ``write_results`` ``curves``,
        ``subset`` and ``actions``, fractions of the video, which ``combine`` takes out."""
        records = []
        for i, video in enumerate(batch["video"]):
            seconds = batch["duration_second"][i]
            segments = [one["segment"] for one in batch["annotations"][i]]
            actions = (
                np.clip(np.reshape(segments, (-1, 2)) / seconds, 0.0, 1.0) if segments else np.zeros((0, 2))
            )
            records.append(
                {
                    "video": video,
                    "duration_second": seconds,
                    "curves": dict(zip(CURVES, outputs["pred_tem"][i], strict=True)),
                    "subset": batch["subset"][i],
                    "actions": actions,
                }
            )
        return records

    def combine(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The records without what ``write_results`` writes."""
        self.videos |= {r["video"]: r for r in records if "error" not in r}
        inner = ("curves", "subset", "actions")
        return [{name: value for name, value in r.items() if name not in inner} for r in records]

    def describe(self, record: dict[str, Any]) -> str:
        """A record as the line that predict prints."""
        return f"name: {record['video']}"

    def draw(self, figure: Any, record: dict[str, Any], sample: dict[str, Any]) -> None:
        """The best proposals of a record's curves, those that overlap a better one by half left out, and what
        is annotated, on an empty matplotlib Figure."""
        curves = record["curves"]
        rows = generation.propose(curves["start"], curves["end"], self.config.pgm_threshold)
        segments, scores = rows[:, :2], rows[:, -1]
        kept = temporal.nms(temporal.iou(segments, segments), scores, SHOWN_OVERLAP)
        seconds = record["duration_second"]
        times = segments[kept] * (1.0 if seconds is None else seconds)
        found = [
            {"score": score, "segment": segment}
            for score, segment in zip(scores[kept].tolist(), times.tolist(), strict=True)
        ]
        draw_proposals(figure, {**record, "proposals": found}, sample.get("annotations", ()))

    def write_results(self, save_dir: str | None, records: list[dict] | None = None) -> list[Path]:
        """2019's ``<output_path_tem>/<video>.csv``, and of these the proposals and their features (see
        ``generation``). With ``save_dir`` the three folders are there, by the same names. They are returned.
        """
        folders = self.folders(save_dir, "EVAL" if records is None else "INFER")
        curves, proposals, features = folders
        for video, about in self.videos.items():
            tables.write_csv(curves / f"{video}.csv", about["curves"])
        every = [(video, about["subset"], about["actions"]) for video, about in sorted(self.videos.items())]
        jobs = generation.jobs(curves, every, self.config)
        _, failed = generation.generate_all(jobs, self.config, proposals, features, self.config.pgm_thread)
        if failed:
            raise DataError(f"{len(failed)} videos have no proposals; the first: {failed[0]}")
        return folders

    def folders(self, save_dir: str | None, run: str) -> list[Path]:
        """Of curves, proposals and features; ``run`` is EVAL or INFER, as in 2019's recipes."""
        config = self.config
        given = (config.output_path_tem, config.output_path_pgm_proposal, config.output_path_pgm_feature)
        names = ("TEM_results", "PGM_proposals", "PGM_feature")
        folders = [Path(path or f"data/output/{run}/{name}") for path, name in zip(given, names, strict=True)]
        return [Path(save_dir) / folder.name for folder in folders] if save_dir else folders
