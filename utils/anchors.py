"""The anchors of C-TCN: segments around every time step of a pyramid, and how actions are matched to them.

A segment is ``(start, end)`` in time steps of the resized video; an anchor is ``(centre, width)``.
"""

from __future__ import annotations

import numpy as np

from utils import temporal

NUM_LEVELS = 8
SCALES = (1.0, 0.9, 1.1, 0.8, 1.2, 0.7, 1.3)  # of a time step of the level
SCALES_OF_LAST = (1.0, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65)  # which covers the whole video
VARIANCE = (0.1, 0.2)  # of the encoded centre and width
POSITIVE_IOU = 0.5


def level_sizes(length: int) -> list[int]:
    """Time steps of each level for a video of ``length``: a stride of 4, then halved, rounded up."""
    return [-(-length // 2 ** (level + 2)) for level in range(NUM_LEVELS)]


def count(length: int, num_anchors: int) -> int:
    """Anchors of all levels."""
    return num_anchors * sum(level_sizes(length))


def anchors(length: int, num_anchors: int) -> np.ndarray:
    """``(A, 2)`` float64 centres and widths, in time steps; order: level, time step, scale."""
    parts = []
    for level, size in enumerate(level_sizes(length)):
        step = length / size
        scales = (SCALES_OF_LAST if level == NUM_LEVELS - 1 else SCALES)[:num_anchors]
        centres = (np.arange(size) + 0.5) * step
        widths = np.array(scales) * step
        parts.append(np.stack([np.repeat(centres, num_anchors), np.tile(widths, size)], axis=1))
    return np.concatenate(parts)


def encode(anchor: np.ndarray, segments: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets of each anchor: ``(A, 2)`` float32 place and ``(A,)`` int64 class, 0 for the background.

    ``segments`` ``(G, 2)`` with ``classes`` ``(G,)`` from 1. Pairs of anchor and segment are matched in the
    order of their overlap, each segment once; then an anchor takes the segment that it overlaps most, if by
    0.5 or more. A background anchor has the place of the first segment, as in 2019; it is not used.
    """
    if not len(segments):
        return np.zeros(anchor.shape, np.float32), np.zeros(len(anchor), np.int64)
    overlap = temporal.iou(to_segments(anchor), segments)  # (A, G)
    match = np.full(len(anchor), -1)
    left = overlap.copy()
    for _ in range(len(segments)):
        a, g = np.unravel_index(left.argmax(), left.shape)
        if left[a, g] < 1e-6:
            break
        match[a] = g
        left[a], left[:, g] = 0.0, 0.0
    near = (match < 0) & (overlap.max(axis=1) >= POSITIVE_IOU)
    match[near] = overlap[near].argmax(axis=1)
    matched = np.asarray(segments, np.float64)[np.maximum(match, 0)]
    centre, width = matched.mean(axis=1), matched[:, 1] - matched[:, 0]
    place = np.stack(
        [
            (centre - anchor[:, 0]) / anchor[:, 1] / VARIANCE[0],
            (width / anchor[:, 1] - 1.0) / VARIANCE[1],
        ],
        axis=1,
    )
    found = np.where(match >= 0, np.asarray(classes, np.int64)[np.maximum(match, 0)], 0)
    return place.astype(np.float32), found


def decode(anchor: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Segments ``(A, 2)`` float64 in time steps from encoded places; some reach beyond the video."""
    place = np.asarray(place, np.float32)  # 2019 rounded here
    centre = (place[:, 0] * np.float32(VARIANCE[0])) * anchor[:, 1] + anchor[:, 0]
    width = (place[:, 1] * np.float32(VARIANCE[1]) + np.float32(1.0)) * anchor[:, 1]
    return to_segments(np.stack([centre, width], axis=1))


def to_segments(anchor: np.ndarray) -> np.ndarray:
    """``(A, 2)`` centres and widths to starts and ends."""
    half = anchor[:, 1] / 2
    return np.stack([anchor[:, 0] - half, anchor[:, 0] + half], axis=1)
