"""Files of features: many records in a pickle or a TFRecord shard, or one video in a ``.npy``.

No file is held in memory. A shard is indexed (where each array or record lies), and a record is read from
its place; so any order of records costs the same, whatever process asks.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from reader.common import filelist, tfrecord
from utils import device, files, safe_pickle
from utils import log as logs
from utils.errors import DataError, OutputError

log = logging.getLogger(__name__)
SUFFIXES = (".npy", ".tfrecord", ".pkl", ".pickle")
PICKLED = {"rgb": "feature"}  # what the pickles of 2019 call a stream
INDEXED_RECORDS = 50_000  # of so many records the places are kept, about 1 KB each
SLOW_SECONDS = 10  # counting that took longer is noted beside the list


@dataclass(frozen=True)
class Line:
    """One entry of a list: a file, and the labels that follow the path of a ``.npy``; None: no label."""

    path: str
    labels: list[int] | None
    where: str


@dataclass
class Record:
    """One video: its id (path of a ``.npy``), what 2019 printed, labels (None where the file has none), and
    rows (T, D) by stream."""

    video: str
    name: str
    labels: list[int] | None
    streams: dict[str, np.ndarray]


def read_list(file: str) -> list[Line]:
    """``path`` of a pickle or TFRecord shard, or ``path.npy label label …``, a line.

    Paths may hold blanks. Raises DataError with file and line.
    """
    return [parse_line(text, where) for where, text in filelist.read_lines(file)]


def parse_line(text: str, where: str) -> Line:
    matched = re.fullmatch(r"(.*?\.npy)((?:\s+\S+)*)", text)
    if not matched:
        return Line(text, None, where)
    path, labels = matched[1], matched[2].split()
    wrong = [label for label in labels if not re.fullmatch(r"-?\d+", label)]
    if wrong:
        raise DataError(f"{where}: expected 'path.npy label label …' with numbers, got {wrong[0]!r}")
    return Line(path, [int(label) for label in labels], where)


class FeatureFiles:
    """The records of all files of a list, numbered through.

    A file that cannot be indexed counts as one record, and reading that record raises the reason.

    Args:
        names: the streams that a record must have.
        list_file: counts that took long to make are kept beside it; "" keeps none.
        keep_counts: they are kept in any case.
    """

    def __init__(
        self, lines: Sequence[Line], names: Sequence[str], list_file: str = "", keep_counts: bool = False
    ) -> None:
        self.lines, self.names, self.keep_counts = list(lines), list(names), keep_counts
        self.opened: OrderedDict[int, Any] = OrderedDict()  # the latest indices
        self.ends = list(accumulate(self._counts(list_file)))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def locate(self, index: int) -> tuple[int, int]:
        """Number of the file, and of the record in it."""
        file = bisect_right(self.ends, index)
        return file, index - (self.ends[file - 1] if file else 0)

    def describe(self, index: int) -> str:
        file, record = self.locate(index)
        path = self.lines[file].path
        return path if path.endswith(".npy") else f"{path}, record {record}"

    def read(self, index: int) -> Record:
        """Raises DataError, which begins with the file."""
        file, record = self.locate(index)
        shard = self._open(file)
        if record >= len(shard):
            raise DataError(f"{self.describe(index)}: the file changed since its records were counted")
        return shard.read(record, self.names, self.describe(index))

    def records_of(self, file: int) -> range:
        return range(self.ends[file - 1] if file else 0, self.ends[file])

    def _open(self, file: int) -> Any:
        if file in self.opened:
            self.opened.move_to_end(file)
            return self.opened[file]
        shard = open_file(self.lines[file])
        self.opened[file] = shard
        while sum(map(len, self.opened.values())) > INDEXED_RECORDS and len(self.opened) > 1:
            self.opened.popitem(last=False)
        return shard

    def _counts(self, list_file: str) -> list[int]:
        path = Path(list_file).with_name(f".{Path(list_file).name}.counts.json") if list_file else None
        known = _known_counts(path)
        counts, noted, started = [], {}, time.monotonic()
        progress = logs.bar(len(self.lines), "counting records", device.rank())
        for i, line in enumerate(self.lines):
            stamp = _stamp(line.path)
            entry = known.get(line.path)
            if line.path.endswith(".npy"):
                counts.append(1)
            elif stamp and entry and entry[:2] == stamp:
                counts.append(int(entry[2]))
            else:
                try:
                    counts.append(len(self._open(i)))
                except DataError as error:
                    log.error("cannot read %s", error)
                    counts.append(1)
                    stamp = None
            if stamp:
                noted[line.path] = [*stamp, counts[-1]]
            progress.update()
        progress.close()
        slow = time.monotonic() - started > SLOW_SECONDS
        if path and (slow or self.keep_counts) and device.rank() == 0:
            try:
                files.write_json(path, noted)
            except OutputError as error:  # a folder that is only read: then they are counted every time
                log.warning("%s", error)
        return counts


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _known_counts(path: Path | None) -> dict[str, list[int]]:
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {p: entry for p, entry in known.items() if isinstance(entry, list) and len(entry) == 3}


# ---- kinds of files --------------------------------------------------------------------------------


def open_file(line: Line) -> Any:
    """The index of one file, by its suffix; anything but ``.npy`` and ``.tfrecord`` is a pickle."""
    kinds: dict[str, Callable[[Line], Any]] = {".npy": ArrayFile, ".tfrecord": TFRecordFile}
    return kinds.get(os.path.splitext(line.path)[1], PickleFile)(line)


class ArrayFile:
    """One video, ``(T, D)`` of one stream; the labels stand in the list."""

    def __init__(self, line: Line) -> None:
        self.line = line

    def __len__(self) -> int:
        return 1

    def read(self, record: int, names: Sequence[str], where: str) -> Record:
        if len(names) != 1:
            raise DataError(
                f"{where}: a .npy holds one stream, but the recipe has {', '.join(names)}; "
                "set MODEL.feature_names and MODEL.feature_dims"
            )
        try:
            array = np.load(self.line.path, mmap_mode=None, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise DataError(f"{where}: not a readable .npy ({reason})") from error
        return Record(self.line.path, os.path.basename(self.line.path), self.line.labels, {names[0]: array})


class PickleFile:
    """A list of dicts ``video``, ``feature``, ``audio``, ``label``, ``nframes``, as 2019 made it.

    Python 2 wrote the keys as bytes, Python 3 as text. Rows beyond ``nframes`` are dropped.
    """

    def __init__(self, line: Line) -> None:
        records = safe_pickle.index(line.path, encoding="bytes")
        if not isinstance(records, (list, tuple)):
            kind = type(records).__name__
            raise DataError(f"{line.path}: expected a list of records, got a {kind}")
        self.records = records

    def __len__(self) -> int:
        return len(self.records)

    def read(self, record: int, names: Sequence[str], where: str) -> Record:
        entry = self.records[record]
        if not isinstance(entry, dict):
            raise DataError(f"{where}: expected a dict, got {type(entry).__name__}")
        entry = {_text(key): value for key, value in entry.items()}
        count = entry.get("nframes")
        if count is not None and not (isinstance(count, (int, np.integer)) and count >= 0):
            raise DataError(f"{where}: nframes is {count!r}")
        streams = {}
        for name in names:
            found = entry.get(name, entry.get(PICKLED.get(name, name)))
            if not isinstance(found, safe_pickle.ArrayInFile):
                wanted = PICKLED.get(name, name)
                raise DataError(f"{where}: no array {wanted!r}; there is {', '.join(map(str, entry))}")
            streams[name] = found.read()[:count]
        video = _text(entry.get("video", where))
        return Record(video, video, _labels(entry.get("label")), streams)


class TFRecordFile:
    """A shard of YouTube-8M at frame level: ``tf.train.SequenceExample``, bytes of a row a second."""

    def __init__(self, line: Line) -> None:
        self.path = line.path
        self.places = tfrecord.offsets(line.path)

    def __len__(self) -> int:
        return len(self.places)

    def read(self, record: int, names: Sequence[str], where: str) -> Record:
        context, sequences = tfrecord.parse(tfrecord.read(self.path, *self.places[record]), where)
        if not sequences and any(name.startswith("mean_") for name in context):
            raise DataError(
                f"{where}: this is a video-level file (one mean a video); the models need the frame-level "
                "files of YouTube-8M"
            )
        streams = {}
        for name in names:
            rows = sequences.get(name)
            if not rows:
                there = ", ".join(sequences) or "none"
                raise DataError(f"{where}: no sequence {name!r}; there is {there}")
            if len(set(map(len, rows))) > 1:
                raise DataError(f"{where}: rows of {name!r} have different lengths")
            streams[name] = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
        video = _text((context.get("id") or context.get("video_id") or [where])[0])
        return Record(video, video, _labels(context.get("labels")), streams)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)


def _labels(value: Any) -> list[int] | None:
    if isinstance(value, safe_pickle.ArrayInFile):
        value = value.read().reshape(-1)
    return None if value is None else [int(label) for label in value]
