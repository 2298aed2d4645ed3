"""Which of several ranks is to blame, with ranks that do nothing else."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.programs import read_until, started
from utils import ranks
from utils.errors import OutputError

# What a rank does after its peers had the time to begin.
FAKE = """
import os, signal, sys, time
rank, fates = int(os.environ["PADDLE_TRAINER_ID"]), sys.argv[1:]
fate, _, late = fates[rank].partition("@")
time.sleep(float(late or 0))
if fate == "waits":
    time.sleep(600)
elif fate.startswith("SIG"):
    os.kill(os.getpid(), getattr(signal, fate))
    time.sleep(600)
print(f"error: what rank {rank} says")
sys.exit(int(fate))
"""


def start(tmp_path: Path, *fates: str) -> int:
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    return ranks.start(len(fates), False, [str(script), *fates], tmp_path / "log")


@pytest.mark.parametrize(
    ("fates", "status", "said"),
    [
        (["0", "0"], 0, ""),
        (["waits", "2", "waits"], 2, "error: rank 1 failed: error: what rank 1 says"),
        (["waits", "SIGKILL"], 137, "error: rank 1 was killed by SIGKILL"),
        # A peer that fails for want of the other, be it seen in the same moment or later.
        (["1@0.5", "SIGKILL"], 137, "error: rank 1 was killed by SIGKILL"),
        (["SIGABRT", "2"], 2, "error: rank 1 failed: error: what rank 1 says"),
        (["1", "2"], 2, "error: rank 1 failed: error: what rank 1 says"),
        (["2", "SIGABRT@0.5"], 2, ""),  # rank 0 speaks for itself
        (["2", "2"], 2, ""),  # a mistake that all ranks see is said once
        (["SIGKILL", "waits"], 137, "error: rank 0 was killed by SIGKILL"),
        (["130", "130"], 130, ""),  # stopped by Ctrl-C, after the checkpoint
        (["143", "0"], 143, ""),
        (["1", "130"], 130, ""),  # one was between two epochs, and the other could not talk to it any more
        (["130", "waits"], 130, ""),
    ],
)
def test_the_rank_that_failed_first_is_named(tmp_path, monkeypatch, capfd, fates, status, said):
    monkeypatch.setattr(ranks, "GRACE_SECONDS", 2)
    assert start(tmp_path, *fates) == status
    err = capfd.readouterr().err
    assert err.startswith(said) and err.count("\n") == bool(said), err


def test_ranks_find_each_other_and_their_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    first, second = ranks._environments(2, on_gpu=True)
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("2", "5")
    assert first["PADDLE_DISTRI_BACKEND"] == "nccl" and first["FLAGS_selected_gpus"] == "0"
    endpoints = first["PADDLE_TRAINER_ENDPOINTS"].split(",")
    assert endpoints == second["PADDLE_TRAINER_ENDPOINTS"].split(",") and len(set(endpoints)) == 2
    assert second["PADDLE_CURRENT_ENDPOINT"] == endpoints[1]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in ranks._environments(2, on_gpu=True)] == ["0", "1"]
    assert all("CUDA_VISIBLE_DEVICES" not in e for e in ranks._environments(2, on_gpu=False))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "log").write_text("")
    with pytest.raises(OutputError, match="log: cannot make the folder"):
        start(tmp_path, "0")


def test_sigterm_reaches_every_rank(tmp_path):
    script = tmp_path / "waits.py"
    script.write_text("import time\nprint('up', flush=True)\ntime.sleep(600)\n", encoding="utf-8")
    program = "import pathlib, sys; from utils import ranks; "
    program += "ranks.start(2, False, sys.argv[1:2], pathlib.Path(sys.argv[2]))"
    command = [sys.executable, "-c", program, str(script), str(tmp_path)]
    with started(command) as process:
        read_until(process, "up")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert len(children) == 2 and not any(os.path.exists(f"/proc/{child}") for child in children)
