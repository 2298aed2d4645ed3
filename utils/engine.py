"""Plain loops: train an epoch, evaluate, predict. They know no model, no path and no flag."""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import paddle

from utils import device, optimizer
from utils.errors import DataError, ZooError
from utils.loader import Failures, Loader
from utils.log import JsonLog, bar, values_text
from utils.precision import Precision, in_float32
from utils.program import Infer
from utils.registry import ModelSpec

log = logging.getLogger(__name__)


@dataclass
class Trainer:
    """What training changes, and where it stands. ``step`` counts optimizer steps of the whole run."""

    spec: ModelSpec
    network: paddle.nn.Layer  # holds the parameters
    run: paddle.nn.Layer  # what is called: the network, its Program, or DataParallel around either
    optimizer: paddle.optimizer.Optimizer
    seed: int
    epochs: int
    failure_limit: int  # so many samples may be unreadable, not more
    precision: Precision = field(default_factory=lambda: Precision(None, "cpu"))
    accumulate: int = 1  # parts of a batch, one forward and backward pass each, to one update
    phase: Callable[[str], AbstractContextManager] = lambda name: nullcontext()  # of a step, to be timed
    epoch: int = 0
    iteration: int = 0  # batches of this epoch that are done
    step: int = 0
    failed: dict[str, str] = field(default_factory=dict)  # sample -> reason


def train_epoch(
    trainer: Trainer,
    loader: Loader,
    metric: Any,
    samples_per_batch: int,
    log_interval: int = 10,
    jsonl: JsonLog | None = None,
    after_step: Callable[[], None] = lambda: None,
) -> None:
    """Train on every batch of ``loader``, which gives its ``trainer.accumulate`` parts one behind the other;
    ``after_step`` is called between two steps.

    A batch of which a rank can read nothing is left out by all. Raises ZooError when the loss is not finite,
    DataError when no rank can read a sample of a batch, or when too many have failed.
    """
    jsonl = jsonl or JsonLog(None)
    trainer.network.train()
    rank, remaining = device.rank(), len(loader) // trainer.accumulate
    total = trainer.iteration + remaining
    seconds, reading, steps = 0.0, 0.0, 0  # since the last logged line
    progress = bar(remaining, f"epoch {trainer.epoch}", rank)
    batches, started = iter(loader), time.perf_counter()
    while items := _next_parts(trainer, batches):
        parts = [fields for fields, _ in items if fields]
        failures = [failure for _, failures in items for failure in failures]
        reading += time.perf_counter() - started
        if not _note_failures(trainer, bool(parts), failures):
            trainer.iteration += 1
            progress.update()
            started = time.perf_counter()
            continue
        rate = trainer.optimizer.get_lr()
        done = _train_step(trainer, parts)
        now = time.perf_counter()
        seconds, steps, started = seconds + now - started, steps + 1, now
        if log_interval and trainer.iteration % log_interval == 0:
            values = _batch_values(metric, done)
            cost = seconds / steps
            record = {
                "epoch": trainer.epoch,
                "iter": trainer.iteration,
                "step": trainer.step,
                **values,
                "lr": rate,
                "batch_cost": cost,
                "reader_cost": reading / steps,
                "ips": samples_per_batch / cost,
                "eta": cost * (total - trainer.iteration + (trainer.epochs - 1 - trainer.epoch) * total),
            }
            log.info(_train_line(record))
            jsonl.write(kind="train", **record)
            seconds, reading, steps = 0.0, 0.0, 0
        trainer.iteration += 1
        progress.update()
        after_step()
    progress.close()


def _next_parts(trainer: Trainer, batches: Iterator) -> list[tuple[dict, Failures]]:
    with trainer.phase("reader"):
        return list(islice(batches, trainer.accumulate))


def _train_step(trainer: Trainer, parts: list[dict[str, Any]]) -> list[tuple[dict, dict]]:
    """One update from the ``parts`` of a batch; outputs with losses, and fields, of each part."""
    # Dropout depends on (seed, step, rank) alone, so that a resumed run repeats an uninterrupted one.
    paddle.seed((trainer.seed * 1_000_003 + trainer.step * 1009 + device.rank()) % 2**31)
    if hasattr(trainer.network, "with_other_parts"):
        parts = trainer.network.with_other_parts(parts)
    done = []
    for i, (fields, weight) in enumerate(zip(parts, part_weights(trainer.network, parts), strict=True)):
        # Gradients add up over the parts; the ranks exchange them with the last one.
        alone = i < len(parts) - 1 and isinstance(trainer.run, paddle.DataParallel)
        with trainer.run.no_sync() if alone else nullcontext():
            done.append((_forward_backward(trainer, fields, weight), fields))
    with trainer.phase("update"):
        _update(trainer)
    return done


