"""Two processes on CPU: the same numbers as one, one set of files, and nobody hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests import synthetic
from tests.conftest import ROOT
from utils import checkpoint, safe_pickle

LAUNCH = [sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    # 7 validation videos: the ranks' shares differ in size.
    listed = synthetic.video_set(folder)
    (folder / "odd.list").write_text("".join(listed.read_text().splitlines(keepends=True)[:7]))
    odd = {"filelist": str(folder / "odd.list")}
    return synthetic.tiny_tsn(folder, listed, MODEL={"frozen_bn": True}, VALID=odd, TEST=odd, INFER=odd)


def command(prefix: list[str], script: str, recipe: Path, folder: str, *flags: str) -> list[str]:
    save_dir = recipe.parent / folder
    return [
        *prefix,
        str(ROOT / script),
        f"--config={recipe}",
        f"--save_dir={save_dir}",
        "--use_gpu=False",
        *flags,
    ]


def run(*args, expect: int = 0) -> str:
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=240, cwd=ROOT)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def both(recipe) -> tuple[Path, Path]:
    """Folders trained by one process and by two; the second through train.py's own spawning."""
    flags = (
        "--pretrain=none",
        "--fix_random_seed=True",
        "--log_interval=1",
        "-o",
        "TRAIN.learning_rate=1e-3",
    )
    alone = [sys.executable]
    run(alone, "train.py", recipe, "one", *flags)
    out = run(alone, "train.py", recipe, "two", *flags, "--num_processes=2")
    assert "batch 4 over 2 process(es)" in out
    return recipe.parent / "one", recipe.parent / "two"


def test_two_processes_train_to_the_numbers_of_one(both):
    one, two = both
    first, second = (safe_pickle.load(folder / "TSN.pdparams") for folder in both)
    assert list(first) == list(second)
    for name, value in first.items():
        assert np.abs(value - second[name]).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name
    logs = [[json.loads(x) for x in (f / "log.jsonl").read_text().splitlines()] for f in (one, two)]
    assert len(logs[0]) == len(logs[1])
    for a, b in zip(*logs, strict=True):
        for name in ("loss", "top1_acc", "top5_acc"):
            assert a[name] == pytest.approx(b[name], rel=1e-5), (a["kind"], name)


def test_the_launcher_evaluates_and_predicts_every_sample_once_in_order(both, recipe):
    weights = f"--weights={both[0] / 'TSN'}"
    for script, name in (("eval.py", "TSN_eval_result.json"), ("predict.py", "TSN_infer_result.json")):
        run([sys.executable], script, recipe, "alone", weights)
        run([*LAUNCH, "--log_dir", str(recipe.parent / "log")], script, recipe, "together", weights)
        alone, together = (json.loads((recipe.parent / f / name).read_text()) for f in ("alone", "together"))
        if script == "eval.py":
            assert together["num_samples"] == 7
            assert together["result"] == pytest.approx(alone["result"], rel=1e-5)
        else:
            assert [r["video"] for r in together["results"]] == [r["video"] for r in alone["results"]]
            for a, b in zip(alone["results"], together["results"], strict=True):
                assert a["topk"][0]["probability"] == pytest.approx(b["topk"][0]["probability"], rel=1e-4)


def test_parallel_sync_bn_gives_the_statistics_of_one_process(tmp_path):
    listed = synthetic.video_set(tmp_path)
    recipe = synthetic.tiny_tsn(tmp_path, listed, TRAIN={"epoch": 1, "batch_size": 8})  # one step
    flags = ("--pretrain=none", "--fix_random_seed=True", "--valid_interval=0")
    python = [sys.executable]
    run(python, "train.py", recipe, "alone", *flags)
    run(python, "train.py", recipe, "apart", *flags, "--num_processes=2")
    out = run(python, "train.py", recipe, "together", *flags, "--num_processes=2", "--sync_bn=True")
    assert "batch norm over the batch of all processes in 20 layers" in out
    alone, apart, together = (
        safe_pickle.load(tmp_path / folder / "TSN.pdparams") for folder in ("alone", "apart", "together")
    )

    def difference(state):
        return max(np.linalg.norm(state[k] - v) / max(np.linalg.norm(v), 1e-2) for k, v in alone.items())

    assert difference(together) < 1e-4 < 1e-2 < difference(apart)


def test_a_batch_that_cannot_be_shared_offers_the_nearest(recipe):
    flags = ("--pretrain=none", "--num_processes=2", "--batch_size=5")
    out = run([sys.executable], "train.py", recipe, "out", *flags, expect=2)
    assert "batch_size 5 cannot be shared by 2 processes; nearest: 4" in out


def start_endless(recipe: Path, folder: str) -> subprocess.Popen:
    """Two ranks that train for long, after their first steps."""
    flags = ("--pretrain=none", "--epoch=500", "--valid_interval=0", "--log_interval=1", "--num_processes=2")
    process = subprocess.Popen(
        command([sys.executable], "train.py", recipe, folder, *flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in process.stdout:
        if "Epoch 1, iter 1" in line:
            break
    return process


def finish(process: subprocess.Popen) -> str:
    try:
        return process.communicate(timeout=60)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_ctrl_c_stops_all_ranks_and_leaves_a_whole_checkpoint(recipe):
    process = start_endless(recipe, "stopped")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    finish(process)
    assert process.returncode == 130
    assert checkpoint.read_about(str(recipe.parent / "stopped" / "TSN"))["step"] >= 1


def test_a_killed_rank_ends_the_job_by_name_and_training_can_be_resumed(recipe):
    process = start_endless(recipe, "killed")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    out = finish(process)
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: rank 1 was killed by SIGKILL" in out
    about = checkpoint.read_about(str(recipe.parent / "killed" / "TSN_epoch0"))
    assert about["epoch_finished"]
    run([sys.executable], "train.py", recipe, "killed", "--resume=auto", f"--epoch={about['epoch'] + 2}")
