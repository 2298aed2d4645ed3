"""Files of language grounding (TACoS): windows of movies, sentences, lengths of movies.

A window is a file ``<movie>_<start>_<end>.npy``, frames of the movie, with one feature; 2019's movies are
called ``s13-d21.avi``. Sentences are a pickle of 2019, written by Python 2 or 3: a list of ``[name, [vector,
…]]``, named as a window is, by the moment that all of its vectors speak of. Or they are a JSON list of
``{"video", "vector"}`` with, where they are known, ``"text"``, ``"start"`` and ``"end"``, in frames.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils import safe_pickle
from utils.errors import DataError

NAME = re.compile(r"(.+)_(\d+)_(\d+)")


@dataclass(frozen=True)
class Sentence:
    """``start`` and ``end`` are frames, NaN where the moment is not known; ``vector`` is float32."""

    movie: str
    start: float
    end: float
    vector: np.ndarray
    text: str
    where: str


@dataclass
class Movie:
    """The windows of one movie, in the order of their file names."""

    names: list[str] = field(default_factory=list)  # files
    spans: list[tuple[int, int]] = field(default_factory=list)  # start and end, frames


def parse_name(name: str, where: str) -> tuple[str, int, int]:
    """Movie, start and end of ``<movie>_<start>_<end>``. Raises DataError."""
    match = NAME.fullmatch(name)
    if match is None or int(match[3]) <= int(match[2]):
        raise DataError(f"{where}: expected <movie>_<start>_<end> in frames, start before end, got {name!r}")
    return match[1], int(match[2]), int(match[3])


def list_windows(folder: str) -> dict[str, Movie]:
    """The windows of a folder by movie. Other files than .npy are left alone.

    Raises DataError: no such folder, no window in it, or a name of another form.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".npy"))
    except OSError as error:
        raise DataError(f"{folder}: cannot list the window features: {error.strerror}") from error
    if not names:
        raise DataError(f"{folder}: no window features; expected files <movie>_<start>_<end>.npy")
    movies: dict[str, Movie] = {}
    for name in names:
        movie, start, end = parse_name(name[:-4], os.path.join(folder, name))
        movies.setdefault(movie, Movie()).names.append(name)
        movies[movie].spans.append((start, end))
    return movies


def read_sentences(file: str, size: int) -> list[Sentence]:
    """Every sentence of a pickle or JSON file, in order, its vector cut to ``size``.

    Raises DataError with file and entry: not readable, of another form, or a vector that is too short.
    """
    records = _read_json(file) if file.endswith(".json") else _read_pickle(file)
    sentences = []
    for where, movie, span, text, vector in records:
        try:
            array = np.asarray(vector, np.float32).reshape(-1)[:size]
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: the sentence vector is no list of numbers") from error
        if len(array) < size:
            raise DataError(f"{where}: a sentence vector of {len(array)} numbers, the recipe needs {size}")
        if not np.isfinite(array).all():
            raise DataError(f"{where}: a sentence vector with NaN or infinity")
        sentences.append(Sentence(movie, *span, array, text, where))
    if not sentences:
        raise DataError(f"{file}: no sentences")
    return sentences


def _read_pickle(file: str) -> list[tuple]:
    value = safe_pickle.load(file, encoding="bytes")
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{file}: expected a list of [name, [vector, …]], got {type(value).__name__}")
    records = []
    for i, entry in enumerate(value):
        where = f"{file}: entry {i}"
        if not (isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[0], (str, bytes))):
            raise DataError(f"{where}: expected [name, [vector, …]]")
        movie, start, end = parse_name(as_text(entry[0]), where)
        records += [(where, movie, (float(start), float(end)), "", vector) for vector in entry[1]]
    return records


