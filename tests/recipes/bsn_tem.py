"""BSN's stage 1 on BMN's small videos, 12 snippets each; it makes 40 proposals of each, with few features."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests.recipes.bmn import FEATURES, STEPS, videos

PROPOSALS = 40


def tiny(folder: Path, **overrides: dict) -> Path:
    features = videos(folder)
    recipe: dict[str, dict] = {
        "MODEL": {
            "name": "BSNTEM",
            "tscale": STEPS,
            "feat_dim": FEATURES,
            "hidden_dim": 6,
            "gt_boundary_ratio": 0.1,
            "anno_file": str(folder / "annotations.json"),
            "feat_path": str(features),
            "pgm_top_K_train": PROPOSALS,
            "pgm_top_K": PROPOSALS,
            "pgm_threshold": 0.5,
            "bsp_boundary_ratio": 0.25,
            "num_sample_start": 2,
            "num_sample_end": 2,
            "num_sample_action": 4,
            "num_sample_perbin": 3,
            "pgm_thread": 1,
        },
        "TRAIN": {
            "subset": "train",
            "epoch": 2,
            "batch_size": 4,
            "num_threads": 0,
            "learning_rate": 0.001,
            "learning_rate_decay": 0.1,
            "lr_decay_iter": 3,
            "l2_weight_decay": "1e-4",
        },
        "VALID": {"subset": "validation", "batch_size": 4, "num_threads": 0},
        "TEST": {
            "subset": "train_val",
            "batch_size": 1,  # losses are means over batches: they depend on how videos are batched
            "num_threads": 0,
            "output_path_tem": str(folder / "eval" / "TEM_results"),
            "output_path_pgm_proposal": str(folder / "eval" / "PGM_proposals"),
            "output_path_pgm_feature": str(folder / "eval" / "PGM_feature"),
        },
        "INFER": {
            "subset": "test",
            "batch_size": 2,
            "num_threads": 0,
            "filelist": str(folder / "infer.list"),
            "output_path_tem": str(folder / "infer" / "TEM_results"),
            "output_path_pgm_proposal": str(folder / "infer" / "PGM_proposals"),
            "output_path_pgm_feature": str(folder / "infer" / "PGM_feature"),
        },
    }
    for section, keys in overrides.items():
        recipe[section].update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
