"""Accuracy of videos that are scored by many clips: the probabilities of a video's clips are summed."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from metrics.topk import TopKAccuracy
from utils import visualize
from utils.config import MODE, key
from utils.errors import ConfigError, DataError

log = logging.getLogger(__name__)
NAMED = 8  # videos named in one line of the log


class MultiCropAccuracy(TopKAccuracy):
    """In TRAIN and VALID, where ``batch["label"]`` is given, top-1 and top-5 accuracy of single clips.

    Otherwise a sample is one clip: ``batch["video_index"]`` (N, 1) is the number of its video, a line of
    ``filename_gt`` (``path label``), and ``batch["clip"]`` (N, 1) its number there. ``result`` holds
    percentages: ``top1_acc`` and ``top5_acc`` of the videos scored, by the sums over their clips;
    ``clip_acc`` of all clips, ``clip1_acc`` of each video's first. A video's clips beyond
    ``num_test_clips`` are skipped.

    Raises ConfigError for a ``filename_gt`` that is missing or shorter than ``dataset_size``, DataError
    for a video index beyond it.
    """

    class Config(TopKAccuracy.Config):
        topk: int = key(20, gt=0)
        image_mean: float = key(114.75)  # the reader's, undone in pictures
        image_std: float = key(57.375, gt=0)
        num_test_clips: int = key(30, MODE, "TEST", gt=0)
        dataset_size: int | None = key(None, MODE, gt=0)  # videos; those missing count as wrong
        filename_gt: str = key("", MODE)
        checkpoint_dir: str = key("", MODE)  # of 2019, which wrote nothing there either

    def __init__(self, config: MultiCropAccuracy.Config) -> None:
        self.videos = read_videos(config.filename_gt) if config.filename_gt else []
        if config.dataset_size and config.filename_gt and config.dataset_size > len(self.videos):
            raise ConfigError(
                f"TEST.dataset_size is {config.dataset_size}, but TEST.filename_gt, {config.filename_gt}, "
                f"has {len(self.videos)} videos"
            )
        self.num_videos = config.dataset_size or len(self.videos)
        super().__init__(config)

    def reset(self) -> None:
        super().reset()
        self.sums_of: dict[int, np.ndarray] = {}  # video -> summed probabilities (K,)
        self.num_clips_of: dict[int, int] = {}
        self.first_of: dict[int, tuple[int, bool]] = {}  # video -> its lowest clip number, right
        self.num_clips = self.clip_hits = 0

    def update(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> None:
        if "video_index" not in batch:
            super().update(outputs, batch)
            return
        indices, clips = (np.asarray(batch[name]).reshape(-1) for name in ("video_index", "clip"))
        for row, video, clip in zip(outputs["probability"], indices.tolist(), clips.tolist(), strict=True):
            self._add(video, clip, np.asarray(row, np.float64))

    def _add(self, video: int, clip: int, probability: np.ndarray) -> None:
        if not 0 <= video < self.num_videos:
            raise DataError(
                f"TEST.filelist has a video {video}, but there are {self.num_videos} "
                "(lines of TEST.filename_gt, TEST.dataset_size)"
            )
        count = self.num_clips_of.get(video, 0)
        if count == self.config.num_test_clips:
            log.warning("%s has more than %d clips: the others are skipped", self.videos[video][0], count)
            return
        hit = int(np.argmax(probability)) == self.videos[video][1]
        self.clip_hits += hit
        self.first_of[video] = min(self.first_of.get(video, (clip, hit)), (clip, hit))
        self.sums_of[video] = self.sums_of.get(video, 0.0) + probability
        self.num_clips_of[video] = count + 1
        self.num_clips += 1

    def running(self) -> dict[str, float]:
        """For a line of the log: videos seen, and the accuracy of clips so far."""
        if not self.sums_of:
            return super().result()
        return {"videos": len(self.sums_of), "clip_acc": 100.0 * self.clip_hits / self.num_clips}

    def result(self) -> dict[str, float]:
        """Percentages over what was scored; empty before the first sample."""
        if not self.sums_of:
            return super().result()
        total = len(self.sums_of)
        labels = np.array([self.videos[video][1] for video in self.sums_of])
        hits = self._rank(np.stack(list(self.sums_of.values())), 5) == labels[:, None]  # (videos, 5)
        return {
            "top1_acc": 100.0 * float(hits[:, 0].sum()) / total,
            "top5_acc": 100.0 * float(hits.sum()) / total,
            "clip_acc": 100.0 * self.clip_hits / self.num_clips,
            "clip1_acc": 100.0 * sum(hit for _, hit in self.first_of.values()) / total,
        }

    def result_with_failures(self, num_failed: int) -> dict[str, float]:
        """Accuracies of videos over all that there are: the figures of 2019."""
        if not self.num_videos:
            return super().result_with_failures(num_failed)
        share = len(self.sums_of) / self.num_videos
        return {name: value * share for name, value in self.result().items() if name.startswith("top")}

    def per_video(self, failed: list[dict[str, Any]]) -> tuple[int, list[dict[str, Any]]]:
        """How many videos there are, and those without a score: unreadable, or without a clip."""
        unscored = {record["video"]: record for record in failed}
        some = []
        for video, (name, _) in enumerate(self.videos[: self.num_videos]):
            count = self.num_clips_of.get(video, 0)
            if not count:
                unscored.setdefault(name, {"video": name, "error": f"{name}: no clip of it was scored"})
            elif count < self.config.num_test_clips:
                some.append(name)
        if some:
            more = f" and {len(some) - NAMED} more" if len(some) > NAMED else ""
            names = ", ".join(some[:NAMED])
            log.warning("fewer than %d clips (num_test_clips): %s%s", self.config.num_test_clips, names, more)
        return self.num_videos, list(unscored.values())

    def state(self) -> tuple:
        return super().state(), self.sums_of, self.num_clips_of, self.first_of, self.clip_hits

    def merge(self, states: list[tuple]) -> None:
        super().merge([state[0] for state in states])
        plain = dict(self.sums), self.num_samples
        self.reset()
        self.sums, self.num_samples = plain
        for _, sums_of, num_clips_of, first_of, clip_hits in states:
            self.num_clips += sum(num_clips_of.values())
            self.clip_hits += clip_hits
            for video, summed in sums_of.items():
                self.sums_of[video] = self.sums_of.get(video, 0.0) + summed
                self.num_clips_of[video] = self.num_clips_of.get(video, 0) + num_clips_of[video]
                self.first_of[video] = min(self.first_of.get(video, first_of[video]), first_of[video])

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a clip, for ``combine``: as ``TopKAccuracy``'s, and its probabilities (K,)."""
        clips = np.asarray(batch["clip"]).reshape(-1).tolist()
        rows = np.asarray(outputs["probability"])
        records = super().decode(outputs, batch)
        return [
            {**record, "clip": clip, "probabilities": row}
            for record, clip, row in zip(records, clips, rows, strict=True)
        ]

    def parts(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        """What is drawn: of a video, its first clip."""
        return [record] if record["clip"] == 0 else []

    def combine(self, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One record a video, in the order of the list: the mean of its clips; an error if one failed."""
        of_video: dict[str, list[dict[str, Any]]] = {}
        for record in records:
            of_video.setdefault(record["video"], []).append(record)
        return [self._combined(video, clips) for video, clips in of_video.items()]

    def _combined(self, video: str, clips: list[dict[str, Any]]) -> dict[str, Any]:
        failed = [clip for clip in clips if "error" in clip]
        if failed:
            return failed[0]
        limit = self.config.num_test_clips
        if len(clips) > limit:
            log.warning("%s has more than %d clips: the others are skipped", video, limit)
        rows = [clip["probabilities"] for clip in clips[:limit]]
        (record,) = super().decode(
            {"probability": np.mean(rows, axis=0, dtype=np.float64)[None]}, {"video": [video]}
        )
        pictures = [clip["picture"] for clip in clips if "picture" in clip]
        return {**record, "picture": pictures[0]} if pictures else record

    def describe(self, record: dict[str, Any]) -> str:
        lines = [f"video {record['video']}, topk({len(record['topk'])}) preds:"]
        lines += [
            f"\t    class: {entry['class_name']},  probability  {entry['probability']}"
            for entry in record["topk"]
        ]
        return "\n".join(lines)

    def draw(self, figure: Any, record: dict[str, Any], sample: dict[str, Any]) -> None:
        """The frames of a clip above its classes; ``sample["image"]`` is (3, T, H, W) float32."""
        frames = sample["image"].transpose(1, 0, 2, 3)  # (T, 3, H, W)
        mean, std = self.config.image_mean / 255, self.config.image_std / 255
        visualize.classification(figure, record, frames, [mean] * 3, [std] * 3)


def read_videos(file: str) -> list[tuple[str, int]]:
    """``(path, label)`` of every line of a list. Raises ConfigError."""
    try:
        with open(file, encoding="utf-8-sig") as opened:
            lines = [line.strip() for line in opened if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot read the labels of the videos: {error}") from error
    videos = []
    for number, line in enumerate(lines, 1):
        parts = line.rsplit(None, 1)
        if len(parts) != 2 or not parts[1].isdigit():
            raise ConfigError(f"{file}:{number}: expected 'path label', got {line!r}")
        videos.append((parts[0], int(parts[1])))
    return videos
