"""Batches of sequences of different length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from utils import loader


def collate(samples: Sequence[dict[str, Any]], ragged: Sequence[str]) -> dict[str, Any]:
    """A batch; the arrays ``(T, …)`` called ``ragged`` are padded with zeros to the longest, ``(N, T, …)``,
    and beside each stands ``<name>_length`` ``(N,)`` int64.
    """
    batch = loader.collate([{k: v for k, v in sample.items() if k not in ragged} for sample in samples])
    for name in ragged:
        rows = [sample[name] for sample in samples]
        lengths = np.array([len(row) for row in rows], np.int64)
        padded = np.zeros((len(rows), lengths.max(), *rows[0].shape[1:]), rows[0].dtype)
        for i, row in enumerate(rows):
            padded[i, : len(row)] = row
        batch[name], batch[f"{name}_length"] = padded, lengths
    return batch
