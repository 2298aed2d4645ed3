"""Where the time of a few training steps goes (``--is_profiler=1``)."""

from __future__ import annotations

import logging
from collections.abc import Callable

from paddle import profiler

log = logging.getLogger(__name__)
STEPS = 5


def steps(folder: str, first: int) -> Callable[[], None]:
    """A function to call after each step: profiles ``STEPS`` steps after the ``first`` ones.

    Writes a Chrome trace into ``folder`` and prints a table at the end.
    """
    recorder = profiler.Profiler(
        scheduler=(first, first + STEPS),
        on_trace_ready=profiler.export_chrome_tracing(folder),
    )
    recorder.start()
    done = 0

    def after_step() -> None:
        nonlocal done
        done += 1
        recorder.step()
        if done == first + STEPS:
            recorder.stop()
            recorder.summary(time_unit="ms")
            log.info(f"profile of {STEPS} steps written into {folder}")

    return after_step
