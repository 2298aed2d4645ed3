"""Pictures of predictions: what they show, what they are called, and what happens when one fails."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import predict
import train
from metrics.topk import TopKAccuracy
from tests import synthetic
from tests.conftest import ROOT
from utils import visualize
from utils.errors import ConfigError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def metric() -> TopKAccuracy:
    return TopKAccuracy(TopKAccuracy.Config(num_classes=6))


def plain(colours: list[tuple[int, int, int]], side: int = 8) -> np.ndarray:
    """Frames of one colour each as the network gets them: (F, 3, H, W)."""
    rgb = np.asarray(colours, np.float32)[:, :, None, None] / 255
    frames = (rgb - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    return np.broadcast_to(frames, (len(colours), 3, side, side)).astype(np.float32)


def record(video: str = "clip.mp4", names: tuple[str, ...] = ("run", "jump")) -> dict:
    topk = [{"class_id": k, "class_name": name, "probability": 0.5**k / 2} for k, name in enumerate(names)]
    return {"video": video, "topk": topk}


def draw(folder: Path, what: dict, frames: np.ndarray, index: int = 0) -> np.ndarray:
    """The picture's pixels (H, W, 3); ``frames`` is (F, 3, H, W)."""
    visualize.Pictures(folder, metric())(index, what, {"image": frames[None]}, 0)
    with Image.open(folder / what["picture"]) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def colours_of(picture: np.ndarray) -> set[tuple[int, int, int]]:
    codes = np.unique(picture @ [65536, 256, 1]).tolist()
    return {(code >> 16, code >> 8 & 255, code & 255) for code in codes}


def test_a_picture_shows_each_frame_in_its_own_colours_and_a_bar_a_class(tmp_path):
    colours = [(200, 30, 30), (20, 180, 40), (25, 35, 220)]
    picture = draw(tmp_path, record(), plain(colours))
    found = [np.argwhere((picture == colour).all(axis=2)) for colour in colours]
    assert all(len(where) > 250**2 for where in found)
    left = [where[:, 1].min() for where in found]
    assert left == sorted(left) and len({where[:, 0].min() for where in found}) == 1  # in a row, in order
    lengths = [
        np.ptp(np.argwhere((picture == tuple(bytes.fromhex(colour[1:]))).all(axis=2))[:, 1])
        for colour in (visualize.FIRST, visualize.OTHER)
    ]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=3)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (7, 7), (12, 12), (125, 12)])
def test_at_most_twelve_frames_from_first_to_last(tmp_path, count, expected):
    colours = [(10 + k, 255 - k, 77) for k in range(count)]
    seen = colours_of(draw(tmp_path, record(), plain(colours)))
    shown = [k for k in range(count) if colours[k] in seen]
    assert len(shown) == expected
    assert (shown[0], shown[-1]) == (0, count - 1)
    assert expected < 3 or np.ptp(np.diff(shown)) <= 1


