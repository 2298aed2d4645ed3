"""The tools of data/dataset/youtube8m, and that the made-up set needs attention."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import predict
import train
from data.dataset.youtube8m import make_lists, make_set, tfrecord_to_pkl
from metrics.youtube8m import YouTube8M
from reader.common import feature_files, tfrecord
from reader.feature_reader import FeatureReader
from tests import youtube8m
from tests.conftest import ROOT
from utils import ensemble, safe_pickle
from utils.errors import ConfigError, DataError

NUM_CLASSES = youtube8m.NUM_CLASSES


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*.*") if p.is_file()}


# ---- TFRecord -> pickle ------------------------------------------------------------------------


def test_tfrecords_become_pickles_and_a_second_run_finds_them(tmp_path, capsys):
    made = youtube8m.feature_set(tmp_path, 130, 3, form="tfrecord")
    flags = [f"--source={made / 'train'}", f"--out={tmp_path / 'pkl'}", f"--out_list={tmp_path / 'a.list'}"]
    assert tfrecord_to_pkl.main([*flags, "--num_workers=0"]) == 0
    assert "2 made, 0 there already, 0 failed" in capsys.readouterr().out
    assert tfrecord_to_pkl.main([*flags, "--num_workers=2"]) == 0
    assert "0 made, 2 there already, 0 failed" in capsys.readouterr().out
    keys = {"num_classes": NUM_CLASSES, "feature_dims": [8, 4]}
    pickled = FeatureReader(FeatureReader.Config(filelist=str(tmp_path / "a.list"), **keys), "TEST")
    shards = FeatureReader(FeatureReader.Config(filelist=str(made / "train.list"), **keys), "TEST")
    assert len(pickled) == len(shards) == 130
    for i in (0, 64, 129):
        for name, value in shards[i].items():
            assert np.array_equal(pickled[i][name], value), name
    record = safe_pickle.load(tmp_path / "pkl" / "train0000.pkl")[0]
    assert list(record) == ["video", "feature", "audio", "label", "nframes"]
    assert record["nframes"] == len(record["feature"])


def test_a_bad_file_is_named_and_the_others_go_on(tmp_path, capsys):
    made = youtube8m.feature_set(tmp_path, 130, 3, form="tfrecord") / "train"
    whole = (made / "train0000.tfrecord").read_bytes()
    (made / "train0000.tfrecord").write_bytes(whole[:-100] + b"x" + whole[-99:])
    video_level = tfrecord._sequence_example()()
    video_level.context.feature["mean_rgb"].float_list.value.append(0.5)
    tfrecord.write(made / "validate.tfrecord", [video_level.SerializeToString()])
    flags = [f"--source={made}", f"--out={tmp_path / 'pkl'}", f"--out_list={tmp_path / 'a.list'}"]
    assert tfrecord_to_pkl.main([*flags, "--num_workers=0"]) == 1
    said = capsys.readouterr()
    assert "1 made, 0 there already, 2 failed" in said.out
    assert "train0000.tfrecord: damaged (CRC of the record" in said.err
    assert "this is a video-level file" in said.err
    assert sorted(p.name for p in (tmp_path / "pkl").iterdir()) == ["train0001.pkl"]
    assert (tmp_path / "a.list").read_text() == f"{tmp_path / 'pkl' / 'train0001.pkl'}\n"


def test_the_tools_run_from_anywhere(tmp_path):
    for name in ("make_set", "tfrecord_to_pkl", "make_lists"):
        script = ROOT / "data" / "dataset" / "youtube8m" / f"{name}.py"
        done = subprocess.run(
            [sys.executable, str(script), "--help"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0 and "--out" in done.stdout, done.stderr


# ---- lists -------------------------------------------------------------------------------------


def test_lists_of_shards_with_their_counts(tmp_path, capsys, monkeypatch):
    made = youtube8m.feature_set(tmp_path, 300, 3)
    flags = [f"--source={made / 'train'}", f"--out={tmp_path / 'a.list'}", "--val=0.4"]
    assert make_lists.main([*flags, f"--val_out={tmp_path / 'b.list'}"]) == 0
    assert "2 files" in capsys.readouterr().out
    both = [(tmp_path / f"{name}.list").read_text().splitlines() for name in "ab"]
    assert [len(lines) for lines in both] == [2, 1]
    assert sorted(both[0] + both[1]) == sorted((made / "train.list").read_text().splitlines())
    monkeypatch.setattr(feature_files, "open_file", lambda line: pytest.fail("counted again"))
    lines = feature_files.read_list(str(tmp_path / "a.list"))
    assert len(feature_files.FeatureFiles(lines, ["rgb"], str(tmp_path / "a.list"))) in (172, 256)


def test_lists_of_arrays_with_labels(tmp_path, capsys):
    for name in ("one", "two words", "three"):
        np.save(tmp_path / f"{name}.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "four.npy").write_bytes(b"no array")
    labels = tmp_path / "labels.csv"
    labels.write_text("one,0 2\ntwo words,1\n", encoding="utf-8")
    flags = [f"--source={tmp_path}", f"--out={tmp_path / 'a.list'}", f"--labels={labels}"]
    assert make_lists.main(flags) == 1
    said = capsys.readouterr().err
    assert "four.npy: not a readable .npy" in said and "--labels has no line for 'three'" in said
    assert (tmp_path / "a.list").read_text().splitlines() == [
        f"{tmp_path}/one.npy 0 2",
        f"{tmp_path}/two words.npy 1",
    ]
    labels.write_text("one,cat\n")
    with pytest.raises(DataError, match=r"labels\.csv:1: expected 'name,label label …'"):
        make_lists.main(flags)
    with pytest.raises(ConfigError, match="--val is a share"):
        make_lists.main([*flags, "--val=0.5"])


# ---- the made-up set ---------------------------------------------------------------------------


def test_the_same_arguments_make_the_same_set(tmp_path):
    (tmp_path / "again").mkdir()
    first, again = youtube8m.feature_set(tmp_path, 130, 3), youtube8m.feature_set(tmp_path / "again", 130, 3)
    one, two = contents(first), contents(again)
    lists = {name for name in one if name.endswith(".list")}
    assert {n: v for n, v in one.items() if n not in lists} == {
        n: v for n, v in two.items() if n not in lists
    }
    (first / "train" / "train0001.pkl").unlink()
    youtube8m.feature_set(tmp_path, 130, 3)
    assert contents(first) == one
    with pytest.raises(ConfigError, match="choose another --out"):
        youtube8m.feature_set(tmp_path, 131, 3)


def features(listed: Path) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the rows of both streams, and the labels."""
    config = FeatureReader.Config(num_classes=NUM_CLASSES, feature_dims=[64, 32], filelist=str(listed))
    reader = FeatureReader(config, "TEST")
    samples = [reader[i] for i in range(len(reader))]
    means = [np.concatenate([s["rgb"].mean(axis=0), s["audio"].mean(axis=0)]) for s in samples]
    return np.stack(means), np.stack([s["label"] for s in samples])


