"""Small trees of videos and lists that the tests of the data tools read."""

from __future__ import annotations

from pathlib import Path

from data.dataset.common import outputs
from reader.kinetics_reader import KineticsReader
from tests import synthetic

CLASSES = {"跳 jump": 5, "run fast": 10, "walk": 2}


def tree(folder: Path) -> Path:
    """Videos in a folder a class, with blanks and letters of any script, some deeper than others."""
    for name, num_videos in CLASSES.items():
        for i in range(num_videos):
            path = folder / name / ("deep er" if i % 2 else "") / f"clip {i}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            synthetic.write_video(path, synthetic.frames(6, seed=i))
    (folder / "empty").mkdir()
    (folder / ".hidden").mkdir()
    synthetic.write_video(folder / ".hidden" / "x.mp4", synthetic.frames(2))
    return folder


def bad_list(folder: Path) -> Path:
    """Three good videos; line 2 is garbage, line 4 is not there."""
    for name in ("a b", "é", "c"):
        synthetic.write_video(folder / f"{name}.mp4", synthetic.frames(9, seed=len(name)))
    (folder / "bad.mp4").write_bytes(b"garbage" * 99)
    listed = folder / "all.list"
    names = ["a b", "bad", "é", "gone", "c"]
    listed.write_text("".join(f"{folder}/{name}.mp4 {i}\n" for i, name in enumerate(names)), encoding="utf-8")
    return listed


def lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def read(listed: Path, form: str, index: int = 0, **keys):
    config = {"num_classes": 9, "seg_num": 3, "short_size": 40, "target_size": 32, "filelist": str(listed)}
    return KineticsReader(KineticsReader.Config(format=form, **{**config, **keys}), "VALID")[index]


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != outputs.SETTINGS)
