"""Tables of numbers as csv files: a line of names, then a line a row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from utils import files


def write_csv(path: str | Path, columns: Mapping[str, np.ndarray]) -> None:
    """``columns`` of one length, whole or not at all. A number has the fewest digits that give it back."""
    texts = [[str(value) for value in as_written(column).tolist()] for column in columns.values()]
    lines = [",".join(columns), *(",".join(row) for row in zip(*texts, strict=True))]
    files.write_atomic(path, ("\n".join(lines) + "\n").encode())


def as_written(column: np.ndarray) -> np.ndarray:
    """float64 of the fewest digits that tell the numbers of ``column`` apart: 0.7 for a float32 0.7."""
    if column.dtype == np.float32:
        return np.array([float(str(value)) for value in column], np.float64)
    return column.astype(np.float64)
