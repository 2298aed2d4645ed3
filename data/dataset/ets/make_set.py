"""A small set in the form of ActivityNet Captions, made up, whose captions tell the order of what happens.

    python data/dataset/ets/make_set.py --out data/demo/ets

A segment shows three of six events, one after the other, each for one to two seconds, as rows of features
with noise; its caption names them in that order: "a man jumps then sits then runs". The mean of a segment's
rows says which events they are, and not in what order: who knows only the mean, writes one caption in six
right, by chance. ``--pooled`` makes that set: every row is the mean of its segment.

Every video has two segments. Writes features below feat/ (pickles of 2019's form, 5 rows a second),
``train.list``, ``val.list``, ``dict.txt`` and ``val.json`` (references in the form of ActivityNet Captions).
The same arguments make the same set.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser, positive
from data.dataset.ets.make_lists import write_dictionary
from utils import cli, files

VERSION = 1  # of the numbers drawn: raise it when the same arguments come to give other files
EVENTS = ("jumps", "sits", "runs", "waves", "falls", "claps")
EVENTS_A_SEGMENT, SEGMENTS_A_VIDEO = 3, 2
ROWS_A_SECOND, SHORTEST, LONGEST = 5, 5, 10  # rows of an event
NOISE = 1.0  # standard deviation, as that of what is shown


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--out", required=True, help="folder for the set")
    flags.add_argument("--num_train", type=positive, default=600, help="training videos (default: 600)")
    flags.add_argument("--num_val", type=positive, default=100, help="validation videos (default: 100)")
    flags.add_argument("--size", type=positive, default=32, help="values of a row (default: 32)")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    flags.add_argument("--pooled", action="store_true", help="every row is the mean of its segment")
    args = flags.parse_args(argv)
    make(args)
    print(f"{args.num_train} + {args.num_val} videos in {args.out}")
    return 0


def make(args: argparse.Namespace) -> None:
    out = Path(args.out)
    settings = {name: value for name, value in vars(args).items() if name != "out"}
    outputs.claim(args.out, {"made by": "make_set.py", "version": VERSION, **settings})
    shown = np.random.default_rng(args.seed).standard_normal((len(EVENTS), args.size))
    references = {}
    for part, name in enumerate(("train", "val")):
        rng = np.random.default_rng([args.seed, part])
        lines = []
        for number in range(args.num_train if name == "train" else args.num_val):
            video = f"{name}_{number:05d}"
            rows, segments = draw_video(rng, shown, args.pooled)
            files.write_atomic(out / "feat" / video, pickle.dumps(rows, protocol=2))
            lines += [f"{video}\t{start:g}\t{end:g}\t{sentence}" for start, end, sentence in segments]
            if name == "val":
                references[video] = {
                    "duration": len(rows) / ROWS_A_SECOND,
                    "timestamps": [[start, end] for start, end, _ in segments],
                    "sentences": [sentence for *_, sentence in segments],
                }
        files.write_atomic(out / f"{name}.list", ("\n".join(lines) + "\n").encode())
        if name == "train":
            write_dictionary(out / "dict.txt", [line.split("\t")[3].split() for line in lines])
    files.write_json(out / "val.json", references)


def draw_video(
    rng: np.random.Generator, shown: np.ndarray, pooled: bool
) -> tuple[np.ndarray, list[tuple[float, float, str]]]:
    """Rows ``(T, size)`` float32 and segments: start and end in seconds, sentence."""
    parts, segments, before = [], [], 0
    for _ in range(SEGMENTS_A_VIDEO):
        events = rng.permutation(len(EVENTS))[:EVENTS_A_SEGMENT]
        lengths = rng.integers(SHORTEST, LONGEST + 1, EVENTS_A_SEGMENT)
        rows = np.repeat(shown[events], lengths, axis=0)
        rows = rows + NOISE * rng.standard_normal(rows.shape)
        if pooled:
            rows = np.repeat(rows.mean(axis=0, keepdims=True), len(rows), axis=0)
        sentence = "a man " + " then ".join(EVENTS[event] for event in events)
        segments.append((before / ROWS_A_SECOND, (before + len(rows)) / ROWS_A_SECOND, sentence))
        parts.append(rows)
        before += len(rows)
    return np.concatenate(parts).astype(np.float32), segments


if __name__ == "__main__":
    sys.exit(cli.run(main))
