"""Kinetics annotations (csv) and the crawled files -> train.list, val.list, ... and labels.json.

    python data/dataset/kinetics/kinetics_csv.py --csv kinetics-400_train.csv kinetics-400_val.csv \\
        --videos crawled/train crawled/val --out data/dataset/kinetics/mp4

A row "label,youtube_id,time_start,time_end,split[,is_cc]" belongs to the file
<youtube_id>_<time_start, 6 digits>_<time_end, 6 digits>.mp4, which may lie in any sub-folder. Class names are
written in lower case with underscores, and numbered in alphabetical order, as in 2019; --labels takes the
numbers from a label file instead, and finds names whatever their case, blanks, underscores and punctuation.
Rows without a label (the test csv) become infer.list; rows without a file are counted, and kept in
missing.csv.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run

from data.dataset.common import outputs
from data.dataset.common.convert import parser
from data.dataset.kinetics.make_lists import read_labels, warn
from utils import cli
from utils.errors import DataError, nearest
from utils.files import write_atomic, write_json

COLUMNS = ("youtube_id", "time_start", "time_end", "split")
SPLITS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
ZOO_LABELS = Path(__file__).resolve().parent.parent / "kinetics_labels.json"


@dataclass(frozen=True)
class Row:
    """One annotation. ``name`` is the file's without its suffix; ``label`` is empty in the test csv."""

    name: str
    label: str
    split: str
    where: str
    cells: dict[str, str]


def main(argv: list[str]) -> int:
    flags = parser(__doc__)
    flags.add_argument("--csv", required=True, nargs="+", help="annotation files")
    flags.add_argument("--videos", required=True, nargs="+", help="folders of crawled files")
    flags.add_argument("--out", required=True, help="folder for the lists and labels.json")
    flags.add_argument("--labels", help="label file to take the numbers of the classes from")
    args = flags.parse_args(argv)
    rows = [row for file in args.csv for row in read_csv(file)]
    names = read_labels(args.labels, {}) if args.labels else class_names(rows)
    files = find_files(args.videos)
    found = [row for row in rows if row.name in files]
    if not found:
        raise DataError(f"none of the {len(rows)} rows has a file; the first would be {rows[0].name}.mp4")
    lists = make_lists(found, files, names)
    for split, lines in lists.items():
        outputs.write_list(Path(args.out) / f"{split}.list", lines)
    write_json(Path(args.out) / "labels.json", names)
    missing = [row for row in rows if row.name not in files]
    write_missing(Path(args.out) / "missing.csv", missing)
    report(rows, missing, names, lists)
    return 0


def read_csv(file: str) -> list[Row]:
    """The rows of an annotation file. Raises DataError with file and line."""
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            absent = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
            if absent:
                raise DataError(f"{file}:1: no column {absent[0]!r}; expected [label,]{','.join(COLUMNS)}")
            rows = [parse(cells, f"{file}:{reader.line_num}") for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read ({error})") from error
    if not rows:
        raise DataError(f"{file}: holds no row")
    return rows


def parse(cells: dict[str, str], where: str) -> Row:
    try:
        start, end = int(float(cells["time_start"])), int(float(cells["time_end"]))
    except (TypeError, ValueError):
        raise DataError(f"{where}: time_start and time_end must be numbers of seconds") from None
    split = (cells["split"] or "").strip().lower()
    if split not in SPLITS:
        raise DataError(f"{where}: split {split!r}; expected one of {', '.join(SPLITS)}")
    name = f"{cells['youtube_id']}_{start:06d}_{end:06d}"
    return Row(name, (cells.get("label") or "").strip(), SPLITS[split], where, cells)


def written(label: str) -> str:
    """A class name as label files write it: lower case, underscores."""
    return re.sub(r"[\s_]+", "_", label.strip().lower())


def key(label: str) -> str:
    """What two spellings of one class name have in common: their letters and digits."""
    return "".join(letter for letter in label.lower() if letter.isalnum())


def class_names(rows: list[Row]) -> list[str]:
    """The classes of the rows in alphabetical order. Raises DataError where there is none."""
    by_key = {key(row.label): written(row.label) for row in reversed(rows) if row.label}
    if not by_key:
        raise DataError("no row has a label: give the csv of the training set too, or --labels")
    return sorted(by_key.values())


def find_files(folders: list[str]) -> dict[str, Path]:
    """The videos below ``folders``, by name without suffix; the first of two of one name."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in outputs.find_videos(folder):
            found.setdefault(path.stem, path)
    return found


def make_lists(rows: list[Row], files: dict[str, Path], names: list[str]) -> dict[str, list[str]]:
    """Lines by split; rows without a label are in ``infer``. Raises DataError for an unknown class."""
    numbers = {key(name): number for number, name in enumerate(names)}
    if len(numbers) < len(names):
        raise DataError("the label file names a class twice")
    lists: dict[str, list[str]] = {}
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.name, row)
        if first is not row:
            if (first.label, first.split) != (row.label, row.split):
                warn(f"{row.where}: {row.name} is also in {first.where}, which is used")
            continue
        if not row.label:
            lists.setdefault("infer", []).append(str(files[row.name]))
            continue
        if key(row.label) not in numbers:
            raise DataError(
                f"{row.where}: class {row.label!r} is not in the label file."
                f"{nearest(written(row.label), names)}"
            )
        lists.setdefault(row.split, []).append(f"{files[row.name]} {numbers[key(row.label)]}")
    return lists


def write_missing(file: Path, rows: list[Row]) -> None:
    """The rows without a file, for the crawler."""
    text = io.StringIO()
    table = csv.DictWriter(text, ("label", *COLUMNS), restval="", extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(row.cells for row in rows)
    write_atomic(file, text.getvalue().encode("utf-8"))


def report(rows: list[Row], missing: list[Row], names: list[str], lists: dict[str, list[str]]) -> None:
    absent = {row.where for row in missing}
    for split in sorted({row.split for row in rows}):
        of_split = [row for row in rows if row.split == split]
        num_missing = sum(row.where in absent for row in of_split)
        print(f"{split}: {len(of_split)} rows, {num_missing} without a file")
    print(", ".join(f"{split}.list: {len(lines)} lines" for split, lines in lists.items()))
    zoo = json.loads(ZOO_LABELS.read_text(encoding="utf-8"))
    same = (
        "the numbers of the published weights"
        if names == zoo
        else "own numbers, not those of the published weights"
    )
    print(f"num_classes: {len(names)} ({same})")


if __name__ == "__main__":
    sys.exit(cli.run(main))
