"""List files: one sample a line, ``path`` or ``path label``; blanks in paths are allowed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from utils.errors import DataError


@dataclass(frozen=True)
class Line:
    """One entry: ``path`` and the number after it, None where there is none; ``where`` is file:line."""

    path: str
    number: int | None
    where: str


def read_lines(file: str) -> list[tuple[str, str]]:
    """``(where, text)`` of every line that is not blank. Raises DataError: no file, no UTF-8, empty."""
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


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
