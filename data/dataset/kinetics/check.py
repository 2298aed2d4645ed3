"""Check lists before training: every file decodes, every label fits, no line is there twice.

    python data/dataset/kinetics/check.py --list train.list val.list --format mp4 --labels labels.json
    python data/dataset/kinetics/check.py --config configs/tsn.yaml --sections TRAIN VALID
    python data/dataset/kinetics/check.py --list train.list --format pkl --num_classes 400 --clean

Lists are of 2019's forms: mp4 "path label", pkl "path", frames "folder count label". Every frame is decoded,
by the code that training reads with. What is wrong is said with file:line and kept in a JSON report, and the
exit status is 1; --clean also writes each list without the bad lines, as NAME.clean.list. A check that was
interrupted goes on where it stopped.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))  # the project, from wherever this is run
# A damaged video makes FFmpeg talk for pages; OpenCV reads these while it is imported or first used.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

from data.dataset.common import outputs, parallel
from data.dataset.common.convert import named, parser, positive
from data.dataset.kinetics.make_lists import read_labels
from reader.common import decode, filelist
from reader.common.filelist import Line
from utils import cli, safe_pickle
from utils.config import load_yaml
from utils.errors import ConfigError, DataError
from utils.files import write_json

FORMATS = ("mp4", "pkl", "frames")


@dataclass
class Checked:
    """One list: its lines, and what was found."""

    file: str
    lines: list[Line]
    text: dict[str, str]  # file:line -> the line
    problems: list[tuple[str, str]] = field(default_factory=list)  # file:line, what
    labels: list[int] = field(default_factory=list)  # of the good lines
    num_frames: list[int] = field(default_factory=list)

    def problem(self, where: str, what: str) -> None:
        self.problems.append((where, what))
        parallel.say(f"{where}: {what}")


def main(argv: list[str]) -> int:
    args = settings(argv)
    names = read_labels(args.labels, {}) if args.labels else None
    if args.num_classes is None and names:
        args.num_classes = len(names)
    wrong_labels = check_labels(names, args)
    lists = [read(file, args.format, args.num_classes) for file in args.list]
    decode_all(lists, args)
    for checked in lists:
        summary(checked, args.num_classes, names)
    overlaps = find_overlaps(lists)
    about = {
        "format": args.format,
        "num_classes": args.num_classes,
        "problems": wrong_labels,
        "lists": [record(checked, args.num_classes) for checked in lists],
        "overlaps": overlaps,
    }
    write_json(args.report, about)
    print(f"report: {args.report}")
    if args.clean:
        for checked in lists:
            write_clean(checked)
    return 1 if wrong_labels or any(checked.problems for checked in lists) else 0


def settings(argv: list[str]) -> Any:
    """The flags; what is not given comes from the recipe. Raises ConfigError."""
    flags = parser(__doc__)
    flags.add_argument("--list", nargs="+", help="lists to check")
    flags.add_argument("--config", help="recipe to take what is not given from")
    flags.add_argument(
        "--sections",
        nargs="+",
        default=["TRAIN", "VALID", "TEST"],
        help="whose lists of the recipe (default: TRAIN VALID TEST)",
    )
    flags.add_argument("--format", choices=FORMATS, help="form of the lists")
    flags.add_argument("--num_classes", type=positive, help="labels must be below it")
    flags.add_argument("--labels", help="label file (JSON list of names)")
    flags.add_argument(
        "--backend", choices=("opencv", "pyav"), help="decoder of videos (default: opencv, like the readers)"
    )
    flags.add_argument("--report", help="JSON to write (default: FIRST_LIST.check.json)")
    flags.add_argument("--clean", action="store_true", help="also write the lists without the bad lines")
    parallel.add_flag(flags)
    args = flags.parse_args(argv)
    recipe = load_yaml(args.config) if args.config else {}
    model = recipe.get("MODEL", {})
    if not args.list:
        sections = [name for name in args.sections if recipe.get(name, {}).get("filelist")]
        args.list = [recipe[name]["filelist"] for name in sections]
    if not args.list:
        raise ConfigError("nothing to check: give --list, or --config with lists in its --sections")
    args.list = list(dict.fromkeys(args.list))
    args.format = args.format or {"video": "mp4"}.get(model.get("format"), model.get("format"))
    if args.format not in FORMATS:
        raise ConfigError(f"--format is not given ({', '.join(FORMATS)}), nor is MODEL.format in the recipe")
    args.num_classes = args.num_classes or model.get("num_classes")
    args.labels = args.labels or recipe.get("INFER", {}).get("kinetics_labels")
    args.backend = args.backend or model.get("backend", "opencv")
    args.report = args.report or f"{args.list[0]}.check.json"
    return args


def check_labels(names: list[str] | None, args: Any) -> list[str]:
    """What is wrong with the label file."""
    wrong = []
    if names is not None:
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            wrong.append(f"{args.labels}: {twice[0]!r} is there twice")
        if len(names) != args.num_classes:
            wrong.append(f"{args.labels}: {len(names)} names, but num_classes is {args.num_classes}")
    for what in wrong:
        parallel.say(what)
    return wrong


# ---- reading the lists -----------------------------------------------------------------------------


def read(file: str, form: str, num_classes: int | None) -> Checked:
    """The lines of a list that are well-formed; the others are its first problems. Raises DataError."""
    text = dict(filelist.read_lines(file))
    if form == "pkl":
        lines = filelist.read_paths(file)
    elif form == "mp4":
        lines = filelist.read_labelled(file, None)
    else:
        lines = [folder_line(where, line) for where, line in text.items()]
    checked = Checked(file, [], text)
    first: dict[str, str] = {}
    for line in lines:
        if form == "frames" and line.num_frames is None:
            checked.problem(line.where, f"expected 'folder count label', got {text[line.where]!r}")
        elif form == "mp4" and line.number is None:
            checked.problem(line.where, f"expected 'path label', got {text[line.where]!r}")
        elif form != "pkl" and (wrong := wrong_label(line.number, num_classes)):
            checked.problem(line.where, wrong)
        elif (path := os.path.normpath(line.path)) in first:
            checked.problem(line.where, f"{line.path} is there twice, first at {first[path]}")
        else:
            first[path] = line.where
            checked.lines.append(line)
    return checked


def folder_line(where: str, text: str) -> Line:
    """A "folder count label" line; without count where it is none. Unlike the reader's, it goes on."""
    parts = text.rsplit(None, 2)
    try:
        folder, count, label = parts[0], int(parts[1]), int(parts[2])
    except (IndexError, ValueError):
        return Line(text, None, where)
    return Line(folder, label, where, count if count > 0 else None)


