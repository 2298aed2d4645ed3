"""Features of whole videos with the IoU of every window, for BMN.

Features: ``<feat_path>/<video>.npy`` ``(tscale, feat_dim)``, or a ``.csv`` of such rows. Annotations and
lists: see ``reader.common.activitynet``.
"""

from __future__ import annotations

import numpy as np

from reader.common import activitynet
from reader.common.annotated_videos import SnippetFeatures
from utils.config import key

BOUNDARY_STEPS = 3  # length of the region around a start or an end


class BMNReader(SnippetFeatures):
    """Samples: see ``SnippetFeatures``. The targets, float32: ``gt_iou_map`` (D, T), the IoU of each window
    with the action it overlaps most, the window [d, t] being d + 1 steps from step t; ``gt_start`` and
    ``gt_end`` (T,), how much of each step lies in the region, three steps long, around the start (the end) of
    an action.
    """

    class Config(SnippetFeatures.Config):
        dscale: int = key(100, gt=0)  # D

    def targets(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        tscale, width = self.config.tscale, BOUNDARY_STEPS / self.config.tscale
        starts, ends = (activitynet.around(points, width) for points in actions.T)
        return {
            "gt_iou_map": activitynet.iou_map(actions, self.config.dscale, tscale),
            "gt_start": activitynet.coverage(starts, tscale),
            "gt_end": activitynet.coverage(ends, tscale),
        }
