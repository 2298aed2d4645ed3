"""Clips of videos for Non-local: every ``sample_rate``-th frame from a start on, cropped, as (3, T, H, W).

Lists of TRAIN and VALID: ``path label`` a line. Lists of TEST and INFER: ``path index start crop``, one line
a clip, where index counts the videos, start is one of the starting points that ``num_test_clips`` gives,
and crop is 0 .. 2 along the longer side (3 .. 5 the same mirrored). INFER also takes lines with a path
alone, and ``video_path``: then each video is cut into all its clips here.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from paddle.io import Dataset

from reader.common import decode, filelist
from utils.config import MODE, Config, key
from utils.errors import DataError

CROPS = {0: 1, 1: 3, 2: 6}  # use_multi_crop -> crops of each clip


@dataclass(frozen=True)
class Clip:
    """One line of a list for TEST or INFER; ``number`` counts the clips of its video."""

    path: str
    video_index: int
    start: int
    crop: int
    number: int


class NonLocalReader(Dataset):
    """Samples: ``image`` (3, T, H, W) float32, (RGB - mean) / std of grey levels; ``video``, the path.

    In TRAIN and VALID also ``label`` (1,) int64; in TEST and INFER, where a sample is one clip,
    ``video_index`` (1,) int64 and ``clip`` (1,) int64, its number among the clips of its video.

    Training draws (start, short side, crop, mirror) come from ``shared_rng``, by default from one seeded by
    (seed, epoch, index). Validation takes the central clip of ``jitter_scales[0]`` pixels, unless
    ``VALID.random_clips`` asks for 2019's random start and short side.

    Raises DataError for a list that is missing or malformed (file:line), and per sample for a video that
    cannot be decoded or is smaller than the crop.
    """

    class Config(Config):
        num_classes: int = key(400, gt=0)
        image_mean: float = key(114.75)  # of grey levels, one for all channels
        image_std: float = key(57.375, gt=0)
        backend: Literal["opencv", "pyav"] = key("opencv")
        crop_size: int = key(224, gt=0)  # H = W, pixels
        sample_rate: int = key(8, gt=0)  # every so many-th frame
        video_length: int = key(8, gt=1)  # T
        jitter_scales: list[int] = key([256, 320], min_length=2, max_length=2)  # short side, pixels
        filelist: str = key("", MODE)
        video_path: str = key("", "INFER")
        random_clips: bool = key(False, "VALID")
        num_test_clips: int = key(30, MODE, "TEST", gt=0)  # of a video: starts times crops
        use_multi_crop: Literal[0, 1, 2] = key(1, MODE, "TEST")  # 0 centre, 1 three crops, 2 also mirrored

    def __init__(self, config: NonLocalReader.Config, mode: str, seed: int = 0) -> None:
        super().__init__()
        self.config, self.mode, self.seed, self.epoch = config, mode, seed, 0
        self.shared_rng: random.Random | None = None
        self.num_crops = CROPS[config.use_multi_crop]
        self.num_starts = max(1, config.num_test_clips // self.num_crops)
        self.last: tuple[str, int, dict[int, np.ndarray]] = ("", 0, {})  # path, frames of it, those resized
        self.one_clip_a_line = mode in ("TEST", "INFER")
        if not config.filelist and not config.video_path:
            raise DataError(f"{mode}.filelist is not given: a list of samples is needed")
        if not self.one_clip_a_line:
            self.lines = filelist.read_labelled(config.filelist, config.num_classes)
        else:
            self.lines = self._read_clips()
            self.starts: dict[str, set[int]] = defaultdict(set)  # of each video
            for clip in self.lines:
                self.starts[clip.path].add(clip.start)

    @staticmethod
    def example(config: NonLocalReader.Config) -> dict[str, np.ndarray]:
        """A batch of one clip of zeros: the shapes and types that the network is given."""
        side = config.crop_size
        return {"image": np.zeros((1, 3, config.video_length, side, side), np.float32)}

    def __len__(self) -> int:
        return len(self.lines)

    def describe(self, index: int) -> str:
        return self.lines[index].path

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        line = self.lines[index]
        if self.one_clip_a_line:
            fields = {"video_index": line.video_index, "clip": line.number}
            image = self._listed_clip(line)
        else:
            fields = {"label": line.number}
            rng = None
            if self.mode == "TRAIN" or self.config.random_clips:
                rng = self.shared_rng or random.Random(f"{self.seed}/{self.epoch}/{index}")
            image = self._clip_around(line.path, rng)
        numbers = {name: np.array([value], np.int64) for name, value in fields.items()}
        return {"image": image, "video": line.path, **numbers}

    # ---- training and validation -------------------------------------------------------------------

    def _clip_around(self, path: str, rng: random.Random | None) -> np.ndarray:
        """A random clip, in training also randomly cropped and mirrored; without ``rng`` the central one."""
        config = self.config
        before = rng.getstate() if rng else None
        span = config.video_length * config.sample_rate

        def choose(num_frames: int) -> list[int]:
            if rng is None:
                start = max(0, (num_frames - span) // 2)
            else:
                rng.setstate(before)  # asked again for the true frame count
                start = rng.randint(0, num_frames - span) if num_frames > span else 0
            return self._indices(start, num_frames)

        images = decode.video_frames(path, choose, config.backend)
        low, high = config.jitter_scales
        side = rng.randrange(low, high) if rng and low < high else low
        frames = [resize(np.asarray(image), side) for image in images]
        height, width = self._room(path, frames[0])
        if self.mode == "TRAIN":
            top, left = rng.randrange(max(1, height)), rng.randrange(max(1, width))  # 2019: never the last
        else:
            top, left = height // 2, width // 2
        mirror = rng is not None and rng.random() > 0.5 and self.mode == "TRAIN"
        return self._normalise(frames, top, left, mirror)

    # ---- test and inference ------------------------------------------------------------------------

    def _listed_clip(self, clip: Clip) -> np.ndarray:
        """One clip; the video is decoded once for all of its clips that follow one another."""
        if clip.path != self.last[0]:
            self.last = ("", 0, {})
            self.last = (clip.path, *self._decode(clip.path))
        _, num_frames, resized = self.last
        frames = [resized[index] for index in self._indices(self._start(clip.start, num_frames), num_frames)]
        height, width = self._room(clip.path, frames[0])
        top, left = height // 2, width // 2
        if self.num_crops > 1:
            step = clip.crop % 3
            top, left = (top * step, left) if top > 0 else (top, left * step)
        return self._normalise(frames, top, left, mirror=clip.crop >= 3)

    def _decode(self, path: str) -> tuple[int, dict[int, np.ndarray]]:
        """How many frames the video has, and those of its clips, resized."""
        counts = []

        def choose(num_frames: int) -> list[int]:
            counts.append(num_frames)
            starts = [self._start(start, num_frames) for start in self.starts[path]]
            return sorted({index for start in starts for index in self._indices(start, num_frames)})

        images = decode.video_frames(path, choose, self.config.backend)
        num_frames = counts[-1]
        side = self.config.jitter_scales[0]
        resized = {
            index: resize(np.asarray(image), side)
            for index, image in zip(choose(num_frames), images, strict=True)
        }
        return num_frames, resized

    def _start(self, start: int, num_frames: int) -> int:
        return int(num_frames / self.num_starts * start) % num_frames

    def _read_clips(self) -> list[Clip]:
        config = self.config
        if self.mode == "INFER" and config.video_path:
            paths = [line.path for line in filelist.expand(config.video_path)]
            return [clip for i, path in enumerate(paths) for clip in self._all_clips(path, i)]
        lines = filelist.read_lines(config.filelist)
        if self.mode == "INFER" and not any(_numbers(text) for _, text in lines):
            paths = [line.path for line in filelist.read_labelled(config.filelist, None)]
            return [clip for i, path in enumerate(paths) for clip in self._all_clips(path, i)]
        clips, seen = [], Counter()
        for where, text in lines:
            found = _numbers(text)
            if found is None:
                raise DataError(
                    f"{where}: expected 'path index start crop', got {text!r}; "
                    "data/dataset/nonlocal/make_lists.py writes such lists"
                )
            path, (index, start, crop) = found
            if not 0 <= crop < max(3, self.num_crops) or start < 0 or index < 0:
                raise DataError(f"{where}: index {index}, start {start}, crop {crop}: out of range")
            clips.append(Clip(path, index, start, crop, seen[index]))
            seen[index] += 1
        return clips

    def _all_clips(self, path: str, index: int) -> list[Clip]:
        pairs = [(start, crop) for start in range(self.num_starts) for crop in range(self.num_crops)]
        return [Clip(path, index, start, crop, i) for i, (start, crop) in enumerate(pairs)]

    # ---- both --------------------------------------------------------------------------------------

    def _indices(self, start: int, num_frames: int) -> list[int]:
        """Frames of a clip; past the end the video begins again."""
        config = self.config
        return [(start + i * config.sample_rate) % num_frames for i in range(config.video_length)]

    def _room(self, path: str, frame: np.ndarray) -> tuple[int, int]:
        """How far the crop can move down and right; DataError where it does not fit."""
        height, width, side = *frame.shape[:2], self.config.crop_size
        if height < side or width < side:
            raise DataError(
                f"{path}: a crop of {side} x {side} does not fit a frame of {width} x {height}: "
                "crop_size must not exceed jitter_scales"
            )
        return height - side, width - side

    def _normalise(self, frames: Sequence[np.ndarray], top: int, left: int, mirror: bool) -> np.ndarray:
        side = self.config.crop_size
        pixels = np.stack([frame[top : top + side, left : left + side] for frame in frames])  # (T, H, W, 3)
        if mirror:
            pixels = pixels[:, :, ::-1]
        image = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2), np.float32)  # (3, T, H, W)
        image -= np.float32(self.config.image_mean)
        image /= np.float32(self.config.image_std)
        return image


def resize(frame: np.ndarray, short_side: int) -> np.ndarray:
    """``(H, W, 3)`` uint8 to a short side of so many pixels, bilinear, the aspect ratio kept."""
    height, width = frame.shape[:2]
    scale = short_side / min(height, width)
    return cv2.resize(frame, (round(width * scale), round(height * scale)))


def _numbers(text: str) -> tuple[str, tuple[int, int, int]] | None:
    """``path index start crop`` taken apart; None for another line."""
    parts = text.rsplit(None, 3)
    if len(parts) < 4 or not all(part.lstrip("-").isdigit() for part in parts[1:]):
        return None
    return parts[0], (int(parts[1]), int(parts[2]), int(parts[3]))