def wrong_label(label: Any, num_classes: int | None) -> str:
    """What is wrong with a label, or an empty string."""
    if not isinstance(label, (int, np.integer)) or label < 0:
        return f"label {label!r} is not a class number"
    if num_classes is not None and label >= num_classes:
        return f"label {label} is outside [0, {num_classes})"
    return ""


# ---- decoding --------------------------------------------------------------------------------------


def decode_all(lists: Sequence[Checked], args: Any) -> None:
    """Decode every line; results go to the lists. What is decoded is noted, in case this is interrupted."""
    notes = Path(f"{args.report}.progress")
    known = read_notes(notes)
    every = [(checked, line) for checked in lists for line in checked.lines]
    every = [(*pair, note_key(pair[1], args.format, args.backend)) for pair in every]
    results: dict[str, Any] = {line.where: known[key] for _, line, key in every if key in known}
    todo = [entry for entry in every if entry[1].where not in results]
    notes.parent.mkdir(parents=True, exist_ok=True)
    with open(notes, "a", encoding="utf-8") as stream:

        def done(index: int, result: Any) -> None:
            _, line, key = todo[index]
            results[line.where] = result
            if isinstance(result, parallel.Failure):
                parallel.say(f"{line.where}: {named(line.path, result.message)}")
            elif key:
                stream.write(json.dumps([key, *result]) + "\n")
                stream.flush()

        work = functools.partial(decode_one, form=args.format, backend=args.backend)
        parallel.run(work, [line for _, line, _ in todo], args.num_workers, "check", done)
    for checked, line, _ in every:
        result = results[line.where]
        if isinstance(result, parallel.Failure):
            checked.problems.append((line.where, named(line.path, result.message)))
        elif wrong := wrong_label(result[0], args.num_classes):  # of a pickle
            checked.problem(line.where, f"{line.path}: {wrong}")
        else:
            checked.labels.append(result[0])
            checked.num_frames.append(result[1])
    notes.unlink()


def read_notes(file: Path) -> dict[str, list]:
    """(label, number of frames) by key, from an interrupted check; the last line may be torn."""
    known = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            key, label, num_frames = json.loads(line)
            known[key] = [label, num_frames]
    except (OSError, ValueError):
        pass
    return known