def part_weights(network: paddle.nn.Layer, parts: list[dict[str, Any]]) -> list[float]:
    """Of each part's loss: their sum, averaged over the ranks, is then the loss of the total batch.

    A loss is a mean over the samples, or over what the network's ``mean_over(fields)`` counts (words,
    anchors); where its ``loss_is_sum`` is set, it is a sum.
    """
    world = device.world_size()
    if getattr(network, "loss_is_sum", False):
        return [float(world)] * len(parts)
    count = getattr(network, "mean_over", lambda fields: len(fields["video"]))
    counts = [count(fields) for fields in parts]
    total = device.total(sum(counts))
    return [count * world / total if total else 1.0 / len(parts) for count in counts]


def _forward_backward(trainer: Trainer, fields: dict[str, Any], weight: float) -> dict[str, Any]:
    with trainer.phase("forward"):
        with trainer.precision.arithmetic():
            outputs = trainer.run(*(fields[name] for name in trainer.spec.inputs))
        outputs = in_float32(outputs)
        losses = trainer.network.loss(outputs, fields)
        loss = float(losses["loss"])
    if not math.isfinite(loss):
        raise ZooError(
            f"the loss is {loss} at epoch {trainer.epoch}, iteration {trainer.iteration}, learning rate "
            f"{trainer.optimizer.get_lr():g}; samples: {', '.join(map(str, fields.get('video', [])[:8]))}. "
            "The last checkpoint is from before it. A lower --learning_rate may help."
        )
    with trainer.phase("backward"):
        scale = trainer.precision.loss_scale
        (losses["loss"] * (weight * (scale.scale if scale else 1.0))).backward()
    return {name: value.detach() for name, value in {**outputs, **losses}.items()}


def _update(trainer: Trainer) -> None:
    scale = trainer.precision.loss_scale
    if scale is None or scale.unscale(trainer.network.parameters()):
        trainer.optimizer.step()
    else:
        log.info(f"step {trainer.step} is left out: float16 overflows; loss scale now {scale.scale:g}")
    trainer.optimizer.clear_grad()
    optimizer.advance(trainer.optimizer)
    trainer.step += 1


def _note_failures(trainer: Trainer, has_samples: bool, failures: Failures) -> bool:
    """Name what could not be read on any rank; whether all ranks have samples of this batch."""
    if not device.total(len(failures)):
        return True
    parts = device.gather((has_samples, failures))
    for name, reason in (failure for _, part in parts for failure in part):
        if name not in trainer.failed and device.rank() == 0:
            log.warning("skipped %s", reason)
        trainer.failed[name] = reason
    without = [str(rank) for rank, (has_samples, _) in enumerate(parts) if not has_samples]
    if len(without) == len(parts):
        raise DataError(f"no sample of a batch could be read; the last one: {reason}")
    if len(trainer.failed) > trainer.failure_limit:
        raise DataError(
            f"{len(trainer.failed)} samples could not be read, more than {trainer.failure_limit} "
            f"(TRAIN.max_failed_fraction); the last one: {reason}"
        )
    if without and device.rank() == 0:
        where = f"epoch {trainer.epoch}, iteration {trainer.iteration}"
        log.warning(f"{where} is left out: rank {', '.join(without)} could read no sample of its share")
    return not without


def _batch_values(metric: Any, done: list[tuple[dict, dict]]) -> dict[str, float]:
    states = []
    for outputs, fields in done:
        metric.reset()
        metric.update(_arrays(outputs), _arrays(fields))
        states.append(metric.state())
    metric.merge([state for of_rank in device.gather(states) for state in of_rank])
    return _running(metric)


def _running(metric: Any) -> dict[str, float]:
    """The values for a line of the log; ``result`` may be costly, or mean little before the end."""
    return metric.running() if hasattr(metric, "running") else metric.result()


