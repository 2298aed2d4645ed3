"""Hit@1, PERR, GAP and mAP of video tagging (YouTube-8M), and ranked classes as predictions.

As YouTube-8M defines them (Abu-El-Haija et al., 2016, https://arxiv.org/abs/1609.08675).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from metrics.labels import class_names, ranking
from utils import visualize
from utils.config import Config, key

GAP_OF_BATCH = 20  # classes of a video that count in the log's lines, whatever MODEL.topk is


class YouTube8M:
    """``outputs["probability"]`` is (N, K) float >= 0, ``outputs["loss"]`` the batch's, where there is one
    (``"video_loss"`` its mean over N, where the loss is a sum); ``batch["label"]`` is (N, K), 1 where a class
    is a label.

    All values are fractions, means over the videos: ``hit_at_one`` (the best class is a label), ``perr``
    (of the n best classes, the share of labels, for n labels; 0 where there is none), and over the
    ``MODEL.topk`` best classes of every video together ``gap`` (average precision of all) and ``map`` (mean
    of the K average precisions; 0 for a class without a label or never among the best).

    Among equal probabilities of a video the smaller class id comes first; equal probabilities of different
    videos count as one step of the precision-recall curve. So the values depend on no order.
    """

    class Config(Config):
        num_classes: int = key(3862, gt=0)
        topk: int = key(20, gt=0)  # classes of a video that gap and map see, and of a prediction
        label_file: str | None = key(None)  # class names, see metrics.labels

    def __init__(self, config: YouTube8M.Config) -> None:
        self.config = config
        self.class_names = class_names(config.label_file, config.num_classes)
        self.reset()

    def reset(self) -> None:
        self.sums = {"loss": 0.0, "hit_at_one": 0.0, "perr": 0.0}
        self.num_samples = 0
        self.positives = np.zeros(self.config.num_classes, np.int64)  # labels by class
        # A batch's best classes: probability, class and whether it is a label, (N, topk) each.
        self.best: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        # The latest batch, as ``average_precision`` takes it; after ``merge`` that of every rank.
        self.latest: list[tuple[np.ndarray, np.ndarray, int]] = []

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        label = np.asarray(batch["label"]) > 0  # (N, K)
        num_labels = label.sum(axis=1)
        size = max(self.config.topk, GAP_OF_BATCH, int(num_labels.max(initial=1)))
        probability, ranked = rank(outputs["probability"], size)
        hit = np.take_along_axis(label, ranked, axis=1)  # (N, size)
        among = np.arange(hit.shape[1]) < num_labels[:, None]
        loss = outputs.get("video_loss", outputs.get("loss", 0.0))
        self.sums["loss"] += float(np.mean(loss)) * len(label)
        self.sums["hit_at_one"] += float(hit[:, 0].sum())
        self.sums["perr"] += float(((hit & among).sum(axis=1) / np.maximum(num_labels, 1)).sum())
        self.num_samples += len(label)
        self.positives += label.sum(axis=0)
        top = self.config.topk
        self.best.append((probability[:, :top], ranked[:, :top].astype(np.int32), hit[:, :top]))
        few = slice(GAP_OF_BATCH)
        self.latest = [(probability[:, few], hit[:, few], int(num_labels.sum()))]

    def running(self) -> dict[str, float]:
        """Means so far, and GAP@20 of the latest batch (after ``merge``: of those of all ranks)."""
        if not self.num_samples:
            return {}
        probability, hit, counts = zip(*self.latest, strict=True)
        pooled = [np.concatenate([rows.reshape(-1) for rows in parts]) for parts in (probability, hit)]
        return {**self._means(), "gap": average_precision(*pooled, sum(counts))}

    def result(self) -> dict[str, float]:
        """Over everything seen; empty before the first."""
        if not self.num_samples:
            return {}
        probability, _, hit = self._everything()
        gap = average_precision(probability, hit, int(self.positives.sum()))
        return {**self._means(), "map": float(self.class_average_precisions().mean()), "gap": gap}

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """Hit@1 and PERR if every video that could not be read were tagged wrong.

        Its labels are unknown, so for GAP and mAP there is no such value.
        """
        scored = self.num_samples / max(1, self.num_samples + num_failed)
        return {
            name: value * scored for name, value in self.result().items() if name in ("hit_at_one", "perr")
        }

    def class_average_precisions(self) -> np.ndarray:
        """Average precision of each class, (K,) float64."""
        probability, ranked, hit = (part.reshape(-1) for part in self._everything())
        order = np.argsort(ranked, kind="stable")
        bounds = np.searchsorted(ranked[order], np.arange(self.config.num_classes + 1))
        probability, hit = probability[order], hit[order]
        values = np.zeros(self.config.num_classes)
        for k in np.flatnonzero(self.positives):
            mine = slice(bounds[k], bounds[k + 1])
            values[k] = average_precision(probability[mine], hit[mine], int(self.positives[k]))
        return values

    def _means(self) -> dict[str, float]:
        return {name: total / self.num_samples for name, total in self.sums.items()}

    def _everything(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if len(self.best) > 1:
            self.best = [tuple(np.concatenate(parts) for parts in zip(*self.best, strict=True))]
        return self.best[0]

    def state(self) -> tuple:
        """What ``merge`` puts together; plain values and arrays, so that ranks can exchange it."""
        return dict(self.sums), self.num_samples, self.positives, self.best, self.latest

    def merge(self, states: list[tuple]) -> None:
        """Become the union of ``states``, one a rank."""
        self.sums = {name: sum(state[0][name] for state in states) for name in self.sums}
        self.num_samples = sum(state[1] for state in states)
        self.positives = sum(state[2] for state in states)
        self.best = [part for state in states for part in state[3]]
        self.latest = [part for state in states for part in state[4]]

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a video: ``{"video", "topk": [{"class_id", "class_name", "probability"}]}``."""
        probability, ranked = rank(outputs["probability"], self.config.topk)
        return [
            {
                "video": video,
                "topk": [
                    {"class_id": int(k), "class_name": self.class_names[k], "probability": float(p)}
                    for k, p in zip(ranked[i], probability[i], strict=True)
                ],
            }
            for i, video in enumerate(batch["video"])
        ]

    def describe(self, record: dict[str, Any]) -> str:
        """A record as the lines that predict prints."""
        return ranking(record)

    def draw(self, figure: Any, record: dict[str, Any], sample: dict[str, Any]) -> None:
        """A record on an empty matplotlib Figure: bars alone, features are no picture."""
        visualize.classification(figure, record)


