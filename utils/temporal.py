"""Segments of time: overlap, and suppression of what overlaps. One copy for every model.

A segment is ``(start, end)`` in any unit; many are an array ``(P, 2)``. Everything is float64.
"""

from __future__ import annotations

import numpy as np


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Length of the intersection over that of the union, ``(P, 2)`` and ``(Q, 2)`` to ``(P, Q)``.

    0 where the union is empty; a segment whose end is before its start has no length.
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 2), np.asarray(b, np.float64).reshape(-1, 2)
    length_a, length_b = np.maximum(a[:, 1] - a[:, 0], 0.0), np.maximum(b[:, 1] - b[:, 0], 0.0)
    start, end = np.maximum(a[:, None, 0], b[None, :, 0]), np.minimum(a[:, None, 1], b[None, :, 1])
    common = np.maximum(end - start, 0.0)
    union = length_a[:, None] + length_b[None, :] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def ioa(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Length of the intersection over that of ``a``, ``(P, 2)`` and ``(Q, 2)`` to ``(P, Q)``.

    0 where ``a`` has no length.
    """
    a, b = np.asarray(a, np.float64).reshape(-1, 2), np.asarray(b, np.float64).reshape(-1, 2)
    start, end = np.maximum(a[:, None, 0], b[None, :, 0]), np.minimum(a[:, None, 1], b[None, :, 1])
    common = np.maximum(end - start, 0.0)
    length = np.broadcast_to((a[:, 1] - a[:, 0])[:, None], common.shape)
    return np.divide(common, length, out=np.zeros_like(common), where=length > 0)


def nms(overlap: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Non-maximum suppression: indices of what stays, the highest score first.

    ``overlap`` is ``iou`` of the segments among themselves, ``(P, P)``. Whatever overlaps a segment of higher
    score, that itself stays, by more than ``threshold`` goes.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        order = rest[overlap[best, rest] <= threshold]
    return np.array(kept, dtype=np.int64)


def gaussian_soft_nms(
    overlap: np.ndarray, scores: np.ndarray, sigma: float, lowest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Soft-NMS (Bodla et al., https://arxiv.org/abs/1704.04503): indices and their new scores, highest first.

    Each segment taken multiplies the scores of the others by ``exp(-overlap^2 / sigma)``; what falls below
    ``lowest`` goes. ``overlap`` is ``(P, P)``.
    """
    left, scores = np.arange(len(scores)), np.array(scores, np.float64)
    indices, values = [], []
    while left.size:
        best = int(np.argmax(scores))
        chosen = left[best]
        indices.append(chosen)
        values.append(scores[best])
        left, scores = np.delete(left, best), np.delete(scores, best)
        scores = scores * np.exp(-(overlap[chosen, left] ** 2) / sigma)
        stays = scores >= lowest
        left, scores = left[stays], scores[stays]
    return np.array(indices, dtype=np.int64), np.array(values)


def soft_nms(
    segments: np.ndarray, scores: np.ndarray, alpha: float, low: float, high: float, most: int = 101
) -> tuple[np.ndarray, np.ndarray]:
    """Soft-NMS of proposals (BSN, https://arxiv.org/abs/1806.02964): indices and new scores, highest first.

    Each segment taken multiplies by ``exp(-overlap^2 / alpha)`` the scores of those that it overlaps by more
    than ``low + (high - low) * width``. ``segments`` ``(P, 2)`` are fractions of the video: so is ``width``,
    the length of the one taken. At most ``most`` are taken. As in 2019 the last one left is never taken, and
    a single segment stays as it is.
    """
    start, end = np.asarray(segments, np.float64).reshape(-1, 2).T
    scores = np.array(scores, np.float64)
    if len(scores) == 1:
        return np.zeros(1, np.int64), scores
    length = end - start
    indices, values = [], []
    for _ in range(min(most, len(scores) - 1)):
        best = int(np.argmax(scores))
        indices.append(best)
        values.append(scores[best])
        scores[best] = -np.inf
        # Summed in 2019's order: on a grid of time steps many overlaps are equal to the threshold but for it.
        common = np.maximum(np.minimum(end, end[best]) - np.maximum(start, start[best]), 0.0)
        overlap = common / (length - common + end[best] - start[best])
        decays = (overlap > low + (high - low) * length[best]) & (scores > -np.inf)
        scores[decays] *= np.exp(-np.square(overlap[decays]) / alpha)
    return np.array(indices, dtype=np.int64), np.array(values)
