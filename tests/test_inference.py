"""eval.py, predict.py and inference_model.py as users run them."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import requests

import eval as eval_script
import inference_model
import predict
import train
from models import ZOO
from reader.kinetics_reader import KineticsReader
from tests import synthetic
from tests.programs import stopped_at_batch
from utils import build, checkpoint, program, safe_pickle
from utils.config import load_yaml
from utils.errors import ConfigError, DataError, OutputError, WeightsError
from utils.registry import find


@pytest.fixture(autouse=True)
def _own_log_handlers():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers, level = handlers, logging.root.setLevel(level)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with videos, a recipe and a trained TSN; shared, so tests copy what they change."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = synthetic.tiny_tsn(folder, synthetic.video_set(folder))
    train.main(
        [f"--config={recipe}", f"--save_dir={folder}", "--pretrain=none", "--epoch=1", "-o", "TRAIN.seed=0"]
    )
    return folder


def argv(folder: Path, out: Path, *flags: str) -> list[str]:
    return [
        f"--config={folder / 'tiny.yaml'}",
        f"--weights={folder / 'TSN.pdparams'}",
        f"--save_dir={out}",
        *flags,
    ]


def result(out: Path, name: str) -> dict:
    def no_constant(text):
        raise ValueError(f"{text} is no JSON")

    return json.loads((out / name).read_text(encoding="utf-8"), parse_constant=no_constant)


@pytest.mark.parametrize("flags", [(), ("--to_static=True",), ("--num_workers=2", "--batch_size=5")])
def test_eval_scores_every_sample_whatever_the_path(trained, tmp_path, flags, capsys):
    assert eval_script.main(argv(trained, tmp_path, *flags)) == 0
    report = result(tmp_path, "TSN_eval_result.json")
    assert (report["num_samples"], report["num_failed"], report["failed"]) == (8, 0, [])
    valid = json.loads((trained / "TSN.json").read_text())["metric"]  # eager, on the same list
    for name, value in valid.items():
        assert report["result"][name] == pytest.approx(value, rel=1e-4), name
    assert "inference path: " in capsys.readouterr().out


def test_eval_names_what_it_could_not_read_and_exits_1(trained, tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"garbage")
    listed = tmp_path / "some.list"
    bad = f"{tmp_path / 'bad.mp4'} 1\n"  # twice in the list: each counts
    listed.write_text(f"{trained / 'clip 0.mp4'} 0\n{bad}{trained / 'clip 1.mp4'} 1\n{bad}")
    assert eval_script.main(argv(trained, tmp_path, "-o", f"TEST.filelist={listed}")) == 1
    report = result(tmp_path, "TSN_eval_result.json")
    assert (report["num_samples"], report["num_failed"]) == (4, 2)
    assert report["failed"][0]["video"].endswith("bad.mp4")
    scored, all_of_them = report["result"], report["result_with_failures_counted_wrong"]
    assert all_of_them["top5_acc"] == pytest.approx(scored["top5_acc"] / 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_predict_gives_one_record_a_line_in_order(trained, tmp_path, workers):
    (tmp_path / "bad.mp4").write_bytes(b"")
    paths = [trained / "clip 3.mp4", tmp_path / "bad.mp4", trained / "clip 0.mp4", tmp_path / "none.mp4"]
    listed = tmp_path / "infer.list"
    listed.write_text("\n".join(map(str, paths)) + "\n")
    assert predict.main(argv(trained, tmp_path, f"--filelist={listed}", f"--num_workers={workers}")) == 1
    report = result(tmp_path, "TSN_infer_result.json")
    assert (report["version"], report["model"]) == ("VERSION 1.0", "TSN")
    assert [record["video"] for record in report["results"]] == [str(path) for path in paths]
    assert ["error" in record for record in report["results"]] == [False, True, False, True]
    topk = report["results"][0]["topk"]
    assert len(topk) == 2 and set(topk[0]) == {"class_id", "class_name", "probability"}
    assert topk[0]["probability"] >= topk[1]["probability"]


def test_predict_one_video_with_class_names_and_topk(trained, tmp_path, capsys):
    names = tmp_path / "names.json"
    names.write_text(json.dumps(["walk", "run", "跳", "sit"]), encoding="utf-8")
    flags = [
        f"--video_path={trained / 'clip 1.mp4'}",
        "--infer_topk=3",
        "-o",
        f"INFER.kinetics_labels={names}",
    ]
    assert predict.main(argv(trained, tmp_path, *flags)) == 0
    (record,) = result(tmp_path, "TSN_infer_result.json")["results"]
    assert len(record["topk"]) == 3
    assert {entry["class_name"] for entry in record["topk"]} <= {"walk", "run", "跳", "sit"}
    assert f"class: {record['topk'][0]['class_name']}" in capsys.readouterr().out


def other_weights(trained: Path, folder: Path) -> Path:
    state = safe_pickle.load(trained / "TSN.pdparams")
    state["fc_0.b_0"] = state["fc_0.b_0"] + 1
    checkpoint.save([folder / "other"], state, None, {})
    return folder / "other.pdparams"


def test_an_interrupted_prediction_goes_on_to_the_file_of_a_whole_one(trained, tmp_path, monkeypatch, capsys):
    videos = tmp_path / "in"
    shutil.copytree(trained, videos, ignore=shutil.ignore_patterns("TSN_*"))
    bad = videos / "clip 1.mp4"
    good, _ = bad.read_bytes(), bad.write_bytes(b"")
    listed = videos / "infer.list"
    listed.write_text("".join(f"{videos / f'clip {i}.mp4'}\n" for i in range(8)), encoding="utf-8")
    flags = [f"--filelist={listed}", "--batch_size=2", "--visualize"]
    with stopped_at_batch(2, KeyboardInterrupt()):
        predict.main(argv(videos, tmp_path / "parts", *flags))
    part = tmp_path / "parts" / "TSN_infer_result.rank0.part"
    assert f"4 record(s) are kept in {part}: go on with --resume" in capsys.readouterr().out
    part.write_bytes(part.read_bytes() + b"\x00\x10")  # as a full disk leaves it

    other = f"--weights={other_weights(trained, tmp_path)}"
    with pytest.raises(ConfigError, match=r"rank0.part is of a run with another weights\. Predict as"):
        predict.main(argv(videos, tmp_path / "parts", *flags, other, "--resume"))
    with pytest.raises(ConfigError, match="another recipe, --visualize"):
        predict.main(argv(videos, tmp_path / "parts", *flags[:2], "--infer_topk=1", "--resume"))

    bad.write_bytes(good)  # mended meanwhile: what failed is tried again
    read, read_sample = [], KineticsReader.__getitem__
    monkeypatch.setattr(KineticsReader, "__getitem__", lambda self, i: read.append(i) or read_sample(self, i))
    with stopped_at_batch(1, OSError()):
        predict.main(argv(videos, tmp_path / "parts", *flags, "--resume"))
    assert predict.main(argv(videos, tmp_path / "parts", *flags, "--resume", "--batch_size=1")) == 0
    assert sorted(set(read)) == [1, 4, 5, 6, 7]
    assert predict.main(argv(videos, tmp_path / "whole", *flags, "--resume")) == 0  # nothing to go on with
    parts, whole = (
        result(tmp_path / name, "TSN_infer_result.json")["results"] for name in ("parts", "whole")
    )
    for a, b in zip(parts, whole, strict=True):
        assert {**a, "topk": None} == {**b, "topk": None} and (tmp_path / "parts" / a["picture"]).is_file()
        for one, another in zip(a["topk"], b["topk"], strict=True):
            assert one == {**another, "probability": pytest.approx(another["probability"], rel=1e-4)}
    assert not list(tmp_path.glob("*/*.part"))


def test_without_resume_a_prediction_begins_again(trained, tmp_path):
    for _ in range(2):
        with stopped_at_batch(1, KeyboardInterrupt()):
            predict.main(argv(trained, tmp_path))
    (tmp_path / "TSN_infer_result.rank7.part").write_bytes(b"of a run of eight processes")
    assert predict.main(argv(trained, tmp_path)) == 0
    assert len(result(tmp_path, "TSN_infer_result.json")["results"]) == 8
    assert not list(tmp_path.glob("*.part"))


def test_a_part_that_is_none_is_refused(trained, tmp_path):
    part = tmp_path / "TSN_infer_result.rank0.part"
    data = pickle.dumps([1])
    for content, said in (
        (len(data).to_bytes(8, "little") + data, "of a run with another list, weights, recipe"),
        (b"\x04" + bytes(7) + b"junk", "not a readable pickle"),
    ):
        part.write_bytes(content)
        with pytest.raises((ConfigError, DataError), match=said):
            predict.main(argv(trained, tmp_path, "--resume"))
    part.write_bytes(b"\x04")  # nothing but a torn length: nothing was kept
    assert predict.main(argv(trained, tmp_path, "--resume")) == 0


def test_what_is_kept_stays_until_the_result_is_written(trained, tmp_path, monkeypatch):
    def full(*_):
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(OutputError):
        patch.setattr(predict.files, "write_json", full)
        predict.main(argv(trained, tmp_path))
    monkeypatch.setattr(KineticsReader, "__getitem__", None)  # nothing is read again
    assert predict.main(argv(trained, tmp_path, "--resume")) == 0
    assert len(result(tmp_path, "TSN_infer_result.json")["results"]) == 8


def test_an_empty_video_path_means_the_list(trained, tmp_path):
    assert predict.main(argv(trained, tmp_path, "--video_path=")) == 0
    assert len(result(tmp_path, "TSN_infer_result.json")["results"]) == 8


def test_paths_agree(trained, tmp_path):
    """Eager, compiled and oneDNN give the same probabilities."""
    spec = find("TSN", ZOO)
    sections = load_yaml(trained / "tiny.yaml")
    network = build.network(spec, sections, "TEST", "tiny.yaml")
    batch = {"image": np.random.default_rng(0).standard_normal((3, 2, 3, 32, 32)).astype(np.float32)}
    expected = program.eager(network, spec, spec.outputs)(batch)["probability"]
    for to_static, limit in ((True, 1e-5), (False, 1e-4)):
        got = program.inference(network, spec, False, to_static)(batch)["probability"]
        assert np.abs(got - expected).max() <= limit


def test_a_predictor_that_disagrees_is_not_used(trained, tmp_path, monkeypatch, caplog):
    spec = find("TSN", ZOO)
    network = build.network(spec, load_yaml(trained / "tiny.yaml"), "TEST", "tiny.yaml")
    batch = {"image": np.ones((1, 2, 3, 32, 32), np.float32)}
    build_predictor = program.predictor

    def wrong(*args):
        right = build_predictor(*args)
        return lambda inputs: {name: value * 1.01 for name, value in right(inputs).items()}

    monkeypatch.setattr(program, "predictor", wrong)
    infer = program.inference(network, spec, False, False)
    expected = program.eager(network, spec, spec.outputs)(batch)["probability"]
    for _ in range(2):
        assert np.array_equal(infer(batch)["probability"], expected)
    assert "inference path: eager; the oneDNN predictor differs by" in caplog.text


def test_the_exported_program_runs_and_agrees(trained, tmp_path):
    assert inference_model.main(argv(trained, tmp_path)) == 0
    spec = find("TSN", ZOO)
    infer = program.predictor(str(tmp_path / "TSN_model"), spec, spec.outputs)
    from utils import checkpoint

    network = build.network(spec, load_yaml(trained / "tiny.yaml"), "INFER", "tiny.yaml")
    checkpoint.load_weights(network, str(trained / "TSN"))
    for size in (1, 3):  # the batch axis is free
        batch = {
            "image": np.random.default_rng(size).standard_normal((size, 2, 3, 32, 32)).astype(np.float32)
        }
        expected = program.eager(network, spec, spec.outputs)(batch)["probability"]
        assert np.abs(infer(batch)["probability"] - expected).max() <= 1e-4


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--weights=nowhere.pdparams"], WeightsError, r"nowhere\.pdparams: no such weights"),
        (["--weights="], WeightsError, "num_classes is 4, but the published weights of TSN know 400"),
        (["-o", "MODEL.num_classes=5"], WeightsError, r"do not fit.*fc_0.w_0: \[512, 4\].*\[512, 5\]"),
        (["-o", "MODEL.num_clases=5"], ConfigError, "unknown key 'num_clases'. Did you mean 'num_classes'"),
        (["-o", "INFER.kinetics_labels=no.json"], ConfigError, r"no\.json: cannot read the class names"),
    ],
)
def test_mistakes_are_named(trained, tmp_path, flags, error, message):
    with pytest.raises(error, match=message):
        predict.main(argv(trained, tmp_path, *flags))


def test_published_weights_that_are_not_there_say_where_to_put_them(trained, tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise requests.ConnectionError("no network")

    monkeypatch.setattr(requests, "get", no_network)
    monkeypatch.setenv("PADDLE_VIDEO_WEIGHTS", str(tmp_path))
    flags = ["--weights=", "-o", "MODEL.num_classes=400", f"TEST.filelist={trained / 'all.list'}"]
    with pytest.raises(
        WeightsError, match=r"TSN\.pdparams does not exist: put there https://.* or https://.*: no network"
    ):
        eval_script.main(argv(trained, tmp_path, *flags))


def test_a_planted_object_in_weights_is_refused_by_name(trained, tmp_path):
    bad = tmp_path / "bad.pdparams"
    bad.write_bytes(b"cposix\nsystem\n(S'touch planted'\ntR.")
    with pytest.raises(Exception, match=r"bad\.pdparams.*posix.*system"):
        predict.main(argv(trained, tmp_path, f"--weights={bad}"))
    assert not Path("planted").exists()


def test_copies_of_weights_load_from_a_prefix(trained, tmp_path):
    shutil.copy(trained / "TSN.pdparams", tmp_path / "mine.pdparams")
    assert predict.main(argv(trained, tmp_path, f"--weights={tmp_path / 'mine'}")) == 0
