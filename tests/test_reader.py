"""Kinetics reader: which frames, which pixels, and what is said of files that are wrong."""

from __future__ import annotations

import pickle
import random
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from reader.common import decode, filelist, transforms
from reader.common.sampling import frame_indices, segment_starts
from reader.kinetics_reader import KineticsReader
from tests import synthetic
from utils.errors import DataError
from utils.loader import Loader


def config(listed, **keys):
    usual = {"format": "mp4", "num_classes": 4, "seg_num": 3, "short_size": 40, "target_size": 32}
    return KineticsReader.Config(**{**usual, "filelist": str(listed), **keys})


def all_frames(path):
    """Every frame of a video as RGB, the plain way."""
    capture, images = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = capture.read()
        if not ok:
            return images
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


@pytest.mark.parametrize(
    "choose", [lambda n: [0, n - 1, n // 2], lambda n: [3, 3, 1], lambda n: list(range(n))]
)
def test_decoding_only_what_is_sampled_equals_reading_all(tmp_path, choose):
    path = synthetic.write_video(tmp_path / "a.mp4", synthetic.frames(20))
    expected = all_frames(path)
    got = decode.video_frames(str(path), choose)
    assert [np.array_equal(np.asarray(image), expected[i]) for image, i in zip(got, choose(20), strict=True)]
    for image, index in zip(got, choose(20), strict=True):
        assert np.array_equal(np.asarray(image), expected[index])


def reports(monkeypatch, count):
    """Every container says it has ``count`` frames."""
    real = decode._open

    class Capture:
        def __init__(self, capture):
            self.capture = capture

        def get(self, what):
            return count if what == cv2.CAP_PROP_FRAME_COUNT else self.capture.get(what)

        def __getattr__(self, name):
            return getattr(self.capture, name)

    monkeypatch.setattr(decode, "_open", lambda path: Capture(real(path)))


@pytest.mark.parametrize("count", [0, 18, 22, 500])
def test_a_container_that_reports_a_wrong_count_is_read_again(tmp_path, monkeypatch, count):
    path = synthetic.write_video(tmp_path / "a.mp4", synthetic.frames(20))
    expected = all_frames(path)
    reports(monkeypatch, count)
    if count == 500:
        with pytest.raises(DataError, match=r"a\.mp4: damaged: only 20 of 500 frames can be decoded"):
            decode.video_frames(str(path), lambda n: [n - 1])
        return
    (image,) = decode.video_frames(str(path), lambda n: [n - 1])
    assert np.array_equal(np.asarray(image), expected[19])


@pytest.mark.parametrize(
    ("frames", "segments", "length", "one_frame", "starts"),
    [
        (32, 3, 1, True, [4, 14, 24]),  # (10 - 1) // 2
        (32, 3, 1, False, [4, 14, 24]),
        (32, 3, 5, True, [4, 14, 24]),
        (32, 3, 5, False, [2, 12, 22]),  # (10 - 5) // 2
        (7, 3, 5, False, [0, 2, 4]),  # a part shorter than the segment
        (2, 3, 1, True, [0, 1, 2]),  # fewer frames than segments
    ],
)
def test_central_segments(frames, segments, length, one_frame, starts):
    assert segment_starts(frames, segments, length, None, one_frame) == starts


def test_random_segments_stay_within_their_part_and_frames_wrap_around():
    rng = random.Random(1)
    for _ in range(50):
        for i, start in enumerate(segment_starts(31, 3, 4, rng)):
            assert i * 10 <= start <= i * 10 + 6
    assert frame_indices([0, 1, 2], 2, 2) == [0, 1, 1, 0, 0, 1]


def test_the_long_side_is_always_four_thirds_of_the_short_side():
    sizes = {(64, 48): (53, 40), (48, 64): (40, 53), (50, 50): (53, 40), (90, 40): (90, 40)}
    for before, after in sizes.items():
        (image,) = transforms.resize_short_side([Image.new("RGB", before)], 40)
        assert image.size == after


def test_the_centre_crop_rounds_halves_to_even():
    image = Image.fromarray(np.arange(53 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 53, 3))
    (crop,) = transforms.centre_crop([image], 32)  # (53 - 32) / 2 = 10.5 -> 10
    assert np.array_equal(np.asarray(crop), np.asarray(image)[4:36, 10:42])


def test_samples_are_normalised_segments(tmp_path):
    reader = KineticsReader(config(synthetic.video_set(tmp_path), seglen=2), "VALID")
    sample = reader[1]
    assert sample["image"].shape == (3, 6, 32, 32) and sample["image"].dtype == np.float32
    assert sample["label"].tolist() == [1] and sample["label"].dtype == np.int64
    assert sample["video"].endswith("clip 1.mp4")
    path = tmp_path / "clip 1.mp4"
    image = Image.fromarray(all_frames(path)[1]).resize((53, 40), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)[4:36, 10:42].astype(np.float64) / 255
    expected = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.abs(sample["image"][0, :3].transpose(1, 2, 0) - expected).max() < 1e-5


def test_training_draws_depend_on_seed_epoch_and_index_alone(tmp_path):
    listed = synthetic.video_set(tmp_path)
    first, again = (KineticsReader(config(listed), "TRAIN", seed=3) for _ in range(2))
    [again[i] for i in (5, 0, 3)]
    assert np.array_equal(first[2]["image"], again[2]["image"])
    before = first[2]["image"]
    first.set_epoch(1)
    assert not np.array_equal(before, first[2]["image"])


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_give_what_their_frames_give(tmp_path, protocol):
    clip = synthetic.frames(9)
    path = synthetic.write_pickle(tmp_path / "a.pkl", clip, 2, protocol)
    (tmp_path / "pkl.list").write_text(f"{path}\n")
    sample = KineticsReader(config(tmp_path / "pkl.list", format="pkl"), "VALID")[0]
    assert sample["label"].tolist() == [2]
    assert sample["video_id"] == "./a"
    assert sample["image"].shape == (3, 3, 32, 32)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("clip.mp4", r"a\.list:2: expected 'path label', got 'clip\.mp4'"),
        ("clip.mp4 4", r"a\.list:2: label 4 is outside \[0, 4\) \(MODEL\.num_classes\)"),
        ("clip.mp4 -1", r"a\.list:2: label -1 is outside"),
        ("clip.mp4 walk", r"a\.list:2: expected 'path label'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    (tmp_path / "a.list").write_text(f"good.mp4 1\n{line}\n")
    with pytest.raises(DataError, match=message):
        KineticsReader(config(tmp_path / "a.list"), "TRAIN")


def test_blank_lines_blanks_in_paths_and_lists_without_labels(tmp_path):
    (tmp_path / "a.list").write_text("\n my clip 1.mp4 3 \n\nb.mp4\t2\n")
    assert [(x.path, x.number) for x in filelist.read_labelled(str(tmp_path / "a.list"), 4)] == [
        ("my clip 1.mp4", 3),
        ("b.mp4", 2),
    ]
    (tmp_path / "i.list").write_text("my clip.mp4\nb.mp4 7\n")
    assert [(x.path, x.number) for x in filelist.read_labelled(str(tmp_path / "i.list"), None)] == [
        ("my clip.mp4", None),
        ("b.mp4", 7),
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "no such file"),
        (lambda p: p.write_bytes(b""), "the file is empty"),
        (lambda p: p.write_bytes(b"garbage" * 99), "not a readable video"),
    ],
)
def test_an_unreadable_video_is_named(tmp_path, make, message):
    path = tmp_path / "a b.mp4"
    make(path)
    (tmp_path / "a.list").write_text(f"{path} 0\n")
    with pytest.raises(DataError, match=rf"a b\.mp4: {message}"):
        KineticsReader(config(tmp_path / "a.list"), "VALID")[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable pickle"),
        (pickle.dumps({"no": "tuple"}), r"expected \(id, label, \[jpeg, …\]\), got dict"),
        (pickle.dumps(("id", 0, [])), "holds no frame"),
        (pickle.dumps(("id", 0, [b"x"] * 3)), "frame 0 is not a readable image"),
        (pickle.dumps(("id", 9, [b"x"])), r"a\.list:1.*label 9 is outside"),
        (pickle.dumps(("id", "walk", [b"x"])), "label 'walk' is outside"),
    ],
)
def test_a_wrong_pickle_is_named(tmp_path, content, message):
    path = tmp_path / "a.pkl"
    path.write_bytes(content)
    (tmp_path / "a.list").write_text(f"{path}\n")
    with pytest.raises(DataError, match=rf"a\.pkl.*{message}"):
        KineticsReader(config(tmp_path / "a.list", format="pkl"), "VALID")[0]


