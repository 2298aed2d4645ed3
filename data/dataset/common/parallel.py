"""Work on many files in several processes: a bar, failures collected, no file left half done.

What the tools of ``data/dataset`` share. It imports nothing heavy: each process starts in a moment.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from utils import log
from utils.cli import natural
from utils.errors import DataError, Interrupted, OutputError

QUEUED = 4  # items handed out for each process at a time: memory does not grow with the list
SECONDS_TO_STOP = 5  # then a process that does not listen is killed


@dataclass(frozen=True)
class Failure:
    """What went wrong with one item, as one line."""

    message: str


def add_flag(parser: argparse.ArgumentParser) -> None:
    """``--num_workers``."""
    parser.add_argument(
        "--num_workers",
        type=natural,
        default=num_cores(),
        help="processes; 0 works in this one (default: one a core, here %(default)s)",
    )


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    work: Callable[[Any], Any],
    items: Sequence[Any],
    num_workers: int,
    title: str,
    done: Callable[[int, Any], None],
) -> None:
    """Call ``work(item)`` for every item, in any order, and ``done(index, result)`` here for each.

    A DataError of ``work`` becomes the result ``Failure``, and so does an item that kills its process
    (out of memory, a crash of a decoder): the others go on. Any other error ends the run. On Ctrl-C and
    SIGTERM the processes leave their ``with`` and ``finally`` blocks first.

    Args:
        work: a function of a module, or a ``functools.partial`` of one: it is sent to other processes.
        num_workers: processes; 0 works in this one.
        title: what the progress bar is called.
    """
    num_workers = min(num_workers, len(items))
    outcomes = _in_processes(work, items, num_workers) if num_workers else _here(work, items)
    with _sigterm_is_ctrl_c(), contextlib.closing(outcomes), log.bar(len(items), title) as bar:
        for index, result in outcomes:
            done(index, result)
            bar.update()


def say(text: str) -> None:
    """One line on stderr that does not tear the progress bar."""
    log.tqdm.write(text, file=sys.stderr)


def _here(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    for index, item in enumerate(items):
        yield index, _attempt(work, item)


def _in_processes(
    work: Callable[[Any], Any], items: Sequence[Any], num_workers: int
) -> Iterator[tuple[int, Any]]:
    queue = iter(range(len(items)))
    while True:
        lost = yield from _until_one_dies(work, items, queue, num_workers, QUEUED * num_workers)
        if not lost:
            return
        suspects = iter(lost)  # one at a time: which was it?
        while culprit := (yield from _until_one_dies(work, items, suspects, 1, 1)):
            yield culprit[0], Failure("its process died (out of memory, or a crash of the decoder)")


def _until_one_dies(
    work: Callable[[Any], Any], items: Sequence[Any], queue: Iterator[int], num_workers: int, num_taken: int
) -> Iterator[tuple[int, Any]]:
    """Yields ``(index, result)``; returns the indices taken from ``queue`` that have no result."""
    taken: dict[int, Future] = {}
    others = multiprocessing.active_children()
    # spawn: the same on every system, and safe beside the threads that decoders start.
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, spawn, _start_process, (work,))
    try:
        while True:
            while len(taken) < num_taken and (index := next(queue, None)) is not None:
                taken[index] = Future()  # in case the next line finds the pool broken
                with _ctrl_c_waits():  # the first time it starts the processes
                    taken[index] = pool.submit(_attempt, work, items[index])
            if not taken:
                return []
            wait(taken.values(), return_when=FIRST_COMPLETED)
            for index in [index for index, future in taken.items() if future.done()]:
                result = taken[index].result()
                del taken[index]
                yield index, result
    except BrokenProcessPool:
        return sorted(taken)
    finally:
        if taken:
            _stop([process for process in multiprocessing.active_children() if process not in others])
        pool.shutdown(cancel_futures=True)


def _stop(processes: list[multiprocessing.Process]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + SECONDS_TO_STOP
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Ctrl-C comes behind it; processes that start within it never get one, not even at their start."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _sigterm_is_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise Interrupted("terminated", 128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# ---- in the other processes ------------------------------------------------------------------------


class _Terminated(BaseException):
    """SIGTERM: unwinds the work, so that its temporary files are removed."""


_busy = False


def _attempt(work: Callable[[Any], Any], item: Any) -> Any:
    global _busy
    _busy = True
    try:
        return work(item)
    except DataError as error:
        return Failure(str(error))
    except MemoryError:
        return Failure("not enough memory")
    except OutputError:
        raise
    except Exception as error:
        raise RuntimeError(f"a bug, at {item}") from error
    except _Terminated:
        os._exit(1)
    finally:
        _busy = False


def _start_process(work: Callable[[Any], Any]) -> None:
    """Ctrl-C is the main process's business; SIGTERM, or the main process's end, ends this one.

    ``work`` is taken so that its module is imported before: Paddle sets a SIGTERM handler that waits.
    """
    del work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminate)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _terminate(*_: object) -> None:
    if _busy:
        raise _Terminated
    os._exit(1)


def _leave_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
