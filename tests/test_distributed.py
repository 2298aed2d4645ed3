"""Several processes on CPU, started in every way: the numbers of one, one set of files, and nobody hangs.

What each model computes on two processes is in ``tests/test_every_model.py``; which rank is to blame in
``tests/test_ranks.py``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import predict
from tests import synthetic
from tests.conftest import ROOT
from tests.programs import read_until, started, stopped_at_batch
from utils import checkpoint, safe_pickle

LAUNCH = [sys.executable, "-m", "paddle.distributed.launch"]
ALONE = [sys.executable]
# Followed by a folder for logs, and what two ranks run.
START = "import sys, pathlib; from utils import ranks; "
START += "sys.exit(ranks.start(2, False, sys.argv[2:], pathlib.Path(sys.argv[1])))"
SPAWN = [sys.executable, "-c", START]
# The rate depends on no number of epochs, so that a run can be cut short.
FIXED = ("--pretrain=none", "--fix_random_seed=True", "--log_interval=1", "-o", "TRAIN.decay_epochs=[1]")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("two")
    # 7 videos to evaluate: the ranks' shares differ in size.
    listed = synthetic.video_set(folder)
    lines = listed.read_text(encoding="utf-8").splitlines(keepends=True)[:7]
    (folder / "odd.list").write_text("".join(lines), encoding="utf-8")
    odd = {"filelist": str(folder / "odd.list")}
    yield synthetic.tiny_tsn(folder, listed, MODEL={"frozen_bn": True}, VALID=odd, TEST=odd, INFER=odd)
    shutil.rmtree(folder)  # gigabytes of checkpoints


def command(prefix: list[str], script: str, recipe: Path, folder: str, *flags: str) -> list[str]:
    save_dir = recipe.parent / folder
    given = [str(ROOT / script), f"--config={recipe}", f"--save_dir={save_dir}", "--use_gpu=False"]
    return [*prefix, *given, *flags]


def run(*args, expect: int = 0, timeout: float = 240) -> str:
    done = subprocess.run(command(*args), capture_output=True, text=True, timeout=timeout, cwd=ROOT)
    assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def rank_of(process: subprocess.Popen, rank: int) -> int:
    """The id of a rank: a child of ``process``."""
    for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        if f"PADDLE_TRAINER_ID={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
            return int(child)
    pytest.fail(f"no rank {rank}")


def weights(recipe: Path, folder: str, name: str = "TSN.pdparams") -> dict[str, np.ndarray]:
    return safe_pickle.load(recipe.parent / folder / name)


def assert_bit_equal(recipe: Path, one: str, other: str) -> None:
    for suffix in (".pdparams", ".pdopt"):
        first, second = (weights(recipe, folder, f"TSN{suffix}") for folder in (one, other))
        assert list(first) == list(second)
        for name, value in first.items():
            assert np.array_equal(np.asarray(value), np.asarray(second[name])), f"{name}{suffix}"


# ---- ways to start -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(recipe) -> Path:
    """What one process trained."""
    run(ALONE, "train.py", recipe, "one", *FIXED)
    return recipe.parent / "one"


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def test_two_machines_train_to_the_numbers_of_one_process(recipe, alone):
    """Two launchers of a process each, which find each other by ``--master``."""
    nodes = ["--nnodes", "2", "--nproc_per_node", "1", "--master", f"127.0.0.1:{free_port()}"]
    log_dirs = [str(recipe.parent / f"log{rank}") for rank in (0, 1)]
    prefixes = [[*LAUNCH, *nodes, "--rank", str(rank), "--log_dir", log_dirs[rank]] for rank in (0, 1)]
    with started(command(prefixes[1], "train.py", recipe, "nodes", *FIXED)) as second:
        out = run(prefixes[0], "train.py", recipe, "nodes", *FIXED)
        second.communicate(timeout=60)
    assert second.returncode == 0
    assert "batch 4 = 2 process(es) x 2 sample(s)" in out
    first, other = weights(recipe, "one"), weights(recipe, "nodes")
    assert list(first) == list(other)
    for name, value in first.items():
        assert np.abs(value - other[name]).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name


def test_run_dist_names_what_no_rank_can_read_and_keeps_the_order(recipe, alone, tmp_path):
    """A damaged video in the share of rank 1: both scripts finish, say so, and exit with 1."""
    paths = [line.rpartition(" ")[0] for line in (recipe.parent / "odd.list").read_text().splitlines()]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"garbage")
    paths[5] = str(broken)
    listed = tmp_path / "some.list"
    listed.write_text("".join(f"{path} {i % 4}\n" for i, path in enumerate(paths)))
    results = []
    for save_dir, environment in (("alone", {}), ("together", {"NPROC": "2"})):
        for mode, section in (("eval", "TEST"), ("predict", "INFER")):
            flags = [f"--weights={alone / 'TSN'}", f"--save_dir={tmp_path / save_dir}", "--use_gpu=False"]
            script = "run_dist.sh" if environment else "run.sh"
            done = subprocess.run(
                ["bash", ROOT / script, mode, "TSN", recipe, *flags, "-o", f"{section}.filelist={listed}"],
                capture_output=True,
                text=True,
                timeout=240,
                cwd=tmp_path,
                env={**os.environ, **environment, "PYTHON": sys.executable},
            )
            assert done.returncode == 1, done.stdout[-2000:] + done.stderr[-2000:]
            assert "broken.mp4: not a readable video" in done.stdout
        written = sorted(path.name for path in (tmp_path / save_dir).iterdir())
        assert written == ["TSN_eval_result.json", "TSN_infer_result.json"]
        results.append([json.loads((tmp_path / save_dir / name).read_text()) for name in written])
    (scored, predicted), (scored_by_two, predicted_by_two) = results
    assert (scored["num_samples"], scored["num_failed"]) == (7, 1)
    assert scored["failed"] == scored_by_two["failed"] and scored["failed"][0]["video"] == str(broken)
    assert scored_by_two["result"] == pytest.approx(scored["result"], rel=1e-5)
    assert [record["video"] for record in predicted_by_two["results"]] == paths
    for one, other in zip(predicted["results"], predicted_by_two["results"], strict=True):
        assert one.get("error") == other.get("error")
        for a, b in zip(one.get("topk", []), other.get("topk", []), strict=True):
            assert a["class_id"] == b["class_id"]
            assert a["probability"] == pytest.approx(b["probability"], abs=1e-6)


def test_two_processes_go_on_with_what_one_has_predicted(recipe, alone, tmp_path):
    given = [f"--weights={alone / 'TSN.pdparams'}", "--batch_size=2"]
    flags = [f"--config={recipe}", f"--save_dir={recipe.parent / 'predicted'}", "--use_gpu=False", *given]
    with stopped_at_batch(1, KeyboardInterrupt()):
        predict.main(flags)
    run([*SPAWN, str(tmp_path)], "predict.py", recipe, "predicted", *given, "--resume")
    run(ALONE, "predict.py", recipe, "at_once", *given)
    found = (recipe.parent / folder / "TSN_infer_result.json" for folder in ("predicted", "at_once"))
    first, other = (json.loads(file.read_text(encoding="utf-8"))["results"] for file in found)
    assert [record["video"] for record in first] == [record["video"] for record in other]
    for a, b in zip(first, other, strict=True):
        assert a["topk"][0]["probability"] == pytest.approx(b["topk"][0]["probability"], rel=1e-4)
    assert not list((recipe.parent / "predicted").glob("*.part"))


def test_what_a_run_says_of_its_processes(recipe):
    flags = ("--pretrain=none", "--num_processes=2", "--epoch=0", "-o", "TRAIN.num_gpus=8")
    out = run(ALONE, "train.py", recipe, "said", *flags)
    assert out.count("TRAIN.num_gpus is 8, but 2 process(es) run") == 1
    assert "batch 4 = 2 process(es) x 2 sample(s)" in out


def test_a_batch_that_cannot_be_shared_offers_the_nearest(recipe):
    flags = ("--pretrain=none", "--num_processes=2", "--batch_size=5")
    out = run(ALONE, "train.py", recipe, "out", *flags, expect=2)
    assert out.count("error:") == 1
    assert "error: batch_size 5 cannot be shared by 2 processes; nearest: 4 or 6" in out


def test_a_share_that_cannot_be_read_is_left_out_and_named(recipe, tmp_path):
    """One sample a rank: a damaged video leaves a rank with none, which is no reason to end."""
    lines = (recipe.parent / "all.list").read_text().splitlines()[:4]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"garbage")
    (tmp_path / "train.list").write_text("\n".join([*lines, f"{broken} 0"]) + "\n")
    flags = ("--batch_size=2", "--num_processes=2", "--epoch=4", "--valid_interval=0")
    out = run(ALONE, "train.py", recipe, "some", *FIXED, f"TRAIN.filelist={tmp_path / 'train.list'}", *flags)
    left_out = re.findall(r"is left out: rank (\d) could read no sample of its share", out)
    assert left_out and out.count("skipped ") == 1
    about = checkpoint.read_about(str(recipe.parent / "some" / "TSN"))
    assert list(about["failed"]) == [str(broken)], "also where rank 1 found it"
    assert about["step"] == 8 - len(left_out)


# ---- faults ------------------------------------------------------------------------------------

ENDLESS = ("--epoch=500", "--valid_interval=0", "--save_interval=1")


def test_ctrl_c_stops_all_ranks_and_leaves_a_whole_checkpoint(recipe):
    flags = (*FIXED, *ENDLESS, "--num_processes=2")
    with started(command(ALONE, "train.py", recipe, "stopped", *flags)) as process:
        read_until(process, "Epoch 1, iter 1")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert checkpoint.read_about(str(recipe.parent / "stopped" / "TSN"))["step"] >= 3


def test_a_killed_rank_ends_the_job_by_name_and_it_goes_on_exactly(recipe):
    flags = (*FIXED, "MODEL.frozen_bn=False", "--valid_interval=0", "--num_processes=2")
    with started(command(ALONE, "train.py", recipe, "killed", *flags, *ENDLESS)) as process:
        read_until(process, "Epoch 1, iter 0")
        os.kill(rank_of(process, 1), signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: rank 1 was killed by SIGKILL" in out and "Traceback" not in out
    newest = checkpoint.find_resume("auto", str(recipe.parent / "killed"), "TSN")
    about = checkpoint.read_about(newest)
    assert about["step"] >= 2 and about["num_processes"] == 2
    epochs = f"--epoch={about['epoch'] + 2}"
    resumed = run(ALONE, "train.py", recipe, "killed", *flags, epochs, "--resume=auto")
    assert "goes on with" not in resumed
    run(ALONE, "train.py", recipe, "whole", *flags, epochs)
    assert_bit_equal(recipe, "whole", "killed")


def test_a_killed_rank_ends_the_launchers_job_and_one_process_takes_over(recipe):
    launch = [*LAUNCH, "--nproc_per_node", "2", "--log_dir", str(recipe.parent / "log")]
    with started(command(launch, "train.py", recipe, "left", *FIXED, *ENDLESS)) as process:
        read_until(process, "Epoch 1, iter 0")
        os.kill(rank_of(process, 1), signal.SIGKILL)
        out, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    # gloo may abort rank 0 in the same moment; Paddle's launcher names the first that it looks at.
    assert re.search(r"Container rank (1 status failed .* code -9|0 status failed .* code -6)", out), out[
        -3000:
    ]
    assert "Traceback" not in out
    epoch = checkpoint.read_about(checkpoint.find_resume("auto", str(recipe.parent / "left"), "TSN"))["epoch"]
    flags = ("--resume=auto", f"--epoch={epoch + 1}", "--valid_interval=0")
    out = run(ALONE, "train.py", recipe, "left", *FIXED, *flags)
    assert out.count("was trained by 2 process(es) and goes on with 1") == 1
    # One process computes what two do, but for rounding: as if nothing had happened.
    run(ALONE, "train.py", recipe, "right", *FIXED, *flags)
    first, other = weights(recipe, "left"), weights(recipe, "right")
    for name, value in first.items():
        assert np.abs(value - other[name]).max() <= 1e-4 * max(np.abs(value).max(), 1e-3), name


def test_a_rank_may_come_late(tmp_path):
    """gloo gives up after 30 seconds; a checkpoint or the longer half of an evaluation may take more."""
    script = tmp_path / "late.py"
    script.write_text(
        f"import sys, time\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from utils import device\n"
        "device.set_device(False, None)\n"
        "device.connect()\n"
        "time.sleep(33 * device.rank())\n"
        "assert device.gather(device.rank()) == [0, 1] and device.total(2) == 4 and device.highest(3) == 3\n"
    )
    done = subprocess.run([*SPAWN, str(tmp_path / "log"), str(script)], timeout=120, cwd=ROOT)
    assert done.returncode == 0, (tmp_path / "log" / "rank1.log").read_text()


def test_a_full_disk_is_one_line_and_what_was_there_is_whole(recipe):
    """As large a file as a checkpoint cannot be written: the limit of the process stands for the disk."""
    flags = (*FIXED, "--valid_interval=0", "--num_processes=2")
    run(ALONE, "train.py", recipe, "full", *flags, "--epoch=1")
    folder = recipe.parent / "full"
    before = {path.name: path.read_bytes() for path in folder.glob("TSN*.pd*")}
    half = len(before["TSN.pdparams"]) // 2 // 1024
    limited = ["bash", "-c", f'ulimit -f {half}; exec "$@"', "bash", sys.executable]
    out = run(limited, "train.py", recipe, "full", *flags, "--epoch=2", "--resume=auto", expect=2, timeout=60)
    assert re.search(
        r"error: \S+/TSN_epoch1\.pdparams: cannot write: File too large; earlier files are whole", out
    )
    assert "Traceback" not in out and "rank 1" not in out
    assert not list(folder.glob(".*.tmp"))
    assert {path.name: path.read_bytes() for path in folder.glob("TSN*.pd*")} == before
    assert checkpoint.read_about(str(folder / "TSN"))["epoch"] == 0


def test_a_rank_that_never_comes_is_no_reason_to_wait_for_ever(recipe, tmp_path):
    """The spawner ends the others when one dies before it has joined them."""
    script = tmp_path / "dies.py"
    script.write_text(
        "import os, runpy, sys\n"
        "if os.environ['PADDLE_TRAINER_ID'] == '1': os._exit(3)\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"runpy.run_path({str(ROOT / 'train.py')!r}, run_name='__main__')\n"
    )
    args = [str(script), f"--config={recipe}", f"--save_dir={tmp_path}", "--use_gpu=False", *FIXED]
    done = subprocess.run(
        [*SPAWN, str(tmp_path / "log"), *args],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 3 and "error: rank 1 failed: no output" in done.stderr


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
