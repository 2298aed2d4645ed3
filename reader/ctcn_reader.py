"""Features of whole videos with annotated actions, for C-TCN.

Features: ``<root>/<rgb>/<video>.pkl`` and ``<root>/<flow>/<video>.pkl``, pickles of Python 2 or 3 with
``{"scores": (T, W)}``, or ``.npy`` files ``(T, W)``; where a recipe gives no flow, rgb alone. Lists, a video
a line (".listformat"): ``video frames count`` and then ``class start end`` for each of its ``count`` actions;
classes start at 1, times are in frames of the features. INFER needs the video alone.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from paddle.io import Dataset

from reader.common import filelist
from utils import anchors, safe_pickle, temporal
from utils.config import MODE, Config, key
from utils.errors import ConfigError, DataError

log = logging.getLogger(__name__)

CROP_OVERLAPS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # that a crop must have with every action
CROP_TRIES = 100  # for each of them
SHORTEST_CROP = 0.3  # of the video
FEWEST_BACKGROUND_STEPS = 5  # to move actions about in
TRAINING_TRIES = 10  # for a crop with an action in it
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


@dataclass(frozen=True)
class Video:
    """One line of a list: ``segments`` ``(G, 2)`` in frames, ``classes`` ``(G,)`` from 1."""

    name: str
    num_frames: float
    segments: np.ndarray
    classes: np.ndarray
    number: int  # of the line in the list, from 0
    where: str


class CTCNReader(Dataset):
    """Samples: ``image`` (1, T, W) float32, the features resized to T time steps; ``loc_targets`` (A, 2)
    float32 and ``cls_targets`` (A,) int64, see ``utils.anchors.encode``; ``fileid`` (1,) int64, the number of
    the line; ``video``, its name. Outside training ``actions`` too: ``[class, start, end]`` of each annotated
    action, as fractions of the video. In INFER only ``image`` and ``video`` (``video_id`` is the same).

    In training the actions are moved about in the background, a part of the video is cut out, and the way
    of resizing is drawn; all from ``rng``, by default one seeded by (seed, epoch, index).

    Raises DataError for a list that is missing or malformed (file:line), and per sample for features that
    are missing, damaged, or of another width than ``concept_size``.
    """

    class Config(Config):
        img_size: int = key(512, gt=0)  # T
        concept_size: int = key(402, gt=0)  # W, of all streams together
        num_classes: int = key(201, gt=1)
        num_anchors: int = key(7, ge=1, le=7)
        snippet_length: int = key(1, gt=0)  # frames of the list in one time step of the features
        root: str = key("./data/dataset/ctcn/feats")
        rgb: str = key("rgb", MODE)
        flow: str | None = key(None, MODE)
        filelist: str = key("", MODE)

    def __init__(self, config: CTCNReader.Config, mode: str, seed: int = 0) -> None:
        super().__init__()
        self.config, self.mode, self.seed, self.epoch = config, mode, seed, 0
        self.shared_rng: random.Random | None = None
        self.anchors = anchors.anchors(config.img_size, config.num_anchors)
        if not config.filelist:
            raise ConfigError(f"{mode}.filelist is not given: a list of videos is needed")
        if not Path(config.root).is_dir():
            raise DataError(f"{config.root}: no such folder of features (MODEL.root)")
        self.videos = read_list(config.filelist, config.num_classes, names_only=mode == "INFER")
        if mode == "TRAIN":
            empty = [video.name for video in self.videos if not len(video.classes)]
            if empty:
                log.warning(
                    "%s: %d videos without an action are left out: %s", config.filelist, len(empty), empty[:5]
                )
            self.videos = [video for video in self.videos if len(video.classes)]

    @staticmethod
    def example(config: CTCNReader.Config) -> dict[str, np.ndarray]:
        """A batch of one sample of zeros: the shapes and types that the network is given."""
        return {"image": np.zeros((1, 1, config.img_size, config.concept_size), np.float32)}

    def __len__(self) -> int:
        return len(self.videos)

    def describe(self, index: int) -> str:
        return self.videos[index].name

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> dict[str, Any]:
        video, length = self.videos[index], self.config.img_size
        features = self._features(video)
        if self.mode == "INFER":
            return {"image": nearest(features, length)[None], "video": video.name, "video_id": video.name}
        segments = video.segments / self.config.snippet_length
        if self.mode == "TRAIN":
            image, place, classes = self._training_view(features, segments, video.classes, index)
        else:
            image = nearest(features, length)
            scaled = segments * (length / len(features))
            place, classes = anchors.encode(self.anchors, scaled, video.classes)
        sample = {
            "image": image[None],
            "loc_targets": place,
            "cls_targets": classes,
            "fileid": np.array([video.number], np.int64),
            "video": video.name,
        }
        if self.mode != "TRAIN":
            fractions = video.segments / max(video.num_frames, 1e-6)
            rows = zip(video.classes.tolist(), fractions.tolist(), strict=True)
            sample["actions"] = [[float(kind), *ends] for kind, ends in rows]
        return sample

    def _training_view(
        self, features: np.ndarray, segments: np.ndarray, classes: np.ndarray, index: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Resized features and targets of a random view that has a positive anchor.

        2019 passed a video over when its view had none; here another is drawn, at last the whole video.
        """
        rng = self.shared_rng or random.Random(f"{self.seed}/{self.epoch}/{index}")
        length = self.config.img_size
        for _ in range(1 if self.shared_rng else TRAINING_TRIES):
            view, inside, kinds = move_actions(features, segments, classes, rng)
            view, inside, kinds = crop(view, inside, kinds, rng)
            image = resize(view, length, rng.choice(INTERPOLATIONS))
            place, found = anchors.encode(self.anchors, inside * (length / len(view)), kinds)
            if found.any() or self.shared_rng:
                return image, place, found
        place, found = anchors.encode(self.anchors, segments * (length / len(features)), classes)
        return nearest(features, length), place, found

    def _features(self, video: Video) -> np.ndarray:
        """``(T, W)`` float32, all streams side by side; the shortest says how long."""
        config = self.config
        streams = [self._stream(name, video) for name in (config.rgb, config.flow) if name]
        length = min(len(stream) for stream in streams)
        features = np.concatenate([stream[:length] for stream in streams], axis=1)
        if features.shape[1] != config.concept_size:
            widths = " + ".join(str(stream.shape[1]) for stream in streams)
            raise DataError(
                f"{video.name} ({video.where}): features of width {widths}, expected {config.concept_size} "
                "(MODEL.concept_size)"
            )
        return features

    def _stream(self, stream: str, video: Video) -> np.ndarray:
        base = Path(self.config.root) / stream
        path = base / f"{video.name}.pkl"
        if (base / f"{video.name}.npy").is_file() and not path.is_file():
            path = base / f"{video.name}.npy"
        if not path.is_file():
            raise DataError(f"{path}: no such features ({video.where}; .npy is read, too)")
        return read_features(path)


