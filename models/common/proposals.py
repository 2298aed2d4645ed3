"""What BMN and BSN share: losses that weigh by the number of positives and sample by IoU, and the solver.

Sums are over the total batch, of all processes and of all parts that they divide it into (``--accumulate``),
so the mean gradient is that of one process and one part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from utils import device, optimizer
from utils.config import Config, key

Fields = dict[str, Any]  # of a batch, or of a part of it

HIGH_IOU, LOW_IOU = 0.7, 0.3  # above: high; at or below: low; between: middle
POSITIVE_IOU = 0.9
EPSILON = 1e-6  # inside logarithms


def total(count: Callable[[Fields], Tensor], batch: Fields, training: bool) -> Tensor:
    """The sum of ``count`` over the total batch as that of a mean part: of all parts of all processes,
    divided by their number. ``count`` is given the fields of a part.
    """
    parts = batch.get("parts", [batch])
    value = sum(count(part) for part in parts).detach()
    if training and dist.is_initialized() and device.world_size() > 1:
        dist.all_reduce(value)
    return value / _num_parts(batch, training)


def _num_parts(batch: Fields, training: bool) -> int:
    ranks = device.world_size() if training and dist.is_initialized() else 1
    return ranks * len(batch.get("parts", [batch]))


def in_one_batch(parts: list[Fields], draws: list[list[Tensor]]) -> list[Fields]:
    """Each of the parts of a training batch with its random ``draws``, and with all parts, to be counted."""
    drawn = [{**part, "draws": of_part} for part, of_part in zip(parts, draws, strict=True)]
    return [{**part, "parts": drawn} for part in drawn]


def draws(shape: list[int], training: bool) -> Tensor:
    """Uniform in [0, 1), float32: in training drawn and the same on all ranks, else always the same."""
    if not training:
        return paddle.to_tensor(np.random.RandomState(0).random_sample(shape).astype(np.float32))
    values = paddle.rand(shape)
    if dist.is_initialized() and device.world_size() > 1:
        dist.broadcast(values, src=0)
    return values


def draws_of_samples(shape: list[int], training: bool) -> Tensor:
    """As ``draws``, for this rank's samples, the first axis: each has what it would have in one process."""
    ranks = device.world_size() if training and dist.is_initialized() else 1
    most = device.highest(shape[0]) if ranks > 1 else shape[0]  # fewer where a sample could not be read
    everything = draws([ranks * most, *shape[1:]], training)
    return everything[device.rank() :: ranks][: shape[0]] if ranks > 1 else everything  # as the loader shares


def balanced_entropy(
    probability: Tensor,
    batch: Fields,
    positive: Callable[[Fields], Tensor],
    counted: Tensor,
    training: bool,
    added: float = 0.0,
) -> Tensor:
    """Binary cross entropy, in which positives and negatives weigh half each, over their number.

    ``positive(batch)`` is 0 or 1, of the shape of ``probability``, and so is ``counted``, perhaps without the
    axis of samples; the mean is over what is counted. ``added``: to the number of negatives in the weight
    (BSN's stage 1 has 1 there). Where there is no positive, or no negative, its term is 0 and the other
    weighs half; in 2019 this was NaN.
    """
    num_positive = total(lambda part: (positive(part) * counted).sum(), batch, training)
    num_entries = total(lambda part: (paddle.ones_like(positive(part)) * counted).sum(), batch, training)
    num_negative = num_entries - num_positive + added / _num_parts(batch, training)
    of_positive = 0.5 * num_entries / paddle.clip(num_positive, min=_LEAST)
    of_negative = 0.5 * num_entries / paddle.clip(num_negative, min=_LEAST)
    here = positive(batch)
    entropy = of_positive * paddle.log(probability + EPSILON) * here
    entropy = entropy + of_negative * paddle.log(1.0 - probability + EPSILON) * (1.0 - here)
    return -(entropy * counted).sum() / num_entries


_LEAST = 1e-3  # no count that is not 0 is as small, however many parts share it


def iou_tiers(
    iou: Tensor, counted: Tensor, above: float = HIGH_IOU, below: float = LOW_IOU
) -> tuple[Tensor, Tensor, Tensor]:
    """High, middle and low entries of ``iou``, each 0 or 1; the low ones among ``counted``."""
    high = (iou > above).astype("float32")
    middle = ((iou > below) & (iou <= above)).astype("float32")
    low = ((iou >= 0.0) & (iou <= below)).astype("float32")
    return high, middle, low * counted


def sampled_square(
    difference: Tensor,
    batch: Fields,
    tiers: Callable[[Fields], tuple[Tensor, Tensor, Tensor]],
    per_high: tuple[float, float],
    training: bool,
) -> Tensor:
    """Half the mean square of ``difference`` over all entries of the high tier and about as many of the
    others, times ``per_high``; 0 where no entry has a weight (2019: NaN).

    ``tiers(batch)`` are high, middle and low, of the shape of ``difference``. ``batch["draws"]`` are uniform
    for the middle and the low one. As in 2019, where more are wanted than there are every entry weighs 1,
    also those outside the tier.
    """
    num_high, *there = (
        total(lambda part, i=i: tiers(part)[i].sum(), batch, training) for i in range(len(per_high) + 1)
    )

    def weights(part: Fields) -> Tensor:
        high, *others = tiers(part)
        for tier, uniform, number, share in zip(others, part["draws"], there, per_high, strict=True):
            high = high + sampled(tier, uniform, share * num_high, number)
        return high

    sum_of_weights = total(lambda part: weights(part).sum(), batch, training)
    return 0.5 * (difference * difference * weights(batch)).sum() / paddle.clip(sum_of_weights, min=_LEAST)


def sampled(tier: Tensor, uniform: Tensor, num_wanted: Tensor, num_there: Tensor) -> Tensor:
    """Weights 0 or 1 that leave about ``num_wanted`` entries of ``tier``, of ``num_there``."""
    return (tier * uniform > 1.0 - num_wanted / paddle.clip(num_there, min=_LEAST)).astype("float32")


class Solver(Config):
    """Adam; the rate drops once, after ``lr_decay_iter`` steps."""

    counter_begin: ClassVar[int] = 0  # 2019's step counter after no step

    learning_rate: float = key(0.001, "TRAIN", gt=0)
    learning_rate_decay: float = key(0.1, "TRAIN", gt=0)
    lr_decay_iter: int = key(4200, "TRAIN", gt=0)  # steps
    l2_weight_decay: float = key(1e-4, "TRAIN", ge=0)

    def build(self, parameters: list[Tensor]):
        schedule = optimizer.step_decay(self.learning_rate, self.learning_rate_decay, [self.lr_decay_iter])
        trained = [parameter for parameter in parameters if not parameter.stop_gradient]
        return optimizer.adam(schedule, trained, self.l2_weight_decay, plain_epsilon=True)
