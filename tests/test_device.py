"""How many threads a process computes with."""

from __future__ import annotations

import os
import subprocess
import sys

import paddle
import pytest

from tests.conftest import ROOT
from utils import device


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 8),
        ({"ZOO_NUM_THREADS": "3"}, 3),
        ({"ZOO_NUM_THREADS": "0"}, 8),
        ({"ZOO_NUM_THREADS": "all"}, 8),
        ({"PADDLE_TRAINERS_NUM": "3"}, 2),  # started by utils/ranks.py: all on this machine
        ({"PADDLE_TRAINERS_NUM": "16"}, 1),
        ({"PADDLE_TRAINERS_NUM": "16", "PADDLE_LOCAL_SIZE": "2"}, 4),  # 8 machines of 2
        ({"PADDLE_TRAINERS_NUM": "2", "ZOO_NUM_THREADS": "5"}, 5),
    ],
)
def test_cores_are_shared_unless_the_user_says_otherwise(environment, expected, monkeypatch) -> None:
    for name in ("ZOO_NUM_THREADS", "PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert device.num_threads() == expected
    used = []
    monkeypatch.setattr(paddle.base.core, "set_num_threads", used.append)
    device.set_device(False, None)
    assert used == [expected]


@pytest.mark.parametrize("given", ["3", None])
def test_paddle_does_not_change_what_the_user_said(given) -> None:
    """Neither here nor in the processes that this one starts; and nothing is printed."""
    inner = "from utils import device; print(device.num_threads())"
    code = f"{inner}; import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    hidden = ("OMP_NUM_THREADS", "ZOO_NUM_THREADS", "PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    if given:
        environment["OMP_NUM_THREADS"] = given
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert done.stdout.split() == [given or str(cores)] * 2
    if not given:
        assert done.stderr == ""  # Paddle itself warns when it is given more than one thread
