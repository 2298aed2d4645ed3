"""TALL on made-up cooking movies: 4 to train on, 3 to search."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import yaml

from data.dataset.tall import make_set

FEATURES, WORDS = 8, 12


def movies(folder: Path) -> Path:
    """A set of ``make_set``, with few values."""
    out = folder / "movies"
    flags = {"num_train": 4, "num_test": 3, "actions": 4, "features": FEATURES, "words": WORDS}
    with contextlib.redirect_stdout(io.StringIO()):
        assert make_set.main([f"--out={out}", *(f"--{name}={value}" for name, value in flags.items())]) == 0
    return out


def tiny(folder: Path, **overrides: dict) -> Path:
    out = movies(folder)
    common = {"feats_dimen": FEATURES, "context_num": 1, "context_size": 128, "sent_vec_dim": WORDS}
    train = {"sliding_clip_path": f"{out / 'train'}/", "clip_sentvec": str(out / "train_clip-sentvec.pkl")}
    test = {"sliding_clip_path": f"{out / 'test'}/", "clip_sentvec": str(out / "test_clip-sentvec.pkl")}
    lengths = str(out / "video_allframes_info.pkl")
    learning = {"off_size": 2, "clip_norm": 5.0, "learning_rate": "1e-3", "movie_length_info": lengths}
    recipe: dict[str, dict] = {
        "MODEL": {
            "name": "TALL",
            "visual_feature_dim": 3 * FEATURES,
            "sentence_embedding_size": WORDS,
            "semantic_size": 10,
            "hidden_size": 12,
            "output_size": 3,
        },
        "TRAIN": {**common, **train, **learning, "epoch": 2, "batch_size": 8, "semantic_size": 10},
        "VALID": {**common, **train, **learning, "batch_size": 8, "semantic_size": 10},
        "TEST": {**common, **test, "batch_size": 1, "semantic_size": WORDS},
        "INFER": {**common, **test, "batch_size": 1, "semantic_size": WORDS, "fps": 29.4},
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tall.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
