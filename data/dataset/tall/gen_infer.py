"""The infer set of 2019 for TALL: one movie of the test set, its windows and a sentence of each moment.

    python data/dataset/tall/gen_infer.py --windows data/dataset/tall/Interval128_256_overlap0.8_c3d_fc6 \\
        --sentences data/dataset/tall/test_clip-sentvec.pkl --out data/dataset/tall/infer

Writes ``infer_feat/<movie>_<start>_<end>.npy`` and ``infer_clip-sen.pkl``, which configs/tall.yaml reads. The
movie is the first of the sentences that has windows, or that of ``--movie``. ``--all_sentences`` takes every
sentence of each moment; 2019 took the first.
"""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common.convert import parser
from reader.common import moments
from utils import cli, files, safe_pickle
from utils.errors import ConfigError, DataError


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--windows", required=True, help="folder of window features")
    flags.add_argument("--sentences", required=True, help="pickle of sentences")
    flags.add_argument("--out", required=True, help="folder for the infer set")
    flags.add_argument("--movie", help="default: the first one with windows")
    flags.add_argument("--all_sentences", action="store_true", help="every sentence of each moment")
    args = flags.parse_args(argv)
    windows = moments.list_windows(args.windows)
    entries = read(args.sentences)
    names = dict.fromkeys(movie for movie, _, _ in entries)
    movie = args.movie or next((name for name in names if name in windows), None)
    if movie not in windows or movie not in names:
        wanted = f"--movie={args.movie}" if args.movie else "no movie"
        raise ConfigError(f"{wanted} is in both {args.windows} and {args.sentences}")
    features = Path(args.out) / "infer_feat"
    strangers = {path.name for path in features.glob("*.npy")} - set(windows[movie].names)
    if strangers:
        raise ConfigError(f"{features} has windows of another movie ({min(strangers)}); choose another --out")
    for name in windows[movie].names:
        source = os.path.join(args.windows, name)
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise DataError(f"{source}: cannot be read ({error.strerror})") from error
        files.write_atomic(features / name, data)
    chosen = [
        [name, vectors if args.all_sentences else vectors[:1]] for of, name, vectors in entries if of == movie
    ]
    data = pickle.dumps(chosen, protocol=2)
    files.write_atomic(Path(args.out) / "infer_clip-sen.pkl", data)
    count = sum(len(vectors) for _, vectors in chosen)
    print(f"{args.out}: {movie}, {len(windows[movie].names)} windows, {count} sentences")
    return 0


def read(file: str) -> list[tuple[str, str, list[np.ndarray]]]:
    """Movie, name and vectors of every entry of a pickle of sentences. Raises DataError."""
    entries = safe_pickle.load(file, encoding="bytes")
    moments.read_sentences(file, 0)  # says what is wrong with it
    return [
        (moments.parse_name(moments.as_text(name), file)[0], moments.as_text(name), list(vectors))
        for name, vectors in entries
    ]


if __name__ == "__main__":
    sys.exit(cli.run(main))
