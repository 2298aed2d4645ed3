"""TSM on the moving squares of TSN's recipe; without dropout, whose draws differ between processes."""

from __future__ import annotations

from pathlib import Path

from tests.recipes import tsn


def tiny(folder: Path, **overrides: dict) -> Path:
    sections: dict[str, dict] = {
        "MODEL": {"name": "TSM", "seg_num": 3, "frozen_bn": True, "dropout_rate": 0.0},
        "TRAIN": {"decay_epochs": [1]},
    }
    for section, keys in overrides.items():
        sections.setdefault(section, {}).update(keys)
    return tsn.tiny(folder, **sections)
