"""Windows of movies and sentences for TALL (TACoS); the files are described in ``reader.common.moments``.

TRAIN and VALID: pairs of a window and a sentence of the same movie whose moment it covers: their
intersection over union is above 0.5, and less than 0.15 of the window is outside of the moment.
TEST and INFER: a movie, all its windows and all its sentences.
"""

from __future__ import annotations

import logging
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from paddle.io import Dataset

from reader.common import moments
from utils.config import MODE, Config, key
from utils.errors import ConfigError, DataError

log = logging.getLogger(__name__)

LEAST_IOU, MOST_OUTSIDE = 0.5, 0.15  # of a training pair, both exclusive


@dataclass(frozen=True)
class Block:
    """Sentences ``first`` to ``last`` (exclusive) of a movie, scored at once."""

    movie: str
    first: int
    last: int


class TALLReader(Dataset):
    """Features of a window are ``[left context | window | right context]``, 3 D float32.

    TRAIN and VALID: ``visual`` (3 D,), ``sentences`` (E,) float32, ``offsets`` (2,) float32, start and end of
    the moment minus those of the window in frames; ``video``, the window's file. VALID is in a fixed,
    shuffled order, because the pairs of a batch are each other's negatives.

    TEST and INFER: ``visual`` (W, 3 D), ``sentences`` (S, E), ``windows`` (W, 2) and ``moments`` (S, 2)
    float64 frames, NaN where unknown; ``texts``; ``first``, the number of the first sentence; ``fps`` and
    ``num_frames``, NaN where unknown; ``video``, the movie. A movie of more than ``max_pairs`` windows times
    sentences is several samples. ``collate`` puts windows and sentences of a batch behind one another.

    Raises DataError for lists and sentence files (file and entry), and per sample for a feature file that
    cannot be read and a movie without windows; ConfigError where sizes do not fit together.
    """

    class Config(Config):
        feats_dimen: int = key(4096, gt=0)  # D
        context_num: int = key(1, ge=1)  # windows on each side
        context_size: int = key(128, gt=0)  # frames
        sent_vec_dim: int = key(4800, gt=0)  # E in training
        semantic_size: int | None = key(None, MODE, gt=0)  # E in TEST and INFER, where it is given
        sliding_clip_path: str = key("")  # folder of windows
        clip_sentvec: str = key("")  # file of sentences
        movie_length_info: str = key("", MODE, "TRAIN")
        visual_feature_dim: int = key(12288, "MODEL", gt=0)
        sentence_embedding_size: int = key(4800, "MODEL", gt=0)
        filelist: str = key("", "INFER")
        video_path: str = key("", "INFER")
        fps: float | str | None = key(None)  # of all movies, or a JSON file movie -> fps
        cache_mb: int = key(512, ge=0)  # features kept in memory, each reader process
        max_pairs: int = key(131072, gt=0)  # scored at once; about 8 kB each at the size of 2019

    def __init__(self, config: TALLReader.Config, mode: str, seed: int = 0) -> None:
        super().__init__()
        self.config, self.mode, self.seed = config, mode, seed
        self.retrieves = mode in ("TEST", "INFER")
        self.whole_batches = not self.retrieves  # the pairs of a batch are each other's negatives
        size = config.sent_vec_dim
        if self.retrieves and config.semantic_size is not None:
            size = config.semantic_size
        if config.visual_feature_dim != 3 * config.feats_dimen:
            raise ConfigError(
                f"MODEL.visual_feature_dim is {config.visual_feature_dim}, expected 3 x {mode}.feats_dimen = "
                f"{3 * config.feats_dimen}: left context, window, right context"
            )
        if config.sentence_embedding_size != size:
            name = "semantic_size" if self.retrieves and config.semantic_size is not None else "sent_vec_dim"
            raise ConfigError(
                f"MODEL.sentence_embedding_size is {config.sentence_embedding_size}, expected "
                f"{mode}.{name} = {size}"
            )
        self.folder, self.file = _sources(config, mode)
        self.movies = moments.list_windows(self.folder)
        self.sentences: dict[str, list[moments.Sentence]] = {}
        for sentence in moments.read_sentences(self.file, size):
            if mode != "INFER" and math.isnan(sentence.start):
                raise DataError(f'{sentence.where}: "start" and "end" are missing; {mode} needs them')
            self.sentences.setdefault(sentence.movie, []).append(sentence)
        self.contexts: dict[str, np.ndarray] = {}
        self.features = moments.Features(self.folder, config.feats_dimen, config.cache_mb * 2**20)
        if self.retrieves:
            self.blocks = self._blocks()
            self.rates = moments.read_rates(config.fps)
            lengths = config.movie_length_info
            self.lengths = moments.read_lengths(lengths) if os.path.isfile(lengths) else {}
        else:
            self.names = sorted(self.movies)
            self.pairs = self._pairs()
            log.info("%s: %d pairs of a window and a sentence", mode, len(self.pairs))

    @staticmethod
    def example(config: TALLReader.Config) -> dict[str, np.ndarray]:
        """A batch of one window and one sentence of zeros: shapes and types that the network is given."""
        return {
            "visual": np.zeros((1, config.visual_feature_dim), np.float32),
            "sentences": np.zeros((1, config.sentence_embedding_size), np.float32),
        }

    def __len__(self) -> int:
        return len(self.blocks if self.retrieves else self.pairs)

    def describe(self, index: int) -> str:
        if self.retrieves:
            return self.blocks[index].movie
        movie, window, _ = self._pair(index)
        return os.path.join(self.folder, self.movies[movie].names[window])

    def set_epoch(self, epoch: int) -> None:
        """Nothing is drawn at random."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._movie(self.blocks[index]) if self.retrieves else self._window(index)

    # ---- pairs ---------------------------------------------------------------------------------

    def _pairs(self) -> np.ndarray:
        """``(P, 3)``: movie, window and sentence, in the order of window files, then of sentences."""
        found = []
        order = {name: i for i, name in enumerate(sorted(n for m in self.movies.values() for n in m.names))}
        for number, movie in enumerate(self.names):
            spans = np.array(self.movies[movie].spans, np.float64)  # (W, 2)
            truth = np.array([(s.start, s.end) for s in self.sentences.get(movie, ())])
            truth = truth.reshape(-1, 2)  # (S, 2)
            window, sentence = np.nonzero(covers(spans, truth))
            file = np.array([order[name] for name in self.movies[movie].names])[window]
            found.append(np.stack([file, np.full_like(window, number), window, sentence], axis=1))
        pairs = np.concatenate(found)
        pairs = pairs[np.lexsort((pairs[:, 3], pairs[:, 0]))][:, 1:]
        if not len(pairs):
            raise DataError(
                f"{self.folder} and {self.file}: no window covers a sentence's moment (IoU above "
                f"{LEAST_IOU}, less than {MOST_OUTSIDE} of it outside); are movies called the same in both?"
            )
        if self.mode == "VALID":
            places = list(range(len(pairs)))
            random.Random(0).shuffle(places)
            pairs = pairs[places]
        return pairs

    def _pair(self, index: int) -> tuple[str, int, int]:
        movie, window, sentence = self.pairs[index].tolist()
        return self.names[movie], window, sentence

    def _window(self, index: int) -> dict[str, Any]:
        movie, window, number = self._pair(index)
        names, (start, end) = self.movies[movie].names, self.movies[movie].spans[window]
        sides = [
            np.mean([self.features(names[i]) for i in side], axis=0) for side in self._contexts(movie)[window]
        ]
        sentence = self.sentences[movie][number]
        return {
            "visual": np.concatenate([sides[0], self.features(names[window]), sides[1]]),
            "sentences": sentence.vector,
            "offsets": np.array([sentence.start - start, sentence.end - end], np.float32),
            "video": os.path.join(self.folder, names[window]),
        }

    def _contexts(self, movie: str) -> np.ndarray:
        if movie not in self.contexts:
            config, spans = self.config, self.movies[movie].spans
            self.contexts[movie] = moments.contexts(spans, config.context_num, config.context_size)
        return self.contexts[movie]

    # ---- movies --------------------------------------------------------------------------------

    def _blocks(self) -> list[Block]:
        blocks = []
        for movie, sentences in self.sentences.items():
            windows = len(self.movies[movie].names) if movie in self.movies else 1
            step = max(1, self.config.max_pairs // windows)
            blocks += [
                Block(movie, first, min(first + step, len(sentences)))
                for first in range(0, len(sentences), step)
            ]
        return blocks

    def _movie(self, block: Block) -> dict[str, Any]:
        movie = block.movie
        if movie not in self.movies:
            raise DataError(
                f"{movie}: {self.folder} has no window of this movie, which {self.file} has "
                f"{len(self.sentences[movie])} sentences for"
            )
        clips = np.stack([self.features(name) for name in self.movies[movie].names])  # (W, D)
        left, right = clips[self._contexts(movie)].mean(axis=2).transpose(1, 0, 2)  # (W, D) each
        sentences = self.sentences[movie][block.first : block.last]
        windows = np.array(self.movies[movie].spans, np.float64)
        return {
            "visual": np.concatenate([left, clips, right], axis=1),  # (W, 3 D)
            "sentences": np.stack([sentence.vector for sentence in sentences]),  # (S, E)
            "windows": windows,
            "moments": np.array([(s.start, s.end) for s in sentences], np.float64),
            "texts": [sentence.text for sentence in sentences],
            "first": block.first,
            "fps": float(moments.of_movie(self.rates, movie)),
            "num_frames": float(moments.of_movie(self.lengths, movie)),
            "video": movie,
        }

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Pairs are stacked; of movies, rows are put behind one another, and counted."""
        columns = {name: [sample[name] for sample in samples] for name in samples[0]}
        if not self.retrieves:
            arrays = ("visual", "sentences", "offsets")
            return {**{name: np.stack(columns[name]) for name in arrays}, "video": columns["video"]}
        numbers = {name: np.array(columns[name]) for name in ("first", "fps", "num_frames")}
        counts = {
            "num_windows": np.array([len(rows) for rows in columns["windows"]]),
            "num_sentences": np.array([len(rows) for rows in columns["moments"]]),
        }
        arrays = ("visual", "sentences", "windows", "moments")
        return {**columns, **{name: np.concatenate(columns[name]) for name in arrays}, **numbers, **counts}