def _read_json(file: str) -> list[tuple]:
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{file}: not a JSON file: {error}") from error
    if not isinstance(value, list):
        raise DataError(f'{file}: expected a list of {{"video", "vector"}}, got {type(value).__name__}')
    records = []
    for i, entry in enumerate(value):
        where = f"{file}: entry {i}"
        if not (isinstance(entry, dict) and isinstance(entry.get("video"), str) and "vector" in entry):
            raise DataError(f'{where}: expected {{"video", "vector"}}')
        span = (math.nan, math.nan)
        if "start" in entry or "end" in entry:
            span = tuple(_frame(entry.get(side), where) for side in ("start", "end"))
            if span[1] <= span[0]:
                raise DataError(f"{where}: the moment ends at {span[1]:g}, before its start {span[0]:g}")
        records.append((where, entry["video"], span, str(entry.get("text", "")), entry["vector"]))
    return records


def _frame(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f'{where}: "start" and "end" are frames, got {value!r}')
    return float(value)


def as_text(value: str | bytes) -> str:
    """Python 2's str is bytes."""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


def read_lengths(file: str) -> dict[str, int]:
    """Frames by movie, of a pickled dict; 2019's names lack the ending: ``s13-d21``. Raises DataError."""
    value = safe_pickle.load(file, encoding="bytes")
    if not isinstance(value, dict):
        raise DataError(f"{file}: expected a dict movie -> number of frames, got {type(value).__name__}")
    try:
        return {as_text(movie): int(frames) for movie, frames in value.items()}
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: expected a dict movie -> number of frames") from error


def read_rates(given: float | str | None) -> dict[str, float] | float:
    """Frames a second, of all movies or, of a JSON file, by movie; NaN where they are not known."""
    if given is None or isinstance(given, (int, float)):
        return math.nan if given is None else float(given)
    try:
        value = json.loads(Path(given).read_text(encoding="utf-8-sig"))
        rates = {str(movie): float(rate) for movie, rate in value.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{given}: expected a JSON file movie -> frames a second (fps): {error}") from error
    wrong = [movie for movie, rate in rates.items() if not (math.isfinite(rate) and rate > 0)]
    if wrong:
        raise DataError(f"{given}: fps of {wrong[0]}: {rates[wrong[0]]}")
    return rates


def of_movie(values: dict[str, Any] | float, movie: str) -> Any:
    """A movie's value, found by its name with or without the ending; NaN where there is none."""
    if not isinstance(values, dict):
        return values
    return values.get(movie, values.get(movie.rpartition(".")[0] or movie, math.nan))


class Features:
    """Feature files of a folder; the last read are kept, ``limit_bytes`` of them at most."""

    def __init__(self, folder: str, size: int, limit_bytes: int) -> None:
        self.folder, self.size, self.limit_bytes = folder, size, limit_bytes
        self.kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def __call__(self, name: str) -> np.ndarray:
        """``(D,)`` float32. Raises DataError, naming the file."""
        if name in self.kept:
            self.kept.move_to_end(name)
            return self.kept[name]
        path = os.path.join(self.folder, name)
        try:
            value = np.load(path, allow_pickle=False)
            value = value.astype(np.float32, copy=False).reshape(-1)
        except (OSError, ValueError, EOFError, AttributeError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise DataError(f"{path}: not a readable .npy file ({reason})") from error
        if len(value) != self.size:
            raise DataError(f"{path}: {len(value)} features, the recipe needs {self.size} (feats_dimen)")
        if not np.isfinite(value).all():
            raise DataError(f"{path}: features with NaN or infinity")
        self.kept[name] = value
        while len(self.kept) > 1 and len(self.kept) * self.size * 4 > self.limit_bytes:
            self.kept.popitem(last=False)
        return value


def contexts(spans: list[tuple[int, int]], count: int, size: int) -> np.ndarray:
    """What surrounds each window: ``(W, 2, count)`` indices of windows, left and right, the nearest first.

    The k-th context on the left of a window that starts at frame s is the window from s - (k + 1) * size to
    s - k * size. Where there is none, the one before it is taken again; before the first, the window itself.
    """
    at = {span: i for i, span in enumerate(spans)}
    found = np.empty((len(spans), 2, count), np.int64)
    for i, (start, end) in enumerate(spans):
        left = right = i
        for k in range(count):
            left = at.get((start - (k + 1) * size, start - k * size), left)
            right = at.get((end + k * size, end + (k + 1) * size), right)
            found[i, :, k] = left, right
    return found
