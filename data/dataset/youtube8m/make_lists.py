"""Lists of feature files: pickles, TFRecords, or .npy with labels.

    python data/dataset/youtube8m/make_lists.py --source data/dataset/youtube8m/pkl/train \\
        --out data/dataset/youtube8m/train.list

Every file is opened and counted, and a file that cannot be read is named and left out (exit status 1); the
counts are kept beside the list, so that training starts at once. Features of one's own, one ``.npy``
(rows, values) a video: ``--labels labels.csv`` has lines ``name,label label …``, where a name is that of the
file without ``.npy``. ``--val=0.1`` puts that share of the files, drawn by ``--seed``, into a second list.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs, parallel
from data.dataset.common.convert import parser
from reader.common import feature_files, filelist
from utils import cli
from utils.errors import ConfigError, DataError


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--source", required=True, help="a file, a folder of files (any depth), or a glob")
    flags.add_argument("--out", required=True, help="list to write")
    flags.add_argument("--labels", help="CSV of labels, for .npy")
    flags.add_argument("--val", type=float, default=0.0, help="share of the second list (default: 0)")
    flags.add_argument("--val_out", help="the second list; needed with --val")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    args = flags.parse_args(argv)
    if not 0 <= args.val < 1 or bool(args.val) != bool(args.val_out):
        raise ConfigError("--val is a share in [0, 1), and comes with --val_out")
    found = [line.path for line in filelist.expand(args.source, feature_files.SUFFIXES, "feature file")]
    labels = read_labels(args.labels) if args.labels else {}
    texts, failed = [], 0
    for path in found:
        try:
            texts.append(line_of(path, labels))
        except DataError as error:
            parallel.say(str(error))
            failed += 1
    if not texts:
        raise DataError(f"{args.source}: no file can be read")
    second = set(random.Random(args.seed).sample(range(len(texts)), round(args.val * len(texts))))
    parts = {args.out: [t for i, t in enumerate(texts) if i not in second]}
    if args.val_out:
        parts[args.val_out] = [t for i, t in enumerate(texts) if i in second]
    for file, chosen in parts.items():
        if not chosen:
            raise ConfigError(f"{file}: no file is left for it; choose another --val")
        outputs.write_list(file, chosen)
        lines = feature_files.read_list(file)
        count = len(feature_files.FeatureFiles(lines, [], file, keep_counts=True))
        print(f"{file}: {len(chosen)} files, {count} videos")
    return 1 if failed else 0


def line_of(path: str, labels: dict[str, str]) -> str:
    """Raises DataError: the file cannot be read, or has no labels in the CSV."""
    line = feature_files.Line(path, None, path)
    shard = feature_files.open_file(line)
    if not path.endswith(".npy"):
        if not len(shard):
            raise DataError(f"{path}: holds no record")
        return path
    shard.read(0, ["rgb"], path)
    if not labels:
        return path
    name = Path(path).stem
    if name not in labels:
        raise DataError(f"{path}: --labels has no line for {name!r}")
    return f"{path} {labels[name]}".strip()


def read_labels(file: str) -> dict[str, str]:
    """Name -> ``label label …``. Raises DataError with file and line."""
    found = {}
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            for number, row in enumerate(csv.reader(stream), 1):
                if not row:
                    continue
                texts = row[1].split() if len(row) == 2 else ["?"]
                if not all(text.isdigit() for text in texts):
                    raise DataError(f"{file}:{number}: expected 'name,label label …', got {','.join(row)!r}")
                found[row[0]] = " ".join(texts)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    return found


if __name__ == "__main__":
    sys.exit(cli.run(main))
