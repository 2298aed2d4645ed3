"""The anchors of C-TCN: segments around every time step of a pyramid, and how actions are matched to them.

A segment is ``(start, end)`` in time steps of the resized video; an anchor is ``(centre, width)``.
"""

from __future__ import annotations

import numpy as np

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
