"""The records of a prediction on disk as they come: ``predict.py --resume`` goes on with an interrupted run.

Beside the result that will be, each rank appends to a file of its own, ``<result>.rank<N>.part``: what is
predicted, then ``{index in the list: record}`` batch by batch, each a pickle behind its length (8 bytes).
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from utils import device, files, safe_pickle
from utils.config import RunConfig, Sections
from utils.errors import ConfigError, DataError, OutputError

log = logging.getLogger(__name__)

Records = dict[int, dict[str, Any]]  # by index in the list
LENGTH_BYTES = 8


def job(
    samples: Iterable[str], state: Iterable[tuple[str, np.ndarray]], sections: Sections, **flags: Any
) -> dict[str, str]:
    """What the records depend on, by the word for it; all but ``flags`` as sha256.

    Args:
        samples: their names, in the order of the list.
        state: name and value of each parameter of the network.
        sections: the recipe; how it is run (``batch_size``, ``use_gpu``, …) does not count.
    """
    names, weights, recipe = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for sample in samples:
        names.update(f"{sample}\n".encode("utf-8", "surrogateescape"))
    for name, value in state:
        weights.update(f"{name} {value.dtype} {value.shape}\n".encode())
        weights.update(np.ascontiguousarray(value).data)
    for section in ("MODEL", "INFER"):
        for name, value in sorted(sections.get(section, {}).items()):
            if name not in RunConfig.model_fields:
                recipe.update(f"{section}.{name}={value!r}\n".encode("utf-8", "surrogateescape"))
    digests = {"list": names.hexdigest(), "weights": weights.hexdigest(), "recipe": recipe.hexdigest()}
    return {**digests, **{name: str(value) for name, value in flags.items()}}


class Unfinished:
    """Opened by ``with`` around a prediction and all that is made of it; its files are gone at the end.

    On an error or Ctrl-C they stay, and the log says so.

    Args:
        result: the file that the finished prediction is written to.
        job: see ``job``.
        resume: ``done`` then holds what was predicted before, but for what could not be read: that is tried
            again. Otherwise it is empty, and what there was is overwritten.

    Raises ConfigError where an interrupted run was of another job, OutputError where nothing can be written.
    """

    def __init__(self, result: Path, job: dict[str, str], resume: bool) -> None:
        self.job = job
        self.parts = sorted(result.parent.glob(f"{result.stem}.rank*.part"))
        self.path = result.with_name(f"{result.stem}.rank{device.rank()}.part")
        self.done: Records = {}
        for done in device.gather(self._read() if resume else {}):  # of ranks on other machines, too
            self.done |= done
        self.num_kept = len(self.done)
        self.file: BinaryIO | None = None

    def _read(self) -> Records:
        done: Records = {}
        for path in self.parts:
            for records in self._batches(path):
                done |= {index: record for index, record in records.items() if "error" not in record}
        return done

    def _batches(self, path: Path) -> list[Records]:
        values = _values(path)
        if values and values[0] != self.job:
            job = values[0] if isinstance(values[0], dict) else {}
            others = ", ".join(name for name, value in self.job.items() if job.get(name) != value)
            raise ConfigError(
                f"--resume: {path} is of a run with another {others}. Predict as that did, or without "
                "--resume, which begins again"
            )
        return values[1:]

    def __enter__(self) -> Unfinished:
        known = _packed(self.job) + (_packed(self.done) if self.done else b"")
        device.wait_for_all()  # until all have read
        if device.rank() == 0:
            files.write_atomic(self.path, known)
            for path in self.parts:
                if path != self.path:
                    path.unlink(missing_ok=True)
        device.wait_for_all()
        if device.rank() != 0:
            files.write_atomic(self.path, _packed(self.job))
        self.file = open(self.path, "ab")
        return self

    def add(self, records: Records) -> None:
        """Keep the records of a batch."""
        try:
            self.file.write(_packed(records))
            self.file.flush()
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot write: {error.strerror}; what is in it is kept"
            ) from error
        self.num_kept += len(records)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # a full disk, which add has told of
            self.file.close()
        if kind is None:
            device.wait_for_all()  # rank 0 has written the result
            self.path.unlink(missing_ok=True)
        else:
            log.warning("%d record(s) are kept in %s: go on with --resume", self.num_kept, self.path)


def _packed(value: Any) -> bytes:
    data = pickle.dumps(value, protocol=4)
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def _values(path: Path) -> list[Any]:
    """What was appended, up to where it was cut off."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    values, place = [], 0
    while place < len(data):
        start = place + LENGTH_BYTES
        place = start + int.from_bytes(data[start - LENGTH_BYTES : start], "little")
        if start > len(data) or place > len(data) or place == start:
            break
        values.append(safe_pickle.loads(data[start:place], str(path)))
    return values
