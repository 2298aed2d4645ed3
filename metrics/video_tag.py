"""Predictions of VideoTag in the form of 2020: a file a video, and a web page of frames and tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from metrics.topk import TopKAccuracy
from metrics.youtube8m import YouTube8M
from utils import files, web_page
from utils.config import key


class _TagRecords:
    """Records with ``"video_id"``, the file's name; printed and written as VideoTag did."""

    def decode(self, outputs: dict[str, np.ndarray], batch: dict[str, Any]) -> list[dict[str, Any]]:
        """One record a video: ``"video"``, ``"video_id"``, and ``"topk"`` as for other classifiers."""
        records = super().decode(outputs, batch)
        ids = batch.get("video_id", batch["video"])
        return [
            {"video": record["video"], "video_id": video_id, "topk": record["topk"]}
            for record, video_id in zip(records, ids, strict=True)
        ]

    def describe(self, record: dict[str, Any]) -> str:
        lines = [f"[========video_id [ {record['video_id']} ] , topk({len(record['topk'])}) preds: ========]"]
        lines += [
            f"class_id: {entry['class_id']}, class_name: {entry['class_name']} ,  "
            f"probability:  {entry['probability']}"
            for entry in record["topk"]
        ]
        return "\n".join(lines)

    def write_results(self, save_dir: str | None, records: list[dict] | None = None) -> list[Path]:
        """``result<i>.json`` for the i-th video of the list: its id, then its tags. None for a failed one."""
        folder, written = Path(save_dir or self.config.result_path), []
        for i, record in enumerate(records or []):
            if "error" not in record:
                written.append(folder / f"result{i}.json")
                files.write_json(written[-1], [record["video_id"], *record["topk"]])
        return written


class VideoTags(_TagRecords, YouTube8M):
    """Tags of AttentionLSTM and of both stages; scores as for YouTube-8M."""

    class Config(YouTube8M.Config):
        num_classes: int = key(3396, gt=0)
        result_path: str = key("data/predict_results", "INFER")
        # The reader's, undone in pages; features have none.
        image_mean: list[float] = key([0.485, 0.456, 0.406], min_length=3, max_length=3)
        image_std: list[float] = key([0.229, 0.224, 0.225], min_length=3, max_length=3)

    def page(self, record: dict[str, Any], sample: dict[str, Any]) -> str:
        """A record as an HTML page; ``sample["image"]`` is (S, 3 * seglen, H, W) float32, if it has one."""
        image = sample.get("image", np.zeros((0, 3, 1, 1), np.float32))
        frames = image.reshape(-1, 3, *image.shape[-2:])
        return web_page.tags(record, frames, self.config.image_mean, self.config.image_std)


class VideoClasses(_TagRecords, TopKAccuracy):
    """One class a video: the TSN of the first stage."""

    class Config(TopKAccuracy.Config):
        result_path: str = key("data/predict_results", "INFER")
