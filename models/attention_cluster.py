"""Attention Clusters (Long et al., CVPR 2018, https://arxiv.org/abs/1711.09550).

Each stream of features (rgb, audio) goes through its own cluster of attention units: a unit weighs the
rows by a softmax over time and sums them. A unit's scale and shift, learned, and its norm, fixed, let the
units look for different things. Order in time does not matter.
Shapes: N videos, T rows, D values a row, A attention units, K classes.
"""

from __future__ import annotations

from math import sqrt
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.nn.initializer import Initializer, Normal, Uniform

from models.common.classification import sigmoid_cross_entropy
from utils import optimizer
from utils.config import Config, key
from utils.errors import ConfigError


def attribute(name: str, initializer: Initializer, trainable: bool = True) -> ParamAttr:
    return ParamAttr(name=name, initializer=initializer, trainable=trainable)


class AttentionUnits(nn.Layer):
    """All units of one stream at once."""

    def __init__(self, dim: int, num_units: int, name: str) -> None:
        super().__init__()
        self.num_units = num_units
        weight, bias = Normal(0.0, sqrt(2 / dim)), Uniform(-sqrt(6 / num_units), sqrt(6 / num_units))
        shift = Normal(0.0, num_units**-0.25)
        create = self.create_parameter
        # 2019 had a 1x1 convolution, hence the shape.
        self.weight = create([num_units, dim, 1, 1], attr=attribute(f"{name}.conv.weight", weight))
        # It does not survive the softmax: its gradient is rounding, which Adam would make steps of.
        self.bias = create([num_units], attr=attribute(f"{name}.conv.bias", bias, trainable=False))
        self.shift_w = create([num_units], attr=attribute(f"{name}.shift_w", shift))
        self.shift_b = create([num_units], attr=attribute(f"{name}.shift_b", shift))

    def forward(self, x: Tensor) -> Tensor:
        """Rows ``(N, T, D)`` to ``(N, A * D)``, each unit's part of length ``A ** -0.5``."""
        weight = self.weight.reshape([self.num_units, -1])  # (A, D)
        scores = paddle.matmul(x, weight, transpose_y=True) + self.bias  # (N, T, A)
        attention = F.softmax(scores, axis=1)
        heads = paddle.matmul(attention, x, transpose_x=True)  # (N, A, D)
        heads = heads * self.shift_w.unsqueeze(-1) + self.shift_b.unsqueeze(-1)
        length = paddle.sqrt((heads * heads).sum(axis=-1, keepdim=True) + 1e-12)
        return (heads / (length * sqrt(self.num_units))).flatten(1)


class AttentionCluster(nn.Layer):
    class Config(Config):
        num_classes: int = key(3862, gt=0)  # K
        feature_names: list[str] = key(["rgb", "audio"], min_length=1)
        feature_dims: list[int] = key([1024, 128], min_length=1)  # D of each
        cluster_nums: list[int] = key([32, 32], min_length=1)  # A of each
        drop_rate: float = key(0.5, ge=0, lt=1)

    HIDDEN = (1024, 4096)

    def __init__(self, config: AttentionCluster.Config) -> None:
        super().__init__()
        dims, units = config.feature_dims, config.cluster_nums
        if not len(config.feature_names) == len(dims) == len(units):
            raise ConfigError(
                f"MODEL.feature_names has {len(config.feature_names)} entries, feature_dims {len(dims)}, "
                f"cluster_nums {len(units)}: one of each a stream is needed"
            )
        self.drop_rate = config.drop_rate
        self.units = nn.LayerList(
            AttentionUnits(dim, count, f"satt{i}")
            for i, (dim, count) in enumerate(zip(dims, units, strict=True))
        )
        width = sum(dim * count for dim, count in zip(dims, units, strict=True))
        self.fc1 = self._linear(width, self.HIDDEN[0], "fc1")
        self.fc2 = self._linear(*self.HIDDEN, "fc2")
        bias = Normal(0.0, sqrt(2 / config.num_classes))
        self.logistic = self._linear(self.HIDDEN[1], config.num_classes, "logistic", bias)

    @staticmethod
    def inputs(config: AttentionCluster.Config) -> tuple[str, ...]:
        """The batch fields that forward takes."""
        return tuple(config.feature_names)

    @staticmethod
    def _linear(size: int, out: int, name: str, bias: Initializer | None = None) -> nn.Linear:
        return nn.Linear(
            size,
            out,
            weight_attr=attribute(f"{name}.weights", Normal(0.0, sqrt(2 / size))),
            bias_attr=attribute(f"{name}.bias", bias or Uniform(-sqrt(6 / out), sqrt(6 / out))),
        )

    def forward(self, *streams: Tensor) -> dict[str, Tensor]:
        """Rows ``(N, T, D)`` float32 of each stream to ``logits`` and ``probability``, both ``(N, K)``."""
        parts = [units(streams[i]) for i, units in enumerate(self.units)]
        x = paddle.concat(parts, axis=1)  # (N, sum of A * D)
        # As in 2019: nothing is scaled up in training, everything scaled down at inference.
        x = F.dropout(x, self.drop_rate, training=self.training, mode="downscale_in_infer")
        x = F.tanh(self.fc1(x))
        x = F.tanh(self.fc2(x))
        logits = self.logistic(x)
        # A copy, because Paddle 2.6's to_static loses the gradient of an output that it uses itself.
        return {"probability": F.sigmoid(logits), "logits": paddle.assign(logits)}

    def loss(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sigmoid cross entropy in nats against ``label`` ``(N, K)``: summed over K, averaged over N."""
        return sigmoid_cross_entropy(outputs, batch)

    def adapt_pretrained(self, state: dict) -> dict:
        """Everything that fits: with other classes the classifier is trained anew."""
        return state


class Solver(Config):
    """Adam at a constant rate, without weight decay."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(1e-3, "TRAIN", gt=0)

    def build(self, parameters: list[Tensor]):
        return optimizer.adam(self.learning_rate, parameters)
