"""Small made-up data: videos, pickled JPEGs, lists and recipes that run in a moment."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image


def frames(num_frames: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """A moving bright square on a coloured ground: ``(T, H, W, 3)`` uint8 RGB."""
    rng = np.random.default_rng(seed)
    clip = np.empty((num_frames, height, width, 3), np.uint8)
    clip[:] = rng.integers(30, 120, 3)
    side, colour = height // 4, rng.integers(150, 255, 3)
    for t in range(num_frames):
        x = (t * 3 + seed * 5) % (width - side)
        clip[t, side : 2 * side, x : x + side] = colour
    return clip


def write_video(path: Path, clip: np.ndarray, fps: float = 25.0) -> Path:
    """An MPEG-4 file of ``clip`` ``(T, H, W, 3)`` RGB."""
    height, width = clip.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (width, height))
    assert writer.isOpened()
    for image in clip:
        writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def write_pickle(path: Path, clip: np.ndarray, label: int, protocol: int = 2) -> Path:
    """``(id, label, [jpeg, …])`` as 2019's conversion wrote it."""
    jpegs = []
    for image in clip:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
        jpegs.append(buffer.getvalue())
    path.write_bytes(pickle.dumps((f"./{path.stem}", label, jpegs), protocol=protocol))
    return path


def video_set(folder: Path, num_videos: int = 8, num_classes: int = 4, num_frames: int = 12) -> Path:
    """``num_videos`` mp4 files and ``all.list`` with ``path label`` lines; returns the list."""
    lines = []
    for i in range(num_videos):
        path = write_video(folder / f"clip {i}.mp4", frames(num_frames, seed=i))
        lines.append(f"{path} {i % num_classes}")
    listed = folder / "all.list"
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return listed


def tiny_tsn(folder: Path, listed: Path, **overrides: dict) -> Path:
    """A TSN recipe of 2019's form for the videos of ``listed``: ResNet-18 at 32 px, 4 classes."""
    common = {"short_size": 40, "target_size": 32, "num_reader_threads": 0, "filelist": str(listed)}
    recipe = {
        "MODEL": {
            "name": "TSN",
            "format": "mp4",
            "num_classes": 4,
            "seg_num": 2,
            "seglen": 1,
            "image_mean": [0.485, 0.456, 0.406],
            "image_std": [0.229, 0.224, 0.225],
            "num_layers": 18,
            "topk": 2,
        },
        "TRAIN": {
            **common,
            "epoch": 2,
            "batch_size": 4,
            "learning_rate": 0.01,
            "learning_rate_decay": 0.1,
            "l2_weight_decay": "1e-4",
            "momentum": 0.9,
            "total_videos": 8,
        },
        "VALID": {**common, "batch_size": 4},
        "TEST": {**common, "batch_size": 3},
        "INFER": {**common, "batch_size": 1, "video_path": ""},
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