def note_key(line: Line, form: str, backend: str) -> str:
    """Changes when the file or what is asked of it does; empty where there is no file."""
    try:
        stat = os.stat(line.path)
    except OSError:
        return ""
    return json.dumps(
        [line.path, line.number, line.num_frames, form, backend, stat.st_size, stat.st_mtime_ns]
    )


def decode_one(line: Line, form: str, backend: str) -> tuple[Any, int]:
    """Decode every frame of one line: its label and number of frames. Raises DataError."""
    if form == "mp4":
        counts = []

        def choose(num_frames: int) -> list[int]:
            counts.append(num_frames)
            return []  # no image is wanted: frames are decoded, and not kept

        decode.video_frames(line.path, choose, backend)
        return line.number, counts[-1]
    if form == "frames":
        for index in range(line.num_frames):
            decode.folder_frames(line.path, line.num_frames, lambda _, i=index: [i])
        return line.number, line.num_frames
    value = safe_pickle.load(line.path, encoding="bytes")
    if not isinstance(value, (tuple, list)) or len(value) != 3 or not isinstance(value[2], (tuple, list)):
        raise DataError(f"{line.path}: expected (id, label, [jpeg, …])")
    _, label, jpegs = value
    for index in range(max(1, len(jpegs))):
        decode.jpeg_frames(line.path, jpegs, lambda _, i=index: [i])
    return int(label) if isinstance(label, (int, np.integer)) else str(label), len(jpegs)


# ---- what is said ----------------------------------------------------------------------------------


def counts_of(checked: Checked, num_classes: int | None) -> list[int]:
    """Good lines of each class."""
    found = Counter(checked.labels)
    return [found[label] for label in range(num_classes or max(found, default=-1) + 1)]


def summary(checked: Checked, num_classes: int | None, names: list[str] | None) -> None:
    counts = counts_of(checked, num_classes)
    good = len(checked.labels)
    print(f"{checked.file}: {good} good lines, {len(checked.problems)} bad")
    if not good:
        return
    low, high = min(checked.num_frames), max(checked.num_frames)
    print(f"  frames a video: min {low}, median {statistics.median(checked.num_frames):g}, max {high}")

    def title(label: int) -> str:
        return names[label] if names and label < len(names) else f"class {label}"

    few, many = counts.index(min(counts)), counts.index(max(counts))
    print(
        f"  videos a class: min {counts[few]} ({title(few)}), median {statistics.median(counts):g}, "
        f"max {counts[many]} ({title(many)}), {len(counts)} classes"
    )
    empty = [title(label) for label, count in enumerate(counts) if count == 0]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        print(f"  warning: no video of {len(empty)} classes: {', '.join(empty[:5])}{more}")


def find_overlaps(lists: Sequence[Checked]) -> list[dict[str, Any]]:
    """Files that are in two lists: no error, TEST is often VALID, but training must not hold them."""
    found = []
    paths = [{os.path.realpath(line.path): line for line in checked.lines} for checked in lists]
    for i, one in enumerate(lists):
        for j in range(i + 1, len(lists)):
            common = sorted(paths[i].keys() & paths[j].keys())
            if common:
                example = [paths[k][common[0]].where for k in (i, j)]
                print(
                    f"warning: {one.file} and {lists[j].file} have {len(common)} files in common, "
                    f"e.g. {example[0]} and {example[1]}"
                )
                found.append(
                    {"lists": [one.file, lists[j].file], "num_files": len(common), "example": example}
                )
    return found


def record(checked: Checked, num_classes: int | None) -> dict[str, Any]:
    counts = counts_of(checked, num_classes)
    frames = checked.num_frames
    order = {where: number for number, where in enumerate(checked.text)}
    problems = sorted(checked.problems, key=lambda problem: order[problem[0]])
    return {
        "list": checked.file,
        "num_lines": len(checked.text),
        "num_good": len(checked.labels),
        "problems": [{"where": where, "what": what} for where, what in problems],
        "videos_of_class": counts,
        "empty_classes": [label for label, count in enumerate(counts) if count == 0],
        "frames_of_video": {
            "min": min(frames, default=0),
            "median": statistics.median(frames) if frames else 0,
            "max": max(frames, default=0),
        },
    }


def write_clean(checked: Checked) -> None:
    bad = {where for where, _ in checked.problems}
    good = [line for where, line in checked.text.items() if where not in bad]
    file = Path(checked.file)
    file = file.with_name(f"{file.stem}.clean{file.suffix}")
    if good:
        outputs.write_list(file, good)
        print(f"{file}: {len(good)} lines")


if __name__ == "__main__":
    sys.exit(cli.run(main))
