"""Top-1 and top-5 accuracy of video classification, and ranked classes as predictions."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import PositiveFloat

from metrics.labels import class_names, ranking
from utils import visualize
from utils.config import Config, key


class TopKAccuracy:
    """``outputs["probability"]`` is (N, K) float, ``outputs["loss"]`` the batch mean, where there is
    one; ``batch["label"]`` is (N, 1) int. Accuracies are percentages, weighted by sample.

    Among equal probabilities the smaller class id comes first. With fewer than five classes top-5
    counts all of them. A class is called by its id where the recipe names no label file; ConfigError
    when that file is missing or shorter than the classes.
    """

    class Config(Config):
        num_classes: int = key(400, gt=0)
        topk: int = key(5, gt=0)  # classes a prediction
        kinetics_labels: str | None = key(None)  # JSON list of class names, by class id
        label_file: str | None = key(None)  # the same, in any form of metrics.labels; wins
        # The reader's, undone in pictures.
        image_mean: list[float] = key([0.485, 0.456, 0.406], min_length=3, max_length=3)
        image_std: list[PositiveFloat] = key([0.229, 0.224, 0.225], min_length=3, max_length=3)

    def __init__(self, config: TopKAccuracy.Config) -> None:
        self.config = config
        self.class_names = class_names(config.label_file or config.kinetics_labels, config.num_classes)
        self.reset()

    def reset(self) -> None:
        self.sums = {"loss": 0.0, "top1_acc": 0.0, "top5_acc": 0.0}
        self.num_samples = 0

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        labels = np.asarray(batch["label"]).reshape(-1)
        ranked = self._rank(outputs["probability"], 5)  # (N, 5)
        hits = ranked == labels[:, None]
        self.sums["loss"] += float(np.mean(outputs.get("loss", 0.0))) * len(labels)
        self.sums["top1_acc"] += 100.0 * float(hits[:, :1].sum())
        self.sums["top5_acc"] += 100.0 * float(hits.sum())
        self.num_samples += len(labels)

    def result(self) -> dict[str, float]:
        """Means over the samples seen; empty before the first."""
        if not self.num_samples:
            return {}
        return {name: total / self.num_samples for name, total in self.sums.items()}

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """The accuracies if every sample that could not be read were classified wrong."""
        scored = self.num_samples / max(1, self.num_samples + num_failed)
        return {name: value * scored for name, value in self.result().items() if name != "loss"}

    def state(self) -> tuple[dict[str, float], int]:
        """What ``merge`` adds up; plain numbers, so that ranks can exchange it."""
        return dict(self.sums), self.num_samples

    def merge(self, states: list[tuple[dict[str, float], int]]) -> None:
        """Become the sum of ``states``, one a rank."""
        self.sums = {name: sum(sums[name] for sums, _ in states) for name in self.sums}
        self.num_samples = sum(count for _, count in states)

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a video: ``{"video", "topk": [{"class_id", "class_name", "probability"}]}``."""
        probability = np.asarray(outputs["probability"])
        ranked = self._rank(probability, self.config.topk)
        return [
            {
                "video": video,
                "topk": [
                    {"class_id": int(k), "class_name": self.class_names[k], "probability": float(row[k])}
                    for k in ranked[i]
                ],
            }
            for i, (video, row) in enumerate(zip(batch["video"], probability, strict=True))
        ]

    def describe(self, record: dict[str, Any]) -> str:
        """A record as the lines that predict prints."""
        return ranking(record)

    def draw(self, figure: Any, record: dict[str, Any], sample: dict[str, Any]) -> None:
        """A record on an empty matplotlib Figure; ``sample["image"]`` is (S, 3 * seglen, H, W) float32."""
        image = sample["image"]
        frames = image.reshape(-1, 3, *image.shape[-2:])  # (S * seglen, 3, H, W)
        visualize.classification(figure, record, frames, self.config.image_mean, self.config.image_std)

    @staticmethod
    def _rank(probability: np.ndarray, k: int) -> np.ndarray:
        return np.argsort(-np.asarray(probability), axis=1, kind="stable")[:, :k]
