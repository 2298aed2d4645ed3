"""AttentionLSTM on records of made-up features, whose two streams differ in length."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import yaml


def records(folder: Path, count: int, seed: int = 0) -> Path:
    """A pickle of ``count`` videos of 5 classes and the list that names it."""
    rng = np.random.default_rng(seed)
    videos = []
    for i in range(count):
        rows = int(rng.integers(3, 8))
        rgb = rng.integers(0, 256, (rows, 6), dtype=np.uint8)
        rgb[:, i % 5] = 255
        audio = rng.integers(0, 256, (rows - 1, 4), dtype=np.uint8)
        video = {"video": f"v{i}", "feature": rgb, "audio": audio, "label": [i % 5], "nframes": rows}
        videos.append(video)
    path = folder / f"features{count}.pkl"
    path.write_bytes(pickle.dumps(videos))
    listed = folder / f"features{count}.list"
    listed.write_text(f"{path}\n", encoding="utf-8")
    return listed


def tiny(folder: Path, **overrides: dict) -> Path:
    train, odd = records(folder, 8), records(folder, 7, seed=1)
    recipe = {
        "MODEL": {
            "name": "AttentionLSTM",
            "feature_names": ["rgb", "audio"],
            "feature_dims": [6, 4],
            "embedding_size": 8,
            "lstm_size": 8,
            "classifier_sizes": [16, 16],
            "drop_rate": 0.0,  # each process of two draws its own
            "num_classes": 5,
            "topk": 2,
        },
        "TRAIN": {
            "filelist": str(train),
            "epoch": 2,
            "batch_size": 4,
            "learning_rate": 0.001,
            "decay_epochs": [1],
            "num_samples": 8,
        },
        "VALID": {"filelist": str(odd), "batch_size": 4},
        "TEST": {"filelist": str(odd), "batch_size": 3},
        "INFER": {"filelist": str(odd), "batch_size": 1},
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