def read_features(path: Path) -> np.ndarray:
    """``(T, W)`` float32 of one stream; raises DataError."""
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            record = safe_pickle.load(path, encoding="bytes")
            if isinstance(record, dict):
                record = record.get(b"scores", record.get("scores"))
            values = np.asarray(record, np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot read the features: {error}") from error
    if values.ndim != 2 or not len(values) or values.dtype.kind not in "fiu":
        raise DataError(f"{path}: expected features (T, W) of numbers, got {values.dtype} {values.shape}")
    if not np.isfinite(values).all():
        raise DataError(f"{path}: features that are not finite")
    return values.astype(np.float32)


def read_list(file: str, num_classes: int, names_only: bool = False) -> list[Video]:
    """The videos of a list. Raises DataError: file, line, what was expected and found."""
    videos = []
    for number, (where, text) in enumerate(filelist.read_lines(file)):
        name, *rest = text.split()
        if names_only:
            videos.append(Video(name, 0.0, np.zeros((0, 2)), np.zeros(0, np.int64), number, where))
            continue
        try:
            values = np.array([float(item) for item in rest])
        except ValueError as error:
            raise DataError(f"{where}: expected numbers after the video {name!r}: {error}") from error
        if len(values) < 2 or not np.isfinite(values).all() or values[1] != (len(values) - 2) / 3:
            raise DataError(
                f"{where}: expected 'video frames count' and 'class start end' for each of count actions; "
                f"got {len(rest)} numbers" + (f", count {rest[1]}" if len(rest) > 1 else "")
            )
        if values[0] <= 0:
            raise DataError(f"{where}: {rest[0]} frames")
        actions = values[2:].reshape(-1, 3)
        for kind, start, end in actions:
            if kind != int(kind) or not 1 <= kind < num_classes:
                raise DataError(
                    f"{where}: class {kind:g} is outside [1, {num_classes}) (MODEL.num_classes; 0 is the "
                    "background)"
                )
            if end < start:
                raise DataError(f"{where}: an action ends at {end:g}, before it starts at {start:g}")
        videos.append(Video(name, values[0], actions[:, 1:], actions[:, 0].astype(np.int64), number, where))
    return videos


def nearest(features: np.ndarray, length: int) -> np.ndarray:
    """``(T, W)`` to ``(length, W)``: of each time step the one that it falls into."""
    return features[(np.arange(length) * (len(features) / length)).astype(np.int64)]


def resize(features: np.ndarray, length: int, interpolation: int) -> np.ndarray:
    """``(T, W)`` to ``(length, W)`` with an interpolation of OpenCV."""
    if len(features) == length:
        return features
    return cv2.resize(features, (features.shape[1], length), interpolation=interpolation)


def move_actions(
    features: np.ndarray, segments: np.ndarray, classes: np.ndarray, rng: random.Random
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same background with the actions put into it at other places, in any order."""
    in_action = np.zeros(len(features), bool)
    for start, end in segments.astype(np.int64):
        in_action[start:end] = True
    background = features[~in_action]
    if len(background) < max(FEWEST_BACKGROUND_STEPS, len(segments)):
        return features, segments, classes
    places = rng.sample(range(len(background)), len(segments))
    order = np.argsort(places)
    parts, moved, length, done = [], [], 0, 0
    for i in order:
        parts.append(background[done : places[i]])
        length += len(parts[-1])
        done = places[i]
        moved.append([length, length + segments[i, 1] - segments[i, 0]])
        parts.append(features[int(segments[i, 0]) : int(segments[i, 1])])
        length += len(parts[-1])
    parts.append(background[done:])
    return np.concatenate(parts), np.array(moved), classes[order]


def crop(
    features: np.ndarray, segments: np.ndarray, classes: np.ndarray, rng: random.Random
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A part of the video, or all of it, with the actions whose centre is inside.

    For each of ``CROP_OVERLAPS`` the first of 100 random parts that overlaps every action that much is
    one to choose from, and the whole video is another (SSD, Liu et al., https://arxiv.org/abs/1512.02325).
    """
    total = len(features)
    choices = [(0, total)]
    for least in CROP_OVERLAPS:
        for _ in range(CROP_TRIES):
            length = int(total * rng.uniform(SHORTEST_CROP, 1))
            if not 0 < length < total:
                continue
            start = rng.randrange(total - length)
            if temporal.iou(segments, np.array([[start, start + length]])).min() >= least:
                choices.append((start, length))
                break
    start, length = rng.choice(choices)
    centre = segments.mean(axis=1)
    inside = (centre >= start) & (centre <= start + length)
    cut = np.clip(segments[inside] - start, 0, length)
    return features[start : start + length], cut, classes[inside]
