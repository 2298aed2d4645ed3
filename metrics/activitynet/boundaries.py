"""Where actions start, end and last: the probabilities of BSN's stage 1, and the files of 2019."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metrics.losses import MeanLosses
from utils import tables
from utils.config import Config, key

COLUMNS = ("start", "end", "action")


class Boundaries:
    """``outputs["pred_tem"]`` (N, 3, T) float32, the probability that an action starts, ends and lasts at
    each time step; ``batch["video"]`` the names. Losses are batch means, their result the mean over batches.

    ``batch["annotations"]``, which training does not give, asks for the files of the videos.
    """

    losses = ("loss", "start_loss", "end_loss", "action_loss")

    class Config(Config):
        output_path_tem: str | None = key(None)  # folder of the probabilities

    def __init__(self, config: Boundaries.Config) -> None:
        self.config = config
        self.mean = MeanLosses(*self.losses)
        self.reset()

    def reset(self) -> None:
        self.mean.reset()
        self.tables: dict[str, dict[str, np.ndarray]] = {}

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        self.mean.update(outputs)
        if "annotations" in batch:
            self.tables |= {record["video"]: record["table"] for record in self.decode(outputs, batch)}

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
        return self.mean.state(), self.tables

    def merge(self, states: list[tuple]) -> None:
        """Become the sum of ``states``, one a rank."""
        self.mean.merge([state[0] for state in states])
        self.tables = {video: table for state in states for video, table in state[1].items()}

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a video: ``{"video", "duration_second", "table"}``; ``combine`` takes the table out."""
        return [
            {
                "video": video,
                "duration_second": batch["duration_second"][i],
                "table": dict(zip(COLUMNS, outputs["pred_tem"][i], strict=True)),
            }
            for i, video in enumerate(batch["video"])
        ]

    def combine(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self.tables = {r["video"]: r["table"] for r in records if "error" not in r}
        return [{name: value for name, value in r.items() if name != "table"} for r in records]

    def describe(self, record: dict[str, Any]) -> str:
        """A record as the line that predict prints."""
        return f"name: {record['video']}"

    def write_results(self, save_dir: str | None, records: list[dict] | None = None) -> list[Path]:
        """2019's ``<output_path_tem>/<video>.csv``; the folder is returned."""
        run = "EVAL" if records is None else "INFER"
        folder = Path(self.config.output_path_tem or f"data/output/{run}/TEM_results")
        if save_dir:
            folder = Path(save_dir) / folder.name
        for video, table in self.tables.items():
            tables.write_csv(folder / f"{video}.csv", table)
        return [folder]