def linear_gap(folder: Path) -> float:
    """GAP of logistic regression on the mean of the rows."""
    (x, y), (x_val, y_val) = features(folder / "train.list"), features(folder / "val.list")
    mean, deviation = x.mean(axis=0), x.std(axis=0)
    x, x_val = (x - mean) / deviation, (x_val - mean) / deviation
    weight, bias = np.zeros((x.shape[1], NUM_CLASSES)), np.zeros(NUM_CLASSES)
    for _ in range(500):
        error = 1 / (1 + np.exp(-(x @ weight + bias))) - y
        weight -= 0.5 * (x.T @ error / len(x) + 1e-3 * weight)
        bias -= 0.5 * error.mean(axis=0)
    metric = YouTube8M(YouTube8M.Config(num_classes=NUM_CLASSES))
    metric.update({"probability": 1 / (1 + np.exp(-(x_val @ weight + bias)))}, {"label": y_val})
    return metric.result()["gap"]


@pytest.fixture(scope="module")
def demo_set(tmp_path_factory) -> Path:
    """The set of configs/demo, half as large."""
    out = tmp_path_factory.mktemp("demo") / "youtube8m"
    assert make_set.main([f"--out={out}", "--num_train=1024", "--num_val=256"]) == 0
    return out


def test_the_mean_of_the_rows_does_not_tell_the_labels(demo_set):
    assert linear_gap(demo_set) < 0.6 * 0.9


@pytest.mark.parametrize("name", ["attention_cluster", "nextvlad"])
def test_the_demo_recipes_learn_what_a_mean_cannot(demo_set, tmp_path, name, capsys):
    del capsys
    listed = {f"{mode}.filelist={demo_set / 'val.list'}" for mode in ("VALID", "INFER")}
    overrides = [f"TRAIN.filelist={demo_set / 'train.list'}", *sorted(listed)]
    overrides += [f"INFER.label_file={demo_set / 'labels.txt'}"]
    if name == "nextvlad":
        overrides += [f"MODEL.eigen_file={demo_set / 'eigenvals.npy'}", "TRAIN.epoch=2"]
    argv = [
        f"--config=configs/demo/{name}.yaml",
        f"--save_dir={tmp_path}",
        "--use_gpu=False",
        "-o",
        *overrides,
    ]
    assert train.main(argv) == 0
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["gap"] for line in lines if line["kind"] == "valid"][-1] >= 0.9
    (weights,) = (p for p in tmp_path.glob("*_best.pdparams"))
    assert predict.main([*argv, f"--weights={weights}"]) == 0
    (file,) = tmp_path.glob("*_infer_result.json")
    record = json.loads(file.read_text())["results"][0]
    assert record["video"] == "val000000" and record["topk"][0]["class_name"] in make_set.NAMES
    assert ensemble.main([str(file), str(file), f"--out={tmp_path / 'both.json'}"]) == 0


def test_nextvlad_without_eigenvalues_says_where_they_come_from(tmp_path):
    from tests.recipes import nextvlad

    recipe = nextvlad.tiny(tmp_path, MODEL={"eigen_file": "absent/eigenvals.npy"})
    with pytest.raises(
        ConfigError, match=r"MODEL.eigen_file=absent/eigenvals.npy: no such file.*PCA archive"
    ):
        train.main([f"--config={recipe}", f"--save_dir={tmp_path}", "--use_gpu=False"])
