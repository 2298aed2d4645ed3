"""Programs that a test starts, talks to and ends: none outlives its test, whatever happens."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.conftest import ROOT
from utils.unfinished import Unfinished


@contextmanager
def started(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen]:
    """``command`` as the leader of a session of its own, all of which is killed at the end.

    Its stdout and stderr are one pipe, unless ``options`` of ``Popen`` say otherwise.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, start_new_session=True, env=environment, **{**pipes, **options})
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def read_until(process: subprocess.Popen, text: str) -> str:
    """What it says, up to the line that holds ``text``; fails if it ends before."""
    out = ""
    for line in process.stdout:
        out += line
        if text in line:
            return out
    pytest.fail(f"ended before {text!r}: {out[-3000:]}")


def alive(session: int) -> list[int]:
    """The processes of a session, of those that ``started`` leads."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8") as stat:
                state, _, _, of_session = stat.read().rpartition(")")[2].split()[:4]
        except OSError:  # gone meanwhile
            continue
        if int(of_session) == session and state != "Z":
            found.append(int(name))
    return found


@contextmanager
def stopped_at_batch(number: int, error: BaseException) -> Iterator[None]:
    """Within it a prediction is stopped when it has kept so many batches."""
    add, added = Unfinished.add, []

    def noted(self, records):
        if len(added) == number:
            raise error
        added.append(records)
        add(self, records)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(Unfinished, "add", noted)
        yield
