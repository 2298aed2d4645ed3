"""Videos by NVIDIA DALI: absent it is one line; its CPU decoder is run where the package is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import av
import numpy as np
import pytest

from models import ZOO
from reader.common import dali, decode
from tests import synthetic
from tests.conftest import ROOT
from utils import build
from utils.config import RunConfig, check_keys, load_yaml, merge_flags, resolve
from utils.errors import DataError
from utils.registry import find

RECIPE = str(ROOT / "configs" / "tsn_dist_and_dali.yaml")
installed = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")


def reader_of(listed: Path):
    spec, sections = find("TSN", ZOO), load_yaml(RECIPE)
    check_keys(sections, [RunConfig, *spec.configs()], RECIPE)
    merge_flags(sections, "TRAIN", {"filelist": str(listed), "short_size": 40, "target_size": 32})
    assert resolve(RunConfig, sections, "TRAIN", RECIPE).num_gpus == 8
    return build.reader(spec, sections, "TRAIN", RECIPE)


def test_without_dali_the_recipe_says_what_to_install_and_reads_on_the_cpu(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(dali.importlib.util, "find_spec", lambda name: None)
    reader = reader_of(synthetic.video_set(tmp_path, num_videos=1))
    assert [record.getMessage() for record in caplog.records].count(
        "use_dali: NVIDIA DALI is not installed (pip install nvidia-dali-cuda120); "
        "videos are decoded on the CPU"
    ) == 1
    assert reader[0]["image"].shape == (3, 3, 32, 32)


def write_vp9(path: Path, clip: np.ndarray) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=25)
        stream.width, stream.height, stream.pix_fmt = clip.shape[2], clip.shape[1], "yuv420p"
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.skipif(not installed, reason="NVIDIA DALI is optional")
def test_dali_decodes_the_frames_that_opencv_decodes(tmp_path):
    path = tmp_path / "clip.mp4"
    write_vp9(path, synthetic.frames(12, height=96, width=128))
    (tmp_path / "all.list").write_text(f"{path} 0\n")
    wanted = [7, 2, 2, 11]
    got = dali.video_frames(str(path), decode.reported_frames(str(path)), lambda n: wanted)
    expected = decode.video_frames(str(path), lambda n: wanted)
    for a, b in zip(got, expected, strict=True):
        assert np.abs(np.asarray(a, float) - np.asarray(b, float)).mean() < 2  # of 255
    reader = reader_of(tmp_path / "all.list")
    assert reader.by_dali and reader[0]["image"].shape == (3, 3, 32, 32)


@pytest.mark.skipif(not installed, reason="NVIDIA DALI is optional")
def test_dali_names_the_video_that_it_cannot_decode_and_goes_on(tmp_path):
    path, good = tmp_path / "bad.mp4", tmp_path / "good.mp4"
    path.write_bytes(b"no video" * 100)
    with pytest.raises(DataError, match=r"bad.mp4: DALI cannot decode it"):
        dali.video_frames(str(path), 4, lambda n: [0])
    write_vp9(good, synthetic.frames(12, height=96, width=128))
    assert len(dali.video_frames(str(good), 12, lambda n: [0, 3])) == 2
