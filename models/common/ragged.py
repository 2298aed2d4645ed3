"""Sequences of different length in one batch: masks, and rows laid out step by step.

Shapes: N sequences, T steps of the longest, S = sum of the lengths.
"""

from __future__ import annotations

import numpy as np
import paddle
from paddle import Tensor


def inside_mask(length: Tensor, num_steps: Tensor) -> Tensor:
    """Lengths ``(N,)`` to ``(N, T)`` bool: True where a sequence is, False in its padding."""
    return paddle.arange(num_steps).astype(length.dtype) < length.unsqueeze(1)


def by_step(length: np.ndarray, num_steps: int, reverse: bool) -> tuple[Tensor, Tensor, list[int]]:
    """Which of the ``N * T`` places each row of S comes from, the inverse (0 in padding), and how many
    sequences run at each step.
    """
    longest_first = np.argsort(-length, kind="stable")
    runs = np.arange(length.max())[:, None] < length[longest_first]  # (T, N)
    step, place = np.nonzero(runs)
    sequence = longest_first[place]
    time = length[sequence] - 1 - step if reverse else step
    order = sequence * num_steps + time
    back = np.zeros(len(length) * num_steps, np.int64)
    back[order] = np.arange(len(order))
    return paddle.to_tensor(order), paddle.to_tensor(back), runs.sum(axis=1).tolist()


def by_step_padded(
    length: Tensor, num_sequences: Tensor, num_steps: Tensor, reverse: bool
) -> tuple[Tensor, Tensor]:
    """As ``by_step`` in a Program, where every sequence runs at every step, its padding last."""
    sequence = paddle.arange(num_sequences).astype(length.dtype).unsqueeze(1)  # (N, 1)
    time = paddle.arange(num_steps).astype(length.dtype).unsqueeze(0) + 0 * sequence  # (N, T)
    if reverse:
        last = length.unsqueeze(1) - 1
        time = paddle.where(time <= last, last - time, time)  # its own inverse
    order = (sequence * num_steps.astype(length.dtype) + time).transpose([1, 0])
    back = time * num_sequences.astype(length.dtype) + sequence
    return order.flatten(), back.flatten()
