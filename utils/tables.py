"""Tables of numbers as csv files: a line of names, then a line a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from utils import files
from utils.errors import DataError


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


def read_csv(path: str | Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """``columns``, and those of ``optional`` that are there, in float64. Raises DataError."""
    try:
        with open(path, encoding="utf-8-sig") as file:
            names = [name.strip() for name in file.readline().split(",")]
            missing = [name for name in columns if name not in names]
            if missing:
                raise DataError(f"{path}: no column {missing[0]!r}; columns: {', '.join(names)[:200]}")
            wanted = [*columns, *(name for name in optional if name in names)]
            places = [names.index(name) for name in wanted]
            values = np.loadtxt(file, np.float64, delimiter=",", usecols=places, ndmin=2)
    except (OSError, ValueError, IndexError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path}: cannot read the table: {reason}") from error
    if not len(values) or not np.isfinite(values).all():
        raise DataError(f"{path}: " + ("a number that is not finite" if len(values) else "no row"))
    return dict(zip(wanted, values.T, strict=True))
