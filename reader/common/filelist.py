"""List files: one sample a line, ``path`` or ``path label``; blanks in paths are allowed."""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".flv", ".wmv", ".ts")


@dataclass(frozen=True)
class Line:
    """One entry: ``path``, the number after it (a class, or an id) and the number of frames before that,
    None where there is none; ``labels`` are all numbers after the path; ``where`` is file:line."""

    path: str
    number: int | None
    where: str
    num_frames: int | None = None
    labels: tuple[int, ...] = ()


def read_lines(file: str) -> list[tuple[str, str]]:
    """``(where, text)`` of every line that is not blank. Raises DataError: no file, no UTF-8, empty.

    A list that is not below ``data/dataset/`` is looked for below ``data/``: VideoTag's guide named both.
    """
    elsewhere = file.replace("data/dataset/", "data/")
    if not Path(file).exists() and Path(elsewhere).exists():
        file = elsewhere
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a UTF-8 text"
        raise DataError(f"{file}: cannot read the list: {reason}") from error
    lines = [(f"{file}:{n}", line.strip()) for n, line in enumerate(text.splitlines(), 1)]
    lines = [(where, line) for where, line in lines if line]
    if not lines:
        raise DataError(f"{file}: the list is empty")
    return lines


def read_paths(file: str) -> list[Line]:
    """One path a line, all of the line."""
    return [Line(text, None, where) for where, text in read_lines(file)]


def read_labelled(file: str, num_classes: int | None) -> list[Line]:
    """``path label`` a line; the label is a class in [0, num_classes), or any number without classes.

    With ``num_classes`` every line must have its label; without, a line may be a path alone.
    Raises DataError with file and line.
    """
    lines = []
    for where, text in read_lines(file):
        path, _, last = text.rpartition(" ") if " " in text else text.rpartition("\t")
        number = _integer(last)
        if number is None or not path:
            if num_classes is not None:
                raise DataError(f"{where}: expected 'path label', got {text!r}")
            path, number = text, None
        if num_classes is not None and not 0 <= number < num_classes:
            raise DataError(f"{where}: label {number} is outside [0, {num_classes}) (MODEL.num_classes)")
        lines.append(Line(path.strip(), number, where))
    return lines


def read_tagged(file: str, num_classes: int | None) -> list[Line]:
    """``path label label …`` a line; with ``num_classes`` every label is a class in [0, num_classes).

    Without, any numbers may follow the path. Raises DataError with file and line.
    """
    lines = []
    for where, text in read_lines(file):
        path, numbers = text, []
        while (parts := path.rsplit(None, 1)) and len(parts) == 2 and _integer(parts[1]) is not None:
            path, numbers = parts[0], [_integer(parts[1]), *numbers]
        wrong = [k for k in numbers if num_classes is not None and not 0 <= k < num_classes]
        if wrong:
            raise DataError(f"{where}: label {wrong[0]} is outside [0, {num_classes}) (MODEL.num_classes)")
        lines.append(Line(path, numbers[0] if numbers else None, where, labels=tuple(numbers)))
    return lines


def read_folders(file: str, num_classes: int | None) -> list[Line]:
    """``folder count label`` a line: folders of images; without classes the label may be left out.

    Raises DataError with file and line.
    """
    lines = []
    for where, text in read_lines(file):
        parts = text.split()
        numbers = [_integer(part) for part in parts[-2:]]
        if len(parts) >= 3 and None not in numbers:
            folder, count, label = text.rsplit(None, 2)[0], *numbers
        elif num_classes is None and len(parts) >= 2 and numbers[-1] is not None:
            folder, count, label = text.rsplit(None, 1)[0], numbers[-1], None
        else:
            raise DataError(f"{where}: expected 'folder count label', got {text!r}")
        if num_classes is not None and not 0 <= label < num_classes:
            raise DataError(f"{where}: label {label} is outside [0, {num_classes}) (MODEL.num_classes)")
        if count < 1:
            raise DataError(f"{where}: {count} frames")
        lines.append(Line(folder, label, where, count, () if label is None else (label,)))
    return lines


def expand(video_path: str, suffixes: tuple[str, ...] = VIDEO_SUFFIXES, called: str = "video") -> list[Line]:
    """What ``--video_path`` means: a file, every video below a folder, or a glob; sorted.

    Raises DataError where there is none.
    """
    path = Path(video_path)
    if path.is_dir():
        found = sorted(p for p in path.rglob("*") if p.suffix.lower() in suffixes and p.is_file())
    elif path.is_file():
        return [Line(video_path, None, "--video_path")]
    else:
        found = [Path(name) for name in sorted(glob.glob(video_path, recursive=True)) if Path(name).is_file()]
    if not found:
        raise DataError(
            f"--video_path={video_path}: no such {called}, folder with {called}s, or matching file"
        )
    return [Line(str(file), None, "--video_path") for file in found]


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
