"""A small set in the form of ActivityNet for BMN and BSN, made up, whose actions no single channel shows.

    python data/dataset/bmn/make_set.py --out data/demo/activitynet

The features of a snippet are pairs of channels. Within an action both channels of a pair go the same way,
outside one goes against the other; each alone is noise of the same mean and variance all the time. So no
threshold on one channel finds a boundary, but the sign of a product does, and a network learns it.

How many actions a video has, how long they are and how much of it they cover was chosen after ActivityNet
1.3, and so were the durations. There three in four videos have a single action, mostly long, and whatever is
proposed overlaps it: random proposals have an AUC of 51 %, an untrained BMN of up to 58 % (``--fewest=1``).
So by default, as in the other quarter, a video has at least two actions.

Writes ``fix_feat/<video>.npy`` (T, F) float32, ``annotations.json`` and ``infer.list``, which is the JSON of
the validation videos. The same arguments make the same set; files that are there are left.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser, positive
from utils import cli, files
from utils.errors import ConfigError

VERSION = 1  # of the numbers drawn: raise it when the same arguments come to give other files
NOISE = 0.3  # standard deviation, of a signal of one
# ActivityNet 1.3: how many videos have 1, 2, … actions, and how much of the video they cover together.
NUM_ACTIONS = (0.755, 0.13, 0.048, 0.028, 0.015, 0.009, 0.005, 0.004, 0.003, 0.003)
UNTIL_THE_END, GAP = 0.27, 0.2  # a single action: how often nothing is before (after) it; else how much
MOST_GAP = 0.95
COVERED = ((2.2, 1.9), (1.8, 2.2))  # two actions, and more: of a beta distribution
EVENNESS = 1.8  # of their lengths: of a Dirichlet distribution
DURATIONS = (5.0, 235.0)  # seconds
SUBSETS = {"training": "train", "validation": "val"}


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--out", required=True, help="folder for the set")
    flags.add_argument("--num_train", type=positive, default=384, help="training videos (default: 384)")
    flags.add_argument("--num_val", type=positive, default=96, help="validation videos (default: 96)")
    flags.add_argument("--tscale", type=positive, default=64, help="snippets a video (default: 64)")
    flags.add_argument("--fewest", type=positive, default=2, help="actions a video has at least (default: 2)")
    flags.add_argument("--pairs", type=positive, default=8, help="pairs of channels (default: 8)")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    args = flags.parse_args(argv)
    if args.fewest > len(NUM_ACTIONS):
        raise ConfigError(f"--fewest={args.fewest}: a video has {len(NUM_ACTIONS)} actions at most")
    made = make(args)
    print(f"{made} videos made in {args.out}")
    return 0


def make(args: argparse.Namespace) -> int:
    """Write what is not there yet; the number of videos made."""
    out = Path(args.out)
    names = ("num_train", "num_val", "tscale", "fewest", "pairs", "seed")
    outputs.claim(str(out), {"version": VERSION, **{name: getattr(args, name) for name in names}})
    database: dict[str, dict[str, Any]] = {}
    made = 0
    for number, (subset, count) in enumerate(
        {"training": args.num_train, "validation": args.num_val}.items()
    ):
        for index in range(count):
            name = f"v_{SUBSETS[subset]}{index:05d}"
            rng = np.random.default_rng([args.seed, number, index])
            seconds, segments = annotate(rng, args.fewest)
            path = out / "fix_feat" / f"{name}.npy"
            if not path.is_file():
                _write_array(path, features(rng, segments / seconds, args.tscale, args.pairs))
                made += 1
            actions = [{"segment": [start, end], "label": "action"} for start, end in segments.tolist()]
            database[name] = {"duration_second": seconds, "subset": subset, "annotations": actions}
    files.write_atomic(out / "annotations.json", json.dumps(database).encode())
    shown = {name: about for name, about in database.items() if about["subset"] == "validation"}
    files.write_atomic(out / "infer.list", json.dumps(shown).encode())
    return made


def annotate(rng: np.random.Generator, fewest: int = 1) -> tuple[float, np.ndarray]:
    """The duration of a video, and the segments ``(G, 2)`` of its actions, in seconds and in order."""
    seconds = float(rng.uniform(*DURATIONS))
    share = np.array(NUM_ACTIONS[fewest - 1 :])
    count = fewest + int(rng.choice(len(share), p=share / share.sum()))
    if count == 1:
        before, after = 1.0, 1.0
        while before + after > MOST_GAP:
            before, after = (0.0 if rng.random() < UNTIL_THE_END else rng.exponential(GAP) for _ in range(2))
        return seconds, np.array([[before, 1.0 - after]]) * seconds
    covered = rng.beta(*COVERED[min(count, 3) - 2])
    lengths = covered * rng.dirichlet(np.full(count, EVENNESS))
    gaps = (1.0 - covered) * rng.dirichlet(np.ones(count + 1))
    start = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
    return seconds, np.stack([start, start + lengths], axis=1) * seconds


def features(rng: np.random.Generator, segments: np.ndarray, tscale: int, pairs: int) -> np.ndarray:
    """``(T, 2 * pairs)`` float32, the channels of a pair side by side; ``segments`` are fractions.

    The correlation of a pair is 1 in an action and -1 outside, in between where a snippet has both; its
    channels are standard normal everywhere.
    """
    edges = np.arange(tscale + 1) / tscale
    common = np.minimum(edges[1:, None], segments[:, 1]) - np.maximum(edges[:-1, None], segments[:, 0])
    inside = np.clip(np.maximum(common, 0.0).sum(axis=1) * tscale, 0.0, 1.0)  # (T,)
    correlation = (2.0 * inside - 1.0)[:, None]
    first, other = rng.normal(size=(2, tscale, pairs))
    second = correlation * first + np.sqrt(1.0 - correlation**2) * other
    values = np.stack([first, second], axis=2).reshape(tscale, 2 * pairs)
    return (values + rng.normal(0.0, NOISE, values.shape)).astype(np.float32)


def _write_array(path: Path, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    files.write_atomic(path, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(cli.run(main))
