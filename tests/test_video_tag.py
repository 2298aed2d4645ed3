"""VideoTag: feature files, both stages, the application's commands, pages."""

from __future__ import annotations

import json
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml

import predict
import train
import tsn_extractor
from models import VIDEO_TAG, ZOO
from models.videotag import combined
from tests import synthetic
from tests.conftest import ROOT
from tests.recipes import tsm as tsm_recipe
from tests.recipes import videotag
from utils import build, checkpoint, features, files, registry, web_page
from utils.config import load_yaml, to_yaml
from utils.errors import ConfigError, DataError, WeightsError

APPLICATION = ROOT / "application" / "video_tag"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """``tiny.yaml`` of VideoTag beside the checkpoint that one epoch gave."""
    folder = tmp_path_factory.mktemp("videotag")
    recipe = videotag.tiny(folder)
    argv = [
        f"--config={recipe}",
        f"--save_dir={folder}",
        "--pretrain=none",
        "--epoch=1",
        "--valid_interval=0",
    ]
    assert train.main(argv) == 0
    return folder


@pytest.fixture(scope="module")
def tsn(tmp_path_factory) -> Path:
    """A folder with videos (``all.list``), ``tiny.yaml`` of TSN and weights of it."""
    folder = tmp_path_factory.mktemp("tsn")
    recipe = synthetic.tiny_tsn(folder, synthetic.video_set(folder))
    spec = registry.find("TSN", ZOO)
    network = build.network(spec, load_yaml(recipe), "INFER", str(recipe))
    checkpoint.save([folder / "TSN"], checkpoint.network_state(network), None, {})
    return folder


def extract(tsn: Path, save_dir: Path, *flags: str) -> int:
    argv = [f"--config={tsn / 'tiny.yaml'}", f"--weights={tsn / 'TSN'}", f"--save_dir={save_dir}"]
    return tsn_extractor.main([*argv, "--use_gpu=False", *flags])


def test_features_are_those_of_the_network_and_keep_their_labels(tsn, tmp_path):
    listed = tmp_path / "videos.list"
    lines = (tsn / "all.list").read_text(encoding="utf-8").splitlines()[:3]
    listed.write_text(f"{lines[0]} 7\n{lines[1]}\n{lines[2].rsplit(' ', 1)[0]}\n", encoding="utf-8")
    assert extract(tsn, tmp_path / "out", f"--filelist={listed}", "--frames_at_once=3") == 0
    spec, sections = registry.find("TSN", ZOO), load_yaml(tsn / "tiny.yaml")
    sections["INFER"]["filelist"] = str(listed)
    network = build.network(spec, sections, "INFER", "tiny.yaml")
    checkpoint.load_weights(network, str(tsn / "TSN"))
    network.eval()
    sample = build.reader(spec, sections, "INFER", "tiny.yaml")[0]
    expected = network.forward_features(paddle.to_tensor(sample["image"][None])).numpy()[0]
    got = np.load(tmp_path / "out" / "clip 0.npy")
    assert got.shape == (2, 512) and got.dtype == np.float32
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    listed = (tmp_path / "out" / "features.list").read_text(encoding="utf-8").splitlines()
    assert [line.rpartition(".npy")[2] for line in listed] == [" 0 7", " 1", ""]


def test_what_is_done_is_not_done_again(tsn, tmp_path, caplog):
    assert extract(tsn, tmp_path, f"--filelist={tsn / 'all.list'}") == 0
    kept = (tmp_path / "clip 3.npy").read_bytes()
    (tmp_path / "clip 3.npy").write_bytes(b"mine")
    (tmp_path / "clip 5.npy").unlink()
    assert extract(tsn, tmp_path, f"--filelist={tsn / 'all.list'}") == 0
    assert (tmp_path / "clip 3.npy").read_bytes() == b"mine"
    assert np.load(tmp_path / "clip 5.npy").shape == (2, 512)
    assert extract(tsn, tmp_path, f"--filelist={tsn / 'all.list'}", "--overwrite") == 0
    assert (tmp_path / "clip 3.npy").read_bytes() == kept


