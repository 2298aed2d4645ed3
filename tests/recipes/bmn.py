"""BMN on a grid of 12 snippets: 8 videos to train on, 7 to validate; longest window 10 snippets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

FEATURES, STEPS = 8, 12


def videos(folder: Path, num_train: int = 8, num_validation: int = 7) -> Path:
    """``features/*.npy``, ``annotations.json`` and ``infer.list`` of made-up videos; returns ``features``.

    An action raises two of the features; one video of training and one of validation has none.
    """
    rng = np.random.default_rng(0)
    features = folder / "features"
    features.mkdir(parents=True)
    annotations = {}
    for i in range(num_train + num_validation):
        name, seconds = f"v_{i:02d}", 30.0 + i
        values = rng.normal(0.0, 0.3, (STEPS, FEATURES)).astype(np.float32)
        segments = [] if i in (3, num_train + 2) else [(1 + i % 3, 5 + i % 5), (9.5, 11.0)]
        for start, end in segments:
            values[int(start) : int(end), :2] += 1.0
        np.save(features / f"{name}.npy", values)
        step = seconds / STEPS
        annotations[name] = {
            "duration_second": seconds,
            "subset": "training" if i < num_train else "validation",
            "duration_frame": int(seconds * 25),
            "annotations": [{"segment": [a * step, b * step], "label": "moving"} for a, b in segments],
            "feature_frame": int(seconds * 25),
        }
    (folder / "annotations.json").write_text(json.dumps(annotations), encoding="utf-8")
    listed = {name: about for name, about in annotations.items() if about["subset"] == "validation"}
    (folder / "infer.list").write_text(json.dumps(listed), encoding="utf-8")
    return features


def tiny(folder: Path, **overrides: dict) -> Path:
    features = videos(folder)
    recipe: dict[str, dict] = {
        "MODEL": {
            "name": "BMN",
            "tscale": STEPS,
            "dscale": 10,
            "feat_dim": FEATURES,
            "prop_boundary_ratio": 0.5,
            "num_sample": 4,
            "num_sample_perbin": 3,
            "anno_file": str(folder / "annotations.json"),
            "feat_path": str(features),
        },
        "TRAIN": {
            "subset": "train",
            "epoch": 2,
            "batch_size": 4,
            "num_threads": 0,
            "learning_rate": 0.0003,
            "learning_rate_decay": 0.1,
            "lr_decay_iter": 3,
            "l2_weight_decay": "1e-4",
        },
        "VALID": {"subset": "validation", "batch_size": 4, "num_threads": 0},
        "TEST": {
            "subset": "validation",
            "batch_size": 1,  # losses are means over batches: they depend on how videos are batched
            "num_threads": 0,
            "output_path": str(folder / "eval" / "BMN_results"),
            "result_path": str(folder / "eval"),
        },
        "INFER": {
            "subset": "test",
            "batch_size": 2,
            "num_threads": 0,
            "filelist": str(folder / "infer.list"),
            "output_path": str(folder / "infer" / "BMN_results"),
            "result_path": str(folder / "infer"),
        },
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
