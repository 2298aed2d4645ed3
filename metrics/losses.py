"""Losses of a run: the mean over its batches."""

from __future__ import annotations

from typing import Any

import numpy as np


class MeanLosses:
    """``names`` of the losses; each value is a mean over a batch already.

    2019 weighted batches alike; a ``weight`` is what a batch's value is a mean over, where the result is not
    to depend on how samples are batched. A batch without losses, whose targets are not known, does not count.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.reset()

    def reset(self) -> None:
        self.sums, self.weight = dict.fromkeys(self.names, 0.0), 0.0

    def update(self, outputs: dict[str, Any], weight: float = 1.0) -> None:
        if self.names[0] not in outputs:
            return
        for name in self.names:
            self.sums[name] += weight * float(np.mean(outputs[name]))
        self.weight += weight

    def result(self) -> dict[str, float]:
        """Empty before the first batch."""
        if not self.weight:
            return {}
        return {name: total / self.weight for name, total in self.sums.items()}

    def state(self) -> tuple[dict[str, float], float]:
        return dict(self.sums), self.weight

    def merge(self, states: list[tuple[dict[str, float], float]]) -> None:
        self.sums = {name: sum(sums[name] for sums, _ in states) for name in self.names}
        self.weight = sum(weight for _, weight in states)
