"""Made-up features in the form of YouTube-8M for tests."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import yaml

from data.dataset.youtube8m import make_set

NUM_CLASSES = len(make_set.NAMES)


def feature_set(folder: Path, num_train: int = 16, num_val: int = 7, form: str = "pkl") -> Path:
    """``train.list``, ``val.list`` and ``eigenvals.npy`` in a new folder; rows of 8 and of 4 values."""
    out = folder / "features"
    flags = {"out": out, "num_train": num_train, "num_val": num_val, "rgb": 8, "audio": 4, "form": form}
    with contextlib.redirect_stdout(io.StringIO()):
        assert make_set.main([f"--{name}={value}" for name, value in flags.items()]) == 0
    return out


def write_recipe(folder: Path, name: str, sections: dict[str, dict], overrides: dict[str, dict]) -> Path:
    """A YAML of 2019's form on ``feature_set(folder)``."""
    out = feature_set(folder)
    recipe: dict[str, dict] = {
        "MODEL": {"name": name, "num_classes": NUM_CLASSES, "topk": 20},
        "TRAIN": {"epoch": 2, "batch_size": 4, "filelist": str(out / "train.list")},
        "VALID": {"batch_size": 4, "filelist": str(out / "val.list")},
        "TEST": {"batch_size": 4, "filelist": str(out / "val.list")},
        "INFER": {"batch_size": 4, "filelist": str(out / "val.list")},
    }
    for part in (sections, overrides):
        for section, keys in part.items():
            recipe.setdefault(section, {}).update(keys)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path
