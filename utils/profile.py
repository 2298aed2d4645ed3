"""Where the time of a few training steps goes (``--is_profiler=1``)."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paddle
from paddle import profiler

from utils import device, engine, loader
from utils.errors import ConfigError

log = logging.getLogger(__name__)
STEPS = 5
PHASES = ("reader", "forward", "backward", "update")


def run(args: Any, trainer: engine.Trainer, reader: Any, metric: Any, batch_size: int, workers: int) -> int:
    """Profile ``STEPS`` steps after the first ``--log_interval`` ones; like 2019, it writes no checkpoint.

    Writes a Chrome trace into ``--profiler_path``, prints Paddle's tables, and logs what each phase takes.
    """
    first = args.log_interval
    order = loader.epoch_order(reader, trainer.seed, 0)
    batches = loader.training_batches(order, batch_size, device.rank(), device.world_size())
    wanted = first + STEPS
    if len(batches) < wanted:
        raise ConfigError(
            f"--is_profiler needs {wanted} batches (--log_interval + {STEPS}), got {len(batches)}"
        )
    samples = loader.Loader(reader, loader.parts_of(batches[:wanted], args.accumulate), workers)
    recorder = profiler.Profiler(
        scheduler=(first, wanted), on_trace_ready=profiler.export_chrome_tracing(args.profiler_path)
    )
    phases = _Phases()
    trainer.phase = phases
    done = 0

    def after_step() -> None:
        nonlocal done
        done += 1
        recorder.step()
        if done == first:
            phases.reset()

    recorder.start()
    phases.reset()
    engine.train_epoch(trainer, samples, metric, batch_size, args.log_interval, after_step=after_step)
    log.info(f"{STEPS} steps, ms a step: {phases.summary(STEPS)}")
    recorder.stop()
    recorder.summary(time_unit="ms")
    log.info(f"profile of {STEPS} steps written into {args.profiler_path}")
    return 0


class _Phases:
    """Times the phases of a step; a GPU's work is waited for, so that it counts where it was asked for."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.started = 0.0

    def reset(self) -> None:
        self.seconds, self.started = dict.fromkeys(PHASES, 0.0), time.perf_counter()

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        with profiler.RecordEvent(name):
            yield
            if paddle.device.get_device() != "cpu":
                paddle.device.synchronize()
        self.seconds[name] += time.perf_counter() - started

    def summary(self, steps: int) -> str:
        """``reader 1.2 (3 %), …``; what is in no phase (logging, the profiler itself) is "other"."""
        total = time.perf_counter() - self.started
        times = {**self.seconds, "other": total - sum(self.seconds.values())}
        return ", ".join(f"{k} {1000 * v / steps:.1f} ({100 * v / total:.0f} %)" for k, v in times.items())
