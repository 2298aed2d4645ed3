"""What needs no training, to hold TALL against: a bilinear score in closed form.

    python data/dataset/tall/baseline.py --config=configs/demo/tall.yaml

Ridge regression from the windows of the TRAIN pairs to their sentences; a window's score is the cosine of its
regressed sentence and the one that is asked for. Windows are taken as they are: nothing moves their ends. It
is scored on the recipe's TEST set as eval.py scores.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common.convert import parser
from metrics.grounding import Grounding
from models import ZOO
from utils import build, cli, log
from utils.config import load_yaml
from utils.errors import ConfigError
from utils.registry import find


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--config", required=True, help="recipe of TALL")
    flags.add_argument(
        "--ridge", type=float, default=100.0, help="weight of the regularisation (default: 100)"
    )
    args = flags.parse_args(argv)
    if args.ridge <= 0:
        raise ConfigError(f"--ridge={args.ridge}: expected a number > 0")
    spec, sections = find("TALL", ZOO), load_yaml(args.config)
    train = build.reader(spec, sections, "TRAIN", args.config)
    pairs = [train[i] for i in range(len(train))]
    visual = np.stack([pair["visual"] for pair in pairs]).astype(np.float64)
    spoken = np.stack([pair["sentences"] for pair in pairs]).astype(np.float64)
    mean = visual.mean(axis=0)
    squares = (visual - mean).T @ (visual - mean) + args.ridge * np.eye(visual.shape[1])
    weights = np.linalg.solve(squares, (visual - mean).T @ spoken)  # (V, E)
    metric = build.metric(spec, sections, "TEST", args.config)
    evaluate(metric, build.reader(spec, sections, "TEST", args.config), weights, mean)
    print(f"bilinear baseline: {log.values_text(metric.result())}")
    return 0


def evaluate(metric: Grounding, reader, weights: np.ndarray, mean: np.ndarray) -> None:
    for i in range(len(reader)):
        batch = reader.collate([reader[i]])
        guessed = _unit((batch["visual"] - mean) @ weights)
        scores = np.zeros((3, len(batch["sentences"]), len(guessed)))
        scores[0] = _unit(batch["sentences"].astype(np.float64)) @ guessed.T
        metric.update({"scores": scores}, batch)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


if __name__ == "__main__":
    sys.exit(cli.run(main))
