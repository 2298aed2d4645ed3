"""AttentionCluster on sixteen made-up videos."""

from __future__ import annotations

from pathlib import Path

from tests import youtube8m


def tiny(folder: Path, **overrides: dict) -> Path:
    model = {"feature_dims": [8, 4], "cluster_nums": [2, 2], "seg_num": 6}
    train = {"learning_rate": 1e-4}
    return youtube8m.write_recipe(folder, "AttentionCluster", {"MODEL": model, "TRAIN": train}, overrides)
