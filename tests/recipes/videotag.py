"""VideoTag on moving squares with one or two tags each."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests import synthetic


def tagged(folder: Path, count: int) -> Path:
    """``count`` videos of 4 tags; a line of the list is ``path tag`` or ``path tag tag``."""
    lines = synthetic.video_set(folder).read_text(encoding="utf-8").splitlines()[:count]
    listed = folder / f"tagged{count}.list"
    text = "".join(f"{line}{' 3' if i % 3 == 0 else ''}\n" for i, line in enumerate(lines))
    listed.write_text(text, encoding="utf-8")
    return listed


def tiny(folder: Path, **overrides: dict) -> Path:
    train, odd = tagged(folder, 8), tagged(folder, 7)
    recipe = {
        "MODEL": {
            "name": "VideoTag",
            "format": "video",
            "num_layers": 18,
            "seg_num": 3,
            "short_size": 40,
            "target_size": 32,
            "embedding_size": 8,
            "lstm_size": 8,
            "classifier_sizes": [16, 16],
            "drop_rate": 0.0,
            "num_classes": 4,
            "topk": 2,
        },
        "TRAIN": {"filelist": str(train), "epoch": 2, "batch_size": 4, "decay_epochs": [1], "num_samples": 8},
        "VALID": {"filelist": str(odd), "batch_size": 4},
        "TEST": {"filelist": str(odd), "batch_size": 3},
        "INFER": {"filelist": str(odd), "batch_size": 1, "result_path": str(folder / "results")},
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
