"""What classifiers share: losses, and for those of Kinetics the last layer, how training starts and goes on.

Shapes: N videos, D features, K classes.
"""

from __future__ import annotations

from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Constant, Uniform

from utils import optimizer
from utils.config import Config, key

NAMES = ("fc_0.w_0", "fc_0.b_0")


class Classifier(nn.Layer):
    """Features ``(N, D)`` to ``logits`` and ``probability``, both ``(N, K)``.

    Args:
        bound: of the uniform initial weights.
        bias: settings of the bias parameter beside its name and initial value.
    """

    def __init__(self, features: int, num_classes: int, bound: float, **bias) -> None:
        super().__init__()
        weight_name, bias_name = NAMES
        self.fc = nn.Linear(
            features,
            num_classes,
            weight_attr=ParamAttr(name=weight_name, initializer=Uniform(-bound, bound)),
            bias_attr=ParamAttr(name=bias_name, initializer=Constant(0.0), **bias),
        )

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        logits = self.fc(features)
        # A copy, because Paddle 2.6's to_static loses the gradient of an output that it uses itself.
        return {"probability": F.softmax(logits), "logits": paddle.assign(logits)}


def cross_entropy(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cross entropy in nats against ``label`` ``(N, 1)``, averaged over all N.

    A label of -1 is ignored: it adds 0, but N still counts it, as in 2019.
    """
    each = F.cross_entropy(outputs["logits"], batch["label"], ignore_index=-1, reduction="none")
    return {"loss": each.mean()}


def sigmoid_cross_entropy(outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sigmoid cross entropy in nats against ``label`` ``(N, K)``: summed over K, averaged over N."""
    each = F.binary_cross_entropy_with_logits(outputs["logits"], batch["label"], reduction="none")
    return {"loss": each.sum(axis=1).mean()}


def without_classifier(state: dict) -> dict:
    """Weights to start from, but the classifier, which is always trained anew."""
    return {name: value for name, value in state.items() if name not in NAMES}


class Solver(Config):
    """Momentum; the rate drops after each of ``decay_epochs``, by default one and two thirds of all."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(0.01, "TRAIN", gt=0)
    learning_rate_decay: float = key(0.1, "TRAIN", gt=0)
    decay_epochs: list[int] | None = key(None, "TRAIN")
    l2_weight_decay: float = key(1e-4, "TRAIN", ge=0)
    momentum: float = key(0.9, "TRAIN", ge=0)
    total_videos: int = key(..., "TRAIN", gt=0)
    epoch: int = key(..., "TRAIN", ge=0)
    batch_size: int = key(..., "TRAIN", gt=0)

    def build(self, parameters: list[Tensor]):
        steps_per_epoch = int(self.total_videos / self.batch_size + 1)  # one too many when it divides
        epochs = self.decay_epochs
        if epochs is None:
            epochs = [self.epoch / 3, self.epoch * 2 / 3]
        boundaries = [epoch * steps_per_epoch for epoch in epochs]
        schedule = optimizer.step_decay(self.learning_rate, self.learning_rate_decay, boundaries)
        return optimizer.momentum(schedule, parameters, self.momentum, self.l2_weight_decay)
