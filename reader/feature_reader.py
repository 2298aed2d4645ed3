"""Sequences of features for AttentionCluster, AttentionLSTM and NeXtVLAD: YouTube-8M, or one's own.

Lists: a file a line. Pickles ``[{"video", "feature", "audio", "label", "nframes"}, …]`` written by Python 2
or 3, YouTube-8M's own frame-level ``.tfrecord`` shards, and ``features.npy label label …``.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from paddle.io import Dataset

from reader.common import feature_files, filelist
from utils import loader
from utils.config import MODE, Config, key
from utils.errors import DataError

WINDOW_RECORDS = 16_384  # training shuffles files, and the records of so many together

# YouTube-8M keeps a value of [-2, 2] in a byte, and 2019 added half a step: float32 by byte.
DEQUANTISED = (np.arange(256) * 4.0 / 255.0 + (4.0 / 512.0 - 2.0)).astype(np.float32)


class FeatureReader(Dataset):
    """Samples: each stream of ``MODEL.feature_names`` by name, (T, D) float32, bytes dequantised to about
    [-2, 2]; ``label`` (K,) float32 of 0 and 1; ``video`` and ``video_id``, the id of a record, or path and
    file name of a ``.npy``. In INFER there is no ``label``.

    Batches hold streams of different lengths padded with zeros, (N, longest, D), and beside each stream
    ``<name>_length`` (N,) int64. With ``seg_num`` rows are sampled, (seg_num, D), the same moments of every
    stream: one of each equal part, drawn in training by ``rng`` (by default seeded by seed, epoch and index),
    else the middle one.

    Raises DataError for a list that is missing or malformed, and per sample, with file and record.
    """

    quantised = False  # whether the network takes the bytes themselves

    class Config(Config):
        num_classes: int = key(3862, gt=0)  # K
        feature_names: list[str] = key(["rgb", "audio"], min_length=1)
        feature_dims: list[int] = key([1024, 128], min_length=1)
        seg_num: int | None = key(None, gt=0)
        filelist: str = key("", MODE)
        video_path: str = key("", "INFER")

    def __init__(self, config: FeatureReader.Config, mode: str, seed: int = 0) -> None:
        super().__init__()
        self.config, self.mode, self.seed, self.epoch = config, mode, seed, 0
        self.shared_rng: Any = None
        self.dims = self.stream_dims(config)
        self.files = feature_files.FeatureFiles(self._lines(), list(self.dims), config.filelist)

    def _lines(self) -> list[feature_files.Line]:
        config = self.config
        if self.mode == "INFER" and config.video_path:
            found = filelist.expand(config.video_path, feature_files.SUFFIXES, "feature file")
            return [feature_files.Line(line.path, None, line.where) for line in found]
        if not config.filelist:
            raise DataError(f"{self.mode}.filelist is not given: a list of feature files is needed")
        return feature_files.read_list(config.filelist)

    @staticmethod
    def stream_dims(config: Any) -> dict[str, int]:
        """Name -> D of every stream. Raises DataError where names and sizes do not match."""
        names, dims = config.feature_names, config.feature_dims
        if len(names) != len(dims):
            raise DataError(f"MODEL.feature_names has {len(names)} entries, MODEL.feature_dims {len(dims)}")
        return dict(zip(names, dims, strict=True))

    @classmethod
    def example(cls, config: Any) -> dict[str, np.ndarray]:
        """A batch of one sample of zeros: the shapes and types that the network is given."""
        batch: dict[str, np.ndarray] = {}
        rows = getattr(config, "seg_num", None) or 4
        for name, dim in cls.stream_dims(config).items():
            batch[name] = np.zeros((1, rows, dim), np.uint8 if cls.quantised else np.float32)
            batch[f"{name}_length"] = np.full(1, rows, np.int64)
        return batch

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, index: int) -> str:
        return self.files.describe(index)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def training_order(self, seed: int, epoch: int) -> list[int]:
        """Every record once: files shuffled, and then the records of a window of files together.

        So the files that are read at one time are few, whatever number of processes reads them.
        """
        rng = random.Random(f"{seed}/{epoch}")
        shards = list(range(len(self.files.lines)))
        rng.shuffle(shards)
        order: list[int] = []
        window: list[int] = []
        for shard in shards:
            window += self.files.records_of(shard)
            if len(window) >= WINDOW_RECORDS:
                rng.shuffle(window)
                order, window = order + window, []
        rng.shuffle(window)
        return order + window

    def __getitem__(self, index: int) -> dict[str, Any]:
        where = self.describe(index)
        record = self.files.read(index)
        rng = self.shared_rng
        if rng is None and self.mode == "TRAIN":
            rng = random.Random(f"{self.seed}/{self.epoch}/{index}")
        seg_num = getattr(self.config, "seg_num", None)
        if seg_num:
            moments = [(i + (rng.random() if rng else 0.5)) / seg_num for i in range(seg_num)]
        sample: dict[str, Any] = {}
        for name, dim in self.dims.items():
            rows = self._checked(record.streams[name], name, dim, where)
            if seg_num:
                rows = rows[[int(moment * len(rows)) for moment in moments]]
            sample[name] = self._values(rows, name, where)
        sample["video"], sample["video_id"] = record.video, record.name
        if self.mode != "INFER":
            sample["label"] = self._label(record.labels, where)
        return sample

    def _checked(self, rows: np.ndarray, name: str, dim: int, where: str) -> np.ndarray:
        if rows.ndim != 2 or rows.shape[1] != dim or rows.dtype.kind not in "uif":
            raise DataError(
                f"{where}: {name!r} is {rows.dtype} {list(rows.shape)}, expected numbers [rows, {dim}]; "
                "MODEL.feature_dims must be those of the data"
            )
        if not len(rows):
            raise DataError(f"{where}: {name!r} has no row")
        return rows

    def _values(self, rows: np.ndarray, name: str, where: str) -> np.ndarray:
        if rows.dtype == np.uint8:
            return rows if self.quantised else DEQUANTISED.take(rows)
        if self.quantised:
            raise DataError(f"{where}: {name!r} is {rows.dtype}; this model needs the bytes of YouTube-8M")
        return rows.astype(np.float32, copy=False)

    def _label(self, labels: list[int] | None, where: str) -> np.ndarray:
        if labels is None:
            raise DataError(f"{where}: the record has no labels")
        target = np.zeros(self.config.num_classes, np.float32)
        for label in labels:
            if not 0 <= label < self.config.num_classes:
                raise DataError(
                    f"{where}: label {label} is outside [0, {self.config.num_classes}) (MODEL.num_classes)"
                )
            target[label] = 1.0
        return target

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch; see the class for what is padded."""
        rest = [{k: v for k, v in sample.items() if k not in self.dims} for sample in samples]
        batch = loader.collate(rest)
        for name in self.dims:
            rows = [sample[name] for sample in samples]
            lengths = np.array([len(row) for row in rows], np.int64)
            padded = np.zeros((len(rows), lengths.max(), self.dims[name]), rows[0].dtype)
            for i, row in enumerate(rows):
                padded[i, : len(row)] = row
            batch[name], batch[f"{name}_length"] = padded, lengths
        return batch


class QuantisedFeatureReader(FeatureReader):
    """The same with the bytes of YouTube-8M as they are, uint8: NeXtVLAD dequantises them itself."""

    quantised = True

    class Config(Config):
        num_classes: int = key(3862, gt=0)
        video_feature_size: int = key(1024, gt=0)
        audio_feature_size: int = key(128, gt=0)
        filelist: str = key("", MODE)
        video_path: str = key("", "INFER")

    @staticmethod
    def stream_dims(config: Any) -> dict[str, int]:
        return {"rgb": config.video_feature_size, "audio": config.audio_feature_size}
