"""Train, evaluate and predict all recipes of ``<folder>/recipes.json`` as one rank of one or two.

Dropout is off and batch norm keeps its statistics: both depend on which samples a rank has. Evaluation and
prediction are those of the weights that one process trained.
``python tests/parallel_worker.py FOLDER`` writes ``FOLDER/one/<model>`` or ``FOLDER/two/<model>``, of
evaluation and prediction ``results`` below it, and into ``FOLDER/one_by_parts`` or ``FOLDER/two_by_parts``
what the same training gives with ``--accumulate=2``.
"""

from __future__ import annotations

import json
import logging
import sys
import zlib  # noqa: F401  before Paddle 2.6, see utils/__init__.py
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import paddle.nn.functional as F

import eval as eval_script
import predict
import train
from models.common.layers import BatchNorm
from utils import device
from utils.config import load_yaml


@contextmanager
def same_on_any_number_of_processes() -> Iterator[None]:
    dropout, normalize = F.dropout, BatchNorm.forward

    def with_stored_statistics(self, x):
        training, self.training = self.training, False
        try:
            return normalize(self, x)
        finally:
            self.training = training

    F.dropout, BatchNorm.forward = lambda x, *args, **kwargs: x, with_stored_statistics
    try:
        yield
    finally:  # Paddle 2.6 cannot export what is patched
        F.dropout, BatchNorm.forward = dropout, normalize


def main(folder: Path) -> None:
    out = folder / {1: "one", 2: "two"}[device.world_size()]
    for name, recipe in json.loads((folder / "recipes.json").read_text(encoding="utf-8")).items():
        argv = [f"--config={recipe}", "--use_gpu=False"]
        with same_on_any_number_of_processes():
            flags = ["--pretrain=none", "--fix_random_seed=True", "--log_interval=1"]
            train.main([*argv, *flags, f"--save_dir={out / name}"])
            if load_yaml(recipe)["TRAIN"]["batch_size"] % (2 * device.world_size()) == 0:
                parts = f"--save_dir={out}_by_parts/{name}"
                train.main([*argv, *flags, parts, "--accumulate=2", "--valid_interval=0"])
        for script in (eval_script, predict):
            flags = [f"--save_dir={out / name / 'results'}", f"--weights={folder / 'one' / name / name}"]
            assert script.main([*argv, *flags]) == 0
        logging.root.handlers.clear()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
