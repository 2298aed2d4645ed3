"""A small set in the form of YouTube-8M, made up, whose labels need more than the mean of the features.

    python data/dataset/youtube8m/make_set.py --out data/demo/youtube8m

A row of a stream shows "a" i and "b" j at once, for a few seconds, and then another pair. Every video shows
every a and every b of a stream for equally long; the labels say which were shown together. So the mean of the
rows is the same for all labels, and a model of the mean can only guess, while one that attends to the rows
of a single a finds its b there. In between there are rows of noise.

Streams: ``rgb`` (5 a's, 5 b's: 25 labels, 5 a video) and ``audio`` (3 and 3: 9 labels, 3 a video).
Writes shards below train/ and val/ (pickles of 2019's form, or TFRecords), ``train.list``, ``val.list``,
``labels.txt`` (a name a line) and ``eigenvals.npy`` (for NeXtVLAD; all 1). The same arguments make the
same set; files that are there are left as they are.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser, positive
from data.dataset.youtube8m.tfrecord_to_pkl import dump
from reader.common import tfrecord
from utils import cli, files

VERSION = 1  # of the numbers drawn: raise it when the same arguments come to give other files
PAIRS = {"rgb": 5, "audio": 3}  # a's, and as many b's, of each stream
NAMES = [f"{stream}: a{i} with b{j}" for stream, n in PAIRS.items() for i in range(n) for j in range(n)]
VIDEOS_A_SHARD = 128
STRENGTH, NOISE = 0.35, 0.3  # standard deviations of what is shown, and of what disturbs it
SHORTEST, LONGEST = 24, 40  # rows a video


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--out", required=True, help="folder for the set")
    flags.add_argument("--num_train", type=positive, default=2048, help="training videos (default: 2048)")
    flags.add_argument("--num_val", type=positive, default=512, help="validation videos (default: 512)")
    flags.add_argument("--rgb", type=positive, default=64, help="values of a row of rgb (default: 64)")
    flags.add_argument("--audio", type=positive, default=32, help="values of a row of audio (default: 32)")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    flags.add_argument("--form", choices=("pkl", "tfrecord"), default="pkl", help="of the shards")
    args = flags.parse_args(argv)
    made = make(args)
    print(f"{made} shards made in {args.out}; {len(NAMES)} labels")
    return 0


def make(args: argparse.Namespace) -> int:
    """Write what is not there yet; the number of shards written."""
    out = Path(args.out)
    settings = {
        name: getattr(args, name) for name in ("num_train", "num_val", "rgb", "audio", "seed", "form")
    }
    outputs.claim(str(out), {"version": VERSION, **settings})
    dims = {"rgb": args.rgb, "audio": args.audio}
    shown = patterns(dims, args.seed)
    made = 0
    for split, count in {"train": args.num_train, "val": args.num_val}.items():
        paths = []
        for number, start in enumerate(range(0, count, VIDEOS_A_SHARD)):
            path = out / split / f"{split}{number:04d}.{args.form}"
            paths.append(str(path))
            if not path.is_file():
                indices = range(start, min(start + VIDEOS_A_SHARD, count))
                write_shard(path, list(videos(split, indices, shown, args.seed)))
                made += 1
        outputs.write_list(out / f"{split}.list", paths)
    files.write_atomic(out / "labels.txt", ("\n".join(NAMES) + "\n").encode("utf-8"))
    buffer = io.BytesIO()
    np.save(buffer, np.ones((args.rgb, 1), np.float32))
    files.write_atomic(out / "eigenvals.npy", buffer.getvalue())
    return made


def patterns(dims: dict[str, int], seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """What the a's and the b's of each stream look like, (n, D) each."""
    rng = np.random.default_rng([seed, 0])
    return {s: tuple(rng.normal(0, STRENGTH, (2, PAIRS[s], dim))) for s, dim in dims.items()}


def videos(split: str, indices: range, shown: dict, seed: int) -> Iterator[dict[str, Any]]:
    for index in indices:
        rng = np.random.default_rng([seed, 1 + ("train", "val").index(split), index])
        length = int(rng.integers(SHORTEST, LONGEST + 1))
        streams, labels, first = {}, [], 0
        for stream, (a, b) in shown.items():
            partner = rng.permutation(len(a))  # a i is shown with b partner[i]
            streams[stream] = quantise(rows(a, b, partner, length, rng))
            labels += [first + i * len(a) + int(j) for i, j in enumerate(partner)]
            first += len(a) ** 2
        yield {"video": f"{split}{index:06d}", "labels": labels, "streams": streams}


def rows(
    a: np.ndarray, b: np.ndarray, partner: np.ndarray, length: int, rng: np.random.Generator
) -> np.ndarray:
    """``(length, D)``: each pair in one piece of equal length, in any order, noise between the pieces."""
    count, piece = len(a), length // (len(a) + 1)
    gaps = rng.multinomial(length - count * piece, np.full(count + 1, 1 / (count + 1)))
    values = rng.normal(0, NOISE, (length, a.shape[1]))
    position = 0
    for gap, i in zip(gaps, rng.permutation(count), strict=False):
        position += gap
        values[position : position + piece] += a[i] + b[partner[i]]
        position += piece
    return values


def quantise(values: np.ndarray) -> np.ndarray:
    """[-2, 2] to bytes, as YouTube-8M does."""
    return np.clip(np.rint((values + 2.0) * 255.0 / 4.0), 0, 255).astype(np.uint8)


def write_shard(path: Path, made: list[dict[str, Any]]) -> None:
    if path.suffix == ".tfrecord":
        records = (tfrecord.serialize(v["video"], v["labels"], v["streams"]) for v in made)
        tfrecord.write(path, records)
        return
    entries = [
        {
            "video": v["video"],
            "feature": v["streams"]["rgb"],
            "audio": v["streams"]["audio"],
            "label": v["labels"],
            "nframes": len(v["streams"]["rgb"]),
        }
        for v in made
    ]
    files.write_atomic(path, dump(entries))


if __name__ == "__main__":
    sys.exit(cli.run(main))
