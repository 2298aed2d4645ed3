"""What matters over hours: memory, processes and shared memory left behind, curves, where the time goes."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest

import train
from tests import synthetic
from tests.programs import alive, read_until, started
from tests.recipes import nextvlad
from utils.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_log_handlers():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, level = handlers, logging.root.setLevel(level)


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")
def test_memory_is_flat_over_50_epochs(tmp_path, monkeypatch):
    recipe = nextvlad.tiny(tmp_path)
    used, before = [], train.engine.train_epoch

    def noted(*args, **kwargs):
        before(*args, **kwargs)
        used.append(resident_mb())

    monkeypatch.setattr(train.engine, "train_epoch", noted)
    flags = ["--pretrain=none", "--epoch=50", "--log_interval=1", "--use_gpu=False"]
    assert train.main([f"--config={recipe}", f"--save_dir={tmp_path / 'out'}", *flags]) == 0
    assert len(used) == 50
    slope = np.polyfit(np.arange(40), used[10:], 1)[0]
    assert slope < 0.2, f"{slope:.2f} MB an epoch: {[round(value) for value in used]}"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    return synthetic.tiny_tsn(folder, synthetic.video_set(folder))


def shared_memory() -> set[str]:
    return {name for name in os.listdir("/dev/shm") if name.startswith(("paddle", "psm", "sem.", "torch"))}


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="Linux only")
@pytest.mark.parametrize("ending", ["success", "error", "ctrl_c"])
def test_nothing_is_left_behind_after(ending, recipe, tmp_path):
    command = [sys.executable, "train.py", f"--config={recipe}", f"--save_dir={tmp_path}", "--use_gpu=False"]
    command += ["--pretrain=none", "--epoch=1", "--log_interval=1", "--num_workers=2", "--valid_interval=0"]
    if ending == "error":
        command += ["--learning_rate=1e30", "--epoch=9"]
    if ending == "ctrl_c":  # so many steps that the readers are busy when it comes
        videos = (recipe.parent / "all.list").read_text(encoding="utf-8")
        (tmp_path / "long.list").write_text(videos * 100, encoding="utf-8")
        command += ["-o", f"TRAIN.filelist={tmp_path / 'long.list'}"]
    before = shared_memory()
    with started(command) as process:
        if ending == "ctrl_c":
            read_until(process, "Epoch 0, iter 1")
            assert len(alive(process.pid)) > 1  # reader processes
            os.killpg(process.pid, signal.SIGINT)
        out = process.communicate(timeout=100)[0]
        assert process.returncode == {"success": 0, "error": 2, "ctrl_c": 130}[ending], out[-2000:]
        deadline = time.monotonic() + 10
        while alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert alive(process.pid) == []
    own = re.compile(rf"_{process.pid}_|_{process.pid}$")
    assert not [name for name in shared_memory() - before if own.search(name)]


def test_the_curves_of_a_run_are_written_and_an_absent_writer_is_one_line(recipe, tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, tag, value, step):
            written.append((tag, value, step))

    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    flags = [
        f"--config={recipe}",
        f"--save_dir={tmp_path}",
        "--pretrain=none",
        "--use_gpu=False",
        "--epoch=1",
    ]
    assert train.main([*flags, "--log_interval=1", "--log_writer=tensorboardX"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2]
    assert [(v, s) for tag, v, s in written if tag == "train/loss"] == [
        (r["loss"], r["step"]) for r in lines[:2]
    ]
    assert [s for tag, _, s in written if tag == "valid/top1_acc"] == [2]
    monkeypatch.setitem(sys.modules, "visualdl", None)
    with pytest.raises(ConfigError, match="--log_writer=visualdl: not installed; pip install visualdl"):
        train.main([*flags, "--log_writer=visualdl"])


def test_a_profile_says_what_each_phase_of_a_step_takes(recipe, tmp_path, capsys):
    flags = ["--pretrain=none", "--use_gpu=False", "--profile", "--log_interval=1", "--batch_size=1"]
    assert (
        train.main([f"--config={recipe}", f"--save_dir={tmp_path}", f"--profiler_path={tmp_path}", *flags])
        == 0
    )
    line = next(text for text in capsys.readouterr().out.splitlines() if "5 steps, ms a step:" in text)
    phases = re.findall(r"(\w+) ([\d.]+) \((-?\d+) %\)", line)
    assert [name for name, *_ in phases] == ["reader", "forward", "backward", "update", "other"]
    assert all(float(ms) > 0 for name, ms, _ in phases if name != "other")
    assert 97 <= sum(int(share) for *_, share in phases) <= 103
