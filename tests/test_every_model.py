"""Every model of the zoo through every script, on a small recipe of its own (``tests/recipes``)."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

import eval as eval_script
import inference_model
import predict
import train
from metrics import caption_scores
from models import ZOO
from tests.conftest import ROOT
from tests.programs import stopped_at_batch
from tests.recipes import TINY
from utils import build, checkpoint, engine, loader, program, ranks, safe_pickle
from utils.config import RunConfig, literal, load_yaml, resolve
from utils.errors import Interrupted

NAMES = [spec.name for spec in ZOO]
# The first test of two processes waits for all models to be trained by one process, and by two.
pytestmark = pytest.mark.timeout(1500)
each_model = pytest.mark.parametrize("spec", ZOO, ids=NAMES)


@pytest.fixture(autouse=True)
def _own_log_handlers():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, level = handlers, logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def _without_java(monkeypatch):
    """METEOR takes seconds to start; ``test_ets_tools.py`` has it."""
    monkeypatch.setattr(caption_scores.shutil, "which", lambda name: None)


def run(recipe: Path, save_dir: Path, *flags: str) -> Path:
    argv = [f"--config={recipe}", f"--save_dir={save_dir}", "--use_gpu=False", "--log_interval=1"]
    if not any(flag.startswith("--resume") for flag in flags):
        argv += ["--pretrain=none", "--fix_random_seed=True"]
    assert train.main([*argv, *flags]) == 0
    return save_dir


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """name -> (recipe, folder of its uninterrupted run); trained when first asked for."""
    done: dict[str, tuple[Path, Path]] = {}

    def of(name: str) -> tuple[Path, Path]:
        if name not in done:
            folder = tmp_path_factory.mktemp(name)
            recipe = TINY[name](folder)
            done[name] = recipe, run(recipe, folder / "whole")
        return done[name]

    yield of
    for _, folder in done.values():
        shutil.rmtree(folder.parent)


def assert_same(a: Path, b: Path, tolerance: float = 0.0) -> None:
    """Equal parameters (and, bit by bit, optimizer states)."""
    for suffix in (".pdparams", ".pdopt") if tolerance == 0 else (".pdparams",):
        first, second = safe_pickle.load(f"{a}{suffix}"), safe_pickle.load(f"{b}{suffix}")
        assert list(first) == list(second)
        for name, value in first.items():
            value, other = np.asarray(value), np.asarray(second[name])
            if tolerance == 0:
                assert np.array_equal(value, other), f"{name}{suffix}"
            else:
                # Not value by value: where a gradient is rounding, Adam makes full steps of it.
                difference, norm = np.linalg.norm(value - other), np.linalg.norm(value)
                assert difference <= tolerance * max(norm, 1e-2), name


def assert_equal_but_for_rounding(a: object, b: object, tolerance: float, where: str) -> None:
    """The same JSON value: text, counts and order alike, each number to ``tolerance`` of its size or of 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert list(a) == list(b), where
        for name, value in a.items():
            assert_equal_but_for_rounding(value, b[name], tolerance, f"{where}.{name}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal_but_for_rounding(x, y, tolerance, f"{where}[{i}]")
    elif isinstance(a, float) and isinstance(b, float):
        assert abs(a - b) <= tolerance * max(1.0, abs(a)), f"{where}: {a} and {b}"
    else:
        assert a == b, where


def contents(folder: Path) -> dict[str, object]:
    """Every file below ``folder``: what its JSON, its numbers between commas or its arrays are."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".npy":
            found[name] = np.load(path).tolist()
        elif path.suffix == ".json":
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            found[name] = [[literal(cell) for cell in line.split(",")] for line in lines]
    return found


def test_every_model_has_a_small_recipe():
    assert list(TINY) == NAMES


@each_model
def test_training_writes_the_files_of_2019(spec, trained):
    _, folder = trained(spec.name)
    epochs = {int(p.stem.rpartition("epoch")[2]) for p in folder.glob(f"{spec.name}_epoch*.pdparams")}
    assert epochs == set(range(len(epochs))) and epochs
    for suffix in (".pdparams", ".pdopt", ".json"):
        assert (folder / f"{spec.name}{suffix}").is_file()
    assert (folder / f"{spec.name}_best.pdparams").is_file() == bool(spec.best)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"epoch", "iter", "loss", "lr", "batch_cost", "reader_cost", "ips", "eta"} <= set(lines[0])


@each_model
def test_stop_and_resume_in_the_middle_of_an_epoch_is_exact(spec, trained, tmp_path, monkeypatch):
    recipe, whole = trained(spec.name)

    @contextmanager
    def stop_at_once():
        yield lambda: signal.SIGINT

    with monkeypatch.context() as patch:
        patch.setattr(engine, "stop_signals", stop_at_once)
        with pytest.raises(Interrupted):
            run(recipe, tmp_path / "parts")
    assert checkpoint.read_about(str(tmp_path / "parts" / spec.name))["step"] == 1
    run(recipe, tmp_path / "parts", "--resume=auto", "--num_workers=2")
    assert_same(whole / spec.name, tmp_path / "parts" / spec.name)


@each_model
def test_to_static_trains_to_the_numbers_of_eager(spec, trained, tmp_path):
    recipe, _ = trained(spec.name)
    flags = ["--epoch=1", "--valid_interval=0"]
    if spec.name == "CTCN" and paddle.__version__.startswith("2."):
        flags.append("--batch_size=8")  # one step: a second makes much of how that Paddle's Programs round
    run(recipe, tmp_path / "eager", *flags)
    run(recipe, tmp_path / "static", *flags, "--to_static=True")
    assert_same(tmp_path / "eager" / spec.name, tmp_path / "static" / spec.name, 1e-5)


@each_model
@pytest.mark.parametrize("level", ["O1", "O2"])
def test_amp_trains_near_float32_into_float32_checkpoints(spec, trained, tmp_path, level):
    recipe, _ = trained(spec.name)
    flags = ("--epoch=1", "--valid_interval=0")
    run(recipe, tmp_path / "float32", *flags)
    run(recipe, tmp_path / "low", *flags, f"--amp={level}")
    plain, low = (safe_pickle.load(f"{tmp_path}/{f}/{spec.name}.pdparams") for f in ("float32", "low"))
    assert list(plain) == list(low) and all(value.dtype == np.float32 for value in low.values())
    differ = [name for name, value in plain.items() if not np.array_equal(value, low[name])]
    assert differ  # else nothing was rounded: Paddle's own auto_cast skips CPUs
    losses = [log_of(tmp_path / f)[0]["loss"] for f in ("float32", "low")]  # of the same weights
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.05)


@each_model
def test_amp_evaluation_and_prediction_are_near_float32(spec, trained, tmp_path):
    recipe, folder = trained(spec.name)
    argv = [f"--config={recipe}", f"--weights={folder / spec.name}", "--use_gpu=False"]
    for name, flags in (("float32", ()), ("low", ("--amp=O1",))):
        for script in (eval_script, predict):
            assert script.main([*argv, f"--save_dir={tmp_path / name}", *flags]) == 0
    reports, records = (
        [
            json.loads((tmp_path / f / f"{spec.name}_{what}_result.json").read_text())
            for f in ("float32", "low")
        ]
        for what in ("eval", "infer")
    )
    assert list(reports[0]["result"]) == list(reports[1]["result"])
    if "loss" in reports[0]["result"]:
        assert reports[1]["result"]["loss"] == pytest.approx(reports[0]["result"]["loss"], rel=0.05)
    assert [r["video"] for r in records[0]["results"]] == [r["video"] for r in records[1]["results"]]


@each_model
def test_clip_norm_bounds_the_gradients_of_every_step(spec, trained, tmp_path, monkeypatch):
    recipe, _ = trained(spec.name)
    norms, clip = [], paddle.nn.ClipGradByGlobalNorm._dygraph_clip

    def norm(pairs) -> float:
        return float(np.linalg.norm([float(g.norm()) for _, g in pairs if g is not None]))

    def noted(self, params_grads):
        before = norm(params_grads)  # clipping may be in place
        clipped = clip(self, params_grads)
        norms.append((before, norm(clipped)))
        return clipped

    monkeypatch.setattr(paddle.nn.ClipGradByGlobalNorm, "_dygraph_clip", noted)
    run(recipe, tmp_path, "--epoch=1", "--valid_interval=0", "--clip_norm=1e-3")
    assert len(norms) == checkpoint.read_about(str(tmp_path / spec.name))["step"] > 0
    assert all(before > 1e-3 for before, _ in norms) and all(after <= 1.001e-3 for _, after in norms)


@each_model
def test_to_static_evaluates_and_predicts_to_the_numbers_of_eager(spec, trained, tmp_path, monkeypatch):
    """Of the network that eval.py and predict.py run: that is ETS's search, too."""
    recipe, folder = trained(spec.name)
    argv = [f"--config={recipe}", f"--weights={folder / spec.name}", "--use_gpu=False"]
    plain = program.inference
    for name, to_static in (("eager", False), ("static", True)):
        with monkeypatch.context() as patch:
            if not to_static:  # and not the oneDNN predictor
                eagerly = lambda network, row, *rest: plain(network, replace(row, cpu_path="eager"), *rest)  # noqa: E731
                patch.setattr(program, "inference", eagerly)
            for script in (eval_script, predict):
                flags = [f"--save_dir={tmp_path / name}", f"--to_static={to_static}"]
                assert script.main([*argv, *flags]) == 0
    for what in ("eval", "infer"):
        a, b = (
            json.loads((tmp_path / f / f"{spec.name}_{what}_result.json").read_text())
            for f in ("eager", "static")
        )
        assert_equal_but_for_rounding(a, b, 1e-5, what)


@each_model
@pytest.mark.parametrize("flags", [(), ("--to_static=True",)], ids=["default", "to_static"])
def test_evaluation_and_prediction(spec, trained, tmp_path, flags):
    recipe, folder = trained(spec.name)
    argv = [f"--config={recipe}", f"--weights={folder / spec.name}", f"--save_dir={tmp_path}", *flags]
    assert eval_script.main(argv) == 0
    report = json.loads((tmp_path / f"{spec.name}_eval_result.json").read_text(encoding="utf-8"))
    assert report["num_samples"] > 0 and report["num_failed"] == 0 and report["result"]
    assert predict.main(argv) == 0
    records = json.loads((tmp_path / f"{spec.name}_infer_result.json").read_text(encoding="utf-8"))["results"]
    assert records and all("video" in record and "error" not in record for record in records)


@each_model
def test_an_interrupted_prediction_goes_on_to_the_files_of_a_whole_one(spec, trained, tmp_path):
    recipe, folder = trained(spec.name)
    argv = [f"--config={recipe}", f"--weights={folder / spec.name}", "--batch_size=1"]
    assert predict.main([*argv, f"--save_dir={tmp_path / 'whole'}"]) == 0
    with stopped_at_batch(1, KeyboardInterrupt()):
        predict.main([*argv, f"--save_dir={tmp_path / 'parts'}"])
    assert list((tmp_path / "parts").glob("*.part"))
    assert predict.main([*argv, f"--save_dir={tmp_path / 'parts'}", "--resume"]) == 0
    assert_equal_but_for_rounding(*map(contents, (tmp_path / "whole", tmp_path / "parts")), 1e-6, "results")


@each_model
def test_the_inference_program_gives_what_eager_gives(spec, trained, tmp_path):
    recipe, folder = trained(spec.name)
    argv = [f"--config={recipe}", f"--weights={folder / spec.name}", f"--save_dir={tmp_path}"]
    assert inference_model.main(argv) == 0
    sections = load_yaml(recipe)
    network = build.network(spec, sections, "INFER", str(recipe))
    checkpoint.load_weights(network, str(folder / spec.name))
    example = build.example_inputs(spec, sections, "INFER", str(recipe))
    called, row = build.predicting(network, spec)
    expected = program.eager(called, row, row.outputs)(example)
    got = program.predictor(str(tmp_path / f"{spec.name}_model"), row, row.outputs)(example)
    for name, value in expected.items():
        assert program.difference(got[name], value) <= 1e-4, name


@each_model
def test_results_of_more_ranks_than_samples_are_put_together(spec, trained, tmp_path):
    """Some ranks have one sample, some none; what they found is as if one had seen the list."""
    recipe, folder = trained(spec.name)
    sections, file = load_yaml(recipe), str(recipe)
    size = resolve(RunConfig, sections, "TEST", file).batch_size
    network = build.network(spec, sections, "TEST", file)
    checkpoint.load_weights(network, str(folder / spec.name))
    called, row = build.predicting(network, spec)
    infer, loss = program.eager(called, row, row.evaluated), program.loss_function(network)
    reader = build.reader(spec, sections, "TEST", file)

    def scored(rank: int, world: int):
        metric = build.metric(spec, sections, "TEST", file)
        for fields, _ in loader.Loader(reader, loader.evaluation_batches(reader, size, rank, world)):
            batch = {k: v.numpy() if hasattr(v, "numpy") else v for k, v in fields.items()}
            outputs = infer({name: batch[name] for name in row.inputs})
            has_loss = row.losses and all(name in batch for name in row.targets)
            metric.update({**outputs, **(loss(outputs, batch) if has_loss else {})}, batch)
        return metric

    alone, together = scored(0, 1), build.metric(spec, sections, "TEST", file)
    world = len(reader) + 2
    together.merge([scored(rank, world).state() for rank in range(world)])
    assert alone.result()
    assert_equal_but_for_rounding(alone.result(), together.result(), 1e-5, "result")
    if hasattr(alone, "per_video"):
        assert alone.per_video([]) == together.per_video([])
    if hasattr(alone, "write_results"):
        for metric, name in ((alone, "alone"), (together, "together")):
            metric.write_results(str(tmp_path / name))
        assert_equal_but_for_rounding(*map(contents, (tmp_path / "alone", tmp_path / "together")), 1e-5, "")


@pytest.fixture(scope="module")
def on_one_and_two(tmp_path_factory) -> Iterator[Path]:
    """``one/<model>`` and ``two/<model>``: what 1 and 2 processes trained, evaluated and predicted."""
    folder = tmp_path_factory.mktemp("parallel")
    recipes = {}
    for name in NAMES:
        (folder / name).mkdir()
        recipes[name] = str(TINY[name](folder / name))
    (folder / "recipes.json").write_text(json.dumps(recipes), encoding="utf-8")
    worker = [str(ROOT / "tests" / "parallel_worker.py"), str(folder)]
    alone = subprocess.run([sys.executable, *worker], capture_output=True, text=True, timeout=1200, cwd=ROOT)
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert ranks.start(2, False, worker, folder / "log") == 0, os.listdir(folder / "log")
    yield folder
    shutil.rmtree(folder)  # gigabytes of checkpoints


TIMES = {"time", "batch_cost", "reader_cost", "ips", "eta"}


def log_of(folder: Path) -> list[dict]:
    """What ``log.jsonl`` says of each step and validation, but how long it took."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


@each_model
def test_parallel_two_processes_train_to_the_numbers_of_one(spec, on_one_and_two):
    one, two = on_one_and_two / "one" / spec.name, on_one_and_two / "two" / spec.name
    assert_same(one / spec.name, two / spec.name, 1e-5)
    first, second = log_of(one), log_of(two)
    assert {line["kind"] for line in first} == {"train", "valid"}
    assert_equal_but_for_rounding(first, second, 1e-5, "log.jsonl")


@each_model
def test_accumulate_two_parts_equal_one_batch_on_one_and_two_processes(spec, on_one_and_two):
    one = on_one_and_two / "one" / spec.name / spec.name
    found = [on_one_and_two / f"{folder}_by_parts" / spec.name / spec.name for folder in ("one", "two")]
    assert Path(f"{found[0]}.pdparams").is_file()
    for parts in found:
        if Path(f"{parts}.pdparams").is_file():  # where the small batch can be shared by two times two
            assert_same(one, parts, 1e-5)


@each_model
def test_parallel_two_processes_write_the_results_of_one(spec, on_one_and_two):
    """Every sample once, in the order of the list, in the same files."""
    one, two = on_one_and_two / "one" / spec.name, on_one_and_two / "two" / spec.name
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    first, second = contents(one / "results"), contents(two / "results")
    assert {f"{spec.name}_eval_result.json", f"{spec.name}_infer_result.json"} <= set(first)
    assert_equal_but_for_rounding(first, second, 1e-6, "results")
