"""For the two stages of BSN: features of whole videos, and proposals with their features.

Features of stage 1: ``<feat_path>/<video>.npy`` ``(tscale, feat_dim)``, or a ``.csv`` of such rows. Those of
stage 2 are what stage 1 wrote: ``<prop_path>/<video>.csv``, a proposal a line, and
``<feat_path>/<video>.npy``, a row of features for each. Annotations and lists: see
``reader.common.activitynet``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reader.common import activitynet
from reader.common.annotated_videos import AnnotatedVideos, SnippetFeatures
from utils import tables, temporal
from utils.config import MODE, key
from utils.errors import DataError

PROPOSAL = ("xmin", "xmax", "xmin_score", "xmax_score")


class BsnTemReader(SnippetFeatures):
    """Samples: see ``SnippetFeatures``. The targets, float32: ``gt_action`` (T,), how much of each step lies
    in an action; ``gt_start`` and ``gt_end`` (T,), how much of it lies in the region around the start (the
    end) of one, a tenth as long as the action (``gt_boundary_ratio``), but at least a step.
    """

    class Config(SnippetFeatures.Config):
        gt_boundary_ratio: float = key(0.1, gt=0)

    def targets(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        tscale = self.config.tscale
        length = actions[:, 1] - actions[:, 0]
        width = np.maximum(1.0 / tscale, self.config.gt_boundary_ratio * length)
        starts, ends = (activitynet.around(points, width) for points in actions.T)
        return {
            "gt_start": activitynet.coverage(starts, tscale),
            "gt_end": activitynet.coverage(ends, tscale),
            "gt_action": activitynet.coverage(actions, tscale),
        }


class BsnPemReader(AnnotatedVideos):
    """Samples: see ``AnnotatedVideos``; and ``feat`` (K, F) float32, the features of the video's first K
    proposals. Outside INFER ``gt_iou`` (K,) float32, the IoU of each with the action it overlaps most, 0 in a
    video without actions. Outside TRAIN ``props_info`` (K, 4) float32, start and end as fractions of the
    video and the probabilities of both.

    ``--video_path`` names proposals; their features are looked for in ``INFER.feat_path``.
    """

    suffixes = (".csv",)

    class Config(AnnotatedVideos.Config):
        feat_dim: int = key(32, gt=0)  # F
        top_K: int = key(500, MODE, "MODEL", gt=0)  # K
        tscale: int = key(100, gt=0)  # stands in 2019's recipe; proposals are fractions of the video
        feat_path: str = key("", MODE, "MODEL")
        prop_path: str = key("", MODE, "MODEL")

    @staticmethod
    def example(config: BsnPemReader.Config) -> dict[str, np.ndarray]:
        """A batch of one sample of zeros: the shapes and types that the network is given."""
        return {"feat": np.zeros((1, config.top_K, config.feat_dim), np.float32)}

    def fields(self, index: int) -> dict[str, Any]:
        video, number = self.videos[index], self.config.top_K
        file = self.files[index] if self.files else Path(self.config.prop_path) / f"{video.name}.csv"
        if not file.is_file():
            raise DataError(
                f"{file}: no such proposals of {video.name} ({video.where}); BsnTem's eval.py and "
                "predict.py make them"
            )
        table = tables.read_csv(file, PROPOSAL, ("match_iou",))
        proposals = np.stack([table[name] for name in PROPOSAL], axis=1)  # (P, 4)
        features = activitynet.read_features(
            activitynet.feature_file(self.config.feat_path, video), self.config.feat_dim, None
        )
        if len(features) != len(proposals):
            raise DataError(
                f"{file}: {len(proposals)} proposals, but {len(features)} rows of features in "
                f"{self.config.feat_path}: make them again"
            )
        if len(proposals) < number:
            raise DataError(
                f"{file}: got {len(proposals)} proposals, expected {number} ({self.mode}.top_K): make more "
                "(MODEL.pgm_top_K and pgm_top_K_train of stage 1), or ask for fewer"
            )
        sample: dict[str, Any] = {"feat": features[:number]}
        if self.mode != "INFER":
            sample["gt_iou"] = self._overlap(table, proposals, video)[:number].astype(np.float32)
        if self.mode != "TRAIN":
            sample["props_info"] = proposals[:number].astype(np.float32)
        return sample

    @staticmethod
    def _overlap(table: dict[str, np.ndarray], proposals: np.ndarray, video: activitynet.Video) -> np.ndarray:
        """Stage 1 wrote it where it knew of actions."""
        if "match_iou" in table:
            return table["match_iou"]
        if not len(video.segments):
            return np.zeros(len(proposals))
        return temporal.iou(proposals[:, :2], video.fractions).max(axis=1)
