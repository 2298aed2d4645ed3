"""Features of whole videos with the IoU of every window, for BMN.

Features: ``<feat_path>/<video>.npy`` ``(tscale, feat_dim)``, or a ``.csv`` of such rows. Annotations and
lists: see ``reader.common.activitynet``.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from paddle.io import Dataset

from reader.common import activitynet, filelist
from utils.config import MODE, Config, key
from utils.errors import ConfigError, DataError

log = logging.getLogger(__name__)

BOUNDARY_STEPS = 3  # length of the region around a start or an end


class BMNReader(Dataset):
    """Samples: ``feat`` (F, T) float32, ``video``, its name, ``duration_second``, None where it is not known,
    and ``annotations``, ActivityNet's ``[{"segment": [start, end], "label"}]`` in seconds.

    Outside INFER also ``gt_iou_map`` (D, T) float32: IoU of each window with the action it overlaps most, the
    window [d, t] being d + 1 steps from step t; ``gt_start`` and ``gt_end`` (T,) float32: how much of each
    step lies in the region, three steps long, around the start (the end) of an action. They are 0 for a video
    without actions. ``annotations`` are not in TRAIN. ``fileid`` (1,) int64 is the place among the videos of
    the subset, sorted by name, or in the list.

    INFER takes the videos of ``INFER.filelist``, or the features files of ``--video_path``: a file, a folder
    or a glob. Nothing is drawn.

    Raises DataError for annotations or a list that are missing or malformed, and per sample for features that
    are missing, damaged or of another shape.
    """

    class Config(Config):
        tscale: int = key(100, gt=0)  # T
        dscale: int = key(100, gt=0)  # D
        feat_dim: int = key(400, gt=0)  # F
        rescale: bool = key(False)  # features of any length to tscale, by interpolation
        anno_file: str = key("")
        feat_path: str = key("")
        subset: str = key("", MODE)
        filelist: str = key("", "INFER")
        video_path: str = key("", "INFER")

    def __init__(self, config: BMNReader.Config, mode: str, seed: int = 0) -> None:
        super().__init__()
        del seed
        self.config, self.mode = config, mode
        self.files: list[Path] = []  # one a video where --video_path gives them
        self.videos = self._from_files() if mode == "INFER" and config.video_path else self._from_lists()
        twice = [name for name, count in Counter(v.name for v in self.videos).items() if count > 1]
        if twice:
            raise DataError(f"{len(twice)} videos are listed more than once, among them {twice[0]}")
        log.info("%s: %d videos", config.subset or mode.lower(), len(self.videos))
        unknown = [video.name for video in self.videos if video.duration_second is None]
        if unknown:
            log.warning(
                "the durations of %d videos are not known (%s, …): times are given as fractions of a video. "
                "They are looked for in MODEL.anno_file and in %s beside the features",
                len(unknown),
                unknown[0],
                activitynet.DURATIONS,
            )

    def _from_lists(self) -> list[activitynet.Video]:
        config = self.config
        if not Path(config.feat_path).is_dir():
            raise DataError(f"{config.feat_path}: no such folder of features (MODEL.feat_path)")
        if self.mode == "INFER":
            if not config.filelist:
                raise ConfigError("INFER.filelist is not given: a list of videos is needed, or --video_path")
            return activitynet.read_list(config.filelist, config.anno_file)
        if not config.subset:
            raise ConfigError(f"{self.mode}.subset is not given: training, validation or testing")
        return activitynet.read_annotations(config.anno_file, config.subset)

    def _from_files(self) -> list[activitynet.Video]:
        suffixes = activitynet.FEATURE_SUFFIXES
        found = filelist.expand(self.config.video_path, suffixes, "feature file")
        self.files = [Path(line.path) for line in found]
        return activitynet.of_files(self.files, self.config.anno_file)

    @staticmethod
    def example(config: BMNReader.Config) -> dict[str, np.ndarray]:
        """A batch of one sample of zeros: the shapes and types that the network is given."""
        return {"feat": np.zeros((1, config.feat_dim, config.tscale), np.float32)}

    def __len__(self) -> int:
        return len(self.videos)

    def describe(self, index: int) -> str:
        return self.videos[index].name

    def set_epoch(self, epoch: int) -> None:
        del epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        video, config = self.videos[index], self.config
        file = self.files[index] if self.files else activitynet.feature_file(config.feat_path, video)
        features = activitynet.read_features(file, config.feat_dim, config.tscale, config.rescale)
        sample: dict[str, Any] = {"feat": np.ascontiguousarray(features.T)}
        if self.mode != "INFER":
            sample |= self._targets(video.fractions)
        sample["fileid"] = np.array([index], np.int64)
        sample["video"] = video.name
        if self.mode != "TRAIN":
            sample["duration_second"] = video.duration_second
            sample["annotations"] = list(video.annotations)
        return sample

    def _targets(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """Of ``actions`` ``(G, 2)``, fractions of the video."""
        tscale, width = self.config.tscale, BOUNDARY_STEPS / self.config.tscale
        starts, ends = (activitynet.around(points, width) for points in actions.T)
        return {
            "gt_iou_map": activitynet.iou_map(actions, self.config.dscale, tscale),
            "gt_start": activitynet.coverage(starts, tscale),
            "gt_end": activitynet.coverage(ends, tscale),
        }
