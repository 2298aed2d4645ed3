"""Layers that carry the parameter names of 2019."""

from __future__ import annotations

import paddle
import paddle.distributed as dist
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn
from paddle.autograd import PyLayer
from paddle.nn.initializer import Constant, Uniform
from paddle.regularizer import L2Decay

from utils.precision import float32_arithmetic


class BatchNorm(nn.Layer):
    """Batch normalisation over axis 1 of ``(N, C, …)`` with named statistics.

    The running statistics move by 1 - ``momentum`` a step and use the biased batch variance, as
    published checkpoints expect. All four tensors are parameters, so they are saved by name; the two
    statistics never get a gradient. ``names`` are those of scale, offset, mean and variance.
    With ``frozen`` the stored statistics are used, and kept, in training too. ``weight_decay`` is the L2
    decay of scale and offset; None is the optimizer's. The scale starts at ``scale``.
    """

    def __init__(
        self,
        channels: int,
        names: tuple[str, str, str, str],
        frozen: bool = False,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        scale: float = 1.0,
        weight_decay: float | None = None,
    ) -> None:
        super().__init__()
        scale_name, offset, mean, variance = names
        self.frozen, self.momentum, self.epsilon = frozen, momentum, epsilon
        self.across_ranks = False  # train.py --sync_bn: statistics of the total batch
        decay = None if weight_decay is None else L2Decay(weight_decay)
        self.weight = self._create(channels, scale_name, scale, True, decay)
        self.bias = self._create(channels, offset, 0.0, True, decay)
        self.mean = self._create(channels, mean, 0.0, False)
        self.variance = self._create(channels, variance, 1.0, False)

    def _create(
        self, channels: int, name: str, value: float, trainable: bool, decay: L2Decay | None = None
    ) -> Tensor:
        attr = ParamAttr(name=name, initializer=Constant(value), trainable=trainable, regularizer=decay)
        return self.create_parameter([channels], attr=attr)

    def forward(self, x: Tensor) -> Tensor:
        if self.across_ranks and self.training and not self.frozen:
            return self._over_all_ranks(x)
        return F.batch_norm(
            x,
            self.mean,
            self.variance,
            self.weight,
            self.bias,
            training=self.training and not self.frozen,
            momentum=self.momentum,
            epsilon=self.epsilon,
        )

    def _over_all_ranks(self, x: Tensor) -> Tensor:
        """By the statistics of the total batch. Paddle's SyncBatchNorm has no kernel for CPUs."""
        with float32_arithmetic():
            x = x.astype(self.weight.dtype)
            axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
            own = paddle.full([1], x.size // x.shape[1], x.dtype)  # values a channel
            *sums, count = _SumOverRanks.apply(paddle.concat([x.sum(axes), own])).split([x.shape[1], 1])
            mean = sums[0] / count
            centred = x - mean.reshape(shape)
            variance = _SumOverRanks.apply((centred * centred).sum(axes)) / count
            with paddle.no_grad():
                for stored, value in ((self.mean, mean), (self.variance, variance)):
                    stored.set_value(self.momentum * stored + (1.0 - self.momentum) * value)
            scale = self.weight * paddle.rsqrt(variance + self.epsilon)
            return centred * scale.reshape(shape) + self.bias.reshape(shape)


class _SumOverRanks(PyLayer):
    """The gradient of a sum over ranks is the sum of theirs."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


class TemporalConv(nn.Layer):
    """A convolution over time ``(B, c_in, T)`` to ``(B, c_out, T)``; its kernel is stored as 2-D, (1, k)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, name: str, groups: int = 1) -> None:
        super().__init__()
        bound = (c_in * kernel) ** -0.5  # of all inputs, also where groups see a part of them
        self.conv = nn.Conv2D(
            c_in,
            c_out,
            (1, kernel),
            padding=(0, kernel // 2),
            groups=groups,
            weight_attr=ParamAttr(name=f"{name}.w_0", initializer=Uniform(-bound, bound)),
            bias_attr=ParamAttr(name=f"{name}.b_0", initializer=Uniform(-bound, bound)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.unsqueeze(2)).squeeze(2)


def xavier(inputs: int, outputs: int) -> Uniform:
    """The values that 2019's layers start from unless told otherwise."""
    bound = (6.0 / (inputs + outputs)) ** 0.5
    return Uniform(-bound, bound)


def linear(inputs: int, outputs: int, name: str, bias: bool = True, decay_bias: bool = False) -> nn.Linear:
    """2019's fully connected layer: ``<name>.w_0`` and ``<name>.b_0``, which usually is not decayed."""
    weight = ParamAttr(name=f"{name}.w_0", initializer=xavier(inputs, outputs))
    rule = None if decay_bias else L2Decay(0.0)
    offset = ParamAttr(name=f"{name}.b_0", initializer=Constant(0.0), regularizer=rule)
    return nn.Linear(inputs, outputs, weight_attr=weight, bias_attr=offset if bias else False)


def named_state(layer: nn.Layer) -> dict[str, paddle.Tensor]:
    """Every parameter and statistic of ``layer`` by its 2019 name, in creation order."""
    return {parameter.name: parameter for parameter in layer.parameters()}
