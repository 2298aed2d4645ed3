"""Segments of videos with their sentences, for ETS: ActivityNet Captions, or one's own.

Lists: ``video <tab> start <tab> end <tab> sentence`` a line, in seconds; words between blanks. For prediction
the sentence may be left out. Features: a file a video, ``MODEL.feat_path/<video>``, a pickled array of 2019
(Python 2 or 3) with or without ``.pkl``, or a ``.npy``, of which only a segment's rows are read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from paddle.io import Dataset

from reader.common import filelist, ragged
from utils import safe_pickle
from utils.config import MODE, Config, key
from utils.errors import DataError
from utils.vocabulary import Vocabulary

SUFFIXES = ("", ".npy", ".pkl")


@dataclass(frozen=True)
class Clip:
    """One line of a list; ``end_second`` is infinite for all the rest of a video."""

    video: str
    start_second: float
    end_second: float
    sentence: str
    where: str  # file:line


class ETSReader(Dataset):
    """Samples: ``feat`` (T, D) float32, the rows of a segment; ``video``; ``index``, the place in the list;
    ``start_second``, ``end_second`` and ``sentence``, as the list has them. In TRAIN and VALID also ``word``
    (L,) int64, START and the sentence, and ``word_next`` (L,), the sentence and END; words that the
    dictionary lacks are UNK.

    Batches hold ``feat`` and the words padded with zeros, and beside them ``feat_length`` and
    ``word_length`` (N,) int64. At ``feat_fps`` rows a second a segment is the rows from
    ``int(start * feat_fps)`` up to ``int(end * feat_fps + 0.5)``. 2019 passed over segments without a row;
    here they fail, by name.

    With ``INFER.video_path`` (a feature file, folder or glob) each file is one segment, or those of
    ``INFER.segments``, [[start, end], …], or as many of ``INFER.segment_second`` as it has.

    Raises DataError for a list that is missing or malformed (file:line), and per sample for features that
    are missing, unreadable, of another width, or without a row of the segment.
    """

    class Config(Config):
        feat_path: str = key("", "MODEL")  # folder of the feature files
        feat_size: int = key(2048, "MODEL", gt=0)  # D
        feat_fps: float = key(5.0, "MODEL", gt=0)  # rows a second
        dict_file: str = key(..., "MODEL")
        START: str = key("<s>", "MODEL")
        END: str = key("<e>", "MODEL")
        UNK: str = key("<unk>", "MODEL")
        filelist: str = key("", MODE)
        video_path: str = key("", "INFER")
        segments: list[list[float]] = key([], "INFER")
        segment_second: float | None = key(None, "INFER", gt=0)

    def __init__(self, config: ETSReader.Config, mode: str, seed: int = 0) -> None:
        super().__init__()
        self.config, self.mode = config, mode
        self.vocabulary = Vocabulary(config.dict_file, config.START, config.END, config.UNK)
        self.last_read: tuple[str, np.ndarray] | None = None
        if mode == "INFER" and config.video_path:
            files = filelist.expand(config.video_path, SUFFIXES, "feature file")
            self.clips = [clip for line in files for clip in self._segments(line)]
        elif config.filelist:
            with_sentence = mode in ("TRAIN", "VALID")
            lines = filelist.read_lines(config.filelist)
            self.clips = [_parse(where, text, with_sentence) for where, text in lines]
        else:
            raise DataError(f"{mode}.filelist is not given: a list of segments is needed")

    @staticmethod
    def example(config: ETSReader.Config) -> dict[str, np.ndarray]:
        """A batch of one sample of zeros: the shapes and types that the network is given."""
        words = np.zeros((1, 2), np.int64)
        return {
            "feat": np.zeros((1, 4, config.feat_size), np.float32),
            "feat_length": np.full(1, 4, np.int64),
            "word": words,
            "word_length": np.full(1, 2, np.int64),
            "word_next": words,
        }

    def __len__(self) -> int:
        return len(self.clips)

    def describe(self, index: int) -> str:
        clip = self.clips[index]
        return f"{clip.video} {clip.start_second:g}-{clip.end_second:g} s"

    def set_epoch(self, epoch: int) -> None:
        """Nothing is drawn at random."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        clip, fps = self.clips[index], self.config.feat_fps
        rows = self._features(clip)
        end_second = min(clip.end_second, len(rows) / fps) if math.isinf(clip.end_second) else clip.end_second
        feat = rows[int(clip.start_second * fps) : int(end_second * fps + 0.5)]
        if not len(feat):
            raise DataError(
                f"{self.describe(index)} ({clip.where}): no row of the features, which are {len(rows)} rows "
                f"or {len(rows) / fps:g} s (MODEL.feat_fps {fps:g})"
            )
        sample: dict[str, Any] = {
            "feat": np.ascontiguousarray(feat, dtype=np.float32),
            "video": clip.video,
            "index": index,
            "start_second": clip.start_second,
            "end_second": end_second,
            "sentence": clip.sentence,
        }
        if self.mode in ("TRAIN", "VALID"):
            words = self.vocabulary.encode(clip.sentence)
            sample["word"] = np.array([self.vocabulary.start, *words], np.int64)
            sample["word_next"] = np.array([*words, self.vocabulary.end], np.int64)
        return sample

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch; see the class for what is padded."""
        names = ("feat", "word", "word_next")
        return ragged.collate(samples, [name for name in names if name in samples[0]])

    def _features(self, clip: Clip) -> np.ndarray:
        """All rows of a video ``(rows, D)``; those of the last one are kept for its next segment."""
        file = self._file(clip)
        if self.last_read is None or self.last_read[0] != str(file):
            self.last_read = str(file), _load(file)
        rows = self.last_read[1]
        if rows.ndim != 2 or rows.shape[1] != self.config.feat_size or rows.dtype.kind != "f":
            raise DataError(
                f"{file}: {rows.dtype} {list(rows.shape)}, expected floating-point numbers "
                f"[rows, {self.config.feat_size}] (MODEL.feat_size)"
            )
        return rows

    def _file(self, clip: Clip) -> Path:
        if self.config.video_path and self.mode == "INFER":
            return Path(clip.video)
        candidates = [Path(self.config.feat_path) / f"{clip.video}{suffix}" for suffix in SUFFIXES]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise DataError(
                f"{candidates[0]}: no features of {clip.video!r} ({clip.where}); looked for this file, "
                ".npy and .pkl (MODEL.feat_path)"
            )
        return found

    def _segments(self, line: filelist.Line) -> list[Clip]:
        config = self.config
        spans = [(0.0, math.inf)]
        if config.segments:
            if any(len(span) != 2 or not 0 <= span[0] < span[1] for span in config.segments):
                raise DataError(
                    f"INFER.segments: expected [[start, end], …] in seconds, got {config.segments}"
                )
            spans = [(start, end) for start, end in config.segments]
        elif config.segment_second:
            seconds = len(_load(Path(line.path))) / config.feat_fps
            count = max(1, math.ceil(seconds / config.segment_second - 1e-6))
            starts = [i * config.segment_second for i in range(count)]
            spans = [(start, min(start + config.segment_second, seconds)) for start in starts]
        return [Clip(line.path, start, end, "", "--video_path") for start, end in spans]


def _parse(where: str, text: str, with_sentence: bool) -> Clip:
    parts = text.split("\t")
    try:
        video, start, end = parts[0].strip(), float(parts[1]), float(parts[2])
    except (IndexError, ValueError):
        video, start, end = "", math.nan, math.nan
    complete = len(parts) in ((4,) if with_sentence else (3, 4))
    if not (complete and video and 0 <= start < math.inf and 0 <= end < math.inf):
        raise DataError(f"{where}: expected 'video<tab>start<tab>end<tab>sentence', got {text!r}")
    return Clip(video, start, end, parts[3].strip() if len(parts) == 4 else "", where)


def _load(file: Path) -> np.ndarray:
    if file.suffix.lower() == ".npy":
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not a readable .npy file ({error})") from error
    rows = safe_pickle.load(file, encoding="latin1")
    if not isinstance(rows, np.ndarray):
        raise DataError(f"{file}: expected an array [rows, feature], got {type(rows).__name__}")
    return rows