def test_pixels_come_back_as_they_were():
    original = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    frames = (original.transpose(0, 3, 1, 2) / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    assert np.array_equal(visualize.pixels(frames.astype(np.float32), MEAN, STD), original)


@pytest.mark.parametrize(
    "name",
    [
        *("跑步", "👩‍👩‍👧 family", "🏃", "бег", "جري", "दौड़", "a$b$ $\\frac{", "two\nlines\ttab", "\x00\x07"),
        *("", "\udcff broken", "long " * 200, "跑" * 300),
    ],
)
def test_any_name_can_be_drawn(tmp_path, name, caplog):
    draw(tmp_path, record(f"{name}.mp4", (name, "run")), plain([(1, 2, 3)]))  # warnings are errors in tests
    assert caplog.text == ""


def test_letters_without_a_font_are_replaced_and_the_class_is_told_by_number(monkeypatch):
    from matplotlib.figure import Figure

    # DejaVu Sans would find these: with a font of Latin letters alone they are as Chinese is on a server.
    def label(name: str, *fonts: str) -> str:
        monkeypatch.setattr(visualize, "FONTS", fonts)
        entry = {"class_id": 17, "class_name": name, "probability": 0.5}
        return visualize._label(entry, visualize.Sheet(Figure(), 1.0))

    assert label("run_бег", "cmr10") == "run ??? (class 17)"
    assert label("run_бег", "No Such Font", "cmr10", "DejaVu Sans") == "run бег"
    assert label("17", "DejaVu Sans") == label(" ", "DejaVu Sans") == "class 17"


@pytest.mark.parametrize(
    ("video", "stem"),
    [
        ("/data/clip 1.mp4", "clip_1"),
        ("../../etc/passwd", "passwd"),
        ("a\\..\\b:c*?.avi", "a_b_c"),
        ("视频.mp4", "视频"),
        ("..", "sample"),
        ("***.mp4", "sample"),
        ("\udcff.mp4", "sample"),
        ("x" * 300 + ".mp4", "x" * 100),
        ("频" * 100, "频" * 33),  # 3 bytes each
    ],
)
def test_file_names_are_safe_and_short(video, stem):
    assert visualize.safe_stem(video) == stem


def test_equal_names_get_two_pictures(tmp_path):
    records = [record("a/clip.mp4"), record("b/clip.mp4")]
    for index, item in enumerate(records):
        draw(tmp_path, item, plain([(1, 2, 3)]), index)
    assert [item["picture"] for item in records] == ["pictures/00000_clip.png", "pictures/00001_clip.png"]
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "00000_clip.png",
        "00001_clip.png",
    ]


def test_a_picture_that_fails_is_one_line_and_loses_nothing(tmp_path, caplog):
    class Broken:
        def draw(self, figure, record, sample):
            raise RuntimeError("first line\nsecond line")

    what = record("bad.mp4")
    (tmp_path / "file").write_text("in the way")
    visualize.Pictures(tmp_path, Broken())(0, what, {}, 0)
    visualize.Pictures(tmp_path / "file", metric())(0, what, {"image": plain([(1, 2, 3)])[None]}, 0)
    assert what == record("bad.mp4")
    first, second = [entry.getMessage() for entry in caplog.records]
    assert first == "no picture of bad.mp4: RuntimeError: first line second line"
    assert second.startswith("no picture of bad.mp4: OutputError: ") and "\n" not in second


def test_mistakes_are_said_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"--visualize: there are no pictures for this model yet"):
        visualize.Pictures(tmp_path, object())
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"--visualize needs matplotlib .*: pip install matplotlib"):
        visualize.Pictures(tmp_path, metric())


def test_matplotlib_is_imported_on_use_only():
    code = "import sys, predict, metrics.topk; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_predict_writes_the_pictures(tmp_path):
    recipe = synthetic.tiny_tsn(tmp_path, synthetic.video_set(tmp_path, num_videos=2))
    (tmp_path / "bad.mp4").write_bytes(b"garbage")
    listed = tmp_path / "infer.list"
    listed.write_text(f"{tmp_path / 'clip 1.mp4'}\n{tmp_path / 'bad.mp4'}\n{tmp_path / 'clip 0.mp4'}\n")
    handlers, level = logging.root.handlers[:], logging.root.level
    try:
        common = [f"--config={recipe}", f"--save_dir={tmp_path / 'out'}"]
        train.main([*common, "--pretrain=none", "--epoch=0", "-o", "TRAIN.batch_size=1"])
        weights = f"--weights={tmp_path / 'out' / 'TSN.pdparams'}"
        flags = [*common, weights, f"--filelist={listed}", "--batch_size=3", "--num_workers=0"]
        assert predict.main([*flags, "--visualize"]) == 1
    finally:
        logging.root.handlers, level = handlers, logging.root.setLevel(level)
    report = json.loads((tmp_path / "out" / "TSN_infer_result.json").read_text(encoding="utf-8"))
    names = [item.get("picture") for item in report["results"]]
    assert names == ["pictures/00000_clip_1.png", None, "pictures/00002_clip_0.png"]
    for name, seed in ((names[0], 1), (names[2], 0)):  # each shows its own video
        with Image.open(tmp_path / "out" / name) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        ground = synthetic.frames(1, seed=seed)[0, 0, 0].astype(int)
        assert (np.abs(pixels - ground).max(axis=2) <= 12).mean() > 0.1
