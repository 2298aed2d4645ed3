"""Videos of ActivityNet by annotations, a list or their files: what the readers of BMN and BSN share."""

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


class AnnotatedVideos(Dataset):
    """Samples: ``video``, the name, and ``fileid`` (1,) int64, the place among the videos of the subset,
    sorted by name, or in the list. Outside TRAIN also ``duration_second``, None where it is not known,
    ``subset``, and ``annotations``, ActivityNet's ``[{"segment": [start, end], "label"}]`` in seconds.
    ``fields`` are the reader's own.

    INFER takes the videos of ``INFER.filelist``, or the files of ``--video_path``: a file, a folder or a
    glob. Nothing is drawn.

    Raises DataError for annotations or a list that are missing or malformed, and per sample for files that
    are missing, damaged or of another shape.
    """

    whole_batches = True  # losses weigh what is positive by its share of the batch
    suffixes = activitynet.FEATURE_SUFFIXES  # of the files of --video_path

    class Config(Config):
        anno_file: str = key("")
        feat_path: str = key("")
        subset: str = key("", MODE)
        filelist: str = key("", "INFER")
        video_path: str = key("", "INFER")

    def __init__(self, config: AnnotatedVideos.Config, mode: str, seed: int = 0) -> None:
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
        found = filelist.expand(self.config.video_path, self.suffixes, "feature file")
        self.files = [Path(line.path) for line in found]
        return activitynet.of_files(self.files, self.config.anno_file)

    def __len__(self) -> int:
        return len(self.videos)

    def describe(self, index: int) -> str:
        return self.videos[index].name

    def set_epoch(self, epoch: int) -> None:
        del epoch

    def fields(self, index: int) -> dict[str, Any]:
        raise NotImplementedError

    def __getitem__(self, index: int) -> dict[str, Any]:
        video, sample = self.videos[index], self.fields(index)
        sample["fileid"] = np.array([index], np.int64)
        sample["video"] = video.name
        if self.mode != "TRAIN":
            sample["duration_second"] = video.duration_second
            sample["annotations"] = list(video.annotations)
            sample["subset"] = video.subset
        return sample


class SnippetFeatures(AnnotatedVideos):
    """Also ``feat`` (F, T) float32, the features of a video, and outside INFER ``targets`` on its grid."""

    class Config(AnnotatedVideos.Config):
        tscale: int = key(100, gt=0)  # T
        feat_dim: int = key(400, gt=0)  # F
        rescale: bool = key(False)  # features of any length to tscale, by interpolation

    @staticmethod
    def example(config: SnippetFeatures.Config) -> dict[str, np.ndarray]:
        """A batch of one sample of zeros: the shapes and types that the network is given."""
        return {"feat": np.zeros((1, config.feat_dim, config.tscale), np.float32)}

    def fields(self, index: int) -> dict[str, Any]:
        video, config = self.videos[index], self.config
        file = self.files[index] if self.files else activitynet.feature_file(config.feat_path, video)
        features = activitynet.read_features(file, config.feat_dim, config.tscale, config.rescale)
        feat = np.ascontiguousarray(features.T)
        return {"feat": feat} if self.mode == "INFER" else {"feat": feat, **self.targets(video.fractions)}

    def targets(self, actions: np.ndarray) -> dict[str, np.ndarray]:
        """Of ``actions`` ``(G, 2)``, fractions of the video; 0 for a video without any."""
        raise NotImplementedError
