"""What a tool writes: files and folders that appear whole, lists, and where each result goes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reader.common.filelist import VIDEO_SUFFIXES, Line
from utils.errors import ConfigError, DataError, OutputError
from utils.files import write_atomic, write_json

SETTINGS = "settings.json"


@dataclass(frozen=True)
class Job:
    """One video to convert: a line of a list, and the file or folder that it becomes."""

    line: Line
    target: Path


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A hidden path beside ``target`` to write a file or a folder at; renamed when the block ends well.

    Whatever interrupts the block, ``target`` is whole or absent. Only the end of the machine or kill -9
    leaves the hidden ``.….part`` behind; nothing reads it.

    Raises OutputError: the disk is full, or the place cannot be written.
    """
    temporary = target.with_name(f".{uuid.uuid4().hex}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(
            f"{target}: cannot write: {error.strerror or error}; what is there is whole"
        ) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            temporary.unlink()


def plan(lines: Sequence[Line], out: str, root: str, suffix: str) -> list[Job]:
    """Where each video goes: ``<out>/<name><suffix>``.

    The name is the file's own without its suffix, or with ``root`` the path below that folder.
    Raises DataError for two videos of one name, and for one that is not below ``root``.
    """
    taken: dict[Path, Line] = {}
    jobs = []
    for line in lines:
        path = Path(line.path)
        if root:
            try:
                path = Path(os.path.abspath(path)).relative_to(os.path.abspath(root))
            except ValueError:
                raise DataError(f"{line.where}: {line.path} is not below --root={root}") from None
        target = Path(out) / (path.with_suffix("") if root else Path(path.stem))
        target = target.with_name(target.name + suffix)
        if target in taken:
            other = taken[target]
            advice = "" if root else "; --root=FOLDER keeps the folders below it"
            raise DataError(
                f"{line.where}: {line.path} would become {target}, like {other.path} ({other.where}){advice}"
            )
        taken[target] = line
        jobs.append(Job(line, target))
    return jobs


def claim(out: str, settings: dict[str, Any]) -> None:
    """Note in ``<out>/settings.json`` how its files are made, so that a later run adds only the like.

    Raises ConfigError where the folder was made in another way.
    """
    file = Path(out) / SETTINGS
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        write_json(file, settings)
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read ({error}); delete it or choose another --out") from error
    if before != settings:
        raise ConfigError(f"{out} was made with {before}, now asked for: {settings}; choose another --out")


def write_list(file: str | Path, lines: Sequence[str]) -> None:
    """A list file, whole. Raises DataError for a line that a reader would not read back, OutputError."""
    for line in lines:
        check_line(line)
    write_atomic(file, ("\n".join(lines) + "\n").encode("utf-8"))


def check_line(line: str) -> None:
    """Raise DataError for a path that a list, UTF-8 and one line an entry, cannot hold."""
    shown = line.encode("utf-8", "backslashreplace").decode("utf-8")
    if len(line.splitlines()) != 1 or line != line.strip():
        raise DataError(f"{shown!r}: a list cannot hold a name with a line break or blanks at its ends")
    if shown != line:
        raise DataError(f"{shown!r}: the name is not UTF-8; rename the file")


def find_videos(folder: str | Path) -> list[Path]:
    """Every video below ``folder``, sorted; hidden files and folders are left out.

    Raises DataError where there is no such folder, or one that cannot be looked into.
    """
    found = []
    for where, folders, names in os.walk(folder, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(where) / name
            for name in names
            if name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")
        ]
    return sorted(found)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot look into this folder ({error.strerror})")
