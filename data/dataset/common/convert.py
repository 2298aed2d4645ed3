"""The frame of the tools that make something of every video of a list."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.dataset.common import outputs, parallel
from data.dataset.common.outputs import Job
from reader.common import filelist
from utils.cli import natural
from utils.errors import ConfigError


@dataclass(frozen=True)
class Done:
    """What became of one video. ``made`` is False where a whole result was there already."""

    made: bool
    num_frames: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    note: str = ""  # said on stderr


def parser(description: str) -> argparse.ArgumentParser:
    """A parser whose help shows ``description`` (a module's docstring) as it is written."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_flags(to: argparse.ArgumentParser, out_is: str) -> None:
    """The flags that these tools have in common."""
    to.add_argument("--out", required=True, help=f"folder for {out_is}")
    to.add_argument("--out_list", help="list to write: what was made, in the order of --list")
    to.add_argument("--root", default="", help="keep the folders below this one in the names")
    parallel.add_flag(to)


def add_image_flags(to: argparse.ArgumentParser) -> None:
    """Flags of the tools that write JPEGs."""
    to.add_argument("--quality", type=percent, default=95, help="of the JPEGs, 1 to 100 (default: 95)")
    to.add_argument(
        "--short_side",
        type=positive,
        help="make larger frames smaller: their short side, in pixels; default: leave them as they are",
    )


def percent(text: str) -> int:
    """A whole number from 1 to 100."""
    value = positive(text)
    if value > 100:
        raise argparse.ArgumentTypeError(f"expected a number up to 100, got {text}")
    return value


def positive(text: str) -> int:
    """A whole number > 0."""
    value = natural(text)
    if value == 0:
        raise argparse.ArgumentTypeError("expected a number > 0, got 0")
    return value


def convert(
    jobs: Sequence[Job],
    work: Callable[[Job], Done],
    num_workers: int,
    title: str,
) -> list[tuple[Job, Done]]:
    """``work`` for every job; those that failed are named on stderr, with file:line, and left out."""
    results: list[Any] = [None] * len(jobs)

    def done(index: int, result: Any) -> None:
        results[index] = result
        line = jobs[index].line
        if isinstance(result, parallel.Failure):
            parallel.say(f"{line.where}: {named(line.path, result.message)}")
        elif result.note:
            parallel.say(f"{line.where}: {line.path}: {result.note}")

    parallel.run(work, jobs, num_workers, title, done)
    return [(job, r) for job, r in zip(jobs, results, strict=True) if isinstance(r, Done)]


def named(path: str, message: str) -> str:
    """``message`` with the path, once."""
    return message if message.startswith(path) else f"{path}: {message}"


def finish(jobs: Sequence[Job], results: Sequence[tuple[Job, Done]]) -> int:
    """Say how many were made, there already and failed; the exit status."""
    made = sum(result.made for _, result in results)
    failed = len(jobs) - len(results)
    print(f"{made} made, {len(results) - made} there already, {failed} failed")
    return 1 if failed else 0


def read_jobs(args: argparse.Namespace, suffix: str) -> list[Job]:
    """The jobs of ``--list``. Raises DataError, ConfigError."""
    if args.out_list and Path(args.out_list).resolve() == Path(args.list).resolve():
        raise ConfigError(f"--out_list={args.out_list} is the list that is read; choose another name")
    return outputs.plan(filelist.read_labelled(args.list, None), args.out, args.root, suffix)


def write_out_list(args: argparse.Namespace, lines: Sequence[str]) -> None:
    if args.out_list and lines:
        outputs.write_list(args.out_list, lines)
        print(f"{args.out_list}: {len(lines)} lines")