def test_processes_share_the_videos(tsn, tmp_path, monkeypatch):
    monkeypatch.setattr("utils.device.connect", lambda: None)
    monkeypatch.setattr("utils.device.gather", lambda value: [value])
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "2")
    seen: list[set[str]] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("PADDLE_TRAINER_ID", rank)
        assert extract(tsn, tmp_path / rank, f"--filelist={tsn / 'all.list'}") == 0
        seen.append({path.name for path in (tmp_path / rank).glob("*.npy")})
    assert len(seen[0]) == len(seen[1]) == 4 and not seen[0] & seen[1]


def test_a_damaged_video_is_named_and_the_others_are_done(tsn, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "bad.mp4").write_bytes(b"no video")
    synthetic.write_video(videos / "good.mp4", synthetic.frames(12))
    assert extract(tsn, tmp_path / "out", f"--video_path={videos}") == 1
    assert [path.name for path in (tmp_path / "out").glob("*.npy")] == ["good.npy"]
    assert "bad" not in (tmp_path / "out" / "features.list").read_text(encoding="utf-8")


def test_two_videos_of_one_name_are_refused(tsn, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        synthetic.write_video(tmp_path / name / "same.mp4", synthetic.frames(4))
    with pytest.raises(DataError, match=r"a/same.mp4 and .*b/same.mp4 would both become .*same.npy"):
        extract(tsn, tmp_path / "out", f"--video_path={tmp_path}")


def test_another_backbone_makes_features_too(tmp_path):
    """TSM sees its neighbours, so all segments of a video go through it together."""
    recipe = tsm_recipe.tiny(tmp_path)
    spec, sections = registry.find("TSM", ZOO), load_yaml(recipe)
    network = build.network(spec, sections, "INFER", str(recipe))
    checkpoint.save([tmp_path / "TSM"], checkpoint.network_state(network), None, {})
    flags = [f"--config={recipe}", f"--weights={tmp_path / 'TSM'}", f"--save_dir={tmp_path / 'out'}"]
    assert tsn_extractor.main([*flags, "--use_gpu=False", "--frames_at_once=1", "--tscale=5"]) == 0
    network.eval()
    sample = build.reader(spec, sections, "INFER", str(recipe))[0]
    expected = network.forward_features(paddle.to_tensor(sample["image"][None])).numpy()[0]
    expected = features.rescaled(expected, 5)
    got = np.load(tmp_path / "out" / "clip 0.npy")
    assert got.shape == (5, 512)
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_a_model_without_features_says_which_have_them(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    sections = load_yaml(ROOT / "configs" / "demo" / "attention_cluster.yaml")
    features_file = tmp_path / "x.npy"
    np.save(features_file, np.zeros((3, 64), np.float32))
    recipe.write_text(to_yaml(sections), encoding="utf-8")
    with pytest.raises(ConfigError, match="AttentionCluster makes no features of frames; these do: TSN"):
        tsn_extractor.main([f"--config={recipe}", f"--video_path={features_file}", "--use_gpu=False"])


def test_a_backbone_must_be_whole_its_classifier_need_not_fit(tsn):
    spec = registry.find("TSN", ZOO)
    sections = load_yaml(tsn / "tiny.yaml")
    sections["MODEL"]["num_classes"] = 9
    network = build.network(spec, sections, "INFER", "tiny.yaml")
    report = features.load_backbone(network, str(tsn / "TSN"))
    assert len(report.skipped) == 2  # weight and bias of another number of classes
    state = checkpoint.read_weights(str(tsn / "TSN"))
    state.pop("res3a_branch2a_weights")
    checkpoint.save([tsn / "part"], state, None, {})
    with pytest.raises(WeightsError, match="res3a_branch2a_weights"):
        features.load_backbone(network, str(tsn / "part"))


def test_a_sequence_is_rescaled_by_interpolation(tsn, tmp_path):
    feature = np.arange(4, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert np.allclose(features.rescaled(feature, 4), feature)
    assert np.allclose(features.rescaled(feature, 8)[:, 0], [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3])
    assert np.allclose(features.rescaled(feature, 2)[:, 0], [0.5, 2.5])
    assert extract(tsn, tmp_path, f"--video_path={tsn / 'clip 0.mp4'}", "--tscale=10") == 0
    assert np.load(tmp_path / "clip 0.npy").shape == (10, 512)


# ---- both stages ------------------------------------------------------------------------------------


def test_a_stream_of_videos_gives_files_records_and_pages(trained, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "2 broken.mp4").write_bytes(b"no video")
    for i in (1, 3):
        synthetic.write_video(videos / f"{i} <klein & groß>.mp4", synthetic.frames(12, seed=i))
    labels = tmp_path / "labels.txt"
    labels.write_text("直升机\n<b>\nвертолёт\nhelicopter\n", encoding="utf-8")
    argv = [f"--config={trained / 'tiny.yaml'}", f"--weights={trained / 'VideoTag'}", "--visualize"]
    argv += [f"--video_path={videos}", f"--label_file={labels}", f"--save_dir={tmp_path / 'out'}"]
    assert predict.main(argv) == 1  # one of three could not be read
    result = json.loads((tmp_path / "out" / "VideoTag_infer_result.json").read_text(encoding="utf-8"))
    records = result["results"]
    assert ["error" in record for record in records] == [False, True, False]
    assert sorted(p.name for p in (tmp_path / "out").glob("result*.json")) == ["result0.json", "result2.json"]
    text = (tmp_path / "out" / "result2.json").read_text(encoding="utf-8")
    video, *tags = json.loads(text)
    assert video == "3 <klein & groß>.mp4" and tags == records[2]["topk"] and len(tags) == 2
    assert set(tags[0]) == {"class_id", "class_name", "probability"}
    page = (tmp_path / "out" / records[2]["picture"]).read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3 and "<klein" not in page
    for tag in tags:
        assert tag["class_name"].replace("<b>", "&lt;b&gt;") in page


def test_stages_run_as_the_network_itself_does(trained):
    spec, recipe = registry.find("VideoTag", ZOO), trained / "tiny.yaml"
    sections = load_yaml(recipe)
    network = build.network(spec, sections, "INFER", str(recipe))
    checkpoint.load_weights(network, str(trained / "VideoTag"))
    from utils import program

    image = build.reader(spec, sections, "INFER", str(recipe))[0]["image"][None]
    staged = program.inference(network, spec, False, False)({"image": image})
    whole = program.eager(network, spec, spec.evaluated)({"image": image})
    for name, value in whole.items():
        assert program.difference(staged[name], value) < 1e-4


def test_training_moves_the_second_stage_alone(trained):
    spec, recipe = registry.find("VideoTag", ZOO), trained / "tiny.yaml"
    after = checkpoint.read_weights(str(trained / "VideoTag"))
    seed = checkpoint.read_about(str(trained / "VideoTag"))["seed"]
    network = build.network(spec, load_yaml(recipe), "TRAIN", str(recipe), seed)
    for name, value in checkpoint.network_state(network).items():
        second = name.startswith(("rgb_", "fc1", "fc2", "output"))
        assert np.array_equal(value, after[name]) != second or not value.any(), name


MEMORY = """
import resource, sys
import predict
assert predict.main(sys.argv[1:]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_videos(trained, tmp_path):
    assert resource.RUSAGE_SELF == 0
    video = synthetic.write_video(tmp_path / "v.mp4", synthetic.frames(30, 96, 128))
    peaks = []
    for count in (1, 50):
        listed = tmp_path / f"{count}.list"
        listed.write_text(f"{video}\n" * count, encoding="utf-8")
        argv = [f"--config={trained / 'tiny.yaml'}", f"--weights={trained / 'VideoTag'}"]
        argv += [f"--filelist={listed}", f"--save_dir={tmp_path / str(count)}", "-o", "INFER.seg_num=100"]
        argv += ["INFER.target_size=64", "INFER.short_size=96"]
        command = [sys.executable, "-c", MEMORY, *argv]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
        assert done.returncode == 0, done.stderr[-2000:]
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] <= 1.1 * peaks[0], peaks


# ---- the application --------------------------------------------------------------------------------


def launch(monkeypatch, script: str, *flags: str) -> int:
    """Run a script of the application as a program; its exit status."""
    monkeypatch.setattr(sys, "argv", [str(APPLICATION / script), *flags])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(APPLICATION / script), run_name="__main__")
    return stopped.value.code


def small(name: str, folder: Path, **overrides: dict) -> None:
    """The application's recipe at a size for tests, at its usual place below ``folder``."""
    sections = load_yaml(APPLICATION / "configs" / name)
    for section, keys in overrides.items():
        sections[section].update(keys)
    target = folder / "configs" / name
    target.parent.mkdir(exist_ok=True)
    target.write_text(yaml.safe_dump(sections, sort_keys=False), encoding="utf-8")


def test_the_commands_of_2020(tmp_path, monkeypatch):
    """Features, fine-tuning, evaluation, prediction, both stages: as the guide of 2020 has them."""
    monkeypatch.chdir(tmp_path)
    videos = synthetic.video_set(tmp_path).read_text(encoding="utf-8").splitlines()
    paths = [line.rpartition(" ")[0] for line in videos]
    files.write_atomic("data/TsnExtractor.list", "".join(f"{p}\n" for p in paths).encode())
    files.write_atomic("data/VideoTag_test.list", "".join(f"{p}\n" for p in paths[:2]).encode())
    labelled = [f"data/tsn_features/clip {i}.npy {i % 3} 4\n" for i in range(8)]
    for split in ("train", "val", "test"):
        files.write_atomic(f"data/dataset/attention_lstm/{split}.list", "".join(labelled).encode())
        files.write_atomic(f"data/dataset/tsn/{split}.list", "".join(f"{v}\n" for v in videos).encode())
    inputs = [f"data/tsn_features/clip {i}.npy\n" for i in range(8)]
    files.write_atomic("data/attention_lstm/infer.list", "".join(inputs).encode())  # found there, too
    files.write_atomic("label_3396.txt", "".join(f"标签{k}\n" for k in range(5)).encode())
    sizes = {"short_size": 40, "target_size": 32, "num_reader_threads": 0}
    modes = {mode: {**sizes, "seg_num": 2} for mode in ("VALID", "TEST", "INFER")}
    train_tsn = {**sizes, "seg_num": 2, "batch_size": 4, "epoch": 1, "total_videos": 8}
    small(
        "tsn.yaml", tmp_path, MODEL={"num_layers": 18, "num_classes": 4, "topk": 2}, TRAIN=train_tsn, **modes
    )
    model = {"feature_dims": [512], "embedding_size": 8, "lstm_size": 8, "num_classes": 5, "topk": 3}
    model["classifier_sizes"] = [16, 16]
    once = {"batch_size": 4, "epoch": 1, "num_samples": 8}
    for name in ("attention_lstm.yaml", "attention_lstm-single.yaml"):
        small(name, tmp_path, MODEL=model, TRAIN=once)
    spec = VIDEO_TAG[1]
    for row, name in ((VIDEO_TAG[0], "tsn"), (spec, "attention_lstm")):  # what 2020 published
        recipe = f"configs/{name}.yaml"
        network = build.network(row, load_yaml(recipe), "INFER", recipe)
        checkpoint.save([Path("weights") / name], checkpoint.network_state(network), None, {})

    lstm = ("--model_name=AttentionLSTM", "--config=./configs/attention_lstm.yaml", "--use_gpu=False")
    cpu = "--use_gpu=False"
    features_of = ("--model_name=TSN", "--config=./configs/tsn.yaml", "--weights=./weights/tsn.pdparams")
    assert launch(monkeypatch, "tsn_extractor.py", *features_of, cpu) == 0
    assert np.load("data/tsn_features/clip 0.npy").shape == (2, 512)
    assert launch(monkeypatch, "train.py", *lstm, "--pretrain=./weights/attention_lstm") == 0
    single = (lstm[0], "--config=./configs/attention_lstm-single.yaml", cpu)
    assert launch(monkeypatch, "train.py", *single, "--pretrain=./weights/attention_lstm") == 0
    assert "rgb_lstm_forward.b_0" in checkpoint.read_weights("data/checkpoints/AttentionLSTM_epoch0.pdparams")
    weights = "--weights=./data/checkpoints/AttentionLSTM_epoch0.pdparams"
    assert launch(monkeypatch, "eval.py", *lstm, weights) == 0
    scores = json.loads(Path("data/evaluate_results/AttentionLSTM_eval_result.json").read_text())["result"]
    assert {"gap", "hit_at_one"} <= set(scores)
    assert launch(monkeypatch, "predict.py", *lstm, weights) == 0
    video, *tags = json.loads(Path("data/predict_results/attention_lstm/result7.json").read_text("utf-8"))
    assert video == "clip 7.npy" and len(tags) == 3 and tags[0]["class_name"].startswith("标签")
    tsn = ("--model_name=TSN", "--config=./configs/tsn.yaml", cpu)
    assert launch(monkeypatch, "train.py", *tsn, "--pretrain=./weights/tsn") == 0
    assert launch(monkeypatch, "eval.py", *tsn, "--weights=./data/checkpoints/TSN_epoch0.pdparams") == 0
    assert launch(monkeypatch, "videotag_test.py", cpu) == 0
    video, *tags = json.loads(Path("data/VideoTag_results/result1.json").read_text("utf-8"))
    assert video == "clip 1.mp4" and len(tags) == 3
    assert launch(monkeypatch, "predict.py", *lstm) == 2  # the default weights are those of epoch 9


def test_the_whole_way_of_the_guide(tmp_path):
    """Its commands, from drawn videos to tags, with fewer videos and epochs."""
    guide = (APPLICATION / "README.md").read_text(encoding="utf-8").split("## The whole way")[1]
    lines = guide.split("```bash\n")[1].split("```")[0].splitlines()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "application").symlink_to(ROOT / "application")
    for line in lines:
        words = line.split()
        script = words[1]
        if script == "data/dataset/demo/make_videos.py":
            words += ["--train=3", "--val=1", "--test=1"]
        elif script.endswith("train.py"):
            words += ["--epoch=1", "-o", "TRAIN.batch_size=8"]
        words[:2] = [sys.executable, str(ROOT / script)]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    results = tmp_path / "data" / "demo" / "tags" / "results"
    scores = json.loads((results / "AttentionLSTM_eval_result.json").read_text(encoding="utf-8"))
    assert scores["num_samples"] == 8 and {"gap", "hit_at_one"} <= set(scores["result"])
    video, *tags = json.loads((results / "result0.json").read_text(encoding="utf-8"))
    assert video.endswith(".npy") and len(tags) == 4
    names = (tmp_path / "data" / "demo" / "videos" / "tags.txt").read_text(encoding="utf-8").splitlines()
    assert {tag["class_name"] for tag in tags} <= set(names)


def test_a_recipe_of_both_stages_is_made_of_theirs():
    sections = combined(
        load_yaml(APPLICATION / "configs" / "tsn.yaml"),
        load_yaml(APPLICATION / "configs" / "attention_lstm.yaml"),
    )
    whole = load_yaml(APPLICATION / "configs" / "videotag.yaml")
    for key in (
        "num_layers",
        "embedding_size",
        "lstm_size",
        "num_classes",
        "drop_rate",
        "topk",
        "image_mean",
    ):
        assert sections["MODEL"][key] == whole["MODEL"][key], key
    assert sections["INFER"]["seg_num"] == whole["MODEL"]["seg_num"] == 300
    with pytest.raises(ConfigError, match="several features"):
        combined({}, {"MODEL": {"feature_names": ["rgb", "audio"]}})


def test_a_page_holds_at_most_so_many_frames():
    record = {"video": "v.mp4", "topk": [{"class_id": 0, "class_name": "a", "probability": 0.25}]}
    page = web_page.tags(record, np.zeros((300, 3, 8, 8), np.float32), [0.5] * 3, [0.2] * 3)
    assert page.count("<img") == web_page.MOST_FRAMES and "24 of 300 sampled frames" in page
    assert "width:25.0%" in page and "25.0 %" in page
