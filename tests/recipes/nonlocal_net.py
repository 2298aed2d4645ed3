"""Non-local on eight moving squares: a thin C2D ResNet-50, three clips a video in evaluation."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests import synthetic


def tiny(folder: Path, **overrides: dict) -> Path:
    listed = synthetic.video_set(folder)
    odd = listed.read_text(encoding="utf-8").splitlines()[:7]  # two processes have shares of different size
    videos = folder / "odd.list"
    videos.write_text("\n".join(odd) + "\n", encoding="utf-8")
    clips = folder / "clips.list"
    clips.write_text(
        "".join(
            f"{line.rpartition(' ')[0]} {index} 0 {crop}\n"
            for index, line in enumerate(odd)
            for crop in range(3)
        ),
        encoding="utf-8",
    )
    common = {
        "num_reader_threads": 0,
        "crop_size": 48,
        "sample_rate": 2,
        "video_length": 4,
        "jitter_scales": [48, 56],
    }
    scored = {**common, "filelist": str(clips), "num_test_clips": 3, "use_multi_crop": 1}
    recipe = {
        "MODEL": {
            "name": "NONLOCAL",
            "num_classes": 4,
            "image_mean": 114.75,
            "image_std": 57.375,
            "depth": 50,
            "video_arc_choice": 1,
            "frozen_bn": True,
            "bn_init_gamma": 0.1,
            "topk": 2,
        },
        "RESNETS": {"width_per_group": 8},
        "NONLOCAL": {"layer_mod": 4, "bn_init_gamma": 0.1},
        "TRAIN": {
            **common,
            "epoch": 2,
            "batch_size": 4,
            "filelist": str(listed),
            "dropout_rate": 0.5,
            "learning_rate": 0.0002,
            "learning_rate_decay": 0.1,
            "step_sizes": [3, 2],
        },
        "VALID": {**common, "batch_size": 4, "filelist": str(videos)},
        "TEST": {**scored, "batch_size": 5, "filename_gt": str(videos), "dataset_size": 7},
        "INFER": {**scored, "batch_size": 1, "video_path": ""},
    }
    for section, keys in overrides.items():
        recipe.setdefault(section, {}).update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
