"""What the losses of BMN and BSN share: weights by the number of positives, and sampling by IoU.

Sums are over the total batch of all processes, so the mean gradient of the ranks is that of one process.
"""

from __future__ import annotations

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor

from utils import device

HIGH_IOU, LOW_IOU = 0.7, 0.3  # above: high; at or below: low; between: middle
POSITIVE_IOU = 0.9
EPSILON = 1e-6  # inside logarithms


def total(value: Tensor, training: bool) -> Tensor:
    """A sum over the batch as that of a mean rank: over all processes, divided by their number."""
    if training and dist.is_initialized() and device.world_size() > 1:
        value = value.detach()
        dist.all_reduce(value)
        value = value / device.world_size()
    return value


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
    everything = draws([ranks * shape[0], *shape[1:]], training)
    return everything[device.rank() :: ranks] if ranks > 1 else everything  # as the loader shares a batch


def balanced_entropy(
    probability: Tensor, positive: Tensor, counted: Tensor, training: bool, added: float = 0.0
) -> Tensor:
    """Binary cross entropy, in which positives and negatives weigh half each, over their number.

    ``positive`` and ``counted`` are 0 or 1, of the shape of ``probability``; the mean is over ``counted``.
    ``added``: to the number of negatives in the weight (BSN's stage 1 has 1 there). Where there is no
    positive, or no negative, its term is 0 and the other weighs half; in 2019 this was NaN.
    """
    num_positive = total((positive * counted).sum(), training)
    num_entries = total(counted.sum(), training)
    share = device.world_size() if training and dist.is_initialized() else 1  # all sums are a mean rank's
    num_negative = num_entries - num_positive + added / share
    of_positive = 0.5 * num_entries / paddle.clip(num_positive, min=_LEAST)
    of_negative = 0.5 * num_entries / paddle.clip(num_negative, min=_LEAST)
    entropy = of_positive * paddle.log(probability + EPSILON) * positive
    entropy = entropy + of_negative * paddle.log(1.0 - probability + EPSILON) * (1.0 - positive)
    return -(entropy * counted).sum() / num_entries


_LEAST = 1e-3  # no count that is not 0 is as small, however many ranks share it


def iou_tiers(
    iou: Tensor, counted: Tensor, above: float = HIGH_IOU, below: float = LOW_IOU
) -> tuple[Tensor, Tensor, Tensor]:
    """High, middle and low entries of ``iou``, each 0 or 1; the low ones among ``counted``."""
    high = (iou > above).astype("float32")
    middle = ((iou > below) & (iou <= above)).astype("float32")
    low = ((iou >= 0.0) & (iou <= below)).astype("float32")
    return high, middle, low * counted


def sampled(tier: Tensor, uniform: Tensor, num_wanted: Tensor, training: bool) -> Tensor:
    """Weights 0 or 1 that leave about ``num_wanted`` (of a mean rank) entries of ``tier``.

    As in 2019, where more are wanted than there are every entry weighs 1, also those outside the tier.
    """
    num_there = paddle.clip(total(tier.sum(), training), min=_LEAST)
    return (tier * uniform > 1.0 - num_wanted / num_there).astype("float32")


def weighted_square(difference: Tensor, weights: Tensor, training: bool) -> Tensor:
    """Half the weighted mean of squares; 0 where no entry has a weight (2019: NaN)."""
    sum_of_weights = paddle.clip(total(weights.sum(), training), min=_LEAST)
    return 0.5 * (difference * difference * weights).sum() / sum_of_weights
