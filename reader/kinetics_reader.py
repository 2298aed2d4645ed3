"""Kinetics videos for TSN, TSM and StNet: sampled frames of videos, folders of images or pickled JPEGs.

Lists, by ``MODEL.format``: ``mp4`` (any video; ``video`` is the same) ``path label`` a line; ``frames``
``folder count label``, images ``img_00001.jpg`` …; ``pkl`` a path a line, each pickle ``(id, label, [jpeg
bytes, …])`` written by Python 2 or 3. Paths are relative to the working directory.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Literal

import numpy as np
from paddle.io import Dataset
from pydantic import PositiveFloat

from reader.common import dali, decode, filelist, sampling, transforms
from utils import safe_pickle
from utils.config import MODE, Config, key
from utils.errors import DataError


class KineticsReader(Dataset):
    """Samples: ``image`` (S, 3 * seglen, H, W) float32, normalised RGB; ``label`` (1,) int64;
    ``video``, the path, and ``video_id``, what 2019 printed (number in the list, or the pickle's id).

    In INFER there is no ``label``. Training draws (segment offsets, crops, flip) come from ``rng``, by
    default one seeded by (seed, epoch, index), so that they do not depend on workers or processes.

    Raises DataError for a list that is missing or malformed (file:line), and per sample for a video
    that cannot be decoded.
    """

    class Config(Config):
        format: Literal["mp4", "video", "frames", "pkl"] = key("pkl")
        backend: Literal["opencv", "pyav"] = key("opencv")  # decoder of videos
        num_classes: int = key(400, gt=0)
        seg_num: int = key(..., gt=0)  # S
        seglen: int = key(1, gt=0)
        image_mean: list[float] = key([0.485, 0.456, 0.406], min_length=3, max_length=3)
        image_std: list[PositiveFloat] = key([0.229, 0.224, 0.225], min_length=3, max_length=3)
        short_size: int = key(256, gt=0)  # short side after resizing, pixels
        target_size: int = key(224, gt=0)  # H = W of the crop, pixels
        multi_scale_crop: bool = key(False, "TRAIN")  # training crops come in several sizes and shapes
        filelist: str = key("", MODE)
        video_path: str = key("", "INFER")
        use_dali: bool = key(False, MODE)

    def __init__(self, config: KineticsReader.Config, mode: str, seed: int = 0) -> None:
        super().__init__()
        self.config, self.mode, self.seed, self.epoch = config, mode, seed, 0
        self.shared_rng: random.Random | None = None
        # 2019's DALI recipe says pkl, but its lists name videos.
        self.format = "mp4" if config.use_dali or config.format == "video" else config.format
        self.by_dali = config.use_dali and dali.available()
        # A forked process cannot use the GPU of its parent.
        self.in_main_process = self.by_dali and dali.on_gpu()
        classes = None if mode == "INFER" else config.num_classes
        if mode == "INFER" and config.video_path:
            self.format, self.lines = "mp4", filelist.expand(config.video_path)
        elif not config.filelist:
            raise DataError(f"{mode}.filelist is not given: a list of samples is needed")
        elif self.format == "pkl":
            self.lines = filelist.read_paths(config.filelist)
        elif self.format == "frames":
            self.lines = filelist.read_folders(config.filelist, classes)
        elif mode == "INFER":
            self.lines = filelist.read_tagged(config.filelist, None)
        else:
            self.lines = self._read_labelled()

    def _read_labelled(self) -> list[filelist.Line]:
        return filelist.read_labelled(self.config.filelist, self.config.num_classes)

    @staticmethod
    def example(config: KineticsReader.Config) -> dict[str, np.ndarray]:
        """A batch of one sample of zeros: the shapes and types that network and loss are given."""
        side = config.target_size
        return {
            "image": np.zeros((1, config.seg_num, 3 * config.seglen, side, side), np.float32),
            "label": np.zeros((1, 1), np.int64),
        }

    def __len__(self) -> int:
        return len(self.lines)

    def describe(self, index: int) -> str:
        return self.lines[index].path

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        line, config = self.lines[index], self.config
        rng = None
        if self.mode == "TRAIN":
            rng = self.shared_rng or random.Random(f"{self.seed}/{self.epoch}/{index}")
        choose = self._chooser(rng)
        video_id, label = line.number, line.number
        if self.format == "pkl":
            video_id, label, jpegs = self._read_pickle(line)
            images = decode.jpeg_frames(line.path, jpegs, choose)
        elif self.format == "frames":
            video_id = line.path
            images = decode.folder_frames(line.path, line.num_frames, choose)
        elif self.by_dali:
            images = dali.video_frames(line.path, decode.reported_frames(line.path), choose)
        else:
            images = decode.video_frames(line.path, choose, config.backend)
        if config.format == "video":
            video_id = Path(line.path).name  # as VideoTag had it
        images = transforms.resize_short_side(images, config.short_size)
        if rng is not None:
            if config.multi_scale_crop:
                images = transforms.multi_scale_crop(images, config.short_size, rng)
            images = transforms.random_crop(images, config.target_size, rng)
            images = transforms.random_flip(images, rng)
        else:
            images = transforms.centre_crop(images, config.target_size)
        sample: dict[str, Any] = {
            "image": transforms.to_segments(images, config.seglen, config.image_mean, config.image_std),
            "video": line.path,
            "video_id": line.path if video_id is None else str(video_id),
        }
        if self.mode != "INFER":
            sample["label"] = self._label(line, label)
        return sample

    def _label(self, line: filelist.Line, label: int) -> np.ndarray:
        return np.array([label], dtype=np.int64)

    def _choose(self, num_frames: int, rng: random.Random | None) -> list[int]:
        config = self.config
        starts = sampling.segment_starts(
            num_frames, config.seg_num, config.seglen, rng, centre_one_frame=self.format != "pkl"
        )
        return sampling.frame_indices(starts, config.seglen, num_frames)

    def _chooser(self, rng: random.Random | None) -> decode.Choose:
        """A choice that may be asked again, for the true frame count, with the same random draws."""
        if rng is None:
            return lambda n: self._choose(n, None)
        before = rng.getstate()

        def choose(num_frames: int) -> list[int]:
            rng.setstate(before)
            return self._choose(num_frames, rng)

        return choose

    def _read_pickle(self, line: filelist.Line) -> tuple[str, int, list[bytes]]:
        record = safe_pickle.load(line.path, encoding="bytes")
        if not isinstance(record, (tuple, list)) or len(record) != 3:
            raise DataError(f"{line.path}: expected (id, label, [jpeg, …]), got {type(record).__name__}")
        video_id, label, jpegs = record
        if isinstance(video_id, bytes):  # written by Python 2
            video_id = video_id.decode("utf-8", errors="replace")
        if not isinstance(jpegs, (list, tuple)):
            raise DataError(f"{line.path}: expected a list of JPEGs, got {type(jpegs).__name__}")
        if self.mode == "INFER":
            return video_id, -1, jpegs
        if not isinstance(label, (int, np.integer)) or not 0 <= label < self.config.num_classes:
            raise DataError(
                f"{line.path} ({line.where}): label {label!r} is outside "
                f"[0, {self.config.num_classes}) (MODEL.num_classes)"
            )
        return video_id, int(label), jpegs


class MultiScaleKineticsReader(KineticsReader):
    """The same, with the multi-scale crop that 2019's TSM was trained with."""

    class Config(KineticsReader.Config):
        multi_scale_crop: bool = key(True, "TRAIN")