def covers(windows: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Which windows ``(W, 2)`` are positive examples of which moments ``(S, 2)``: ``(W, S)`` bool."""
    start = np.maximum(windows[:, None, 0], truth[None, :, 0])
    end = np.minimum(windows[:, None, 1], truth[None, :, 1])
    first = np.minimum(windows[:, None, 0], truth[None, :, 0])
    last = np.maximum(windows[:, None, 1], truth[None, :, 1])
    length = (windows[:, 1] - windows[:, 0])[:, None]
    common = end - start
    return (common / (last - first) > LEAST_IOU) & ((length - common) / length < MOST_OUTSIDE)


def _sources(config: TALLReader.Config, mode: str) -> tuple[str, str]:
    """Folder of windows and file of sentences. In INFER ``filelist`` and ``video_path`` win.

    ``filelist`` is a folder with ``infer_feat`` and ``infer_clip-sen.pkl``, as ``gen_infer.py`` makes it, or
    a file of sentences; ``video_path`` is a folder of windows.
    """
    folder, file = config.sliding_clip_path, config.clip_sentvec
    if mode == "INFER" and config.filelist:
        inside = [os.path.join(config.filelist, name) for name in ("infer_feat", "infer_clip-sen.pkl")]
        if os.path.isdir(inside[0]) and os.path.isfile(inside[1]):
            folder, file = inside
        elif os.path.isfile(config.filelist):
            file = config.filelist
        else:
            log.warning(
                "INFER.filelist: %s is neither a file of sentences nor a folder with infer_feat and "
                "infer_clip-sen.pkl; INFER.sliding_clip_path and INFER.clip_sentvec are read",
                config.filelist,
            )
    if mode == "INFER" and config.video_path:
        folder = config.video_path
    for name, value in (("sliding_clip_path", folder), ("clip_sentvec", file)):
        if not value:
            raise DataError(f"{mode}.{name} is not given")
    log.info("%s: windows of %s, sentences of %s", mode, folder, file)
    return folder, file
