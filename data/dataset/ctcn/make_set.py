"""A small set in the form of C-TCN's ActivityNet features, made up, whose actions need more than one moment.

    python data/dataset/ctcn/make_set.py --out data/demo/ctcn

Each video has one to three actions, "a" or "b" that rises or falls: the score of a (or b) climbs over
the action, or sinks. So a single time step says which letter it may be, but not which of its two classes;
and noise hides where an action starts and ends. Two streams, rgb and flow, of three scores each: background,
a, b.

Writes ``feats/{rgb,flow}/<video>.npy``, ``train.listformat``, ``val.listformat``, ``infer.list``,
``labels.txt`` and ``durations.list``. The same arguments make the same set; files that are there are left.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser, positive
from utils import cli, files

VERSION = 1  # of the numbers drawn: raise it when the same arguments come to give other files
LABELS = ("rising a", "falling a", "rising b", "falling b")
STREAMS = ("rgb", "flow")
NOISE, HEIGHT = 0.25, 1.0  # standard deviation of every score; what an action adds at its most
SHORTEST, LONGEST = 96, 160  # time steps a video
SECONDS_A_STEP = 0.5


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--out", required=True, help="folder for the set")
    flags.add_argument("--num_train", type=positive, default=256, help="training videos (default: 256)")
    flags.add_argument("--num_val", type=positive, default=64, help="validation videos (default: 64)")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    args = flags.parse_args(argv)
    made = make(args)
    print(f"{made} videos made in {args.out}; {len(LABELS)} classes")
    return 0


def make(args: argparse.Namespace) -> int:
    """Write what is not there yet; the number of videos made."""
    out = Path(args.out)
    settings = {"num_train": args.num_train, "num_val": args.num_val, "seed": args.seed}
    outputs.claim(str(out), {"version": VERSION, **settings})
    durations, made = [], 0
    for number, (split, count) in enumerate({"train": args.num_train, "val": args.num_val}.items()):
        names, lines = [], []
        for index in range(count):
            name = f"{split}{index:04d}"
            scores, actions = video(np.random.default_rng([args.seed, number, index]))
            paths = [out / "feats" / stream / f"{name}.npy" for stream in STREAMS]
            if not all(path.is_file() for path in paths):
                for path, values in zip(paths, scores, strict=True):
                    write_array(path, values)
                made += 1
            frames = len(scores[0])
            boxes = [f"{label + 1} {start:.2f} {end:.2f}" for label, start, end in actions]
            lines.append(" ".join([name, str(frames), str(len(actions)), *boxes]))
            durations.append(f"{name} {frames} {frames * SECONDS_A_STEP}")
            names.append(name)
        outputs.write_list(out / f"{split}.listformat", lines)
        if split == "val":
            outputs.write_list(out / "infer.list", names)
    outputs.write_list(out / "durations.list", durations)
    outputs.write_list(out / "labels.txt", LABELS)
    return made


def video(rng: np.random.Generator) -> tuple[list[np.ndarray], list[tuple[int, float, float]]]:
    """``(T, 3)`` float32 of each stream, and ``(label, start, end)`` of each action in time steps."""
    length = int(rng.integers(SHORTEST, LONGEST + 1))
    scores = [rng.normal(0.0, NOISE, (length, 3)) for _ in STREAMS]
    count = int(rng.integers(1, 4))
    actions = []
    for piece in range(count):  # each in its own piece of the video
        first, last = piece * length / count, (piece + 1) * length / count
        width = (last - first) * rng.uniform(0.35, 0.8)
        start = rng.uniform(first, last - width)
        label = int(rng.integers(len(LABELS)))
        steps = np.arange(int(start), int(start + width))
        climb = np.clip((steps + 0.5 - start) / width, 0.0, 1.0)
        for stream in scores:
            stream[steps, 1 + label // 2] += HEIGHT * (1.0 - climb if label % 2 else climb)
        actions.append((label, start, start + width))
    for stream in scores:
        stream[:, 0] += HEIGHT - stream[:, 1:].max(axis=1)
    return [stream.astype(np.float32) for stream in scores], actions


def write_array(path: Path, values: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, values)
    files.write_atomic(path, buffer.getvalue())


if __name__ == "__main__":
    sys.exit(cli.run(main))
