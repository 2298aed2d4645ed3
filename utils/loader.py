"""Batches from a reader: order, sharding, worker processes, and what happens to samples that fail.

A reader is a map-style data set: ``len(reader)``, ``reader[i]`` -> dict of numpy arrays and strings,
``reader.describe(i)`` -> the name used in messages, ``reader.set_epoch(n)``; optional: ``collate``,
``training_order`` and ``whole_batches``, see below. It raises DataError for a
sample that cannot be read; every other exception is a bug and stops the run with the sample's name.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from paddle.io import DataLoader, Dataset, get_worker_info

from utils.errors import ConfigError, DataError

Fields = dict[str, Any]  # name -> Tensor (batch first), or a list of strings
Failures = list[tuple[str, str]]  # (sample, reason)


def training_order(num_samples: int, seed: int, epoch: int) -> list[int]:
    """Shuffled sample indices of one epoch; seed 0 gives the order of 2019."""
    order = list(range(num_samples))
    random.Random(seed + epoch).shuffle(order)
    return order


def epoch_order(reader: Dataset, seed: int, epoch: int) -> list[int]:
    """The order of ``reader.training_order(seed, epoch)``, where it has one, else ``training_order``."""
    if hasattr(reader, "training_order"):
        return reader.training_order(seed, epoch)
    return training_order(len(reader), seed, epoch)


def training_batches(
    order: Sequence[int], batch_size: int, rank: int = 0, world_size: int = 1, skip: int = 0
) -> list[list[int]]:
    """This rank's share of every full batch of ``batch_size`` (over all ranks); the tail is dropped.

    The first ``skip`` batches are left out: they were trained on before the checkpoint.
    """
    starts = range(0, len(order) - batch_size + 1, batch_size)
    return [list(order[s : s + batch_size][rank::world_size]) for s in starts][skip:]


def parts_of(batches: Sequence[Sequence[int]], parts: int) -> list[list[int]]:
    """Each of ``batches`` in ``parts`` of one size, one behind the other."""
    sizes = [(batch, len(batch) // parts) for batch in batches]
    return [list(batch[i * size : (i + 1) * size]) for batch, size in sizes for i in range(parts)]


def check_batch(batch_size: int, num_samples: int, world_size: int, accumulate: int = 1) -> None:
    """Raise ConfigError for a batch that the ranks, and the parts of each one's share, cannot share, or that
    the samples do not fill.
    """
    shares = world_size * accumulate
    if batch_size % shares:
        below = batch_size - batch_size % shares
        nearest = " or ".join(str(size) for size in (below, below + shares) if size)
        parts = f" of {accumulate} parts each (--accumulate)" if accumulate > 1 else ""
        raise ConfigError(
            f"batch_size {batch_size} cannot be shared by {world_size} processes{parts}; nearest: {nearest}"
        )
    if num_samples < batch_size:
        raise ConfigError(
            f"TRAIN.filelist has {num_samples} samples, fewer than one batch of {batch_size}; "
            "lower --batch_size"
        )


def evaluation_batches(
    reader: Dataset,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    samples: Sequence[int] | None = None,
) -> list[list[int]]:
    """Every sample exactly once over all ranks, in list order; the last batch may be smaller.

    ``samples``: indices of the samples that are left to do; None: all.
    Rank r has the r-th part of the list: what the ranks find is in list order one behind the other, and
    samples of one video are together. Each rank takes its share of ``batch_size`` at a time; where the
    samples of a batch matter to one another (``reader.whole_batches``), whole batches are shared out.
    """
    samples = range(len(reader)) if samples is None else samples
    if getattr(reader, "whole_batches", False):
        size = batch_size
        first, last = (-(-len(samples) // size) * r // world_size * size for r in (rank, rank + 1))
    else:
        size = max(1, batch_size // world_size)
        first, last = (len(samples) * r // world_size for r in (rank, rank + 1))
    mine = samples[first:last]
    return [list(mine[s : s + size]) for s in range(0, len(mine), size)]


def collate(samples: Sequence[Fields]) -> Fields:
    """Arrays of one shape are stacked, anything else becomes a list."""
    batch = {}
    for name, first in samples[0].items():
        column = [sample[name] for sample in samples]
        batch[name] = np.stack(column) if isinstance(first, np.ndarray) else column
    return batch


def num_workers(asked: int | None, recipe: int, world_size: int) -> int:
    """Reader processes a rank: as asked, else the recipe's number but at most one a free core."""
    if asked is not None:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(recipe, cores // world_size)


class _Guarded(Dataset):
    """A reader whose samples never raise: Paddle's loader hangs (0 workers) or loses the message.

    Each item is ``("ok", sample)``, ``("data", name, reason)`` or ``("bug", name, traceback)``. The
    index being read is noted in shared memory, so that a killed worker's sample can be named.
    """

    def __init__(self, reader: Dataset, reading: Any) -> None:
        super().__init__()
        self.reader, self.reading = reader, reading

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> tuple:
        worker = get_worker_info()
        slot = worker.id if worker else 0
        self.reading[slot] = index
        try:
            return ("ok", self.reader[index])
        except DataError as error:
            return ("data", self.reader.describe(index), str(error))
        except Exception:  # reported by the main process, with this traceback
            return ("bug", self.reader.describe(index), traceback.format_exc())
        finally:
            self.reading[slot] = -1


class _Collate:
    """Collates what could be read; failures travel beside it as lists of strings."""

    def __init__(self, collate_samples: Any) -> None:
        self.collate_samples = collate_samples

    def __call__(self, items: Sequence[tuple]) -> Fields:
        good = [item[1] for item in items if item[0] == "ok"]
        # Paddle takes a batch without any array for the end of the data, hence the count.
        packed: Fields = {"count": np.array([len(good)])}
        packed["failures"] = [list(item) for item in items if item[0] != "ok"]
        try:
            packed["fields"] = self.collate_samples(good) if good else {}
        except Exception:
            packed["fields"] = {}
            packed["failures"].append(["bug", "collating a batch", traceback.format_exc()])
        return packed


def _start_worker(worker_id: int) -> None:
    """Signals are the main process's business; without it a worker ends (Paddle's would wait for ever)."""
    del worker_id
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


class Loader:
    """Iterates over ``(fields, failures)`` for the given lists of sample indices, in their order.

    Args:
        reader: the data set, see above. ``reader.collate`` replaces ``collate`` where it has one.
        batches: sample indices of each batch.
        workers: reader processes; 0 reads in a thread of this process, as does a reader that is
            ``in_main_process``.

    Raises (while iterating):
        DataError: a worker process died; names what it was reading.
        RuntimeError: a reader raised something else than DataError; holds name and traceback.
    """

    def __init__(self, reader: Dataset, batches: Sequence[Sequence[int]], workers: int = 0) -> None:
        self.reader, self.batches = reader, batches
        self.workers = 0 if getattr(reader, "in_main_process", False) else workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Fields, Failures]]:
        reading = multiprocessing.RawArray("q", [-1] * max(1, self.workers))
        loader = DataLoader(
            _Guarded(self.reader, reading),
            batch_sampler=_Batches(self.batches),
            num_workers=self.workers,
            collate_fn=_Collate(getattr(self.reader, "collate", collate)),
            worker_init_fn=_start_worker,
            return_list=True,
        )
        items = iter(loader)
        try:
            while (packed := self._next(items, reading)) is not None:
                for kind, name, reason in packed["failures"]:
                    if kind == "bug":
                        raise RuntimeError(f"reading {name} failed:\n{reason}")
                yield packed["fields"], [(name, reason) for _, name, reason in packed["failures"]]
        finally:  # else abandoned workers live as long as this process, and die noisily
            if self.workers:
                items._try_shutdown_all()

    def _next(self, items: Iterator[Fields], reading: Sequence[int]) -> Fields | None:
        try:
            return next(items, None)
        except (SystemError, RuntimeError) as error:
            names = [self.reader.describe(index) for index in reading if index >= 0]
            what = f" while reading {', '.join(names)}" if names else ""
            raise DataError(
                f"a reader process died{what} ({_first_line(error)}). Is memory or /dev/shm full? Fewer "
                "processes need less: --num_workers=1; --num_workers=0 reads in the main process."
            ) from error


class _Batches:
    """What Paddle's loader asks of a batch sampler."""

    def __init__(self, batches: Sequence[Sequence[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Sequence[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].split(" (at /")[0] if lines else type(error).__name__
