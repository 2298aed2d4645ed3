"""The one pickle of all features of ActivityNet (89 GB) -> a file a video, as ETS reads them.

    python data/dataset/ets/split_features.py --source resnet152_features_activitynet_5fps_320x240.pkl \\
        --out data/dataset/ets/data_dict --lists data/dataset/ets/train.list data/dataset/ets/val.list

The source holds {video: float array [rows, D]}. Memory: the source is passed through once without its arrays,
and then one array is read at a time, so a few hundred bytes a video and the largest array (a few MB). That
needs a binary pickle, protocol 1 or later; one of protocol 0, a text, is read as a whole.

``--form npy`` writes ``<video>.npy``, of which the reader fetches only the rows of a segment; ``--form pkl``
what 2019 wrote, ``<video>`` without an ending. With ``--lists`` only the videos that the lists name are
written. What is there already stays: a second run goes on where the first one stopped. A damaged array is
named, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import parallel
from data.dataset.common.convert import parser
from reader.common import filelist
from utils import cli, files, log, safe_pickle
from utils.errors import DataError

SUFFIX = {"npy": ".npy", "pkl": ""}


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--source", required=True, help="the pickle of all features")
    flags.add_argument("--out", required=True, help="folder for the files: MODEL.feat_path of the recipe")
    flags.add_argument("--lists", nargs="+", default=[], help="write only the videos of these lists")
    flags.add_argument("--form", choices=tuple(SUFFIX), default="npy", help="default: npy")
    args = flags.parse_args(argv)
    arrays = read_index(args.source)
    wanted = {text.split("\t")[0] for name in args.lists for _, text in filelist.read_lines(name)}
    chosen = [name for name in arrays if not args.lists or name in wanted]
    made = there = failed = 0
    with log.bar(len(chosen), "features") as bar:
        for name in chosen:
            target = Path(args.out) / f"{name}{SUFFIX[args.form]}"
            try:
                if target.is_file():
                    there += 1
                else:
                    rows = checked(arrays[name], f"{args.source}: {name}")
                    files.write_atomic(target, packed(rows, args.form))
                    made += 1
            except DataError as error:
                parallel.say(str(error))
                failed += 1
            bar.update()
    missing = len(wanted - arrays.keys())
    print(f"{made} made, {there} there already, {failed} failed, {missing} of the lists not in {args.source}")
    return 1 if failed or missing else 0


def read_index(source: str) -> dict[str, safe_pickle.ArrayInFile]:
    """The arrays by video, left in the file. Raises DataError for another form."""
    content = safe_pickle.index(source, encoding="bytes")  # of Python 2: names are bytes
    if not isinstance(content, dict) or not content:
        raise DataError(f"{source}: expected {{video: array}}, got {type(content).__name__}")
    named = {k.decode("utf-8", "replace") if isinstance(k, bytes) else str(k): v for k, v in content.items()}
    bad = [name for name in named if not name or "/" in name or "\\" in name or name.startswith(".")]
    if bad:
        raise DataError(f"{source}: {bad[0]!r} is no name of a video")
    return named


def checked(array: object, what: str) -> np.ndarray:
    if not isinstance(array, safe_pickle.ArrayInFile):
        raise DataError(f"{what}: expected an array [rows, D], got {type(array).__name__}")
    rows = array.read()
    if rows.ndim != 2 or rows.dtype.kind != "f":
        raise DataError(
            f"{what}: expected floating-point numbers [rows, D], got {rows.dtype} {list(rows.shape)}"
        )
    return rows.astype(np.float32, copy=False)


def packed(rows: np.ndarray, form: str) -> bytes:
    if form == "pkl":
        return pickle.dumps(rows, protocol=2)
    buffer = io.BytesIO()
    np.save(buffer, rows, allow_pickle=False)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(cli.run(main))