def _train_line(record: dict[str, Any]) -> str:
    values = {k: v for k, v in record.items() if k not in ("epoch", "iter", "step", "lr", "eta")}
    times = {k: values.pop(k) for k in ("batch_cost", "reader_cost", "ips")}
    return (
        f"[TRAIN {time.strftime('%Y-%m-%d %H:%M:%S')}] Epoch {record['epoch']}, iter {record['iter']}, "
        f"{values_text(values)}, lr: {record['lr']:g}, batch_cost: {times['batch_cost']:.5f} sec, "
        f"reader_cost: {times['reader_cost']:.5f} sec, ips: {times['ips']:.5f} samples/sec, "
        f"eta: {_duration(record['eta'])}"
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _arrays(fields: dict[str, Any]) -> dict[str, Any]:
    return {k: v.numpy() if isinstance(v, paddle.Tensor) else v for k, v in fields.items()}


def evaluate(
    spec: ModelSpec,
    infer: Infer,
    loss: Callable[[dict, dict], dict] | None,
    loader: Loader,
    metric: Any,
    title: str,
    log_interval: int = 1,
) -> tuple[dict[str, Any], Failures]:
    """Score every sample of ``loader`` over all ranks; the result, and what failed with the reason.

    ``result`` counts only what was scored. Raises ZooError if a sample is neither scored nor failed.
    """
    metric.reset()
    failed: Failures = []
    scored = 0
    progress = bar(len(loader), title, device.rank())
    for i, (fields, failures) in enumerate(loader):
        for _, reason in failures:
            log.error("cannot read %s", reason)
        failed += failures
        progress.update()
        if not fields:
            continue
        batch = _arrays(fields)
        outputs = infer({name: batch[name] for name in spec.inputs})
        has_targets = all(name in batch for name in spec.targets)
        metric.update({**outputs, **(loss(outputs, batch) if loss and has_targets else {})}, batch)
        scored += len(batch["video"])
        if log_interval and i % log_interval == 0:
            log.info(f"[{title}] Batch {i} {values_text(_running(metric))}")
    progress.close()
    counted = device.gather((scored, failed))
    metric.merge(device.gather(metric.state()))
    if device.rank() == 0:  # which alone is on the terminal
        for _, reason in (item for part in counted[1:] for item in part[1]):
            log.error("cannot read %s", reason)
    scored, failed = sum(part[0] for part in counted), [item for part in counted for item in part[1]]
    if scored + len(failed) < len(loader.reader):
        raise ZooError(f"{len(loader.reader)} samples were to be evaluated, but only {scored} were")
    return metric.result(), failed


def predict(
    spec: ModelSpec,
    infer: Infer,
    loader: Loader,
    metric: Any,
    log_interval: int = 1,
    draw: Callable[[int, dict, dict, int], None] | None = None,
    keep: Callable[[dict[int, dict]], None] = lambda records: None,
) -> dict[int, dict[str, Any]]:
    """A record a sample of ``loader`` by its index in the list: ``{"video", "error"}`` if it cannot be read.

    ``draw``, if given, sees each prediction: index in the list, record, batch, place in the batch. ``keep``
    gets the records of each batch as they come.
    """
    records: dict[int, dict[str, Any]] = {}
    progress = bar(len(loader), "predict", device.rank())
    for i, (fields, failures) in enumerate(loader):
        failed = dict(failures)
        decoded = []
        if fields:
            batch = _arrays(fields)
            decoded = metric.decode(infer({name: batch[name] for name in spec.inputs}), batch)
        remaining = enumerate(decoded)
        for index in loader.batches[i]:
            name = loader.reader.describe(index)
            if name in failed:
                log.error("cannot read %s", failed[name])
                records[index] = {"video": name, "error": failed[name]}
            else:
                place, records[index] = next(remaining)
                if draw is not None:
                    draw(index, records[index], batch, place)
        keep({index: records[index] for index in loader.batches[i]})
        progress.update()
        if log_interval and i % log_interval == 0:
            log.info(f"Processed {len(records)} samples")
    progress.close()
    return {index: record for part in device.gather(records) for index, record in part.items()}


@contextmanager
def stop_signals() -> Iterator[Callable[[], int | None]]:
    """Within it Ctrl-C and SIGTERM only set a flag, which the given function reads (the signal).

    A second Ctrl-C interrupts at once. Outside the main thread nothing is changed.
    """
    got: list[int] = []

    def note(number: int, frame: Any) -> None:
        if got and number == signal.SIGINT:
            raise KeyboardInterrupt
        got.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in previous if hasattr(signal, "siginterrupt") else ():  # not on Windows
        signal.siginterrupt(number, False)  # or Paddle's wait for another rank ends in an error
    try:
        yield lambda: got[0] if got else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
