"""Losses of a run: the mean over its batches."""

from __future__ import annotations

from typing import Any

import numpy as np


class MeanLosses:
    """``names`` of the losses; each value is a mean over a batch already, and 2019 weighted batches alike.

    A batch without losses, whose targets are not known, does not count.
    """

    def __init__(self, *names: str) -> None:
        self.names = names
        self.reset()

    def reset(self) -> None:
        self.sums, self.num_batches = dict.fromkeys(self.names, 0.0), 0

    def update(self, outputs: dict[str, Any]) -> None:
        if self.names[0] not in outputs:
            return
        for name in self.names:
            self.sums[name] += float(np.mean(outputs[name]))
        self.num_batches += 1

    def result(self) -> dict[str, float]:
        """Empty before the first batch."""
        if not self.num_batches:
            return {}
        return {name: total / self.num_batches for name, total in self.sums.items()}

    def state(self) -> tuple[dict[str, float], int]:
        return dict(self.sums), self.num_batches

    def merge(self, states: list[tuple[dict[str, float], int]]) -> None:
        self.sums = {name: sum(sums[name] for sums, _ in states) for name in self.names}
        self.num_batches = sum(count for _, count in states)
