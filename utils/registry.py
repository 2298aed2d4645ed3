"""The form of one row of the zoo, and how a row is found and turned into objects.

The rows themselves are in ``models/__init__.py``: data, no code. A network, reader, metric or solver is
named ``"module:Class"`` and imported when it is first built, so that listing the zoo costs nothing.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from utils.errors import ConfigError, nearest


@dataclass(frozen=True)
class Prediction:
    """What evaluation and prediction run where that is not ``forward``: sentences that are searched for.

    ``maker`` is the method of the network that makes it, a Layer over the same parameters: it takes
    ``inputs`` and gives a dict of ``outputs``. It has no loss; validation while training runs ``forward``.
    """

    maker: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class ModelSpec:
    """One model: where its parts are, what its network takes and gives, what its scores mean.

    ``forward`` takes ``inputs`` by name and returns a dict that holds ``outputs``; ``loss(outputs,
    batch)`` returns a dict whose first entry is ``"loss"``. ``losses + outputs + targets`` is the
    order of the 2019 fetch list.

    Where the recipe decides what is fed (``MODEL.feature_names``), the network has ``inputs(config)``; then
    ``inputs`` here is what its default recipe gives. An input ``x`` beside an input ``x_length`` is ragged:
    ``(N, longest, …)``, padded with zeros, and its second axis is free, too.
    """

    name: str  # spelling used in file names: TSN.pdparams
    title: str  # one line for --help and the README
    network: str
    reader: str
    metric: str
    solver: str  # optimizer and learning-rate schedule
    inputs: tuple[str, ...]  # batch fields that forward takes
    outputs: tuple[str, ...]  # entries of forward's dict that inference gives
    targets: tuple[str, ...]  # batch fields that only the loss and the metric need
    losses: tuple[str, ...] = ("loss",)
    loss_inputs: tuple[str, ...] = ()  # entries of forward's dict that only the loss needs
    prediction: Prediction | None = None
    config: str = ""  # default recipe
    best: str = ""  # entry of metric.result() that decides what "best" means; "" = no best file
    best_is_higher: bool = True
    weights: str = ""  # file name in the weights folder
    weights_urls: tuple[str, ...] = ()  # tried in order
    weights_folder: str = ""  # below the project; "" = the weights folder of the user
    weights_of: tuple[ModelSpec, ...] = ()  # rows whose published weights are together this one's
    weights_sha256: str = ""  # of what these give; "" = 2019 published none: nothing is compared
    pretrain: str = ""  # file or folder that training starts from unless told otherwise; "" = none
    pretrain_urls: tuple[str, ...] = ()
    pretrain_sha256: str = ""  # of the archive, where it is one
    cpu_path: str = "onednn"  # inference on CPU: "onednn" or "eager"
    cpu_path_reason: str = ""  # said in the log when the path is not the usual one
    onednn_from: int = 1  # batch from which on the predictor is faster than eager

    @property
    def evaluated(self) -> tuple[str, ...]:
        """What evaluation and prediction ask of forward; the loss needs more than the predictions."""
        return self.outputs + self.loss_inputs

    def part(self, role: str) -> type:
        """The class behind ``network``, ``reader``, ``metric`` or ``solver``."""
        module, _, attribute = getattr(self, role).partition(":")
        return getattr(importlib.import_module(module), attribute)

    def configs(self) -> list[type]:
        """The configurations that share out the keys of this model's recipes."""
        parts = [self.part(role).Config for role in ("network", "reader", "metric")]
        return [*parts, self.part("solver")]


def find(name: str, zoo: tuple[ModelSpec, ...]) -> ModelSpec:
    """The row called ``name``, in any letter case. Raises ConfigError that offers the nearest."""
    for spec in zoo:
        if spec.name.lower() == name.lower():
            return spec
    names = [spec.name for spec in zoo]
    raise ConfigError(f"unknown model {name!r}.{nearest(name, names)} Known: {', '.join(names)}.")
