"""A training run on disk: what is saved of it, when, and how it goes on from there.

The random state is a function of (seed, step) and the order of samples one of (seed, epoch), so seed,
epoch, iteration and step restore a run exactly, also in the middle of an epoch.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from utils import checkpoint, device, weights
from utils.config import Config, RunConfig
from utils.engine import Trainer
from utils.errors import ConfigError, Interrupted

log = logging.getLogger(__name__)


class Snapshots:
    """Writes the checkpoints of one run into ``save_dir``; only rank 0 touches the disk.

    ``<Model>`` is always the last state, ``<Model>_epoch<N>`` the end of each epoch, ``<Model>_best``
    the best validation so far.
    """

    def __init__(self, trainer: Trainer, save_dir: Path, batch_size: int, config: dict[str, Any]) -> None:
        self.trainer, self.last = trainer, save_dir / trainer.spec.name
        self.about = {
            "model": trainer.spec.name,
            "seed": trainer.seed,
            "batch_size": batch_size,
            "num_processes": device.world_size(),
            "config": config,
            "versions": {
                "paddle": paddle.__version__,
                "numpy": np.__version__,
                "python": sys.version.split()[0],
            },
        }
        self.best: float | None = None
        self.saved_step: int | None = None

    def save(self, epoch_finished: bool) -> None:
        """The present state as the last one, and as this epoch's where it is finished."""
        trainer = self.trainer
        self.saved_step = trainer.step
        statistics = [p for p in trainer.network.parameters() if p.stop_gradient]
        device.share_from_rank_0(statistics)
        if device.rank() != 0:
            return
        state = checkpoint.network_state(trainer.network)
        optimizer = checkpoint.optimizer_state(trainer.optimizer)
        prefixes = [self.last]
        if epoch_finished:
            prefixes.insert(0, self.last.with_name(f"{self.last.name}_epoch{trainer.epoch}"))
        checkpoint.save(prefixes, state, optimizer, self._about(epoch_finished))

    def stop_or_save(self, signal_number: int | None, due: bool) -> None:
        """Save when it is ``due``; after a signal to any rank save and raise Interrupted on all."""
        got = device.highest(signal_number or 0)
        if (got or due) and self.saved_step != self.trainer.step:
            self.save(epoch_finished=False)
        if got:
            device.wait_for_all()  # a launcher kills the others as soon as one rank is gone
            name = signal.Signals(got).name
            advice = f"{self.last}.pdparams is whole, go on with --resume=auto"
            raise Interrupted(f"{name}; {advice}", 128 + got)

    def _about(self, epoch_finished: bool, metric: dict[str, float] | None = None) -> dict[str, Any]:
        trainer = self.trainer
        return {
            **self.about,
            "epoch": trainer.epoch,
            "iteration": trainer.iteration,
            "epoch_finished": epoch_finished,
            "step": trainer.step,
            "metric": metric,
            "best": self.best,
            "failed": trainer.failed,
            "loss_scale": trainer.precision.loss_scale.state() if trainer.precision.loss_scale else None,
        }

    def scored(self, metric: dict[str, float]) -> None:
        """Note the validation of the epoch just saved; keep it as the best one if it is."""
        spec, trainer = self.trainer.spec, self.trainer
        value = metric.get(spec.best)
        is_best = value is not None and (
            self.best is None or (value > self.best if spec.best_is_higher else value < self.best)
        )
        if is_best:
            self.best = value
        if device.rank() != 0:
            return
        about = self._about(True, metric)
        if is_best:  # first: an epoch whose scores are noted is not validated again
            best = self.last.with_name(f"{self.last.name}_best")
            checkpoint.save([best], checkpoint.network_state(trainer.network), None, about)
            log.info(f"best {spec.best} so far: {value:.6g}, kept as {best}.pdparams")
        for prefix in (self.last, self.last.with_name(f"{self.last.name}_epoch{trainer.epoch}")):
            checkpoint.annotate(prefix, about)  # --resume=auto takes the second

    def resume(self, prefix: str, counter_begin: int) -> bool:
        """Continue from ``prefix``: a checkpoint of ours, or 2019's files (or parameters alone).

        Returns True at the end of an epoch that was not validated: it is ``trainer.epoch``. Raises
        WeightsError for weights that do not fit, ConfigError for another batch size in the middle of an
        epoch.
        """
        trainer, about = self.trainer, checkpoint.read_about(prefix)
        report = checkpoint.load_weights(trainer.network, f"{prefix}.pdparams")
        has_optimizer = checkpoint.load_optimizer(trainer.optimizer, prefix, counter_begin)
        if about is None or not has_optimizer:
            what = "epoch 0" if has_optimizer else "epoch 0 with a fresh optimizer"
            log.warning(f"{prefix} is a checkpoint without a description or optimizer: starting at {what}")
            return False
        if not about["epoch_finished"] and about["batch_size"] != self.about["batch_size"]:
            raise ConfigError(
                f"{prefix} stands in the middle of an epoch of batch {about['batch_size']}; "
                f"go on with that batch size, not {self.about['batch_size']}"
            )
        before, now = about.get("num_processes"), self.about["num_processes"]
        if before not in (None, now) and device.rank() == 0:
            log.warning(
                f"{prefix} was trained by {before} process(es) and goes on with {now}: the order of samples "
                "stays; dropout and batch norm see other shares of each batch"
            )
        trainer.epoch, trainer.iteration = about["epoch"], about["iteration"]
        trainer.step, self.best = about["step"], about["best"]
        trainer.failed.update(about["failed"])
        if trainer.precision.loss_scale and about.get("loss_scale"):
            trainer.precision.loss_scale.restore(about["loss_scale"])
        unscored = about["epoch_finished"] and about.get("metric") is None
        if about["epoch_finished"] and not unscored:
            trainer.epoch, trainer.iteration = trainer.epoch + 1, 0
        where = "the end of epoch" if unscored else "epoch"
        log.info(f"{report}\nresuming at {where} {trainer.epoch}, iteration {trainer.iteration}")
        return unscored


def start(trainer: Trainer, pretrain: str | None, config: Config) -> None:
    """Load the weights that training starts from: ``--pretrain``, else the model's usual ones.

    ``none`` starts from scratch. Raises WeightsError.
    """
    path = pretrain or weights.default_pretrain(trainer.spec, config)
    if path is None or path.lower() == "none":
        log.info("starting from scratch")
    else:
        log.info("%s", checkpoint.load_pretrained(trainer.network, path))


def run_seed(run: RunConfig, resume: str | None) -> int:
    """The seed of the resumed run, of the recipe, 0 for --fix_random_seed, else a new one for all ranks."""
    about = checkpoint.read_about(resume) if resume else None
    if about:
        return about["seed"]
    if run.seed is not None:
        return run.seed
    return 0 if run.fix_random_seed else device.gather(random.SystemRandom().randrange(2**20))[0]
