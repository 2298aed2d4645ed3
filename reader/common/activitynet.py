"""ActivityNet for temporal proposals: annotations, lists, features of snippets, and targets on their grid.

A video is a grid of ``tscale`` equal steps. Times on it are fractions of the video: 0 its start, 1 its end.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from reader.common import filelist
from utils import features, files, temporal
from utils.errors import DataError

FEATURE_SUFFIXES = (".npy", ".csv")
DURATIONS = "videos.json"  # of the videos whose features lie beside it: what tsn_extractor.py writes


@dataclass(frozen=True)
class Video:
    """``annotations`` are ``{"segment": [start, end], "label": name}`` as they stand in the file, and
    ``segments`` ``(G, 2)`` these in seconds; ``duration_second`` None: not known, nor is any annotation."""

    name: str
    duration_second: float | None
    segments: np.ndarray
    where: str
    annotations: tuple[dict[str, Any], ...] = ()
    subset: str = ""  # training, validation or testing; empty where it is not known

    @property
    def fractions(self) -> np.ndarray:
        """``segments`` as fractions of the video, clipped to it."""
        if not len(self.segments):
            return np.zeros((0, 2))
        return np.clip(self.segments / self.duration_second, 0.0, 1.0)


# ---- annotations and lists ------------------------------------------------------------------------


def read_annotations(file: str, subset: str = "") -> list[Video]:
    """The videos of a subset, sorted by name; of every subset without one.

    ``file``: ``{video: {"duration_second", "subset", "annotations": [{"segment": [start, end]}]}}``. As in
    2019 ``subset`` may be a part of the name ("train" of "training"); "train_val" means both.
    Raises DataError: file, video, what was expected and found.
    """
    wanted = ("train", "validation") if subset == "train_val" else (subset,)
    entries = read_json(file)
    if subset:
        unknown = [name for name, entry in entries.items() if not isinstance(_part(entry, "subset"), str)]
        if unknown:
            raise DataError(
                f'{file}: {len(unknown)} videos have no "subset" (training, validation or testing), the '
                f"first is {unknown[0]}"
            )
        entries = {k: e for k, e in entries.items() if any(part in e["subset"] for part in wanted)}
        if not entries:
            known = sorted({entry["subset"] for entry in read_json(file).values()})
            raise DataError(f"{file}: no video of the subset {subset!r}; subsets: {', '.join(known)}")
    return [_video(name, entries[name], file) for name in sorted(entries)]


def read_list(file: str, annotations: str = "") -> list[Video]:
    """The videos of ``INFER.filelist``: a JSON of the same form, sorted by name, or a name a line, in order.

    Durations of a plain list are those of ``annotations``, where that file is; else they are not known.
    A name may be a path: of a features file, or with ``.npy``. Raises DataError.
    """
    lines = filelist.read_lines(file)
    if lines[0][1].startswith("{"):
        return read_annotations(file)
    known = _known(annotations)
    return [_named(_stem(text), known, where) for where, text in lines]


def of_files(paths: list[Path], annotations: str = "") -> list[Video]:
    """The videos of features files, by the names of these.

    Durations are those of ``videos.json`` beside a file, or else of ``annotations``, where they are.
    """
    videos = []
    for path in paths:
        beside = _known(str(path.parent / DURATIONS))
        known = beside if _find(path.stem, beside) else _known(annotations)
        videos.append(_named(path.stem, known, str(path)))
    return videos


def write_durations(folder: Path, seconds: Mapping[str, float]) -> None:
    """Add videos to the ``videos.json`` of a folder of features; the same form as an ``INFER.filelist``."""
    path = folder / DURATIONS
    known = read_json(str(path)) if path.is_file() else {}
    known |= {name: {"duration_second": s, "annotations": []} for name, s in seconds.items()}
    if known:
        files.write_json(path, known)


def _stem(text: str) -> str:
    path = Path(text)
    return path.stem if path.suffix in FEATURE_SUFFIXES else path.name


def _named(name: str, known: Mapping[str, Any], where: str) -> Video:
    found = _find(name, known)
    if found is None:
        return Video(name, None, np.zeros((0, 2)), where)
    return _video(name, known[found], where)


def _find(name: str, known: Mapping[str, Any]) -> str | None:
    """A file of features may be called with or without the ``v_`` of the annotation."""
    return next((n for n in (name, f"v_{name}", name.removeprefix("v_")) if n in known), None)


@cache
def _known(file: str) -> dict[str, Any]:
    return read_json(file) if file and Path(file).is_file() else {}


def read_json(file: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text"
        raise DataError(f"{file}: cannot read the annotations: {reason}") from error
    except ValueError as error:
        raise DataError(f"{file}: not a JSON: {error}") from error
    if isinstance(content, dict):
        content = content.get("database", content)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{file}: expected a JSON object of videos, got {type(content).__name__}")
    return content


def _part(entry: Any, name: str) -> Any:
    return entry.get(name) if isinstance(entry, dict) else None


def _video(name: str, entry: Any, file: str) -> Video:
    duration = _part(entry, "duration_second")
    if duration is None:
        duration = _part(entry, "duration")  # of the official annotations
    if not isinstance(duration, (int, float)) or not 0 < duration < math.inf:
        raise DataError(f"{file}: {name}: expected a duration_second above 0, got {duration!r}")
    try:
        rows = [one["segment"] for one in entry.get("annotations", [])]
        segments = np.array(rows, np.float64).reshape(len(rows), 2)
    except (TypeError, KeyError, ValueError) as error:
        raise DataError(f'{file}: {name}: expected annotations [{{"segment": [start, end]}}]') from error
    if not np.isfinite(segments).all():
        raise DataError(f"{file}: {name}: a segment that is not finite")
    subset = entry.get("subset", "")
    return Video(name, float(duration), segments, file, tuple(entry.get("annotations", ())), str(subset))


# ---- features ------------------------------------------------------------------------------------


def feature_file(folder: str, video: Video) -> Path:
    """``<folder>/<video>.npy`` or ``.csv``. Raises DataError that names what is missing."""
    for suffix in FEATURE_SUFFIXES:
        path = Path(folder) / f"{video.name}{suffix}"
        if path.is_file():
            return path
    missing = Path(folder) / f"{video.name}.npy"
    raise DataError(f"{missing}: no such features of {video.name} ({video.where}; .csv is read, too)")


def read_features(path: Path, width: int, length: int | None, rescale: bool = False) -> np.ndarray:
    """``(T, width)`` float32 of a ``.npy``, or of a ``.csv`` with or without a line of column names.

    T is ``length``; with ``rescale`` features of any length are interpolated to it, without a ``length`` they
    stay as they are. Raises DataError: file, got, expected.
    """
    try:
        values = _read_csv(path) if path.suffix == ".csv" else np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise DataError(f"{path}: cannot read the features: {reason}") from error
    wanted = f"(T, {width})" if length is None or rescale else f"({length}, {width})"
    got = f"{values.dtype} {values.shape}"
    if values.ndim != 2 or values.shape[1] != width or values.dtype.kind not in "fiu" or not len(values):
        hint = "; are the axes swapped?" if values.ndim == 2 and len(values) == width else ""
        raise DataError(f"{path}: got features {got}, expected {wanted} (T, MODEL.feat_dim){hint}")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: features that are not finite")
    values = values.astype(np.float32)
    if length is None or len(values) == length:
        return values
    if not rescale:
        raise DataError(
            f"{path}: got features {got}, expected {wanted} (MODEL.tscale, MODEL.feat_dim); features of any "
            "length are rescaled with MODEL.rescale=True"
        )
    return features.rescaled(values, length)


def _read_csv(path: Path) -> np.ndarray:
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline().split(",")[0].strip()
    try:
        float(first)
        header = 0
    except ValueError:
        header = 1
    return np.loadtxt(path, np.float32, delimiter=",", skiprows=header, ndmin=2, encoding="utf-8-sig")


# ---- targets on the grid -------------------------------------------------------------------------


def steps(tscale: int) -> np.ndarray:
    """Start and end of each time step, ``(tscale, 2)``."""
    start = np.arange(tscale) / tscale
    return np.stack([start, (np.arange(tscale) + 1) / tscale], axis=1)


def windows(dscale: int, tscale: int) -> np.ndarray:
    """``(dscale, tscale, 2)``: the window [d, t] starts with step t and lasts d + 1 steps.

    Those with t + d >= tscale end after the video.
    """
    start, steps_long = np.arange(tscale) / tscale, (np.arange(dscale) + 1)[:, None] / tscale
    return np.stack(np.broadcast_arrays(start, start + steps_long), axis=-1)


def iou_map(segments: np.ndarray, dscale: int, tscale: int) -> np.ndarray:
    """IoU of each window with the segment that it overlaps most, ``(dscale, tscale)`` float32.

    ``segments`` ``(G, 2)`` in fractions; 0 everywhere without any. As in 2019 windows that end after the
    video have their IoU, too.
    """
    if not len(segments):
        return np.zeros((dscale, tscale), np.float32)
    overlap = temporal.iou(windows(dscale, tscale).reshape(-1, 2), segments)
    return overlap.max(axis=1).reshape(dscale, tscale).astype(np.float32)


def coverage(segments: np.ndarray, tscale: int) -> np.ndarray:
    """How much of each time step lies in the segment that covers it most, ``(tscale,)`` float32 in [0, 1].

    ``segments`` ``(G, 2)`` in fractions; 0 everywhere without any.
    """
    if not len(segments):
        return np.zeros(tscale, np.float32)
    return temporal.ioa(steps(tscale), segments).max(axis=1).astype(np.float32)


def around(points: np.ndarray, width: np.ndarray | float) -> np.ndarray:
    """Segments of ``width`` with ``points`` ``(G,)`` in the middle, ``(G, 2)``: regions of boundaries."""
    points = np.asarray(points, np.float64)
    return np.stack([points - width / 2, points + width / 2], axis=1)
