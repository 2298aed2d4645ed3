"""StNet on eight moving squares: two frames a segment, more segments in evaluation."""

from __future__ import annotations

from pathlib import Path

from tests.recipes import tsn


def tiny(folder: Path, **overrides: dict) -> Path:
    sections: dict[str, dict] = {
        "MODEL": {"name": "STNET", "seglen": 2, "frozen_bn": True},
        # Frozen batch norm of a network that was never trained scales nothing: larger steps diverge.
        "TRAIN": {"learning_rate": 1e-5},
        "TEST": {"seg_num": 3},
        "INFER": {"seg_num": 3},
    }
    for section, keys in overrides.items():
        sections.setdefault(section, {}).update(keys)
    return tsn.tiny(folder, **sections)
