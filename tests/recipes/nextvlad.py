"""NeXtVLAD on sixteen made-up videos."""

from __future__ import annotations

from pathlib import Path

from tests import youtube8m


def tiny(folder: Path, **overrides: dict) -> Path:
    model = {
        **{"video_feature_size": 8, "audio_feature_size": 4, "cluster_size": 2, "hidden_size": 8},
        **{"groups": 2, "gating_reduction": 2},
        "eigen_file": str(folder / "features" / "eigenvals.npy"),
    }
    return youtube8m.write_recipe(folder, "NEXTVLAD", {"MODEL": model}, overrides)