def rank(probability: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``k`` largest of each row of (N, K), float32, and their classes, int64; ties by class id.

    The bits of a float32 >= 0 are ordered as its value is: with the class below them they make one integer
    that sorts as wanted, and a partial sort of integers is several times faster than of rows by index.
    """
    probability = np.asarray(probability, np.float32) + np.float32(0)  # no -0.0
    num_classes = probability.shape[1]
    k = min(k, num_classes)
    keys = (probability.view(np.int32).astype(np.int64) << 32) | np.arange(num_classes - 1, -1, -1)
    keys = np.partition(keys, num_classes - k, axis=1)[:, num_classes - k :] if k < num_classes else keys
    keys = np.sort(keys, axis=1)[:, ::-1]  # (N, k)
    return (keys >> 32).astype(np.int32).view(np.float32), num_classes - 1 - (keys & 0xFFFFFFFF)


def average_precision(probability: np.ndarray, hit: np.ndarray, num_positives: int) -> float:
    """Sum over the hits, by falling probability, of the precision there, over ``num_positives``.

    Equal probabilities are one step: all of them count before its precision is taken.
    """
    if not num_positives or not hit.any():
        return 0.0
    probability, hit = probability.reshape(-1), hit.reshape(-1)
    order = np.argsort(-probability, kind="stable")
    probability, hits = probability[order], np.cumsum(hit[order])
    ends = np.flatnonzero(np.append(probability[1:] != probability[:-1], True))  # last of each step
    gained = np.diff(hits[ends], prepend=0)
    return float((gained * hits[ends] / (ends + 1.0)).sum() / num_positives)
