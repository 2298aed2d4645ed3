"""BSN's stage 2 on BMN's small videos, with proposals of made-up curves that rise at annotated boundaries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from metrics.activitynet import generation
from tests.recipes.bmn import STEPS, videos
from tests.recipes.bsn_tem import PROPOSALS
from utils import tables

SETTINGS = generation.Config(
    pgm_top_K=PROPOSALS, pgm_top_K_train=PROPOSALS, num_sample_start=2, num_sample_end=2, num_sample_action=4
)


def proposals(folder: Path) -> None:
    """``TEM_results``, ``PGM_proposals`` and ``PGM_feature`` of every video of ``annotations.json``."""
    rng = np.random.default_rng(1)
    about = []
    for name, entry in json.loads((folder / "annotations.json").read_text(encoding="utf-8")).items():
        rows = [one["segment"] for one in entry["annotations"]]
        actions = np.reshape(rows, (-1, 2)) / entry["duration_second"]
        curves = rng.uniform(0.05, 0.4, (3, STEPS))
        for start, end in actions * STEPS:
            curves[0, int(start)] += 0.5
            curves[1, min(int(end), STEPS - 1)] += 0.5
            curves[2, int(start) : int(end)] += 0.5
        table = dict(zip(generation.CURVES, curves.astype(np.float32), strict=True))
        tables.write_csv(folder / "TEM_results" / f"{name}.csv", table)
        about.append((name, entry["subset"], actions))
    jobs = generation.jobs(folder / "TEM_results", about, SETTINGS)
    places = (folder / "PGM_proposals", folder / "PGM_feature")
    assert generation.generate_all(jobs, SETTINGS, *places, num_processes=1) == (len(jobs), [])


def tiny(folder: Path, **overrides: dict) -> Path:
    videos(folder)
    proposals(folder)
    recipe: dict[str, dict] = {
        "MODEL": {
            "name": "BSNPEM",
            "tscale": STEPS,
            "top_K": PROPOSALS,
            "feat_dim": 8,
            "hidden_dim": 4,
            "anno_file": str(folder / "annotations.json"),
            "feat_path": str(folder / "PGM_feature"),
            "prop_path": str(folder / "PGM_proposals"),
        },
        "TRAIN": {
            "subset": "train",
            "epoch": 2,
            "batch_size": 4,
            "num_threads": 0,
            "learning_rate": 0.01,
            "learning_rate_decay": 0.1,
            "lr_decay_iter": 3,
            "l2_weight_decay": "1e-5",
        },
        "VALID": {"subset": "validation", "batch_size": 4, "num_threads": 0},
        "TEST": {
            "subset": "validation",
            "batch_size": 1,  # losses are means over batches: they depend on how videos are batched
            "num_threads": 0,
            "snms_alpha": 0.75,
            "snms_t1": 0.65,
            "snms_t2": 0.9,
            "output_path_pem": str(folder / "eval" / "PEM_results"),
            "result_path_pem": str(folder / "eval"),
        },
        "INFER": {
            "subset": "test",
            "batch_size": 2,
            "num_threads": 0,
            "filelist": str(folder / "infer.list"),
            "output_path_pem": str(folder / "infer" / "PEM_results"),
            "result_path_pem": str(folder / "infer"),
        },
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
