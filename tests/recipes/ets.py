"""ETS on made-up features of three videos."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import yaml

WORDS = ("<s>", "<e>", "<unk>", "a", "man", "dog", "runs", "sits", "jumps")


def write_set(folder: Path) -> dict[str, Path]:
    """``dict.txt``, features of 4 values, 5 a second, of three videos, and lists of 8 and of 5 segments."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    words = folder / "dict.txt"
    words.write_text("".join(f"{word} 1\n" for word in WORDS), encoding="utf-8")
    lines = []
    for i in range(3):
        rows = rng.normal(size=(20 + 5 * i, 4)).astype(np.float32)
        (folder / f"v{i}").write_bytes(pickle.dumps(rows, protocol=2))
        for start, end in ((0.0, 1.2), (0.5, 3.0), (2.2, 3.9)):
            sentence = " ".join(rng.choice(WORDS[3:], int(rng.integers(1, 6))))
            lines.append(f"v{i}\t{start}\t{end}\t{sentence}\n")
    lists = {"train": lines[:8], "odd": lines[2:7]}
    for name, chosen in lists.items():
        (folder / f"{name}.list").write_text("".join(chosen), encoding="utf-8")
    return {name: folder / f"{name}.list" for name in lists} | {"dict": words}


def tiny(folder: Path, **overrides: dict) -> Path:
    made = write_set(folder / "set")
    odd = str(made["odd"])
    recipe = {
        "MODEL": {
            "name": "ETS",
            "feat_size": 4,
            "fc_dim": 6,
            "gru_hidden_dim": 5,
            "decoder_size": 5,
            "word_emb_dim": 3,
            "max_length": 6,
            "beam_size": 2,
            "START": "<s>",
            "END": "<e>",
            "UNK": "<unk>",
            "feat_path": str(folder / "set"),
            "dict_file": str(made["dict"]),
        },
        "TRAIN": {"epoch": 2, "batch_size": 4, "filelist": str(made["train"]), "l2_weight_decay": "1e-4"},
        "VALID": {"batch_size": 4, "filelist": odd},
        "TEST": {"batch_size": 3, "filelist": odd},
        "INFER": {"batch_size": 1, "filelist": odd},
    }
    for section, keys in overrides.items():
        recipe.setdefault(section, {}).update(keys)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path
