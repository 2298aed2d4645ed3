"""train.py as users run it: what it writes, exact resuming, interruptions, and its messages."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
from paddle.framework import load as paddle_load

import train
from tests import synthetic
from tests.programs import read_until, started
from utils import checkpoint, cli, engine, safe_pickle
from utils.errors import ConfigError, DataError, Interrupted, OutputError, WeightsError, ZooError


@pytest.fixture(autouse=True)
def _own_log_handlers():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, level = handlers, logging.root.setLevel(level)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return synthetic.tiny_tsn(tmp_path, synthetic.video_set(tmp_path))


def run(recipe: Path, folder: str, *flags: str) -> Path:
    save_dir = recipe.parent / folder
    argv = [f"--config={recipe}", f"--save_dir={save_dir}", "--use_gpu=False", "--log_interval=1"]
    if not any(flag.startswith(("--pretrain", "--resume")) for flag in flags):
        argv.append("--pretrain=none")
    assert train.main([*argv, *flags]) == 0
    return save_dir


def weights(file: Path) -> dict[str, np.ndarray]:
    return safe_pickle.load(file)


def assert_same(a: Path, b: Path) -> None:
    """Bit-equal parameters and optimizer states."""
    for suffix in (".pdparams", ".pdopt"):
        first, second = weights(Path(f"{a}{suffix}")), weights(Path(f"{b}{suffix}"))
        assert list(first) == list(second)
        for name, value in first.items():
            assert np.array_equal(np.asarray(value), np.asarray(second[name])), f"{name}{suffix}"


def test_a_run_writes_the_files_of_2019_and_repeats_bit_by_bit(recipe):
    one = run(recipe, "one", "--fix_random_seed=True")
    for name in ("TSN_epoch0", "TSN_epoch1", "TSN"):
        assert {f"{name}{end}" for end in (".pdparams", ".pdopt", ".json")} <= set(os.listdir(one)), name
    assert (one / "TSN_best.pdparams").is_file() and (one / "TSN_config.yaml").is_file()
    assert not [name for name in os.listdir(one) if name.endswith(".tmp")]
    assert_same(one / "TSN", one / "TSN_epoch1")
    about = json.loads((one / "TSN.json").read_text())
    assert (about["epoch"], about["iteration"], about["step"]) == (1, 2, 4)
    assert set(about["metric"]) == {"loss", "top1_acc", "top5_acc"}
    lines = [json.loads(line) for line in (one / "log.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["train", "train", "valid"] * 2
    assert {"epoch", "iter", "loss", "lr", "batch_cost", "reader_cost", "ips", "eta"} <= set(lines[0])
    assert np.allclose([line["lr"] for line in lines if line["kind"] == "train"], [0.01, 0.01, 0.001, 0.001])
    assert_same(one / "TSN", run(recipe, "two", "--fix_random_seed=True", "--num_workers=2") / "TSN")


def test_paddle_itself_reads_the_checkpoint(recipe):
    folder = run(recipe, "out", "--epoch=0")
    ours, theirs = weights(folder / "TSN.pdparams"), paddle_load(str(folder / "TSN.pdparams"))
    assert set(ours) == set(theirs)
    assert np.array_equal(ours["conv1_weights"], np.asarray(theirs["conv1_weights"]))


def stop_after(calls: int):
    """A stand-in for Ctrl-C that is seen when train.py looks for it the ``calls``-th time."""
    seen = []

    @contextmanager
    def signals():
        yield lambda: seen.append(1) or (signal.SIGINT if len(seen) >= calls else None)

    return signals


@pytest.mark.parametrize(("calls", "steps"), [(1, 1), (2, 2), (3, 2), (4, 3)])  # 3: between epochs
def test_stopped_and_resumed_equals_uninterrupted(recipe, monkeypatch, calls, steps):
    flags = ("--fix_random_seed=True", "--valid_interval=0")
    whole = run(recipe, "whole", *flags)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "stop_signals", stop_after(calls))
        with pytest.raises(Interrupted, match="--resume=auto") as stop:
            run(recipe, "parts", *flags)
    assert stop.value.exit_code == 130
    assert checkpoint.read_about(str(recipe.parent / "parts" / "TSN"))["step"] == steps
    assert_same(whole / "TSN", run(recipe, "parts", "--resume=auto", "--valid_interval=0") / "TSN")


class Killed(Exception):
    """Stands for what leaves no time to write anything."""


def kill_at(monkeypatch, module, name: str, call: int) -> None:
    """The ``call``-th call of ``module.name`` does not come to pass."""
    plain, calls = getattr(module, name), []

    def last_call(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            raise Killed
        return plain(*args, **kwargs)

    monkeypatch.setattr(module, name, last_call)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (engine, "evaluate", 1),
        (engine, "evaluate", 2),  # of the last epoch
        (checkpoint, "write_json", 3),  # before that of the best
        (checkpoint, "annotate", 4),  # <Model>_epoch1 does not know its scores, <Model> does
        (checkpoint, "write_atomic", 9),  # last epoch: <Model>_epoch1 is written, <Model> is not
    ],
)
def test_a_validation_that_a_run_was_stopped_before_is_made_up_for(recipe, monkeypatch, module, name, call):
    whole = run(recipe, "whole", "--fix_random_seed=True")
    with monkeypatch.context() as patch:
        kill_at(patch, module, name, call)
        with pytest.raises(Killed):
            run(recipe, "parts", "--fix_random_seed=True")
    parts = run(recipe, "parts", "--fix_random_seed=True", "--resume=auto")
    assert_same(whole / "TSN", parts / "TSN")
    best, other = (weights(folder / "TSN_best.pdparams") for folder in (whole, parts))
    assert all(np.array_equal(value, other[key]) for key, value in best.items())
    for file in ("TSN_epoch0", "TSN_epoch1", "TSN", "TSN_best"):
        first, second = (json.loads((folder / f"{file}.json").read_text()) for folder in (whole, parts))
        assert first == second, file


def test_a_validation_is_made_up_for_in_another_folder(recipe, monkeypatch):
    with monkeypatch.context() as patch:
        kill_at(patch, engine, "evaluate", 1)
        with pytest.raises(Killed):
            run(recipe, "old", "--fix_random_seed=True")
    folder = run(recipe, "new", f"--resume={recipe.parent / 'old' / 'TSN'}", "--epoch=1")
    assert set(checkpoint.read_about(str(folder / "TSN_epoch0"))["metric"]) == {
        "loss",
        "top1_acc",
        "top5_acc",
    }
    assert (folder / "TSN_best.pdparams").is_file()


def test_what_a_killed_run_left_unfinished_is_deleted(recipe):
    folder = recipe.parent / "out"
    folder.mkdir()
    for name in (".TSN.pdparams.12.tmp", ".TSN_epoch3.json.12.tmp", ".TSN_best.pdopt.12.tmp"):
        (folder / name).write_bytes(b"half")
    others = {".TSM.pdparams.12.tmp", ".TSN_eval_result.json.12.tmp"}
    for name in others:
        (folder / name).write_bytes(b"not ours")
    run(recipe, "out", "--epoch=0")
    assert {path.name for path in folder.glob(".*")} == others


def test_resume_auto_starts_afresh_in_an_empty_folder_and_skips_a_torn_checkpoint(recipe, caplog):
    whole = run(
        recipe, "whole", "--fix_random_seed=True", "--valid_interval=0", "--resume=auto", "--pretrain=none"
    )
    torn = run(recipe, "torn", "--fix_random_seed=True", "--valid_interval=0")
    for name in ("TSN", "TSN_epoch1"):
        data = (torn / f"{name}.pdopt").read_bytes()
        (torn / f"{name}.pdopt").unlink()
        (torn / f"{name}.pdopt").write_bytes(data[:-100])
    assert checkpoint.find_resume("auto", str(torn), "TSN").endswith("TSN_epoch0")
    again = run(recipe, "torn", "--resume=auto", "--valid_interval=0")
    assert_same(whole / "TSN", again / "TSN")
    with pytest.raises(WeightsError, match="torn checkpoint"):
        data = (torn / "TSN.pdparams").read_bytes()
        (torn / "TSN.pdparams").write_bytes(data + b"x")
        run(recipe, "torn", f"--resume={torn / 'TSN'}")


def test_resuming_parameters_alone_says_that_the_rest_is_fresh(recipe, capsys):
    first = run(recipe, "first", "--epoch=0")
    lonely = recipe.parent / "lonely.pdparams"
    lonely.write_bytes((first / "TSN.pdparams").read_bytes())
    run(recipe, "second", f"--resume={lonely}", "--epoch=1", "--valid_interval=0")
    assert "starting at epoch 0 with a fresh optimizer" in capsys.readouterr().out


def test_another_batch_size_in_the_middle_of_an_epoch_is_refused(recipe, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "stop_signals", stop_after(1))
        with pytest.raises(Interrupted):
            run(recipe, "out")
    with pytest.raises(ConfigError, match="in the middle of an epoch of batch 4"):
        run(recipe, "out", "--resume=auto", "--batch_size=2")


def test_save_interval_writes_within_an_epoch(recipe):
    folder = run(recipe, "out", "--save_interval=1", "--epoch=1", "--valid_interval=0")
    assert checkpoint.read_about(str(folder / "TSN"))["epoch_finished"] is True


def test_epoch_0_trains_nothing_and_saves(recipe):
    folder = run(recipe, "out", "--epoch=0")
    assert sorted(p.name for p in folder.glob("*.pdparams")) == ["TSN.pdparams"]


def test_to_static_trains_to_the_same_numbers(recipe):
    flags = ("--fix_random_seed=True", "--epoch=1")
    eager, static = run(recipe, "eager", *flags), run(recipe, "static", *flags, "--to_static=True")
    a, b = weights(eager / "TSN.pdparams"), weights(static / "TSN.pdparams")
    for name, value in a.items():
        assert np.abs(value - b[name]).max() <= 1e-5 * max(np.abs(value).max(), 1e-3), name


def test_pretrained_weights_come_without_the_head(recipe, capsys):
    first = run(recipe, "first", "--epoch=0", "-o", "TRAIN.seed=1")
    second = run(recipe, "second", f"--pretrain={first / 'TSN'}", "--epoch=0", "-o", "TRAIN.seed=2")
    a, b = weights(first / "TSN.pdparams"), weights(second / "TSN.pdparams")
    assert np.array_equal(a["res5b_branch2a_weights"], b["res5b_branch2a_weights"])
    assert not np.array_equal(a["fc_0.w_0"], b["fc_0.w_0"])
    assert "100 loaded, 0 skipped, 2 missing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--batch_size=9"], ConfigError, "has 8 samples, fewer than one batch of 9"),
        (["-o", "VALID.filelist=none.list"], DataError, r"none\.list: cannot read the list"),
        (["--resume=nowhere"], WeightsError, r"nowhere\.pdparams does not exist"),
        (["--pretrain=nowhere"], WeightsError, "nowhere: no such weights"),
        (["-o", "MODEL.num_layers=20"], ConfigError, "MODEL.num_layers: .*got 20"),
        (["--model_name=TSMN"], ConfigError, "unknown model 'TSMN'"),
        (["--use_gpu=True"], ConfigError, "--use_gpu=True, but this PaddlePaddle"),
        (["-o", "MODEL.image_std=[0.2, 0.0, 0.2]"], ConfigError, r"MODEL\.image_std: .*greater than 0"),
        (["--learning_rate=3e38"], ZooError, "the loss is .* at epoch 1, iteration 0.*clip"),
    ],
)
def test_a_users_mistake_is_one_error(recipe, flags, error, message):
    with pytest.raises(error, match=message) as caught:
        run(recipe, "out", *flags)
    assert "\n" not in str(caught.value)


def test_a_missing_validation_list_does_not_matter_when_validation_is_off(recipe):
    run(recipe, "out", "--epoch=0", "--valid_interval=0", "-o", "VALID.filelist=none.list")


def test_no_pretrained_backbone_says_which_file_to_put_where(recipe, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", no_network)
    monkeypatch.setenv("PADDLE_VIDEO_WEIGHTS", str(tmp_path / "weights"))
    argv = [f"--config={recipe}", f"--save_dir={tmp_path}", "-o", "MODEL.num_layers=50"]
    with pytest.raises(
        WeightsError, match=r"ResNet50_pretrained does not exist: put there https://.*: no network; .*scratch"
    ):
        train.main(argv)


def test_unreadable_videos_are_skipped_and_named(recipe, capsys):
    (recipe.parent / "clip 3.mp4").write_bytes(b"garbage")
    folder = run(recipe, "out", "--epoch=1", "--fix_random_seed=True")
    out = capsys.readouterr().out
    assert "skipped" in out and "clip 3.mp4: not a readable video" in out
    assert "1 could not be read" in out
    failed = json.loads((folder / "TSN.json").read_text())["failed"]
    assert [Path(name).name for name in failed] == ["clip 3.mp4"]


def test_a_full_disk_leaves_the_earlier_checkpoint_whole(recipe, monkeypatch):
    folder = run(recipe, "out", "--fix_random_seed=True", "--epoch=1")
    before = (folder / "TSN.pdparams").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="cannot write: No space left on device; earlier files are whole"):
        run(recipe, "out", "--resume=auto", "--epoch=2")
    assert (folder / "TSN.pdparams").read_bytes() == before
    assert checkpoint.read_about(str(folder / "TSN"))["epoch"] == 0
    assert not list(folder.glob(".*.tmp"))


def command(recipe: Path, *flags: str) -> list[str]:
    argv = [
        f"--config={recipe}",
        f"--save_dir={recipe.parent / 'out'}",
        "--pretrain=none",
        "--log_interval=1",
    ]
    return [sys.executable, "train.py", *argv, *flags]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_whole_checkpoint(recipe, number, code):
    flags = ("--epoch=500", "--valid_interval=0", "--num_workers=1")
    with started(command(recipe, *flags), stderr=subprocess.PIPE) as process:
        read_until(process, "iter 1")
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "go on with --resume=auto" in err and "Traceback" not in err
    about = checkpoint.read_about(str(recipe.parent / "out" / "TSN"))
    assert about["step"] >= 1
    assert not list((recipe.parent / "out").glob(".*.tmp"))


def test_the_program_prints_one_line_and_exits_2(recipe):
    done = subprocess.run(command(recipe, "--batch_size=99"), capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")


def test_help_lists_the_models(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--help"])
    assert stop.value.code == 0
    assert "TSN" in capsys.readouterr().out


def test_a_bad_flag_exits_2(capsys):
    for flag in ("--use_gpu=maybe", "--no_such_flag=1", "--epoch=-1"):
        with pytest.raises(SystemExit) as stop:
            train.main([flag])
        assert stop.value.code == 2
    assert "expected True or False, got 'maybe'" in capsys.readouterr().err


def test_run_turns_errors_into_exit_codes(capsys):
    def fail(error):
        def main(argv):
            raise error

        return main

    assert cli.run(fail(ConfigError("x.yaml: wrong"))) == 2
    assert cli.run(fail(Interrupted("SIGINT", 130))) == 130
    assert cli.run(fail(KeyboardInterrupt())) == 130
    assert "error: x.yaml: wrong" in capsys.readouterr().err


def test_profiling_writes_a_trace_and_no_checkpoint(recipe, tmp_path):
    traces = tmp_path / "traces"
    flags = ("--is_profiler=1", f"--profiler_path={traces}", "--log_interval=1", "--batch_size=1")
    folder = run(recipe, "out", *flags)
    assert list(traces.glob("*.json")) and not list(folder.glob("*.pdparams"))
    with pytest.raises(ConfigError, match="--is_profiler needs 6 batches"):
        run(recipe, "out", "--is_profiler=1", "--log_interval=1", "--batch_size=4")
