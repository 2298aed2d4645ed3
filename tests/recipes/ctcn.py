"""C-TCN at a sixteenth of its width on eight short videos; no dropout, whose draws a Program orders anew."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import yaml

NUM_ACTIONS, WIDTH, STEPS = 3, 4, 64  # classes without the background, features of a stream, time steps


def features(folder: Path, num_videos: int = 8) -> Path:
    """``feats/{rgb,flow}/*.pkl``, ``all.listformat``, ``labels.txt``, ``durations.list``; returns ``feats``.

    Rows of another length in each stream; every second pickle is one of Python 2.
    """
    rng = np.random.default_rng(0)
    lines, durations = [], []
    for i in range(num_videos):
        name, frames = f"v_{i}", 40 + 3 * i
        kind, start = i % NUM_ACTIONS, 4 + i
        end = start + 14
        for j, stream in enumerate(("rgb", "flow")):
            scores = rng.uniform(0.0, 0.3, (frames + j, WIDTH)).astype(np.float32)
            scores[start:end, kind] += 1.0
            path = folder / "feats" / stream / f"{name}.pkl"
            path.parent.mkdir(parents=True, exist_ok=True)
            record = {b"scores" if i % 2 else "scores": scores}
            path.write_bytes(pickle.dumps(record, protocol=2))
        lines.append(f"{name} {frames} 1 {kind + 1} {start:.2f} {end:.2f}")
        durations.append(f"{name} {frames * 25} {frames * 1.5}")
    (folder / "all.listformat").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "durations.list").write_text("\n".join(durations) + "\n", encoding="utf-8")
    names = [f"action {number}" for number in range(NUM_ACTIONS)]
    (folder / "labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder / "feats"


def tiny(folder: Path, **overrides: dict) -> Path:
    root = features(folder)
    listed = folder / "all.listformat"
    odd = folder / "odd.listformat"  # 7 videos: two processes have shares of different size
    lines = listed.read_text(encoding="utf-8").splitlines(keepends=True)
    odd.write_text("".join(lines[:7]), encoding="utf-8")
    streams = {"rgb": "rgb", "flow": "flow", "num_threads": 0}
    recipe = {
        "MODEL": {
            "name": "CTCN",
            "num_classes": NUM_ACTIONS + 1,
            "img_size": STEPS,
            "concept_size": 2 * WIDTH,
            "num_anchors": 7,
            "total_num_anchors": 7 * (16 + 8 + 4 + 2 + 1 + 1 + 1 + 1),
            "snippet_length": 1,
            "root": str(root),
            "channels": 4,
            "dropout_rate": 0.0,
        },
        "TRAIN": {
            **streams,
            "epoch": 2,
            "filelist": str(listed),
            "batch_size": 4,
            "learning_rate": 0.001,
            "learning_rate_decay": 0.1,
            "lr_decay_iter": 3,
            "l2_weight_decay": "1e-4",
            "momentum": 0.9,
        },
        "VALID": {**streams, "filelist": str(odd), "batch_size": 4},
        "TEST": {
            **streams,
            "filelist": str(odd),
            "class_label_file": str(folder / "labels.txt"),
            "video_duration_file": str(folder / "durations.list"),
            "batch_size": 3,
            "score_thresh": 0.001,
            "nms_thresh": 0.8,
            "sigma_thresh": 0.9,
            "soft_thresh": 0.004,
        },
        "INFER": {**streams, "filelist": str(odd), "batch_size": 1},
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