def write_pyav(path, clip, codec="libx264", times=None, rotation=0):
    """A video by PyAV: any container and codec; ``times`` are presentation times in 1/1000 s."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.avi", "mpeg4"),
        ("a.webm", "libvpx-vp9"),
        ("视频 1.mp4", "libx265"),
        *([("b.mp4", "libsvtav1")] if "libsvtav1" in av.codecs_available else []),
    ],
)
def test_containers_codecs_and_names_as_they_come(tmp_path, name, codec, backend):
    clip = synthetic.frames(14)
    path = write_pyav(tmp_path / name, clip, codec)
    (tmp_path / "a.list").write_text(f"{path} 1\n", encoding="utf-8")
    sample = KineticsReader(config(tmp_path / "a.list", backend=backend), "VALID")[0]
    assert sample["image"].shape == (3, 3, 32, 32)
    images = decode.video_frames(str(path), lambda n: list(range(n)), backend)
    assert len(images) == 14
    for image, original in zip(images, clip, strict=True):
        assert np.abs(np.asarray(image).astype(int) - original).mean() < 12


def test_both_decoders_see_the_same_frames(tmp_path):
    path = write_pyav(tmp_path / "a.mp4", synthetic.frames(14))
    one, two = (decode.video_frames(str(path), lambda n: [0, 5, n - 1], b) for b in ("opencv", "pyav"))
    for a, b in zip(one, two, strict=True):
        assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 4  # colour conversion differs


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 48, 64), (2, 48, 64), (5, 34, 50), (3, 480, 16), (40, 20, 300)]
)
def test_any_size_and_length(tmp_path, frames, height, width, backend):
    path = write_pyav(tmp_path / "a.mp4", synthetic.frames(frames, height, width))
    (tmp_path / "a.list").write_text(f"{path} 1\n")
    for mode in ("TRAIN", "TEST"):
        reader = KineticsReader(config(tmp_path / "a.list", backend=backend, seg_num=7, seglen=3), mode)
        assert reader[0]["image"].shape == (7, 9, 32, 32)


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_a_variable_frame_rate(tmp_path, backend):
    times = [0, 40, 45, 50, 400, 405, 900, 2000, 2040, 2041, 5000, 5040]
    path = write_pyav(tmp_path / "a.mp4", synthetic.frames(12), times=times)
    assert len(decode.video_frames(str(path), lambda n: list(range(n)), backend)) == 12


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
def test_rotation_metadata_is_followed(tmp_path, backend):
    """A phone held upright: 64 x 48 pixels in the file, to be shown turned by 90 degrees."""
    clip = synthetic.frames(4)
    clip[:, :12, :12] = (255, 0, 0)  # the top left corner comes to the top right
    path = write_pyav(tmp_path / "a.mp4", clip)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # the 3 x 3 matrix in the track header, 16.16 fixed point
    one = 1 << 16
    data[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, 48 * one, 0, 1 << 30)
    path.write_bytes(data)
    (image,) = decode.video_frames(str(path), lambda n: [0], backend)
    assert image.size == (48, 64)
    pixels = np.asarray(image).astype(int)
    assert pixels[2, -3, 0] > 200 and pixels[2, -3, 1] < 80


@pytest.mark.parametrize("backend", ["opencv", "pyav"])
@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_noticed(tmp_path, backend, workers):
    """Truncated, zeroed in the middle, garbage, empty, missing: each is named, good ones go on."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)  # noise: the data, not the index, is large
    good = write_pyav(tmp_path / "good.avi", noise, "mpeg4")
    data = good.read_bytes()
    (tmp_path / "truncated.avi").write_bytes(data[: len(data) // 3])
    (tmp_path / "zeroed.avi").write_bytes(
        data[: len(data) // 4] + bytes(len(data) // 2) + data[-len(data) // 4 :]
    )
    (tmp_path / "garbage.mp4").write_bytes(b"garbage" * 999)
    (tmp_path / "empty.mp4").write_bytes(b"")
    write_pyav(tmp_path / "one.mp4", synthetic.frames(1))
    names = ["good.avi", "truncated.avi", "zeroed.avi", "garbage.mp4", "empty.mp4", "missing.mp4", "one.mp4"]
    (tmp_path / "a.list").write_text("".join(f"{tmp_path / name} 1\n" for name in names))
    reader = KineticsReader(config(tmp_path / "a.list", backend=backend), "VALID")
    read, failed = [], []
    for fields, failures in Loader(reader, [[0, 1, 2], [3, 4], [5, 6]], workers):
        read += [Path(name).name for name in fields.get("video", [])]
        failed += [Path(name).name for name, _ in failures]
    assert read == ["good.avi", "one.mp4"]
    assert failed == ["truncated.avi", "zeroed.avi", "garbage.mp4", "empty.mp4", "missing.mp4"]


def test_folders_of_images(tmp_path):
    clip = synthetic.frames(9)
    folder = tmp_path / "my clip"
    folder.mkdir()
    for i, image in enumerate(clip, 1):
        Image.fromarray(image).save(folder / f"img_{i:05d}.jpg", quality=98)
    (tmp_path / "f.list").write_text(f"{folder} 9 2\n{folder} 12 2\n")
    reader = KineticsReader(config(tmp_path / "f.list", format="frames", seg_num=2), "TRAIN")
    sample = reader[0]
    assert sample["image"].shape == (2, 3, 32, 32) and sample["label"].tolist() == [2]
    (image,) = decode.folder_frames(str(folder), 9, lambda n: [n - 1])
    assert np.abs(np.asarray(image).astype(int) - clip[8]).mean() < 5
    with pytest.raises(DataError, match=r"img_00012\.jpg: no such image; the list says 12 frames"):
        decode.folder_frames(str(folder), 12, lambda n: [n - 1])
    (folder / "img_00001.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match=r"img_00001\.jpg: not a readable image"):
        decode.folder_frames(str(folder), 9, lambda n: [0])


@pytest.mark.parametrize("line", ["folder 3", "folder three 1", "folder", "folder 0 1", "folder 3 9"])
def test_a_wrong_line_of_folders_is_named(tmp_path, line):
    (tmp_path / "f.list").write_text(f"good 3 1\n{line}\n")
    with pytest.raises(DataError, match=r"f\.list:2: "):
        KineticsReader(config(tmp_path / "f.list", format="frames"), "VALID")


def test_video_path_may_be_a_file_a_folder_or_a_glob(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "a b.avi", "deep/c.webm", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    expected = {
        "b.mp4": ["b.mp4"],
        "": ["a b.avi", "b.mp4", "deep/c.webm"],
        "*.mp4": ["b.mp4"],
        "**/*.webm": ["deep/c.webm"],
    }
    for asked, names in expected.items():
        reader = KineticsReader(config("", video_path=str(tmp_path / asked)), "INFER")
        assert [reader.describe(i) for i in range(len(reader))] == [str(tmp_path / name) for name in names]
    for asked in ("none.mp4", "*.mov"):
        with pytest.raises(DataError, match="no such video, folder with videos, or matching file"):
            KineticsReader(config("", video_path=str(tmp_path / asked)), "INFER")


def test_a_crop_larger_than_the_image_says_which_keys_to_change(tmp_path):
    reader = KineticsReader(config(synthetic.video_set(tmp_path), target_size=48), "VALID")
    with pytest.raises(DataError, match="target_size must not exceed short_size"):
        reader[0]


def test_missing_and_empty_lists(tmp_path):
    with pytest.raises(DataError, match=r"none\.list: cannot read the list"):
        KineticsReader(config(tmp_path / "none.list"), "VALID")
    (tmp_path / "a.list").write_text("\n \n")
    with pytest.raises(DataError, match=r"a\.list: the list is empty"):
        KineticsReader(config(tmp_path / "a.list"), "VALID")
    with pytest.raises(DataError, match=r"VALID\.filelist is not given"):
        KineticsReader(config(""), "VALID")
