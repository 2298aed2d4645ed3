"""Data tools that convert videos: whole results only, with any number of processes."""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from data.dataset.common import outputs, parallel, videos
from data.dataset.kinetics import check, resize, video_to_frames, video_to_pkl
from tests import synthetic
from tests.conftest import ROOT
from tests.data_tools import bad_list, lines, read, visible
from tests.programs import alive, started
from utils.errors import ConfigError, DataError, OutputError

# ---- conversions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_become_pickles_that_are_read_alike(tmp_path, workers, capsys):
    listed, out = bad_list(tmp_path), tmp_path / "the pkl"
    made = tmp_path / "pkl.list"
    flags = ["--list", str(listed), "--out", str(out), "--out_list", str(made), f"--num_workers={workers}"]
    assert video_to_pkl.main(flags) == 1
    said = capsys.readouterr()
    assert f"{listed}:2: {tmp_path}/bad.mp4: not a readable video" in said.err
    assert f"{listed}:4: {tmp_path}/gone.mp4: no such file" in said.err
    assert "3 made, 0 there already, 2 failed" in said.out
    assert lines(made) == [str(out / f"{name}.pkl") for name in ("a b", "é", "c")]
    assert visible(out) == ["a b.pkl", "c.pkl", "é.pkl"]  # nothing half done
    data = (out / "é.pkl").read_bytes()
    video_id, label, jpegs = pickle.loads(data, encoding="bytes")
    assert (video_id, label, len(jpegs)) == ("./é", 2, 9) and data[:2] == b"\x80\x02"
    assert sum(map(len, jpegs)) > 0.9 * len(data)  # no byte is stored as two
    for index, number in enumerate((0, 2, 4)):
        ours, theirs = read(made, "pkl", index), read(listed, "mp4", number)
        assert ours["label"] == theirs["label"] == number
        assert np.abs(ours["image"] - theirs["image"]).mean() < 0.05  # of 1 / 0.225: three grey levels

    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    video_to_pkl.main(flags)
    assert "0 made, 3 there already, 2 failed" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "c.pkl").write_bytes((out / "c.pkl").read_bytes()[:-9])  # a copy that was cut off
    (out / ".0.part").write_bytes(data)
    listed.write_text(listed.read_text(encoding="utf-8").replace("a b.mp4 0", "a b.mp4 7"), encoding="utf-8")
    video_to_pkl.main(flags)
    assert "2 made, 1 there already, 2 failed" in capsys.readouterr().out
    assert [int(read(made, "pkl", i)["label"][0]) for i in range(3)] == [7, 2, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_become_folders_that_are_read_alike(tmp_path, workers, capsys):
    listed, out = bad_list(tmp_path), tmp_path / "the frames"
    made = tmp_path / "frames.list"
    flags = ["--list", str(listed), "--out", str(out), "--out_list", str(made), f"--num_workers={workers}"]
    assert video_to_frames.main(flags) == 1
    said = capsys.readouterr()
    assert f"{listed}:2: {tmp_path}/bad.mp4: not a readable video" in said.err
    assert lines(made) == [f"{out / name} 9 {label}" for name, label in (("a b", 0), ("é", 2), ("c", 4))]
    assert visible(out) == ["a b", "c", "é"]
    assert sorted(os.listdir(out / "c")) == [f"img_{i:05d}.jpg" for i in range(1, 10)]
    for index, number in enumerate((0, 2, 4)):
        ours, theirs = read(made, "frames", index), read(listed, "mp4", number)
        assert ours["label"] == theirs["label"] == number
        assert np.abs(ours["image"] - theirs["image"]).mean() < 0.05
    (out / ".0.part").mkdir()
    video_to_frames.main(flags)
    assert "0 made, 3 there already, 2 failed" in capsys.readouterr().out
    assert len(lines(made)) == 3
    (out / "c/img_00004.jpg").unlink()
    video_to_frames.main(flags)
    assert "c: is in the way: not img_00001.jpg, img_00002.jpg" in capsys.readouterr().err


def test_frames_are_made_smaller_and_turned_but_not_larger(tmp_path):
    path = synthetic.write_video(tmp_path / "a.mp4", synthetic.frames(2, 48, 80))
    sizes = {24: (40, 24), 48: (80, 48), 60: (80, 48), None: (80, 48)}
    for side, size in sizes.items():
        assert [image.size for image in videos.images(str(path), side)] == [size] * 2
    turn(path)
    assert [image.size for image in videos.images(str(path), 24)] == [(24, 40)] * 2


def turn(path: Path) -> None:
    """Make a video say that it is to be shown turned by 90 degrees."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44  # 3 x 3, 16.16 fixed point
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)


def test_damage_is_judged_as_by_the_reader(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 255, (60, 64, 64, 3), dtype=np.uint8)
    names = []
    for kind, codec in (("avi", "mpeg4"), ("mp4", "libx264"), ("mkv", "libx264")):
        with av.open(str(tmp_path / f"{kind}_whole.{kind}"), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height = stream.width = 64
            for image in noise:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        data = (tmp_path / f"{kind}_whole.{kind}").read_bytes()
        third, scratch = len(data) // 3, bytearray(data)
        scratch[third : third + 60] = bytes(60)
        damages = {"whole": data, "cut": data[:third], "scratch": scratch}
        damages["zeroed"] = data[:third] + bytes(third) + data[2 * third :]
        for damage, content in damages.items():
            names.append(tmp_path / f"{kind}_{damage}.{kind}")
            names[-1].write_bytes(content)
    listed = tmp_path / "a.list"
    listed.write_text("".join(f"{name} 0\n" for name in names))
    flags = ["--list", str(listed), "--num_workers=0"]
    assert check.main([*flags, "--format=mp4", "--clean"]) == 1
    good = [Path(line).name for line in lines(tmp_path / "a.clean.list")]
    assert sorted(name.split("_")[1].split(".")[0] for name in good) == ["scratch"] * 3 + ["whole"] * 3
    for tool, out in ((video_to_pkl, "pkl"), (video_to_frames, "frames"), (resize, "small")):
        assert tool.main([*flags, f"--out={tmp_path / out}"]) == 1
        assert [Path(name).stem for name in visible(tmp_path / out)] == sorted(
            Path(name.split()[0]).stem for name in good
        )
    assert "mkv_cut.mkv: damaged: decoding ends at 0." in capsys.readouterr().err


def test_names_that_collide_and_settings_that_change_are_errors(tmp_path):
    for name in ("a/x.mp4", "b/x.mp4"):
        (tmp_path / name).parent.mkdir()
        synthetic.write_video(tmp_path / name, synthetic.frames(3))
    listed = tmp_path / "a.list"
    listed.write_text(f"{tmp_path}/a/x.mp4 0\n{tmp_path}/b/x.mp4 1\n")
    flags = ["--list", str(listed), "--out", str(tmp_path / "out"), "--num_workers=0"]
    for tool in (video_to_pkl, video_to_frames, resize):
        with pytest.raises(
            DataError, match=r"a\.list:2: .*b/x\.mp4 would become .*a/x\.mp4 \(.*a\.list:1\); --root"
        ):
            tool.main(flags)
    assert not (tmp_path / "out").exists()
    assert video_to_pkl.main([*flags, f"--root={tmp_path}"]) == 0
    assert (tmp_path / "out/a/x.pkl").is_file() and (tmp_path / "out/b/x.pkl").is_file()
    with pytest.raises(ConfigError, match="choose another --out"):
        video_to_pkl.main([*flags, f"--root={tmp_path}", "--quality=50"])
    with pytest.raises(DataError, match=r"a\.list:2: .* is not below --root"):
        video_to_pkl.main([*flags, f"--root={tmp_path}/a"])
    with pytest.raises(ConfigError, match="is the list that is read"):
        video_to_pkl.main([*flags, "--out_list", str(listed)])


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_done(tmp_path, monkeypatch):
    listed = bad_list(tmp_path)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs.os, "fsync", full)
    monkeypatch.setattr(Image.Image, "save", full)
    for tool, out in ((video_to_frames, "frames"), (resize, "mp4")):
        monkeypatch.setattr(outputs, "claim", lambda *_: None)
        with pytest.raises(OutputError, match=r"a b.*: cannot write: No space left on device"):
            tool.main(["--list", str(listed), "--out", str(tmp_path / out), "--num_workers=0"])
        assert visible(tmp_path / out) == []


# ---- resizing --------------------------------------------------------------------------------------


def facts(path: Path) -> dict:
    """What a player would say of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        return {
            "codec": stream.codec_context.name,
            "size": (stream.width, stream.height),
            "rate": stream.average_rate,
            "times": [round(float(frame.pts * frame.time_base), 4) for frame in frames],
            "keys": [i for i, frame in enumerate(frames) if frame.key_frame],
            "audio": [audio.codec.canonical_name for audio in container.streams.audio],
            "first": frames[0].to_ndarray(format="rgb24").astype(int),
        }


def write_with_sound(
    path: Path, codec: str, clip: np.ndarray, pix_fmt: str = "yuv420p", sound: str = "aac"
) -> Path:
    """A video with silence; yuvj420p uses all 256 grey levels, as phones do."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pix_fmt
        audio = container.add_stream(sound, rate=44100, layout="mono")
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
        silence = av.AudioFrame.from_ndarray(
            np.zeros((1, 44100 * len(clip) // 30), np.int16), format="s16", layout="mono"
        )
        silence.rate = 44100
        container.mux(audio.encode(silence))
        container.mux(audio.encode())
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_videos_are_made_smaller_with_many_key_frames(tmp_path, workers, capsys):
    source, out = tmp_path / "my videos", tmp_path / "small"
    (source / "deep").mkdir(parents=True)
    write_with_sound(source / "deep/é a.mkv", "libx264", synthetic.frames(30, 96, 128))
    synthetic.write_video(source / "b.mp4", synthetic.frames(9, 36, 50))
    (source / "bad.avi").write_bytes(b"garbage" * 99)
    flags = ["--videos", str(source), "--out", str(out), "--short_side=48", f"--num_workers={workers}"]
    assert resize.main(flags) == 1
    said = capsys.readouterr()
    assert "bad.avi: not a readable video" in said.err and "2 made, 0 there already, 1 failed" in said.out
    assert "MB before" in said.out
    assert visible(out) == ["b.mp4", "deep"] and visible(out / "deep") == ["é a.mp4"]
    before, after = facts(source / "deep/é a.mkv"), facts(out / "deep/é a.mp4")
    assert after["codec"] == "h264" and after["size"] == (64, 48)
    assert after["times"] == pytest.approx(before["times"], abs=0.0005)
    assert float(after["rate"]) == pytest.approx(30, abs=0.05)  # mkv counts milliseconds
    assert after["keys"] == [0, 8, 16, 24]
    assert after["audio"] == before["audio"] == ["aac"]
    smaller = cv2.resize(before["first"].astype(np.uint8), (64, 48), interpolation=cv2.INTER_AREA)
    assert np.abs(after["first"] - smaller).mean() < 4
    assert facts(out / "b.mp4")["size"] == (50, 36)  # not made larger
    resize.main(flags)
    assert "0 made, 2 there already, 1 failed" in capsys.readouterr().out


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_odd_sizes_colours_turns_and_sound(tmp_path, monkeypatch, codec, capsys):
    monkeypatch.setattr(resize, "codec", lambda: codec)
    clip = synthetic.frames(5, 48, 64, seed=3)
    clip[:, :, :20] = (250, 20, 120)
    write_with_sound(tmp_path / "range.mp4", "libx264", clip, "yuvj420p")
    write_with_sound(tmp_path / "sound.avi", "mpeg4", clip, sound="pcm_mulaw")
    synthetic.write_video(tmp_path / "turned.mp4", clip)
    turn(tmp_path / "turned.mp4")
    write_with_sound(tmp_path / "odd.mkv", "ffv1", synthetic.frames(5, 35, 51))
    names = ["range.mp4", "sound.avi", "turned.mp4", "odd.mkv"]
    listed, made = tmp_path / "a.list", tmp_path / "b.list"
    listed.write_text("".join(f"{tmp_path / name} {i}\n" for i, name in enumerate(names)))
    flags = ["--list", str(listed), "--out", str(tmp_path / "out"), "--out_list", str(made), "--crf=8"]
    assert resize.main([*flags, "--num_workers=0", *(["--drop_audio"] if codec == "mpeg4" else [])]) == 0
    assert lines(made) == [f"{tmp_path / 'out' / Path(name).stem}.mp4 {i}" for i, name in enumerate(names)]
    found = {Path(name).stem: facts(tmp_path / "out" / f"{Path(name).stem}.mp4") for name in names}
    assert [found[name]["size"] for name in found] == [(64, 48), (64, 48), (48, 64), (50, 34)]
    for name in ("range", "sound"):
        assert np.abs(found[name]["first"] - facts(tmp_path / names[name == "sound"])["first"]).mean() < 3
    upright = next(videos.images(str(tmp_path / "turned.mp4"), None))
    assert np.abs(found["turned"]["first"] - np.asarray(upright).astype(int)).mean() < 4
    assert all(len(fact["times"]) == 5 for fact in found.values())
    kept = {name: fact["audio"] for name, fact in found.items()}
    if codec == "mpeg4":
        assert not any(kept.values())
    else:
        assert kept == {"range": ["aac"], "sound": [], "turned": [], "odd": ["aac"]}
        assert "sound.avi: its sound is left out: pcm_mulaw" in capsys.readouterr().err


# ---- processes -------------------------------------------------------------------------------------


WORK = """
import os, signal
from utils.errors import DataError

def die(item):
    if item in (2, 9):
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 3:
        raise DataError("three is bad")
    return item * 10

def stumble(item):
    raise KeyError(item)
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A small module that other processes can import: this one would bring Paddle along."""
    (tmp_path / "work_of_a_test.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_of_a_test")
    sys.modules.pop("work_of_a_test")


def test_an_item_that_kills_its_process_is_named_and_the_others_go_on(work):
    results = {}
    parallel.run(work.die, range(12), 2, "test", results.__setitem__)
    assert sorted(results) == list(range(12))
    for item in (2, 9):
        assert results[item].message.startswith("its process died")
    assert results[3] == parallel.Failure("three is bad")
    assert [results[i] for i in (0, 1, 11)] == [0, 10, 110]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bug_is_no_failure_of_the_data(work, workers):
    with pytest.raises(RuntimeError, match="a bug, at 5"):
        parallel.run(work.stumble, [5], workers, "test", lambda *_: None)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_whole_folders_and_no_process(tmp_path, stop):
    noise = np.random.default_rng(0).integers(0, 255, (400, 240, 320, 3), dtype=np.uint8)
    names = [synthetic.write_video(tmp_path / f"{i}.mp4", noise if i == 0 else noise[:5]) for i in range(2)]
    for i in range(2, 9):
        (tmp_path / f"{i}.mp4").symlink_to(names[0])
    listed = tmp_path / "a.list"
    listed.write_text("".join(f"{tmp_path}/{i}.mp4 0\n" for i in (1, 0, *range(2, 9))))
    out = tmp_path / "out"
    script = str(ROOT / "data/dataset/kinetics/video_to_frames.py")
    command = [sys.executable, script, f"--list={listed}", f"--out={out}", "--num_workers=2"]
    with started(command, stderr=subprocess.PIPE, cwd=tmp_path) as tool:
        deadline = time.time() + 60
        while not (list(out.glob(".*.part/img_00003.jpg")) and (out / "1").is_dir()):
            assert time.time() < deadline and tool.poll() is None
            time.sleep(0.02)
        if stop == signal.SIGINT:
            os.killpg(tool.pid, stop)  # what a terminal does
        else:
            os.kill(tool.pid, stop)
        _, said = tool.communicate(timeout=30)
        assert tool.returncode == 128 + stop
        assert said.splitlines()[-1].startswith("interrupted") and "Traceback" not in said
        while alive(tool.pid):
            assert time.time() < deadline
            time.sleep(0.02)
    folders = sorted(path for path in out.iterdir() if path.is_dir())
    assert not any(path.name.startswith(".") for path in folders) and out / "1" in folders
    for folder in folders:
        assert len(os.listdir(folder)) == (5 if folder.name == "1" else 400)
